//! `towline listen`: accepts connections and echoes, prints or discards their messages.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use clap::Args;
use towline::{
    Address, Config, Connection, Context, Ended, Endpoint, Message, RecvError, SendError,
};

use crate::commands::ended::is_orderly;
use crate::commands::exec::{self, Exec};
use crate::commands::streams;
use crate::failure::{Failure, Outcome};
use crate::framing::Framing;
use crate::interrupt::{Interrupt, Signal};
use crate::metrics::{Counters, MetricsOption};
use crate::output::text::Format;
use crate::output::{Notes, Output};
use crate::tls::ServerTls;

/// Connections served at once; each has a thread of its own, so that a slow one holds up no other.
const MAX_CONNECTIONS: usize = 1024;

/// How long a peer that does not stop sending is listened to after a signal.
const DRAIN: Duration = Duration::from_secs(1);

/// Accept connections, and print, echo or discard what they send, or give it to a command.
///
/// SIGINT and SIGTERM stop it in order: nothing new is accepted, what is queued is delivered, peers are told, within
/// 5 seconds. After SIGTERM it ends with 0, after SIGINT with 130.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    towline listen tcp://127.0.0.1:7000\n  \
    towline listen tls://[::]:0 --announce --echo\n  \
    towline listen quic://0.0.0.0:4433 --alpn hq-interop --echo --cert FILE --key FILE\n  \
    towline listen ws://127.0.0.1:7000/ --text --exec 'while read line; do echo \"heard $line\"; done'")]
pub(crate) struct Arguments {
    /// Where to listen, such as tcp://127.0.0.1:7000; port 0 is any free one.
    url: String,
    /// Answer each message with the same data, its id as reply-to.
    #[arg(long, conflicts_with = "sink")]
    echo: bool,
    /// Discard what comes.
    #[arg(long)]
    sink: bool,
    /// Print `listening URL` with the real port as the first line on standard output.
    #[arg(long)]
    announce: bool,
    /// End when the first connection has ended.
    #[arg(long)]
    once: bool,
    /// How messages are printed.
    #[arg(long, value_enum, default_value = "raw", conflicts_with_all = ["echo", "sink"])]
    format: Format,
    /// Print each message behind its length: four octets, big-endian. With --exec the command reads and writes them so.
    #[arg(long, conflicts_with_all = ["echo", "sink", "format"])]
    framed: bool,
    /// Start a shell command for each connection: messages are lines of its standard input, lines that it writes are messages. Its end
    /// closes the connection, and the connection's end its input; after 5 seconds it is killed. TOWLINE_PEER is the peer's address.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["echo", "sink", "format"])]
    exec: Option<String>,
    /// With --exec, what the command writes is text for plain WebSocket peers.
    #[arg(long, requires = "exec")]
    text: bool,
    /// quic:// only: serve plain streams under this application protocol to any QUIC peer; may be repeated. With --echo every
    /// bidirectional stream is answered with its own bytes and every datagram with itself; otherwise the bytes are printed as they come.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["format", "framed", "exec"])]
    alpn: Vec<String>,
    #[command(flatten)]
    metrics: MetricsOption,
    #[command(flatten)]
    tls: ServerTls,
}

enum Mode<'a> {
    Echo,
    Sink,
    Print(Format),
    Exec(Exec<'a>),
}

impl Mode<'_> {
    fn new(arguments: &Arguments) -> Mode<'_> {
        match (&arguments.exec, arguments.echo, arguments.sink) {
            (Some(command), ..) => {
                let framing = Framing::new(arguments.framed);
                Mode::Exec(Exec { command, framing, text: arguments.text })
            }
            (None, true, _) => Mode::Echo,
            (None, _, true) => Mode::Sink,
            _ if arguments.framed => Mode::Print(Format::Framed),
            _ => Mode::Print(arguments.format),
        }
    }
}

struct Server<'a> {
    mode: Mode<'a>,
    output: Mutex<Output>,
    interrupt: &'a Interrupt,
    notes: &'a Notes,
    counters: Arc<Counters>,
}

pub(crate) fn run(arguments: &Arguments, notes: &Notes, interrupt: &Interrupt) -> Outcome {
    let address = Address::parse(&arguments.url)?;
    let limit = if arguments.once { 1 } else { MAX_CONNECTIONS };
    let builder = Config::builder().max_connections(limit);
    let config = arguments.tls.apply(builder, &address, notes)?.build()?;
    if !arguments.alpn.is_empty() {
        let what = match (arguments.echo, arguments.sink) {
            (true, _) => streams::Serve::Echo,
            (_, true) => streams::Serve::Sink,
            _ => streams::Serve::Print,
        };
        let once = arguments.once;
        let listen = streams::Listen { address, config, what, once, announce: arguments.announce };
        return listen.run(&arguments.alpn, notes, interrupt);
    }
    let context = Context::new()?;
    let listener = Endpoint::new(&context, &config).listen(&address)?;
    let counters = Arc::new(Counters::default());
    let _metrics = arguments.metrics.serve(Arc::clone(&counters), |_| {}, notes)?;
    let mut output = Output::open()?;
    if arguments.announce {
        output.line(&format!("listening {}", listener.url()))?;
    }
    notes.detail(&format!("listening on {}", listener.url()));
    let server = Server {
        mode: Mode::new(arguments),
        output: Mutex::new(output),
        interrupt,
        notes,
        counters: Arc::clone(&counters),
    };
    let outcome = std::thread::scope(|scope| {
        let mut number = 0;
        loop {
            let accepted = match interrupt.wait_for(listener.accept()) {
                Ok(accepted) => accepted,
                // The threads end on the same signal; the listener stays until they have, for peers that redial meanwhile.
                Err(signal) => return Err(signal.into()),
            };
            let connection = accepted.inspect_err(|_| interrupt.trigger(Signal::Terminate))?;
            number += 1;
            if arguments.once {
                return server.serve(&connection, number);
            }
            server.spawn(scope, connection, number)?;
        }
    });
    drop(listener);
    drop(context);
    let messages = counters.messages.load(Ordering::Relaxed);
    let bytes = counters.bytes.load(Ordering::Relaxed);
    notes.detail(&format!("received {messages} messages, {bytes} bytes"));
    match outcome {
        Err(Failure::Interrupted(Signal::Terminate)) => Ok(()),
        outcome => outcome,
    }
}

impl Server<'_> {
    fn spawn<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        connection: Connection,
        number: u64,
    ) -> Outcome {
        let serve = move || match self.serve(&connection, number) {
            // Nobody reads what this prints: the command has nothing left to do.
            Err(Failure::OutputClosed) => self.interrupt.trigger(Signal::Terminate),
            Err(failure) => {
                if let Some(text) = failure.message() {
                    self.notes.warn(&format!("connection {number}: {text}"));
                }
            }
            Ok(()) => {}
        };
        std::thread::Builder::new()
            .name(format!("connection-{number}"))
            .stack_size(256 << 10)
            .spawn_scoped(scope, serve)
            .map(drop)
            .map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))
    }

    /// Deals with one connection until it or the command ends.
    fn serve(&self, connection: &Connection, number: u64) -> Outcome {
        let peer = connection.peer_address().map(|peer| peer.to_string()).unwrap_or_default();
        self.notes.detail(&format!("connection {number} from {peer}"));
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        let outcome = match &self.mode {
            Mode::Exec(exec) => exec
                .run(connection, self.interrupt, |message| self.count(message))
                .and_then(|(ended, status)| {
                    exec::check(status)?;
                    Ok(ended)
                }),
            mode => self.take_all(connection, mode, number),
        };
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        if matches!(outcome, Err(Failure::Failed(_))) {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
        }
        self.output().flush()?;
        match outcome {
            Err(Failure::Interrupted(signal)) => {
                if let Err(error) = connection.close_blocking() {
                    self.notes.warn(&format!("connection {number}: {error}"));
                }
                Err(signal.into())
            }
            Err(failure) => {
                connection.abort();
                Err(failure)
            }
            Ok(ended) => {
                self.notes.detail(&format!("connection {number} ended: {ended}"));
                if is_orderly(&ended, connection) {
                    Ok(())
                } else {
                    Err(RecvError::Ended(ended).into())
                }
            }
        }
    }

    fn count(&self, message: &Message) {
        self.counters.messages.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes.fetch_add(message.data.len() as u64, Ordering::Relaxed);
    }

    fn take_all(&self, connection: &Connection, mode: &Mode<'_>, number: u64) -> Outcome<Ended> {
        let mut drained_by = None;
        loop {
            let message = match connection.try_recv() {
                Ok(Some(message)) => message,
                Ok(None) => {
                    self.output().flush()?;
                    match self.interrupt.wait_for(connection.recv())? {
                        Ok(message) => message,
                        Err(RecvError::Ended(ended)) => return Ok(ended),
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(RecvError::Ended(ended)) => return Ok(ended),
                Err(error) => return Err(error.into()),
            };
            if let Some(signal) = self.interrupt.signal()
                && Instant::now() > *drained_by.get_or_insert_with(|| Instant::now() + DRAIN)
            {
                return Err(signal.into());
            }
            self.count(&message);
            match mode {
                Mode::Sink | Mode::Exec(_) => {}
                Mode::Print(format) => {
                    format.write(&mut *self.output(), &message, Some(number))?;
                }
                Mode::Echo => {
                    let reply = Message::reply_to(&message, message.data.clone());
                    match self.interrupt.wait_for(connection.send(reply))? {
                        // A peer that has gone does not want its answers; why it went is told by the next receive.
                        Ok(_) | Err(SendError::Ended(_)) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
