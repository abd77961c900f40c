//! Towline: a handler on the server's I/O thread, futures at the client, as programs of the kind use it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use towline::Context;
use towline::quic::{self, Active, Handler, NewStream, StreamId, block_on};

use crate::{Cert, Raw, Work, cpu};

/// Echoes streams that begin with an `e`, and swallows the others.
#[derive(Default)]
struct Server {
    echoes: HashMap<StreamId, bool>,
}

impl Handler for Server {
    fn new_stream(&mut self, _: &mut Active<'_>, _: StreamId, _: bool) -> NewStream {
        NewStream::Handle
    }

    fn stream_readable(&mut self, active: &mut Active<'_>, stream: StreamId) {
        while let Ok(mut chunk) = active.read(stream, 64 << 10) {
            let echoes = *self.echoes.entry(stream).or_insert_with(|| {
                let first = chunk.data.split_to(chunk.data.len().min(1));
                first[..] == *b"e"
            });
            if echoes && !chunk.data.is_empty() || chunk.fin {
                let options = quic::SendOptions { fin: chunk.fin, ..Default::default() };
                let data = if echoes { chunk.data } else { Bytes::new() };
                active.send(stream, data, options).expect("room for little answers");
            }
            if chunk.fin {
                break;
            }
        }
    }

    fn stream_closed(&mut self, _: &mut Active<'_>, stream: StreamId) {
        self.echoes.remove(&stream);
    }
}

pub fn run(cert: &Cert, work: Work) -> Raw {
    let (near, far) = (context(), context());
    let identity = quic::Identity::from_pem(cert.pem.as_bytes(), cert.key.as_bytes()).unwrap();
    let settings = quic::ServerSettings::new(identity, ["bench".into()]);
    let config = quic::ServerConfig::new(settings).unwrap();
    let server = quic::Endpoint::new(&far);
    let listener = server.listen_with(&config, "127.0.0.1:0", |_: &quic::Connection| Server::default());
    let listener = listener.unwrap();
    let to = listener.local_address().to_string();

    let trust = quic::certificates(cert.pem.as_bytes()).unwrap();
    let mut settings =
        quic::ClientSettings::new(quic::ServerVerification::Roots(trust), ["bench".into()]);
    settings.ciphers = vec![quic::Cipher::Aes128Gcm];
    settings.session_cache = 0;
    let config = quic::ClientConfig::new(settings).unwrap();
    let client = quic::Endpoint::new(&near);
    let connect = || {
        let params = quic::ConnectParams::default();
        client.connect_named(&config, &to, "localhost", params, None).wait().unwrap()
    };
    let connection = connect();
    Raw {
        bulk: block_on(bulk(&connection, work)),
        pings: block_on(pings(&connection, work)),
        requests: requests(&connection, work),
        handshakes: {
            let begin = Instant::now();
            for _ in 0..work.handshakes {
                connect().close(0, "");
            }
            begin.elapsed()
        },
    }
}

fn context() -> Context {
    Context::builder().threads(1).build().unwrap()
}

async fn bulk(connection: &quic::Connection, work: Work) -> (Duration, Duration) {
    let chunk = Bytes::from(vec![7; 256 << 10]);
    let (begin, used) = (Instant::now(), cpu());
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write(Bytes::from_static(b"s")).await.unwrap();
    for _ in 0..work.bulk / chunk.len() {
        send.write(chunk.clone()).await.unwrap();
    }
    send.finish().unwrap();
    assert!(recv.read().await.unwrap().is_none());
    (begin.elapsed(), cpu() - used)
}

async fn pings(connection: &quic::Connection, work: Work) -> Vec<Duration> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write(Bytes::from_static(b"e")).await.unwrap();
    let mut all = Vec::with_capacity(work.pings);
    let ping = Bytes::from_static(&[1; 64]);
    for _ in 0..work.pings {
        let begin = Instant::now();
        send.write(ping.clone()).await.unwrap();
        let mut left = 64;
        while left > 0 {
            left -= recv.read().await.unwrap().expect("an answer").len();
        }
        all.push(begin.elapsed());
    }
    send.finish().unwrap();
    all
}

/// All tasks on one thread, as the others have it.
fn requests(connection: &quic::Connection, work: Work) -> Duration {
    let mut request = [1; 65];
    request[0] = b'e';
    let request = Bytes::copy_from_slice(&request);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let begin = Instant::now();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..work.at_once)
            .map(|_| {
                let (connection, request) = (connection.clone(), request.clone());
                tokio::spawn(async move {
                    for _ in 0..work.requests / work.at_once {
                        let (mut send, mut recv) = connection.open_bi().await.unwrap();
                        send.write_last(request.clone()).await.unwrap();
                        assert_eq!(recv.read_to_end(64).await.unwrap().len(), 64);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    begin.elapsed()
}
