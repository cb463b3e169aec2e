//! How many blocks an endpoint asks for, and when it stops asking.

use std::{collections::BTreeMap, time::Duration};

use crate::model::{BlockId, Tick};

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPolicy {
    /// Blocks asked for at start.
    pub init_blocks: u32,
    /// Blocks kept even when there is nothing to do.
    pub min_blocks: u32,
    /// Blocks at most.
    pub max_blocks: u32,
    /// Worker slots that one block brings.
    pub slots_per_block: u32,
    /// A block beyond `min_blocks` that had nothing to do for this long is given back.
    pub idle: Duration,
    /// Blocks that may die in a row before they register, until no more are asked for.
    pub breaker: u32,
    /// First pause after a block died before it registered; doubles each time.
    pub pause: Duration,
}

impl Default for BlockPolicy {
    fn default() -> Self {
        Self {
            init_blocks: 1,
            min_blocks: 1,
            max_blocks: 1,
            slots_per_block: 1,
            idle: Duration::from_secs(120),
            breaker: 5,
            pause: Duration::from_millis(200),
        }
    }
}

/// What happened to a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockEvent {
    /// Its manager has registered.
    Registered,
    /// It ended, for this reason.
    Ended(String),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockOutput {
    /// Ask the provider for a block.
    Submit(BlockId),
    /// Give a block back.
    Cancel(BlockId),
    /// Too many blocks died before they registered; nothing more is asked for. Tell the operator why.
    Tripped {
        /// How many in a row.
        blocks: u32,
        /// Why the last one died.
        reason: String,
    },
}

/// Decides about blocks from the load. A block that dies before it registers is asked for again after a pause that
/// doubles, and after several in a row not at all.
#[derive(Debug)]
pub struct BlockScaling {
    policy: BlockPolicy,
    blocks: BTreeMap<BlockId, Block>,
    next: u32,
    failures: u32,
    retry_at: Tick,
    tripped: Option<String>,
    announced: bool,
    started: bool,
    idle_since: Option<Tick>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Asked,
    Registered,
    Leaving,
}

impl BlockScaling {
    /// No blocks yet.
    pub const fn new(policy: BlockPolicy) -> Self {
        Self {
            policy,
            blocks: BTreeMap::new(),
            next: 0,
            failures: 0,
            retry_at: Tick::ZERO,
            tripped: None,
            announced: false,
            started: false,
            idle_since: None,
        }
    }

    /// Something happened to a block.
    pub fn handle_event(&mut self, block: BlockId, event: BlockEvent, now: Tick) {
        let Some(state) = self.blocks.get_mut(&block) else { return };
        match event {
            BlockEvent::Registered => {
                if *state == Block::Asked {
                    *state = Block::Registered;
                }
                self.failures = 0;
            }
            BlockEvent::Ended(reason) => {
                let died_young = *state == Block::Asked;
                self.blocks.remove(&block);
                if died_young {
                    self.failures += 1;
                    self.retry_at =
                        now + self.policy.pause.saturating_mul(1 << self.failures.min(10).saturating_sub(1));
                    if self.failures >= self.policy.breaker {
                        self.tripped = Some(reason);
                    }
                }
            }
        }
    }

    /// The load now: `outstanding` tasks wait or run. Returns what to do.
    pub fn handle_load(&mut self, outstanding: usize, now: Tick) -> Vec<BlockOutput> {
        let mut outputs = Vec::new();
        if let Some(reason) = &self.tripped {
            if !std::mem::replace(&mut self.announced, true) {
                outputs.push(BlockOutput::Tripped { blocks: self.failures, reason: reason.clone() });
            }
            return outputs;
        }
        if self.retry_at > now {
            return outputs;
        }
        let policy = self.policy;
        let needed =
            u32::try_from(outstanding.div_ceil(policy.slots_per_block.max(1) as usize)).unwrap_or(u32::MAX);
        let floor = if self.started { policy.min_blocks } else { policy.min_blocks.max(policy.init_blocks) };
        let wanted = needed.clamp(floor.min(policy.max_blocks), policy.max_blocks);
        self.started = true;
        let mut active = self.blocks.values().filter(|state| **state != Block::Leaving).count() as u32;
        while active < wanted {
            let block = BlockId(self.next);
            self.next += 1;
            self.blocks.insert(block, Block::Asked);
            outputs.push(BlockOutput::Submit(block));
            active += 1;
        }
        if outstanding > 0 || active <= policy.min_blocks {
            self.idle_since = None;
        } else if now.since(*self.idle_since.get_or_insert(now)) >= policy.idle {
            for (block, state) in
                self.blocks.iter_mut().rev().filter(|(_, state)| **state == Block::Registered)
            {
                if active <= policy.min_blocks {
                    break;
                }
                *state = Block::Leaving;
                active -= 1;
                outputs.push(BlockOutput::Cancel(*block));
            }
        }
        outputs
    }

    /// When to call [`handle_load`](Self::handle_load) although the load has not changed, and why.
    pub fn poll_timeout(&self, now: Tick) -> Option<(Tick, &'static str)> {
        let retry = (self.tripped.is_none() && self.retry_at > now).then_some((self.retry_at, "block retry"));
        let idle = self.idle_since.map(|since| (since + self.policy.idle, "idle block"));
        retry.into_iter().chain(idle).min()
    }

    /// Why no more blocks are asked for, if that is so.
    pub fn tripped(&self) -> Option<&str> {
        self.tripped.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Tick {
        Tick::from_nanos(seconds * 1_000_000_000)
    }

    fn submits(outputs: &[BlockOutput]) -> Vec<u32> {
        outputs
            .iter()
            .filter_map(|output| if let BlockOutput::Submit(block) = output { Some(block.0) } else { None })
            .collect()
    }

    #[test]
    fn blocks_follow_the_load_between_the_bounds() {
        let policy = BlockPolicy {
            min_blocks: 0,
            init_blocks: 0,
            max_blocks: 3,
            slots_per_block: 10,
            ..Default::default()
        };
        let mut scaling = BlockScaling::new(policy);
        assert_eq!(submits(&scaling.handle_load(0, at(0))), [] as [u32; 0]);
        assert_eq!(submits(&scaling.handle_load(11, at(1))), [0, 1]);
        assert_eq!(submits(&scaling.handle_load(1000, at(2))), [2]);
        for block in 0..3 {
            scaling.handle_event(BlockId(block), BlockEvent::Registered, at(3));
        }
        assert_eq!(scaling.handle_load(0, at(10)), []);
        assert_eq!(scaling.poll_timeout(at(10)), Some((at(130), "idle block")));
        assert_eq!(
            scaling.handle_load(0, at(130)),
            [2, 1, 0].map(|block| BlockOutput::Cancel(BlockId(block)))
        );
    }

    #[test]
    fn blocks_that_die_young_trip_the_breaker_with_the_last_reason() {
        let mut scaling = BlockScaling::new(BlockPolicy { breaker: 2, ..Default::default() });
        assert_eq!(submits(&scaling.handle_load(0, at(0))), [0]);
        scaling.handle_event(BlockId(0), BlockEvent::Ended("no python".into()), at(0));
        assert_eq!(scaling.handle_load(0, at(0)), [], "it pauses first");
        assert_eq!(submits(&scaling.handle_load(0, at(1))), [1]);
        scaling.handle_event(BlockId(1), BlockEvent::Ended("no python 3".into()), at(1));
        assert_eq!(
            scaling.handle_load(0, at(60)),
            [BlockOutput::Tripped { blocks: 2, reason: "no python 3".into() }]
        );
        assert_eq!(scaling.handle_load(0, at(61)), [], "it is said once");
        assert_eq!(scaling.tripped(), Some("no python 3"));
    }

    #[test]
    fn a_block_that_ran_is_replaced_at_once() {
        let mut scaling = BlockScaling::new(BlockPolicy::default());
        scaling.handle_load(0, at(0));
        scaling.handle_event(BlockId(0), BlockEvent::Registered, at(1));
        scaling.handle_event(BlockId(0), BlockEvent::Ended("killed".into()), at(2));
        assert_eq!(submits(&scaling.handle_load(0, at(2))), [1]);
    }
}
