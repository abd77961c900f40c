//! Sessions that can be resumed: the server's memory of them, sealed tickets, and the client's store.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ring::aead;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::SecureRandom;
use rustls::server::{ProducesTickets, StoresServerSessions};
use rustls_pki_types::ServerName;

use super::Shared;
use super::secrets::{Secret, seal_key};
use crate::quic::clock::Clock;
use crate::quic::ticket::Ticket;

/// How long one ticket key seals; it opens for one period more. Tickets say that they live for one period.
const TICKET_PERIOD_SECS: u64 = 6 * 3600;

/// A server's memory of sessions, by the name that its tickets carry. Each is handed out once, which is also what keeps 0-RTT data from being replayed (RFC 8446 section 8.1).
#[derive(Debug)]
pub(in crate::quic) struct SessionCache {
    capacity: usize,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_name: HashMap<Vec<u8>, (Bytes, Vec<u8>)>,
    order: VecDeque<Vec<u8>>,
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("sessions", &self.by_name.len()).finish()
    }
}

impl SessionCache {
    pub(in crate::quic) fn new(capacity: usize) -> Self {
        Self { capacity, entries: Mutex::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Entries) -> T) -> T {
        work(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, name: Vec<u8>, data: Bytes, session: Vec<u8>) -> bool {
        if self.capacity == 0 {
            return false;
        }
        self.with(|entries| {
            while entries.order.len() >= self.capacity {
                if let Some(oldest) = entries.order.pop_front() {
                    entries.by_name.remove(&oldest);
                }
            }
            entries.order.push_back(name.clone());
            entries.by_name.insert(name, (data, session));
        });
        true
    }

    fn take(&self, name: &[u8]) -> Option<(Bytes, Vec<u8>)> {
        self.with(|entries| entries.by_name.remove(name))
    }

    /// The application's data of a session, leaving it where it is.
    pub(in crate::quic) fn peek(&self, name: &[u8]) -> Option<Bytes> {
        self.with(|entries| entries.by_name.get(name).map(|(data, _)| data.clone()))
    }
}

/// The cache as one connection uses it.
#[derive(Debug)]
pub(super) struct ConnectionSessions {
    pub(super) cache: Arc<SessionCache>,
    pub(super) shared: Arc<Shared>,
}

impl StoresServerSessions for ConnectionSessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.cache.put(key, self.shared.ticket_data(), value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.take(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        if self.shared.rejects_resumption() {
            return None;
        }
        let (data, session) = self.cache.take(key)?;
        self.shared.set_resumed_data(data);
        Some(session)
    }

    fn can_cache(&self) -> bool {
        self.cache.capacity > 0
    }
}

/// Seals sessions into tickets. Layout of a ticket: period (8 bytes), nonce (12), then sealed: length of the application's data (2), the data, the session.
pub(in crate::quic) struct TicketKeys {
    secret: Secret,
    clock: Arc<Clock>,
    random: &'static dyn SecureRandom,
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys")
    }
}

impl TicketKeys {
    const HEADER: usize = 8 + 12;

    pub(in crate::quic) fn new(
        secret: &Secret,
        clock: Arc<Clock>,
        random: &'static dyn SecureRandom,
    ) -> Self {
        Self { secret: Secret::new(&secret.derive::<32>(b"tickets", &[])), clock, random }
    }

    fn period(&self) -> u64 {
        self.clock.unix().as_secs() / TICKET_PERIOD_SECS
    }

    fn key(&self, period: u64) -> Option<aead::LessSafeKey> {
        seal_key(&self.secret.derive::<32>(b"ticket", &period.to_be_bytes())).ok()
    }

    fn seal(&self, data: &[u8], session: &[u8]) -> Option<Vec<u8>> {
        let period = self.period();
        let mut nonce = [0; 12];
        self.random.fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(Self::HEADER + 2 + data.len() + session.len() + 16);
        ticket.extend_from_slice(&period.to_be_bytes());
        ticket.extend_from_slice(&nonce);
        let mut sealed = Vec::with_capacity(2 + data.len() + session.len() + 16);
        sealed.extend_from_slice(&u16::try_from(data.len()).ok()?.to_be_bytes());
        sealed.extend_from_slice(data);
        sealed.extend_from_slice(session);
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        self.key(period)?.seal_in_place_append_tag(nonce, aead::Aad::empty(), &mut sealed).ok()?;
        ticket.extend_from_slice(&sealed);
        Some(ticket)
    }

    /// The application's data and the session in a ticket, if it is ours and not too old.
    pub(in crate::quic) fn open(&self, ticket: &[u8]) -> Option<(Bytes, Vec<u8>)> {
        let (&period, rest) = ticket.split_first_chunk::<8>()?;
        let (&nonce, sealed) = rest.split_first_chunk::<12>()?;
        let period = u64::from_be_bytes(period);
        let age = self.period().checked_sub(period)?;
        if age > 1 {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let opened =
            self.key(period)?.open_in_place(nonce, aead::Aad::empty(), &mut sealed).ok()?;
        let (&len, rest) = opened.split_first_chunk::<2>()?;
        let (data, session) = rest.split_at_checked(usize::from(u16::from_be_bytes(len)))?;
        Some((Bytes::copy_from_slice(data), session.to_vec()))
    }
}

/// The ticket keys as one connection uses them.
#[derive(Debug)]
pub(super) struct ConnectionTickets {
    pub(super) keys: Arc<TicketKeys>,
    pub(super) shared: Arc<Shared>,
}

impl ProducesTickets for ConnectionTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TICKET_PERIOD_SECS as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.seal(&self.shared.ticket_data(), plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        if self.shared.rejects_resumption() {
            return None;
        }
        let (data, session) = self.keys.open(cipher)?;
        self.shared.set_resumed_data(data);
        Some(session)
    }
}

/// A client's store as one connection uses it: the ticket that it was given first, and news of new ones.
#[derive(Debug)]
pub(super) struct ConnectionStore {
    pub(super) inner: Arc<dyn ClientSessionStore>,
    pub(super) given: Option<Ticket>,
    pub(super) shared: Arc<Shared>,
    pub(super) report: bool,
}

impl ClientSessionStore for ConnectionStore {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.inner.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.inner.kx_hint(server_name)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        if self.report {
            self.shared.add_ticket(Ticket::new(server_name, value));
        } else {
            self.inner.insert_tls13_ticket(server_name, value);
        }
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        match &self.given {
            Some(ticket) if ticket.server_name == *server_name => ticket.take(),
            Some(_) => None,
            None => self.inner.take_tls13_ticket(server_name),
        }
    }
}
