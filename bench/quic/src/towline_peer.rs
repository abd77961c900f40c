//! Towline: handlers on the I/O thread at both ends, or futures at the client.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use towline::quic::{self, Active, Connection, Direction, Handler, NewStream, Opened, StreamId};

use crate::evented::{App, Io, Server, Tally};
use crate::work::{ALPN, IDLE_TIMEOUT, Kind, REST, Run};
use crate::{announce, asynchronous, tls};

fn options() -> quic::Options {
    quic::Options {
        idle_timeout: Some(IDLE_TIMEOUT),
        server_resumption_level: quic::Resumption::Resume,
        ..quic::Options::default()
    }
}

/// What is tried beside the defaults.
#[derive(Clone, Copy, Default)]
pub struct Variant {
    pub driver: towline::DriverChoice,
    pub provider: quic::Provider,
}

fn context(variant: Variant) -> towline::Context {
    let builder = towline::Context::builder().threads(1).driver(variant.driver);
    builder.build().expect("a context")
}

fn alpn() -> [Bytes; 1] {
    [Bytes::from_static(ALPN)]
}

pub fn serve(folder: &Path, variant: Variant) {
    let identity = quic::identity_files(tls::certificate(folder), tls::key(folder), None)
        .expect("a certificate");
    let mut settings = quic::ServerSettings::new(identity, alpn());
    settings.ciphers = vec![quic::Cipher::Aes128Gcm];
    settings.options = options();
    settings.provider = variant.provider;
    let config = quic::ServerConfig::new(settings).expect("a configuration");
    let context = context(variant);
    let endpoint = quic::Endpoint::new(&context);
    let bridge =
        |_: &Connection| Bridge { app: Box::new(Server::<StreamId>::default()), again: None };
    let listener = endpoint.listen_with(&config, "127.0.0.1:0", bridge).expect("a listener");
    announce(listener.local_address().port());
    loop {
        std::thread::park();
    }
}

fn client_config(run: &Run, variant: Variant) -> quic::ClientConfig {
    let trust = quic::certificates_file(tls::certificate(&run.folder)).expect("a certificate");
    let mut settings = quic::ClientSettings::new(quic::ServerVerification::Roots(trust), alpn());
    settings.ciphers = vec![quic::Cipher::Aes128Gcm];
    settings.options = options();
    settings.provider = variant.provider;
    if !run.resumes() {
        settings.session_cache = 0;
    }
    quic::ClientConfig::new(settings).expect("a configuration")
}

pub fn drive(run: &Run, variant: Variant) {
    let context = context(variant);
    let (over, told) = mpsc::channel();
    let dialer = Arc::new(Dialer {
        endpoint: quic::Endpoint::new(&context),
        config: client_config(run, variant),
        to: run.to.to_string(),
        tally: Tally::new(run, over),
    });
    dialer.dial();
    told.recv().expect("an end");
    if run.kind == Kind::Idle {
        std::thread::sleep(REST);
        dialer.tally.print_memory();
    }
}

/// Makes connections, all alike.
struct Dialer {
    endpoint: quic::Endpoint,
    config: quic::ClientConfig,
    to: String,
    tally: Arc<Tally>,
}

impl Dialer {
    fn dial(self: &Arc<Self>) {
        let bridge = Bridge { app: self.tally.app(), again: Some(self.clone()) };
        let params = quic::ConnectParams::default();
        drop(self.endpoint.connect_named(
            &self.config,
            &self.to,
            "localhost",
            params,
            Some(Box::new(bridge)),
        ));
    }
}

/// The work as a handler.
struct Bridge {
    app: Box<dyn App<StreamId>>,
    again: Option<Arc<Dialer>>,
}

/// A connection in one of its events.
struct Events<'a, 'b> {
    active: &'a mut Active<'b>,
    again: Option<&'a Arc<Dialer>>,
}

impl Io<StreamId> for Events<'_, '_> {
    fn open(&mut self) -> StreamId {
        match self
            .active
            .open(Direction::Bidirectional, quic::OpenFlags::default())
            .expect("a stream")
        {
            Opened::Stream(stream) => stream,
            Opened::Waiting(_) => panic!("the peer allows enough streams"),
        }
    }

    fn send(&mut self, stream: StreamId, data: &Bytes, end: bool) -> usize {
        let options = quic::SendOptions { fin: end, ..Default::default() };
        self.active.send(stream, data.clone(), options).map_or(0, |_| data.len())
    }

    fn read(&mut self, stream: StreamId, show: &mut dyn FnMut(&[u8])) -> Option<bool> {
        let chunk = self.active.read(stream, usize::MAX).ok()?;
        show(&chunk.data);
        Some(chunk.fin)
    }

    fn close(&mut self) {
        self.active.close(0, "");
    }

    fn connect_another(&mut self) {
        self.again.expect("a client").dial();
    }
}

impl Handler for Bridge {
    fn connected(&mut self, active: &mut Active<'_>, _: &quic::Connected) {
        self.app.connected(&mut Events { active, again: self.again.as_ref() });
    }

    fn new_stream(&mut self, _: &mut Active<'_>, _: StreamId, _: bool) -> NewStream {
        NewStream::Handle
    }

    fn stream_readable(&mut self, active: &mut Active<'_>, stream: StreamId) {
        self.app.readable(&mut Events { active, again: self.again.as_ref() }, stream);
    }

    fn stream_writable(&mut self, active: &mut Active<'_>, stream: StreamId) {
        self.app.writable(&mut Events { active, again: self.again.as_ref() }, stream);
    }
}

pub fn drive_futures(run: &Run) {
    let variant = Variant::default();
    let context = context(variant);
    let client = Client {
        endpoint: quic::Endpoint::new(&context),
        config: client_config(run, variant),
        to: run.to.to_string(),
    };
    asynchronous::on_this_thread(asynchronous::drive(client, run));
}

struct Client {
    endpoint: quic::Endpoint,
    config: quic::ClientConfig,
    to: String,
}

impl asynchronous::Client for Client {
    type Connection = Connection;
    async fn connect(&self) -> Connection {
        let params = quic::ConnectParams::default();
        self.endpoint
            .connect_named(&self.config, &self.to, "localhost", params, None)
            .await
            .expect("a connection")
    }
}

asynchronous::streams!(
    towline::quic,
    close: (0, ""),
    write: |send, data| send.write(data).await,
    read: |recv| quic::RecvStream::read(recv).await.ok()?
);
