/*
 * Types and values of the SDK's C API; the calls are in c_bats_api.h.
 */
#ifndef TOWLINE_C_BATS_TYPES_H
#define TOWLINE_C_BATS_TYPES_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** I/O context. Freed by bats_context_destroy. */
typedef struct bats_context_t *bats_context_handle_t;
/** Protocol instance. Freed by bats_protocol_destroy. */
typedef struct bats_protocol_t *bats_protocol_handle_t;
/** Configuration. Freed by bats_config_destroy. */
typedef struct bats_config_t *bats_config_handle_t;
/** Connection. The library's: valid until its bats_connection_closed was delivered, or its protocol was destroyed. Never to be freed. */
typedef struct bats_connection_t *bats_connection_handle_t;

typedef enum {
    bats_log_level_trace = 0,
    bats_log_level_debug = 1,
    bats_log_level_info = 2,
    bats_log_level_warn = 3,
    bats_log_level_error = 4
} bats_log_level_t;

typedef enum {
    bats_error_none = 0,
    /** NULL, a stale handle, or a value that is not offered; the log has the words. */
    bats_error_invalid_param = 1,
    bats_error_listen_failed = 2,
    bats_error_connect_failed = 3,
    bats_error_accept_failed = 4,
    bats_error_memory = 5,
    bats_error_timeout = 6,
    bats_error_connection_closed = 7,
    /** Not sent: the buffer is full (wait for bats_connection_writable), or the connection is not established yet. */
    bats_error_send_failed = 8
} bats_error_t;

typedef enum {
    /** Low latency: protected by coding, nothing is sent twice, what is late is dropped. */
    bats_transport_btp = 0,
    /** Reliable and in order. */
    bats_transport_brtp = 1,
    /** Reliable without feedback on the way: rateless. */
    bats_transport_brctp = 2,
    /** UDP as it is. */
    bats_transport_transparent = 3
} bats_transport_mode_t;

typedef enum {
    bats_cc_none = 0,
    bats_cc_bbr = 1,
    bats_cc_bbrv2 = 2,
    bats_cc_bbrv3 = 3,
    bats_cc_gcc = 4
} bats_congestion_control_t;

typedef enum {
    bats_frame_transparent = 0,
    bats_frame_header_v0 = 1,
    bats_frame_header_v1 = 2,
    bats_frame_header_min = 3
} bats_frame_type_t;

/** What happened to a connection. */
typedef enum {
    bats_connection_none = 0,
    /** No connection could be made; bats_connection_closed follows. */
    bats_connection_failed = 1,
    /** Messages can flow; bats_connection_writable follows. */
    bats_connection_established = 2,
    /** No connection within the time set by bats_config_set_timeout; bats_connection_closed follows. */
    bats_connection_timeout = 3,
    /** The peer closed it; bats_connection_closed follows. */
    bats_connection_shutdown_by_peer = 4,
    /** There is room for sending. */
    bats_connection_writable = 5,
    /** One message: `data` and `length`, valid during the call. */
    bats_connection_data_received = 6,
    /** Everything sent so far is on its way, a file included. */
    bats_connection_send_complete = 7,
    /** A send can never be done: too large, or a file cannot be read. */
    bats_connection_send_data_error = 8,
    /** A send was refused for want of room. */
    bats_connection_buffer_full = 9,
    /** The last event. The handle is stale when the callback has returned. */
    bats_connection_closed = 10,
    /** The connection was lost; bats_connection_closed follows. */
    bats_connection_error = 11,
    /** The same connection was asked for a second time: same protocol, address, port, callback and user data. */
    bats_connection_already_connected = 12,
    /** bats_connection_get_ideal_buffer_length has another value from now on. */
    bats_connection_ideal_buffer_length = 13,
    /** The peer has everything sent so far. Not in modes without acknowledgement. */
    bats_connection_all_data_acked = 14
} bats_conn_event_t;

/** What happened to a listener. */
typedef enum {
    bats_listen_none = 0,
    /** A connection came in: `conn`, on which bats_connection_set_callback is to be called before the return. */
    bats_listen_new_connection = 1,
    bats_listen_failed = 2,
    bats_listen_success = 3,
    /** A connection came in and could not be served. */
    bats_listen_accepted_error = 4,
    bats_listen_already_in_listen = 5,
    bats_listen_stopped = 6
} bats_listen_event_t;

/** Takes SIGINT and SIGTERM, on a thread made for that. */
typedef void (*sig_callback_t)(int signal);

/**
 * Takes the events of a connection. They come on the context's I/O thread, one at a time; those that are the direct outcome of a call (failed, closed,
 * already_connected, buffer_full, send_data_error) come on the calling thread, inside the call, and may come beside another event. `data`
 * and `length` are NULL and 0 but for data_received. The value returned is reserved: return true.
 */
typedef bool (*bats_connection_callback_t)(bats_connection_handle_t conn, bats_conn_event_t event,
                                           const unsigned char *data, int length, void *user_data);

/**
 * Takes the events of a listener: new_connection on the context's I/O thread, the others on the thread of the call whose outcome they are, inside that call. `conn` is
 * NULL but for new_connection.
 */
typedef void (*bats_listen_callback_t)(bats_connection_handle_t conn, bats_listen_event_t event, void *user_data);

#ifdef __cplusplus
}
#endif

#endif
