//! TLS as applications see it.

#[cfg(feature = "tls")]
pub use towline_proto::tls::{ClientAuth, Error, KeyLog, Pin, Provider, TlsState, Version};

#[cfg(feature = "cert")]
pub use towline_proto::tls::{SelfSigned, self_signed};

#[cfg(not(feature = "tls"))]
mod absent {
    /// Never made: this build has no TLS.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum TlsState {}

    /// Never made: this build has no TLS.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Error {}

    impl std::fmt::Display for Error {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            match *self {}
        }
    }

    impl std::error::Error for Error {}
}

/// Whether an error is about this side's own certificates, trust and options.
pub(crate) fn is_local(error: &Error) -> bool {
    #[cfg(feature = "tls")]
    return matches!(
        error,
        Error::Unreadable { .. }
            | Error::MalformedPem { .. }
            | Error::EncryptedKey { .. }
            | Error::WrongKey { .. }
            | Error::UnusableIdentity { .. }
            | Error::NoIdentity
            | Error::NoTrust { .. }
            | Error::NoSystemRoots { .. }
            | Error::BadOption { .. }
            | Error::KeyLog { .. }
            | Error::BadServerName { .. }
            | Error::BadPin { .. }
    );
    #[cfg(not(feature = "tls"))]
    match *error {}
}

#[cfg(not(feature = "tls"))]
pub use absent::{Error, TlsState};
