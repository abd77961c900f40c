//! One set of tests for all drivers, on real sockets of the loopback interface.
#![allow(clippy::print_stdout)] // seeds, and what could not be tested

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use socket2::{Domain, Socket, Type};
use towline_io::{
    CancelGrade, Completion, Driver, DriverChoice, DriverConfig, DriverKind, Ecn, Event,
    IssueError, OpId, Received, SocketId, Transmit, TransmitRef, UdpOptions, Without,
};

/// Fails a test that would hang; never reached by one that passes.
const PATIENCE: Duration = Duration::from_secs(20);

thread_local! {
    /// What this test's drivers do without.
    static WITHOUT: Cell<Without> = Cell::default();
}

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
    fn with(mut config: DriverConfig) -> Option<Rig> {
        config.without = WITHOUT.get();
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
        /// The oldest modes that the driver makes use of (Linux 5.19 without its newer half).
        mod over_older_io_uring {
            $(#[test] fn $name() {
                super::WITHOUT.set(super::Without::TASKRUN.and(super::Without::MULTISHOT));
                super::$name(towline_io::DriverChoice::IoUring);
            })*
        }
    };
}

for_each_driver! {
    echo_returns_every_size
    many_outstanding_sends_do_not_interleave
    the_end_of_the_stream_is_reported_once_per_receive
    a_reset_fails_the_receive_and_the_sends_behind_it
    posts_are_silent_and_arrive_in_order_with_sends
    posts_to_a_slow_reader_arrive_in_order
    empty_sends_complete
    shutting_down_follows_the_queued_sends
    a_direct_receive_fills_the_buffer_and_the_rest_is_pooled
    a_direct_receive_gives_the_buffer_back_when_cancelled
    an_idle_socket_holds_no_receive_buffer
    more_sockets_than_buffers_receive_at_once
    a_cancelled_receive_takes_nothing_from_the_stream
    a_terminally_cancelled_receive_is_the_last
    sends_are_cancelled_by_each_grade
    closing_completes_everything_once
    stale_ids_are_refused
    a_socket_moves_to_another_driver
    a_send_is_finished_before_detaching
    accepted_connections_come_with_addresses_and_the_pool_can_be_paused
    a_listener_accepts_more_than_its_pool
    unix_streams_work
    connecting_reports_success_and_refusal
    a_connection_attempt_is_cancelled_only_terminally
    running_out_of_descriptors_pauses_accepting
    wake_ups_are_counted_as_one_and_never_lost
    timers_fire_in_order_and_cancelled_ones_do_not
    a_wait_ends_at_its_time
    spinning_finds_completions_without_parking
    dropping_a_driver_with_operations_in_flight_is_safe
    datagrams_arrive_with_all_and_without_any_offload
    congestion_marks_and_local_addresses_round_trip
    datagram_receives_are_cancelled_and_resumed
    datagram_sends_are_refused_and_fail_one_by_one
    datagrams_are_sent_at_once_from_borrowed_memory
    datagrams_over_ipv6_and_mapped_addresses
    random_interaction_delivers_everything_once_in_order
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

fn a_reset_fails_the_receive_and_the_sends_behind_it(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, far) = rig.half();
    let recv = rig.driver.recv(near).unwrap();
    // More than the buffers between the two hold, so that sends are outstanding when the reset comes.
    let big = rig.driver.send(near, [pattern(1, 32 << 20)]).unwrap();
    let behind = rig.driver.send(near, [pattern(2, 10)]).unwrap();
    rig.turn(Instant::now());
    socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
    drop(far);
    match rig.expect_op(recv) {
        Event::Received(Err(error)) => {
            assert_eq!(error.error.raw_os_error(), Some(libc::ECONNRESET));
        }
        // The send may have been told first, and the receive then sees the end.
        Event::Received(Ok(received)) => assert!(received.end),
        other => panic!("{other:?}"),
    }
    match rig.expect_op(big) {
        Event::Sent(Err(error)) => assert!(!is_cancelled(&error), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(rig.expect_op(behind), Event::Sent(Err(error)) if is_cancelled(&error)));
    assert_eq!(rig.driver.send(near, [Bytes::from_static(b"x")]), Err(IssueError::Closing));
    rig.driver.close(near);
    rig.expect("closed", |completion| matches!(completion.event, Event::Closed));
    rig.assert_quiet();
}

fn posts_are_silent_and_arrive_in_order_with_sends(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, far) = rig.pair();
    let mut expected = Vec::new();
    let mut sends = Vec::new();
    for seed in 0..200 {
        let data = pattern(seed, 1 + seed as usize * 7);
        expected.extend_from_slice(&data);
        if seed % 5 == 0 {
            sends.push(rig.driver.send(near, [data]).unwrap());
        } else {
            rig.driver.post(near, [data]).unwrap();
        }
    }
    assert_eq!(rig.driver.queued(near), expected.len());
    assert_eq!(rig.read(far, expected.len()), expected);
    for op in sends {
        rig.sent(op);
    }
    rig.assert_quiet();
}

fn posts_to_a_slow_reader_arrive_in_order(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, mut far) = rig.half();
    rig.driver.socket(near).unwrap().set_send_buffer_size(8192).unwrap();
    let (size, count) = (30_011, 200);
    let mut answer = rig.driver.recv(near).unwrap();
    for seed in 0..count {
        let data = pattern(seed, size);
        let (first, second) = (data.slice(..7), data.slice(7..));
        rig.driver.post(near, [first, second]).unwrap();
        // Each is submitted by itself; most do not fit.
        rig.turn(Instant::now());
    }
    assert!(rig.driver.queued(near) > 0, "the reader has read nothing, so the way is full");
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; size * count as usize];
        for (chunk, at) in all.chunks_mut(size).zip(1..) {
            far.read_exact(chunk).unwrap();
            if at % 50 == 0 {
                far.write_all(b"more").unwrap();
            }
        }
        (all, far)
    });
    let mut answers = 0;
    while answers < 16 {
        // The wait for the answers also carries the posts on.
        let received = rig.received(answer);
        answers += received.pooled.len();
        answer = rig.driver.recv(near).unwrap();
    }
    let (all, _far) = reader.join().unwrap();
    for (chunk, seed) in all.chunks(size).zip(0..) {
        assert!(chunk == pattern(seed, size), "post {seed} arrived changed");
    }
    assert_eq!(rig.driver.queued(near), 0);
    rig.assert_quiet();
}

fn empty_sends_complete(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, far) = rig.pair();
    let nothing = rig.driver.send(near, []).unwrap();
    let empty = rig.driver.send(near, [Bytes::new(), Bytes::new()]).unwrap();
    let full =
        rig.driver.send(near, [Bytes::new(), Bytes::from_static(b"x"), Bytes::new()]).unwrap();
    assert_eq!(rig.sent(nothing), 0);
    assert_eq!(rig.sent(empty), 0);
    assert_eq!(rig.sent(full), 1);
    assert_eq!(rig.read(far, 1), b"x");
    rig.assert_quiet();
}

fn shutting_down_follows_the_queued_sends(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, mut far) = rig.half();
    let data = pattern(7, 3 << 20);
    let op = rig.driver.send(near, [data.clone()]).unwrap();
    rig.driver.shutdown_write(near);
    assert_eq!(rig.driver.send(near, [Bytes::from_static(b"late")]), Err(IssueError::Closing));
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        far.read_to_end(&mut all).unwrap();
        far.write_all(b"still open this way").unwrap();
        all
    });
    assert_eq!(rig.sent(op), data.len());
    assert_eq!(rig.read(near, 19), b"still open this way");
    assert!(reader.join().unwrap() == data);
}

fn a_direct_receive_fills_the_buffer_and_the_rest_is_pooled(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, mut far) = rig.half();
    far.write_all(b"0123456789abcdef").unwrap();
    let mut buffer = BytesMut::with_capacity(64);
    buffer.extend_from_slice(b"head:");
    let op = rig.driver.recv_into(near, buffer, 6).unwrap();
    let received = rig.received(op);
    let direct = received.direct.expect("the buffer comes back");
    assert_eq!(&direct[..], b"head:012345");
    assert_eq!(received.direct_len, 6);
    assert_eq!(&received.pooled[..], b"6789abcdef");
    assert!(received.drained && !received.end);
    // A large body: only the last receive brings something pooled.
    let body = pattern(3, 3_000_000);
    let sent = body.clone();
    let writer = std::thread::spawn(move || {
        far.write_all(&sent).unwrap();
        far.write_all(b"next").unwrap();
        far
    });
    let mut assembly = BytesMut::with_capacity(body.len());
    let mut rest = BytesMut::new();
    while assembly.len() < body.len() {
        let want = body.len() - assembly.len();
        let op = rig.driver.recv_into(near, assembly, want).unwrap();
        let received = rig.received(op);
        assembly = received.direct.expect("the buffer comes back");
        rest.extend_from_slice(&received.pooled);
        assert!(received.pooled.is_empty() || assembly.len() == body.len());
    }
    assert!(assembly == body);
    while rest.len() < 4 {
        let op = rig.driver.recv(near).unwrap();
        rest.extend_from_slice(&rig.received(op).pooled);
    }
    assert_eq!(&rest[..], b"next");
    drop(writer.join().unwrap());
    let op = rig.driver.recv_into(near, BytesMut::with_capacity(10), 10).unwrap();
    let received = rig.received(op);
    assert!(received.end && received.direct.is_some() && received.pooled.is_empty());
}

fn a_direct_receive_gives_the_buffer_back_when_cancelled(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, _far) = rig.half();
    let mut buffer = BytesMut::with_capacity(1000);
    buffer.extend_from_slice(b"kept");
    let op = rig.driver.recv_into(near, buffer, 900).unwrap();
    rig.turn(Instant::now());
    assert!(rig.driver.cancel(op, CancelGrade::Total));
    match rig.expect_op(op) {
        Event::Received(Err(error)) => {
            assert!(is_cancelled(&error.error));
            assert_eq!(&error.direct.expect("the buffer")[..], b"kept");
        }
        other => panic!("{other:?}"),
    }
}

fn an_idle_socket_holds_no_receive_buffer(choice: DriverChoice) {
    let mut config = DriverConfig::new(choice);
    config.recv_buffers = 4;
    let Some(mut rig) = Rig::with(config) else { return };
    let mut far = Vec::new();
    for _ in 0..100 {
        let (near, peer) = rig.half();
        rig.driver.recv(near).unwrap();
        far.push(peer);
    }
    rig.turn(Instant::now());
    let before = rig.driver.stats().buffers_allocated;
    assert!(before <= 5, "100 waiting sockets need no buffers, but there are {before}");
    for round in 0..50 {
        let peer = &mut far[round % 7];
        peer.write_all(b"ping").unwrap();
        let completion =
            rig.expect("a receive", |completion| matches!(completion.event, Event::Received(_)));
        rig.driver.recv(completion.socket).unwrap();
        let Event::Received(Ok(received)) = completion.event else { unreachable!() };
        rig.driver.recycle(received.pooled.freeze());
    }
    let stats = rig.driver.stats();
    assert!(stats.buffers_allocated <= before + 4, "{stats:?}");
    assert_eq!(stats.buffers_recycled, 50);
}

fn more_sockets_than_buffers_receive_at_once(choice: DriverChoice) {
    let mut config = DriverConfig::new(choice);
    (config.recv_buffers, config.queue_entries) = (2, 8);
    let Some(mut rig) = Rig::with(config) else { return };
    let mut ends = Vec::new();
    for index in 0..60u8 {
        let (near, mut far) = rig.half();
        let op = rig.driver.recv(near).unwrap();
        far.write_all(&[index; 100]).unwrap();
        ends.push((op, far, index));
    }
    let mut kept = Vec::new();
    for (op, _, index) in &ends {
        let received = rig.received(*op);
        assert_eq!(&received.pooled[..], &[*index; 100][..]);
        kept.push(received.pooled);
    }
    for (buffer, (_, _, index)) in kept.iter().zip(&ends) {
        assert_eq!(&buffer[..], &[*index; 100][..], "a kept buffer was overwritten");
    }
    rig.assert_quiet();
}

fn a_cancelled_receive_takes_nothing_from_the_stream(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, mut far) = rig.half();
    for grade in [CancelGrade::Total, CancelGrade::Partial] {
        let op = rig.driver.recv(near).unwrap();
        rig.turn(Instant::now());
        assert!(rig.driver.cancel(op, grade));
        match rig.expect_op(op) {
            Event::Received(Err(error)) => assert!(is_cancelled(&error.error)),
            other => panic!("{other:?}"),
        }
        assert!(!rig.driver.cancel(op, grade), "it is over");
    }
    // Issued and cancelled at once, before the driver saw it.
    let op = rig.driver.recv(near).unwrap();
    assert!(rig.driver.cancel(op, CancelGrade::Total));
    assert!(matches!(rig.expect_op(op), Event::Received(Err(_))));
    far.write_all(b"all of it").unwrap();
    assert_eq!(rig.read(near, 9), b"all of it");
    rig.assert_quiet();
}

fn a_terminally_cancelled_receive_is_the_last(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, _far) = rig.half();
    let op = rig.driver.recv(near).unwrap();
    rig.turn(Instant::now());
    assert!(rig.driver.cancel(op, CancelGrade::Terminal));
    rig.expect_op(op);
    assert_eq!(rig.driver.recv(near), Err(IssueError::Closing));
    let op = rig.driver.send(near, [Bytes::from_static(b"the other direction")]).unwrap();
    assert_eq!(rig.sent(op), 19);
}

fn sends_are_cancelled_by_each_grade(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, mut far) = rig.half();
    // The first fills the way to the peer and stays outstanding; nothing of the others is sent.
    let size = 16 << 20;
    let first = rig.driver.send(near, [pattern(0, size)]).unwrap();
    let ops: Vec<OpId> =
        (1..=5).map(|seed| rig.driver.send(near, [pattern(seed, 1000)]).unwrap()).collect();
    rig.turn(Instant::now());
    rig.turn(Instant::now());
    assert!(rig.queue.is_empty());
    assert!(!rig.driver.cancel(first, CancelGrade::Total), "a part is sent");
    assert!(rig.driver.cancel(ops[1], CancelGrade::Total));
    assert!(matches!(rig.expect_op(ops[1]), Event::Sent(Err(error)) if is_cancelled(&error)));
    assert!(!rig.driver.cancel(ops[1], CancelGrade::Total), "it is over");
    assert!(rig.driver.cancel(ops[3], CancelGrade::Terminal));
    for op in &ops[3..] {
        assert!(matches!(rig.expect_op(*op), Event::Sent(Err(error)) if is_cancelled(&error)));
    }
    assert_eq!(rig.driver.send(near, [Bytes::from_static(b"x")]), Err(IssueError::Closing));
    assert!(rig.driver.cancel(first, CancelGrade::Partial));
    let written = rig.sent(first);
    assert!(written > 0 && written < size, "{written}");
    // What is left: the part of the first, then the second and the fourth send, whole.
    let length = written + 2000;
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; length];
        far.read_exact(&mut all).unwrap();
        (all, far)
    });
    assert_eq!(rig.sent(ops[0]), 1000);
    assert_eq!(rig.sent(ops[2]), 1000);
    let (all, mut far) = reader.join().unwrap();
    assert!(all[..written] == pattern(0, size)[..written]);
    assert!(all[written..written + 1000] == pattern(1, 1000));
    assert!(all[written + 1000..] == pattern(3, 1000));
    rig.driver.close(near);
    rig.expect("closed", |completion| matches!(completion.event, Event::Closed));
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "nothing of the cancelled ones follows");
    rig.assert_quiet();
}

fn closing_completes_everything_once(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    for wait_first in [false, true] {
        let (near, mut far) = rig.half();
        let mut ops = vec![rig.driver.recv(near).unwrap()];
        ops.extend((0..40).map(|seed| rig.driver.send(near, [pattern(seed, 1 << 20)]).unwrap()));
        let posted = rig.driver.post(near, [pattern(99, 1 << 20)]).unwrap();
        ops.push(posted);
        if wait_first {
            rig.turn(Instant::now());
        }
        rig.driver.close(near);
        assert_eq!(
            rig.driver
                .recv(near)
                .err()
                .map(|error| matches!(error, IssueError::Closing | IssueError::Stale)),
            Some(true)
        );
        let mut seen = Vec::new();
        loop {
            let completion = rig.expect("an end", |completion| completion.socket == near);
            match completion.event {
                Event::Closed => break,
                Event::Received(Err(error)) => assert!(is_cancelled(&error.error)),
                Event::Sent(Ok(_) | Err(_)) => {}
                other => panic!("{other:?}"),
            }
            seen.push(completion.op);
        }
        ops.sort();
        seen.sort();
        assert_eq!(seen, ops);
        assert_eq!(rig.driver.recv(near), Err(IssueError::Stale));
        // The descriptor is closed: the peer sees the end after what was sent, or a reset.
        let mut sink = vec![0; 1 << 16];
        while matches!(far.read(&mut sink), Ok(1..)) {}
    }
    rig.assert_quiet();
    assert_eq!(rig.driver.stats().sockets, 0);
}

fn stale_ids_are_refused(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (old, _far) = rig.half();
    let op = rig.driver.recv(old).unwrap();
    rig.driver.close(old);
    rig.expect("closed", |completion| matches!(completion.event, Event::Closed));
    let (new, mut peer) = rig.half();
    assert_ne!(old, new);
    let live = rig.driver.recv(new).unwrap();
    assert!(!rig.driver.cancel(op, CancelGrade::Terminal));
    assert_eq!(rig.driver.recv(old), Err(IssueError::Stale));
    assert_eq!(rig.driver.send(old, [Bytes::new()]), Err(IssueError::Stale));
    assert_eq!(rig.driver.udp_recv(new), Err(IssueError::WrongKind));
    assert_eq!(rig.driver.queued(old), 0);
    assert!(rig.driver.socket(old).is_none());
    rig.driver.close(old);
    rig.driver.detach(old);
    rig.driver.shutdown_write(old);
    peer.write_all(b"alive").unwrap();
    assert_eq!(&rig.received(live).pooled[..], b"alive");
}

fn a_socket_moves_to_another_driver(choice: DriverChoice) {
    for target in [DriverChoice::Epoll, choice] {
        let Some(mut rig) = Rig::new(choice) else { return };
        let Some(mut other) = Rig::new(target) else { return };
        let (near, mut far) = rig.half();
        let recv = rig.driver.recv(near).unwrap();
        rig.turn(Instant::now());
        let send = rig.driver.send(near, [Bytes::from_static(b"before")]).unwrap();
        rig.driver.detach(near);
        match rig.expect_op(recv) {
            Event::Received(Err(error)) => assert!(is_cancelled(&error.error)),
            unexpected => panic!("{unexpected:?}"),
        }
        rig.sent(send);
        let detached =
            rig.expect("detached", |completion| matches!(completion.event, Event::Detached(_)));
        let Event::Detached(socket) = detached.event else { unreachable!() };
        assert!(rig.driver.socket(near).is_none());
        // Data that came meanwhile is not lost.
        far.write_all(b"meanwhile").unwrap();
        let moved = other.driver.attach(socket, 9).unwrap();
        assert_eq!(other.read(moved, 9), b"meanwhile");
        let send = other.driver.send(moved, [Bytes::from_static(b"after")]).unwrap();
        other.sent(send);
        let mut heard = [0; 11];
        far.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"beforeafter");
        rig.assert_quiet();
        other.assert_quiet();
    }
}

fn a_send_is_finished_before_detaching(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, mut far) = rig.half();
    let data = pattern(5, 8 << 20);
    let op = rig.driver.send(near, [data.clone()]).unwrap();
    rig.turn(Instant::now());
    rig.driver.detach(near);
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; 8 << 20];
        far.read_exact(&mut all).unwrap();
        all
    });
    let first = rig.expect("an end", |completion| completion.socket == near);
    assert_eq!(first.op, op);
    assert!(matches!(first.event, Event::Sent(Ok(_))));
    rig.expect("detached", |completion| matches!(completion.event, Event::Detached(_)));
    assert!(reader.join().unwrap() == data);
}

fn listener() -> (Socket, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener.into(), addr)
}

fn accepted(rig: &mut Rig) -> Box<towline_io::Accepted> {
    let is_accepted = |completion: &Completion| matches!(completion.event, Event::Accepted(_));
    match rig.expect("a connection", is_accepted).event {
        Event::Accepted(accepted) => accepted,
        _ => unreachable!(),
    }
}

fn accepted_connections_come_with_addresses_and_the_pool_can_be_paused(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (socket, addr) = listener();
    let id = rig.driver.listen(socket, 4, 77).unwrap();
    assert_eq!(rig.driver.local_addr(id), Some(addr));
    let client = TcpStream::connect(addr).unwrap();
    let connection = accepted(&mut rig);
    assert_eq!(connection.peer.as_socket(), Some(client.local_addr().unwrap()));
    assert_eq!(connection.local.as_socket(), Some(addr));
    rig.driver.set_ready(id, 0).unwrap();
    rig.turn(Instant::now());
    rig.turn(Instant::now());
    let _second = TcpStream::connect(addr).unwrap();
    rig.turn(Instant::now() + Duration::from_millis(20));
    assert!(rig.queue.is_empty(), "paused: {:?}", rig.queue);
    rig.driver.set_ready(id, 4).unwrap();
    accepted(&mut rig);
    rig.driver.close(id);
    let closed = rig.expect("closed", |completion| matches!(completion.event, Event::Closed));
    assert_eq!((closed.socket, closed.tag), (id, 77));
    assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
    rig.assert_quiet();
}

fn a_listener_accepts_more_than_its_pool(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (socket, addr) = listener();
    rig.driver.listen(socket, 3, 0).unwrap();
    let clients: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let mut peers: Vec<_> = (0..50).map(|_| accepted(&mut rig).peer.as_socket().unwrap()).collect();
    let mut expected: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
    peers.sort();
    expected.sort();
    assert_eq!(peers, expected);
    rig.assert_quiet();
}

fn unix_streams_work(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, far) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
    let near = rig.driver.attach(near, 0).unwrap();
    let far = rig.driver.attach(far, 0).unwrap();
    let data = pattern(1, 1 << 20);
    let op = rig.driver.send(near, [data.clone()]).unwrap();
    assert!(rig.read(far, data.len()) == data);
    rig.sent(op);
    rig.driver.close(near);
    let op = rig.driver.recv(far).unwrap();
    assert!(rig.received(op).end);
}

fn stream_socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
}

fn connecting_reports_success_and_refusal(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (socket, addr) = listener();
    rig.driver.listen(socket, 4, 0).unwrap();
    let id = rig.driver.connect(stream_socket(), &addr.into(), 5).unwrap();
    // Operations may be issued before the connection is there.
    let send = rig.driver.send(id, [Bytes::from_static(b"early")]).unwrap();
    let recv = rig.driver.recv(id).unwrap();
    let connected =
        rig.expect("connected", |completion| matches!(completion.event, Event::Connected(_)));
    assert!(matches!(connected.event, Event::Connected(Ok(()))));
    assert_eq!((connected.socket, connected.tag), (id, 5));
    assert_eq!(rig.sent(send), 5);
    let peer = rig_attach_accepted(&mut rig);
    assert_eq!(rig.read(peer, 5), b"early");
    rig.driver.post(peer, [Bytes::from_static(b"reply")]).unwrap();
    assert_eq!(&rig.received(recv).pooled[..], b"reply");

    // A port that was bound a moment ago and is not any more.
    let (closed, nobody) = listener();
    drop(closed);
    let id = rig.driver.connect(stream_socket(), &nobody.into(), 6).unwrap();
    let send = rig.driver.send(id, [Bytes::from_static(b"lost")]).unwrap();
    let recv = rig.driver.recv(id).unwrap();
    let refused =
        rig.expect("refused", |completion| matches!(completion.event, Event::Connected(_)));
    match refused.event {
        Event::Connected(Err(error)) => {
            assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(rig.expect_op(send), Event::Sent(Err(error)) if is_cancelled(&error)));
    assert!(matches!(rig.expect_op(recv), Event::Received(Err(_))));
    assert_eq!(rig.driver.recv(id), Err(IssueError::Closing));
    rig.driver.close(id);
    rig.expect("closed", |completion| matches!(completion.event, Event::Closed));
    rig.assert_quiet();
}

fn rig_attach_accepted(rig: &mut Rig) -> SocketId {
    let connection = accepted(rig);
    rig.driver.attach(connection.socket, 0).unwrap()
}

fn a_connection_attempt_is_cancelled_only_terminally(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    // A listener whose backlog is full leaves the attempt hanging.
    let full = stream_socket();
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let addr = full.local_addr().unwrap();
    let filler: Vec<Socket> = (0..4)
        .map(|_| {
            let socket = stream_socket();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&addr);
            socket
        })
        .collect();
    let id = rig.driver.connect(stream_socket(), &addr, 0).unwrap();
    let recv = rig.driver.recv(id).unwrap();
    rig.turn(Instant::now() + Duration::from_millis(5));
    assert!(rig.queue.is_empty(), "the attempt hangs: {:?}", rig.queue);
    rig.driver.close(id);
    let mut events = Vec::new();
    loop {
        match rig.expect("an end", |completion| completion.socket == id).event {
            Event::Closed => break,
            event => events.push(event),
        }
    }
    assert!(
        matches!(&events[..], [Event::Connected(Err(error)), Event::Received(Err(_))] if is_cancelled(error)),
        "{events:?}"
    );
    let _ = recv;
    drop(filler);
    rig.assert_quiet();
}

/// Each kernel that has not all that the ring needs gets the other driver, with the step that failed.
#[test]
fn a_kernel_without_what_the_ring_needs_gets_epoll_and_says_why() {
    if Rig::new(DriverChoice::IoUring).is_none() {
        return;
    }
    for (without, reason) in [
        (Without::RING, "io_uring_setup"),
        (Without::FEATURES, "older than 5.11"),
        (Without::OPERATION, "no recv"),
        (Without::BUFFERS, "5.19"),
    ] {
        let mut config = DriverConfig::default();
        config.without = without;
        let driver = Driver::new(&config).unwrap();
        assert_eq!(driver.kind(), DriverKind::Epoll);
        let told = driver.fallback_reason().unwrap_or_default();
        assert!(told.contains(reason), "{told:?} does not say {reason:?}");
        config.kind = DriverChoice::IoUring;
        assert!(Driver::new(&config).is_err(), "asked for by name, it is refused");
    }
    for without in [Without::SINGLE_ISSUER, Without::TASKRUN, Without::MULTISHOT] {
        let mut config = DriverConfig::default();
        config.without = without;
        assert_eq!(Driver::new(&config).unwrap().kind(), DriverKind::IoUring);
    }
}

/// The part that runs in a process of its own, with few descriptors.
fn exhaust_descriptors(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (socket, addr) = listener();
    rig.driver.listen(socket, 8, 0).unwrap();
    let client = stream_socket();
    let (late, later) = (stream_socket(), stream_socket());
    let mut hoard = Vec::new();
    let limit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
    // SAFETY: `limit` is valid; the process is this test's own.
    #[expect(unsafe_code)]
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    assert_eq!(result, 0);
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    client.connect(&addr.into()).unwrap();
    late.connect(&addr.into()).unwrap();
    for round in 1..=3 {
        let failed = rig.expect("a failure", |completion| {
            matches!(&completion.event, Event::AcceptFailed(error)
                if error.raw_os_error() == Some(libc::EMFILE))
        });
        assert_eq!(rig.driver.stats().accept_pauses, round, "{failed:?}");
    }
    // The third time the reserve is given up to turn the first one away, who learns instead of waiting for ever.
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let turned_away = (&client).read(&mut [0; 1]);
    assert!(
        matches!(&turned_away, Ok(0))
            || matches!(&turned_away, Err(error) if error.kind() == io::ErrorKind::ConnectionReset),
        "{turned_away:?}"
    );
    // And the reserve is there again: there is no descriptor for anything else.
    assert_eq!(std::fs::File::open("/dev/null").unwrap_err().raw_os_error(), Some(libc::EMFILE));
    drop(hoard);
    // The other has waited in the backlog and comes after the pause.
    accepted(&mut rig);
    later.connect(&addr.into()).unwrap();
    accepted(&mut rig);
    println!("recovered");
}

#[test]
#[ignore = "run by running_out_of_descriptors_pauses_accepting in a process of its own"]
fn descriptors_epoll() {
    exhaust_descriptors(DriverChoice::Epoll);
}

#[test]
#[ignore = "run by running_out_of_descriptors_pauses_accepting in a process of its own"]
fn descriptors_io_uring() {
    exhaust_descriptors(DriverChoice::IoUring);
}

fn running_out_of_descriptors_pauses_accepting(choice: DriverChoice) {
    if Rig::new(choice).is_none() {
        return;
    }
    let name = match choice {
        DriverChoice::Epoll => "descriptors_epoll",
        _ => "descriptors_io_uring",
    };
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", name])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("recovered"), "{text}");
}

fn wake_ups_are_counted_as_one_and_never_lost(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let waker = rig.driver.waker();
    // While the driver is not waiting: all of them are one, and no system call.
    for _ in 0..1000 {
        waker.wake();
    }
    rig.expect("woken", |completion| matches!(completion.event, Event::Woken));
    rig.assert_quiet();
    // One by one from another thread, with the driver asleep or about to be: none is lost.
    let count = std::sync::Arc::new(AtomicU64::new(0));
    let (go, gone) = std::sync::mpsc::channel();
    let thread = {
        let (waker, count) = (rig.driver.waker(), count.clone());
        std::thread::spawn(move || {
            while gone.recv().is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
                waker.wake();
            }
        })
    };
    for round in 1..=500 {
        go.send(()).unwrap();
        rig.expect("woken", |completion| matches!(completion.event, Event::Woken));
        assert_eq!(count.load(Ordering::Relaxed), round, "what was done before is seen after");
    }
    drop(go);
    thread.join().unwrap();
    // Many at once: after the last one the driver is woken once more.
    count.store(0, Ordering::Relaxed);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (waker, count) = (rig.driver.waker(), count.clone());
            std::thread::spawn(move || {
                for _ in 0..2000 {
                    count.fetch_add(1, Ordering::Relaxed);
                    waker.wake();
                }
            })
        })
        .collect();
    let before = rig.driver.stats().wakes;
    loop {
        rig.expect("woken", |completion| matches!(completion.event, Event::Woken));
        if count.load(Ordering::Relaxed) == 8000 {
            break;
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    assert!((1..=8000).contains(&(rig.driver.stats().wakes - before)));
    // A driver that is gone is not an error for its wakers.
    drop(rig);
    waker.wake();
}

fn timers_fire_in_order_and_cancelled_ones_do_not(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    rig.driver.set_timer(at(12), 3);
    rig.driver.set_timer(at(4), 1);
    let cancelled = rig.driver.set_timer(at(6), 99);
    rig.driver.set_timer(at(4), 2);
    assert!(rig.driver.cancel_timer(cancelled));
    assert!(!rig.driver.cancel_timer(cancelled));
    for (tag, due) in [(1, at(4)), (2, at(4)), (3, at(12))] {
        let fired = rig.expect("a timer", |completion| matches!(completion.event, Event::Timer(_)));
        assert_eq!(fired.tag, tag);
        assert!(Instant::now() >= due);
    }
    rig.assert_quiet();
}

fn a_wait_ends_at_its_time(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, _far) = rig.half();
    rig.driver.recv(near).unwrap();
    for micros in [0, 300, 5_000] {
        let until = Instant::now() + Duration::from_micros(micros);
        assert!(!rig.turn(until));
        assert!(Instant::now() >= until);
    }
}

fn spinning_finds_completions_without_parking(choice: DriverChoice) {
    let mut config = DriverConfig::new(choice);
    config.spin = PATIENCE;
    let Some(mut rig) = Rig::with(config) else { return };
    let (near, mut far) = rig.half();
    let waker = rig.driver.waker();
    let op = rig.driver.recv(near).unwrap();
    let thread = std::thread::spawn(move || {
        far.write_all(b"x").unwrap();
        waker.wake();
        far
    });
    assert_eq!(rig.received(op).pooled.len(), 1);
    rig.expect("woken", |completion| matches!(completion.event, Event::Woken));
    drop(thread.join().unwrap());
    assert_eq!(rig.driver.stats().parks, 0);
}

fn dropping_a_driver_with_operations_in_flight_is_safe(choice: DriverChoice) {
    let mut ends = Vec::new();
    {
        let Some(mut rig) = Rig::new(choice) else { return };
        for seed in 0..20 {
            let (near, far) = rig.half();
            if seed % 2 == 0 {
                rig.driver.recv(near).unwrap();
            } else {
                rig.driver.recv_into(near, BytesMut::with_capacity(5000), 5000).unwrap();
            }
            let pieces = (0..50).map(|piece| pattern(piece, 100_000));
            rig.driver.send(near, pieces).unwrap();
            ends.push(far);
        }
        let (socket, addr) = listener();
        rig.driver.listen(socket, 4, 0).unwrap();
        let _waiting = TcpStream::connect(addr).unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let udp = rig.driver.udp(udp.into(), 0).unwrap();
        rig.driver.udp_recv(udp).unwrap();
        rig.turn(Instant::now());
        // One more of each that the kernel has not seen.
        let (near, far) = rig.half();
        rig.driver.recv(near).unwrap();
        rig.driver.send(near, [pattern(0, 100)]).unwrap();
        ends.push(far);
    }
    // All descriptors are closed: each peer sees an end or a reset.
    let mut sink = vec![0; 1 << 16];
    for mut far in ends {
        while matches!(far.read(&mut sink), Ok(1..)) {}
    }
}

fn udp_pair(rig: &mut Rig, options: UdpOptions) -> (SocketId, SocketId, SocketAddr) {
    let near = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let far = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = far.local_addr().unwrap();
    let near = rig.driver.udp_with(near.into(), 1, options).unwrap();
    let far = rig.driver.udp_with(far.into(), 2, options).unwrap();
    (near, far, addr)
}

fn transmit(destination: SocketAddr, contents: Bytes, segment_size: Option<usize>) -> Transmit {
    Transmit { destination, source: None, ecn: None, segment_size, contents }
}

/// Receives until `count` datagrams came; each is a row of the result.
fn datagrams(rig: &mut Rig, id: SocketId, count: usize) -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    while rows.len() < count {
        let completion = rig.expect("datagrams", |completion| {
            completion.socket == id && matches!(completion.event, Event::Datagrams(_))
        });
        let Event::Datagrams(run) = completion.event else { unreachable!() };
        assert!(!run.truncated);
        if run.data.is_empty() {
            rows.push(Vec::new());
        }
        rows.extend(run.data.chunks(run.stride.max(1)).map(<[u8]>::to_vec));
        rig.driver.recycle_mut(run.data);
    }
    assert_eq!(rows.len(), count);
    rows
}

fn datagrams_arrive_with_all_and_without_any_offload(choice: DriverChoice) {
    let none = {
        let mut options = UdpOptions::default();
        (options.gso, options.gro, options.ecn) = (false, false, false);
        (options.local_address, options.batch) = (false, false);
        options
    };
    let mut no_gso = UdpOptions::default();
    no_gso.gso = false;
    let mut no_gro = UdpOptions::default();
    no_gro.gro = false;
    for options in [UdpOptions::default(), none, no_gso, no_gro] {
        let Some(mut rig) = Rig::new(choice) else { return };
        let (near, far, addr) = udp_pair(&mut rig, options);
        let can = rig.driver.udp_capabilities(near).unwrap();
        assert!(options.gso || can.gso_segments == 1);
        assert!(options.gro || !can.gro);
        rig.driver.udp_recv(far).unwrap();
        assert_eq!(rig.driver.udp_recv(far), Err(IssueError::Busy));
        for (size, segment) in [
            (1, None),
            (1200, None),
            (0, None),
            (12_000, Some(1200)),
            (61_000, Some(1400)),
            (65_507, None),
            (100_000, Some(1200)),
            (30_001, Some(10_000)),
            (500, Some(1200)),
        ] {
            let data = pattern(size as u64, size);
            let op = rig.driver.udp_send(near, transmit(addr, data.clone(), segment)).unwrap();
            assert_eq!(rig.driver.queued(near), size);
            let expected: Vec<Vec<u8>> = if size == 0 {
                vec![Vec::new()]
            } else {
                data.chunks(segment.unwrap_or(size)).map(<[u8]>::to_vec).collect()
            };
            assert!(datagrams(&mut rig, far, expected.len()) == expected, "{size} {segment:?}");
            match rig.expect_op(op) {
                Event::DatagramsSent(sent) => {
                    assert_eq!(sent.result.unwrap(), size);
                    assert_eq!(sent.contents, data);
                }
                other => panic!("{other:?}"),
            }
        }
        rig.assert_quiet();
        assert_eq!(rig.driver.queued(near), 0);
    }
}

fn congestion_marks_and_local_addresses_round_trip(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, far, addr) = udp_pair(&mut rig, UdpOptions::default());
    let from = rig.driver.local_addr(near).unwrap();
    let can = rig.driver.udp_capabilities(far).unwrap();
    rig.driver.udp_recv(far).unwrap();
    for (size, ecn) in
        [(100, Some(Ecn::Ect0)), (20_000, Some(Ecn::Ect1)), (5, Some(Ecn::Ce)), (7, None)]
    {
        let mut out = transmit(addr, pattern(1, size), Some(1000));
        out.ecn = ecn;
        out.source = Some(from.ip());
        rig.driver.udp_send(near, out).unwrap();
        let mut came = 0;
        while came < size {
            let next = rig
                .expect("datagrams", |completion| matches!(completion.event, Event::Datagrams(_)));
            let Event::Datagrams(run) = next.event else { unreachable!() };
            assert_eq!(run.peer, from);
            assert_eq!(run.ecn, ecn.filter(|_| can.ecn));
            assert_eq!(run.local_ip, can.local_address.then(|| addr.ip()));
            came += run.data.len();
        }
        assert_eq!(came, size);
    }
}

fn datagram_receives_are_cancelled_and_resumed(choice: DriverChoice) {
    let batched = UdpOptions::default();
    let mut single = batched;
    single.batch = false;
    for options in [batched, single] {
        let Some(mut rig) = Rig::new(choice) else { return };
        let (near, far, addr) = udp_pair(&mut rig, options);
        for round in 0..3u8 {
            let op = rig.driver.udp_recv(far).unwrap();
            rig.driver.udp_send(near, transmit(addr, Bytes::from(vec![round; 10]), None)).unwrap();
            assert_eq!(datagrams(&mut rig, far, 1), [[round; 10]]);
            assert!(rig.driver.cancel(op, CancelGrade::Total));
            match rig.expect_op(op) {
                Event::DatagramsEnded(error) => assert!(is_cancelled(&error)),
                other => panic!("{other:?}"),
            }
            assert!(!rig.driver.cancel(op, CancelGrade::Total));
        }
        let op = rig.driver.udp_recv(far).unwrap();
        rig.turn(Instant::now());
        rig.driver.close(far);
        assert!(matches!(rig.expect_op(op), Event::DatagramsEnded(_)));
        rig.expect("closed", |completion| matches!(completion.event, Event::Closed));
        rig.driver.detach(near);
        rig.expect("detached", |completion| matches!(completion.event, Event::Detached(_)));
    }
}

fn datagram_sends_are_refused_and_fail_one_by_one(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let (near, far, addr) = udp_pair(&mut rig, UdpOptions::default());
    rig.driver.udp_recv(far).unwrap();
    let long = Bytes::from(vec![0; 70_000]);
    for segment in [None, Some(0), Some(66_000)] {
        let out = transmit(addr, long.clone(), segment);
        assert_eq!(rig.driver.udp_send(near, out), Err(IssueError::Invalid));
    }
    // No IPv4 socket sends to IPv6: that one fails, the ones around it do not.
    let good = rig.driver.udp_send(near, transmit(addr, Bytes::from_static(b"1"), None)).unwrap();
    let wrong = "[::1]:9".parse().unwrap();
    let bad = rig.driver.udp_send(near, transmit(wrong, Bytes::from_static(b"2"), None)).unwrap();
    let next = rig.driver.udp_send(near, transmit(addr, Bytes::from_static(b"3"), None)).unwrap();
    let mut results = Vec::new();
    for op in [good, bad, next] {
        let Event::DatagramsSent(sent) = rig.expect_op(op) else { panic!() };
        results.push(sent.result.is_ok());
    }
    assert_eq!(results, [true, false, true]);
    assert_eq!(datagrams(&mut rig, far, 2), [b"1", b"3"]);
    // Cancelled before it is sent.
    let op = rig.driver.udp_send(near, transmit(addr, Bytes::from_static(b"4"), None)).unwrap();
    assert!(rig.driver.cancel(op, CancelGrade::Total));
    let Event::DatagramsSent(sent) = rig.expect_op(op) else { panic!() };
    assert!(is_cancelled(&sent.result.unwrap_err()));
    assert_eq!(rig.driver.queued(near), 0);
}

fn datagrams_are_sent_at_once_from_borrowed_memory(choice: DriverChoice) {
    let none = {
        let mut options = UdpOptions::default();
        (options.gso, options.batch) = (false, false);
        options
    };
    for options in [UdpOptions::default(), none] {
        let Some(mut rig) = Rig::new(choice) else { return };
        let (near, far, addr) = udp_pair(&mut rig, options);
        rig.driver.udp_recv(far).unwrap();
        let data = pattern(7, 25_000);
        let borrowed = |destination, contents, segment_size| {
            let (source, ecn) = (None, Some(Ecn::Ect0));
            TransmitRef { destination, source, ecn, segment_size, contents }
        };
        let wrong = "[::1]:9".parse().unwrap();
        let sent = rig.driver.udp_send_now(
            near,
            &[
                borrowed(addr, &data[..], Some(1200)),
                borrowed(wrong, b"lost", None),
                borrowed(addr, b"last", None),
            ],
        );
        let sent = sent.unwrap();
        assert_eq!((sent.bytes, sent.queued), (25_004, 0));
        assert!(sent.error.is_some(), "no IPv4 socket sends to IPv6");
        let mut expected: Vec<Vec<u8>> = data.chunks(1200).map(<[u8]>::to_vec).collect();
        expected.push(b"last".to_vec());
        assert_eq!(datagrams(&mut rig, far, expected.len()), expected);
        // Behind what waits already they wait too, and stay in order.
        let first = rig.driver.udp_send(near, transmit(addr, Bytes::from_static(b"1"), None));
        let sent = rig.driver.udp_send_now(near, &[borrowed(addr, b"2", None)]).unwrap();
        assert_eq!((sent.bytes, sent.queued, rig.driver.queued(near)), (0, 1, 2));
        assert!(matches!(rig.expect_op(first.unwrap()), Event::DatagramsSent(_)));
        rig.expect("the copy", |completion| matches!(completion.event, Event::DatagramsSent(_)));
        assert_eq!(datagrams(&mut rig, far, 2), [b"1", b"2"]);
        let long = vec![0; 70_000];
        let refused = rig.driver.udp_send_now(near, &[borrowed(addr, &long, None)]);
        assert!(matches!(refused, Err(IssueError::Invalid)));
    }
}

fn datagrams_over_ipv6_and_mapped_addresses(choice: DriverChoice) {
    let Some(mut rig) = Rig::new(choice) else { return };
    let Ok(six) = std::net::UdpSocket::bind("[::]:0") else {
        println!("no IPv6 here");
        return;
    };
    let port = six.local_addr().unwrap().port();
    let dual = rig.driver.udp(six.into(), 0).unwrap();
    rig.driver.udp_recv(dual).unwrap();
    for (bind, to) in [("[::1]:0", "::1"), ("127.0.0.1:0", "127.0.0.1")] {
        let Ok(client) = std::net::UdpSocket::bind(bind) else { continue };
        let from = client.local_addr().unwrap();
        let client = rig.driver.udp(client.into(), 0).unwrap();
        rig.driver.udp_recv(client).unwrap();
        let to = SocketAddr::new(to.parse().unwrap(), port);
        let mut out = transmit(to, pattern(4, 5000), Some(1000));
        out.ecn = Some(Ecn::Ect0);
        rig.driver.udp_send(client, out).unwrap();
        let mut came = 0;
        let mut back = None;
        while came < 5000 {
            let next = rig.expect("datagrams", |completion| {
                completion.socket == dual && matches!(completion.event, Event::Datagrams(_))
            });
            let Event::Datagrams(run) = next.event else { unreachable!() };
            assert_eq!((run.peer.ip().to_canonical(), run.peer.port()), (from.ip(), from.port()));
            assert_eq!(run.ecn, Some(Ecn::Ect0));
            assert_eq!(run.local_ip.map(|ip| ip.to_canonical()), Some(to.ip()));
            came += run.data.len();
            back = Some((run.peer, run.local_ip));
        }
        // The answer goes out from the address that was asked.
        let (peer, local_ip) = back.unwrap();
        let mut out = transmit(peer, Bytes::from_static(b"answer"), None);
        (out.source, out.ecn) = (local_ip, Some(Ecn::Ce));
        let op = rig.driver.udp_send(dual, out).unwrap();
        let answer = rig.expect("an answer", |completion| {
            completion.socket == client && matches!(completion.event, Event::Datagrams(_))
        });
        let Event::Datagrams(run) = answer.event else { unreachable!() };
        assert_eq!((&run.data[..], run.ecn, run.peer), (&b"answer"[..], Some(Ecn::Ce), to));
        let Event::DatagramsSent(sent) = rig.expect_op(op) else { panic!() };
        sent.result.unwrap();
    }
}

/// Pseudo-random numbers from a seed that the test prints.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % below
    }
}

/// What became of a send.
#[derive(Debug)]
struct Sending {
    op: OpId,
    data: Bytes,
    quiet: bool,
    /// A cancellation that leaves the stream exact was accepted.
    exact_cancel: bool,
    result: Option<io::Result<usize>>,
}

/// One end of a connection in the random test.
struct End {
    id: SocketId,
    sends: Vec<Sending>,
    heard: Vec<u8>,
    /// Receives whose completion has not come; more than one when cancelled ones are behind.
    recv: Vec<OpId>,
    ended: bool,
    /// Its own sending side was cut short: what the peer hears may stop anywhere.
    cut: bool,
    gone: bool,
    shut: bool,
}

impl End {
    fn new(id: SocketId) -> End {
        let (sends, heard, recv) = (Vec::new(), Vec::new(), Vec::new());
        End { id, sends, heard, recv, ended: false, cut: false, gone: false, shut: false }
    }

    /// What the peer may hear, in order.
    fn stream(&self) -> Vec<u8> {
        let mut stream = Vec::new();
        for sending in &self.sends {
            match &sending.result {
                Some(Ok(count)) => stream.extend_from_slice(&sending.data[..*count]),
                Some(Err(_)) if sending.exact_cancel => {}
                Some(Err(_)) | None => stream.extend_from_slice(&sending.data),
            }
        }
        stream
    }
}

fn random_interaction_delivers_everything_once_in_order(choice: DriverChoice) {
    let seeds: Vec<u64> = match std::env::var("TOWLINE_IO_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        // 1101: a receive was cancelled just when the buffers had run out.
        Err(_) => (1..=20).chain([1101]).collect(),
    };
    let mut heard = 0;
    for seed in seeds {
        println!("seed {seed}");
        heard += random_interaction(choice, seed);
    }
    assert!(heard > 10_000 || Rig::new(choice).is_none(), "{heard} bytes are not a test");
}

/// Returns how many bytes arrived.
fn random_interaction(choice: DriverChoice, seed: u64) -> usize {
    let mut dice = Dice(seed);
    let mut config = DriverConfig::new(choice);
    config.recv_buffers = 1 + dice.roll(8);
    config.recv_buffer_size = [4096, 10_000, 65_536][dice.roll(3)];
    config.queue_entries = [8, 16, 256][dice.roll(3)];
    let Some(mut rig) = Rig::with(config) else { return 0 };
    let mut ends: Vec<End> = Vec::new();
    for _ in 0..4 {
        let (near, far) = rig.pair();
        ends.push(End::new(near));
        ends.push(End::new(far));
    }
    for _ in 0..600 {
        let at = dice.roll(ends.len());
        random_step(&mut rig, &mut ends[at], &mut dice);
        if dice.roll(3) == 0 {
            rig.turn(Instant::now());
        }
        apply(&mut rig, &mut ends);
    }
    // Everything is read to the end; ends that are still open shut down.
    let deadline = Instant::now() + PATIENCE;
    while !ends.iter().all(|end| end.gone) {
        assert!(Instant::now() < deadline, "seed {seed}: stuck");
        for at in 0..ends.len() {
            let peer_done = ends[at ^ 1].gone || ends[at ^ 1].ended;
            let end = &mut ends[at];
            if end.gone {
                continue;
            }
            if !end.shut {
                end.shut = true;
                rig.driver.shutdown_write(end.id);
            }
            if end.recv.is_empty() && !end.ended {
                match rig.driver.recv(end.id) {
                    Ok(op) => end.recv.push(op),
                    Err(_) => end.ended = true,
                }
            }
            // One whose sending was cut short can only be closed: its peer would wait for an end.
            if end.cut || (end.ended && peer_done) {
                rig.driver.close(end.id);
            }
        }
        rig.turn(Instant::now() + Duration::from_millis(20));
        apply(&mut rig, &mut ends);
    }
    rig.assert_quiet();
    assert_eq!(rig.driver.stats().sockets, 0);
    for at in 0..ends.len() {
        let (from, to) = (&ends[at], &ends[at ^ 1]);
        let stream = from.stream();
        assert!(stream.starts_with(&to.heard), "seed {seed}: end {at} was not heard in order");
        let complete = !from.cut && !to.cut;
        assert!(!complete || stream.len() == to.heard.len(), "seed {seed}: end {at} lost bytes");
        for sending in &from.sends {
            assert!(sending.result.is_some() || sending.quiet, "seed {seed}: {sending:?}");
        }
        assert!(from.recv.is_empty());
    }
    ends.iter().map(|end| end.heard.len()).sum()
}

fn random_step(rig: &mut Rig, end: &mut End, dice: &mut Dice) {
    if end.gone {
        return;
    }
    match dice.roll(100) {
        0..30 => {
            let size = [0, 1, 64, 3000, 70_000, 400_000][dice.roll(6)];
            let data = pattern(dice.0, size);
            let piece = 1 + dice.roll(100_000);
            let pieces = (0..size).step_by(piece).map(|at| data.slice(at..size.min(at + piece)));
            let quiet = dice.roll(3) == 0;
            let result = if quiet {
                rig.driver.post(end.id, pieces)
            } else {
                rig.driver.send(end.id, pieces)
            };
            if let Ok(op) = result {
                let exact_cancel = false;
                end.sends.push(Sending { op, data, quiet, exact_cancel, result: None });
            }
        }
        30..85 => {
            let direct = dice.roll(2) == 0;
            let result = if direct {
                let capacity = 1 + dice.roll(200_000);
                rig.driver.recv_into(end.id, BytesMut::with_capacity(capacity), capacity)
            } else {
                rig.driver.recv(end.id)
            };
            if let Ok(op) = result {
                end.recv.push(op);
            }
        }
        85..89 => {
            if let Some(op) = end.recv.last() {
                rig.driver.cancel(*op, CancelGrade::Total);
            }
        }
        89..97 => {
            let waiting = end.sends.iter_mut().filter(|sending| sending.result.is_none());
            if let Some(sending) = waiting.last() {
                let grade = [CancelGrade::Total, CancelGrade::Partial][dice.roll(2)];
                sending.exact_cancel |= rig.driver.cancel(sending.op, grade);
            }
        }
        97 => {
            if let Some(sending) = end.sends.iter().find(|sending| sending.result.is_none()) {
                end.cut |= rig.driver.cancel(sending.op, CancelGrade::Terminal);
            }
        }
        98 if dice.roll(3) == 0 => {
            end.cut = true;
            rig.driver.close(end.id);
        }
        _ => {
            end.shut = true;
            rig.driver.shutdown_write(end.id);
        }
    }
}

/// Books the completions that have come.
fn apply(rig: &mut Rig, ends: &mut [End]) {
    while let Some(completion) = rig.queue.pop_front() {
        let end = ends.iter_mut().find(|end| end.id == completion.socket).expect("a known socket");
        assert!(!end.gone, "after the end: {completion:?}");
        match completion.event {
            Event::Received(result) => {
                assert!(!end.recv.is_empty(), "exactly once");
                assert_eq!(end.recv.remove(0), completion.op, "in order");
                match result {
                    Ok(received) => {
                        if let Some(direct) = &received.direct {
                            assert_eq!(direct.len(), received.direct_len);
                            end.heard.extend_from_slice(direct);
                        }
                        end.heard.extend_from_slice(&received.pooled);
                        end.ended |= received.end;
                        rig.driver.recycle_mut(received.pooled);
                    }
                    Err(error) if is_cancelled(&error.error) => {}
                    Err(error) => {
                        assert_ne!(error.error.raw_os_error(), Some(libc::ENOBUFS));
                        end.ended = true;
                    }
                }
            }
            Event::Sent(result) => {
                let sending = end.sends.iter_mut().find(|sending| sending.op == completion.op);
                let sending = sending.expect("a known send");
                assert!(sending.result.is_none(), "exactly once");
                match &result {
                    Ok(count) => {
                        assert!(*count == sending.data.len() || sending.exact_cancel);
                    }
                    // Broken by the peer's end: what it hears may stop anywhere.
                    Err(_) => end.cut |= !sending.exact_cancel,
                }
                sending.result = Some(result);
            }
            Event::Closed => end.gone = true,
            other => panic!("{other:?}"),
        }
    }
}
