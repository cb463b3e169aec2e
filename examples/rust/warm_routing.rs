//! Warm routing: 3,000 tasks of ten types on ten managers, whose workers take ten seconds to start, given to managers at random
//! and to managers that are warm for them. Under a virtual clock, with the real state machines, in some seconds.
//!
//! The set-up is the published one ("funcX: Federated Function as a Service for Science", TPDS 2022, 7.4), which found 60, 37, 24
//! and 10 % less time for tasks of 0, 1, 5 and 20 s, and about 1, 36, 23 and 21 switches. Its managers keep a worker without
//! tasks; ours give its slot to another type at once, so random routing costs them more. What a run says about two
//! policies is true of these managers only.

use std::time::Duration;

use funcx_core::conformance::warm_routing::{Routing, WarmRouting};

fn main() {
    println!("{:>8} {:>8} | {:>20} | {:>20} |", "duration", "prefetch", "random", "warm");
    println!(
        "{:>8} {:>8} | {:>10} {:>9} | {:>10} {:>9} | less time",
        "s", "tasks", "s", "switches", "s", "switches"
    );
    for seconds in [0, 1, 5, 20] {
        for prefetch in [0, 10] {
            let setup =
                WarmRouting { duration: Duration::from_secs(seconds), prefetch, ..WarmRouting::default() };
            let random = WarmRouting { routing: Routing::Random, ..setup }.run();
            let warm = setup.run();
            let time = |figures: Duration| figures.as_secs_f64();
            println!(
                "{seconds:>8} {prefetch:>8} | {:>10.1} {:>9} | {:>10.1} {:>9} | {:>6.0} %",
                time(random.completion),
                random.slots.switches,
                time(warm.completion),
                warm.slots.switches,
                100.0 * (1.0 - time(warm.completion) / time(random.completion)),
            );
            assert!(warm.completion < random.completion && warm.slots.switches < random.slots.switches);
        }
    }
}
