//! The bad link: a TCP proxy of bounded rate and bounded buffers that cuts what it carries.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::random::Random;

/// What a direction of a link holds at most.
const BUFFER: usize = 16 << 10;

/// The kernel's receive buffer of each of the proxy's sockets, so that the bytes in flight are few enough to be sent again.
const KERNEL_BUFFER: usize = 64 << 10;

/// How often a waiting direction looks whether the link was cut.
const LOOK: Duration = Duration::from_millis(5);

/// How long a closing link still reads, so that its end is a FIN and no RST.
const FAREWELL: Duration = Duration::from_millis(50);

/// How long the port is tried again after an outage.
const REOPEN: Duration = Duration::from_secs(5);

/// How a link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// RST to both sides: what is in their buffers and in the proxy's is gone.
    Reset,
    /// FIN to both sides; what they still send is discarded.
    Close,
}

/// One cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// When so many bytes have gone from the client to the server, all links together.
    after: u64,
    kind: Kind,
    /// For so long afterwards connections are refused.
    outage: Duration,
}

/// Cuts spread over `bytes`: every kind, and outages of up to half a second.
pub(super) fn plan(random: &mut Random, count: usize, bytes: u64) -> Vec<Cut> {
    const PATTERN: [(Kind, bool); 6] = [
        (Kind::Reset, true),
        (Kind::Close, false),
        (Kind::Reset, false),
        (Kind::Close, true),
        (Kind::Reset, false),
        (Kind::Close, false),
    ];
    let mut kinds: Vec<_> = PATTERN.into_iter().cycle().take(count).collect();
    random.shuffle(&mut kinds);
    let slot = bytes / count.max(1) as u64;
    let cut = |(number, (kind, outage)): (usize, (Kind, bool))| Cut {
        after: slot * number as u64 + random.range(slot / 10, slot * 9 / 10),
        kind,
        outage: Duration::from_millis(if outage { random.range(150, 500) } else { 0 }),
    };
    kinds.into_iter().enumerate().map(cut).collect()
}

struct State {
    server: SocketAddr,
    /// Bytes per second in each direction.
    rate: u64,
    cuts: Mutex<VecDeque<Cut>>,
    made: AtomicU32,
    refused_for: Mutex<Duration>,
    stop: AtomicBool,
}

/// A running proxy; dropping it ends its links.
pub(super) struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(super) fn start(server: SocketAddr, rate: u64, cuts: Vec<Cut>) -> std::io::Result<Proxy> {
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            server,
            rate,
            cuts: Mutex::new(cuts.into()),
            made: AtomicU32::new(0),
            refused_for: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let own = Arc::clone(&state);
        let run = move || own.run(listener, address);
        let thread = std::thread::Builder::new().name("proxy".into()).spawn(run)?;
        Ok(Proxy { address, state, thread: Some(thread) })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Links cut so far.
    pub(super) fn cuts(&self) -> u32 {
        self.state.made.load(Ordering::Relaxed)
    }

    /// How long connections were refused, all outages together.
    pub(super) fn refused_for(&self) -> Duration {
        *self.state.refused_for.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // Before anything is accepted: the window's scale is agreed on in the handshake.
    sockopt::set_socket_recv_buffer_size(&listener, KERNEL_BUFFER)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl State {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn run(&self, listener: TcpListener, address: SocketAddr) {
        let mut listener = Some(listener);
        let mut sent = 0;
        while !self.stopped() {
            let Some(open) = &listener else { return };
            let Ok((client, _)) = open.accept() else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            let cut = match TcpStream::connect(self.server) {
                Ok(server) => self.carry(client, server, &mut sent).unwrap_or(None),
                Err(_) => None,
            };
            if let Some(Cut { outage, .. }) = cut
                && !outage.is_zero()
            {
                drop(listener.take());
                std::thread::sleep(outage);
                *self.refused_for.lock().unwrap_or_else(PoisonError::into_inner) += outage;
                listener = reopen(address);
            }
        }
    }

    /// Carries one link to its end, and says which cut ended it.
    fn carry(
        &self,
        client: TcpStream,
        server: TcpStream,
        sent: &mut u64,
    ) -> std::io::Result<Option<Cut>> {
        for socket in [&client, &server] {
            socket.set_nonblocking(false)?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(LOOK))?;
            socket.set_write_timeout(Some(LOOK))?;
        }
        let over = AtomicBool::new(false);
        let next = self.cuts.lock().unwrap_or_else(PoisonError::into_inner).front().copied();
        let left = next.map_or(u64::MAX, |cut| cut.after.saturating_sub(*sent));
        let carried = std::thread::scope(|scope| {
            scope.spawn(|| self.pump(&server, &client, u64::MAX, &over));
            self.pump(&client, &server, left, &over)
        });
        *sent += carried;
        let Some(cut) = next.filter(|_| carried == left) else { return Ok(None) };
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        self.made.fetch_add(1, Ordering::Relaxed);
        match cut.kind {
            Kind::Reset => {
                for socket in [&client, &server] {
                    sockopt::set_socket_linger(socket, Some(Duration::ZERO))?;
                }
            }
            Kind::Close => {
                for socket in [&client, &server] {
                    socket.shutdown(Shutdown::Write).ok();
                }
                let until = Instant::now() + FAREWELL;
                for mut socket in [&client, &server] {
                    let mut waste = [0; 4096];
                    while Instant::now() < until && !matches!(socket.read(&mut waste), Ok(0)) {}
                }
            }
        }
        Ok(Some(cut))
    }

    /// Forwards one direction until its end, an error, `limit` bytes, or the end of the link; how many it forwarded.
    /// The limit and errors end the link.
    fn pump(&self, mut from: &TcpStream, to: &TcpStream, limit: u64, over: &AtomicBool) -> u64 {
        let mut buffer = [0; BUFFER];
        let mut carried = 0;
        let mut free_at = Instant::now();
        let ended = || over.load(Ordering::Relaxed) || self.stopped();
        while carried < limit && !ended() {
            let count = match from.read(&mut buffer) {
                Ok(0) => {
                    to.shutdown(Shutdown::Write).ok();
                    return carried;
                }
                Ok(count) => count,
                Err(error) if is_pause(error.kind()) => continue,
                Err(_) => break,
            };
            // What was read beyond the limit is lost on the way.
            let count = count.min(usize::try_from(limit - carried).unwrap_or(usize::MAX));
            let data = buffer.get(..count).unwrap_or_default();
            let written = write_all(to, data, ended);
            carried += written as u64;
            if written < count {
                break;
            }
            let takes = Duration::from_secs_f64(count as f64 / self.rate as f64);
            free_at = free_at.max(Instant::now()) + takes;
            std::thread::sleep(free_at.saturating_duration_since(Instant::now()));
        }
        over.store(true, Ordering::Relaxed);
        carried
    }
}

fn is_pause(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Writes as much as it can until `ended`.
fn write_all(mut to: &TcpStream, mut data: &[u8], ended: impl Fn() -> bool) -> usize {
    let length = data.len();
    while !data.is_empty() && !ended() {
        match to.write(data) {
            Ok(0) => break,
            Ok(count) => data = data.get(count..).unwrap_or_default(),
            Err(error) if is_pause(error.kind()) => {}
            Err(_) => break,
        }
    }
    length - data.len()
}

/// Takes the port again.
fn reopen(address: SocketAddr) -> Option<TcpListener> {
    let until = Instant::now() + REOPEN;
    loop {
        match listen(address) {
            Ok(listener) => return Some(listener),
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_in_order_inside_the_bytes_and_repeatable() {
        for seed in 0..200 {
            let cuts = plan(&mut Random::new(seed), 6, 1 << 20);
            assert_eq!(cuts, plan(&mut Random::new(seed), 6, 1 << 20), "seed {seed}");
            assert_eq!(cuts.len(), 6);
            assert!(cuts.windows(2).all(|pair| pair[0].after < pair[1].after), "seed {seed}");
            assert!(cuts.iter().all(|cut| (1..1 << 20).contains(&cut.after)), "seed {seed}");
            assert_eq!(cuts.iter().filter(|cut| !cut.outage.is_zero()).count(), 2);
            assert_eq!(cuts.iter().filter(|cut| cut.kind == Kind::Reset).count(), 3);
        }
    }

    #[test]
    fn a_link_is_cut_after_exactly_so_many_bytes() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        for kind in [Kind::Close, Kind::Reset] {
            let cut = Cut { after: 100_000, kind, outage: Duration::ZERO };
            let proxy = Proxy::start(server.local_addr().unwrap(), u64::MAX, vec![cut]).unwrap();
            let mut client = TcpStream::connect(proxy.address()).unwrap();
            let (mut accepted, _) = server.accept().unwrap();
            let sending = std::thread::spawn(move || while client.write_all(&[7; 1000]).is_ok() {});
            let mut received = Vec::new();
            let end = accepted.read_to_end(&mut received);
            match kind {
                Kind::Close => assert_eq!((end.unwrap(), received.len()), (100_000, 100_000)),
                Kind::Reset => assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset),
            }
            drop(accepted);
            sending.join().unwrap();
            assert_eq!(proxy.cuts(), 1);
        }
    }
}
