//! QUIC with other people's implementations, both ways: Python's aioquic, and quinn.
//!
//! aioquic is installed below the target directory, for which there must be `python3` and a way to its registry. A test whose
//! peer cannot be had fails.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use towline::Context;
use towline::quic::{self, block_on};

struct Cert {
    pem: String,
    key: String,
}

impl Cert {
    fn new() -> Cert {
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Cert { pem: cert.pem(), key: key.serialize_pem() }
    }

    fn server(&self) -> quic::ServerConfig {
        let identity = quic::Identity::from_pem(self.pem.as_bytes(), self.key.as_bytes()).unwrap();
        let mut settings = quic::ServerSettings::new(identity, ["test".into()]);
        settings.options.datagram_receive = true;
        quic::ServerConfig::new(settings).unwrap()
    }

    fn client(&self) -> quic::ClientConfig {
        let trust = quic::certificates(self.pem.as_bytes()).unwrap();
        let trust = quic::ServerVerification::Roots(trust);
        let mut settings = quic::ClientSettings::new(trust, ["test".into()]);
        settings.options.datagram_receive = true;
        quic::ClientConfig::new(settings).unwrap()
    }

    /// Both as files.
    fn files(&self, name: &str) -> (PathBuf, PathBuf) {
        let (pem, key) = (home().join(format!("{name}.crt")), home().join(format!("{name}.key")));
        std::fs::write(&pem, &self.pem).unwrap();
        std::fs::write(&key, &self.key).unwrap();
        (pem, key)
    }
}

fn home() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quic-peers");
    std::fs::create_dir_all(&home).unwrap();
    home
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed:\n{out}\n{err}");
    out.into_owned()
}

/// Python with aioquic.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let venv = home().join("venv");
        let python = venv.join("bin/python");
        let usable = Command::new(&python).args(["-c", "import aioquic.asyncio"]).output();
        if !usable.is_ok_and(|output| output.status.success()) {
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
            run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "aioquic"]));
        }
        python
    })
}

fn script(name: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name));
    command
}

/// Answers every stream and every datagram with itself, by futures.
fn echo(listener: quic::Listener) {
    std::thread::spawn(move || {
        while let Ok(connection) = listener.accept_blocking() {
            let datagrams = connection.clone();
            std::thread::spawn(move || {
                while let Ok(data) = block_on(datagrams.read_datagram()) {
                    block_on(datagrams.send_datagram(data)).unwrap();
                }
            });
            std::thread::spawn(move || {
                while let Ok((mut send, mut recv)) = block_on(connection.accept_bi()) {
                    std::thread::spawn(move || {
                        block_on(async {
                            while let Some(chunk) = recv.read().await.unwrap() {
                                send.write(chunk).await.unwrap();
                            }
                            send.finish().unwrap();
                            send.acknowledged().await.unwrap();
                        });
                    });
                }
            });
        }
    });
}

/// What a client of ours does with an echo server.
fn exercise(context: &Context, cert: &Cert, server: SocketAddr) {
    let endpoint = quic::Endpoint::new(context);
    let params = quic::ConnectParams::default();
    let to = server.to_string();
    let connecting = endpoint.connect_named(&cert.client(), &to, "localhost", params, None);
    let connection = connecting.wait().unwrap();
    let ask = |data: Bytes| {
        let (mut send, mut recv) = block_on(connection.open_bi()).unwrap();
        let sent = data.clone();
        let sending = std::thread::spawn(move || {
            block_on(async {
                for start in (0..sent.len()).step_by(100_000) {
                    send.write(sent.slice(start..sent.len().min(start + 100_000))).await.unwrap();
                }
                send.finish().unwrap();
                send.acknowledged().await.unwrap();
            });
        });
        assert!(block_on(recv.read_to_end(data.len())).unwrap() == data);
        sending.join().unwrap();
    };
    ask((0..1u32 << 20).map(|i| (i % 251) as u8).collect::<Vec<u8>>().into());
    for i in 0..150 {
        // Beyond the peer's first limit on streams.
        ask(format!("stream {i}").into());
    }
    block_on(connection.send_datagram("datagram".into())).unwrap();
    assert_eq!(block_on(connection.read_datagram()).unwrap(), "datagram");
    assert!(block_on(connection.ask(|active| active.update_keys())).unwrap());
    ask("after the key update".into());
    let moved = block_on(connection.migrate("127.0.0.1:0".parse().unwrap())).unwrap();
    ask(format!("from {moved}").into());
    connection.close(3, "done");
    assert!(matches!(block_on(connection.closed()), quic::Ended::Closed));
}

#[test]
fn aioquic_serves_our_client_also_after_a_retry() {
    let context = Context::builder().threads(1).build().unwrap();
    for retry in ["no", "retry"] {
        let cert = Cert::new();
        let (pem, key) = cert.files(retry);
        let mut server = script("quic_server.py")
            .args([&pem, &key])
            .arg(retry)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let port: u16 = port.trim().parse().unwrap();
        exercise(&context, &cert, ([127, 0, 0, 1], port).into());
        drop(server.stdin.take());
        server.kill().ok();
        server.wait().unwrap();
    }
}

#[test]
fn our_server_serves_aioquic() {
    let context = Context::builder().threads(2).build().unwrap();
    let cert = Cert::new();
    let (pem, _) = cert.files("ours");
    let endpoint = quic::Endpoint::new(&context);
    let listener = endpoint.listen(&cert.server(), "127.0.0.1:0").unwrap();
    let port = listener.local_address().port().to_string();
    echo(listener);
    let said = run(script("quic_client.py").arg(&pem).arg(&port));
    assert_eq!(said.trim(), "ok");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn quinn_server(cert: &Cert) -> quinn::Endpoint {
    use rustls_pki_types::pem::PemObject;
    let chain = quic::certificates(cert.pem.as_bytes()).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(cert.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![b"test".to_vec()];
    let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap()
}

#[test]
fn quinn_serves_our_client() {
    let cert = Cert::new();
    let context = Context::builder().threads(1).build().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let server = Cert { pem: cert.pem.clone(), key: cert.key.clone() };
    std::thread::spawn(move || {
        runtime().block_on(async {
            let endpoint = quinn_server(&server);
            tell.send(endpoint.local_addr().unwrap()).unwrap();
            let connection = endpoint.accept().await.unwrap().await.unwrap();
            let datagrams = connection.clone();
            tokio::spawn(async move {
                while let Ok(data) = datagrams.read_datagram().await {
                    datagrams.send_datagram(data).unwrap();
                }
            });
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                tokio::spawn(async move {
                    while let Some(chunk) = recv.read_chunk(1 << 16, true).await.unwrap() {
                        send.write_chunk(chunk.bytes).await.unwrap();
                    }
                    send.finish().unwrap();
                    send.stopped().await.ok();
                });
            }
        });
    });
    exercise(&context, &cert, told.recv().unwrap());
}

#[test]
fn our_server_serves_quinn() {
    let cert = Cert::new();
    let context = Context::builder().threads(2).build().unwrap();
    let endpoint = quic::Endpoint::new(&context);
    let listener = endpoint.listen(&cert.server(), "127.0.0.1:0").unwrap();
    let to = listener.local_address();
    echo(listener);
    runtime().block_on(async {
        let mut roots = rustls::RootCertStore::empty();
        for cert in quic::certificates(cert.pem.as_bytes()).unwrap() {
            roots.add(cert).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"test".to_vec()];
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(tls));
        let connection = endpoint.connect_with(config, to, "localhost").unwrap().await.unwrap();
        let data: Vec<u8> = (0..1u32 << 20).map(|i| (i % 251) as u8).collect();
        for length in [0, 1, 5000, data.len()] {
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            let sent = data[..length].to_vec();
            let sending = tokio::spawn(async move {
                send.write_all(&sent).await.unwrap();
                send.finish().unwrap();
                send.stopped().await.unwrap();
            });
            assert!(recv.read_to_end(length).await.unwrap() == data[..length]);
            sending.await.unwrap();
        }
        connection.send_datagram(Bytes::from_static(b"datagram")).unwrap();
        assert_eq!(connection.read_datagram().await.unwrap(), "datagram");
        // Another port: the connection goes on.
        endpoint.rebind(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(b"moved").await.unwrap();
        send.finish().unwrap();
        assert_eq!(recv.read_to_end(100).await.unwrap(), b"moved");
        connection.close(0u32.into(), b"done");
        endpoint.wait_idle().await;
    });
}
