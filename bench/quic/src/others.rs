//! quinn, and noq, which began as quinn and has kept its interface.

macro_rules! peer {
    ($peer:ident) => {
        pub mod $peer {
            use std::net::SocketAddr;
            use std::sync::{Arc, mpsc};
            use std::time::{Duration, Instant};

            use ::$peer as quic;
            use rustls_pki_types::pem::PemObject;
            use rustls_pki_types::{CertificateDer, PrivateKeyDer};

            use crate::{Cert, Raw, Work, cpu};

            fn server(cert: &Cert) -> quic::Endpoint {
                let chain = vec![CertificateDer::from_pem_slice(cert.pem.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(cert.key.as_bytes()).unwrap();
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let mut tls = rustls::ServerConfig::builder_with_provider(provider)
                    .with_protocol_versions(&[&rustls::version::TLS13])
                    .unwrap()
                    .with_no_client_auth()
                    .with_single_cert(chain, key)
                    .unwrap();
                tls.alpn_protocols = vec![b"bench".to_vec()];
                let tls = quic::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
                let config = quic::ServerConfig::with_crypto(Arc::new(tls));
                quic::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap()
            }

            fn client(cert: &Cert) -> quic::Endpoint {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(cert.pem.as_bytes()).unwrap()).unwrap();
                let mut provider = rustls::crypto::ring::default_provider();
                provider.cipher_suites.retain(|suite| {
                    suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
                });
                let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
                    .with_protocol_versions(&[&rustls::version::TLS13])
                    .unwrap()
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                tls.alpn_protocols = vec![b"bench".to_vec()];
                tls.resumption = rustls::client::Resumption::disabled();
                let tls = quic::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
                let config = quic::ClientConfig::new(Arc::new(tls));
                let endpoint = quic::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
                endpoint.set_default_client_config(config);
                endpoint
            }

            fn runtime() -> tokio::runtime::Runtime {
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
            }

            async fn serve(endpoint: quic::Endpoint) {
                while let Some(incoming) = endpoint.accept().await {
                    tokio::spawn(async move {
                        let Ok(connection) = incoming.await else { return };
                        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                            tokio::spawn(async move {
                                let mut first = [0; 1];
                                if recv.read_exact(&mut first).await.is_err() {
                                    return;
                                }
                                let echoes = first[0] == b'e';
                                while let Ok(Some(chunk)) = recv.read_chunk(1 << 16, true).await {
                                    if echoes && send.write_chunk(chunk.bytes).await.is_err() {
                                        return;
                                    }
                                }
                                send.finish().ok();
                                send.stopped().await.ok();
                            });
                        }
                    });
                }
            }

            pub fn run(cert: &Cert, work: Work) -> Raw {
                let (tell, told) = mpsc::channel::<SocketAddr>();
                let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
                let served = Cert { pem: cert.pem.clone(), key: cert.key.clone() };
                let server = std::thread::spawn(move || {
                    runtime().block_on(async {
                        let endpoint = server(&served);
                        tell.send(endpoint.local_addr().unwrap()).unwrap();
                        tokio::select! {
                            () = serve(endpoint) => {}
                            _ = stopped => {}
                        }
                    });
                });
                let to = told.recv().unwrap();
                let raw = runtime().block_on(drive(client(cert), to, work));
                stop.send(()).ok();
                server.join().unwrap();
                raw
            }

            async fn drive(endpoint: quic::Endpoint, to: SocketAddr, work: Work) -> Raw {
                let connection = endpoint.connect(to, "localhost").unwrap().await.unwrap();
                Raw {
                    bulk: bulk(&connection, work).await,
                    pings: pings(&connection, work).await,
                    requests: requests(&connection, work).await,
                    handshakes: handshakes(&endpoint, to, work).await,
                }
            }

            async fn bulk(connection: &quic::Connection, work: Work) -> (Duration, Duration) {
                let chunk = bytes::Bytes::from(vec![7; 256 << 10]);
                let (begin, used) = (Instant::now(), cpu());
                let (mut send, mut recv) = connection.open_bi().await.unwrap();
                send.write_all(b"s").await.unwrap();
                for _ in 0..work.bulk / chunk.len() {
                    send.write_chunk(chunk.clone()).await.unwrap();
                }
                send.finish().unwrap();
                assert!(recv.read_chunk(1, true).await.unwrap().is_none());
                (begin.elapsed(), cpu() - used)
            }

            async fn pings(connection: &quic::Connection, work: Work) -> Vec<Duration> {
                let (mut send, mut recv) = connection.open_bi().await.unwrap();
                send.write_all(b"e").await.unwrap();
                let mut all = Vec::with_capacity(work.pings);
                let mut buffer = [0; 64];
                for _ in 0..work.pings {
                    let begin = Instant::now();
                    send.write_all(&[1; 64]).await.unwrap();
                    recv.read_exact(&mut buffer).await.unwrap();
                    all.push(begin.elapsed());
                }
                send.finish().unwrap();
                all
            }

            async fn requests(connection: &quic::Connection, work: Work) -> Duration {
                let begin = Instant::now();
                let tasks: Vec<_> = (0..work.at_once)
                    .map(|_| {
                        let connection = connection.clone();
                        tokio::spawn(async move {
                            for _ in 0..work.requests / work.at_once {
                                let (mut send, mut recv) = connection.open_bi().await.unwrap();
                                let mut request = [1; 65];
                                request[0] = b'e';
                                send.write_all(&request).await.unwrap();
                                send.finish().unwrap();
                                assert_eq!(recv.read_to_end(64).await.unwrap().len(), 64);
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
                begin.elapsed()
            }

            async fn handshakes(endpoint: &quic::Endpoint, to: SocketAddr, work: Work) -> Duration {
                let begin = Instant::now();
                for _ in 0..work.handshakes {
                    let connection = endpoint.connect(to, "localhost").unwrap().await.unwrap();
                    connection.close(0u32.into(), b"");
                }
                begin.elapsed()
            }
        }
    };
}

peer!(quinn);
peer!(noq);
