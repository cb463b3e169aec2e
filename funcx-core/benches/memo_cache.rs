//! Cost of the memory of values: what is there, what is not, and a value that another one has to give way for.

use bytes::Bytes;
use divan::{Bencher, black_box};
use funcx_core::memo::{MemoCache, MemoKey};

/// Room for some hundred thousand small values, as in a busy service.
const CAPACITY_BYTES: usize = 64 << 20;

fn main() {
    divan::main();
}

/// Keys spread like hashes do.
fn key(number: u64) -> MemoKey {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    MemoKey(key)
}

/// A memory that is full, and the number of the next value.
fn full() -> (MemoCache, u64) {
    let (mut cache, value) = (MemoCache::new(CAPACITY_BYTES), Bytes::from_static(b"a small value"));
    let (mut next, mut before) = (0, 0);
    loop {
        cache.insert(key(next), &value);
        next += 1;
        if cache.bytes() == before {
            return (cache, next);
        }
        before = cache.bytes();
    }
}

#[divan::bench]
fn found(bencher: Bencher<'_, '_>) {
    let (mut cache, next) = full();
    let mut turn = 0;
    bencher.bench_local(|| {
        turn += 1;
        cache.find(black_box(&key(next - 1 - turn % 10_000)))
    });
}

#[divan::bench]
fn not_there(bencher: Bencher<'_, '_>) {
    let (mut cache, mut next) = full();
    bencher.bench_local(|| {
        next += 1;
        cache.find(black_box(&key(next)))
    });
}

#[divan::bench]
fn inserted_in_the_place_of_another(bencher: Bencher<'_, '_>) {
    let ((mut cache, mut next), value) = (full(), Bytes::from_static(b"a small value"));
    bencher.bench_local(|| {
        next += 1;
        cache.insert(key(next), black_box(&value));
    });
}
