//! Philox 4x32-10: random numbers that are a pure function of seed, purpose, sample and step.
//!
//! The key of a generator is (seed, purpose), its counter starts from (sample, step). Two draws
//! with the same key and counter are always equal, so results do not depend on threads, on
//! resuming, or on the order of work. Source: Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011.

/// Stream of random numbers.
#[derive(Debug, Clone)]
pub struct Philox {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

/// Key and first sample of the streams of a launch. Mirrors `Stream` in `philox.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(in crate::ops) struct Stream {
    key: [u32; 2],
    sample: [u32; 2],
}

impl Stream {
    /// Streams for `purpose` under `seed`, from sample `first` on.
    pub fn of(seed: u64, purpose: u32, first: u64) -> Stream {
        let sample = [first as u32, (first >> 32) as u32];
        Stream { key: Philox::key(seed, purpose), sample }
    }
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Computes the ten rounds of Philox.
#[inline]
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

impl Philox {
    /// Stream for `purpose` (a constant of the caller) at (`sample`, `step`) under `seed`. Streams
    /// of 2^24 blocks do not overlap for samples below 2^40 and steps below 2^32.
    pub fn new(seed: u64, purpose: u32, sample: u64, step: u64) -> Philox {
        let counter = [0, (sample << 8) as u32, (sample >> 24) as u32, step as u32];
        Philox { key: Self::key(seed, purpose), counter, block: [0; 4], used: 4 }
    }

    /// Key of all streams for `purpose` under `seed`.
    fn key(seed: u64, purpose: u32) -> [u32; 2] {
        // One block mixes in the high word of the seed, so that all 64 bits matter.
        let mixed =
            philox([seed as u32, (seed >> 32) as u32, purpose, 0], [0x4452_4553, 0x5341_4745]);
        [mixed[0], mixed[1]]
    }

    /// Skips the first `n` numbers of a stream from which nothing was drawn yet.
    pub(in crate::ops) fn skip(&mut self, n: u64) {
        let block = n / 4;
        self.counter[0] = block as u32;
        self.counter[1] = self.counter[1].wrapping_add((block >> 32) as u32);
        for _ in 0..n % 4 {
            self.next_u32();
        }
    }

    /// Draws 32 random bits.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            if self.counter[0] == 0 {
                self.counter[1] = self.counter[1].wrapping_add(1);
            }
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Draws a uniform number in [0, 1) with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let bits = (u64::from(self.next_u32()) << 32) | u64::from(self.next_u32());
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Draws a uniform number in [0, 1) with 24 bits; one draw.
    #[inline]
    pub fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / (1u32 << 24) as f32
    }

    /// Draws a uniform integer in [0, n); 0 for n = 0. Unbiased (rejection).
    pub fn below(&mut self, n: u32) -> u32 {
        if n == 0 {
            return 0;
        }
        let zone = u32::MAX - (u32::MAX - n + 1) % n;
        loop {
            let x = self.next_u32();
            if x <= zone {
                return x % n;
            }
        }
    }

    /// Flips a fair coin.
    pub fn coin(&mut self) -> bool {
        self.next_u32() & 1 == 1
    }

    /// Draws a standard normal number (Box-Muller, cosine branch).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Stable 64-bit hash of a name (FNV-1a), used as the key of a stream.
pub fn hash_name(name: &str) -> u64 {
    name.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]
        );
        assert_eq!(
            philox(
                [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344],
                [0xA409_3822, 0x299F_31D0]
            ),
            [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1]
        );
    }

    #[test]
    fn streams_differ_by_every_part_of_their_key() {
        let first = |s, p, a, t| Philox::new(s, p, a, t).next_u32();
        let base = first(1, 2, 3, 4);
        for other in [first(2, 2, 3, 4), first(1, 3, 3, 4), first(1, 2, 4, 4), first(1, 2, 3, 5)] {
            assert_ne!(base, other);
        }
        assert_ne!(base, first(1 | 1 << 40, 2, 3, 4));
    }

    #[test]
    fn moments_are_right() {
        let mut r = Philox::new(7, 0, 0, 0);
        let n = 100_000;
        let (mut sum, mut squares, mut hits) = (0.0, 0.0, [0; 5]);
        for _ in 0..n {
            let x = r.normal();
            sum += x;
            squares += x * x;
            hits[r.below(5) as usize] += 1;
        }
        assert!((sum / f64::from(n)).abs() < 0.02);
        assert!((squares / f64::from(n) - 1.0).abs() < 0.02);
        assert!(hits.iter().all(|&h| (f64::from(h) / f64::from(n) - 0.2).abs() < 0.01));
    }
}
