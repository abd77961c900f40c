//! A router for datagrams, which changes addresses, loses packets, and worse.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// What happens to a datagram: nothing, or something that is done to it here; `false` drops it.
type Meddler = dyn Fn(Way, &mut Vec<u8>) -> bool + Send + Sync;

/// A router: the client behind it has one address to the server, until it is told to take another.
pub struct Router {
    inside: UdpSocket,
    client: Mutex<Option<SocketAddr>>,
    outside: Mutex<UdpSocket>,
    swallows: AtomicBool,
    meddler: Box<Meddler>,
}

impl Router {
    pub fn new(server: SocketAddr) -> Arc<Router> {
        Router::with(server, |_, _| true)
    }

    /// One that does something to the datagrams.
    pub fn with(
        server: SocketAddr,
        meddler: impl Fn(Way, &mut Vec<u8>) -> bool + Send + Sync + 'static,
    ) -> Arc<Router> {
        let router = Arc::new(Router {
            inside: UdpSocket::bind("127.0.0.1:0").unwrap(),
            client: Mutex::new(None),
            outside: Mutex::new(UdpSocket::bind("127.0.0.1:0").unwrap()),
            swallows: AtomicBool::new(false),
            meddler: Box::new(meddler),
        });
        router.listen_outside();
        let inner = Arc::clone(&router);
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = inner.inside.recv_from(&mut buffer) {
                *inner.client.lock().unwrap() = Some(from);
                if let Some(datagram) = inner.passes(Way::ToServer, &buffer[..length]) {
                    inner.outside.lock().unwrap().send_to(&datagram, server).ok();
                }
            }
        });
        router
    }

    fn listen_outside(self: &Arc<Router>) {
        let outside = self.outside.lock().unwrap().try_clone().unwrap();
        let router = Arc::clone(self);
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, _)) = outside.recv_from(&mut buffer) {
                let client = *router.client.lock().unwrap();
                if let Some(datagram) = router.passes(Way::ToClient, &buffer[..length])
                    && let Some(client) = client
                {
                    router.inside.send_to(&datagram, client).ok();
                }
            }
        });
    }

    fn passes(&self, way: Way, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut datagram = datagram.to_vec();
        let passes = !self.swallows.load(Ordering::Acquire) && (self.meddler)(way, &mut datagram);
        passes.then_some(datagram)
    }

    /// Everything goes out from another port from now on.
    pub fn rebind(self: &Arc<Router>) {
        self.rebind_to(Ipv4Addr::LOCALHOST.into());
    }

    /// Everything goes out from another address from now on.
    pub fn rebind_to(self: &Arc<Router>, address: IpAddr) {
        *self.outside.lock().unwrap() = UdpSocket::bind((address, 0)).unwrap();
        self.listen_outside();
    }

    /// From now on nothing comes through, or everything again.
    pub fn swallow(&self, swallows: bool) {
        self.swallows.store(swallows, Ordering::Release);
    }

    /// Where clients find the server.
    pub fn address(&self) -> SocketAddr {
        self.inside.local_addr().unwrap()
    }
}

/// Chances from a seed, for meddlers.
pub struct Dice(AtomicU64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(AtomicU64::new(seed))
    }

    /// Whether something happens that happens once in so many times.
    pub fn once_in(&self, times: u64) -> bool {
        // SplitMix64.
        let mut x = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)).is_multiple_of(times)
    }
}
