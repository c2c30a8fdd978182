//! See `strata_fuzz::requests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| strata_fuzz::requests::run(input));
