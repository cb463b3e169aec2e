//! Numbers that depend on a seed and on what they are for.

/// A stream of numbers from a seed (SplitMix64; Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`; 0 if the bound is 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        (self.next() % u64::from(bound.max(1))) as u32
    }

    /// A number in a range, both ends included; small ones as likely as large ones on a logarithmic scale, so that
    /// times come in milliseconds and in minutes.
    pub(super) fn spread(&mut self, least: u32, most: u32) -> u32 {
        let bits = self.below(32 - (most / least.max(1)).leading_zeros());
        least.saturating_add(self.below(least.max(1) << bits)).min(most)
    }
}

/// Numbers by name. Two runs that differ in one fault draw the same number for the same thing, so that leaving a fault
/// out changes no more than it has to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draw(u64);

impl Draw {
    pub(super) const fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x5851_f42d_4c95_7f2d))
    }

    /// The number for this thing.
    pub(super) const fn of(self, thing: u64, count: u64) -> u64 {
        mix(self.0 ^ mix(thing.wrapping_mul(0x2545_f491_4f6c_dd1d)).wrapping_add(count))
    }
}

const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
