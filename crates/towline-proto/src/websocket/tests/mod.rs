//! Tests of the engine. Cases named `case_NN_..` are the numbered ones of `docs/websocket.md`.

mod close;
mod cookies;
mod deflate;
mod differential;
mod flow;
mod frame;
mod fuzz;
mod handshake;
mod keepalive;
mod kernels;
mod messages;
mod random;
mod support;
