//! A whole fabric in one thread: a service, endpoints, managers and workers under a virtual clock and a seeded
//! network, with processes that are killed and connections that are cut.
//!
//! It runs the same [`Node`] as the daemons do; only sockets, clocks, stores and functions are simulated. The same
//! seed gives the same trace, byte for byte.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::contract::{Capacity, ExecutorEvent, IdleFirst, PeerId};
use crate::message::{Message, Role};
use crate::model::{
    AttemptId, Failure, Function, FunctionKind, Hop, IdentityId, Now, Outcome, OutcomeKind, Task, TaskId,
    TaskSpec, Tick, Timestamp,
};
use crate::state::{
    DeliveryId, DispatcherLimits, LaneId, LinkId, LinkPolicy, Node, NodeConfig, NodeOutput, UplinkIdentity,
};

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub struct FabricConfig {
    /// Endpoints of the service.
    pub endpoints: u32,
    /// Managers of each endpoint.
    pub managers: u32,
    /// Worker slots of each manager.
    pub workers: u32,
    /// Tasks in all.
    pub tasks: u32,
    /// Longest time that a task takes.
    pub longest_task: Duration,
    /// Faults in all, in the first ten seconds.
    pub faults: u32,
    /// Whether processes are killed and restarted; else connections are cut and tasks cancelled, no more.
    pub kills: bool,
    /// Attempts that each task allows.
    pub max_attempts: u32,
}

/// What a run showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FabricReport {
    /// Every event, one line each.
    pub trace: String,
    /// How many tasks ended in each way.
    pub outcomes: BTreeMap<OutcomeKind, u32>,
    /// Attempts that began in a worker.
    pub executions: u32,
    /// Virtual time until the last outcome was durable.
    pub elapsed: Duration,
}

/// Virtual time after which a fabric that has not finished is stuck.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Runs a fabric from a seed until every task has its outcome.
///
/// # Errors
/// What went wrong, with the end of the trace: a broken invariant, a task with two outcomes, or a fabric that is stuck.
pub fn simulate(config: FabricConfig, seed: u64) -> Result<FabricReport, String> {
    let mut fabric = Fabric::new(config, seed);
    fabric.start();
    match fabric.run() {
        Ok(()) => Ok(fabric.report()),
        Err(wrong) => {
            let lines: Vec<&str> = fabric
                .trace
                .lines()
                .filter(|line| !line.ends_with("Ping") && !line.ends_with("Pong"))
                .collect();
            Err(format!("seed {seed}: {wrong}\n{}", lines[lines.len().saturating_sub(60)..].join("\n")))
        }
    }
}

/// A process of the fabric: 0 is the service, then the endpoints, then their managers.
type Place = usize;

/// Numbers drawn from a seed (SplitMix64; Steele, Lea and Flood, 2014).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn duration(&mut self, longest: Duration) -> Duration {
        Duration::from_nanos(self.below(longest.as_nanos() as u64) + 1)
    }
}

#[derive(Debug)]
struct Process {
    node: Node<IdleFirst>,
    /// Counts the lives of this process; what was meant for an earlier one is void.
    life: u32,
    above: Option<Place>,
    up: Option<u64>,
    executor: Option<PeerId>,
    running: BTreeMap<TaskId, u32>,
    waiting: VecDeque<Task>,
}

/// A connection; both ends are named by the life that they belong to.
#[derive(Debug, Clone, Copy)]
struct Wire {
    upper: (Place, u32),
    lower: (Place, u32),
    /// When the last message in each direction arrives: connections keep the order.
    arrives: [Tick; 2],
    /// Nothing arrives any more, although the ends may not know yet.
    cut: bool,
}

#[derive(Debug)]
enum Event {
    Dial { place: Place, life: u32 },
    Arrive { wire: u64, upwards: bool, message: Message },
    Closed { wire: u64, at_upper: bool },
    Wake { place: Place, life: u32 },
    Ended { place: Place, life: u32, attempt: AttemptId, crashed: bool },
    Committed { life: u32, delivery: DeliveryId, outcomes: Vec<Outcome> },
    Submit { first: u32, count: u32 },
    Fault,
}

struct Fabric {
    config: FabricConfig,
    random: Random,
    now: Tick,
    events: BTreeMap<(Tick, u64), Event>,
    scheduled: u64,
    processes: Vec<Process>,
    wires: BTreeMap<u64, Wire>,
    next_wire: u64,
    lives: u64,
    spec: Arc<TaskSpec>,
    /// The durable store: tasks that were accepted, and their outcomes.
    accepted: BTreeMap<TaskId, LaneId>,
    outcomes: BTreeMap<TaskId, OutcomeKind>,
    executions: u32,
    last_outcome: Tick,
    trace: String,
}

impl Fabric {
    fn new(config: FabricConfig, seed: u64) -> Self {
        let mut spec = TaskSpec::new(Arc::new(Function::native("work")), IdentityId::from_u128(1));
        spec.limits.max_attempts = config.max_attempts;
        Self {
            config,
            random: Random(seed),
            now: Tick::ZERO,
            events: BTreeMap::new(),
            scheduled: 0,
            processes: Vec::new(),
            wires: BTreeMap::new(),
            next_wire: 0,
            lives: 0,
            spec: Arc::new(spec),
            accepted: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            executions: 0,
            last_outcome: Tick::ZERO,
            trace: String::new(),
        }
    }

    fn clock(&self) -> Now {
        Now { tick: self.now, wall: Timestamp::from_nanos(1 + self.now.as_nanos()) }
    }

    fn note(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.trace, "{:>12} {line}", self.now.as_nanos());
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now + delay, self.scheduled), event);
    }

    fn start(&mut self) {
        let FabricConfig { endpoints, managers, tasks, faults, .. } = self.config;
        self.boot(0, None);
        for endpoint in 0..endpoints as usize {
            self.boot(1 + endpoint, Some(0));
        }
        for manager in 0..(endpoints * managers) as usize {
            self.boot(1 + endpoints as usize + manager, Some(1 + manager / managers.max(1) as usize));
        }
        let mut first = 0;
        while first < tasks {
            let count = (1 + self.random.below(32) as u32).min(tasks - first);
            let at = self.random.duration(Duration::from_secs(5));
            self.after(at, Event::Submit { first, count });
            first += count;
        }
        for _ in 0..faults {
            let at = self.random.duration(Duration::from_secs(10));
            self.after(at, Event::Fault);
        }
    }

    /// Starts a process, for the first time or anew.
    fn boot(&mut self, place: Place, above: Option<Place>) {
        self.lives += 1;
        let endpoints = self.config.endpoints as usize;
        let (sent, returned, queue_tasks) = match place {
            0 => (Hop::ServiceSent, None, 0),
            place if place <= endpoints => (Hop::EndpointSent, Some(Hop::EndpointReturned), 16),
            _ => (Hop::ManagerSent, Some(Hop::ManagerReturned), 0),
        };
        let mut node = Node::new(NodeConfig {
            uplink: above.map(|above| UplinkIdentity {
                role: if above == 0 { Role::Endpoint } else { Role::Manager },
                node: Uuid::from_u128(place as u128),
                epoch: self.lives,
                life: 0,
                process: self.lives,
                ends_at: Tick::NEVER,
                credential: String::new(),
                name: format!("p{place}"),
                software: "simulated".to_owned(),
            }),
            link: LinkPolicy::default(),
            limits: DispatcherLimits::default(),
            lease_grace: (place != 0).then_some(Duration::from_secs(10)),
            journal: false,
            queue_tasks,
            sent,
            returned,
            software: "simulated".to_owned(),
        });
        let mut executor = None;
        match place {
            0 => (0..endpoints).for_each(|_| {
                node.open_lane();
            }),
            place => {
                let lane = node.open_lane();
                node.route(FunctionKind::Native, lane);
                if place > endpoints {
                    executor = Some(
                        node.attach_executor(lane, Capacity { slots: self.config.workers, prefetch: 2 }),
                    );
                }
            }
        }
        let life = self.processes.get(place).map_or(0, |process| process.life + 1);
        let process = Process {
            node,
            life,
            above,
            up: None,
            executor,
            running: BTreeMap::new(),
            waiting: VecDeque::new(),
        };
        self.note(format_args!("boot p{place} life {life}"));
        match self.processes.get_mut(place) {
            Some(old) => *old = process,
            None => self.processes.push(process),
        }
        if place == 0 {
            self.restore();
        } else {
            self.after(Duration::from_millis(1), Event::Dial { place, life });
        }
        self.act(place);
    }

    /// A service that starts loads what has no outcome yet.
    fn restore(&mut self) {
        let now = self.clock();
        let pending: Vec<_> = self
            .accepted
            .iter()
            .filter(|(id, _)| !self.outcomes.contains_key(id))
            .map(|(id, lane)| (*id, *lane))
            .collect();
        for (id, lane) in pending {
            let refused =
                self.processes[0].node.submit(lane, vec![Task::new(id, Arc::clone(&self.spec), "")], now);
            assert!(refused.is_empty(), "the simulated queue is large enough");
        }
    }

    fn run(&mut self) -> Result<(), String> {
        while self.outcomes.len() < self.config.tasks as usize {
            let Some(((at, _), event)) = self.events.pop_first() else {
                return Err("nothing is left to happen, but tasks have no outcome".to_owned());
            };
            self.now = at;
            if self.now.since(Tick::ZERO) > PATIENCE {
                return Err(self.stuck());
            }
            self.happen(event)?;
            for process in &self.processes {
                process.node.check().map_err(|violation| violation.to_string())?;
            }
        }
        Ok(())
    }

    /// Where the tasks are that should have an outcome.
    fn stuck(&self) -> String {
        let mut text =
            format!("stuck: {} of {} tasks have an outcome", self.outcomes.len(), self.config.tasks);
        for id in self.accepted.keys().filter(|id| !self.outcomes.contains_key(id)) {
            let places = self.processes.iter().enumerate().filter_map(|(place, process)| {
                process.node.state(*id).map(|state| format!("p{place} {state:?}"))
            });
            text.push_str(&format!("\n{}: {}", id.as_u128(), places.collect::<Vec<_>>().join(", ")));
        }
        text
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        let now = self.clock();
        match event {
            Event::Dial { place, life } if self.is_alive(place, life) => self.dial(place),
            Event::Arrive { wire, upwards, message } => {
                let Some(Wire { upper, lower, cut: false, .. }) = self.wires.get(&wire).copied() else {
                    return Ok(());
                };
                let (place, life) = if upwards { upper } else { lower };
                if self.is_alive(place, life) {
                    self.note(format_args!(
                        "p{place} {} {}",
                        if upwards { "<up" } else { "<down" },
                        message.name()
                    ));
                    let node = &mut self.processes[place].node;
                    match upwards {
                        true => node.handle_message(LinkId(wire), message, now),
                        false if self.processes[place].up == Some(wire) => {
                            self.processes[place].node.handle_message_above(message, now);
                        }
                        false => {}
                    }
                    self.act(place);
                }
            }
            Event::Closed { wire, at_upper } => self.closed(wire, at_upper),
            Event::Wake { place, life } if self.is_alive(place, life) => {
                self.processes[place].node.handle_timeout(now);
                self.act(place);
            }
            Event::Ended { place, life, attempt, crashed } if self.is_alive(place, life) => {
                self.ended(place, attempt, crashed);
            }
            Event::Committed { life, delivery, outcomes } if self.is_alive(0, life) => {
                for outcome in outcomes {
                    self.note(format_args!("outcome {} {}", outcome.task.as_u128(), outcome.kind));
                    if let Some(first) = self.outcomes.insert(outcome.task, outcome.kind) {
                        return Err(format!("{} ended as {first} and as {}", outcome.task, outcome.kind));
                    }
                    if !self.accepted.contains_key(&outcome.task) {
                        return Err(format!("{} ended but was never accepted", outcome.task));
                    }
                    self.last_outcome = self.now;
                }
                self.processes[0].node.committed(delivery);
                self.act(0);
            }
            Event::Submit { first, count } => self.submit(first, count),
            Event::Fault => self.fault(),
            Event::Dial { .. } | Event::Wake { .. } | Event::Ended { .. } | Event::Committed { .. } => {}
        }
        Ok(())
    }

    fn is_alive(&self, place: Place, life: u32) -> bool {
        self.processes[place].life == life
    }

    fn submit(&mut self, first: u32, count: u32) {
        let now = self.clock();
        let lane = LaneId(self.random.below(u64::from(self.config.endpoints)) as u32);
        let tasks: Vec<_> = (first..first + count)
            .map(|n| Task::new(TaskId::from_u128(u128::from(n) + 1), Arc::clone(&self.spec), ""))
            .collect();
        self.note(format_args!("submit {first}+{count} to lane {}", lane.0));
        self.accepted.extend(tasks.iter().map(|task| (task.id, lane)));
        let refused = self.processes[0].node.submit(lane, tasks, now);
        assert!(refused.is_empty(), "the simulated queue is large enough");
        self.act(0);
    }

    fn dial(&mut self, place: Place) {
        let now = self.clock();
        let process = &self.processes[place];
        let Some(above) = process.above else { return };
        if process.up.is_some() {
            return;
        }
        let wire = self.next_wire;
        self.next_wire += 1;
        let lower = (place, process.life);
        let upper = (above, self.processes[above].life);
        self.wires.insert(wire, Wire { upper, lower, arrives: [self.now; 2], cut: false });
        self.note(format_args!("p{place} dials p{above} on wire {wire}"));
        self.processes[above].node.handle_accepted(LinkId(wire), now);
        self.processes[place].up = Some(wire);
        self.processes[place].node.handle_connected_above(now);
        self.act(above);
        self.act(place);
    }

    /// One end learns that a connection is gone.
    fn closed(&mut self, wire: u64, at_upper: bool) {
        let now = self.clock();
        let Some(Wire { upper, lower, .. }) = self.wires.get(&wire).copied() else { return };
        if at_upper {
            if self.is_alive(upper.0, upper.1) {
                self.processes[upper.0].node.handle_closed(LinkId(wire), now);
                self.act(upper.0);
            }
        } else if self.is_alive(lower.0, lower.1) && self.processes[lower.0].up == Some(wire) {
            self.processes[lower.0].up = None;
            self.processes[lower.0].node.handle_closed_above();
            let pause = Duration::from_millis(50) + self.random.duration(Duration::from_millis(500));
            self.after(pause, Event::Dial { place: lower.0, life: lower.1 });
            self.act(lower.0);
        }
    }

    /// Cuts a connection: what is under way is lost, each end learns of it in its own time.
    fn cut(&mut self, wire: u64) {
        self.note(format_args!("wire {wire} is cut"));
        if let Some(state) = self.wires.get_mut(&wire) {
            state.cut = true;
        }
        for at_upper in [true, false] {
            let delay = self.random.duration(Duration::from_millis(200));
            self.after(delay, Event::Closed { wire, at_upper });
        }
    }

    fn fault(&mut self) {
        let places = self.processes.len() as u64;
        let victim = self.random.below(places) as usize;
        match self.random.below(if self.config.kills { 4 } else { 2 }) {
            0 => {
                if let Some(wire) = self.processes[victim].up {
                    self.cut(wire);
                }
            }
            2 => self.kill(victim),
            3 => {
                // Somebody restarts it politely: it hands back what it has not begun.
                self.note(format_args!("p{victim} leaves"));
                self.processes[victim].node.leave();
                self.act(victim);
                self.kill(victim);
            }
            _ => {
                // Somebody cancels a task.
                let now = self.clock();
                let id = TaskId::from_u128(1 + u128::from(self.random.below(u64::from(self.config.tasks))));
                self.note(format_args!("cancel {}", id.as_u128()));
                self.processes[0].node.cancel([id], now);
                self.act(0);
            }
        }
    }

    fn kill(&mut self, place: Place) {
        self.note(format_args!("kill p{place}"));
        let life = self.processes[place].life;
        let cut: Vec<u64> = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.upper == (place, life) || wire.lower == (place, life))
            .map(|(wire, _)| *wire)
            .collect();
        let above = self.processes[place].above;
        self.boot(place, above);
        cut.into_iter().for_each(|wire| self.cut(wire));
    }

    fn ended(&mut self, place: Place, attempt: AttemptId, crashed: bool) {
        let now = self.clock();
        let process = &mut self.processes[place];
        // It may have been stopped meanwhile.
        if process.running.get(&attempt.task) != Some(&attempt.number) {
            return;
        }
        process.running.remove(&attempt.task);
        let mut task = Task::new(attempt.task, Arc::clone(&self.spec), "");
        task.attempt = attempt.number;
        let outcome = match crashed {
            true => Outcome::failed(&task, OutcomeKind::Lost, &Failure::new("WorkerLost", "it crashed")),
            false => Outcome::returned(&task, "value"),
        };
        self.executor_says(place, vec![outcome], now);
    }

    fn executor_says(&mut self, place: Place, outcomes: Vec<Outcome>, now: Now) {
        let process = &mut self.processes[place];
        if let Some(executor) = process.executor {
            process.node.handle_executor(executor, ExecutorEvent::Outcomes(outcomes), now);
        }
        self.work(place);
        self.act(place);
    }

    /// Free workers take what waits.
    fn work(&mut self, place: Place) {
        while self.processes[place].running.len() < self.config.workers as usize {
            let Some(task) = self.processes[place].waiting.pop_front() else { break };
            let attempt = task.attempt_id();
            self.processes[place].running.insert(task.id, task.attempt);
            self.executions += 1;
            let takes = self.random.duration(self.config.longest_task);
            let crashed = self.random.below(20) == 0;
            let life = self.processes[place].life;
            self.after(takes, Event::Ended { place, life, attempt, crashed });
        }
    }

    fn stop(&mut self, place: Place, attempts: &[AttemptId]) {
        let now = self.clock();
        let process = &mut self.processes[place];
        let mut stopped = Vec::new();
        for attempt in attempts {
            let waited = process.waiting.iter().position(|task| task.id == attempt.task);
            if let Some(index) = waited {
                stopped.extend(process.waiting.remove(index));
            } else if let Some(number) = process.running.remove(&attempt.task) {
                let mut task = Task::new(attempt.task, Arc::clone(&self.spec), "");
                task.attempt = number;
                stopped.push(task);
            }
        }
        let outcomes = stopped
            .iter()
            .map(|task| Outcome::failed(task, OutcomeKind::Cancelled, &Failure::new("Cancelled", "stopped")))
            .collect();
        self.executor_says(place, outcomes, now);
    }

    /// Does what the node of a process wants.
    fn act(&mut self, place: Place) {
        let now = self.clock();
        let life = self.processes[place].life;
        while let Some(output) = self.processes[place].node.poll_output() {
            match output {
                NodeOutput::Send(link, message) => self.send(link.0, false, message),
                NodeOutput::SendUp(message) => {
                    if let Some(wire) = self.processes[place].up {
                        self.send(wire, true, message);
                    }
                }
                NodeOutput::Close(link, reason) => {
                    self.note(format_args!("p{place} closes wire {}: {reason}", link.0));
                    let delay = self.random.duration(Duration::from_millis(5));
                    self.after(delay, Event::Closed { wire: link.0, at_upper: false });
                }
                NodeOutput::CloseUp(reason) => {
                    self.note(format_args!("p{place} gives up the connection above: {reason}"));
                    if let Some(wire) = self.processes[place].up {
                        self.cut(wire);
                    }
                }
                NodeOutput::RefusedAbove(refused) => {
                    self.note(format_args!("p{place} is refused: {}", refused.reason));
                    if let Some(wire) = self.processes[place].up {
                        self.cut(wire);
                    }
                }
                NodeOutput::Authorize(link, hello) => {
                    let lane = if place == 0 { hello.node.as_u128() as u32 - 1 } else { 0 };
                    self.processes[place].node.admit(link, LaneId(lane), now);
                }
                NodeOutput::Run(_, tasks) => {
                    self.processes[place].waiting.extend(tasks);
                    self.work(place);
                }
                NodeOutput::Stop(_, attempts) => self.stop(place, &attempts),
                NodeOutput::Deliver(delivery, outcomes) => {
                    // A fixed delay, because commits are in order.
                    self.after(Duration::from_micros(200), Event::Committed { life, delivery, outcomes });
                }
                NodeOutput::PeerUp(info) => self.note(format_args!("p{place} has {}", info.name)),
                NodeOutput::PeerDown(info) => self.note(format_args!("p{place} misses {}", info.name)),
                NodeOutput::PeerLost(_)
                | NodeOutput::OpenedAbove
                | NodeOutput::Drained
                | NodeOutput::DrainExecutor(_)
                | NodeOutput::Record(..)
                | NodeOutput::Events(_) => {}
            }
        }
        if let Some((deadline, _)) = self.processes[place].node.poll_timeout() {
            // Wake-ups that come too early find nothing to do.
            let delay = deadline.since(self.now);
            let known = self.events.range((deadline, 0)..).take_while(|((at, _), _)| *at == deadline);
            if !known.into_iter().any(|(_, event)| matches!(event, Event::Wake { place: at, life: of } if (*at, *of) == (place, life))) {
                self.after(delay, Event::Wake { place, life });
            }
        }
    }

    fn send(&mut self, wire: u64, upwards: bool, message: Message) {
        let delay = self.random.duration(Duration::from_millis(2));
        let now = self.now;
        let Some(state) = self.wires.get_mut(&wire) else { return };
        let arrives = &mut state.arrives[usize::from(upwards)];
        *arrives = (*arrives).max(now + delay);
        let delay = arrives.since(now);
        self.after(delay, Event::Arrive { wire, upwards, message });
    }

    fn report(&self) -> FabricReport {
        let mut outcomes = BTreeMap::new();
        for kind in self.outcomes.values() {
            *outcomes.entry(*kind).or_insert(0) += 1;
        }
        FabricReport {
            trace: self.trace.clone(),
            outcomes,
            executions: self.executions,
            elapsed: self.last_outcome.since(Tick::ZERO),
        }
    }
}
