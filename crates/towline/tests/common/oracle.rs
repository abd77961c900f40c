//! Random messages, and whether what was delivered is what was accepted: per lane, in order, exactly once.

use std::time::Instant;

use bytes::Bytes;
use towline::{Connection, Lane, Message};

use super::{PATIENCE, Random};

/// What is compared: id, size and digest of each message, by lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    lanes: [Vec<(u64, usize, u64)>; 4],
}

impl Log {
    pub fn note(&mut self, message: &Message) {
        let id = message.id.expect("a message that was sent has an id").0;
        let entry = (id, message.data.len(), digest(&message.data));
        self.lanes[message.lane.index()].push(entry);
    }

    pub fn len(&self) -> usize {
        self.lanes.iter().map(Vec::len).sum()
    }

    /// Fails with the first difference, not with everything.
    pub fn assert_same(&self, delivered: &Log, what: &str) {
        for (lane, (accepted, delivered)) in self.lanes.iter().zip(&delivered.lanes).enumerate() {
            let differs = accepted.iter().zip(delivered).position(|(a, d)| a != d);
            if let Some(at) = differs {
                panic!("{what}, lane {lane}, {at}: {:?} became {:?}", accepted[at], delivered[at]);
            }
            assert_eq!(accepted.len(), delivered.len(), "{what}: messages on lane {lane}");
        }
    }
}

fn digest(data: &[u8]) -> u64 {
    let mut words = data.chunks_exact(8);
    let mut hash = data.len() as u64 ^ 0xcbf2_9ce4_8422_2325;
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().unwrap());
        hash = (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    for byte in words.remainder() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    hash
}

/// A message of mostly small, sometimes large size on a random lane.
pub fn message(random: &mut Random, largest: u64) -> Message {
    let size = match random.below(100) {
        0..5 => 0,
        5..70 => random.below(300),
        70..90 => random.below(5000),
        90..98 => random.below(100_000),
        _ => random.below(largest),
    };
    let size = size.min(largest) as usize;
    // A random window of one pattern: each message differs, and making it costs little.
    let mut data = Vec::with_capacity(size);
    let mut word = random.next();
    while data.len() < size {
        let take = (size - data.len()).min(8);
        data.extend_from_slice(&word.to_le_bytes()[..take]);
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
    Message::new(Bytes::from(data)).on(Lane::ALL[random.below(4) as usize])
}

/// Sends until `more` says no; returns what was accepted.
pub fn send(
    connection: &Connection,
    mut random: Random,
    largest: u64,
    mut more: impl FnMut(usize) -> bool,
) -> Log {
    let mut log = Log::default();
    while more(log.len()) {
        let mut message = message(&mut random, largest);
        let id = connection.send_blocking(message.clone()).unwrap();
        message.id = Some(id);
        log.note(&message);
    }
    log
}

/// Receives until an empty message on the urgent lane with reply-to `END` comes: the last one that the other side sends.
pub fn receive(connection: &Connection) -> Log {
    let mut log = Log::default();
    loop {
        connection.set_read_deadline(Some(Instant::now() + PATIENCE));
        let message = connection
            .recv_blocking()
            .unwrap_or_else(|error| panic!("after {} messages: {error}", log.len()));
        if message.reply_to == Some(END) {
            connection.set_read_deadline(None);
            return log;
        }
        log.note(&message);
    }
}

/// Marks the last message.
pub const END: towline::MessageId = towline::MessageId(0x3fff_ffff_ffff_fff0);

/// Sends the mark when everything before has been acknowledged, so that no lane is behind it.
pub fn finish(connection: &Connection) {
    connection.flush_blocking().unwrap();
    let mut mark = Message::new("");
    mark.reply_to = Some(END);
    connection.send_blocking(mark).unwrap();
}

/// Both ends send `count` random messages at once and get everything that the other sent.
pub fn exchange(a: &Connection, b: &Connection, random: &mut Random, count: usize, largest: u64) {
    converse(a, b, random, largest, move |sent| sent < count);
}

/// Both ends send while `more` says so, given how much they have sent.
pub fn converse(
    a: &Connection,
    b: &Connection,
    random: &mut Random,
    largest: u64,
    more: impl Fn(usize) -> bool + Clone + Send + 'static,
) -> usize {
    let start = |connection: &Connection, random: &mut Random| {
        let sending = connection.clone();
        let seeded = Random(random.next());
        let more = more.clone();
        let sender = std::thread::spawn(move || {
            let log = send(&sending, seeded, largest, more);
            finish(&sending);
            log
        });
        let receiving = connection.clone();
        (sender, std::thread::spawn(move || receive(&receiving)))
    };
    let (from_a, at_a) = start(a, random);
    let (from_b, at_b) = start(b, random);
    let (accepted, delivered) = (from_a.join().unwrap(), at_b.join().unwrap());
    accepted.assert_same(&delivered, "a to b");
    let total = accepted.len();
    let (accepted, delivered) = (from_b.join().unwrap(), at_a.join().unwrap());
    accepted.assert_same(&delivered, "b to a");
    total + accepted.len()
}
