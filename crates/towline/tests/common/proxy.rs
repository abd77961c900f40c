//! A TCP proxy that cuts, swallows, delays and refuses on command.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use towline::Address;

/// Wires that it serves at once; beyond, new ones are dropped.
const WIRES: usize = 256;

/// How a wire ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both ends see an orderly end of the stream.
    Fin,
    /// Both ends see a reset.
    Reset,
    /// Nobody sees anything: all that comes is swallowed.
    Swallow,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// What is to happen to a wire.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// After so many bytes this way, like this.
    pub cut: Option<(Way, usize, Cut)>,
    /// What each piece waits for before it goes on.
    pub delay: Duration,
}

type Planner = Box<dyn FnMut(usize) -> Plan + Send>;

struct State {
    target: Mutex<SocketAddr>,
    planner: Mutex<Planner>,
    wires: Mutex<Vec<Arc<ProxiedWire>>>,
    accepted: AtomicUsize,
    cuts: AtomicUsize,
    closed: AtomicBool,
}

struct ProxiedWire {
    client: TcpStream,
    server: TcpStream,
    plan: Plan,
    swallows: AtomicBool,
    over: AtomicBool,
    pumps: AtomicUsize,
}

impl ProxiedWire {
    fn cut(&self, how: Cut) {
        match how {
            Cut::Swallow => return self.swallows.store(true, Ordering::SeqCst),
            _ if self.over.swap(true, Ordering::SeqCst) => return,
            Cut::Fin => {}
            Cut::Reset => {
                for stream in [&self.client, &self.server] {
                    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
                    // Ends the pump that reads; the reset goes out when the last owner is gone.
                    stream.shutdown(Shutdown::Read).ok();
                }
                return;
            }
        }
        for stream in [&self.client, &self.server] {
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    fn pump(&self, way: Way, state: &State) {
        let (from, to) = match way {
            Way::ToServer => (&self.client, &self.server),
            Way::ToClient => (&self.server, &self.client),
        };
        let mut budget = match self.plan.cut {
            Some((at, bytes, how)) if at == way => Some((bytes, how)),
            _ => None,
        };
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some((0, how)) = budget {
                budget = None;
                state.cuts.fetch_add(1, Ordering::SeqCst);
                self.cut(how);
            }
            let room = budget.map_or(buffer.len(), |(bytes, _)| bytes.min(buffer.len()));
            let (mut from, mut to) = (from, to);
            let Ok(read @ 1..) = from.read(&mut buffer[..room]) else { break };
            if self.over.load(Ordering::SeqCst) {
                break;
            }
            if self.swallows.load(Ordering::SeqCst) {
                continue;
            }
            if !self.plan.delay.is_zero() {
                std::thread::park_timeout(self.plan.delay);
            }
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
            if let Some((bytes, _)) = &mut budget {
                *bytes -= read;
            }
        }
        if self.swallows.load(Ordering::SeqCst) {
            return;
        }
        // One end has closed: so do we to the other, which may still talk.
        if !self.over.load(Ordering::SeqCst) {
            to.shutdown(Shutdown::Write).ok();
        }
    }
}

/// A proxy in front of one address.
pub struct Proxy {
    state: Arc<State>,
    address: SocketAddr,
    accepting: Option<(Arc<Socket>, JoinHandle<()>)>,
}

impl Proxy {
    /// In front of a listener, without faults.
    pub fn new(target: &Address) -> Proxy {
        Proxy::planned(target, |_| Plan::default())
    }

    /// With a plan for each wire, by its number from 0.
    pub fn planned(target: &Address, planner: impl FnMut(usize) -> Plan + Send + 'static) -> Proxy {
        let target = format!("{}:{}", target.host(), target.port()).parse().unwrap();
        let state = Arc::new(State {
            target: Mutex::new(target),
            planner: Mutex::new(Box::new(planner)),
            wires: Mutex::default(),
            accepted: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let mut proxy = Proxy { state, address: "127.0.0.1:0".parse().unwrap(), accepting: None };
        proxy.open();
        proxy
    }

    /// Where clients connect.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// Wires accepted so far.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Cuts that plans made so far.
    pub fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::SeqCst)
    }

    /// Sends new wires elsewhere.
    pub fn retarget(&self, target: &Address) {
        let target = format!("{}:{}", target.host(), target.port()).parse().unwrap();
        *self.state.target.lock().unwrap() = target;
    }

    /// What happens to wires from now on.
    pub fn plan(&self, planner: impl FnMut(usize) -> Plan + Send + 'static) {
        *self.state.planner.lock().unwrap() = Box::new(planner);
    }

    /// Ends all wires of now; returns how many.
    pub fn cut(&self, how: Cut) -> usize {
        let wires: Vec<_> = self.state.wires.lock().unwrap().clone();
        let live = wires.iter().filter(|wire| !wire.over.load(Ordering::SeqCst));
        live.map(|wire| wire.cut(how)).count()
    }

    /// From now on connecting is refused.
    pub fn outage(&mut self) {
        if let Some((listener, thread)) = self.accepting.take() {
            self.state.closed.store(true, Ordering::SeqCst);
            listener.shutdown(Shutdown::Both).ok();
            thread.join().unwrap();
        }
    }

    /// Accepts again, on the same port.
    pub fn open(&mut self) {
        self.state.closed.store(false, Ordering::SeqCst);
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.set_reuse_address(true).unwrap();
        listener.bind(&self.address.into()).unwrap();
        listener.listen(128).unwrap();
        self.address = listener.local_addr().unwrap().as_socket().unwrap();
        let listener = Arc::new(listener);
        let (state, socket) = (Arc::clone(&self.state), Arc::clone(&listener));
        let thread = std::thread::spawn(move || accept(&state, &socket));
        self.accepting = Some((listener, thread));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.outage();
        for wire in self.state.wires.lock().unwrap().drain(..) {
            wire.swallows.store(false, Ordering::SeqCst);
            wire.cut(Cut::Fin);
        }
    }
}

fn accept(state: &Arc<State>, listener: &Socket) {
    while let Ok((client, _)) = listener.accept() {
        if state.closed.load(Ordering::SeqCst) {
            return;
        }
        let number = state.accepted.fetch_add(1, Ordering::SeqCst);
        let plan = (state.planner.lock().unwrap())(number);
        let target = *state.target.lock().unwrap();
        let Ok(server) = TcpStream::connect(target) else { continue };
        let client = TcpStream::from(client);
        client.set_nodelay(true).ok();
        server.set_nodelay(true).ok();
        let wire = Arc::new(ProxiedWire {
            client,
            server,
            plan,
            swallows: AtomicBool::new(false),
            over: AtomicBool::new(false),
            pumps: AtomicUsize::new(2),
        });
        {
            let mut wires = state.wires.lock().unwrap();
            if wires.len() >= WIRES {
                continue;
            }
            wires.push(Arc::clone(&wire));
        }
        for way in [Way::ToServer, Way::ToClient] {
            let (wire, state) = (Arc::clone(&wire), Arc::clone(state));
            std::thread::spawn(move || {
                wire.pump(way, &state);
                if wire.pumps.fetch_sub(1, Ordering::SeqCst) == 1 {
                    state.wires.lock().unwrap().retain(|other| !Arc::ptr_eq(other, &wire));
                }
            });
        }
    }
}

/// An address to which connecting neither succeeds nor fails: a listener whose queue is full.
pub struct BlackHole {
    address: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<Socket>,
}

impl BlackHole {
    pub fn new() -> BlackHole {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = (0..4)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket.connect(&address).ok();
                socket
            })
            .collect();
        let address = address.as_socket().unwrap();
        BlackHole { address, _listener: listener.into(), _waiting: waiting }
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }
}

/// An address at which nobody listens, and nobody will while this is kept.
pub struct Nobody(SocketAddr, #[expect(dead_code, reason = "keeps the port")] Socket);

impl Nobody {
    pub fn new() -> Nobody {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        Nobody(socket.local_addr().unwrap().as_socket().unwrap(), socket)
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.0)
    }
}
