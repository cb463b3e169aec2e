//! Handshake, heartbeats and reunions of two nodes, message by message.

use std::sync::Arc;
use std::time::Duration;

use funcx_core::contract::{Capacity, ExecutorEvent, PeerId};
use funcx_core::message::{Hello, MAGIC, Message, ProtocolRange, Role, WireAttempt};
use funcx_core::model::{
    Function, FunctionKind, Hop, IdentityId, Memoize, Now, Outcome, OutcomeKind, Task, TaskId, TaskSpec,
    Tick, Timestamp,
};
use funcx_core::state::{LaneId, LinkId, LinkPolicy, Node, NodeConfig, NodeOutput, UplinkIdentity};
use uuid::Uuid;

fn at(millis: u64) -> Now {
    Now { tick: Tick::from_nanos(millis * 1_000_000), wall: Timestamp::from_nanos(millis + 1) }
}

fn config(uplink: Option<(u128, u64)>) -> NodeConfig {
    NodeConfig {
        uplink: uplink.map(|(node, epoch)| UplinkIdentity {
            role: Role::Manager,
            node: Uuid::from_u128(node),
            epoch,
            life: 0,
            process: epoch,
            ends_at: Tick::NEVER,
            credential: "secret".to_owned(),
            name: format!("m{node}"),
            software: "test".to_owned(),
        }),
        link: LinkPolicy::with_heartbeat(Duration::from_secs(2)),
        lease_grace: Some(Duration::from_secs(30)),
        retries: true,
        ..NodeConfig::new(Hop::EndpointSent, "funcx/test")
    }
}

fn task(id: u128) -> Task {
    Task::new(
        TaskId::from_u128(id),
        Arc::new(TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(1))),
        "x",
    )
}

fn outputs(node: &mut Node) -> Vec<NodeOutput> {
    std::iter::from_fn(|| node.poll_output()).collect()
}

/// The names of what a node sends on a link, and why it closes it.
fn said(outputs: &[NodeOutput]) -> Vec<String> {
    outputs
        .iter()
        .filter_map(|output| match output {
            NodeOutput::Send(_, message) | NodeOutput::SendUp(message) => Some(message.name().to_owned()),
            NodeOutput::Close(_, reason) | NodeOutput::CloseUp(reason) => Some(format!("close: {reason}")),
            NodeOutput::RefusedAbove(refused) => Some(format!("refused: {}", refused.reason)),
            _ => None,
        })
        .collect()
}

/// An upper node with one lane, and lower nodes with one executor each, joined by hand.
struct Pair {
    upper: Node,
    lower: Node,
    executor: PeerId,
    link: LinkId,
}

impl Pair {
    fn new() -> Self {
        let mut upper = Node::new(config(None));
        upper.open_lane();
        let (lower, executor) = lower(1, 77);
        Self { upper, lower, executor, link: LinkId(0) }
    }

    fn connect(&mut self, now: Now) {
        self.link.0 += 1;
        self.upper.handle_accepted(self.link, now);
        self.lower.handle_connected_above(now);
        self.settle(now);
    }

    /// Carries messages until both are silent.
    fn settle(&mut self, now: Now) {
        loop {
            let (up, down) = (outputs(&mut self.lower), outputs(&mut self.upper));
            if up.is_empty() && down.is_empty() {
                break;
            }
            for output in up {
                if let NodeOutput::SendUp(message) = output {
                    self.upper.handle_message(self.link, message, now);
                }
            }
            for output in down {
                match output {
                    NodeOutput::Send(link, message) if link == self.link => {
                        self.lower.handle_message_above(message, now);
                    }
                    NodeOutput::Authorize(link, _) => self.upper.admit(link, LaneId(0), now),
                    _ => {}
                }
            }
        }
    }
}

fn lower(node: u128, epoch: u64) -> (Node, PeerId) {
    let mut lower = Node::new(config(Some((node, epoch))));
    let lane = lower.open_lane();
    lower.route(FunctionKind::Native, lane);
    let executor = lower.attach_executor(lane, Capacity { slots: 2, prefetch: 0 });
    (lower, executor)
}

fn hello() -> Hello {
    Hello {
        magic: MAGIC,
        protocol: ProtocolRange { oldest: 1, newest: 1 },
        role: Role::Manager,
        node: Uuid::from_u128(5),
        epoch: 1,
        life: 0,
        process: 1,
        ends_in: None,
        credential: String::new(),
        name: "m5".to_owned(),
        software: "funcx/9.9".to_owned(),
    }
}

fn greeted_with(hello: Hello) -> Vec<String> {
    let mut upper: Node = Node::new(config(None));
    upper.open_lane();
    upper.handle_accepted(LinkId(1), at(0));
    upper.handle_message(LinkId(1), Message::Hello(hello), at(0));
    said(&outputs(&mut upper))
}

#[test]
fn a_peer_of_another_protocol_version_is_refused_with_both_versions_named() {
    let said = greeted_with(Hello { protocol: ProtocolRange { oldest: 8, newest: 9 }, ..hello() });
    let reason = "no common protocol version: funcx/9.9 `m5` speaks 8–9, funcx/test speaks 1–1";
    assert_eq!(said, ["Refused".to_owned(), format!("close: {reason}")]);
}

#[test]
fn a_stranger_is_refused() {
    let said = greeted_with(Hello { magic: 42, ..hello() });
    assert_eq!(said, ["Refused", "close: this is not the hello of a funcx node"]);
    let said = greeted_with(Hello { credential: "x".repeat(5000), ..hello() });
    assert_eq!(said, ["Refused", "close: this is not the hello of a funcx node"]);
}

#[test]
fn who_does_not_say_hello_is_closed() {
    let mut upper: Node = Node::new(config(None));
    upper.open_lane();
    upper.handle_accepted(LinkId(1), at(0));
    upper.handle_message(LinkId(1), Message::Pong(1), at(0));
    assert_eq!(said(&outputs(&mut upper)), ["close: unexpected Pong"]);

    upper.handle_accepted(LinkId(2), at(0));
    assert_eq!(upper.poll_timeout(), Some((at(10_000).tick, "downlink")));
    upper.handle_timeout(at(10_000));
    assert_eq!(said(&outputs(&mut upper)), ["close: the handshake took too long"]);
    assert_eq!(upper.poll_timeout(), None);
}

#[test]
fn a_task_runs_below_and_its_outcome_is_kept_until_it_is_safe_above() {
    let mut pair = Pair::new();
    pair.connect(at(0));
    assert!(pair.upper.submit(LaneId(0), vec![task(1)], at(1)).is_empty());
    let sent = outputs(&mut pair.upper);
    assert_eq!(said(&sent), ["Functions", "Tasks"]);
    for output in sent {
        if let NodeOutput::Send(_, message) = output {
            pair.lower.handle_message_above(message, at(2));
        }
    }
    let run = outputs(&mut pair.lower);
    let [NodeOutput::Run(_, tasks)] = &run[..] else { panic!("{run:?}") };
    let ended = Outcome::returned(&tasks[0], "value");
    pair.lower.handle_executor(pair.executor, ExecutorEvent::Outcomes(vec![ended]), at(3));
    let up = outputs(&mut pair.lower);
    let [NodeOutput::SendUp(message @ Message::Outcomes(_))] = &up[..] else { panic!("{up:?}") };
    pair.upper.handle_message(pair.link, message.clone(), at(4));

    let down = outputs(&mut pair.upper);
    let [NodeOutput::Deliver(delivery, outcomes)] = &down[..] else { panic!("{down:?}") };
    assert_eq!(outcomes[0].kind, OutcomeKind::Returned);
    assert_eq!(pair.lower.uplink().unwrap().held(), 1, "not safe yet");
    pair.upper.committed(*delivery);
    pair.settle(at(5));
    assert_eq!(pair.lower.uplink().unwrap().held(), 0);
}

/// Submits a memoized task, always with the same arguments. Whether it runs below; it ends in any case.
fn runs(pair: &mut Pair, id: u128) -> bool {
    let mut task = task(id);
    task.spec = Arc::new(TaskSpec { memoize: Memoize::Own, ..TaskSpec::clone(&task.spec) });
    assert!(pair.upper.submit(LaneId(0), vec![task], at(1)).is_empty());
    let (mut ran, mut ended) = (false, false);
    while !ended {
        for output in outputs(&mut pair.upper) {
            match output {
                NodeOutput::Send(_, message) => pair.lower.handle_message_above(message, at(1)),
                NodeOutput::Deliver(delivery, _) => {
                    ended = true;
                    pair.upper.committed(delivery);
                }
                _ => {}
            }
        }
        for output in outputs(&mut pair.lower) {
            match output {
                NodeOutput::SendUp(message) => pair.upper.handle_message(pair.link, message, at(1)),
                NodeOutput::Run(executor, tasks) => {
                    ran = true;
                    let outcomes = vec![Outcome::returned(&tasks[0], "value")];
                    pair.lower.handle_executor(executor, ExecutorEvent::Outcomes(outcomes), at(1));
                }
                _ => {}
            }
        }
    }
    pair.settle(at(1));
    ran
}

#[test]
fn values_that_are_forgotten_above_answer_no_more_below() {
    let mut pair = Pair::new();
    pair.upper.memoize(0);
    pair.lower.memoize(1 << 20);
    pair.connect(at(0));
    assert_eq!([runs(&mut pair, 1), runs(&mut pair, 2)], [true, false]);
    pair.upper.forget_values();
    assert_eq!([runs(&mut pair, 3), runs(&mut pair, 4)], [true, false]);
    pair.lower.handle_closed_above();
    pair.upper.handle_closed(pair.link, at(1));
    pair.upper.forget_values();
    pair.connect(at(1));
    assert!(runs(&mut pair, 5), "it was away when they were forgotten");
}

#[test]
fn functions_travel_once_for_each_connection() {
    let mut pair = Pair::new();
    pair.connect(at(0));
    assert!(pair.upper.submit(LaneId(0), vec![task(1)], at(1)).is_empty());
    assert_eq!(said(&outputs(&mut pair.upper)), ["Functions", "Tasks"]);
    assert!(pair.upper.submit(LaneId(0), vec![task(2)], at(1)).is_empty());
    assert_eq!(said(&outputs(&mut pair.upper)), ["Tasks"]);
}

#[test]
fn a_broken_connection_loses_nothing_and_runs_nothing_twice() {
    let mut pair = Pair::new();
    pair.connect(at(0));
    assert!(pair.upper.submit(LaneId(0), vec![task(1), task(2)], at(1)).is_empty());
    let sent = outputs(&mut pair.upper);
    // Both tasks arrive below, one ends, and the connection breaks before anything comes back.
    for output in sent {
        if let NodeOutput::Send(_, message) = output {
            pair.lower.handle_message_above(message, at(1));
        }
    }
    outputs(&mut pair.lower);
    pair.lower.handle_executor(
        pair.executor,
        ExecutorEvent::Outcomes(vec![Outcome::returned(&task(1), "1")]),
        at(2),
    );
    outputs(&mut pair.lower);
    pair.lower.handle_closed_above();
    pair.upper.handle_closed(pair.link, at(2));
    outputs(&mut pair.upper);

    pair.link = LinkId(9);
    pair.upper.handle_accepted(pair.link, at(3));
    pair.lower.handle_connected_above(at(3));
    let mut ran = 0;
    let mut delivered = Vec::new();
    for _ in 0..8 {
        for output in outputs(&mut pair.lower) {
            match output {
                NodeOutput::SendUp(message) => pair.upper.handle_message(pair.link, message, at(3)),
                NodeOutput::Run(..) => ran += 1,
                _ => {}
            }
        }
        for output in outputs(&mut pair.upper) {
            match output {
                NodeOutput::Send(_, message) => pair.lower.handle_message_above(message, at(3)),
                NodeOutput::Authorize(link, _) => pair.upper.admit(link, LaneId(0), at(3)),
                NodeOutput::Deliver(delivery, outcomes) => {
                    delivered.extend(outcomes.iter().map(|outcome| outcome.task));
                    pair.upper.committed(delivery);
                }
                _ => {}
            }
        }
    }
    assert_eq!((ran, delivered), (0, vec![TaskId::from_u128(1)]));
    assert_eq!(pair.upper.load(LaneId(0)).leased, 1, "the other one still runs below");
}

#[test]
fn a_second_process_with_the_same_identity_is_refused_while_the_first_is_there() {
    let mut pair = Pair::new();
    pair.connect(at(0));
    let other = LinkId(50);
    pair.upper.handle_accepted(other, at(1));
    let greeting = Hello { node: Uuid::from_u128(1), epoch: 78, ..hello() };
    pair.upper.handle_message(other, Message::Hello(greeting.clone()), at(1));
    outputs(&mut pair.upper);
    pair.upper.admit(other, LaneId(0), at(1));
    let said = said(&outputs(&mut pair.upper));
    assert_eq!(said[0], "Refused");
    assert!(said[1].contains("another process already serves as `m1`"), "{said:?}");
    assert_eq!(pair.upper.peers().filter(|peer| peer.connected).count(), 1);
}

#[test]
fn a_restarted_process_takes_the_place_of_the_one_that_died() {
    let mut pair = Pair::new();
    pair.connect(at(0));
    assert!(pair.upper.submit(LaneId(0), vec![task(1)], at(1)).is_empty());
    pair.settle(at(1));
    pair.upper.handle_closed(pair.link, at(2));
    (pair.lower, pair.executor) = lower(1, 78);
    pair.link = LinkId(60);
    pair.upper.handle_accepted(pair.link, at(3));
    pair.lower.handle_connected_above(at(3));
    let mut attempts = Vec::new();
    for _ in 0..6 {
        for output in outputs(&mut pair.lower) {
            match output {
                NodeOutput::SendUp(message) => pair.upper.handle_message(pair.link, message, at(3)),
                NodeOutput::Run(_, tasks) => attempts.extend(tasks.iter().map(|task| task.attempt)),
                _ => {}
            }
        }
        for output in outputs(&mut pair.upper) {
            match output {
                NodeOutput::Send(_, message) => pair.lower.handle_message_above(message, at(3)),
                NodeOutput::Authorize(link, _) => pair.upper.admit(link, LaneId(0), at(3)),
                _ => {}
            }
        }
    }
    assert_eq!(attempts, [2], "nobody said that the first one had begun, but it may have");
}

#[test]
fn a_silent_peer_is_pinged_then_given_up_and_after_its_grace_its_tasks_are_queued_again() {
    let mut pair = Pair::new();
    pair.connect(at(0));
    assert!(pair.upper.submit(LaneId(0), vec![task(1)], at(0)).is_empty());
    outputs(&mut pair.upper);
    for (millis, expected) in [(2_000, "Ping"), (4_000, "Ping"), (6_000, "close: it is silent")] {
        assert_eq!(pair.upper.poll_timeout().unwrap().0, at(millis).tick);
        pair.upper.handle_timeout(at(millis));
        assert_eq!(said(&outputs(&mut pair.upper)), [expected]);
    }
    assert_eq!(pair.upper.load(LaneId(0)).leased, 1, "it may come back");
    assert_eq!(pair.upper.poll_timeout(), Some((at(36_000).tick, "lease grace")));
    pair.upper.handle_timeout(at(36_000));
    assert_eq!(pair.upper.load(LaneId(0)).queued, 1);
}

#[test]
fn garbage_from_above_closes_the_connection_and_loses_nothing() {
    let (mut lower, _) = lower(1, 77);
    lower.handle_connected_above(at(0));
    outputs(&mut lower);
    lower.handle_message_above(
        Message::Cancel(vec![WireAttempt { task: TaskId::from_u128(1), number: 1 }]),
        at(0),
    );
    assert_eq!(said(&outputs(&mut lower)), ["close: unexpected Cancel"]);
    assert_eq!(lower.poll_timeout(), None);
}

#[test]
fn draining_finishes_what_is_here_and_then_leaves() {
    let mut pair = Pair::new();
    pair.connect(at(0));
    assert!(pair.upper.submit(LaneId(0), vec![task(1)], at(0)).is_empty());
    pair.settle(at(0));
    pair.lower.drain(at(0));
    let first = outputs(&mut pair.lower);
    assert_eq!(said(&first), ["Capacity"], "no more room");
    pair.lower.handle_executor(
        pair.executor,
        ExecutorEvent::Outcomes(vec![Outcome::returned(&task(1), "1")]),
        at(1),
    );
    for output in outputs(&mut pair.lower) {
        if let NodeOutput::SendUp(message) = output {
            pair.upper.handle_message(pair.link, message, at(1));
        }
    }
    let down = outputs(&mut pair.upper);
    let [NodeOutput::Deliver(delivery, _)] = &down[..] else { panic!("{down:?}") };
    pair.upper.committed(*delivery);
    for output in outputs(&mut pair.upper) {
        if let NodeOutput::Send(_, message) = output {
            pair.lower.handle_message_above(message, at(1));
        }
    }
    let last = outputs(&mut pair.lower);
    assert_eq!(said(&last), ["Goodbye"]);
    assert_eq!(last.last(), Some(&NodeOutput::Drained));
}

#[test]
fn a_fixed_prefetch_takes_the_place_of_what_executors_ask_for() {
    for (prefetch, expected) in [(None, (4, 9)), (Some(0), (4, 0)), (Some(64), (4, 64))] {
        let mut pair = Pair::new();
        let mut node = Node::new(NodeConfig { prefetch, ..config(Some((1, 77))) });
        let lane = node.open_lane();
        pair.executor = node.attach_executor(lane, Capacity { slots: 4, prefetch: 9 });
        pair.lower = node;
        pair.connect(at(0));
        let advertised = |pair: &Pair| {
            let peer = pair.upper.peers().next().unwrap();
            (peer.capacity.slots, peer.capacity.prefetch)
        };
        assert_eq!(advertised(&pair), expected);
        // Whoever can run nothing takes nothing ahead either.
        let nothing = ExecutorEvent::Capacity(Capacity::default());
        pair.lower.handle_executor(pair.executor, nothing, at(1));
        pair.settle(at(1));
        assert_eq!(advertised(&pair), (0, 0));
    }
}
