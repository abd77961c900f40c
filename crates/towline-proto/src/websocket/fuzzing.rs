//! The bodies of the fuzz targets: any bytes may come, and what must hold is asserted.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

use super::handshake::{
    Acceptance, ClientOptions, ClientOutcome, Navigation, ProxyKind, ProxyOptions, ProxyTunnel,
    ServerEvent, ServerHandshake, ServerOptions, Target,
};
use super::{
    ChaChaEntropy, Compression, Config, Connection, DeflateConfig, DeflateParams, Delivery, Event,
    Kind, Message, Part, Role,
};

/// What came out of an end: whole messages, and the start of an unfinished one.
type Outcome = (Vec<(Kind, Vec<u8>)>, Option<Event>);

/// Feeds `data` in pieces and checks the ledgers at each step.
fn drive(mut end: Connection, data: &[u8], piece: usize) -> Outcome {
    let now = Instant::now();
    let mut messages: Vec<(Kind, Vec<u8>)> = Vec::new();
    let mut end_event = None;
    let mut credited = 0;
    let mut received = 0;
    let mut out = Vec::new();
    for chunk in data.chunks(piece.max(1)) {
        received += chunk.len();
        match end.direct() {
            Some(mut direct) => {
                direct.buffer.extend_from_slice(chunk);
                end.handle_direct(now, direct.buffer);
            }
            None => end.handle_input(now, BytesMut::from(chunk)),
        }
        while let Some(event) = end.poll_event() {
            assert!(end_event.is_none(), "an event after the end");
            match event {
                Event::Message(Message { kind, data }) => {
                    end.credit(data.len()).expect("as delivered");
                    messages.push((kind, data.to_vec()));
                }
                Event::Part(Part { kind, data, first, .. }) => {
                    end.credit(data.len()).expect("as delivered");
                    if first {
                        messages.push((kind, Vec::new()));
                    }
                    messages.last_mut().expect("a first part").1.extend_from_slice(&data);
                }
                Event::Closed(closed) => end_event = Some(Event::Closed(closed)),
                Event::CloseRequested(_)
                | Event::ShutdownWrite
                | Event::Writable
                | Event::Pong(_) => {}
            }
        }
        credited += end.take_credit();
        assert!(credited <= received);
        assert!(end.queued() < 64 * 1024, "answers are bounded");
        let written = end.poll_transmit(usize::MAX, &mut out);
        end.handle_written(now, written).expect("as handed out");
        out.clear();
    }
    end.handle_eof(now);
    while let Some(event) = end.poll_event() {
        if matches!(event, Event::Closed(_)) {
            assert!(end_event.replace(event).is_none(), "closed twice");
        }
    }
    credited += end.take_credit();
    assert_eq!(credited, received, "every byte is credited in the end");
    assert!(end_event.is_some(), "the end of the transport ends the connection");
    (messages, end_event)
}

fn config(streamed: bool) -> Config {
    Config {
        max_frame: 1 << 20,
        max_message: 1 << 20,
        delivery: if streamed { Delivery::Streamed { above: 100 } } else { Delivery::Whole },
        control_burst: u32::MAX,
        ..Config::default()
    }
}

fn entropy() -> Box<ChaChaEntropy> {
    Box::new(ChaChaEntropy::from_seed([0; 32]))
}

/// The first byte chooses the role, the second the size of pieces; the rest is the peer's.
///
/// However the bytes are cut, the outcome is the same.
pub fn frames(data: &[u8]) {
    let Some((&[flags, piece], data)) = data.split_first_chunk::<2>() else { return };
    let role = if flags & 1 == 0 { Role::Client } else { Role::Server };
    let run = |piece: usize, streamed: bool| {
        drive(
            Connection::new(role, Arc::new(config(streamed)), None, entropy(), Instant::now()),
            data,
            piece,
        )
    };
    let once = run(usize::MAX, false);
    assert_eq!(run(usize::from(piece) + 1, false), once);
    let streamed = run(usize::from(piece) + 1, true);
    assert_eq!(streamed.1, once.1);
    // Streamed, the beginning of an unfinished message may be there too.
    assert_eq!(streamed.0.get(..once.0.len()), Some(&once.0[..]));
}

/// The bytes are a compressed message, and then another one.
pub fn inflate(data: &[u8]) {
    let Some((&[flags, piece], data)) = data.split_first_chunk::<2>() else { return };
    let params = DeflateParams {
        client_no_context_takeover: flags & 1 != 0,
        server_no_context_takeover: flags & 2 != 0,
        client_window_bits: 8 + (flags >> 2) % 8,
        server_window_bits: 8 + (flags >> 5) % 8,
    };
    let opcode =
        if flags & 4 == 0 { super::frame::OpCode::Binary } else { super::frame::OpCode::Text };
    let mut stream = Vec::new();
    for half in data.chunks(data.len() / 2 + 1) {
        let header = super::frame::Header {
            fin: true,
            rsv1: true,
            opcode,
            mask: None,
            length: half.len() as u64,
        };
        let mut bytes = [0; super::frame::MAX_HEADER];
        let length = header.encode(&mut bytes);
        stream.extend_from_slice(bytes.get(..length).unwrap_or_default());
        stream.extend_from_slice(half);
    }
    let compression = Compression { config: DeflateConfig::default(), params };
    let run = |piece: usize| {
        let now = Instant::now();
        drive(
            Connection::new(
                Role::Client,
                Arc::new(config(false)),
                Some(&compression),
                entropy(),
                now,
            ),
            &stream,
            piece,
        )
    };
    let once = run(usize::MAX);
    assert!(once.0.iter().all(|(_, message)| message.len() <= 1 << 20));
    // Which of two faults is found first may depend on the cut, but not whether there is one.
    let pieces = run(usize::from(piece) + 1);
    let code = |outcome: &Outcome| matches!(&outcome.1, Some(Event::Closed(closed)) if closed.code.0 == 1006);
    assert_eq!((&pieces.0, code(&pieces)), (&once.0, code(&once)));
}

/// The bytes are a request, a response, a proxy's response, an address, and a list of extensions.
pub fn handshake(data: &[u8]) {
    let now = Instant::now();
    let Some((&piece, data)) = data.split_first() else { return };
    let piece = usize::from(piece) + 1;

    let options =
        ServerOptions { deflate: Some(DeflateConfig::default()), ..ServerOptions::default() };
    let mut server = ServerHandshake::new(Arc::new(options), now);
    for chunk in data.chunks(piece) {
        server.handle_input(now, BytesMut::from(chunk));
        if let Some(ServerEvent::Request(request)) = server.poll_event() {
            assert!(request.path.starts_with('/') || request.path.is_empty());
            assert!(server.accept(Acceptance::default()).is_ok_and(|opened| opened.is_some()));
        }
    }
    let mut answers = Vec::new();
    server.poll_transmit(&mut answers);

    let client_options = ClientOptions {
        deflate: Some(DeflateConfig::default()),
        subprotocols: vec!["a".into(), "b".into()],
        ..ClientOptions::default()
    };
    if let Ok(way) = Navigation::new("ws://h/", client_options)
        && let Ok(mut client) = way.handshake(&mut *entropy(), now)
    {
        for chunk in data.chunks(piece) {
            client.handle_input(now, BytesMut::from(chunk));
        }
        client.handle_eof(now);
        let outcome = client.poll_outcome();
        // Nobody guesses the accept key of a fixed nonce by chance, but a corpus may have it.
        if let Some(ClientOutcome::Open(opened)) = &outcome {
            assert_eq!(opened.response.status, 101);
        }
        assert!(outcome.is_some());
    }

    let text = String::from_utf8_lossy(data);
    if let Ok((target, _)) = Target::parse(&text) {
        for kind in [ProxyKind::Http, ProxyKind::Socks5] {
            let options = ProxyOptions { kind, ..ProxyOptions::default() };
            if let Ok(mut tunnel) = ProxyTunnel::new(&options, &target, now) {
                tunnel.handle_input(now, BytesMut::from(data));
                tunnel.handle_eof(now);
                assert!(tunnel.poll_outcome().is_some());
            }
        }
        assert!(target.path.starts_with('/'));
        assert!(target.path.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    if let Ok((base, _)) = Target::parse("wss://example.com/a/b?c")
        && let Ok(target) = base.resolve(&text)
    {
        assert!(target.path.starts_with('/'));
        assert!(target.path.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    if let Some(params) = DeflateParams::accept(&DeflateConfig::default(), &text) {
        // The answer that we give is one that a client of ours takes.
        let answer = params.answer();
        assert!(DeflateParams::confirm(Some(&DeflateConfig::default()), &answer).is_ok());
    }
}
