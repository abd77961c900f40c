//! The emulated path: one link of the simulator in each direction, driven by the clock.
//!
//! The same seed and the same order of packets give the same losses, delays, copies and reorderings here and in the simulator: the code is
//! the same, only who moves its time differs.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use towline_sim::{Ecn, HostId, LinkConfig, LinkId, LinkStats, Network, NetworkError, SocketId};

/// Flows and connections at once.
pub(super) const MAX_CHANNELS: usize = 4096;

/// The first port of the simulated hosts.
const FIRST_PORT: u16 = 1024;

/// One end of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Where clients come in.
    Near,
    /// Where the targets are.
    Far,
}

/// A pair of simulated sockets: a flow or a connection.
pub(super) type Channel = usize;

/// A packet that has crossed the path.
pub(super) struct Arrival {
    pub(super) channel: Channel,
    /// The end at which it came out.
    pub(super) end: End,
    pub(super) ecn: Ecn,
    pub(super) data: Bytes,
    /// When it was due.
    pub(super) at: Instant,
}

/// Both directions of the link, and who uses it.
pub(super) struct Path {
    network: Network,
    hosts: [HostId; 2],
    links: [LinkId; 2],
    /// Near and far socket of each channel. The simulator numbers sockets in order, so a delivery tells its channel.
    sockets: Vec<[SocketId; 2]>,
    /// Released channels, the longest released first: what was on its way has arrived long since.
    free: VecDeque<Channel>,
}

const ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2))];

impl Path {
    /// `up` leads from clients to targets.
    pub(super) fn new(
        seed: u64,
        base: Instant,
        up: &LinkConfig,
        down: &LinkConfig,
    ) -> Result<Path, NetworkError> {
        let mut network = Network::new(seed, base);
        let near = network.add_host("near", ADDRESSES[0])?;
        let far = network.add_host("far", ADDRESSES[1])?;
        let links = [network.add_link(near, far, up)?, network.add_link(far, near, down)?];
        let (sockets, free) = (Vec::new(), VecDeque::new());
        Ok(Path { network, hosts: [near, far], links, sockets, free })
    }

    /// A channel, unless there are too many.
    pub(super) fn open(&mut self) -> Option<Channel> {
        if self.sockets.len() < MAX_CHANNELS {
            let channel = self.sockets.len();
            let port = FIRST_PORT.checked_add(u16::try_from(channel).ok()?)?;
            let mut bind = |end: usize| {
                self.network.bind(self.hosts[end], SocketAddr::new(ADDRESSES[end], port)).ok()
            };
            let pair = [bind(0)?, bind(1)?];
            self.sockets.push(pair);
            return Some(channel);
        }
        self.free.pop_front()
    }

    pub(super) fn release(&mut self, channel: Channel) {
        self.free.push_back(channel);
    }

    /// Hands a packet in at one end, now.
    pub(super) fn send(&mut self, channel: Channel, from: End, ecn: Ecn, data: Bytes) {
        let Some(pair) = self.sockets.get(channel) else { return };
        let (from, to) = match from {
            End::Near => (pair[0], pair[1]),
            End::Far => (pair[1], pair[0]),
        };
        if let Ok(to) = self.network.local_address(to) {
            // Both sockets are open as long as the network is.
            self.network.send(from, to, ecn, data).ok();
        }
    }

    pub(super) fn advance(&mut self, now: Instant) {
        self.network.advance_to(now);
    }

    /// When something may come out.
    pub(super) fn next(&self) -> Option<Instant> {
        self.network.next_event_time()
    }

    pub(super) fn poll(&mut self) -> Option<Arrival> {
        let delivery = self.network.poll_delivery()?;
        let index = delivery.socket.index();
        Some(Arrival {
            channel: index / 2,
            end: if index.is_multiple_of(2) { End::Near } else { End::Far },
            ecn: delivery.ecn,
            data: delivery.data,
            at: delivery.at,
        })
    }

    /// What the links counted: up, down.
    pub(super) fn stats(&mut self) -> [LinkStats; 2] {
        self.links.map(|link| self.network.link_stats(link).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use towline_sim::{Bitrate, Loss};

    use super::*;

    #[test]
    fn what_arrives_does_not_depend_on_when_the_clock_was_read() {
        let link = LinkConfig::new()
            .rate(Bitrate::from_mbps(10))
            .delay(Duration::from_millis(20))
            .jitter(Duration::from_millis(5))
            .jitter_reorders(true)
            .duplicate(0.05)
            .loss(Loss::Burst { mean: 0.1, burst: 3.0 });
        let base = Instant::now();
        let run = |turns: u64| {
            let mut path = Path::new(7, base, &link, &LinkConfig::new()).unwrap();
            let channel = path.open().unwrap();
            let mut arrived = Vec::new();
            for turn in 0..=2000 * turns {
                path.advance(base + Duration::from_micros(500 * turn / turns));
                if turn % turns == 0 && turn / turns < 1000 {
                    let number = (turn / turns).to_be_bytes().to_vec();
                    path.send(channel, End::Near, Ecn::NotCapable, number.into());
                }
                while let Some(arrival) = path.poll() {
                    assert_eq!((arrival.channel, arrival.end), (channel, End::Far));
                    arrived.push((arrival.at - base, arrival.data));
                }
            }
            arrived
        };
        let often = run(5);
        assert!((800..1100).contains(&often.len()), "{}", often.len());
        assert!(often == run(1));
    }

    #[test]
    fn channels_are_bounded_and_used_again_the_oldest_first() {
        let link = LinkConfig::new();
        let mut path = Path::new(1, Instant::now(), &link, &link).unwrap();
        for expected in 0..MAX_CHANNELS {
            assert_eq!(path.open(), Some(expected));
        }
        assert_eq!(path.open(), None);
        path.release(9);
        path.release(3);
        assert_eq!((path.open(), path.open(), path.open()), (Some(9), Some(3), None));
    }
}
