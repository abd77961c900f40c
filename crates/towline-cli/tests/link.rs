//! `towline link`.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{PATIENCE, Running, Signal, run};
use serde_json::Value;
use towline_sim::{Ecn, LinkConfig, Loss, Network};

struct Link {
    running: Running,
    address: SocketAddr,
}

impl Link {
    fn start(kind: &str, target: SocketAddr, options: &[&str]) -> Link {
        let (flag, proxy) = (format!("--{kind}"), format!("127.0.0.1:0={target}"));
        let arguments = [&["link", &flag, &proxy, "--announce", "--json", "-q"], options].concat();
        let mut running = Running::start(&arguments);
        let line = running.out.wait_for("listening ");
        let address = line.strip_prefix(&format!("listening {kind}://")).unwrap();
        Link { running, address: address.parse().unwrap() }
    }

    /// Its statistics.
    fn finish(mut self) -> Value {
        self.running.signal(Signal::TERM);
        let finished = self.running.finish().expect(0);
        serde_json::from_str(finished.stdout.lines().last().unwrap()).unwrap()
    }
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Which of so many datagrams the simulator's link delivers, in which order.
fn predicted(seed: u64, link: &LinkConfig, datagrams: u32) -> Vec<u32> {
    let mut network = Network::new(seed, Instant::now());
    let [near, far] = [("near", "10.0.0.1"), ("far", "10.0.0.2")]
        .map(|(name, address)| network.add_host(name, address.parse().unwrap()).unwrap());
    network.connect(near, far, link).unwrap();
    let from = network.bind(near, "10.0.0.1:1024".parse().unwrap()).unwrap();
    let to = "10.0.0.2:1024".parse().unwrap();
    network.bind(far, to).unwrap();
    for number in 0..datagrams {
        let data = Bytes::copy_from_slice(&number.to_be_bytes());
        network.send(from, to, Ecn::NotCapable, data).unwrap();
    }
    while network.step().is_some() {}
    std::iter::from_fn(|| network.poll_delivery())
        .map(|delivery| u32::from_be_bytes(delivery.data[..].try_into().unwrap()))
        .collect()
}

#[test]
fn it_loses_and_doubles_exactly_what_the_simulator_does() {
    let cases: [(&[&str], LinkConfig); 2] = [
        (&["--loss", "20%"], LinkConfig::new().loss(Loss::Independent(0.2))),
        (
            &["--loss", "10%", "--burst", "5", "--duplicate", "5%"],
            LinkConfig::new().loss(Loss::Burst { mean: 0.1, burst: 5.0 }).duplicate(0.05),
        ),
    ];
    for (options, model) in cases {
        for seed in [1, 42] {
            let target = udp();
            let text = seed.to_string();
            let options = [options, &["--seed", &text]].concat();
            let link = Link::start("udp", target.local_addr().unwrap(), &options);
            let client = udp();
            let expected = predicted(seed, &model, 2000);
            assert!((1500..1950).contains(&expected.len()), "{}", expected.len());
            let mut expected = expected.into_iter().peekable();
            let mut buffer = [0; 64];
            // One at a time: the sockets around the link must not lose any.
            for number in 0..2000u32 {
                client.send_to(&number.to_be_bytes(), link.address).unwrap();
                while expected.next_if_eq(&number).is_some() {
                    let (length, _) = target.recv_from(&mut buffer).unwrap();
                    assert_eq!(buffer[..length], number.to_be_bytes(), "seed {seed}");
                }
            }
            let stats = link.finish();
            assert_eq!(stats["seed"], seed);
        }
    }
}

#[test]
fn it_keeps_delay_rate_and_queue() {
    let target = udp();
    // 1,000 bytes are 1,042 on the wire: 10.42 ms at 0.8 Mbit/s. Twenty wait, the one on the line included.
    let options = ["--rate", "800k", "--queue", "20p", "--delay", "60ms", "--down", "delay=90ms"];
    let link = Link::start("udp", target.local_addr().unwrap(), &options);
    let client = udp();
    let begin = Instant::now();
    for number in 0..40u8 {
        client.send_to(&[number; 1000], link.address).unwrap();
    }
    let mut buffer = [0; 2000];
    let mut seen = Vec::new();
    for number in 0..20u8 {
        let (length, from) = target.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], [number; 1000]);
        seen.push((begin.elapsed(), from));
    }
    // Nothing is early. How late it may be is the machine's affair.
    for (number, (at, _)) in seen.iter().enumerate() {
        let due = Duration::from_millis(60) + Duration::from_micros(10_420) * (number as u32 + 1);
        assert!(*at >= due, "{number}: {at:?} before {due:?}");
    }
    let begin = Instant::now();
    target.send_to(b"back", seen[0].1).unwrap();
    let (length, _) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"back");
    assert!(begin.elapsed() >= Duration::from_millis(90));
    let stats = link.finish();
    assert_eq!(
        (&stats["up"]["dropped_queue"], &stats["down"]["delivered_packets"]),
        (&20.into(), &1.into())
    );
}

#[test]
fn clients_are_told_apart_and_a_rebinding_changes_their_port() {
    let target = udp();
    let link = Link::start("udp", target.local_addr().unwrap(), &["--rebind", "200ms"]);
    let clients = [udp(), udp()];
    let mut buffer = [0; 64];
    // What is under way at the moment of the rebinding is lost, as it would be behind a NAT: ask again.
    target.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut ask = |client: &UdpSocket, word: &[u8]| {
        let until = Instant::now() + PATIENCE;
        loop {
            client.send_to(word, link.address).unwrap();
            if let Ok((length, from)) = target.recv_from(&mut buffer) {
                assert_eq!(&buffer[..length], word);
                return from;
            }
            assert!(Instant::now() < until, "nothing arrives");
        }
    };
    let (first, second) = (ask(&clients[0], b"one"), ask(&clients[1], b"two"));
    assert_ne!(first, second);
    let until = Instant::now() + PATIENCE;
    while ask(&clients[0], b"again") == first {
        assert!(Instant::now() < until, "no rebinding");
    }
    assert_eq!(link.finish()["udp"]["flows"], 2);
}

/// Sends back what comes, for one connection.
fn echo() -> (SocketAddr, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut copy = stream.try_clone().unwrap();
        std::io::copy(&mut stream, &mut copy).ok();
        copy.shutdown(std::net::Shutdown::Write).ok();
    });
    (address, thread)
}

#[test]
fn connections_carry_everything_over_a_bad_link() {
    for options in [
        &["--delay", "5ms"][..],
        &["--delay", "5ms", "--loss", "5%", "--seed", "3", "--duplicate", "2%", "--corrupt", "1%"],
        &["--rate", "50M", "--delay", "2ms", "--outage", "100ms+300ms", "--reorder", "1%"],
    ] {
        let (target, thread) = echo();
        let link = Link::start("tcp", target, options);
        let mut client = TcpStream::connect(link.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let data: Vec<u8> = (0..1_000_000u32).map(|i| (i ^ (i >> 9)) as u8).collect();
        let mut writer = client.try_clone().unwrap();
        let sent = data.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert!(back == data, "{options:?}: {} bytes", back.len());
        writing.join().unwrap();
        thread.join().unwrap();
        let stats = link.finish();
        assert_eq!(stats["tcp"]["connections"], 1);
        if options.contains(&"--loss") {
            assert!(stats["tcp"]["retransmits"].as_u64().unwrap() > 20, "{stats:#}");
        }
    }
}

#[test]
fn connections_are_cut_and_refused_as_real_ones() {
    let (target, thread) = echo();
    let link = Link::start("tcp", target, &["--cut", "500ms", "--delay", "1ms"]);
    let mut client = TcpStream::connect(link.address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let end = client.read(&mut [0; 10]);
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    thread.join().unwrap();
    assert_eq!(link.finish()["tcp"]["cut"], 1);

    // A port that was just given back.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let link = Link::start("tcp", nobody, &[]);
    let mut client = TcpStream::connect(link.address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(client.read(&mut [0; 10]).is_err());
}

#[test]
fn it_ends_after_its_time_and_prints_a_table() {
    let arguments = ["link", "--udp", "127.0.0.1:0=127.0.0.1:9", "-t", "50ms", "--seed", "5"];
    let shown = run(&arguments).expect(0);
    assert!(shown.stdout.starts_with("direction"), "{shown:?}");
    assert!(shown.stdout.contains("--seed 5 repeats it"), "{shown:?}");
}

#[test]
fn wrong_use_is_told() {
    run(&["link"]).expect(2).says(&["--udp LISTEN=TARGET"]);
    let taken = udp();
    let proxy = format!("{}=127.0.0.1:9", taken.local_addr().unwrap());
    run(&["link", "--udp", &proxy]).expect(1).says(&["cannot listen on"]);
}
