//! The bodies of the fuzz targets. Seeds run through them as ordinary tests, too.

use std::net::SocketAddr;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};

use super::{
    ClientConfig, ClientSettings, ConnectParams, Decision, Ecn, Endpoint, EndpointConfig,
    EndpointEvent, Identity, Path, ServerConfig, ServerSettings, ServerVerification,
};

/// A throwaway certificate for `localhost` and its key, for nothing but this.
const CERTIFICATE: &[u8] = include_bytes!("fuzzing/certificate.der");
const KEY: &[u8] = include_bytes!("fuzzing/key.der");

struct World {
    now: Instant,
    ends: [Endpoint; 2],
    /// Datagrams of the two, most recent last: what is mutated.
    seen: Vec<(usize, Vec<u8>)>,
}

fn addresses() -> [SocketAddr; 2] {
    [SocketAddr::from(([192, 0, 2, 1], 1)), SocketAddr::from(([192, 0, 2, 2], 2))]
}

impl World {
    fn new(custom_verify: bool) -> Option<Self> {
        let now = Instant::now();
        let wall = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let alpn = [Bytes::from_static(b"fuzz")];
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(KEY.to_vec());
        let identity = Identity::new(vec![CERTIFICATE.to_vec().into()], key.into());
        let mut client = ClientSettings::new(ServerVerification::DangerousNone, alpn.clone());
        client.options.datagram_receive = true;
        client.options.custom_verify = custom_verify;
        let mut server = ServerSettings::new(identity, alpn);
        server.options.datagram_receive = true;
        server.options.datagram_states = true;
        let client = ClientConfig::new(client).ok()?;
        let server = ServerConfig::new(server).ok()?;
        let config = EndpointConfig::default();
        let mut ends = [
            Endpoint::new(config.clone(), None, [1; 32], now, wall).ok()?,
            Endpoint::new(config, Some(server), [2; 32], now, wall).ok()?,
        ];
        let [_, to] = addresses();
        ends.first_mut()?.connect(now, &client, to, "localhost", ConnectParams::default()).ok()?;
        Some(Self { now, ends, seen: Vec::new() })
    }

    fn path(to: usize) -> Path {
        let [client, server] = addresses();
        if to == 0 {
            Path { remote: server, local: client }
        } else {
            Path { remote: client, local: server }
        }
    }

    fn give(&mut self, to: usize, data: &[u8]) {
        if let Some(end) = self.ends.get_mut(to) {
            end.handle_datagram(self.now, Self::path(to), Some(Ecn::Ect0), BytesMut::from(data));
        }
    }

    /// Lets both work; what they send is delivered when `deliver` says so.
    fn work(&mut self, deliver: bool) {
        let mut buf = Vec::new();
        for _ in 0..8 {
            let mut moved = Vec::new();
            for (at, end) in self.ends.iter_mut().enumerate() {
                end.handle_timeout(self.now);
                while let Some(event) = end.poll_event(self.now) {
                    if let EndpointEvent::Incoming(incoming) = event {
                        let _ = end.decide(self.now, incoming.id, Decision::Accept);
                    }
                }
                while let Some(transmit) = end.poll_transmit(self.now, &mut buf) {
                    let bytes = buf.get(..transmit.size).unwrap_or_default();
                    let segment = transmit.segment_size.unwrap_or(bytes.len()).max(1);
                    moved.extend(bytes.chunks(segment).map(|datagram| (1 - at, datagram.to_vec())));
                }
            }
            if moved.is_empty() {
                return;
            }
            for (to, datagram) in moved {
                if deliver {
                    self.give(to, &datagram);
                }
                self.seen.push((to, datagram));
            }
            self.seen.drain(..self.seen.len().saturating_sub(64));
        }
    }
}

/// Reads commands out of the input: deliver, lose, wait, raw bytes, and mutations of datagrams that the two sent.
pub fn datagrams(mut input: &[u8]) {
    let mut take = |count: usize| {
        let (head, tail) = input.split_at_checked(count)?;
        input = tail;
        Some(head)
    };
    let Some(mut world) = take(1).and_then(|first| World::new(first.first()? & 1 == 1)) else {
        return;
    };
    for _ in 0..64 {
        let Some(&[command, a, b]) = take(3).and_then(|bytes| <&[u8; 3]>::try_from(bytes).ok())
        else {
            break;
        };
        match command % 5 {
            0 => world.work(true),
            1 => world.work(false),
            2 => world.now += Duration::from_millis(u64::from(a) * u64::from(b)),
            3 => {
                let Some(bytes) = take(usize::from(a) * 8).map(<[u8]>::to_vec) else { break };
                world.give(usize::from(b & 1), &bytes);
            }
            _ => {
                let Some((to, mut datagram)) =
                    world.seen.get(usize::from(a) % world.seen.len().max(1)).cloned()
                else {
                    continue;
                };
                for _ in 0..(b & 7) {
                    let Some(&[high, low, xor]) =
                        take(3).and_then(|bytes| <&[u8; 3]>::try_from(bytes).ok())
                    else {
                        break;
                    };
                    let place =
                        usize::from(u16::from_be_bytes([high, low])) % datagram.len().max(1);
                    if let Some(byte) = datagram.get_mut(place) {
                        *byte ^= xor;
                    }
                }
                world.give(if b & 8 == 0 { to } else { 1 - to }, &datagram);
            }
        }
    }
    world.work(true);
    let stats = world.ends.each_ref().map(Endpoint::stats);
    assert!(stats.iter().all(|stats| stats.connections <= 64 && stats.stateless_sent <= 10_000));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_without_mutations_connects() {
        let mut world = World::new(false).unwrap();
        world.work(true);
        assert_eq!(world.ends[1].stats().accepted, 1);
        assert_eq!(world.ends[1].stats().handshakes, 0);
    }

    #[test]
    fn seeds_run_through_the_target() {
        let mut state = 1_u64;
        for _ in 0..150 {
            let bytes: Vec<u8> = (0..600)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            datagrams(&bytes);
        }
    }
}
