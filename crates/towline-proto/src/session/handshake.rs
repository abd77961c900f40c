//! HELLO, WELCOME and REFUSE (docs/session.md, section 3).

use bytes::{Bytes, BytesMut};

use super::error::{CloseCode, Refusal};
use super::frame::{
    Fields, MIN_MAX_MESSAGE, VERSION, Violation, decode_control, kind, put_control, put_int,
    put_reason,
};
use super::message::{LANES, SessionId};

/// The first octets of every greeting's body (S3.2).
const MAGIC: [u8; 4] = *b"TWLN";
/// The most lanes that a greeting may list; those beyond [`LANES`] are ignored (S3.4).
const MAX_LISTED_LANES: u64 = 64;

/// How far one lane is, as told in HELLO and WELCOME (S3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LaneState {
    /// The position up to which whole frames were received.
    pub received: u64,
    /// The position up to which the other side may send.
    pub limit: u64,
}

/// What a client says first on every wire (S3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The lowest version the client speaks.
    pub min_version: u64,
    /// The highest version the client speaks.
    pub max_version: u64,
    /// Which session.
    pub session: SessionId,
    /// Counts the client's wires of this session, from 1.
    pub attempt: u64,
    /// Which incarnation of the session the client knows: the `epoch` of the last WELCOME, 0 before the first.
    pub epoch: u64,
    /// The largest message the client takes, in octets.
    pub max_message: u64,
    /// The lanes towards the client.
    pub lanes: [LaneState; LANES],
}

impl Hello {
    /// Appends the frame.
    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_control(out, kind::HELLO, |body| {
            body.extend_from_slice(&MAGIC);
            put_int(body, self.min_version);
            put_int(body, self.max_version);
            body.extend_from_slice(&self.session.0);
            put_int(body, self.attempt);
            put_int(body, self.epoch);
            put_int(body, self.max_message);
            put_lanes(body, &self.lanes);
        });
    }

    fn decode(body: &[u8]) -> Result<Hello, Violation> {
        let mut fields = Fields::new(kind::HELLO, body);
        magic(&mut fields)?;
        let (min_version, max_version) = (fields.int()?, fields.int()?);
        if min_version > max_version {
            return Err(fields.malformed());
        }
        // What follows may look different in other versions (S3.2).
        if !(min_version..=max_version).contains(&VERSION) {
            return Err(Violation::NoCommonVersion { min: min_version, max: max_version });
        }
        let session = fields.octets(16)?.try_into().map_err(|_| fields.malformed())?;
        let attempt = fields.int()?;
        let epoch = fields.int()?;
        let max_message = fields.int()?;
        let lanes = lanes(&mut fields)?;
        if attempt == 0 || epoch >= attempt || max_message < MIN_MAX_MESSAGE as u64 {
            return Err(Violation::BadParameter);
        }
        Ok(Hello {
            min_version,
            max_version,
            session: SessionId(session),
            attempt,
            epoch,
            max_message,
            lanes,
        })
    }
}

/// The server's answer (S3.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    pub(super) version: u64,
    /// The attempt whose HELLO created the server's side (S3.6).
    pub(super) epoch: u64,
    pub(super) max_message: u64,
    pub(super) lanes: [LaneState; LANES],
}

impl Welcome {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_control(out, kind::WELCOME, |body| {
            body.extend_from_slice(&MAGIC);
            put_int(body, self.version);
            put_int(body, self.epoch);
            put_int(body, self.max_message);
            put_lanes(body, &self.lanes);
        });
    }

    pub(super) fn decode(body: &[u8]) -> Result<Welcome, Violation> {
        let mut fields = Fields::new(kind::WELCOME, body);
        magic(&mut fields)?;
        let version = fields.int()?;
        if version != VERSION {
            return Err(Violation::NoCommonVersion { min: version, max: version });
        }
        let epoch = fields.int()?;
        let max_message = fields.int()?;
        let lanes = lanes(&mut fields)?;
        if epoch == 0 || max_message < MIN_MAX_MESSAGE as u64 {
            return Err(Violation::BadParameter);
        }
        Ok(Welcome { version, epoch, max_message, lanes })
    }
}

/// The body of REFUSE: code and reason.
pub(super) fn decode_refuse(body: &[u8]) -> Result<(CloseCode, String), Violation> {
    let mut fields = Fields::new(kind::REFUSE, body);
    magic(&mut fields)?;
    fields.reason()
}

fn magic(fields: &mut Fields<'_>) -> Result<(), Violation> {
    match fields.octets(MAGIC.len()) {
        Ok(octets) if octets == MAGIC => Ok(()),
        _ => Err(Violation::NotTowline),
    }
}

fn put_lanes(body: &mut BytesMut, lanes: &[LaneState; LANES]) {
    put_int(body, LANES as u64);
    for lane in lanes {
        put_int(body, lane.received);
        put_int(body, lane.limit);
    }
}

/// At least [`LANES`] lanes; more are read and ignored, which leaves room for later versions (S3.4).
fn lanes(fields: &mut Fields<'_>) -> Result<[LaneState; LANES], Violation> {
    let count = fields.int()?;
    if !(LANES as u64..=MAX_LISTED_LANES).contains(&count) {
        return Err(Violation::BadParameter);
    }
    let mut lanes = [LaneState::default(); LANES];
    for index in 0..count {
        let lane = LaneState { received: fields.int()?, limit: fields.int()? };
        if lane.limit < lane.received {
            return Err(Violation::BadParameter);
        }
        if let Some(slot) = lanes.get_mut(index as usize) {
            *slot = lane;
        }
    }
    Ok(lanes)
}

/// The server's side of a wire's beginning: takes octets until the HELLO is whole.
///
/// Give up on a wire that stays here longer than [`Config::handshake_timeout`](super::Config::handshake_timeout).
#[derive(Debug, Default)]
pub struct Handshake {
    partial: BytesMut,
}

impl Handshake {
    /// Nothing received yet.
    pub fn new() -> Handshake {
        Handshake::default()
    }

    /// Takes the next octets of the wire. `Some` with the HELLO and what came behind it, which goes to
    /// [`Session::handle_input`](super::Session::handle_input), or `None` when more is needed. What is kept is
    /// bounded by [`MAX_CONTROL`](super::MAX_CONTROL) and one input.
    ///
    /// # Errors
    /// The first rule broken, as early as the first octet: answer with [`Refusal::encode`] if at all, close.
    pub fn handle_input(&mut self, data: Bytes) -> Result<Option<(Hello, Bytes)>, Violation> {
        let fresh = self.partial.is_empty();
        if !fresh {
            self.partial.extend_from_slice(&data);
        }
        let seen = if fresh { &data[..] } else { &self.partial[..] };
        let Some((header, end)) = hello_in(seen)? else {
            if fresh {
                self.partial.extend_from_slice(&data);
            }
            return Ok(None);
        };
        let mut data = if fresh { data } else { std::mem::take(&mut self.partial).freeze() };
        let frame = data.split_to(end);
        let hello = Hello::decode(frame.get(header..).unwrap_or_default())?;
        Ok(Some((hello, data)))
    }
}

/// Where the body of the HELLO at the start of `seen` begins and ends, if it is whole.
fn hello_in(seen: &[u8]) -> Result<Option<(usize, usize)>, Violation> {
    // S2.1: said at the first octet, so that a peer of another protocol is not left waiting.
    if seen.first().is_some_and(|&first| first != kind::HELLO) {
        return Err(Violation::NotTowline);
    }
    let Some((_, header, len)) = decode_control(seen)? else { return Ok(None) };
    let body = seen.get(header..).unwrap_or_default();
    if body.iter().zip(&MAGIC).any(|(a, b)| a != b) {
        return Err(Violation::NotTowline);
    }
    Ok((body.len() >= len).then_some((header, header + len)))
}

impl Refusal {
    /// The REFUSE frame to answer a HELLO with, before the wire is closed (S3.7).
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_control(&mut out, kind::REFUSE, |body| {
            body.extend_from_slice(&MAGIC);
            put_reason(body, self.code, &self.reason);
        });
        out.freeze()
    }
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Refusal {
        Refusal { code: violation.code(), reason: violation.to_string() }
    }
}
