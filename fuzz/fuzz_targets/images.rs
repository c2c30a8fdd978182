//! See `strata_fuzz::images`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| strata_fuzz::images::run(input));
