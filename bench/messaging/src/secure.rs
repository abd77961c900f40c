//! A bare loop over rustls' buffered interface, as its own examples use it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream};

use crate::scenario::{Kind, Meter, Scenario};

pub fn speaks(scenario: &Scenario) -> bool {
    scenario.kind == Kind::OneWayTls
}

/// Both processes need the same certificate: the server prints it behind its port as hex.
pub fn serve(scenario: &Scenario, _: f64) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
    std::fs::write(certificate_path(), made.cert.der()).expect("a temporary file");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    println!("{}", listener.local_addr().expect("bound").port());
    let (mut socket, _) = listener.accept().expect("the client");
    let mut tls = ServerConnection::new(Arc::new(config)).expect("a connection");
    let mut stream = Stream::new(&mut tls, &mut socket);
    let mut buffer = vec![0; scenario.size];
    let mut meter = Meter::default();
    while stream.read_exact(&mut buffer).is_ok() {
        meter.add(1);
    }
    meter.print();
}

fn certificate_path() -> std::path::PathBuf {
    std::env::temp_dir().join("towline-bench-rustls.der")
}

pub fn drive(scenario: &Scenario, port: u16, seconds: f64) {
    let mut roots = RootCertStore::empty();
    let der = std::fs::read(certificate_path()).expect("the server's certificate");
    roots.add(der.into()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("the server");
    socket.set_nodelay(true).expect("an option");
    let mut stream = Stream::new(&mut tls, &mut socket);
    let buffer = vec![7; scenario.size];
    let (start, length) = (Instant::now(), Duration::from_secs_f64(seconds));
    while start.elapsed() < length {
        stream.write_all(&buffer).expect("the server reads");
    }
    stream.flush().expect("the server reads");
}
