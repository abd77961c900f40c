//! QUIC itself over real sockets.

mod common;

use std::net::SocketAddr;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::cert::Cert;
use towline::quic::{self, block_on};
use towline::{Context, DriverChoice};

fn context(threads: usize, driver: DriverChoice) -> Context {
    Context::builder().threads(threads).driver(driver).build().unwrap()
}

fn url(listener: &quic::Listener) -> String {
    format!("localhost:{}", listener.local_address().port())
}

/// Both ends of a connection.
fn pair(context: &Context, cert: &Cert) -> (quic::Connection, quic::Connection, quic::Listener) {
    let endpoint = quic::Endpoint::new(context);
    let listener =
        endpoint.listen(&cert.server(|s| s.options.datagram_receive = true), "127.0.0.1:0");
    let listener = listener.unwrap();
    let client = cert.client(|s| s.options.datagram_receive = true);
    let near = endpoint.connect(&client, &url(&listener)).wait().unwrap();
    let far = listener.accept_blocking().unwrap();
    (near, far, listener)
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>().into()
}

#[test]
fn streams_carry_bytes_both_ways_on_both_drivers() {
    for driver in [DriverChoice::Epoll, DriverChoice::Auto] {
        let context = context(2, driver);
        let (near, far, listener) = pair(&context, &Cert::new());
        assert_eq!(near.connected().unwrap().alpn, Some("test".into()));
        let data = pattern(3_000_000);
        let sent = data.clone();
        let server = std::thread::spawn(move || {
            block_on(async {
                let (mut send, mut recv) = far.accept_bi().await.unwrap();
                while let Some(chunk) = recv.read().await.unwrap() {
                    send.write(chunk).await.unwrap();
                }
                send.finish().unwrap();
                send.acknowledged().await.unwrap();
                far
            })
        });
        block_on(async {
            let (mut send, mut recv) = near.open_bi().await.unwrap();
            let sending = std::thread::spawn(move || {
                block_on(async {
                    for start in (0..sent.len()).step_by(100_000) {
                        let end = (start + 100_000).min(sent.len());
                        send.write(sent.slice(start..end)).await.unwrap();
                    }
                    send.finish().unwrap();
                    send.acknowledged().await.unwrap();
                });
            });
            let back = recv.read_to_end(data.len()).await.unwrap();
            assert!(back == data, "{} bytes came back", back.len());
            sending.join().unwrap();
        });
        let far = server.join().unwrap();
        let stats = block_on(listener.stats());
        assert_eq!(stats.len(), 2);
        let bytes: u64 = stats.iter().map(|s| s.sockets.bytes_received).sum();
        assert!(bytes > 3_000_000, "{stats:?}");
        near.close(7, "enough");
        let ended = block_on(far.closed());
        assert!(
            matches!(&ended, quic::Ended::ByPeer { code: 7, reason } if &**reason == "enough"),
            "{ended:?}"
        );
        assert!(matches!(block_on(near.closed()), quic::Ended::Closed));
    }
}

#[test]
fn resets_stops_and_dropped_halves_reach_the_peer() {
    let context = context(1, DriverChoice::Auto);
    let (near, far, _listener) = pair(&context, &Cert::new());
    block_on(async {
        let mut send = near.open_uni().await.unwrap();
        send.write("begun").await.unwrap();
        let mut recv = far.accept_uni().await.unwrap();
        assert_eq!(recv.read().await.unwrap().unwrap(), "begun");
        send.reset(42);
        assert!(matches!(recv.read().await, Err(quic::IoError::Reset(42))));

        let mut send = near.open_uni().await.unwrap();
        send.write("x").await.unwrap();
        let mut recv = far.accept_uni().await.unwrap();
        recv.stop(43);
        assert!(matches!(send.acknowledged().await, Err(quic::IoError::Stopped(43))));
        assert!(matches!(send.write("y").await, Err(quic::IoError::Stopped(43))));

        let mut send = near.open_uni().await.unwrap();
        send.write("half").await.unwrap();
        let mut recv = far.accept_uni().await.unwrap();
        assert_eq!(recv.read().await.unwrap().unwrap(), "half");
        drop(send);
        assert!(matches!(recv.read().await, Err(quic::IoError::Reset(0))));
        let mut long = near.open_uni().await.unwrap();
        long.write_last(pattern(2000)).await.unwrap();
        let mut recv = far.accept_uni().await.unwrap();
        assert!(matches!(recv.read_to_end(1999).await, Err(quic::IoError::TooLong(1999))));
    });
}

#[test]
fn a_slow_reader_holds_the_peer_back_and_loses_nothing() {
    let context = context(1, DriverChoice::Auto);
    let (near, far, _listener) = pair(&context, &Cert::new());
    let data = pattern(8 << 20);
    let sent = data.clone();
    let (tell, told) = mpsc::channel();
    // Its last handle closes the connection when the other end's system has everything, which its reader has not.
    let writer = std::thread::spawn(move || {
        block_on(async {
            let mut send = near.open_uni().await.unwrap();
            for chunk in sent.chunks(64 << 10) {
                send.write(Bytes::copy_from_slice(chunk)).await.unwrap();
                tell.send(chunk.len()).unwrap();
            }
            send.finish().unwrap();
            send.acknowledged().await.unwrap();
        });
    });
    let mut recv = block_on(far.accept_uni()).unwrap();
    // The writer stops when all buffers are full: far from the end.
    let mut taken = 0;
    while let Ok(length) = told.recv_timeout(Duration::from_millis(300)) {
        taken += length;
    }
    assert!(taken < data.len(), "nothing held the writer back");
    assert!(block_on(recv.read_to_end(data.len())).unwrap() == data);
    writer.join().unwrap();
}

#[test]
fn datagrams_go_both_ways() {
    let context = context(1, DriverChoice::Auto);
    let (near, far, _listener) = pair(&context, &Cert::new());
    block_on(async {
        near.send_datagram("ping".into()).await.unwrap();
        assert_eq!(far.read_datagram().await.unwrap(), "ping");
        far.send_datagram("pong".into()).await.unwrap();
        assert_eq!(near.read_datagram().await.unwrap(), "pong");
        let long = near.send_datagram(pattern(70_000)).await;
        assert!(
            matches!(
                long,
                Err(quic::DatagramIoError::Refused(quic::DatagramError::TooLarge { .. }))
            ),
            "{long:?}"
        );
    });
}

#[test]
fn many_streams_at_once_beyond_the_peers_limit() {
    let context = context(2, DriverChoice::Auto);
    let (near, far, _listener) = pair(&context, &Cert::new());
    std::thread::spawn(move || {
        block_on(async {
            while let Ok((mut send, mut recv)) = far.accept_bi().await {
                let all = recv.read_to_end(1 << 16).await.unwrap();
                send.write_last(all).await.unwrap();
            }
        });
    });
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let near = near.clone();
            std::thread::spawn(move || {
                block_on(async {
                    for i in 0..100u32 {
                        let (mut send, mut recv) = near.open_bi().await.unwrap();
                        let text = format!("{task} {i}");
                        send.write_last(text.clone()).await.unwrap();
                        assert_eq!(recv.read_to_end(100).await.unwrap(), text.as_bytes());
                    }
                });
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| task.join().unwrap());
}

/// Writes down what it hears.
#[derive(Clone, Default)]
struct Witness {
    heard: Arc<Mutex<Vec<String>>>,
    ticket: Arc<Mutex<Option<quic::Ticket>>>,
    wakes: Option<mpsc::Sender<String>>,
}

impl Witness {
    fn new() -> (Witness, mpsc::Receiver<String>) {
        let (tell, told) = mpsc::channel();
        (Witness { wakes: Some(tell), ..Witness::default() }, told)
    }

    fn note(&self, what: impl Into<String>) {
        let what = what.into();
        self.heard.lock().unwrap().push(what.clone());
        if let Some(wakes) = &self.wakes {
            wakes.send(what).ok();
        }
    }
}

fn wait_for(told: &mpsc::Receiver<String>, what: &str) {
    let mut before = Vec::new();
    loop {
        match told.recv_timeout(Duration::from_secs(30)) {
            Ok(heard) if heard == what => return,
            Ok(heard) => before.push(heard),
            Err(_) => panic!("{what:?} did not come, but {before:?}"),
        }
    }
}

impl quic::Handler for Witness {
    fn connected(&mut self, active: &mut quic::Active<'_>, connected: &quic::Connected) {
        self.note(format!("connected resumed={} {:?}", connected.is_resumed, connected.early_data));
        if active.side() == quic::Side::Client {
            let opened = active.open(quic::Direction::Bidirectional, quic::OpenFlags::default());
            let Ok(quic::Opened::Stream(stream)) = opened else { panic!("{opened:?}") };
            let options = quic::SendOptions { fin: true, ..Default::default() };
            active.send(stream, "question".into(), options).unwrap();
        }
    }

    fn handshake_confirmed(&mut self, _: &mut quic::Active<'_>) {
        self.note("confirmed");
    }

    fn resumed(&mut self, _: &mut quic::Active<'_>, data: &Bytes) -> bool {
        self.note(format!("resumed {}", String::from_utf8_lossy(data)));
        true
    }

    fn nst_received(&mut self, _: &mut quic::Active<'_>, ticket: quic::Ticket) {
        *self.ticket.lock().unwrap() = Some(ticket);
        self.note("ticket");
    }

    fn new_stream(
        &mut self,
        _: &mut quic::Active<'_>,
        _: quic::StreamId,
        early: bool,
    ) -> quic::NewStream {
        self.note(format!("stream early={early}"));
        quic::NewStream::Handle
    }

    fn stream_readable(&mut self, active: &mut quic::Active<'_>, stream: quic::StreamId) {
        while let Ok(chunk) = active.read(stream, 1000) {
            self.note(format!("read {} fin={}", String::from_utf8_lossy(&chunk.data), chunk.fin));
            if active.side() == quic::Side::Server && chunk.fin {
                let options = quic::SendOptions { fin: true, ..Default::default() };
                active.send(stream, "answer".into(), options).unwrap();
            }
            if chunk.fin {
                break;
            }
        }
    }

    fn stream_closed(&mut self, _: &mut quic::Active<'_>, _: quic::StreamId) {
        self.note("stream closed");
    }

    fn local_address_changed(&mut self, _: &mut quic::Active<'_>, local: SocketAddr) {
        self.note(format!("moved to {}", local.ip()));
    }

    fn peer_address_changed(&mut self, _: &mut quic::Active<'_>, peer: SocketAddr) {
        self.note(format!("peer moved to {}", peer.ip()));
    }

    fn shutdown(&mut self, _: &mut quic::Active<'_>, code: u64, _: &Bytes) {
        self.note(format!("shutdown {code}"));
    }

    fn closed(&mut self, _: &quic::Connection, closed: &quic::Closed) {
        self.note(format!("closed: {}", closed.ended));
    }
}

#[test]
fn a_handler_hears_every_event_in_order_and_closed_last() {
    let context = context(1, DriverChoice::Auto);
    let cert = Cert::new();
    let endpoint = quic::Endpoint::new(&context);
    let (server, heard_by_server) = Witness::new();
    let made = server.clone();
    let listener =
        endpoint.listen_with(&cert.server(|_| {}), "127.0.0.1:0", move |_: &quic::Connection| {
            made.clone()
        });
    let listener = listener.unwrap();
    let (client, heard) = Witness::new();
    let dial = endpoint.connect_with(
        &cert.client(|_| {}),
        &url(&listener),
        quic::ConnectParams::default(),
        client.clone(),
    );
    let connection = dial.wait().unwrap();
    wait_for(&heard, "stream closed");
    connection.close(9, "");
    wait_for(&heard, "closed: closed by this side");
    wait_for(&heard_by_server, "closed: the peer closed the connection with code 9");
    let near = client.heard.lock().unwrap().clone();
    assert_eq!(near.first().unwrap(), "connected resumed=false None");
    assert!(near.contains(&"read answer fin=true".to_owned()), "{near:?}");
    let far = server.heard.lock().unwrap().clone();
    let expected = [
        "connected resumed=false None",
        "stream early=false",
        "read question fin=true",
        "stream closed",
        "shutdown 9",
        "closed: the peer closed the connection with code 9",
    ];
    let without: Vec<&String> = far.iter().filter(|what| *what != "confirmed").collect();
    assert_eq!(without, expected.iter().collect::<Vec<_>>());
}

#[test]
fn a_connection_migrates_and_both_sides_hear_of_it() {
    let context = context(2, DriverChoice::Auto);
    let cert = Cert::new();
    let endpoint = quic::Endpoint::new(&context);
    let (server, heard_by_server) = Witness::new();
    let listener = endpoint
        .listen_with(&cert.server(|_| {}), "0.0.0.0:0", move |_: &quic::Connection| server.clone())
        .unwrap();
    let (client, heard) = Witness::new();
    let params = quic::ConnectParams::default();
    let to = format!("127.0.0.1:{}", listener.local_address().port());
    let client_config = cert.client(|_| {});
    let dial =
        endpoint.connect_named(&client_config, &to, "localhost", params, Some(Box::new(client)));
    let connection = dial.wait().unwrap();
    wait_for(&heard, "confirmed");
    // Both addresses are this machine's.
    let moved = block_on(connection.migrate("127.0.0.2:0".parse().unwrap())).unwrap();
    assert_eq!(moved.ip().to_string(), "127.0.0.2");
    wait_for(&heard, "moved to 127.0.0.2");
    wait_for(&heard_by_server, "peer moved to 127.0.0.2");
    // From another port the kernel may pick another thread's socket: streams still work.
    for _ in 0..8 {
        block_on(connection.migrate("127.0.0.1:0".parse().unwrap())).unwrap();
        let (mut send, mut recv) = block_on(connection.open_bi()).unwrap();
        block_on(send.write_last("still there")).unwrap();
        assert_eq!(block_on(recv.read_to_end(100)).unwrap(), b"answer");
    }
    let refused = block_on(connection.migrate("192.0.2.1:0".parse().unwrap()));
    assert!(matches!(refused, Err(quic::MigrateFailed::Socket { .. })), "{refused:?}");
    let stats = block_on(listener.stats());
    let handed: u64 = stats.iter().map(|stats| stats.sockets.handed_over).sum();
    assert!(handed > 0, "nine sockets, and the kernel gave all to one thread of two: {stats:?}");
}

#[test]
fn a_session_is_resumed_with_its_data_and_early_streams() {
    let context = context(1, DriverChoice::Auto);
    let cert = Cert::new();
    let endpoint = quic::Endpoint::new(&context);
    struct Gate(Witness);
    impl quic::Acceptor for Gate {
        fn new_conn(&self, incoming: &quic::Incoming) -> quic::Decision {
            let name = incoming.server_name.clone();
            self.0.note(format!("asked for {name:?} by {:?}", incoming.client_alpns));
            let ticket_data = Some("remember me".into());
            quic::Decision::AcceptWith(quic::Acceptance { ticket_data, ..Default::default() })
        }

        fn handler(&self, _: &quic::Connection) -> Box<dyn quic::Handler> {
            Box::new(self.0.clone())
        }
    }
    let (server, heard_by_server) = Witness::new();
    let config =
        cert.server(|s| s.options.server_resumption_level = quic::Resumption::ResumeAndEarlyData);
    let listener = endpoint.listen_with(&config, "127.0.0.1:0", Gate(server)).unwrap();
    let client_config = cert.client(|s| s.options.nst_events = true);
    let tickets = Arc::new(Mutex::new(None));
    for round in 0..2 {
        let (mut client, heard) = Witness::new();
        client.ticket = Arc::clone(&tickets);
        let nst = tickets.lock().unwrap().take();
        let params = quic::ConnectParams { nst, ..Default::default() };
        let (to, handler) = (listener.local_address().to_string(), Some(Box::new(client) as _));
        let dial = endpoint.connect_named(&client_config, &to, "localhost", params, handler);
        let early = dial.connection().clone();
        if round == 1 {
            early
                .run(|active| {
                    assert!(active.early_data_available());
                    let opened =
                        active.open(quic::Direction::Bidirectional, quic::OpenFlags::default());
                    let Ok(quic::Opened::Stream(stream)) = opened else { panic!("{opened:?}") };
                    let options =
                        quic::SendOptions { fin: true, allow_early: true, ..Default::default() };
                    active.send(stream, "early".into(), options).unwrap();
                })
                .unwrap();
        }
        let connection = dial.wait().unwrap();
        if round == 0 {
            wait_for(&heard, "ticket");
        }
        connection.close(0, "");
        wait_for(&heard, "closed: closed by this side");
    }
    wait_for(&heard_by_server, "asked for Some(\"localhost\") by [b\"test\"]");
    wait_for(&heard_by_server, "resumed remember me");
    wait_for(&heard_by_server, "connected resumed=true Accepted");
}

#[test]
fn a_panicking_handler_ends_its_own_connection_only() {
    struct Panics;
    impl quic::Handler for Panics {
        fn connected(&mut self, _: &mut quic::Active<'_>, _: &quic::Connected) {
            panic!("on purpose");
        }
    }
    let context = context(1, DriverChoice::Auto);
    let cert = Cert::new();
    let (near, far, listener) = pair(&context, &cert);
    let endpoint = quic::Endpoint::new(&context);
    let params = quic::ConnectParams::default();
    let dial = endpoint.connect_with(&cert.client(|_| {}), &url(&listener), params, Panics);
    let ended = match dial.wait() {
        Ok(connection) => block_on(connection.closed()),
        Err(quic::ConnectError::Failed { ended, .. }) => ended,
        Err(error) => panic!("{error}"),
    };
    assert!(matches!(ended, quic::Ended::Panicked), "{ended:?}");
    block_on(async {
        near.send_datagram("alive".into()).await.unwrap();
        assert_eq!(far.read_datagram().await.unwrap(), "alive");
    });
}

#[test]
fn dropping_the_last_handle_closes_and_dropping_the_context_ends_everything() {
    let context = context(2, DriverChoice::Auto);
    let cert = Cert::new();
    let (near, far, listener) = pair(&context, &cert);
    drop(near);
    let ended = block_on(far.closed());
    assert!(matches!(ended, quic::Ended::ByPeer { code: 0, .. }), "{ended:?}");
    let (near, far, _listener) = pair(&context, &cert);
    drop(context);
    assert!(block_on(near.open_uni()).is_err());
    assert!(far.ended().is_some() && near.ended().is_some());
    assert!(listener.accept_blocking().is_err());
}
