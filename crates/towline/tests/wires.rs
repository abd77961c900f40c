//! Every wire, over real sockets and both drivers.

#![allow(
    clippy::print_stdout,
    clippy::field_reassign_with_default,
    reason = "tests print what repeats them"
)]

use std::time::Duration;

use towline::{Config, Connection, Context, DriverChoice, Endpoint, Message};

const PATIENCE: Duration = Duration::from_secs(20);

fn echo(connection: &Connection, message: Message) {
    let reply = Message::reply_to(&message, message.data.clone());
    connection.try_send(reply).unwrap();
}

fn identity() -> (String, String) {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "towline test");
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn each_wire_echoes_each_size_it_can_carry() {
    let (certificate, key) = identity();
    let config = Config::builder()
        .certificate_pem(certificate.clone(), key)
        .ca_pem(certificate)
        .build()
        .unwrap();
    for driver in [DriverChoice::Epoll, DriverChoice::IoUring] {
        let context = Context::builder().threads(2).driver(driver).build().unwrap();
        let endpoint = Endpoint::new(&context, &config);
        for scheme in ["tcp", "tls", "ftcp", "ftcps", "quic"] {
            let url = format!("{scheme}://127.0.0.1:0");
            let listener = endpoint.listen_with(url, |_: &Connection| echo).unwrap();
            let connection = endpoint.connect_blocking(listener.url()).unwrap();
            let largest = connection.capabilities().max_message;
            for size in [0, 1, 64, 4096, 16_384, 65_519, 1 << 20, 16 << 20] {
                if size > largest {
                    let error = connection.send_blocking(vec![0; size]).unwrap_err().to_string();
                    assert!(error.contains("limit"), "{error}");
                    continue;
                }
                let data: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
                let reply = connection.request_blocking(data.clone(), PATIENCE).unwrap();
                assert!(reply.data == data, "{size} bytes over {scheme} and {driver:?}");
                assert_eq!(reply.tls.is_some(), connection.capabilities().encrypted);
            }
            connection.flush_blocking().unwrap();
            connection.close_blocking().unwrap();
        }
    }
}

/// Closing waits for what TCP acknowledges, and for nothing after it.
#[test]
fn an_ordered_close_ends_when_everything_is_acknowledged() {
    let (certificate, key) = identity();
    let config = Config::builder()
        .certificate_pem(certificate.clone(), key)
        .ca_pem(certificate)
        .close_timeout(Duration::from_secs(120))
        .build()
        .unwrap();
    for driver in [DriverChoice::Epoll, DriverChoice::IoUring] {
        let context = Context::builder().threads(2).driver(driver).build().unwrap();
        let endpoint = Endpoint::new(&context, &config);
        for scheme in ["tcp", "tls", "ftcp", "ftcps"] {
            let listener = endpoint.listen(format!("{scheme}://127.0.0.1:0")).unwrap();
            for size in [1, 60_000] {
                let connection = endpoint.connect_blocking(listener.url()).unwrap();
                let accepted = listener.accept_blocking().unwrap();
                connection.send_blocking(vec![7; size]).unwrap();
                let begin = std::time::Instant::now();
                connection.close_blocking().unwrap();
                let took = begin.elapsed();
                assert!(took < PATIENCE, "{took:?} over {scheme} and {driver:?}");
                assert_eq!(accepted.recv_blocking().unwrap().data.len(), size);
                accepted.abort();
            }
        }
    }
}

/// The counters speak of ftcp too.
#[test]
fn ftcp_counts_what_it_sent() {
    let context = Context::builder().threads(1).build().unwrap();
    let endpoint = Endpoint::new(&context, &Config::default());
    let listener = endpoint.listen_with("ftcp://127.0.0.1:0", |_: &Connection| echo).unwrap();
    let connection = endpoint.connect_blocking(listener.url()).unwrap();
    for _ in 0..3 {
        connection.request_blocking("x", PATIENCE).unwrap();
    }
    connection.flush_blocking().unwrap();
    let stats = connection.stats();
    assert_eq!((stats.messages_sent, stats.messages_received, stats.bytes_resent), (3, 3, 0));
}
