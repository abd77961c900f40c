//! The life of a factory's socket in every order, with a factory that does what the test says. The letters and numbers in
//! comments are cases of the contract as `docs/socket-factory.md` lists them.

#![allow(clippy::print_stdout, reason = "tests print what repeats them")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use bytes::Bytes;
use common::{PATIENCE, Random, Recorder, eventually, ms, quick};
use towline::socket_factory::{
    FactorySocket, Framing, OpenOptions, RECEIVE_LIMIT, SocketError, SocketFactory,
};
use towline::websocket::SessionUse;
use towline::{
    Address, ConfigBuilder, ConnectError, Connection, Context, Ended, Endpoint, Message, RecvError,
    WireError,
};

/// A call of the factory.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Called {
    Open,
    Attached,
    Write(Vec<u8>),
    WriteText(String),
    Completed(usize),
    Close,
    RequestClose(u16, String),
    Dispose,
}

type Script = dyn Fn(&FactorySocket, &Called) + Send + Sync;

/// A factory that writes down what it is called for, and does what a script says.
struct Double {
    framing: Framing,
    blocking: bool,
    calls: Mutex<Vec<(u64, Called)>>,
    sockets: Mutex<Vec<FactorySocket>>,
    changed: Condvar,
    running: AtomicUsize,
    script: Box<Script>,
}

impl Double {
    fn new(
        framing: Framing,
        script: impl Fn(&FactorySocket, &Called) + Send + Sync + 'static,
    ) -> Arc<Double> {
        Double::made(framing, true, script)
    }

    fn made(
        framing: Framing,
        blocking: bool,
        script: impl Fn(&FactorySocket, &Called) + Send + Sync + 'static,
    ) -> Arc<Double> {
        Arc::new(Double {
            framing,
            blocking,
            calls: Mutex::default(),
            sockets: Mutex::default(),
            changed: Condvar::new(),
            running: AtomicUsize::new(0),
            script: Box::new(script),
        })
    }

    fn note(&self, socket: &FactorySocket, called: Called) {
        {
            let mut calls = self.calls.lock().unwrap();
            let last = calls.iter().rev().find(|(id, _)| *id == socket.id());
            assert!(!matches!(last, Some((_, Called::Dispose))), "{called:?} after dispose");
            if matches!(called, Called::Open | Called::Attached) {
                assert!(last.is_none(), "{called:?} is not the first call");
                self.sockets.lock().unwrap().push(socket.clone());
            }
            calls.push((socket.id(), called.clone()));
        }
        self.changed.notify_all();
        self.running.fetch_add(1, Ordering::SeqCst);
        (self.script)(socket, &called);
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    /// What was called so far, without the bookkeeping of reading.
    fn calls(&self) -> Vec<Called> {
        let calls = self.calls.lock().unwrap();
        let calls = calls.iter().map(|(_, called)| called.clone());
        calls.filter(|called| !matches!(called, Called::Completed(_))).collect()
    }

    fn wait_for(&self, what: &str, wanted: impl Fn(&[(u64, Called)]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut calls = self.calls.lock().unwrap();
        while !wanted(&calls) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not come: {calls:?}");
            calls = self.changed.wait_timeout(calls, left).unwrap().0;
        }
    }

    fn wait_for_call(&self, wanted: &Called) {
        self.wait_for(&format!("{wanted:?}"), |calls| {
            calls.iter().any(|(_, called)| called == wanted)
        });
    }

    fn socket(&self) -> FactorySocket {
        self.wait_for("a socket", |calls| !calls.is_empty());
        self.sockets.lock().unwrap().last().unwrap().clone()
    }

    fn endpoint(self: &Arc<Self>, config: ConfigBuilder) -> (Context, Endpoint) {
        let config = config.named_socket_factory("double", Arc::clone(self) as _);
        let context = Context::builder().threads(1).build().unwrap();
        let endpoint = Endpoint::new(&context, &config.build().unwrap());
        (context, endpoint)
    }
}

impl SocketFactory for Double {
    fn framing(&self) -> Framing {
        self.framing
    }

    fn may_block(&self) -> bool {
        self.blocking
    }

    fn open(&self, socket: &FactorySocket, _: &Address, _: &OpenOptions) {
        self.note(socket, Called::Open);
    }

    fn attached(&self, socket: &FactorySocket) {
        self.note(socket, Called::Attached);
    }

    fn write(&self, socket: &FactorySocket, data: Bytes) {
        self.note(socket, Called::Write(data.to_vec()));
    }

    fn write_text(&self, socket: &FactorySocket, data: Bytes) {
        self.note(socket, Called::WriteText(String::from_utf8(data.to_vec()).unwrap()));
    }

    fn completed_receive(&self, socket: &FactorySocket, byte_count: usize) {
        self.note(socket, Called::Completed(byte_count));
    }

    fn close(&self, socket: &FactorySocket) {
        self.note(socket, Called::Close);
    }

    fn request_close(&self, socket: &FactorySocket, status: u16, message: &str) {
        self.note(socket, Called::RequestClose(status, message.to_owned()));
    }

    fn dispose(&self, socket: &FactorySocket) {
        self.note(socket, Called::Dispose);
    }
}

/// Answers everything at once, inside of the call.
fn obedient(socket: &FactorySocket, called: &Called) {
    match called {
        Called::Open | Called::Attached => socket.opened().unwrap(),
        Called::Write(data) => socket.completed_write(data.len()).unwrap(),
        Called::WriteText(text) => socket.completed_write(text.len()).unwrap(),
        Called::Close | Called::RequestClose(..) => socket.closed(Ok(())).unwrap(),
        Called::Completed(_) | Called::Dispose => {}
    }
}

/// One message per call, no session: what the factory is called for is what the application does.
fn plain() -> ConfigBuilder {
    quick().websocket_session(SessionUse::Never).redial(false)
}

const MESSAGES: &str = "double+ws://somewhere";
/// A stream of bytes on which a connection is established as soon as it is open.
const BYTES: &str = "double+ftcp://somewhere";

fn ended(connection: &Connection) -> Ended {
    connection.set_read_deadline(Some(Instant::now() + PATIENCE));
    loop {
        match connection.recv_blocking() {
            Ok(_) => {}
            Err(RecvError::Ended(ended)) => return ended,
            Err(error) => panic!("{error}"),
        }
    }
}

fn receive(connection: &Connection) -> Message {
    connection.set_read_deadline(Some(Instant::now() + PATIENCE));
    connection.recv_blocking().unwrap()
}

// ---- opening (A) ----

#[test]
fn a_failure_inside_of_open_reaches_the_caller_unchanged() {
    // A1, A6, H120.
    for blocking in [false, true] {
        let double = Double::made(Framing::Bytes, blocking, |socket, called| {
            if *called == Called::Open {
                let error =
                    std::io::Error::new(std::io::ErrorKind::HostUnreachable, "no such board");
                socket.closed(Err(error.into())).unwrap();
            }
        });
        let (_context, endpoint) = double.endpoint(plain());
        let refused = endpoint.connect_blocking(BYTES).unwrap_err();
        let ConnectError::Wire { error: WireError::Io(error), .. } = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(error.to_string(), "no such board");
        double.wait_for_call(&Called::Dispose);
        assert_eq!(double.calls(), [Called::Open, Called::Dispose]);
        // A socket that somebody keeps stays valid.
        assert_eq!(double.socket().opened(), Err(SocketError::Closed));
    }
}

#[test]
fn an_open_that_is_never_answered_is_given_up_and_closed() {
    // A2, A5: what is opened too late is nobody's fault and nobody's socket.
    for (framing, url, close) in [
        (Framing::Bytes, BYTES, Called::Close),
        (Framing::None, MESSAGES, Called::RequestClose(1001, String::new())),
    ] {
        let double = Double::new(framing, |socket, called| {
            if matches!(called, Called::Close | Called::RequestClose(..)) {
                socket.opened().unwrap();
                socket.closed(Ok(())).unwrap();
            }
        });
        let (_context, endpoint) = double.endpoint(plain().connect_timeout(ms(100)));
        let refused = endpoint.connect_blocking(url).unwrap_err();
        assert!(
            matches!(&refused, ConnectError::Wire { error: WireError::TimedOut(_), .. }),
            "{refused:?}"
        );
        double.wait_for_call(&Called::Dispose);
        assert_eq!(double.calls(), [Called::Open, close, Called::Dispose]);
    }
}

#[test]
fn a_context_stops_while_its_sockets_open() {
    // A3, A13: the answer comes inside of the call, or never.
    for answers in [true, false] {
        let double = Double::new(Framing::Bytes, move |socket, called| {
            if answers && *called == Called::Close {
                socket.closed(Ok(())).unwrap();
            }
        });
        let (context, endpoint) = double.endpoint(plain());
        let connecting = endpoint.connect(BYTES);
        double.wait_for_call(&Called::Open);
        drop(context);
        double.wait_for_call(&Called::Dispose);
        assert_eq!(double.calls(), [Called::Open, Called::Close, Called::Dispose]);
        common::block_on(connecting).unwrap_err();
    }
}

#[test]
fn opening_twice_is_refused_and_changes_nothing() {
    // A5, A7.
    let double = Double::new(Framing::Bytes, obedient);
    let (_context, endpoint) = double.endpoint(plain());
    let connection = endpoint.connect_blocking(BYTES).unwrap();
    assert_eq!(double.socket().opened(), Err(SocketError::OutOfTurn));
    connection.close_blocking().unwrap();
    double.wait_for_call(&Called::Dispose);
    assert_eq!(double.calls(), [Called::Open, Called::Close, Called::Dispose]);
}

#[test]
fn a_factory_that_panics_loses_its_socket_and_nothing_else() {
    // A6.
    let double = Double::new(Framing::Bytes, |socket, called| {
        obedient(socket, called);
        assert!(!matches!(called, Called::Write(_)), "as the test wants it");
    });
    let (_context, endpoint) = double.endpoint(plain());
    let broken = endpoint.connect_blocking(BYTES).unwrap();
    let other = endpoint.connect_blocking(BYTES).unwrap();
    broken.send_blocking(Message::new("x")).unwrap();
    let how = ended(&broken);
    assert!(matches!(how, Ended::Lost(WireError::Protocol(_))), "{how:?}");
    other.close_blocking().unwrap();
}

#[test]
fn a_certificate_check_sees_what_the_factory_was_shown() {
    // F101: accepted, refused, and not shown though asked for.
    for (shown, word) in [(Some(true), ""), (Some(false), "not accepted"), (None, "1011")] {
        let double = Double::new(Framing::None, move |socket, called| match called {
            Called::Open => {
                if let Some(good) = shown {
                    let der: &[u8] = if good { b"good" } else { b"bad" };
                    assert_eq!(socket.got_peer_certificate(der, "somewhere"), good);
                }
                socket.opened().ok();
            }
            called => obedient(socket, called),
        });
        let config =
            plain().socket_factory_certificate(|der, name| der == b"good" && name == "somewhere");
        let (_context, endpoint) = double.endpoint(config);
        match endpoint.connect_blocking("double+wss://somewhere") {
            Ok(connection) => {
                assert_eq!(shown, Some(true));
                connection.close_blocking().unwrap();
            }
            Err(error) => {
                assert_ne!(shown, Some(true));
                assert!(error.to_string().contains(word), "{error}");
            }
        }
        double.wait_for_call(&Called::Dispose);
    }
}

#[test]
fn a_refusal_by_http_is_told_with_its_status() {
    // E98.
    let double = Double::new(Framing::WebSocketClient, |socket, called| match called {
        Called::Open => {
            socket.got_http_response(403, [("Server", "x")]).unwrap();
            socket.closed(Ok(())).unwrap();
        }
        called => obedient(socket, called),
    });
    let (_context, endpoint) = double.endpoint(plain());
    let refused = endpoint.connect_blocking(MESSAGES).unwrap_err();
    assert!(
        matches!(&refused, ConnectError::Wire { error: WireError::Http { status: 403, .. }, .. }),
        "{refused:?}"
    );
}

#[test]
fn a_connection_that_came_in_is_attached_and_not_opened() {
    // A11.
    let double = Double::new(Framing::None, obedient);
    let (_context, endpoint) = double.endpoint(plain());
    let listener = endpoint.listen(MESSAGES).unwrap();
    let socket = listener.attach(Arc::clone(&double) as _, Some(Arc::new(7_u32))).unwrap();
    assert_eq!(socket.native_as::<u32>().as_deref(), Some(&7));
    let connection = listener.accept_blocking().unwrap();
    socket.received_text("hello").unwrap();
    assert_eq!(receive(&connection).data, "hello");
    drop(listener);
    connection.close_blocking().unwrap();
    double.wait_for_call(&Called::Dispose);
    let close = Called::RequestClose(1000, String::new());
    assert_eq!(double.calls(), [Called::Attached, close, Called::Dispose]);
}

// ---- closing (B) ----

#[test]
fn what_was_sent_before_a_close_is_written_before_it() {
    // B20, B31.
    let double = Double::new(Framing::None, obedient);
    let (_context, endpoint) = double.endpoint(plain());
    let connection = endpoint.connect_blocking(MESSAGES).unwrap();
    connection.send_blocking(Message::new("one")).unwrap();
    connection.send_blocking(Message::text("two")).unwrap();
    connection.send_blocking(Message::new("")).unwrap();
    common::block_on(connection.close_with(4004, "done")).unwrap();
    double.wait_for_call(&Called::Dispose);
    assert_eq!(
        double.calls(),
        [
            Called::Open,
            Called::Write(b"one".to_vec()),
            Called::WriteText("two".to_owned()),
            Called::Write(Vec::new()),
            Called::RequestClose(4004, "done".to_owned()),
            Called::Dispose,
        ]
    );
    assert!(connection.send_blocking(Message::new("late")).is_err());
}

#[test]
fn a_close_that_the_peer_asks_for_is_answered_in_kind() {
    // B25, B27.
    let double = Double::new(Framing::None, obedient);
    let (_context, endpoint) = double.endpoint(plain());
    let connection = endpoint.connect_blocking(MESSAGES).unwrap();
    let socket = double.socket();
    socket.received("last words").unwrap();
    socket.close_requested(4010, "good night").unwrap();
    assert_eq!(receive(&connection).data, "last words");
    let how = ended(&connection);
    assert!(
        matches!(&how, Ended::ByPeer { code: 4010, reason } if &**reason == "good night"),
        "{how:?}"
    );
    double.wait_for_call(&Called::Dispose);
    let close = Called::RequestClose(4010, "good night".to_owned());
    assert_eq!(double.calls(), [Called::Open, close, Called::Dispose]);
}

#[test]
fn closes_from_both_sides_at_once_are_one() {
    // B28, B29: the peer asks while we ask; `closed` comes twice and from two threads.
    let double = Double::new(Framing::None, |socket, called| match called {
        Called::RequestClose(..) => {
            socket.close_requested(4001, "me too").ok();
            let results: Vec<_> = std::thread::scope(|scope| {
                let close = || socket.closed(Ok(()));
                [scope.spawn(close), scope.spawn(close)].map(|thread| thread.join().unwrap()).into()
            });
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        }
        called => obedient(socket, called),
    });
    let (_context, endpoint) = double.endpoint(plain());
    let events = Recorder::default();
    let connection = common::block_on(endpoint.connect_with(MESSAGES, events.clone())).unwrap();
    common::block_on(connection.close_with(4000, "bye")).unwrap();
    events.closed();
    double.wait_for_call(&Called::Dispose);
    assert_eq!(
        events.names().iter().filter(|name| **name == "closed").count(),
        1,
        "{:?}",
        events.names()
    );
    let close = Called::RequestClose(4000, "bye".to_owned());
    assert_eq!(double.calls(), [Called::Open, close, Called::Dispose]);
}

#[test]
fn a_close_that_is_never_answered_is_over_after_the_budget() {
    // B23, B24: also while the peer goes on sending.
    for (framing, url) in [(Framing::Bytes, BYTES), (Framing::None, MESSAGES)] {
        let double = Double::new(framing, |socket, called| match called {
            Called::Close | Called::RequestClose(..) => {
                for _ in 0..100 {
                    socket.received("still here").ok();
                }
            }
            called => obedient(socket, called),
        });
        let (_context, endpoint) = double.endpoint(plain().close_timeout(ms(200)));
        let connection = endpoint.connect_blocking(url).unwrap();
        common::block_on(connection.close()).ok();
        double.wait_for_call(&Called::Dispose);
        // B30: late calls are refused, and harm nobody.
        let socket = double.socket();
        assert_eq!(socket.closed(Ok(())), Err(SocketError::Closed));
        assert_eq!(socket.received("late"), Err(SocketError::Closed));
        assert_eq!(socket.end_of_stream(), Err(SocketError::Closed));
        assert_eq!(socket.opened(), Err(SocketError::Closed));
        assert_eq!(socket.completed_write(9), Err(SocketError::Closed));
    }
}

#[test]
fn a_socket_that_fails_while_it_writes_is_lost_with_its_error() {
    // B21, B38: error during write, and end of stream without a close.
    let double = Double::new(Framing::Bytes, |socket, called| match called {
        Called::Write(_) => {
            let error = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
            socket.closed(Err(error.into())).unwrap();
        }
        called => obedient(socket, called),
    });
    let (_context, endpoint) = double.endpoint(plain());
    let connection = endpoint.connect_blocking(BYTES).unwrap();
    connection.send_blocking(Message::new("x")).unwrap();
    let how = ended(&connection);
    assert!(
        matches!(&how, Ended::Lost(WireError::Io(error)) if error.kind() == std::io::ErrorKind::BrokenPipe),
        "{how:?}"
    );
    let other = endpoint.connect_blocking(BYTES).unwrap();
    double.socket().end_of_stream().unwrap();
    assert!(matches!(ended(&other), Ended::Lost(WireError::End)));
    double.wait_for("two disposals", |calls| {
        calls.iter().filter(|(_, called)| *called == Called::Dispose).count() == 2
    });
    assert_eq!(double.running.load(Ordering::SeqCst), 0);
}

#[test]
fn the_same_trace_comes_of_calls_inside_and_from_other_threads() {
    // I133, I134, B37: all answers come from another thread, or from inside of the call.
    let mut traces = Vec::new();
    for (inside, blocking) in [(true, true), (true, false), (false, true), (false, false)] {
        let double = Double::made(Framing::None, blocking, move |socket, called| {
            if inside {
                return obedient(socket, called);
            }
            let (socket, called) = (socket.clone(), called.clone());
            std::thread::spawn(move || obedient(&socket, &called)).join().unwrap();
        });
        let (_context, endpoint) = double.endpoint(plain());
        let connection = endpoint.connect_blocking(MESSAGES).unwrap();
        for text in ["a", "b", "c"] {
            connection.send_blocking(Message::text(text)).unwrap();
        }
        connection.flush_blocking().unwrap();
        connection.close_blocking().unwrap();
        double.wait_for_call(&Called::Dispose);
        traces.push(double.calls());
    }
    assert!(traces.windows(2).all(|pair| pair[0] == pair[1]), "{traces:?}");
}

// ---- flow control (C) ----

#[test]
fn writing_waits_for_completions_and_goes_on_with_them() {
    // C50 to C52, C59.
    let double = Double::new(Framing::None, |socket, called| match called {
        Called::Write(_) => {}
        called => obedient(socket, called),
    });
    let (_context, endpoint) = double.endpoint(plain().send_queue_bytes(1 << 20));
    let connection = endpoint.connect_blocking(MESSAGES).unwrap();
    let mut accepted = 0;
    while connection.try_send(Message::new(vec![1; 100_000])).is_ok() {
        accepted += 1;
        assert!(accepted < 1000, "nothing holds the sender back");
    }
    let socket = double.socket();
    let mut acknowledged = 0;
    // In pieces that fit no message.
    let total = accepted * 100_000;
    while acknowledged < total {
        let written: usize = {
            let calls = double.calls.lock().unwrap();
            let sizes = calls.iter().map(|(_, called)| match called {
                Called::Write(data) => data.len(),
                _ => 0,
            });
            sizes.sum()
        };
        let piece = (written - acknowledged).min(33_333);
        if piece == 0 {
            let seen = double.calls.lock().unwrap().len();
            double.wait_for("more to write", |calls| calls.len() > seen || written == total);
        }
        socket.completed_write(piece).unwrap();
        acknowledged += piece;
    }
    connection.flush_blocking().unwrap();
    // C50: more than was written is refused, and counts as all of it.
    let error = socket.completed_write(1).unwrap_err();
    assert_eq!(error, SocketError::Overcompleted { completed: 1, outstanding: 0 });
    connection.send_blocking(Message::new("still works")).unwrap();
    double.wait_for_call(&Called::Write(b"still works".to_vec()));
    socket.completed_write(11).unwrap();
    connection.close_blocking().unwrap();
}

#[test]
fn a_consumer_that_stalls_holds_the_factory_back() {
    // C53, C57: what is handed up is what is completed and what waits, at every step.
    let double = Double::new(Framing::None, obedient);
    let (_context, endpoint) = double.endpoint(plain().receive_window(512 << 10));
    let connection = endpoint.connect_blocking(MESSAGES).unwrap();
    let socket = double.socket();
    let (mut sent, message) = (0, 10_000);
    while socket.unprocessed() < (256 << 10) {
        socket.received(vec![5; message]).unwrap();
        sent += message;
        assert!(sent < 64 << 20, "nothing holds the factory back");
    }
    let mut got = 0;
    while got < sent {
        got += receive(&connection).data.len();
    }
    eventually("everything is processed", || socket.unprocessed() == 0);
    double.wait_for("the completions", |calls| {
        let counts = calls.iter().map(|(_, called)| match called {
            Called::Completed(count) => *count,
            _ => 0,
        });
        counts.sum::<usize>() == sent
    });
    connection.close_blocking().unwrap();
}

#[test]
fn a_factory_without_flow_control_is_stopped() {
    let double = Double::new(Framing::Bytes, obedient);
    let (_context, endpoint) = double.endpoint(plain());
    let connection = endpoint.connect_blocking("double+ftcp://somewhere").unwrap();
    let other = endpoint.connect_blocking("double+ftcp://somewhere").unwrap();
    let socket = double.sockets.lock().unwrap()[0].clone();
    // One thread is kept from looking, as a handler that takes long does.
    let (mut handed, piece) = (0_usize, Bytes::from(vec![0; 1 << 20]));
    let refusal = loop {
        match socket.received(piece.clone()) {
            Ok(()) => handed += piece.len(),
            Err(error) => break error,
        }
        // Zeros are no frame of ftcp's: either the stream is found broken, or the limit comes first.
        assert!(handed <= RECEIVE_LIMIT + (64 << 20), "nothing stops it");
    };
    assert!(matches!(refusal, SocketError::Overrun { .. } | SocketError::Closed), "{refusal:?}");
    ended(&connection);
    other.close_blocking().unwrap();
}

#[test]
fn what_breaks_the_contract_ends_that_socket_only() {
    // Data before `opened`; a message above the limit; text that is none; data after the end; text on a stream.
    let double = Double::new(Framing::None, |socket, called| match called {
        Called::Open => {
            assert_eq!(socket.received("early"), Err(SocketError::OutOfTurn));
            socket.opened().unwrap();
        }
        called => obedient(socket, called),
    });
    let (_context, endpoint) = double.endpoint(plain());
    let refused = endpoint.connect_blocking(MESSAGES);
    assert!(refused.is_err() || matches!(ended(&refused.unwrap()), Ended::Lost(_)));

    let double = Double::new(Framing::None, obedient);
    let (_context, endpoint) = double.endpoint(plain().max_message(64 << 10));
    let keeps = endpoint.connect_blocking(MESSAGES).unwrap();
    for (code, size) in [(1009, (64 << 10) + 1), (1007, 1)] {
        let connection = endpoint.connect_blocking(MESSAGES).unwrap();
        let socket = double.socket();
        let error = match code {
            1009 => socket.received(vec![0; size]).unwrap_err(),
            _ => socket.received_text(vec![0xff; size]).unwrap_err(),
        };
        println!("{error}");
        let how = ended(&connection);
        assert!(
            matches!(&how, Ended::Lost(WireError::WebSocketClosed { code: said, .. }) if *said == code),
            "{how:?}"
        );
    }
    let connection = endpoint.connect_blocking(MESSAGES).unwrap();
    let socket = double.socket();
    socket.end_of_stream().unwrap();
    assert!(matches!(socket.received("x"), Err(SocketError::AfterEnd | SocketError::Closed)));
    ended(&connection);
    keeps.send_blocking(Message::new("unharmed")).unwrap();
    keeps.flush_blocking().unwrap();

    let double = Double::new(Framing::Bytes, obedient);
    let (_context, endpoint) = double.endpoint(plain());
    let connection = endpoint.connect_blocking(BYTES).unwrap();
    assert_eq!(double.socket().received_text("x"), Err(SocketError::OutOfTurn));
    assert_eq!(double.socket().close_requested(1000, ""), Err(SocketError::OutOfTurn));
    connection.close_blocking().unwrap();
}

// ---- threads (I) ----

#[test]
fn a_call_that_blocks_delays_nobody_else() {
    // I132.
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&gate);
    let double = Double::new(Framing::None, move |socket, called| {
        if *called == Called::WriteText("wait".to_owned()) {
            let (open, changed) = &*held;
            let guard = open.lock().unwrap();
            drop(changed.wait_timeout_while(guard, PATIENCE, |open| !*open).unwrap());
        }
        obedient(socket, called);
    });
    let (_context, endpoint) = double.endpoint(plain());
    let held_up = endpoint.connect_blocking(MESSAGES).unwrap();
    held_up.send_blocking(Message::text("wait")).unwrap();
    double.wait_for_call(&Called::WriteText("wait".to_owned()));
    let other = endpoint.connect_blocking(MESSAGES).unwrap();
    other.send_blocking(Message::text("go")).unwrap();
    other.flush_blocking().unwrap();
    other.close_blocking().unwrap();
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    held_up.close_blocking().unwrap();
}

#[test]
fn nothing_is_left_of_many_sockets() {
    // I131, C59.
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let live = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&live);
    let double = Double::made(Framing::None, false, move |socket, called| {
        if *called == Called::Open {
            counting.fetch_add(1, Ordering::SeqCst);
            socket.set_native(Some(Arc::new(Counted(Arc::clone(&counting)))));
        }
        if *called == Called::Dispose {
            socket.set_native(None);
        }
        obedient(socket, called);
    });
    let (context, endpoint) = double.endpoint(plain());
    for _ in 0..1000 {
        let connection = endpoint.connect_blocking(MESSAGES).unwrap();
        connection.send_blocking(Message::new("x")).unwrap();
        connection.close_blocking().unwrap();
    }
    eventually("every socket is gone", || live.load(Ordering::SeqCst) == 0);
    eventually("every wire is gone", || context.stats().wires == 0);
}

#[test]
fn random_interactions_keep_the_contract() {
    // I130: both sides do what they like, in any order, on several threads; the factory checks each call's turn itself.
    let mut random = Random::from_env(1);
    for round in 0..60 {
        let framing = if random.below(2) == 0 { Framing::None } else { Framing::Bytes };
        let choices = Mutex::new(Random(random.next()));
        let double = Double::made(framing, random.below(2) == 0, move |socket, called| {
            let choice = choices.lock().unwrap().below(8);
            let act = |socket: FactorySocket, called: Called| match (choice, called) {
                // Now and then a factory breaks, or says nothing any more.
                (0, Called::Open) => {
                    socket
                        .closed(Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
                        .ok();
                }
                (1, Called::Write(_)) => {
                    socket.end_of_stream().ok();
                    socket.closed(Ok(())).ok();
                }
                (2, Called::Write(data)) => {
                    socket.completed_write(data.len() + 1).unwrap_err();
                }
                (3, Called::Write(data)) => {
                    socket.received(data.clone()).ok();
                    socket.completed_write(data.len()).ok();
                    socket.close_requested(1000, "enough").ok();
                }
                (_, Called::Open) => {
                    socket.opened().ok();
                }
                (_, Called::Write(data)) => {
                    socket.completed_write(data.len()).ok();
                }
                (_, Called::Close | Called::RequestClose(..)) => {
                    socket.closed(Ok(())).ok();
                    socket.closed(Ok(())).unwrap_err();
                }
                _ => {}
            };
            match choice % 2 {
                0 => act(socket.clone(), called.clone()),
                _ => {
                    let (socket, called) = (socket.clone(), called.clone());
                    std::thread::scope(|scope| scope.spawn(|| act(socket, called)).join().unwrap());
                }
            }
        });
        let (context, endpoint) = double.endpoint(plain());
        let url = if framing == Framing::None { MESSAGES } else { BYTES };
        let events = Recorder::default();
        for _ in 0..random.below(4) + 1 {
            let Ok(connection) = common::block_on(endpoint.connect_with(url, events.clone()))
            else {
                continue;
            };
            for _ in 0..random.below(5) {
                connection
                    .send_blocking(Message::new(vec![b'x'; random.below(3000) as usize]))
                    .ok();
            }
            match random.below(3) {
                0 => connection.abort(),
                1 => drop(connection.close_blocking()),
                _ => {}
            }
        }
        drop(context);
        // Every socket ends in its disposal, once: `note` fails on anything behind it.
        let calls = double.calls.lock().unwrap().clone();
        let opened = calls.iter().filter(|(_, called)| *called == Called::Open).count();
        double.wait_for(&format!("{opened} disposals in round {round}"), |calls| {
            calls.iter().filter(|(_, called)| *called == Called::Dispose).count() == opened
        });
    }
}

#[test]
fn a_socket_and_its_connection_may_close_inside_of_every_call() {
    // B37: neither waits for the other, whoever's thread it is.
    for blocking in [false, true] {
        for within in ["open", "write", "completed", "close"] {
            println!("{within}, on a thread of its own: {blocking}");
            let held: Arc<Mutex<Option<Connection>>> = Arc::default();
            let inner = Arc::clone(&held);
            let double = Double::made(Framing::None, blocking, move |socket, called| {
                let name = match called {
                    Called::Open => "open",
                    Called::Write(_) => "write",
                    Called::Completed(_) => "completed",
                    Called::RequestClose(..) => "close",
                    _ => "",
                };
                if name != within {
                    return obedient(socket, called);
                }
                let connection = inner.lock().unwrap().clone();
                if let Some(connection) = connection {
                    drop(connection.close_with(4000, "inside"));
                    connection.abort();
                }
                socket.closed(Ok(())).ok();
            });
            let (_context, endpoint) = double.endpoint(plain());
            let Ok(connection) = endpoint.connect_blocking(MESSAGES) else {
                assert_eq!(within, "open");
                double.wait_for_call(&Called::Dispose);
                continue;
            };
            *held.lock().unwrap() = Some(connection.clone());
            match within {
                "write" => drop(connection.send_blocking(Message::new("x"))),
                "completed" => double.socket().received("y").unwrap(),
                _ => drop(connection.close_blocking()),
            }
            ended(&connection);
            double.wait_for_call(&Called::Dispose);
            held.lock().unwrap().take();
        }
    }
}

#[test]
fn what_was_received_outlives_its_socket() {
    // C56: taken after the socket is gone, dropped after everything is.
    let double = Double::new(Framing::None, obedient);
    let (context, endpoint) = double.endpoint(plain());
    let connection = endpoint.connect_blocking(MESSAGES).unwrap();
    let socket = double.socket();
    for fill in 0..3 {
        socket.received(vec![fill; 100_000]).unwrap();
    }
    socket.closed(Ok(())).unwrap();
    double.wait_for_call(&Called::Dispose);
    let messages: Vec<Message> = (0..3).map(|_| receive(&connection)).collect();
    let how = ended(&connection);
    assert!(matches!(how, Ended::Lost(WireError::End)), "{how:?}");
    let late = std::thread::spawn(move || socket.completed_write(1));
    assert_eq!(late.join().unwrap(), Err(SocketError::Closed));
    drop((connection, endpoint, context));
    for (fill, message) in (0..).zip(messages) {
        assert!(message.data.len() == 100_000 && message.data.iter().all(|byte| *byte == fill));
    }
    // Nothing was called behind `dispose`: the double would have panicked.
    assert_eq!(double.calls(), [Called::Open, Called::Dispose]);
}

#[test]
fn a_peer_that_has_shut_its_side_down_still_gets_the_echo() {
    // B40: CLOSE and the end of the stream in one go.
    let double = Double::new(Framing::WebSocketClient, |socket, called| match called {
        Called::Open => {
            socket.got_http_response(101, [("Server", "x")]).unwrap();
            socket.opened().unwrap();
        }
        called => obedient(socket, called),
    });
    let (_context, endpoint) = double.endpoint(plain());
    let connection = endpoint.connect_blocking(MESSAGES).unwrap();
    let socket = double.socket();
    socket.received(&b"\x88\x02\x03\xe8"[..]).unwrap();
    socket.end_of_stream().unwrap();
    let how = ended(&connection);
    assert!(matches!(how, Ended::ByPeer { code: 1000, .. }), "{how:?}");
    double.wait_for_call(&Called::Dispose);
    let calls = double.calls();
    let [Called::Open, Called::Write(echo), Called::Close, Called::Dispose] = &calls[..] else {
        panic!("{calls:?}")
    };
    // Masked, with the code.
    assert!(echo.len() == 8 && echo.starts_with(b"\x88\x82"), "{echo:?}");
}
