//! Host names are resolved on a thread of their own, because the system's resolver blocks.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::connection::Shared;

use super::Command;

/// Addresses of one host that are tried at most.
const ADDRESSES: usize = 8;

/// Names that are resolved at once, over all contexts of the process.
const LOOKUPS: usize = 64;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Looks a host up; its thread is told by [`Command::Resolved`].
pub(super) fn resolve(shared: Arc<Shared>, address: usize, host: String, port: u16) {
    lookup(host, port, move |result| {
        let thread = Arc::clone(&shared.thread);
        thread.command(Command::Resolved { shared, address, result }).ok();
    });
}

/// Looks a host up, and calls `tell` with its addresses, perhaps on another thread.
pub(super) fn lookup(
    host: String,
    port: u16,
    tell: impl FnOnce(std::io::Result<Vec<SocketAddr>>) + Send + 'static,
) {
    if RUNNING.fetch_add(1, Ordering::AcqRel) >= LOOKUPS {
        RUNNING.fetch_sub(1, Ordering::AcqRel);
        return tell(Err(std::io::Error::other("too many names are being resolved")));
    }
    // Whichever comes to tell it: the thread, or this one when there is no thread.
    let tell = Arc::new(Mutex::new(Some(tell)));
    let fallback = Arc::clone(&tell);
    let take = |tell: &Mutex<Option<_>>| tell.lock().unwrap_or_else(PoisonError::into_inner).take();
    let found = move || {
        let result = (host.as_str(), port)
            .to_socket_addrs()
            .map(|found| found.take(ADDRESSES).collect::<Vec<SocketAddr>>());
        RUNNING.fetch_sub(1, Ordering::AcqRel);
        if let Some(tell) = take(&tell) {
            tell(result);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("towline-resolve".into()).spawn(found) {
        RUNNING.fetch_sub(1, Ordering::AcqRel);
        if let Some(tell) = take(&fallback) {
            tell(Err(error));
        }
    }
}
