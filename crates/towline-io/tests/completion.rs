//! The completion port over both drivers: its contract, clause by clause.
#![allow(clippy::print_stdout)] // what could not be tested

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::ThreadId;
use std::time::Duration;

use bytes::Bytes;
use socket2::{SockAddr, Socket};
use towline_io::DriverChoice;
use towline_io::completion::{
    Failure, Operation, Port, PortConfig, ReadBuffer, Refusal, Service, SocketHandle,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a callback said.
#[derive(Debug)]
enum Note {
    Accepted,
    Received(SocketHandle<Recorder>, Bytes),
    Sent(u32),
    Failed(Option<u32>, Option<i32>),
    Writable,
    Removed(SocketHandle<Recorder>),
}

/// Records what it is called with, and checks that one socket is never called by two threads.
struct Recorder {
    notes: Sender<Note>,
    /// Accepted connections echo instead.
    echo: bool,
    threads: Mutex<BTreeMap<usize, ThreadId>>,
}

impl Recorder {
    fn note(&self, note: Note) {
        // A test that has seen enough may be gone.
        let _ = self.notes.send(note);
    }

    fn check_thread(&self, socket: &SocketHandle<Self>) {
        let Some(number) = socket.state() else { return };
        let present = std::thread::current().id();
        let mut threads = self.threads.lock().unwrap();
        assert_eq!(*threads.entry(*number).or_insert(present), present, "moved between threads");
    }
}

impl Service for Recorder {
    type Listen = ();
    type Socket = usize;
    type Write = u32;

    fn accepted(
        &self,
        port: &Port<Self>,
        socket: &SocketHandle<Self>,
        local: &SockAddr,
        peer: &SockAddr,
        _listen: &(),
    ) -> usize {
        assert!(socket.state().is_none());
        assert_ne!(local.as_socket(), peer.as_socket());
        if self.echo {
            port.issue_recv(socket).unwrap();
        }
        self.note(Note::Accepted);
        peer.as_socket().unwrap().port().into()
    }

    fn received(&self, port: &Port<Self>, socket: &SocketHandle<Self>, data: &mut ReadBuffer) {
        self.check_thread(socket);
        if !self.echo {
            self.note(Note::Received(socket.clone(), data.take()));
        } else if data.is_empty() {
            port.remove(socket);
        } else {
            let number = data.len() as u32;
            port.issue_async_send(socket, data.take(), number).unwrap();
            port.issue_recv(socket).unwrap();
        }
    }

    fn sent(&self, _port: &Port<Self>, socket: &SocketHandle<Self>, write: u32) {
        self.check_thread(socket);
        if !self.echo {
            self.note(Note::Sent(write));
        }
        assert_ne!(write, 0xdead, "this write panics on purpose");
    }

    fn failed(&self, _port: &Port<Self>, socket: &SocketHandle<Self>, failure: Failure<u32>) {
        self.check_thread(socket);
        let write = match failure.operation {
            Operation::SyncSend(write) | Operation::AsyncSend(write) => Some(write),
            _ => None,
        };
        self.note(Note::Failed(write, failure.error.raw_os_error()));
    }

    fn writable(&self, _port: &Port<Self>, _socket: &SocketHandle<Self>) {
        self.note(Note::Writable);
    }

    fn removed(&self, _port: &Port<Self>, socket: &SocketHandle<Self>) {
        self.note(Note::Removed(socket.clone()));
    }
}

struct Rig {
    port: Port<Recorder>,
    notes: Receiver<Note>,
}

impl Rig {
    fn new(choice: DriverChoice, echo: bool, change: impl FnOnce(&mut PortConfig)) -> Option<Rig> {
        let (sender, notes) = channel();
        let mut config = PortConfig::default();
        config.driver.kind = choice;
        change(&mut config);
        let recorder = Recorder { notes: sender, echo, threads: Mutex::default() };
        match Port::new(recorder, &config) {
            Ok(port) => Some(Rig { port, notes }),
            Err(error) if choice == DriverChoice::IoUring => {
                println!("no io_uring here: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn next(&self) -> Note {
        self.notes.recv_timeout(PATIENCE).expect("a callback")
    }

    fn half(&self) -> (SocketHandle<Recorder>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        let number = far.local_addr().unwrap().port().into();
        (self.port.add_connected_socket(near.into(), number).unwrap(), far)
    }
}

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
    accepted_connections_echo_on_several_workers
    a_socket_does_nothing_until_asked_and_receives_once
    a_second_synchronous_send_is_busy
    asynchronous_sends_keep_their_order_and_their_limit
    removing_ends_every_operation_once
    deleting_ends_every_operation_once
    a_cancelled_receive_fails_and_loses_nothing
    a_panicking_callback_costs_its_socket_only
}

fn accepted_connections_echo_on_several_workers(choice: DriverChoice) {
    let Some(rig) = Rig::new(choice, true, |config| config.threads = 3) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // A pool smaller than the number of connections: it is kept up all the same.
    let listening = rig.port.add_listen_socket(Socket::from(listener), 2, ()).unwrap();
    let mut clients: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(addr).unwrap()).collect();
    for (client, at) in clients.iter_mut().zip(0u8..) {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(&[at; 1000]).unwrap();
    }
    for (client, at) in clients.iter_mut().zip(0u8..) {
        let mut heard = [0; 1000];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(heard, [at; 1000]);
    }
    drop(clients);
    let (mut accepted, mut removed) = (0, 0);
    while removed < 40 {
        match rig.next() {
            Note::Accepted => accepted += 1,
            Note::Removed(_) => removed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(accepted, 40);
    rig.port.remove_listen_socket(&listening);
    rig.port.delete();
    assert!(TcpStream::connect(addr).is_err());
}

fn a_socket_does_nothing_until_asked_and_receives_once(choice: DriverChoice) {
    let Some(rig) = Rig::new(choice, false, |_| ()) else { return };
    let (handle, mut far) = rig.half();
    far.write_all(b"first").unwrap();
    assert!(rig.notes.recv_timeout(Duration::from_millis(30)).is_err(), "nothing was issued");
    rig.port.issue_recv(&handle).unwrap();
    let Note::Received(socket, data) = rig.next() else { panic!() };
    assert_eq!((&socket, &data[..]), (&handle, &b"first"[..]));
    far.write_all(b"second").unwrap();
    assert!(rig.notes.recv_timeout(Duration::from_millis(30)).is_err(), "receives are one-shot");
    rig.port.issue_recv(&handle).unwrap();
    assert!(matches!(rig.next(), Note::Received(_, data) if data == "second"));
    rig.port.issue_recv(&handle).unwrap();
    assert_eq!(rig.port.issue_recv(&handle), Err(Refusal::Busy));
    drop(far);
    for _ in 0..2 {
        assert!(matches!(rig.next(), Note::Received(_, data) if data.is_empty()));
        let _ = rig.port.issue_recv(&handle);
    }
}

fn a_second_synchronous_send_is_busy(choice: DriverChoice) {
    let Some(rig) = Rig::new(choice, false, |config| config.send_limit = 100 << 20) else { return };
    let (handle, mut far) = rig.half();
    let size = 32 << 20;
    rig.port.issue_sync_send(&handle, vec![1; size].into(), 1).unwrap();
    let refused = rig.port.issue_sync_send(&handle, Bytes::from_static(b"x"), 2).unwrap_err();
    assert_eq!((refused.reason, refused.write, &refused.data[..]), (Refusal::Busy, 2, &b"x"[..]));
    // Asynchronous ones go behind it.
    rig.port.issue_async_send(&handle, Bytes::from_static(b"y"), 3).unwrap();
    far.read_exact(&mut vec![0; size]).unwrap();
    assert!(matches!(rig.next(), Note::Sent(1)));
    assert!(matches!(rig.next(), Note::Sent(3)));
    rig.port.issue_sync_send(&handle, Bytes::from_static(b"z"), 4).unwrap();
    assert!(matches!(rig.next(), Note::Sent(4)));
    let mut rest = [0; 2];
    far.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"yz");
    assert_eq!(handle.queued(), 0);
}

fn asynchronous_sends_keep_their_order_and_their_limit(choice: DriverChoice) {
    let size = 100_000;
    let Some(rig) = Rig::new(choice, false, |config| config.send_limit = 40 * 100_000) else {
        return;
    };
    let (handle, mut far) = rig.half();
    let mut issued = 0u32;
    // The kernel takes some; then the limit is met.
    let refused = loop {
        let data = Bytes::from(vec![issued as u8; size]);
        match rig.port.issue_async_send(&handle, data, issued) {
            Ok(()) => issued += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused.reason, refused.write), (Refusal::Full, issued));
    assert!(handle.queued() <= 40 * size);
    let reader = std::thread::spawn(move || {
        for number in 0..issued {
            let mut data = vec![0; size];
            far.read_exact(&mut data).unwrap();
            assert!(data.iter().all(|byte| *byte == number as u8), "order of {number}");
        }
        far
    });
    let (mut sent, mut writable) = (0, 0);
    while sent < issued || writable == 0 {
        match rig.next() {
            Note::Sent(number) => {
                assert_eq!(number, sent);
                sent += 1;
            }
            Note::Writable => writable += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(writable, 1);
    rig.port.issue_async_send(&handle, Bytes::from_static(b"again"), 0).unwrap();
    assert!(matches!(rig.next(), Note::Sent(0)));
    drop(reader.join().unwrap());
}

/// Issues a receive and many sends that cannot all be done; returns how many operations that is.
fn load(rig: &Rig, handle: &SocketHandle<Recorder>) -> usize {
    rig.port.issue_recv(handle).unwrap();
    rig.port.issue_sync_send(handle, vec![0; 12 << 20].into(), 0).unwrap();
    for number in 1..30 {
        rig.port.issue_async_send(handle, vec![0; 10_000].into(), number).unwrap();
    }
    31
}

fn removing_ends_every_operation_once(choice: DriverChoice) {
    let Some(rig) = Rig::new(choice, false, |_| ()) else { return };
    let (handle, far) = rig.half();
    let mut left = load(&rig, &handle);
    rig.port.remove(&handle);
    rig.port.remove(&handle);
    assert_eq!(rig.port.issue_recv(&handle), Err(Refusal::Gone));
    let refused = rig.port.issue_async_send(&handle, Bytes::new(), 5).unwrap_err();
    assert_eq!(refused.reason, Refusal::Gone);
    loop {
        match rig.next() {
            Note::Sent(_) => left -= 1,
            Note::Failed(_, code) => {
                assert_eq!(code, Some(libc::ECANCELED));
                left -= 1;
            }
            Note::Removed(socket) => {
                assert_eq!(socket, handle);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(left, 0);
    assert_eq!(handle.queued(), 0);
    drop(far);
    rig.port.delete();
    assert!(rig.notes.try_recv().is_err(), "nothing follows");
}

fn deleting_ends_every_operation_once(choice: DriverChoice) {
    let Some(rig) = Rig::new(choice, false, |config| config.threads = 2) else { return };
    let ends: Vec<_> = (0..10).map(|_| rig.half()).collect();
    let mut left: usize = ends.iter().map(|(handle, _)| load(&rig, handle)).sum();
    let other = rig.port.clone();
    // Others go on issuing meanwhile: what is accepted completes, what is refused does not.
    let handle = ends[0].0.clone();
    let issuer = std::thread::spawn(move || {
        let mut accepted = 0;
        while other.issue_async_send(&handle, Bytes::from_static(b"x"), 99).is_ok() {
            accepted += 1;
        }
        accepted
    });
    rig.port.delete();
    left += issuer.join().unwrap();
    let mut removed = 0;
    for note in rig.notes.try_iter() {
        match note {
            Note::Sent(_) | Note::Failed(..) => left -= 1,
            Note::Removed(_) => removed += 1,
            Note::Writable => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((left, removed), (0, 10));
}

fn a_cancelled_receive_fails_and_loses_nothing(choice: DriverChoice) {
    let Some(rig) = Rig::new(choice, false, |_| ()) else { return };
    let (handle, mut far) = rig.half();
    rig.port.issue_recv(&handle).unwrap();
    rig.port.cancel_recv(&handle);
    assert!(matches!(rig.next(), Note::Failed(None, Some(libc::ECANCELED))));
    rig.port.issue_recv(&handle).unwrap();
    far.write_all(b"kept").unwrap();
    assert!(matches!(rig.next(), Note::Received(_, data) if data == "kept"));
    // Of the sends, those that the kernel has nothing of are cancelled; the first is finished.
    let operations = {
        rig.port.issue_async_send(&handle, vec![0; 14 << 20].into(), 0).unwrap();
        (1..10)
            .map(|number| rig.port.issue_async_send(&handle, vec![0; 10].into(), number).unwrap())
    };
    assert_eq!(operations.count(), 9);
    // The first one is under way when its bytes arrive.
    far.read_exact(&mut [0]).unwrap();
    rig.port.cancel_sends(&handle);
    let mut cancelled = Vec::new();
    while cancelled.len() < 9 {
        let Note::Failed(Some(number), Some(libc::ECANCELED)) = rig.next() else { panic!() };
        cancelled.push(number);
    }
    far.read_exact(&mut vec![0; (14 << 20) - 1]).unwrap();
    assert!(matches!(rig.next(), Note::Sent(0)));
}

fn a_panicking_callback_costs_its_socket_only(choice: DriverChoice) {
    let Some(rig) = Rig::new(choice, false, |_| ()) else { return };
    let (bad, _far) = rig.half();
    let (good, mut peer) = rig.half();
    rig.port.issue_async_send(&bad, Bytes::from_static(b"x"), 0xdead).unwrap();
    assert!(matches!(rig.next(), Note::Sent(0xdead)));
    assert!(matches!(rig.next(), Note::Removed(socket) if socket == bad));
    rig.port.issue_async_send(&good, Bytes::from_static(b"fine"), 1).unwrap();
    let mut heard = [0; 4];
    peer.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"fine");
}

#[test]
fn a_port_out_of_range_is_refused_by_name() {
    let (sender, notes) = channel();
    let recorder = || Recorder { notes: sender.clone(), echo: false, threads: Mutex::default() };
    let mut config = PortConfig::default();
    config.threads = 0;
    assert!(Port::new(recorder(), &config).unwrap_err().to_string().contains("threads"));
    config.threads = 1;
    config.driver.recv_buffers = 0;
    assert!(Port::new(recorder(), &config).unwrap_err().to_string().contains("recv_buffers"));
    // Dropping the last port ends the workers, also without `delete`, and with them the service.
    config.driver.recv_buffers = 1;
    drop(Port::new(recorder(), &config).unwrap());
    drop(sender);
    assert!(notes.recv().is_err());
}
