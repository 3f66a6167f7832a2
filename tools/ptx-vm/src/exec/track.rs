//! Counters of the memory traffic of one instruction of a warp.

use super::access::At;
use super::state::State;
use crate::ast::Space;
use crate::touch::Touch;

/// Sectors and banks that one instruction of a warp touches.
#[derive(Default)]
pub(crate) struct Track {
    global: Vec<u64>,
    global_bytes: u64,
    shared: Vec<u64>,
    shared_bytes: u64,
    /// Ranges of global memory, with the lane that starts each
    runs: Vec<(u64, u64, usize)>,
}

impl Track {
    #[inline]
    pub fn add(&mut self, space: Space, at: At) {
        match space {
            Space::Global => {
                self.global_bytes += u64::from(at.bytes);
                let end = at.address.saturating_add(u64::from(at.bytes));
                match self.runs.last_mut() {
                    Some((_, last, _)) if *last == at.address => *last = end,
                    _ => self.runs.push((at.address, end, at.lane)),
                }
                let (first, last) = (at.address / 32, (end - 1) / 32);
                (first..=last).for_each(|s| {
                    if self.global.last() != Some(&s) {
                        self.global.push(s);
                    }
                });
            }
            Space::Shared => {
                self.shared_bytes += u64::from(at.bytes);
                let words = u64::from(at.bytes.div_ceil(4));
                (0..words).for_each(|k| self.shared.push(at.address / 4 + k));
            }
            _ => {}
        }
    }

    /// Adds the instruction to the counters and returns the lists for the next one.
    pub fn finish(mut self, warp: u32, line: u32, write: bool, state: &mut State) {
        if state.races {
            for &(start, end, lane) in &self.runs {
                let (warp, lane) = (warp as u16, lane as u16);
                state.touches.push(Touch { write, line, start, end, warp, lane, block: 0 });
            }
        }
        self.runs.clear();
        let counters = &mut state.counters;
        if !self.global.is_empty() {
            if !self.global.is_sorted() {
                self.global.sort_unstable();
            }
            self.global.dedup();
            counters.global_bytes += self.global_bytes;
            counters.global_bytes_moved += 32 * self.global.len() as u64;
        }
        if !self.shared.is_empty() {
            counters.shared_bytes += self.shared_bytes;
            counters.bank_conflicts += conflicts(&mut self.shared);
        }
        self.global.clear();
        self.shared.clear();
        (self.global_bytes, self.shared_bytes) = (0, 0);
        state.track = self;
    }
}

/// Number of different words of one bank that are distinguished without sorting.
const DEPTH: usize = 8;

/// Counts the passes over the banks beyond those that the amount of data needs.
fn conflicts(words: &mut Vec<u64>) -> u64 {
    let mut seen = [[0; DEPTH]; 32];
    let mut count = [0; 32];
    let mut distinct = 0u64;
    for &word in words.iter() {
        let bank = (word % 32) as usize;
        let known = count[bank];
        if seen[bank][..known].contains(&word) {
            continue;
        }
        if known == DEPTH {
            return many_conflicts(words);
        }
        seen[bank][known] = word;
        count[bank] = known + 1;
        distinct += 1;
    }
    let passes = count.iter().max().copied().unwrap_or(0) as u64;
    passes.saturating_sub(distinct.div_ceil(32))
}

#[cold]
fn many_conflicts(words: &mut Vec<u64>) -> u64 {
    words.sort_unstable();
    words.dedup();
    let mut banks = [0u64; 32];
    words.iter().for_each(|w| banks[(w % 32) as usize] += 1);
    let passes = banks.iter().max().copied().unwrap_or(0);
    passes.saturating_sub((words.len() as u64).div_ceil(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_passes_beyond_the_least() {
        let of = |f: fn(u64) -> u64| conflicts(&mut (0..32).map(f).collect());
        assert_eq!(of(|lane| lane), 0);
        assert_eq!(of(|_| 5), 0);
        assert_eq!(of(|lane| 2 * lane), 1);
        assert_eq!(of(|lane| 32 * lane), 31);
        assert_eq!(of(|lane| 8 * lane), 7);
        // Vectors of four need four passes in any case.
        assert_eq!(conflicts(&mut (0..128).collect()), 0);
    }
}
