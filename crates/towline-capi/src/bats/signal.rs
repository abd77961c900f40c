//! SIGINT and SIGTERM as a callback.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::gate::timed;

pub type Callback = unsafe extern "C" fn(signal: c_int);

/// How many want the signals; while nobody does, they end the process as ever.
static WANTED: AtomicUsize = AtomicUsize::new(0);

fn nobody_wants() -> std::io::Result<&'static Arc<AtomicBool>> {
    static NOBODY: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if let Some(nobody) = NOBODY.get() {
        return Ok(nobody);
    }
    let nobody = Arc::new(AtomicBool::new(true));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&nobody))?;
    }
    Ok(NOBODY.get_or_init(|| nobody))
}

/// A thread that waits for the signals and calls back.
pub(super) struct Watch {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(callback: Callback) -> std::io::Result<Watch> {
        let nobody = nobody_wants()?;
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let handle = signals.handle();
        let thread =
            std::thread::Builder::new().name("towline-signals".to_owned()).spawn(move || {
                for signal in signals.forever() {
                    // SAFETY: the application promised a function of this type.
                    timed(|| unsafe { callback(signal) });
                }
            })?;
        WANTED.fetch_add(1, Ordering::SeqCst);
        nobody.store(false, Ordering::SeqCst);
        Ok(Watch { handle, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.handle.close();
        if WANTED.fetch_sub(1, Ordering::SeqCst) == 1
            && let Ok(nobody) = nobody_wants()
        {
            nobody.store(true, Ordering::SeqCst);
        }
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            thread.join().ok();
        }
    }
}
