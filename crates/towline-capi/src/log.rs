//! The log: what this library has to say, on standard error unless the application wants it elsewhere.

use std::ffi::{CString, c_char, c_void};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::gate::{Gate, User};

/// Takes one line of the log, NUL-terminated and without a line break, valid during the call.
pub type towline_log_callback =
    Option<unsafe extern "C" fn(level: i32, line: *const c_char, user: *mut c_void)>;

type LogFunction = unsafe extern "C" fn(i32, *const c_char, *mut c_void);

/// Where lines go.
enum Sink {
    Stderr,
    File(File),
    Callback(Arc<Callback>),
}

struct Callback {
    function: LogFunction,
    user: User,
    gate: Gate,
}

static LEVEL: AtomicU8 = AtomicU8::new(3);
static SINK: Mutex<Sink> = Mutex::new(Sink::Stderr);
static INSTALLED: Once = Once::new();

/// Makes this the process's log, unless the process has one of its own.
pub(crate) fn install() {
    INSTALLED.call_once(|| {
        tracing::subscriber::set_global_default(Log).ok();
    });
}

/// From which level on lines are written: 0 trace, 1 debug, 2 info, 3 warn (the default), 4 error, 5 nothing.
pub(crate) fn set_level(level: u8) {
    install();
    LEVEL.store(level, Ordering::Release);
    tracing::callsite::rebuild_interest_cache();
}

fn set_sink(sink: Sink) {
    install();
    let old = std::mem::replace(&mut *SINK.lock().unwrap_or_else(PoisonError::into_inner), sink);
    if let Sink::Callback(callback) = old {
        callback.gate.close();
    }
}

/// Appends to a file; `None` goes back to standard error.
pub(crate) fn set_file(path: Option<&str>) -> std::io::Result<()> {
    let sink = match path {
        Some(path) => Sink::File(OpenOptions::new().create(true).append(true).open(path)?),
        None => Sink::Stderr,
    };
    set_sink(sink);
    Ok(())
}

/// Hands lines to the application; `None` goes back to standard error.
pub(crate) fn set_callback(callback: towline_log_callback, user: *mut c_void) {
    set_sink(match callback {
        Some(callback) => Sink::Callback(Arc::new(Callback {
            function: callback,
            user: User(user),
            gate: Gate::default(),
        })),
        None => Sink::Stderr,
    });
}

fn number(level: Level) -> u8 {
    match level {
        Level::TRACE => 0,
        Level::DEBUG => 1,
        Level::INFO => 2,
        Level::WARN => 3,
        Level::ERROR => 4,
    }
}

fn write(level: Level, line: &str) {
    // A callback that logs itself, or calls back in here, finds the lock open.
    let callback = {
        let mut sink = SINK.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *sink {
            Sink::Stderr => {
                writeln!(std::io::stderr(), "towline {level}: {line}").ok();
                None
            }
            Sink::File(file) => {
                let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
                let (seconds, millis) = (now.as_secs(), now.subsec_millis());
                writeln!(file, "{seconds}.{millis:03} {level} {line}").ok();
                None
            }
            Sink::Callback(callback) => Some(Arc::clone(callback)),
        }
    };
    if let Some(callback) = callback {
        let line = CString::new(line.replace('\0', " ")).unwrap_or_default();
        callback.gate.enter(|| {
            // SAFETY: the application promised a function of this type that any thread may call.
            unsafe { (callback.function)(number(level).into(), line.as_ptr(), callback.user.0) };
        });
    }
}

/// A subscriber without spans.
struct Log;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.0.insert_str(0, &format!("{value:?}")),
            name => write!(self.0, " {name}={value:?}").unwrap_or_default(),
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && number(*metadata.level()) >= LEVEL.load(Ordering::Acquire)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match LEVEL.load(Ordering::Acquire) {
            0 => LevelFilter::TRACE,
            1 => LevelFilter::DEBUG,
            2 => LevelFilter::INFO,
            3 => LevelFilter::WARN,
            4 => LevelFilter::ERROR,
            _ => LevelFilter::OFF,
        })
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        write(*event.metadata().level(), &line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
