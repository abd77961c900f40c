//! Building a network: hosts, links, sockets, chains, and looking them up.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Action, Host, HostId, LinkId, Network, NetworkError, Socket, SocketId};
use crate::link::{Link, LinkConfig};
use crate::random::{Random, key};

/// First port that [`Network::bind`] gives for port 0 (RFC 6335 section 6).
const FIRST_PORT: u16 = 49152;

/// A row of hosts, each linked with the next in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// From the first to the last: one more than hops.
    pub hosts: Vec<HostId>,
    /// The links from each host to the next.
    pub forward: Vec<LinkId>,
    /// The links back: `backward[n]` leads from host `n + 1` to host `n`.
    pub backward: Vec<LinkId>,
}

impl Network {
    /// Adds a host with one address. The name decides, with the seed, the random streams of its links; it must
    /// not be taken.
    ///
    /// # Errors
    ///
    /// [`NetworkError::AddressInUse`] when another host has the address or the name.
    pub fn add_host(&mut self, name: &str, address: IpAddr) -> Result<HostId, NetworkError> {
        if self.hosts.iter().any(|host| host.name == name) {
            return Err(NetworkError::AddressInUse(format!("the name {name}")));
        }
        if self.host_of(address).is_some() {
            return Err(NetworkError::AddressInUse(address.to_string()));
        }
        let id = HostId(self.hosts.len() as u32);
        self.hosts.push(Host { name: name.to_owned(), address, next_port: FIRST_PORT });
        self.own_address(id.0, address)?;
        self.routes.invalidate();
        Ok(id)
    }

    /// Gives a host one more address.
    ///
    /// # Errors
    ///
    /// [`NetworkError::AddressInUse`] when another host has it.
    pub fn add_address(&mut self, host: HostId, address: IpAddr) -> Result<(), NetworkError> {
        self.host(host)?;
        self.own_address(host.0, address)
    }

    /// Links two hosts, both directions alike. Returns the link from `a` to `b` and the one back.
    ///
    /// # Errors
    ///
    /// As [`add_link`](Network::add_link).
    pub fn connect(
        &mut self,
        a: HostId,
        b: HostId,
        config: &LinkConfig,
    ) -> Result<(LinkId, LinkId), NetworkError> {
        Ok((self.add_link(a, b, config)?, self.add_link(b, a, config)?))
    }

    /// Adds one direction of a link; for asymmetric links call it twice. Several links between the same hosts
    /// are allowed (the routes prefer the first).
    ///
    /// # Errors
    ///
    /// [`NetworkError::Config`] when the configuration does not check; [`NetworkError::Unknown`].
    pub fn add_link(
        &mut self,
        from: HostId,
        to: HostId,
        config: &LinkConfig,
    ) -> Result<LinkId, NetworkError> {
        config.check()?;
        let names = [key(&self.host(from)?.name), key(&self.host(to)?.name)];
        let twins =
            self.links.iter().filter(|link| (link.from, link.to) == (from.0, to.0)).count() as u64;
        let seed = Random::keyed(self.seed, &[key("link"), names[0], names[1], twins]).next_u64();
        let id = LinkId(self.links.len() as u32);
        self.links.push(Link::new(id, from.0, to.0, config.clone(), seed, self.now));
        self.agenda.add();
        self.routes.invalidate();
        for (at, change) in &config.schedule {
            self.schedule(*at, Action::Link(id, change.clone()))?;
        }
        Ok(id)
    }

    /// Sends what goes from `at` to `target` over `link`, against the shortest way.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Unknown`], also when the link does not start at `at`.
    pub fn route(&mut self, at: HostId, target: HostId, link: LinkId) -> Result<(), NetworkError> {
        self.host(at)?;
        self.host(target)?;
        if self.link(link)?.from != at.0 {
            return Err(NetworkError::Unknown(format!("{link} starting at {at}")));
        }
        self.routes.set(at.0, target.0, link.0);
        Ok(())
    }

    /// Builds a chain of `hops` alike links in both directions. See [`chain_with`](Network::chain_with).
    ///
    /// # Errors
    ///
    /// As [`chain_with`](Network::chain_with).
    pub fn chain(&mut self, hops: usize, config: &LinkConfig) -> Result<Chain, NetworkError> {
        self.chain_with(hops, |_, _| config.clone())
    }

    /// Builds a chain of `hops` links. `config` is asked for each hop, counted from 0, and direction (`true`
    /// is away from the first host). Hosts are named `h0`, `h1`, .. with the addresses 10.0.0.1, 10.0.0.2, ..
    /// (10.0.1.0 after 10.0.0.255, and so on).
    ///
    /// # Errors
    ///
    /// [`NetworkError::AddressInUse`] when a host has one of these names or addresses (one chain per network);
    /// [`NetworkError::Config`].
    pub fn chain_with(
        &mut self,
        hops: usize,
        mut config: impl FnMut(usize, bool) -> LinkConfig,
    ) -> Result<Chain, NetworkError> {
        let base = u32::from(Ipv4Addr::new(10, 0, 0, 1));
        let hosts = (0..=hops as u32)
            .map(|n| self.add_host(&format!("h{n}"), Ipv4Addr::from(base.wrapping_add(n)).into()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut chain = Chain { hosts, forward: Vec::new(), backward: Vec::new() };
        for (hop, (a, b)) in chain.hosts.iter().zip(chain.hosts.iter().skip(1)).enumerate() {
            chain.forward.push(self.add_link(*a, *b, &config(hop, true))?);
            chain.backward.push(self.add_link(*b, *a, &config(hop, false))?);
        }
        Ok(chain)
    }

    /// Opens a socket at one of the host's addresses; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// [`NetworkError::NotLocal`], [`NetworkError::AddressInUse`], [`NetworkError::NoPort`].
    pub fn bind(&mut self, host: HostId, address: SocketAddr) -> Result<SocketId, NetworkError> {
        self.host(host)?;
        if self.host_of(address.ip()) != Some(host.0) {
            return Err(NetworkError::NotLocal(address));
        }
        let address = if address.port() == 0 { self.free_port(host, address)? } else { address };
        if self.bound(address).is_some() {
            return Err(NetworkError::AddressInUse(address.to_string()));
        }
        let id = SocketId(self.sockets.len() as u32);
        self.sockets.push(Socket { host: host.0, local: address, public: address, open: true });
        self.bind_public(address, id);
        Ok(id)
    }

    fn free_port(&mut self, host: HostId, address: SocketAddr) -> Result<SocketAddr, NetworkError> {
        for _ in FIRST_PORT..=u16::MAX {
            let Some(entry) = self.hosts.get_mut(host.index()) else { break };
            let candidate = SocketAddr::new(address.ip(), entry.next_port);
            entry.next_port = entry.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            if self.bound(candidate).is_none() {
                return Ok(candidate);
            }
        }
        Err(NetworkError::NoPort)
    }

    /// Closes a socket: what is on its way to it will be dropped as unbound. Its number is not used again.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Closed`], [`NetworkError::Unknown`].
    pub fn close(&mut self, id: SocketId) -> Result<(), NetworkError> {
        let public = self.socket(id)?.public;
        self.unbind(public);
        if let Some(socket) = self.sockets.get_mut(id.index()) {
            socket.open = false;
        }
        Ok(())
    }

    /// The address that the socket's owner knows.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Closed`], [`NetworkError::Unknown`].
    pub fn local_address(&self, id: SocketId) -> Result<SocketAddr, NetworkError> {
        self.socket(id).map(|socket| socket.local)
    }

    /// The address that others see: after a NAT.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Closed`], [`NetworkError::Unknown`].
    pub fn public_address(&self, id: SocketId) -> Result<SocketAddr, NetworkError> {
        self.socket(id).map(|socket| socket.public)
    }

    /// A host's first address.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Unknown`].
    pub fn address(&self, host: HostId) -> Result<IpAddr, NetworkError> {
        self.host(host).map(|host| host.address)
    }

    pub(super) fn host(&self, id: HostId) -> Result<&Host, NetworkError> {
        self.hosts.get(id.index()).ok_or_else(|| NetworkError::Unknown(id.to_string()))
    }

    pub(super) fn link(&self, id: LinkId) -> Result<&Link, NetworkError> {
        self.links.get(id.index()).ok_or_else(|| NetworkError::Unknown(id.to_string()))
    }

    pub(super) fn socket(&self, id: SocketId) -> Result<&Socket, NetworkError> {
        match self.sockets.get(id.index()) {
            Some(socket) if socket.open => Ok(socket),
            Some(_) => Err(NetworkError::Closed(id)),
            None => Err(NetworkError::Unknown(id.to_string())),
        }
    }

    pub(super) fn host_of(&self, address: IpAddr) -> Option<u32> {
        let at = self.addresses.binary_search_by_key(&address, |(address, _)| *address).ok()?;
        self.addresses.get(at).map(|(_, host)| *host)
    }

    pub(super) fn own_address(&mut self, host: u32, address: IpAddr) -> Result<(), NetworkError> {
        match self.addresses.binary_search_by_key(&address, |(address, _)| *address) {
            Ok(at) if self.addresses.get(at).is_some_and(|(_, owner)| *owner == host) => Ok(()),
            Ok(_) => Err(NetworkError::AddressInUse(address.to_string())),
            Err(at) => {
                self.addresses.insert(at, (address, host));
                Ok(())
            }
        }
    }

    /// The open socket with this public address.
    pub fn bound(&self, address: SocketAddr) -> Option<SocketId> {
        let at = self.bindings.binary_search_by_key(&address, |(address, _)| *address).ok()?;
        self.bindings.get(at).map(|(_, socket)| SocketId(*socket))
    }

    pub(super) fn bind_public(&mut self, address: SocketAddr, id: SocketId) {
        if let Err(at) = self.bindings.binary_search_by_key(&address, |(address, _)| *address) {
            self.bindings.insert(at, (address, id.0));
        }
    }

    pub(super) fn unbind(&mut self, address: SocketAddr) {
        if let Ok(at) = self.bindings.binary_search_by_key(&address, |(address, _)| *address) {
            self.bindings.remove(at);
        }
    }
}
