/* towline.h: QUIC's streams and datagrams. Arguments: CERT KEY, of localhost. */
#define _GNU_SOURCE
#include <string.h>

#include "check.h"
#include "towline.h"

static towline_quic_connection *server;
static towline_quic_listener *listener;

static void *serve(void *unused) {
    (void)unused;
    CHECK(towline_quic_listener_accept(listener, -1, &server) == TOWLINE_OK);
    towline_quic_stream *stream;
    CHECK(towline_quic_accept_stream(server, 1, -1, &stream) == TOWLINE_OK);
    char buffer[1000];
    size_t read, total = 0;
    do {
        CHECK(towline_quic_stream_read(stream, buffer, sizeof buffer, -1, &read) == TOWLINE_OK);
        CHECK(towline_quic_stream_write(stream, buffer, read, -1) == TOWLINE_OK);
        total += read;
    } while (read > 0);
    CHECK(total == 200000);
    CHECK(towline_quic_stream_finish(stream) == TOWLINE_OK);
    CHECK(towline_quic_stream_acknowledged(stream, -1) == TOWLINE_OK);
    CHECK(towline_quic_stream_free(stream) == TOWLINE_OK);
    towline_received *datagram;
    CHECK(towline_quic_receive_datagram(server, -1, &datagram) == TOWLINE_OK);
    towline_message message = {.struct_size = sizeof message};
    CHECK(towline_received_message(datagram, &message) == TOWLINE_OK);
    CHECK(message.length == 4 && memcmp(message.data, "ping", 4) == 0);
    CHECK(towline_received_free(datagram) == TOWLINE_OK);
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    towline_context *context;
    CHECK(towline_context_new(NULL, &context) == TOWLINE_OK);
    CHECK(towline_quic_listen(context, "127.0.0.1:0", argv[1], argv[1], "test", &listener) == TOWLINE_ERROR_CONFIG);
    CHECK(towline_quic_listen(context, "127.0.0.1:0", argv[1], argv[2], "test", &listener) == TOWLINE_OK);
    char address[64], name[160];
    CHECK(towline_quic_listener_address(listener, address, sizeof address) == TOWLINE_OK);
    snprintf(name, sizeof name, "localhost:%s", strrchr(address, ':') + 1);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, serve, NULL) == 0);

    towline_quic_connection *client = NULL;
    CHECK(towline_quic_connect(context, "nonsense", argv[1], "test", -1, &client) == TOWLINE_ERROR_ADDRESS);
    CHECK(towline_quic_connect(context, name, argv[1], "test", -1, &client) == TOWLINE_OK);
    towline_quic_stream *stream;
    CHECK(towline_quic_open_stream(client, 1, -1, &stream) == TOWLINE_OK);
    uint64_t id = 99;
    CHECK(towline_quic_stream_id(stream, &id) == TOWLINE_OK && id == 0);
    static char data[100000], back[200001];
    memset(data, 'd', sizeof data);
    CHECK(towline_quic_stream_write(stream, data, sizeof data, -1) == TOWLINE_OK);
    CHECK(towline_quic_stream_write(stream, data, sizeof data, -1) == TOWLINE_OK);
    CHECK(towline_quic_stream_finish(stream) == TOWLINE_OK);
    CHECK(towline_quic_stream_write(stream, data, 1, -1) == TOWLINE_ERROR_UNSUPPORTED);
    size_t total = 0, read;
    do {
        CHECK(towline_quic_stream_read(stream, back + total, sizeof back - total, -1, &read) == TOWLINE_OK);
        total += read;
    } while (read > 0);
    CHECK(total == 2 * sizeof data && memcmp(data, back, sizeof data) == 0 && back[total - 1] == 'd');
    CHECK(towline_quic_stream_free(stream) == TOWLINE_OK);
    CHECK(towline_quic_stream_free(stream) == TOWLINE_ERROR_STALE_HANDLE);
    CHECK(towline_quic_send_datagram(client, "ping", 4, -1) == TOWLINE_OK);
    CHECK(towline_quic_send_datagram(client, back, sizeof back, -1) == TOWLINE_ERROR_MESSAGE);
    pthread_join(thread, NULL);

    CHECK(towline_quic_open_stream(client, 0, -1, &stream) == TOWLINE_OK);
    CHECK(towline_quic_stream_read(stream, back, 1, -1, &read) == TOWLINE_ERROR_UNSUPPORTED);
    CHECK(towline_quic_connection_close(client, 7, "enough") == TOWLINE_OK);
    CHECK(towline_quic_connection_wait_closed(server, -1) == TOWLINE_ERROR_ENDED);
    CHECK(strstr(towline_last_error(), "enough") != NULL);
    /* In another order than they were made. */
    CHECK(towline_quic_connection_free(client) == TOWLINE_OK);
    CHECK(towline_quic_stream_free(stream) == TOWLINE_OK);
    CHECK(towline_context_free(context) == TOWLINE_OK);
    CHECK(towline_quic_connection_free(server) == TOWLINE_OK);
    CHECK(towline_quic_listener_free(listener) == TOWLINE_OK);
    CHECK(towline_quic_listener_free(listener) == TOWLINE_ERROR_STALE_HANDLE);
    CHECK(towline_quic_connection_free(NULL) == TOWLINE_ERROR_INVALID_ARGUMENT);
    CHECK(towline_live_objects() == 0);
    puts("ok");
    return 0;
}
