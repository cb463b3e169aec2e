//! A node that writes down what it holds: what waits for that, and how a later life goes on.

use std::sync::Arc;
use std::time::Duration;

use funcx_core::contract::{Capacity, ExecutorEvent, PeerId};
use funcx_core::message::{Message, Role};
use funcx_core::model::{
    Failure, Function, FunctionKind, Hop, IdentityId, Now, Outcome, OutcomeKind, Task, TaskEvent,
    TaskEventKind, TaskId, TaskSpec, Tick, Timestamp,
};
use funcx_core::state::{
    JournalEntry, LaneId, Ledger, LinkId, LinkPolicy, Node, NodeConfig, NodeOutput, RecordId, Uplink,
    UplinkIdentity,
};
use uuid::Uuid;

fn at(millis: u64) -> Now {
    Now { tick: Tick::from_nanos(millis * 1_000_000), wall: Timestamp::from_nanos(millis + 1) }
}

fn node(uplink: Option<UplinkIdentity>) -> Node {
    let mut node = Node::new(NodeConfig {
        journal: uplink.is_some(),
        retries: true,
        uplink,
        link: LinkPolicy::with_heartbeat(Duration::from_secs(2)),
        ..NodeConfig::new(Hop::EndpointSent, "test")
    });
    let lane = node.open_lane();
    node.route(FunctionKind::Native, lane);
    node
}

fn identity(epoch: u64, life: u32, process: u64) -> UplinkIdentity {
    UplinkIdentity {
        role: Role::Endpoint,
        node: Uuid::from_u128(1),
        epoch,
        life,
        process,
        ends_at: Tick::NEVER,
        credential: String::new(),
        name: "e1".to_owned(),
        software: "test".to_owned(),
    }
}

fn task(id: u128, max_attempts: u32) -> Task {
    let mut spec = TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(1));
    spec.limits.max_attempts = max_attempts;
    Task::new(TaskId::from_u128(id), Arc::new(spec), "x")
}

/// A service with an endpoint below it, whose journal is a list.
struct Pair {
    service: Node,
    endpoint: Node,
    executor: PeerId,
    link: u64,
    /// What is written down, in order, and what waits for that.
    journal: Vec<JournalEntry>,
    records: Vec<(RecordId, Vec<JournalEntry>)>,
    /// What the endpoint's executor was told, and what the service has.
    told: Vec<String>,
    outcomes: Vec<Outcome>,
    events: Vec<TaskEvent>,
    refused: Vec<String>,
}

impl Pair {
    fn new() -> Self {
        let mut endpoint = node(Some(identity(7, 1, 100)));
        let executor = endpoint.attach_executor(LaneId(0), Capacity { slots: 8, prefetch: 0 });
        Self {
            service: node(None),
            endpoint,
            executor,
            link: 0,
            journal: Vec::new(),
            records: Vec::new(),
            told: Vec::new(),
            outcomes: Vec::new(),
            events: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn connect(&mut self) {
        self.link += 1;
        self.service.handle_accepted(LinkId(self.link), at(0));
        self.endpoint.handle_connected_above(at(0));
        self.settle();
    }

    /// Carries messages until both are silent. The journal writes nothing by itself.
    fn settle(&mut self) {
        loop {
            let up: Vec<_> = std::iter::from_fn(|| self.endpoint.poll_output()).collect();
            let down: Vec<_> = std::iter::from_fn(|| self.service.poll_output()).collect();
            if up.is_empty() && down.is_empty() {
                return;
            }
            for output in up {
                match output {
                    NodeOutput::SendUp(message) => {
                        self.service.handle_message(LinkId(self.link), message, at(0));
                    }
                    NodeOutput::Record(id, entries) => self.records.push((id, entries)),
                    NodeOutput::Run(_, tasks) => {
                        let runs =
                            tasks.iter().map(|task| format!("run {} {}", task.id.as_u128(), task.attempt));
                        self.told.extend(runs);
                    }
                    NodeOutput::Stop(_, attempts) => {
                        self.told.extend(attempts.iter().map(|id| format!("stop {}", id.task.as_u128())));
                    }
                    NodeOutput::RefusedAbove(refused) => {
                        self.refused.push(format!("{} {}", refused.retry, refused.reason));
                    }
                    _ => {}
                }
            }
            for output in down {
                match output {
                    NodeOutput::Send(LinkId(link), message) if link == self.link => {
                        self.endpoint.handle_message_above(message, at(0));
                    }
                    NodeOutput::Authorize(link, _) => self.service.admit(link, LaneId(0), at(0)),
                    NodeOutput::Deliver(delivery, outcomes) => {
                        self.outcomes.extend(outcomes);
                        self.service.committed(delivery);
                    }
                    NodeOutput::Events(events) => self.events.extend(events),
                    _ => {}
                }
            }
        }
    }

    /// The disk takes everything that waits.
    fn write(&mut self) {
        for (id, entries) in std::mem::take(&mut self.records) {
            self.journal.extend(entries);
            self.endpoint.recorded(id);
        }
        self.settle();
    }

    fn submit(&mut self, tasks: Vec<Task>) {
        assert!(self.service.submit(LaneId(0), tasks, at(0)).is_empty());
        self.settle();
    }

    fn end(&mut self, task: &Task) {
        let outcomes = ExecutorEvent::Outcomes(vec![Outcome::returned(task, "value")]);
        self.endpoint.handle_executor(self.executor, outcomes, at(1));
        self.settle();
    }

    /// The endpoint is killed, and back with what its journal says.
    fn restart(&mut self) {
        self.service.handle_closed(LinkId(self.link), at(2));
        let mut ledger = Ledger::default();
        self.journal.iter().for_each(|entry| ledger.apply(entry));
        let recovered = ledger.into_recovered(7, 2, true);
        self.endpoint = node(Some(identity(7, 2, 101)));
        self.endpoint.restore(recovered);
        self.executor = self.endpoint.attach_executor(LaneId(0), Capacity { slots: 8, prefetch: 0 });
        self.records.clear();
        self.told.clear();
        self.connect();
    }

    fn ended(&self) -> Vec<(u128, OutcomeKind, u32)> {
        self.outcomes.iter().map(|outcome| (outcome.task.as_u128(), outcome.kind, outcome.attempt)).collect()
    }
}

#[test]
fn nothing_runs_before_its_lease_is_written_down_and_no_stop_overtakes_it() {
    let mut pair = Pair::new();
    pair.connect();
    pair.submit(vec![task(1, 3), task(2, 1)]);
    pair.service.cancel([TaskId::from_u128(1)], at(0));
    pair.settle();
    assert_eq!(pair.told, [""; 0], "the disk has not taken it yet");
    pair.write();
    assert_eq!(pair.told, ["run 1 1", "run 2 1", "stop 1"]);
    let attempts = |ids: &[u128]| ids.iter().map(|id| task(*id, 1).attempt_id()).collect::<Vec<_>>();
    // For a task with one attempt every doubt counts.
    assert_eq!(
        pair.journal,
        [JournalEntry::Leased(attempts(&[1, 2])), JournalEntry::Started(attempts(&[2]))]
    );
}

#[test]
fn an_outcome_is_acknowledged_below_when_it_is_written_down_and_sent_above_at_once() {
    let mut service = node(None);
    let mut endpoint = node(Some(identity(7, 1, 100)));
    let mut manager =
        node(Some(UplinkIdentity { role: Role::Manager, node: Uuid::from_u128(2), ..identity(9, 0, 9) }));
    let executor = manager.attach_executor(LaneId(0), Capacity { slots: 1, prefetch: 0 });
    let (above, below) = (LinkId(1), LinkId(2));
    service.handle_accepted(above, at(0));
    endpoint.handle_connected_above(at(0));
    endpoint.handle_accepted(below, at(0));
    manager.handle_connected_above(at(0));
    let mut records = Vec::new();
    let mut delivered = 0;
    let mut settle = |service: &mut Node, endpoint: &mut Node, manager: &mut Node, write: bool| {
        for _ in 0..20 {
            while let Some(output) = manager.poll_output() {
                match output {
                    NodeOutput::SendUp(message) => endpoint.handle_message(below, message, at(0)),
                    NodeOutput::Record(id, _) => manager.recorded(id),
                    _ => {}
                }
            }
            while let Some(output) = endpoint.poll_output() {
                match output {
                    NodeOutput::SendUp(message) => service.handle_message(above, message, at(0)),
                    NodeOutput::Send(_, message) => manager.handle_message_above(message, at(0)),
                    NodeOutput::Authorize(link, _) => endpoint.admit(link, LaneId(0), at(0)),
                    NodeOutput::Record(id, _) => records.push(id),
                    _ => {}
                }
            }
            if write {
                records.drain(..).for_each(|id| endpoint.recorded(id));
            }
            while let Some(output) = service.poll_output() {
                match output {
                    NodeOutput::Send(_, message) => endpoint.handle_message_above(message, at(0)),
                    NodeOutput::Authorize(link, _) => service.admit(link, LaneId(0), at(0)),
                    // The store takes its time: nothing is acknowledged from there.
                    NodeOutput::Deliver(_, outcomes) => delivered += outcomes.len(),
                    _ => {}
                }
            }
        }
        delivered
    };
    settle(&mut service, &mut endpoint, &mut manager, true);
    assert!(service.submit(LaneId(0), vec![task(1, 3)], at(0)).is_empty());
    settle(&mut service, &mut endpoint, &mut manager, true);
    let ended = ExecutorEvent::Outcomes(vec![Outcome::returned(&task(1, 3), "value")]);
    manager.handle_executor(executor, ended, at(1));
    assert_eq!(settle(&mut service, &mut endpoint, &mut manager, false), 1, "the service need not wait");
    assert_eq!(manager.uplink().map(Uplink::held), Some(1), "only the manager has it for sure");
    settle(&mut service, &mut endpoint, &mut manager, true);
    assert_eq!(manager.uplink().map(Uplink::held), Some(0));
    assert_eq!(endpoint.uplink().map(Uplink::held), Some(1), "now the endpoint keeps it");
}

#[test]
fn a_later_life_reports_what_had_ended_and_says_what_may_have_begun() {
    let mut pair = Pair::new();
    pair.connect();
    let tasks = [task(1, 3), task(2, 3), task(3, 3), task(4, 1)];
    pair.submit(tasks.to_vec());
    pair.write();
    let begun = vec![(task(2, 3).attempt_id(), at(0).wall)];
    pair.endpoint.handle_executor(pair.executor, ExecutorEvent::Started(begun), at(0));
    pair.settle();
    // The outcome of the first one is on the disk of the endpoint, but the connection has just broken.
    pair.service.handle_closed(LinkId(pair.link), at(1));
    pair.endpoint.handle_closed_above();
    pair.end(&tasks[0]);
    pair.write();
    pair.restart();
    assert_eq!(pair.ended(), [(1, OutcomeKind::Returned, 1), (4, OutcomeKind::Lost, 1)]);
    let events: Vec<_> = pair.events.iter().map(|event| (event.attempt.task.as_u128(), event.kind)).collect();
    assert!(events.contains(&(2, TaskEventKind::Lost)) && events.contains(&(3, TaskEventKind::LeaseLost)));
    pair.write();
    let mut told = pair.told.clone();
    told.sort();
    assert_eq!(told, ["run 2 2", "run 3 2"], "what had ended does not run again");
}

#[test]
fn what_never_left_the_endpoint_is_not_another_attempt() {
    let mut pair = Pair::new();
    pair.connect();
    pair.submit(vec![task(1, 1)]);
    // Killed before the lease was on the disk: so it was not given out.
    pair.restart();
    pair.write();
    assert_eq!(pair.told, ["run 1 1"]);
    assert_eq!(pair.ended(), []);
}

#[test]
fn a_copy_of_a_journal_and_one_from_a_backup_are_turned_away_for_good() {
    let mut pair = Pair::new();
    pair.connect();
    pair.restart();
    for (life, process) in [(2, 555), (1, 556)] {
        let mut copy = node(Some(identity(7, life, process)));
        std::mem::swap(&mut pair.endpoint, &mut copy);
        let real = std::mem::replace(&mut pair.link, 50 + process);
        pair.connect();
        let refused = pair.refused.pop().expect("it is refused");
        assert!(refused.starts_with("false ") && refused.contains("copied"), "{refused}");
        std::mem::swap(&mut pair.endpoint, &mut copy);
        pair.link = real;
    }
    // Another process with a session of its own may just be the next one: it is to try again.
    let mut other = node(Some(identity(8, 1, 557)));
    std::mem::swap(&mut pair.endpoint, &mut other);
    pair.link = 99;
    pair.connect();
    assert!(pair.refused[0].starts_with("true "), "{:?}", pair.refused);
}

#[test]
fn draining_hands_back_what_has_not_begun_and_ends_with_the_rest() {
    let mut pair = Pair::new();
    pair.connect();
    pair.submit((1..=3).map(|id| task(id, 3)).collect());
    pair.write();
    pair.endpoint.drain(at(1));
    let drained: Vec<_> = std::iter::from_fn(|| pair.endpoint.poll_output()).collect();
    assert!(drained.contains(&NodeOutput::DrainExecutor(pair.executor)), "{drained:?}");
    for output in drained {
        if let NodeOutput::SendUp(message) = output {
            pair.service.handle_message(LinkId(pair.link), message, at(1));
        }
    }
    let back = vec![task(2, 3).attempt_id(), task(3, 3).attempt_id()];
    pair.endpoint.handle_executor(pair.executor, ExecutorEvent::GaveBack(back), at(1));
    pair.settle();
    assert_eq!(pair.service.load(LaneId(0)).queued, 2);
    pair.end(&task(1, 3));
    assert_eq!(pair.ended(), [(1, OutcomeKind::Returned, 1)]);
    assert_eq!(pair.service.peers().count(), 0, "it has said goodbye");
    assert_eq!(pair.service.load(LaneId(0)).queued, 2, "and nothing is lost or counted");
    assert!(!matches!(pair.service.poll_output(), Some(NodeOutput::Send(_, Message::Ping(_)))));
}

#[test]
fn attempts_lost_while_the_service_is_away_are_counted_there_once() {
    let mut pair = Pair::new();
    pair.connect();
    pair.submit(vec![task(1, 3)]);
    pair.write();
    pair.service.handle_closed(LinkId(pair.link), at(1));
    pair.endpoint.handle_closed_above();
    for (attempt, code) in [(1, Failure::LEASE_LOST), (2, "WorkerLost")] {
        let lost = Task { attempt, ..task(1, 3) };
        let lost = Outcome::failed(&lost, OutcomeKind::Lost, &Failure::new(code, "it crashed"));
        pair.endpoint.handle_executor(pair.executor, ExecutorEvent::Outcomes(vec![lost]), at(1));
        pair.settle();
        pair.write();
    }
    assert_eq!(pair.told, ["run 1 1", "run 1 2", "run 1 3"]);
    let (lease_lost, lost) = (TaskEventKind::LeaseLost, TaskEventKind::Lost);
    for connection in 1..=2 {
        pair.connect();
        let told: Vec<_> = pair.events.iter().map(|event| (event.attempt.number, event.kind)).collect();
        assert_eq!(told, [(1, lease_lost), (2, lost)], "connection {connection}");
        assert_eq!(pair.service.progress(TaskId::from_u128(1)).map(|(attempt, _)| attempt), Some(3));
        pair.service.handle_closed(LinkId(pair.link), at(2));
        pair.endpoint.handle_closed_above();
    }
    assert_eq!(pair.service.counters().retried, 2, "also those that the endpoint has made again");
    // The endpoint is destroyed: one attempt is left, since one of the three did not count.
    pair.service.handle_dead(Uuid::from_u128(1), "its machine burned", at(3));
    pair.settle();
    assert_eq!(pair.service.progress(TaskId::from_u128(1)).map(|(attempt, _)| attempt), Some(4));
    assert_eq!(pair.ended(), []);
}

#[test]
fn what_was_withheld_for_a_peer_that_died_has_not_begun() {
    let mut endpoint = node(Some(identity(7, 1, 100)));
    let mut records = Vec::new();
    let mut manager = |endpoint: &mut Node, number: u64, tasks: &mut Vec<(u32, TaskId)>, write: bool| {
        let identity = UplinkIdentity {
            role: Role::Manager,
            node: Uuid::from_u128(number.into()),
            ..identity(number, 0, number)
        };
        let mut manager = node(Some(identity));
        manager.attach_executor(LaneId(0), Capacity { slots: 1, prefetch: 0 });
        endpoint.handle_accepted(LinkId(number), at(0));
        manager.handle_connected_above(at(0));
        for _ in 0..9 {
            while let Some(output) = manager.poll_output() {
                match output {
                    NodeOutput::SendUp(message) => endpoint.handle_message(LinkId(number), message, at(0)),
                    NodeOutput::Record(id, _) => manager.recorded(id),
                    NodeOutput::Run(_, run) => tasks.extend(run.iter().map(|task| (task.attempt, task.id))),
                    _ => {}
                }
            }
            while let Some(output) = endpoint.poll_output() {
                match output {
                    NodeOutput::Send(_, message) => manager.handle_message_above(message, at(0)),
                    NodeOutput::Authorize(link, _) => endpoint.admit(link, LaneId(0), at(0)),
                    NodeOutput::Record(id, entries) => records.push((id, entries)),
                    _ => {}
                }
            }
            if write {
                records.iter().for_each(|(id, _)| endpoint.recorded(*id));
            }
        }
        records.iter().flat_map(|(_, entries)| entries).cloned().collect::<Vec<_>>()
    };
    let mut begun = Vec::new();
    assert!(endpoint.submit(LaneId(0), vec![task(1, 1)], at(0)).is_empty());
    manager(&mut endpoint, 2, &mut begun, false);
    assert_eq!(endpoint.load(LaneId(0)).leased, 1);
    endpoint.handle_dead(Uuid::from_u128(2), "it was killed", at(1));
    assert_eq!((endpoint.load(LaneId(0)).queued, &begun[..]), (1, &[][..]), "even if it may begin only once");
    let journal = manager(&mut endpoint, 3, &mut begun, true);
    assert_eq!(begun, [(1, TaskId::from_u128(1))]);
    let once = vec![task(1, 1).attempt_id()];
    let (leased, started) = (JournalEntry::Leased(once.clone()), JournalEntry::Started(once.clone()));
    let returned = JournalEntry::Returned(once);
    assert_eq!(journal, [leased.clone(), started.clone(), returned, leased, started]);
}
