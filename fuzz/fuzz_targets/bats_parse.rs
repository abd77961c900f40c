//! Any bytes as a packet and as a control stream.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_proto::bats::fuzzing::parse(data));
