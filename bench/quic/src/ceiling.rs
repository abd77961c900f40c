//! What the system and the cipher leave: packets sealed, sent with GSO, received with GRO, opened.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Instant;

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::announce;
use crate::meter::Meter;
use crate::work::{Run, print_bulk};

/// A full packet: a short header, the bytes of a stream, a tag.
const PACKET: usize = 1452;
const HEADER: usize = 13;
const TAG: usize = 16;
/// What of it is the application's, beside a frame's type, stream, offset and length.
const PAYLOAD: usize = PACKET - HEADER - TAG - 8;
const PACKETS: usize = 65_000 / PACKET;
/// Trains under way: no more than a receive buffer takes.
const AHEAD: u64 = 3;

fn key() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("a key of 16 bytes"))
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn socket() -> (UdpSocket, UdpSocketState) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let state = UdpSocketState::new(UdpSockRef::from(&socket)).expect("a socket's state");
    socket.set_nonblocking(false).expect("a mode");
    (socket, state)
}

/// Opens packets, and tells how many trains' worth it has opened.
pub fn serve(_: &Path) {
    let (socket, state) = socket();
    announce(socket.local_addr().expect("an address").port());
    let key = key();
    let mut buffer = vec![0; 64 << 10];
    let mut opened = 0u64;
    loop {
        let mut meta = [RecvMeta::default()];
        let slices = &mut [IoSliceMut::new(&mut buffer)];
        if state.recv(UdpSockRef::from(&socket), slices, &mut meta).is_err() {
            continue;
        }
        let [meta] = meta;
        for packet in buffer[..meta.len].chunks_mut(meta.stride) {
            let (header, sealed) = packet.split_at_mut(HEADER);
            let number = u64::from_be_bytes(header[..8].try_into().expect("eight bytes"));
            key.open_in_place(nonce(number), Aad::from(&*header), sealed)
                .expect("a packet of ours");
            opened += 1;
        }
        if opened.is_multiple_of(PACKETS as u64) {
            socket.send_to(&(opened / PACKETS as u64).to_be_bytes(), meta.addr).expect("an answer");
        }
    }
}

pub fn drive(run: &Run) {
    let (socket, state) = socket();
    let sender = Sender { socket, state, key: key(), to: run.to };
    let source = vec![7; PAYLOAD + 8];
    let (mut train, mut sent, mut told, mut number) = (vec![0; PACKETS * PACKET], 0u64, 0u64, 0u64);
    let (meter, begin) = (Meter::start(run.server), Instant::now());
    while begin.elapsed() < run.lasts() {
        sender.send(&mut train, &source, &mut number);
        sent += 1;
        while sent - told > AHEAD {
            let mut answer = [0; 8];
            sender.socket.recv(&mut answer).expect("an answer");
            told = u64::from_be_bytes(answer);
        }
    }
    print_bulk(told * (PACKETS * PAYLOAD) as u64, meter.stop());
}

struct Sender {
    socket: UdpSocket,
    state: UdpSocketState,
    key: LessSafeKey,
    to: SocketAddr,
}

impl Sender {
    fn send(&self, train: &mut [u8], source: &[u8], number: &mut u64) {
        for packet in train.chunks_mut(PACKET) {
            let (header, rest) = packet.split_at_mut(HEADER);
            let (text, tag) = rest.split_at_mut(PAYLOAD + 8);
            header[..8].copy_from_slice(&number.to_be_bytes());
            text.copy_from_slice(source);
            let sealed =
                self.key.seal_in_place_separate_tag(nonce(*number), Aad::from(&*header), text);
            tag.copy_from_slice(sealed.expect("a packet").as_ref());
            *number += 1;
        }
        let transmit = Transmit {
            destination: self.to,
            ecn: None,
            contents: train,
            segment_size: Some(PACKET),
            src_ip: None,
        };
        self.state.try_send(UdpSockRef::from(&self.socket), &transmit).expect("room");
    }
}
