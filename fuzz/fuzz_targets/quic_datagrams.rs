//! Any bytes as datagrams into a client and a server with a connection between them: neither panics, and both stay within their limits.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_proto::quic::fuzzing::datagrams(data));
