//! A whole fabric in one thread: a service, endpoints, managers and workers under a virtual clock and a seeded
//! network, with everything that can go wrong.
//!
//! It runs the same [`Node`](crate::state::Node) as the daemons do; only sockets, clocks, stores and functions are
//! simulated. A [`Plan`] holds everything that is done from outside: submissions, cancellations and faults, by time. The
//! same plan gives the same trace, byte for byte; a plan that breaks a promise is shrunk to the steps that matter, and
//! its text makes the run again.
//!
//! | Part | Holds |
//! | --- | --- |
//! | `config`, `step`, `plan` | what is simulated, as values with a text |
//! | `agenda`, `network`, `store`, `journal`, `process`, `worker` | what surrounds a node, and how it fails |
//! | `audit` | what must hold, seen from outside |
//! | `shrink` | the smallest plan that still goes wrong |

mod agenda;
mod audit;
mod config;
mod journal;
mod network;
mod plan;
mod process;
mod random;
mod shrink;
mod step;
mod store;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use agenda::{Agenda, Event, Input};
use audit::{Losses, Seen};
use journal::Journal;
use network::{DOWN, UP};
use process::Process;
use random::Draw;
use store::{Commit, Store};

use crate::model::{Function, IdentityId, OutcomeKind, Task, TaskId, TaskSpec, Tick};
use crate::state::{LaneId, NodeOutput};

pub use config::FabricConfig;
pub use plan::Plan;
pub use step::{FaultKind, Step};

/// What a run showed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FabricReport {
    /// How many tasks ended in each way.
    pub outcomes: BTreeMap<OutcomeKind, u64>,
    /// Accepted tasks that have no outcome yet.
    pub open: u64,
    /// Attempts that began in a worker.
    pub executions: u64,
    /// Messages that were sent.
    pub messages: u64,
    /// Everything that happened.
    pub events: u64,
    /// What was done from outside, by [`Step::verb`].
    pub steps: BTreeMap<&'static str, u64>,
    /// Virtual time.
    pub elapsed: Duration,
}

impl FabricReport {
    /// Tasks that have ended.
    pub fn ended(&self) -> u64 {
        self.outcomes.values().sum()
    }
}

/// Time until there is a new block.
const BLOCK_PAUSE_MILLIS: u32 = 500;
/// Virtual time without an outcome or a step after which a fabric that has not finished is stuck.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Wake-ups of a node at one instant after which it is taken to spin.
const SPINS: u32 = 10_000;
/// The epoch of the first journal: no process draws one like it.
const FIRST_EPOCH: u64 = 1 << 32;
/// Lines of a trace that are shown.
const LAST_LINES: usize = 60;

/// Runs a fabric from a seed until everything is quiet.
///
/// # Errors
/// What went wrong, with the smallest plan that shows it and the end of its trace.
pub fn simulate(config: FabricConfig, seed: u64) -> Result<FabricReport, String> {
    let plan = Plan::new(config, seed);
    plan.run().map_err(|wrong| explain(plan, &wrong))
}

/// Shrinks a plan that goes wrong, and tells how.
pub fn explain(plan: Plan, wrong: &str) -> String {
    let (config, seed, steps) = (plan.config, plan.seed, plan.steps.len());
    let small = plan.shrink();
    let (result, trace) = small.trace();
    let lines: Vec<&str> =
        trace.lines().filter(|line| !line.contains(" Ping") && !line.contains(" Pong")).collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
    let small_wrong = result.err().unwrap_or_default();
    format!(
        "{config} seed={seed}: {wrong}\nsmallest of its {steps} steps that go wrong:\n{small}\n{small_wrong}\n{last}"
    )
}

/// A process of the fabric: 0 is the service, then the endpoints, then their managers.
type Place = usize;
/// A connection; never reused.
type WireId = usize;

/// A fabric that runs.
#[derive(Debug)]
pub struct Fabric {
    config: FabricConfig,
    draw: Draw,
    now: Tick,
    agenda: Agenda,
    steps: Vec<(Duration, Step)>,
    /// Steps, starts and thaws that are still to come.
    unsettled: u32,
    processes: Vec<Process>,
    wires: Vec<network::Wire>,
    lives: u64,
    store: Store,
    /// By endpoint; none if they keep none.
    journals: Vec<Journal>,
    seen: Vec<Seen>,
    /// What memoized tasks have called and begun.
    called: BTreeSet<(u8, u32)>,
    losses: Losses,
    last_progress: Tick,
    broken: Option<String>,
    figures: FabricReport,
    /// What outcomes are made from.
    spare: Task,
    trace: Option<String>,
}

/// Writes a line of the trace, if there is one.
macro_rules! note {
    ($fabric:expr, $($line:tt)+) => {
        if $fabric.trace.is_some() {
            $fabric.write(format_args!($($line)+));
        }
    };
}
use note;

impl Fabric {
    /// The fabric of a plan, before anything has happened.
    pub fn new(plan: &Plan) -> Self {
        let config = plan.config;
        let spec = TaskSpec::new(Arc::new(Function::native("work")), IdentityId::from_u128(1));
        Self {
            config,
            draw: Draw::new(plan.seed),
            now: Tick::ZERO,
            agenda: Agenda::default(),
            steps: plan.steps.clone(),
            unsettled: plan.steps.len() as u32,
            processes: Vec::new(),
            wires: Vec::new(),
            lives: 0,
            store: Store::new(&config),
            journals: (0..if config.journals == 0 { 0 } else { config.endpoints })
                .map(|endpoint| Journal::new(FIRST_EPOCH + u64::from(endpoint)))
                .collect(),
            seen: vec![Seen::default(); config.tasks as usize],
            called: BTreeSet::new(),
            losses: Losses {
                journals: config.journals != 0,
                punctual: plan.steps.iter().all(|(_, step)| step.is_lossless()) && config.journals == 0,
                lossless: plan.steps.iter().all(|(_, step)| step.is_lossless()) && config.block_millis == 0,
                cuts: plan.steps.iter().any(|(_, step)| matches!(step, Step::Cut { .. })),
                ..Losses::default()
            },
            last_progress: Tick::ZERO,
            broken: None,
            figures: FabricReport::default(),
            spare: Task::new(TaskId::from_u128(0), Arc::new(spec), ""),
            trace: None,
        }
    }

    /// Writes down every event from now on.
    pub(crate) fn traced(mut self) -> Self {
        self.trace = Some(String::new());
        self
    }

    pub(crate) fn take_trace(&mut self) -> String {
        self.trace.take().unwrap_or_default()
    }

    fn write(&mut self, line: std::fmt::Arguments<'_>) {
        if let Some(trace) = &mut self.trace {
            // Writing to a string cannot fail.
            let _ = writeln!(trace, "{:>12} {line}", self.now.as_nanos() / 1000);
        }
    }

    /// Starts every process.
    pub fn start(&mut self) {
        (0..self.config.places() as usize).for_each(|place| self.boot(place));
        for index in 0..self.steps.len() {
            self.agenda.add(Tick::ZERO + self.steps[index].0, Event::Step(index));
        }
    }

    /// Lets so many things happen. Returns whether everything is finished and quiet.
    ///
    /// # Errors
    /// What went wrong: a broken promise, or a fabric that is stuck.
    pub fn advance(&mut self, events: u64) -> Result<bool, String> {
        for _ in 0..events {
            if self.figures.open == 0 && self.unsettled == 0 && self.is_quiet() {
                return self.check_all().map(|()| true);
            }
            let Some((at, event)) = self.agenda.next() else {
                return Err(self.stuck());
            };
            self.now = at;
            if self.now.since(self.last_progress) > PATIENCE {
                return Err(self.stuck());
            }
            self.happen(event);
            if let Some(broken) = self.broken.take() {
                return Err(broken);
            }
        }
        Ok(false)
    }

    /// What the run has shown so far.
    pub fn report(&self) -> FabricReport {
        FabricReport {
            events: self.agenda.scheduled(),
            elapsed: self.now.since(Tick::ZERO),
            ..self.figures.clone()
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Step(index) => self.step(index),
            Event::At(place, life, input) => self.input(place, life, input),
            Event::Wire(wire, what) => self.through(wire, what),
            Event::Boot(place) => {
                self.unsettled -= 1;
                self.boot(place);
            }
            Event::Thaw(place, life) => self.thaw(place, life),
        }
    }

    /// Something is done from outside.
    fn step(&mut self, index: usize) {
        self.unsettled -= 1;
        self.last_progress = self.now;
        let step = self.steps[index].1;
        *self.figures.steps.entry(step.verb()).or_insert(0) += 1;
        note!(self, "{step}");
        let until = |fabric: &Self, millis: u32| fabric.now + Duration::from_millis(millis.into());
        match step {
            // A service that is not there, or stands still, is asked when it is.
            Step::Submit { .. } | Step::Cancel { .. } | Step::Storm { .. } => {
                let life = self.processes[0].life;
                self.input(0, life, Input::Step(index));
            }
            Step::SlowStore { millis, lag_millis } => {
                self.store.slow = (until(self, millis), Duration::from_millis(lag_millis.into()));
            }
            Step::FullStore { millis } => self.store.full_until = until(self, millis),
            Step::Kill { place, .. }
            | Step::Vanish { place, .. }
            | Step::Leave { place, .. }
            | Step::Drain { place, .. }
            | Step::Freeze { place, .. }
            | Step::Cut { place }
            | Step::Partition { place, .. }
            | Step::Mute { place, .. }
            | Step::Deafen { place, .. }
            | Step::Slow { place, .. }
            | Step::ClockForward { place, .. }
            | Step::ClockBack { place, .. }
            | Step::FullJournal { place, .. }
            | Step::Crash { place } => {
                // A plan that was shrunk may name places that its fabric has not.
                if place < self.config.places() {
                    self.afflict(place as usize, step, until(self, 0));
                }
            }
        }
    }

    /// A fault befalls a process or its connection.
    fn afflict(&mut self, place: Place, step: Step, now: Tick) {
        let process = &mut self.processes[place];
        let mut block = |directions: &[usize], millis: u32| {
            for direction in directions {
                let until = &mut process.blocked[*direction];
                *until = (*until).max(now + Duration::from_millis(millis.into()));
            }
        };
        match step {
            Step::Kill { down_millis, .. } => self.die(place, false, down_millis),
            Step::Vanish { down_millis, .. } => self.die(place, true, down_millis),
            Step::Leave { down_millis, .. } => self.leave(place, down_millis),
            Step::Drain { down_millis, .. } => self.drain(place, down_millis),
            Step::Freeze { millis, .. } => self.freeze(place, millis),
            Step::Partition { millis, .. } => block(&[UP, DOWN], millis),
            Step::Mute { millis, .. } => block(&[UP], millis),
            Step::Deafen { millis, .. } => block(&[DOWN], millis),
            Step::Slow { millis, lag_millis, .. } => {
                let until = now + Duration::from_millis(millis.into());
                process.lag = (until, Duration::from_millis(lag_millis.into()));
            }
            Step::ClockForward { millis, .. } => self.set_clock(place, i64::from(millis)),
            Step::ClockBack { millis, .. } => self.set_clock(place, -i64::from(millis)),
            Step::FullJournal { millis, .. } => {
                // Where no journal is kept, it does not matter.
                if let Some(journal) =
                    (place as u32).checked_sub(1).and_then(|index| self.journals.get_mut(index as usize))
                {
                    journal.full_until = now + Duration::from_millis(millis.into());
                }
            }
            Step::Cut { .. } => {
                if let Some(wire) = process.up {
                    self.cut(wire);
                }
            }
            Step::Crash { .. } if process.alive && !process.frozen => {
                self.crash(place);
                self.act(place);
            }
            _ => {}
        }
    }

    /// A process that is there and does not stand still handles an input.
    fn handle(&mut self, place: Place, input: Input) {
        let now = self.clock(place);
        match input {
            Input::Step(index) => self.request(self.steps[index].1),
            Input::Dial => self.dial(place),
            Input::Admit(link) => {
                let lane = self.lane_of(place, link.0 as usize);
                self.processes[place].node.admit(link, lane, now);
            }
            Input::Wake(at) => {
                let process = &mut self.processes[place];
                if process.wake == Some(at) {
                    process.wake = None;
                    process.node.handle_timeout(now);
                }
            }
            Input::Ended(at) => self.ended(place, at),
            Input::Gone(crew) => self.gone(place, crew),
            Input::Durable(commit) => self.durable(commit),
            Input::Committed(delivery) => self.processes[place].node.committed(delivery),
            Input::Recorded(record, through) => self.recorded(place, record, through),
            Input::Retry => self.retry(place),
            Input::Dead(node) => self.processes[place].node.handle_dead(node, "its process has ended", now),
            Input::Exit => self.exit(place),
            // What stands still is killed too, but later than it should be.
            Input::BlockEnds => self.die(place, false, BLOCK_PAUSE_MILLIS),
            Input::Wire(wire, what) => self.arrive(place, wire, what),
        }
    }

    /// Endpoints have a lane each at the service; managers share the one of their endpoint.
    fn lane_of(&self, place: Place, wire: WireId) -> LaneId {
        let lower = self.wires[wire].lower.0;
        LaneId(if place == 0 { lower as u32 - 1 } else { 0 })
    }

    /// The service is asked for something.
    fn request(&mut self, step: Step) {
        match step {
            Step::Submit { first, count, lane, variant } if lane < self.config.endpoints => {
                let tasks = first.min(self.config.tasks)..first.saturating_add(count).min(self.config.tasks);
                self.commit(Commit::Tasks { tasks, lane, variant: variant as u8 });
            }
            Step::Cancel { first, count } => self.cancel(first..first.saturating_add(count)),
            Step::Storm { times } => (0..times).for_each(|_| self.cancel(0..2 * self.config.tasks)),
            _ => {}
        }
    }

    /// Does what the node of a process wants.
    fn act(&mut self, place: Place) {
        loop {
            while let Some(output) = self.processes[place].node.poll_output() {
                self.output(place, output);
            }
            if !self.work(place) {
                break;
            }
        }
        self.set_timer(place);
    }

    fn output(&mut self, place: Place, output: NodeOutput) {
        let life = self.processes[place].life;
        match output {
            NodeOutput::Send(link, message) => {
                self.gives(link.0 as usize, &message);
                self.send(link.0 as usize, DOWN, message);
            }
            NodeOutput::SendUp(message) => {
                if let Some(wire) = self.processes[place].up {
                    self.send(wire, UP, message);
                }
            }
            NodeOutput::Close(link, reason) => {
                note!(self, "p{place} closes wire {}: {reason}", link.0);
                self.closes(place, &reason);
                self.shut(link.0 as usize, DOWN);
            }
            NodeOutput::CloseUp(reason) => {
                note!(self, "p{place} gives up the connection above: {reason}");
                self.closes(place, &reason);
                if let Some(wire) = self.processes[place].up {
                    self.shut(wire, UP);
                }
            }
            NodeOutput::RefusedAbove(refused) => {
                note!(self, "p{place} is refused: {}", refused.reason);
                if let Some(wire) = self.processes[place].up {
                    self.shut(wire, UP);
                }
            }
            NodeOutput::Authorize(link, _) => {
                let delay = Duration::from_micros(self.draw.of(link.0, 0xad31) % 3_000);
                self.agenda.add(self.now + delay, Event::At(place, life, Input::Admit(link)));
            }
            NodeOutput::Run(executor, tasks) => self.take(place, executor, tasks),
            NodeOutput::Stop(executor, attempts) => self.stop(place, executor, &attempts),
            NodeOutput::Deliver(delivery, outcomes) => self.commit(Commit::Outcomes(delivery, outcomes)),
            NodeOutput::PeerUp(info) => note!(self, "p{place} has {}", info.name),
            NodeOutput::PeerDown(info) => note!(self, "p{place} misses {}", info.name),
            NodeOutput::PeerLost(info) => {
                note!(self, "p{place} has lost {}", info.name);
                self.losses.peers += 1;
            }
            NodeOutput::Resize(lane, slots) => self.resize(place, lane, slots),
            NodeOutput::OpenedAbove => {}
            NodeOutput::DrainExecutor(executor) => self.give_back(place, executor),
            NodeOutput::Record(record, entries) => self.record(place, record, entries),
            NodeOutput::Events(events) => self.keep(events),
            NodeOutput::Drained => {
                note!(self, "p{place} is drained");
                self.end_session(place);
                let soon = self.now + Duration::from_millis(1);
                self.agenda.add(soon, Event::At(place, life, Input::Exit));
            }
        }
    }

    /// Wakes a process when its node wants it.
    fn set_timer(&mut self, place: Place) {
        let Some((deadline, reason)) = self.processes[place].node.poll_timeout() else { return };
        if deadline == Tick::NEVER {
            return;
        }
        let at = self.global(place, deadline).max(self.now);
        let process = &mut self.processes[place];
        process.wakes_in_place = if at == self.now { process.wakes_in_place + 1 } else { 0 };
        if process.wakes_in_place > SPINS {
            self.broken(format!("p{place} wants to be woken at once, again and again: {reason}"));
        } else if process.wake.is_none_or(|wake| wake > at) {
            process.wake = Some(at);
            let life = process.life;
            self.agenda.add(at, Event::At(place, life, Input::Wake(at)));
        }
    }
}
