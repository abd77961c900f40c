//! Thin wrappers of the system calls that both drivers use on sockets.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use bytes::BytesMut;
use socket2::{SockAddr, Socket};

/// The result of a call that returns -1 and `errno` on failure.
pub(crate) fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Repeats a call that a signal interrupted.
pub(crate) fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match check(call()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// An empty message header.
pub(crate) fn empty_msghdr() -> libc::msghdr {
    // SAFETY: all zeros (null pointers, zero lengths) is a valid `msghdr`.
    unsafe { std::mem::zeroed() }
}

/// How much of a pooled buffer is offered behind a direct one. Little: what comes beyond is the beginning of something
/// else, and if that is long too, it is better read to where it belongs than copied there.
const BEYOND: usize = 4 << 10;

/// So much of a pooled buffer of `room` bytes.
pub(crate) fn room_beyond(room: usize) -> usize {
    room.min(BEYOND)
}

/// Receives into the spare room of `direct` (at most `want` bytes of it) and then of `pooled`. Returns how many
/// bytes went into each; both buffers are longer by that.
pub(crate) fn receive(
    fd: RawFd,
    direct: Option<(&mut BytesMut, usize)>,
    pooled: &mut BytesMut,
) -> io::Result<(usize, usize)> {
    let room = pooled.spare_capacity_mut();
    let (pooled_ptr, pooled_len) = (room.as_mut_ptr().cast::<libc::c_void>(), room.len());
    let Some((direct, want)) = direct else {
        // SAFETY: `pooled_ptr` points to `pooled_len` writable bytes that nobody else refers to.
        let n = retry(|| unsafe { libc::recv(fd, pooled_ptr, pooled_len, 0) })?;
        // SAFETY: the kernel has initialised `n` bytes of the spare room.
        unsafe { pooled.set_len(pooled.len() + n) };
        return Ok((0, n));
    };
    let spare = direct.spare_capacity_mut();
    let want = want.min(spare.len());
    let iovecs = [
        libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: want },
        libc::iovec { iov_base: pooled_ptr, iov_len: room_beyond(pooled_len) },
    ];
    // SAFETY: both vectors describe writable memory that nobody else refers to.
    let n = retry(|| unsafe { libc::readv(fd, iovecs.as_ptr(), 2) })?;
    let first = n.min(want);
    // SAFETY: the kernel fills the vectors in order and has initialised `first` and `n - first` bytes.
    unsafe {
        direct.set_len(direct.len() + first);
        pooled.set_len(pooled.len() + n - first);
    }
    Ok((first, n - first))
}

/// Sends what `iovecs` describe, without a signal when the peer is gone and without blocking.
///
/// # Safety
///
/// Every vector describes readable memory.
pub(crate) unsafe fn send_vectored(fd: RawFd, iovecs: &mut [libc::iovec]) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    if let [only] = iovecs {
        // SAFETY: the caller says that the vector is readable.
        return retry(|| unsafe { libc::send(fd, only.iov_base, only.iov_len, flags) });
    }
    let mut header = empty_msghdr();
    header.msg_iov = iovecs.as_mut_ptr();
    header.msg_iovlen = iovecs.len() as _;
    // SAFETY: the header describes `iovecs`, which the caller says are readable.
    retry(|| unsafe { libc::sendmsg(fd, &header, flags) })
}

/// Accepts one connection, non-blocking and close-on-exec, with the peer's address.
pub(crate) fn accept(listener: RawFd) -> io::Result<(Socket, SockAddr)> {
    // SAFETY: the closure gives the kernel the storage and its length that socket2 made for this.
    let (fd, peer) = unsafe {
        SockAddr::try_init(|storage, len| {
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            retry(|| libc::accept4(listener, storage.cast(), len, flags) as isize)
        })?
    };
    // SAFETY: `accept4` has just opened the descriptor for us.
    let socket = unsafe { Socket::from_raw_fd(fd as RawFd) };
    Ok((socket, peer))
}

/// Whether a failure to accept is for want of descriptors or memory, so that trying again at once is of no use.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Whether a failure to accept concerns one connection only, so that the next one may be accepted at once
/// (accept(2): errors of the network that are passed on, and those of connections that are gone).
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EPERM
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::ETIMEDOUT
        )
    )
}

/// Opens a descriptor for nothing, to be given up when descriptors run out.
pub(crate) fn reserve_descriptor() -> Option<std::fs::File> {
    std::fs::File::open("/dev/null").ok()
}

/// Whether a failed call would have to wait.
pub(crate) fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Shuts the sending side down; a socket that is not connected (any more) needs none.
pub(crate) fn shutdown_write(socket: &Socket) {
    let _ = socket.shutdown(std::net::Shutdown::Write);
}

/// Starts to connect. `Ok(true)`: connected at once.
pub(crate) fn start_connect(socket: &Socket, addr: &SockAddr) -> io::Result<bool> {
    match retry(|| {
        // SAFETY: the address and its length come from socket2 and outlive the call.
        unsafe { libc::connect(socket.as_raw_fd(), addr.as_ptr().cast(), addr.len()) as isize }
    }) {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINPROGRESS) => Ok(false),
            // After an interruption the attempt goes on and a second call says so.
            Some(libc::EALREADY) => Ok(false),
            Some(libc::EISCONN) => Ok(true),
            _ => Err(error),
        },
    }
}
