/* An echo server by socket_iocp.h. Prints its port. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "socket_iocp.h"

struct client {
    void *handle;
    char buffer[65536];
};

static void *state;

static void on_accept(SOCKET socket, struct sockaddr *local, struct sockaddr *remote, void *listen, void **user) {
    (void)local, (void)remote, (void)listen;
    struct client *client = malloc(sizeof *client);
    int one = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    *user = client;
    socket_iocp_get_socket_state(state, socket, &client->handle);
    socket_iocp_issue_recv(state, client->handle);
}

static void on_recv(SOCKET socket, void *buffer, DWORD count, void *user) {
    struct client *client = user;
    (void)socket;
    if (count == 0) {
        socket_iocp_remove(state, client->handle);
        return;
    }
    memcpy(client->buffer, buffer, count);
    socket_iocp_issue_sync_send(state, client->handle, client->buffer, count, NULL);
    socket_iocp_issue_recv(state, client->handle);
}

static void on_send(SOCKET socket, void *user, void *write) { (void)socket, (void)user, (void)write; }

static void on_error(SOCKET socket, void *user) {
    (void)socket;
    socket_iocp_remove(state, ((struct client *)user)->handle);
}

int main(void) {
    int server = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    bind(server, (struct sockaddr *)&address, length);
    listen(server, 1024);
    getsockname(server, (struct sockaddr *)&address, &length);
    if (socket_iocp_new(&state, 65536, on_accept, on_recv, on_send, on_error) != 0 ||
        socket_iocp_add_listen_socket(state, server, 64, NULL) != 0) {
        return 1;
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    pause();
}
