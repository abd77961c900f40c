//! TLS as a filter without I/O: ciphertext in, plaintext out, and back.
//!
//! A [`Config`] holds the options, is checked once by [`Config::client`] or [`Config::server`], and each connection is a [`Stream`].
//! TLS 1.3 only unless [`Config::legacy_tls12`] says otherwise; certificates are verified unless an option says `dangerous`.

#[cfg(any(feature = "cert", test))]
mod cert;
mod config;
mod error;
#[cfg(any(test, all(feature = "fuzzing", feature = "cert")))]
pub mod fuzzing;
mod keylog;
mod pem;
pub mod pin;
mod record;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod verify;

#[cfg(any(feature = "cert", test))]
pub use cert::{SelfSigned, self_signed};
pub use config::{ClientAuth, ClientConfig, Config, Provider, ServerConfig};
pub use error::Error;
pub use keylog::KeyLog;
pub use pin::Pin;
pub use state::{TlsState, Version};
pub use stream::{Event, Stream};
