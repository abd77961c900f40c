//! What the fuzz target `tls_input` runs, and its seeds as ordinary tests.

use super::{ClientConfig, Config, Error, ServerConfig, Stream, self_signed};
use bytes::{Bytes, BytesMut};
use std::sync::OnceLock;

fn configs() -> &'static (ClientConfig, ServerConfig) {
    static CONFIGS: OnceLock<(ClientConfig, ServerConfig)> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let own = self_signed(&["fuzz"]).expect("a certificate can be made");
        let server = Config::new()
            .identity_pem(own.certificate_pem, own.key_pem)
            .resumption(false)
            .legacy_tls12();
        let client = Config::new().pin(own.pin).resumption(false).legacy_tls12();
        (client.client().expect("valid options"), server.server().expect("valid options"))
    })
}

/// Both ends before anything was said.
fn pair() -> (Stream, Stream) {
    let (client, server) = configs();
    (
        Stream::client(client, "fuzz").expect("a valid name"),
        Stream::server(server).expect("a server"),
    )
}

fn feed(stream: &mut Stream, data: &[u8], chunk: usize) -> Result<(), Error> {
    let mut out = Vec::new();
    data.chunks(chunk).try_for_each(|chunk| stream.handle_input(BytesMut::from(chunk), &mut out))
}

fn transmitted(stream: &mut Stream) -> Vec<u8> {
    let mut out: Vec<Bytes> = Vec::new();
    stream.poll_transmit(&mut out);
    out.concat()
}

/// Feeds `data` behind its first two bytes, which choose how: garbage to a new client or server, garbage behind a handshake, or a real
/// exchange with bytes changed at places taken from the data.
///
/// # Panics
/// When an end panics, or takes a changed stream for the peer's word.
pub fn input(data: &[u8]) {
    let Some(([mode, chunk], rest)) = data.split_first_chunk() else { return };
    let chunk = usize::from(*chunk).max(1);
    let (mut client, mut server) = pair();
    match mode % 4 {
        0 => drop(feed(&mut client, rest, chunk)),
        1 => drop(feed(&mut server, rest, chunk)),
        2 => {
            for _ in 0..2 {
                let (hello, answer) = (transmitted(&mut client), transmitted(&mut server));
                let _ = feed(&mut server, &hello, chunk);
                let answer = [answer, transmitted(&mut server)].concat();
                let _ = feed(&mut client, &answer, chunk);
            }
            let hello = transmitted(&mut client);
            let _ = feed(&mut server, &hello, chunk);
            assert!(!client.is_handshaking() && !server.is_handshaking());
            for stream in [&mut client, &mut server] {
                let mut out = Vec::new();
                for chunk in rest.chunks(chunk) {
                    if stream.handle_input(BytesMut::from(chunk), &mut out).is_err() {
                        break;
                    }
                }
                assert!(out.is_empty(), "forged data was accepted");
                transmitted(stream);
                let _ = stream.handle_end();
            }
        }
        _ => {
            let mut changes = rest.chunks_exact(3);
            for _ in 0..3 {
                let mut bytes = transmitted(&mut client);
                change(&mut bytes, &mut changes);
                let _ = feed(&mut server, &bytes, chunk);
                let mut bytes = transmitted(&mut server);
                change(&mut bytes, &mut changes);
                let _ = feed(&mut client, &bytes, chunk);
            }
        }
    }
}

/// Flips one byte: two of place, one of pattern.
fn change(bytes: &mut [u8], changes: &mut std::slice::ChunksExact<'_, u8>) {
    if let Some([high, low, flip]) = changes.next()
        && let Some(byte) = bytes.get_mut(usize::from(u16::from_be_bytes([*high, *low])))
    {
        *byte ^= flip;
    }
}
