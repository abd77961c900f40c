/* c4socket.h: two factories in one process that hand each other what is written; sessions and messages on top. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "c4pair.h"

static struct counter opens = COUNTER_INIT;
static int refuse_open;

static int port;

static void on_open(C4Socket *socket, const C4Address *address, C4Slice options, void *context) {
    CHECK(context == &opens && socket->nativeHandle == NULL);
    CHECK(address->hostname.size == 5 && memcmp(address->hostname.buf, "board", 5) == 0 && address->port == 7);
    CHECK(address->scheme.size == 3 && memcmp(address->scheme.buf, "tcp", 3) == 0 && options.size == 0);
    counter_add(&opens, 1);
    if (refuse_open) {
        C4Error error = {POSIXDomain, ECONNREFUSED, 0};
        c4socket_closed(socket, error);
        return;
    }
    pair_open(socket);
}

static void a_session(towline_context *context, C4SocketFraming framing) {
    C4SocketFactory factory = pair_factory(framing, &opens, on_open);
    pair_server = factory;
    towline_config *config;
    towline_endpoint *endpoint;
    CHECK(towline_config_new(&config) == TOWLINE_OK);
    CHECK(towline_config_set_socket_factory(config, NULL, &factory) == TOWLINE_OK);
    CHECK(towline_endpoint_new(context, config, &endpoint) == TOWLINE_OK);
    CHECK(towline_config_free(config) == TOWLINE_OK);
    CHECK(towline_listen(endpoint, "tcp://127.0.0.1:0", NULL, NULL, &pair_listener) == TOWLINE_OK);

    long disposed = counter_get(&pair_disposals);
    towline_connection *client, *server;
    CHECK(towline_connect(endpoint, "tcp://board:7", NULL, NULL, &client) == TOWLINE_OK);
    CHECK(towline_listener_accept(pair_listener, -1, &server) == TOWLINE_OK);
    CHECK(towline_connection_wait(client, -1) == TOWLINE_OK);
    static unsigned char data[100000];
    for (int i = 0; i < 50; i++) {
        memset(data, i, sizeof data);
        towline_message message = {.struct_size = sizeof message, .data = data, .length = sizeof data};
        CHECK(towline_connection_send(client, &message, -1, NULL) == TOWLINE_OK);
        towline_received *received;
        CHECK(towline_connection_receive(server, -1, &received) == TOWLINE_OK);
        towline_message got = {.struct_size = sizeof got};
        CHECK(towline_received_message(received, &got) == TOWLINE_OK);
        CHECK(got.length == sizeof data && memcmp(got.data, data, sizeof data) == 0);
        CHECK(towline_received_free(received) == TOWLINE_OK);
    }
    counter_wait(&pair_processed, 5000000);
    CHECK(towline_connection_close(client, 0, NULL, -1) == TOWLINE_OK);
    CHECK(towline_connection_free(client) == TOWLINE_OK);
    CHECK(towline_connection_free(server) == TOWLINE_OK);
    counter_wait(&pair_disposals, disposed + 2);
    CHECK(counter_get(&pair_closes) > 0);

    /* What cannot be opened is why the connection cannot be made. */
    refuse_open = 1;
    CHECK(towline_connect(endpoint, "tcp://board:7", NULL, NULL, &client) == TOWLINE_OK);
    CHECK(towline_connection_wait(client, -1) == TOWLINE_ERROR_CONNECT);
    CHECK(strstr(towline_last_error(), "refused") != NULL);
    CHECK(towline_connection_free(client) == TOWLINE_OK);
    refuse_open = 0;
    counter_wait(&pair_disposals, disposed + 3);
    CHECK(towline_listener_free(pair_listener) == TOWLINE_OK);
    CHECK(towline_endpoint_free(endpoint) == TOWLINE_OK);
}

static struct counter lines = COUNTER_INIT;

static void on_line(int level, const char *line, void *user) {
    CHECK(level == 4 && line != NULL && user == NULL);
    counter_add(&lines, 1);
}

static void misuse(void) {
    CHECK(towline_set_log_callback(on_line, NULL) == TOWLINE_OK);
    C4Error none = {0, 0, 0};
    C4Slice empty = {NULL, 0};
    C4SliceResult slice = {&port, 4};
    c4socket_opened(NULL);
    c4socket_opened((C4Socket *)&port);
    c4socket_closed(pair_stale, none);
    c4socket_received(pair_stale, empty);
    c4socket_completedWrite(pair_stale, 1);
    c4socket_closeRequested(pair_stale, 1000, empty);
    c4socket_gotHTTPResponse(pair_stale, 200, empty);
    c4slice_free(slice);
    C4SocketFactory factory = {.framing = kC4NoFraming, .open = on_open, .write = pair_write};
    c4socket_registerFactory(factory);
    CHECK(counter_get(&lines) == 9);
    C4SliceResult nothing = {NULL, 0};
    c4slice_free(nothing);
    CHECK(counter_get(&lines) == 9);
    towline_config *config;
    CHECK(towline_config_new(&config) == TOWLINE_OK);
    CHECK(towline_config_set_socket_factory(config, NULL, NULL) == TOWLINE_ERROR_INVALID_ARGUMENT);
    CHECK(towline_config_set_socket_factory(config, NULL, &factory) == TOWLINE_ERROR_INVALID_ARGUMENT);
    factory.framing = 77;
    CHECK(towline_config_set_socket_factory(config, "name", &factory) == TOWLINE_ERROR_INVALID_ARGUMENT);
    CHECK(towline_config_set_socket_factory(NULL, NULL, &pair_server) == TOWLINE_ERROR_INVALID_ARGUMENT);
    CHECK(towline_config_free(config) == TOWLINE_OK);
    C4Socket *socket;
    CHECK(towline_listener_attach_socket(NULL, &pair_server, NULL, &socket) == TOWLINE_ERROR_INVALID_ARGUMENT);
    CHECK(towline_set_log_callback(NULL, NULL) == TOWLINE_OK);
}

/* The process's factory serves endpoints whose configuration names none. */
static void registered(towline_context *context) {
    C4SocketFactory factory = pair_server;
    c4socket_registerFactory(factory);
    refuse_open = 1;
    long before = counter_get(&opens);
    towline_endpoint *endpoint;
    CHECK(towline_endpoint_new(context, NULL, &endpoint) == TOWLINE_OK);
    towline_connection *client;
    CHECK(towline_connect(endpoint, "tcp://board:7", NULL, NULL, &client) == TOWLINE_OK);
    CHECK(towline_connection_wait(client, -1) == TOWLINE_ERROR_CONNECT);
    CHECK(counter_get(&opens) == before + 1);
    CHECK(towline_connection_free(client) == TOWLINE_OK);
    CHECK(towline_endpoint_free(endpoint) == TOWLINE_OK);
}

int main(void) {
    towline_context *context;
    CHECK(towline_context_new(NULL, &context) == TOWLINE_OK);
    a_session(context, kC4ByteStreamFraming);
    a_session(context, kC4NoFraming);
    misuse();
    registered(context);
    CHECK(towline_context_free(context) == TOWLINE_OK);
    CHECK(counter_get(&pair_disposals) == 7 && towline_live_objects() == 0);
    puts("ok");
    return 0;
}
