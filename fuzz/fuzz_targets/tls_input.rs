//! Any bytes into TLS clients and servers, before, in and behind the handshake.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_proto::tls::fuzzing::input(data));
