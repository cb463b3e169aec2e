#![no_main]

use funcx_fuzz::{allocation, journal};

libfuzzer_sys::fuzz_target!(|data: &[u8]| allocation::bounded(2 << 20, || journal::check(data)));
