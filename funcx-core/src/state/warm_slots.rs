//! Which type of worker has how many of the slots of a manager.
//!
//! Workers of one type can run tasks of that type only: they have another interpreter, other modules, other variables. All
//! types share the slots of a manager. A type with more tasks than slots gets another one,
//!
//! 1. that nobody has: a *cold start*;
//! 2. or at once one for which another type has no task: a cold start too, and a *switch*, because a warm worker has to go;
//! 3. or one of a type that is half as loaded, when its task has ended;
//! 4. or, if it has none at all and has waited for [`PATIENCE`], one of the type that has most.
//!
//! So the slots follow the tasks, but a small difference moves none: every move costs a start. Slots for which there are no
//! tasks stay warm until another type needs them, or until their type has not needed them for its keep-alive.

use std::time::Duration;

use super::arrivals::Arrivals;
use super::invariant::invariant;
use crate::model::{Now, Tick, limit};

/// How long a type waits for its first slot while the others have tasks for all of them.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// A busy type gives a slot to one that has this many times as many tasks for each slot.
const MUCH_MORE: u64 = 2;

/// How long workers without tasks are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepAlive {
    /// As long as 99 of 100 pauses of their type have been.
    #[default]
    Learned,
    /// This long.
    Fixed(Duration),
}

/// What happened to the slots of a manager since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WarmCounters {
    /// Slots in which a worker of another type than before, or the first one, was started.
    pub cold_starts: u64,
    /// Those of them for which a worker of another type had to go.
    pub switches: u64,
    /// Slots that were given up because their keep-alive was over.
    pub retired: u64,
}

impl WarmCounters {
    /// Adds what was counted elsewhere.
    pub const fn add(&mut self, more: Self) {
        self.cold_starts = self.cold_starts.saturating_add(more.cold_starts);
        self.switches = self.switches.saturating_add(more.switches);
        self.retired = self.retired.saturating_add(more.retired);
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            cold_starts: self.cold_starts.saturating_sub(earlier.cold_starts),
            switches: self.switches.saturating_sub(earlier.switches),
            retired: self.retired.saturating_sub(earlier.retired),
        }
    }
}

/// Decides how many slots each type of worker has.
///
/// Feed it input, then poll [`poll_output`](Self::poll_output) until it is empty, and before sleeping ask
/// [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct WarmSlots {
    slots: u32,
    keep_alive: KeepAlive,
    types: Vec<WorkerType>,
    counters: WarmCounters,
    /// Slots that types had to give up for others, and that nobody has got yet.
    taken_back: u32,
    now: Tick,
    changed: bool,
}

#[derive(Debug)]
struct WorkerType {
    /// Slots that it should have.
    wanted: u32,
    /// Slots that are not free for others: more than `wanted` while workers have still to end.
    has: u32,
    /// What was last said of `wanted`.
    told: u32,
    /// Its tasks, waiting and running.
    tasks: u32,
    /// Since when it has tasks and no slot.
    starved_since: Option<Tick>,
    /// Since when it has had more slots than tasks, and the most tasks since then, but no more than it has slots.
    spare_since: Option<(Tick, u32)>,
    /// When it got its last slot.
    granted: Tick,
    arrivals: Arrivals,
}

impl WorkerType {
    /// Whether it has waited for its first slot for too long.
    fn is_starved(&self, now: Tick) -> bool {
        self.starved_since.is_some_and(|since| since + PATIENCE <= now)
    }

    /// Whether it has so many more tasks for each slot than the other one that a slot should move, also afterwards.
    fn is_much_more_loaded_than(&self, other: &Self) -> bool {
        u64::from(self.tasks) * u64::from(other.wanted)
            >= MUCH_MORE * u64::from(other.tasks) * (u64::from(self.wanted) + 1)
    }

    /// The tasks or slots have changed.
    fn note(&mut self, now: Tick) {
        self.starved_since = match self.tasks > 0 && self.wanted == 0 {
            true => self.starved_since.or(Some(now)),
            false => None,
        };
        self.spare_since = match self.tasks < self.wanted {
            true => self
                .spare_since
                .map(|(since, most)| (since, most.max(self.tasks).min(self.wanted)))
                .or(Some((now, self.tasks))),
            false => None,
        };
    }
}

impl WarmSlots {
    /// `slots` that nobody has yet.
    pub const fn new(slots: u32, keep_alive: KeepAlive) -> Self {
        Self {
            slots,
            keep_alive,
            types: Vec::new(),
            counters: WarmCounters { cold_starts: 0, switches: 0, retired: 0 },
            taken_back: 0,
            now: Tick::ZERO,
            changed: false,
        }
    }

    /// Adds a type without slots. Types are numbered from 0 and stay; there are few.
    pub fn add_type(&mut self) -> usize {
        debug_assert!(self.types.len() < limit::MAX_ENVIRONMENTS, "more types than an endpoint may have");
        self.types.push(WorkerType {
            wanted: 0,
            has: 0,
            told: 0,
            tasks: 0,
            starved_since: None,
            spare_since: None,
            granted: Tick::ZERO,
            arrivals: Arrivals::default(),
        });
        self.types.len() - 1
    }

    /// Slots that all types share.
    pub const fn slots(&self) -> u32 {
        self.slots
    }

    /// Slots of each type, in the order in which types were added.
    pub fn warm(&self) -> impl Iterator<Item = u32> + '_ {
        self.types.iter().map(|worker_type| worker_type.wanted)
    }

    /// What happened so far.
    pub const fn counters(&self) -> WarmCounters {
        self.counters
    }

    /// A type has so many tasks now, waiting and running.
    pub fn handle_tasks(&mut self, index: usize, tasks: usize, now: Now) {
        let Some(worker_type) = self.types.get_mut(index) else { return };
        let tasks = u32::try_from(tasks).unwrap_or(u32::MAX);
        if tasks == worker_type.tasks {
            return;
        }
        (self.now, self.changed) = (now.tick, true);
        worker_type.arrivals.handle_tasks(worker_type.tasks, tasks, now.tick);
        worker_type.tasks = tasks;
        worker_type.note(now.tick);
    }

    /// The workers of a type take up so many slots now, those that have still to end among them.
    pub fn handle_size(&mut self, index: usize, slots: u32, now: Now) {
        let Some(worker_type) = self.types.get_mut(index) else { return };
        // Word of a slot that it got just now may not have come to the workers.
        let has = slots.max(worker_type.wanted);
        if has < worker_type.has {
            worker_type.has = has;
            (self.now, self.changed) = (now.tick, true);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.poll_timeout().is_none_or(|due| due > now.tick) {
            return;
        }
        (self.now, self.changed) = (now.tick, true);
        let keep_alive = self.keep_alive;
        for worker_type in &mut self.types {
            let keep = worker_type.arrivals.keep_alive(keep_alive);
            if let Some((since, most)) = worker_type.spare_since
                && since + keep <= now.tick
            {
                self.counters.retired += u64::from(worker_type.wanted - most);
                worker_type.wanted = most;
                worker_type.spare_since = None;
                worker_type.note(now.tick);
            }
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Tick> {
        let due = |worker_type: &WorkerType| {
            let keep = worker_type.arrivals.keep_alive(self.keep_alive);
            let retire = worker_type.spare_since.map(|(since, _)| since + keep);
            // What was starved for longer waits for a worker to end.
            let starved =
                worker_type.starved_since.map(|since| since + PATIENCE).filter(|due| *due > self.now);
            retire.into_iter().chain(starved).min()
        };
        self.types.iter().filter_map(due).min()
    }

    /// A type that should have another number of slots than was last said, and which; `None` when there is nothing until the
    /// next input. It is given what it gets at once; what it loses ends when there is no task for it.
    pub fn poll_output(&mut self) -> Option<(usize, u32)> {
        if std::mem::take(&mut self.changed) {
            self.balance();
        }
        let (index, worker_type) = self
            .types
            .iter_mut()
            .enumerate()
            .find(|(_, worker_type)| worker_type.told != worker_type.wanted)?;
        worker_type.told = worker_type.wanted;
        Some((index, worker_type.wanted))
    }

    fn balance(&mut self) {
        // Slots that will be free when workers have ended are as good as given to those that need them most now.
        let mut coming =
            self.types.iter().map(|worker_type| worker_type.has - worker_type.wanted).sum::<u32>();
        let mut free = self.slots - self.types.iter().map(|worker_type| worker_type.has).sum::<u32>();
        let mut spoken_for = vec![0; self.types.len()];
        while let Some(needy) = self.neediest(&spoken_for) {
            if free > 0 {
                free -= 1;
                self.grant(needy);
            } else if coming > 0 {
                coming -= 1;
                spoken_for[needy] += 1;
            } else if let Some(donor) = self.donor(needy, spoken_for[needy]) {
                self.types[donor].wanted -= 1;
                self.types[donor].note(self.now);
                self.taken_back += 1;
                coming += 1;
            } else {
                break;
            }
        }
        let has: u32 = self.types.iter().map(|worker_type| worker_type.has).sum();
        invariant!(Credits, has <= self.slots, "{has} of {} slots", self.slots);
    }

    /// The next type to get a slot: one that has waited for its first one for too long, else the one with most tasks for
    /// each slot that it would have.
    fn neediest(&self, spoken_for: &[u32]) -> Option<usize> {
        let starved = |index: &usize| self.types[*index].is_starved(self.now) && spoken_for[*index] == 0;
        let longest =
            (0..self.types.len()).filter(starved).min_by_key(|index| self.types[*index].starved_since);
        if longest.is_some() {
            return longest;
        }
        let lacking =
            self.types.iter().zip(spoken_for).enumerate().filter_map(|(index, (worker_type, coming))| {
                let slots = worker_type.wanted + coming;
                (worker_type.tasks > slots).then_some((index, worker_type.tasks, slots + 1))
            });
        // Fractions compare by their cross products; of equals the first is taken.
        lacking
            .reduce(|best, next| {
                let (of_best, of_next) =
                    (u64::from(best.1) * u64::from(next.2), u64::from(next.1) * u64::from(best.2));
                if of_next > of_best { next } else { best }
            })
            .map(|(index, ..)| index)
    }

    fn grant(&mut self, index: usize) {
        let worker_type = &mut self.types[index];
        worker_type.wanted += 1;
        worker_type.has = worker_type.has.max(worker_type.wanted);
        worker_type.granted = self.now;
        worker_type.note(self.now);
        self.counters.cold_starts += 1;
        if self.taken_back > 0 {
            self.taken_back -= 1;
            self.counters.switches += 1;
        }
    }

    /// Who gives a slot to a type that has none to come but so many.
    fn donor(&self, needy: usize, coming: u32) -> Option<usize> {
        let for_whom = &self.types[needy];
        let others =
            || self.types.iter().enumerate().filter(|(index, other)| *index != needy && other.wanted > 0);
        let idle = others()
            .filter(|(_, other)| other.tasks < other.wanted)
            .min_by_key(|(_, other)| other.spare_since.map(|(since, _)| since));
        if let Some((idle, _)) = idle {
            return Some(idle);
        }
        if coming > 0 {
            return None;
        }
        let most = others().max_by_key(|(_, other)| (other.wanted, std::cmp::Reverse(other.granted)));
        let (most_slots, donor) = most?;
        if donor.wanted > 1 && for_whom.is_much_more_loaded_than(donor) {
            return Some(most_slots);
        }
        // One that has a single slot keeps it for as long as another one waits.
        let has_had_it = donor.wanted > 1 || donor.granted + PATIENCE <= self.now;
        (for_whom.is_starved(self.now) && has_had_it).then_some(most_slots)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Now {
        Now { tick: Tick::from_nanos(millis * 1_000_000), ..Now::default() }
    }

    /// Slots whose workers end at once when they have no task.
    struct Manager {
        warm: WarmSlots,
        tasks: Vec<usize>,
    }

    impl Manager {
        fn new(slots: u32, types: usize, keep_alive: KeepAlive) -> Self {
            let mut warm = WarmSlots::new(slots, keep_alive);
            for _ in 0..types {
                warm.add_type();
            }
            Self { warm, tasks: vec![0; types] }
        }

        fn tasks(&mut self, index: usize, tasks: usize, millis: u64) -> Vec<u32> {
            self.tasks[index] = tasks;
            self.warm.handle_tasks(index, tasks, at(millis));
            self.settle(millis)
        }

        fn pass(&mut self, millis: u64) -> Vec<u32> {
            self.warm.handle_timeout(at(millis));
            self.settle(millis)
        }

        fn settle(&mut self, millis: u64) -> Vec<u32> {
            while let Some((index, slots)) = self.warm.poll_output() {
                self.warm.handle_size(index, slots, at(millis));
            }
            self.warm.warm().collect()
        }

        fn counted(&self) -> [u64; 3] {
            let WarmCounters { cold_starts, switches, retired } = self.warm.counters();
            [cold_starts, switches, retired]
        }
    }

    const LONG: KeepAlive = KeepAlive::Fixed(Duration::from_secs(3600));

    #[test]
    fn a_type_gets_the_slots_that_it_has_tasks_for() {
        let mut manager = Manager::new(4, 2, LONG);
        assert_eq!(manager.tasks(0, 1, 0), [1, 0]);
        assert_eq!(manager.tasks(0, 100, 1), [4, 0]);
        // They stay warm.
        assert_eq!(manager.tasks(0, 0, 2), [4, 0]);
        assert_eq!(manager.counted(), [4, 0, 0]);
    }

    #[test]
    fn a_warm_slot_without_a_task_goes_to_another_type_at_once() {
        let mut manager = Manager::new(4, 3, LONG);
        manager.tasks(0, 2, 0);
        manager.tasks(1, 2, 0);
        manager.tasks(0, 0, 1);
        manager.tasks(1, 0, 2);
        // The one that has been idle for longest goes first.
        assert_eq!(manager.tasks(2, 3, 3), [0, 1, 3]);
        assert_eq!(manager.counted(), [7, 3, 0]);
    }

    #[test]
    fn a_busy_type_gives_slots_only_to_one_with_much_more_to_do() {
        let mut manager = Manager::new(4, 2, LONG);
        manager.tasks(0, 20, 0);
        assert_eq!(manager.tasks(1, 9, 1), [4, 0]);
        // One at a time, as long as that leaves the other one with twice as many tasks for each slot.
        assert_eq!(manager.tasks(1, 40, 2), [2, 2]);
        assert_eq!(manager.tasks(1, 41, 3), [2, 2]);
        assert_eq!(manager.counted(), [6, 2, 0]);
    }

    #[test]
    fn a_type_without_a_slot_waits_for_one_no_longer_than_its_patience() {
        let mut manager = Manager::new(4, 2, LONG);
        manager.tasks(0, 1000, 0);
        assert_eq!(manager.tasks(1, 1, 1), [4, 0]);
        assert_eq!(manager.warm.poll_timeout(), Some(at(1001).tick));
        assert_eq!(manager.pass(1000), [4, 0]);
        assert_eq!(manager.pass(1001), [3, 1]);
        assert_eq!(manager.pass(5000), [3, 1]);
    }

    #[test]
    fn types_take_turns_if_there_are_more_of_them_than_slots() {
        let mut manager = Manager::new(1, 3, LONG);
        (0..3).for_each(|index| drop(manager.tasks(index, 100, 0)));
        let mut turns = Vec::new();
        for round in 1..=6 {
            // A task has ended, and another one has come.
            manager.tasks(0, 100 + round, 1100 * round as u64);
            let warm = manager.pass(1100 * round as u64);
            turns.push(warm.iter().position(|slots| *slots == 1).unwrap());
        }
        turns.dedup();
        assert!(turns.len() >= 5 && (0..3).all(|index| turns.contains(&index)), "{turns:?}");
    }

    #[test]
    fn what_is_not_needed_for_the_keep_alive_is_retired() {
        let mut manager = Manager::new(4, 2, KeepAlive::Fixed(Duration::from_millis(100)));
        manager.tasks(0, 4, 0);
        manager.tasks(0, 1, 10);
        manager.tasks(0, 2, 50);
        manager.tasks(0, 0, 60);
        assert_eq!(manager.pass(109), [4, 0]);
        // It has needed two of them since it needed four.
        assert_eq!(manager.pass(110), [2, 0]);
        assert_eq!(manager.pass(209), [2, 0]);
        assert_eq!(manager.pass(210), [0, 0]);
        assert_eq!(manager.counted(), [4, 0, 4]);
        assert_eq!(manager.warm.poll_timeout(), None);
    }

    #[test]
    fn what_another_type_has_taken_is_not_kept_for_this_one() {
        let mut manager = Manager::new(4, 2, KeepAlive::Fixed(Duration::from_millis(100)));
        manager.tasks(0, 4, 0);
        manager.tasks(0, 3, 10);
        manager.tasks(0, 0, 20);
        assert_eq!(manager.tasks(1, 2, 30), [2, 2]);
        // It has needed three since it needed four, but has two.
        assert_eq!(manager.pass(110), [2, 2]);
        assert_eq!(manager.pass(210), [0, 2]);
        assert_eq!(manager.counted(), [6, 2, 2]);
    }

    #[test]
    fn a_slot_is_not_given_before_its_worker_has_ended() {
        let mut warm = WarmSlots::new(2, LONG);
        warm.add_type();
        warm.add_type();
        warm.handle_tasks(0, 2, at(0));
        assert_eq!(warm.poll_output(), Some((0, 2)));
        warm.handle_tasks(0, 0, at(1));
        warm.handle_tasks(1, 1, at(1));
        assert_eq!((warm.poll_output(), warm.poll_output()), (Some((0, 1)), None));
        // Old news, from before it was told.
        warm.handle_size(0, 2, at(2));
        assert_eq!(warm.poll_output(), None);
        warm.handle_size(0, 1, at(3));
        assert_eq!((warm.poll_output(), warm.poll_output()), (Some((1, 1)), None));
        assert_eq!(warm.counters().switches, 1);
    }

    proptest! {
        /// Whatever happens: no slot is given twice, and who has tasks has a slot before long.
        #[test]
        fn nobody_starves_and_no_slot_is_given_twice(
            slots in 1..6u32,
            steps in proptest::collection::vec((0..4usize, 0..30usize, 0..400u64), 1..80),
        ) {
            let mut manager = Manager::new(slots, 4, KeepAlive::Learned);
            let mut now = 0;
            for (index, tasks, pause) in steps {
                now += pause;
                manager.pass(now);
                let warm = manager.tasks(index, tasks, now);
                prop_assert!(warm.iter().sum::<u32>() <= slots);
                let idle = warm.iter().zip(&manager.tasks).any(|(slots, tasks)| *slots as usize > *tasks);
                let lacks = warm.iter().zip(&manager.tasks).any(|(slots, tasks)| (*slots as usize) < *tasks);
                prop_assert!(!(idle && lacks), "a slot is idle while a task waits: {warm:?} {:?}", manager.tasks);
                prop_assert!(!lacks || warm.iter().sum::<u32>() == slots, "{warm:?} {:?}", manager.tasks);
            }
            let mut served = [false; 4];
            for _ in 0..20 {
                now += 1001;
                let warm = manager.pass(now);
                let first = manager.tasks[0];
                // Tasks end and others come.
                manager.tasks(0, first + 1, now);
                let again = manager.tasks(0, first, now);
                for index in 0..4 {
                    served[index] |= warm[index].max(again[index]) > 0 || manager.tasks[index] == 0;
                }
            }
            prop_assert_eq!(served, [true; 4]);
        }
    }
}
