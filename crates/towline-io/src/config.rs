//! What a driver is built from.

use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Which driver to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverChoice {
    /// io_uring when the kernel offers what is needed and allows it, otherwise epoll; the reason is kept in
    /// [`Driver::fallback_reason`](crate::Driver::fallback_reason).
    #[default]
    Auto,
    /// io_uring or an error.
    IoUring,
    /// epoll, which every Linux has.
    Epoll,
}

/// The driver that was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DriverKind {
    /// Completions straight from the kernel.
    IoUring,
    /// Edge-triggered readiness, turned into completions here.
    Epoll,
}

impl std::fmt::Display for DriverKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DriverKind::IoUring => "io_uring",
            DriverKind::Epoll => "epoll",
        })
    }
}

/// How to build a [`Driver`](crate::Driver). Start from `DriverConfig::default()` and change fields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DriverConfig {
    /// Which driver; default [`DriverChoice::Auto`].
    pub kind: DriverChoice,
    /// Bytes in a pooled receive buffer: the most that one receive brings, and the memory that a slice of it
    /// keeps alive. Default 64 KiB; 64 bytes to 16 MiB are accepted, for datagram sockets 4 KiB and more.
    pub recv_buffer_size: usize,
    /// How many unused receive buffers the driver keeps (io_uring: offers to the kernel, rounded up to a power of
    /// two). Default 64, so at most 4 MiB at the default size. 1 to 32,768.
    pub recv_buffers: usize,
    /// How long `wait` polls without sleeping before it parks the thread. Default zero. It costs a whole core
    /// while waiting and saves a wake-up by the scheduler, which across cores is most of a round trip.
    pub spin: Duration,
    /// Entries of the submission queue (io_uring) and events taken per call (epoll). Default 256; 8 to 4,096.
    pub queue_entries: u32,
    /// For tests: what to do without, as on an older kernel.
    #[doc(hidden)]
    pub without: Without,
}

/// What older kernels, and containers, do not have of io_uring and of UDP's offloads. A driver that is told so goes the way that it would go
/// there, which is how the fallbacks are tested on a newer one.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Without(u16);

#[doc(hidden)]
impl Without {
    /// io_uring is not there, or forbidden.
    pub const RING: Without = Without(1);
    /// Features of the first usable kernel (5.11).
    pub const FEATURES: Without = Without(2);
    /// One of the operations.
    pub const OPERATION: Without = Without(4);
    /// Rings of buffers (5.19).
    pub const BUFFERS: Without = Without(8);
    /// One thread that runs its own completions (6.1).
    pub const SINGLE_ISSUER: Without = Without(16);
    /// Completions that do not interrupt the thread (5.19), and the mode above.
    pub const TASKRUN: Without = Without(16 | 32);
    /// Multishot datagram receives (6.0).
    pub const MULTISHOT: Without = Without(64);
    /// Trains that the kernel cuts (`UDP_SEGMENT`, 4.18).
    pub const GSO: Without = Without(128);
    /// Datagrams that the kernel joins (`UDP_GRO`, 5.0).
    pub const GRO: Without = Without(256);

    /// Both.
    pub const fn and(self, other: Without) -> Without {
        Without(self.0 | other.0)
    }

    pub(crate) fn has(self, other: Without) -> bool {
        self.0 & other.0 == other.0
    }
}

impl Default for DriverConfig {
    fn default() -> Self {
        DriverConfig {
            kind: DriverChoice::Auto,
            recv_buffer_size: 64 * 1024,
            recv_buffers: 64,
            spin: Duration::ZERO,
            queue_entries: 256,
            without: Without::default(),
        }
    }
}

impl DriverConfig {
    /// The default configuration with this choice of driver.
    pub fn new(kind: DriverChoice) -> Self {
        DriverConfig { kind, ..DriverConfig::default() }
    }

    /// Refuses a value out of range by the name of its field.
    pub(crate) fn check(&self) -> io::Result<()> {
        let in_range = |name: &str, value: usize, range: RangeInclusive<usize>| {
            if range.contains(&value) {
                return Ok(());
            }
            let (low, high) = (range.start(), range.end());
            let message = format!("{name} is {value}, must be {low} to {high}");
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        };
        in_range("recv_buffer_size", self.recv_buffer_size, 64..=16 << 20)?;
        in_range("recv_buffers", self.recv_buffers, 1..=32_768)?;
        in_range("queue_entries", self.queue_entries as usize, 8..=4096)
    }
}
