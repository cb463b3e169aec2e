//! Slots that several environments share: what a manager gives to whom, and what it says above.

use std::sync::Arc;
use std::time::Duration;

use funcx_core::contract::{Capacity, ExecutorEvent, PeerId};
use funcx_core::message::{Message, TaskBatch, Warm, WarmType, Welcome};
use funcx_core::model::{
    Function, FunctionKind, Hop, IdentityId, Now, Outcome, OutcomeKind, Task, TaskId, TaskSpec, Tick,
    Timestamp,
};
use funcx_core::state::{KeepAlive, LaneId, Node, NodeConfig, NodeOutput, UplinkIdentity};
use uuid::Uuid;

const SLOTS: u32 = 4;

fn at(millis: u64) -> Now {
    let nanos = millis * 1_000_000;
    Now { tick: Tick::from_nanos(nanos), wall: Timestamp::from_nanos(nanos + 1) }
}

/// A manager with the default environment and `ml`, whose workers end when they have no task.
struct Manager {
    node: Node,
    executors: Vec<PeerId>,
    /// What each executor runs.
    running: Vec<Vec<Task>>,
    function: Arc<Function>,
    sent: u128,
}

impl Manager {
    fn new() -> Self {
        let mut node = Node::new(NodeConfig {
            uplink: Some(UplinkIdentity {
                role: funcx_core::message::Role::Manager,
                node: Uuid::from_u128(1),
                epoch: 1,
                life: 0,
                process: 1,
                ends_at: Tick::NEVER,
                credential: String::new(),
                name: "m".to_owned(),
                software: "test".to_owned(),
            }),
            prefetch: Some(8),
            ..NodeConfig::new(Hop::ManagerSent, "test")
        });
        node.share_slots(SLOTS, KeepAlive::Fixed(Duration::from_secs(60)));
        let executors = [None, Some("ml")].map(|environment| {
            let lane = node.share_lane(environment.map(str::to_owned));
            node.route_environment(FunctionKind::Python, environment, lane);
            node.attach_executor(lane, Capacity::default())
        });
        let mut manager = Self {
            node,
            executors: executors.into(),
            running: vec![Vec::new(); 2],
            function: Arc::new(Function::python("f", "")),
            sent: 0,
        };
        manager.node.handle_connected_above(at(0));
        let said = manager.hear(
            Message::Welcome(Welcome {
                protocol: 1,
                heartbeat: Duration::from_secs(2),
                silence: Duration::from_secs(600),
                software: "test".to_owned(),
            }),
            0,
        );
        let Some(Message::Capacity(capacity)) = said.iter().find(|said| said.name() == "Capacity") else {
            panic!("{said:?}")
        };
        assert_eq!((capacity.slots, capacity.prefetch), (SLOTS, 8), "slots that nobody has yet count too");
        let mut functions = funcx_core::message::FunctionBatch::default();
        functions.push(&manager.function);
        manager.hear(Message::Functions(functions), 0);
        manager
    }

    fn hear(&mut self, message: Message, millis: u64) -> Vec<Message> {
        self.node.handle_message_above(message, at(millis));
        self.settle(millis)
    }

    /// Tasks come for an environment.
    fn tasks(&mut self, environment: Option<&str>, count: usize, millis: u64) -> Vec<Message> {
        let mut spec = TaskSpec::new(Arc::clone(&self.function), IdentityId::from_u128(1));
        spec.shape.environment = environment.map(str::to_owned);
        let spec = Arc::new(spec);
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                self.sent += 1;
                Task::new(TaskId::from_u128(self.sent), Arc::clone(&spec), "")
            })
            .collect();
        self.hear(Message::Tasks(TaskBatch::new(tasks, at(millis).tick)), millis)
    }

    /// Tasks of one executor end.
    fn end(&mut self, executor: usize, count: usize, millis: u64) -> Vec<Message> {
        let outcomes =
            self.running[executor].drain(..count).map(|task| Outcome::returned(&task, "")).collect();
        let peer = self.executors[executor];
        self.node.handle_executor(peer, ExecutorEvent::Outcomes(outcomes), at(millis));
        self.settle(millis)
    }

    /// Does what the node wants; returns what it says above.
    fn settle(&mut self, millis: u64) -> Vec<Message> {
        let mut said = Vec::new();
        while let Some(output) = self.node.poll_output() {
            match output {
                NodeOutput::SendUp(message) => said.push(message),
                NodeOutput::Resize(LaneId(lane), slots) => {
                    let capacity = Capacity { slots, prefetch: 2 * slots };
                    let peer = self.executors[lane as usize];
                    self.node.handle_executor(peer, ExecutorEvent::Capacity(capacity), at(millis));
                }
                NodeOutput::Run(peer, tasks) => {
                    let executor = self
                        .executors
                        .iter()
                        .position(|executor| *executor == peer)
                        .expect("it was attached");
                    self.running[executor].extend(tasks);
                }
                _ => {}
            }
        }
        self.node.check().expect("every promise is kept");
        said
    }

    fn counts(&self) -> Vec<usize> {
        self.running.iter().map(Vec::len).collect()
    }
}

fn last_warm(said: &[Message]) -> Option<&Warm> {
    said.iter().rev().find_map(|message| if let Message::Warm(warm) = message { Some(warm) } else { None })
}

fn warm_type(environment: Option<&str>, slots: u32) -> WarmType {
    WarmType { environment: environment.map(str::to_owned), slots }
}

#[test]
fn slots_follow_the_tasks_of_environments() {
    let mut manager = Manager::new();
    let said = manager.tasks(None, 3, 1);
    assert_eq!(last_warm(&said).unwrap().types, [warm_type(None, 3)]);
    let said = manager.tasks(Some("ml"), 1, 2);
    assert_eq!(last_warm(&said).unwrap().types, [warm_type(None, 3), warm_type(Some("ml"), 1)]);
    assert_eq!(manager.counts(), [3, 1]);
    // All slots are taken: more of them wait, and take over what the others leave.
    manager.tasks(Some("ml"), 2, 3);
    let said = manager.end(0, 2, 4);
    let warm = last_warm(&said).unwrap();
    assert_eq!(warm.types, [warm_type(None, 1), warm_type(Some("ml"), 3)]);
    assert_eq!((warm.cold_starts, warm.switches), (6, 2));
    assert_eq!(manager.counts(), [1, 3]);
    let capacities = said.iter().filter(|message| message.name() == "Capacity").count();
    assert_eq!(capacities, 0, "it has as many slots as before");
}

#[test]
fn what_waits_above_one_pool_does_not_run_in_another() {
    let mut manager = Manager::new();
    manager.tasks(None, 4, 1);
    manager.tasks(Some("ml"), 1, 1);
    assert_eq!(manager.counts()[1], 0, "nothing of `ml` runs where there is no slot for it");
    let environment = |task: &Task| task.spec.shape.environment.clone();
    assert!(manager.running[0].iter().all(|task| environment(task).is_none()));
    manager.node.handle_timeout(at(1001));
    manager.settle(1001);
    assert!(manager.running[1].iter().all(|task| environment(task).as_deref() == Some("ml")));
    assert!(manager.counts()[1] > 0, "it has waited long enough");
}

#[test]
fn an_environment_that_is_not_there_is_named_with_those_that_are() {
    let mut manager = Manager::new();
    let said = manager.tasks(Some("lm"), 1, 1);
    let Some(Message::Outcomes(batch)) = said.iter().find(|message| message.name() == "Outcomes") else {
        panic!("{said:?}")
    };
    let outcome = batch.clone().into_outcomes().remove(0);
    let failure = outcome.failure().unwrap();
    assert_eq!((outcome.kind, failure.code.as_str()), (OutcomeKind::Raised, "UnknownEnvironment"));
    assert_eq!(
        failure.message,
        "there is no environment `lm` here; python functions run in `ml` and in the default one"
    );
}

#[test]
fn idle_slots_are_retired_when_their_time_is_over() {
    let mut manager = Manager::new();
    manager.tasks(Some("ml"), 2, 1);
    manager.end(1, 2, 5);
    assert_eq!(manager.node.poll_timeout(), Some((at(60_005).tick, "shared slots")));
    manager.node.handle_timeout(at(60_005));
    let said = manager.settle(60_005);
    let warm = manager.node.warm_counters();
    assert_eq!((warm.cold_starts, warm.switches, warm.retired), (2, 0, 2), "{said:?}");
}
