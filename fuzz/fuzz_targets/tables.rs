//! See `strata_fuzz::tables`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| strata_fuzz::tables::run(input));
