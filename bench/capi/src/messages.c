/* Messages by towline.h, both ends in one process: messages COUNT, requests COUNT. Prints wall and processor seconds. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "towline.h"

static atomic_long received;
static long wanted;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t over = PTHREAD_COND_INITIALIZER;
static towline_connection *accepted;

static void on_event(towline_connection *connection, const towline_event *event, void *user) {
    if (event->kind != TOWLINE_EVENT_MESSAGE) {
        return;
    }
    if (user != NULL) {
        towline_message answer = *event->messages;
        answer.reply_to = answer.id;
        answer.id = 0;
        towline_connection_send(connection, &answer, 0, NULL);
        return;
    }
    if (atomic_fetch_add(&received, 1) + 1 == wanted) {
        pthread_mutex_lock(&lock);
        pthread_cond_signal(&over);
        pthread_mutex_unlock(&lock);
    }
}

static void on_accept(towline_listener *listener, towline_connection *connection, void *user) {
    (void)listener;
    accepted = connection;
    towline_connection_set_callback(connection, on_event, user);
}

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        return 2;
    }
    int requests = strcmp(argv[1], "requests") == 0;
    wanted = atol(argv[2]);
    towline_context_options options = {.struct_size = sizeof options, .threads = 1};
    towline_context *here, *there;
    towline_endpoint *client, *server;
    towline_listener *listener;
    towline_connection *connection;
    char url[128];
    if (towline_context_new(&options, &here) || towline_context_new(&options, &there) ||
        towline_endpoint_new(here, NULL, &client) || towline_endpoint_new(there, NULL, &server) ||
        towline_listen(server, "tcp://127.0.0.1:0", on_accept, requests ? &accepted : NULL, &listener) ||
        towline_listener_url(listener, url, sizeof url) || towline_connect(client, url, NULL, NULL, &connection) ||
        towline_connection_wait(connection, -1)) {
        fprintf(stderr, "%s\n", towline_last_error());
        return 1;
    }
    char data[64] = "sixty-four bytes";
    towline_message message = {.struct_size = sizeof message, .data = (const uint8_t *)data, .length = sizeof data};
    double wall = seconds(CLOCK_MONOTONIC), processor = seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (long i = 0; i < wanted; i++) {
        if (requests) {
            towline_received *reply;
            if (towline_connection_request(connection, &message, 60000, &reply) != TOWLINE_OK) {
                return 1;
            }
            towline_received_free(reply);
        } else if (towline_connection_send(connection, &message, -1, NULL) != TOWLINE_OK) {
            return 1;
        }
    }
    if (!requests) {
        pthread_mutex_lock(&lock);
        while (atomic_load(&received) < wanted) {
            pthread_cond_wait(&over, &lock);
        }
        pthread_mutex_unlock(&lock);
    }
    printf("%.9f %.9f\n", seconds(CLOCK_MONOTONIC) - wall, seconds(CLOCK_PROCESS_CPUTIME_ID) - processor);
    fflush(stdout);
    _Exit(0);
}
