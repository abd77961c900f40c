/* Factories for c4socket.h within one process: what one end writes, its other end receives. */
#ifndef C4PAIR_H
#define C4PAIR_H

#include <string.h>

#include "c4socket.h"
#include "check.h"

/* One end of a connection; its other end. */
struct end {
    C4Socket *socket;
    struct end *other;
    /* It was asked to close. */
    int asked;
};

static pthread_mutex_t pair_lock = PTHREAD_MUTEX_INITIALIZER;
static towline_listener *pair_listener;
/* Of the ends that are attached. */
static C4SocketFactory pair_server;
/* The HTTP answer that both ends tell of, on WebSocket framings. */
static int pair_status;
static C4Slice pair_headers;
static struct counter pair_disposals = COUNTER_INIT, pair_processed = COUNTER_INIT, pair_closes = COUNTER_INIT;
/* The first socket that was disposed of. */
static C4Socket *pair_stale;

static struct end *pair_other(struct end *end) {
    pthread_mutex_lock(&pair_lock);
    struct end *other = end != NULL ? end->other : NULL;
    pthread_mutex_unlock(&pair_lock);
    return other;
}

/* Opens a socket: its other end goes to the listener. */
static void pair_open(C4Socket *socket) {
    struct end *near = calloc(1, sizeof *near), *far = calloc(1, sizeof *far);
    near->socket = socket;
    near->other = far;
    far->other = near;
    socket->nativeHandle = near;
    C4Socket *attached;
    CHECK(towline_listener_attach_socket(pair_listener, &pair_server, far, &attached) == TOWLINE_OK);
}

static void pair_attached(C4Socket *socket) {
    struct end *far = socket->nativeHandle;
    pthread_mutex_lock(&pair_lock);
    far->socket = socket;
    pthread_mutex_unlock(&pair_lock);
    if (pair_status != 0) {
        c4socket_gotHTTPResponse(socket, pair_status, pair_headers);
        c4socket_gotHTTPResponse(far->other->socket, pair_status, pair_headers);
    }
    c4socket_opened(socket);
    c4socket_opened(far->other->socket);
}

static void pair_write(C4Socket *socket, C4SliceResult data) {
    struct end *other = pair_other(socket->nativeHandle);
    if (other != NULL) {
        C4Slice slice = {data.buf, data.size};
        c4socket_received(other->socket, slice);
    }
    /* In two pieces. */
    c4socket_completedWrite(socket, data.size / 2);
    c4socket_completedWrite(socket, data.size - data.size / 2);
    c4slice_free(data);
}

static void pair_completed_receive(C4Socket *socket, size_t count) {
    (void)socket;
    counter_add(&pair_processed, (long)count);
}

/* Streams: an end that closes closes the other. */
static void pair_close(C4Socket *socket) {
    C4Error none = {0, 0, 0};
    struct end *other = pair_other(socket->nativeHandle);
    counter_add(&pair_closes, 1);
    c4socket_closed(socket, none);
    if (other != NULL) {
        c4socket_closed(other->socket, none);
    }
}

/* Messages: both ends are closed when both have asked for it. */
static void pair_request_close(C4Socket *socket, int status, C4String message) {
    CHECK(status >= 1000 && (message.size == 0 || message.buf != NULL));
    struct end *end = socket->nativeHandle;
    struct end *other = pair_other(end);
    pthread_mutex_lock(&pair_lock);
    int both = other == NULL || other->asked;
    if (end != NULL) {
        end->asked = 1;
    }
    pthread_mutex_unlock(&pair_lock);
    if (both) {
        pair_close(socket);
    } else {
        c4socket_closeRequested(other->socket, status, message);
    }
}

static void pair_dispose(C4Socket *socket) {
    struct end *end = socket->nativeHandle;
    pthread_mutex_lock(&pair_lock);
    if (end != NULL && end->other != NULL) {
        end->other->other = NULL;
    }
    if (pair_stale == NULL) {
        pair_stale = socket;
    }
    pthread_mutex_unlock(&pair_lock);
    free(end);
    counter_add(&pair_disposals, 1);
}

/* The functions of a framing. */
static C4SocketFactory pair_factory(C4SocketFraming framing, void *context,
                                    void (*open)(C4Socket *, const C4Address *, C4Slice, void *)) {
    C4SocketFactory factory = {.framing = framing,
                               .context = context,
                               .open = open,
                               .write = pair_write,
                               .completedReceive = pair_completed_receive,
                               .dispose = pair_dispose,
                               .attached = pair_attached};
    if (framing == kC4NoFraming) {
        factory.requestClose = pair_request_close;
    } else {
        factory.close = pair_close;
    }
    return factory;
}

#endif
