//! What a relay does for a flow: it takes packets from one hop, sees them over the other, and knows no key to what is in them.
//!
//! With feedback at each hop a relay answers for what it took: it keeps a packet until the next hop has it, and grants its neighbour
//! no more than it can keep. Without, it forgets what it sent, and adds combinations by the loss it measures.

mod arq;
mod config;
mod direction;
mod side;

#[cfg(test)]
mod tests;

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::control::{Frame, FrameReader, Open};
use super::flow::ConfigError;
use super::hop::Hop;
use super::wire::Packet;
pub use config::{RelayConfig, RelayDropped, RelayStats};
use direction::Direction;
use side::{Side, Tag};

/// Bytes of control frames that wait for a hop; what is more stays with the other one.
const MAX_CONTROL: usize = 64 * 1024;

/// One flow at a relay, between the hop towards the client (up) and the one towards the server (down).
///
/// Call [`drive`](Self::drive) whenever something may have happened on either hop and at [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct RelayFlow {
    config: RelayConfig,
    sides: [Side; 2],
    /// From up to down, and from down to up.
    directions: [Direction; 2],
    control: [BytesMut; 2],
    reader: Option<FrameReader>,
    open: Option<Open>,
    closed: bool,
}

impl RelayFlow {
    /// A relay's part of one flow.
    ///
    /// # Errors
    /// Names the first option that is out of range.
    pub fn new(config: RelayConfig, now: Instant) -> Result<RelayFlow, ConfigError> {
        config.check()?;
        Ok(RelayFlow {
            config,
            sides: [Side::new(now), Side::new(now)],
            directions: [Direction::new(config), Direction::new(config)],
            control: [BytesMut::new(), BytesMut::new()],
            reader: Some(FrameReader::default()),
            open: None,
            closed: false,
        })
    }

    /// What was done towards the server, and towards the client.
    pub fn stats(&self) -> [RelayStats; 2] {
        [self.directions[0].stats(), self.directions[1].stats()]
    }

    /// Whether an end said that the flow is over, and that was passed on.
    pub fn is_closed(&self) -> bool {
        self.closed && self.control.iter().all(BytesMut::is_empty)
    }

    /// The hop towards the client, or that towards the server (`down`), was replaced by another to the same neighbour, on which the control stream
    /// goes on where it was. Where it does not, the path begins anew, with new relays.
    pub fn handle_hop_changed(&mut self, now: Instant, down: bool) {
        let [up_side, down_side] = &mut self.sides;
        let [forward, backward] = &mut self.directions;
        let (side, out) = if down { (down_side, forward) } else { (up_side, backward) };
        side.on_hop_changed(now);
        out.on_hop_changed();
    }

    /// Takes what both hops have and gives them what they want.
    pub fn drive<U: Hop, D: Hop>(&mut self, now: Instant, up: &mut U, down: &mut D) {
        self.sides[0].path = up.path();
        self.sides[1].path = down.path();
        self.pump(now, 0, up, down);
        self.pump(now, 1, down, up);
        self.receive(now, 0, up);
        self.receive(now, 1, down);
        self.transmit(now, 0, up, down.max_packet());
        self.transmit(now, 1, down, up.max_packet());
    }

    /// When [`drive`](Self::drive) is due if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sides = self.sides.iter().map(Side::poll_timeout);
        let directions = self.directions.iter().zip(self.sides.iter().rev());
        let directions = directions.map(|(d, out)| d.poll_timeout().filter(|_| out.room_left));
        sides.chain(directions).flatten().min()
    }

    /// Moves control frames from one hop to the other.
    fn pump<A: Hop, B: Hop>(&mut self, now: Instant, from: usize, source: &mut A, target: &mut B) {
        while self.control[from].len() < MAX_CONTROL
            && let Some(data) = source.poll_control()
        {
            if from == 0 {
                self.listen(now, &data);
            }
            self.control[from].extend_from_slice(&data);
        }
        let waiting = &mut self.control[from];
        if !waiting.is_empty() {
            let taken = target.write_control(waiting).min(waiting.len());
            let _sent = waiting.split_to(taken);
        }
    }

    /// Learns the flow's parameters from the client's frames.
    fn listen(&mut self, now: Instant, data: &[u8]) {
        let Some(reader) = &mut self.reader else { return };
        reader.push(data);
        loop {
            match reader.poll() {
                Ok(None) => return,
                Ok(Some(Frame::Open(open))) if self.open.is_none() => {
                    self.open = Some(open);
                    let [forward, backward] = &mut self.directions;
                    let [up, down] = &self.sides;
                    forward.begin(now, &open, &down.path);
                    backward.begin(now, &open, &up.path);
                }
                Ok(Some(Frame::Close { .. })) => self.closed = true,
                Ok(Some(_)) => {}
                // The server will refuse it; there is nothing more to learn.
                Err(_) => {
                    self.reader = None;
                    return;
                }
            }
        }
    }

    fn receive<H: Hop>(&mut self, now: Instant, from: usize, hop: &mut H) {
        while let Some(data) = hop.poll_packet() {
            self.on_packet(now, from, data);
        }
        while let Some(fate) = hop.poll_fate() {
            let side = &mut self.sides[from];
            // What leaves on this hop comes from the other one.
            if let Tag::Packet(place) = side.on_fate(now, fate) {
                self.directions[1 - from].on_fate(place, fate.outcome, &side.path);
            }
        }
    }

    fn on_packet(&mut self, now: Instant, from: usize, data: Bytes) {
        let direction = &mut self.directions[from];
        direction.on_received();
        match Packet::parse(data.clone()) {
            Err(_) => direction.on_malformed(),
            Ok(Packet::Report(report)) => {
                direction.on_report();
                self.sides[1 - from].on_report(now, report.serial, data);
            }
            // One receiver is behind a relay, so the latest counts here too.
            Ok(Packet::Done(done)) => {
                direction.on_report();
                self.sides[1 - from].on_report(now, done.serial, data);
            }
            Ok(Packet::Credit(credit)) => self.sides[from].on_credit(now, &credit),
            Ok(Packet::Part(part)) => match self.sides[from].pieces.push(part) {
                Some(whole) if whole.first().is_some_and(|first| first >> 5 <= 1) => {
                    self.on_packet(now, from, whole);
                }
                Some(_) => direction.on_malformed(),
                None => {}
            },
            Ok(packet) => {
                let path = self.sides[1 - from].path;
                direction.on_packet(now, packet, data, &path);
            }
        }
    }

    /// Sends on hop `to` what came from the other one, and grants its neighbour what can be kept.
    fn transmit<H: Hop>(&mut self, now: Instant, to: usize, hop: &mut H, other_max: usize) {
        let other = self.sides[1 - to].path;
        let max_packet = other_max.min(self.sides[1 - to].max_packet);
        let window = self.window(&other, &self.sides[to].path.clone());
        let limit = self.directions[to].limit(window).unwrap_or(0);
        let side = &mut self.sides[to];
        side.transmit(now, hop, limit, max_packet);
        let direction = &mut self.directions[1 - to];
        let mut room = hop.room(now);
        let limit = side.limit(direction.first());
        while room > 0 {
            let Some(out) = direction.poll(now, limit, &side.path) else { break };
            let place = out.place;
            let pieces = side.send(now, hop, out);
            if let Some(place) = place {
                direction.on_sent(place, pieces);
            }
            room = room.saturating_sub(usize::from(pieces.max(1)));
        }
        side.room_left = room > 0;
    }

    /// Packets that may be kept of what comes from one hop for the other: enough to keep that one busy for as long as it takes to
    /// learn what arrived there and to be sent more.
    fn window(&self, out: &super::hop::Path, input: &super::hop::Path) -> u64 {
        let wait =
            2.5 * (out.rtt + input.rtt).as_secs_f64() + (out.pause + input.pause).as_secs_f64();
        let packets = out.rate as f64 * wait / 1200.0;
        (packets as u64 + 64).min(self.config.max_packets as u64)
    }
}
