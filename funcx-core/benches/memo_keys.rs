//! Cost of the key of a memoized call: small arguments, which are what they have in common with others most of all, and
//! large ones, which are hashed at the speed of memory.

use std::sync::Arc;

use divan::{Bencher, black_box, counter::BytesCount};
use funcx_core::memo::{MemoKey, MemoKeys};
use funcx_core::model::{EndpointId, Function, FunctionId, IdentityId, Memoize, TaskSpec};

fn main() {
    divan::main();
}

fn spec() -> TaskSpec {
    let function = Arc::new(Function::python("f", "def f(x): return x"));
    TaskSpec { memoize: Memoize::Shared, ..TaskSpec::new(function, IdentityId::from_u128(1)) }
}

#[divan::bench(args = [10, 1_000, 1_000_000])]
fn alone(bencher: Bencher<'_, '_>, bytes: usize) {
    let (spec, arguments) = (spec(), vec![b'x'; bytes]);
    bencher.counter(BytesCount::new(bytes)).bench(|| MemoKey::own(black_box(&spec), black_box(&arguments)));
}

#[divan::bench(args = [10, 1_000, 1_000_000])]
fn of_a_batch(bencher: Bencher<'_, '_>, bytes: usize) {
    let (function, endpoint) = (FunctionId::from_u128(1), EndpointId::from_u128(2));
    let keys = MemoKeys::wanted(&spec(), function, endpoint).expect("they are memoized");
    let arguments = vec![b'x'; bytes];
    bencher.counter(BytesCount::new(bytes)).bench(|| keys.of(black_box(&arguments)));
}
