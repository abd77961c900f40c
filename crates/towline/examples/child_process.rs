//! A socket factory over a child process: its standard input and output carry a Towline session.
//!
//! The program starts itself as its child, sends it a few requests, and prints the replies. The child's half of the
//! factory attaches the other ends of the same two pipes to a listener.
//!
//! ```text
//! cargo run --example child_process
//! ```

#![allow(clippy::print_stdout, reason = "it shows what it does")]

use std::io::{Read, Write, stdin, stdout};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use towline::socket_factory::{FactorySocket, OpenOptions, RECEIVE_WINDOW, SocketFactory};
use towline::{Address, Config, Connection, Context, Endpoint, Message};

/// Streams of bytes over pipes. All calls may block, which is the default: Towline makes them on threads of their own.
struct Pipes;

/// One socket: what it writes to, and how its reading thread is woken.
struct Pipe {
    writer: Mutex<Option<Box<dyn Write + Send>>>,
    child: Mutex<Option<Child>>,
    turn: Mutex<()>,
    read_on: Condvar,
}

impl Pipes {
    fn begin(
        socket: &FactorySocket,
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
        child: Option<Child>,
    ) {
        let pipe = Arc::new(Pipe {
            writer: Mutex::new(Some(Box::new(writer))),
            child: Mutex::new(child),
            turn: Mutex::new(()),
            read_on: Condvar::new(),
        });
        socket.set_native(Some(pipe.clone()));
        socket.opened().ok();
        let socket = socket.clone();
        std::thread::spawn(move || read(&socket, &pipe, reader));
    }
}

/// Hands up what comes, as long as Towline keeps up with it.
fn read(socket: &FactorySocket, pipe: &Pipe, mut reader: impl Read) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let turn = pipe.turn.lock().unwrap();
        drop(pipe.read_on.wait_while(turn, |()| socket.unprocessed() >= RECEIVE_WINDOW).unwrap());
        match reader.read(&mut buffer) {
            Ok(0) | Err(_) => {
                socket.end_of_stream().ok();
                return;
            }
            Ok(length) => {
                socket.received(buffer[..length].to_vec()).ok();
            }
        }
    }
}

impl SocketFactory for Pipes {
    fn open(&self, socket: &FactorySocket, address: &Address, _: &OpenOptions) {
        // An address's host is the child's argument.
        let spawned = std::env::current_exe().and_then(|program| {
            let mut command = Command::new(program);
            command.arg(address.host()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
        });
        match spawned {
            Ok(mut child) => {
                let (Some(output), Some(input)) = (child.stdout.take(), child.stdin.take()) else {
                    return;
                };
                Pipes::begin(socket, output, input, Some(child));
            }
            Err(error) => {
                socket.closed(Err(error.into())).ok();
            }
        }
    }

    fn attached(&self, socket: &FactorySocket) {
        Pipes::begin(socket, stdin(), stdout(), None);
    }

    fn write(&self, socket: &FactorySocket, data: Bytes) {
        let Some(pipe) = socket.native_as::<Pipe>() else { return };
        let mut writer = pipe.writer.lock().unwrap();
        let Some(writer) = writer.as_mut() else { return };
        match writer.write_all(&data).and_then(|()| writer.flush()) {
            Ok(()) => socket.completed_write(data.len()).ok(),
            Err(error) => socket.closed(Err(error.into())).ok(),
        };
    }

    fn completed_receive(&self, socket: &FactorySocket, _: usize) {
        if let Some(pipe) = socket.native_as::<Pipe>() {
            drop(pipe.turn.lock().unwrap());
            pipe.read_on.notify_all();
        }
    }

    fn close(&self, socket: &FactorySocket) {
        if let Some(pipe) = socket.native_as::<Pipe>() {
            // The child reads the end of its input, and ends.
            pipe.writer.lock().unwrap().take();
        }
        socket.closed(Ok(())).ok();
    }

    fn dispose(&self, socket: &FactorySocket) {
        if let Some(pipe) = socket.native_as::<Pipe>()
            && let Some(mut child) = pipe.child.lock().unwrap().take()
        {
            child.wait().ok();
        }
        socket.set_native(None);
    }
}

fn endpoint() -> Result<(Context, Endpoint), towline::Error> {
    let context = Context::builder().threads(1).build()?;
    let config =
        Config::builder().named_socket_factory("child", Arc::new(Pipes)).redial(false).build()?;
    let endpoint = Endpoint::new(&context, &config);
    Ok((context, endpoint))
}

/// The child: answers requests in capitals until its parent is gone. Nothing else may write to its standard output.
fn child() -> Result<(), towline::Error> {
    let (_context, endpoint) = endpoint()?;
    let listener = endpoint.listen("child+tcp://parent")?;
    listener.attach(Arc::new(Pipes), None)?;
    let parent = listener.accept_blocking()?;
    while let Ok(request) = parent.recv_blocking() {
        let reply = String::from_utf8_lossy(&request.data).to_uppercase();
        parent.send_blocking(Message::reply_to(&request, reply))?;
    }
    Ok(())
}

fn parent() -> Result<(), towline::Error> {
    let (_context, endpoint) = endpoint()?;
    let child: Connection = endpoint.connect_blocking("child+tcp://answer")?;
    for word in ["over", "standard", "input", "and output"] {
        let reply = child.request_blocking(word, Duration::from_secs(20))?;
        println!("{word} -> {}", String::from_utf8_lossy(&reply.data));
        assert_eq!(reply.data, word.to_uppercase());
    }
    child.close_blocking()?;
    Ok(())
}

pub(crate) fn main() -> Result<(), towline::Error> {
    match std::env::args().nth(1).as_deref() {
        Some("answer") => child(),
        _ => parent(),
    }
}
