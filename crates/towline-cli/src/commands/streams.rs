//! Plain QUIC streams, with any QUIC peer: what `--alpn` makes of `listen` and `connect`.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use towline::quic::{self, Active, Handler, NewStream, StreamError, StreamId};
use towline::{Address, Config, Context, Wire};

use crate::failure::{Failure, Outcome};
use crate::interrupt::{Interrupt, Signal};
use crate::output::{Notes, Output};
use crate::queue;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// Chunks of standard input read ahead.
const AHEAD: usize = 16;

/// Chunks that wait to be printed before streams are read no further.
const UNPRINTED: usize = 256;

fn alpn(names: &[String]) -> Vec<Bytes> {
    names.iter().map(|name| Bytes::copy_from_slice(name.as_bytes())).collect()
}

fn check(address: &Address) -> Outcome {
    match address.wire() {
        Wire::Quic => Ok(()),
        wire => Err(Failure::usage(format!("--alpn is for quic://, not for {wire}://"))),
    }
}

fn host_port(address: &Address) -> String {
    match address.host().contains(':') {
        true => format!("[{}]:{}", address.host(), address.port()),
        false => format!("{}:{}", address.host(), address.port()),
    }
}

fn options(timeout: Option<Duration>) -> quic::Options {
    let options = quic::Options::default();
    quic::Options {
        datagram_receive: true,
        server_resumption_level: quic::Resumption::Resume,
        handshake_idle_timeout: timeout.unwrap_or(options.handshake_idle_timeout),
        ..options
    }
}

/// What a listener does with what comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Serve {
    /// Sends it back.
    Echo,
    /// Discards it.
    Sink,
    /// Prints it.
    Print,
}

/// `towline listen quic://... --alpn`.
pub(super) struct Listen {
    pub(super) address: Address,
    pub(super) config: Config,
    pub(super) what: Serve,
    pub(super) once: bool,
    pub(super) announce: bool,
}

impl Listen {
    pub(super) fn run(self, names: &[String], notes: &Notes, interrupt: &Interrupt) -> Outcome {
        check(&self.address)?;
        let server = quic::server_config(&self.config, alpn(names), options(None))?;
        let context = Context::new()?;
        let endpoint = quic::Endpoint::new(&context);
        let (print, printed) = mpsc::sync_channel(UNPRINTED);
        let (tell, ended) = queue::bounded(AHEAD);
        let (tell, what) = (std::sync::Arc::new(tell), self.what);
        let acceptor = move |_: &quic::Connection| Served {
            what,
            print: print.clone(),
            ended: std::sync::Arc::clone(&tell),
            streams: HashMap::new(),
        };
        let listener = endpoint.listen_with(&server, &host_port(&self.address), acceptor)?;
        let mut output = Output::open()?;
        let url = format!("quic://{}", listener.local_address());
        if self.announce {
            output.line(&format!("listening {url}"))?;
        }
        notes.detail(&format!("listening on {url} for {}", names.join(", ")));
        let outcome = std::thread::scope(|scope| {
            let printing = scope.spawn(move || {
                // Nobody reads what this prints, or it cannot be printed: the command has nothing left to do.
                print_all(&mut output, &printed)
                    .inspect_err(|_| interrupt.trigger(Signal::Terminate))
            });
            let outcome = self.wait(&ended, notes, interrupt);
            drop(ended);
            drop(listener);
            drop(endpoint);
            drop(context);
            let printed = printing.join();
            outcome.and(printed.unwrap_or(Ok(())))
        });
        match outcome {
            Err(Failure::Interrupted(Signal::Terminate)) => Ok(()),
            outcome => outcome,
        }
    }

    /// Waits for a signal, or for the end of the first connection.
    fn wait(
        &self,
        ended: &queue::Consumer<String>,
        notes: &Notes,
        interrupt: &Interrupt,
    ) -> Outcome {
        loop {
            let next = interrupt.wait_for(std::future::poll_fn(|cx| ended.poll_next(cx)))?;
            let Some(how) = next else { return Ok(()) };
            notes.detail(&format!("a connection ended: {how}"));
            if self.once {
                return Ok(());
            }
        }
    }
}

fn print_all(output: &mut Output, chunks: &mpsc::Receiver<Bytes>) -> Outcome {
    while let Ok(chunk) = chunks.recv() {
        output.write_all(&chunk)?;
        // What comes next may be long in coming.
        output.flush()?;
    }
    Ok(output.flush()?)
}

/// A stream that is served.
#[derive(Default)]
struct Stream {
    /// Bytes that wait to go back.
    pending: VecDeque<Bytes>,
    /// The peer has ended its side.
    ended: bool,
}

/// One connection of a listener.
struct Served {
    what: Serve,
    print: mpsc::SyncSender<Bytes>,
    ended: std::sync::Arc<queue::Producer<String>>,
    streams: HashMap<StreamId, Stream>,
}

impl Served {
    /// Reads as long as what is read can be passed on.
    fn read(&mut self, active: &mut Active<'_>, id: StreamId) {
        let answers = id.direction() == quic::Direction::Bidirectional;
        while self.streams.get(&id).is_none_or(|stream| stream.pending.is_empty()) {
            let Ok(chunk) = active.read(id, CHUNK) else { return };
            match self.what {
                Serve::Echo if answers => {
                    let stream = self.streams.entry(id).or_default();
                    stream.pending.push_back(chunk.data);
                    stream.ended |= chunk.fin;
                    self.flush(active, id);
                }
                Serve::Print => {
                    // A full queue blocks this thread, and so holds every peer back, as a pipe does.
                    self.print.send(chunk.data).ok();
                }
                _ => {}
            }
            if chunk.fin {
                if answers && self.what != Serve::Echo {
                    active.finish(id).ok();
                }
                return;
            }
        }
    }

    fn flush(&mut self, active: &mut Active<'_>, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        while let Some(data) = stream.pending.front() {
            let fin = stream.ended && stream.pending.len() == 1;
            let options = quic::SendOptions { fin, ..Default::default() };
            match active.send(id, data.clone(), options) {
                Err(StreamError::QueueFull) => return,
                Ok(_) | Err(_) => drop(stream.pending.pop_front()),
            }
        }
    }
}

impl Handler for Served {
    fn new_stream(&mut self, _: &mut Active<'_>, _: StreamId, _: bool) -> NewStream {
        NewStream::Handle
    }

    fn stream_readable(&mut self, active: &mut Active<'_>, id: StreamId) {
        self.read(active, id);
    }

    fn stream_writable(&mut self, active: &mut Active<'_>, id: StreamId) {
        self.flush(active, id);
        self.read(active, id);
    }

    fn stream_closed(&mut self, _: &mut Active<'_>, id: StreamId) {
        self.streams.remove(&id);
    }

    fn dgram_recv(&mut self, active: &mut Active<'_>, data: Bytes, _: bool) -> Option<Bytes> {
        match self.what {
            // Like the network, a full queue loses it.
            Serve::Echo => drop(active.send_datagram(data, quic::DatagramOptions::default())),
            Serve::Print => drop(self.print.send(data)),
            Serve::Sink => {}
        }
        None
    }

    fn closed(&mut self, _: &quic::Connection, closed: &quic::Closed) {
        self.ended.try_push(closed.ended.to_string());
    }
}

/// `towline connect quic://... --alpn`.
pub(super) struct Connect<'a> {
    pub(super) addresses: &'a [Address],
    pub(super) config: Config,
    pub(super) timeout: Duration,
    pub(super) name: Option<&'a str>,
    pub(super) message: Option<&'a str>,
}

impl Connect<'_> {
    pub(super) fn run(self, names: &[String], notes: &Notes, interrupt: &Interrupt) -> Outcome {
        let [address] = self.addresses else {
            return Err(Failure::usage("--alpn takes one address"));
        };
        check(address)?;
        let client = quic::client_config(&self.config, alpn(names), options(Some(self.timeout)))?;
        let context = Context::builder().threads(1).build()?;
        let endpoint = quic::Endpoint::new(&context);
        let name = self.name.unwrap_or(address.host());
        let params = quic::ConnectParams::default();
        let to = host_port(address);
        let connecting = endpoint.connect_named(&client, &to, name, params, None);
        let connection = interrupt.wait_for(connecting)??;
        if let Some(alpn) = connection.connected().and_then(|connected| connected.alpn) {
            notes.detail(&format!("connected, {}", alpn.escape_ascii()));
        }
        let (send, recv) = interrupt.wait_for(connection.open_bi())??;
        let input = match self.message {
            Some(text) => Input::Once(Some(Bytes::copy_from_slice(text.as_bytes()))),
            None => Input::Chunks(read_chunks()?),
        };
        let mut output = Output::open()?;
        let outcome = std::thread::scope(|scope| {
            let sending = scope.spawn(|| send_all(send, input, interrupt));
            let received = receive_all(recv, &mut output, interrupt);
            if received.is_err() {
                connection.close(0, "");
            }
            let sent = sending.join().unwrap_or(Ok(()));
            received.and(sent)
        });
        output.flush()?;
        connection.close(0, "");
        interrupt.wait_for(connection.closed())?;
        outcome
    }
}

enum Input {
    Once(Option<Bytes>),
    Chunks(queue::Consumer<std::io::Result<Bytes>>),
}

fn send_all(mut send: quic::SendStream, mut input: Input, interrupt: &Interrupt) -> Outcome {
    loop {
        let next = match &mut input {
            Input::Once(text) => text.take().map(Ok),
            Input::Chunks(chunks) => {
                // The peer may end before standard input does: then nobody waits for the rest.
                let mut stopped = std::pin::pin!(send.acknowledged());
                interrupt.wait_for(std::future::poll_fn(|cx| {
                    if stopped.as_mut().poll(cx).is_ready() {
                        return std::task::Poll::Ready(None);
                    }
                    chunks.poll_next(cx)
                }))?
            }
        };
        match next {
            Some(chunk) => interrupt.wait_for(send.write(chunk?))??,
            None => break,
        }
    }
    // A peer that has stopped reading has answered, or ends the connection with a reason.
    send.finish().ok();
    Ok(())
}

fn receive_all(mut recv: quic::RecvStream, output: &mut Output, interrupt: &Interrupt) -> Outcome {
    while let Some(chunk) = interrupt.wait_for(recv.read())?? {
        output.write_all(&chunk)?;
        output.flush()?;
    }
    Ok(())
}

/// Standard input, read by a thread of its own, which may block there for good.
fn read_chunks() -> Outcome<queue::Consumer<std::io::Result<Bytes>>> {
    let (producer, consumer) = queue::bounded(AHEAD);
    let read = move || {
        let mut input = std::io::stdin().lock();
        let mut buffer = vec![0; CHUNK];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if !producer.push(Ok(Bytes::copy_from_slice(&buffer[..length]))) {
                        return;
                    }
                }
                Err(error) => {
                    producer.push(Err(error));
                    return;
                }
            }
        }
    };
    match std::thread::Builder::new().name("stdin".into()).spawn(read) {
        Ok(_) => Ok(consumer),
        Err(error) => Err(Failure::Failed(format!("cannot start a thread: {error}"))),
    }
}
