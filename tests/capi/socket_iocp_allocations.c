/* socket_iocp.h: sync sends and receives allocate nothing once they have begun. */
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "socket_iocp.h"

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

static long allocations;

void *malloc(size_t size) {
    __atomic_add_fetch(&allocations, 1, __ATOMIC_SEQ_CST);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    __atomic_add_fetch(&allocations, 1, __ATOMIC_SEQ_CST);
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    __atomic_add_fetch(&allocations, 1, __ATOMIC_SEQ_CST);
    return __libc_realloc(old, size);
}

static void *state;
static struct counter rounds = COUNTER_INIT;
static char answer[64];

static void on_accept(SOCKET s, struct sockaddr *l, struct sockaddr *r, void *u, void **p) {
    (void)s, (void)l, (void)r, (void)u, (void)p;
}

static void on_recv(SOCKET socket, void *buffer, DWORD count, void *user) {
    (void)user;
    if (count == 0) {
        return;
    }
    CHECK(count == sizeof answer);
    memcpy(answer, buffer, count);
    void *self;
    CHECK(socket_iocp_get_socket_state(state, socket, &self) == 0);
    CHECK(socket_iocp_issue_sync_send(state, self, answer, count, NULL) == 0);
}

static void on_send(SOCKET socket, void *user, void *write) {
    (void)user, (void)write;
    void *self;
    CHECK(socket_iocp_get_socket_state(state, socket, &self) == 0);
    CHECK(socket_iocp_issue_recv(state, self) == 0);
    counter_add(&rounds, 1);
}

static void on_error(SOCKET socket, void *user) {
    (void)socket, (void)user;
}

static void turn(int far, long number) {
    char text[64] = "sixty-four bytes";
    CHECK(write(far, text, sizeof text) == (ssize_t)sizeof text);
    counter_wait(&rounds, number);
    CHECK(read(far, text, sizeof text) == (ssize_t)sizeof text);
}

int main(void) {
    CHECK(socket_iocp_new(&state, 4096, on_accept, on_recv, on_send, on_error) == 0);
    int both[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, both) == 0);
    CHECK(socket_iocp_add_connected_socket(state, both[0], NULL) == 0);
    void *self;
    CHECK(socket_iocp_get_socket_state(state, both[0], &self) == 0);
    CHECK(socket_iocp_issue_recv(state, self) == 0);
    long number = 0;
    while (number < 200) {
        turn(both[1], ++number);
    }
    long before = __atomic_load_n(&allocations, __ATOMIC_SEQ_CST);
    while (number < 2200) {
        turn(both[1], ++number);
    }
    long more = __atomic_load_n(&allocations, __ATOMIC_SEQ_CST) - before;
    fprintf(stderr, "%ld allocations in 2,000 receives and sends\n", more);
    CHECK(more == 0);
    socket_iocp_delete(state);
    close(both[1]);
    puts("ok");
    return 0;
}
