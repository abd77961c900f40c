//! The emulator at work: one thread that moves the path's time by the clock and carries between it and the sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use towline_io::{Completion, Driver, DriverConfig, Event, Waker};
use towline_sim::{LinkConfig, LinkStats};

use super::path::{Channel, End, Path};
use super::tcp::{Tcp, TcpStats};
use super::udp::{Udp, UdpStats};

/// What comes out may be late by a fortieth of the delay, within these, so that packets are carried many at a time.
const QUANTUM: (Duration, Duration) = (Duration::from_micros(50), Duration::from_micros(250));
const QUANTUM_SHARE: u32 = 40;

/// The longest sleep: idle flows are looked for as often.
const LONGEST: Duration = Duration::from_secs(1);

/// The longest lateness that is told apart, in nanoseconds.
const MAX_LATENESS: u64 = 60_000_000_000;

/// Who owns a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    UdpPort(usize),
    UdpFlow(Channel),
    TcpPort(usize),
    TcpNear(Channel),
    TcpFar(Channel),
}

impl From<Tag> for u64 {
    fn from(tag: Tag) -> u64 {
        let (kind, index) = match tag {
            Tag::UdpPort(index) => (0, index),
            Tag::UdpFlow(channel) => (1, channel),
            Tag::TcpPort(index) => (2, index),
            Tag::TcpNear(channel) => (3, channel),
            Tag::TcpFar(channel) => (4, channel),
        };
        (kind << 32) | index as u64
    }
}

impl Tag {
    fn of(tag: u64) -> Tag {
        let index = (tag & 0xffff_ffff) as usize;
        match tag >> 32 {
            0 => Tag::UdpPort(index),
            1 => Tag::UdpFlow(index),
            2 => Tag::TcpPort(index),
            3 => Tag::TcpNear(index),
            _ => Tag::TcpFar(index),
        }
    }
}

/// Where clients come in, and where what they send goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) listen: SocketAddr,
    pub(crate) target: SocketAddr,
}

/// Something that happens to whoever crosses the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incident {
    /// TCP connections are reset.
    Cut,
    /// Datagram flows get another port.
    Rebind,
}

/// What is emulated.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spec {
    pub(crate) seed: u64,
    pub(crate) up: LinkConfig,
    pub(crate) down: LinkConfig,
    pub(crate) udp: Vec<Proxy>,
    pub(crate) tcp: Vec<Proxy>,
    /// Bytes that one TCP connection may have under way.
    pub(crate) window: u64,
    /// In order of time.
    pub(crate) incidents: Vec<(Duration, Incident)>,
}

/// What was counted until a moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) elapsed: Duration,
    pub(crate) up: LinkStats,
    pub(crate) down: LinkStats,
    pub(super) udp: UdpStats,
    pub(super) tcp: TcpStats,
    /// How late packets came out, in nanoseconds.
    pub(super) lateness: Histogram<u64>,
}

enum Command {
    Snapshot(Sender<Snapshot>),
    Stop(Sender<Snapshot>),
}

/// An emulator that runs on a thread of its own; it ends when this is dropped.
pub(crate) struct Running {
    /// In the order of the specification, with real ports.
    pub(crate) udp: Vec<SocketAddr>,
    pub(crate) tcp: Vec<SocketAddr>,
    commands: Arc<Mutex<Vec<Command>>>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

/// What the thread says when it has begun.
type Begun = io::Result<(Vec<SocketAddr>, Vec<SocketAddr>, Waker)>;

impl Running {
    /// Begins to listen and to carry.
    pub(crate) fn start(spec: Spec) -> io::Result<Running> {
        let commands = Arc::new(Mutex::new(Vec::new()));
        let (tell, begun) = mpsc::channel::<Begun>();
        let own = Arc::clone(&commands);
        let work = move || match Emulator::new(spec, own) {
            Ok((mut emulator, udp, tcp)) => {
                tell.send(Ok((udp, tcp, emulator.driver.waker()))).ok();
                emulator.run();
            }
            Err(error) => drop(tell.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("link".into()).spawn(work)?;
        let (udp, tcp, waker) = begun.recv().map_err(io::Error::other)??;
        Ok(Running { udp, tcp, commands, waker, thread: Some(thread) })
    }

    fn ask(&self, command: impl FnOnce(Sender<Snapshot>) -> Command) -> Option<Snapshot> {
        let (tell, told): (_, Receiver<Snapshot>) = mpsc::channel();
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push(command(tell));
        self.waker.wake();
        told.recv().ok()
    }

    /// What was counted until now; `None` when the emulator has ended by an error of the system.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        self.ask(Command::Snapshot)
    }

    fn end(&mut self) -> Option<Snapshot> {
        let thread = self.thread.take()?;
        let last = self.ask(Command::Stop);
        thread.join().ok();
        last
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

struct Emulator {
    driver: Driver,
    path: Path,
    udp: Udp,
    tcp: Tcp,
    begin: Instant,
    incidents: Vec<(Duration, Incident)>,
    lateness: Histogram<u64>,
    quantum: Duration,
    commands: Arc<Mutex<Vec<Command>>>,
}

impl Emulator {
    fn new(
        mut spec: Spec,
        commands: Arc<Mutex<Vec<Command>>>,
    ) -> io::Result<(Emulator, Vec<SocketAddr>, Vec<SocketAddr>)> {
        let mut driver = Driver::new(&DriverConfig::default())?;
        let begin = Instant::now();
        let path = Path::new(spec.seed, begin, &spec.up, &spec.down).map_err(io::Error::other)?;
        let (mut udp, mut tcp) = (Udp::default(), Tcp::new(spec.window));
        let listened = |proxy: &Proxy, result: io::Result<SocketAddr>| {
            result.map_err(|error| {
                io::Error::new(error.kind(), format!("cannot listen on {}: {error}", proxy.listen))
            })
        };
        let mut udp_ports = Vec::new();
        for proxy in &spec.udp {
            let address = udp.listen(&mut driver, proxy.listen, proxy.target);
            udp_ports.push(listened(proxy, address)?);
        }
        let mut tcp_ports = Vec::new();
        for proxy in &spec.tcp {
            let address = tcp.listen(&mut driver, proxy.listen, proxy.target);
            tcp_ports.push(listened(proxy, address)?);
        }
        spec.incidents.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let lateness = Histogram::new_with_bounds(1, MAX_LATENESS, 2).map_err(io::Error::other)?;
        let incidents = spec.incidents;
        let delay = spec.up.one_way_delay().min(spec.down.one_way_delay());
        let quantum = (delay / QUANTUM_SHARE).clamp(QUANTUM.0, QUANTUM.1);
        let emulator =
            Emulator { driver, path, udp, tcp, begin, incidents, lateness, quantum, commands };
        Ok((emulator, udp_ports, tcp_ports))
    }

    fn run(&mut self) {
        let mut completions = Vec::new();
        let mut last = self.begin;
        loop {
            let due = [self.path.next(), self.tcp.timeout(), self.incident()];
            let until = due.into_iter().flatten().min().unwrap_or(last + LONGEST);
            let until = until.clamp(last + self.quantum, last + LONGEST);
            if let Err(error) = self.driver.wait(Some(until), &mut completions) {
                // Only a broken system refuses to wait.
                tracing::error!(%error, "the emulator ends");
                return;
            }
            let now = Instant::now();
            last = now;
            self.path.advance(now);
            for completion in completions.drain(..) {
                self.handle(now, completion);
            }
            self.turn(now);
            if self.obey(now) {
                return;
            }
        }
    }

    fn incident(&self) -> Option<Instant> {
        self.incidents.last().map(|(at, _)| self.begin + *at)
    }

    fn handle(&mut self, now: Instant, completion: Completion) {
        let Emulator { driver, path, udp, tcp, .. } = self;
        let socket = completion.socket;
        match (Tag::of(completion.tag), completion.event) {
            (Tag::UdpPort(index), Event::Datagrams(datagrams)) => {
                udp.handle_near(now, driver, path, index, datagrams);
            }
            (Tag::UdpFlow(channel), Event::Datagrams(datagrams)) => {
                udp.handle_far(now, path, channel, datagrams);
            }
            (Tag::TcpPort(index), Event::Accepted(accepted)) => {
                tcp.handle_accepted(now, driver, path, index, *accepted);
            }
            (Tag::TcpFar(channel), Event::Connected(result)) => {
                tcp.handle_connected(channel, socket, &result);
            }
            (Tag::TcpNear(channel), Event::Received(result)) => {
                tcp.handle_received(channel, End::Near, socket, result);
            }
            (Tag::TcpFar(channel), Event::Received(result)) => {
                tcp.handle_received(channel, End::Far, socket, result);
            }
            (Tag::TcpNear(channel), Event::Sent(result)) => {
                tcp.handle_sent(channel, End::Near, socket, &result);
            }
            (Tag::TcpFar(channel), Event::Sent(result)) => {
                tcp.handle_sent(channel, End::Far, socket, &result);
            }
            _ => {}
        }
    }

    /// Carries until nothing moves any more at this instant.
    fn turn(&mut self, now: Instant) {
        while self.incident().is_some_and(|at| at <= now) {
            match self.incidents.pop() {
                Some((_, Incident::Cut)) => self.tcp.cut(&mut self.driver, &mut self.path),
                Some((_, Incident::Rebind)) => self.udp.rebind(&mut self.driver),
                None => {}
            }
        }
        self.tcp.handle_timeouts(now);
        loop {
            // Also what was handed in at this instant, on a link without delay.
            self.path.advance(now);
            let mut moved = false;
            while let Some(arrival) = self.path.poll() {
                moved = true;
                let late = now.saturating_duration_since(arrival.at).as_nanos();
                let late = u64::try_from(late).unwrap_or(MAX_LATENESS).clamp(1, MAX_LATENESS);
                self.lateness.saturating_record(late);
                if self.udp.has(arrival.channel) {
                    self.udp.handle_arrival(&mut self.driver, arrival);
                } else {
                    self.tcp.handle_arrival(now, &arrival);
                }
            }
            moved |= self.tcp.pump(now, &mut self.driver, &mut self.path);
            if !moved {
                break;
            }
        }
        self.udp.flush(&mut self.driver);
        self.udp.sweep(now, &mut self.driver, &mut self.path);
    }

    /// Answers who asks; whether it is to end.
    fn obey(&mut self, now: Instant) -> bool {
        let commands =
            std::mem::take(&mut *self.commands.lock().unwrap_or_else(PoisonError::into_inner));
        let mut stop = false;
        for command in commands {
            let tell = match command {
                Command::Snapshot(tell) => tell,
                Command::Stop(tell) => {
                    stop = true;
                    tell
                }
            };
            let [up, down] = self.path.stats();
            let tcp = TcpStats { retransmits: self.tcp.retransmits(), ..self.tcp.stats };
            let elapsed = now.saturating_duration_since(self.begin);
            let (udp, lateness) = (self.udp.stats, self.lateness.clone());
            tell.send(Snapshot { elapsed, up, down, udp, tcp, lateness }).ok();
        }
        stop
    }
}
