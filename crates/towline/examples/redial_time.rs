//! How long a redial takes with 10,000 unacknowledged messages of 1 KiB: the time from the new connection to all
//! delivered. `cargo run --release -p towline --example redial_time [repetitions]`.
//!
//! The peer is reached through a relay of two threads that stops forwarding before the messages are sent, so that none
//! of them arrives on the first wire, and is then cut. The clock starts when the new wire's session is established and
//! stops when the last message is in the handler's hands.
#![allow(clippy::print_stdout, reason = "an example that prints its measurement")]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use towline::{Config, Connected, Connection, Context, Endpoint, Event, Handler, Message};

const MESSAGES: usize = 10_000;
const SIZE: usize = 1024;

/// Counts messages, and tells when a wire is there and when all have come.
struct Counts {
    seen: usize,
    told: mpsc::Sender<(Instant, usize)>,
}

impl Handler for Counts {
    fn connected(&mut self, _: &Connection, _: Connected) {
        self.told.send((Instant::now(), self.seen)).ok();
    }

    fn message(&mut self, _: &Connection, _: Message) {
        self.seen += 1;
        if self.seen == MESSAGES {
            self.told.send((Instant::now(), self.seen)).ok();
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let repetitions = std::env::args().nth(1).map_or(Ok(10), |count| count.parse())?;
    let mut times = Vec::new();
    for _ in 0..repetitions {
        times.push(redial()?);
    }
    times.sort();
    println!(
        "{MESSAGES} messages of {SIZE} bytes, from the new connection to all delivered: \
         median {:.1?}, fastest {:.1?}, slowest {:.1?} of {repetitions}",
        times[times.len() / 2],
        times[0],
        times[times.len() - 1]
    );
    Ok(())
}

fn redial() -> Result<Duration, Box<dyn Error>> {
    let config = Config::builder().receive_window(32 << 20).send_queue_bytes(32 << 20).build()?;
    let (near, far) =
        (Context::builder().threads(1).build()?, Context::builder().threads(1).build()?);
    let (client, server) = (Endpoint::new(&near, &config), Endpoint::new(&far, &config));
    let (tell, told) = mpsc::channel();
    let listener = server.listen_with("tcp://127.0.0.1:0", move |_: &Connection| Counts {
        seen: 0,
        told: tell.clone(),
    })?;
    let relay = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("tcp://{}", relay.local_addr()?);
    let silent = Arc::new(AtomicBool::new(false));
    let relaying = forward(relay, listener.local_address(), Arc::clone(&silent));

    let connection = client.connect_blocking(&url)?;
    told.recv()?;
    let mut events = connection.events();
    silent.store(true, Ordering::SeqCst);
    for _ in 0..MESSAGES {
        connection.send_blocking(vec![7; SIZE])?;
    }
    // The wire is cut; the next one goes straight through.
    let first = relaying.recv()?;
    silent.store(false, Ordering::SeqCst);
    first.shutdown(Shutdown::Both)?;
    while !matches!(events.next_blocking(), Some(Event::Connected(_)) | None) {}
    let (begun, before) = told.recv()?;
    let (ended, after) = told.recv()?;
    assert_eq!((before, after), (0, MESSAGES));
    connection.close_blocking()?;
    Ok(ended - begun)
}

/// Forwards wires to `target`; each is handed out so that it can be cut.
fn forward(
    relay: TcpListener,
    target: SocketAddr,
    silent: Arc<AtomicBool>,
) -> mpsc::Receiver<TcpStream> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || -> std::io::Result<()> {
        for client in relay.incoming() {
            let (client, server) = (client?, TcpStream::connect(target)?);
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            tell.send(client.try_clone()?).ok();
            for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
                let silent = Arc::clone(&silent);
                std::thread::spawn(move || pump(&from, &to, &silent));
            }
        }
        Ok(())
    });
    told
}

fn pump(mut from: &TcpStream, mut to: &TcpStream, silent: &AtomicBool) {
    let mut buffer = vec![0; 256 << 10];
    let mut swallowed = false;
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        // Once silent, a wire stays so: a gap would be worse than an end.
        swallowed |= silent.load(Ordering::SeqCst);
        if !swallowed && to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    to.shutdown(Shutdown::Both).ok();
    from.shutdown(Shutdown::Both).ok();
}
