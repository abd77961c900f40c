//! quinn, and noq, which began as quinn and has kept its interface.

macro_rules! peer {
    ($peer:ident, |$recv:ident| $read:expr) => {
        pub mod $peer {
            use std::path::Path;
            use std::sync::Arc;

            use ::$peer as quic;
            use bytes::Bytes;

            use crate::work::{IDLE_TIMEOUT, Run};
            use crate::{announce, asynchronous, tls};

            fn transport() -> Arc<quic::TransportConfig> {
                let mut transport = quic::TransportConfig::default();
                transport
                    .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("a time that fits")));
                Arc::new(transport)
            }

            pub fn serve(folder: &Path) {
                let tls = tls::server(folder, rustls::crypto::ring::default_provider());
                let tls = quic::crypto::rustls::QuicServerConfig::try_from(tls)
                    .expect("a cipher for Initial packets");
                let mut config = quic::ServerConfig::with_crypto(Arc::new(tls));
                config.transport_config(transport());
                asynchronous::on_this_thread(async {
                    let any = "127.0.0.1:0".parse().expect("an address");
                    let endpoint = quic::Endpoint::server(config, any).expect("a socket");
                    announce(endpoint.local_addr().expect("an address").port());
                    asynchronous::serve(Listener(endpoint)).await;
                });
            }

            pub fn drive(run: &Run) {
                let tls = tls::client(
                    &run.folder,
                    rustls::crypto::ring::default_provider(),
                    run.resumes(),
                );
                let tls = quic::crypto::rustls::QuicClientConfig::try_from(tls)
                    .expect("a cipher for Initial packets");
                let mut config = quic::ClientConfig::new(Arc::new(tls));
                config.transport_config(transport());
                asynchronous::on_this_thread(async {
                    let any = "127.0.0.1:0".parse().expect("an address");
                    #[allow(
                        unused_mut,
                        reason = "one of the two sets its configuration through a shared reference"
                    )]
                    let mut endpoint = quic::Endpoint::client(any).expect("a socket");
                    endpoint.set_default_client_config(config);
                    asynchronous::drive(Client { endpoint, to: run.to }, run).await;
                });
            }

            struct Listener(quic::Endpoint);

            impl asynchronous::Listener for Listener {
                type Connection = quic::Connection;
                async fn accept(
                    &mut self,
                ) -> impl Future<Output = Option<quic::Connection>> + 'static {
                    let incoming = self.0.accept().await.expect("an endpoint that is open");
                    async move { incoming.await.ok() }
                }
            }

            struct Client {
                endpoint: quic::Endpoint,
                to: std::net::SocketAddr,
            }

            impl asynchronous::Client for Client {
                type Connection = quic::Connection;
                async fn connect(&self) -> quic::Connection {
                    self.endpoint
                        .connect(self.to, "localhost")
                        .expect("a dial")
                        .await
                        .expect("a connection")
                }
            }

            asynchronous::streams!(
                ::$peer,
                close: (0_u32.into(), b""),
                write: |send, data| send.write_chunk(data).await,
                read: |recv| {
                    let $recv = recv;
                    $read
                }
            );
        }
    };
}

peer!(quinn, |recv| recv.read_chunk(usize::MAX, true).await.ok()?.map(|chunk| chunk.bytes));
peer!(noq, |recv| recv.read_chunk(usize::MAX).await.ok()?);
