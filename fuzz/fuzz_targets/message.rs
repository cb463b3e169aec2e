#![no_main]

use funcx_fuzz::{allocation, message};

libfuzzer_sys::fuzz_target!(|data: &[u8]| allocation::bounded(2 << 20, || message::check(data)));
