//! Any bytes as an ftcp peer's stream, in any chunking.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_proto::frame::fuzzing::frames(data));
