/* c_bats_api.h: events in order, values, refusals, misuse, no callback after a destroy. Arguments: CERT KEY. */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "c_bats_api.h"
#include "check.h"
#include "towline.h"

/* The values are part of the interface. */
_Static_assert(bats_log_level_trace == 0 && bats_log_level_error == 4, "log levels");
_Static_assert(bats_error_none == 0 && bats_error_invalid_param == 1 && bats_error_listen_failed == 2, "errors");
_Static_assert(bats_error_connect_failed == 3 && bats_error_accept_failed == 4 && bats_error_memory == 5, "errors");
_Static_assert(bats_error_timeout == 6 && bats_error_connection_closed == 7 && bats_error_send_failed == 8, "errors");
_Static_assert(bats_transport_btp == 0 && bats_transport_brtp == 1 && bats_transport_brctp == 2, "modes");
_Static_assert(bats_transport_transparent == 3, "modes");
_Static_assert(bats_cc_none == 0 && bats_cc_bbr == 1 && bats_cc_bbrv2 == 2 && bats_cc_bbrv3 == 3 && bats_cc_gcc == 4, "cc");
_Static_assert(bats_frame_transparent == 0 && bats_frame_header_v0 == 1, "frame types");
_Static_assert(bats_frame_header_v1 == 2 && bats_frame_header_min == 3, "frame types");
_Static_assert(bats_connection_none == 0 && bats_connection_failed == 1 && bats_connection_established == 2, "events");
_Static_assert(bats_connection_timeout == 3 && bats_connection_shutdown_by_peer == 4, "events");
_Static_assert(bats_connection_writable == 5 && bats_connection_data_received == 6, "events");
_Static_assert(bats_connection_send_complete == 7 && bats_connection_send_data_error == 8, "events");
_Static_assert(bats_connection_buffer_full == 9 && bats_connection_closed == 10 && bats_connection_error == 11, "events");
_Static_assert(bats_connection_already_connected == 12 && bats_connection_ideal_buffer_length == 13, "events");
_Static_assert(bats_connection_all_data_acked == 14, "events");
_Static_assert(bats_listen_none == 0 && bats_listen_new_connection == 1 && bats_listen_failed == 2, "listen events");
_Static_assert(bats_listen_success == 3 && bats_listen_accepted_error == 4, "listen events");
_Static_assert(bats_listen_already_in_listen == 5 && bats_listen_stopped == 6, "listen events");

/* The prototypes that programs are written to. */
static bats_context_handle_t (*const create)(void) = bats_context_create;
static bats_error_t (*const send_data)(bats_connection_handle_t, const unsigned char *, int) = bats_connection_send_data;

static struct counter client_events[15], server_events[15], listen_events[7];
static long server_bytes, file_bytes;
static bats_connection_handle_t client_conn, server_conn;
static int destroyed;

static void init(struct counter *counters, int count) {
    for (int i = 0; i < count; i++) {
        struct counter fresh = COUNTER_INIT;
        counters[i] = fresh;
    }
}

static bool on_client(bats_connection_handle_t conn, bats_conn_event_t event, const unsigned char *data, int length, void *user) {
    CHECK(user == &client_events && conn != NULL && !__atomic_load_n(&destroyed, __ATOMIC_SEQ_CST));
    CHECK((event == bats_connection_data_received) == (length > 0) && (length > 0) == (data != NULL));
    if (event == bats_connection_established) {
        CHECK(counter_get(&client_events[bats_connection_writable]) == 0 || counter_get(&client_events[bats_connection_closed]) > 0);
        client_conn = conn;
    }
    counter_add(&client_events[event], 1);
    return true;
}

static bool on_server(bats_connection_handle_t conn, bats_conn_event_t event, const unsigned char *data, int length, void *user) {
    CHECK(user == &server_events);
    if (event == bats_connection_data_received) {
        if (length == 5 && memcmp(data, "hello", 5) == 0) {
            CHECK(send_data(conn, data, length) == bats_error_none);
        } else {
            file_bytes += length;
        }
        server_bytes += length;
    }
    counter_add(&server_events[event], 1);
    return true;
}

static void on_listen(bats_connection_handle_t conn, bats_listen_event_t event, void *user) {
    CHECK(user == &listen_events && (conn != NULL) == (event == bats_listen_new_connection));
    if (event == bats_listen_new_connection) {
        server_conn = conn;
        CHECK(bats_connection_set_callback(conn, on_server, &server_events) == bats_error_none);
    }
    counter_add(&listen_events[event], 1);
}

static void a_conversation(const char *cert, const char *key, bats_transport_mode_t mode) {
    init(client_events, 15);
    init(server_events, 15);
    init(listen_events, 7);
    file_bytes = 0;
    destroyed = 0;
    bats_context_handle_t ctx = create();
    bats_config_handle_t config = bats_config_create();
    CHECK(ctx != NULL && config != NULL);
    CHECK(bats_context_set_log_level(ctx, bats_log_level_error) == bats_error_none);
    CHECK(bats_config_set_mode(config, mode) == bats_error_none);
    CHECK(bats_config_set_timeout(config, 120000) == bats_error_none);
    CHECK(bats_config_set_local_addr(config, "127.0.0.1") == bats_error_none);
    CHECK(bats_config_set_local_port(config, 0) == bats_error_none);
    CHECK(bats_config_cert_file(config, cert) == bats_error_none && bats_config_key_file(config, key) == bats_error_none);
    CHECK(bats_config_enable_compression(config, mode != bats_transport_btp) == bats_error_none);
    bats_protocol_handle_t server = bats_protocol_create(ctx, config);
    bats_protocol_handle_t client = bats_protocol_create(ctx, config);
    CHECK(server != NULL && client != NULL);
    bats_config_destroy(config);

    CHECK(bats_protocol_get_listen_port(server) == 0);
    CHECK(bats_protocol_start_listen(server, NULL, 0, on_listen, &listen_events) == bats_error_none);
    CHECK(counter_get(&listen_events[bats_listen_success]) == 1);
    CHECK(bats_protocol_start_listen(server, NULL, 0, on_listen, &listen_events) == bats_error_listen_failed);
    CHECK(counter_get(&listen_events[bats_listen_already_in_listen]) == 1);
    uint16_t port = bats_protocol_get_listen_port(server);
    CHECK(port != 0);
    /* The port is in use. */
    CHECK(bats_protocol_start_listen(client, "127.0.0.1", port, on_listen, &listen_events) == bats_error_listen_failed);
    CHECK(counter_get(&listen_events[bats_listen_failed]) == 1);

    CHECK(bats_protocol_start_connect(client, "127.0.0.1", port, on_client, &client_events) == bats_error_none);
    counter_wait(&client_events[bats_connection_established], 1);
    counter_wait(&client_events[bats_connection_writable], 1);
    CHECK(bats_protocol_start_connect(client, "127.0.0.1", port, on_client, &client_events) == bats_error_connect_failed);
    CHECK(counter_get(&client_events[bats_connection_already_connected]) == 1);
    counter_wait(&listen_events[bats_listen_new_connection], 1);
    CHECK(bats_connection_is_writable(client_conn) == 1);
    CHECK(bats_connection_get_ideal_buffer_length(client_conn) > 0);
    char local[64], remote[64];
    uint16_t local_port = 0, remote_port = 0;
    CHECK(bats_connection_get_addresses(client_conn, local, &local_port, remote, &remote_port) == bats_error_none);
    CHECK(strcmp(local, "127.0.0.1") == 0 && strcmp(remote, "127.0.0.1") == 0 && remote_port == port && local_port != 0);

    const unsigned char *hello = (const unsigned char *)"hello";
    CHECK(send_data(client_conn, hello, 0) == bats_error_invalid_param);
    CHECK(send_data(client_conn, hello, -5) == bats_error_invalid_param);
    CHECK(send_data(client_conn, NULL, 5) == bats_error_invalid_param);
    for (int i = 0; i < 100; i++) {
        CHECK(send_data(client_conn, hello, 5) == bats_error_none);
    }
    counter_wait(&client_events[bats_connection_data_received], 100);
    if (mode == bats_transport_brtp || mode == bats_transport_brctp) {
        counter_wait(&client_events[bats_connection_all_data_acked], 1);
        counter_wait(&client_events[bats_connection_send_complete], 1);
        char name[] = "/tmp/bats-file-XXXXXX";
        int file = mkstemp(name);
        CHECK(file >= 0 && ftruncate(file, 100001) == 0);
        CHECK(bats_connection_send_file(client_conn, name) == bats_error_none);
        long complete = counter_get(&client_events[bats_connection_send_complete]);
        while (__atomic_load_n(&file_bytes, __ATOMIC_SEQ_CST) < 100001) {
            usleep(1000);
        }
        counter_wait(&client_events[bats_connection_send_complete], complete);
        close(file);
        unlink(name);
        CHECK(bats_connection_send_file(client_conn, "/no/such/file") == bats_error_invalid_param);
        CHECK(bats_connection_send_file(client_conn, "/tmp") == bats_error_invalid_param);
        /* More than there is room for. */
        size_t large = 1 << 20;
        unsigned char *data = calloc(1, large);
        bats_error_t result = bats_error_none;
        for (int i = 0; i < 1000 && result == bats_error_none; i++) {
            result = send_data(client_conn, data, (int)large);
        }
        free(data);
        CHECK(result == bats_error_send_failed && counter_get(&client_events[bats_connection_buffer_full]) == 1);
        counter_wait(&client_events[bats_connection_writable], 2);
    } else {
        CHECK(bats_connection_send_file(client_conn, cert) == bats_error_invalid_param);
    }

    CHECK(bats_protocol_stop_listen(server) == bats_error_none);
    CHECK(counter_get(&listen_events[bats_listen_stopped]) == 1);
    CHECK(bats_protocol_stop_listen(server) == bats_error_listen_failed);
    CHECK(bats_protocol_stop_connection(client, server_conn) == bats_error_invalid_param);
    CHECK(bats_protocol_stop_connection(server, server_conn) == bats_error_none);
    counter_wait(&client_events[bats_connection_closed], 1);
    counter_wait(&server_events[bats_connection_closed], 1);
    CHECK(counter_get(&client_events[bats_connection_shutdown_by_peer]) == 1);
    CHECK(counter_get(&server_events[bats_connection_shutdown_by_peer]) == 0);
    CHECK(counter_get(&server_events[bats_connection_established]) == 1);
    /* After the last event the handle is stale, a moment later. */
    while (bats_connection_get_ideal_buffer_length(client_conn) != 0) {
        usleep(1000);
    }
    CHECK(send_data(client_conn, hello, 5) == bats_error_invalid_param);

    /* Nobody listens there now; the failure is told, then the end. Datagrams to nobody are not refused: time is over some time. */
    config = bats_config_create();
    CHECK(bats_config_set_mode(config, mode) == bats_error_none);
    CHECK(bats_config_set_timeout(config, 500) == bats_error_none);
    bats_protocol_handle_t hasty = bats_protocol_create(ctx, config);
    bats_config_destroy(config);
    for (;;) {
        long failed = counter_get(&client_events[bats_connection_failed]) + counter_get(&client_events[bats_connection_timeout]);
        long closed = counter_get(&client_events[bats_connection_closed]);
        CHECK(bats_protocol_start_connect(hasty, "127.0.0.1", port, on_client, &client_events) == bats_error_none);
        counter_wait(&client_events[bats_connection_closed], closed + 1);
        long now = counter_get(&client_events[bats_connection_failed]) + counter_get(&client_events[bats_connection_timeout]);
        if (now == failed + 1) {
            break;
        }
    }
    bats_protocol_destroy(hasty);
    /* What cannot be an address is told inside the call. */
    long closed = counter_get(&client_events[bats_connection_closed]);
    CHECK(bats_protocol_start_connect(client, "no such host", port, on_client, &client_events) == bats_error_connect_failed);
    CHECK(counter_get(&client_events[bats_connection_closed]) == closed + 1);

    bats_protocol_destroy(client);
    __atomic_store_n(&destroyed, 1, __ATOMIC_SEQ_CST);
    bats_protocol_destroy(client);
    bats_context_destroy(ctx);
    bats_protocol_destroy(server);
    bats_context_destroy(ctx);
    CHECK(bats_protocol_start_listen(server, NULL, 0, on_listen, &listen_events) == bats_error_invalid_param);
}

static void destroying_in_any_order(const char *cert, const char *key) {
    init(client_events, 15);
    init(server_events, 15);
    init(listen_events, 7);
    destroyed = 0;
    bats_context_handle_t ctx = bats_context_create();
    bats_config_handle_t config = bats_config_create();
    bats_config_set_mode(config, bats_transport_brtp);
    bats_config_cert_file(config, cert);
    bats_config_key_file(config, key);
    bats_protocol_handle_t protocol = bats_protocol_create(ctx, config);
    CHECK(bats_protocol_start_listen(protocol, "127.0.0.1", 0, on_listen, &listen_events) == bats_error_none);
    uint16_t port = bats_protocol_get_listen_port(protocol);
    CHECK(bats_protocol_start_connect(protocol, "127.0.0.1", port, on_client, &client_events) == bats_error_none);
    counter_wait(&client_events[bats_connection_established], 1);
    /* The context first, with a connection open: it gets its last event before this returns. */
    bats_context_destroy(ctx);
    CHECK(counter_get(&client_events[bats_connection_closed]) == 1);
    CHECK(bats_protocol_start_connect(protocol, "127.0.0.1", port, on_client, &client_events) == bats_error_connect_failed);
    CHECK(counter_get(&client_events[bats_connection_closed]) == 2);
    bats_config_destroy(config);
    bats_protocol_destroy(protocol);
}

static void what_is_not_offered_is_refused(const char *cert, const char *key) {
    bats_context_handle_t ctx = bats_context_create();
    bats_context_set_log_level(ctx, bats_log_level_error);
    bats_config_handle_t config = bats_config_create();
    CHECK(bats_config_set_cc(config, bats_cc_gcc) == bats_error_invalid_param);
    /* Also for who did not look. */
    CHECK(bats_protocol_create(ctx, config) == NULL && strlen(towline_last_error()) > 0);
    CHECK(bats_config_set_cc(config, bats_cc_bbrv3) == bats_error_none);
    bats_protocol_handle_t protocol = bats_protocol_create(ctx, config);
    CHECK(protocol != NULL);
    bats_protocol_destroy(protocol);
    CHECK(bats_config_set_mode(config, bats_transport_transparent) == bats_error_none);
    CHECK(bats_config_enable_compression(config, 1) == bats_error_none);
    CHECK(bats_protocol_create(ctx, config) == NULL && strstr(towline_last_error(), "compresses") != NULL);
    CHECK(bats_config_enable_compression(config, 0) == bats_error_none);
    CHECK(bats_config_set_frame_type(config, bats_frame_header_min) == bats_error_invalid_param);
    CHECK(bats_config_set_frame_type(config, bats_frame_header_v1) == bats_error_none);
    CHECK(bats_config_set_mode(config, (bats_transport_mode_t)9) == bats_error_invalid_param);
    CHECK(bats_config_set_mode(config, bats_transport_btp) == bats_error_none);
    CHECK(bats_config_set_timeout(config, 0) == bats_error_invalid_param);
    CHECK(bats_config_set_timeout(config, 2000) == bats_error_none);
    CHECK(bats_config_set_local_port(config, 70000) == bats_error_invalid_param);
    CHECK(bats_config_set_local_port(config, 0) == bats_error_none);
    CHECK(bats_config_set_remote_port(config, 0) == bats_error_invalid_param);
    CHECK(bats_config_set_remote_port(config, 1) == bats_error_none);
    CHECK(bats_config_set_remote_addr(config, NULL) == bats_error_invalid_param);
    CHECK(bats_config_set_remote_addr(config, "127.0.0.1") == bats_error_none);
    CHECK(bats_config_enable_encryption(config, 0) == bats_error_none);
    CHECK(bats_protocol_create(ctx, config) == NULL);
    CHECK(bats_config_set_mode(config, bats_transport_transparent) == bats_error_none);
    CHECK(bats_protocol_create(ctx, config) == NULL);
    CHECK(bats_config_set_frame_type(config, bats_frame_transparent) == bats_error_none);
    CHECK(bats_config_set_cc(config, bats_cc_none) == bats_error_none);
    protocol = bats_protocol_create(ctx, config);
    CHECK(protocol != NULL);
    bats_protocol_destroy(protocol);
    bats_config_destroy(config);

    /* A wrong key. */
    config = bats_config_create();
    bats_config_set_mode(config, bats_transport_brtp);
    bats_config_cert_file(config, cert);
    bats_config_key_file(config, cert);
    protocol = bats_protocol_create(ctx, config);
    init(listen_events, 7);
    CHECK(bats_protocol_start_listen(protocol, "127.0.0.1", 0, on_listen, &listen_events) == bats_error_listen_failed);
    CHECK(counter_get(&listen_events[bats_listen_failed]) == 1);
    bats_protocol_destroy(protocol);
    (void)key;

    /* NULL, stale, and of another kind. */
    CHECK(bats_context_set_log_level(NULL, bats_log_level_info) == bats_error_invalid_param);
    CHECK(bats_context_set_log_level(ctx, (bats_log_level_t)17) == bats_error_invalid_param);
    CHECK(bats_context_set_log_file_path(ctx, "/no/such/folder/file") == bats_error_invalid_param);
    CHECK(bats_config_set_mode(NULL, bats_transport_btp) == bats_error_invalid_param);
    CHECK(bats_config_set_mode((bats_config_handle_t)ctx, bats_transport_btp) == bats_error_invalid_param);
    CHECK(bats_protocol_create(NULL, config) == NULL && bats_protocol_create(ctx, NULL) == NULL);
    CHECK(bats_protocol_start_connect(NULL, "127.0.0.1", 1, on_client, NULL) == bats_error_invalid_param);
    CHECK(bats_protocol_start_connect(protocol, "127.0.0.1", 1, NULL, NULL) == bats_error_invalid_param);
    CHECK(bats_protocol_start_listen(NULL, "127.0.0.1", 0, on_listen, NULL) == bats_error_invalid_param);
    CHECK(bats_protocol_stop_listen(NULL) == bats_error_invalid_param);
    CHECK(bats_protocol_stop_connection(NULL, NULL) == bats_error_invalid_param);
    CHECK(bats_connection_send_data(NULL, (const unsigned char *)"x", 1) == bats_error_invalid_param);
    CHECK(bats_connection_send_file(NULL, "x") == bats_error_invalid_param);
    CHECK(bats_connection_set_callback(NULL, on_client, NULL) == bats_error_invalid_param);
    CHECK(bats_connection_close(NULL) == bats_error_invalid_param);
    CHECK(bats_connection_is_writable(NULL) == 0 && bats_connection_get_ideal_buffer_length(NULL) == 0);
    bats_protocol_destroy(NULL);
    bats_config_destroy(NULL);
    bats_context_destroy(NULL);
    bats_config_destroy(config);
    bats_config_destroy(config);
    bats_context_destroy(ctx);
}

static struct counter signals = COUNTER_INIT;

static void on_signal(int number) {
    CHECK(number == SIGINT);
    counter_add(&signals, 1);
}

static void signals_come_as_callbacks(void) {
    bats_context_handle_t ctx = bats_context_create();
    CHECK(bats_context_set_signal_callback(ctx, on_signal) == bats_error_none);
    kill(getpid(), SIGINT);
    counter_wait(&signals, 1);
    bats_context_destroy(ctx);
    /* And end the process again when nobody wants them. */
    pid_t child = fork();
    if (child == 0) {
        raise(SIGINT);
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    a_conversation(argv[1], argv[2], bats_transport_btp);
    a_conversation(argv[1], argv[2], bats_transport_brtp);
    a_conversation(argv[1], argv[2], bats_transport_brctp);
    destroying_in_any_order(argv[1], argv[2]);
    what_is_not_offered_is_refused(argv[1], argv[2]);
    signals_come_as_callbacks();
    CHECK(towline_live_objects() == 0);
    puts("ok");
    return 0;
}
