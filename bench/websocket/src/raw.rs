//! The least that an echo server can do: frames found, unmasked in place and sent back in one write per read.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::Sender;

pub fn serve(tell: Sender<SocketAddr>) {
    let listener = crate::listen(&tell);
    let mut stream = upgrade(&listener);
    let mut buffer = vec![0; 2 << 20];
    let mut out = Vec::with_capacity(2 << 20);
    let mut held = 0;
    loop {
        let read = match stream.read(&mut buffer[held..]) {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        held += read;
        let mut at = 0;
        while let Some((opcode, start, end)) = next(&buffer[at..held]) {
            let key: [u8; 4] = buffer[at + start - 4..at + start].try_into().expect("four bytes");
            let payload = &mut buffer[at + start..at + end];
            unmask(payload, key);
            if opcode == 8 {
                out.extend_from_slice(&[0x88, payload.len() as u8]);
                out.extend_from_slice(payload);
                stream.write_all(&out).ok();
                return;
            }
            head(&mut out, payload.len());
            out.extend_from_slice(payload);
            at += end;
        }
        buffer.copy_within(at..held, 0);
        held -= at;
        if stream.write_all(&out).is_err() {
            return;
        }
        out.clear();
    }
}

fn head(out: &mut Vec<u8>, size: usize) {
    out.push(0x82);
    match size {
        0..=125 => out.push(size as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(size as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
}

/// The opcode of the first frame and where its payload is, if all of it is there.
fn next(data: &[u8]) -> Option<(u8, usize, usize)> {
    let (opcode, short) = (data.first()? & 15, data.get(1)? & 127);
    let (length, start) = match short {
        126 => (usize::from(u16::from_be_bytes(data.get(2..4)?.try_into().ok()?)), 8),
        127 => (u64::from_be_bytes(data.get(2..10)?.try_into().ok()?) as usize, 14),
        short => (usize::from(short), 6),
    };
    (data.len() >= start + length).then_some((opcode, start, start + length))
}

fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let word = u64::from_ne_bytes([key, key].concat().try_into().expect("eight bytes"));
    let mut words = payload.chunks_exact_mut(8);
    for chunk in &mut words {
        let value = u64::from_ne_bytes(chunk.try_into().expect("eight bytes")) ^ word;
        chunk.copy_from_slice(&value.to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// Accepts and answers the one request that the client makes.
pub fn upgrade(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("the request");
        request.push(byte[0]);
    }
    // The answer to the key of RFC 6455 section 1.3.
    let response = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    stream.write_all(response.as_bytes()).expect("the response");
    stream
}
