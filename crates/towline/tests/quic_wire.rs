//! Sessions over `quic://`: networks that move and die under them, and peers that are not what they should be.

mod common;

use std::net::UdpSocket;
use std::sync::mpsc;
use std::time::Duration;

use common::router::{Dice, Router};
use towline::{
    Config, ConnectError, Connection, Context, Endpoint, Event, Handler, Lane, ListenError,
    Message, WireError,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn identity(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let params = rcgen::CertificateParams::new(names).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn config() -> Config {
    let (certificate, key) = identity(&["localhost", "127.0.0.1"]);
    Config::builder()
        .certificate_pem(certificate.clone(), key)
        .ca_pem(certificate)
        .keep_alive(Duration::from_millis(200))
        .silence_limit(Duration::from_millis(800))
        .build()
        .unwrap()
}

/// Tells of disconnections, and of each message.
struct Watch(mpsc::Sender<String>);

impl Handler for Watch {
    fn event(&mut self, _: &Connection, event: Event) {
        match event {
            Event::Disconnected(error) => drop(self.0.send(format!("lost: {error}"))),
            Event::Connected(connected) => drop(self.0.send(format!("up {}", connected.resumed))),
            Event::Message(message) => {
                drop(self.0.send(String::from_utf8_lossy(&message.data).into_owned()));
            }
            _ => {}
        }
    }
}

fn wait_for(told: &mpsc::Receiver<String>, what: &str) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        match told.recv_timeout(PATIENCE) {
            Ok(next) if next.starts_with(what) => {
                heard.push(next);
                return heard;
            }
            Ok(next) => heard.push(next),
            Err(_) => panic!("{what:?} did not come after {heard:?}"),
        }
    }
}

#[test]
fn a_session_stays_up_when_its_network_address_changes() {
    let context = Context::builder().threads(2).build().unwrap();
    let endpoint = Endpoint::new(&context, &config());
    let listener = endpoint
        .listen_with("quic://127.0.0.1:0", |_: &Connection| {
            |connection: &Connection, message: Message| {
                connection.try_send(Message::reply_to(&message, message.data.clone())).unwrap();
            }
        })
        .unwrap();
    let router = Router::new(listener.local_address());
    let (tell, told) = mpsc::channel();
    let connection = endpoint.connect_with(format!("quic://{}", router.address()), Watch(tell));
    let connection = futures_executor::block_on(connection).unwrap();
    for round in 0..4 {
        for size in [10, 100_000] {
            let reply = connection.request_blocking(vec![round; size], PATIENCE).unwrap();
            assert_eq!(reply.data.len(), size);
        }
        router.rebind();
    }
    let events: Vec<String> = told.try_iter().collect();
    assert!(!events.iter().any(|event| event.starts_with("lost")), "{events:?}");
    assert_eq!(connection.stats().wires_lost, 0);
}

#[test]
fn a_dead_network_is_noticed_and_the_session_goes_on_without_loss() {
    let context = Context::builder().threads(3).build().unwrap();
    let endpoint = Endpoint::new(&context, &config());
    let (arrive, arrived) = mpsc::channel();
    let listener = endpoint
        .listen_with("quic://127.0.0.1:0", move |_: &Connection| Watch(arrive.clone()))
        .unwrap();
    let router = Router::new(listener.local_address());
    let (tell, told) = mpsc::channel();
    let connecting = endpoint.connect_with(format!("quic://{}", router.address()), Watch(tell));
    let connection = futures_executor::block_on(connecting).unwrap();
    wait_for(&told, "up false");
    let mut next = 0;
    for _ in 0..3 {
        for _ in 0..200 {
            connection.send_blocking(format!("m{next}")).unwrap();
            next += 1;
        }
        router.swallow(true);
        for _ in 0..200 {
            connection.send_blocking(format!("m{next}")).unwrap();
            next += 1;
        }
        wait_for(&told, "lost");
        // A new port: the kernel may give it to another of the server's threads.
        router.rebind();
        router.swallow(false);
        wait_for(&told, "up true");
    }
    connection.flush_blocking().unwrap();
    let mut got = wait_for(&arrived, &format!("m{}", next - 1));
    got.retain(|what| what.starts_with('m'));
    let expected: Vec<String> = (0..next).map(|i| format!("m{i}")).collect();
    assert!(got == expected, "{} of {next} arrived", got.len());
}

/// Sends on every lane, small messages and some longer than a stream's window, while packets are lost and the network dies now and then.
#[test]
fn lanes_keep_their_order_and_lose_nothing_on_a_bad_network() {
    const MESSAGES: usize = 120;
    let seed = 0x1a4e_5eed;
    println!("seed {seed:#x}");
    let context = Context::builder().threads(3).build().unwrap();
    let endpoint = Endpoint::new(&context, &config());
    let (arrive, arrived) = mpsc::channel();
    let listener = endpoint
        .listen_with("quic://127.0.0.1:0", move |_: &Connection| {
            let arrive = arrive.clone();
            move |_: &Connection, message: Message| {
                let first: [u8; 4] = message.data[..4].try_into().unwrap();
                let rest = message.data[4..].iter().all(|byte| *byte == first[3]);
                assert!(rest, "a message was changed");
                arrive.send((message.lane, u32::from_be_bytes(first), message.data.len())).ok();
            }
        })
        .unwrap();
    let dice = Dice::new(seed);
    let router = Router::with(listener.local_address(), move |_, _| !dice.once_in(50));
    let (tell, told) = mpsc::channel();
    let url = format!("quic://{}", router.address());
    let connection = futures_executor::block_on(endpoint.connect_with(url, Watch(tell))).unwrap();
    wait_for(&told, "up false");
    let length = |number: usize| match number % 40 {
        7 => 1_500_000,
        n => 10 + n * 100,
    };
    for number in 0..MESSAGES {
        for lane in Lane::ALL {
            let mut data = vec![number as u8; length(number)];
            data[..4].copy_from_slice(&(number as u32).to_be_bytes());
            connection.send_blocking(Message::new(data).on(lane)).unwrap();
        }
        if number == MESSAGES / 2 {
            router.swallow(true);
            wait_for(&told, "lost");
            router.swallow(false);
            wait_for(&told, "up true");
        }
    }
    connection.flush_blocking().unwrap();
    let mut next = [0; 4];
    for _ in 0..4 * MESSAGES {
        let (lane, number, size) = arrived.recv_timeout(PATIENCE).unwrap();
        assert_eq!(number as usize, next[lane.index()], "{lane:?}");
        assert_eq!(size, length(number as usize));
        next[lane.index()] += 1;
    }
    assert_eq!(next, [MESSAGES; 4]);
    assert!(arrived.try_recv().is_err(), "more came than was sent");
    connection.close_blocking().ok();
}

fn refused(endpoint: &Endpoint, to: &str) -> String {
    let error = endpoint.connect_blocking(to).unwrap_err();
    match &error {
        ConnectError::Wire { error: WireError::Quic(_) | WireError::Resolve { .. }, .. } => {}
        other => panic!("{other:?}"),
    }
    error.to_string()
}

#[test]
fn certificates_names_and_ports_that_do_not_fit_are_named() {
    let context = Context::builder().threads(1).build().unwrap();
    let endpoint = Endpoint::new(&context, &config());
    let listener = endpoint.listen("quic://127.0.0.1:0").unwrap();
    let url = listener.url().to_string();

    let (other, _) = identity(&["127.0.0.1"]);
    let distrusts = Config::builder().ca_pem(other).build().unwrap();
    let said = refused(&Endpoint::new(&context, &distrusts), &url);
    assert!(said.contains("its signature is wrong") && said.contains("sha256:"), "{said}");

    let said = refused(&endpoint, &url.replace("127.0.0.1", "no.such.host.invalid"));
    assert!(said.contains("could not be resolved"), "{said}");

    let taken = endpoint.listen(url.as_str()).unwrap_err();
    assert!(matches!(&taken, ListenError::Io { .. }), "{taken:?}");
    assert!(taken.to_string().contains("in use"), "{taken}");

    let plain = Endpoint::new(&context, &Config::default());
    let error = plain.listen("quic://127.0.0.1:0").unwrap_err();
    assert!(matches!(error, ListenError::NoCertificate { .. }), "{error:?}");

    let (certificate, key) = identity(&["elsewhere.example"]);
    let named =
        Config::builder().certificate_pem(certificate.clone(), key).ca_pem(certificate).build();
    let named = Endpoint::new(&context, &named.unwrap());
    let listener = named.listen("quic://127.0.0.1:0").unwrap();
    let said = refused(&named, &listener.url().to_string());
    assert!(said.contains("not valid for name") || said.contains("NotValidForName"), "{said}");
}

#[test]
fn a_peer_that_does_not_answer_is_given_up_in_time() {
    let (certificate, _) = identity(&["127.0.0.1"]);
    let config = Config::builder()
        .ca_pem(certificate)
        .connect_timeout(Duration::from_millis(700))
        .build()
        .unwrap();
    let context = Context::builder().threads(1).build().unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = format!("quic://{}", silent.local_addr().unwrap());
    let error = Endpoint::new(&context, &config).connect_blocking(to.as_str()).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("no connection within") || said.contains("in time"), "{said}");
}
