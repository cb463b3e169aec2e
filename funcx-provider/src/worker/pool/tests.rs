//! The pool over workers and commands that exist only here.

mod commands;
mod size;

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Buf, BytesMut};
use funcx_core::model::{Function, Hop, IdentityId, TaskId, TaskSpec};

use super::super::protocol::{FromWorker, TaskEnd};
use super::super::slot::Exit;
use super::life::{BOOT_TIME, MAX_BOOTING, MAX_ZYGOTES, PATIENCE, REAP_TIME};
use super::settle::{MAX_SETBACKS, MAX_UNBORN};
use super::*;

/// A pool, a clock, and what the workers were told.
struct Bench {
    state: PoolState,
    now: Now,
    /// Tags that each worker was sent and has not answered, with the flag *announce*.
    sent: BTreeMap<u64, VecDeque<(u64, bool)>>,
    /// Numbers of commands that were asked for and have not ended, and whether they have begun.
    commands: BTreeMap<u64, bool>,
    /// Those that have ended and whose output is wanted.
    unread: Vec<u64>,
    signals: Vec<(u32, Signal)>,
    recalled: Vec<u32>,
    outcomes: Vec<Outcome>,
    started: Vec<AttemptId>,
    gave_back: Vec<AttemptId>,
    capacities: Vec<Capacity>,
    others: Vec<PoolOutput>,
    /// Attempts that began, and in which worker.
    begun: BTreeMap<AttemptId, u64>,
    next_id: u128,
}

const GRACE: Duration = Duration::from_secs(3);

impl Bench {
    /// A pool whose zygote is being started.
    fn unready(workers: u32) -> Self {
        let welcome = Welcome {
            max_result_bytes: 100,
            max_output_bytes: 100,
            work_dir: "/w".to_owned(),
            endpoint_id: None,
        };
        let now = Now { tick: Tick::from_nanos(1), wall: Timestamp::from_nanos(1) };
        Self {
            state: PoolState::new(PoolSettings { workers, kill_grace: GRACE, welcome }, now),
            now,
            sent: BTreeMap::new(),
            commands: BTreeMap::new(),
            unread: Vec::new(),
            signals: Vec::new(),
            recalled: Vec::new(),
            outcomes: Vec::new(),
            started: Vec::new(),
            gave_back: Vec::new(),
            capacities: Vec::new(),
            others: Vec::new(),
            begun: BTreeMap::new(),
            next_id: 0,
        }
    }

    /// A pool with all its workers waiting for tasks.
    fn new(workers: u32) -> Self {
        let mut bench = Self::unready(workers);
        bench.state.handle_zygote_ready(Bytes::from("{}"), bench.now);
        bench.settle();
        bench.boot_all();
        bench
    }

    /// Does what the state machine wants until it wants nothing more.
    fn settle(&mut self) {
        loop {
            while let Some(output) = self.state.poll_output() {
                match output {
                    PoolOutput::Event(ExecutorEvent::Outcomes(outcomes)) => self.outcomes.extend(outcomes),
                    PoolOutput::Event(ExecutorEvent::Started(started)) => {
                        self.started.extend(started.iter().map(|(attempt, _)| *attempt));
                    }
                    PoolOutput::Event(ExecutorEvent::GaveBack(attempts)) => self.gave_back.extend(attempts),
                    PoolOutput::Event(ExecutorEvent::Capacity(capacity)) => self.capacities.push(capacity),
                    PoolOutput::Send { worker, pieces } => {
                        let tags = tags_in(pieces);
                        self.sent.entry(worker).or_default().extend(tags);
                    }
                    PoolOutput::RunCommand { number, task } => {
                        assert_eq!(self.begun.get(&task.attempt_id()), None, "it begins again");
                        assert_eq!(self.commands.insert(number, false), None, "an old number");
                    }
                    PoolOutput::ReadOutput { number, .. } => self.unread.push(number),
                    PoolOutput::DropOutput(number) => assert!(!self.unread.contains(&number)),
                    PoolOutput::Signal { pid, signal } => self.signals.push((pid, signal)),
                    PoolOutput::Recall(pid) => self.recalled.push(pid),
                    PoolOutput::Close(worker) => drop(self.sent.remove(&worker)),
                    output => self.others.push(output),
                }
            }
            match self.state.poll_timeout() {
                Some(due) if due <= self.now.tick => self.state.handle_timeout(self.now),
                _ => break,
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.tick = self.now.tick + time;
        self.settle();
    }

    /// Passes time to the next deadline.
    fn pass_to_next(&mut self) {
        let due = self.state.poll_timeout().expect("something is due");
        self.now.tick = due.max(self.now.tick);
        self.settle();
    }

    fn take_others(&mut self) -> String {
        std::mem::take(&mut self.others)
            .iter()
            .map(|output| format!("{output:?}"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Forks and greets every worker that was asked for.
    fn boot_all(&mut self) {
        for output in std::mem::take(&mut self.others) {
            match output {
                PoolOutput::Fork(worker) => {
                    self.state.handle_forked(worker, pid_of(worker), self.now);
                    assert!(self.state.handle_hello(worker, pid_of(worker), Bytes::from("{}"), self.now));
                    self.sent.insert(worker, VecDeque::new());
                }
                output => self.others.push(output),
            }
        }
        self.settle();
    }

    fn spec(function: &str) -> TaskSpec {
        TaskSpec::new(Arc::new(Function::python(function, "")), IdentityId::from_u128(1))
    }

    fn start(&mut self, count: usize, spec: TaskSpec) -> Vec<AttemptId> {
        let spec = Arc::new(spec);
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                self.next_id += 1;
                Task::new(TaskId::from_u128(self.next_id), Arc::clone(&spec), "")
            })
            .collect();
        let attempts = tasks.iter().map(Task::attempt_id).collect();
        self.state.start(tasks, self.now);
        self.settle();
        attempts
    }

    /// Tasks that were lost and are not known to have begun come again, as the node above sends them.
    fn start_again(&mut self) -> Vec<AttemptId> {
        let lost =
            |outcome: &Outcome| outcome.failure().is_some_and(|failure| failure.code == Failure::LEASE_LOST);
        let tasks: Vec<_> = self
            .outcomes
            .extract_if(.., |outcome| lost(outcome))
            .map(|outcome| {
                let mut task = Task::new(outcome.task, Arc::new(Self::spec("f")), "");
                (task.attempt, task.granted) = (outcome.attempt + 1, 1);
                task
            })
            .collect();
        let attempts = tasks.iter().map(Task::attempt_id).collect();
        self.state.start(tasks, self.now);
        self.settle();
        attempts
    }

    /// This many tasks of a worker begin, and nobody is told.
    fn begin_unheard(&mut self, worker: u64, count: usize) {
        for (tag, _) in self.sent.get(&worker).into_iter().flatten().take(count) {
            let entry = self.state.entries.get(key_of(*tag)).filter(|entry| entry.tag == *tag);
            if let Some(entry) = entry {
                let attempt = entry.task.attempt_id();
                let earlier = *self.begun.entry(attempt).or_insert(worker);
                assert_eq!(earlier, worker, "{attempt:?} begins again");
            }
        }
    }

    /// How many tasks of a worker may begin without a word.
    fn unannounced(&self, worker: u64) -> usize {
        self.sent[&worker].iter().take_while(|(_, announced)| !announced).count()
    }

    /// The next task of a worker begins, if it was to be announced, and ends after this many nanoseconds.
    fn finish_next(&mut self, worker: u64, nanos: u64) {
        self.begin_next(worker);
        self.begin_unheard(worker, 1);
        let (tag, _) = self.sent.get_mut(&worker).unwrap().pop_front().expect("the worker has a task");
        self.frame(worker, FromWorker::Outcomes(vec![end(tag, nanos)]));
    }

    /// The next task of a worker, which has begun, ends.
    fn finish_next_begun(&mut self, worker: u64) {
        let (tag, _) = self.sent.get_mut(&worker).unwrap().pop_front().expect("the worker has a task");
        self.frame(worker, FromWorker::Outcomes(vec![end(tag, 1)]));
    }

    fn begin_next(&mut self, worker: u64) {
        if let Some(&(tag, true)) = self.sent[&worker].front() {
            self.begin_unheard(worker, 1);
            self.frame(worker, FromWorker::Started(tag));
        }
    }

    fn frame(&mut self, worker: u64, frame: FromWorker) {
        self.state.handle_frame(worker, frame, self.now);
        self.settle();
    }

    /// The process of a worker is gone with its connection.
    fn die(&mut self, worker: u64, exit: Exit) {
        self.state.handle_disconnected(worker, None, self.now);
        self.state.handle_exited(worker, exit, self.now);
        self.settle();
    }

    fn die_with_code(&mut self, worker: u64, status: i32) {
        self.die(worker, Exit { status: Some(status), ..Exit::default() });
    }

    /// Teaches the pool that tasks of this function are short, and forgets how.
    fn teach(&mut self, function: &str) {
        self.start(1, Self::spec(function));
        let worker = *self.sent.iter().find(|(_, sent)| !sent.is_empty()).unwrap().0;
        self.finish_next(worker, 1000);
        self.outcomes.clear();
        self.capacities.clear();
    }

    fn sent_counts(&self) -> Vec<usize> {
        self.sent.values().map(VecDeque::len).collect()
    }

    fn kinds(&self) -> Vec<OutcomeKind> {
        self.outcomes.iter().map(|outcome| outcome.kind).collect()
    }
}

fn pid_of(worker: u64) -> u32 {
    1000 + worker as u32
}

fn end(tag: u64, nanos: u64) -> TaskEnd {
    TaskEnd {
        tag,
        returned: true,
        payload: Bytes::new(),
        stdout: Bytes::new(),
        stderr: Bytes::new(),
        started: Timestamp::from_nanos(10),
        ended: Timestamp::from_nanos(10 + nanos),
    }
}

/// Tags and flags in the task frames of what was written.
fn tags_in(pieces: Vec<Bytes>) -> Vec<(u64, bool)> {
    let mut bytes: BytesMut = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
    let mut tags = Vec::new();
    while bytes.has_remaining() {
        let length = bytes.get_u32_le() as usize;
        let mut body = bytes.split_to(length);
        if body.get_u8() == b'T' {
            for _ in 0..body.get_u32_le() {
                let tag = body.get_u64_le();
                body.advance(20);
                tags.push((tag, body.get_u32_le() == 1));
                body.advance(8);
            }
        }
    }
    tags
}

#[test]
fn idle_workers_come_first_and_unknown_functions_go_one_by_one() {
    let mut bench = Bench::new(3);
    bench.start(2, Bench::spec("f"));
    assert_eq!(bench.sent_counts().iter().sum::<usize>(), 2);
    assert!(bench.sent_counts().iter().all(|count| *count <= 1));
    bench.start(5, Bench::spec("f"));
    assert_eq!(bench.sent_counts(), [1, 1, 1]);
    assert_eq!(bench.state.calls.waiting, 4);
}

#[test]
fn short_tasks_fill_pipelines_and_long_ones_do_not() {
    let mut bench = Bench::new(2);
    bench.teach("short");
    assert!(bench.sent_counts() == [0, 0]);
    bench.start(10, Bench::spec("short"));
    assert_eq!(bench.sent_counts(), [5, 5]);
    bench.start(10_000, Bench::spec("short"));
    assert_eq!(bench.sent_counts(), [2048, 2048]);
    // One task that takes a second changes what is sent from then on.
    bench.finish_next(0, 1_000_000_000);
    assert_eq!(bench.sent_counts(), [2047, 2048]);
}

#[test]
fn nothing_is_put_behind_a_head_that_takes_too_long() {
    let mut bench = Bench::new(2);
    bench.teach("short");
    bench.start(2, Bench::spec("short"));
    bench.pass(Duration::from_millis(20));
    bench.start(10, Bench::spec("short"));
    assert_eq!(bench.sent_counts(), [1, 1]);
    bench.finish_next(1, 20_000);
    assert_eq!(bench.sent_counts(), [1, 10]);
}

#[test]
fn what_stands_behind_a_head_that_takes_too_long_goes_elsewhere() {
    let mut bench = Bench::new(2);
    bench.teach("short");
    let attempts = bench.start(6, Bench::spec("short"));
    assert_eq!(bench.sent_counts(), [3, 3]);
    (0..3).for_each(|_| bench.finish_next(1, 1000));
    // Given in turn: the first worker has every other one.
    bench.state.cancel(&attempts[2..3], bench.now);
    bench.pass(PATIENCE);
    assert_eq!(bench.recalled, [pid_of(0)]);
    assert_eq!(bench.outcomes.len(), 3, "it has not answered");
    let (head, _) = bench.sent[&0][0];
    bench.sent.get_mut(&0).unwrap().truncate(1);
    bench.frame(0, FromWorker::GaveBack(head));
    assert_eq!(bench.outcomes[3].attempt_id(), attempts[2]);
    assert_eq!(bench.outcomes[3].kind, OutcomeKind::Cancelled);
    assert_eq!(bench.sent_counts(), [1, 1], "the other one goes to the worker that is idle");
    bench.finish_next(1, 1000);
    bench.finish_next(0, 1_000_000_000);
    assert_eq!((bench.outcomes.len(), bench.recalled.len(), bench.signals.len()), (6, 1, 0));
}

#[test]
fn a_worker_gives_back_only_what_it_has() {
    let mut bench = Bench::new(1);
    bench.teach("short");
    let attempts = bench.start(2, Bench::spec("short"));
    let (second, _) = bench.sent[&0][1];
    bench.frame(0, FromWorker::GaveBack(second));
    assert_eq!(bench.signals, [(pid_of(0), Signal::Kill)]);
    bench.die_with_code(0, 1);
    let mut lost: Vec<_> = bench.outcomes.iter().map(Outcome::attempt_id).collect();
    lost.sort_unstable();
    assert_eq!(
        (lost, bench.kinds()),
        (attempts, vec![OutcomeKind::Lost; 2]),
        "nothing that it said is proof"
    );
}

#[test]
fn capacity_follows_the_length_of_tasks() {
    let mut bench = Bench::new(2);
    assert_eq!(bench.state.capacity(), Capacity { slots: 2, prefetch: 4 });
    bench.start(1, Bench::spec("f"));
    let worker = *bench.sent.iter().find(|(_, sent)| !sent.is_empty()).unwrap().0;
    bench.finish_next(worker, 1000);
    assert_eq!(bench.capacities, [Capacity { slots: 2, prefetch: 2 * 2 * 2048 }]);
}

#[test]
fn a_lonely_task_is_blamed_for_the_death_of_its_worker() {
    let mut bench = Bench::new(1);
    let attempts = bench.start(1, Bench::spec("f"));
    bench.die_with_code(0, 7);
    assert_eq!(bench.outcomes[0].attempt_id(), attempts[0]);
    let failure = bench.outcomes[0].failure().unwrap();
    assert_eq!(failure.message, "the worker process exited with code 7 while it ran this task");
    // Its worker is replaced at once.
    assert_eq!(bench.take_others(), "Fork(1)");
}

#[test]
fn what_may_have_begun_comes_again_until_the_culprit_is_found() {
    let mut bench = Bench::new(1);
    bench.teach("f");
    let attempts = bench.start(100, Bench::spec("f"));
    (0..50).for_each(|_| bench.finish_next(0, 1000));
    bench.begin_unheard(0, 11);
    bench.die_with_code(0, 1);
    assert_eq!(bench.state.entries.len(), 0, "all of them may have begun, so none is kept");
    let failure = bench.outcomes[50].failure().unwrap();
    assert_eq!(failure.message, "the worker process exited with code 1, maybe while it ran this task");
    bench.boot_all();
    assert_eq!(bench.start_again().len(), 50);
    while bench.outcomes.len() < 100 {
        let worker = *bench.sent.keys().next().unwrap();
        assert_eq!(bench.sent[&worker].len(), 1, "a suspect has its worker for itself");
        let (tag, announced) = bench.sent[&worker][0];
        assert!(announced);
        if bench.state.entries[key_of(tag)].task.id == attempts[60].task {
            bench.begin_next(worker);
            bench.die_with_code(worker, 1);
            bench.boot_all();
        } else {
            bench.finish_next(worker, 1000);
        }
    }
    for outcome in &bench.outcomes {
        let is_culprit = outcome.task == attempts[60].task;
        assert_eq!(outcome.kind, if is_culprit { OutcomeKind::Lost } else { OutcomeKind::Returned });
        assert!(outcome.failure().is_none_or(|failure| failure.code == "WorkerLost"));
    }
}

#[test]
fn a_task_that_workers_die_of_before_it_begins_is_given_up() {
    let mut bench = Bench::new(1);
    let mut once = Bench::spec("f");
    once.limits.max_attempts = 1;
    bench.start(1, once);
    let mut deaths = 0;
    while bench.outcomes.is_empty() {
        let worker = *bench.sent.keys().next().unwrap();
        bench.die_with_code(worker, 1);
        deaths += 1;
        if bench.others.is_empty() && bench.outcomes.is_empty() {
            bench.pass_to_next();
        }
        bench.boot_all();
    }
    assert_eq!((deaths, bench.kinds()), (u32::from(MAX_SETBACKS) + 1, vec![OutcomeKind::Lost]));
}

#[test]
fn the_loss_of_the_zygote_is_no_fault_of_tasks() {
    let mut bench = Bench::new(2);
    let mut once = Bench::spec("f");
    once.limits.max_attempts = 1;
    bench.start(2, once);
    bench.begin_next(0);
    bench.state.handle_zygote_lost("it is gone".to_owned(), bench.now);
    (0..2).for_each(|worker| bench.state.handle_disconnected(worker, None, bench.now));
    bench.settle();
    assert_eq!(bench.codes()[0].2, "WorkerLost", "what may run once has begun");
    assert_eq!((bench.outcomes.len(), bench.state.calls.waiting), (1, 1), "the other one has not");
}

#[test]
fn what_may_run_once_runs_once() {
    let mut bench = Bench::new(1);
    bench.teach("f");
    let mut once = Bench::spec("f");
    once.limits.max_attempts = 1;
    let attempts = bench.start(3, once);
    bench.finish_next(0, 1000);
    bench.begin_next(0);
    assert_eq!(bench.started, attempts[..2]);
    bench.die_with_code(0, 1);
    assert_eq!(bench.kinds(), [OutcomeKind::Returned, OutcomeKind::Lost]);
    // The third had not begun.
    bench.boot_all();
    bench.finish_next(1, 1000);
    assert_eq!(bench.outcomes[2].attempt_id(), attempts[2]);
    assert_eq!(bench.outcomes[2].kind, OutcomeKind::Returned);
}

#[test]
fn what_stands_behind_an_announced_task_is_announced_too() {
    let mut bench = Bench::new(1);
    bench.teach("f");
    bench.start(1, Bench::spec("f"));
    let mut timed = Bench::spec("f");
    timed.shape.walltime = Some(Duration::from_secs(1));
    bench.start(1, timed);
    bench.start(1, Bench::spec("f"));
    let flags: Vec<_> = bench.sent[&0].iter().map(|(_, announced)| *announced).collect();
    assert_eq!(flags, [false, true, true]);
}

#[test]
fn a_task_past_its_walltime_ends_and_its_neighbours_do_not() {
    let mut bench = Bench::new(1);
    bench.teach("f");
    let mut timed = Bench::spec("f");
    timed.shape.walltime = Some(Duration::from_secs(9));
    let attempts = bench.start(2, timed);
    bench.pass(Duration::from_secs(100));
    assert_eq!(bench.signals, [], "the walltime runs from the start of the task");
    bench.begin_next(0);
    bench.pass(Duration::from_secs(8));
    assert_eq!(bench.signals, []);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.signals, [(pid_of(0), Signal::Kill)]);
    assert_eq!(bench.outcomes, [], "it may still have ended in time");
    bench.die(0, Exit { signal: Some(9), ..Exit::default() });
    assert_eq!(bench.kinds(), [OutcomeKind::TimedOut]);
    assert!(bench.outcomes[0].failure().unwrap().message.contains("9s"));
    bench.boot_all();
    bench.finish_next(1, 1000);
    assert_eq!(
        (bench.outcomes[1].attempt_id(), bench.outcomes[1].kind),
        (attempts[1], OutcomeKind::Returned)
    );
}

#[test]
fn an_outcome_on_its_way_is_worth_more_than_a_deadline() {
    let mut bench = Bench::new(1);
    let mut timed = Bench::spec("f");
    timed.shape.walltime = Some(Duration::from_secs(1));
    bench.start(1, timed);
    bench.begin_next(0);
    bench.pass(Duration::from_secs(1));
    let (tag, _) = bench.sent[&0][0];
    bench.frame(0, FromWorker::Outcomes(vec![end(tag, 1000)]));
    bench.die(0, Exit { signal: Some(9), ..Exit::default() });
    assert_eq!(bench.kinds(), [OutcomeKind::Returned]);
}

#[test]
fn cancelling_waits_a_little_then_asks_then_kills() {
    let mut bench = Bench::new(1);
    bench.teach("f");
    let attempts = bench.start(3, Bench::spec("f"));
    bench.state.cancel(&attempts[..1], bench.now);
    bench.settle();
    bench.pass(PATIENCE);
    assert_eq!(bench.signals, [(pid_of(0), Signal::Terminate)]);
    bench.pass(GRACE);
    assert_eq!(bench.signals[1..], [(pid_of(0), Signal::Kill)]);
    bench.die(0, Exit { signal: Some(9), ..Exit::default() });
    let codes: Vec<_> = bench.codes().into_iter().map(|(_, kind, code)| (kind, code)).collect();
    let neighbour = (OutcomeKind::Lost, Failure::LEASE_LOST.to_owned());
    assert_eq!(codes, [neighbour.clone(), neighbour, (OutcomeKind::Cancelled, "Cancelled".to_owned())]);
}

#[test]
fn a_cancelled_task_that_ends_by_itself_spares_its_worker() {
    let mut bench = Bench::new(1);
    bench.teach("f");
    let attempts = bench.start(2, Bench::spec("f"));
    bench.state.cancel(&attempts, bench.now);
    bench.settle();
    bench.finish_next(0, 1000);
    bench.finish_next(0, 1000);
    assert_eq!(bench.kinds(), [OutcomeKind::Cancelled; 2]);
    assert_eq!(bench.signals, []);
}

#[test]
fn waiting_tasks_are_cancelled_at_once_and_leave_no_trace() {
    let mut bench = Bench::new(1);
    for _ in 0..1000 {
        let attempts = bench.start(2, Bench::spec("f"));
        bench.state.cancel(&attempts, bench.now);
        bench.settle();
    }
    // All but the one that the worker has.
    assert_eq!(bench.outcomes.len(), 1999);
    assert!(bench.state.calls.tags.len() < 100, "{} old tags", bench.state.calls.tags.len());
    assert_eq!((bench.state.entries.len(), bench.state.calls.waiting), (1, 0));
}

#[test]
fn a_worker_that_lies_is_replaced() {
    type Lie = fn(u64) -> FromWorker;
    let lies: [(Lie, bool); 6] = [
        (|tag| FromWorker::Outcomes(vec![end(tag + 1, 1)]), false),
        (|tag| FromWorker::Outcomes(vec![end(tag, 1), end(tag, 1)]), true),
        (|tag| FromWorker::Outcomes(vec![TaskEnd { payload: vec![0; 101].into(), ..end(tag, 1) }]), false),
        (FromWorker::Started, false),
        (|tag| FromWorker::Started(tag + 1), false),
        (|_| FromWorker::Outcomes(vec![end(u64::MAX, 0)]), false),
    ];
    for (index, (lie, is_half_true)) in lies.into_iter().enumerate() {
        let mut bench = Bench::new(1);
        bench.start(1, Bench::spec("f"));
        let (tag, _) = bench.sent[&0][0];
        bench.frame(0, lie(tag));
        assert_eq!(bench.signals, [(pid_of(0), Signal::Kill)], "lie {index}");
        bench.die(0, Exit { signal: Some(9), ..Exit::default() });
        let expected = if is_half_true { OutcomeKind::Returned } else { OutcomeKind::Lost };
        assert_eq!(bench.kinds(), [expected], "lie {index}");
        assert_eq!(bench.take_others(), "Fork(1)");
    }
}

#[test]
fn a_stranger_is_not_taken_for_a_worker() {
    let mut bench = Bench::new(1);
    let mut hello = |worker, pid| bench.state.handle_hello(worker, pid, Bytes::new(), bench.now);
    assert!(!hello(0, pid_of(0)), "it is here already");
    assert!(!hello(5, 1), "nobody asked for it");
    bench.die_with_code(0, 0);
    bench.state.handle_forked(1, 77, bench.now);
    assert!(!bench.state.handle_hello(1, 78, Bytes::new(), bench.now), "another process");
    assert!(bench.state.handle_hello(1, 77, Bytes::new(), bench.now));
}

#[test]
fn deaths_in_a_row_slow_down_replacement() {
    let mut bench = Bench::new(1);
    let begin = bench.now.tick;
    for _ in 0..20 {
        bench.start(1, Bench::spec("f"));
        let worker = *bench.sent.keys().next().unwrap();
        bench.die_with_code(worker, 1);
        if bench.others.is_empty() {
            bench.pass_to_next();
        }
        bench.boot_all();
    }
    assert!(bench.now.tick.since(begin) > Duration::from_secs(10), "it spins");
    assert!(bench.now.tick.since(begin) < Duration::from_secs(30), "it stands still");
    // One task that ends makes up for all of them.
    bench.start(1, Bench::spec("f"));
    let worker = *bench.sent.keys().next().unwrap();
    bench.finish_next(worker, 1);
    bench.die_with_code(worker, 1);
    assert_eq!(bench.take_others(), format!("Fork({})", worker + 1));
}

#[test]
fn workers_that_never_begin_are_the_zygotes_fault() {
    let mut bench = Bench::unready(1);
    bench.state.handle_zygote_ready(Bytes::from("{}"), bench.now);
    bench.settle();
    for unborn in 0..MAX_UNBORN {
        if bench.others.is_empty() {
            bench.pass_to_next();
        }
        assert_eq!(bench.take_others(), format!("Fork({unborn})"));
        bench.state.handle_forked(u64::from(unborn), 5, bench.now);
        bench.state.handle_exited(u64::from(unborn), Exit::default(), bench.now);
        bench.settle();
    }
    assert_eq!(bench.take_others(), "StopZygote");
}

#[test]
fn a_worker_that_hangs_before_its_hello_is_replaced() {
    let mut bench = Bench::unready(1);
    bench.state.handle_zygote_ready(Bytes::from("{}"), bench.now);
    bench.settle();
    bench.state.handle_forked(0, 5, bench.now);
    bench.take_others();
    bench.pass(BOOT_TIME);
    assert_eq!(bench.signals, [(5, Signal::Kill)]);
    // Even if nobody ever sees it end.
    bench.pass(REAP_TIME);
    assert_eq!(bench.take_others(), "Fork(1)");
}

#[test]
fn without_zygotes_tasks_are_lost_until_there_is_one() {
    let mut bench = Bench::new(2);
    bench.start(5, Bench::spec("f"));
    bench.state.handle_zygote_lost("it is gone".to_owned(), bench.now);
    bench.settle();
    assert_eq!(bench.signals, [(pid_of(0), Signal::Kill), (pid_of(1), Signal::Kill)]);
    for worker in 0..2 {
        bench.state.handle_disconnected(worker, None, bench.now);
    }
    bench.settle();
    let lost = |bench: &Bench| bench.codes().into_iter().map(|(_, _, code)| code).collect::<Vec<_>>();
    assert_eq!(lost(&bench), [Failure::LEASE_LOST; 2], "one loss is no reason to give up what waits");
    for _ in 1..MAX_ZYGOTES {
        if bench.others.is_empty() {
            bench.pass_to_next();
        }
        assert_eq!(bench.take_others(), "StartZygote");
        bench.state.handle_zygote_lost("no memory".to_owned(), bench.now);
        bench.settle();
    }
    assert_eq!(bench.kinds(), [OutcomeKind::Lost; 5]);
    assert!(bench.outcomes[2].failure().unwrap().message.contains("no memory"));
    assert_eq!(bench.capacities, [Capacity::default()]);
    bench.start(1, Bench::spec("f"));
    assert_eq!(bench.kinds(), [OutcomeKind::Lost; 6]);
    // It goes on trying, and takes tasks again when a worker lives.
    bench.pass_to_next();
    assert_eq!(bench.take_others(), "StartZygote");
    bench.state.handle_zygote_ready(Bytes::from("{}"), bench.now);
    bench.settle();
    bench.boot_all();
    assert_eq!(bench.capacities[1..], [Capacity { slots: 2, prefetch: 4 }]);
    bench.start(1, Bench::spec("f"));
    assert_eq!(bench.sent_counts().iter().sum::<usize>(), 1);
}

#[test]
fn draining_finishes_then_says_goodbye_then_stops() {
    let mut bench = Bench::new(2);
    bench.start(1, Bench::spec("f"));
    let worker = *bench.sent.iter().find(|(_, sent)| !sent.is_empty()).unwrap().0;
    bench.state.drain(bench.now);
    bench.settle();
    assert_eq!(bench.take_others(), "");
    bench.finish_next(worker, 1000);
    bench.die_with_code(worker, 0);
    assert_eq!(bench.take_others(), "");
    // The other one does not go by itself.
    bench.pass(GRACE);
    assert_eq!(bench.signals, [(pid_of(1 - worker), Signal::Kill)]);
    bench.die(1 - worker, Exit { signal: Some(9), ..Exit::default() });
    assert_eq!(bench.take_others(), "StopZygote");
    bench.state.handle_zygote_lost("as asked".to_owned(), bench.now);
    bench.settle();
    assert_eq!(bench.take_others(), "Drained");
    let late = bench.start(1, Bench::spec("f"));
    assert_eq!((bench.kinds(), &bench.gave_back), (vec![OutcomeKind::Returned], &late));
}

#[test]
fn draining_gives_back_what_no_worker_was_sent() {
    let mut bench = Bench::new(1);
    let attempts = bench.start(3, Bench::spec("f"));
    bench.state.drain(bench.now);
    bench.settle();
    assert_eq!(bench.gave_back, attempts[1..]);
    bench.finish_next(0, 1000);
    assert_eq!(bench.outcomes[0].attempt_id(), attempts[0]);
    assert_eq!(bench.outcomes.len(), 1);
}

#[test]
fn a_draining_pool_gives_back_what_its_worker_had_not_begun() {
    let mut bench = Bench::new(1);
    bench.teach("f");
    let mut once = Bench::spec("f");
    once.limits.max_attempts = 1;
    let attempts = bench.start(3, once);
    bench.begin_next(0);
    bench.state.drain(bench.now);
    bench.settle();
    assert_eq!(bench.gave_back, [], "they were sent, and may begin any time");
    bench.die_with_code(0, 1);
    assert_eq!(
        (bench.kinds(), &bench.gave_back[..]),
        (vec![OutcomeKind::Lost], &[attempts[2], attempts[1]][..])
    );
}

/// What a task with these limits ends as, if nobody does anything: the time, the kind, the code.
fn limited(bench: &mut Bench, start_by: u64, end_by: u64) -> AttemptId {
    let ticks =
        |millis: u64| if millis == 0 { Tick::NEVER } else { bench.now.tick + Duration::from_millis(millis) };
    bench.next_id += 1;
    let spec = Arc::new(Bench::spec("f"));
    let mut task = Task::new(TaskId::from_u128(bench.next_id), spec, "");
    (task.start_by, task.end_by) = (ticks(start_by), ticks(end_by));
    let attempt = task.attempt_id();
    bench.state.start(vec![task], bench.now);
    bench.settle();
    attempt
}

impl Bench {
    fn codes(&self) -> Vec<(AttemptId, OutcomeKind, String)> {
        let code = |outcome: &Outcome| outcome.failure().map_or_else(String::new, |failure| failure.code);
        self.outcomes.iter().map(|one| (one.attempt_id(), one.kind, code(one))).collect()
    }
}

#[test]
fn waiting_tasks_end_when_their_time_is_over() {
    let mut bench = Bench::new(1);
    bench.start(1, Bench::spec("f"));
    let late = limited(&mut bench, 0, 30);
    let stale = limited(&mut bench, 20, 40);
    let patient = limited(&mut bench, 50_000, 0);
    let expired = |attempt, code: &str| (attempt, OutcomeKind::TimedOut, code.to_owned());
    bench.pass(Duration::from_millis(19));
    assert_eq!(bench.codes(), []);
    bench.pass_to_next();
    assert_eq!(bench.codes(), [expired(stale, "TaskExpired")]);
    bench.pass_to_next();
    assert_eq!(bench.codes()[1..], [expired(late, "DeadlinePassed")]);
    bench.pass(Duration::from_secs(1));
    bench.finish_next(0, 1);
    bench.begin_next(0);
    assert_eq!(bench.started.last(), Some(&patient), "its start is known at once");
    bench.pass(Duration::from_secs(100));
    assert_eq!(bench.outcomes.len(), 3, "it began in time");
    bench.finish_next_begun(0);
    assert_eq!(bench.kinds()[3], OutcomeKind::Returned);
    assert_eq!((bench.state.expiries.len(), bench.signals.len()), (0, 0));
}

#[test]
fn what_is_too_late_when_it_comes_is_not_begun() {
    let mut bench = Bench::new(1);
    bench.now.tick = bench.now.tick + Duration::from_secs(1);
    let mut task = Task::new(TaskId::from_u128(77), Arc::new(Bench::spec("f")), "");
    task.start_by = bench.now.tick;
    bench.state.start(vec![task], bench.now);
    bench.settle();
    assert_eq!(bench.codes()[0].2, "TaskExpired");
    assert_eq!(bench.sent_counts(), [0]);
}

#[test]
fn a_task_with_limits_stands_behind_no_other() {
    let mut bench = Bench::new(1);
    bench.teach("f");
    bench.start(1, Bench::spec("f"));
    limited(&mut bench, 1000, 0);
    assert_eq!(bench.sent_counts(), [1]);
    bench.finish_next(0, 1000);
    assert_eq!(bench.sent[&0].iter().map(|(_, announced)| *announced).collect::<Vec<_>>(), [true]);
    // Others may stand behind it.
    bench.start(3, Bench::spec("f"));
    assert_eq!(bench.sent_counts(), [4]);
}

#[test]
fn a_running_task_is_stopped_at_its_deadline() {
    let mut bench = Bench::new(1);
    bench.teach("f");
    let attempt = limited(&mut bench, 0, 500);
    bench.begin_next(0);
    let neighbour = bench.start(1, Bench::spec("f"));
    bench.pass(Duration::from_millis(499));
    assert_eq!(bench.signals, []);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.signals, [(pid_of(0), Signal::Kill)]);
    bench.die(0, Exit { signal: Some(9), ..Exit::default() });
    assert_eq!(bench.codes(), [(attempt, OutcomeKind::TimedOut, "DeadlinePassed".to_owned())]);
    bench.boot_all();
    bench.finish_next(1, 1000);
    assert_eq!(bench.outcomes[1].attempt_id(), neighbour[0]);
}

#[test]
fn stopping_ends_what_runs_and_gives_back_the_rest() {
    let mut bench = Bench::new(2);
    let attempts = bench.start(4, Bench::spec("f"));
    bench.state.stop(Failure::new("BlockEnded", "the block ends"), bench.now);
    bench.settle();
    assert_eq!(bench.signals, [(pid_of(0), Signal::Terminate), (pid_of(1), Signal::Terminate)]);
    assert_eq!(bench.gave_back, attempts[2..]);
    // One of them ends in time, the other needs force.
    let (tag, _) = bench.sent[&0][0];
    bench.frame(0, FromWorker::Outcomes(vec![end(tag, 1000)]));
    bench.die(0, Exit { signal: Some(15), ..Exit::default() });
    bench.pass(GRACE);
    assert_eq!(bench.signals[2..], [(pid_of(1), Signal::Kill)]);
    bench.die(1, Exit { signal: Some(9), ..Exit::default() });
    let codes: Vec<_> = bench.codes().into_iter().map(|(_, kind, code)| (kind, code)).collect();
    let lost = (OutcomeKind::Lost, "BlockEnded".to_owned());
    assert_eq!(codes, [(OutcomeKind::Returned, String::new()), lost]);
    assert_eq!(bench.take_others(), "StopZygote", "no worker is replaced");
}

#[test]
fn ten_thousand_running_tasks_are_cancelled_in_one_pass() {
    const COUNT: u32 = 10_000;
    let mut bench = Bench::new(COUNT);
    let attempts = bench.start(COUNT as usize, Bench::spec("f"));
    while bench.state.slots.booting() > 0 {
        bench.boot_all();
    }
    bench.pass(Duration::from_secs(1));
    bench.state.cancel(&attempts, bench.now);
    bench.settle();
    assert_eq!(bench.signals.len(), COUNT as usize);
    for worker in 0..u64::from(COUNT) {
        bench.die(worker, Exit { signal: Some(15), ..Exit::default() });
        assert!(bench.others.is_empty() || worker + 1 == u64::from(COUNT), "a worker is replaced too early");
    }
    assert_eq!(bench.kinds(), vec![OutcomeKind::Cancelled; COUNT as usize]);
    assert_eq!(bench.others.len(), MAX_BOOTING);
}

/// A generator that gives the same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Whatever workers, zygotes and owners do: one outcome for each attempt, which begins at most once, and an end.
#[test]
fn every_attempt_has_one_outcome_and_begins_once_whatever_happens() {
    for seed in 1..=100 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut bench = Bench::new(1 + dice.roll(4) as u32);
        let mut attempts = Vec::new();
        for _ in 0..400 {
            random_step(&mut bench, &mut dice, &mut attempts);
        }
        match dice.roll(2) {
            0 => bench.state.drain(bench.now),
            _ => bench.state.stop(Failure::new("BlockEnded", "as rolled"), bench.now),
        }
        bench.settle();
        for _ in 0..10_000 {
            if bench.others.iter().any(|output| matches!(output, PoolOutput::Drained)) {
                break;
            }
            serve(&mut bench, &mut dice);
        }
        assert!(bench.state.drained, "seed {seed} does not end: {:?}", bench.state);
        let mut seen: Vec<_> = bench.outcomes.iter().map(Outcome::attempt_id).collect();
        seen.extend(&bench.gave_back);
        seen.sort_unstable();
        attempts.sort_unstable();
        assert_eq!(seen, attempts, "seed {seed}");
        assert!(bench.state.entries.is_empty() && bench.state.index.is_empty());
        assert!(
            bench.state.calls.waiting + bench.state.commands.waiting == 0 && bench.state.expiries.is_empty()
        );
    }
}

fn random_step(bench: &mut Bench, dice: &mut Dice, attempts: &mut Vec<AttemptId>) {
    match dice.roll(20) {
        0..3 => {
            let mut spec = Bench::spec(["f", "g", "h"][dice.roll(3) as usize]);
            spec.limits.max_attempts = 1 + dice.roll(3) as u32;
            spec.shape.walltime = (dice.roll(4) == 0).then_some(Duration::from_millis(30));
            attempts.extend(bench.start(dice.roll(30) as usize, spec.clone()));
            if dice.roll(2) == 0 {
                spec.function = Arc::new(Function::shell("x"));
                attempts.extend(bench.start(dice.roll(10) as usize, spec));
            }
            if dice.roll(3) == 0 {
                attempts.push(limited(bench, dice.roll(60), dice.roll(90)));
            }
        }
        3 => {
            if let Some(attempt) = attempts.get(dice.roll(attempts.len().max(1) as u64) as usize) {
                bench.state.cancel(&[*attempt], bench.now);
                bench.settle();
            }
        }
        4 if !bench.others.iter().any(|output| matches!(output, PoolOutput::StartZygote)) => {
            let workers: Vec<_> = bench.sent.keys().copied().collect();
            workers.into_iter().for_each(|worker| begin_some(bench, dice, worker));
            bench.state.handle_zygote_lost("bad luck".to_owned(), bench.now);
            bench.commands.clear();
            bench.settle();
        }
        5..8 => {
            if let Some(worker) = any_worker(bench, dice) {
                begin_some(bench, dice, worker);
                match dice.roll(5) {
                    0 => {
                        let sent = bench.sent[&worker].len() as u64;
                        bench.begin_unheard(worker, dice.roll(sent + 1) as usize);
                        bench.state.handle_disconnected(worker, Some("nonsense".to_owned()), bench.now);
                    }
                    1 => bench.state.handle_exited(worker, Exit::default(), bench.now),
                    2 => bench.state.handle_frame(worker, FromWorker::Started(dice.roll(9)), bench.now),
                    3 => {
                        bench.begin_next(worker);
                        bench.die_with_code(worker, 1);
                    }
                    _ => bench.die_with_code(worker, 1),
                }
                bench.settle();
            }
        }
        8 if dice.roll(3) == 0 => {
            let slots = dice.roll(bench.state.slots.len() as u64 + 1) as u32;
            bench.state.resize(slots, bench.now);
            bench.settle();
        }
        _ => serve(bench, dice),
    }
}

/// Some tasks of a worker begin that need not say so.
fn begin_some(bench: &mut Bench, dice: &mut Dice, worker: u64) {
    let count = dice.roll(bench.unannounced(worker) as u64 + 1) as usize;
    bench.begin_unheard(worker, count);
}

fn any_worker(bench: &Bench, dice: &mut Dice) -> Option<u64> {
    let workers: Vec<_> = bench.sent.keys().copied().collect();
    workers.get(dice.roll(workers.len().max(1) as u64) as usize).copied()
}

/// A command begins, or cannot, or ends, and the output of others is read.
fn serve_commands(bench: &mut Bench, dice: &mut Dice) {
    let numbers: Vec<_> = bench.commands.keys().copied().collect();
    if let Some(number) = numbers.get(dice.roll(numbers.len().max(1) as u64) as usize) {
        match bench.commands[number] || dice.roll(8) == 0 {
            true => bench.end_command(*number, Exit { status: Some(1), ..Exit::default() }),
            false => bench.begin_command(*number),
        }
    }
    if dice.roll(2) == 0 {
        bench.read_outputs();
    }
}

/// What well-behaved workers and zygotes do, and time that passes.
fn serve(bench: &mut Bench, dice: &mut Dice) {
    for output in std::mem::take(&mut bench.others) {
        match output {
            PoolOutput::Fork(worker) => {
                bench.state.handle_forked(worker, pid_of(worker), bench.now);
                if bench.state.handle_hello(worker, pid_of(worker), Bytes::new(), bench.now) {
                    bench.sent.insert(worker, VecDeque::new());
                }
            }
            PoolOutput::StartZygote => bench.state.handle_zygote_ready(Bytes::from("{}"), bench.now),
            PoolOutput::StopZygote => {
                bench.commands.clear();
                bench.state.handle_zygote_lost("as asked".to_owned(), bench.now);
            }
            output => bench.others.push(output),
        }
    }
    bench.settle();
    if let Some(worker) = any_worker(bench, dice) {
        for _ in 0..dice.roll(8) {
            if bench.sent.get(&worker).is_some_and(|sent| !sent.is_empty()) {
                bench.finish_next(worker, 1 << dice.roll(30));
            }
        }
    }
    serve_commands(bench, dice);
    // Processes that were killed are gone some time later.
    for (pid, signal) in std::mem::take(&mut bench.signals) {
        if pid >= commands::FIRST_PID {
            commands::obey(bench, pid, signal == Signal::Kill || dice.roll(2) == 0);
            continue;
        }
        let worker = u64::from(pid) - 1000;
        if signal == Signal::Kill || dice.roll(2) == 0 {
            if bench.sent.contains_key(&worker) {
                begin_some(bench, dice, worker);
            }
            bench.die(worker, Exit { signal: Some(9), ..Exit::default() });
        }
    }
    if bench.state.draining
        && dice.roll(4) == 0
        && let Some(worker) = any_worker(bench, dice)
    {
        bench.die_with_code(worker, 0);
    }
    bench.pass(Duration::from_millis(dice.roll(40)));
}
