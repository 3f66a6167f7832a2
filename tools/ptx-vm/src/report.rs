//! The report of a launch: faults and counters of the work.

use std::fmt;

use crate::counters::Counters;

/// Maximum number of different findings per launch; a repeated one only raises its count.
pub const MAX_FINDINGS: usize = 64;

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FindingKind {
    /// An access outside every allocation, or across the end of one.
    OutOfBounds,
    /// An address that is not a multiple of the access size.
    Misaligned,
    /// A read of bytes that were never written.
    Uninitialised,
    /// Two accesses to shared memory with no barrier or warp synchronisation between them.
    SharedRace,
    /// Accesses of two blocks to one global byte in one launch, at least one a plain write.
    GlobalRace,
    /// A read or write of shared bytes whose `cp.async` is still in flight.
    CopyInFlight,
    /// Lanes of a warp wait at different barriers, or some never arrive.
    DivergentBarrier,
    /// A shuffle, vote or warp barrier names absent lanes, or a shuffle reads from one.
    AbsentLanes,
    /// A form of instruction that this machine does not know.
    UnknownInstruction,
    /// `trap` was executed.
    Trap,
    /// A block took more steps than the limit.
    InstructionLimit,
    /// All warps wait at barriers that are never complete.
    Deadlock,
    /// Sums of floats by atomics: their order, and so the last bits, differ on a real GPU.
    AtomicOrder,
}

impl FindingKind {
    fn title(self) -> &'static str {
        match self {
            Self::OutOfBounds => "out of bounds",
            Self::Misaligned => "misaligned",
            Self::Uninitialised => "never written",
            Self::SharedRace => "shared-memory race",
            Self::GlobalRace => "global-memory race",
            Self::CopyInFlight => "copy under way",
            Self::DivergentBarrier => "divergent barrier",
            Self::AbsentLanes => "absent lanes",
            Self::UnknownInstruction => "unknown instruction",
            Self::Trap => "trap",
            Self::InstructionLimit => "instruction limit",
            Self::Deadlock => "deadlock",
            Self::AtomicOrder => "order of floating-point atomics is not fixed",
        }
    }
}

/// One fault, at the place of its first occurrence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Kind of the fault.
    pub kind: FindingKind,
    /// Kernel.
    pub kernel: String,
    /// Line of the PTX text, counted from 1.
    pub line: u32,
    /// The instruction as written.
    pub instruction: String,
    /// Block index.
    pub block: [u32; 3],
    /// Warp inside the block.
    pub warp: u32,
    /// Lane inside the warp.
    pub lane: u32,
    /// Accessed address, if the fault is about one.
    pub address: Option<u64>,
    /// Allocation or variable, and the offset in it, if the address is in or near one.
    pub place: Option<(String, u64)>,
    /// Description of the fault in one sentence.
    pub message: String,
    /// Number of occurrences at this line.
    pub count: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.block;
        write!(
            f,
            "{}: {}, line {}: `{}`",
            self.kind.title(),
            self.kernel,
            self.line,
            self.instruction
        )?;
        write!(f, ", block ({x}, {y}, {z}), warp {}, lane {}", self.warp, self.lane)?;
        if let Some(address) = self.address {
            write!(f, ", address {address:#x}")?;
        }
        if let Some((name, offset)) = &self.place {
            write!(f, " (`{name}` + {offset})")?;
        }
        write!(f, ": {}", self.message)?;
        if self.count > 1 {
            write!(f, " ({} times)", self.count)?;
        }
        Ok(())
    }
}

/// Result of a launch that ran to its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Counters of the work.
    pub counters: Counters,
    /// Faults, in the order of blocks and of time inside a block; one per kind and line.
    pub findings: Vec<Finding>,
}
