//! The I/O thread: completions in, engines driven, submissions out.
//!
//! One turn of the loop takes what other threads asked for, waits, hands each completion to the link that it belongs to,
//! and serves every connection that anything happened to. Everything here is owned by one thread; the only meeting
//! places with others are [`Thread`]'s queue and the locks in [`Shared`].
//!
//! - [`carrier`]: what brings bytes, such as a socket; [`link`]: one of these, perhaps with TLS, and to whom it belongs at the moment;
//! - [`core`]: a connection: its engine, its handler, its present link;
//! - [`dial`]: how a connection gets a link; [`accept`]: how a link gets a connection.

mod accept;
mod alarms;
#[cfg(feature = "bats")]
mod bats;
mod carrier;
mod core;
#[cfg(feature = "quic")]
mod datagram;
mod dial;
mod factory;
#[cfg(feature = "websocket")]
mod framed;
mod link;
#[cfg(feature = "quic")]
mod quic;
#[cfg(feature = "bats")]
pub(crate) mod relay;
mod resolve;
#[cfg(feature = "websocket")]
mod upgrade;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use slab::Slab;
use socket2::Socket;
use towline_io::{Completion, Driver, Event};

use crate::connection::{Addresses, NO_SLOT, Shared};
use crate::context::Thread;
use crate::error::Ended;
use crate::handler::Handler;
use crate::listener::ListenerShared;
use crate::reader::Arrived;
use crate::socket_factory::SocketShared;

use self::accept::{ListenerCore, Moved, Resume};
use self::carrier::Carrier;
use self::core::Core;
use self::factory::{FactoryCarrier, Stirred};
use self::link::{Link, LinkKey};

#[cfg(feature = "bats")]
pub(crate) use self::bats::{BatsCommand, BatsEngine};
#[cfg(feature = "quic")]
pub use self::datagram::PortStats;
#[cfg(feature = "quic")]
pub(crate) use self::datagram::bind_listeners;
#[cfg(feature = "quic")]
pub(crate) use self::quic::{QuicCommand, QuicDial};

/// A connection's place in its thread.
pub(crate) type CoreKey = usize;

/// A new connection to dial.
pub(crate) struct Dial {
    pub(crate) shared: Arc<Shared>,
    pub(crate) addresses: Addresses,
    pub(crate) handler: Option<Box<dyn Handler>>,
}

/// What other threads tell an I/O thread.
pub(crate) enum Command {
    /// Make this connection.
    Dial(Box<Dial>),
    /// A host's addresses, as asked for by a dial.
    Resolved { shared: Arc<Shared>, address: usize, result: std::io::Result<Vec<SocketAddr>> },
    /// Accept on this socket, or only what is attached.
    Listen { socket: Option<Socket>, listener: Arc<ListenerShared> },
    /// Accept no more.
    Unlisten(Arc<ListenerShared>),
    /// A listener that was saturated may not be any more.
    Relieve(Arc<ListenerShared>),
    /// An accepted socket, to be served by this thread.
    Adopt { socket: Socket, local: SocketAddr, peer: SocketAddr, listener: Arc<ListenerShared> },
    /// A session that lives here came back on a wire that another thread accepted.
    Resume(Box<Resume>),
    /// Something about QUIC itself.
    #[cfg(feature = "quic")]
    Quic(QuicCommand),
    /// Something about flows.
    #[cfg(feature = "bats")]
    Bats(BatsCommand),
    /// A connection that a factory accepted, to be served by this thread.
    Attach { socket: Arc<SocketShared>, listener: Arc<ListenerShared> },
    /// A factory told its socket something.
    Stirred(Arc<SocketShared>),
    /// The context is being dropped.
    Stop,
}

/// What a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timed {
    Core(CoreKey),
    Link(LinkKey),
    #[cfg(feature = "quic")]
    Quic(quic::PortKey),
    #[cfg(feature = "quic")]
    QuicDial(quic::AppKey),
    #[cfg(feature = "bats")]
    Bats(bats::PortKey),
    /// The close of a factory's socket.
    Socket(usize),
}

/// Buffers that are used again in every turn.
#[derive(Default)]
struct Scratch {
    plaintext: Vec<Bytes>,
    wire: Vec<Bytes>,
    messages: Vec<Arrived>,
    /// Where small messages are copied to; see `core::compact`.
    store: BytesMut,
    commands: Vec<Command>,
    scheduled: Vec<Arc<Shared>>,
    #[cfg(feature = "quic")]
    trains: datagram::Trains,
    #[cfg(feature = "quic")]
    lent: datagram::Lent,
}

/// An I/O thread's state.
pub(crate) struct Runtime {
    thread: Arc<Thread>,
    threads: Arc<[Arc<Thread>]>,
    driver: Driver,
    links: Slab<Link>,
    cores: Slab<Core>,
    listeners: Slab<ListenerCore>,
    #[cfg(feature = "quic")]
    quic: quic::QuicThread,
    #[cfg(feature = "quic")]
    quic_wires: Vec<Arc<crate::quic::QuicWire>>,
    #[cfg(feature = "bats")]
    bats: bats::BatsThread,
    #[cfg(feature = "bats")]
    bats_wires: Vec<Arc<crate::bats::BatsWire>>,
    sockets: Slab<FactoryCarrier>,
    /// Carriers that have something to tell.
    stirred: Vec<Stirred>,
    timers: BinaryHeap<Reverse<(Instant, Timed)>>,
    scratch: Scratch,
    /// The time at which this turn's completions were taken; engines see this one.
    now: Instant,
    /// When the context was dropped: the end of the time for draining.
    stopping: Option<Instant>,
}

/// Tags of listeners have this bit, those of links do not.
const LISTENER: u64 = 1 << 63;

impl Runtime {
    pub(crate) fn new(driver: Driver, thread: Arc<Thread>, threads: Arc<[Arc<Thread>]>) -> Runtime {
        Runtime {
            thread,
            threads,
            driver,
            links: Slab::new(),
            cores: Slab::new(),
            listeners: Slab::new(),
            #[cfg(feature = "quic")]
            quic: quic::QuicThread::default(),
            #[cfg(feature = "quic")]
            quic_wires: Vec::new(),
            #[cfg(feature = "bats")]
            bats: bats::BatsThread::default(),
            #[cfg(feature = "bats")]
            bats_wires: Vec::new(),
            sockets: Slab::new(),
            stirred: Vec::new(),
            timers: BinaryHeap::new(),
            scratch: Scratch::default(),
            now: Instant::now(),
            stopping: None,
        }
    }

    /// Runs until the context is dropped.
    pub(crate) fn run(mut self) {
        let mut completions: Vec<Completion> = Vec::new();
        let mut eager = false;
        loop {
            let busy = self.take_commands() | self.stir_carriers();
            if !busy && std::mem::take(&mut eager) {
                // Whoever sends message after message from a thread on this core would otherwise be interrupted for each
                // of them: let it send a few more before this thread sleeps and has to be woken.
                std::thread::yield_now();
                continue;
            }
            eager |= busy;
            if self.is_done() {
                break;
            }
            self.thread.wires.store(self.links.len(), Relaxed);
            self.thread.timers.store(self.timers.len(), Relaxed);
            let until = match busy {
                // Serving one connection may have scheduled another, which nobody wakes this thread for.
                true => Some(self.now),
                false => self.timers.peek().map(|Reverse((at, _))| *at),
            };
            let until = [until, self.stopping].into_iter().flatten().min();
            if let Err(error) = self.driver.wait(until, &mut completions) {
                tracing::error!(%error, "the I/O driver failed");
                break;
            }
            self.now = Instant::now();
            for completion in completions.drain(..) {
                self.complete(completion);
            }
            self.expire_timers();
            self.drive_datagrams();
        }
        self.stop();
    }

    /// Does what other threads asked for; `false` when there was nothing.
    fn take_commands(&mut self) -> bool {
        let Scratch { commands, scheduled, .. } = &mut self.scratch;
        if !self.thread.swap(commands, scheduled) {
            return false;
        }
        let mut commands = std::mem::take(commands);
        let mut scheduled = std::mem::take(scheduled);
        self.now = Instant::now();
        for command in commands.drain(..) {
            self.command(command);
        }
        for shared in scheduled.drain(..) {
            let slot = shared.slot.load(std::sync::atomic::Ordering::Acquire);
            if slot != NO_SLOT {
                self.serve(slot as CoreKey);
            }
        }
        self.drive_datagrams();
        self.scratch.commands = commands;
        self.scratch.scheduled = scheduled;
        true
    }

    /// Works on engines of datagrams to which something has happened.
    fn drive_datagrams(&mut self) {
        #[cfg(feature = "quic")]
        self.quic_drive();
        #[cfg(feature = "bats")]
        self.bats_drive();
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Dial(dial) => self.dial(*dial),
            Command::Resolved { shared, address, result } => {
                self.resolved(&shared, address, result);
            }
            Command::Listen { listener, .. } if self.stopping.is_some() => listener.end(),
            Command::Listen { socket, listener } => self.listen(socket, listener),
            Command::Unlisten(listener) => self.unlisten(&listener),
            Command::Relieve(listener) => self.relieve(&listener),
            Command::Adopt { socket, local, peer, listener } => {
                self.adopt(socket, local, peer, listener);
            }
            Command::Resume(resume) => self.resume(*resume),
            #[cfg(feature = "quic")]
            Command::Quic(command) => self.quic_command(command),
            #[cfg(feature = "bats")]
            Command::Bats(command) => self.bats_command(command),
            Command::Attach { socket, listener } => self.attach_socket(socket, listener),
            Command::Stirred(socket) => self.socket_stirred(&socket),
            Command::Stop => self.begin_stop(),
        }
    }

    fn complete(&mut self, completion: Completion) {
        let Completion { socket, tag, event, .. } = completion;
        if tag & LISTENER != 0 {
            return self.accepted((tag & !LISTENER) as usize, event);
        }
        #[cfg(feature = "quic")]
        if tag & quic::QUIC != 0 {
            return self.quic_completed((tag & !quic::QUIC) as usize, socket, event);
        }
        #[cfg(feature = "bats")]
        if tag & bats::BATS != 0 {
            return self.bats_completed((tag & !bats::BATS) as usize, socket, event);
        }
        let key = LinkKey(tag as usize);
        let carrier = Carrier::Socket(socket);
        if self.links.get(key.0).is_none_or(|link| link.carrier != carrier) {
            return self.discard(event);
        }
        match event {
            Event::Connected(result) => self.connected(key, result),
            Event::Received(Ok(received)) => self.received(key, received),
            Event::Received(Err(error)) => self.receive_failed(key, error.error),
            Event::Sent(Ok(_)) => self.sent(key),
            Event::Sent(Err(error)) => self.link_failed(key, error.into()),
            Event::Detached(socket) => self.detached(key, Moved::Socket(socket)),
            Event::Closed => self.link_closed(key),
            _ => {}
        }
    }

    /// A completion for something that is gone: only its buffer matters.
    fn discard(&mut self, event: Event) {
        if let Event::Received(Ok(received)) = event {
            self.driver.recycle_mut(received.pooled);
        }
    }

    fn expire_timers(&mut self) {
        // No more than there are now: what is entered for this very moment has its turn after the I/O.
        for _ in 0..self.timers.len() {
            let Some(Reverse((at, timed))) = self.timers.peek().copied() else { break };
            if at > self.now {
                break;
            }
            self.timers.pop();
            match timed {
                Timed::Core(key) => self.core_timeout(key, at),
                Timed::Link(key) => self.link_timeout(key, at),
                #[cfg(feature = "quic")]
                Timed::Quic(key) => self.quic_timeout(key, at),
                #[cfg(feature = "quic")]
                Timed::QuicDial(key) => self.quic_dial_timeout(key, at),
                #[cfg(feature = "bats")]
                Timed::Bats(key) => self.bats_timeout(key, at),
                Timed::Socket(slot) => self.socket_timeout(slot),
            }
        }
    }

    fn arm(&mut self, at: Instant, timed: Timed) {
        self.timers.push(Reverse((at, timed)));
    }

    fn begin_stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let listeners: Vec<_> = self.listeners.iter().map(|(_, l)| Arc::clone(&l.shared)).collect();
        for listener in listeners {
            self.unlisten(&listener);
        }
        let keys: Vec<CoreKey> = self.cores.iter().map(|(key, _)| key).collect();
        // Connections that ended just now may still have their last words on the way, without which their peers wait.
        let mut longest = match self.sockets.is_empty() {
            true => link::LINGER,
            false => crate::socket_factory::CLOSE_BUDGET,
        };
        for key in keys {
            if let Some(core) = self.cores.get(key) {
                longest = longest.max(core.shared.config.0.plain.close_timeout);
            }
            self.stop_core(key);
        }
        #[cfg(feature = "quic")]
        self.quic_stop();
        #[cfg(feature = "bats")]
        self.bats_stop();
        self.stopping = Some(Instant::now() + longest);
    }

    fn is_done(&mut self) -> bool {
        let Some(deadline) = self.stopping else { return false };
        #[cfg(feature = "quic")]
        if !self.quic_is_idle() && Instant::now() < deadline {
            return false;
        }
        let idle =
            self.cores.is_empty() && !self.links.iter().any(|(_, link)| link.has_last_words());
        if idle && !self.sockets.is_empty() {
            self.close_sockets();
        }
        (idle && self.sockets.is_empty()) || Instant::now() >= deadline
    }

    fn stop(&mut self) {
        for command in self.thread.stop() {
            self.refuse(command);
        }
        let keys: Vec<CoreKey> = self.cores.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.end_stopped(key);
        }
        #[cfg(feature = "quic")]
        self.quic_end();
        #[cfg(feature = "bats")]
        self.bats_end();
        self.dispose_sockets();
    }

    /// A command that came too late.
    fn refuse(&mut self, command: Command) {
        match command {
            Command::Dial(dial) => {
                let key = self.insert_dial(*dial);
                self.end_stopped(key);
            }
            Command::Listen { listener, .. } => listener.end(),
            #[cfg(feature = "quic")]
            Command::Quic(command) => self.quic_refuse(command),
            #[cfg(feature = "bats")]
            Command::Bats(command) => Runtime::bats_refuse(command),
            Command::Attach { socket, .. } => {
                socket.life().close();
                socket.dispose();
            }
            _ => {}
        }
    }
}

/// A fault of this crate must not leave anyone waiting: should the loop ever panic, its connections end.
impl Drop for Runtime {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        tracing::error!(thread = self.thread.index, "an I/O thread panicked: its connections end");
        self.thread.stop();
        for (_, listener) in &self.listeners {
            listener.shared.end();
        }
        let now = self.now;
        for (_, core) in &mut self.cores {
            let finish = || {
                core.finish(now, &Ended::Stopped, Vec::new());
                core.release();
            };
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(finish)).ok();
        }
    }
}
