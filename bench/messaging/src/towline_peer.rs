//! Towline: handlers on the I/O thread for ping-pong and receiving, `send_blocking` from another thread one way.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use towline::{Config, Connection, Context, DriverChoice, Endpoint, Handler, Message};

use crate::scenario::{Kind, Meter, Scenario};

pub fn speaks(_: &Scenario) -> bool {
    true
}

pub fn serve_epoll(scenario: &Scenario, seconds: f64) {
    serve(scenario, seconds, DriverChoice::Epoll);
}

pub fn serve_uring(scenario: &Scenario, seconds: f64) {
    serve(scenario, seconds, DriverChoice::IoUring);
}

pub fn drive_epoll(scenario: &Scenario, port: u16, seconds: f64) {
    drive(scenario, port, seconds, DriverChoice::Epoll);
}

pub fn drive_uring(scenario: &Scenario, port: u16, seconds: f64) {
    drive(scenario, port, seconds, DriverChoice::IoUring);
}

pub fn spin_speaks(scenario: &Scenario) -> bool {
    matches!(scenario.kind, Kind::PingPong { .. })
}

pub fn serve_spin(scenario: &Scenario, seconds: f64) {
    serve_on(scenario, seconds, context(DriverChoice::Epoll, SPIN));
}

pub fn drive_spin(scenario: &Scenario, port: u16, seconds: f64) {
    drive_on(scenario, port, seconds, context(DriverChoice::Epoll, SPIN));
}

/// How long the contender that spins looks for more before it sleeps.
const SPIN: Duration = Duration::from_micros(100);

fn context(driver: DriverChoice, spin: Duration) -> Context {
    Context::builder().threads(1).driver(driver).spin(spin).build().expect("a context")
}

fn certificate_path(file: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("towline-bench-{file}"))
}

/// Echoes, or counts until a message of one byte.
struct Server {
    one_way: bool,
    small: bool,
    meter: Meter,
    done: mpsc::Sender<()>,
}

impl Handler for Server {
    fn message(&mut self, connection: &Connection, message: Message) {
        if !self.one_way {
            connection.try_send(Message::reply_to(&message, message.data.clone())).expect("room");
        } else if message.data.len() == 1 {
            self.meter.print();
            self.done.send(()).ok();
        } else if self.small {
            self.meter.add_one();
        } else {
            self.meter.add(1);
        }
    }
}

fn serve(scenario: &Scenario, seconds: f64, driver: DriverChoice) {
    serve_on(scenario, seconds, context(driver, Duration::ZERO));
}

fn serve_on(scenario: &Scenario, _: f64, context: Context) {
    let secure = scenario.kind == Kind::OneWayTls;
    let mut config = Config::builder();
    if secure {
        let made = towline::tls::self_signed(&["localhost".to_owned()]).expect("a certificate");
        std::fs::write(certificate_path("ca.pem"), &made.certificate_pem).expect("a temporary file");
        config = config.certificate_pem(made.certificate_pem, made.key_pem);
    }
    let endpoint = Endpoint::new(&context, &config.build().expect("a configuration"));
    let (done, wait) = mpsc::channel();
    let (one_way, small) = (scenario.is_one_way(), scenario.size <= 64);
    let url = if secure { "tls://127.0.0.1:0" } else { "tcp://127.0.0.1:0" };
    let listener = endpoint
        .listen_with(url, move |_: &Connection| Server { one_way, small, meter: Meter::default(), done: done.clone() })
        .expect("a free port");
    println!("{}", listener.local_address().port());
    wait.recv().ok();
}

/// Keeps one message in the air, and counts.
struct Player {
    ball: Bytes,
    count: u64,
    until: Instant,
    done: mpsc::Sender<u64>,
}

impl Handler for Player {
    fn connected(&mut self, connection: &Connection, _: towline::Connected) {
        connection.try_send(self.ball.clone()).expect("room");
    }

    fn message(&mut self, connection: &Connection, _: Message) {
        self.count += 1;
        if Instant::now() >= self.until {
            self.done.send(self.count).ok();
            return;
        }
        connection.try_send(self.ball.clone()).expect("room");
    }
}

fn drive(scenario: &Scenario, port: u16, seconds: f64, driver: DriverChoice) {
    drive_on(scenario, port, seconds, context(driver, Duration::ZERO));
}

fn drive_on(scenario: &Scenario, port: u16, seconds: f64, context: Context) {
    let start = Instant::now();
    if let Kind::PingPong { connections } = scenario.kind {
        let endpoint = Endpoint::new(&context, &Config::default());
        let (done, wait) = mpsc::channel();
        let until = start + Duration::from_secs_f64(seconds);
        let ball = Bytes::from(vec![7; scenario.size]);
        let connect = |_| {
            let player = Player { ball: ball.clone(), count: 0, until, done: done.clone() };
            endpoint.connect_with(format!("tcp://127.0.0.1:{port}"), player)
        };
        let connecting: Vec<_> = (0..connections).map(connect).collect();
        let total: u64 = (0..connections).map(|_| wait.recv().expect("a player")).sum();
        println!("{}", total as f64 / start.elapsed().as_secs_f64());
        drop(connecting);
        std::process::exit(0);
    }
    let (mut config, mut url) = (Config::builder(), format!("tcp://127.0.0.1:{port}"));
    if scenario.kind == Kind::OneWayTls {
        config = config.ca_file(certificate_path("ca.pem"));
        url = format!("tls://localhost:{port}");
    }
    let endpoint = Endpoint::new(&context, &config.build().expect("a configuration"));
    let connection = endpoint.connect_blocking(&url).expect("the server");
    let data = vec![7u8; scenario.size];
    let shared = Bytes::from(data.clone());
    let stride = if scenario.size <= 64 { 64 } else { 1 };
    while start.elapsed().as_secs_f64() < seconds {
        for _ in 0..stride {
            // Large payloads are shared, as the plain loops share theirs; small ones are copied, as the peers copy them.
            let message = if scenario.size <= 64 { Bytes::copy_from_slice(&data) } else { shared.clone() };
            connection.send_blocking(message).expect("the server reads");
        }
    }
    connection.send_blocking(&b"."[..]).expect("the server reads");
    connection.flush_blocking().expect("the server reads");
}
