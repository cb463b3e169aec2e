#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| funcx_fuzz::journal::check(data));
