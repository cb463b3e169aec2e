//! Pools that may use fewer slots than they have.

use super::*;

impl Bench {
    fn resize(&mut self, slots: u32) {
        self.state.resize(slots, self.now);
        self.settle();
    }

    /// Slots that the pool said it has, since this was last asked.
    fn said(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.capacities).iter().map(|capacity| capacity.slots).collect()
    }

    fn leaving(&self) -> usize {
        self.state.slots.ending()
    }
}

#[test]
fn an_empty_pool_starts_nothing_before_it_may_use_a_slot() {
    let mut bench = Bench::unready(4);
    bench.state.start_empty();
    assert_eq!(bench.state.capacity(), Capacity::default());
    let attempts = bench.start(3, Bench::spec("f"));
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.take_others(), bench.outcomes.len()), (String::new(), 0));
    bench.resize(2);
    assert_eq!((bench.take_others().as_str(), bench.said()), ("StartZygote", vec![2]));
    bench.state.handle_zygote_ready(Bytes::from("{}"), bench.now);
    bench.settle();
    assert_eq!(bench.others.len(), 2, "it asks for as many workers as it may have");
    bench.boot_all();
    assert_eq!(bench.sent_counts(), [1, 1]);
    // One that was given nothing yet is drained without a process.
    bench.state = PoolState::new(bench.state.settings.clone(), bench.now);
    bench.state.start_empty();
    bench.start(1, Bench::spec("f"));
    bench.state.drain(bench.now);
    bench.settle();
    assert_eq!((bench.take_others().as_str(), bench.gave_back.len()), ("Drained", 1));
    assert_eq!(attempts.len(), 3);
}

#[test]
fn a_pool_on_shared_slots_that_has_no_python_says_so_to_whoever_comes() {
    let mut bench = Bench::unready(4);
    bench.state.start_empty();
    bench.resize(2);
    bench.start(1, Bench::spec("f"));
    for _ in 0..MAX_ZYGOTES {
        bench.state.handle_zygote_lost("no such python".to_owned(), bench.now);
        bench.settle();
        bench.pass(Duration::from_secs(60));
    }
    bench.start(1, Bench::spec("f"));
    assert_eq!(bench.kinds(), [OutcomeKind::Lost; 2]);
    assert!(
        bench.outcomes.iter().all(|outcome| outcome.failure().unwrap().message.contains("no such python"))
    );
    assert_eq!(bench.state.capacity(), Capacity { slots: 2, prefetch: 0 });
    bench.resize(0);
    assert_eq!(bench.state.capacity(), Capacity::default());
}

#[test]
fn workers_without_a_task_end_at_once_and_count_until_they_have() {
    let mut bench = Bench::new(4);
    bench.capacities.clear();
    bench.start(1, Bench::spec("f"));
    let busy = *bench.sent.iter().find(|(_, sent)| !sent.is_empty()).unwrap().0;
    bench.resize(1);
    assert_eq!((bench.leaving(), bench.said()), (3, vec![4]));
    for worker in (0..4).filter(|worker| *worker != busy) {
        bench.die_with_code(worker, 0);
    }
    assert_eq!((bench.said(), bench.take_others()), (vec![3, 2, 1], String::new()));
    bench.finish_next(busy, 1);
    bench.start(2, Bench::spec("g"));
    assert_eq!(bench.sent_counts(), [1], "there is one worker, and no other one is asked for");
    bench.capacities.clear();
    bench.resize(3);
    assert_eq!((bench.said(), bench.others.len()), (vec![3], 2));
}

#[test]
fn a_busy_worker_ends_when_it_has_no_task() {
    let mut bench = Bench::new(2);
    bench.teach("short");
    bench.start(6, Bench::spec("short"));
    assert_eq!(bench.sent_counts(), [3, 3]);
    bench.start(1, Bench::spec("long"));
    bench.resize(1);
    assert_eq!(bench.leaving(), 0);
    for _ in 0..3 {
        assert_eq!(bench.leaving(), 0);
        bench.finish_next(1, 1000);
    }
    assert_eq!(bench.leaving(), 1);
    bench.die_with_code(1, 0);
    // The other one goes on, and gets what waits.
    (0..3).for_each(|_| bench.finish_next(0, 1000));
    assert_eq!((bench.outcomes.len(), bench.sent_counts()), (6, vec![1]));
    assert!(bench.kinds().iter().all(|kind| *kind == OutcomeKind::Returned));
}

#[test]
fn commands_use_no_more_slots_than_there_may_be() {
    let mut bench = Bench::unready(3);
    bench.state.handle_zygote_ready(Bytes::from("{}"), bench.now);
    bench.state.resize(1, bench.now);
    let shell = TaskSpec { function: Arc::new(Function::shell("sleep 1")), ..Bench::spec("f") };
    bench.start(3, shell);
    assert_eq!(bench.commands.len(), 1);
    bench.resize(2);
    assert_eq!(bench.commands.len(), 2);
}
