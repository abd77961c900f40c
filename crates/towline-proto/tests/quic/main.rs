//! QUIC under virtual time: a pair of endpoints and a network between them that does what it is told, from a seed.

#![allow(unreachable_pub, clippy::print_stdout)]

mod pair;

mod abuse;
mod certificates;
mod congestion;
mod datagrams;
mod handshake;
mod interop;
mod migration;
mod options;
mod providers;
mod random;
mod resumption;
mod streams;
