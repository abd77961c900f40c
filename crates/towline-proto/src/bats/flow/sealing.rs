//! Where the seal stands between the application and the stream.

use bytes::{Bytes, BytesMut};

use crate::bats::control::Frame;
use crate::bats::seal::{Forged, Handshake, Key, Opener, Seal, Sealer};
use crate::bats::wire::MAX_CONTROL;

/// A stream as it was received.
pub(super) trait Source {
    /// Whether there is something to read.
    fn has_ready(&self) -> bool;
    /// The next bytes in order.
    fn read(&mut self) -> Option<Bytes>;
}

/// How payload is sealed, if it is.
#[derive(Debug, Default)]
pub(super) enum Sealing {
    /// Every hop is trusted.
    #[default]
    None,
    /// Nothing may be sent before the handshake is done. With it what the keys are bound to.
    Handshake(Box<Handshake>, Bytes),
    /// Streams.
    Stream(Box<(Sealer, Opener)>),
}

impl Sealing {
    /// Begins the handshake; keys will be bound to the parameters.
    pub(super) fn begin(seal: &Seal, parameters: Bytes) -> Option<Sealing> {
        Some(Sealing::Handshake(Box::new(Handshake::new(seal).ok()?), parameters))
    }

    pub(super) fn is_ready(&self) -> bool {
        !matches!(self, Sealing::Handshake(..))
    }

    pub(super) fn is_sealed(&self) -> bool {
        matches!(self, Sealing::Stream(_))
    }

    /// Moves the handshake on. At its end: the keys to seal and to open with. Or why there will be none.
    pub(super) fn handle_input(
        &mut self,
        data: &[u8],
        out: &mut BytesMut,
    ) -> Result<Option<(Key, Key)>, String> {
        let Sealing::Handshake(handshake, parameters) = self else {
            return Ok(None); // Tickets and the like, which nobody uses.
        };
        let valid = handshake.handle_input(data);
        Sealing::emit(handshake, out);
        valid.map_err(|error| error.to_string())?;
        Ok(handshake.keys(parameters))
    }

    /// What the handshake has for the peer.
    pub(super) fn flush(&mut self, out: &mut BytesMut) {
        if let Sealing::Handshake(handshake, _) = self {
            Sealing::emit(handshake, out);
        }
    }

    fn emit(handshake: &mut Handshake, out: &mut BytesMut) {
        for chunk in handshake.output().chunks(MAX_CONTROL) {
            Frame::Seal(Bytes::copy_from_slice(chunk)).encode(out);
        }
    }

    /// From now on a stream is sealed.
    pub(super) fn on_stream_keys(&mut self, own: Key, peer: Key) {
        *self = Sealing::Stream(Box::new((Sealer::new(own), Opener::new(peer))));
    }

    /// What a stream carries for `data`.
    pub(super) fn seal(&mut self, data: Bytes) -> Bytes {
        match self {
            // Sealing does not fail for lengths such as these.
            Sealing::Stream(stream) => stream.0.seal(&data).unwrap_or_default(),
            _ => data,
        }
    }

    /// The next bytes that a stream delivers.
    pub(super) fn read(&mut self, receiver: &mut dyn Source) -> Result<Option<Bytes>, Forged> {
        match self {
            Sealing::Handshake(..) => Ok(None),
            Sealing::None => Ok(receiver.read()),
            Sealing::Stream(stream) => loop {
                if let Some(plain) = stream.1.poll() {
                    return Ok(Some(plain));
                }
                let Some(sealed) = receiver.read() else { return Ok(None) };
                stream.1.push(&sealed)?;
            },
        }
    }

    /// Opens what came of a stream, so that it is known whether there is anything to read; no more than a record.
    pub(super) fn prepare(&mut self, receiver: &mut dyn Source) -> Result<bool, Forged> {
        match self {
            Sealing::Handshake(..) => Ok(false),
            Sealing::None => Ok(receiver.has_ready()),
            Sealing::Stream(stream) => {
                while !stream.1.has_opened() {
                    let Some(sealed) = receiver.read() else { return Ok(false) };
                    stream.1.push(&sealed)?;
                }
                Ok(true)
            }
        }
    }
}
