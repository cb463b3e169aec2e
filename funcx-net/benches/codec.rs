//! Cost of the codec per task and per outcome, and of a batch's way through a socket.
//!
//! Run with `cargo bench -p funcx-net --bench codec`. Divide a time by the size of its batch, or read the items per
//! second.

use std::io::Read;
use std::os::unix::net::UnixStream as BlockingStream;
use std::sync::Arc;

use bytes::Bytes;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use funcx_core::message::{Message, OutcomeBatch, TaskBatch};
use funcx_core::model::{Function, Hop, IdentityId, Outcome, Task, TaskId, TaskSpec, Tick, Timestamp};
use funcx_net::codec::{decode, encode};
use funcx_net::transport::FramedStream;
use futures::SinkExt;
use tokio::net::UnixStream;

const BATCHES: [usize; 3] = [1, 64, 1024];

fn main() {
    divan::main();
}

/// Tasks as an endpoint sends them: one specification, three hops behind them.
fn tasks(count: usize, payload: &Bytes) -> Vec<Task> {
    let spec = Arc::new(TaskSpec::new(Arc::new(Function::native("noop")), IdentityId::from_u128(1)));
    (0..count)
        .map(|number| {
            let mut task = Task::new(
                TaskId::from_random(number as u128 * 0x9e37_79b9_7f4a_7c15),
                Arc::clone(&spec),
                payload.clone(),
            );
            for hop in [Hop::Accepted, Hop::ServiceSent, Hop::EndpointSent] {
                task.stamps.set(hop, Timestamp::from_nanos(1_700_000_000_000_000_000 + number as u64));
            }
            task
        })
        .collect()
}

fn task_batch(count: usize) -> Message {
    Message::Tasks(TaskBatch::new(tasks(count, &Bytes::from_static(b"[]")), Tick::ZERO))
}

fn outcome_batch(count: usize) -> Message {
    let stamped = |task: &Task| {
        let mut outcome = Outcome::returned(task, "null");
        for hop in [Hop::ManagerSent, Hop::Started, Hop::Ended] {
            outcome.stamps.set(hop, Timestamp::from_nanos(1_700_000_000_000_000_000));
        }
        outcome
    };
    Message::Outcomes(OutcomeBatch::new(1, tasks(count, &Bytes::new()).iter().map(stamped)))
}

#[divan::bench(args = BATCHES)]
fn encode_tasks(bencher: Bencher<'_, '_>, count: usize) {
    let message = task_batch(count);
    bencher.counter(ItemsCount::new(count)).with_inputs(|| message.clone()).bench_values(encode);
}

#[divan::bench(args = BATCHES)]
fn decode_tasks(bencher: Bencher<'_, '_>, count: usize) {
    let frame = encode(task_batch(count)).expect("a valid batch").into_contiguous();
    bencher.counter(ItemsCount::new(count)).with_inputs(|| frame.clone()).bench_values(decode);
}

#[divan::bench(args = BATCHES)]
fn encode_outcomes(bencher: Bencher<'_, '_>, count: usize) {
    let message = outcome_batch(count);
    bencher.counter(ItemsCount::new(count)).with_inputs(|| message.clone()).bench_values(encode);
}

#[divan::bench(args = BATCHES)]
fn decode_outcomes(bencher: Bencher<'_, '_>, count: usize) {
    let frame = encode(outcome_batch(count)).expect("a valid batch").into_contiguous();
    bencher.counter(ItemsCount::new(count)).with_inputs(|| frame.clone()).bench_values(decode);
}

/// Tasks to a batch to a frame, and back to tasks: what one hop costs besides the dispatcher and the socket.
#[divan::bench(args = BATCHES)]
fn tasks_to_frame_to_tasks(bencher: Bencher<'_, '_>, count: usize) {
    let tasks = tasks(count, &Bytes::from_static(b"[]"));
    let function = Arc::clone(&tasks[0].spec.function);
    bencher.counter(ItemsCount::new(count)).with_inputs(|| tasks.clone()).bench_values(|tasks| {
        let frame = encode(Message::Tasks(TaskBatch::new(tasks, Tick::ZERO)))
            .expect("a valid batch")
            .into_contiguous();
        match decode(frame).expect("it was encoded") {
            Message::Tasks(batch) => batch.into_tasks(Tick::ZERO, |_| Some(Arc::clone(&function))),
            other => panic!("{} instead of tasks", other.name()),
        }
    });
}

/// A batch of 256 tasks with payloads of one size through the codec and a Unix socket that somebody empties. Shows from
/// which size on a payload is better not copied.
#[divan::bench(args = [64, 256, 512, 1024, 2048, 4096, 16384], sample_count = 200)]
fn send_payloads(bencher: Bencher<'_, '_>, payload_bytes: usize) {
    const TASKS: usize = 256;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (near, mut far) = BlockingStream::pair().expect("a pair of sockets");
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while far.read(&mut buffer).is_ok_and(|read| read > 0) {}
    });
    near.set_nonblocking(true).expect("a socket can be non-blocking");
    let mut framed =
        runtime.block_on(async { FramedStream::new(UnixStream::from_std(near).expect("a socket")) });
    // As they lie in a receive buffer: one allocation, many slices.
    let buffer = Bytes::from(vec![1; payload_bytes * TASKS]);
    let tasks: Vec<_> = tasks(TASKS, &Bytes::new())
        .into_iter()
        .enumerate()
        .map(|(at, task)| Task {
            payload: buffer.slice(at * payload_bytes..(at + 1) * payload_bytes),
            ..task
        })
        .collect();
    bencher
        .counter(ItemsCount::new(TASKS))
        .with_inputs(|| TaskBatch::new(tasks.clone(), Tick::ZERO))
        .bench_local_values(|batch| {
            let frame = encode(Message::Tasks(batch)).expect("a valid batch");
            runtime.block_on(framed.send(black_box(frame))).expect("the socket is open");
        });
    drop(framed);
    reader.join().expect("the reader ends when the socket does");
}
