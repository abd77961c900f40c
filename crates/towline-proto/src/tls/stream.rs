//! One TLS connection.
use super::{ClientConfig, Error, ServerConfig, TlsState};
use bytes::{Bytes, BytesMut};

/// What happened on a TLS connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The handshake is done and the peer verified: data may be sealed from here on.
    HandshakeDone(TlsState),
    /// The peer closed its direction with `close_notify`: no more plaintext will come.
    PeerClosed,
}

/// One TLS connection: a filter between a byte stream and the engine above.
pub struct Stream;
impl Stream {
    /// A client's connection to `server_name` (DNS name or IP address). Its first bytes are ready in [`Stream::poll_transmit`].
    ///
    /// # Errors
    /// [`Error::BadServerName`]
    pub fn client(config: &ClientConfig, server_name: &str) -> Result<Self, Error> {
        let _ = (config, server_name);
        unimplemented!()
    }
    /// A server's connection.
    ///
    /// # Errors
    /// [`Error::Failed`]
    pub fn server(config: &ServerConfig) -> Result<Self, Error> {
        let _ = config;
        unimplemented!()
    }
    /// Ciphertext from the wire, in any chunking; plaintext is appended to `out`, as slices of `input` where a record arrived whole.
    ///
    /// # Errors
    /// Fatal for the connection: transmit what [`Stream::poll_transmit`] still has (the alert), then close.
    pub fn handle_input(&mut self, input: BytesMut, out: &mut Vec<Bytes>) -> Result<(), Error> {
        let _ = (input, out);
        unimplemented!()
    }
    /// The wire's end of stream.
    ///
    /// # Errors
    /// [`Error::Truncated`] unless the peer had closed; [`Error::HandshakeCut`] during the handshake.
    pub fn handle_end(&mut self) -> Result<(), Error> {
        unimplemented!()
    }
    /// Encrypts `plaintext` as one run of bytes into as few records as it fits, for [`Stream::poll_transmit`].
    ///
    /// # Errors
    /// [`Error::NotWritable`] before the handshake is done or after closing.
    pub fn seal(&mut self, plaintext: &[Bytes]) -> Result<(), Error> {
        let _ = plaintext;
        unimplemented!()
    }
    /// Whether [`Stream::poll_transmit`] has anything.
    pub fn wants_write(&self) -> bool {
        unimplemented!()
    }
    /// Appends all ciphertext ready to be sent to `out`; how many bytes.
    pub fn poll_transmit(&mut self, out: &mut Vec<Bytes>) -> usize {
        let _ = out;
        unimplemented!()
    }
    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        unimplemented!()
    }
    /// Whether the handshake is still going on: nothing can be sealed yet.
    pub fn is_handshaking(&self) -> bool {
        unimplemented!()
    }
    /// What was agreed, once the handshake is done.
    pub fn state(&self) -> Option<&TlsState> {
        unimplemented!()
    }
    /// Says `close_notify`: no more will be sealed. Receiving goes on.
    pub fn close(&mut self) {
        unimplemented!()
    }
    /// Keeps track of which ciphertext carries which plaintext, for [`Stream::plaintext_acked`]. Off by default.
    pub fn track_acked(&mut self) {
        unimplemented!()
    }
    /// How many plaintext bytes are in records wholly within the first `ciphertext` bytes transmitted.
    pub fn plaintext_acked(&mut self, ciphertext: u64) -> u64 {
        let _ = ciphertext;
        unimplemented!()
    }
}
