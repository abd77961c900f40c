//! `bats_protocol_*`.

use std::ffi::{c_char, c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use towline_core::{Connection, Endpoint, Listener};

use super::config::{self, Settings};
use super::connection::{self, Callback, Conn, Forward, event};
use super::context::{self, Held as Context};
use super::{bats_error_t, checked, kind, transport};
use crate::entry::{Failure, code, text};
use crate::gate::{Gate, User};
use crate::handle::Table;

pub type ListenFunction = unsafe extern "C" fn(conn: usize, event: c_int, user_data: *mut c_void);

const LISTEN_NEW_CONNECTION: c_int = 1;
const LISTEN_FAILED: c_int = 2;
const LISTEN_SUCCESS: c_int = 3;
const LISTEN_ACCEPTED_ERROR: c_int = 4;
const LISTEN_ALREADY_IN_LISTEN: c_int = 5;
const LISTEN_STOPPED: c_int = 6;

/// A listen callback with its gate.
struct Door {
    function: ListenFunction,
    user: User,
    gate: Gate,
}

impl Door {
    fn tell(&self, conn: usize, event: c_int) -> bool {
        let told = self.gate.enter(|| {
            // SAFETY: the application promised a function of this type.
            unsafe { (self.function)(conn, event, self.user.0) };
        });
        told.is_some()
    }
}

struct Listening {
    listener: Listener,
    door: Arc<Door>,
}

/// A protocol instance.
pub(super) struct Protocol {
    context: Arc<Context>,
    settings: Settings,
    listening: Mutex<Option<Listening>>,
    /// Its connections that have not been closed.
    connections: Mutex<Vec<Arc<Conn>>>,
}

static PROTOCOLS: Table<Protocol> = Table::new(kind::PROTOCOL, "BATS protocol");

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Protocol {
    /// Forgets a connection whose last event was delivered.
    pub(super) fn forget(&self, conn: &Arc<Conn>) {
        lock(&self.connections).retain(|known| !Arc::ptr_eq(known, conn));
    }

    fn keep(&self, conn: &Arc<Conn>) {
        lock(&self.connections).push(Arc::clone(conn));
    }

    fn endpoint(&self, config: &towline_core::Config) -> Result<Endpoint, Failure> {
        context::with(&self.context, |context| Ok(Endpoint::new(context, config)))
    }

    fn connect(self: &Arc<Self>, host: &str, port: u16, callback: Callback) -> Result<(), Failure> {
        let url = self.settings.mode.url(host, port, self.settings.compression);
        let same = lock(&self.connections)
            .iter()
            .find(|conn| conn.is_for(&url, &callback))
            .map(Arc::clone);
        if let Some(conn) = same {
            conn.tell(event::ALREADY_CONNECTED, &[]);
            return Err(Failure::new(
                code::TOWLINE_ERROR_CONNECT,
                "this connection is there already",
            ));
        }
        let conn =
            Conn::new(Arc::downgrade(self), self.settings.mode, Some(url.clone()), Some(callback))?;
        self.keep(&conn);
        let dialed = transport::client(&self.settings).and_then(|config| self.endpoint(&config));
        match dialed {
            Ok(endpoint) => conn.dial(&endpoint, &url),
            Err(failure) => {
                conn.fail(&failure.text);
                Err(failure)
            }
        }
    }

    fn listen(self: &Arc<Self>, host: &str, port: u16, door: &Arc<Door>) -> Result<(), Failure> {
        let mut listening = lock(&self.listening);
        if listening.is_some() {
            drop(listening);
            door.tell(0, LISTEN_ALREADY_IN_LISTEN);
            return Err(Failure::new(code::TOWLINE_ERROR_LISTEN, "the protocol listens already"));
        }
        let (inside, protocol) = (Arc::clone(door), Arc::downgrade(self));
        let admit = move |connection: &Connection| admit(&inside, &protocol, connection);
        let url = self.settings.mode.url(host, port, self.settings.compression);
        let started = transport::server(&self.settings)
            .and_then(|config| self.endpoint(&config))
            .and_then(|endpoint| Ok(endpoint.listen_with(url.as_str(), admit)?));
        match started {
            Ok(listener) => {
                *listening = Some(Listening { listener, door: Arc::clone(door) });
                drop(listening);
                door.tell(0, LISTEN_SUCCESS);
                Ok(())
            }
            Err(failure) => {
                drop(listening);
                door.tell(0, LISTEN_FAILED);
                Err(Failure::new(code::TOWLINE_ERROR_LISTEN, failure.text))
            }
        }
    }
}

/// Shows a connection that came in to the application.
fn admit(door: &Door, protocol: &Weak<Protocol>, connection: &Connection) -> Forward {
    let made = protocol.upgrade().and_then(|protocol| {
        let conn =
            Conn::new(Weak::clone(&Arc::downgrade(&protocol)), protocol.settings.mode, None, None);
        conn.ok().map(|conn| (protocol, conn))
    });
    let Some((protocol, conn)) = made else {
        door.tell(0, LISTEN_ACCEPTED_ERROR);
        connection.abort();
        return Forward::nobody();
    };
    conn.adopt(connection);
    protocol.keep(&conn);
    if !door.tell(conn.handle(), LISTEN_NEW_CONNECTION) {
        connection.abort();
        conn.shut();
        protocol.forget(&conn);
        return Forward::nobody();
    }
    if !conn.has_callback() {
        tracing::error!(
            "a connection came in and its listen callback set no connection callback: its events are lost"
        );
    }
    Forward::to(conn)
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_protocol_create(ctx: usize, config: usize) -> usize {
    let mut handle = 0;
    checked("bats_protocol_create", || {
        let context = context::get(ctx)?;
        let settings = config::get(config)?;
        settings.check()?;
        let protocol = Protocol {
            context,
            settings,
            listening: Mutex::default(),
            connections: Mutex::default(),
        };
        handle = PROTOCOLS
            .insert(Arc::new(protocol))
            .ok_or_else(|| Failure::internal("too many protocols"))?;
        Ok(())
    });
    handle
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_protocol_destroy(protocol: usize) {
    checked("bats_protocol_destroy", || {
        let protocol = PROTOCOLS.remove(protocol)?;
        let listening = lock(&protocol.listening).take();
        if let Some(listening) = listening {
            listening.door.gate.close();
        }
        // Whoever is being admitted now is in the list, or finds the gate closed.
        let connections = std::mem::take(&mut *lock(&protocol.connections));
        for conn in connections {
            conn.shut();
        }
        Ok(())
    });
}

/// The caller's address, or the configuration's.
///
/// # Safety
///
/// `given` is NULL or a C string.
unsafe fn host(given: *const c_char, configured: Option<&String>) -> Result<String, Failure> {
    match (given.is_null(), configured) {
        // SAFETY: not NULL, and by contract a C string.
        (false, _) => unsafe { text(given, "the address") }.map(str::to_owned),
        (true, Some(configured)) => Ok(configured.clone()),
        (true, None) => Err(Failure::invalid("no address was given, nor configured")),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bats_protocol_start_connect(
    protocol: usize,
    remote_addr: *const c_char,
    remote_port: u16,
    c_callback: Option<connection::Function>,
    user_data: *mut c_void,
) -> bats_error_t {
    checked("bats_protocol_start_connect", || {
        let function = c_callback.ok_or_else(|| Failure::invalid("the callback is NULL"))?;
        let protocol = PROTOCOLS.get(protocol)?;
        let settings = &protocol.settings;
        // SAFETY: the caller's promise.
        let host = unsafe { host(remote_addr, settings.remote_addr.as_ref()) }?;
        let none = || Failure::invalid("no port was given, nor configured");
        let port = Some(remote_port).filter(|port| *port != 0).or(settings.remote_port);
        let callback = Callback { function, user: User(user_data) };
        protocol.connect(&host, port.ok_or_else(none)?, callback).map_err(|failure| {
            match failure.code {
                code::TOWLINE_ERROR_STALE_HANDLE | code::TOWLINE_ERROR_INVALID_ARGUMENT => failure,
                _ => Failure::new(code::TOWLINE_ERROR_CONNECT, failure.text),
            }
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bats_protocol_start_listen(
    protocol: usize,
    local_addr: *const c_char,
    local_port: u16,
    c_callback: Option<ListenFunction>,
    user_data: *mut c_void,
) -> bats_error_t {
    checked("bats_protocol_start_listen", || {
        let function = c_callback.ok_or_else(|| Failure::invalid("the callback is NULL"))?;
        let protocol = PROTOCOLS.get(protocol)?;
        let settings = &protocol.settings;
        // SAFETY: the caller's promise.
        let host = unsafe { host(local_addr, settings.local_addr.as_ref()) }?;
        let port = Some(local_port).filter(|port| *port != 0).or(settings.local_port);
        let door = Door { function, user: User(user_data), gate: Gate::default() };
        protocol.listen(&host, port.unwrap_or(0), &Arc::new(door))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_protocol_stop_listen(protocol: usize) -> bats_error_t {
    checked("bats_protocol_stop_listen", || {
        let protocol = PROTOCOLS.get(protocol)?;
        let listening = lock(&protocol.listening).take();
        let none = || Failure::new(code::TOWLINE_ERROR_LISTEN, "the protocol does not listen");
        let Listening { listener, door } = listening.ok_or_else(none)?;
        drop(listener);
        door.tell(0, LISTEN_STOPPED);
        door.gate.close();
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_protocol_stop_connection(protocol: usize, conn: usize) -> bats_error_t {
    checked("bats_protocol_stop_connection", || {
        let protocol = PROTOCOLS.get(protocol)?;
        if conn != 0 {
            let conn = connection::get(conn)?;
            if !lock(&protocol.connections).iter().any(|known| Arc::ptr_eq(known, &conn)) {
                return Err(Failure::invalid("the connection belongs to another protocol"));
            }
            conn.close();
            return Ok(());
        }
        let all = lock(&protocol.connections).clone();
        for conn in all {
            conn.close();
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_protocol_get_listen_port(protocol: usize) -> u16 {
    let mut port = 0;
    checked("bats_protocol_get_listen_port", || {
        let protocol = PROTOCOLS.get(protocol)?;
        if let Some(listening) = &*lock(&protocol.listening) {
            port = listening.listener.local_address().port();
        }
        Ok(())
    });
    port
}
