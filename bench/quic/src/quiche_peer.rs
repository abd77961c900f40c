//! quiche, which comes without a driver: a loop over poll(2), quinn-udp's GSO and GRO, and its connections.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quiche::{ConnectionId, RecvInfo};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};

use crate::evented::{App, Io, Server, Tally};
use crate::work::{ALPN, IDLE_TIMEOUT, Kind, REST, Run};
use crate::{announce, tls};

/// Packets as long as the others' are after their path MTU discovery.
const PACKET: usize = 1452;
/// The longest train.
const TRAIN: usize = 65_000 / PACKET * PACKET;
/// The kernel's buffers, as Towline asks for them.
const KERNEL_BUFFER: usize = 4 << 20;
const ID: usize = 16;

/// The windows of quiche's own commands; it has none by default.
fn config(folder: &Path, server: bool) -> quiche::Config {
    let mut config = quiche::Config::new(quiche::PROTOCOL_VERSION).expect("a version");
    config.set_application_protos(&[ALPN]).expect("a protocol");
    let path = |path: std::path::PathBuf| path.to_str().expect("a path of text").to_owned();
    if server {
        config
            .load_cert_chain_from_pem_file(&path(tls::certificate(folder)))
            .expect("a certificate");
        config.load_priv_key_from_pem_file(&path(tls::key(folder))).expect("a key");
    } else {
        config
            .load_verify_locations_from_file(&path(tls::certificate(folder)))
            .expect("a certificate");
        config.verify_peer(true);
    }
    config.set_max_idle_timeout(IDLE_TIMEOUT.as_millis() as u64);
    config.set_max_recv_udp_payload_size(65_527);
    config.set_max_send_udp_payload_size(PACKET);
    config.set_initial_max_data(10_000_000);
    config.set_initial_max_stream_data_bidi_local(1_000_000);
    config.set_initial_max_stream_data_bidi_remote(1_000_000);
    config.set_initial_max_stream_data_uni(1_000_000);
    config.set_initial_max_streams_bidi(100);
    config.set_initial_max_streams_uni(100);
    config
}

type Apps = Box<dyn App<u64>>;

struct Conn {
    inner: quiche::Connection,
    app: Apps,
    connected: bool,
    dirty: bool,
    deadline: Option<Instant>,
    ids: Vec<ConnectionId<'static>>,
    next_stream: u64,
}

/// A connection in one of its events.
struct Events<'a> {
    inner: &'a mut quiche::Connection,
    scratch: &'a mut [u8],
    next_stream: &'a mut u64,
    more: &'a mut u64,
}

impl Io<u64> for Events<'_> {
    fn open(&mut self) -> u64 {
        let stream = *self.next_stream;
        *self.next_stream += 4;
        stream
    }

    fn send(&mut self, stream: u64, data: &Bytes, end: bool) -> usize {
        self.inner.stream_send(stream, data, end).unwrap_or(0)
    }

    fn read(&mut self, stream: u64, show: &mut dyn FnMut(&[u8])) -> Option<bool> {
        let (length, end) = self.inner.stream_recv(stream, self.scratch).ok()?;
        show(&self.scratch[..length]);
        Some(end)
    }

    fn close(&mut self) {
        self.inner.close(true, 0, b"").ok();
    }

    fn connect_another(&mut self) {
        *self.more += 1;
    }
}

struct Loop {
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    config: quiche::Config,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    by_id: HashMap<ConnectionId<'static>, usize>,
    dirty: Vec<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    random: ring::rand::SystemRandom,
    scratch: Vec<u8>,
    train: Vec<u8>,
    /// A client's last session.
    session: Option<Vec<u8>>,
    /// Connections that are to be made.
    more: u64,
}

impl Loop {
    fn new(config: quiche::Config) -> Loop {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let reference = || UdpSockRef::from(&socket);
        let state = UdpSocketState::new(reference()).expect("a socket's state");
        state.set_send_buffer_size(reference(), KERNEL_BUFFER).ok();
        state.set_recv_buffer_size(reference(), KERNEL_BUFFER).ok();
        Loop {
            local: socket.local_addr().expect("an address"),
            socket,
            state,
            config,
            conns: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            dirty: Vec::new(),
            timers: BinaryHeap::new(),
            random: ring::rand::SystemRandom::new(),
            scratch: vec![0; 64 << 10],
            train: vec![0; TRAIN],
            session: None,
            more: 0,
        }
    }

    fn new_id(&self) -> ConnectionId<'static> {
        use ring::rand::SecureRandom;
        let mut id = vec![0; ID];
        self.random.fill(&mut id).expect("random bytes");
        ConnectionId::from_vec(id)
    }

    fn insert(
        &mut self,
        inner: quiche::Connection,
        app: Apps,
        ids: Vec<ConnectionId<'static>>,
    ) -> usize {
        let conn = Conn {
            inner,
            app,
            connected: false,
            dirty: false,
            deadline: None,
            ids,
            next_stream: 0,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        for id in &conn.ids {
            self.by_id.insert(id.clone(), index);
        }
        self.conns[index] = Some(conn);
        self.touch(index);
        index
    }

    fn touch(&mut self, index: usize) {
        if let Some(conn) = &mut self.conns[index]
            && !std::mem::replace(&mut conn.dirty, true)
        {
            self.dirty.push(index);
        }
    }

    fn connect(&mut self, to: SocketAddr, app: Apps) {
        let id = self.new_id();
        let mut inner = quiche::connect(Some("localhost"), &id, self.local, to, &mut self.config)
            .expect("a dial");
        if let Some(session) = &self.session {
            inner.set_session(session).expect("a session");
        }
        self.insert(inner, app, vec![id]);
    }

    /// One turn: what came, what is due, what there is to send, then sleep.
    fn turn(&mut self, accept: Option<fn() -> Apps>) {
        self.receive(accept);
        self.expire();
        let mut swept = std::mem::take(&mut self.dirty);
        for index in swept.drain(..) {
            self.serve(index);
            self.send(index);
            self.settle(index);
        }
        if self.dirty.is_empty() {
            self.dirty = swept;
        }
        if self.more == 0 && self.dirty.is_empty() {
            let next = self
                .timers
                .peek()
                .map(|Reverse((at, _))| at.saturating_duration_since(Instant::now()));
            self.wait(libc::POLLIN, next);
        }
    }

    fn wait(&self, events: i16, timeout: Option<Duration>) {
        let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events, revents: 0 };
        let time = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the kernel reads a time and writes into one structure, both on this stack frame.
        unsafe { libc::ppoll(&raw mut poll, 1, time, std::ptr::null()) };
    }

    fn receive(&mut self, accept: Option<fn() -> Apps>) {
        const BUFFER: usize = 64 << 10;
        thread_local! {
            static BUFFERS: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; BUFFER * BATCH_SIZE]);
        }
        BUFFERS.with_borrow_mut(|buffers| {
            let mut meta = [RecvMeta::default(); BATCH_SIZE];
            // As many batches as one turn may take before it answers.
            for _ in 0..8 {
                let mut slices: Vec<IoSliceMut<'_>> =
                    buffers.chunks_mut(BUFFER).map(IoSliceMut::new).collect();
                let Ok(count) =
                    self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut meta)
                else {
                    return;
                };
                drop(slices);
                for (meta, buffer) in meta.iter().take(count).zip(buffers.chunks_mut(BUFFER)) {
                    for datagram in buffer[..meta.len].chunks_mut(meta.stride) {
                        self.datagram(meta.addr, datagram, accept);
                    }
                }
            }
        });
    }

    fn datagram(&mut self, from: SocketAddr, datagram: &mut [u8], accept: Option<fn() -> Apps>) {
        let Ok(header) = quiche::Header::from_slice(datagram, ID) else { return };
        let index = match (self.by_id.get(&header.dcid), accept) {
            (Some(index), _) => *index,
            (None, Some(app)) if header.ty == quiche::Type::Initial => {
                let id = self.new_id();
                let first = header.dcid.clone().into_owned();
                let inner = quiche::accept(&id, None, self.local, from, &mut self.config)
                    .expect("a connection");
                self.insert(inner, app(), vec![id, first])
            }
            _ => return,
        };
        let info = RecvInfo { from, to: self.local };
        if let Some(conn) = &mut self.conns[index] {
            conn.inner.recv(datagram, info).ok();
        }
        self.touch(index);
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, index))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            if let Some(conn) = &mut self.conns[index]
                && conn.deadline == Some(at)
            {
                conn.deadline = None;
                conn.inner.on_timeout();
                self.touch(index);
            }
        }
    }

    /// Tells the application what happened.
    fn serve(&mut self, index: usize) {
        let Some(conn) = &mut self.conns[index] else { return };
        conn.dirty = false;
        let Conn { inner, app, connected, next_stream, .. } = conn;
        if !*connected && inner.is_established() {
            *connected = true;
            app.connected(&mut Events {
                inner,
                scratch: &mut self.scratch,
                next_stream,
                more: &mut self.more,
            });
        }
        while let Some(stream) = inner.stream_readable_next() {
            let mut events =
                Events { inner, scratch: &mut self.scratch, next_stream, more: &mut self.more };
            app.readable(&mut events, stream);
        }
        while let Some(stream) = inner.stream_writable_next() {
            let mut events =
                Events { inner, scratch: &mut self.scratch, next_stream, more: &mut self.more };
            app.writable(&mut events, stream);
        }
        if let Some(session) = inner.session()
            && !inner.is_server()
        {
            self.session.get_or_insert_with(Vec::new).clear();
            self.session.as_mut().expect("just made").extend_from_slice(session);
        }
    }

    /// Sends trains of full packets, each with one short packet at its end at most.
    fn send(&mut self, index: usize) {
        let Some(conn) = &mut self.conns[index] else { return };
        loop {
            let (mut length, mut stride, mut to) = (0, 0, None);
            while length + PACKET <= TRAIN {
                let Ok((written, info)) = conn.inner.send(&mut self.train[length..length + PACKET])
                else {
                    break;
                };
                to = Some(info.to);
                if length == 0 {
                    stride = written;
                }
                length += written;
                if written != stride {
                    break;
                }
            }
            let Some(destination) = to else { return };
            let segment_size = (length > stride).then_some(stride);
            let contents = &self.train[..length];
            let transmit =
                Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
            while let Err(error) = self.state.try_send(UdpSockRef::from(&self.socket), &transmit) {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
                let mut poll =
                    libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
                // SAFETY: the kernel writes into one structure on this stack frame.
                unsafe { libc::poll(&raw mut poll, 1, -1) };
            }
        }
    }

    /// Forgets a connection that is over, or sees to its deadline.
    fn settle(&mut self, index: usize) {
        let Some(conn) = &mut self.conns[index] else { return };
        if conn.inner.is_closed() {
            for id in &conn.ids {
                self.by_id.remove(id);
            }
            self.conns[index] = None;
            self.free.push(index);
            return;
        }
        let deadline = conn.inner.timeout_instant();
        if deadline != conn.deadline {
            conn.deadline = deadline;
            self.timers.extend(deadline.map(|at| Reverse((at, index))));
        }
    }
}

pub fn serve(folder: &Path) {
    let mut server = Loop::new(config(folder, true));
    announce(server.local.port());
    loop {
        server.turn(Some(|| Box::new(Server::<u64>::default())));
    }
}

pub fn drive(run: &Run) {
    let mut client = Loop::new(config(&run.folder, false));
    let (over, told) = mpsc::channel();
    let tally = Tally::new(run, over);
    client.connect(run.to, tally.app());
    while told.try_recv().is_err() {
        client.turn(None);
        for _ in 0..std::mem::take(&mut client.more) {
            if !run.resumes() {
                client.session = None;
            }
            client.connect(run.to, tally.app());
        }
    }
    if run.kind == Kind::Idle {
        std::thread::sleep(REST);
        tally.print_memory();
    }
}
