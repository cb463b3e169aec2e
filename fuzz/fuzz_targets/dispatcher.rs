#![no_main]

use funcx_fuzz::{allocation, dispatcher};

libfuzzer_sys::fuzz_target!(|data: &[u8]| allocation::bounded(16 << 20, || dispatcher::check(data)));
