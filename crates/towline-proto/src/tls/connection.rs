//! rustls' connection, its input that is not consumed yet, and the walk through its states.

use super::Error;
use super::error;
use super::outbox::Outbox;
use bytes::{Buf, Bytes, BytesMut};
use rustls::CommonState;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus, WriteTraffic};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Type, version and length before each record (RFC 8446 section 5.1).
const HEADER_LEN: usize = 5;
/// Largest plaintext of a record (section 5.1): rustls makes one record of so much.
const MAX_PLAINTEXT: usize = 1 << 14;
/// Largest record that rustls takes, header included.
pub(super) const MAX_RECORD: usize = HEADER_LEN + MAX_PLAINTEXT + 2048;
/// What TLS 1.3 adds to the plaintext of a record: header, type and tag. rustls says when it wants more, for TLS 1.2 or a key update in front.
const OVERHEAD: usize = HEADER_LEN + 1 + 16;

/// A rustls connection of either role, and what it has not consumed.
///
/// rustls remembers places in its unconsumed input (of a handshake message whose rest is missing), and panics when that is shorter the next time. So
/// all of it is always passed, and once rustls has reported an error, which leaves those places stale, no input is passed at all.
pub(super) struct Connection {
    role: Role,
    input: BytesMut,
    /// The input is the receive buffer itself, rather than a copy of its last bytes.
    borrowed: bool,
    closed: bool,
}

enum Role {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What rustls wants next.
pub(super) enum Step {
    Again,
    Blocked,
    PeerClosed,
}

/// Where plaintext goes.
pub(super) struct Opened<'a> {
    /// The caller's own memory, and how much is to go there before anything else.
    direct: Option<(&'a mut BytesMut, usize)>,
    plaintext: BytesMut,
    /// The plaintext cannot be longer.
    ciphertext: usize,
    /// Stop behind each record that does not go to the caller's memory, or fills it.
    by_record: bool,
}

impl<'a> Opened<'a> {
    /// For all the plaintext of so much ciphertext.
    pub(super) fn new(ciphertext: usize) -> Self {
        Self { direct: None, plaintext: BytesMut::new(), ciphertext, by_record: false }
    }

    /// For as little as can be told about, after so much to `direct`.
    pub(super) fn by_record(direct: Option<(&'a mut BytesMut, usize)>) -> Self {
        Self { direct, by_record: true, ..Self::new(0) }
    }

    fn push(&mut self, plaintext: &[u8]) {
        let mut rest = plaintext;
        if let Some((direct, want)) = &mut self.direct {
            let (here, behind) = rest.split_at_checked(*want).unwrap_or((rest, &[]));
            direct.extend_from_slice(here);
            *want -= here.len();
            rest = behind;
        }
        if rest.is_empty() {
            return;
        }
        if self.plaintext.is_empty() {
            let more = self.ciphertext.saturating_sub(rest.len());
            // Exact when there is but one record.
            self.plaintext.reserve(rest.len() + if more > 2 * OVERHEAD { more } else { 0 });
        }
        self.plaintext.extend_from_slice(rest);
    }

    /// Whether the caller is to look before more is opened.
    pub(super) fn is_enough(&self) -> bool {
        self.by_record
            && (!self.plaintext.is_empty() || matches!(self.direct, Some((_, want)) if want == 0))
    }

    pub(super) fn discard(&mut self) {
        self.plaintext.clear();
    }

    pub(super) fn take(self) -> Option<Bytes> {
        (!self.plaintext.is_empty()).then(|| self.plaintext.freeze())
    }
}

impl From<UnbufferedClientConnection> for Connection {
    fn from(client: UnbufferedClientConnection) -> Self {
        Self::new(Role::Client(client))
    }
}

impl From<UnbufferedServerConnection> for Connection {
    fn from(server: UnbufferedServerConnection) -> Self {
        Self::new(Role::Server(server))
    }
}

impl Connection {
    fn new(role: Role) -> Self {
        Self { role, input: BytesMut::new(), borrowed: false, closed: false }
    }

    pub(super) fn common(&self) -> &CommonState {
        match &self.role {
            Role::Client(client) => client,
            Role::Server(server) => server,
        }
    }

    /// Received bytes that are kept because they are not consumed.
    pub(super) fn buffered(&self) -> usize {
        self.input.len()
    }

    /// Takes of `input` what is to be looked at next: to a begun record its rest, so that whole ones are decrypted where they were received.
    pub(super) fn append(&mut self, input: &mut BytesMut) {
        if self.input.is_empty() {
            self.input = std::mem::take(input);
            self.borrowed = true;
            return;
        }
        let missing = match record_len(&self.input) {
            None => HEADER_LEN.saturating_sub(self.input.len()),
            // A lying length ends at rustls, which sees the header by itself first.
            Some(length) if length > self.input.len() => length - self.input.len(),
            // The front is a piece of a handshake message, seen already.
            Some(_) => input.len(),
        };
        let taken = input.split_to(missing.min(input.len()));
        self.input.extend_from_slice(&taken);
    }

    /// Copies what is left of an input, so that a few bytes do not hold a whole receive buffer.
    pub(super) fn settle(&mut self) {
        if !std::mem::take(&mut self.borrowed) && !self.input.is_empty() {
            return;
        }
        let begun = record_len(&self.input).unwrap_or(0).min(MAX_RECORD);
        let mut own = BytesMut::with_capacity(begun.max(self.input.len()));
        own.extend_from_slice(&self.input);
        self.input = own;
    }

    /// Lets rustls work until it has something to say.
    pub(super) fn step(
        &mut self,
        outbox: &mut Outbox,
        opened: &mut Opened<'_>,
    ) -> Result<Step, rustls::Error> {
        if !self.closed {
            return self.advance(outbox, opened);
        }
        // rustls asserts, in builds with debug assertions, that it sends one last alert at most, and its own close_notify counts: a bad record that comes
        // after it would panic. The connection is over in any case, and not used again after an error.
        catch_unwind(AssertUnwindSafe(|| self.advance(outbox, opened)))
            .unwrap_or(Err(rustls::Error::DecryptError))
    }

    fn advance(
        &mut self,
        outbox: &mut Outbox,
        opened: &mut Opened<'_>,
    ) -> Result<Step, rustls::Error> {
        let (discard, step) = match &mut self.role {
            Role::Client(client) => {
                step(client.process_tls_records(&mut self.input), outbox, opened)
            }
            Role::Server(server) => {
                step(server.process_tls_records(&mut self.input), outbox, opened)
            }
        };
        self.input.advance(discard.min(self.input.len()));
        step
    }

    /// Takes out what rustls still has to say after a failure: the alert. That is done before any input is looked at.
    pub(super) fn flush(&mut self, outbox: &mut Outbox) {
        while self.common().wants_write() && self.advance(outbox, &mut Opened::new(0)).is_ok() {}
    }

    /// Encrypts `plaintext` as one run of bytes.
    pub(super) fn seal(&mut self, plaintext: &[Bytes], outbox: &mut Outbox) -> Result<(), Error> {
        let (discard, sealed) = match &mut self.role {
            Role::Client(client) => {
                write(client.process_tls_records(&mut self.input), |w| seal(w, plaintext, outbox))
            }
            Role::Server(server) => {
                write(server.process_tls_records(&mut self.input), |w| seal(w, plaintext, outbox))
            }
        };
        self.input.advance(discard.min(self.input.len()));
        sealed
    }

    /// Says `close_notify`.
    pub(super) fn close(&mut self, outbox: &mut Outbox) -> Result<(), Error> {
        self.closed = true;
        let (discard, closed) = match &mut self.role {
            Role::Client(client) => write(client.process_tls_records(&mut self.input), |mut w| {
                outbox.write(OVERHEAD, 0, |buffer| w.queue_close_notify(buffer))
            }),
            Role::Server(server) => write(server.process_tls_records(&mut self.input), |mut w| {
                outbox.write(OVERHEAD, 0, |buffer| w.queue_close_notify(buffer))
            }),
        };
        self.input.advance(discard.min(self.input.len()));
        closed
    }
}

/// The length of the record at the front of `bytes`, header included, once its header is there. Decides only how much is copied.
fn record_len(bytes: &[u8]) -> Option<usize> {
    let [_, _, _, high, low] = bytes.first_chunk::<HEADER_LEN>()?;
    Some(HEADER_LEN + usize::from(u16::from_be_bytes([*high, *low])))
}

/// Writes when rustls is ready for it; how many input bytes are done with besides. `step` has brought it there: nothing but its being closed stands
/// against it.
fn write<'c, D>(
    status: UnbufferedStatus<'c, '_, D>,
    write: impl FnOnce(WriteTraffic<'c, D>) -> Result<(), Error>,
) -> (usize, Result<(), Error>) {
    let written = match status.state {
        Ok(ConnectionState::WriteTraffic(traffic)) => write(traffic),
        Ok(_) => Err(Error::NotWritable { reason: "the TLS connection is closed or not ready" }),
        Err(error) => Err(error::from_records(&error)),
    };
    (status.discard, written)
}

/// As few records as hold `plaintext`: large pieces from where they are, small ones gathered.
fn seal<D>(
    mut traffic: WriteTraffic<'_, D>,
    plaintext: &[Bytes],
    outbox: &mut Outbox,
) -> Result<(), Error> {
    let total: usize = plaintext.iter().map(Bytes::len).sum();
    outbox.reserve(total.saturating_add(OVERHEAD * total.div_ceil(MAX_PLAINTEXT)));
    let mut record = |data: &[u8]| {
        outbox.write(data.len() + OVERHEAD, data.len(), |buffer| traffic.encrypt(data, buffer))
    };
    let mut gathered = Vec::new();
    let mut left = total;
    for piece in plaintext {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let n = rest.len().min(MAX_PLAINTEXT.saturating_sub(gathered.len()));
            let (data, behind) = rest.split_at_checked(n).unwrap_or((rest, &[]));
            rest = behind;
            left = left.saturating_sub(n);
            if gathered.is_empty() && (n == MAX_PLAINTEXT || left == 0) {
                record(data)?;
                continue;
            }
            if gathered.is_empty() {
                gathered.reserve_exact(n.saturating_add(left).min(MAX_PLAINTEXT));
            }
            gathered.extend_from_slice(data);
            if gathered.len() == MAX_PLAINTEXT || left == 0 {
                record(&gathered)?;
                gathered.clear();
            }
        }
    }
    Ok(())
}

/// Handles one state of rustls; how many input bytes are done with, and what is next.
fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    outbox: &mut Outbox,
    opened: &mut Opened<'_>,
) -> (usize, Result<Step, rustls::Error>) {
    let mut discard = status.discard;
    let step = match status.state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => outbox
            .write(0, 0, |buffer| match data.encode(buffer) {
                Ok(written) => Ok(written),
                Err(EncodeError::InsufficientSize(needed)) => {
                    Err(rustls::unbuffered::EncryptError::InsufficientSize(needed))
                }
                Err(EncodeError::AlreadyEncoded) => Ok(0),
            })
            .map(|()| Step::Again)
            .map_err(|error| rustls::Error::General(error.to_string())),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut result = Ok(Step::Again);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        opened.push(record.payload);
                    }
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            result
        }
        Ok(
            ConnectionState::BlockedHandshake
            | ConnectionState::WriteTraffic(_)
            | ConnectionState::Closed,
        ) => Ok(Step::Blocked),
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        // Early data is never offered or accepted.
        Ok(_) => Err(rustls::Error::General("an unexpected state of the TLS library".to_owned())),
        Err(error) => Err(error),
    };
    (discard, step)
}
