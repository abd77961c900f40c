//! What an idle connection costs in memory, beyond the kernel's: `cargo run --release -p towline --example idle_memory`.
//!
//! A server and a client process of their own, each with 1,000 connections (or the number given):
//! the growth of each process's private memory beyond that with 1,000 others, divided by the number, when they have just
//! connected, and when each has carried a message both ways and has been idle for a while. `tcp` only.
#![allow(clippy::print_stdout, reason = "an example that prints its measurement")]

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use towline::{Config, Connection, Context, Endpoint, Message};

/// Connections before the measurement, so that what all connections of a thread share (its pool of receive buffers, 4 MiB
/// by default) is there.
const WARM_UP: usize = 1000;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let count = arguments.first().map_or(Ok(1000), |count| count.parse())?;
    let scheme = arguments.get(1).map_or("tcp", String::as_str);
    match arguments.get(2).map(String::as_str) {
        Some("server") => server(scheme),
        Some("client") => client(count, arguments.get(3).ok_or("no address")?),
        _ => compare(count, scheme),
    }
}

/// Starts both, and divides.
fn compare(count: usize, scheme: &str) -> Outcome {
    let mut server = Process::start(&[&count.to_string(), scheme, "server"])?;
    let url = server.line()?;
    let mut client = Process::start(&[&count.to_string(), scheme, "client", &url])?;
    println!("{count} connections over {scheme}");
    // The client answers when it is done, so it is asked first.
    let before = [client.memory()?, server.memory()?];
    for state in ["connected", "after a message each way, then idle"] {
        let after = [client.memory()?, server.memory()?];
        let each = |after: u64, before: u64| after.saturating_sub(before) / count as u64;
        println!(
            "{state}: {} bytes per connection in the server, {} in the client",
            each(after[1], before[1]),
            each(after[0], before[0])
        );
    }
    Ok(())
}

fn config() -> Outcome<Config> {
    let config = Config::builder()
        .keep_alive(Duration::from_millis(500))
        .silence_limit(Duration::from_secs(30));
    Ok(config.build()?)
}

/// Echoes, and says how much memory it has whenever it is asked.
fn server(scheme: &str) -> Outcome {
    let context = Context::builder().threads(1).build()?;
    let endpoint = Endpoint::new(&context, &config()?);
    let listener = endpoint.listen_with(format!("{scheme}://127.0.0.1:0"), |_: &Connection| {
        |connection: &Connection, message: Message| {
            connection.try_send(Message::reply_to(&message, message.data.clone())).ok();
        }
    })?;
    println!("{}", listener.url());
    for line in std::io::stdin().lines() {
        line?;
        println!("{}", private_memory()?);
    }
    Ok(())
}

/// Reports its memory after each step.
fn client(count: usize, url: &str) -> Outcome {
    let context = Context::builder().threads(1).build()?;
    let endpoint = Endpoint::new(&context, &config()?);
    let mut connections = Vec::with_capacity(count + WARM_UP);
    for _ in 0..WARM_UP {
        connections.push(endpoint.connect_blocking(url)?);
    }
    talk(&connections)?;
    let mut asked = std::io::stdin().lines();
    let mut report = || -> Outcome {
        asked.next().ok_or("nobody asks")??;
        println!("{}", private_memory()?);
        Ok(())
    };
    report()?;
    for _ in 0..count {
        connections.push(endpoint.connect_blocking(url)?);
    }
    report()?;
    talk(&connections)?;
    report()?;
    Ok(())
}

/// One message each way on every connection, and then silence until each has had its keep-alive.
fn talk(connections: &[Connection]) -> Outcome {
    for connection in connections {
        connection.request_blocking("hello", Duration::from_secs(10))?;
    }
    let patience = Instant::now() + Duration::from_secs(30);
    while connections.iter().any(|connection| connection.stats().round_trip.is_none()) {
        if Instant::now() > patience {
            return Err("no keep-alive".into());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

/// Bytes of private memory, from `/proc/self/status`.
fn private_memory() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).ok_or("no RssAnon")?;
    let kilobytes: u64 = line.split_whitespace().nth(1).ok_or("no value")?.parse()?;
    Ok(kilobytes << 10)
}

/// A copy of this program in another role.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(arguments: &[&str]) -> Outcome<Process> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or("no input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok(Process { child, input, output })
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn memory(&mut self) -> Outcome<u64> {
        writeln!(self.input)?;
        Ok(self.line()?.parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
