//! See `strata_fuzz::nbd_client`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| strata_fuzz::nbd_client::run(input));
