//! The experiment on warm routing, under a virtual clock: many tasks that need workers of different types, managers whose
//! slots the types share, and the price of a worker that has to be started.
//!
//! The set-up is that of Chard and others, "funcX: Federated Function as a Service for Science" (TPDS 2022, 7.4): 10 managers
//! with 10 slots each, 10 types, a batch of tasks that ask for a type at random. The endpoint and the managers are real
//! nodes; links take no time, and workers exist only here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::contract::{AnyPeer, Capacity, ExecutorEvent, IdleFirst, PeerId, PlacementPolicy};
use crate::message::Role;
use crate::model::{
    Function, FunctionKind, Hop, IdentityId, Now, Outcome, Task, TaskId, TaskSpec, Tick, Timestamp,
};
use crate::state::{
    KeepAlive, LaneId, LinkId, LinkPolicy, Node, NodeConfig, NodeOutput, UplinkIdentity, WarmCounters,
};

/// Steps after which a run is taken for one that does not end.
const MOST_STEPS: usize = 50_000_000;

/// How long managers keep workers without tasks, as in the publication.
const KEEP_ALIVE: Duration = Duration::from_secs(600);

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WarmRouting {
    /// Types of workers.
    pub types: u32,
    /// Managers.
    pub managers: u32,
    /// Slots of each.
    pub slots: u32,
    /// Tasks that may wait at a manager besides those that run.
    pub prefetch: u32,
    /// Tasks, each of which asks for a type at random.
    pub tasks: u32,
    /// How long each of them runs.
    pub duration: Duration,
    /// How long a worker takes to start.
    pub cold_start: Duration,
    /// How the endpoint chooses a manager.
    pub routing: Routing,
    /// Names the run: the same one has the same figures.
    pub seed: u64,
}

/// How an endpoint chooses a manager for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// At random, among those with room.
    Random,
    /// One that is warm for the task.
    Warm,
}

impl Default for WarmRouting {
    /// The published set-up with 3,000 tasks that take no time, and containers that start as fast as on the machine of the
    /// publication (Singularity on Theta: 10.4 s).
    fn default() -> Self {
        Self {
            types: 10,
            managers: 10,
            slots: 10,
            prefetch: 0,
            tasks: 3000,
            duration: Duration::ZERO,
            cold_start: Duration::from_millis(10_400),
            routing: Routing::Warm,
            seed: 1,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarmFigures {
    /// From the submission of the batch to the end of its last task.
    pub completion: Duration,
    /// Workers that were started, and those of them for which a worker of another type had to go.
    pub slots: WarmCounters,
}

impl WarmRouting {
    /// Runs it.
    ///
    /// # Panics
    /// If a task does not end, or runs on a worker of another type.
    pub fn run(&self) -> WarmFigures {
        match self.routing {
            Routing::Random => Site::<AnyPeer>::new(*self, None).run(),
            Routing::Warm => Site::<IdleFirst>::new(*self, Some(self.cold_start)).run(),
        }
    }
}

/// An endpoint and its managers.
struct Site<P> {
    setup: WarmRouting,
    endpoint: Node<P>,
    managers: Vec<Manager>,
    now: Tick,
    agenda: BTreeMap<(Tick, u64), Event>,
    events: u64,
    delivered: u32,
}

struct Manager {
    node: Node,
    pools: Vec<Pool>,
}

/// Workers of one type at one manager.
#[derive(Debug)]
struct Pool {
    peer: PeerId,
    environment: String,
    allowed: u32,
    booting: u32,
    idle: u32,
    busy: u32,
    /// Workers that were given up before they had started.
    unwanted: u32,
    waiting: VecDeque<Task>,
}

#[derive(Debug)]
enum Event {
    Booted { manager: usize, pool: usize },
    Ended { manager: usize, pool: usize, task: Box<Task> },
}

impl Pool {
    const fn in_use(&self) -> u32 {
        self.booting + self.idle + self.busy
    }

    fn capacity(&self) -> ExecutorEvent {
        ExecutorEvent::Capacity(Capacity { slots: self.allowed.max(self.in_use()), prefetch: 0 })
    }
}

fn config(uplink: Option<UplinkIdentity>, prefetch: Option<u32>, cold_after: Option<Duration>) -> NodeConfig {
    NodeConfig {
        uplink,
        link: LinkPolicy::with_heartbeat(Duration::from_secs(3600)),
        prefetch,
        cold_after,
        ..NodeConfig::new(Hop::EndpointSent, "")
    }
}

fn environment(index: u32) -> String {
    format!("type-{index}")
}

impl Manager {
    fn new(setup: &WarmRouting, index: usize) -> Self {
        let process = index as u64 + 1;
        let identity = UplinkIdentity {
            role: Role::Manager,
            node: Uuid::from_u64_pair(1, process),
            epoch: process,
            life: 0,
            process,
            ends_at: Tick::NEVER,
            credential: String::new(),
            name: format!("manager {index}"),
            software: String::new(),
        };
        let mut node = Node::new(config(Some(identity), Some(setup.prefetch), None));
        node.share_slots(setup.slots, KeepAlive::Fixed(KEEP_ALIVE));
        let pools = (0..setup.types)
            .map(|index| {
                let environment = environment(index);
                let lane = node.share_lane(Some(environment.clone()));
                node.route_environment(FunctionKind::Python, Some(&environment), lane);
                let peer = node.attach_executor(lane, Capacity::default());
                let waiting = VecDeque::new();
                Pool { peer, environment, allowed: 0, booting: 0, idle: 0, busy: 0, unwanted: 0, waiting }
            })
            .collect();
        Self { node, pools }
    }
}

impl<P: PlacementPolicy + Default> Site<P> {
    fn new(setup: WarmRouting, cold_after: Option<Duration>) -> Self {
        let mut endpoint = Node::new(config(None, None, cold_after));
        endpoint.open_lane();
        let managers: Vec<_> =
            (0..setup.managers as usize).map(|index| Manager::new(&setup, index)).collect();
        let mut site = Self {
            setup,
            endpoint,
            managers,
            now: Tick::ZERO,
            agenda: BTreeMap::new(),
            events: 0,
            delivered: 0,
        };
        let now = site.clocks();
        for index in 0..site.managers.len() {
            site.endpoint.handle_accepted(LinkId(index as u64), now);
            site.managers[index].node.handle_connected_above(now);
        }
        site.settle();
        site
    }

    fn clocks(&self) -> Now {
        Now { tick: self.now, wall: Timestamp::from_nanos(self.now.as_nanos() + 1) }
    }

    fn run(mut self) -> WarmFigures {
        let tasks = self.draw_tasks();
        let refused = self.endpoint.submit(LaneId(0), tasks, self.clocks());
        assert!(refused.is_empty(), "the endpoint takes all of them");
        for _ in 0..MOST_STEPS {
            self.settle();
            if self.delivered == self.setup.tasks {
                let completion = Duration::from_nanos(self.now.as_nanos());
                return WarmFigures { completion, slots: self.endpoint.warm_counters() };
            }
            self.step();
        }
        panic!("{} of {} tasks have ended: {:?}", self.delivered, self.setup.tasks, self.setup);
    }

    fn draw_tasks(&self) -> Vec<Task> {
        let function = Arc::new(Function::python("f", ""));
        let specs: Vec<_> = (0..self.setup.types)
            .map(|index| {
                let mut spec = TaskSpec::new(Arc::clone(&function), IdentityId::from_u128(1));
                spec.shape.environment = Some(environment(index));
                Arc::new(spec)
            })
            .collect();
        let mut random = self.setup.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |bound: usize| {
            // xorshift64 (Marsaglia, 2003).
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 32) as usize % bound
        };
        let draw = |id: u32| {
            Task::new(TaskId::from_u128(u128::from(id) + 1), Arc::clone(&specs[below(specs.len())]), "")
        };
        (0..self.setup.tasks).map(draw).collect()
    }

    /// The next thing happens.
    fn step(&mut self) {
        let timers = self.managers.iter().filter_map(|manager| manager.node.poll_timeout());
        let timer = timers.chain(self.endpoint.poll_timeout()).map(|(due, _)| due).min();
        let event = self.agenda.first_key_value().map(|((due, _), _)| *due);
        let next = event.into_iter().chain(timer).min().expect("something is due while tasks have not ended");
        self.now = next.max(self.now);
        if event == Some(next) {
            if let Some((_, event)) = self.agenda.pop_first() {
                self.happen(event);
            }
        } else {
            let now = self.clocks();
            self.endpoint.handle_timeout(now);
            self.managers.iter_mut().for_each(|manager| manager.node.handle_timeout(now));
        }
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.events += 1;
        self.agenda.insert((self.now + after, self.events), event);
    }

    fn happen(&mut self, event: Event) {
        let now = self.clocks();
        match event {
            Event::Booted { manager, pool } => {
                let entry = &mut self.managers[manager].pools[pool];
                if entry.unwanted > 0 {
                    entry.unwanted -= 1;
                } else {
                    (entry.booting, entry.idle) = (entry.booting - 1, entry.idle + 1);
                    self.fill(manager, pool);
                }
            }
            Event::Ended { manager, pool, task } => {
                let Manager { node, pools } = &mut self.managers[manager];
                let entry = &mut pools[pool];
                entry.busy -= 1;
                if entry.in_use() < entry.allowed {
                    entry.idle += 1;
                } else {
                    node.handle_executor(entry.peer, entry.capacity(), now);
                }
                let outcome = Outcome::returned(&task, "");
                node.handle_executor(pools[pool].peer, ExecutorEvent::Outcomes(vec![outcome]), now);
                self.fill(manager, pool);
            }
        }
    }

    /// Idle workers begin what waits.
    fn fill(&mut self, manager: usize, pool: usize) {
        let entry = &mut self.managers[manager].pools[pool];
        let mut begun = Vec::new();
        while entry.idle > 0
            && let Some(task) = entry.waiting.pop_front()
        {
            (entry.idle, entry.busy) = (entry.idle - 1, entry.busy + 1);
            assert_eq!(
                task.spec.shape.environment.as_ref(),
                Some(&entry.environment),
                "it runs where it wants to"
            );
            begun.push(task);
        }
        for task in begun {
            self.plan(self.setup.duration, Event::Ended { manager, pool, task: Box::new(task) });
        }
    }

    fn resize(&mut self, manager: usize, pool: usize, slots: u32) {
        let now = self.clocks();
        let Manager { node, pools } = &mut self.managers[manager];
        let entry = &mut pools[pool];
        entry.allowed = slots;
        let new = slots.saturating_sub(entry.in_use());
        entry.booting += new;
        let idle = entry.in_use().saturating_sub(slots).min(entry.idle);
        entry.idle -= idle;
        let booting = entry.in_use().saturating_sub(slots).min(entry.booting);
        (entry.booting, entry.unwanted) = (entry.booting - booting, entry.unwanted + booting);
        node.handle_executor(entry.peer, entry.capacity(), now);
        for _ in 0..new {
            self.plan(self.setup.cold_start, Event::Booted { manager, pool });
        }
    }

    /// Does what the nodes want until they want nothing more.
    fn settle(&mut self) {
        loop {
            let mut is_quiet = true;
            while let Some(output) = self.endpoint.poll_output() {
                is_quiet = false;
                self.act(output);
            }
            for index in 0..self.managers.len() {
                while let Some(output) = self.managers[index].node.poll_output() {
                    is_quiet = false;
                    self.act_below(index, output);
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    fn act(&mut self, output: NodeOutput) {
        let now = self.clocks();
        match output {
            NodeOutput::Send(link, message) => {
                self.managers[link.0 as usize].node.handle_message_above(message, now);
            }
            NodeOutput::Authorize(link, _) => self.endpoint.admit(link, LaneId(0), now),
            NodeOutput::Deliver(delivery, outcomes) => {
                self.delivered += outcomes.len() as u32;
                self.endpoint.committed(delivery);
            }
            NodeOutput::Close(link, reason) => panic!("manager {} is turned away: {reason}", link.0),
            _ => {}
        }
    }

    fn act_below(&mut self, manager: usize, output: NodeOutput) {
        let now = self.clocks();
        match output {
            NodeOutput::SendUp(message) => self.endpoint.handle_message(LinkId(manager as u64), message, now),
            NodeOutput::Resize(lane, slots) => self.resize(manager, lane.0 as usize, slots),
            NodeOutput::Run(peer, tasks) => {
                let pools = &mut self.managers[manager].pools;
                let pool = pools.iter().position(|pool| pool.peer == peer).expect("it was attached");
                pools[pool].waiting.extend(tasks);
                self.fill(manager, pool);
            }
            _ => {}
        }
    }
}
