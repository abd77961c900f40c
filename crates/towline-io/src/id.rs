//! Ids: an index and a generation, so that an id of something gone is refused instead of mistaken.

/// A socket in a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SocketId {
    /// The id that no socket has: completions that belong to no socket carry it.
    pub const NONE: SocketId = SocketId { index: u32::MAX, generation: u32::MAX };
}

/// An operation on a socket of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId {
    pub(crate) socket: SocketId,
    pub(crate) serial: u64,
}

impl OpId {
    /// The id that no operation has: completions that belong to no operation carry it.
    pub const NONE: OpId = OpId { socket: SocketId::NONE, serial: 0 };

    /// The socket that the operation is on.
    pub fn socket(self) -> SocketId {
        self.socket
    }
}

/// A timer of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}
