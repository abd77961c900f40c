//! Messages by towline.h and by the Rust API: 64 bytes, one connection, one I/O thread on each side.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use towline::{Config, Connection, Context, Endpoint, Message};

use crate::{Options, Programs, median};

const DATA: [u8; 64] = [7; 64];

fn processor() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists and the place is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// What messages.c does.
pub(crate) fn twin(kind: &str, count: usize) {
    let context = || Context::builder().threads(1).build().expect("a context");
    let (here, there) = (context(), context());
    let endpoint = |context| Endpoint::new(context, &Config::default());
    let requests = kind == "requests";
    let (tell, told) = sync_channel(1);
    let listener = endpoint(&there).listen_with("tcp://127.0.0.1:0", move |_: &Connection| {
        let (tell, received) = (tell.clone(), AtomicUsize::new(0));
        move |connection: &Connection, message: Message| {
            if requests {
                let data = message.data.clone();
                connection.try_send(Message::reply_to(&message, data)).expect("room");
            } else if received.fetch_add(1, Ordering::Relaxed) + 1 == count {
                tell.send(()).expect("somebody waits");
            }
        }
    });
    let listener = listener.expect("a listener");
    let connection = endpoint(&here).connect_blocking(listener.url()).expect("a connection");
    let (wall, used) = (Instant::now(), processor());
    for _ in 0..count {
        // The caller's bytes are copied, as a C program's have to be.
        let data = Bytes::copy_from_slice(&DATA);
        if requests {
            connection.request_blocking(data, Duration::from_secs(60)).expect("a reply");
        } else {
            connection.send_blocking(data).expect("room");
        }
    }
    if !requests {
        told.recv().expect("the last message");
    }
    println!("{} {}", wall.elapsed().as_secs_f64(), processor() - used);
    std::process::exit(0);
}

fn measure(mut command: Command) -> (f64, f64) {
    let output = command.output().expect("a contestant");
    assert!(output.status.success(), "{command:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut numbers = text.split_whitespace().map(|word| word.parse().expect("a number"));
    (numbers.next().expect("wall"), numbers.next().expect("processor"))
}

pub(crate) fn compare(programs: &Programs, options: &Options) {
    for (kind, count) in [("messages", options.messages), ("requests", options.messages / 15)] {
        let (mut wall, mut used) = (Vec::new(), Vec::new());
        let mut rates = Vec::new();
        for round in 0..options.rounds {
            let c = || {
                let mut command = programs.command("messages");
                command.args([kind, &count.to_string()]);
                measure(command)
            };
            let rust = || {
                let mut command = Command::new(std::env::current_exe().expect("this program"));
                command.args(["--twin", kind, &count.to_string()]);
                measure(command)
            };
            // Neither always goes first.
            let (c, rust) = if round % 2 == 0 { (c(), rust()) } else { let rust = rust(); (c(), rust) };
            rates.push(count as f64 / c.0);
            wall.push(rust.0 / c.0);
            used.push(rust.1 / c.1);
        }
        println!(
            "{kind}: C to Rust {:.3} by time, {:.3} by processor time; C {:.0} per second",
            median(wall),
            median(used),
            median(rates)
        );
    }
}
