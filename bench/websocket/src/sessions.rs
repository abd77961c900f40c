//! A factory in between: the same session, with the same echo, over Towline's own sockets and over factories.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use towline::socket_factory::{Framing, InProcess, StreamSockets};
use towline::{Address, Config, Connection, Context, Endpoint, Handler, Message};

use crate::{median, processor_time};

struct Echo;

impl Handler for Echo {
    fn message(&mut self, connection: &Connection, message: Message) {
        connection.try_send(Message::new(message.data)).expect("room");
    }
}

/// Keeps the window full; tells when everything has come back.
struct Window {
    payload: bytes::Bytes,
    to_send: usize,
    to_receive: usize,
    done: Sender<()>,
}

impl Handler for Window {
    fn message(&mut self, connection: &Connection, _: Message) {
        if self.to_send > 0 {
            self.to_send -= 1;
            connection.try_send(Message::new(self.payload.clone())).expect("room");
        }
        self.to_receive -= 1;
        if self.to_receive == 0 {
            self.done.send(()).expect("somebody waits");
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Sockets {
    BuiltIn,
    InProcess,
    Streams,
}

pub fn compare(rounds: usize, scale: usize) {
    for (name, size, window, messages) in [
        ("64 B, window 64", 64, 64, 200_000),
        ("64 B, window 1", 64, 1, 20_000),
        ("64 KiB, window 16", 64 << 10, 16, 8_000),
    ] {
        let messages = (messages * scale / 100).max(window * 10);
        println!(
            "\nsessions, {name} ({messages} messages): us, and relative to the built-in socket"
        );
        let all = [
            ("built-in TCP", Sockets::BuiltIn),
            ("factory, in-process", Sockets::InProcess),
            ("factory, TCP", Sockets::Streams),
        ];
        let mut costs = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            for ((_, sockets), costs) in all.iter().zip(&mut costs) {
                costs.push(measure(*sockets, size, window, messages));
            }
        }
        let built_in = median(&mut costs[0]);
        for ((name, _), costs) in all.iter().zip(&mut costs) {
            let cost = median(costs);
            println!("{name:>20} {cost:9.3} us  {:.2}", built_in / cost);
        }
    }
}

fn measure(sockets: Sockets, size: usize, window: usize, messages: usize) -> f64 {
    let context = Context::builder().threads(2).build().expect("a context");
    let (pairs, streams) = (
        Arc::new(InProcess::new(Framing::Bytes)),
        Arc::new(StreamSockets::tcp().expect("sockets")),
    );
    let config = Config::builder()
        .named_socket_factory("pair", Arc::clone(&pairs) as _)
        .named_socket_factory("stream", Arc::clone(&streams) as _);
    let endpoint = Endpoint::new(&context, &config.build().expect("a configuration"));
    let url = match sockets {
        Sockets::BuiltIn => "tcp://127.0.0.1:0",
        Sockets::InProcess => "pair+tcp://echo",
        Sockets::Streams => "stream+tcp://127.0.0.1:0",
    };
    let listener = endpoint.listen_with(url, |_: &Connection| Echo).expect("a listener");
    let mut to: Address = listener.url();
    let mut accepting = None;
    match sockets {
        Sockets::BuiltIn => {}
        Sockets::InProcess => pairs.register("echo", listener.attacher()),
        Sockets::Streams => {
            let listening = streams.listen(&to, listener.attacher()).expect("a port");
            to = to.with_port(listening.port().expect("a port"));
            accepting = Some(listening);
        }
    }
    let (done, told) = channel();
    let payload = bytes::Bytes::from(vec![7; size]);
    let window_full =
        Window { payload: payload.clone(), to_send: messages - window, to_receive: messages, done };
    let connecting = endpoint.connect_with(to, window_full);
    let connection = block_on(connecting).expect("a connection");
    let before = processor_time();
    for _ in 0..window {
        connection.try_send(Message::new(payload.clone())).expect("room");
    }
    told.recv().expect("everything comes back");
    let cost = processor_time() - before;
    connection.close_blocking().ok();
    drop(accepting);
    cost * 1e6 / messages as f64
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}
