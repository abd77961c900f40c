//! `towline connect`: sends messages and prints what comes back.

use std::collections::VecDeque;
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use clap::Args;
use towline::{
    Config, Connection, Context, Ended, Endpoint, Flush, FlushError, IntoAddresses, Message,
    MessageId, RecvError, Request, RequestError, Send, SendError,
};

use crate::commands::ended::is_orderly;
use crate::commands::exec::{self, Exec};
use crate::commands::streams;
use crate::failure::{Failure, Outcome};
use crate::framing::Framing;
use crate::interrupt::{Interrupt, block_on};
use crate::output::text::Format;
use crate::output::{Notes, Output};
use crate::queue::{self, Consumer};
use crate::tls::ClientTls;
use crate::units;

/// Requests of one `--request --stdin` that wait for their replies at once.
const IN_FLIGHT: usize = 256;

/// Bytes of them: far below the send queue's bound, so that starting a request never waits.
const IN_FLIGHT_BYTES: usize = 1 << 20;

/// Messages read ahead.
const AHEAD: usize = 256;

/// Send messages to a listener, and print what comes back.
///
/// Each line of standard input is a message, or --message is the only one. It ends when everything is sent and acknowledged, with
/// --request when every reply is printed. With nothing to send, as from /dev/null, it prints what comes until the peer closes.
/// A lost connection is redialled for 60 seconds.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    towline connect tcp://127.0.0.1:7000 --message hello --request\n  \
    towline connect tls://192.0.2.7:7000,tls://192.0.2.8:7000 --stdin --pin sha256:...\n  \
    towline connect quic://192.0.2.7:4433 --alpn hq-interop < request > reply\n  \
    towline connect ws://127.0.0.1:7000/ --text --format json < lines")]
pub(crate) struct Arguments {
    /// Where to connect, such as tcp://127.0.0.1:7000; several divided by commas are tried in turn.
    #[arg(value_name = "URL[,URL...]")]
    urls: String,
    /// Send this text as one message.
    #[arg(long, value_name = "TEXT", conflicts_with = "stdin")]
    message: Option<String>,
    /// End with standard input also when nothing came from it.
    #[arg(long)]
    stdin: bool,
    /// Messages on standard input and output are behind their lengths, four octets, big-endian; so they are for --exec's command.
    #[arg(long, conflicts_with_all = ["message", "format"])]
    framed: bool,
    /// Start a shell command in place of standard input and output: messages are lines of its input, lines that it writes are messages. Its
    /// end closes the connection, and the connection's end its input; after 5 seconds it is killed. TOWLINE_PEER is the peer's address.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["message", "stdin", "request", "wait", "format", "alpn"])]
    exec: Option<String>,
    /// What is sent is text, for plain WebSocket peers; it has to be UTF-8.
    #[arg(long)]
    text: bool,
    /// Wait for a reply to each message, and print the replies in the order of the messages.
    #[arg(long)]
    request: bool,
    /// How long connecting may take, and each reply.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    timeout: Duration,
    /// When everything is sent, go on printing until nothing has come for so long.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = units::duration, conflicts_with = "request")]
    wait: Duration,
    /// How messages are printed.
    #[arg(long, value_enum, default_value = "raw")]
    format: Format,
    /// quic:// only: speak plain streams with any QUIC peer under this application protocol; may be repeated. Standard input goes
    /// out on one bidirectional stream, its end as FIN; what comes back goes to standard output.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["stdin", "request", "wait", "format", "framed", "text"])]
    alpn: Vec<String>,
    #[command(flatten)]
    tls: ClientTls,
}

pub(crate) fn run(arguments: &Arguments, notes: &Notes, interrupt: &Interrupt) -> Outcome {
    let addresses = arguments.urls.as_str().into_addresses()?;
    if !arguments.alpn.is_empty() {
        let builder = Config::builder().connect_timeout(arguments.timeout);
        let config = arguments.tls.apply(builder, &addresses, notes)?.build()?;
        let message = arguments.message.as_deref();
        let (timeout, name) = (arguments.timeout, arguments.tls.server_name());
        let connect = streams::Connect { addresses: &addresses, config, timeout, name, message };
        return connect.run(&arguments.alpn, notes, interrupt);
    }
    let nothing_to_send = arguments.message.is_none() && !arguments.stdin && !arguments.framed;
    if arguments.request && nothing_to_send {
        return Err(Failure::usage(
            "--request needs something to send: --message TEXT, --stdin or --framed",
        ));
    }
    let builder = Config::builder().connect_timeout(arguments.timeout);
    let config = arguments.tls.apply(builder, &addresses, notes)?.build()?;
    let context = Context::builder().threads(1).build()?;
    let connecting = Endpoint::new(&context, &config).connect(addresses);
    let connection = interrupt.wait_for(connecting)??;
    if let Some(tls) = connection.tls() {
        notes.detail(&format!("{} with {}", tls.version(), tls.cipher_suite()));
    }
    let outcome = match &arguments.exec {
        Some(command) => execute(arguments, command, &connection, interrupt),
        None => exchange(arguments, &connection, interrupt),
    };
    match outcome {
        Ok(()) => {
            interrupt.wait_for(connection.close())??;
            Ok(())
        }
        Err(failure) => {
            connection.abort();
            Err(failure)
        }
    }
}

/// Standard input and output on one side, the connection on the other.
fn exchange(arguments: &Arguments, connection: &Connection, interrupt: &Interrupt) -> Outcome {
    let framing = Framing::new(arguments.framed);
    let limit = connection.capabilities().max_message;
    let input = match &arguments.message {
        Some(text) => Input::Once(Some(text.clone().into_bytes())),
        None => Input::Pipe(read_messages(framing, limit)?),
    };
    let mut exchange = Exchange {
        connection,
        input: Some(input),
        may_be_empty: arguments.message.is_none() && !arguments.stdin,
        text: arguments.text,
        output: Output::open()?,
        format: if arguments.framed { Format::Framed } else { arguments.format },
        timeout: arguments.timeout,
    };
    let outcome = match arguments.request {
        true => exchange.request_all(interrupt),
        false => exchange.send_all(interrupt, arguments.wait),
    };
    let printed = exchange.output.flush();
    outcome?;
    Ok(printed?)
}

/// A command on one side, the connection on the other.
fn execute(
    arguments: &Arguments,
    command: &str,
    connection: &Connection,
    interrupt: &Interrupt,
) -> Outcome {
    let exec = Exec { command, framing: Framing::new(arguments.framed), text: arguments.text };
    let (ended, status) = exec.run(connection, interrupt, |_| {})?;
    exec::check(status)?;
    match is_orderly(&ended, connection) {
        true => Ok(()),
        false => Err(RecvError::Ended(ended).into()),
    }
}

/// Where messages come from.
enum Input {
    Once(Option<Vec<u8>>),
    Pipe(Consumer<std::io::Result<Vec<u8>>>),
    /// Nothing comes, and the end does not come either.
    Never,
}

impl Input {
    /// The next message; `None` at the end.
    fn poll_next(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<std::io::Result<Vec<u8>>>> {
        match self {
            Input::Once(message) => Poll::Ready(message.take().map(Ok)),
            Input::Pipe(messages) => messages.poll_next(cx),
            Input::Never => Poll::Pending,
        }
    }
}

/// Messages from standard input, read by a thread of their own, which may block there for good.
fn read_messages(framing: Framing, limit: usize) -> Outcome<Consumer<std::io::Result<Vec<u8>>>> {
    let (producer, consumer) = queue::bounded(AHEAD);
    let read = move || {
        let mut input = std::io::stdin().lock();
        while let Some(message) = framing.read(&mut input, limit).transpose() {
            let last = message.is_err();
            if !producer.push(message) || last {
                return;
            }
        }
    };
    match std::thread::Builder::new().name("stdin".into()).spawn(read) {
        Ok(_) => Ok(consumer),
        Err(error) => Err(Failure::Failed(format!("cannot start a thread: {error}"))),
    }
}

/// What happens next while messages are sent.
enum Step {
    Line(Option<std::io::Result<Vec<u8>>>),
    Sent(Result<MessageId, SendError>),
    Flushed(Result<(), FlushError>),
    Received(Result<Message, RecvError>),
    Replied(Result<Message, RequestError>),
}

/// A request that was made.
struct Asked<'a> {
    size: usize,
    state: AskedState<'a>,
}

enum AskedState<'a> {
    Waiting(Pin<Box<Request<'a>>>),
    /// The reply was there before its turn.
    Replied(Option<Result<Message, RequestError>>),
}

impl<'a> Asked<'a> {
    /// Sends it. Further waiting is done when it is the oldest.
    fn new(connection: &'a Connection, message: Message, timeout: Duration) -> Asked<'a> {
        let size = message.data.len();
        let mut request = Box::pin(connection.request(message, timeout));
        let mut idle = TaskContext::from_waker(std::task::Waker::noop());
        let state = match request.as_mut().poll(&mut idle) {
            Poll::Ready(reply) => AskedState::Replied(Some(reply)),
            Poll::Pending => AskedState::Waiting(request),
        };
        Asked { size, state }
    }

    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Message, RequestError>> {
        match &mut self.state {
            AskedState::Waiting(request) => request.as_mut().poll(cx),
            AskedState::Replied(reply) => reply.take().map_or(Poll::Pending, Poll::Ready),
        }
    }
}

struct Exchange<'a> {
    connection: &'a Connection,
    /// `None` when it has ended.
    input: Option<Input>,
    /// Its end before the first message is not the end of the exchange.
    may_be_empty: bool,
    /// What is sent is marked as text.
    text: bool,
    output: Output,
    format: Format,
    timeout: Duration,
}

impl<'a> Exchange<'a> {
    fn unreadable(error: std::io::Error) -> Failure {
        Failure::Failed(format!("cannot read standard input: {error}"))
    }

    fn message(&self, data: std::io::Result<Vec<u8>>) -> Outcome<Message> {
        let data = data.map_err(Self::unreadable)?;
        Ok(Message { is_text: self.text, ..Message::new(data) })
    }

    fn print(&mut self, message: &Message) -> Outcome {
        Ok(self.format.write(&mut self.output, message, None)?)
    }

    /// Waits for a step; what was printed is shown before the wait begins.
    fn wait(
        interrupt: &Interrupt,
        output: &mut Output,
        mut poll: impl FnMut(&mut TaskContext<'_>) -> Poll<Step>,
    ) -> Outcome<Step> {
        let mut shown = Ok(());
        let step = interrupt.wait_for(std::future::poll_fn(|cx| {
            let step = poll(cx);
            if step.is_pending() {
                shown = output.flush();
                if shown.is_err() {
                    return Poll::Ready(None);
                }
            }
            step.map(Some)
        }));
        shown?;
        step?.ok_or(Failure::OutputClosed)
    }

    /// Sends everything while printing everything that comes, until it is acknowledged.
    fn send_all(&mut self, interrupt: &Interrupt, wait: Duration) -> Outcome {
        let connection = self.connection;
        let mut sending: Option<Send<'a>> = None;
        let mut flushing: Option<Flush<'a>> = None;
        loop {
            let (input, output) = (&mut self.input, &mut self.output);
            let mut receiving = connection.recv();
            let step = Self::wait(interrupt, output, |cx| {
                if let Some(future) = &mut sending {
                    if let Poll::Ready(sent) = Pin::new(future).poll(cx) {
                        return Poll::Ready(Step::Sent(sent));
                    }
                } else if let Some(input) = input
                    && let Poll::Ready(line) = input.poll_next(cx)
                {
                    return Poll::Ready(Step::Line(line));
                }
                if let Some(future) = &mut flushing
                    && let Poll::Ready(flushed) = Pin::new(future).poll(cx)
                {
                    return Poll::Ready(Step::Flushed(flushed));
                }
                Pin::new(&mut receiving).poll(cx).map(Step::Received)
            })?;
            match step {
                Step::Line(Some(line)) => {
                    sending = Some(connection.send(self.message(line)?));
                    self.may_be_empty = false;
                }
                Step::Line(None) if self.may_be_empty => self.input = Some(Input::Never),
                Step::Line(None) => {
                    self.input = None;
                    flushing = Some(connection.flush());
                }
                Step::Sent(sent) => {
                    sending = None;
                    sent?;
                }
                Step::Flushed(flushed) => {
                    flushed?;
                    return self.print_the_rest(interrupt, wait);
                }
                Step::Received(Ok(message)) => self.print(&message)?,
                Step::Received(Err(RecvError::Ended(ended))) => return self.ended(ended),
                Step::Received(Err(error)) => return Err(error.into()),
                Step::Replied(_) => {}
            }
        }
    }

    /// The peer closed: fine when there is nothing left to send.
    fn ended(&self, ended: Ended) -> Outcome {
        let all_sent = matches!(self.input, None | Some(Input::Never));
        let delivered = matches!(block_on(self.connection.flush()), Ok(()));
        match all_sent && delivered && is_orderly(&ended, self.connection) {
            true => Ok(()),
            false => Err(RecvError::Ended(ended).into()),
        }
    }

    /// Prints what is there, and what comes until it was quiet for so long.
    fn print_the_rest(&mut self, interrupt: &Interrupt, quiet: Duration) -> Outcome {
        loop {
            self.connection.set_read_deadline(Some(Instant::now() + quiet));
            let connection = self.connection;
            let mut receiving = connection.recv();
            let step = Self::wait(interrupt, &mut self.output, |cx| {
                Pin::new(&mut receiving).poll(cx).map(Step::Received)
            })?;
            match step {
                Step::Received(Ok(message)) => self.print(&message)?,
                Step::Received(Err(RecvError::Ended(ended))) => return self.ended(ended),
                _ => return Ok(()),
            }
        }
    }

    /// Makes a request of each message and prints the replies in their order.
    fn request_all(&mut self, interrupt: &Interrupt) -> Outcome {
        let connection = self.connection;
        let mut asked: VecDeque<Asked<'a>> = VecDeque::new();
        let mut bytes = 0;
        while self.input.is_some() || !asked.is_empty() {
            let (input, output) = (&mut self.input, &mut self.output);
            let room = asked.len() < IN_FLIGHT && (bytes < IN_FLIGHT_BYTES || asked.is_empty());
            let step = Self::wait(interrupt, output, |cx| {
                if let Some(oldest) = asked.front_mut()
                    && let Poll::Ready(reply) = oldest.poll(cx)
                {
                    return Poll::Ready(Step::Replied(reply));
                }
                match input {
                    Some(input) if room => input.poll_next(cx).map(Step::Line),
                    _ => Poll::Pending,
                }
            })?;
            match step {
                Step::Line(Some(line)) => {
                    let message = self.message(line)?;
                    bytes += message.data.len();
                    asked.push_back(Asked::new(connection, message, self.timeout));
                }
                Step::Line(None) => self.input = None,
                Step::Replied(reply) => {
                    let size = asked.pop_front().map_or(0, |asked| asked.size);
                    bytes -= size;
                    self.print(&reply?)?;
                }
                Step::Sent(_) | Step::Flushed(_) | Step::Received(_) => {}
            }
        }
        Ok(())
    }
}
