/*
 * The SDK's C API: contexts, configurations, protocol instances, connections.
 *
 * Handles from a `_create` are freed by the `_destroy` of their kind, in any order; a second time, NULL and handles of another kind are refused and logged, never a
 * crash. Connections are the library's. Any call may be made by any thread.
 *
 * Callbacks (types in c_bats_types.h) must not block: that holds up the other connections of the context, and the log says so. Inside, every call is allowed
 * but bats_context_destroy. When the destroy of a context or a protocol has returned, its callbacks do not run and will not be called, except one that
 * is itself the caller.
 *
 * What is not offered is refused: the setter returns bats_error_invalid_param, and so does, should nobody look at that, every later use of the configuration:
 * bats_protocol_create returns NULL. The log and towline_last_error() of towline.h have the words.
 *
 * Trust. There is no call to name a certificate authority: a client encrypts and accepts any certificate, and says so once in the log, unless the environment
 * names a CA file (TOWLINE_CA_FILE) or a pin (TOWLINE_PIN, `sha256:` and 64 hexadecimal digits) to verify by. towline.h verifies by default.
 */
#ifndef TOWLINE_C_BATS_API_H
#define TOWLINE_C_BATS_API_H

#include "c_bats_types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- context ---- */

/** Starts the I/O thread. NULL when the system refuses. */
bats_context_handle_t bats_context_create(void);
/**
 * Closes all connections in order, within 5 s, and stops the thread. Protocols made with it stay, can do nothing more, and are still to be destroyed. Not inside a
 * callback: there it is refused, and logged.
 */
void bats_context_destroy(bats_context_handle_t ctx);
/** From which level on the log is written, for the whole process; bats_log_level_warn at first. */
bats_error_t bats_context_set_log_level(bats_context_handle_t ctx, bats_log_level_t level);
/** Has `c_callback` called on SIGINT and SIGTERM instead of the end of the process; NULL takes that back. */
bats_error_t bats_context_set_signal_callback(bats_context_handle_t ctx, sig_callback_t c_callback);

/* ---- configuration ---- */

/** A configuration with the defaults: BTP, 10 s to connect, encryption. Texts given to it are copied. */
bats_config_handle_t bats_config_create(void);
void bats_config_destroy(bats_config_handle_t config);
bats_error_t bats_config_set_mode(bats_config_handle_t config, bats_transport_mode_t mode);
/** How long connecting may take, milliseconds: 1 to 600,000. */
bats_error_t bats_config_set_timeout(bats_config_handle_t config, int timeout);
/** Where bats_protocol_start_listen listens when it is given NULL. */
bats_error_t bats_config_set_local_addr(bats_config_handle_t config, const char *local_addr);
/** Where bats_protocol_start_listen listens when it is given 0. Clients use any port. 0 to 65,535. */
bats_error_t bats_config_set_local_port(bats_config_handle_t config, int local_port);
/** Where bats_protocol_start_connect connects when it is given NULL. */
bats_error_t bats_config_set_remote_addr(bats_config_handle_t config, const char *remote_addr);
/** Where bats_protocol_start_connect connects when it is given 0. 1 to 65,535. */
bats_error_t bats_config_set_remote_port(bats_config_handle_t config, int remote_port);
/** bats_cc_none in transparent mode, bats_cc_bbrv3 in the others; what is not set is the mode's own. */
bats_error_t bats_config_set_cc(bats_config_handle_t config, bats_congestion_control_t cc);
/** The server's certificate chain, a PEM file; it is read when listening begins. */
bats_error_t bats_config_cert_file(bats_config_handle_t config, const char *cert_file);
/** Its private key, a PEM file. */
bats_error_t bats_config_key_file(bats_config_handle_t config, const char *key_file);
/** Compress what this end sends (LZ4): off by default, and not in transparent mode. A server compresses for clients that do. */
bats_error_t bats_config_enable_compression(bats_config_handle_t config, int enable);
/** Transparent mode has no encryption, the others always have: what differs is refused when a protocol is created. */
bats_error_t bats_config_enable_encryption(bats_config_handle_t config, int enable);
/** bats_frame_transparent in transparent mode, bats_frame_header_v1 in the others; what is not set is the mode's own. */
bats_error_t bats_config_set_frame_type(bats_config_handle_t config, bats_frame_type_t frame_type);

/* ---- protocol instance ---- */

/** Takes a copy of the configuration. NULL for handles that are none, and when the configuration asks for what is not offered. */
bats_protocol_handle_t bats_protocol_create(bats_context_handle_t ctx, bats_config_handle_t config);
/** Stops listening, closes its connections in the background, and lets no callback come any more. */
void bats_protocol_destroy(bats_protocol_handle_t protocol);
/**
 * Begins to connect and returns; the outcome is an event: established, or failed or timeout and then closed. NULL and 0 take the address and the port from the
 * configuration. A lost connection is not made again by itself: start it once more.
 *
 * Errors: invalid_param without an event; connect_failed with the events failed and closed, or already_connected, inside the call.
 */
bats_error_t bats_protocol_start_connect(bats_protocol_handle_t protocol, const char *remote_addr,
                                         uint16_t remote_port, bats_connection_callback_t c_callback,
                                         void *user_data);
/**
 * Listens. NULL and 0 take the address and the port from the configuration. The outcome is also an event inside the call: success or failed, or already_in_listen.
 */
bats_error_t bats_protocol_start_listen(bats_protocol_handle_t protocol, const char *local_addr,
                                        uint16_t local_port, bats_listen_callback_t c_callback, void *user_data);
/** Stops listening: the event is stopped, inside the call. Its connections stay. listen_failed when it does not listen. */
bats_error_t bats_protocol_stop_listen(bats_protocol_handle_t protocol);
/** Closes a connection of this protocol in order, or all of them with NULL. The event is closed. */
bats_error_t bats_protocol_stop_connection(bats_protocol_handle_t protocol, bats_connection_handle_t conn);

/* ---- connections ---- */

/** Sends one message, which is copied. */
bats_error_t bats_connection_send_data(bats_connection_handle_t conn, const unsigned char *data, int length);
/**
 * Sends a file as messages of the ideal length, in order, on a thread of its own; other messages may come between. The event at the end is send_complete, or
 * send_data_error when it cannot be read to its end. Only in BRTP and BRCTP.
 */
bats_error_t bats_connection_send_file(bats_connection_handle_t conn, const char *file_name);
/** Where the events go from now on. For accepted connections, inside bats_listen_new_connection. */
bats_error_t bats_connection_set_callback(bats_connection_handle_t conn, bats_connection_callback_t c_callback,
                                          void *user_data);
/** 1 when there is room for sending, else 0, and then bats_connection_writable comes when there is. */
int bats_connection_is_writable(bats_connection_handle_t conn);
/** How large messages are best, in bytes; 0 for a handle that is none. */
int bats_connection_get_ideal_buffer_length(bats_connection_handle_t conn);

/* ---- beyond the published API ---- */

/** Appends the log, which is the whole process's, to a file; NULL goes back to standard error. */
bats_error_t bats_context_set_log_file_path(bats_context_handle_t ctx, const char *path);
/** Closes a connection in order: the event is closed. */
bats_error_t bats_connection_close(bats_connection_handle_t conn);
/** The IP addresses, written with a NUL into 64 bytes each, and the ports. Any of the places may be NULL. */
bats_error_t bats_connection_get_addresses(bats_connection_handle_t conn, char *local_addr, uint16_t *local_port,
                                           char *remote_addr, uint16_t *remote_port);
/** The port that is listened on, where 0 was asked for any; 0 when none is. */
uint16_t bats_protocol_get_listen_port(bats_protocol_handle_t protocol);

#ifdef __cplusplus
}
#endif

#endif
