/* socket_iocp.h: accepting, receiving, sending in order, cancelling, removing, deleting, and what is refused. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "socket_iocp.h"

/* What each connection has here. */
struct peer {
    int number;
    int removed;
    long received;
    int sent;
    int next;
};

static void *state;
static struct counter accepts = COUNTER_INIT, receives = COUNTER_INIT, sends = COUNTER_INIT, errors = COUNTER_INIT;
static struct counter removals = COUNTER_INIT, writables = COUNTER_INIT, ends = COUNTER_INIT;
static int echo = 1, last_error, last_operation;
static void *last_write;

static void *handle(SOCKET socket) {
    void *found = NULL;
    CHECK(socket_iocp_get_socket_state(state, socket, &found) == 0 && found != NULL);
    return found;
}

static void on_accept(SOCKET socket, struct sockaddr *local, struct sockaddr *remote, void *listen_user, void **user) {
    CHECK(listen_user == &accepts && *user == NULL);
    CHECK(local->sa_family == AF_INET && remote->sa_family == AF_INET);
    CHECK(((struct sockaddr_in *)remote)->sin_port != ((struct sockaddr_in *)local)->sin_port);
    struct peer *peer = calloc(1, sizeof *peer);
    *user = peer;
    CHECK(socket_iocp_issue_recv(state, handle(socket)) == 0);
    CHECK(socket_iocp_issue_recv(state, handle(socket)) == EALREADY);
    counter_add(&accepts, 1);
}

static void on_recv(SOCKET socket, void *buffer, DWORD count, void *user) {
    struct peer *peer = user;
    void *self = handle(socket);
    CHECK(count <= 1000);
    if (count == 0) {
        counter_add(&ends, 1);
        if (echo) {
            CHECK(socket_iocp_remove(state, self) == 0);
        }
        return;
    }
    peer->received += count;
    if (echo) {
        char *copy = malloc(count);
        memcpy(copy, buffer, count);
        CHECK(socket_iocp_issue_async_send(state, self, copy, count, copy) == 0);
        CHECK(socket_iocp_issue_recv(state, self) == 0);
    }
    counter_add(&receives, count);
}

static void on_send(SOCKET socket, void *user, void *write) {
    (void)socket;
    struct peer *peer = user;
    if (echo) {
        free(write);
    } else {
        CHECK((int)(intptr_t)write == peer->next);
        peer->next++;
    }
    peer->sent++;
    counter_add(&sends, 1);
}

static void on_error(SOCKET socket, void *user) {
    (void)user;
    struct socket_iocp_error error = {.struct_size = sizeof error};
    CHECK(socket_iocp_get_error(&error) == 0);
    CHECK(error.socket_iocp_socket_state == handle(socket));
    last_error = error.system_error;
    last_operation = error.operation;
    last_write = error.per_write_user_state;
    if (echo && error.operation == SOCKET_IOCP_ASYNC_SEND) {
        free(error.per_write_user_state);
    }
    counter_add(&errors, 1);
}

static void on_writable(SOCKET socket, void *user) {
    (void)socket;
    (void)user;
    counter_add(&writables, 1);
}

static void on_removed(SOCKET socket, void *user) {
    struct peer *peer = user;
    CHECK(socket >= 0 && !peer->removed);
    peer->removed = 1;
    if (echo) {
        free(peer);
    }
    counter_add(&removals, 1);
}

static SOCKET listening(struct sockaddr_in *address) {
    SOCKET made = socket(AF_INET, SOCK_STREAM, 0);
    memset(address, 0, sizeof *address);
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof *address;
    CHECK(bind(made, (struct sockaddr *)address, length) == 0);
    CHECK(getsockname(made, (struct sockaddr *)address, &length) == 0);
    return made;
}

static void write_all(SOCKET to, const char *data, size_t length) {
    while (length > 0) {
        ssize_t done = write(to, data, length);
        CHECK(done > 0);
        data += done;
        length -= done;
    }
}

static void read_all(SOCKET from, char *data, size_t length) {
    while (length > 0) {
        ssize_t done = read(from, data, length);
        CHECK(done > 0);
        data += done;
        length -= done;
    }
}

static void many_connections_echo(uint32_t threads) {
    struct socket_iocp_options options = {.struct_size = sizeof options, .threads = threads, .removed_callback_function = on_removed};
    CHECK(socket_iocp_new_with(&state, 1000, on_accept, on_recv, on_send, on_error, &options) == 0);
    CHECK(socket_iocp_driver(state) == 1 || socket_iocp_driver(state) == 2);
    struct sockaddr_in address;
    SOCKET server = listening(&address);
    CHECK(socket_iocp_add_listen_socket(state, server, 4, &accepts) == EINVAL);
    CHECK(listen(server, 64) == 0);
    CHECK(socket_iocp_add_listen_socket(state, server, 0, &accepts) == EINVAL);
    /* A pool smaller than the number of connections. */
    CHECK(socket_iocp_add_listen_socket(state, server, 4, &accepts) == 0);
    enum { CLIENTS = 30, BYTES = 10000 };
    SOCKET clients[CLIENTS];
    static char data[BYTES], back[BYTES];
    long before = counter_get(&removals), accepted = counter_get(&accepts);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(connect(clients[i], (struct sockaddr *)&address, sizeof address) == 0);
    }
    for (int i = 0; i < CLIENTS; i++) {
        memset(data, i + 1, sizeof data);
        write_all(clients[i], data, sizeof data);
    }
    for (int i = 0; i < CLIENTS; i++) {
        memset(data, i + 1, sizeof data);
        read_all(clients[i], back, sizeof back);
        CHECK(memcmp(data, back, sizeof data) == 0);
        close(clients[i]);
    }
    counter_wait(&accepts, accepted + CLIENTS);
    counter_wait(&removals, before + CLIENTS);
    CHECK(socket_iocp_remove_listen_socket(state, server) == 0);
    CHECK(socket_iocp_remove_listen_socket(state, server) == EBADF);
    socket_iocp_delete(state);
    void *found;
    CHECK(socket_iocp_get_socket_state(state, clients[0], &found) == EBADF);
    socket_iocp_delete(state);
}

static void pair(SOCKET *near, SOCKET *far) {
    int both[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, both) == 0);
    *near = both[0];
    *far = both[1];
}

static void operations_end_once_and_in_order(void) {
    echo = 0;
    struct socket_iocp_options options = {
        .struct_size = sizeof options, .writable_callback_function = on_writable, .removed_callback_function = on_removed, .send_limit = 1 << 20};
    CHECK(socket_iocp_new_with(&state, 1000, on_accept, on_recv, on_send, on_error, &options) == 0);
    SOCKET near, far;
    pair(&near, &far);
    struct peer peer = {0};
    CHECK(socket_iocp_add_connected_socket(state, near, &peer) == 0);
    void *self = handle(near);
    long received = counter_get(&receives), sent = counter_get(&sends);

    /* Nothing is received until asked, and then once. */
    write_all(far, "first", 5);
    CHECK(socket_iocp_issue_recv(state, self) == 0);
    counter_wait(&receives, received + 5);
    CHECK(socket_iocp_issue_recv(state, self) == 0);
    CHECK(socket_iocp_issue_recv(state, self) == EALREADY);
    CHECK(socket_iocp_cancel_recv(state, self) == 0);
    counter_wait(&errors, 1);
    CHECK(last_error == ECANCELED && last_operation == SOCKET_IOCP_RECV);

    /* Sync and async sends stay in order; a second sync one waits for its turn. */
    static char block[100000], back[100000];
    memset(block, 'b', sizeof block);
    int issued = 0;
    CHECK(socket_iocp_issue_sync_send(state, self, block, sizeof block, (void *)(intptr_t)issued++) == 0);
    int again = 0;
    for (;;) {
        int result = socket_iocp_issue_async_send(state, self, block, sizeof block, (void *)(intptr_t)issued);
        if (result == EAGAIN) {
            break;
        }
        CHECK(result == 0);
        issued++;
        again++;
    }
    CHECK(again >= 9);
    CHECK(socket_iocp_issue_async_send(state, self, NULL, 5, NULL) == EINVAL);
    for (int i = 0; i < issued; i++) {
        read_all(far, back, sizeof back);
        CHECK(memcmp(block, back, sizeof block) == 0);
    }
    counter_wait(&sends, sent + issued);
    counter_wait(&writables, 1);
    CHECK(peer.next == issued);

    /* Removing ends what is outstanding, once each, and then says so. */
    long before = counter_get(&errors), gone = counter_get(&removals);
    CHECK(socket_iocp_issue_recv(state, self) == 0);
    CHECK(socket_iocp_remove(state, self) == 0);
    counter_wait(&removals, gone + 1);
    CHECK(counter_get(&errors) == before + 1 && last_error == ECANCELED && peer.removed);
    char end;
    CHECK(read(far, &end, 1) == 0);
    close(far);
    /* The handle is stale a moment after its last callback. */
    while (socket_iocp_issue_recv(state, self) == 0) {
    }
    CHECK(socket_iocp_issue_recv(state, self) == EBADF);

    /* The end of the stream is no error, and stays. */
    struct peer other = {0};
    pair(&near, &far);
    CHECK(socket_iocp_add_connected_socket(state, near, &other) == 0);
    self = handle(near);
    close(far);
    for (int i = 1; i <= 2; i++) {
        long seen = counter_get(&ends);
        CHECK(socket_iocp_issue_recv(state, self) == 0);
        counter_wait(&ends, seen + 1);
    }
    /* Deleting with a socket in it: its last callback comes before the return. */
    socket_iocp_delete(state);
    CHECK(other.removed);
    CHECK(socket_iocp_issue_recv(state, self) == EBADF);
    echo = 1;
}

static void *deleted_inside;

static void on_send_delete(SOCKET socket, void *user, void *write) {
    (void)socket;
    (void)user;
    (void)write;
    socket_iocp_delete(deleted_inside);
    counter_add(&sends, 1);
}

static void what_is_wrong_is_refused(void) {
    CHECK(socket_iocp_new(NULL, 1000, on_accept, on_recv, on_send, on_error) == EINVAL);
    CHECK(socket_iocp_new(&state, 1000, NULL, on_recv, on_send, on_error) == EINVAL);
    CHECK(socket_iocp_new(&state, 0, on_accept, on_recv, on_send, on_error) == EINVAL);
    CHECK(socket_iocp_new(&state, (size_t)1 << 40, on_accept, on_recv, on_send, on_error) == EINVAL);
    socket_iocp_delete(NULL);
    CHECK(socket_iocp_driver(NULL) == 0);
    CHECK(socket_iocp_new(&state, 64, on_accept, on_recv, on_send_delete, on_error) == 0);
    CHECK(socket_iocp_add_connected_socket(state, -1, NULL) == EBADF);
    CHECK(socket_iocp_add_connected_socket(state, 9999, NULL) == EBADF);
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    CHECK(socket_iocp_add_connected_socket(state, pipes[0], NULL) == ENOTSOCK);
    close(pipes[0]);
    close(pipes[1]);
    SOCKET datagrams = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(socket_iocp_add_connected_socket(state, datagrams, NULL) == EINVAL);
    /* It stayed ours. */
    CHECK(close(datagrams) == 0);
    void *found;
    CHECK(socket_iocp_get_socket_state(state, 0, &found) == EBADF);
    CHECK(socket_iocp_get_socket_state(NULL, 0, &found) == EINVAL);
    CHECK(socket_iocp_issue_recv(state, NULL) == EINVAL);
    CHECK(socket_iocp_issue_recv(state, state) == EBADF);
    CHECK(socket_iocp_remove(state, (void *)0x10) == EBADF);
    struct socket_iocp_error error = {.struct_size = sizeof error};
    CHECK(socket_iocp_get_error(&error) == EINVAL);
    CHECK(socket_iocp_get_error(NULL) == EINVAL);

    /* A callback cannot delete its state. */
    SOCKET near, far;
    pair(&near, &far);
    CHECK(socket_iocp_add_connected_socket(state, near, NULL) == 0);
    deleted_inside = state;
    long before = counter_get(&sends);
    CHECK(socket_iocp_issue_sync_send(state, handle(near), "x", 1, NULL) == 0);
    counter_wait(&sends, before + 1);
    CHECK(socket_iocp_get_socket_state(state, near, &found) == 0);
    socket_iocp_delete(state);
    close(far);
}

int main(void) {
    many_connections_echo(1);
    many_connections_echo(3);
    operations_end_once_and_in_order();
    what_is_wrong_is_refused();
    puts("ok");
    return 0;
}
