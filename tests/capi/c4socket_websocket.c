/* c4socket.h on ws://: factories that have done the HTTP handshake and leave the frames to Towline, and one that frames messages itself. */
#define _GNU_SOURCE
#include <string.h>

#include "c4pair.h"

/* A dictionary of texts in Fleece: values and keys, then the dictionary with pointers backwards in units of two bytes, then a pointer to it. Keys are in order. */
static C4Slice fleece(const char *pairs[][2], int count) {
    static unsigned char out[512];
    size_t used = 0, places[8][2];
    for (int i = 0; i < count; i++) {
        for (int side = 0; side < 2; side++) {
            size_t length = strlen(pairs[i][side]);
            places[i][side] = used;
            CHECK(length < 128 && i < 8);
            if (length < 15) {
                out[used++] = (unsigned char)(0x40 | length);
            } else {
                out[used++] = 0x4f;
                out[used++] = (unsigned char)length;
            }
            memcpy(out + used, pairs[i][side], length);
            used += length;
            used += used % 2;
        }
    }
    size_t dictionary = used;
    out[used++] = 0x70;
    out[used++] = (unsigned char)count;
    for (int i = 0; i <= count; i++) {
        for (int side = 0; side < (i < count ? 2 : 1); side++) {
            size_t back = (used - (i < count ? places[i][side] : dictionary)) / 2;
            out[used++] = (unsigned char)(0x80 | back >> 8);
            out[used++] = (unsigned char)back;
        }
    }
    C4Slice slice = {out, used};
    return slice;
}

static struct counter opens = COUNTER_INIT;
static int refuse;

static int has(C4Slice where, const char *what) {
    return where.size > 0 && memmem(where.buf, where.size, what, strlen(what)) != NULL;
}

static void on_open(C4Socket *socket, const C4Address *address, C4Slice options, void *context) {
    CHECK(context == &opens && socket->nativeHandle == NULL);
    CHECK(address->scheme.size == 2 && memcmp(address->scheme.buf, "ws", 2) == 0);
    CHECK(address->path.size == 9 && memcmp(address->path.buf, "/chat?x=1", 9) == 0);
    /* The subprotocols that a handshake has to ask for: the application's before Towline's own. */
    CHECK(has(options, kC4SocketOptionWSProtocols) && has(options, "chat.2,towline.1"));
    counter_add(&opens, 1);
    if (refuse) {
        const char *headers[][2] = {{"Server", "test"}};
        c4socket_gotHTTPResponse(socket, 403, fleece(headers, 1));
        C4Error error = {WebSocketDomain, 403, 0};
        c4socket_closed(socket, error);
        return;
    }
    pair_open(socket);
}

/* One message from one to the other, which arrives as it was sent. */
static void send_one(towline_connection *from, towline_connection *to, size_t length, uint32_t flags) {
    static unsigned char data[300000];
    memset(data, 'x', length);
    towline_message message = {.struct_size = sizeof message, .data = data, .length = length, .flags = flags};
    CHECK(towline_connection_send(from, &message, -1, NULL) == TOWLINE_OK);
    towline_received *received;
    CHECK(towline_connection_receive(to, -1, &received) == TOWLINE_OK);
    towline_message got = {.struct_size = sizeof got};
    CHECK(towline_received_message(received, &got) == TOWLINE_OK);
    CHECK(got.length == length && (length == 0 || memcmp(got.data, data, length) == 0));
    CHECK(got.flags == flags);
    CHECK(towline_received_free(received) == TOWLINE_OK);
}

static void a_websocket(towline_context *context, C4SocketFraming framing, int session) {
    C4SocketFactory factory = pair_factory(framing, &opens, on_open);
    C4SocketFraming other = framing == kC4NoFraming ? framing : 2 - framing;
    pair_server = pair_factory(other, &opens, on_open);
    const char *agreed[][2] = {{"Sec-WebSocket-Protocol", "towline.1"}, {"Towline-Session", "1"}};
    C4Slice none = {NULL, 0};
    pair_status = 101;
    pair_headers = session ? fleece(agreed, 2) : none;

    towline_config *config;
    towline_endpoint *endpoint;
    CHECK(towline_config_new(&config) == TOWLINE_OK);
    CHECK(towline_config_set_socket_factory(config, NULL, &factory) == TOWLINE_OK);
    CHECK(towline_config_set_text(config, TOWLINE_OPTION_WEBSOCKET_SUBPROTOCOLS, "chat.2") == TOWLINE_OK);
    CHECK(towline_endpoint_new(context, config, &endpoint) == TOWLINE_OK);
    CHECK(towline_config_free(config) == TOWLINE_OK);
    CHECK(towline_listen(endpoint, "ws://127.0.0.1:0/chat", NULL, NULL, &pair_listener) == TOWLINE_OK);

    long disposed = counter_get(&pair_disposals);
    towline_connection *client, *server;
    CHECK(towline_connect(endpoint, "ws://board:7/chat?x=1", NULL, NULL, &client) == TOWLINE_OK);
    CHECK(towline_listener_accept(pair_listener, -1, &server) == TOWLINE_OK);
    CHECK(towline_connection_wait(client, -1) == TOWLINE_OK);
    static const size_t lengths[] = {0, 1, 125, 126, 65535, 65536, 300000};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        send_one(client, server, lengths[i], 0);
        send_one(server, client, lengths[i], 0);
        /* c4socket.h's write does not tell text from binary, so that only frames of Towline's own can. */
        if (!session && framing != kC4NoFraming) {
            send_one(client, server, lengths[i], TOWLINE_MESSAGE_TEXT);
            send_one(server, client, lengths[i], TOWLINE_MESSAGE_TEXT);
        }
    }
    /* Code and words reach the other side, in a frame, a session's goodbye, or by requestClose and closeRequested. */
    CHECK(towline_connection_close(client, 4001, "that was all", -1) == TOWLINE_OK);
    towline_received *received;
    CHECK(towline_connection_receive(server, -1, &received) != TOWLINE_OK);
    CHECK(strstr(towline_last_error(), "4001") != NULL && strstr(towline_last_error(), "that was all") != NULL);
    CHECK(towline_connection_free(client) == TOWLINE_OK);
    CHECK(towline_connection_free(server) == TOWLINE_OK);
    counter_wait(&pair_disposals, disposed + 2);

    /* The status that the server gave is why there is no connection. */
    refuse = 1;
    CHECK(towline_connect(endpoint, "ws://board:7/chat?x=1", NULL, NULL, &client) == TOWLINE_OK);
    CHECK(towline_connection_wait(client, -1) == TOWLINE_ERROR_CONNECT);
    CHECK(strstr(towline_last_error(), "403") != NULL);
    CHECK(towline_connection_free(client) == TOWLINE_OK);
    refuse = 0;
    counter_wait(&pair_disposals, disposed + 3);
    CHECK(towline_listener_free(pair_listener) == TOWLINE_OK);
    CHECK(towline_endpoint_free(endpoint) == TOWLINE_OK);
}

int main(void) {
    towline_context *context;
    CHECK(towline_context_new(NULL, &context) == TOWLINE_OK);
    for (int session = 0; session < 2; session++) {
        a_websocket(context, kC4WebSocketClientFraming, session);
        /* A factory may take the server's part in frames on sockets that it opens. */
        a_websocket(context, kC4WebSocketServerFraming, session);
    }
    a_websocket(context, kC4NoFraming, 0);
    CHECK(towline_context_free(context) == TOWLINE_OK);
    CHECK(counter_get(&opens) == 10 && towline_live_objects() == 0);
    puts("ok");
    return 0;
}
