//! Time and memory of a pair of processes.

use std::time::{Duration, Instant};

/// Time from a moment on: the clock's, and the processors' for both processes.
pub struct Meter {
    server: u32,
    begin: Instant,
    used: Duration,
}

impl Meter {
    pub fn start(server: u32) -> Meter {
        Meter { server, begin: Instant::now(), used: processor_time(server) }
    }

    pub fn stop(&self) -> (Duration, Duration) {
        (self.begin.elapsed(), processor_time(self.server) - self.used)
    }
}

/// Processor time of this process and another, kernel included.
fn processor_time(other: u32) -> Duration {
    // clock_getcpuclockid(3) makes this number of a process id.
    let of = |clock: libc::clockid_t| {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes into a value on this stack frame.
        let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
        assert_eq!(result, 0, "no processor time of that process");
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    of(libc::CLOCK_PROCESS_CPUTIME_ID) + of((!(other as i32) << 3) | 2)
}

/// Resident memory of processes from a moment on.
pub struct Memory {
    server: u32,
    before: (u64, u64),
}

impl Memory {
    pub fn start(server: u32) -> Memory {
        Memory { server, before: (resident(server), resident(std::process::id())) }
    }

    /// Prints what each of so many connections took.
    pub fn print(&self, connections: u64) {
        let each = |now: u64, before: u64| now.saturating_sub(before) as f64 / connections as f64;
        let (server, client) = (resident(self.server), resident(std::process::id()));
        println!("{:.0} {:.0}", each(server, self.before.0), each(client, self.before.1));
    }
}

fn resident(process: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).expect("statm");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("pages");
    pages * 4096
}
