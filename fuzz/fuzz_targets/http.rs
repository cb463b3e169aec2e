#![no_main]

use funcx_fuzz::{allocation, http};

libfuzzer_sys::fuzz_target!(|data: &[u8]| allocation::bounded(64 << 20, || http::check(data)));
