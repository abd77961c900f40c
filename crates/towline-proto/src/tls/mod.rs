//! TLS as a filter without I/O: ciphertext in, plaintext out, and back.
//!
//! A [`Config`] holds the options, is checked once by [`Config::client`] or [`Config::server`], and each connection is a [`Stream`].
//! TLS 1.3 only unless [`Config::legacy_tls12`] says otherwise; certificates are verified unless an option says `dangerous`.

#[cfg(feature = "cert")]
mod cert;
mod config;
mod error;
mod keylog;
mod pem;
pub mod pin;
mod record;
mod state;
mod stream;
mod verify;

#[cfg(feature = "cert")]
pub use cert::{SelfSigned, self_signed};
pub use config::{ClientAuth, ClientConfig, Config, Provider, ServerConfig};
pub use error::Error;
pub use keylog::KeyLog;
pub use pin::Pin;
pub use state::{TlsState, Version};
pub use stream::{Event, Stream};
