//! The state of one warp: registers, groups of lanes, local memory, copies in flight.

use super::Launched;
use super::vector::{Row, Wide};
use crate::program::{Constant, Reg, Special};

/// Lanes with the same program counter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub pc: u32,
    pub mask: u32,
    /// Whether it waits for other lanes at a barrier or shuffle
    pub waits: bool,
}

/// A `cp.async` of one lane whose data has not arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copy {
    pub lane: u8,
    pub bytes: u8,
    pub dst: u32,
    pub data: [u8; 16],
    /// Group number in its lane
    pub group: u32,
    /// Line of the instruction
    pub line: u32,
}

/// Status of a warp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Ready,
    /// At the barrier with this number
    Waiting(u32),
    Done,
}

/// One warp.
pub(crate) struct Warp {
    pub index: u32,
    pub r32: Vec<Row>,
    pub r64: Vec<Wide>,
    pub masks: Vec<u32>,
    pub groups: Vec<Group>,
    /// Lanes that have not exited
    pub alive: u32,
    pub status: Status,
    /// Local memory, one range per lane
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
    pub copies: Vec<Copy>,
    /// Groups committed by each lane
    pub committed: [u32; 32],
    /// Number of synchronisations that order the lanes' accesses to memory
    pub syncs: u32,
}

impl Warp {
    pub fn new(launched: &Launched, index: u32) -> Self {
        let program = launched.program;
        let local = program.local_bytes as usize * 32;
        Self {
            index,
            r32: vec![[0; 32]; program.rows32],
            r64: vec![[0; 32]; program.rows64],
            masks: vec![0; program.masks],
            groups: Vec::new(),
            alive: 0,
            status: Status::Done,
            local: vec![0; local],
            local_written: vec![false; local],
            copies: Vec::new(),
            committed: [0; 32],
            syncs: 0,
        }
    }

    /// Starts the warp for a block.
    pub fn start(&mut self, launched: &Launched, block: [u32; 3]) {
        let program = launched.program;
        self.r32.iter_mut().for_each(|row| *row = [0; 32]);
        self.r64.iter_mut().for_each(|row| *row = [0; 32]);
        self.masks.fill(0);
        for &(p, truth) in &program.constant_masks {
            self.masks[p as usize] = if truth { u32::MAX } else { 0 };
        }
        for &(row, constant) in &program.constants32 {
            let value = self.constant(launched, constant, block);
            self.r32[row as usize] = value.map(|v| v as u32);
        }
        for &(row, constant) in &program.constants64 {
            self.r64[row as usize] = self.constant(launched, constant, block);
        }
        let threads = launched.threads - self.index * 32;
        self.alive = if threads >= 32 { u32::MAX } else { (1 << threads) - 1 };
        self.groups.clear();
        self.groups.push(Group { pc: 0, mask: self.alive, waits: false });
        self.status = Status::Ready;
        self.local_written.fill(false);
        self.copies.clear();
        self.committed = [0; 32];
        self.syncs = 0;
    }

    fn constant(&self, launched: &Launched, constant: Constant, block: [u32; 3]) -> Wide {
        match constant {
            Constant::Bits(v) => [v; 32],
            Constant::Variable(index, by) => {
                [launched.variables[index].wrapping_add(by as u64); 32]
            }
            Constant::DynamicShared(by) => {
                [launched.program.shared_bytes.wrapping_add(by as u64); 32]
            }
            Constant::Special(special) => {
                std::array::from_fn(|lane| self.special(launched, special, block, lane as u32))
            }
        }
    }

    fn special(&self, launched: &Launched, s: Special, block: [u32; 3], lane: u32) -> u64 {
        let size = launched.block;
        let thread = self.index * 32 + lane;
        let at = |v: [u32; 3], axis: u8| v[usize::from(axis.min(2))];
        let tid = [thread % size[0], thread / size[0] % size[1], thread / (size[0] * size[1])];
        let bit = 1u32 << lane;
        u64::from(match s {
            Special::Tid(axis) => at(tid, axis),
            Special::Ntid(axis) => at(size, axis),
            Special::Ctaid(axis) => at(block, axis),
            Special::Nctaid(axis) => at(launched.grid, axis),
            Special::LaneId => lane,
            Special::WarpId => self.index,
            Special::WarpCount => launched.threads.div_ceil(32),
            Special::Zero => 0,
            Special::One => 1,
            Special::MaskEq => bit,
            Special::MaskLt => bit - 1,
            Special::MaskLe => bit | (bit - 1),
            Special::MaskGt => !(bit | (bit - 1)),
            Special::MaskGe => !(bit - 1),
            Special::DynamicShared => launched.dynamic_shared,
            Special::TotalShared => launched.dynamic_shared + launched.program.static_shared as u32,
        })
    }

    /// Returns one lane of a register as bits.
    #[inline]
    pub fn get(&self, r: Reg, lane: usize) -> u64 {
        match r {
            Reg::W(row) => u64::from(self.r32[row as usize][lane]),
            Reg::D(row) => self.r64[row as usize][lane],
            Reg::P(p) => u64::from(self.masks[p as usize] >> lane & 1),
            Reg::None => 0,
        }
    }

    #[inline]
    pub fn set(&mut self, r: Reg, lane: usize, v: u64) {
        match r {
            Reg::W(row) => self.r32[row as usize][lane] = v as u32,
            Reg::D(row) => self.r64[row as usize][lane] = v,
            Reg::P(p) => {
                let bit = 1 << lane;
                let mask = &mut self.masks[p as usize];
                *mask = if v & 1 == 1 { *mask | bit } else { *mask & !bit };
            }
            Reg::None => {}
        }
    }

    /// Replaces the lanes of `mask` in a predicate.
    #[inline]
    pub fn set_mask(&mut self, p: u32, value: u32, mask: u32) {
        let m = &mut self.masks[p as usize];
        *m = *m & !mask | value & mask;
    }

    /// Adds lanes at an instruction; merges them with the group there.
    pub fn join(&mut self, pc: u32, mask: u32, waits: bool) {
        if mask == 0 {
            return;
        }
        match self.groups.iter_mut().find(|g| g.pc == pc) {
            Some(group) => {
                group.mask |= mask;
                group.waits &= waits;
            }
            None => self.groups.push(Group { pc, mask, waits }),
        }
    }
}

/// Returns the indices of the lanes in a mask.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let lane = left.trailing_zeros();
        (lane < 32).then(|| {
            left &= left - 1;
            lane as usize
        })
    })
}
