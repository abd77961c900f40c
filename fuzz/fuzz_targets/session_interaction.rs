//! Arbitrary interactions of two ends, with cuts and restarts, under the oracle.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_proto::session::testing::interact(data));
