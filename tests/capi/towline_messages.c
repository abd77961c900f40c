/* towline.h: messages by callback and by pull, requests, events, statistics. */
#define _GNU_SOURCE
#include <string.h>

#include "check.h"
#include "towline.h"

static struct counter connected = COUNTER_INIT, messages = COUNTER_INIT, closed = COUNTER_INIT, replies = COUNTER_INIT;
static struct counter server_closed = COUNTER_INIT;
static towline_connection *accepted;

/* The server: answers every message with the same bytes, and frees itself at the end. */
static void on_server_event(towline_connection *connection, const towline_event *event, void *user) {
    CHECK(user == &accepted && connection == accepted);
    if (event->kind == TOWLINE_EVENT_MESSAGE) {
        CHECK(event->message_count == 1);
        towline_message answer = *event->messages;
        answer.reply_to = answer.id;
        answer.id = 0;
        CHECK(towline_connection_send(connection, &answer, 0, NULL) == TOWLINE_OK);
    } else if (event->kind == TOWLINE_EVENT_CLOSED) {
        CHECK(event->result == TOWLINE_OK && event->close_code == 300 && strstr(event->text, "enough") != NULL);
        CHECK(towline_connection_free(connection) == TOWLINE_OK);
        counter_add(&server_closed, 1);
    }
}

static void on_accept(towline_listener *listener, towline_connection *connection, void *user) {
    CHECK(listener != NULL && user == &connected);
    accepted = connection;
    CHECK(towline_connection_set_callback(connection, on_server_event, &accepted) == TOWLINE_OK);
    CHECK(towline_connection_set_callback(connection, on_server_event, &accepted) == TOWLINE_ERROR_UNSUPPORTED);
}

static void on_event(towline_connection *connection, const towline_event *event, void *user) {
    CHECK(connection != NULL && user == &messages && event->struct_size == sizeof *event);
    switch (event->kind) {
    case TOWLINE_EVENT_CONNECTED:
        CHECK(event->url != NULL && strncmp(event->url, "tcp://", 6) == 0 && !event->resumed);
        /* Blocking calls are refused here, and the context stays. */
        CHECK(towline_connection_flush(connection, -1) == TOWLINE_ERROR_WOULD_DEADLOCK);
        counter_add(&connected, 1);
        break;
    case TOWLINE_EVENT_MESSAGE:
        CHECK(event->messages->length == 5 && memcmp(event->messages->data, "hello", 5) == 0);
        CHECK(event->messages->reply_to != 0 && event->messages->struct_size == sizeof(towline_message));
        counter_add(&messages, 1);
        break;
    case TOWLINE_EVENT_CLOSED:
        CHECK(event->result == TOWLINE_OK && event->message_count == 0);
        counter_add(&closed, 1);
        break;
    default:
        break;
    }
}

static void on_reply(towline_connection *connection, towline_result result, const towline_message *reply, void *user) {
    CHECK(connection != NULL && user == NULL && result == TOWLINE_OK && reply->length == 3);
    counter_add(&replies, 1);
}

static void by_callback(towline_endpoint *endpoint) {
    towline_listener *listener;
    CHECK(towline_listen(endpoint, "tcp://127.0.0.1:0", on_accept, &connected, &listener) == TOWLINE_OK);
    char url[256];
    CHECK(towline_listener_url(listener, url, 10) == TOWLINE_ERROR_INVALID_ARGUMENT);
    CHECK(towline_listener_url(listener, url, sizeof url) == TOWLINE_OK);
    towline_connection *none;
    CHECK(towline_listener_accept(listener, 0, &none) == TOWLINE_ERROR_UNSUPPORTED);

    towline_connection *connection;
    CHECK(towline_connect(endpoint, url, on_event, &messages, &connection) == TOWLINE_OK);
    CHECK(towline_connection_wait(connection, -1) == TOWLINE_OK);
    counter_wait(&connected, 1);
    CHECK(towline_connection_is_connected(connection) == 1);
    for (int i = 0; i < 1000; i++) {
        CHECK(towline_connection_send_bytes(connection, "hello", 5) == TOWLINE_OK);
    }
    counter_wait(&messages, 1000);
    towline_message ask = {.struct_size = sizeof ask, .data = (const uint8_t *)"ask", .length = 3, .lane = TOWLINE_LANE_URGENT};
    towline_received *received;
    CHECK(towline_connection_request(connection, &ask, 60000, &received) == TOWLINE_OK);
    towline_message reply = {.struct_size = sizeof reply};
    CHECK(towline_received_message(received, &reply) == TOWLINE_OK);
    CHECK(reply.length == 3 && memcmp(reply.data, "ask", 3) == 0 && reply.lane == TOWLINE_LANE_URGENT);
    CHECK(towline_received_free(received) == TOWLINE_OK);
    CHECK(towline_received_free(received) == TOWLINE_ERROR_STALE_HANDLE);
    CHECK(towline_connection_request_async(connection, &ask, 60000, on_reply, NULL) == TOWLINE_OK);
    counter_wait(&replies, 1);

    towline_connection_statistics statistics = {.struct_size = sizeof statistics};
    CHECK(towline_connection_flush(connection, -1) == TOWLINE_OK);
    CHECK(towline_connection_get_statistics(connection, &statistics) == TOWLINE_OK);
    CHECK(statistics.messages_sent == 1002 && statistics.messages_received == 1002 && statistics.dials == 1);
    towline_capabilities can = {.struct_size = sizeof can};
    CHECK(towline_connection_capabilities(connection, &can) == TOWLINE_OK);
    CHECK(can.session && can.requests && !can.encrypted && strcmp(can.wire, "tcp") == 0);
    char local[64], peer[64];
    CHECK(towline_connection_local_address(connection, local, sizeof local) == TOWLINE_OK);
    CHECK(towline_connection_peer_address(connection, peer, sizeof peer) == TOWLINE_OK);
    CHECK(strncmp(local, "127.0.0.1:", 10) == 0 && strcmp(url + 6, peer) == 0);

    CHECK(towline_connection_close(connection, 300, "enough", -1) == TOWLINE_OK);
    counter_wait(&closed, 1);
    counter_wait(&server_closed, 1);
    CHECK(towline_connection_send_bytes(connection, "x", 1) == TOWLINE_ERROR_ENDED);
    CHECK(strstr(towline_last_error(), "closed") != NULL);
    CHECK(towline_connection_free(connection) == TOWLINE_OK);
    CHECK(towline_connection_free(connection) == TOWLINE_ERROR_STALE_HANDLE);
    CHECK(towline_listener_free(listener) == TOWLINE_OK);
    CHECK(towline_listener_free(listener) == TOWLINE_ERROR_STALE_HANDLE);
}

static void by_pull(towline_endpoint *endpoint) {
    towline_listener *listener;
    CHECK(towline_listen(endpoint, "tcp://127.0.0.1:0", NULL, NULL, &listener) == TOWLINE_OK);
    char url[256];
    CHECK(towline_listener_url(listener, url, sizeof url) == TOWLINE_OK);
    towline_connection *client, *server;
    CHECK(towline_listener_accept(listener, 0, &server) == TOWLINE_ERROR_TIMED_OUT);
    CHECK(towline_connect(endpoint, url, NULL, NULL, &client) == TOWLINE_OK);
    CHECK(towline_listener_accept(listener, -1, &server) == TOWLINE_OK);
    CHECK(towline_connection_wait(client, -1) == TOWLINE_OK);
    towline_events *events;
    CHECK(towline_connection_events(client, &events) == TOWLINE_OK);

    size_t size = 1 << 20;
    unsigned char *data = malloc(size);
    memset(data, 7, size);
    towline_message message = {.struct_size = sizeof message, .data = data, .length = size, .id = 4711};
    uint64_t id = 0;
    CHECK(towline_connection_send(client, &message, -1, &id) == TOWLINE_OK && id == 4711);
    memset(data, 0, size);
    free(data);
    towline_received *received;
    CHECK(towline_connection_receive(server, -1, &received) == TOWLINE_OK);
    towline_message got = {.struct_size = sizeof got};
    CHECK(towline_received_message(received, &got) == TOWLINE_OK);
    CHECK(got.id == 4711 && got.length == size && got.data[0] == 7 && got.data[size - 1] == 7);
    CHECK(towline_received_free(received) == TOWLINE_OK);
    CHECK(towline_connection_receive(server, 0, &received) == TOWLINE_ERROR_TIMED_OUT);
    CHECK(towline_connection_receive(server, 20, &received) == TOWLINE_ERROR_TIMED_OUT);

    CHECK(towline_connection_close(server, 0, NULL, 0) == TOWLINE_OK);
    const towline_event *event;
    do {
        CHECK(towline_events_next(events, -1, &event) == TOWLINE_OK);
    } while (event->kind != TOWLINE_EVENT_CLOSED);
    CHECK(event->result == TOWLINE_OK && event->text != NULL);
    CHECK(towline_events_next(events, -1, &event) == TOWLINE_ERROR_ENDED);
    CHECK(towline_connection_receive(client, -1, &received) == TOWLINE_ERROR_ENDED);
    /* In another order than they were made. */
    CHECK(towline_listener_free(listener) == TOWLINE_OK);
    CHECK(towline_connection_free(client) == TOWLINE_OK);
    CHECK(towline_events_free(events) == TOWLINE_OK);
    CHECK(towline_connection_free(server) == TOWLINE_OK);
}

int main(void) {
    CHECK(strcmp(towline_version(), TOWLINE_VERSION) == 0);
    towline_context_options options = {.struct_size = sizeof options, .threads = 2};
    towline_context *context;
    CHECK(towline_context_new(&options, &context) == TOWLINE_OK);
    towline_endpoint *endpoint;
    CHECK(towline_endpoint_new(context, NULL, &endpoint) == TOWLINE_OK);
    by_callback(endpoint);
    by_pull(endpoint);
    towline_context_statistics statistics = {.struct_size = sizeof statistics};
    CHECK(towline_context_get_statistics(context, &statistics) == TOWLINE_OK);
    CHECK(towline_context_free(context) == TOWLINE_OK);
    towline_listener *listener;
    CHECK(towline_listen(endpoint, "tcp://127.0.0.1:0", NULL, NULL, &listener) == TOWLINE_ERROR_ENDED);
    CHECK(towline_endpoint_free(endpoint) == TOWLINE_OK);
    CHECK(towline_live_objects() == 0);
    puts("ok");
    return 0;
}
