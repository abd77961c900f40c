//! One process, one core.

/// Pins this process, with all threads that it will start, to a core (or the last there is).
pub fn to_core(core: usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // SAFETY: the set is a plain value that lives on this stack frame, and 0 means this process.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core.min(cores - 1), &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}
