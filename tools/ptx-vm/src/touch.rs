//! Races between blocks, found by comparing the global bytes that each block read and wrote.
//!
//! Blocks of a launch run in any order. So a byte that one block writes and another one reads or
//! writes is a fault unless atomics order the accesses. The comparison runs after the launch and
//! needs only the touched bytes, not the time, so its result is the same for any schedule. Kernels
//! with atomics on global memory are excluded: an atomic ticket may order accesses that look
//! unordered here.

/// Number of ranges of one block before they are sorted and joined.
const COMPACT: usize = 1 << 14;
/// Maximum number of compared pairs; only a kernel full of races reaches it.
const MAX_PAIRS: usize = 1 << 22;
/// Maximum number of reported races.
const MAX_RACES: usize = 8;

/// A range of global memory that one instruction of one block touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Touch {
    pub write: bool,
    /// Line of the instruction
    pub line: u32,
    pub start: u64,
    pub end: u64,
    /// First warp and lane seen
    pub warp: u16,
    pub lane: u16,
    /// Number of the block
    pub block: u32,
}

/// Ranges that one block touched.
#[derive(Debug, Default)]
pub(crate) struct Touches {
    list: Vec<Touch>,
    limit: usize,
}

impl Touches {
    pub fn push(&mut self, touch: Touch) {
        if let Some(last) = self.list.last_mut() {
            let same = last.line == touch.line && last.write == touch.write;
            if same && touch.start <= last.end && touch.start >= last.start {
                last.end = last.end.max(touch.end);
                return;
            }
        }
        self.list.push(touch);
        if self.list.len() >= self.limit.max(COMPACT) {
            self.list = compact(std::mem::take(&mut self.list));
            // A list that does not shrink is sorted less often.
            self.limit = 2 * self.list.len();
        }
    }

    /// Returns the ranges, sorted and joined, and clears the list.
    pub fn take(&mut self, block: u32) -> Vec<Touch> {
        let mut list = compact(std::mem::take(&mut self.list));
        list.iter_mut().for_each(|t| t.block = block);
        self.limit = 0;
        list
    }
}

/// Joins adjacent ranges of one instruction.
fn compact(mut list: Vec<Touch>) -> Vec<Touch> {
    list.sort_unstable();
    let mut out: Vec<Touch> = Vec::new();
    for touch in list {
        match out.last_mut() {
            Some(last)
                if last.line == touch.line
                    && last.write == touch.write
                    && touch.start <= last.end =>
            {
                last.end = last.end.max(touch.end);
            }
            _ => out.push(touch),
        }
    }
    out
}

/// Two touches of different blocks that share bytes, with the first byte of the second one.
pub(crate) struct Race {
    pub first: Touch,
    pub second: Touch,
    pub address: u64,
}

/// Finds the races among the touches of all blocks, one per pair of lines.
pub(crate) fn races(mut touches: Vec<Touch>) -> Vec<Race> {
    let key = |t: &Touch| (t.start, t.end, t.block, t.line, t.write);
    touches.sort_unstable_by_key(key);
    let written = union(touches.iter().filter(|t| t.write));
    touches.retain(|t| t.write || overlaps(&written, t));
    let mut active: Vec<Touch> = Vec::new();
    let mut out: Vec<Race> = Vec::new();
    let mut pairs = 0;
    for touch in touches {
        active.retain(|t| t.end > touch.start);
        for &other in &active {
            pairs += 1;
            let race = other.block != touch.block && (other.write || touch.write);
            if !race {
                continue;
            }
            let (first, second) = if other.write { (other, touch) } else { (touch, other) };
            let lines = (first.line, second.line);
            if !out.iter().any(|r| (r.first.line, r.second.line) == lines) {
                out.push(Race { first, second, address: touch.start });
            }
        }
        if out.len() >= MAX_RACES || pairs > MAX_PAIRS {
            break;
        }
        active.push(touch);
    }
    out
}

/// Joins sorted ranges.
fn union<'a>(sorted: impl Iterator<Item = &'a Touch>) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for touch in sorted {
        match out.last_mut() {
            Some((_, end)) if touch.start <= *end => *end = touch.end.max(*end),
            _ => out.push((touch.start, touch.end)),
        }
    }
    out
}

fn overlaps(union: &[(u64, u64)], touch: &Touch) -> bool {
    let next = union.partition_point(|&(_, end)| end <= touch.start);
    union.get(next).is_some_and(|&(start, _)| start < touch.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(block: u32, write: bool, start: u64, end: u64) -> Touch {
        Touch { write, line: 10 + u32::from(write), start, end, warp: 0, lane: 0, block }
    }

    #[test]
    fn stretches_of_an_instruction_join() {
        let mut touches = Touches::default();
        for k in [0u64, 2, 1, 4, 3, 9] {
            touches.push(touch(0, false, 128 * k, 128 * k + 128));
        }
        let list = touches.take(5);
        let ends: Vec<_> = list.iter().map(|t| (t.start, t.end, t.block)).collect();
        assert_eq!(ends, [(0, 640, 5), (1152, 1280, 5)]);
    }

    #[test]
    fn only_other_blocks_race_and_only_with_writes() {
        let fine = vec![
            touch(0, true, 0, 64),
            touch(0, false, 0, 64),
            touch(1, true, 64, 128),
            touch(1, false, 200, 300),
            touch(2, false, 200, 300),
        ];
        assert!(races(fine.clone()).is_empty());
        let mut bad = fine;
        bad.push(touch(2, false, 100, 104));
        let found = races(bad);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].first.block, found[0].second.block), (1, 2));
        assert_eq!(found[0].address, 100);
    }

    #[test]
    fn a_long_stretch_is_compared_with_all_that_lie_in_it() {
        let mut list = vec![touch(0, true, 0, 1000)];
        list.extend((1..5).map(|b| touch(b, false, 1000 + u64::from(b), 1100)));
        list.push(touch(7, false, 900, 904));
        assert_eq!(races(list).len(), 1);
    }
}
