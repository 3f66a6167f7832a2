//! Running a warp: the group of lanes with the smallest program counter runs first. Groups with the
//! same program counter merge.

use super::Launched;
use super::state::{Site, State, Stop};
use super::warp::{Group, Warp, lanes};
use crate::program::{Inst, NONE, Op};
use crate::report::FindingKind;

/// Reason that a warp pauses.
pub(crate) enum Pause {
    /// All lanes have exited
    Done,
    /// At the barrier with this program counter
    Barrier(u32),
}

/// Continuation of a group after an instruction.
enum Next {
    Follow,
    /// Lanes that jump
    Jump(u32, u32),
    /// Target, lanes that jump to it, and all lanes that leave this instruction
    Split(u32, u32, u32),
    Exit(u32),
    /// Lanes at a barrier or another instruction across lanes, and the mask of lanes that it needs
    Together(u32, u32),
}

impl Warp {
    /// Runs the warp until it ends or waits at a barrier.
    pub fn run(&mut self, launched: &Launched, state: &mut State) -> Result<Pause, Stop> {
        loop {
            let Some(group) = self.pick() else {
                if self.groups.is_empty() {
                    return Ok(Pause::Done);
                }
                if let Some(pause) = self.unblock(launched, state)? {
                    return Ok(pause);
                }
                continue;
            };
            if let Some(pause) = self.run_group(group, launched, state)? {
                return Ok(pause);
            }
        }
    }

    /// Removes and returns the ready group with the smallest program counter.
    fn pick(&mut self) -> Option<Group> {
        let ready = self.groups.iter().enumerate().filter(|(_, g)| !g.waits);
        let at = ready.min_by_key(|(_, g)| g.pc)?.0;
        Some(self.groups.swap_remove(at))
    }

    /// Whether the group at `pc` must let another one run first, or merge with it.
    fn is_passed(&self, pc: u32) -> bool {
        self.groups.iter().any(|g| g.pc == pc || (!g.waits && g.pc < pc))
    }

    fn run_group(
        &mut self,
        group: Group,
        launched: &Launched,
        state: &mut State,
    ) -> Result<Option<Pause>, Stop> {
        let Group { mut pc, mut mask, .. } = group;
        let code = &launched.program.code[..];
        loop {
            let inst = &code[pc as usize];
            let active = match inst.guard {
                NONE => mask,
                p => mask & (self.masks[p as usize] ^ if inst.negated { u32::MAX } else { 0 }),
            };
            state.counters.count(inst.class, active.count_ones());
            state.steps += 1;
            if state.steps > launched.limit {
                return Err(self.too_long(inst, mask, launched, state));
            }
            let next =
                if active == 0 { Next::Follow } else { self.step(inst, active, launched, state)? };
            match next {
                Next::Follow => pc += 1,
                Next::Jump(target, taken) if taken == mask => pc = target,
                Next::Jump(target, taken) => {
                    self.join(target, taken, false);
                    self.join(pc + 1, mask & !taken, false);
                    return Ok(None);
                }
                Next::Split(target, taken, inactive) => {
                    self.join(target, taken, false);
                    self.join(pc + 1, mask & !inactive, false);
                    return Ok(None);
                }
                Next::Exit(inactive) => {
                    self.alive &= !inactive;
                    mask &= !inactive;
                    if mask == 0 {
                        return Ok(None);
                    }
                    pc += 1;
                }
                Next::Together(there, needed) => {
                    self.join(pc + 1, mask & !there, false);
                    if needed & !there & self.alive == 0 {
                        if matches!(inst.op, Op::Barrier(_)) {
                            self.join(pc, there, true);
                            return Ok(Some(Pause::Barrier(pc)));
                        }
                        self.together(inst, there, launched, state);
                        self.join(pc + 1, there, false);
                    } else {
                        // It is counted when all lanes have arrived.
                        state.counters.uncount(inst.class, there.count_ones());
                        self.join(pc, there, true);
                    }
                    return Ok(None);
                }
            }
            if !self.groups.is_empty() && self.is_passed(pc) {
                self.join(pc, mask, false);
                return Ok(None);
            }
        }
    }

    fn too_long(&self, inst: &Inst, mask: u32, launched: &Launched, state: &State) -> Stop {
        let message = format!("the block did not end within {} steps", launched.limit);
        let lane = mask.trailing_zeros() as usize % 32;
        state.stop(launched, self.index, inst, FindingKind::InstructionLimit, lane, message)
    }

    /// Continues a warp whose groups all wait. A group whose missing lanes have exited continues.
    /// If there is none, some lanes wait in vain: reports it and lets a group continue.
    fn unblock(&mut self, launched: &Launched, state: &mut State) -> Result<Option<Pause>, Stop> {
        let code = &launched.program.code[..];
        self.groups.sort_by_key(|g| g.pc);
        let is_barrier = |g: &Group| matches!(code[g.pc as usize].op, Op::Barrier(_));
        let complete = |g: &Group| {
            let inst = &code[g.pc as usize];
            let needed = if is_barrier(g) { u32::MAX } else { self.member_mask(inst, g.mask) };
            needed & self.alive & !g.mask == 0
        };
        let shuffle = self.groups.iter().position(|g| !is_barrier(g) && complete(g));
        if let Some(at) = shuffle.or_else(|| self.groups.iter().position(|g| !is_barrier(g))) {
            let group = self.groups.remove(at);
            state.counters.count(code[group.pc as usize].class, group.mask.count_ones());
            self.together(&code[group.pc as usize], group.mask, launched, state);
            self.join(group.pc + 1, group.mask, false);
            return Ok(None);
        }
        let group = self.groups[0];
        let absent = self.alive & !group.mask;
        if absent != 0 {
            let lane = group.mask.trailing_zeros() as usize % 32;
            let site = Site { lane, ..Site::default() };
            let (kind, inst) = (FindingKind::DivergentBarrier, &code[group.pc as usize]);
            state.report(launched, self, inst, kind, site, || {
                let here = group.mask;
                format!("lanes {here:#010x} are here while lanes {absent:#010x} are elsewhere")
            });
        }
        Ok(Some(Pause::Barrier(group.pc)))
    }

    /// Returns the program counter of the barrier that the warp waits at.
    pub fn barrier_pc(&self) -> u32 {
        self.groups.iter().map(|g| g.pc).min().unwrap_or(0)
    }

    /// Moves all lanes past their barriers; returns the first of these barriers.
    pub fn passed_barrier(&mut self) -> Option<u32> {
        let first = self.groups.iter().map(|g| g.pc).min();
        for group in std::mem::take(&mut self.groups) {
            self.join(group.pc + 1, group.mask, false);
        }
        first
    }

    fn step(
        &mut self,
        inst: &Inst,
        mask: u32,
        launched: &Launched,
        state: &mut State,
    ) -> Result<Next, Stop> {
        match &inst.op {
            Op::Branch(target) => return Ok(Next::Jump(*target, mask)),
            Op::BranchIndex(row, targets) => return Ok(self.branch_index(*row, targets, mask)),
            Op::Exit => return Ok(Next::Exit(mask)),
            Op::Load(access) => self.load(access, inst, mask, launched, state),
            Op::Store(access) => self.store(access, inst, mask, launched, state),
            Op::Atomic(atomic) => self.atomic(atomic, inst, mask, launched, state),
            Op::Ldmatrix(_)
            | Op::Mma(_)
            | Op::Movmatrix(..)
            | Op::Shfl(_)
            | Op::Vote(..)
            | Op::Match(..)
            | Op::Redux(..)
            | Op::Elect(..)
            | Op::WarpSync(_) => {
                return Ok(Next::Together(mask, self.member_mask(inst, mask)));
            }
            Op::Barrier(_) => return Ok(Next::Together(mask, self.alive)),
            Op::CpAsync(copy) => self.copy_async(copy, inst, mask, launched, state),
            Op::CpCommit => lanes(mask).for_each(|lane| self.committed[lane] += 1),
            Op::CpWait(open) => self.wait_copies(*open, mask, state),
            Op::Trap => {
                let lane = mask.trailing_zeros() as usize % 32;
                let message = "the kernel stopped itself".to_owned();
                let kind = FindingKind::Trap;
                return Err(state.stop(launched, self.index, inst, kind, lane, message));
            }
            Op::Unknown(_) => {
                let lane = mask.trailing_zeros() as usize % 32;
                return Err(state.unknown(launched, self.index, inst, lane));
            }
            op => self.compute(op, mask, state.steps, launched.fast),
        }
        Ok(Next::Follow)
    }

    /// Returns the jump of the lanes with the first target; moves the other lanes to their own
    /// targets.
    fn branch_index(&mut self, row: u32, targets: &[u32], mask: u32) -> Next {
        let index = self.r32[row as usize];
        // An index past the table selects its last entry.
        let target = |lane: usize| targets[(index[lane] as usize).min(targets.len() - 1)];
        let first = target(mask.trailing_zeros() as usize % 32);
        for lane in lanes(mask) {
            if target(lane) != first {
                self.join(target(lane), 1 << lane, false);
            }
        }
        let same = lanes(mask).filter(|&lane| target(lane) == first).fold(0, |m, l| m | 1 << l);
        if same == mask {
            return Next::Jump(first, mask);
        }
        Next::Split(first, same, mask)
    }
}
