//! Order of the samples.

use dressage_engine::Philox;

/// Purpose of the generator for shuffling.
const PURPOSE: u32 = 0x5348_5546;

/// Endless stream of random permutations of `0..n`, a new one for each pass. Each sample comes once
/// per pass (spec training-and-data §1.1). The order of a pass depends on seed and pass only, so
/// any position can be requested.
#[derive(Debug, Clone)]
pub struct Sampler {
    seed: u64,
    n: usize,
    /// The pass whose permutation is stored.
    pass: Option<u64>,
    order: Vec<u32>,
}

impl Sampler {
    /// A stream over `n` samples (at least 1).
    pub fn new(seed: u64, n: usize) -> Self {
        Self { seed, n: n.max(1), pass: None, order: Vec::new() }
    }

    /// Sample at `position` of the stream.
    pub fn at(&mut self, position: u64) -> usize {
        let n = self.n as u64;
        let pass = position / n;
        if self.pass != Some(pass) {
            self.order = permutation(self.seed, pass, self.n);
            self.pass = Some(pass);
        }
        self.order[(position % n) as usize] as usize
    }
}

/// Fisher-Yates shuffle from the top.
fn permutation(seed: u64, pass: u64, n: usize) -> Vec<u32> {
    let mut random = Philox::new(seed, PURPOSE, pass, 0);
    let mut order: Vec<u32> = (0..n as u32).collect();
    for k in (1..n).rev() {
        order.swap(k, random.below(k as u32 + 1) as usize);
    }
    order
}
