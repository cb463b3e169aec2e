#![no_main]

use funcx_fuzz::{allocation, message};

libfuzzer_sys::fuzz_target!(|data: &[u8]| allocation::bounded(4 << 20, || message::check(data)));
