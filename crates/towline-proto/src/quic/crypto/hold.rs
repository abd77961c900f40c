//! The pause at the peer's certificate.
//!
//! The TLS library verifies at once and cannot wait. So while the application judges, the packets that carry the handshake on are kept outside the engine: this key watcher
//! reads them as they are opened, says that they could not be, and the endpoint keeps a copy of the datagram. With the verdict the copies are given to the engine as if they
//! came now. To the peer it looks as if its packets took that long.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls_pki_types::CertificateDer;

use crate::quic::frames::{CryptoStream, Frame, scan};

/// TLS handshake messages (RFC 8446 section 4).
const CERTIFICATE: u8 = 11;
const FINISHED: u8 = 20;

/// Handshake bytes looked at while waiting; a longer flight is passed on, where the TLS library has its own limit.
const LIMIT: usize = 64 << 10;

/// The application's word on a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Accept,
    /// Fail the handshake with this TLS alert (RFC 8446 section 6.2), for instance 42 `bad_certificate`.
    Reject(u8),
}

#[derive(Debug, Default)]
enum Phase {
    /// No certificate has been seen whole yet.
    #[default]
    Watching,
    /// The application is judging.
    Judging,
    /// Packets pass.
    Open,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    stream: CryptoStream,
    chain: Option<Vec<CertificateDer<'static>>>,
    verdict: Option<Verdict>,
    kept_out: bool,
    released: bool,
}

/// Shared between the handshake key, the TLS session and the endpoint, all on one thread.
#[derive(Debug, Default)]
pub(in crate::quic) struct Hold(Mutex<State>);

impl Hold {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at an opened handshake packet; true if the engine must not see it yet.
    pub(super) fn keeps_out(&self, payload: &[u8]) -> bool {
        let state = &mut *self.lock();
        if matches!(state.phase, Phase::Open) {
            return false;
        }
        let mut carries = false;
        let mut fits = true;
        scan(payload, |frame| {
            if let Frame::Crypto { offset, data } = frame {
                carries = true;
                fits &= state.stream.insert(offset, data, LIMIT);
            }
        });
        if !carries {
            return false;
        }
        if matches!(state.phase, Phase::Watching) {
            match look(state.stream.contiguous()) {
                Look::More if fits => {}
                Look::Certificate(chain) => {
                    state.chain = Some(chain);
                    state.phase = Phase::Judging;
                }
                // No certificate in this handshake, or one that does not fit: let it all through.
                Look::Nothing | Look::More => {
                    state.phase = Phase::Open;
                    state.released = true;
                }
            }
        }
        state.kept_out = true;
        true
    }

    /// Whether the last datagram was kept out, and so has to be copied; asking resets it.
    pub(in crate::quic) fn take_kept_out(&self) -> bool {
        std::mem::take(&mut self.lock().kept_out)
    }

    /// Whether what was kept out should go in now; asking resets it.
    pub(in crate::quic) fn take_released(&self) -> bool {
        std::mem::take(&mut self.lock().released)
    }

    pub(in crate::quic) fn is_open(&self) -> bool {
        matches!(self.lock().phase, Phase::Open)
    }

    /// The chain, once, when it has been seen whole.
    pub(in crate::quic) fn take_chain(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.lock().chain.take()
    }

    pub(in crate::quic) fn decide(&self, verdict: Verdict) -> bool {
        let state = &mut *self.lock();
        if !matches!(state.phase, Phase::Judging) {
            return false;
        }
        state.verdict = Some(verdict);
        state.phase = Phase::Open;
        state.released = true;
        true
    }

    pub(super) fn rejected_with(&self) -> Option<u8> {
        match self.lock().verdict {
            Some(Verdict::Reject(alert)) => Some(alert),
            _ => None,
        }
    }
}

enum Look {
    More,
    Nothing,
    Certificate(Vec<CertificateDer<'static>>),
}

/// Walks over whole handshake messages.
fn look(mut bytes: &[u8]) -> Look {
    while let Some((kind, body, rest)) = message(bytes) {
        match kind {
            CERTIFICATE => {
                return match certificates(body) {
                    Some(chain) if !chain.is_empty() => Look::Certificate(chain),
                    _ => Look::Nothing,
                };
            }
            FINISHED => return Look::Nothing,
            _ => bytes = rest,
        }
    }
    Look::More
}

/// One handshake message: its type, its body, what follows (RFC 8446 section 4).
pub(super) fn message(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, a, b, c], rest) = bytes.split_first_chunk::<4>()?;
    let (body, rest) = rest.split_at_checked(u32::from_be_bytes([0, a, b, c]) as usize)?;
    Some((kind, body, rest))
}

/// The chain in a Certificate message (RFC 8446 section 4.4.2).
fn certificates(body: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let (&context, rest) = body.split_first()?;
    let (_, rest) = rest.split_at_checked(usize::from(context))?;
    let (mut list, _) = take_u24(rest)?;
    let mut chain = Vec::new();
    while !list.is_empty() {
        let (certificate, rest) = take_u24(list)?;
        let (&extensions, rest) = rest.split_first_chunk::<2>()?;
        let (_, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(extensions)))?;
        chain.push(CertificateDer::from(certificate.to_vec()));
        list = rest;
    }
    Some(chain)
}

fn take_u24(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[a, b, c], rest) = bytes.split_first_chunk::<3>()?;
    rest.split_at_checked(u32::from_be_bytes([0, a, b, c]) as usize)
}
