//! See `strata_fuzz::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| strata_fuzz::headers::run(input));
