//! The smallest plan that still goes wrong.

use super::{Plan, Step};

/// Runs that shrinking may take.
const RUNS: u32 = 3_000;

impl Plan {
    /// Leaves out steps, and then parts of the fabric, as long as something still goes wrong.
    ///
    /// It need not be the same thing: whatever goes wrong in a smaller plan is easier to understand.
    pub fn shrink(self) -> Self {
        let mut best = self;
        let mut runs = RUNS;
        let mut fails = |plan: &Self| {
            runs = runs.saturating_sub(1);
            runs > 0 && plan.run().is_err()
        };
        loop {
            let before = best.clone();
            best = without_steps(best, &mut fails);
            best = fewer_tasks(best, &mut fails);
            best = smaller_fabric(best, &mut fails);
            if best == before {
                return best;
            }
        }
    }
}

/// Leaves out steps, first many at once, then fewer (Zeller and Hildebrandt's `ddmin`, 2002).
fn without_steps(mut best: Plan, fails: &mut impl FnMut(&Plan) -> bool) -> Plan {
    let mut part = best.steps.len().div_ceil(2);
    while part > 0 {
        let mut first = 0;
        while first < best.steps.len() {
            let mut smaller = best.clone();
            smaller.steps.drain(first..(first + part).min(best.steps.len()));
            if fails(&smaller) {
                best = smaller;
            } else {
                first += part;
            }
        }
        part = if part == 1 { 0 } else { part.div_ceil(2) };
    }
    best
}

/// Submits and cancels fewer tasks at once.
fn fewer_tasks(mut best: Plan, fails: &mut impl FnMut(&Plan) -> bool) -> Plan {
    for index in 0..best.steps.len() {
        loop {
            let mut smaller = best.clone();
            let (Step::Submit { count, .. } | Step::Cancel { count, .. } | Step::Storm { times: count }) =
                &mut smaller.steps[index].1
            else {
                break;
            };
            let old = *count;
            *count = (old / 2).max(1);
            if *count == old || !fails(&smaller) {
                break;
            }
            best = smaller;
        }
    }
    best
}

/// Takes away what the remaining steps do not need.
fn smaller_fabric(mut best: Plan, fails: &mut impl FnMut(&Plan) -> bool) -> Plan {
    type Field = fn(&mut Plan) -> &mut u32;
    let fields: [(Field, u32); 10] = [
        (|plan| &mut plan.config.managers, 1),
        (|plan| &mut plan.config.workers, 1),
        (|plan| &mut plan.config.prefetch, 0),
        (|plan| &mut plan.config.queue_tasks, 0),
        (|plan| &mut plan.config.crashes_per_mille, 0),
        (|plan| &mut plan.config.environments, 0),
        (|plan| &mut plan.config.varied, 0),
        (|plan| &mut plan.config.journals, 0),
        (|plan| &mut plan.config.max_attempts, 1),
        (|plan| &mut plan.config.longest_task_millis, 1),
    ];
    for (field, least) in fields {
        loop {
            let mut smaller = best.clone();
            let value = field(&mut smaller);
            let old = *value;
            *value = (old / 2).max(least);
            if *value == old || !fails(&smaller) {
                break;
            }
            best = smaller;
        }
    }
    best
}
