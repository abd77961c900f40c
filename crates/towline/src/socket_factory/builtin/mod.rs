//! Factories that come with the library.

mod pair;
mod stream;
#[cfg(feature = "tls")]
mod tls;

pub use self::pair::InProcess;
pub use self::stream::{StreamListener, StreamSockets};
#[cfg(feature = "tls")]
pub use self::tls::TlsSockets;
