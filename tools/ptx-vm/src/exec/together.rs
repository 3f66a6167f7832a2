//! Operations across the lanes of a warp: shuffles, votes, matches, reductions.

use super::Launched;
use super::state::{Site, State};
use super::warp::{Warp, lanes};
use crate::program::{Inst, NONE, Op, ReduxOp, Reg, Shfl, ShflMode, VoteMode};
use crate::report::FindingKind;

impl Warp {
    /// Returns the row of the member mask; matrix instructions need all lanes.
    fn member_row(inst: &Inst) -> Option<u32> {
        match &inst.op {
            Op::Shfl(shfl) => Some(shfl.mask),
            Op::Vote(.., row)
            | Op::Match(_, _, row, _)
            | Op::Redux(.., row)
            | Op::Elect(.., row)
            | Op::WarpSync(row) => Some(*row),
            _ => None,
        }
    }

    /// Returns the lanes that the instruction needs, as its first present lane states them.
    pub(crate) fn member_mask(&self, inst: &Inst, there: u32) -> u32 {
        match Self::member_row(inst) {
            Some(row) => self.r32[row as usize][there.trailing_zeros() as usize % 32],
            None => u32::MAX,
        }
    }

    /// Executes the instruction for the present lanes.
    pub(crate) fn together(
        &mut self,
        inst: &Inst,
        there: u32,
        launched: &Launched,
        state: &mut State,
    ) {
        self.check_members(inst, there, launched, state);
        match &inst.op {
            Op::Shfl(shfl) => self.shuffle(shfl, inst, there, launched, state),
            Op::Vote(mode, d, p, negated, _) => {
                let truth = self.masks[*p as usize] ^ if *negated { u32::MAX } else { 0 };
                let truth = truth & there;
                let value = match mode {
                    VoteMode::All => u32::from(truth == there),
                    VoteMode::Any => u32::from(truth != 0),
                    VoteMode::Uni => u32::from(truth == there || truth == 0),
                    VoteMode::Ballot => truth,
                };
                lanes(there).for_each(|lane| self.set(*d, lane, u64::from(value)));
            }
            Op::Match(d, value, _, p) => self.matched(*d, *value, there, *p),
            Op::Redux(op, d, a, _) => {
                let row = self.r32[*a as usize];
                let values = lanes(there).map(|lane| row[lane]);
                let total = values.reduce(|x, y| reduced(*op, x, y)).unwrap_or(0);
                lanes(there).for_each(|lane| self.r32[*d as usize][lane] = total);
            }
            Op::Elect(d, p, _) => {
                let leader = there.trailing_zeros();
                self.set_mask(*p, there & there.wrapping_neg(), there);
                if *d != NONE {
                    lanes(there).for_each(|lane| self.r32[*d as usize][lane] = leader);
                }
            }
            Op::Mma(mma) => super::matrix::mma(launched.fast, mma, self),
            Op::Ldmatrix(load) => self.ldmatrix(load, inst, there, launched, state),
            Op::Movmatrix(d, s) => self.movmatrix(*d, *s),
            _ => {}
        }
        // Shuffles, votes and matrix instructions synchronise lanes, but only the barrier of the
        // warp orders their memory accesses.
        if matches!(inst.op, Op::WarpSync(_)) {
            self.syncs += 1;
        }
    }

    fn check_members(&self, inst: &Inst, there: u32, launched: &Launched, state: &mut State) {
        let named = self.member_mask(inst, there);
        let absent = named & !there;
        if absent != 0 {
            let site = Site { lane: there.trailing_zeros() as usize % 32, ..Site::default() };
            let exited = absent & !self.alive;
            state.report(launched, self, inst, FindingKind::AbsentLanes, site, || {
                let where_ = if exited == absent { "have exited" } else { "are elsewhere" };
                format!("it needs lanes {named:#010x}, of which {absent:#010x} {where_}")
            });
        }
        let Some(row) = Self::member_row(inst) else { return };
        let row = self.r32[row as usize];
        if let Some(lane) = lanes(there).find(|&lane| row[lane] >> lane & 1 == 0) {
            let site = Site { lane, ..Site::default() };
            state.report(launched, self, inst, FindingKind::AbsentLanes, site, || {
                format!("the lane executes it but its mask {:#010x} leaves it out", row[lane])
            });
        }
    }

    fn shuffle(
        &mut self,
        s: &Shfl,
        inst: &Inst,
        there: u32,
        launched: &Launched,
        state: &mut State,
    ) {
        let (a, b, c) = (self.r32[s.a as usize], self.r32[s.b as usize], self.r32[s.c as usize]);
        let (mut values, mut valid) = (a, 0);
        for lane in lanes(there) {
            let clamp = c[lane] & 31;
            let segment = c[lane] >> 8 & 31;
            let by = b[lane] & 31;
            let own = lane as u32;
            let highest = (own & segment) | (clamp & !segment);
            let (from, ok) = match s.mode {
                ShflMode::Up => {
                    let from = own.wrapping_sub(by);
                    (from, from as i32 >= highest as i32)
                }
                ShflMode::Down => (own + by, own + by <= highest),
                ShflMode::Bfly => (own ^ by, own ^ by <= highest),
                ShflMode::Idx => {
                    let from = (own & segment) | (by & !segment & 31);
                    (from, from <= highest)
                }
            };
            let from = if ok { from } else { own } as usize & 31;
            valid |= u32::from(ok) << lane;
            values[lane] = a[from];
            if there >> from & 1 == 0 {
                let site = Site { lane, ..Site::default() };
                state.report(launched, self, inst, FindingKind::AbsentLanes, site, || {
                    format!("it reads from lane {from}, which does not take part")
                });
            }
        }
        lanes(there).for_each(|lane| self.r32[s.d as usize][lane] = values[lane]);
        if s.p != NONE {
            self.set_mask(s.p, valid, there);
        }
    }

    fn matched(&mut self, d: u32, value: Reg, there: u32, p: Option<u32>) {
        let values: [u64; 32] = std::array::from_fn(|lane| self.get(value, lane));
        for lane in lanes(there) {
            let same = lanes(there).filter(|&other| values[other] == values[lane]);
            let same = same.fold(0u32, |m, other| m | 1 << other);
            let all = same == there;
            let result = match p {
                None => same,
                Some(_) => {
                    if all {
                        there
                    } else {
                        0
                    }
                }
            };
            self.r32[d as usize][lane] = result;
            if let Some(p) = p.filter(|&p| p != NONE) {
                self.set(Reg::P(p), lane, u64::from(all));
            }
        }
    }
}

fn reduced(op: ReduxOp, a: u32, b: u32) -> u32 {
    match op {
        ReduxOp::Add => a.wrapping_add(b),
        ReduxOp::MinS => (a as i32).min(b as i32) as u32,
        ReduxOp::MaxS => (a as i32).max(b as i32) as u32,
        ReduxOp::MinU => a.min(b),
        ReduxOp::MaxU => a.max(b),
        ReduxOp::And => a & b,
        ReduxOp::Or => a | b,
        ReduxOp::Xor => a ^ b,
    }
}
