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
//! rustls does all of TLS: handshake, records, key updates, alerts and tickets, for 1.3 and 1.2 alike, by its unbuffered interface. What is here decides
//! trust and options, hands bytes over, and explains errors. There are no records of our own, although those would save a copy in each direction: what
//! guards the data is then one well-kept library that many have read, and nothing that only we have.
//!
//! Whole records are decrypted in the buffer that was received. rustls copies the plaintext out of it, record by record, and the pieces of one input are
//! copied together once more; ciphertext is copied once, from the record that rustls makes to the buffer that goes to the socket.
//! The unbuffered interface is used because the buffered one would copy the ciphertext in as well, in steps of 4 KiB.
//!
//! Alerts are those that rustls sends. It has none for a few of the peer's mistakes (too many empty records, data within a handshake message), nor for a
//! client that misses ALPN after all ([`Config::require_alpn`]): there the connection ends without one, which the other side sees as a truncation.
//!
//! Randomness comes from the provider, and wall-clock time for certificates from the system unless [`Config::clock`] gives another.
//!
//! # What it costs
//!
//! Against a bare loop over rustls' buffered connections, moving messages through memory on one thread, ours in MB/s and as a ratio (median of 15
//! alternating rounds, on a busy machine of two cores: the ratios are what counts;
//! `cargo bench -p towline-proto --bench tls --features cert,aws-lc-rs`):
//!
//! | messages of 64 KiB | ring | aws-lc-rs |
//! | --- | --- | --- |
//! | AES-128-GCM | 2465, 0.92 | 1945, 0.86 |
//! | AES-256-GCM | 2239, 0.92 | 2699, 0.87 |
//! | ChaCha20-Poly1305 | 542, 0.99 | 800, 0.96 |
//!
//! A single message of 64 bytes or 1 KiB per [`Stream::seal`] is at 0.75 to 0.90: the buffers that can be handed on without a copy cost allocations that
//! the bare loop does not make. One of 1 MiB is at 0.88 to 0.97, and at 0.64 for as long as glibc gives the freed megabyte back to the system each time
//! (0.92 with `GLIBC_TUNABLES=glibc.malloc.trim_threshold=67108864:glibc.malloc.mmap_threshold=33554432`).

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
