/*
 * Sockets that a program brings itself: a platform's networking, a tunnel, a serial line. The program fills in a C4SocketFactory, whose functions open sockets and move
 * their bytes or messages; Towline's WebSocket, TLS, sessions and messages (towline.h) lie on top.
 *
 * Who calls whom. Towline calls the factory's functions; the program answers by the c4socket_ calls. For one socket:
 *
 *   open or attached      once, first                     then c4socket_opened, or c4socket_closed with an error
 *   write                 from opened to close            then c4socket_completedWrite, in pieces or at once, as many bytes in sum
 *   completedReceive      for all that was received       lets the program read on
 *   close, requestClose   at most once, also unopened     then c4socket_closed, within 5 seconds: later it counts as closed
 *   dispose               once, last, after closed        the C4Socket is stale when it returns
 *
 * Threads. The functions are called on I/O threads, for one socket in order and never two at a time. They must return at once: blocking holds up the thread's
 * connections, and the log says so. The c4socket_ calls may be made on any thread, also inside the functions; they never wait, and call nothing back before they
 * return. Stale and NULL sockets are refused, and logged, but are no crash.
 *
 * Memory. The C4Socket is the library's; its nativeHandle is the program's to set. The data of write is the program's: free it with c4slice_free, once. All other
 * slices and addresses are valid during the call only; what the program gives is copied.
 *
 * The end. Sockets are disposed of at the latest when towline_context_free returns; afterwards no function is called.
 */
#ifndef TOWLINE_C4SOCKET_H
#define TOWLINE_C4SOCKET_H

#include <stddef.h>
#include <stdint.h>

#include "towline.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Bytes of somebody else's. */
typedef struct C4Slice {
    const void *buf;
    size_t size;
} C4Slice;

/** Text, UTF-8, without a NUL at its end. */
typedef C4Slice C4String;

/** Bytes that whoever gets them has to free. */
typedef struct C4SliceResult {
    const void *buf;
    size_t size;
} C4SliceResult;

/** Frees the data of a write. A second time is refused, and logged. */
void c4slice_free(C4SliceResult slice);

/** Where to. */
typedef struct C4Address {
    /** Such as "ws" or "tcp". */
    C4String scheme;
    C4String hostname;
    uint16_t port;
    /** Of WebSockets, with the query; "/" at least. */
    C4String path;
} C4Address;

/** Whose numbers an error's code is of. */
typedef int32_t C4ErrorDomain;
#define LiteCoreDomain 1
/** errno.h */
#define POSIXDomain 2
#define SQLiteDomain 3
#define FleeceDomain 4
#define NetworkDomain 5
/** Close codes of RFC 6455. */
#define WebSocketDomain 6

/** An error; code 0 is none. */
typedef struct C4Error {
    C4ErrorDomain domain;
    int32_t code;
    int32_t internal_info;
} C4Error;

/** A socket. */
typedef struct C4Socket {
    /** The program's own. NULL at first, or what towline_listener_attach_socket was given. */
    void *nativeHandle;
} C4Socket;

/** What the sockets of a factory move. */
typedef uint8_t C4SocketFraming;
/** A stream of bytes on which the factory has done TLS and the HTTP handshake of a WebSocket client, see c4socket_gotHTTPResponse; Towline adds the frames. */
#define kC4WebSocketClientFraming 0
/** Whole messages, which the factory frames. */
#define kC4NoFraming 1
/** As kC4WebSocketClientFraming, of a server. */
#define kC4WebSocketServerFraming 2
/** A stream of bytes and nothing else: TLS, the WebSocket handshake and a session are Towline's, as the URL says. */
#define kC4ByteStreamFraming 3

/** Options: the subprotocols that a WebSocket asks for, a text separated by commas. */
#define kC4SocketOptionWSProtocols "WS-Protocols"
/** Options: further headers of a WebSocket's request, a dictionary of texts. */
#define kC4SocketOptionExtraHeaders "headers"

/** What a program implements. */
typedef struct C4SocketFactory {
    /** One of the framings. */
    C4SocketFraming framing;
    /** The last argument of open. */
    void *context;
    /** Opens a socket. options is a dictionary encoded in Fleece, with the kC4SocketOption keys; empty when there are none. Needed. */
    void (*open)(C4Socket *socket, const C4Address *addr, C4Slice options, void *context);
    /** Sends bytes, or one message with kC4NoFraming. Needed. */
    void (*write)(C4Socket *socket, C4SliceResult allocatedData);
    /** So many bytes of c4socket_received were processed. Programs stop reading while 256 KiB or more are not. NULL: no flow control. */
    void (*completedReceive)(C4Socket *socket, size_t byteCount);
    /** Closes. Needed but with kC4NoFraming. */
    void (*close)(C4Socket *socket);
    /** Closes with a status and words for the peer. Needed with kC4NoFraming. */
    void (*requestClose)(C4Socket *socket, int status, C4String message);
    /** The socket is over. May be NULL. */
    void (*dispose)(C4Socket *socket);
    /** A socket that came in was given to a listener. NULL: it is open at once. */
    void (*attached)(C4Socket *socket);
} C4SocketFactory;

/**
 * Has this factory open everything that endpoints made from now on dial, unless their configuration names one. Once per process; what is missing in it, and
 * a second call, is refused, and logged. It is copied.
 */
void c4socket_registerFactory(C4SocketFactory factory);

/**
 * Has this factory open what endpoints with this configuration dial: with name NULL everything, else URLs with the name in front, such as serial+tcp://host. It is copied.
 *
 * Any thread. Errors: TOWLINE_ERROR_INVALID_ARGUMENT when a needed function is missing.
 */
towline_result towline_config_set_socket_factory(towline_config *config, const char *name,
                                                 const C4SocketFactory *factory);

/**
 * Gives a connection that the program accepted to a listener, as if it had come in there: then attached is called, and the rest is as for any socket. socket gets
 * the socket, which may be disposed of already when this returns. The factory is copied.
 *
 * Any thread. Errors: TOWLINE_ERROR_LISTEN when as many peers as allowed are in their handshakes; TOWLINE_ERROR_ENDED.
 */
towline_result towline_listener_attach_socket(towline_listener *listener, const C4SocketFactory *factory,
                                              void *nativeHandle, C4Socket **socket);

/** The HTTP answer that the factory got, or gave as a server: before opened or closed. The headers are a Fleece dictionary of texts and arrays of texts. */
void c4socket_gotHTTPResponse(C4Socket *socket, int httpStatus, C4Slice responseHeadersFleece);
/** The socket is open. */
void c4socket_opened(C4Socket *socket);
/** The socket is closed, or could not be opened. */
void c4socket_closed(C4Socket *socket, C4Error errorIfAny);
/** The peer asks to close (kC4NoFraming); the answer is requestClose. */
void c4socket_closeRequested(C4Socket *socket, int status, C4String message);
/** So many bytes of write are on their way. */
void c4socket_completedWrite(C4Socket *socket, size_t byteCount);
/** Bytes came in, or one message with kC4NoFraming. They are copied. */
void c4socket_received(C4Socket *socket, C4Slice data);

#ifdef __cplusplus
}
#endif

#endif
