//! A hop for tests: a fixed rate, a delay, losses, and fates one round trip later, in virtual time.

use std::cell::RefCell;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::hop::{Fate, Hop, Outcome, Packet, Path};

/// What a toy link does, both ways.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ToyLink {
    pub(crate) rate: u64,
    pub(crate) delay: Duration,
    pub(crate) loss: f64,
    pub(crate) max_packet: usize,
}

impl ToyLink {
    pub(crate) fn new(rate_mbps: u64, delay_ms: u64, loss: f64) -> ToyLink {
        let delay = Duration::from_millis(delay_ms);
        ToyLink { rate: rate_mbps * 125_000, delay, loss, max_packet: 1440 }
    }
}

/// xorshift64*, enough to lose packets by.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        ((self.word() >> 11) as f64 / (1u64 << 53) as f64) < p
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.word() % n.max(1)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Item {
    Packet(Bytes),
    Control(Bytes),
    Fate(u64, bool),
}

#[derive(Debug, PartialEq, Eq)]
struct Due {
    at: Instant,
    order: u64,
    side: usize,
    item: Item,
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Debug, Default)]
struct Side {
    packets: VecDeque<Bytes>,
    control: VecDeque<Bytes>,
    fates: VecDeque<Fate>,
    /// When the link has sent what was queued.
    free: Option<Instant>,
}

/// Both ends of a hop.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) link: ToyLink,
    dice: Dice,
    due: BinaryHeap<Due>,
    order: u64,
    sides: [Side; 2],
    /// Nothing passes.
    pub(crate) dead: bool,
    /// Flips a bit of a symbol now and then.
    pub(crate) forge: f64,
}

pub(crate) type Shared = Rc<RefCell<Wire>>;

/// One end.
#[derive(Clone, Debug)]
pub(crate) struct ToyHop {
    pub(crate) wire: Shared,
    side: usize,
    now: Instant,
}

pub(crate) fn hop(link: ToyLink, seed: u64, now: Instant) -> (ToyHop, ToyHop) {
    let wire = Rc::new(RefCell::new(Wire {
        link,
        dice: Dice::new(seed),
        due: BinaryHeap::new(),
        order: 0,
        sides: Default::default(),
        dead: false,
        forge: 0.0,
    }));
    (ToyHop { wire: wire.clone(), side: 0, now }, ToyHop { wire, side: 1, now })
}

impl Wire {
    fn push(&mut self, at: Instant, side: usize, item: Item) {
        self.order += 1;
        self.due.push(Due { at, order: self.order, side, item });
    }

    /// When something arrives next, or room comes up for a side that is busy.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let free = self.sides.iter().filter_map(|side| side.free).map(|free| free - ToyHop::WAKE);
        let free = free.filter(|&at| at > now).min();
        [self.due.peek().map(|due| due.at), free].into_iter().flatten().min()
    }

    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some(due) = self.due.peek()
            && due.at <= now
        {
            let Some(due) = self.due.pop() else { break };
            let side = &mut self.sides[due.side];
            match due.item {
                Item::Packet(data) => side.packets.push_back(data),
                Item::Control(data) => side.control.push_back(data),
                Item::Fate(tag, arrived) => {
                    let outcome = if arrived { Outcome::Arrived } else { Outcome::Lost };
                    side.fates.push_back(Fate { tag, outcome });
                }
            }
        }
    }
}

impl ToyHop {
    /// How long packets may wait in the hop.
    const QUEUE: Duration = Duration::from_micros(300);
    /// How long before the queue is empty there is room again.
    const WAKE: Duration = Duration::from_micros(299);
    /// What each packet costs beyond its own bytes.
    const OVERHEAD: usize = 66;

    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }
}

impl Hop for ToyHop {
    fn max_packet(&self) -> usize {
        self.wire.borrow().link.max_packet
    }

    fn room(&mut self, now: Instant) -> usize {
        let wire = self.wire.borrow();
        let packet = (wire.link.max_packet + ToyHop::OVERHEAD) as f64 / wire.link.rate as f64;
        let free = wire.sides[self.side].free.unwrap_or(now).max(now);
        let left = (now + ToyHop::QUEUE).saturating_duration_since(free).as_secs_f64();
        (left / packet).ceil() as usize
    }

    fn send(&mut self, now: Instant, packet: Packet) {
        let mut wire = self.wire.borrow_mut();
        let wire = &mut *wire;
        let bytes = packet.data.len() + ToyHop::OVERHEAD;
        assert!(packet.data.len() <= wire.link.max_packet, "a packet of {bytes} bytes");
        let side = &mut wire.sides[self.side];
        let start = side.free.unwrap_or(now).max(now);
        let end = start + Duration::from_secs_f64(bytes as f64 / wire.link.rate as f64);
        side.free = Some(end);
        let arrived = !wire.dead && !wire.dice.chance(wire.link.loss);
        let at = end + wire.link.delay;
        if arrived {
            let mut data = packet.data;
            if wire.forge > 0.0 && data[0] >> 5 <= 1 && wire.dice.chance(wire.forge) {
                let mut copy = data.to_vec();
                let place = 4 + wire.dice.below(copy.len() as u64 - 5) as usize;
                copy[place] ^= 1 << wire.dice.below(8);
                data = copy.into();
            }
            wire.push(at, 1 - self.side, Item::Packet(data));
        }
        // An acknowledgement waits up to a few milliseconds, a loss is found somewhat later.
        let extra = Duration::from_millis(if arrived { 2 } else { 4 });
        wire.push(at + wire.link.delay + extra, self.side, Item::Fate(packet.tag, arrived));
    }

    fn poll_packet(&mut self) -> Option<Bytes> {
        self.wire.borrow_mut().sides[self.side].packets.pop_front()
    }

    fn poll_fate(&mut self) -> Option<Fate> {
        self.wire.borrow_mut().sides[self.side].fates.pop_front()
    }

    fn write_control(&mut self, data: &[u8]) -> usize {
        let mut wire = self.wire.borrow_mut();
        if wire.dead {
            return 0;
        }
        let at = self.now + wire.link.delay;
        wire.push(at, 1 - self.side, Item::Control(Bytes::copy_from_slice(data)));
        data.len()
    }

    fn poll_control(&mut self) -> Option<Bytes> {
        self.wire.borrow_mut().sides[self.side].control.pop_front()
    }

    fn path(&self) -> Path {
        let wire = self.wire.borrow();
        let rtt = wire.link.delay * 2 + Duration::from_millis(2);
        Path {
            rtt,
            min_rtt: rtt,
            pause: Duration::ZERO,
            loss: wire.link.loss,
            burst: 1.0,
            rate: wire.link.rate,
        }
    }
}
