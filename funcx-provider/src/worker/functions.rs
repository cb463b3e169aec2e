//! The functions that the workers of one pool know, and how long their tasks take.

use std::{collections::HashMap, sync::Arc};

use funcx_core::model::{Function, FunctionHash};
use slab::Slab;

/// Expected time of the tasks that one worker is given ahead. It covers the way from a finished task to the next batch
/// (well under a millisecond) many times, and is as long as a short task can be held up by the one before it.
pub(super) const PIPELINE_NANOS: u64 = 10_000_000;
/// Most tasks that one worker is given ahead, however short they are.
pub(super) const MAX_DEPTH: u64 = 2048;
/// The weight of one more measurement is one in this many.
const MEMORY: u64 = 8;
/// A task that took longer counts as this long; it is far beyond [`PIPELINE_NANOS`] anyway.
const LONGEST_NANOS: u64 = 3600 * 1_000_000_000;

/// Mean time of recent tasks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MeanTime(Option<u64>);

impl MeanTime {
    pub(super) fn record(&mut self, nanos: u64) {
        let nanos = nanos.min(LONGEST_NANOS);
        self.0 = Some(self.0.map_or(nanos, |mean| mean - mean / MEMORY + nanos / MEMORY));
    }

    /// Share of [`PIPELINE_NANOS`] that one task takes. While nothing is known it is all of it: nobody should wait
    /// behind a task that may take hours, and the first outcome tells soon enough if it is short.
    pub(super) fn cost(self) -> u64 {
        self.0.map_or(PIPELINE_NANOS, |mean| mean.clamp(PIPELINE_NANOS / MAX_DEPTH, PIPELINE_NANOS))
    }

    /// Tasks that fill a pipeline.
    pub(super) fn depth(self) -> u64 {
        PIPELINE_NANOS / self.cost()
    }
}

/// Functions by a small number that stands for them in frames.
#[derive(Debug)]
pub(super) struct FunctionTable {
    known: Slab<Known>,
    numbers: HashMap<FunctionHash, u32>,
    /// The one that got a task last: most tasks come in batches of one function, whose hash need not be looked up then.
    latest: Option<u32>,
    limit: usize,
    uses: u64,
}

#[derive(Debug)]
struct Known {
    function: Arc<Function>,
    /// Of tasks that call it once, and of those that call it many times.
    means: [MeanTime; 2],
    tasks: usize,
    last_use: u64,
}

impl FunctionTable {
    /// A table that forgets functions without tasks when it holds more than `limit`.
    pub(super) fn new(limit: usize) -> Self {
        Self { known: Slab::new(), numbers: HashMap::new(), latest: None, limit, uses: 0 }
    }

    /// Counts one more task of `function`. Returns the number of the function, and the one that had to be forgotten
    /// for it, which may be the same number.
    pub(super) fn add_task(&mut self, function: &Arc<Function>) -> (u32, Option<u32>) {
        self.uses += 1;
        let is_latest = |number: &u32| Arc::ptr_eq(&self.known[*number as usize].function, function);
        let number = self.latest.filter(is_latest).or_else(|| self.numbers.get(&function.hash()).copied());
        if let Some(number) = number {
            let known = &mut self.known[number as usize];
            known.tasks += 1;
            known.last_use = self.uses;
            self.latest = Some(number);
            return (number, None);
        }
        let forgotten = if self.known.len() >= self.limit { self.forget_oldest() } else { None };
        let known = Known {
            function: Arc::clone(function),
            means: Default::default(),
            tasks: 1,
            last_use: self.uses,
        };
        let number = self.known.insert(known) as u32;
        self.numbers.insert(function.hash(), number);
        self.latest = Some(number);
        (number, forgotten)
    }

    pub(super) fn end_task(&mut self, number: u32) {
        self.known[number as usize].tasks -= 1;
    }

    pub(super) fn function(&self, number: u32) -> &Function {
        &self.known[number as usize].function
    }

    /// The mean of tasks that call the function once, or of those that map it over many arguments.
    pub(super) fn mean_mut(&mut self, number: u32, map: bool) -> &mut MeanTime {
        &mut self.known[number as usize].means[usize::from(map)]
    }

    pub(super) fn cost(&self, number: u32, map: bool) -> u64 {
        self.known[number as usize].means[usize::from(map)].cost()
    }

    /// A table whose every function has tasks grows instead; the tasks that a pool holds are bounded.
    fn forget_oldest(&mut self) -> Option<u32> {
        let idle = self.known.iter().filter(|(_, known)| known.tasks == 0);
        let number = idle.min_by_key(|(_, known)| known.last_use).map(|(number, _)| number)?;
        let known = self.known.remove(number);
        self.latest = None;
        self.numbers.remove(&known.function.hash());
        Some(number as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_follows_the_mean_between_its_bounds() {
        let mut mean = MeanTime::default();
        assert_eq!(mean.depth(), 1);
        for (nanos, depth) in [(1, 2048), (100_000, 100), (60 * 1_000_000_000, 1)] {
            for _ in 0..200 {
                mean.record(nanos);
            }
            assert!(mean.depth().abs_diff(depth) <= depth / 50, "{} for {nanos} ns", mean.depth());
        }
        mean.record(u64::MAX);
        assert_eq!(mean.depth(), 1);
    }

    #[test]
    fn the_oldest_function_without_tasks_makes_room() {
        let functions = ["a", "b", "c", "d"].map(|name| Arc::new(Function::python(name, "")));
        let mut table = FunctionTable::new(2);
        assert_eq!(table.add_task(&functions[0]), (0, None));
        assert_eq!(table.add_task(&functions[1]), (1, None));
        assert_eq!(table.add_task(&functions[0]), (0, None));
        // Both are in use: the table grows.
        assert_eq!(table.add_task(&functions[2]), (2, None));
        table.end_task(1);
        assert_eq!(table.add_task(&functions[3]), (1, Some(1)));
        assert_eq!(table.function(1).body().entry, "d");
    }
}
