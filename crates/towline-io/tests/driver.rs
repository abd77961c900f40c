//! One set of tests for all drivers, on real sockets of the loopback interface.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use socket2::{Domain, Socket, Type};
use towline_io::{
    CancelGrade, Completion, Driver, DriverChoice, DriverConfig, DriverKind, Event, IssueError,
    OpId, Received, SocketId,
};

/// Fails a test that would hang; never reached by one that passes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A driver under test and the completions that nobody has asked for yet.
struct Rig {
    driver: Driver,
    queue: VecDeque<Completion>,
    scratch: Vec<Completion>,
}

impl Rig {
    fn new(choice: DriverChoice) -> Option<Rig> {
        Rig::with(DriverConfig::new(choice))
    }

    /// `None` when the system has no io_uring and that was asked for: the test is then empty, which
    /// `both_drivers_can_be_tested_here` reports.
    fn with(config: DriverConfig) -> Option<Rig> {
        match Driver::new(&config) {
            Ok(driver) => Some(Rig { driver, queue: VecDeque::new(), scratch: Vec::new() }),
            Err(error) if config.kind == DriverChoice::IoUring => {
                println!("no io_uring here: {error}");
                None
            }
            Err(error) => panic!("no driver: {error}"),
        }
    }

    /// One wait; whether anything came.
    fn turn(&mut self, until: Instant) -> bool {
        self.driver.wait(Some(until), &mut self.scratch).expect("wait");
        let any = !self.scratch.is_empty();
        self.queue.extend(self.scratch.drain(..));
        any
    }

    /// The next completion that `pick` wants; the others stay in the queue.
    fn expect(&mut self, what: &str, mut pick: impl FnMut(&Completion) -> bool) -> Completion {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.queue.iter().position(&mut pick) {
                return self.queue.remove(at).expect("just found");
            }
            assert!(Instant::now() < end, "{what} did not come; queue: {:?}", self.queue);
            self.turn(end);
        }
    }

    fn expect_op(&mut self, op: OpId) -> Event {
        self.expect(&format!("{op:?}"), |completion| completion.op == op).event
    }

    fn received(&mut self, op: OpId) -> Received {
        match self.expect_op(op) {
            Event::Received(Ok(received)) => received,
            other => panic!("not received: {other:?}"),
        }
    }

    fn sent(&mut self, op: OpId) -> usize {
        match self.expect_op(op) {
            Event::Sent(Ok(count)) => count,
            other => panic!("not sent: {other:?}"),
        }
    }

    /// Receives exactly `length` bytes.
    fn read(&mut self, id: SocketId, length: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < length {
            let op = self.driver.recv(id).unwrap();
            let received = self.received(op);
            assert!(!received.end, "end after {} of {length} bytes", data.len());
            data.extend_from_slice(&received.pooled);
            self.driver.recycle(received.pooled.freeze());
        }
        assert_eq!(data.len(), length, "more came than expected");
        data
    }

    /// Two ends of a TCP connection, both in the driver.
    fn pair(&mut self) -> (SocketId, SocketId) {
        let (near, far) = tcp_pair();
        (self.driver.attach(near.into(), 1).unwrap(), self.driver.attach(far.into(), 2).unwrap())
    }

    /// One end of a TCP connection in the driver, the other a plain blocking socket.
    fn half(&mut self) -> (SocketId, TcpStream) {
        let (near, far) = tcp_pair();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        (self.driver.attach(near.into(), 1).unwrap(), far)
    }

    /// Nothing that was issued is left over and nothing comes by itself.
    fn assert_quiet(&mut self) {
        self.turn(Instant::now());
        assert!(self.queue.is_empty(), "left over: {:?}", self.queue);
    }
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

fn is_cancelled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
}

/// Recognisable bytes: no two positions nearby are alike for different seeds.
fn pattern(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(length + 8);
    while data.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(length);
    data.into()
}

/// Each test runs once per driver.
macro_rules! for_each_driver {
    ($($name:ident)*) => {
        mod over_epoll {
            $(#[test] fn $name() { super::$name(towline_io::DriverChoice::Epoll); })*
        }
        mod over_io_uring {
            $(#[test] fn $name() { super::$name(towline_io::DriverChoice::IoUring); })*
        }
    };
}

for_each_driver! {
    echo_returns_every_size
    many_outstanding_sends_do_not_interleave
    the_end_of_the_stream_is_reported_once_per_receive
}

#[test]
fn both_drivers_can_be_tested_here() {
    // A system without io_uring must say so by name and still give a driver by `Auto`.
    let auto = Driver::new(&DriverConfig::default()).unwrap();
    match Driver::new(&DriverConfig::new(DriverChoice::IoUring)) {
        Ok(driver) => assert_eq!(driver.kind(), DriverKind::IoUring),
        Err(error) => {
            println!("io_uring is not tested: {error}");
            assert_eq!(auto.kind(), DriverKind::Epoll);
            assert!(auto.fallback_reason().is_some());
        }
    }
}

fn echo_returns_every_size(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, far) = rig.pair();
    let sizes = [1, 2, 63, 64, 65, 1000, 4096, 65_535, 65_536, 65_537, 200_000, 1 << 20, 5 << 20];
    for (seed, size) in sizes.into_iter().enumerate() {
        let data = pattern(seed as u64, size);
        let there = rig.driver.send(near, [data.clone()]).unwrap();
        let heard = rig.read(far, size);
        assert_eq!(heard, data);
        assert_eq!(rig.sent(there), size);
        let back = rig.driver.send(far, [Bytes::from(heard)]).unwrap();
        assert_eq!(rig.read(near, size), data);
        assert_eq!(rig.sent(back), size);
    }
    rig.assert_quiet();
    assert_eq!(rig.driver.queued(near), 0);
}

fn many_outstanding_sends_do_not_interleave(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, mut far) = rig.half();
    let size = 256 * 1024;
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; 32 * size];
        // Small reads make the sender wait again and again.
        for chunk in all.chunks_mut(10_007) {
            far.read_exact(chunk).unwrap();
        }
        all
    });
    let ops: Vec<OpId> = (0..32)
        .map(|seed| {
            let data = pattern(seed, size);
            // Some of them in many pieces.
            let piece = if seed % 3 == 0 { 1000 } else { size };
            let pieces = (0..size).step_by(piece).map(|at| data.slice(at..size.min(at + piece)));
            rig.driver.send(near, pieces).unwrap()
        })
        .collect();
    for op in &ops {
        // In order: the first completion is that of the first send.
        let next = rig.expect("a send", |completion| matches!(completion.event, Event::Sent(_)));
        assert_eq!(next.op, *op);
        assert!(matches!(next.event, Event::Sent(Ok(count)) if count == size));
    }
    let all = reader.join().unwrap();
    for (seed, chunk) in all.chunks(size).enumerate() {
        assert!(chunk == &pattern(seed as u64, size)[..], "send {seed} arrived changed");
    }
    rig.assert_quiet();
}

fn the_end_of_the_stream_is_reported_once_per_receive(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, mut far) = rig.half();
    far.write_all(b"last words").unwrap();
    drop(far);
    assert_eq!(rig.read(near, 10), b"last words");
    for _ in 0..3 {
        let op = rig.driver.recv(near).unwrap();
        assert_eq!(rig.driver.recv(near), Err(IssueError::Busy));
        let received = rig.received(op);
        assert!(received.end && received.is_empty());
    }
    rig.assert_quiet();
}
