//! What a launch reports: faults found and work counted.

use std::fmt;

use crate::counters::Counters;

/// Different findings kept per launch; repeats of one only raise its count.
pub const MAX_FINDINGS: usize = 64;

/// What kind of fault was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FindingKind {
    /// An access outside every allocation, or across the end of one.
    OutOfBounds,
    /// An address that is not a multiple of the access size.
    Misaligned,
    /// A read of bytes that nobody wrote.
    Uninitialised,
    /// Two accesses to shared memory with no barrier or warp synchronisation between them.
    SharedRace,
    /// Accesses of two blocks to one global byte in one launch, at least one a plain write.
    GlobalRace,
    /// A read or write of shared bytes whose `cp.async` is still under way.
    CopyInFlight,
    /// Lanes of a warp meet at different barriers, or some never come.
    DivergentBarrier,
    /// A shuffle, vote or warp barrier names lanes that are not there, or reads from one.
    AbsentLanes,
    /// A form of instruction that this machine does not know.
    UnknownInstruction,
    /// `trap` was executed.
    Trap,
    /// A block took more steps than the limit.
    InstructionLimit,
    /// All warps wait for barriers that never fill.
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

/// One fault, where it was first seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
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
    /// Address accessed, if the fault is about one.
    pub address: Option<u64>,
    /// Allocation or variable, and the offset in it, if the address lies in or near one.
    pub place: Option<(String, u64)>,
    /// One sentence on what happened.
    pub message: String,
    /// How often it was seen at this line.
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

/// The outcome of a launch that ran to its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Work done.
    pub counters: Counters,
    /// Faults, in the order of blocks and of time inside a block; one per kind and line.
    pub findings: Vec<Finding>,
}
