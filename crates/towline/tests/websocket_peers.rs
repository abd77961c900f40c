//! WebSocket with other people's implementations, both ways: Python's `websockets`, npm's `ws`, and a browser.
//!
//! What is missing of them is installed below the target directory, for which there must be `python3`, `node`, `npm` and a
//! way to their registries; the browser is `chromium` (on Debian: `apt-get install chromium`). A test whose peer cannot
//! be had fails.

mod common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use common::{PATIENCE, Side, each_driver, quick};
use towline::websocket::DeflateConfig;
use towline::{Connection, Ended, Listener, Message};

/// Where peers are installed.
fn home() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("websocket-peers");
    std::fs::create_dir_all(&home).unwrap();
    home
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed:\n{out}\n{err}");
}

/// Python with `websockets`.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let venv = home().join("venv");
        let python = venv.join("bin/python");
        let usable = Command::new(&python).args(["-c", "import websockets.asyncio"]).output();
        if !usable.is_ok_and(|output| output.status.success()) {
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
            run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "websockets"]));
        }
        python
    })
}

/// The scripts for node, beside an installed `ws`.
fn node(script: &str) -> Command {
    static READY: Mutex<bool> = Mutex::new(false);
    let home = home();
    let mut ready = READY.lock().unwrap();
    if !*ready {
        if !home.join("node_modules/ws/package.json").exists() {
            std::fs::write(home.join("package.json"), r#"{"private": true}"#).unwrap();
            run(Command::new("npm").current_dir(&home).args(["install", "--silent", "ws"]));
        }
        // A module finds its packages beside itself.
        for script in ["websocket_server.mjs", "websocket_client.mjs"] {
            std::fs::copy(scripts().join(script), home.join(script)).unwrap();
        }
        *ready = true;
    }
    let mut node = Command::new("node");
    node.arg(home.join(script));
    node
}

fn python_script(script: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(scripts().join(script));
    command
}

/// A peer's process, ended with its owner.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts a server that prints its port.
fn server(mut command: Command) -> (Peer, String) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let peer = Peer(child);
    let port: u16 = line.trim().parse().unwrap_or_else(|_| panic!("no port: {line:?}"));
    (peer, format!("ws://127.0.0.1:{port}/"))
}

fn echo_off(url: &str, side: Side, deflate: bool) {
    let mut config = quick();
    if deflate {
        config = config.websocket_deflate(DeflateConfig::default());
    }
    let (_context, endpoint) = side.endpoint(&config.build().unwrap());
    let connection = endpoint.connect_blocking(url).unwrap();
    assert!(!connection.capabilities().session, "plain messages with everyone else");
    assert_eq!(connection.websocket().unwrap().compressed, deflate);
    connection.set_read_deadline(Some(Instant::now() + PATIENCE));
    for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 8 << 20] {
        let data: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
        let text: String = "añ中😀".chars().cycle().take(size / 4).collect();
        for message in [Message::new(data), Message::text(text)] {
            connection.send_blocking(message.clone()).unwrap();
            let answer = connection.recv_blocking().unwrap();
            assert_eq!(answer.is_text, message.is_text);
            assert!(answer.data == message.data, "{size} bytes");
        }
    }
    connection.flush_blocking().unwrap();
    assert_eq!(connection.stats().unacknowledged, 0, "the peer answered a ping");
    connection.close_blocking().unwrap();

    let connection = endpoint.connect_blocking(url).unwrap();
    connection.send_blocking(Message::text("close 4001 as you wish")).unwrap();
    let Err(towline::RecvError::Ended(Ended::ByPeer { code, reason })) = connection.recv_blocking()
    else {
        panic!("{:?}", connection.ended());
    };
    assert_eq!((code, &*reason), (4001, "as you wish"));
}

#[test]
fn a_client_with_the_server_of_python() {
    for deflate in [false, true] {
        let mut command = python_script("websocket_server.py");
        command.args(deflate.then_some("deflate"));
        let (_peer, url) = server(command);
        each_driver(|side| echo_off(&url, side, deflate));
    }
}

#[test]
fn a_client_with_the_server_of_node() {
    for deflate in [false, true] {
        let mut command = node("websocket_server.mjs");
        command.args(deflate.then_some("deflate"));
        let (_peer, url) = server(command);
        each_driver(|side| echo_off(&url, side, deflate));
    }
}

/// An echo server of ours that tells how its connections end.
fn our_server(side: Side, deflate: bool) -> (towline::Context, Listener, Receiver<Ended>) {
    let (tell, told) = channel();
    let mut config = quick().websocket_subprotocols(Vec::<String>::new());
    if deflate {
        config = config.websocket_deflate(DeflateConfig::default());
    }
    let (context, endpoint) = side.endpoint(&config.build().unwrap());
    let listener = endpoint
        .listen_with("ws://127.0.0.1:0/echo", move |_: &Connection| Echo(tell.clone()))
        .unwrap();
    (context, listener, told)
}

struct Echo(std::sync::mpsc::Sender<Ended>);

impl towline::Handler for Echo {
    fn message(&mut self, connection: &Connection, message: Message) {
        let answer = Message::reply_to(&message, message.data.clone());
        connection.try_send(answer).unwrap();
    }

    fn closed(&mut self, _: &Connection, closed: towline::Closed) {
        self.0.send(closed.ended).ok();
    }
}

fn serve(side: Side, deflate: bool, mut client: Command, expected: (u64, &str)) {
    let (_context, listener, told) = our_server(side, deflate);
    client.arg(listener.url().to_string());
    run(client.args(deflate.then_some("deflate")));
    let ended = told.recv_timeout(PATIENCE).unwrap();
    let Ended::ByPeer { code, reason } = &ended else { panic!("{ended}") };
    assert_eq!((*code, &**reason), expected);
}

#[test]
fn a_server_with_the_client_of_python() {
    for deflate in [false, true] {
        each_driver(|side| {
            let client = python_script("websocket_client.py");
            serve(side, deflate, client, (4002, "python is done"));
        });
    }
}

#[test]
fn a_server_with_the_client_of_node() {
    for deflate in [false, true] {
        each_driver(|side| {
            serve(side, deflate, node("websocket_client.mjs"), (4003, "node is done"));
        });
    }
}

#[test]
fn a_server_with_a_page_in_a_browser() {
    let (tell, told) = channel();
    let (report, reported) = channel();
    let config = quick()
        .websocket_subprotocols(["page.1"])
        .websocket_origins(["null", "file://"])
        .build()
        .unwrap();
    let side = Side { driver: towline::DriverChoice::default(), threads: 2 };
    let (_context, endpoint) = side.endpoint(&config);
    let listener = endpoint
        .listen_with("ws://127.0.0.1:0/page", move |_: &Connection| {
            let report = report.clone();
            Page { echo: Echo(tell.clone()), report }
        })
        .unwrap();
    let profile = home().join(format!("profile-{}", std::process::id()));
    let page = scripts().join("websocket_page.html");
    let browser = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}?url={}", page.display(), listener.url()))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("chromium is needed for this test: {error}"));
    let browser = Peer(browser);
    let ended = told.recv_timeout(PATIENCE).expect("the page connects and closes");
    let Ended::ByPeer { code, reason } = &ended else { panic!("{ended}") };
    assert_eq!((*code, &**reason), (4004, "page is done"));
    let report = reported.recv_timeout(PATIENCE).expect("the page sees the close, and tells");
    assert_eq!(report, "report: 4004 page is done, clean true, page.1");
    drop(browser);
    std::fs::remove_dir_all(profile).ok();
}

/// The server of the page: an echo that hears reports.
struct Page {
    echo: Echo,
    report: std::sync::mpsc::Sender<String>,
}

impl towline::Handler for Page {
    fn message(&mut self, connection: &Connection, message: Message) {
        match message.is_text && message.data.starts_with(b"report: ") {
            true => drop(self.report.send(String::from_utf8_lossy(&message.data).into_owned())),
            false => self.echo.message(connection, message),
        }
    }

    fn closed(&mut self, connection: &Connection, closed: towline::Closed) {
        self.echo.closed(connection, closed);
    }
}
