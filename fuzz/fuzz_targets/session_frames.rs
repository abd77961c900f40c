//! Arbitrary octets as a greeting and as frames: any outcome but a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_proto::session::testing::session_frames(data));
