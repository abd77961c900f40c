//! The demo's bad network: three links between client and server, and what carries each wire over them.

use std::net::SocketAddr;
use std::time::Duration;

use towline::bats::{Pattern, Relay, RelayBuilder, RelaySettings};
use towline::tls::{Pin, SelfSigned};
use towline::{Config, ConfigBuilder, Wire};
use towline_sim::{Bitrate, LinkConfig, Loss, QueueLimit};

use crate::commands::link::{Proxy, Running, Spec, WINDOW, is_datagram};
use crate::failure::{Failure, Outcome};
use crate::tls::{LOCAL_NAMES, make_certificate};

/// Links between client and server.
pub(super) const HOPS: u32 = 3;
/// Of each link, in bits per second.
pub(super) const RATE: u64 = 20_000_000;
/// Of each link, one way.
pub(super) const DELAY: Duration = Duration::from_millis(5);
/// Of each link, both ways.
pub(super) const LOSS: f64 = 0.01;
/// What may wait in front of a link.
const QUEUE: Duration = Duration::from_millis(30);

/// One certificate for everybody, and whom to trust.
pub(super) struct Trust {
    made: SelfSigned,
}

impl Trust {
    pub(super) fn new() -> Outcome<Trust> {
        Ok(Trust { made: make_certificate(&LOCAL_NAMES)? })
    }

    pub(super) fn server(&self, builder: ConfigBuilder) -> Outcome<Config> {
        let SelfSigned { certificate_pem, key_pem, .. } = &self.made;
        Ok(builder.certificate_pem(certificate_pem.as_str(), key_pem.as_str()).build()?)
    }

    pub(super) fn client(&self, builder: ConfigBuilder) -> Outcome<Config> {
        let pin: Pin = self.made.pin;
        Ok(builder.pin(pin).build()?)
    }
}

/// What is between a client and a server; it is there as long as this is.
pub(super) struct Route {
    /// What the client connects to.
    pub(super) url: String,
    _links: Vec<Running>,
    _relays: Vec<Relay>,
}

impl Route {
    /// The way to `server`: coded packets pass a relay between any two links, all others see the links as one.
    pub(super) fn to(wire: Wire, server: SocketAddr, trust: &Trust, seed: u64) -> Outcome<Route> {
        match wire {
            Wire::Bats => Route::relayed(server, trust, seed),
            _ => Route::direct(wire, server, seed),
        }
    }

    fn direct(wire: Wire, server: SocketAddr, seed: u64) -> Outcome<Route> {
        let link = start(&shape(HOPS), server, is_datagram(wire.scheme()), seed)?;
        let url = format!("{}://{}", wire.scheme(), address(&link)?);
        Ok(Route { url, _links: vec![link], _relays: Vec::new() })
    }

    fn relayed(server: SocketAddr, trust: &Trust, seed: u64) -> Outcome<Route> {
        let (mut links, mut relays, mut via) = (Vec::new(), Vec::new(), Vec::new());
        for hop in 1..HOPS {
            let settings = RelaySettings { allow: vec![Pattern::ANY], ..RelaySettings::default() };
            let server = trust.server(Config::builder())?;
            let client = trust.client(Config::builder())?;
            let relay = RelayBuilder::new(&server, &client, settings).start("127.0.0.1:0", |_| ());
            let relay = relay.map_err(Failure::failed)?;
            let link = start(&shape(1), relay.local_address(), true, seed ^ u64::from(hop))?;
            via.push(address(&link)?.to_string());
            links.push(link);
            relays.push(relay);
        }
        let last = start(&shape(1), server, true, seed)?;
        let url = format!("bats://{}?via={}", address(&last)?, via.join(","));
        links.push(last);
        Ok(Route { url, _links: links, _relays: relays })
    }
}

/// So many links behind each other, as one.
fn shape(links: u32) -> LinkConfig {
    let loss = 1.0 - (1.0 - LOSS).powi(links as i32);
    LinkConfig::new()
        .rate(Bitrate::from_bps(RATE))
        .delay(DELAY * links)
        .loss(Loss::Independent(loss))
        .queue(QueueLimit::Time(QUEUE))
}

fn start(shape: &LinkConfig, target: SocketAddr, datagrams: bool, seed: u64) -> Outcome<Running> {
    let proxy = vec![Proxy { listen: SocketAddr::from(([127, 0, 0, 1], 0)), target }];
    let (udp, tcp) = if datagrams { (proxy, Vec::new()) } else { (Vec::new(), proxy) };
    let (up, down) = (shape.clone(), shape.clone());
    let spec = Spec { seed, up, down, udp, tcp, window: WINDOW, incidents: Vec::new() };
    Running::start(spec).map_err(Failure::failed)
}

fn address(link: &Running) -> Outcome<SocketAddr> {
    let address = link.udp.iter().chain(&link.tcp).next().copied();
    address.ok_or_else(|| Failure::failed("the link has no port"))
}
