/*
 * A server of the SDK in C: sends back what comes.
 *
 *     bats_server_c_example CERT KEY [mode]
 *
 * Listens on 127.0.0.1, port 12345, or the port in the environment variable BATS_PORT. Modes: 0 BTP (the default), 1 BRTP, 2 BRCTP, 3 transparent. Ends on Ctrl+C.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "c_bats_api.h"

static atomic_int stop_signal;
static atomic_long received;

static void on_signal(int signal) { atomic_store(&stop_signal, signal); }

/* A message that waits for room. */
struct waiting {
    struct waiting *next;
    int length;
    unsigned char data[];
};

/* What each connection has; freed with its last event. */
struct client {
    long received;
    struct waiting *first, **end;
};

static void keep(struct client *client, const unsigned char *data, int length) {
    struct waiting *kept = malloc(sizeof *kept + (size_t)length);
    if (kept == NULL) {
        return;
    }
    kept->next = NULL;
    kept->length = length;
    memcpy(kept->data, data, (size_t)length);
    *client->end = kept;
    client->end = &kept->next;
}

static void let_go(struct client *client) {
    struct waiting *first = client->first;
    client->first = first->next;
    if (client->first == NULL) {
        client->end = &client->first;
    }
    free(first);
}

static bool on_event(bats_connection_handle_t conn, bats_conn_event_t event, const unsigned char *data, int length,
                     void *user_data) {
    struct client *client = user_data;
    switch (event) {
    case bats_connection_established:
        printf("[bats_server_c_example] connection established\n");
        break;
    case bats_connection_data_received:
        client->received++;
        /* Behind what waits already, else the order would change. */
        if (client->first != NULL || bats_connection_send_data(conn, data, length) != bats_error_none) {
            keep(client, data, length);
        }
        break;
    case bats_connection_writable:
        while (client->first != NULL &&
               bats_connection_send_data(conn, client->first->data, client->first->length) == bats_error_none) {
            let_go(client);
        }
        break;
    case bats_connection_shutdown_by_peer:
        printf("[bats_server_c_example] shut down by the peer\n");
        break;
    case bats_connection_closed:
        printf("[bats_server_c_example] connection closed after %ld messages\n", client->received);
        atomic_fetch_add(&received, client->received);
        while (client->first != NULL) {
            let_go(client);
        }
        free(client);
        break;
    default:
        break;
    }
    fflush(stdout);
    return true;
}

static void on_listen(bats_connection_handle_t conn, bats_listen_event_t event, void *user_data) {
    (void)user_data;
    switch (event) {
    case bats_listen_new_connection: {
        struct client *client = calloc(1, sizeof *client);
        if (client == NULL) {
            bats_connection_close(conn);
            break;
        }
        client->end = &client->first;
        bats_connection_set_callback(conn, on_event, client);
        break;
    }
    case bats_listen_success:
        printf("[bats_server_c_example] listening\n");
        break;
    case bats_listen_failed:
        printf("[bats_server_c_example] cannot listen\n");
        break;
    default:
        break;
    }
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: %s CERT KEY [mode]\n", argv[0]);
        return 2;
    }
    const char *port = getenv("BATS_PORT");
    int status = 1;
    bats_context_handle_t ctx = bats_context_create();
    bats_config_handle_t config = bats_config_create();
    bats_protocol_handle_t protocol = NULL;
    if (ctx == NULL || config == NULL) {
        goto end;
    }
    bats_context_set_signal_callback(ctx, on_signal);
    bats_config_cert_file(config, argv[1]);
    bats_config_key_file(config, argv[2]);
    if (bats_config_set_mode(config, (bats_transport_mode_t)(argc > 3 ? atoi(argv[3]) : 0)) != bats_error_none) {
        goto end;
    }
    protocol = bats_protocol_create(ctx, config);
    if (protocol == NULL ||
        bats_protocol_start_listen(protocol, "127.0.0.1", (uint16_t)(port ? atoi(port) : 12345), on_listen,
                                   NULL) != bats_error_none) {
        goto end;
    }
    while (atomic_load(&stop_signal) == 0) {
        usleep(20 * 1000);
    }
    status = 0;
end:
    /* The context first: it closes what is open, and every connection gets its last event. */
    if (ctx != NULL) {
        bats_context_destroy(ctx);
    }
    if (protocol != NULL) {
        bats_protocol_destroy(protocol);
    }
    if (config != NULL) {
        bats_config_destroy(config);
    }
    printf("[bats_server_c_example] %ld messages in all\n", atomic_load(&received));
    return status;
}
