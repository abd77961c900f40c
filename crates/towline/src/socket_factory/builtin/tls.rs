//! TLS over the sockets of another factory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use towline_proto::tls::{Event as TlsEvent, Stream};

use super::super::calls::{self, Job};
use super::super::{
    Arrival, Call, FactorySocket, Native, OpenOptions, Owner, Phase, RECEIVE_WINDOW, SocketFactory,
    SocketShared,
};
use crate::address::Address;
use crate::config::Config;
use crate::error::WireError;

/// Puts TLS over another factory's streams of bytes, with the trust, the identity and the pins of a configuration. An
/// address's host is the name that its certificate must have, unless the configuration has
/// [`server_name`](crate::ConfigBuilder::server_name).
///
/// Flow control passes through: bytes count as on their way when the lower factory says so of the records that hold them.
pub struct TlsSockets {
    inner: Arc<dyn SocketFactory>,
    config: Config,
}

impl TlsSockets {
    /// TLS over `inner`, which moves bytes.
    pub fn over(inner: Arc<dyn SocketFactory>, config: &Config) -> TlsSockets {
        TlsSockets { inner, config: config.clone() }
    }

    fn begin(
        &self,
        socket: &FactorySocket,
        native: Option<Native>,
        tls: Stream,
        name: &str,
        call: Call,
    ) {
        let max_message = self.config.0.plain.max_message;
        let inner = SocketShared::new(Arc::clone(&self.inner), native, max_message, None);
        let filter = Arc::new(Filter {
            outer: socket.clone(),
            inner: Arc::clone(&inner),
            name: name.into(),
            queue: Mutex::default(),
            state: Mutex::new(State {
                tls,
                arrivals: VecDeque::new(),
                uncredited: 0,
                acknowledged: 0,
                opened: false,
                over: false,
            }),
        });
        inner.watch();
        inner.set_owner(Arc::clone(&filter) as Arc<dyn Owner>);
        socket.set_native(Some(Arc::clone(&filter) as Native));
        inner.start(call);
    }
}

/// What a filter has to do.
enum Step {
    Look,
    Write(Bytes),
    Credit,
    Close,
    Dispose,
}

#[derive(Default)]
struct Queue {
    steps: VecDeque<Step>,
    running: bool,
}

struct State {
    tls: Stream,
    arrivals: VecDeque<Arrival>,
    /// Bytes from below whose processing has not been told there.
    uncredited: usize,
    /// Plain bytes that are on their way.
    acknowledged: u64,
    opened: bool,
    over: bool,
}

/// One socket's TLS, between the two. Its steps are made one at a time, by whoever is there.
struct Filter {
    outer: FactorySocket,
    inner: Arc<SocketShared>,
    name: Box<str>,
    queue: Mutex<Queue>,
    state: Mutex<State>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Owner for Filter {
    fn stirred(&self, _: &Arc<SocketShared>) {
        // Inside of a call of the lower factory's, in which nothing of ours may run.
        if self.push(Step::Look)
            && let Some(this) = self.outer.native_as::<Filter>()
        {
            calls::submit(this);
        }
    }
}

impl Job for Filter {
    fn run(self: Arc<Self>) {
        loop {
            let step = {
                let mut queue = lock(&self.queue);
                let step = queue.steps.pop_front();
                queue.running = step.is_some();
                step
            };
            let Some(step) = step else { return };
            self.step(step);
        }
    }
}

impl Filter {
    /// `true`: the caller has to see to it that the steps are made.
    fn push(&self, step: Step) -> bool {
        let mut queue = lock(&self.queue);
        queue.steps.push_back(step);
        !std::mem::replace(&mut queue.running, true)
    }

    fn post(self: &Arc<Self>, step: Step) {
        if self.push(step) {
            Arc::clone(self).run();
        }
    }

    fn step(&self, step: Step) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        match step {
            Step::Look => self.look(state),
            Step::Write(data) => {
                if let Err(error) = state.tls.seal(&[data]) {
                    self.fail(state, WireError::Tls(Arc::new(error)));
                }
                self.flush(state);
            }
            Step::Credit => self.credit(state),
            Step::Close => {
                if state.opened {
                    state.tls.close();
                    self.flush(state);
                }
                self.inner.close(1000, "");
                if self.inner.life().phase() == Phase::Closed {
                    self.outer.closed(Ok(())).ok();
                }
            }
            Step::Dispose => {
                self.inner.close(1000, "");
                self.inner.life().expire();
                self.inner.dispose();
            }
        }
    }

    /// Takes what the lower socket has.
    fn look(&self, state: &mut State) {
        self.inner.looking();
        let begun = self.inner.life().take(&mut state.arrivals);
        if begun {
            self.flush(state);
        }
        while let Some(arrival) = state.arrivals.pop_front() {
            state.uncredited += arrival.len();
            match arrival {
                Arrival::Data(data) if !state.over => self.open(state, data),
                Arrival::End if !state.over => match state.tls.handle_end() {
                    Ok(()) => {
                        self.outer.end_of_stream().ok();
                    }
                    Err(error) => self.fail(state, WireError::Tls(Arc::new(error))),
                },
                _ => {}
            }
        }
        self.flush(state);
        self.credit(state);
        let acknowledged = state.tls.plaintext_acked(self.inner.completed());
        let more = acknowledged.saturating_sub(state.acknowledged);
        if more > 0 {
            state.acknowledged = acknowledged;
            self.outer.completed_write(usize::try_from(more).unwrap_or(usize::MAX)).ok();
        }
        let outcome = {
            let life = self.inner.life();
            // What came since it was looked at goes first.
            life.outcome().filter(|_| !life.has_arrivals())
        };
        if let Some(outcome) = outcome {
            state.over = true;
            self.outer.closed(outcome).ok();
        }
    }

    fn open(&self, state: &mut State, data: Bytes) {
        let data = data.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let mut plain = Vec::new();
        let result = state.tls.handle_input(data, &mut plain);
        while let Some(event) = state.tls.poll_event() {
            if let TlsEvent::HandshakeDone(agreed) = event {
                let certificate = agreed.peer_certificates().first();
                let accepted =
                    certificate.is_none_or(|der| self.outer.got_peer_certificate(der, &self.name));
                if accepted {
                    state.opened = true;
                    self.outer.opened().ok();
                }
            }
        }
        for data in plain {
            self.outer.received(data).ok();
        }
        if let Err(error) = result {
            // The alert that tells the peer goes out with the next flush.
            self.fail(state, WireError::Tls(Arc::new(error)));
        }
    }

    fn fail(&self, state: &mut State, error: WireError) {
        if !std::mem::replace(&mut state.over, true) {
            self.flush(state);
            self.inner.close(1000, "");
            self.outer.closed(Err(error)).ok();
        }
    }

    fn flush(&self, state: &mut State) {
        let mut wire = Vec::new();
        state.tls.poll_transmit(&mut wire);
        for data in wire {
            self.inner.write(data, false);
        }
    }

    /// Lets the lower socket read on while the upper side keeps up.
    fn credit(&self, state: &mut State) {
        if state.uncredited > 0 && (state.over || self.outer.unprocessed() < RECEIVE_WINDOW) {
            self.inner.processed(std::mem::take(&mut state.uncredited));
        }
    }
}

fn post(socket: &FactorySocket, step: Step) {
    if let Some(filter) = socket.native_as::<Filter>() {
        filter.post(step);
    }
}

fn refuse(socket: &FactorySocket, error: WireError) {
    socket.closed(Err(error)).ok();
}

impl SocketFactory for TlsSockets {
    fn may_block(&self) -> bool {
        false
    }

    fn open(&self, socket: &FactorySocket, address: &Address, options: &OpenOptions) {
        let name = self.config.0.plain.server_name.as_deref().unwrap_or(address.host());
        let tls = self.config.tls_client().and_then(|config| {
            let mut tls = Stream::client(config, name).map_err(Arc::new)?;
            tls.track_acked();
            Ok(tls)
        });
        match tls {
            Ok(tls) => {
                let call = Call::Open(Box::new((address.clone(), options.clone())));
                self.begin(socket, None, tls, name, call);
            }
            Err(error) => refuse(socket, WireError::Tls(error)),
        }
    }

    fn attached(&self, socket: &FactorySocket) {
        let Some(config) = &self.config.0.tls.server else {
            let words = "TLS over a socket factory needs a certificate and a key to accept";
            return refuse(socket, WireError::Protocol(words.into()));
        };
        match Stream::server(config) {
            Ok(mut tls) => {
                tls.track_acked();
                self.begin(socket, socket.native(), tls, "", Call::Attached);
            }
            Err(error) => refuse(socket, WireError::Tls(Arc::new(error))),
        }
    }

    fn write(&self, socket: &FactorySocket, data: Bytes) {
        post(socket, Step::Write(data));
    }

    fn completed_receive(&self, socket: &FactorySocket, _: usize) {
        post(socket, Step::Credit);
    }

    fn close(&self, socket: &FactorySocket) {
        match socket.native_as::<Filter>() {
            Some(filter) => filter.post(Step::Close),
            None => {
                socket.closed(Ok(())).ok();
            }
        }
    }

    fn dispose(&self, socket: &FactorySocket) {
        post(socket, Step::Dispose);
        socket.set_native(None);
    }
}
