//! Towline's echo server: a listener with a handler.

use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};

use towline::websocket::SessionUse;
use towline::{Closed, Config, Connection, Context, DriverChoice, Endpoint, Handler, Message};

struct Echo(Sender<()>);

impl Handler for Echo {
    fn message(&mut self, connection: &Connection, message: Message) {
        connection.try_send(message).expect("room");
    }

    fn closed(&mut self, _: &Connection, _: Closed) {
        self.0.send(()).expect("somebody waits");
    }
}

pub fn serve(tell: Sender<SocketAddr>) {
    serve_on(DriverChoice::Auto, tell);
}

pub fn serve_epoll(tell: Sender<SocketAddr>) {
    serve_on(DriverChoice::Epoll, tell);
}

fn serve_on(driver: DriverChoice, tell: Sender<SocketAddr>) {
    let context = Context::builder().threads(1).driver(driver).build().expect("a context");
    let config =
        Config::builder().websocket_session(SessionUse::Never).send_queue_bytes(1 << 20).build().expect("a configuration");
    let endpoint = Endpoint::new(&context, &config);
    let (end, ended) = channel();
    let listener =
        endpoint.listen_with("ws://127.0.0.1:0", move |_: &Connection| Echo(end.clone()));
    let listener = listener.expect("a listener");
    tell.send(listener.local_address()).expect("a client");
    ended.recv().expect("an end");
}
