//! Commands: which slot they get, how they begin and end.

use super::super::super::output::CommandOutput;
use super::super::life::WARM_WORKERS;
use super::*;

/// Process ids from here on are those of commands.
pub(super) const FIRST_PID: u32 = 1 << 30;

/// The process id of a command.
fn pid(number: u64) -> u32 {
    FIRST_PID + (number >> 32) as u32
}

fn code(status: i32) -> Exit {
    Exit { status: Some(status), ..Exit::default() }
}

fn killed() -> Exit {
    Exit { signal: Some(9), ..Exit::default() }
}

fn shell() -> TaskSpec {
    TaskSpec { function: Arc::new(Function::shell("sleep 1")), ..Bench::spec("f") }
}

/// The process with this id ends, if it is one that is there and `listens`.
pub(super) fn obey(bench: &mut Bench, pid_of_it: u32, listens: bool) {
    let number = bench.commands.iter().find(|(number, begun)| **begun && pid(**number) == pid_of_it);
    if let Some(number) = number.map(|(number, _)| *number).filter(|_| listens) {
        bench.end_command(number, killed());
    }
}

impl Bench {
    /// A pool without any worker.
    fn cold(slots: u32) -> Self {
        let mut bench = Self::unready(slots);
        bench.state.handle_zygote_ready(Bytes::from("{}"), bench.now);
        bench
    }

    pub(super) fn begin_command(&mut self, number: u64) {
        let attempt = self.state.entries.get(key_of(number)).filter(|entry| entry.tag == number);
        if let Some(attempt) = attempt.map(|entry| entry.task.attempt_id()) {
            assert_eq!(self.begun.insert(attempt, number), None, "{attempt:?} begins again");
        }
        self.commands.insert(number, true);
        self.state.handle_command_started(number, pid(number), Timestamp::from_nanos(10), self.now);
        self.settle();
    }

    pub(super) fn end_command(&mut self, number: u64, exit: Exit) {
        self.commands.remove(&number);
        self.state.handle_command_ended(number, exit, Timestamp::from_nanos(20), self.now);
        self.settle();
    }

    pub(super) fn read_outputs(&mut self) {
        for number in std::mem::take(&mut self.unread) {
            let output = CommandOutput::Returned(Bytes::from("{}"));
            self.state.handle_command_read(number, output, self.now);
        }
        self.settle();
    }

    /// Numbers of the commands that were asked for.
    fn numbers(&self) -> Vec<u64> {
        self.commands.keys().copied().collect()
    }

    /// Starts one command, which begins.
    fn run(&mut self, spec: TaskSpec) -> (AttemptId, u64) {
        let attempt = self.start(1, spec)[0];
        let number = *self.numbers().last().expect("it was asked for");
        self.begin_command(number);
        (attempt, number)
    }

    /// Kind and code of every outcome.
    fn ends(&self) -> Vec<(OutcomeKind, String)> {
        self.codes().into_iter().map(|(_, kind, code)| (kind, code)).collect()
    }
}

#[test]
fn a_command_is_reported_and_returns_what_it_wrote() {
    let mut bench = Bench::new(1);
    let (attempt, number) = bench.run(shell());
    assert_eq!(bench.started, [attempt]);
    bench.end_command(number, code(3));
    assert_eq!((&bench.unread[..], &bench.outcomes[..]), (&[number][..], &[][..]));
    bench.read_outputs();
    let outcome = &bench.outcomes[0];
    assert_eq!((outcome.attempt_id(), outcome.kind), (attempt, OutcomeKind::Returned));
    assert_eq!((&outcome.payload[..], &outcome.worker[..]), (&b"{}"[..], &b"{}"[..]));
    let stamps = [Hop::Started, Hop::Ended].map(|hop| outcome.stamps.at(hop).as_nanos());
    assert_eq!((stamps, bench.signals.len()), ([10, 20], 0));
}

#[test]
fn what_it_wrote_may_be_too_much_or_lost() {
    let mut bench = Bench::new(1);
    for output in [CommandOutput::Raised("{}".into()), CommandOutput::Lost("it is".to_owned())] {
        let (_, number) = bench.run(shell());
        bench.end_command(number, code(0));
        bench.state.handle_command_read(number, output, bench.now);
        bench.settle();
    }
    assert_eq!(bench.kinds(), [OutcomeKind::Raised, OutcomeKind::Lost]);
    assert_eq!(bench.outcomes[1].failure().unwrap().message, "it is");
}

#[test]
fn slots_without_workers_come_first_then_idle_ones_whose_workers_stay() {
    let mut bench = Bench::cold(3);
    bench.start(1, shell());
    assert_eq!(bench.numbers().len(), 1);
    assert_eq!(bench.take_others(), "Fork(1) Fork(2)", "no worker for a slot that is taken");
    let mut bench = Bench::new(2);
    bench.start(3, shell());
    assert_eq!(bench.numbers().len(), 2, "one at a time in each slot");
    bench.start(1, Bench::spec("f"));
    assert_eq!(bench.sent_counts(), [0, 0], "no task for a worker that has to wait");
    let numbers = bench.numbers();
    for number in numbers {
        bench.begin_command(number);
        bench.end_command(number, code(0));
        bench.read_outputs();
    }
    assert_eq!((bench.numbers().len(), bench.sent_counts()), (1, vec![0, 1]));
    assert_eq!(bench.take_others(), "", "no process was replaced");
}

#[test]
fn a_worker_may_die_beside_a_command() {
    let mut bench = Bench::new(1);
    let (_, number) = bench.run(shell());
    bench.die_with_code(0, 1);
    assert_eq!((bench.take_others().as_str(), bench.outcomes.len()), ("", 0));
    bench.end_command(number, code(0));
    bench.read_outputs();
    assert_eq!((bench.kinds(), bench.take_others().as_str()), (vec![OutcomeKind::Returned], "Fork(1)"));
}

#[test]
fn a_free_slot_goes_to_who_came_first() {
    let mut bench = Bench::new(1);
    bench.start(1, Bench::spec("f"));
    bench.start(1, shell());
    bench.start(1, Bench::spec("f"));
    bench.start(1, shell());
    bench.finish_next(0, 1_000_000_000);
    for _ in 0..2 {
        let [number] = bench.numbers()[..] else { panic!("the command's turn") };
        assert_eq!(bench.sent_counts(), [0]);
        bench.begin_command(number);
        bench.end_command(number, code(0));
        bench.read_outputs();
        if bench.sent_counts() == [1] {
            assert!(bench.numbers().is_empty(), "the other task's turn");
            bench.finish_next(0, 1_000_000_000);
        }
    }
    assert_eq!(bench.kinds(), [OutcomeKind::Returned; 4]);
}

#[test]
fn a_stream_of_short_tasks_does_not_keep_a_command_waiting() {
    let mut bench = Bench::new(1);
    bench.teach("f");
    bench.start(2, Bench::spec("f"));
    bench.start(1, shell());
    bench.start(2, Bench::spec("f"));
    assert_eq!(bench.sent_counts(), [2], "what came later waits");
    bench.finish_next(0, 1000);
    bench.finish_next(0, 1000);
    assert_eq!((bench.numbers().len(), bench.sent_counts()), (1, vec![0]));
}

#[test]
fn a_command_leaves_vacant_slots_to_those_that_came_before() {
    let mut bench = Bench::unready(2);
    let function = Bench::spec("f");
    bench.start(1, function);
    bench.start(2, shell());
    bench.state.handle_zygote_ready(Bytes::from("{}"), bench.now);
    bench.settle();
    assert_eq!((bench.numbers().len(), bench.take_others().matches("Fork").count()), (1, 1));
}

#[test]
fn workers_are_forked_ahead_of_need_up_to_a_bound() {
    const SLOTS: u32 = 2 * WARM_WORKERS as u32;
    let mut bench = Bench::new(SLOTS);
    while bench.state.slots.booting() > 0 {
        bench.boot_all();
    }
    assert_eq!(bench.sent.len(), WARM_WORKERS);
    bench.start(WARM_WORKERS + 10, Bench::spec("f"));
    bench.boot_all();
    assert_eq!(bench.sent.len(), WARM_WORKERS + 10, "more for tasks that wait");
}

#[test]
fn a_cancelled_command_is_asked_at_once_then_killed() {
    let mut bench = Bench::new(1);
    let (attempt, number) = bench.run(shell());
    bench.state.cancel(&[attempt], bench.now);
    bench.state.cancel(&[attempt], bench.now);
    bench.settle();
    assert_eq!(bench.signals, [(pid(number), Signal::Terminate)]);
    bench.pass(GRACE);
    assert_eq!(bench.signals[1..], [(pid(number), Signal::Kill)]);
    bench.end_command(number, killed());
    assert_eq!((bench.kinds(), bench.unread.len()), (vec![OutcomeKind::Cancelled], 0));
    // Even if nobody ever sees it end.
    let (attempt, number) = bench.run(shell());
    bench.state.cancel(&[attempt], bench.now);
    bench.settle();
    bench.pass(GRACE);
    bench.pass(REAP_TIME);
    assert_eq!(bench.kinds(), [OutcomeKind::Cancelled; 2]);
    bench.end_command(number, killed());
    assert_eq!(bench.outcomes.len(), 2);
}

#[test]
fn a_command_can_be_cancelled_before_its_process_is_known_and_while_its_output_is_read() {
    let mut bench = Bench::new(1);
    let attempts = bench.start(1, shell());
    bench.state.cancel(&attempts, bench.now);
    bench.settle();
    assert_eq!((bench.signals.len(), bench.outcomes.len()), (0, 0));
    let number = bench.numbers()[0];
    bench.pass(Duration::from_secs(1));
    bench.begin_command(number);
    assert_eq!(bench.signals, [(pid(number), Signal::Terminate)]);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.signals.len(), 1, "the grace begins with the signal");
    bench.end_command(number, killed());
    let (attempt, number) = bench.run(shell());
    bench.end_command(number, code(0));
    bench.state.cancel(&[attempt], bench.now);
    bench.settle();
    bench.read_outputs();
    assert_eq!((bench.kinds(), bench.signals.len()), (vec![OutcomeKind::Cancelled; 2], 1));
}

#[test]
fn a_command_that_begins_after_it_was_given_up_is_killed() {
    let mut bench = Bench::new(1);
    bench.start(1, shell());
    let number = bench.numbers()[0];
    bench.pass(BOOT_TIME);
    bench.pass(REAP_TIME);
    assert_eq!(bench.ends(), [(OutcomeKind::Lost, Failure::LEASE_LOST.to_owned())]);
    bench.begin_command(number);
    assert_eq!((&bench.signals[..], bench.started.len()), (&[(pid(number), Signal::Kill)][..], 0));
}

#[test]
fn a_command_past_its_walltime_or_deadline_is_killed() {
    let mut bench = Bench::new(1);
    let mut timed = shell();
    timed.shape.walltime = Some(Duration::from_secs(9));
    for ends_in_time in [false, true] {
        let number = bench.run(timed.clone()).1;
        bench.pass(Duration::from_secs(8));
        assert_eq!(bench.signals, []);
        bench.pass(Duration::from_secs(1));
        assert_eq!(std::mem::take(&mut bench.signals), [(pid(number), Signal::Kill)]);
        bench.end_command(number, if ends_in_time { code(0) } else { killed() });
        bench.read_outputs();
    }
    bench.next_id += 1;
    let mut task = Task::new(TaskId::from_u128(bench.next_id), Arc::new(shell()), "");
    task.end_by = bench.now.tick + Duration::from_secs(2);
    bench.state.start(vec![task], bench.now);
    bench.settle();
    let number = bench.numbers()[0];
    bench.begin_command(number);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.signals, [(pid(number), Signal::Kill)]);
    bench.end_command(number, killed());
    let timed_out = |code: &str| (OutcomeKind::TimedOut, code.to_owned());
    let expected =
        [timed_out("TaskTimedOut"), (OutcomeKind::Returned, String::new()), timed_out("DeadlinePassed")];
    assert_eq!(bench.ends(), expected);
}

#[test]
fn commands_that_the_system_has_no_process_for_wait() {
    let mut bench = Bench::new(2);
    bench.start(1, shell());
    let begin = bench.now.tick;
    for _ in 0..10 {
        let number = bench.numbers()[0];
        bench.end_command(number, code(1));
        assert_eq!((bench.numbers(), bench.outcomes.len()), (vec![], 0));
        bench.pass_to_next();
    }
    assert!(bench.now.tick.since(begin) > Duration::from_secs(2), "it spins");
    let number = bench.numbers()[0];
    bench.begin_command(number);
    bench.end_command(number, code(0));
    bench.read_outputs();
    assert_eq!(bench.kinds(), [OutcomeKind::Returned]);
}

#[test]
fn a_lost_zygote_takes_its_commands_along() {
    let mut bench = Bench::new(4);
    let mut once = shell();
    once.limits.max_attempts = 1;
    let (_, number) = bench.run(shell());
    let (_, ended) = bench.run(shell());
    bench.end_command(ended, code(0));
    bench.start(1, shell());
    bench.start(1, once);
    bench.state.handle_zygote_lost("it is gone".to_owned(), bench.now);
    bench.settle();
    assert!(bench.signals.contains(&(pid(number), Signal::Kill)), "what it has started is killed");
    let lost = |code: &str| (OutcomeKind::Lost, code.to_owned());
    let mut ends = bench.ends();
    ends.sort_by(|one, other| one.1.cmp(&other.1));
    // Of one that was only asked for nobody knows whether it has begun; what may run once is not run again.
    assert_eq!(ends, [lost(Failure::LEASE_LOST), lost("WorkerLost"), lost("WorkerLost")]);
    bench.read_outputs();
    assert_eq!(bench.kinds()[3], OutcomeKind::Returned);
}

#[test]
fn draining_finishes_commands_and_gives_back_those_that_wait() {
    let mut bench = Bench::new(1);
    let attempts = bench.start(3, shell());
    let number = bench.numbers()[0];
    bench.state.drain(bench.now);
    bench.settle();
    assert_eq!(bench.gave_back, attempts[1..]);
    bench.begin_command(number);
    bench.end_command(number, code(0));
    bench.read_outputs();
    assert_eq!(bench.kinds(), [OutcomeKind::Returned]);
    bench.die_with_code(0, 0);
    assert_eq!(bench.take_others(), "StopZygote");
}

#[test]
fn stopping_ends_commands() {
    let mut bench = Bench::new(2);
    let (_, running) = bench.run(shell());
    bench.start(1, shell());
    let asked = *bench.numbers().iter().find(|number| **number != running).unwrap();
    bench.state.stop(Failure::new("BlockEnded", "the block ends"), bench.now);
    bench.settle();
    bench.begin_command(asked);
    assert_eq!(bench.signals, [running, asked].map(|number| (pid(number), Signal::Terminate)));
    bench.end_command(running, code(143));
    bench.pass(GRACE);
    assert_eq!(bench.signals[2..], [(pid(asked), Signal::Kill)]);
    bench.end_command(asked, killed());
    let lost = (OutcomeKind::Lost, "BlockEnded".to_owned());
    assert_eq!(bench.ends(), [lost.clone(), lost]);
}

#[test]
fn ten_thousand_commands_are_cancelled_in_one_pass() {
    const COUNT: usize = 10_000;
    let mut bench = Bench::new(COUNT as u32);
    while bench.state.slots.booting() > 0 {
        bench.boot_all();
    }
    let attempts = bench.start(COUNT, shell());
    while bench.started.len() < COUNT {
        let asked: Vec<_> =
            bench.commands.iter().filter(|(_, begun)| !**begun).map(|(number, _)| *number).collect();
        assert!((1..=MAX_BOOTING).contains(&asked.len()));
        asked.into_iter().for_each(|number| bench.begin_command(number));
    }
    bench.state.cancel(&attempts, bench.now);
    bench.settle();
    assert_eq!(bench.signals.len(), COUNT);
    let numbers = bench.numbers();
    numbers.into_iter().for_each(|number| bench.end_command(number, killed()));
    assert_eq!(bench.kinds(), vec![OutcomeKind::Cancelled; COUNT]);
}
