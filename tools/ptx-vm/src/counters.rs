//! Counters of the work of a launch.

use crate::program::Class;

/// Instructions of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Instructions issued, one per warp.
    pub warp: u64,
    /// Lanes that executed them.
    pub thread: u64,
}

/// Counters of a launch: sums over blocks, so the same for any number of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Integer, logic, compare, select, convert, move.
    pub integer: Tally,
    /// Float arithmetic.
    pub float: Tally,
    /// Sine, exponential, reciprocal, square root, division.
    pub special: Tally,
    /// Branches and barriers.
    pub control: Tally,
    /// Loads, stores, copies, atomics.
    pub memory: Tally,
    /// Shuffles, votes, reductions inside a warp.
    pub warp: Tally,
    /// Matrix products.
    pub matrix: Tally,
    /// Bytes of global memory that lanes requested.
    pub global_bytes: u64,
    /// Bytes of global memory moved, in sectors of 32 bytes per warp and instruction.
    pub global_bytes_moved: u64,
    /// Bytes of shared memory that lanes requested.
    pub shared_bytes: u64,
    /// Extra passes over shared memory because lanes hit different words of one bank.
    pub bank_conflicts: u64,
    /// Barriers passed, one per warp.
    pub barriers: u64,
    /// Atomic operations, one per lane.
    pub atomics: u64,
}

impl Counters {
    fn tally(&mut self, class: Class) -> &mut Tally {
        match class {
            Class::Integer => &mut self.integer,
            Class::Float => &mut self.float,
            Class::Special => &mut self.special,
            Class::Control => &mut self.control,
            Class::Memory => &mut self.memory,
            Class::Warp => &mut self.warp,
            Class::Matrix => &mut self.matrix,
        }
    }

    /// Counts one instruction of a class, executed by some lanes.
    #[inline]
    pub(crate) fn count(&mut self, class: Class, lanes: u32) {
        let tally = self.tally(class);
        tally.warp += 1;
        tally.thread += u64::from(lanes);
    }

    /// Reverts [`Self::count`].
    pub(crate) fn uncount(&mut self, class: Class, lanes: u32) {
        let tally = self.tally(class);
        tally.warp -= 1;
        tally.thread -= u64::from(lanes);
    }

    fn tallies(&self) -> [Tally; 7] {
        [self.integer, self.float, self.special, self.control, self.memory, self.warp, self.matrix]
    }

    /// Returns the instructions of all classes over all lanes.
    pub fn thread_instructions(&self) -> u64 {
        self.tallies().iter().map(|t| t.thread).sum()
    }

    /// Returns the instructions of all classes, one per warp.
    pub fn warp_instructions(&self) -> u64 {
        self.tallies().iter().map(|t| t.warp).sum()
    }

    pub(crate) fn add(&mut self, other: &Counters) {
        let pairs = [
            (&mut self.integer, other.integer),
            (&mut self.float, other.float),
            (&mut self.special, other.special),
            (&mut self.control, other.control),
            (&mut self.memory, other.memory),
            (&mut self.warp, other.warp),
            (&mut self.matrix, other.matrix),
        ];
        for (sum, more) in pairs {
            sum.warp += more.warp;
            sum.thread += more.thread;
        }
        self.global_bytes += other.global_bytes;
        self.global_bytes_moved += other.global_bytes_moved;
        self.shared_bytes += other.shared_bytes;
        self.bank_conflicts += other.bank_conflicts;
        self.barriers += other.barriers;
        self.atomics += other.atomics;
    }
}
