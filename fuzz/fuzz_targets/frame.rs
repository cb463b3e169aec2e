#![no_main]

use funcx_fuzz::{allocation, frame};

libfuzzer_sys::fuzz_target!(|data: &[u8]| allocation::bounded(2 << 20, || frame::check(data)));
