//! A socket of a factory: the handle that the factory has, and what Towline shares with it.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::calls::{self, Calls};
use super::life::{Arrival, Phase, Response};
use super::{Call, Framing, Life, SocketFactory};
use crate::error::WireError;

/// A factory's own state of a socket; see [`FactorySocket::set_native`].
pub type Native = Arc<dyn Any + Send + Sync>;

/// Why a factory's call was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The socket is closed. Not a breach: it may be Towline that closed it.
    #[error("the socket is closed")]
    Closed,
    /// The call does not fit the socket's state, such as a second `opened`, or a text message on a stream of bytes.
    #[error("the call does not fit the socket's state")]
    OutOfTurn,
    /// Something was received behind the end of the stream.
    #[error("the stream had ended")]
    AfterEnd,
    /// More bytes were completed than had been written.
    #[error("{completed} bytes completed of {outstanding} that were written")]
    Overcompleted {
        /// What the call said.
        completed: usize,
        /// What was written and not completed.
        outstanding: usize,
    },
    /// More bytes were handed up ahead of their processing than anybody keeps. The socket ends.
    #[error("more than {limit} bytes handed up ahead of their processing")]
    Overrun {
        /// The limit in bytes.
        limit: usize,
    },
    /// A message is above [`max_message`](crate::ConfigBuilder::max_message). The socket ends with 1009.
    #[error("a message of {bytes} bytes is above the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A text message is not UTF-8. The socket ends with 1007.
    #[error("a text message is not UTF-8")]
    NotText,
    /// A certificate check is configured, and the factory opened without showing a certificate. The socket ends with 1011.
    #[error("no certificate was shown")]
    NoCertificate,
}

/// Decides about a certificate that a factory was shown: DER, and the host's name.
pub(crate) type CertificateCheck = dyn Fn(&[u8], &str) -> bool + Send + Sync;

/// Whoever is on Towline's side of a socket.
pub(crate) trait Owner: Send + Sync {
    /// There is something to take from the socket.
    fn stirred(&self, socket: &Arc<SocketShared>);
}

/// What both sides of a socket share.
pub(crate) struct SocketShared {
    pub(super) id: u64,
    pub(super) factory: Arc<dyn SocketFactory>,
    pub(super) may_block: bool,
    framing: Framing,
    pub(super) calls: Mutex<Calls>,
    life: Mutex<Life>,
    native: Mutex<Option<Native>>,
    owner: Mutex<Option<Arc<dyn Owner>>>,
    /// The owner has been told that there is something, and has not looked.
    notified: AtomicBool,
    /// Bytes given to the factory, and those of which it said that they are on their way.
    written: AtomicU64,
    completed: AtomicU64,
    /// The owner wants to know when no more than [`LOW_WATER`] bytes are left.
    report: AtomicBool,
    watched: AtomicBool,
    check: Option<Arc<CertificateCheck>>,
    /// The place in the owner's table.
    pub(crate) slot: AtomicUsize,
}

/// With this many bytes or fewer left of what was written, there is room for more.
pub(crate) const LOW_WATER: u64 = 64 << 10;

impl SocketShared {
    pub(crate) fn new(
        factory: Arc<dyn SocketFactory>,
        native: Option<Native>,
        max_message: usize,
        check: Option<Arc<CertificateCheck>>,
    ) -> Arc<SocketShared> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let framing = factory.framing();
        Arc::new(SocketShared {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            may_block: factory.may_block(),
            factory,
            framing,
            calls: Mutex::default(),
            life: Mutex::new(Life::new(framing, max_message)),
            native: Mutex::new(native),
            owner: Mutex::new(None),
            notified: AtomicBool::new(false),
            written: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            report: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            check,
            slot: AtomicUsize::new(usize::MAX),
        })
    }

    pub(crate) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn has_outcome(&self) -> bool {
        self.life().outcome().is_some()
    }

    /// The owner wants to know of every completed write.
    #[cfg(any(feature = "websocket", feature = "tls"))]
    pub(crate) fn watch(&self) {
        self.watched.store(true, Ordering::SeqCst);
    }

    /// From now on this one is told.
    pub(crate) fn set_owner(self: &Arc<Self>, owner: Arc<dyn Owner>) {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
        // What was to be told before there was anybody to hear it.
        if self.notified.swap(false, Ordering::SeqCst) {
            self.tell_owner();
        }
    }

    /// Opens it, to an address or as one that came in.
    pub(crate) fn start(self: &Arc<Self>, call: Call) {
        {
            let mut life = self.life();
            life.start();
            life.wants_certificate = self.check.is_some()
                && match &call {
                    Call::Open(to) => to.0.wire().is_encrypted() && self.framing != Framing::Bytes,
                    _ => false,
                };
        }
        calls::make(self, call);
    }

    /// Has the factory send. `false`: it is not open, and nothing was sent.
    pub(crate) fn write(self: &Arc<Self>, data: Bytes, text: bool) -> bool {
        if !self.life().may_write() {
            return false;
        }
        self.written.fetch_add(data.len() as u64, Ordering::AcqRel);
        calls::make(self, if text { Call::WriteText(data) } else { Call::Write(data) });
        true
    }

    /// Tells the factory that so much has been processed.
    pub(crate) fn processed(self: &Arc<Self>, bytes: usize) {
        if bytes > 0 {
            let phase = {
                let mut life = self.life();
                life.processed(bytes);
                life.phase()
            };
            if phase != Phase::Closed {
                calls::make(self, Call::CompletedReceive(bytes));
            }
        }
    }

    /// Asks the factory to close, once. `true`: it was asked now.
    pub(crate) fn close(self: &Arc<Self>, status: u16, message: &str) -> bool {
        let ask = self.life().close();
        if ask {
            calls::make(
                self,
                match self.framing {
                    Framing::None => Call::RequestClose(status, message.to_owned()),
                    _ => Call::Close,
                },
            );
        }
        ask
    }

    /// The last call. Only for a socket that is closed, and once: the owner lets go of it then.
    pub(crate) fn dispose(self: &Arc<Self>) {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = None;
        calls::make(self, Call::Dispose);
    }

    /// Bytes written and not on their way.
    pub(crate) fn unwritten(&self) -> u64 {
        // In this order, so that it is never below zero.
        let completed = self.completed.load(Ordering::Acquire);
        self.written.load(Ordering::Acquire).saturating_sub(completed)
    }

    /// Bytes on their way, since the begin.
    pub(crate) fn completed(&self) -> u64 {
        self.completed.load(Ordering::Acquire)
    }

    /// Asks to be told when there is room.
    pub(crate) fn report_room(self: &Arc<Self>) {
        self.report.store(true, Ordering::SeqCst);
        if self.unwritten() <= LOW_WATER {
            self.tell_owner();
        }
    }

    /// Whether there is room, of which the owner asked to be told; once.
    pub(crate) fn take_room(&self) -> bool {
        self.unwritten() <= LOW_WATER && self.report.swap(false, Ordering::SeqCst)
    }

    /// The owner is about to look: what comes from now on is told anew.
    pub(crate) fn looking(&self) {
        self.notified.store(false, Ordering::SeqCst);
    }

    pub(super) fn failed(self: &Arc<Self>, error: WireError) {
        self.life().fail(error);
        self.tell_owner();
    }

    fn tell_owner(self: &Arc<Self>) {
        if self.notified.swap(true, Ordering::SeqCst) {
            return;
        }
        let owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(owner) = owner {
            owner.stirred(self);
        }
    }

    /// One call of the factory's.
    fn told(
        self: &Arc<Self>,
        what: &'static str,
        call: impl FnOnce(&mut Life) -> Result<(), SocketError>,
    ) -> Result<(), SocketError> {
        let result = call(&mut self.life());
        match &result {
            Ok(()) => {}
            Err(SocketError::Closed) => return result,
            Err(error) => self.log(what, error),
        }
        self.tell_owner();
        result
    }

    fn log(&self, what: &str, error: &SocketError) {
        tracing::error!(socket = self.id, %error, "a socket factory broke its contract in `{what}`");
    }
}

/// A socket, as its factory has it. Cloning it costs a reference count.
///
/// All methods may be called on any thread and from inside of the factory's own methods; none waits or calls the factory.
/// A call that comes too late is refused and does no harm.
#[derive(Clone)]
pub struct FactorySocket {
    pub(super) shared: Arc<SocketShared>,
}

impl From<Arc<SocketShared>> for FactorySocket {
    fn from(shared: Arc<SocketShared>) -> FactorySocket {
        FactorySocket { shared }
    }
}

impl FactorySocket {
    /// A number that no other socket of this process has or will have, for tables of handles.
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// The factory's own state of this socket.
    pub fn native(&self) -> Option<Native> {
        self.shared.native.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same, if it is of this type.
    pub fn native_as<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.native()?.downcast().ok()
    }

    /// Keeps the factory's own state of this socket; gives back the one before. It is dropped with the last handle, or
    /// by `set_native(None)` in [`SocketFactory::dispose`].
    pub fn set_native(&self, native: Option<Native>) -> Option<Native> {
        let mut kept = self.shared.native.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut kept, native)
    }

    /// Whether Towline still wants anything of this socket: not once it was asked to close, or is closed.
    pub fn is_wanted(&self) -> bool {
        matches!(self.shared.life().phase(), Phase::New | Phase::Opening | Phase::Open)
    }

    /// Has its owner look at what this side has to tell beside the contract.
    #[cfg(feature = "bats")]
    pub(crate) fn stir(&self) {
        self.shared.tell_owner();
    }

    /// Whether it moves whole messages.
    #[cfg(feature = "bats")]
    pub(crate) fn moves_messages(&self) -> bool {
        self.shared.framing == Framing::None
    }

    /// Whether it has been open.
    pub(super) fn was_opened(&self) -> bool {
        self.shared.life().was_open()
    }

    /// Bytes handed up of which `completed_receive` has not told. With [`RECEIVE_WINDOW`](super::RECEIVE_WINDOW) or more
    /// it is time to stop reading, until `completed_receive`.
    pub fn unprocessed(&self) -> usize {
        self.shared.life().unprocessed()
    }

    /// The socket is open. Ignored when Towline has given it up in the meantime.
    ///
    /// # Errors
    ///
    /// [`SocketError::OutOfTurn`] when it was open already.
    pub fn opened(&self) -> Result<(), SocketError> {
        self.shared.told("opened", Life::opened)
    }

    /// WebSocket: what the server answered to the handshake that the factory did, 101 or anything else; a server's own
    /// answer with [`Framing::WebSocketServer`]. Before `opened` or `closed`.
    ///
    /// # Errors
    ///
    /// [`SocketError::OutOfTurn`] when the socket is open already.
    pub fn got_http_response(
        &self,
        status: u16,
        headers: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Result<(), SocketError> {
        let headers =
            headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        self.shared.told("got_http_response", |life| match life.phase() {
            Phase::Closed => Err(SocketError::Closed),
            Phase::New | Phase::Opening | Phase::Closing => {
                life.response = Some(Response { status, headers });
                Ok(())
            }
            Phase::Open => Err(life.breach(SocketError::OutOfTurn)),
        })
    }

    /// TLS of the factory's own: the peer's certificate (DER) and the host's name that it was verified against. `true`: go
    /// on; `false`: the application's check
    /// ([`ConfigBuilder::socket_factory_certificate`](crate::ConfigBuilder::socket_factory_certificate)) does not want it,
    /// and the socket ends. The check runs on the calling thread. Before `opened`.
    pub fn got_peer_certificate(&self, der: &[u8], hostname: &str) -> bool {
        let accepted = self.shared.check.as_ref().is_none_or(|check| check(der, hostname));
        let mut life = self.shared.life();
        life.wants_certificate = false;
        if !accepted {
            let words = format!("the certificate of `{hostname}` was not accepted");
            life.fail(WireError::Protocol(words.into()));
            drop(life);
            self.shared.tell_owner();
        }
        accepted
    }

    /// So many bytes that were written are on their way.
    ///
    /// # Errors
    ///
    /// [`SocketError::Overcompleted`] when that is more than was written; it then counts as all of it.
    pub fn completed_write(&self, byte_count: usize) -> Result<(), SocketError> {
        let shared = &self.shared;
        let count = byte_count as u64;
        let outcome = shared.completed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |done| {
            let written = shared.written.load(Ordering::Acquire);
            Some(done.saturating_add(count).min(written))
        });
        let before = outcome.unwrap_or_else(|same| same);
        let outstanding = shared.written.load(Ordering::Acquire).saturating_sub(before);
        let reported = shared.report.load(Ordering::SeqCst) && shared.unwritten() <= LOW_WATER;
        if reported || shared.watched.load(Ordering::SeqCst) {
            shared.tell_owner();
        }
        if count > outstanding {
            let outstanding = usize::try_from(outstanding).unwrap_or(usize::MAX);
            let error = SocketError::Overcompleted { completed: byte_count, outstanding };
            let mut life = shared.life();
            if life.phase() == Phase::Closed {
                return Err(SocketError::Closed);
            }
            life.breach(error.clone());
            drop(life);
            shared.log("completed_write", &error);
            return Err(error);
        }
        Ok(())
    }

    /// Bytes came in, or a whole binary message ([`Framing::None`]), which may be empty. Without a copy where the memory is
    /// the caller's own.
    ///
    /// # Errors
    ///
    /// [`SocketError::Closed`]: nobody wants it any more. The others are breaches.
    pub fn received(&self, data: impl Into<Bytes>) -> Result<(), SocketError> {
        let data = data.into();
        if data.is_empty() && self.shared.framing != Framing::None {
            return Ok(());
        }
        self.shared.told("received", |life| life.received(Arrival::Data(data)))
    }

    /// A whole text message came in ([`Framing::None`] only).
    ///
    /// # Errors
    ///
    /// [`SocketError::NotText`] when it is not UTF-8, and those of [`FactorySocket::received`].
    pub fn received_text(&self, data: impl Into<Bytes>) -> Result<(), SocketError> {
        let data = data.into();
        self.shared.told("received_text", |life| life.received(Arrival::Text(data)))
    }

    /// The peer sends no more; what Towline writes may still be of use to it.
    ///
    /// # Errors
    ///
    /// Those of [`FactorySocket::received`].
    pub fn end_of_stream(&self) -> Result<(), SocketError> {
        self.shared.told("end_of_stream", |life| life.received(Arrival::End))
    }

    /// The peer wants to close ([`Framing::None`] only): the answer is a call of `request_close`, behind what is still to
    /// be written.
    ///
    /// # Errors
    ///
    /// Those of [`FactorySocket::received`].
    pub fn close_requested(&self, status: u16, message: &str) -> Result<(), SocketError> {
        let message = message.to_owned();
        self.shared.told("close_requested", |life| {
            life.received(Arrival::CloseRequested { status, message })
        })
    }

    /// The socket is closed: asked for, or by the peer (`Ok`), or by a failure, which the application is told of. What was
    /// received before is still delivered.
    ///
    /// # Errors
    ///
    /// [`SocketError::Closed`] when it was closed already, or when the factory took longer than
    /// [`CLOSE_BUDGET`](super::CLOSE_BUDGET) to say so.
    pub fn closed(&self, how: Result<(), WireError>) -> Result<(), SocketError> {
        self.shared.told("closed", |life| life.closed(how))
    }
}

impl fmt::Debug for FactorySocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = self.shared.life().phase();
        f.debug_struct("FactorySocket").field("id", &self.shared.id).field("phase", &phase).finish()
    }
}
