/*
 * Completion-based sockets with callbacks: seven functions, and a few beside them.
 *
 * One state is one completion port. Sockets that are added to it do nothing until an operation is issued on them; when the operation
 * completes, one of the callbacks is called. Listening sockets accept on their own.
 *
 * Results. Functions return 0, or an error number of the system (errno.h): EINVAL for NULL and arguments out of range, EBADF for states and
 * sockets that are none or were removed, EALREADY for a second receive, EBUSY for a second sync send, EAGAIN for a send beyond the limit. An
 * operation that was refused has no completion. towline_last_error() of towline.h has the words.
 *
 * Threads. Callbacks run on the state's worker threads: one, or as many as socket_iocp_new_with was asked for. All callbacks of a socket run on the
 * same worker, one at a time; with several workers, callbacks of different sockets may run at the same time. A callback must not block: it
 * holds up its worker's sockets, and the log says so. All functions may be called from any thread and inside callbacks, except that
 * socket_iocp_delete is refused inside callbacks. Issuing never calls back: completions come later.
 *
 * Exactly once. Each operation that was taken (0) ends with exactly one callback: recv, send or error.
 *
 * Order. All bytes of a socket's sends are written in the order of issue, sync and async, and so come their callbacks. There are no short sends: the send
 * callback means that all bytes were handed to the system, not that the peer has them. After one send failed, all later ones of the socket end with
 * the error callback, ECANCELED.
 *
 * Ownership. The state owns a socket from the moment it was added (0) and closes it; when adding failed the socket stays the caller's. The write buffer is
 * the caller's and must not change until its callback: nothing is copied. Pointers given as user state come back as they are.
 *
 * The end. socket_iocp_remove closes a socket: what is outstanding ends with the error callback, ECANCELED, unless it was faster, then comes the
 * removed callback as the socket's last. When socket_iocp_delete has returned, no callback runs and none will.
 */
#ifndef SOCKET_IOCP_H
#define SOCKET_IOCP_H

#include <stddef.h>
#include <stdint.h>

#ifdef _WIN32
#include <winsock2.h>
#else
#include <sys/types.h>
#include <sys/socket.h>
typedef int SOCKET;
typedef uint32_t DWORD;
#endif

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Makes a state and starts its worker. Its driver is io_uring where the system offers it, else epoll; the environment variable TOWLINE_DRIVER (io_uring,
 * epoll) decides otherwise.
 *
 * @param socket_iocp_state gets the state; delete it with socket_iocp_delete.
 * @param read_buffer_size the most bytes that one receive brings, on all sockets of the state: 64 to 16,777,216.
 * @param accept_callback_function a connection was accepted. The addresses are valid during the call. What it puts into *per_socket_user_state is
 *        the socket's user state from then on; NULL is there at first. Operations may be issued on the socket already.
 * @param recv_callback_function a receive completed. read_buffer belongs to the state and is valid during the call, in which it may be written to.
 *        byte_count 0 is the end of the stream, after which every receive ends the same way.
 * @param send_callback_function a send completed; its write buffer is the caller's again.
 * @param error_callback_function an operation failed or was cancelled; socket_iocp_get_error tells which, and why. The socket stays until it is removed.
 *        For a failed accept it has the listening socket and the listen user state, and accepting goes on by itself.
 *
 * Errors: EINVAL; what the system said about threads and rings.
 */
int socket_iocp_new(void **socket_iocp_state, size_t read_buffer_size,
                    void (*accept_callback_function)(SOCKET socket, struct sockaddr *local_address,
                                                     struct sockaddr *remote_address,
                                                     void *listen_socket_user_state,
                                                     void **per_socket_user_state),
                    void (*recv_callback_function)(SOCKET socket, void *read_buffer, DWORD byte_count,
                                                   void *per_socket_user_state),
                    void (*send_callback_function)(SOCKET socket, void *per_socket_user_state,
                                                   void *per_write_user_state),
                    void (*error_callback_function)(SOCKET socket, void *per_socket_user_state));

/**
 * Removes all sockets, as socket_iocp_remove does, waits for the worker, and frees the state. All handles of its sockets are stale then.
 *
 * Any thread, not inside a callback: there, and for NULL or a second time, it does nothing but write to the log.
 */
void socket_iocp_delete(void *socket_iocp_state);

/**
 * Adds a socket on which listen(2) was called, and accepts from now on. Room for accept_socket_backlog (1 or more) connections is kept: so many may be accepted and
 * wait for their callback; the others wait in the system's backlog.
 *
 * Errors: EINVAL when it does not listen or is no stream socket.
 */
int socket_iocp_add_listen_socket(void *socket_iocp_state, SOCKET socket, size_t accept_socket_backlog,
                                  void *listen_user_state);

/** Adds a connected stream socket. Nothing happens on it until an operation is issued. */
int socket_iocp_add_connected_socket(void *socket_iocp_state, SOCKET socket, void *per_socket_user_state);

/**
 * Receives once: the recv callback comes when there are bytes, or at the end of the stream. One may be outstanding per socket.
 *
 * Errors: EALREADY while one is outstanding, EBADF.
 */
int socket_iocp_issue_recv(void *socket_iocp_state, void *socket_iocp_socket_state);

/**
 * Sends without allocating memory. One may be outstanding per socket.
 *
 * Errors: EBUSY while one is outstanding, EAGAIN beyond the limit, EBADF.
 */
int socket_iocp_issue_sync_send(void *socket_iocp_state, void *socket_iocp_socket_state, void *write_buffer,
                                DWORD number_bytes_to_write, void *per_write_user_state);

/**
 * Sends; any number may be outstanding on a socket, up to the limit in bytes.
 *
 * Errors: EAGAIN beyond the limit, after which the writable callback comes once when half of it is free; EBADF.
 */
int socket_iocp_issue_async_send(void *socket_iocp_state, void *socket_iocp_socket_state, void *write_buffer,
                                 DWORD number_bytes_to_write, void *per_write_user_state);

/* ---- what goes beyond the seven ---- */

/**
 * The handle of a socket of this state, for the functions that issue: any time after adding it, also inside its callbacks and inside the accept callback. Valid
 * until its removed callback has returned; stale ones are EBADF, never a crash.
 */
int socket_iocp_get_socket_state(void *socket_iocp_state, SOCKET socket, void **socket_iocp_socket_state);

/** Cancels an outstanding receive: it ends with the error callback, ECANCELED, unless it was faster. No byte is lost. */
int socket_iocp_cancel_recv(void *socket_iocp_state, void *socket_iocp_socket_state);

/** Cancels the outstanding sends of which the system has nothing yet: they end with the error callback, ECANCELED. */
int socket_iocp_cancel_sends(void *socket_iocp_state, void *socket_iocp_socket_state);

/** Removes and closes a socket; see above. Twice is fine until the removed callback has returned. */
int socket_iocp_remove(void *socket_iocp_state, void *socket_iocp_socket_state);

/** Stops listening and closes the listening socket. Connections that were accepted still come to the accept callback. */
int socket_iocp_remove_listen_socket(void *socket_iocp_state, SOCKET socket);

/** The driver that the state runs on: 1 io_uring, 2 epoll; 0 when it is no state. */
int socket_iocp_driver(void *socket_iocp_state);

/* Which operation failed. */
#define SOCKET_IOCP_ACCEPT 1
/* Adding the socket; only removing it is left. */
#define SOCKET_IOCP_ADD 2
#define SOCKET_IOCP_RECV 3
#define SOCKET_IOCP_SYNC_SEND 4
#define SOCKET_IOCP_ASYNC_SEND 5

/** The cause of an error callback. */
struct socket_iocp_error {
    /** sizeof(struct socket_iocp_error), filled in by you. */
    size_t struct_size;
    /** One of the SOCKET_IOCP_ values. */
    int operation;
    /** The system's error number; ECANCELED for what was cancelled, removed with its socket, or behind a send that failed. */
    int system_error;
    /** The socket's handle; NULL for a failed accept. */
    void *socket_iocp_socket_state;
    /** For sends, the state of the write; its buffer is the caller's again. */
    void *per_write_user_state;
};

/** Why the error callback was called. Only inside it. */
int socket_iocp_get_error(struct socket_iocp_error *error);

/** More than socket_iocp_new has: fill in struct_size; 0 and NULL are the defaults of the rest. */
struct socket_iocp_options {
    /** sizeof(struct socket_iocp_options). */
    size_t struct_size;
    /** Worker threads, 1 to 1,024; default 1. Each has a ring of its own, and sockets are dealt out among them. */
    uint32_t threads;
    /** 0 what suits, 1 io_uring or an error, 2 epoll. */
    int driver;
    /** Bytes that may be outstanding for sending per socket; default 16 MiB. A single larger send is taken when nothing is outstanding. */
    size_t send_limit;
    /** How long a worker polls before it sleeps, microseconds, at most 1,000,000. It costs a core meanwhile. */
    uint64_t spin_us;
    /** Sends are taken again after EAGAIN. */
    void (*writable_callback_function)(SOCKET socket, void *per_socket_user_state);
    /** The last callback of a socket: it was removed and is closed; its user state is the caller's to free. */
    void (*removed_callback_function)(SOCKET socket, void *per_socket_user_state);
};

/** socket_iocp_new with options, which may be NULL. */
int socket_iocp_new_with(void **socket_iocp_state, size_t read_buffer_size,
                         void (*accept_callback_function)(SOCKET socket, struct sockaddr *local_address,
                                                          struct sockaddr *remote_address,
                                                          void *listen_socket_user_state,
                                                          void **per_socket_user_state),
                         void (*recv_callback_function)(SOCKET socket, void *read_buffer, DWORD byte_count,
                                                        void *per_socket_user_state),
                         void (*send_callback_function)(SOCKET socket, void *per_socket_user_state,
                                                        void *per_write_user_state),
                         void (*error_callback_function)(SOCKET socket, void *per_socket_user_state),
                         const struct socket_iocp_options *options);

#ifdef __cplusplus
}
#endif

#endif
