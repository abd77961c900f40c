//! s2n-quic, with rustls and the library that it comes with, aws-lc-rs.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use s2n_quic::connection::{Handle, StreamAcceptor};
use s2n_quic::provider::limits::Limits;
use s2n_quic::provider::tls::rustls::{Client as TlsClient, Server as TlsServer};
use s2n_quic::stream::{ReceiveStream, SendStream};

use crate::work::{IDLE_TIMEOUT, Run};
use crate::{announce, asynchronous, tls};

fn limits() -> Limits {
    Limits::new().with_max_idle_timeout(IDLE_TIMEOUT).expect("a time that fits")
}

pub fn serve(folder: &Path) {
    let tls = TlsServer::from(tls::server(folder, rustls::crypto::aws_lc_rs::default_provider()));
    asynchronous::on_this_thread(async {
        let builder = s2n_quic::Server::builder().with_tls(tls).expect("TLS");
        let builder = builder
            .with_limits(limits())
            .expect("limits")
            .with_io("127.0.0.1:0")
            .expect("a socket");
        let server = builder.start().expect("a server");
        announce(server.local_addr().expect("an address").port());
        asynchronous::serve(Listener(server)).await;
    });
}

pub fn drive(run: &Run) {
    let tls = TlsClient::from(tls::client(
        &run.folder,
        rustls::crypto::aws_lc_rs::default_provider(),
        run.resumes(),
    ));
    asynchronous::on_this_thread(async {
        let builder = s2n_quic::Client::builder().with_tls(tls).expect("TLS");
        let builder = builder
            .with_limits(limits())
            .expect("limits")
            .with_io("127.0.0.1:0")
            .expect("a socket");
        let client = Client { client: builder.start().expect("a client"), to: run.to };
        asynchronous::drive(client, run).await;
    });
}

struct Listener(s2n_quic::Server);

impl asynchronous::Listener for Listener {
    type Connection = Connection;
    async fn accept(&mut self) -> impl Future<Output = Option<Connection>> + 'static {
        // The handshake is done when it comes.
        let connection = self.0.accept().await.map(Connection::new);
        async move { connection }
    }
}

struct Client {
    client: s2n_quic::Client,
    to: std::net::SocketAddr,
}

impl asynchronous::Client for Client {
    type Connection = Connection;
    async fn connect(&self) -> Connection {
        let connect = s2n_quic::client::Connect::new(self.to).with_server_name("localhost");
        Connection::new(self.client.connect(connect).await.expect("a connection"))
    }
}

#[derive(Clone)]
struct Connection {
    handle: Handle,
    acceptor: Rc<RefCell<StreamAcceptor>>,
}

impl Connection {
    fn new(connection: s2n_quic::Connection) -> Connection {
        let (handle, acceptor) = connection.split();
        Connection { handle, acceptor: Rc::new(RefCell::new(acceptor)) }
    }
}

impl asynchronous::Connection for Connection {
    type Send = SendStream;
    type Recv = ReceiveStream;
    async fn open(&self) -> (SendStream, ReceiveStream) {
        let (recv, send) =
            self.handle.clone().open_bidirectional_stream().await.expect("a stream").split();
        (send, recv)
    }
    #[allow(clippy::await_holding_refcell_ref, reason = "one task accepts")]
    async fn accept(&self) -> Option<(SendStream, ReceiveStream)> {
        let stream = self.acceptor.borrow_mut().accept_bidirectional_stream().await.ok()??;
        let (recv, send) = stream.split();
        Some((send, recv))
    }
    fn close(&self) {
        self.handle.close(0_u32.into());
    }
}

impl asynchronous::SendHalf for SendStream {
    async fn write(&mut self, data: Bytes) {
        self.send(data).await.expect("a stream that is open");
    }
    fn finish(&mut self) {
        SendStream::finish(self).expect("a stream that is open");
    }
}

impl asynchronous::RecvHalf for ReceiveStream {
    async fn read(&mut self) -> Option<Bytes> {
        self.receive().await.ok()?
    }
}
