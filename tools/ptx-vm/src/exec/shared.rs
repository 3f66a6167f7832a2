//! Shared memory of a block, with a shadow that finds races.
//!
//! Each word stores its last write and the reads since. Accesses by different warps are ordered
//! only by barriers that both warps take part in; a vector clock per warp follows these. Accesses
//! by two lanes of one warp are ordered only by `bar.warp.sync` or a barrier (shuffles and votes
//! order nothing in memory). After an access to a part of a word, its marks are stored per byte: in
//! many kernels neighbouring 16-bit values belong to different threads.

use super::Launched;
use super::warp::lanes;

/// Maximum number of warps of a block.
const WARPS: usize = 32;

/// The lane and instruction of an access to shared memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who {
    pub warp: u32,
    pub lane: usize,
    /// Synchronisations that the warp has passed
    pub syncs: u32,
    /// Line of the instruction
    pub line: u32,
}

/// Kind of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Read,
    Write,
    /// A write of the value that is there already: harmless together with another write
    WriteSame,
    Atomic,
}

/// The earlier access of a race.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conflict {
    pub warp: u32,
    pub lane: usize,
    pub line: u32,
    pub wrote: bool,
    pub address: u64,
}

/// The last accesses to a word or byte. Time 0 is before the block.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    write_time: u32,
    write_syncs: u32,
    write_line: u32,
    write_warp: u8,
    write_lane: u8,
    write_atomic: bool,
    read_warp: u8,
    read_time: u32,
    read_syncs: u32,
    read_line: u32,
    /// Lanes of the warp that read last
    read_lanes: u32,
    /// Warps that have read since the last write
    read_warps: u32,
}

/// Shared memory and its marks.
pub(crate) struct Shared {
    pub bytes: Vec<u8>,
    /// Bytes that were written
    pub written: Vec<bool>,
    /// Copies in flight to each byte
    pub in_flight: Vec<u8>,
    marks: Vec<Mark>,
    /// Index plus one into `parts`, for words with marks per byte
    split: Vec<u32>,
    parts: Vec<[Mark; 4]>,
    /// Barriers passed in the block, plus one
    time: u32,
    /// `clocks[w][v]`: accesses of warp v before this time happened before the current ones of warp
    /// w
    clocks: Vec<[u32; WARPS]>,
    exited: u32,
}

impl Shared {
    pub fn new(launched: &Launched) -> Self {
        let size = launched.program.shared_bytes as usize + launched.dynamic_shared as usize;
        let words = size.div_ceil(4);
        Self {
            bytes: vec![0; size],
            written: vec![false; size],
            in_flight: vec![0; size],
            marks: vec![Mark::default(); words],
            split: vec![0; words],
            parts: Vec::new(),
            time: 1,
            clocks: vec![[0; WARPS]; WARPS],
            exited: 0,
        }
    }

    pub fn start(&mut self) {
        self.bytes.fill(0xFF);
        self.written.fill(false);
        self.in_flight.fill(0);
        self.marks.fill(Mark::default());
        self.split.fill(0);
        self.parts.clear();
        self.time = 1;
        self.clocks.fill([0; WARPS]);
        self.exited = 0;
    }

    /// Synchronises the warps of a mask at a barrier. Warps that have ended count as arrived.
    pub fn synchronise(&mut self, warps: u32) {
        self.time += 1;
        let all = warps | self.exited;
        let mut merged = [0; WARPS];
        for w in lanes(all) {
            for (to, &from) in merged.iter_mut().zip(&self.clocks[w]) {
                *to = from.max(*to);
            }
        }
        lanes(all).for_each(|w| merged[w] = self.time);
        lanes(all).for_each(|w| self.clocks[w] = merged);
    }

    /// Records that a warp has ended.
    pub fn exit(&mut self, warp: usize) {
        self.exited |= 1 << warp;
    }

    /// Records an access and returns the first conflict with an earlier one.
    pub fn access(&mut self, who: Who, from: usize, bytes: usize, how: How) -> Option<Conflict> {
        let mut found = None;
        let mut at = from;
        while at < from + bytes {
            let (word, first) = (at / 4, at % 4);
            let count = (4 - first).min(from + bytes - at);
            let part = if self.parts.is_empty() { 0 } else { self.split[word] };
            let conflict = if count == 4 && part == 0 {
                note(&mut self.marks[word], who, how, self.time, &self.clocks)
            } else {
                self.access_part(who, word, first, count, how)
            };
            if let (Some((warp, lane, line, wrote)), None) = (conflict, found) {
                found = Some(Conflict { warp, lane, line, wrote, address: at as u64 });
            }
            at += count;
        }
        found
    }

    fn access_part(
        &mut self,
        who: Who,
        word: usize,
        first: usize,
        count: usize,
        how: How,
    ) -> Option<(u32, usize, u32, bool)> {
        if self.split[word] == 0 {
            self.parts.push([self.marks[word]; 4]);
            self.split[word] = self.parts.len() as u32;
        }
        let parts = &mut self.parts[self.split[word] as usize - 1];
        let mut found = None;
        for mark in &mut parts[first..first + count] {
            found = found.or(note(mark, who, how, self.time, &self.clocks));
        }
        found
    }
}

/// Checks an access against the mark, then records it there.
#[inline(always)]
fn note(
    mark: &mut Mark,
    who: Who,
    how: How,
    time: u32,
    clocks: &[[u32; WARPS]],
) -> Option<(u32, usize, u32, bool)> {
    let clock = &clocks[who.warp as usize];
    let mut found = None;
    let both_atomic = how == How::Atomic && mark.write_atomic;
    if mark.write_time != 0 && !both_atomic && how != How::WriteSame {
        let warp = u32::from(mark.write_warp);
        let unordered = if warp == who.warp {
            usize::from(mark.write_lane) != who.lane && mark.write_syncs == who.syncs
        } else {
            mark.write_time >= clock[warp as usize]
        };
        if unordered {
            found = Some((warp, usize::from(mark.write_lane), mark.write_line, true));
        }
    }
    if how == How::Read {
        remember_read(mark, who, time, clock);
        return found;
    }
    if mark.read_warps != 0 && found.is_none() {
        found = earlier_read(mark, who, clock);
    }
    mark.write_time = time;
    mark.write_syncs = who.syncs;
    mark.write_line = who.line;
    mark.write_warp = who.warp as u8;
    mark.write_lane = who.lane as u8;
    mark.write_atomic = how == How::Atomic;
    mark.read_warps = 0;
    mark.read_lanes = 0;
    found
}

/// Finds an earlier read that is not ordered before the current write.
fn earlier_read(mark: &Mark, who: Who, clock: &[u32; WARPS]) -> Option<(u32, usize, u32, bool)> {
    let others = mark.read_warps & !(1 << who.warp);
    for warp in lanes(others) {
        if mark.read_time >= clock[warp] {
            let lane = if warp == usize::from(mark.read_warp) {
                mark.read_lanes.trailing_zeros() as usize % 32
            } else {
                0
            };
            return Some((warp as u32, lane, mark.read_line, false));
        }
    }
    let own = u32::from(mark.read_warp) == who.warp && mark.read_syncs == who.syncs;
    let other_lanes = mark.read_lanes & !(1 << who.lane);
    if own && other_lanes != 0 {
        let lane = other_lanes.trailing_zeros() as usize;
        return Some((who.warp, lane, mark.read_line, false));
    }
    None
}

fn remember_read(mark: &mut Mark, who: Who, time: u32, clock: &[u32; WARPS]) {
    let me = 1u32 << who.warp;
    if mark.read_time != time {
        // Earlier reads that happened before this one need not be kept. The others keep the
        // smallest of their times: this may hide a race but never invents one.
        let readers = mark.read_warps & !me;
        let ordered = lanes(readers).all(|v| mark.read_time < clock[v]);
        if ordered {
            mark.read_warps = 0;
            mark.read_time = time;
        } else {
            mark.read_time = mark.read_time.min(time);
        }
        mark.read_lanes = 0;
    }
    if u32::from(mark.read_warp) != who.warp || mark.read_syncs != who.syncs {
        mark.read_lanes = 0;
    }
    mark.read_warps |= me;
    mark.read_warp = who.warp as u8;
    mark.read_syncs = who.syncs;
    mark.read_line = who.line;
    mark.read_lanes |= 1 << who.lane;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(bytes: usize) -> Shared {
        let words = bytes / 4;
        Shared {
            bytes: vec![0; bytes],
            written: vec![false; bytes],
            in_flight: vec![0; bytes],
            marks: vec![Mark::default(); words],
            split: vec![0; words],
            parts: Vec::new(),
            time: 1,
            clocks: vec![[0; WARPS]; WARPS],
            exited: 0,
        }
    }

    fn who(warp: u32, lane: usize, syncs: u32) -> Who {
        Who { warp, lane, syncs, line: 1 }
    }

    #[test]
    fn a_barrier_orders_the_warps_that_meet_at_it_and_no_others() {
        let mut s = shared(64);
        assert!(s.access(who(0, 0, 0), 0, 4, How::Write).is_none());
        s.synchronise(0b011);
        assert!(s.access(who(1, 0, 1), 0, 4, How::Read).is_none());
        let conflict = s.access(who(2, 5, 0), 0, 4, How::Read).expect("warp 2 was not there");
        assert_eq!((conflict.warp, conflict.wrote), (0, true));
    }

    #[test]
    fn order_is_passed_on_from_barrier_to_barrier() {
        let mut s = shared(64);
        assert!(s.access(who(0, 0, 0), 0, 4, How::Write).is_none());
        s.synchronise(0b011);
        s.synchronise(0b110);
        assert!(s.access(who(2, 0, 1), 0, 4, How::Write).is_none());
    }

    #[test]
    fn a_write_after_an_unordered_read_is_found() {
        let mut s = shared(64);
        assert!(s.access(who(0, 3, 0), 8, 16, How::Read).is_none());
        assert!(s.access(who(1, 0, 0), 12, 4, How::Write).is_some_and(|c| !c.wrote));
    }

    #[test]
    fn lanes_of_a_warp_are_ordered_by_its_synchronisations() {
        let mut s = shared(64);
        assert!(s.access(who(0, 0, 0), 0, 4, How::Write).is_none());
        assert!(s.access(who(0, 0, 0), 0, 4, How::Read).is_none());
        assert!(s.access(who(0, 1, 1), 0, 4, How::Read).is_none());
        assert!(s.access(who(0, 2, 0), 0, 4, How::Read).is_some());
    }

    #[test]
    fn halves_of_a_word_are_apart() {
        let mut s = shared(64);
        assert!(s.access(who(0, 0, 0), 0, 2, How::Write).is_none());
        assert!(s.access(who(1, 0, 0), 2, 2, How::Write).is_none());
        assert!(s.access(who(1, 0, 0), 0, 4, How::Read).is_some());
    }

    #[test]
    fn atomics_do_not_race_with_atomics() {
        let mut s = shared(64);
        assert!(s.access(who(0, 0, 0), 0, 4, How::Atomic).is_none());
        assert!(s.access(who(1, 0, 0), 0, 4, How::Atomic).is_none());
        assert!(s.access(who(2, 0, 0), 0, 4, How::Read).is_some());
    }

    #[test]
    fn equal_writes_are_harmless_but_not_next_to_a_read() {
        let mut s = shared(64);
        assert!(s.access(who(0, 0, 0), 0, 4, How::Write).is_none());
        assert!(s.access(who(1, 0, 0), 0, 4, How::WriteSame).is_none());
        assert!(s.access(who(2, 0, 0), 4, 4, How::Read).is_none());
        assert!(s.access(who(1, 0, 0), 4, 4, How::WriteSame).is_some());
    }
}
