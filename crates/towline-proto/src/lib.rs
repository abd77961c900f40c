//! Under construction.

#[cfg(feature = "websocket")]
pub mod websocket;
