//! TLS as a filter without I/O: ciphertext in, plaintext out, and back.
//!
//! A [`Config`] holds the options, is checked once by [`Config::client`] or [`Config::server`], and each connection is a [`Stream`].
//! TLS 1.3 only unless [`Config::legacy_tls12`] says otherwise; certificates are verified unless an option says `dangerous`.
//!
//! # Whom to trust
//!
//! By CAs ([`Config::ca_file`], [`Config::system_roots`]), by [`Pin`], or by both; a refusal prints the pin that the peer presented.
//! [`Error`] says for each refusal what to do about it.
//!
//! # How
//!
//! rustls does the handshake, and keeps the secrets and the tickets. In TLS 1.3 the records behind the handshake are opened and sealed here, with the
//! provider's AEADs, in place: what comes out of [`Stream::handle_input`] are slices of what went in, and what [`Stream::seal`] makes goes to the
//! socket as it is. Keys are updated at the suite's limit (RFC 8446 section 5.5) and when the peer asks. TLS 1.2 stays with rustls' own records.
//! Randomness comes from the provider, and wall-clock time for certificates from the system unless [`Config::clock`] gives another.
//!
//! # What it costs
//!
//! Against rustls' buffered connections, moving messages of 64 KiB through memory on one thread, ours in MB/s and as a ratio (median of 15 alternating
//! rounds, on a busy machine of two cores: the ratios are what counts; `cargo bench -p towline-proto --bench tls --features cert,aws-lc-rs`):
//!
//! | suite | ring | aws-lc-rs |
//! | --- | --- | --- |
//! | AES-128-GCM | 1469, 1.05 | 1421, 1.18 |
//! | AES-256-GCM | 1349, 1.16 | 1095, 1.24 |
//! | ChaCha20-Poly1305 | 336, 1.02 | 309, 0.99 |
//!
//! ring was ahead in each, which is why it is the default.

#[cfg(any(feature = "cert", test))]
mod cert;
mod config;
mod connection;
mod error;
#[cfg(any(test, all(feature = "fuzzing", feature = "cert")))]
pub mod fuzzing;
mod keylog;
mod outbox;
mod pem;
pub mod pin;
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
