//! Errors, one type per action.

use std::io;

use bytes::BytesMut;

/// Why an operation was not issued. Nothing happened and nothing will complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The socket ended, or never was in this driver. The caller's fault; a retry cannot help.
    #[error("no such socket in this driver")]
    Stale,
    /// An operation of this kind is outstanding and only one may be. Retry after it completed.
    #[error("an operation of this kind is already outstanding on the socket")]
    Busy,
    /// The socket is being closed or detached, or its sending side was shut down or failed. No retry helps.
    #[error("the socket takes no more operations of this kind")]
    Closing,
    /// The call does not fit the kind of socket (stream, listener, datagram) or its state.
    #[error("the operation does not fit this kind of socket")]
    WrongKind,
    /// An argument is out of range, for example a segment size of zero or a datagram over 65,507 bytes.
    #[error("an argument is out of range")]
    Invalid,
}

impl From<IssueError> for io::Error {
    fn from(error: IssueError) -> io::Error {
        let kind = match error {
            IssueError::Stale => io::ErrorKind::NotFound,
            IssueError::Busy => io::ErrorKind::WouldBlock,
            IssueError::Closing => io::ErrorKind::NotConnected,
            IssueError::WrongKind | IssueError::Invalid => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}

/// Why a receive failed; the caller's buffer comes back with it.
#[derive(Debug, thiserror::Error)]
#[error("receive failed: {error}")]
pub struct RecvError {
    /// The system's error; `ECANCELED` when the operation was cancelled or its socket closed.
    #[source]
    pub error: io::Error,
    /// The buffer given to [`Driver::recv_into`](crate::Driver::recv_into), as it was.
    pub direct: Option<BytesMut>,
}

impl From<RecvError> for io::Error {
    fn from(error: RecvError) -> io::Error {
        error.error
    }
}

/// The error of an operation that was cancelled: `ECANCELED`.
pub(crate) fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}
