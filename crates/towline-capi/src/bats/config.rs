//! `bats_config_*`.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int};
use std::sync::{Arc, Mutex, PoisonError};

use super::transport::Mode;
use super::{bats_error_t, checked, kind};
use crate::entry::{Failure, code, text};
use crate::handle::Table;

/// What a program asked for.
#[derive(Clone, Default)]
pub(super) struct Settings {
    pub(super) mode: Mode,
    pub(super) timeout_ms: Option<u64>,
    pub(super) local_addr: Option<String>,
    pub(super) local_port: Option<u16>,
    pub(super) remote_addr: Option<String>,
    pub(super) remote_port: Option<u16>,
    pub(super) congestion_control: Option<c_int>,
    pub(super) cert_file: Option<String>,
    pub(super) key_file: Option<String>,
    pub(super) encryption: Option<bool>,
    pub(super) compression: bool,
    pub(super) frame_type: Option<c_int>,
    /// What was asked for and is not offered, by the setter's name; whoever uses these settings is refused.
    refused: BTreeMap<&'static str, String>,
}

const CC_NONE: c_int = 0;
const CC_BBRV3: c_int = 3;
const FRAME_TRANSPARENT: c_int = 0;
const FRAME_HEADER_V1: c_int = 2;

impl Settings {
    /// Whether everything that was asked for can be had, together.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if let Some((_, text)) = self.refused.first_key_value() {
            return Err(refusal(text));
        }
        let transparent = self.mode == Mode::Transparent;
        if self.encryption == Some(transparent) {
            return Err(refusal(match transparent {
                true => "transparent mode has no encryption",
                false => "this mode is always encrypted; encryption cannot be turned off",
            }));
        }
        if self.compression && transparent {
            return Err(refusal("transparent mode compresses nothing"));
        }
        if self.congestion_control.is_some_and(|cc| (cc == CC_NONE) != transparent) {
            return Err(refusal("this mode does not offer this congestion control"));
        }
        if self.frame_type.is_some_and(|frame| (frame == FRAME_TRANSPARENT) != transparent) {
            return Err(refusal("this mode does not offer this frame type"));
        }
        Ok(())
    }
}

fn refusal(text: impl std::fmt::Display) -> Failure {
    Failure::new(code::TOWLINE_ERROR_CONFIG, text)
}

static CONFIGS: Table<Mutex<Settings>> = Table::new(kind::CONFIG, "BATS configuration");

/// A copy of the settings behind a handle.
pub(super) fn get(config: usize) -> Result<Settings, Failure> {
    let held = CONFIGS.get(config)?;
    let settings = held.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(settings.clone())
}

/// Changes a setting; what is refused stays refused until it is set to something that is offered.
fn change(
    config: usize,
    call: &'static str,
    action: impl FnOnce(&mut Settings) -> Result<(), Failure>,
) -> bats_error_t {
    checked(call, || {
        let held = CONFIGS.get(config)?;
        let mut settings = held.lock().unwrap_or_else(PoisonError::into_inner);
        match action(&mut settings) {
            Ok(()) => {
                settings.refused.remove(call);
                Ok(())
            }
            Err(failure) => {
                settings.refused.insert(call, failure.text.clone());
                Err(failure)
            }
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_config_create() -> usize {
    crate::log::install();
    CONFIGS.insert(Arc::new(Mutex::default())).unwrap_or(0)
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_config_destroy(config: usize) {
    checked("bats_config_destroy", || CONFIGS.remove(config).map(drop));
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_config_set_mode(config: usize, mode: c_int) -> bats_error_t {
    change(config, "bats_config_set_mode", |settings| {
        let known = Mode::from_number(mode);
        settings.mode = known.ok_or_else(|| refusal(format!("{mode} is no mode; 0 to 3 are")))?;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_config_set_timeout(config: usize, timeout: c_int) -> bats_error_t {
    change(config, "bats_config_set_timeout", |settings| match timeout {
        1..=600_000 => {
            settings.timeout_ms = u64::try_from(timeout).ok();
            Ok(())
        }
        _ => Err(refusal(format!("the timeout is {timeout} ms; it must be 1 to 600,000"))),
    })
}

/// A text setting.
///
/// # Safety
///
/// `value` is NULL or a C string.
unsafe fn set_text(
    config: usize,
    call: &'static str,
    value: *const c_char,
    place: impl FnOnce(&mut Settings) -> &mut Option<String>,
) -> bats_error_t {
    change(config, call, |settings| {
        // SAFETY: the caller's promise.
        let value = unsafe { text(value, "the text") }?;
        *place(settings) = Some(value.to_owned());
        Ok(())
    })
}

/// A port, of which 0 means any.
fn set_port(
    config: usize,
    call: &'static str,
    value: c_int,
    lowest: u16,
    place: impl FnOnce(&mut Settings) -> &mut Option<u16>,
) -> bats_error_t {
    change(config, call, |settings| {
        let port = u16::try_from(value).ok().filter(|port| *port >= lowest);
        let port = port.ok_or_else(|| refusal(format!("{value} is no port")))?;
        *place(settings) = Some(port);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bats_config_set_local_addr(
    config: usize,
    local_addr: *const c_char,
) -> bats_error_t {
    // SAFETY: the caller's promise.
    unsafe {
        set_text(config, "bats_config_set_local_addr", local_addr, |settings| {
            &mut settings.local_addr
        })
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_config_set_local_port(config: usize, local_port: c_int) -> bats_error_t {
    set_port(config, "bats_config_set_local_port", local_port, 0, |settings| {
        &mut settings.local_port
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bats_config_set_remote_addr(
    config: usize,
    remote_addr: *const c_char,
) -> bats_error_t {
    let call = "bats_config_set_remote_addr";
    // SAFETY: the caller's promise.
    unsafe { set_text(config, call, remote_addr, |settings| &mut settings.remote_addr) }
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_config_set_remote_port(config: usize, remote_port: c_int) -> bats_error_t {
    set_port(config, "bats_config_set_remote_port", remote_port, 1, |settings| {
        &mut settings.remote_port
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_config_set_cc(config: usize, cc: c_int) -> bats_error_t {
    change(config, "bats_config_set_cc", |settings| match cc {
        CC_NONE | CC_BBRV3 => {
            settings.congestion_control = Some(cc);
            Ok(())
        }
        1 | 2 | 4 => Err(refusal("this congestion control is not offered; BBRv3 is")),
        _ => Err(refusal(format!("{cc} is no congestion control"))),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bats_config_cert_file(
    config: usize,
    cert_file: *const c_char,
) -> bats_error_t {
    // SAFETY: the caller's promise.
    unsafe {
        set_text(config, "bats_config_cert_file", cert_file, |settings| &mut settings.cert_file)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bats_config_key_file(
    config: usize,
    key_file: *const c_char,
) -> bats_error_t {
    // SAFETY: the caller's promise.
    unsafe { set_text(config, "bats_config_key_file", key_file, |settings| &mut settings.key_file) }
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_config_enable_compression(config: usize, enable: c_int) -> bats_error_t {
    change(config, "bats_config_enable_compression", |settings| {
        settings.compression = enable != 0;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_config_enable_encryption(config: usize, enable: c_int) -> bats_error_t {
    change(config, "bats_config_enable_encryption", |settings| {
        settings.encryption = Some(enable != 0);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_config_set_frame_type(config: usize, frame_type: c_int) -> bats_error_t {
    change(config, "bats_config_set_frame_type", |settings| match frame_type {
        FRAME_TRANSPARENT | FRAME_HEADER_V1 => {
            settings.frame_type = Some(frame_type);
            Ok(())
        }
        1 | 3 => Err(refusal("this frame type is not offered; header_v1 and transparent are")),
        _ => Err(refusal(format!("{frame_type} is no frame type"))),
    })
}
