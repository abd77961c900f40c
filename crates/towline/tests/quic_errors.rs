//! What goes wrong with QUIC peers, and what both ends are told.

mod common;

use std::net::UdpSocket;
use std::sync::mpsc;
use std::time::Duration;

use common::PATIENCE;
use common::cert::Cert;
use common::router::{Router, Way};
use towline::Context;
use towline::quic::{
    self, CloseReason, ConfigError, ConnectError, Connection, Ended, Handler, ListenError,
};

fn context() -> Context {
    Context::builder().threads(1).build().unwrap()
}

/// Tells how its connection ended.
struct Last(mpsc::Sender<quic::Closed>);

impl Handler for Last {
    fn closed(&mut self, _: &Connection, closed: &quic::Closed) {
        self.0.send(closed.clone()).ok();
    }
}

/// A dial that fails: what the client is told, and the server if there came to be a connection for it.
fn fails(server: &quic::ServerConfig, client: &quic::ClientConfig) -> (Ended, Option<Ended>) {
    let context = context();
    let endpoint = quic::Endpoint::new(&context);
    let (tell, told) = mpsc::channel();
    let listener =
        endpoint.listen_with(server, "127.0.0.1:0", move |_: &Connection| Last(tell.clone()));
    let to = format!("localhost:{}", listener.as_ref().unwrap().local_address().port());
    let error = endpoint.connect(client, &to).wait().unwrap_err();
    let ConnectError::Failed { ended, remote } = error else { panic!("{error:?}") };
    assert_eq!(remote, listener.unwrap().local_address());
    (ended, told.recv_timeout(PATIENCE).ok().map(|closed| closed.ended))
}

/// The alert of TLS with which the client refused, and that the server heard of; and the client's words.
fn refused_with(server: &quic::ServerConfig, client: &quic::ClientConfig) -> (u8, String) {
    let (near, far) = fails(server, client);
    let Ended::Transport(reason) = &near else { panic!("{near:?}") };
    let CloseReason::CertificateRejected { alert, .. } = &**reason else { panic!("{reason:?}") };
    let Some(Ended::Transport(heard)) = &far else { panic!("{far:?}") };
    // CRYPTO_ERROR, RFC 9001 section 4.8.
    assert!(
        matches!(&**heard, CloseReason::PeerTransportError { code, .. } if *code == 0x100 + u64::from(*alert)),
        "{heard:?}"
    );
    (*alert, near.to_string())
}

#[test]
fn an_expired_certificate_says_so() {
    let cert = Cert::of(["localhost".to_owned()], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let (alert, said) = refused_with(&cert.server(|_| {}), &cert.client(|_| {}));
    assert_eq!(alert, 45);
    assert!(said.contains("expired") && said.contains("renew it"), "{said}");
}

#[test]
fn a_self_signed_certificate_that_nobody_trusts_says_so() {
    // Of another name, or it would be the trusted issuer's with a wrong signature.
    let other = Cert::of(["other".to_owned()], |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "other");
    });
    let theirs = Cert::new();
    let (alert, said) = refused_with(&theirs.server(|_| {}), &other.client(|_| {}));
    assert_eq!(alert, 48);
    assert!(said.contains("give its CA, or pin the certificate"), "{said}");
}

#[test]
fn a_certificate_for_another_name_says_so() {
    let cert = Cert::of(["elsewhere.example".to_owned()], |_| {});
    let (_, said) = refused_with(&cert.server(|_| {}), &cert.client(|_| {}));
    assert!(said.contains("localhost"), "{said}");
}

#[test]
fn no_protocol_in_common_says_so() {
    let cert = Cert::new();
    let (ended, _) = fails(&cert.server(|_| {}), &cert.client(|c| c.alpn = vec!["other".into()]));
    let Ended::Transport(reason) = &ended else { panic!("{ended:?}") };
    // no_application_protocol, RFC 7301 section 3.2.
    assert_eq!(reason.code(), 0x178, "{reason:?}");
    assert!(ended.to_string().contains("give the same ALPN at both ends"), "{ended}");
}

#[test]
fn no_cipher_in_common_says_so() {
    let cert = Cert::new();
    let (near, _) = fails(
        &cert.server(|s| s.ciphers = vec![quic::Cipher::Aes128Gcm]),
        &cert.client(|c| c.ciphers = vec![quic::Cipher::ChaCha20Poly1305]),
    );
    let Ended::Transport(reason) = &near else { panic!("{near:?}") };
    // handshake_failure, RFC 8446 section 6.2.
    assert_eq!(reason.code(), 0x128, "{reason:?}");
}

/// A server of another version: answers with what it speaks (RFC 9000 section 17.2.1).
fn speaks_other_versions() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let serving = socket.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = serving.recv_from(&mut buffer) {
            let ids = &buffer[5..length];
            let (to, rest) = ids[1..].split_at(usize::from(ids[0]));
            let from = &rest[1..=usize::from(rest[0])];
            let mut answer = vec![0x80, 0, 0, 0, 0, from.len() as u8];
            answer.extend_from_slice(from);
            answer.push(to.len() as u8);
            answer.extend_from_slice(to);
            answer.extend_from_slice(&[0xff, 0, 0, 0x1d]);
            serving.send_to(&answer, client).ok();
        }
    });
    socket
}

#[test]
fn a_server_of_another_version_says_so() {
    let socket = speaks_other_versions();
    let cert = Cert::new();
    let context = context();
    let endpoint = quic::Endpoint::new(&context);
    let to = format!("localhost:{}", socket.local_addr().unwrap().port());
    let error = endpoint.connect(&cert.client(|_| {}), &to).wait().unwrap_err();
    let ConnectError::Failed { ended: Ended::Transport(reason), .. } = &error else {
        panic!("{error:?}")
    };
    assert!(matches!(**reason, CloseReason::VersionMismatch), "{reason:?}");
    assert!(error.to_string().contains("no version of QUIC in common"), "{error}");
}

#[test]
fn a_port_in_use_says_so() {
    let cert = Cert::new();
    let context = Context::builder().threads(2).build().unwrap();
    let endpoint = quic::Endpoint::new(&context);
    let listener = endpoint.listen(&cert.server(|_| {}), "127.0.0.1:0").unwrap();
    let taken = listener.local_address().to_string();
    let error = endpoint.listen(&cert.server(|_| {}), &taken).unwrap_err();
    let ListenError::Io { address, error } = &error else { panic!("{error:?}") };
    assert_eq!(**address, *taken);
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    let plain = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = plain.local_addr().unwrap().to_string();
    assert!(matches!(endpoint.listen(&cert.server(|_| {}), &taken), Err(ListenError::Io { .. })));
}

#[test]
fn names_and_addresses_that_lead_nowhere_say_so() {
    let cert = Cert::new();
    let context = context();
    let endpoint = quic::Endpoint::new(&context);
    let connect = |to: &str| endpoint.connect(&cert.client(|_| {}), to).wait().unwrap_err();
    let error = connect("no.such.host.invalid:443");
    assert!(
        matches!(&error, ConnectError::Resolve { host, .. } if &**host == "no.such.host.invalid"),
        "{error:?}"
    );
    for wrong in ["localhost", "localhost:http", ":443", "::1:443"] {
        let error = connect(wrong);
        assert!(matches!(&error, ConnectError::Address(said) if &**said == wrong), "{error:?}");
    }
    let listen = |on: &str| endpoint.listen(&cert.server(|_| {}), on).unwrap_err();
    let error = listen("no.such.host.invalid:0");
    assert!(matches!(&error, ListenError::Resolve { .. }), "{error:?}");
    assert!(matches!(listen("localhost"), ListenError::Address(_)));
    // Documentation's own network (RFC 5737): nobody has this address.
    assert!(matches!(listen("192.0.2.1:0"), ListenError::Io { .. }));
}

/// A variable-length integer at the front (RFC 9000 section 16), and its length.
fn integer(bytes: &[u8]) -> (usize, usize) {
    let length = 1 << (bytes[0] >> 6);
    let more = bytes[1..length].iter();
    (
        more.fold(usize::from(bytes[0] & 0x3f), |value, byte| (value << 8) | usize::from(*byte)),
        length,
    )
}

/// Leaves only the first packet of a datagram of several (RFC 9000 sections 12.2 and 17.2.2), if that is an Initial.
fn only_initial(datagram: &mut Vec<u8>) -> bool {
    if datagram[0] & 0xf0 != 0xc0 {
        return false;
    }
    let mut at = 6 + usize::from(datagram[5]);
    at += 1 + usize::from(datagram[at]);
    let (token, bytes) = integer(&datagram[at..]);
    at += bytes + token;
    let (length, bytes) = integer(&datagram[at..]);
    datagram.truncate(at + bytes + length);
    true
}

#[test]
fn a_peer_that_stops_in_mid_handshake_is_given_up_by_both() {
    let cert = Cert::new();
    let context = context();
    let endpoint = quic::Endpoint::new(&context);
    let soon = |options: &mut quic::Options| {
        options.handshake_idle_timeout = Duration::from_millis(600);
    };
    let (tell, told) = mpsc::channel();
    let listener = endpoint
        .listen_with(
            &cert.server(|s| soon(&mut s.options)),
            "127.0.0.1:0",
            move |_: &Connection| Last(tell.clone()),
        )
        .unwrap();
    // The client gets keys and no certificate.
    let router = Router::with(listener.local_address(), |way, datagram| {
        way == Way::ToServer || only_initial(datagram)
    });
    let to = format!("localhost:{}", router.address().port());
    let error = endpoint.connect(&cert.client(|c| soon(&mut c.options)), &to).wait().unwrap_err();
    let ConnectError::Failed { ended: Ended::Transport(reason), .. } = &error else {
        panic!("{error:?}")
    };
    assert!(matches!(**reason, CloseReason::HandshakeTimeout), "{reason:?}");
    assert!(error.to_string().contains("did not finish the handshake in time"), "{error}");
    let closed = told.recv_timeout(PATIENCE).unwrap();
    assert!(!closed.is_handshake_completed);
    let Ended::Transport(reason) = &closed.ended else { panic!("{closed:?}") };
    assert!(matches!(**reason, CloseReason::HandshakeTimeout), "{reason:?}");
    let stats = quic::block_on(listener.stats());
    assert_eq!(stats[0].endpoint.handshakes, 0, "{stats:?}");
}

#[test]
fn options_out_of_range_are_named_with_their_range() {
    let cert = Cert::new();
    let client = |change: fn(&mut quic::Options)| {
        let mut settings = quic::ClientSettings::new(cert.trust(), ["test".into()]);
        change(&mut settings.options);
        quic::ClientConfig::new(settings).map(|_| ()).unwrap_err()
    };
    let error = client(|options| options.initial_window_packets = 1);
    assert!(matches!(&error, ConfigError::OutOfRange { value, .. } if value == "1"), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("initial_window_packets") && said.contains("2 or more"), "{said}");
    let said = client(|options| options.minimum_mtu = 1_000).to_string();
    assert!(said.contains("minimum_mtu") && said.contains("1248"), "{said}");
    let said = client(|options| options.maximum_mtu = 1_247).to_string();
    assert!(said.contains("maximum_mtu"), "{said}");
    let said = client(|options| options.stream_recv_window = 64 << 20).to_string();
    assert!(said.contains("stream_recv_window"), "{said}");

    let without = quic::ClientSettings::new(cert.trust(), []);
    let error = quic::ClientConfig::new(without).map(|_| ()).unwrap_err();
    assert!(matches!(&error, ConfigError::Missing { option: "alpn", .. }), "{error:?}");

    let context = context();
    let config = quic::EndpointConfig { max_segments: 65, ..Default::default() };
    let error = quic::Endpoint::with_config(&context, config).unwrap_err();
    assert!(error.to_string().contains("max_segments"), "{error}");
    // What no endpoint with these limits can serve is refused when it listens.
    let config = quic::EndpointConfig { max_memory_per_connection: 1 << 20, ..Default::default() };
    let endpoint = quic::Endpoint::with_config(&context, config).unwrap();
    let error = endpoint.listen(&cert.server(|_| {}), "127.0.0.1:0").unwrap_err();
    assert!(matches!(&error, ListenError::Config(_)), "{error:?}");
}
