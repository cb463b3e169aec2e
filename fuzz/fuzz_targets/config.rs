#![no_main]

use funcx_fuzz::{allocation, config};

libfuzzer_sys::fuzz_target!(|data: &[u8]| allocation::bounded(16 << 20, || config::check(data)));
