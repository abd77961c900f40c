//! The work for contenders with events: written once, over what can be done with a connection inside of one.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use hdrhistogram::Histogram;

use crate::meter::{Memory, Meter};
use crate::work::{
    CHUNK, ECHO, HANDSHAKES_AT_ONCE, Kind, REQUEST, REQUESTS_AT_ONCE, Run, WARM_UP, histogram,
    print_bulk, print_ping, print_rate,
};

/// A connection during one of its events.
pub trait Io<S> {
    fn open(&mut self) -> S;
    /// Takes bytes, as many as there is room for; the end only behind all of them.
    fn send(&mut self, stream: S, data: &Bytes, end: bool) -> usize;
    /// Shows the next bytes and tells whether the stream has ended behind them; `None`: nothing for now.
    fn read(&mut self, stream: S, show: &mut dyn FnMut(&[u8])) -> Option<bool>;
    fn close(&mut self);
    /// Starts another connection to the same server.
    fn connect_another(&mut self);
}

/// The events of a connection.
pub trait App<S>: Send {
    fn connected(&mut self, _: &mut dyn Io<S>) {}
    fn readable(&mut self, io: &mut dyn Io<S>, stream: S);
    fn writable(&mut self, _: &mut dyn Io<S>, _: S) {}
}

/// Echoes streams that ask for it, and reads the others.
pub struct Server<S> {
    echoes: HashMap<S, bool>,
}

impl<S> Default for Server<S> {
    fn default() -> Self {
        Server { echoes: HashMap::new() }
    }
}

impl<S: Copy + Eq + Hash + Send> App<S> for Server<S> {
    fn readable(&mut self, io: &mut dyn Io<S>, stream: S) {
        loop {
            let mut known = self.echoes.get(&stream).copied();
            let mut reply = Bytes::new();
            let read = io.read(stream, &mut |mut data| {
                if known.is_none()
                    && let Some((first, rest)) = data.split_first()
                {
                    known = Some(*first == ECHO);
                    data = rest;
                }
                if known == Some(true) {
                    reply = Bytes::copy_from_slice(data);
                }
            });
            let Some(end) = read else { return };
            if end || !reply.is_empty() {
                assert_eq!(io.send(stream, &reply, end), reply.len(), "room for little answers");
            }
            if end {
                self.echoes.remove(&stream);
                return;
            }
            if let Some(known) = known {
                self.echoes.insert(stream, known);
            }
        }
    }
}

/// What all connections of a client do together.
pub struct Tally {
    run: Run,
    state: Mutex<State>,
    over: Sender<()>,
}

#[derive(Default)]
struct State {
    done: u64,
    started: u64,
    meter: Option<(Meter, Instant)>,
    memory: Option<Memory>,
}

impl Tally {
    pub fn new(run: &Run, over: Sender<()>) -> Arc<Tally> {
        let state = State { started: 1, ..State::default() };
        Arc::new(Tally { run: run.clone(), state: Mutex::new(state), over })
    }

    pub fn app<S: Copy>(self: &Arc<Self>) -> Box<dyn App<S>> {
        match self.run.kind {
            Kind::Bulk => Box::new(Bulk::new(self.clone())),
            Kind::Ping => Box::new(Ping::new(self.clone())),
            Kind::Requests => {
                Box::new(Requests { tally: self.clone(), open: 0, done: 0, measured: None })
            }
            Kind::Full | Kind::Resumed | Kind::Idle => Box::new(Once { tally: self.clone() }),
        }
    }

    fn measure(&self) -> (Meter, Instant) {
        (Meter::start(self.run.server), Instant::now() + self.run.lasts())
    }

    /// After the two seconds of rest.
    pub fn print_memory(&self) {
        if let Some(memory) = &self.state.lock().expect("a lock").memory {
            memory.print(self.run.connections);
        }
    }

    /// A connection has done its request. How many more are to be started.
    fn handshake_done(&self) -> u64 {
        let mut state = self.state.lock().expect("a lock");
        state.done += 1;
        if state.meter.is_none() {
            // One after the other at first: the sessions that later ones resume.
            if state.done < HANDSHAKES_AT_ONCE {
                return 1;
            }
            state.done = 0;
            state.started = HANDSHAKES_AT_ONCE;
            state.meter = Some(self.measure());
            return HANDSHAKES_AT_ONCE;
        }
        let Some((meter, end)) = &state.meter else { return 0 };
        if Instant::now() < *end {
            state.started += 1;
            return 1;
        }
        if state.done == state.started {
            print_rate(state.done, meter.stop());
            self.over.send(()).ok();
        }
        0
    }

    fn idle_done(&self) -> u64 {
        let mut state = self.state.lock().expect("a lock");
        if state.memory.is_none() {
            state.memory = Some(Memory::start(self.run.server));
            state.started = HANDSHAKES_AT_ONCE;
            return HANDSHAKES_AT_ONCE;
        }
        state.done += 1;
        if state.done == self.run.connections {
            self.over.send(()).ok();
        }
        if state.started < self.run.connections {
            state.started += 1;
            return 1;
        }
        0
    }
}

fn request() -> Bytes {
    let mut request = [1; REQUEST + 1];
    request[0] = ECHO;
    Bytes::copy_from_slice(&request)
}

/// Reads what is there; whether the stream has ended.
fn read_all<S: Copy>(io: &mut dyn Io<S>, stream: S, length: &mut usize) -> bool {
    while let Some(end) = io.read(stream, &mut |data| *length += data.len()) {
        if end {
            return true;
        }
    }
    false
}

struct Bulk {
    tally: Arc<Tally>,
    chunk: Bytes,
    rest: Bytes,
    sent: u64,
    measured: Option<(Meter, Instant)>,
    finished: bool,
}

impl Bulk {
    fn new(tally: Arc<Tally>) -> Bulk {
        let chunk = Bytes::from(vec![7; CHUNK]);
        Bulk { tally, rest: chunk.clone(), chunk, sent: 0, measured: None, finished: false }
    }
}

impl<S: Copy> App<S> for Bulk {
    fn connected(&mut self, io: &mut dyn Io<S>) {
        let stream = io.open();
        self.writable(io, stream);
    }

    fn writable(&mut self, io: &mut dyn Io<S>, stream: S) {
        while !self.finished {
            if self.rest.is_empty() {
                self.rest = self.chunk.clone();
                match &self.measured {
                    None if self.sent >= WARM_UP => {
                        self.measured = Some(self.tally.measure());
                        self.sent = 0;
                    }
                    Some((_, end)) if Instant::now() >= *end => {
                        self.finished = true;
                        io.send(stream, &Bytes::new(), true);
                        return;
                    }
                    _ => {}
                }
            }
            let taken = io.send(stream, &self.rest, false);
            if taken == 0 {
                return;
            }
            self.sent += taken as u64;
            self.rest = self.rest.slice(taken..);
        }
    }

    fn readable(&mut self, io: &mut dyn Io<S>, stream: S) {
        if read_all(io, stream, &mut 0)
            && let Some((meter, _)) = &self.measured
        {
            print_bulk(self.sent, meter.stop());
            self.tally.over.send(()).ok();
        }
    }
}

struct Ping {
    tally: Arc<Tally>,
    ping: Bytes,
    begin: Instant,
    length: usize,
    times: Histogram<u64>,
    measured: Option<(Meter, Instant)>,
}

impl Ping {
    fn new(tally: Arc<Tally>) -> Ping {
        let ping = Bytes::from_static(&[1; REQUEST]);
        Ping { tally, ping, begin: Instant::now(), length: 0, times: histogram(), measured: None }
    }
}

impl<S: Copy> App<S> for Ping {
    fn connected(&mut self, io: &mut dyn Io<S>) {
        let stream = io.open();
        self.measured = Some(self.tally.measure());
        self.begin = Instant::now();
        io.send(stream, &request(), false);
    }

    fn readable(&mut self, io: &mut dyn Io<S>, stream: S) {
        read_all(io, stream, &mut self.length);
        if self.length < REQUEST {
            return;
        }
        self.length = 0;
        let now = Instant::now();
        self.times.saturating_record((now - self.begin).as_nanos() as u64);
        match &self.measured {
            Some((_, end)) if now < *end => {
                self.begin = now;
                io.send(stream, &self.ping, false);
            }
            Some((meter, _)) => {
                print_ping(&self.times, meter.stop());
                self.tally.over.send(()).ok();
            }
            None => {}
        }
    }
}

struct Requests {
    tally: Arc<Tally>,
    open: u64,
    done: u64,
    measured: Option<(Meter, Instant)>,
}

impl<S: Copy> App<S> for Requests {
    fn connected(&mut self, io: &mut dyn Io<S>) {
        self.measured = Some(self.tally.measure());
        for _ in 0..REQUESTS_AT_ONCE {
            self.open += 1;
            let stream = io.open();
            io.send(stream, &request(), true);
        }
    }

    fn readable(&mut self, io: &mut dyn Io<S>, stream: S) {
        if !read_all(io, stream, &mut 0) {
            return;
        }
        self.done += 1;
        match &self.measured {
            Some((_, end)) if Instant::now() < *end => {
                let stream = io.open();
                io.send(stream, &request(), true);
            }
            Some((meter, _)) => {
                self.open -= 1;
                if self.open == 0 {
                    print_rate(self.done, meter.stop());
                    self.tally.over.send(()).ok();
                }
            }
            None => {}
        }
    }
}

/// One request on a connection.
struct Once {
    tally: Arc<Tally>,
}

impl<S: Copy> App<S> for Once {
    fn connected(&mut self, io: &mut dyn Io<S>) {
        let stream = io.open();
        io.send(stream, &request(), true);
    }

    fn readable(&mut self, io: &mut dyn Io<S>, stream: S) {
        if !read_all(io, stream, &mut 0) {
            return;
        }
        let another = if self.tally.run.kind == Kind::Idle {
            self.tally.idle_done()
        } else {
            io.close();
            self.tally.handshake_done()
        };
        for _ in 0..another {
            io.connect_another();
        }
    }
}
