/* An echo server by libuv, with memory of its own for each connection, so that it allocates nothing per message. Prints its port. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

struct client {
    uv_tcp_t socket;
    uv_write_t write;
    char buffer[65536];
};

static void on_close(uv_handle_t *handle) { free(handle->data); }

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    (void)suggested;
    struct client *client = handle->data;
    *buffer = uv_buf_init(client->buffer, sizeof client->buffer);
}

static void on_write(uv_write_t *write, int status) {
    (void)write, (void)status;
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buffer) {
    struct client *client = stream->data;
    if (got < 0) {
        uv_close((uv_handle_t *)stream, on_close);
    } else if (got > 0) {
        uv_buf_t data = uv_buf_init(buffer->base, (unsigned)got);
        uv_write(&client->write, stream, &data, 1, on_write);
    }
}

static void on_connection(uv_stream_t *server, int status) {
    (void)status;
    struct client *client = malloc(sizeof *client);
    uv_tcp_init(server->loop, &client->socket);
    client->socket.data = client;
    uv_accept(server, (uv_stream_t *)&client->socket);
    uv_tcp_nodelay(&client->socket, 1);
    uv_read_start((uv_stream_t *)&client->socket, on_alloc, on_read);
}

int main(void) {
    uv_tcp_t server;
    struct sockaddr_in address;
    int length = sizeof address;
    uv_tcp_init(uv_default_loop(), &server);
    uv_ip4_addr("127.0.0.1", 0, &address);
    uv_tcp_bind(&server, (struct sockaddr *)&address, 0);
    uv_listen((uv_stream_t *)&server, 1024, on_connection);
    uv_tcp_getsockname(&server, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
