//! A network for datagrams that can swallow everything.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Between one client and one server; its threads end with it.
pub struct Wall {
    address: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    inside: UdpSocket,
    outside: UdpSocket,
    client: Mutex<Option<SocketAddr>>,
    swallows: AtomicBool,
    over: AtomicBool,
}

impl Wall {
    pub fn new(server: SocketAddr) -> Wall {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            // So that its thread sees the end.
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            socket
        };
        let inner = Arc::new(Inner {
            inside: socket(),
            outside: socket(),
            client: Mutex::new(None),
            swallows: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let address = inner.inside.local_addr().unwrap();
        let (up, down) = (Arc::clone(&inner), Arc::clone(&inner));
        std::thread::spawn(move || {
            up.carry(&up.inside, |data, from| {
                *up.client.lock().unwrap() = Some(from);
                up.outside.send_to(data, server).ok();
            });
        });
        std::thread::spawn(move || {
            down.carry(&down.outside, |data, _| {
                if let Some(client) = *down.client.lock().unwrap() {
                    down.inside.send_to(data, client).ok();
                }
            });
        });
        Wall { address, inner }
    }

    pub fn url(&self, wire: &str) -> String {
        format!("{wire}://{}", self.address)
    }

    /// From now on nothing passes, or everything does.
    pub fn swallow(&self, swallows: bool) {
        self.inner.swallows.store(swallows, Ordering::SeqCst);
    }
}

impl Inner {
    fn carry(&self, from: &UdpSocket, mut pass: impl FnMut(&[u8], SocketAddr)) {
        let mut buffer = [0; 65_536];
        while !self.over.load(Ordering::SeqCst) {
            if let Ok((length, peer)) = from.recv_from(&mut buffer)
                && !self.swallows.load(Ordering::SeqCst)
            {
                pass(&buffer[..length], peer);
            }
        }
    }
}

impl Drop for Wall {
    fn drop(&mut self) {
        self.inner.over.store(true, Ordering::SeqCst);
    }
}
