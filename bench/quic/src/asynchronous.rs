//! The work for contenders with futures: written once, over what a contender calls its connections and streams.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use crate::meter::{Memory, Meter};
use crate::work::{
    CHUNK, ECHO, HANDSHAKES_AT_ONCE, Kind, REQUEST, REQUESTS_AT_ONCE, REST, Run, WARM_UP,
    histogram, print_bulk, print_ping, print_rate,
};

pub trait Client: 'static {
    type Connection: Connection;
    async fn connect(&self) -> Self::Connection;
}

pub trait Listener: 'static {
    type Connection: Connection;
    /// A connection whose handshake is done; `None` for one that failed.
    fn accept(
        &mut self,
    ) -> impl Future<Output = impl Future<Output = Option<Self::Connection>> + 'static>;
}

pub trait Connection: Clone + 'static {
    type Send: SendHalf;
    type Recv: RecvHalf;
    async fn open(&self) -> (Self::Send, Self::Recv);
    async fn accept(&self) -> Option<(Self::Send, Self::Recv)>;
    fn close(&self);
}

pub trait SendHalf: 'static {
    async fn write(&mut self, data: Bytes);
    fn finish(&mut self);
}

pub trait RecvHalf: 'static {
    async fn read(&mut self) -> Option<Bytes>;
}

/// The work's streams over a library whose interface is quinn's: its connections, and the two halves of its streams.
macro_rules! streams {
    (
        $library:path, close: ($code:expr, $reason:expr),
        write: |$send:ident, $data:ident| $write:expr, read: |$recv:ident| $read:expr
    ) => {
        const _: () = {
            use $library as library;

            impl asynchronous::Connection for library::Connection {
                type Send = library::SendStream;
                type Recv = library::RecvStream;
                async fn open(&self) -> (library::SendStream, library::RecvStream) {
                    self.open_bi().await.expect("a stream")
                }
                async fn accept(&self) -> Option<(library::SendStream, library::RecvStream)> {
                    self.accept_bi().await.ok()
                }
                fn close(&self) {
                    library::Connection::close(self, $code, $reason);
                }
            }

            impl asynchronous::SendHalf for library::SendStream {
                async fn write(&mut self, $data: Bytes) {
                    let $send = self;
                    $write.expect("a stream that is open");
                }
                fn finish(&mut self) {
                    library::SendStream::finish(self).expect("a stream that is open");
                }
            }

            impl asynchronous::RecvHalf for library::RecvStream {
                // With one side's close under way this may be the connection's end as well.
                async fn read(&mut self) -> Option<Bytes> {
                    let $recv = self;
                    $read
                }
            }
        };
    };
}
pub(crate) use streams;

/// Runs a future and what it spawns on this thread.
pub fn on_this_thread<F: Future>(future: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// Serves for ever.
pub async fn serve(mut listener: impl Listener) {
    loop {
        let accepted = listener.accept().await;
        tokio::task::spawn_local(async move {
            let Some(connection) = accepted.await else { return };
            while let Some((send, recv)) = connection.accept().await {
                tokio::task::spawn_local(answer(send, recv));
            }
        });
    }
}

async fn answer(mut send: impl SendHalf, mut recv: impl RecvHalf) {
    let Some(first) = recv.read().await else { return };
    let echoes = first[0] == ECHO;
    let mut chunk = Some(first.slice(1..));
    while let Some(data) = chunk {
        if echoes && !data.is_empty() {
            send.write(data).await;
        }
        chunk = recv.read().await;
    }
    send.finish();
}

pub async fn drive<C: Client>(client: C, run: &Run) {
    let client = Rc::new(client);
    match run.kind {
        Kind::Bulk => bulk(client.connect().await, run).await,
        Kind::Ping => ping(client.connect().await, run).await,
        Kind::Requests => requests(client.connect().await, run).await,
        Kind::Full | Kind::Resumed => handshakes(client, run).await,
        Kind::Idle => idle(client, run).await,
    }
}

async fn bulk(connection: impl Connection, run: &Run) {
    let chunk = Bytes::from(vec![7; CHUNK]);
    let (mut send, mut recv) = connection.open().await;
    send.write(Bytes::from_static(b"s")).await;
    for _ in 0..WARM_UP / CHUNK as u64 {
        send.write(chunk.clone()).await;
    }
    let (meter, end) = (Meter::start(run.server), Instant::now() + run.lasts());
    let mut bytes = 0;
    while Instant::now() < end {
        send.write(chunk.clone()).await;
        bytes += CHUNK as u64;
    }
    send.finish();
    assert!(recv.read().await.is_none());
    print_bulk(bytes, meter.stop());
}

async fn ping(connection: impl Connection, run: &Run) {
    let (mut send, mut recv) = connection.open().await;
    let ping = Bytes::from_static(&[1; REQUEST]);
    send.write(Bytes::from_static(&[ECHO])).await;
    let mut times = histogram();
    let (meter, end) = (Meter::start(run.server), Instant::now() + run.lasts());
    loop {
        let begin = Instant::now();
        if begin >= end {
            break;
        }
        send.write(ping.clone()).await;
        let mut left = REQUEST;
        while left > 0 {
            left -= recv.read().await.expect("an answer").len();
        }
        times.saturating_record(begin.elapsed().as_nanos() as u64);
    }
    print_ping(&times, meter.stop());
    send.finish();
}

async fn request(connection: &impl Connection) {
    let (mut send, mut recv) = connection.open().await;
    let mut request = [1; REQUEST + 1];
    request[0] = ECHO;
    send.write(Bytes::copy_from_slice(&request)).await;
    send.finish();
    let mut length = 0;
    while let Some(data) = recv.read().await {
        length += data.len();
    }
    assert_eq!(length, REQUEST);
}

async fn requests(connection: impl Connection, run: &Run) {
    request(&connection).await;
    let done = Rc::new(Cell::new(0));
    let (meter, end) = (Meter::start(run.server), Instant::now() + run.lasts());
    at_once(REQUESTS_AT_ONCE, || {
        let (connection, done) = (connection.clone(), done.clone());
        async move {
            while Instant::now() < end {
                request(&connection).await;
                done.set(done.get() + 1);
            }
        }
    })
    .await;
    print_rate(done.get(), meter.stop());
}

async fn once(client: &impl Client) {
    let connection = client.connect().await;
    request(&connection).await;
    connection.close();
}

async fn handshakes(client: Rc<impl Client>, run: &Run) {
    for _ in 0..HANDSHAKES_AT_ONCE {
        once(&*client).await;
    }
    let done = Rc::new(Cell::new(0));
    let (meter, end) = (Meter::start(run.server), Instant::now() + run.lasts());
    at_once(HANDSHAKES_AT_ONCE, || {
        let (client, done) = (client.clone(), done.clone());
        async move {
            while Instant::now() < end {
                once(&*client).await;
                done.set(done.get() + 1);
            }
        }
    })
    .await;
    print_rate(done.get(), meter.stop());
}

async fn idle<C: Client>(client: Rc<C>, run: &Run) {
    let first = client.connect().await;
    request(&first).await;
    let kept: Rc<RefCell<Vec<C::Connection>>> = Rc::default();
    kept.borrow_mut().reserve(run.connections as usize);
    let memory = Memory::start(run.server);
    let started = Rc::new(Cell::new(0));
    at_once(HANDSHAKES_AT_ONCE, || {
        let (client, kept, started) = (client.clone(), kept.clone(), started.clone());
        let wanted = run.connections;
        async move {
            while started.get() < wanted {
                started.set(started.get() + 1);
                let connection = client.connect().await;
                request(&connection).await;
                kept.borrow_mut().push(connection);
            }
        }
    })
    .await;
    tokio::time::sleep(REST).await;
    memory.print(run.connections);
}

async fn at_once<F: Future<Output = ()> + 'static>(count: u64, make: impl Fn() -> F) {
    let tasks: Vec<_> = (0..count).map(|_| tokio::task::spawn_local(make())).collect();
    for task in tasks {
        task.await.expect("a task");
    }
}
