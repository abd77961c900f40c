//! Completion I/O: one driver per thread, io_uring or epoll underneath, one contract above.
//!
//! An operation is issued on a [`Driver`] and reported later by [`Driver::wait`] as a
//! [`Completion`]. The rules hold for every driver and every operation:
//!
//! - **Exactly once.** Each issued operation completes once, also when its socket is closed or the
//!   operation is cancelled. The only exception is asked for by name: [`Driver::post`] is silent when
//!   it succeeds. Dropping the driver ends everything without completions.
//! - **Never inside the call.** A completion is returned only by `wait`, never by the call that issues.
//! - **In order.** Per socket and direction, completions come in the order of issue, and the bytes of
//!   sends never interleave: the queue is in this crate and one kernel operation per socket is in flight.
//! - **Operations own their buffers** until they complete, also past the driver's end if the kernel is
//!   not done with them.
//! - **Ids are index and generation.** An id of something that ended is refused, never mistaken.
//! - **One thread.** A driver belongs to the thread that made it; only a [`Waker`] crosses threads.
//!
//! [`completion`] puts worker threads and callbacks on top.
//!
//! ```
//! use bytes::Bytes;
//! use socket2::{Domain, Socket, Type};
//! use towline_io::{Driver, DriverConfig, Event};
//!
//! let (near, far) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
//! let mut driver = Driver::new(&DriverConfig::default())?;
//! let near = driver.attach(near, 1)?;
//! let far = driver.attach(far, 2)?;
//! driver.send(near, [Bytes::from_static(b"hello")])?;
//! driver.recv(far)?;
//!
//! let mut completions = Vec::new();
//! let mut heard = None;
//! while heard.is_none() {
//!     driver.wait(None, &mut completions)?;
//!     for completion in completions.drain(..) {
//!         if let Event::Received(result) = completion.event {
//!             heard = Some(result?.pooled);
//!         }
//!     }
//! }
//! assert_eq!(&heard.unwrap()[..], b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![allow(unsafe_code)] // system calls; every block says why it is sound

mod buffer;
pub mod completion;
mod config;
mod core;
mod driver;
mod entry;
mod error;
mod event;
mod id;
mod send_queue;
mod slots;
mod sys;
mod tcp;
mod timer;
mod udp;
mod waker;

#[doc(hidden)]
pub use config::Without;
pub use config::{DriverChoice, DriverConfig, DriverKind};
pub use driver::{CancelGrade, Driver, DriverStats};
pub use error::{IssueError, RecvError};
pub use event::{Accepted, Completion, Datagrams, DatagramsSent, Ecn, Event, Received, Transmit};
pub use event::{SentNow, TransmitRef, UdpCapabilities, UdpOptions};
pub use id::{OpId, SocketId, TimerId};
pub use tcp::tcp_acknowledged;
pub use waker::Waker;
