//! See `strata_fuzz::operations`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| strata_fuzz::operations::run(input));
