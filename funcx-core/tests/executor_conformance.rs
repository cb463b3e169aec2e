//! The executor suite over the reference implementation.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use funcx_core::conformance::executor::{Subject, suite};
use funcx_core::contract::ExecutorSink;
use funcx_core::inproc::{InProcess, NativeFunctions};
use funcx_core::model::{Function, Tick};

struct Threads(usize);

impl Subject for Threads {
    type Executor = InProcess;

    async fn start(&self, sink: Arc<dyn ExecutorSink>) -> InProcess {
        let mut functions = NativeFunctions::new();
        functions.register("double", |number: u64| number * 2).unwrap();
        functions.register("panic", |(): ()| -> () { panic!("as asked") }).unwrap();
        functions.register("last", |millis: u64| thread::sleep(Duration::from_millis(millis))).unwrap();
        let ticks = AtomicU64::new(0);
        let clock = move || Tick::from_nanos(ticks.fetch_add(1000, Ordering::Relaxed));
        functions.into_executor(self.0, Arc::new(clock), sink).unwrap()
    }

    fn returns(&self) -> (Function, Bytes, Bytes) {
        (Function::native("double"), "21".into(), "42".into())
    }

    fn raises(&self) -> (Function, Bytes) {
        (Function::native("panic"), Bytes::new())
    }

    fn lasts(&self) -> (Function, Bytes) {
        (Function::native("last"), "500".into())
    }
}

#[tokio::test]
async fn in_process_keeps_the_contract() {
    for threads in [1, 3] {
        tokio::time::timeout(Duration::from_secs(60), suite(&Threads(threads)))
            .await
            .expect("an outcome is missing");
    }
}
