//! One TLS session under the engine, over rustls (RFC 9001 section 4).

use std::any::Any;
use std::io::Cursor;
use std::sync::Arc;

use noq_proto::crypto::{
    self as engine, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey,
};
use noq_proto::transport_parameters::TransportParameters;
use noq_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::HandshakeKind;
use rustls::quic::{Connection, KeyChange, Secrets, Suite, Version};

use super::keys::{self, Watch};
use super::params::PeerParams;
use super::secrets::retry_tag;
use super::{Facts, Hold, Shared};
use crate::quic::observe::Observed;
use crate::quic::types::Direction;

pub(super) struct Session {
    pub(super) inner: Connection,
    pub(super) suite: Suite,
    pub(super) shared: Arc<Shared>,
    pub(super) observed: Arc<Observed>,
    pub(super) hold: Option<Arc<Hold>>,
    /// Whether we ask for 1-RTT packets without encryption.
    pub(super) wants_plain: bool,
    pub(super) next: Option<Secrets>,
    pub(super) told_handshake_data: bool,
    pub(super) plain: bool,
    pub(super) made_next: bool,
}

pub(super) fn initial_keys(suite: &Suite, cid: &ConnectionId, side: Side) -> Keys {
    let side = match side {
        Side::Client => rustls::Side::Client,
        Side::Server => rustls::Side::Server,
    };
    keys::all(suite.keys(cid, side, Version::V1), Watch::None, Watch::None)
}

impl Session {
    fn side(&self) -> Side {
        match self.inner {
            Connection::Client(_) => Side::Client,
            Connection::Server(_) => Side::Server,
        }
    }

    fn sent(&self) -> Watch {
        if self.observed.tracks_datagrams() {
            Watch::Sent(self.observed.clone())
        } else {
            Watch::None
        }
    }

    fn received(&self) -> Watch {
        Watch::Received(self.observed.clone())
    }

    /// What the peer's transport parameters say beyond what the engine shows.
    fn note_peer_params(&mut self) {
        let Some(params) = self.inner.quic_transport_parameters().map(PeerParams::read) else {
            return;
        };
        for (direction, limit) in Direction::BOTH.into_iter().zip(params.max_streams) {
            self.observed.raise_max_streams(direction, limit);
        }
        self.plain = self.wants_plain && params.disable_1rtt_encryption;
        self.shared.set_peer_params(params);
    }

    fn note_facts(&self) {
        let is_resumed = self.inner.handshake_kind() == Some(HandshakeKind::Resumed);
        self.shared.set_facts(Facts {
            is_resumed,
            plain: self.plain,
            alpn: self.inner.alpn_protocol().map(bytes::Bytes::copy_from_slice),
            cipher_suite: self.inner.negotiated_cipher_suite().and_then(|s| s.suite().as_str()),
            asked_for: match &self.inner {
                Connection::Client(_) => None,
                Connection::Server(server) => server.server_name().map(str::to_owned),
            },
        });
    }
}

/// What TLS says; a verifier of ours has put it in its own words.
fn in_words(error: &rustls::Error) -> String {
    #[cfg(feature = "tls")]
    if let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error
        && let Some(ours) = other.0.downcast_ref::<crate::tls::Error>()
    {
        return ours.to_string();
    }
    error.to_string()
}

impl engine::Session for Session {
    fn initial_keys(&self, dst_cid: ConnectionId, side: Side) -> Keys {
        initial_keys(&self.suite, &dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let chain = self.inner.peer_certificates()?;
        Some(Box::new(chain.iter().map(|c| c.clone().into_owned()).collect::<Vec<_>>()))
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        let keys = self.inner.zero_rtt_keys()?;
        let watch = match self.side() {
            Side::Client => self.sent(),
            Side::Server => Watch::ReceivedEarly(self.observed.clone()),
        };
        if matches!(self.inner, Connection::Client(_))
            && let Some(params) = self.inner.quic_transport_parameters().map(PeerParams::read)
        {
            // Of the earlier session, and good for 0-RTT data (RFC 9000 section 7.4.1).
            for (direction, limit) in Direction::BOTH.into_iter().zip(params.max_streams) {
                self.observed.raise_max_streams(direction, limit);
            }
        }
        Some((keys::header_key(keys.header), keys::packet_key(keys.packet, watch)))
    }

    fn early_data_accepted(&self) -> Option<bool> {
        match &self.inner {
            Connection::Client(client) => Some(client.is_early_data_accepted()),
            Connection::Server(_) => None,
        }
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        if let Some(alert) = self.hold.as_ref().and_then(|hold| hold.rejected_with()) {
            self.shared.set_rejection(alert, "the application refused the certificate");
            return Err(TransportError::new(
                TransportErrorCode::crypto(alert),
                "the application refused the certificate".into(),
            ));
        }
        if let Err(error) = self.inner.read_hs(buf) {
            let reason = in_words(&error);
            let Some(alert) = self.inner.alert() else {
                return Err(TransportError::new(TransportErrorCode::PROTOCOL_VIOLATION, reason));
            };
            if matches!(
                error,
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented
            ) {
                self.shared.set_rejection(alert.into(), &reason);
            }
            return Err(TransportError::new(TransportErrorCode::crypto(alert.into()), reason));
        }
        self.note_peer_params();
        if !self.told_handshake_data
            && (self.inner.alpn_protocol().is_some() || !self.is_handshaking())
        {
            self.told_handshake_data = true;
            return Ok(true);
        }
        Ok(false)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(raw) = self.inner.quic_transport_parameters() else { return Ok(None) };
        match TransportParameters::read(self.side(), &mut Cursor::new(raw)) {
            Ok(params) => Ok(Some(params)),
            Err(error) => Err(error.into()),
        }
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        match self.inner.write_hs(buf)? {
            KeyChange::Handshake { keys } => {
                let remote = match &self.hold {
                    Some(hold) => Watch::Handshake(hold.clone()),
                    None => Watch::None,
                };
                Some(keys::all(keys, Watch::None, remote))
            }
            KeyChange::OneRtt { keys, next } => {
                self.next = Some(next);
                self.note_peer_params();
                self.note_facts();
                if self.plain {
                    return Some(keys::plain(self.sent(), self.received()));
                }
                Some(keys::all(keys, self.sent(), self.received()))
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next.as_mut()?.next_packet_keys();
        // The first of them are made ahead, when the handshake gives the keys; each later call is an update.
        if std::mem::replace(&mut self.made_next, true) {
            self.observed.on_key_update();
        }
        if self.plain {
            return Some(keys::plain_packet_keys(self.sent(), self.received()));
        }
        Some(KeyPair {
            local: keys::packet_key(keys.local, self.sent()),
            remote: keys::packet_key(keys.remote, self.received()),
        })
    }

    fn is_valid_retry(&self, orig_dst_cid: ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some((rest, tag)) = payload.split_last_chunk::<16>() else { return false };
        let packet = [header, rest].concat();
        // The tag's key is public; it guards against accidents, so timing does not matter.
        retry_tag(&orig_dst_cid, &packet).as_ref() == Some(tag)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner
            .export_keying_material(output, label, Some(context))
            .map(|_| ())
            .map_err(|_| ExportKeyingMaterialError)
    }
}
