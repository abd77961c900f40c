/* towline.h: what is wrong is an error with a text, never a crash; nothing comes after a free. */
#define _GNU_SOURCE
#include <string.h>

#include "check.h"
#include "towline.h"

#define REFUSED(call, result)                                                          \
    do {                                                                               \
        towline_result got = (call);                                                   \
        if (got != (result)) {                                                         \
            fprintf(stderr, "%s is %d: %s\n", #call, got, towline_last_error());       \
        }                                                                              \
        CHECK(got == (result) && strlen(towline_last_error()) > 0);                    \
    } while (0)

#define NULL_REFUSED(call) REFUSED(call, TOWLINE_ERROR_INVALID_ARGUMENT)
#define STALE(call) REFUSED(call, TOWLINE_ERROR_STALE_HANDLE)

static void nothing_is_null(void) {
    towline_message message = {.struct_size = sizeof message};
    NULL_REFUSED(towline_context_new(NULL, NULL));
    NULL_REFUSED(towline_context_free(NULL));
    NULL_REFUSED(towline_config_new(NULL));
    NULL_REFUSED(towline_config_free(NULL));
    NULL_REFUSED(towline_config_set_number(NULL, TOWLINE_OPTION_REDIAL, 0));
    NULL_REFUSED(towline_config_set_text(NULL, TOWLINE_OPTION_CA_FILE, "x"));
    NULL_REFUSED(towline_config_set_certificate_files(NULL, "x", "y"));
    towline_endpoint *endpoint;
    NULL_REFUSED(towline_endpoint_new(NULL, NULL, &endpoint));
    NULL_REFUSED(towline_endpoint_free(NULL));
    towline_connection *connection;
    NULL_REFUSED(towline_connect(NULL, "tcp://127.0.0.1:1", NULL, NULL, &connection));
    towline_listener *listener;
    NULL_REFUSED(towline_listen(NULL, "tcp://127.0.0.1:0", NULL, NULL, &listener));
    NULL_REFUSED(towline_listener_free(NULL));
    NULL_REFUSED(towline_listener_accept(NULL, 0, &connection));
    char text[8];
    NULL_REFUSED(towline_listener_url(NULL, text, sizeof text));
    NULL_REFUSED(towline_connection_free(NULL));
    NULL_REFUSED(towline_connection_send(NULL, &message, 0, NULL));
    NULL_REFUSED(towline_connection_send_bytes(NULL, "x", 1));
    towline_received *received;
    NULL_REFUSED(towline_connection_receive(NULL, 0, &received));
    NULL_REFUSED(towline_connection_request(NULL, &message, 1, &received));
    NULL_REFUSED(towline_connection_request_async(NULL, &message, 1, NULL, NULL));
    NULL_REFUSED(towline_connection_close(NULL, 0, NULL, 0));
    NULL_REFUSED(towline_connection_abort(NULL));
    NULL_REFUSED(towline_connection_flush(NULL, 0));
    NULL_REFUSED(towline_connection_wait(NULL, 0));
    NULL_REFUSED(towline_connection_set_callback(NULL, NULL, NULL));
    NULL_REFUSED(towline_connection_get_statistics(NULL, NULL));
    NULL_REFUSED(towline_context_get_statistics(NULL, NULL));
    NULL_REFUSED(towline_connection_capabilities(NULL, NULL));
    NULL_REFUSED(towline_received_free(NULL));
    NULL_REFUSED(towline_received_message(NULL, &message));
    towline_events *events;
    NULL_REFUSED(towline_connection_events(NULL, &events));
    const towline_event *event;
    NULL_REFUSED(towline_events_next(NULL, 0, &event));
    NULL_REFUSED(towline_events_free(NULL));
    CHECK(towline_connection_is_connected(NULL) == 0);
    NULL_REFUSED(towline_set_log_level(9));
    REFUSED(towline_set_log_file("/no/such/folder/log"), TOWLINE_ERROR_FILE);
    for (int code = 1; code > -40; code--) {
        CHECK(strlen(towline_strerror(code)) > 0);
    }
}

static void options_are_honoured_or_refused(towline_context *context) {
    towline_config *config;
    towline_endpoint *endpoint = NULL;
    CHECK(towline_config_new(&config) == TOWLINE_OK);
    REFUSED(towline_config_set_number(config, 9999, 1), TOWLINE_ERROR_CONFIG);
    REFUSED(towline_config_set_number(config, TOWLINE_OPTION_CA_FILE, 1), TOWLINE_ERROR_CONFIG);
    REFUSED(towline_config_set_text(config, TOWLINE_OPTION_REDIAL, "yes"), TOWLINE_ERROR_CONFIG);
    REFUSED(towline_config_set_number(config, TOWLINE_OPTION_REDIAL, 2), TOWLINE_ERROR_CONFIG);
    REFUSED(towline_config_set_text(config, TOWLINE_OPTION_PIN, "nonsense"), TOWLINE_ERROR_CONFIG);
    NULL_REFUSED(towline_config_set_text(config, TOWLINE_OPTION_PIN, NULL));
    NULL_REFUSED(towline_config_set_text(config, TOWLINE_OPTION_SERVER_NAME, "\xff\xfe"));
    CHECK(towline_config_set_number(config, TOWLINE_OPTION_KEEP_ALIVE_MS, 1) == TOWLINE_OK);
    REFUSED(towline_endpoint_new(context, config, &endpoint), TOWLINE_ERROR_CONFIG);
    CHECK(endpoint == NULL && strstr(towline_last_error(), "keep_alive") != NULL);
    CHECK(towline_config_set_number(config, TOWLINE_OPTION_KEEP_ALIVE_MS, 1000) == TOWLINE_OK);
    CHECK(towline_config_set_certificate_files(config, "/no/such/chain.pem", "/no/such/key.pem") == TOWLINE_OK);
    REFUSED(towline_endpoint_new(context, config, &endpoint), TOWLINE_ERROR_CONFIG);
    CHECK(strstr(towline_last_error(), "chain.pem") != NULL);
    CHECK(towline_config_free(config) == TOWLINE_OK);
    STALE(towline_config_free(config));
    STALE(towline_config_set_number(config, TOWLINE_OPTION_REDIAL, 1));
    towline_context_options options = {.struct_size = 3};
    towline_context *other;
    NULL_REFUSED(towline_context_new(&options, &other));
    options.struct_size = sizeof options;
    options.driver = 77;
    NULL_REFUSED(towline_context_new(&options, &other));
    options.driver = 0;
    options.threads = 5000;
    REFUSED(towline_context_new(&options, &other), TOWLINE_ERROR_CONFIG);
}

static struct counter events = COUNTER_INIT, closes = COUNTER_INIT;

static void count(towline_connection *connection, const towline_event *event, void *user) {
    (void)connection;
    CHECK(user == &events);
    counter_add(&events, 1);
    if (event->kind == TOWLINE_EVENT_CLOSED) {
        CHECK(event->result == TOWLINE_ERROR_CONNECT);
        counter_add(&closes, 1);
    }
}

static void addresses_are_checked(towline_endpoint *endpoint) {
    towline_connection *connection = NULL;
    towline_listener *listener = NULL;
    REFUSED(towline_connect(endpoint, "nonsense", count, &events, &connection), TOWLINE_ERROR_ADDRESS);
    REFUSED(towline_connect(endpoint, "smtp://127.0.0.1:1", NULL, NULL, &connection), TOWLINE_ERROR_ADDRESS);
    NULL_REFUSED(towline_connect(endpoint, NULL, NULL, NULL, &connection));
    NULL_REFUSED(towline_connect(endpoint, "tcp://127.0.0.1:1", NULL, NULL, NULL));
    REFUSED(towline_listen(endpoint, "tcp://127.0.0.1:notaport", NULL, NULL, &listener), TOWLINE_ERROR_ADDRESS);
    REFUSED(towline_listen(endpoint, "tls://127.0.0.1:0", NULL, NULL, &listener), TOWLINE_ERROR_CONFIG);
    CHECK(connection == NULL && counter_get(&events) == 0);
    /* Handles of another kind. */
    STALE(towline_connection_free((towline_connection *)endpoint));
    STALE(towline_endpoint_free((towline_endpoint *)0x1234));

    /* Nobody listens there: one event, the last one. */
    CHECK(towline_listen(endpoint, "tcp://127.0.0.1:0", NULL, NULL, &listener) == TOWLINE_OK);
    char url[64];
    CHECK(towline_listener_url(listener, url, sizeof url) == TOWLINE_OK);
    towline_listener *twice = NULL;
    REFUSED(towline_listen(endpoint, url, NULL, NULL, &twice), TOWLINE_ERROR_LISTEN);
    CHECK(towline_listener_free(listener) == TOWLINE_OK);
    /* The listener's socket closes a moment later; meanwhile a connection may still be made and then reset. */
    for (;;) {
        CHECK(towline_connect(endpoint, url, NULL, NULL, &connection) == TOWLINE_OK);
        towline_result result = towline_connection_wait(connection, -1);
        CHECK(towline_connection_free(connection) == TOWLINE_OK);
        if (result == TOWLINE_ERROR_CONNECT) {
            break;
        }
    }
    CHECK(towline_connect(endpoint, url, count, &events, &connection) == TOWLINE_OK);
    REFUSED(towline_connection_wait(connection, -1), TOWLINE_ERROR_CONNECT);
    counter_wait(&closes, 1);
    CHECK(counter_get(&events) == 1);
    REFUSED(towline_connection_send_bytes(connection, "x", 1), TOWLINE_ERROR_CONNECT);
    CHECK(towline_connection_free(connection) == TOWLINE_OK);
    STALE(towline_connection_send_bytes(connection, "x", 1));
}

/* Freed while its callbacks run as fast as they can: none comes afterwards. */
static struct counter flood = COUNTER_INIT;
static int freed;

static void on_flood(towline_connection *connection, const towline_event *event, void *user) {
    (void)event;
    CHECK(!__atomic_load_n((int *)user, __ATOMIC_SEQ_CST));
    counter_add(&flood, 1);
    towline_connection_send_bytes(connection, "on", 2);
}

static void on_flood_accept(towline_listener *listener, towline_connection *connection, void *user) {
    static int never;
    (void)listener;
    *(towline_connection **)user = connection;
    CHECK(towline_connection_set_callback(connection, on_flood, &never) == TOWLINE_OK);
}

static void nothing_comes_after_a_free(towline_endpoint *endpoint) {
    towline_connection *client, *server = NULL;
    towline_listener *listener;
    CHECK(towline_listen(endpoint, "tcp://127.0.0.1:0", on_flood_accept, &server, &listener) == TOWLINE_OK);
    char url[64];
    CHECK(towline_listener_url(listener, url, sizeof url) == TOWLINE_OK);
    CHECK(towline_connect(endpoint, url, on_flood, &freed, &client) == TOWLINE_OK);
    counter_wait(&flood, 200);
    CHECK(towline_connection_free(client) == TOWLINE_OK);
    __atomic_store_n(&freed, 1, __ATOMIC_SEQ_CST);
    CHECK(towline_listener_free(listener) == TOWLINE_OK);
    CHECK(towline_connection_free(server) == TOWLINE_OK);
}

static void on_accept_without_callback(towline_listener *listener, towline_connection *connection, void *user) {
    (void)listener;
    *(towline_connection **)user = connection;
    counter_add(&flood, 1);
}

static struct counter lines = COUNTER_INIT;

static void on_line(int level, const char *line, void *user) {
    CHECK(level == 4 && strstr(line, "no event callback") != NULL && user == &lines);
    counter_add(&lines, 1);
}

static void forgetting_the_callback_is_told(towline_endpoint *endpoint) {
    CHECK(towline_set_log_level(4) == TOWLINE_OK && towline_set_log_callback(on_line, &lines) == TOWLINE_OK);
    towline_connection *client, *server = NULL;
    towline_listener *listener;
    CHECK(towline_listen(endpoint, "tcp://127.0.0.1:0", on_accept_without_callback, &server, &listener) == TOWLINE_OK);
    char url[64];
    CHECK(towline_listener_url(listener, url, sizeof url) == TOWLINE_OK);
    CHECK(towline_connect(endpoint, url, NULL, NULL, &client) == TOWLINE_OK);
    counter_wait(&lines, 1);
    CHECK(towline_set_log_callback(NULL, NULL) == TOWLINE_OK && towline_set_log_level(3) == TOWLINE_OK);
    CHECK(towline_connection_free(client) == TOWLINE_OK);
    CHECK(towline_connection_free(server) == TOWLINE_OK);
    CHECK(towline_listener_free(listener) == TOWLINE_OK);
}

int main(void) {
    nothing_is_null();
    towline_context *context;
    CHECK(towline_context_new(NULL, &context) == TOWLINE_OK);
    options_are_honoured_or_refused(context);
    towline_config *config;
    CHECK(towline_config_new(&config) == TOWLINE_OK);
    CHECK(towline_config_set_number(config, TOWLINE_OPTION_CLOSE_TIMEOUT_MS, 500) == TOWLINE_OK);
    towline_endpoint *endpoint;
    CHECK(towline_endpoint_new(context, config, &endpoint) == TOWLINE_OK);
    CHECK(towline_config_free(config) == TOWLINE_OK);
    addresses_are_checked(endpoint);
    nothing_comes_after_a_free(endpoint);
    forgetting_the_callback_is_told(endpoint);
    CHECK(towline_context_free(context) == TOWLINE_OK);
    STALE(towline_context_free(context));
    STALE(towline_endpoint_new(context, NULL, &endpoint));
    CHECK(towline_endpoint_free(endpoint) == TOWLINE_OK);
    CHECK(towline_live_objects() == 0);
    puts("ok");
    return 0;
}
