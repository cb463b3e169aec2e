#![no_main]

use funcx_fuzz::{allocation, worker};

libfuzzer_sys::fuzz_target!(|data: &[u8]| allocation::bounded(16 << 20, || worker::check(data)));
