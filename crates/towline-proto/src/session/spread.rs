//! A wire of several streams: frames of each lane on a stream of their own, control frames on the main one (docs/quic.md).
//!
//! A session needs the order within each lane, and that of control frames behind what was sent before them (S1.3, S6.1); it does
//! not need an order between lanes. So a transport with streams can carry each lane by itself, and what is lost on one
//! holds up no other. [`Spreader`] takes a session's octets apart at the sender; [`Gatherer`] puts whole frames together again
//! at the receiver, in an order that a single stream could have had. Both only look at where frames begin and end.

use bytes::{Buf, Bytes};

use super::frame::{
    Fields, MAX_CONTROL_HEADER, MAX_DATA_HEADER, Violation, decode_control, decode_data, is_data,
    kind,
};
use super::message::{LANES, Lane};
use crate::varint;

/// The control frame of this layer, on the main stream only: how many octets of each lane's stream come before what follows.
/// A receiver without this layer would skip it (S2.6).
const MARK: u8 = 64;

/// What a frame is, as far as the layer cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data(Lane),
    Control(u8),
}

/// A part of one frame at the front of what was looked at.
#[derive(Clone, Copy, Debug)]
struct Piece {
    kind: Kind,
    len: usize,
    starts: bool,
    ends: bool,
}

/// Finds where frames end in a stream of octets that comes in parts.
#[derive(Debug)]
struct Frames {
    /// The first octets of a frame whose header is not whole.
    header: [u8; MAX_DATA_HEADER],
    have: usize,
    /// Octets of the present frame that are still to come, once its header is whole.
    left: usize,
    kind: Option<Kind>,
}

impl Default for Frames {
    fn default() -> Self {
        Frames { header: [0; MAX_DATA_HEADER], have: 0, left: 0, kind: None }
    }
}

impl Frames {
    /// The piece at the front of `data`, which is not empty.
    fn next(&mut self, data: &[u8]) -> Result<Piece, Violation> {
        if let Some(kind) = self.kind {
            return Ok(self.body(kind, data.len(), 0, false));
        }
        let starts = self.have == 0;
        let before = self.have;
        for (place, octet) in self.header.iter_mut().skip(before).zip(data) {
            *place = *octet;
            self.have += 1;
        }
        let header = self.header.get(..self.have).unwrap_or_default();
        let Some((kind, header, body)) = header_of(header)? else {
            // The longest header would be whole.
            return Ok(Piece { kind: self.first(), len: self.have - before, starts, ends: false });
        };
        self.have = 0;
        let used = header.saturating_sub(before);
        self.left = body;
        Ok(self.body(kind, data.len() - used.min(data.len()), used, starts))
    }

    /// What begins with the first octet kept.
    fn first(&self) -> Kind {
        let first = self.header.first().copied().unwrap_or_default();
        match Lane::new(first & 0x07).filter(|_| is_data(first)) {
            Some(lane) => Kind::Data(lane),
            None => Kind::Control(first),
        }
    }

    fn body(&mut self, kind: Kind, available: usize, before: usize, starts: bool) -> Piece {
        let taken = self.left.min(available);
        self.left -= taken;
        let ends = self.left == 0;
        self.kind = (!ends).then_some(kind);
        Piece { kind, len: before + taken, starts, ends }
    }
}

/// Kind, header's and body's octets of the frame that begins here; `None` while the header is not whole.
fn header_of(data: &[u8]) -> Result<Option<(Kind, usize, usize)>, Violation> {
    let Some(&first) = data.first() else { return Ok(None) };
    if is_data(first) {
        let header = decode_data(data)?;
        return Ok(header.map(|header| (Kind::Data(header.lane), header.header, header.len)));
    }
    let header = decode_control(data.get(..MAX_CONTROL_HEADER).unwrap_or(data))?;
    Ok(header.map(|(kind, header, body)| (Kind::Control(kind), header, body)))
}

/// Which stream of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strand {
    /// The one that the client opened first: control frames, and lanes without a stream.
    Main,
    /// A lane's own.
    Lane(Lane),
}

/// Takes a session's octets apart by lane.
#[derive(Debug, Default)]
pub struct Spreader {
    frames: Frames,
    /// Whether a lane has a stream, once it has sent something.
    spread: [Option<bool>; LANES],
    sent: [u64; LANES],
    marked: [u64; LANES],
    /// Octets that are no frames: they are somebody else's affair, on the main stream.
    lost: bool,
}

impl Spreader {
    /// Takes the next octets of the wire. `opens` is asked once per lane whether it gets a stream of its own.
    pub fn push(
        &mut self,
        mut data: Bytes,
        mut opens: impl FnMut(Lane) -> bool,
        mut out: impl FnMut(Strand, Bytes),
    ) {
        let mut run = None;
        let mut at = 0;
        while let Some(ahead) = data.get(at..).filter(|ahead| !ahead.is_empty()) {
            let piece = match self.frames.next(ahead) {
                Ok(piece) if !self.lost => piece,
                _ => {
                    self.lost = true;
                    Piece { kind: Kind::Control(0), len: ahead.len(), starts: false, ends: false }
                }
            };
            let strand = match piece.kind {
                Kind::Data(lane) => {
                    let spread = self.spread.get_mut(lane.index());
                    let opened = spread.is_some_and(|s| *s.get_or_insert_with(|| opens(lane)));
                    if opened { Strand::Lane(lane) } else { Strand::Main }
                }
                Kind::Control(_) => Strand::Main,
            };
            let marks = piece.starts && piece.kind.is_held() && self.sent != self.marked;
            if let Some(before) = run.filter(|before| *before != strand || marks) {
                out(before, data.split_to(at));
                at = 0;
            }
            if marks {
                out(Strand::Main, self.mark());
            }
            if let Strand::Lane(lane) = strand
                && let Some(sent) = self.sent.get_mut(lane.index())
            {
                *sent += piece.len as u64;
            }
            run = Some(strand);
            at += piece.len;
        }
        if let Some(strand) = run {
            out(strand, data);
        }
    }

    /// The end of the main stream is next: what has to stand before it.
    pub fn finish(&mut self) -> Option<Bytes> {
        (self.sent != self.marked).then(|| self.mark())
    }

    fn mark(&mut self) -> Bytes {
        self.marked = self.sent;
        let mut body = [0; LANES * varint::MAX_LEN];
        let mut length = 0;
        for sent in self.sent {
            length += varint::write(sent, body.get_mut(length..).unwrap_or_default());
        }
        let mut frame = Vec::with_capacity(2 + length);
        // Below 64, so that the length is one octet.
        frame.extend([MARK, length as u8]);
        frame.extend(body.iter().take(length));
        frame.into()
    }
}

impl Kind {
    /// Whether a control frame must not overtake what was sent before it: a PING asks for the acknowledgement of everything
    /// before it (S7.8), and nothing may follow CLOSE (S8.3). Acknowledgements and answers refer to the other direction.
    fn is_held(self) -> bool {
        !matches!(self, Kind::Data(_) | Kind::Control(kind::ACK | kind::PONG | MARK))
    }
}

/// One stream on its way to being whole frames.
#[derive(Debug, Default)]
struct Inflow {
    frames: Frames,
    /// A frame that is not whole, at most [`MAX_FRAGMENT`](super::MAX_FRAGMENT) and a header.
    held: Vec<Bytes>,
    /// A mark that is not whole.
    mark: Vec<u8>,
    /// The lane that all of its frames are of; the main stream has none.
    lane: Option<Lane>,
}

impl Inflow {
    /// Gives out whole frames, and keeps what is not. Stops behind a mark, and gives its body.
    fn take(
        &mut self,
        data: &mut Bytes,
        own: bool,
        out: &mut impl FnMut(Bytes),
    ) -> Result<(usize, Option<Vec<u8>>), Violation> {
        let (mut at, mut whole) = (0, 0);
        let mut mark = None;
        while let Some(ahead) = data.get(at..).filter(|ahead| !ahead.is_empty()) {
            let piece = self.frames.next(ahead)?;
            match piece.kind {
                Kind::Data(lane) if own && *self.lane.get_or_insert(lane) != lane => {
                    return Err(Violation::NoSuchLane(lane.index() as u64));
                }
                Kind::Control(kind) if own => return Err(Violation::UnexpectedFrame(kind)),
                Kind::Control(MARK) => {
                    self.mark.extend(ahead.iter().take(piece.len));
                    if piece.ends {
                        mark = Some(std::mem::take(&mut self.mark));
                    }
                    // What stands before it is whole.
                    self.give(data, at, out);
                    data.advance(piece.len);
                    let given = at;
                    (at, whole) = (0, 0);
                    if mark.is_some() {
                        return Ok((given, mark));
                    }
                    continue;
                }
                _ => {}
            }
            at += piece.len;
            if piece.ends {
                whole = at;
            }
        }
        let mut given = 0;
        if whole > 0 {
            given = whole + self.held.iter().map(Bytes::len).sum::<usize>();
            self.give(data, whole, out);
        }
        if !data.is_empty() {
            self.held.push(std::mem::take(data));
        }
        Ok((given, mark))
    }

    fn give(&mut self, data: &mut Bytes, whole: usize, out: &mut impl FnMut(Bytes)) {
        if whole > 0 {
            self.held.drain(..).for_each(&mut *out);
            out(data.split_to(whole));
        }
    }
}

/// Puts the frames of several streams together: whole ones, those of a lane in their order, and control frames behind what they
/// must not overtake.
#[derive(Debug, Default)]
pub struct Gatherer {
    main: Inflow,
    lanes: [Inflow; LANES],
    given: [u64; LANES],
    /// What the main stream has to wait for.
    waits: Option<[u64; LANES]>,
    /// What came on the main stream behind that.
    behind: Vec<Bytes>,
    greeted: bool,
}

impl Gatherer {
    /// Whether the main stream is to be read now: not while it waits for a lane.
    pub fn takes_main(&self) -> bool {
        self.waits.is_none()
    }

    /// Whether lanes are to be read now: not before the greeting, which is the first frame (S2.1).
    pub fn takes_lanes(&self) -> bool {
        self.greeted
    }

    /// Whether everything that came on the main stream has been given out.
    pub fn is_through(&self) -> bool {
        self.waits.is_none() && self.behind.is_empty()
    }

    /// Takes octets of the main stream.
    ///
    /// # Errors
    /// They are no frames.
    pub fn main(&mut self, data: Bytes, mut out: impl FnMut(Bytes)) -> Result<(), Violation> {
        self.behind.push(data);
        self.advance(&mut out)
    }

    /// Takes octets of the how-manieth stream for a lane, below [`LANES`].
    ///
    /// # Errors
    /// They are no frames of one lane, which no other stream has.
    pub fn lane(
        &mut self,
        stream: usize,
        mut data: Bytes,
        mut out: impl FnMut(Bytes),
    ) -> Result<(), Violation> {
        let none = || Violation::NoSuchLane(stream as u64);
        let inflow = self.lanes.get_mut(stream).ok_or_else(none)?;
        let (given, _) = inflow.take(&mut data, true, &mut out)?;
        let Some(lane) = inflow.lane else { return Ok(()) };
        if self.lanes.iter().filter(|inflow| inflow.lane == Some(lane)).count() > 1 {
            return Err(Violation::NoSuchLane(lane.index() as u64));
        }
        if let Some(count) = self.given.get_mut(lane.index()) {
            *count += given as u64;
        }
        self.advance(&mut out)
    }

    fn advance(&mut self, out: &mut impl FnMut(Bytes)) -> Result<(), Violation> {
        let mut behind = std::mem::take(&mut self.behind).into_iter();
        let mut next = None;
        loop {
            if let Some(wanted) = self.waits {
                if self.given.iter().zip(&wanted).any(|(given, wanted)| given < wanted) {
                    self.behind.extend(next.into_iter().chain(behind));
                    return Ok(());
                }
                self.waits = None;
            }
            let Some(mut data) = next.take().or_else(|| behind.next()) else { return Ok(()) };
            let greeted = &mut self.greeted;
            let (_, mark) = self.main.take(&mut data, false, &mut |whole| {
                *greeted = true;
                out(whole);
            })?;
            if let Some(mark) = mark {
                self.waits = Some(positions(&mark)?);
            }
            next = (!data.is_empty()).then_some(data);
        }
    }
}

/// The body of a mark.
fn positions(frame: &[u8]) -> Result<[u64; LANES], Violation> {
    let Some((_, header, _)) = decode_control(frame)? else {
        return Err(Violation::MalformedControl(MARK));
    };
    let mut fields = Fields::new(MARK, frame.get(header..).unwrap_or_default());
    let mut wanted = [0; LANES];
    for wanted in &mut wanted {
        *wanted = fields.int()?;
    }
    Ok(wanted)
}
