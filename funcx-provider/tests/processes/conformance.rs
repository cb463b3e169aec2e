//! The executor suite over worker processes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use funcx_core::conformance::executor::{Subject, suite};
use funcx_core::contract::ExecutorSink;
use funcx_core::model::Function;
use funcx_provider::worker::{ProcessPool, ProcessPoolConfig};

const SOURCE: &str = "
import time
def double(number):
    return 2 * number
def fail():
    raise ValueError('as asked')
def last():
    time.sleep(3600)
";

struct Python {
    workers: u32,
    work_dir: tempfile::TempDir,
}

impl Subject for Python {
    type Executor = ProcessPool;

    async fn start(&self, sink: Arc<dyn ExecutorSink>) -> ProcessPool {
        let config = ProcessPoolConfig::new(self.workers, self.work_dir.path());
        ProcessPool::start(config, sink).await.unwrap()
    }

    fn returns(&self) -> (Function, Bytes, Bytes) {
        (Function::python("double", SOURCE), r#"{"args": [21]}"#.into(), "42".into())
    }

    fn raises(&self) -> (Function, Bytes) {
        (Function::python("fail", SOURCE), Bytes::new())
    }

    fn lasts(&self) -> (Function, Bytes) {
        (Function::python("last", SOURCE), Bytes::new())
    }
}

#[tokio::test]
async fn process_pool_keeps_the_contract() {
    for workers in [1, 3] {
        let subject = Python { workers, work_dir: tempfile::tempdir().unwrap() };
        tokio::time::timeout(Duration::from_secs(60), suite(&subject)).await.expect("an outcome is missing");
    }
}
