//! Old news that arrives late: acknowledgements, commits and timers of an earlier attempt, process or connection.

use std::sync::Arc;
use std::time::Duration;

use funcx_core::contract::{Capacity, ExecutorEvent, PeerId};
use funcx_core::message::{FunctionBatch, Message, Role, TaskBatch, Welcome};
use funcx_core::model::{
    Failure, Function, FunctionKind, Hop, IdentityId, Now, Outcome, OutcomeKind, Task, TaskId, TaskSpec,
    Tick, Timestamp, limit,
};
use funcx_core::state::{
    DispatcherLimits, LaneId, LinkId, LinkPolicy, Node, NodeConfig, NodeOutput, Uplink, UplinkIdentity,
};
use uuid::Uuid;

fn at(millis: u64) -> Now {
    Now { tick: Tick::from_nanos(millis * 1_000_000), wall: Timestamp::from_nanos(millis + 1) }
}

fn identity(epoch: u64) -> UplinkIdentity {
    UplinkIdentity {
        role: Role::Manager,
        node: Uuid::from_u128(1),
        epoch,
        life: 0,
        process: epoch,
        ends_at: Tick::NEVER,
        credential: String::new(),
        name: "m1".to_owned(),
        software: "test".to_owned(),
    }
}

fn node(uplink: Option<UplinkIdentity>, lane_tasks: usize) -> Node {
    let mut node = Node::new(NodeConfig {
        uplink,
        link: LinkPolicy::with_heartbeat(Duration::from_secs(2)),
        limits: DispatcherLimits { lane_tasks, lane_bytes: 1 << 40 },
        lease_grace: Some(Duration::from_secs(30)),
        retries: true,
        queue_tasks: 8,
        ..NodeConfig::new(Hop::EndpointSent, "test")
    });
    let lane = node.open_lane();
    node.route(FunctionKind::Native, lane);
    node
}

fn lower(epoch: u64) -> (Node, PeerId) {
    let mut lower = node(Some(identity(epoch)), 100);
    let executor = lower.attach_executor(LaneId(0), Capacity { slots: 1, prefetch: 0 });
    (lower, executor)
}

fn task(id: u128, attempt: u32) -> Task {
    let spec = TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(1));
    let mut task = Task::new(TaskId::from_u128(id), Arc::new(spec), "x");
    task.attempt = attempt;
    task
}

/// Carries messages until both are silent; what else came out.
fn settle(upper: &mut Node, lower: &mut Node, link: LinkId, now: Now) -> Vec<NodeOutput> {
    let mut rest = Vec::new();
    loop {
        let up: Vec<_> = std::iter::from_fn(|| lower.poll_output()).collect();
        let down: Vec<_> = std::iter::from_fn(|| upper.poll_output()).collect();
        if up.is_empty() && down.is_empty() {
            return rest;
        }
        for output in up {
            match output {
                NodeOutput::SendUp(message) => upper.handle_message(link, message, now),
                other => rest.push(other),
            }
        }
        for output in down {
            match output {
                NodeOutput::Send(to, message) if to == link => lower.handle_message_above(message, now),
                NodeOutput::Authorize(from, _) => upper.admit(from, LaneId(0), now),
                other => rest.push(other),
            }
        }
    }
}

fn connect(upper: &mut Node, lower: &mut Node, link: u64, now: Now) {
    upper.handle_accepted(LinkId(link), now);
    lower.handle_connected_above(now);
    settle(upper, lower, LinkId(link), now);
}

#[test]
fn acknowledging_an_attempt_does_not_forget_the_next_one() {
    let mut uplink = Uplink::new(identity(1));
    uplink.handle_connected(at(0));
    let (heartbeat, silence) = (Duration::from_secs(2), Duration::from_secs(6));
    uplink.handle_message(
        Message::Welcome(Welcome { protocol: 1, heartbeat, silence, software: String::new() }),
        at(0),
    );
    let mut functions = FunctionBatch::default();
    functions.push(&Function::native("f"));
    uplink.handle_message(Message::Functions(functions), at(0));
    uplink.handle_message(Message::Tasks(TaskBatch::new([task(1, 1)], Tick::ZERO)), at(0));
    uplink.finish(vec![Outcome::failed(
        &task(1, 1),
        OutcomeKind::Lost,
        &Failure::new("WorkerLost", "it crashed"),
    )]);
    uplink.handle_message(Message::Tasks(TaskBatch::new([task(1, 2)], Tick::ZERO)), at(0));
    uplink.handle_message(Message::OutcomesAcked(1), at(0));
    assert_eq!(uplink.held(), 1);
}

#[test]
fn each_break_of_a_connection_has_its_own_grace() {
    let mut upper = node(None, 100);
    let (mut lower, _) = lower(77);
    for (link, opens, breaks) in [(1, 0, 1_000), (2, 2_000, 30_500)] {
        connect(&mut upper, &mut lower, link, at(opens));
        upper.handle_closed(LinkId(link), at(breaks));
        lower.handle_closed_above();
    }
    upper.handle_timeout(at(31_000));
    assert_eq!(upper.peers().count(), 1, "the second break was half a second ago");
    upper.handle_timeout(at(60_500));
    assert_eq!(upper.peers().count(), 0);
}

#[test]
fn a_late_commit_acknowledges_nothing_to_the_next_process() {
    let mut upper = node(None, 100);
    let (mut first, executor) = lower(77);
    connect(&mut upper, &mut first, 1, at(0));
    assert!(upper.submit(LaneId(0), vec![task(1, 1), task(2, 1)], at(0)).is_empty());
    settle(&mut upper, &mut first, LinkId(1), at(0));
    first.handle_executor(
        executor,
        ExecutorEvent::Outcomes(vec![Outcome::returned(&task(1, 1), "v")]),
        at(1),
    );
    let outputs = settle(&mut upper, &mut first, LinkId(1), at(1));
    let Some(NodeOutput::Deliver(delivery, _)) =
        outputs.iter().find(|output| matches!(output, NodeOutput::Deliver(..)))
    else {
        panic!("{outputs:?}");
    };

    // It dies before the commit is through, and its successor ends the other task; that outcome is lost on its way.
    upper.handle_closed(LinkId(1), at(2));
    let (mut second, executor) = lower(78);
    connect(&mut upper, &mut second, 2, at(3));
    second.handle_executor(
        executor,
        ExecutorEvent::Outcomes(vec![Outcome::returned(&task(2, 2), "v")]),
        at(4),
    );
    while second.poll_output().is_some() {}
    upper.committed(*delivery);
    while let Some(output) = upper.poll_output() {
        if let NodeOutput::Send(LinkId(2), message) = output {
            second.handle_message_above(message, at(4));
        }
    }
    assert_eq!(second.uplink().map(Uplink::held), Some(1), "nobody has its outcome yet");
}

#[test]
fn who_leaves_politely_gives_back_what_it_has_not_begun() {
    let mut upper = node(None, 100);
    let (mut lower, executor) = lower(77);
    connect(&mut upper, &mut lower, 1, at(0));
    assert!(upper.submit(LaneId(0), (1..=4).map(|id| task(id, 1)).collect(), at(0)).is_empty());
    settle(&mut upper, &mut lower, LinkId(1), at(0));
    let begun = vec![(task(1, 1).attempt_id(), at(0).wall)];
    lower.handle_executor(executor, ExecutorEvent::Started(begun), at(0));
    settle(&mut upper, &mut lower, LinkId(1), at(0));
    lower.leave();
    settle(&mut upper, &mut lower, LinkId(1), at(1));
    assert_eq!((upper.load(LaneId(0)).queued, upper.load(LaneId(0)).leased), (4, 0));
    let other = upper.attach_executor(LaneId(0), Capacity { slots: 9, prefetch: 0 });
    let attempts: Vec<_> = std::iter::from_fn(|| upper.poll_output())
        .filter_map(
            |output| if let NodeOutput::Run(peer, tasks) = output { Some((peer, tasks)) } else { None },
        )
        .flat_map(|(peer, tasks)| {
            assert_eq!(peer, other);
            tasks.into_iter().map(|task| (task.id.as_u128(), task.attempt))
        })
        .collect();
    assert_eq!(attempts, [(1, 2), (2, 1), (3, 1), (4, 1)], "only the first one had begun");
}

#[test]
fn what_does_not_fit_below_goes_back_and_costs_no_attempt() {
    let mut upper = node(None, 100);
    let mut lower = node(Some(identity(77)), 2);
    lower.attach_executor(LaneId(0), Capacity { slots: 1, prefetch: 0 });
    connect(&mut upper, &mut lower, 1, at(0));
    // It said that it has room for nine, but its queue takes two.
    assert!(upper.submit(LaneId(0), (1..=2).map(|id| task(id, 1)).collect(), at(0)).is_empty());
    settle(&mut upper, &mut lower, LinkId(1), at(0));
    lower.handle_message_above(Message::Tasks(TaskBatch::new([task(2, 1), task(3, 1)], Tick::ZERO)), at(0));
    let said: Vec<_> = std::iter::from_fn(|| lower.poll_output()).collect();
    let back = said.iter().find_map(|output| match output {
        NodeOutput::SendUp(Message::GaveBack(attempts)) => {
            Some(attempts.iter().map(|a| a.task.as_u128()).collect())
        }
        _ => None,
    });
    assert_eq!(back, Some(vec![3]), "the second one is here already: {said:?}");
}

#[test]
fn an_outcome_that_no_frame_holds_says_so_instead() {
    let mut upper = node(None, 100);
    let executor = upper.attach_executor(LaneId(0), Capacity { slots: 1, prefetch: 0 });
    assert!(upper.submit(LaneId(0), vec![task(1, 1)], at(0)).is_empty());
    let mut huge = Outcome::returned(&task(1, 1), vec![0; limit::MAX_FRAME_BYTES]);
    huge.stdout = "printed".into();
    upper.handle_executor(executor, ExecutorEvent::Outcomes(vec![huge]), at(1));
    let outcome = std::iter::from_fn(|| upper.poll_output()).find_map(|output| match output {
        NodeOutput::Deliver(_, mut outcomes) => outcomes.pop(),
        _ => None,
    });
    let failure = outcome.as_ref().and_then(Outcome::failure).expect("it failed");
    assert_eq!(failure.code, "MaxResultSizeExceeded");
}

/// What an executor is told to run, by task and attempt.
fn runs(node: &mut Node) -> Vec<(u128, u32)> {
    let outputs = std::iter::from_fn(|| node.poll_output());
    let tasks =
        outputs.filter_map(|output| if let NodeOutput::Run(_, tasks) = output { Some(tasks) } else { None });
    tasks.flatten().map(|task| (task.id.as_u128(), task.attempt)).collect()
}

#[test]
fn a_later_attempt_from_above_says_how_many_count() {
    let mut upper = node(None, 100);
    let (mut lower, executor) = lower(77);
    connect(&mut upper, &mut lower, 1, at(0));
    let give = |lower: &mut Node, attempt, granted| {
        let task = Task { granted, ..task(1, attempt) };
        let mut functions = FunctionBatch::default();
        functions.push(&task.spec.function);
        lower.handle_message_above(Message::Functions(functions), at(0));
        lower.handle_message_above(Message::Tasks(TaskBatch::new([task], Tick::ZERO)), at(0));
    };
    give(&mut lower, 1, 0);
    assert_eq!(runs(&mut lower), [(1, 1)]);
    // The node above had given it up, and two of its attempts do not count.
    give(&mut lower, 4, 2);
    let crash = Outcome::failed(&task(1, 1), OutcomeKind::Lost, &Failure::new("WorkerLost", "it crashed"));
    lower.handle_executor(executor, ExecutorEvent::Outcomes(vec![crash]), at(1));
    assert_eq!(runs(&mut lower), [(1, 5)], "four of at most three and two");
}

#[test]
fn an_attempt_that_was_made_below_goes_back_as_an_outcome() {
    let mut upper = node(None, 100);
    let (mut lower, executor) = lower(77);
    connect(&mut upper, &mut lower, 1, at(0));
    assert!(upper.submit(LaneId(0), vec![task(1, 1), task(2, 1)], at(0)).is_empty());
    settle(&mut upper, &mut lower, LinkId(1), at(0));
    let crash = Outcome::failed(&task(1, 1), OutcomeKind::Lost, &Failure::new("WorkerLost", "it crashed"));
    lower.handle_executor(executor, ExecutorEvent::Outcomes(vec![crash]), at(1));
    lower.drain(at(2));
    let back = vec![task(1, 2).attempt_id(), task(2, 1).attempt_id()];
    lower.handle_executor(executor, ExecutorEvent::GaveBack(back), at(2));
    // Nothing of this arrives above, and the next connection says it again.
    while lower.poll_output().is_some() {}
    lower.handle_closed_above();
    upper.handle_closed(LinkId(1), at(3));
    connect(&mut upper, &mut lower, 2, at(3));
    let other = upper.attach_executor(LaneId(0), Capacity { slots: 9, prefetch: 0 });
    let mut attempts = Vec::new();
    while let Some(output) = upper.poll_output() {
        if let NodeOutput::Run(peer, tasks) = output {
            assert_eq!(peer, other);
            attempts.extend(tasks.iter().map(|task| (task.id.as_u128(), task.attempt)));
        }
    }
    attempts.sort_unstable();
    assert_eq!(attempts, [(1, 3), (2, 1)], "the first attempt had begun, the second one had a number");
}
