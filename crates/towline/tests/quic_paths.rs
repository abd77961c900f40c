//! QUIC over what systems and networks are: without offloads, over IPv6, through routers that change addresses and lose packets.

mod common;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use bytes::Bytes;
use common::PATIENCE;
use common::cert::Cert;
use common::router::{Dice, Router};
use towline::quic::{self, Active, Connection, Handler, block_on};
use towline::{Context, DriverChoice};
use towline_io::{Driver, DriverConfig, Ecn, Event, Without};

fn cert() -> Cert {
    Cert::of(["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()], |_| {})
}

/// Echoes every stream, reading on when its answer has room; tells where its peer is.
struct Echo {
    tell: mpsc::Sender<SocketAddr>,
    waiting: HashMap<quic::StreamId, quic::Chunk>,
}

impl Echo {
    /// `false`: there is no room for now.
    fn answer(&mut self, active: &mut Active<'_>, id: quic::StreamId, chunk: quic::Chunk) -> bool {
        let options = quic::SendOptions { fin: chunk.fin, ..Default::default() };
        match active.send(id, chunk.data.clone(), options) {
            Ok(_) => true,
            Err(quic::StreamError::QueueFull) => {
                self.waiting.insert(id, chunk);
                false
            }
            Err(error) => panic!("{error}"),
        }
    }
}

impl Handler for Echo {
    fn new_stream(&mut self, _: &mut Active<'_>, _: quic::StreamId, _: bool) -> quic::NewStream {
        quic::NewStream::Handle
    }

    fn stream_readable(&mut self, active: &mut Active<'_>, stream: quic::StreamId) {
        while !self.waiting.contains_key(&stream)
            && let Ok(chunk) = active.read(stream, 64 << 10)
        {
            let over = chunk.fin;
            if !self.answer(active, stream, chunk) || over {
                return;
            }
        }
    }

    fn stream_writable(&mut self, active: &mut Active<'_>, stream: quic::StreamId) {
        if let Some(chunk) = self.waiting.remove(&stream) {
            let over = chunk.fin;
            if self.answer(active, stream, chunk) && !over {
                self.stream_readable(active, stream);
            }
        }
    }

    fn peer_address_changed(&mut self, _: &mut Active<'_>, address: SocketAddr) {
        self.tell.send(address).ok();
    }
}

struct Server {
    endpoint: quic::Endpoint,
    listener: quic::Listener,
    moved: mpsc::Receiver<SocketAddr>,
}

fn serve(context: &Context, config: &quic::ServerConfig, on: &str) -> Server {
    let endpoint = quic::Endpoint::new(context);
    let (tell, moved) = mpsc::channel();
    let listener = endpoint.listen_with(config, on, move |_: &Connection| Echo {
        tell: tell.clone(),
        waiting: HashMap::new(),
    });
    Server { endpoint, listener: listener.unwrap(), moved }
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>().into()
}

/// So many bytes there and back, and the same.
fn transfer(connection: &Connection, length: usize) {
    let data = pattern(length);
    block_on(async {
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        let sent = data.clone();
        let sending = std::thread::spawn(move || {
            block_on(async {
                for start in (0..sent.len()).step_by(50_000) {
                    let end = (start + 50_000).min(sent.len());
                    send.write(sent.slice(start..end)).await.unwrap();
                }
                send.finish().unwrap();
            });
        });
        let back = recv.read_to_end(length).await.unwrap();
        assert!(back == data, "{} of {length} bytes came back", back.len());
        sending.join().unwrap();
    });
}

/// One transfer on such a system, and what the listener's thread says of it.
fn on_a_system(driver: DriverChoice, without: Without) -> quic::ThreadStats {
    let context = Context::builder().threads(1).driver(driver).without(without).build().unwrap();
    let cert = cert();
    let server = serve(&context, &cert.server(|_| {}), "127.0.0.1:0");
    let to = server.listener.local_address().to_string();
    let connection = server.endpoint.connect(&cert.client(|_| {}), &to).wait().unwrap();
    transfer(&connection, 1_000_000);
    block_on(server.listener.stats()).remove(0)
}

#[test]
fn what_a_system_lacks_is_done_without_and_shown() {
    for driver in [DriverChoice::Epoll, DriverChoice::Auto] {
        let all = on_a_system(driver, Without::default());
        // Those that this system lacks already are not there either way.
        let gso = on_a_system(driver, Without::GSO);
        assert_eq!(gso.sockets.gso_segments, 1, "{gso:?}");
        assert_eq!(gso.sockets.gro, all.sockets.gro, "{gso:?}");
        let gro = on_a_system(driver, Without::GRO);
        assert!(!gro.sockets.gro, "{gro:?}");
        assert_eq!(gro.sockets.runs_received, gro.sockets.datagrams_received, "{gro:?}");
        assert_eq!(gro.sockets.gso_segments, all.sockets.gso_segments, "{gro:?}");
        let neither = on_a_system(driver, Without::GSO.and(Without::GRO));
        assert!(neither.sockets.gso_segments == 1 && !neither.sockets.gro, "{neither:?}");
        assert!(neither.sockets.bytes_sent > 1_000_000, "{neither:?}");
        if all.sockets.gso_segments > 1 {
            assert!(all.sockets.bytes_sent / all.sockets.trains_sent > 1_500, "{all:?}");
        }
    }
}

#[test]
fn without_io_uring_it_is_epoll() {
    let stats = on_a_system(DriverChoice::Auto, Without::RING);
    assert_eq!(stats.driver, "epoll");
    let stats = on_a_system(DriverChoice::Auto, Without::MULTISHOT);
    assert!(stats.sockets.bytes_received > 1_000_000, "{stats:?}");
}

#[test]
fn ipv6() {
    if UdpSocket::bind("[::1]:0").is_err() {
        // A system without it has nothing to test.
        return;
    }
    let context = Context::builder().threads(2).build().unwrap();
    let cert = cert();
    let server = serve(&context, &cert.server(|_| {}), "[::1]:0");
    let to = server.listener.local_address().to_string();
    assert!(to.starts_with("[::1]:"), "{to}");
    let connection = server.endpoint.connect(&cert.client(|_| {}), &to).wait().unwrap();
    transfer(&connection, 300_000);
    // Both families by one listener.
    let both = serve(&context, &cert.server(|_| {}), "[::]:0");
    let port = both.listener.local_address().port();
    for to in [format!("[::1]:{port}"), format!("127.0.0.1:{port}")] {
        let connection = both.endpoint.connect(&cert.client(|_| {}), &to).wait().unwrap();
        transfer(&connection, 10_000);
    }
}

#[test]
fn chacha20() {
    let context = Context::builder().threads(1).build().unwrap();
    let cert = cert();
    // Nothing else is offered, so that it is what both have.
    let client = cert.client(|c| c.ciphers = vec![quic::Cipher::ChaCha20Poly1305]);
    let server = serve(&context, &cert.server(|_| {}), "127.0.0.1:0");
    let to = server.listener.local_address().to_string();
    let connection = server.endpoint.connect(&client, &to).wait().unwrap();
    transfer(&connection, 300_000);
}

/// The mark of the first datagram that a client sends.
fn first_mark(options: impl FnOnce(&mut quic::Options)) -> Option<Ecn> {
    let mut driver = Driver::new(&DriverConfig::default()).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = socket.local_addr().unwrap().to_string();
    let id = driver.udp(socket.into(), 0).unwrap();
    driver.udp_recv(id).unwrap();
    let context = Context::builder().threads(1).build().unwrap();
    let endpoint = quic::Endpoint::new(&context);
    let dial = endpoint.connect(&cert().client(|c| options(&mut c.options)), &to);
    let mut completions = Vec::new();
    loop {
        driver.wait(Some(Instant::now() + PATIENCE), &mut completions).unwrap();
        assert!(!completions.is_empty(), "nothing came");
        for completion in completions.drain(..) {
            if let Event::Datagrams(came) = completion.event {
                drop(dial);
                return came.ecn;
            }
        }
    }
}

#[test]
fn ecn() {
    // RFC 9000 section 13.4: ECT(0) from the first packet on.
    assert_eq!(first_mark(|_| {}), Some(Ecn::Ect0));
    assert_eq!(first_mark(|options| options.ecn = false), None);
}

#[test]
fn a_transfer_goes_on_when_the_port_changes() {
    rebinding(Ipv4Addr::LOCALHOST);
}

#[test]
fn a_transfer_goes_on_when_the_address_changes() {
    rebinding(Ipv4Addr::new(127, 0, 0, 2));
}

/// The router takes another address between transfers, and in the middle of one.
fn rebinding(address: Ipv4Addr) {
    let context = Context::builder().threads(2).build().unwrap();
    let cert = cert();
    let server = serve(&context, &cert.server(|_| {}), "0.0.0.0:0");
    let port = server.listener.local_address().port();
    let router = Router::new(([127, 0, 0, 1], port).into());
    let to = router.address().to_string();
    let connection = server.endpoint.connect(&cert.client(|_| {}), &to).wait().unwrap();
    transfer(&connection, 100_000);
    router.rebind_to(address.into());
    let busy = connection.clone();
    let transferring = std::thread::spawn(move || transfer(&busy, 2_000_000));
    let moved = server.moved.recv_timeout(PATIENCE).unwrap();
    assert_eq!(moved.ip(), address);
    transferring.join().unwrap();
    assert!(connection.ended().is_none());
}

#[test]
fn a_transfer_survives_loss_and_corruption() {
    let seed = 0x5eed_0004;
    println!("seed {seed:#x}");
    let context = Context::builder().threads(2).build().unwrap();
    let cert = cert();
    let server = serve(&context, &cert.server(|_| {}), "127.0.0.1:0");
    let dice = Arc::new(Dice::new(seed));
    let router = Router::with(server.listener.local_address(), move |_, datagram| {
        if dice.once_in(60) {
            // Authentication finds it.
            let middle = datagram.len() / 2;
            datagram[middle] ^= 0x10;
        }
        !dice.once_in(40)
    });
    let to = router.address().to_string();
    for _ in 0..3 {
        let connection = server.endpoint.connect(&cert.client(|_| {}), &to).wait().unwrap();
        transfer(&connection, 400_000);
        let stats = block_on(connection.stats()).unwrap();
        assert!(stats.packets_lost > 0, "{stats:?}");
        connection.close(0, "");
    }
}
