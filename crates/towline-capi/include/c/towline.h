/*
 * Towline for C: messages over connections that hold on bad networks.
 *
 * Made from the sources by `cargo xtask header`; do not edit. The guide is docs/c.md.
 *
 * Results. Calls return TOWLINE_OK or a negative TOWLINE_ERROR_ value; towline_last_error has the details for the
 * calling thread. A call that fails writes nothing to where its result would go.
 *
 * Handles. What a `_new`, a connect, a listen or an accept returns is freed by the `_free` of its kind, in any order, once.
 * A second time, NULL and handles of another kind are errors, never crashes. Handles may be used by any number of threads.
 *
 * Callbacks run on I/O threads of the context, as said with each type; the pointers that they get are valid during the
 * call. Blocking in one holds up the connections of that thread and no others, and the log says so. When the `_free` of the
 * object that a callback belongs to has returned, it does not run any more.
 *
 * Structs that you fill in begin with `struct_size`, which is the `sizeof` of the struct.
 */

#ifndef TOWLINE_H
#define TOWLINE_H

#include <stddef.h>
#include <stdint.h>
/** The version of this header; compare with towline_version(). */
#define TOWLINE_VERSION "0.1.0"

/**
 * What suits the system.
 */
#define TOWLINE_DRIVER_AUTO 0

/**
 * io_uring, or an error.
 */
#define TOWLINE_DRIVER_IO_URING 1

/**
 * epoll, which every Linux has.
 */
#define TOWLINE_DRIVER_EPOLL 2

/**
 * The default lane.
 */
#define TOWLINE_LANE_NORMAL 0

/**
 * Before all others.
 */
#define TOWLINE_LANE_URGENT 1

/**
 * Before normal traffic.
 */
#define TOWLINE_LANE_HIGH 2

/**
 * What can wait.
 */
#define TOWLINE_LANE_BULK 3

/**
 * A WebSocket text message, whose data is UTF-8. Other wires do not carry the distinction.
 */
#define TOWLINE_MESSAGE_TEXT 1

/**
 * There is a wire: the first, or after a loss a new one.
 */
#define TOWLINE_EVENT_CONNECTED 1

/**
 * A message arrived. Only in callbacks; programs that pull use towline_connection_receive.
 */
#define TOWLINE_EVENT_MESSAGE 2

/**
 * A send was refused with TOWLINE_ERROR_FULL, and there is room again.
 */
#define TOWLINE_EVENT_WRITABLE 3

/**
 * Everything accepted so far was acknowledged by the peer.
 */
#define TOWLINE_EVENT_FLUSHED 4

/**
 * The wire was lost. A dialed connection redials, an accepted one waits for its peer.
 */
#define TOWLINE_EVENT_DISCONNECTED 5

/**
 * A redial begins.
 */
#define TOWLINE_EVENT_REDIALING 6

/**
 * The redial window is over. CLOSED follows.
 */
#define TOWLINE_EVENT_GAVE_UP 7

/**
 * The peer restarted: these messages were accepted and not acknowledged. The connection goes on as new.
 */
#define TOWLINE_EVENT_RESET 8

/**
 * These messages are larger than the peer takes, and were not sent.
 */
#define TOWLINE_EVENT_TOO_LARGE 9

/**
 * The end: the last event, exactly once.
 */
#define TOWLINE_EVENT_CLOSED 10

/**
 * Options for endpoints. An endpoint takes a copy: changing or freeing the configuration later changes nothing for it.
 */
typedef struct towline_config towline_config;

/**
 * A connection to a peer. Any number of threads may use it.
 */
typedef struct towline_connection towline_connection;

/**
 * Owns the I/O threads. Everything else is made from one.
 */
typedef struct towline_context towline_context;

/**
 * Connects and listens.
 */
typedef struct towline_endpoint towline_endpoint;

/**
 * A queue of a connection's events, messages excepted, for programs that pull. Holds at most 256, the oldest are dropped beyond.
 */
typedef struct towline_events towline_events;

/**
 * Accepts connections on one address.
 */
typedef struct towline_listener towline_listener;

/**
 * A QUIC connection. Any number of threads may use it.
 */
typedef struct towline_quic_connection towline_quic_connection;

/**
 * Accepts QUIC connections.
 */
typedef struct towline_quic_listener towline_quic_listener;

/**
 * A QUIC stream. One thread may read while another one writes.
 */
typedef struct towline_quic_stream towline_quic_stream;

/**
 * A received message that the program owns, until towline_received_free.
 */
typedef struct towline_received towline_received;

/**
 * What a call returns: `TOWLINE_OK` or one of the negative `TOWLINE_ERROR_` values.
 */
typedef int32_t towline_result;

/**
 * How a context is made. Fill in `struct_size` with `sizeof(towline_context_options)`; what is 0 has its default.
 */
typedef struct towline_context_options {
  /**
   * `sizeof(towline_context_options)`.
   */
  size_t struct_size;
  /**
   * I/O threads, 1 to 1,024. 0: one for each core.
   */
  uint32_t threads;
  /**
   * One of the `TOWLINE_DRIVER_` values. 0: what the environment variable `TOWLINE_DRIVER` says (`io_uring`, `epoll`), else what suits.
   */
  int32_t driver;
  /**
   * How long an I/O thread polls before it sleeps, in microseconds, at most 1,000,000. It costs a core meanwhile.
   */
  uint64_t spin_us;
} towline_context_options;

/**
 * Takes one line of the log, NUL-terminated and without a line break, valid during the call.
 */
typedef void (*towline_log_callback)(int32_t level, const char *line, void *user);

/**
 * Names an option of [`towline_config`].
 */
typedef int32_t towline_option;

/**
 * A message. To send one, fill in `struct_size`, `data` and `length`; 0 is good for the rest. The data is copied by the call
 * that sends it. In a callback, and from towline_received_message, the data belongs to the library.
 */
typedef struct towline_message {
  /**
   * `sizeof(towline_message)`.
   */
  size_t struct_size;
  /**
   * The message's id. 0 in a message to send: the next one.
   */
  uint64_t id;
  /**
   * The id of the message that this one answers; 0: of none.
   */
  uint64_t reply_to;
  /**
   * The bytes; NULL is fine when there are none.
   */
  const uint8_t *data;
  /**
   * How many.
   */
  size_t length;
  /**
   * One of the `TOWLINE_LANE_` values; order is kept within a lane.
   */
  uint32_t lane;
  /**
   * `TOWLINE_MESSAGE_TEXT` or 0.
   */
  uint32_t flags;
} towline_message;

/**
 * What happened to a connection. Everything that it points to is the library's: valid during the callback, or until the next
 * towline_events_next.
 */
typedef struct towline_event {
  /**
   * `sizeof(towline_event)` of the library; fields beyond what you know are new.
   */
  size_t struct_size;
  /**
   * One of the `TOWLINE_EVENT_` values.
   */
  int32_t kind;
  /**
   * DISCONNECTED, GAVE_UP, CLOSED: why. TOWLINE_OK in CLOSED: in order, by either side.
   */
  towline_result result;
  /**
   * MESSAGE: the message. RESET, TOO_LARGE, CLOSED: the first of those that were not acknowledged. NULL if there is none.
   */
  const struct towline_message *messages;
  /**
   * How many messages there are.
   */
  size_t message_count;
  /**
   * CONNECTED, REDIALING: the URL as it was given. Else, and on the accepting side, NULL.
   */
  const char *url;
  /**
   * DISCONNECTED, GAVE_UP, CLOSED: why, in English. Else NULL.
   */
  const char *text;
  /**
   * CLOSED by the peer: the code that it gave. Else 0.
   */
  uint64_t close_code;
  /**
   * REDIALING: counts the attempts since the wire was lost, from 1.
   */
  uint32_t attempt;
  /**
   * CONNECTED: 1 when this wire continues an earlier one.
   */
  int32_t resumed;
} towline_event;

/**
 * Takes the events of one connection, on the connection's I/O thread: always the same thread, never two calls at once. It must not block: all
 * connections of that thread wait meanwhile, and the log says so. Inside, every call of this library is allowed but
 * towline_context_free, and those with a timeout only with 0; also towline_connection_free of this connection, after which
 * no further event comes.
 */
typedef void (*towline_event_callback)(struct towline_connection *connection,
                                       const struct towline_event *event,
                                       void *user);

/**
 * Takes an accepted connection, which is the program's from now on: free it with towline_connection_free. Comes on the connection's I/O thread when its
 * handshakes are done, before its first event; connections of different threads may come at the same time. It must call
 * towline_connection_set_callback before it returns, else the connection is aborted and the log says so. It must not block. Inside, the same calls
 * are allowed as in a towline_event_callback.
 */
typedef void (*towline_accept_callback)(struct towline_listener *listener,
                                        struct towline_connection *connection,
                                        void *user);

/**
 * What the wire under a connection can do; 1 yes, 0 no.
 */
typedef struct towline_capabilities {
  /**
   * `sizeof(towline_capabilities)`, filled in by you.
   */
  size_t struct_size;
  /**
   * The most bytes that one message may have.
   */
  size_t max_message;
  /**
   * How many lanes of different urgency there are.
   */
  uint32_t lanes;
  /**
   * Messages are acknowledged by the peer's program and survive the loss of a wire, once and in order.
   */
  int32_t session;
  /**
   * Bytes are encrypted and the peer is authenticated.
   */
  int32_t encrypted;
  /**
   * The peer sees the code and the reason of a close.
   */
  int32_t close_codes;
  /**
   * Replies find their requests.
   */
  int32_t requests;
  /**
   * The peer sees whether a message is text.
   */
  int32_t text;
  /**
   * The wire's scheme, such as "tls"; never to be freed.
   */
  const char *wire;
} towline_capabilities;

/**
 * Takes the reply to a request: `result` is TOWLINE_OK and `reply` is valid during the call, or `result` says what happened, with the text in
 * towline_last_error, and `reply` is NULL. Comes exactly once, unless the connection is freed before; never inside the call that made the
 * request. It runs on the connection's I/O thread, or, when a call ends the waiting, such as towline_connection_close, on that call's thread. It must not
 * block; inside, the same calls are allowed as in a towline_event_callback.
 */
typedef void (*towline_reply_callback)(struct towline_connection *connection,
                                       towline_result result,
                                       const struct towline_message *reply,
                                       void *user);

/**
 * Counters of a connection since it was made.
 */
typedef struct towline_connection_statistics {
  /**
   * `sizeof(towline_connection_statistics)`, filled in by you.
   */
  size_t struct_size;
  /**
   * Messages accepted for sending and handed to the protocol.
   */
  uint64_t messages_sent;
  /**
   * Messages received.
   */
  uint64_t messages_received;
  /**
   * Bytes given to wires, framing and repetitions included, encryption not.
   */
  uint64_t bytes_sent;
  /**
   * Bytes taken from wires, framing included, encryption not.
   */
  uint64_t bytes_received;
  /**
   * Bytes sent once more after a wire was lost.
   */
  uint64_t bytes_resent;
  /**
   * Messages accepted and not acknowledged.
   */
  uint64_t unacknowledged;
  /**
   * Wires that were lost.
   */
  uint64_t wires_lost;
  /**
   * Dials begun.
   */
  uint64_t dials;
  /**
   * Times that the peer came back without its memory.
   */
  uint64_t resets;
  /**
   * Replies that came after their request's deadline.
   */
  uint64_t late_replies;
  /**
   * Replies to requests that had been answered.
   */
  uint64_t duplicate_replies;
  /**
   * The smoothed round-trip time in microseconds; 0 until it was measured.
   */
  uint64_t round_trip_us;
} towline_connection_statistics;

/**
 * What the I/O threads of a context hold.
 */
typedef struct towline_context_statistics {
  /**
   * `sizeof(towline_context_statistics)`, filled in by you.
   */
  size_t struct_size;
  /**
   * Connections that have not ended.
   */
  uint64_t connections;
  /**
   * Sockets.
   */
  uint64_t wires;
  /**
   * Entries in the queues of timers.
   */
  uint64_t timers;
} towline_context_statistics;

/**
 * All is well.
 */
#define TOWLINE_OK 0

/**
 * An argument is NULL or out of range.
 */
#define TOWLINE_ERROR_INVALID_ARGUMENT -1

/**
 * The handle was freed already, or is of another kind.
 */
#define TOWLINE_ERROR_STALE_HANDLE -2

/**
 * A fault of this library; it was contained. Please report it with the log.
 */
#define TOWLINE_ERROR_INTERNAL -3

/**
 * An option's value cannot be honoured, or a certificate or key cannot be used.
 */
#define TOWLINE_ERROR_CONFIG -4

/**
 * A URL cannot be used.
 */
#define TOWLINE_ERROR_ADDRESS -5

/**
 * No connection could be made.
 */
#define TOWLINE_ERROR_CONNECT -6

/**
 * Listening failed; often the port is taken.
 */
#define TOWLINE_ERROR_LISTEN -7

/**
 * The send queue is full: wait for `TOWLINE_EVENT_WRITABLE`.
 */
#define TOWLINE_ERROR_FULL -8

/**
 * The message cannot be sent on this wire: too large, a bad id, or text that is not UTF-8.
 */
#define TOWLINE_ERROR_MESSAGE -9

/**
 * The connection or the context has ended; the text says how.
 */
#define TOWLINE_ERROR_ENDED -10

/**
 * The time given was over.
 */
#define TOWLINE_ERROR_TIMED_OUT -11

/**
 * The wire under the connection cannot do this.
 */
#define TOWLINE_ERROR_UNSUPPORTED -12

/**
 * The connection is not established yet.
 */
#define TOWLINE_ERROR_NOT_CONNECTED -13

/**
 * The call would wait for the thread that makes it: blocking calls are refused inside callbacks.
 */
#define TOWLINE_ERROR_WOULD_DEADLOCK -14

/**
 * The operating system refused something.
 */
#define TOWLINE_ERROR_IO -15

/**
 * The peer restarted: whether it had seen what was not acknowledged is not known.
 */
#define TOWLINE_ERROR_RESET -16

/**
 * Not everything was acknowledged before the end; the closed event gives it back.
 */
#define TOWLINE_ERROR_UNACKNOWLEDGED -17

/**
 * The same request id is already waiting.
 */
#define TOWLINE_ERROR_DUPLICATE -18

/**
 * A file cannot be read or written.
 */
#define TOWLINE_ERROR_FILE -19

/**
 * The largest message to send or accept, bytes. 64 KiB to 1 GiB; default 16 MiB.
 */
#define TOWLINE_OPTION_MAX_MESSAGE_BYTES 1

/**
 * Larger messages travel in pieces of this size, bytes. 1 KiB to 256 KiB; default 64 KiB.
 */
#define TOWLINE_OPTION_FRAGMENT_BYTES 2

/**
 * What the peer may send on each lane beyond what was consumed here, bytes. 512 KiB to 1 GiB; default 4 MiB.
 */
#define TOWLINE_OPTION_RECEIVE_WINDOW_BYTES 3

/**
 * Bytes accepted for sending and not acknowledged, beyond which sending is TOWLINE_ERROR_FULL. 1 KiB to 16 GiB; default 16 MiB.
 */
#define TOWLINE_OPTION_SEND_QUEUE_BYTES 4

/**
 * The same in messages. 1 to 16,777,216; default 65,536.
 */
#define TOWLINE_OPTION_SEND_QUEUE_MESSAGES 5

/**
 * The longest that an acknowledgement waits, ms. 0 to 1,000; default 10.
 */
#define TOWLINE_OPTION_ACK_DELAY_MS 6

/**
 * Silence after which the peer is asked whether it is there, ms. 100 to 3,600,000; default 15,000.
 */
#define TOWLINE_OPTION_KEEP_ALIVE_MS 7

/**
 * Silence after which the wire counts as lost, ms. Above the keep-alive and at most 7,200,000; default 30,000.
 */
#define TOWLINE_OPTION_SILENCE_LIMIT_MS 8

/**
 * Whether a dialed connection redials, 0 or 1; default 1.
 */
#define TOWLINE_OPTION_REDIAL 9

/**
 * How long a connection without a wire is kept, ms. 1 to 2,592,000,000; default 60,000.
 */
#define TOWLINE_OPTION_REDIAL_WINDOW_MS 10

/**
 * How long an address of a list tries alone, ms. 1 to 60,000; default 250.
 */
#define TOWLINE_OPTION_HEAD_START_MS 11

/**
 * How long one attempt to connect may take, ms. 1 to 600,000; default 10,000.
 */
#define TOWLINE_OPTION_CONNECT_TIMEOUT_MS 12

/**
 * How long closing waits for acknowledgements, ms. 0 to 600,000; default 5,000.
 */
#define TOWLINE_OPTION_CLOSE_TIMEOUT_MS 13

/**
 * Connections that one listener serves at once. 1 to 16,777,216; default 65,536.
 */
#define TOWLINE_OPTION_MAX_CONNECTIONS 14

/**
 * A server asks clients for certificates: 0 no (the default), 1 and takes those without, 2 and refuses those without.
 */
#define TOWLINE_OPTION_CLIENT_AUTH 15

/**
 * WebSockets carry a Towline session: 0 when the peer can (the default), 1 or not at all, 2 never.
 */
#define TOWLINE_OPTION_WEBSOCKET_SESSION 16

/**
 * Whether TLS 1.2 is spoken with peers that have nothing better, 0 or 1; default 0.
 */
#define TOWLINE_OPTION_LEGACY_TLS12 17

/**
 * With 1 every certificate is accepted: whoever sits on the path can read and change everything. For tests only. Default 0.
 */
#define TOWLINE_OPTION_DANGEROUS_ACCEPT_ANY_CERTIFICATE 18

/**
 * Trust the system's roots beside what else is given, 0 or 1. They are trusted anyway when nothing else is given.
 */
#define TOWLINE_OPTION_SYSTEM_ROOTS 19

/**
 * Trust the certificate authorities of this PEM file, a path. May be set several times.
 */
#define TOWLINE_OPTION_CA_FILE 101

/**
 * Accept only peers with this certificate or key: its SHA-256 as `sha256:` and 64 hexadecimal digits, or base64. May be set several times.
 */
#define TOWLINE_OPTION_PIN 102

/**
 * The name that the server's certificate must have, where it differs from the URL's host.
 */
#define TOWLINE_OPTION_SERVER_NAME 103

/**
 * Application protocols (ALPN) to offer or accept, separated by commas, the preferred first.
 */
#define TOWLINE_OPTION_ALPN 104

/**
 * WebSocket subprotocols, separated by commas, the preferred first.
 */
#define TOWLINE_OPTION_WEBSOCKET_SUBPROTOCOLS 105

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Starts the I/O threads. `options` may be NULL. Free it with towline_context_free.
 *
 * Any thread. Errors: TOWLINE_ERROR_CONFIG, TOWLINE_ERROR_IO.
 */
towline_result towline_context_new(const struct towline_context_options *options,
                                   struct towline_context **context);

/**
 * Stops everything of this context in order: listeners close, connections get the time of `TOWLINE_OPTION_CLOSE_TIMEOUT_MS` to have
 * what they accepted acknowledged, sockets are closed, threads end. When it returns no callback of this context runs, and none will.
 * Handles of its endpoints, listeners and connections stay, answer with TOWLINE_ERROR_ENDED, and are still to be freed.
 *
 * Any thread but those of callbacks: there it is TOWLINE_ERROR_WOULD_DEADLOCK. Twice is TOWLINE_ERROR_STALE_HANDLE.
 */
towline_result towline_context_free(struct towline_context *context);

/**
 * A few words about a result. Never NULL, never to be freed.
 */
const char *towline_strerror(towline_result result);

/**
 * What exactly went wrong in the calling thread's last failing call, in English. Never NULL; valid until the thread's next failing call.
 */
const char *towline_last_error(void);

/**
 * The library's version, such as "0.1.0"; compare with TOWLINE_VERSION of the header. Never to be freed.
 */
const char *towline_version(void);

/**
 * How many objects of this library the program holds and has not freed. For tests.
 */
size_t towline_live_objects(void);

/**
 * From which level on the log is written: 0 trace, 1 debug, 2 info, 3 warn (the default), 4 error, 5 nothing. For the whole process.
 */
towline_result towline_set_log_level(int32_t level);

/**
 * Appends the log to a file instead of writing it to standard error; NULL goes back to standard error.
 *
 * Errors: TOWLINE_ERROR_FILE.
 */
towline_result towline_set_log_file(const char *path);

/**
 * Hands the log to the application, line by line; NULL goes back to standard error. The callback may come on any thread, also on several at
 * once, and may call everything. When this returns, the earlier callback is not running, and will not be called again.
 */
towline_result towline_set_log_callback(towline_log_callback callback,
                                        void *user);

/**
 * A configuration with the defaults. Free it with towline_config_free.
 */
towline_result towline_config_new(struct towline_config **config);

/**
 * Frees a configuration. Endpoints made from it stay.
 */
towline_result towline_config_free(struct towline_config *config);

/**
 * Sets an option that is a number, below 100. Its range is checked when an endpoint is made, its kind here.
 *
 * Any thread. Errors: TOWLINE_ERROR_CONFIG for an option that there is not, or one that is a text.
 */
towline_result towline_config_set_number(struct towline_config *config,
                                         towline_option option,
                                         uint64_t value);

/**
 * Sets an option that is a text, 101 and above. The text is copied.
 *
 * Any thread. Errors: TOWLINE_ERROR_CONFIG for an option that there is not, or one that is a number.
 */
towline_result towline_config_set_text(struct towline_config *config,
                                       towline_option option,
                                       const char *value);

/**
 * This side's certificate chain and private key, paths of PEM files. Servers on encrypted wires need them.
 *
 * Any thread. The files are read when an endpoint is made.
 */
towline_result towline_config_set_certificate_files(struct towline_config *config,
                                                    const char *chain,
                                                    const char *key);

/**
 * What a received message holds. Its data stays valid until towline_received_free. Fill in `message->struct_size` before.
 *
 * Any thread.
 */
towline_result towline_received_message(const struct towline_received *received,
                                        struct towline_message *message);

/**
 * Frees a received message and its data.
 */
towline_result towline_received_free(struct towline_received *received);

/**
 * An endpoint on the context's threads. `config` may be NULL for the defaults; it is copied. Free it with towline_endpoint_free.
 *
 * Any thread. Errors: TOWLINE_ERROR_CONFIG, by the name of the option.
 */
towline_result towline_endpoint_new(struct towline_context *context,
                                    const struct towline_config *config,
                                    struct towline_endpoint **endpoint);

/**
 * Frees an endpoint. Its listeners and connections stay.
 */
towline_result towline_endpoint_free(struct towline_endpoint *endpoint);

/**
 * Begins to connect to a URL, or to the first that answers of several separated by commas, and returns at once.
 * towline_connection_wait waits for the outcome.
 *
 * With a `callback`, the events of the connection come to it, TOWLINE_EVENT_CONNECTED first; when no connection can be made, TOWLINE_EVENT_CLOSED
 * is the only one. Without (NULL), messages are pulled by towline_connection_receive. Free the connection with
 * towline_connection_free in either case.
 *
 * Any thread. Errors, without a connection and without events: TOWLINE_ERROR_ADDRESS, TOWLINE_ERROR_ENDED when the context was freed.
 */
towline_result towline_connect(struct towline_endpoint *endpoint,
                               const char *urls,
                               towline_event_callback callback,
                               void *user,
                               struct towline_connection **connection);

/**
 * Listens on a URL; port 0 is any free port, towline_listener_url tells which. With a `callback`, connections come to it; without (NULL), towline_listener_accept
 * fetches them. Free it with towline_listener_free.
 *
 * Any thread; resolves names on the calling one. Errors: TOWLINE_ERROR_ADDRESS, TOWLINE_ERROR_LISTEN, TOWLINE_ERROR_CONFIG without a certificate
 * on an encrypted wire.
 */
towline_result towline_listen(struct towline_endpoint *endpoint,
                              const char *url,
                              towline_accept_callback callback,
                              void *user,
                              struct towline_listener **listener);

/**
 * The next connection, waiting for it as long as `timeout_ms` says (negative: for ever). Messages are pulled from it by
 * towline_connection_receive. Free it with towline_connection_free.
 *
 * Any thread. Errors: TOWLINE_ERROR_TIMED_OUT; TOWLINE_ERROR_ENDED when the context or the listener ended; TOWLINE_ERROR_UNSUPPORTED with an
 * accept callback, which gets all connections.
 */
towline_result towline_listener_accept(struct towline_listener *listener,
                                       int64_t timeout_ms,
                                       struct towline_connection **connection);

/**
 * The URL that clients on this host can connect to, with the real port, as a C string in `buffer`; `length` says what it holds, 256 is enough for all
 * but WebSocket paths.
 *
 * Any thread. Errors: TOWLINE_ERROR_INVALID_ARGUMENT when it does not fit.
 */
towline_result towline_listener_url(const struct towline_listener *listener,
                                    char *buffer,
                                    size_t length);

/**
 * Stops accepting and frees the listener. Its accept callback does not run when this returns, unless it is what calls this, and will not be called
 * again. Accepted connections stay.
 *
 * Any thread.
 */
towline_result towline_listener_free(struct towline_listener *listener);

/**
 * Sets where the events of an accepted connection go. Only inside its towline_accept_callback, and once.
 *
 * Errors: TOWLINE_ERROR_UNSUPPORTED when it has one already.
 */
towline_result towline_connection_set_callback(struct towline_connection *connection,
                                               towline_event_callback callback,
                                               void *user);

/**
 * Waits until the connection is established for the first time, as long as `timeout_ms` says (negative: for ever).
 *
 * Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_CONNECT and what else towline_last_error says; TOWLINE_ERROR_TIMED_OUT, after which
 * connecting goes on.
 */
towline_result towline_connection_wait(struct towline_connection *connection,
                                       int64_t timeout_ms);

/**
 * Accepts a message for sending, waiting for room in the queue as long as `timeout_ms` says (0: not at all, negative: for ever). `id`, when not NULL, gets the
 * message's id. The data is copied: it is the caller's again when this returns.
 *
 * Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_FULL with 0, and TOWLINE_EVENT_WRITABLE when there is room; TOWLINE_ERROR_TIMED_OUT;
 * TOWLINE_ERROR_MESSAGE; TOWLINE_ERROR_ENDED.
 */
towline_result towline_connection_send(struct towline_connection *connection,
                                       const struct towline_message *message,
                                       int64_t timeout_ms,
                                       uint64_t *id);

/**
 * towline_connection_send of bytes on the normal lane, with the next id and without waiting.
 */
towline_result towline_connection_send_bytes(struct towline_connection *connection,
                                             const void *data,
                                             size_t length);

/**
 * The next message of a connection without a callback, waiting for it as long as `timeout_ms` says (negative: for ever). Free it with
 * towline_received_free.
 *
 * Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_TIMED_OUT; TOWLINE_ERROR_ENDED after the last message.
 */
towline_result towline_connection_receive(struct towline_connection *connection,
                                          int64_t timeout_ms,
                                          struct towline_received **received);

/**
 * Waits until everything accepted before was acknowledged by the peer, as long as `timeout_ms` says (negative: for ever).
 *
 * Any thread but those of callbacks. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_RESET, TOWLINE_ERROR_UNACKNOWLEDGED.
 */
towline_result towline_connection_flush(struct towline_connection *connection,
                                        int64_t timeout_ms);

/**
 * Closes in order: nothing more is accepted, what was accepted is delivered, the peer is told `code` and `reason` (which may be NULL), all
 * within `TOWLINE_OPTION_CLOSE_TIMEOUT_MS`. With `timeout_ms` 0 it returns at once, and TOWLINE_EVENT_CLOSED tells the end; else it waits for that
 * (negative: for ever). The handle stays and is still to be freed.
 *
 * Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_UNACKNOWLEDGED, TOWLINE_ERROR_TIMED_OUT, after which closing goes on.
 */
towline_result towline_connection_close(struct towline_connection *connection,
                                        uint64_t code,
                                        const char *reason,
                                        int64_t timeout_ms);

/**
 * Ends at once. What was not acknowledged comes with TOWLINE_EVENT_CLOSED.
 *
 * Any thread.
 */
towline_result towline_connection_abort(struct towline_connection *connection);

/**
 * Frees a connection. If it is open it is closed in order, in the background. When this returns, its callbacks do not run, except one that
 * is the caller itself, and will not be called again, TOWLINE_EVENT_CLOSED neither.
 *
 * Any thread, also in its own callback. Twice is TOWLINE_ERROR_STALE_HANDLE.
 */
towline_result towline_connection_free(struct towline_connection *connection);

/**
 * Whether there is a wire right now: 1 or 0; 0 also for a handle that is none. Sending does not depend on it.
 */
int32_t towline_connection_is_connected(const struct towline_connection *connection);

/**
 * What the wire under the connection can do now. Any thread.
 */
towline_result towline_connection_capabilities(const struct towline_connection *connection,
                                               struct towline_capabilities *capabilities);

/**
 * This end's address on the present or last wire, as `ip:port` in `buffer`, of which `length` bytes are yours; 64 are enough.
 *
 * Any thread. Errors: TOWLINE_ERROR_UNSUPPORTED on wires without such addresses.
 */
towline_result towline_connection_local_address(const struct towline_connection *connection,
                                                char *buffer,
                                                size_t length);

/**
 * The peer's address, as towline_connection_local_address.
 */
towline_result towline_connection_peer_address(const struct towline_connection *connection,
                                               char *buffer,
                                               size_t length);

/**
 * Opens a queue of the connection's events from now on. Free it with towline_events_free, before or after the connection.
 *
 * Any thread. Errors: TOWLINE_ERROR_NOT_CONNECTED before the first wire.
 */
towline_result towline_connection_events(struct towline_connection *connection,
                                         struct towline_events **events);

/**
 * The next event, waiting for it as long as `timeout_ms` says (negative: for ever). It stays valid until the next call with this queue, or its end.
 *
 * Any thread, one at a time. Errors: TOWLINE_ERROR_TIMED_OUT; TOWLINE_ERROR_ENDED after TOWLINE_EVENT_CLOSED.
 */
towline_result towline_events_next(struct towline_events *events,
                                   int64_t timeout_ms,
                                   const struct towline_event **event);

/**
 * Ends the queue.
 */
towline_result towline_events_free(struct towline_events *events);

/**
 * Sends a message and waits for its reply, `timeout_ms` milliseconds (1 to about a month). Free the reply with towline_received_free. Any number of threads may have
 * requests on one connection; a reply that comes later is counted and dropped.
 *
 * Any thread but those of callbacks. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_MESSAGE, TOWLINE_ERROR_ENDED, TOWLINE_ERROR_RESET, TOWLINE_ERROR_UNSUPPORTED on
 * wires without ids.
 */
towline_result towline_connection_request(struct towline_connection *connection,
                                          const struct towline_message *message,
                                          int64_t timeout_ms,
                                          struct towline_received **reply);

/**
 * Sends a message and has `callback` take its reply. Messages are refused while the queue is full only by waiting: the time runs meanwhile.
 *
 * Any thread, also in callbacks. Errors, without a callback to come: as towline_connection_request.
 */
towline_result towline_connection_request_async(struct towline_connection *connection,
                                                const struct towline_message *message,
                                                int64_t timeout_ms,
                                                towline_reply_callback callback,
                                                void *user);

/**
 * The counters of a connection, as of its I/O thread's last look at it. Any thread.
 */
towline_result towline_connection_get_statistics(const struct towline_connection *connection,
                                                 struct towline_connection_statistics *statistics);

/**
 * What the context holds now. Any thread.
 */
towline_result towline_context_get_statistics(const struct towline_context *context,
                                              struct towline_context_statistics *statistics);

/**
 * Listens for QUIC on `address`, `host:port`, with a certificate chain and its key, PEM files, for clients that speak one of `alpn`, application protocols
 * separated by commas. Port 0 is any. Free it with towline_quic_listener_free.
 *
 * Any thread; resolves names on the calling one. Errors: TOWLINE_ERROR_CONFIG, TOWLINE_ERROR_LISTEN.
 */
towline_result towline_quic_listen(struct towline_context *context,
                                   const char *address,
                                   const char *chain,
                                   const char *key,
                                   const char *alpn,
                                   struct towline_quic_listener **listener);

/**
 * Where it listens, as `ip:port` in `buffer`, of which `length` bytes are yours; 64 are enough. Any thread.
 */
towline_result towline_quic_listener_address(const struct towline_quic_listener *listener,
                                             char *buffer,
                                             size_t length);

/**
 * The next connection, waiting for it as long as `timeout_ms` says (negative: for ever). Free it with towline_quic_connection_free.
 *
 * Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_LISTEN when the context was freed.
 */
towline_result towline_quic_listener_accept(struct towline_quic_listener *listener,
                                            int64_t timeout_ms,
                                            struct towline_quic_connection **connection);

/**
 * Stops listening. Connections stay.
 */
towline_result towline_quic_listener_free(struct towline_quic_listener *listener);

/**
 * Connects by QUIC to `address`, `host:port`, whose certificate has to be the host's and signed by an authority in `ca_file`, a PEM file, speaking one of `alpn`. Waits
 * as long as `timeout_ms` says (negative: until the handshake ends), then gives up. Free the connection with towline_quic_connection_free.
 *
 * Any thread but those of callbacks. Errors: TOWLINE_ERROR_CONFIG, TOWLINE_ERROR_ADDRESS, TOWLINE_ERROR_CONNECT, TOWLINE_ERROR_TIMED_OUT.
 */
towline_result towline_quic_connect(struct towline_context *context,
                                    const char *address,
                                    const char *ca_file,
                                    const char *alpn,
                                    int64_t timeout_ms,
                                    struct towline_quic_connection **connection);

/**
 * Closes with a code of the application's, at most 2^62 - 1, and a reason, which may be NULL. What is not acknowledged is given up. Any thread.
 */
towline_result towline_quic_connection_close(struct towline_quic_connection *connection,
                                             uint64_t code,
                                             const char *reason);

/**
 * Waits for the connection's end, as long as `timeout_ms` says (negative: for ever): then the result is TOWLINE_ERROR_ENDED and towline_last_error has how. Any
 * thread, in callbacks only with 0.
 */
towline_result towline_quic_connection_wait_closed(struct towline_quic_connection *connection,
                                                   int64_t timeout_ms);

/**
 * Frees a connection, which is closed with code 0 if it is open. Its streams stay to be freed.
 */
towline_result towline_quic_connection_free(struct towline_quic_connection *connection);

/**
 * Opens a stream, in both directions or, with `both_ways` 0, to the peer; waits while the peer allows no more, as long as `timeout_ms` says. Free it with towline_quic_stream_free.
 *
 * Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_ENDED.
 */
towline_result towline_quic_open_stream(struct towline_quic_connection *connection,
                                        int32_t both_ways,
                                        int64_t timeout_ms,
                                        struct towline_quic_stream **opened);

/**
 * The next stream that the peer opened, in both directions or, with `both_ways` 0, to this side. Free it with towline_quic_stream_free.
 *
 * Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_ENDED.
 */
towline_result towline_quic_accept_stream(struct towline_quic_connection *connection,
                                          int32_t both_ways,
                                          int64_t timeout_ms,
                                          struct towline_quic_stream **accepted);

/**
 * Writes all of the bytes, which are copied; waits, as long as `timeout_ms` says, while 512 KiB wait already, and takes nothing when the time is over.
 *
 * Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_RESET when the peer stopped reading, TOWLINE_ERROR_ENDED, TOWLINE_ERROR_UNSUPPORTED.
 */
towline_result towline_quic_stream_write(struct towline_quic_stream *stream,
                                         const void *data,
                                         size_t length,
                                         int64_t timeout_ms);

/**
 * Ends the stream behind what was written. Any thread.
 */
towline_result towline_quic_stream_finish(struct towline_quic_stream *stream);

/**
 * Waits until the peer has acknowledged everything, its end included. Any thread, in callbacks only with 0.
 */
towline_result towline_quic_stream_acknowledged(struct towline_quic_stream *stream, int64_t timeout_ms);

/**
 * Abandons what this side sends, with a code of the application's, at most 2^62 - 1. Any thread.
 */
towline_result towline_quic_stream_reset(struct towline_quic_stream *stream, uint64_t code);

/**
 * Reads the next bytes, at most `length`, waiting for them as long as `timeout_ms` says; `read` gets how many, 0 at the end of the stream.
 *
 * Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_RESET when the peer abandoned it, TOWLINE_ERROR_ENDED, TOWLINE_ERROR_UNSUPPORTED.
 */
towline_result towline_quic_stream_read(struct towline_quic_stream *stream,
                                        void *buffer,
                                        size_t length,
                                        int64_t timeout_ms,
                                        size_t *read);

/**
 * Reads no more, and asks the peer to stop with this code of the application's, at most 2^62 - 1. Any thread.
 */
towline_result towline_quic_stream_stop(struct towline_quic_stream *stream, uint64_t code);

/**
 * The stream's identifier (RFC 9000 section 2.1). Any thread.
 */
towline_result towline_quic_stream_id(const struct towline_quic_stream *stream, uint64_t *id);

/**
 * Frees a stream. What it sends and has not finished is abandoned, what it reads is stopped.
 */
towline_result towline_quic_stream_free(struct towline_quic_stream *stream);

/**
 * Sends a datagram (RFC 9221): once, unordered, lost when its packet is. The data is copied.
 *
 * Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_MESSAGE when the peer takes none or it is too long for the path, TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_ENDED.
 */
towline_result towline_quic_send_datagram(struct towline_quic_connection *connection,
                                          const void *data,
                                          size_t length,
                                          int64_t timeout_ms);

/**
 * The next datagram, waiting for it as long as `timeout_ms` says. At most 1 MiB of them wait; the oldest are dropped beyond. Free it with towline_received_free.
 *
 * Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_ENDED.
 */
towline_result towline_quic_receive_datagram(struct towline_quic_connection *connection,
                                             int64_t timeout_ms,
                                             struct towline_received **received);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TOWLINE_H */
