//! Against tungstenite: the same bytes, the same messages; and each reads what the other writes.

use std::io::{Cursor, Read, Write};
use std::time::Instant;

use tungstenite::protocol::{Role as TheirRole, WebSocketConfig};
use tungstenite::{Message as Theirs, WebSocket};

use super::super::frame::OpCode;
use super::super::*;
use super::support::*;

/// A transport in memory.
struct Memory {
    input: Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl Read for Memory {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self.input.read(out)? {
            0 => Err(std::io::ErrorKind::WouldBlock.into()),
            length => Ok(length),
        }
    }
}

impl Write for Memory {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.output.write(data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn theirs(role: Role, input: Vec<u8>) -> WebSocket<Memory> {
    let role = if role == Role::Client { TheirRole::Client } else { TheirRole::Server };
    let memory = Memory { input: Cursor::new(input), output: Vec::new() };
    WebSocket::from_raw_socket(memory, role, Some(WebSocketConfig::default()))
}

/// The messages that tungstenite reads, and whether it failed (rather than waiting for more, or being closed).
fn their_reading(role: Role, input: &[u8]) -> (Vec<(Kind, Vec<u8>)>, bool) {
    let mut socket = theirs(role, input.to_vec());
    let mut out = Vec::new();
    loop {
        match socket.read() {
            Ok(Theirs::Text(text)) => out.push((Kind::Text, text.as_bytes().to_vec())),
            Ok(Theirs::Binary(data)) => out.push((Kind::Binary, data.to_vec())),
            Ok(_) => {}
            Err(tungstenite::Error::Io(error))
                if error.kind() == std::io::ErrorKind::WouldBlock =>
            {
                return (out, false);
            }
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                return (out, false);
            }
            Err(_) => return (out, true),
        }
    }
}

fn our_reading(role: Role, input: &[u8], dice: &mut Dice) -> (Vec<(Kind, Vec<u8>)>, bool) {
    let now = Instant::now();
    let mut end =
        end(role, &Config { control_burst: 1_000_000, receive_window: 1 << 40, ..quiet() }, now);
    let mut all = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((1 + dice.below(200)).min(rest.len()));
        feed(&mut end, now, piece);
        all.extend(events(&mut end));
        rest = after;
    }
    end.abort();
    all.extend(events(&mut end));
    let failed = matches!(
        close_in(&{
            let mut probe = end_after(role, input, now);
            written(&mut probe, now)
        }),
        Some((1002 | 1007 | 1008 | 1009, _))
    );
    (messages(&all), failed)
}

/// The same input at once, to see what it answers.
fn end_after(role: Role, input: &[u8], now: Instant) -> Connection {
    let mut end =
        end(role, &Config { control_burst: 1_000_000, receive_window: 1 << 40, ..quiet() }, now);
    feed(&mut end, now, input);
    let _ = events(&mut end);
    end
}

fn script(role: Role, dice: &mut Dice, corrupt: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..1 + dice.below(10) {
        let fragments = 1 + dice.below(3);
        let text = dice.one_in(2);
        for at in 0..fragments {
            if dice.one_in(4) {
                let size = dice.below(126);
                let opcode = if dice.one_in(2) { OpCode::Ping } else { OpCode::Pong };
                out.extend(frame_to(role, true, opcode, &dice.bytes(size)));
            }
            let size = [dice.below(10), dice.below(130), dice.below(3000), dice.below(70_000)]
                [dice.below(4)];
            let body = if text { dice.text(size).into_bytes() } else { dice.bytes(size) };
            let first = if text { OpCode::Text } else { OpCode::Binary };
            let opcode = if at == 0 { first } else { OpCode::Continuation };
            out.extend(frame_to(role, at + 1 == fragments, opcode, &body));
        }
    }
    if corrupt {
        for _ in 0..1 + dice.below(3) {
            let at = dice.below(out.len());
            out[at] = dice.next() as u8;
        }
    }
    out
}

#[test]
fn the_same_bytes_give_the_same_messages() {
    for seed in seeds(150) {
        let mut dice = Dice::new(seed);
        let role = if dice.one_in(2) { Role::Client } else { Role::Server };
        let bytes = script(role, &mut dice, false);
        let (ours, failed) = our_reading(role, &bytes, &mut dice);
        assert!(!failed);
        assert!((ours, false) == their_reading(role, &bytes), "seed {seed}");
    }
}

/// On broken input both deliver the same messages before the fault, as far as both see one.
///
/// Known differences, where we are stricter: lengths that are not minimal, and text that is cut off or broken in a
/// fragment before its end, which we refuse at once.
#[test]
fn broken_bytes_never_give_us_more_than_them() {
    let mut refused = 0;
    for seed in seeds(400) {
        let mut dice = Dice::new(seed);
        let role = if dice.one_in(2) { Role::Client } else { Role::Server };
        let bytes = script(role, &mut dice, true);
        let (ours, our_failure) = our_reading(role, &bytes, &mut dice);
        let (them, their_failure) = their_reading(role, &bytes);
        let common = ours.len().min(them.len());
        assert!(ours[..common] == them[..common], "seed {seed}");
        if our_failure {
            refused += 1;
            assert!(ours.len() <= them.len(), "seed {seed}: we deliver what they refuse");
        } else {
            assert!(!their_failure, "seed {seed}: they refuse what we accept");
            assert_eq!(ours.len(), them.len(), "seed {seed}");
        }
    }
    assert!(
        refused > 100 || std::env::var("WEBSOCKET_SEED").is_ok(),
        "only {refused} were broken enough"
    );
}

#[test]
fn they_read_what_we_write() {
    for seed in seeds(60) {
        let mut dice = Dice::new(seed);
        let role = if dice.one_in(2) { Role::Client } else { Role::Server };
        let peer = if role == Role::Client { Role::Server } else { Role::Client };
        let now = Instant::now();
        let fragment = dice.one_in(2).then(|| 125 + dice.below(2000));
        let mut end = end(role, &Config { fragment, max_queued: 1 << 40, ..quiet() }, now);
        let mut expected = Vec::new();
        for _ in 0..20 {
            let size = [dice.below(10), dice.below(130), dice.below(5000), dice.below(70_000)]
                [dice.below(4)];
            if dice.one_in(2) {
                let text = dice.text(size);
                end.send_text(&text).expect("sent");
                expected.push((Kind::Text, text.into_bytes()));
            } else {
                let data = dice.bytes(size);
                end.send(Kind::Binary, data.clone().into()).expect("sent");
                expected.push((Kind::Binary, data));
            }
            if dice.one_in(3) {
                end.ping(b"ping").expect("sent");
            }
        }
        end.close(now, CloseCode(3210), "over").expect("valid");
        let mut out = Vec::new();
        while end.poll_transmit(1 + dice.below(10_000), &mut out) > 0 {}
        let mut socket = theirs(peer, out.concat());
        let mut got = Vec::new();
        let close = loop {
            match socket.read().expect("valid") {
                Theirs::Text(text) => got.push((Kind::Text, text.as_bytes().to_vec())),
                Theirs::Binary(data) => got.push((Kind::Binary, data.to_vec())),
                Theirs::Close(frame) => break frame.expect("a body"),
                _ => {}
            }
        };
        assert!(got == expected, "seed {seed}");
        assert_eq!((u16::from(close.code), close.reason.as_str()), (3210, "over"));
        // And their echo ends our connection.
        let _ = socket.flush();
        let echo = std::mem::take(&mut socket.get_mut().output);
        let total = end.queued() as usize;
        end.handle_written(now, total).expect("as handed out");
        feed(&mut end, now, &echo);
        end.handle_eof(now);
        let events = events(&mut end);
        assert!(closed(&events).is_some_and(|closed| closed.clean), "seed {seed}: {events:?}");
    }
}
