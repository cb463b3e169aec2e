//! Processes: they start, stand still, leave and die.

use std::time::Duration;

use uuid::Uuid;

use super::agenda::{Event, Input};
use super::journal::Journal;
use super::store::environment_name;
use super::worker::{Crew, Ends, Running};
use super::{Fabric, Place, WireId, note};
use crate::contract::{Capacity, ExecutorEvent, IdleFirst};
use crate::message::Role;
use crate::model::{FunctionKind, Hop, IdMap, Now, TaskId, Tick, Timestamp};
use crate::state::{DispatcherLimits, KeepAlive, LaneId, Node, NodeConfig, UplinkIdentity};

/// How long an endpoint keeps the leases of a manager that is away.
const LEASE_GRACE: Duration = Duration::from_secs(10);
/// How long a task waits for a warm worker while others are idle.
const COLD_AFTER: Duration = Duration::from_millis(50);
/// How long workers without tasks are kept by managers that do not learn it.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How long a process that is asked to finish may take before it is killed.
const DRAIN: Duration = Duration::from_secs(20);
/// Memory of an endpoint for the values of memoized tasks; little, so that some are forgotten.
const MEMO_BYTES: usize = 1 << 10;
/// What its clocks show when a process starts: ticks of two processes have nothing to do with each other.
const FIRST_TICK: Duration = Duration::from_secs(1);
const FIRST_WALL: u64 = 1 << 60;

#[derive(Debug)]
pub(super) struct Process {
    pub(super) node: Node<IdleFirst>,
    lanes: u32,
    pub(super) node_id: Uuid,
    /// Counts the lives of this process; what was meant for an earlier one is void.
    pub(super) life: u32,
    pub(super) alive: bool,
    /// It stands still; what happens meanwhile waits.
    pub(super) frozen: bool,
    deferred: Vec<Input>,
    pub(super) above: Option<Place>,
    pub(super) up: Option<WireId>,
    pub(super) dials: u32,
    born: Tick,
    /// When its block is over.
    pub(super) ends_at: Tick,
    /// Nanoseconds that its wall clock is ahead.
    skew: i64,
    /// Until when what it sends takes longer, and how much.
    pub(super) lag: (Tick, Duration),
    /// Until when nothing passes in a direction of its connection to the node above.
    pub(super) blocked: [Tick; 2],
    /// By lane; only managers have some.
    pub(super) crews: Vec<Crew>,
    pub(super) running: IdMap<TaskId, Running>,
    pub(super) ends: Ends,
    pub(super) wake: Option<Tick>,
    pub(super) wakes_in_place: u32,
    pub(super) inputs: u32,
    down_millis: u32,
}

impl Process {
    /// Tasks that wait for workers.
    pub(super) fn waiting(&self) -> usize {
        self.crews.iter().map(|crew| crew.waiting.len()).sum()
    }

    /// Whether nothing is left here.
    pub(super) fn is_empty(&self) -> bool {
        let load = |lane| self.node.load(LaneId(lane));
        (0..self.lanes).all(|lane| load(lane).queued + load(lane).leased + load(lane).waiting == 0)
            && self.node.uplink().is_none_or(|uplink| uplink.held() == 0)
            && self.running.is_empty()
            && self.waiting() == 0
    }
}

impl Fabric {
    pub(super) fn is_alive(&self, place: Place, life: u32) -> bool {
        self.processes[place].alive && self.processes[place].life == life
    }

    /// What the clocks of a process show.
    pub(super) fn clock(&self, place: Place) -> Now {
        let process = &self.processes[place];
        let wall = (FIRST_WALL + self.now.as_nanos()).saturating_add_signed(process.skew).max(1);
        Now {
            tick: Tick::ZERO + FIRST_TICK + self.now.since(process.born),
            wall: Timestamp::from_nanos(wall),
        }
    }

    /// The time of the fabric at a tick of a process.
    pub(super) fn global(&self, place: Place, local: Tick) -> Tick {
        self.processes[place].born + local.since(Tick::ZERO + FIRST_TICK)
    }

    fn above(&self, place: Place) -> Option<Place> {
        let (endpoints, managers) = (self.config.endpoints as usize, self.config.managers.max(1) as usize);
        match place {
            0 => None,
            place if place <= endpoints => Some(0),
            place => Some(1 + (place - 1 - endpoints) / managers),
        }
    }

    /// Starts a process, for the first time or anew.
    pub(super) fn boot(&mut self, place: Place) {
        self.lives += 1;
        let endpoints = self.config.endpoints as usize;
        let above = self.above(place);
        let life = self.processes.get(place).map_or(0, |process| process.life + 1);
        note!(self, "boot p{place} life {life}");
        // A manager that is started again is a new one for some launchers, and the same one for others.
        let fresh = place > endpoints && place.is_multiple_of(2);
        let node_id = Uuid::from_u128(place as u128 | if fresh { u128::from(life) << 64 } else { 0 });
        let journal = (place != 0).then(|| self.journals.get_mut(place - 1)).flatten();
        let recovered = journal.map(Journal::open);
        let (epoch, journal_life) = recovered.as_ref().map_or((self.lives, 0), |recovered| {
            // Attempts of which the journal does not know may have begun: a new session.
            (if recovered.complete { recovered.epoch } else { self.lives }, recovered.life)
        });
        let lasts = self.block_lasts(place, life);
        let identity = above.map(|above| UplinkIdentity {
            role: if above == 0 { Role::Endpoint } else { Role::Manager },
            node: node_id,
            epoch,
            life: journal_life,
            process: self.lives,
            ends_at: if lasts == Duration::MAX { Tick::NEVER } else { Tick::ZERO + FIRST_TICK + lasts },
            credential: String::new(),
            name: format!("p{place}"),
            software: "simulated".to_owned(),
        });
        let mut node = Node::new(self.node_config(place, identity, recovered.is_some()));
        recovered.into_iter().for_each(|recovered| node.restore(recovered));
        let crews = self.furnish(place, life, &mut node);
        let old = self.processes.get(place);
        let process = Process {
            node,
            lanes: if place == 0 { self.config.endpoints } else { crews.len().max(1) as u32 },
            node_id,
            life,
            alive: true,
            frozen: false,
            deferred: Vec::new(),
            above,
            up: None,
            dials: old.map_or(0, |old| old.dials),
            born: self.now,
            ends_at: self.now + lasts,
            skew: old.map_or(0, |old| old.skew),
            lag: old.map_or((Tick::ZERO, Duration::ZERO), |old| old.lag),
            blocked: old.map_or([Tick::ZERO; 2], |old| old.blocked),
            crews,
            running: IdMap::default(),
            ends: Ends::new(),
            wake: None,
            wakes_in_place: 0,
            inputs: 0,
            down_millis: 500,
        };
        match self.processes.get_mut(place) {
            Some(old) => *old = process,
            None => self.processes.push(process),
        }
        if place == 0 {
            self.store.unload();
            (0..self.config.endpoints).for_each(|lane| self.load(lane));
        } else {
            self.agenda.add(self.now + Duration::from_millis(1), Event::At(place, life, Input::Dial));
        }
        if lasts != Duration::MAX {
            self.agenda.add(self.now + lasts, Event::At(place, life, Input::BlockEnds));
        }
        self.act(place);
    }

    /// How long the block of a manager lasts.
    fn block_lasts(&self, place: Place, life: u32) -> Duration {
        let most = u64::from(self.config.block_millis);
        if most == 0 || place <= self.config.endpoints as usize {
            return Duration::MAX;
        }
        let draw = self.draw.of(place as u64, 0xb10c_0000 + u64::from(life));
        Duration::from_millis(most - draw % (most / 3 + 1))
    }

    fn node_config(&self, place: Place, uplink: Option<UplinkIdentity>, journal: bool) -> NodeConfig {
        let (sent, queue_tasks) = match place {
            0 => (Hop::ServiceSent, 0),
            place if place <= self.config.endpoints as usize => (Hop::EndpointSent, self.config.queue_tasks),
            _ => (Hop::ManagerSent, 0),
        };
        NodeConfig {
            uplink,
            limits: DispatcherLimits { lane_tasks: usize::MAX, ..DispatcherLimits::default() },
            lease_grace: (place != 0).then_some(LEASE_GRACE),
            // Only who remembers how many attempts there were makes more of them.
            retries: place <= self.config.endpoints as usize,
            journal,
            queue_tasks,
            // Endpoints look at environments, and managers share their slots among them.
            cold_after: (self.config.environments != 0 && sent == Hop::EndpointSent).then_some(COLD_AFTER),
            ..NodeConfig::new(sent, "simulated")
        }
    }

    /// Gives a node its lanes, and a manager its executors.
    fn furnish(&self, place: Place, life: u32, node: &mut Node<IdleFirst>) -> Vec<Crew> {
        if place == 0 {
            (0..self.config.endpoints).for_each(|_| {
                node.open_lane();
            });
            node.memoize(0);
            return Vec::new();
        }
        let is_endpoint = place <= self.config.endpoints as usize;
        if is_endpoint || self.config.environments == 0 {
            let lane = node.open_lane();
            node.route(FunctionKind::Native, lane);
            if is_endpoint {
                node.memoize(MEMO_BYTES);
                return Vec::new();
            }
            let workers = self.config.workers;
            return vec![Crew::new(0, node.attach_executor(lane, self.capacity(workers)), workers)];
        }
        let learns = place.is_multiple_of(2);
        let keep_alive = if learns { KeepAlive::Learned } else { KeepAlive::Fixed(KEEP_ALIVE) };
        node.share_slots(self.config.workers, keep_alive);
        let known =
            (0..=self.config.environments).filter(|environment| !self.lacks(place, life, *environment));
        known
            .map(|environment| {
                let name = environment_name(environment);
                let lane = node.share_lane(name.clone());
                node.route_environment(FunctionKind::Native, name.as_deref(), lane);
                Crew::new(environment, node.attach_executor(lane, Capacity::default()), 0)
            })
            .collect()
    }

    /// Whether a manager has no workers of an environment in one of its lives: somebody has not installed it there, or not yet.
    pub(super) const fn lacks(&self, place: Place, life: u32, environment: u32) -> bool {
        let thing = (place as u64) << 32 | environment as u64;
        environment != 0 && self.draw.of(thing, 0xe4f0_0000 + life as u64).is_multiple_of(8)
    }

    pub(super) const fn capacity(&self, slots: u32) -> Capacity {
        Capacity { slots, prefetch: self.config.prefetch }
    }

    /// A process is gone. It is started again after `down_millis`.
    pub(super) fn die(&mut self, place: Place, silently: bool, down_millis: u32) {
        if !self.processes[place].alive {
            return;
        }
        note!(self, "p{place} is gone");
        if place == 0 {
            self.losses.service += 1;
            if self.config.forgetful_store != 0 {
                self.store.forget();
            }
        } else if place <= self.config.endpoints as usize {
            self.losses.endpoints += 1;
            self.losses.amnesia |= self.journals.is_empty();
        }
        self.orphan(place, silently);
        self.close_journal(place, silently);
        let process = &mut self.processes[place];
        (process.alive, process.frozen, process.up) = (false, false, None);
        process.deferred.clear();
        process.running.clear();
        process.crews.clear();
        process.ends.clear();
        // Whoever started a manager may see that it is dead before its connections tell.
        if let Some(above) = process.above.filter(|above| *above != 0)
            && process.life.is_multiple_of(2)
        {
            let node_id = process.node_id;
            let life = self.processes[above].life;
            let seen = self.now + Duration::from_millis(3);
            self.agenda.add(seen, Event::At(above, life, Input::Dead(node_id)));
        }
        self.unsettled += 1;
        self.agenda.add(self.now + Duration::from_millis(down_millis.into()), Event::Boot(place));
    }

    fn close_journal(&mut self, place: Place, power_loss: bool) {
        let draw = self.draw.of(place as u64, 0x7021_0000 + u64::from(self.processes[place].life));
        let journal = (place != 0).then(|| self.journals.get_mut(place - 1)).flatten();
        let lost = journal.map_or(0, |journal| journal.close(power_loss, draw));
        if lost > 0 {
            note!(self, "p{place} loses {lost} records");
            self.losses.amnesia = true;
        }
    }

    /// A process stands still for a while.
    pub(super) fn freeze(&mut self, place: Place, millis: u32) {
        let process = &mut self.processes[place];
        if process.alive && !process.frozen {
            process.frozen = true;
            let life = process.life;
            self.unsettled += 1;
            self.agenda.add(self.now + Duration::from_millis(millis.into()), Event::Thaw(place, life));
        }
    }

    pub(super) fn thaw(&mut self, place: Place, life: u32) {
        self.unsettled -= 1;
        if !self.is_alive(place, life) {
            return;
        }
        note!(self, "p{place} goes on");
        let now = self.clock(place);
        let process = &mut self.processes[place];
        process.frozen = false;
        // Its timers may come before what others said meanwhile, or after.
        if process.inputs.is_multiple_of(2) {
            process.node.handle_timeout(now);
            self.act(place);
        }
        for input in std::mem::take(&mut self.processes[place].deferred) {
            self.input(place, life, input);
        }
        self.act(place);
    }

    /// A process gets an input now, or when it goes on.
    pub(super) fn input(&mut self, place: Place, life: u32, input: Input) {
        if !self.is_alive(place, life) {
            return;
        }
        if self.processes[place].frozen {
            self.processes[place].deferred.push(input);
            return;
        }
        self.handle(place, input);
        if self.processes[place].alive {
            self.act(place);
            self.check(place);
        }
    }

    /// A process is asked to leave at once: it gives back what has not begun.
    pub(super) fn leave(&mut self, place: Place, down_millis: u32) {
        let process = &mut self.processes[place];
        if !process.alive || process.frozen {
            return;
        }
        let now = self.clock(place);
        let Process { node, crews, .. } = &mut self.processes[place];
        for crew in crews {
            let back = crew.waiting.drain(..).map(|task| task.attempt_id()).collect();
            let slots = crew.dismiss_idle();
            node.handle_executor(
                crew.executor,
                ExecutorEvent::Capacity(Capacity { slots, prefetch: 0 }),
                now,
            );
            node.handle_executor(crew.executor, ExecutorEvent::GaveBack(back), now);
        }
        node.leave();
        self.act(place);
        self.die(place, false, down_millis);
    }

    /// A process is asked to finish.
    pub(super) fn drain(&mut self, place: Place, down_millis: u32) {
        let now = self.clock(place);
        let process = &mut self.processes[place];
        if !process.alive || process.frozen {
            return;
        }
        process.down_millis = down_millis;
        process.node.drain(now);
        let life = process.life;
        // A service has nobody to say goodbye to; what it has is in its store.
        let patience = if place == 0 { DRAIN / 4 } else { DRAIN };
        self.agenda.add(self.now + patience, Event::At(place, life, Input::Exit));
        self.act(place);
    }

    pub(super) fn exit(&mut self, place: Place) {
        let down_millis = self.processes[place].down_millis;
        self.die(place, false, down_millis);
    }

    pub(super) fn set_clock(&mut self, place: Place, by: i64) {
        let skew = &mut self.processes[place].skew;
        *skew = skew.saturating_add(by.saturating_mul(1_000_000));
    }
}
