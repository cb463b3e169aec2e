//! An executor of one's own, checked by the conformance suite: `cargo run --example own_executor`.
//!
//! This one belongs to an imaginary scheduler that lets tasks run one after the other on a thread of its own. It needs
//! nothing but `funcx-core`; a manager drives it like any other executor.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use axum::body::Bytes;
use funcx_core::conformance::executor::{Subject, suite};
use funcx_core::contract::{Capacity, Executor, ExecutorCapability, ExecutorEvent, ExecutorSink};
use funcx_core::model::{AttemptId, Failure, Function, FunctionKind, Outcome, OutcomeKind, Task};
use futures::{channel::oneshot, future::BoxFuture};

enum Order {
    Run(Vec<Task>),
    Leave(oneshot::Sender<()>),
}

/// Runs tasks of kind `native` in turn. It knows the functions `upper` and `nap`.
struct InTurn {
    orders: mpsc::Sender<Order>,
    sink: Arc<dyn ExecutorSink>,
    /// What was started and has not begun. Taking an attempt out of here decides who ends it.
    waiting: Arc<Mutex<BTreeSet<AttemptId>>>,
}

impl InTurn {
    fn new(sink: Arc<dyn ExecutorSink>) -> Self {
        let (orders, todo) = mpsc::channel();
        let waiting: Arc<Mutex<BTreeSet<AttemptId>>> = Arc::default();
        let (told, due) = (Arc::clone(&sink), Arc::clone(&waiting));
        thread::spawn(move || {
            while let Ok(order) = todo.recv() {
                match order {
                    Order::Run(tasks) => {
                        for task in tasks {
                            let is_due =
                                due.lock().unwrap_or_else(PoisonError::into_inner).remove(&task.attempt_id());
                            told.handle(ExecutorEvent::Outcomes(vec![run(&task, is_due)]));
                        }
                    }
                    Order::Leave(done) => {
                        // Nobody adds to what waits meanwhile, and from here on whoever starts tasks finds nobody.
                        let late = due.lock().unwrap_or_else(PoisonError::into_inner);
                        for order in todo.try_iter() {
                            if let Order::Run(tasks) = order {
                                let back = tasks.iter().map(Task::attempt_id).collect();
                                told.handle(ExecutorEvent::GaveBack(back));
                            }
                        }
                        drop((todo, late));
                        // The one who asked may have lost interest.
                        let _ = done.send(());
                        return;
                    }
                }
            }
        });
        Self { orders, sink, waiting }
    }
}

fn run(task: &Task, is_due: bool) -> Outcome {
    let body = task.spec.function.body();
    match (body.kind, body.entry.as_str()) {
        _ if !is_due => Outcome::failed(
            task,
            OutcomeKind::Cancelled,
            &Failure::new("Cancelled", "cancelled while it waited"),
        ),
        (FunctionKind::Native, "upper") => Outcome::returned(task, task.payload.to_ascii_uppercase()),
        (FunctionKind::Native, "nap") => {
            thread::sleep(Duration::from_millis(200));
            Outcome::returned(task, "rested")
        }
        (kind, name) => {
            let failure =
                Failure::new("UnknownFunction", format!("there is no {kind} function `{name}` here"));
            Outcome::failed(task, OutcomeKind::Raised, &failure)
        }
    }
}

impl Executor for InTurn {
    fn capability(&self) -> ExecutorCapability {
        ExecutorCapability {
            kinds: vec![FunctionKind::Native],
            capacity: Capacity { slots: 1, prefetch: 100 },
            cancels: false,
        }
    }

    fn start(&self, tasks: Vec<Task>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(tasks.iter().map(Task::attempt_id));
        if let Err(mpsc::SendError(Order::Run(tasks))) = self.orders.send(Order::Run(tasks)) {
            let failure = Failure::new("ExecutorDrained", "the executor takes no more tasks");
            let lost = tasks.iter().map(|task| Outcome::failed(task, OutcomeKind::Lost, &failure)).collect();
            self.sink.handle(ExecutorEvent::Outcomes(lost));
        }
    }

    fn cancel(&self, attempts: &[AttemptId]) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for attempt in attempts {
            waiting.remove(attempt);
        }
    }

    fn drain(&self) -> BoxFuture<'static, ()> {
        let (done, drained) = oneshot::channel();
        // A second drain finds the thread gone, which is what it wants.
        let _ = self.orders.send(Order::Leave(done));
        Box::pin(async move {
            let _ = drained.await;
        })
    }
}

/// What the suite needs to know.
struct Checked;

impl Subject for Checked {
    type Executor = InTurn;

    async fn start(&self, sink: Arc<dyn ExecutorSink>) -> InTurn {
        InTurn::new(sink)
    }

    fn returns(&self) -> (Function, Bytes, Bytes) {
        (Function::native("upper"), "quiet".into(), "QUIET".into())
    }

    fn raises(&self) -> (Function, Bytes) {
        (Function::native("lower"), "LOUD".into())
    }

    fn lasts(&self) -> (Function, Bytes) {
        (Function::native("nap"), Bytes::new())
    }
}

#[tokio::main]
async fn main() {
    suite(&Checked).await;
    println!("the executor keeps every promise of the contract");
}
