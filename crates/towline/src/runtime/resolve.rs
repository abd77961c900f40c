//! Host names are resolved on a thread of their own, because the system's resolver blocks.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::connection::Shared;

use super::Command;

/// Addresses of one host that are tried at most.
const ADDRESSES: usize = 8;

/// Names that are resolved at once, over all contexts of the process.
const LOOKUPS: usize = 64;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Looks a host up; its thread is told by [`Command::Resolved`].
pub(super) fn resolve(shared: Arc<Shared>, address: usize, host: String, port: u16) {
    let tell = move |shared: Arc<Shared>, result| {
        let thread = Arc::clone(&shared.thread);
        thread.command(Command::Resolved { shared, address, result }).ok();
    };
    if RUNNING.fetch_add(1, Ordering::AcqRel) >= LOOKUPS {
        RUNNING.fetch_sub(1, Ordering::AcqRel);
        return tell(shared, Err(std::io::Error::other("too many names are being resolved")));
    }
    let fallback = Arc::clone(&shared);
    let lookup = move || {
        let result = (host.as_str(), port)
            .to_socket_addrs()
            .map(|found| found.take(ADDRESSES).collect::<Vec<SocketAddr>>());
        RUNNING.fetch_sub(1, Ordering::AcqRel);
        tell(shared, result);
    };
    if let Err(error) = std::thread::Builder::new().name("towline-resolve".into()).spawn(lookup) {
        RUNNING.fetch_sub(1, Ordering::AcqRel);
        tell(fallback, Err(error));
    }
}
