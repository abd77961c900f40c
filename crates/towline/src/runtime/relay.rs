//! A relay's thread: its engine over one UDP socket, and what others ask of it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use towline_io::{Completion, Driver, DriverConfig, Event, Waker};
use towline_proto::bats::endpoint::{
    ConfigError, NodeConfig, Relay, RelayEvent, RelayFlowId, RelaySettings, RelayTotals,
};
use towline_proto::quic::{ClientConfig, Ecn, Path, ServerConfig, Transmit};

use super::datagram::{Engine, Lent, Misplaced, Port, Trains, bind_client};
use super::resolve;

/// Rounds of events and transmits before the socket is looked at again.
const ROUNDS: usize = 16;
/// How soon a full socket is looked at without a word from the driver.
const FULL_SOCKET: Duration = Duration::from_millis(5);
/// How long last words may take when the relay ends.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// `ECANCELED`, by which the driver says that we asked for the end.
const CANCELED: i32 = 125;

impl Engine for Relay {
    type Event = RelayEvent;

    fn handle_datagram(
        &mut self,
        now: Instant,
        path: Path,
        ecn: Option<Ecn>,
        data: bytes::BytesMut,
    ) {
        self.handle_datagram(now, path, ecn, data);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.handle_timeout(now);
    }

    fn poll_event(&mut self, now: Instant) -> Option<RelayEvent> {
        self.poll_event(now)
    }

    fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.poll_transmit(now, buf)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.poll_timeout()
    }
}

/// What other threads ask of a relay's.
#[derive(Debug, Default)]
pub(crate) struct Control {
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waker: Option<Waker>,
    stop: Option<Duration>,
    asked: u64,
    answers: u64,
    totals: Option<RelayTotals>,
    over: bool,
    resolved: Vec<(RelayFlowId, Result<Vec<SocketAddr>, String>)>,
}

impl Control {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, order: impl FnOnce(&mut State)) {
        let mut state = self.state();
        order(&mut state);
        if let Some(waker) = &state.waker {
            waker.wake();
        }
    }

    pub(crate) fn stop(&self, limit: Duration) {
        self.with(|state| state.stop = Some(state.stop.map_or(limit, |before| before.min(limit))));
    }

    pub(crate) fn totals(&self) -> Option<RelayTotals> {
        let mut number = 0;
        self.with(|state| {
            state.asked += 1;
            number = state.asked;
        });
        let mut state = self.state();
        while state.answers < number && !state.over {
            state = self.answered.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.over { None } else { state.totals.clone() }
    }

    /// What it had done when it ended.
    pub(crate) fn last(&self) -> Option<RelayTotals> {
        self.state().totals.clone()
    }
}

pub(crate) fn engine(
    settings: RelaySettings,
    max_flows: usize,
    tls: (ServerConfig, ClientConfig),
) -> Result<Relay, ConfigError> {
    let mut config = NodeConfig { max_flows, ..NodeConfig::default() };
    config.quic.secret = super::dial::random_seed();
    // Coded flows keep what is under way themselves.
    config.quic.max_memory_per_connection = u64::MAX;
    let times = (Instant::now(), SystemTime::now());
    Relay::with_tls(config, settings, tls, super::dial::random_seed(), times)
}

/// Binds the socket and starts the thread.
pub(crate) fn start(
    engine: Relay,
    local: SocketAddr,
    control: Arc<Control>,
    on_event: Box<dyn FnMut(&RelayEvent) + Send>,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let socket = bind_client(local)?;
    let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
    let local = socket.local_addr()?.as_socket().ok_or_else(unsupported)?;
    let (tell, started) = std::sync::mpsc::sync_channel(1);
    let run = move || {
        let made = Driver::new(&DriverConfig::default()).and_then(|mut driver| {
            let mut port = Port::new(engine);
            port.add(&mut driver, socket, 0)?;
            Ok(RelayThread::new(driver, port, local, control, on_event))
        });
        match made {
            Ok(thread) => {
                tell.send(Ok(())).ok();
                thread.run();
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    };
    let thread = std::thread::Builder::new().name("towline-relay".into()).spawn(run)?;
    started.recv().map_err(io::Error::other)??;
    Ok((local, thread))
}

struct RelayThread {
    driver: Driver,
    port: Port<Relay>,
    /// What the socket is bound to, which decides what it can send to.
    local: SocketAddr,
    control: Arc<Control>,
    on_event: Box<dyn FnMut(&RelayEvent) + Send>,
    trains: Trains,
    lent: Lent,
    misplaced: Vec<Misplaced>,
    /// Until when flows may end by themselves, and until when last words are sent.
    stopping: Option<Instant>,
    leaving: Option<Instant>,
}

impl RelayThread {
    fn new(
        driver: Driver,
        port: Port<Relay>,
        local: SocketAddr,
        control: Arc<Control>,
        on_event: Box<dyn FnMut(&RelayEvent) + Send>,
    ) -> RelayThread {
        control.state().waker = Some(driver.waker());
        RelayThread {
            driver,
            port,
            local,
            control,
            on_event,
            trains: Trains::default(),
            lent: Lent::default(),
            misplaced: Vec::new(),
            stopping: None,
            leaving: None,
        }
    }

    fn run(mut self) {
        let mut completions: Vec<Completion> = Vec::new();
        loop {
            let now = Instant::now();
            self.obey(now);
            if self.is_done(now) {
                break;
            }
            let until = self.drive(now);
            let until = [until, self.stopping, self.leaving].into_iter().flatten().min();
            if let Err(error) = self.driver.wait(until, &mut completions) {
                tracing::error!(%error, "the I/O driver failed");
                break;
            }
            let now = Instant::now();
            for completion in completions.drain(..) {
                self.complete(now, completion);
            }
            self.port.timeout(now);
        }
        self.port.close(&mut self.driver);
    }

    /// Does what other threads asked for.
    fn obey(&mut self, now: Instant) {
        let mut state = self.control.state();
        for (flow, addresses) in state.resolved.drain(..) {
            self.port.engine.resolved(now, flow, addresses);
        }
        if let Some(limit) = state.stop.take() {
            let by = now + limit;
            self.stopping = Some(self.stopping.map_or(by, |before| before.min(by)));
            if let Err(error) = self.port.engine.stop() {
                tracing::error!(%error, "new flows are still taken");
            }
        }
        if state.answers < state.asked {
            state.answers = state.asked;
            state.totals = Some(self.port.engine.totals());
            self.control.answered.notify_all();
        }
    }

    /// Whether the time for last words is over. Before that, flows that did not end by themselves are ended.
    fn is_done(&mut self, now: Instant) -> bool {
        if let Some(by) = self.stopping
            && self.leaving.is_none()
            && (by <= now || self.port.engine.flows() == 0)
        {
            self.port.engine.close(now);
            self.leaving = Some(now + LAST_WORDS);
            self.stopping = None;
        }
        let leaving = self.leaving.is_some();
        leaving && (self.port.engine.flows() == 0 || self.leaving.is_some_and(|by| by <= now))
    }

    /// Moves events and datagrams until nothing is left; when to come back.
    fn drive(&mut self, now: Instant) -> Option<Instant> {
        let mut more = true;
        for _ in 0..ROUNDS {
            self.tell(now);
            let swept = self.port.sweep(now, &mut self.driver, &mut self.trains);
            let told = self.tell(now);
            more = swept || told || self.port.poll_timeout().is_some_and(|at| at <= now);
            if !more || self.port.is_blocked() {
                break;
            }
        }
        self.lent.give_back(&mut self.driver);
        let earliest = if more && self.port.is_blocked() { now + FULL_SOCKET } else { now };
        match more {
            true => Some(earliest),
            false => self.port.poll_timeout().map(|at| at.max(earliest)),
        }
    }

    /// Tells what has happened; whether anything has.
    fn tell(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(event) = self.port.poll_event(now) {
            any = true;
            if let RelayEvent::Resolve { flow, address } = &event {
                let (flow, control) = (*flow, Arc::clone(&self.control));
                let local = self.local;
                resolve::lookup(address.host().to_owned(), address.port(), move |found| {
                    let usable = found.map_err(|error| error.to_string()).and_then(|mut all| {
                        all.retain(|to| to.is_ipv4() == local.is_ipv4());
                        let none = || format!("no address that {local} can send to");
                        if all.is_empty() { Err(none()) } else { Ok(all) }
                    });
                    control.with(|state| state.resolved.push((flow, usable)));
                });
            }
            (self.on_event)(&event);
        }
        any
    }

    fn complete(&mut self, now: Instant, completion: Completion) {
        let Completion { socket, event, .. } = completion;
        match event {
            Event::Datagrams(came) => {
                let (lent, misplaced) = (&mut self.lent, &mut self.misplaced);
                self.port.received(now, socket, came, lent, |_| None, misplaced);
            }
            Event::DatagramsSent(_) => self.port.sent(socket),
            Event::DatagramsEnded(error) if error.raw_os_error() != Some(CANCELED) => {
                tracing::warn!(%error, "a datagram socket is read again after an error");
                self.port.resume(&mut self.driver, socket);
            }
            Event::DatagramError(error) => tracing::debug!(%error, "a datagram socket"),
            _ => {}
        }
    }
}

/// Whoever waits for an answer must not wait for a thread that is gone.
impl Drop for RelayThread {
    fn drop(&mut self) {
        let mut state = self.control.state();
        state.over = true;
        state.totals = Some(self.port.engine.totals());
        self.control.answered.notify_all();
    }
}
