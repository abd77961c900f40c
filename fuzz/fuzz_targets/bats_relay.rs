//! A relay whose neighbours say anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_proto::bats::fuzzing::relay(data));
