//! Configurations: options by number, checked as a whole.

use std::ffi::c_char;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use towline_core::socket_factory::SocketFactory;
use towline_core::tls::{ClientAuth, Pin};
use towline_core::websocket::SessionUse;
use towline_core::{Config, ConfigBuilder};

use super::kind;
use crate::entry::{Failure, code, put, run, text, towline_result, wanted};
use crate::handle::Table;

/// Options for endpoints. An endpoint takes a copy: changing or freeing the configuration later changes nothing for it.
pub struct towline_config {
    _opaque: [u8; 0],
}

/// Names an option of [`towline_config`].
pub type towline_option = i32;

/// The largest message to send or accept, bytes. 64 KiB to 1 GiB; default 16 MiB.
pub const TOWLINE_OPTION_MAX_MESSAGE_BYTES: towline_option = 1;
/// Larger messages travel in pieces of this size, bytes. 1 KiB to 256 KiB; default 64 KiB.
pub const TOWLINE_OPTION_FRAGMENT_BYTES: towline_option = 2;
/// What the peer may send on each lane beyond what was consumed here, bytes. 512 KiB to 1 GiB; default 4 MiB.
pub const TOWLINE_OPTION_RECEIVE_WINDOW_BYTES: towline_option = 3;
/// Bytes accepted for sending and not acknowledged, beyond which sending is TOWLINE_ERROR_FULL. 1 KiB to 16 GiB; default 16 MiB.
pub const TOWLINE_OPTION_SEND_QUEUE_BYTES: towline_option = 4;
/// The same in messages. 1 to 16,777,216; default 65,536.
pub const TOWLINE_OPTION_SEND_QUEUE_MESSAGES: towline_option = 5;
/// The longest that an acknowledgement waits, ms. 0 to 1,000; default 10.
pub const TOWLINE_OPTION_ACK_DELAY_MS: towline_option = 6;
/// Silence after which the peer is asked whether it is there, ms. 100 to 3,600,000; default 15,000.
pub const TOWLINE_OPTION_KEEP_ALIVE_MS: towline_option = 7;
/// Silence after which the wire counts as lost, ms. Above the keep-alive and at most 7,200,000; default 30,000.
pub const TOWLINE_OPTION_SILENCE_LIMIT_MS: towline_option = 8;
/// Whether a dialed connection redials, 0 or 1; default 1.
pub const TOWLINE_OPTION_REDIAL: towline_option = 9;
/// How long a connection without a wire is kept, ms. 1 to 2,592,000,000; default 60,000.
pub const TOWLINE_OPTION_REDIAL_WINDOW_MS: towline_option = 10;
/// How long an address of a list tries alone, ms. 1 to 60,000; default 250.
pub const TOWLINE_OPTION_HEAD_START_MS: towline_option = 11;
/// How long one attempt to connect may take, ms. 1 to 600,000; default 10,000.
pub const TOWLINE_OPTION_CONNECT_TIMEOUT_MS: towline_option = 12;
/// How long closing waits for acknowledgements, ms. 0 to 600,000; default 5,000.
pub const TOWLINE_OPTION_CLOSE_TIMEOUT_MS: towline_option = 13;
/// Connections that one listener serves at once. 1 to 16,777,216; default 65,536.
pub const TOWLINE_OPTION_MAX_CONNECTIONS: towline_option = 14;
/// A server asks clients for certificates: 0 no (the default), 1 and takes those without, 2 and refuses those without.
pub const TOWLINE_OPTION_CLIENT_AUTH: towline_option = 15;
/// WebSockets carry a Towline session: 0 when the peer can (the default), 1 or not at all, 2 never.
pub const TOWLINE_OPTION_WEBSOCKET_SESSION: towline_option = 16;
/// Whether TLS 1.2 is spoken with peers that have nothing better, 0 or 1; default 0.
pub const TOWLINE_OPTION_LEGACY_TLS12: towline_option = 17;
/// With 1 every certificate is accepted: whoever sits on the path can read and change everything. For tests only. Default 0.
pub const TOWLINE_OPTION_DANGEROUS_ACCEPT_ANY_CERTIFICATE: towline_option = 18;
/// Trust the system's roots beside what else is given, 0 or 1. They are trusted anyway when nothing else is given.
pub const TOWLINE_OPTION_SYSTEM_ROOTS: towline_option = 19;
/// Trust the certificate authorities of this PEM file, a path. May be set several times.
pub const TOWLINE_OPTION_CA_FILE: towline_option = 101;
/// Accept only peers with this certificate or key: its SHA-256 as `sha256:` and 64 hexadecimal digits, or base64. May be set several times.
pub const TOWLINE_OPTION_PIN: towline_option = 102;
/// The name that the server's certificate must have, where it differs from the URL's host.
pub const TOWLINE_OPTION_SERVER_NAME: towline_option = 103;
/// Application protocols (ALPN) to offer or accept, separated by commas, the preferred first.
pub const TOWLINE_OPTION_ALPN: towline_option = 104;
/// WebSocket subprotocols, separated by commas, the preferred first.
pub const TOWLINE_OPTION_WEBSOCKET_SUBPROTOCOLS: towline_option = 105;

/// A configuration being written.
pub(super) struct Held {
    builder: Mutex<ConfigBuilder>,
    /// It names the socket factory for all that it dials.
    has_factory: AtomicBool,
}

static CONFIGS: Table<Held> = Table::new(kind::CONFIG, "configuration");

/// What an endpoint is made with: the defaults when the configuration is NULL.
pub(super) fn build(config: *const towline_config) -> Result<Config, Failure> {
    let (mut builder, has_factory) = match config.is_null() {
        true => (Config::builder(), false),
        false => {
            let held = CONFIGS.get(config as usize)?;
            let builder = held.builder.lock().unwrap_or_else(PoisonError::into_inner).clone();
            (builder, held.has_factory.load(Ordering::Acquire))
        }
    };
    // What the configuration names itself comes first.
    if let Some(factory) = crate::c4socket::registered().filter(|_| !has_factory) {
        builder = builder.socket_factory(factory);
    }
    Ok(builder.build()?)
}

/// Changes a configuration.
pub(crate) fn change(
    config: *mut towline_config,
    action: impl FnOnce(ConfigBuilder) -> Result<ConfigBuilder, Failure>,
) -> towline_result {
    run(|| {
        let held = CONFIGS.get(config as usize)?;
        let mut builder = held.builder.lock().unwrap_or_else(PoisonError::into_inner);
        *builder = action(builder.clone())?;
        Ok(())
    })
}

/// Sets what opens everything that the configuration's endpoints dial.
pub(crate) fn set_socket_factory(
    config: *mut towline_config,
    factory: Arc<dyn SocketFactory>,
) -> towline_result {
    change(config, |builder| {
        CONFIGS.get(config as usize)?.has_factory.store(true, Ordering::Release);
        Ok(builder.socket_factory(factory))
    })
}

/// A configuration with the defaults. Free it with towline_config_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_config_new(config: *mut *mut towline_config) -> towline_result {
    run(|| {
        wanted(config, "config")?;
        let handle = CONFIGS.insert(Arc::new(Held {
            builder: Mutex::new(Config::builder()),
            has_factory: AtomicBool::new(false),
        }));
        let handle = handle.ok_or_else(|| Failure::internal("too many configurations"))?;
        // SAFETY: checked above, and by contract writable.
        unsafe { put(config, handle as *mut towline_config) };
        Ok(())
    })
}

/// Frees a configuration. Endpoints made from it stay.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_config_free(config: *mut towline_config) -> towline_result {
    run(|| CONFIGS.remove(config as usize).map(drop))
}

fn flag(value: u64) -> Result<bool, Failure> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(bad(format!("{other} is neither 0 nor 1"))),
    }
}

fn bad(text: impl std::fmt::Display) -> Failure {
    Failure::new(code::TOWLINE_ERROR_CONFIG, text)
}

/// Sets an option that is a number, below 100. Its range is checked when an endpoint is made, its kind here.
///
/// Any thread. Errors: TOWLINE_ERROR_CONFIG for an option that there is not, or one that is a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_config_set_number(
    config: *mut towline_config,
    option: towline_option,
    value: u64,
) -> towline_result {
    let ms = Duration::from_millis(value);
    let size = usize::try_from(value).unwrap_or(usize::MAX);
    change(config, |builder| {
        Ok(match option {
            TOWLINE_OPTION_MAX_MESSAGE_BYTES => builder.max_message(size),
            TOWLINE_OPTION_FRAGMENT_BYTES => builder.fragment_size(size),
            TOWLINE_OPTION_RECEIVE_WINDOW_BYTES => builder.receive_window(value),
            TOWLINE_OPTION_SEND_QUEUE_BYTES => builder.send_queue_bytes(size),
            TOWLINE_OPTION_SEND_QUEUE_MESSAGES => builder.send_queue_messages(size),
            TOWLINE_OPTION_ACK_DELAY_MS => builder.ack_delay(ms),
            TOWLINE_OPTION_KEEP_ALIVE_MS => builder.keep_alive(ms),
            TOWLINE_OPTION_SILENCE_LIMIT_MS => builder.silence_limit(ms),
            TOWLINE_OPTION_REDIAL => builder.redial(flag(value)?),
            TOWLINE_OPTION_REDIAL_WINDOW_MS => builder.redial_window(ms),
            TOWLINE_OPTION_HEAD_START_MS => builder.head_start(ms),
            TOWLINE_OPTION_CONNECT_TIMEOUT_MS => builder.connect_timeout(ms),
            TOWLINE_OPTION_CLOSE_TIMEOUT_MS => builder.close_timeout(ms),
            TOWLINE_OPTION_MAX_CONNECTIONS => builder.max_connections(size),
            TOWLINE_OPTION_CLIENT_AUTH => builder.client_auth(match value {
                0 => ClientAuth::None,
                1 => ClientAuth::Optional,
                2 => ClientAuth::Required,
                other => {
                    return Err(bad(format!("{other} is no client authentication; 0 to 2 are")));
                }
            }),
            TOWLINE_OPTION_WEBSOCKET_SESSION => builder.websocket_session(match value {
                0 => SessionUse::Prefer,
                1 => SessionUse::Require,
                2 => SessionUse::Never,
                other => return Err(bad(format!("{other} is no use of sessions; 0 to 2 are"))),
            }),
            TOWLINE_OPTION_LEGACY_TLS12 => match flag(value)? {
                true => builder.legacy_tls12(),
                false => return Err(bad("TLS 1.2 cannot be turned off again; it is off at first")),
            },
            TOWLINE_OPTION_DANGEROUS_ACCEPT_ANY_CERTIFICATE => match flag(value)? {
                true => builder.dangerous_accept_any_certificate(),
                false => return Err(bad("this cannot be taken back; make a new configuration")),
            },
            TOWLINE_OPTION_SYSTEM_ROOTS => match flag(value)? {
                true => builder.system_roots(),
                false => {
                    return Err(bad("this cannot be taken back; give a CA file or a pin instead"));
                }
            },
            other => return Err(bad(format!("{other} is no option with a number"))),
        })
    })
}

/// Sets an option that is a text, 101 and above. The text is copied.
///
/// Any thread. Errors: TOWLINE_ERROR_CONFIG for an option that there is not, or one that is a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_config_set_text(
    config: *mut towline_config,
    option: towline_option,
    value: *const c_char,
) -> towline_result {
    change(config, |builder| {
        // SAFETY: by contract NULL or a C string.
        let value = unsafe { text(value, "value") }?;
        let list = || value.split(',').map(str::trim).map(str::to_owned);
        Ok(match option {
            TOWLINE_OPTION_CA_FILE => builder.ca_file(value),
            TOWLINE_OPTION_PIN => builder.pin(value.parse::<Pin>().map_err(bad)?),
            TOWLINE_OPTION_SERVER_NAME => builder.server_name(value),
            TOWLINE_OPTION_ALPN => builder.alpn(list()),
            TOWLINE_OPTION_WEBSOCKET_SUBPROTOCOLS => builder.websocket_subprotocols(list()),
            other => return Err(bad(format!("{other} is no option with a text"))),
        })
    })
}

/// This side's certificate chain and private key, paths of PEM files. Servers on encrypted wires need them.
///
/// Any thread. The files are read when an endpoint is made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_config_set_certificate_files(
    config: *mut towline_config,
    chain: *const c_char,
    key: *const c_char,
) -> towline_result {
    change(config, |builder| {
        // SAFETY: by contract NULL or C strings.
        let (chain, key) = unsafe { (text(chain, "chain")?, text(key, "key")?) };
        Ok(builder.certificate_files(chain, key))
    })
}
