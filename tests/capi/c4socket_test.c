/* c4socket.h: two factories in one process that hand each other what is written; sessions and messages on top. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "c4socket.h"
#include "check.h"

/* One end of a connection; its other end. */
struct end {
    C4Socket *socket;
    struct end *other;
    int closed;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static towline_listener *listener;
static C4SocketFactory server_factory;
static struct counter opens = COUNTER_INIT, disposals = COUNTER_INIT, processed = COUNTER_INIT, closes = COUNTER_INIT;
static int refuse_open;
static C4Socket *stale;

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
    struct end *near = calloc(1, sizeof *near), *far = calloc(1, sizeof *far);
    near->socket = socket;
    near->other = far;
    far->other = near;
    socket->nativeHandle = near;
    CHECK(towline_listener_attach_socket(listener, &server_factory, far, &far->socket) == TOWLINE_OK);
    CHECK(far->socket->nativeHandle == far);
}

static void on_attached(C4Socket *socket) {
    struct end *far = socket->nativeHandle;
    c4socket_opened(socket);
    c4socket_opened(far->other->socket);
}

static void on_write(C4Socket *socket, C4SliceResult data) {
    struct end *end = socket->nativeHandle;
    pthread_mutex_lock(&lock);
    C4Socket *to = end->other != NULL ? end->other->socket : NULL;
    pthread_mutex_unlock(&lock);
    if (to != NULL) {
        C4Slice slice = {data.buf, data.size};
        c4socket_received(to, slice);
    }
    /* In two pieces. */
    c4socket_completedWrite(socket, data.size / 2);
    c4socket_completedWrite(socket, data.size - data.size / 2);
    c4slice_free(data);
}

static void on_processed(C4Socket *socket, size_t count) {
    (void)socket;
    counter_add(&processed, (long)count);
}

static void shut(C4Socket *socket) {
    struct end *end = socket->nativeHandle;
    C4Error none = {0, 0, 0};
    pthread_mutex_lock(&lock);
    C4Socket *to = end != NULL && end->other != NULL ? end->other->socket : NULL;
    pthread_mutex_unlock(&lock);
    counter_add(&closes, 1);
    c4socket_closed(socket, none);
    if (to != NULL) {
        c4socket_closed(to, none);
    }
}

static void on_request_close(C4Socket *socket, int status, C4String message) {
    CHECK(status >= 1000 && (message.size == 0 || message.buf != NULL));
    shut(socket);
}

static void on_dispose(C4Socket *socket) {
    struct end *end = socket->nativeHandle;
    pthread_mutex_lock(&lock);
    if (end != NULL && end->other != NULL) {
        end->other->other = NULL;
    }
    pthread_mutex_unlock(&lock);
    free(end);
    if (stale == NULL) {
        stale = socket;
    }
    counter_add(&disposals, 1);
}

static void a_session(towline_context *context, C4SocketFraming framing) {
    C4SocketFactory factory = {.framing = framing,
                               .context = &opens,
                               .open = on_open,
                               .write = on_write,
                               .completedReceive = on_processed,
                               .dispose = on_dispose,
                               .attached = on_attached};
    if (framing == kC4NoFraming) {
        factory.requestClose = on_request_close;
    } else {
        factory.close = shut;
    }
    server_factory = factory;
    towline_config *config;
    towline_endpoint *endpoint;
    CHECK(towline_config_new(&config) == TOWLINE_OK);
    CHECK(towline_config_set_socket_factory(config, NULL, &factory) == TOWLINE_OK);
    CHECK(towline_endpoint_new(context, config, &endpoint) == TOWLINE_OK);
    CHECK(towline_config_free(config) == TOWLINE_OK);
    CHECK(towline_listen(endpoint, "tcp://127.0.0.1:0", NULL, NULL, &listener) == TOWLINE_OK);

    long disposed = counter_get(&disposals);
    towline_connection *client, *server;
    CHECK(towline_connect(endpoint, "tcp://board:7", NULL, NULL, &client) == TOWLINE_OK);
    CHECK(towline_listener_accept(listener, -1, &server) == TOWLINE_OK);
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
    counter_wait(&processed, 5000000);
    CHECK(towline_connection_close(client, 0, NULL, -1) == TOWLINE_OK);
    CHECK(towline_connection_free(client) == TOWLINE_OK);
    CHECK(towline_connection_free(server) == TOWLINE_OK);
    counter_wait(&disposals, disposed + 2);
    CHECK(counter_get(&closes) > 0);

    /* What cannot be opened is why the connection cannot be made. */
    refuse_open = 1;
    CHECK(towline_connect(endpoint, "tcp://board:7", NULL, NULL, &client) == TOWLINE_OK);
    CHECK(towline_connection_wait(client, -1) == TOWLINE_ERROR_CONNECT);
    CHECK(strstr(towline_last_error(), "refused") != NULL);
    CHECK(towline_connection_free(client) == TOWLINE_OK);
    refuse_open = 0;
    counter_wait(&disposals, disposed + 3);
    CHECK(towline_listener_free(listener) == TOWLINE_OK);
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
    c4socket_closed(stale, none);
    c4socket_received(stale, empty);
    c4socket_completedWrite(stale, 1);
    c4socket_closeRequested(stale, 1000, empty);
    c4socket_gotHTTPResponse(stale, 200, empty);
    c4slice_free(slice);
    C4SocketFactory factory = {.framing = kC4NoFraming, .open = on_open, .write = on_write};
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
    CHECK(towline_config_set_socket_factory(NULL, NULL, &server_factory) == TOWLINE_ERROR_INVALID_ARGUMENT);
    CHECK(towline_config_free(config) == TOWLINE_OK);
    C4Socket *socket;
    CHECK(towline_listener_attach_socket(NULL, &server_factory, NULL, &socket) == TOWLINE_ERROR_INVALID_ARGUMENT);
    CHECK(towline_set_log_callback(NULL, NULL) == TOWLINE_OK);
}

/* The process's factory serves endpoints whose configuration names none. */
static void registered(towline_context *context) {
    C4SocketFactory factory = server_factory;
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
    CHECK(counter_get(&disposals) == 7 && towline_live_objects() == 0);
    puts("ok");
    return 0;
}
