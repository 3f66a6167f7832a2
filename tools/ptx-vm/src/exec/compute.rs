//! Instructions that only change registers.

use super::vector::{self, Compared};
use super::warp::{Warp, lanes};
use crate::program::{Carry, CarryKind, Join, NONE, Op, PredOp, Reg, Scalar, Setp, Test};

impl Warp {
    /// Executes an instruction for the lanes of a mask; `steps` is the time.
    pub(crate) fn compute(&mut self, op: &Op, mask: u32, steps: u64, fast: bool) {
        match op {
            Op::V32(op, d, s) => vector::v32(fast, *op, self, *d, *s, mask),
            Op::V64(op, d, s) => vector::v64(fast, *op, self, *d, *s, mask),
            Op::Selp32(d, a, b, p) => {
                let truth = self.masks[*p as usize];
                vector::select(fast, self, *d, [*a, *b], truth, mask, false);
            }
            Op::Selp64(d, a, b, p) => {
                let truth = self.masks[*p as usize];
                vector::select(fast, self, *d, [*a, *b], truth, mask, true);
            }
            Op::Setp(setp) => self.setp(setp, mask, fast),
            Op::Pred(op, d, a, b) => {
                let (a, b) = (self.masks[*a as usize], self.masks[*b as usize]);
                let value = match op {
                    PredOp::Mov => a,
                    PredOp::Not => !a,
                    PredOp::And => a & b,
                    PredOp::Or => a | b,
                    PredOp::Xor => a ^ b,
                };
                self.set_mask(*d, value, mask);
            }
            Op::Scalar(scalar) => self.scalar(scalar, mask),
            Op::Carry(carry) => self.carry(carry, mask),
            Op::Pack(pack) => {
                for lane in lanes(mask) {
                    let parts = pack.parts.iter().rev();
                    let whole = parts.fold(0, |v, &r| v << pack.bits | self.get(r, lane));
                    self.set(pack.whole, lane, whole);
                }
            }
            Op::Unpack(pack) => {
                for lane in lanes(mask) {
                    let mut whole = self.get(pack.whole, lane);
                    for &part in &pack.parts {
                        self.set(part, lane, whole & ((1 << pack.bits) - 1));
                        whole >>= pack.bits;
                    }
                }
            }
            Op::ActiveMask(d) => {
                lanes(mask).for_each(|lane| self.r32[*d as usize][lane] = mask);
            }
            Op::Clock(d) => {
                // The clock is the same in every run: the steps of the block so far.
                lanes(mask).for_each(|lane| self.set(*d, lane, steps));
            }
            Op::IsSpace(d, address, space) => {
                let holds = |lane: &usize| super::access::is_in(self.get(*address, *lane), *space);
                let value = lanes(mask).filter(holds).fold(0, |m, lane| m | 1 << lane);
                self.set_mask(*d, value, mask);
            }
            _ => {}
        }
    }

    fn setp(&mut self, setp: &Setp, mask: u32, fast: bool) {
        let rows = |w: &Warp| match (setp.a, setp.b) {
            (Reg::W(a), Reg::W(b)) => (w.r32[a as usize], w.r32[b as usize]),
            _ => ([0; 32], [0; 32]),
        };
        let compared = |kind, cmp, w: &Warp| {
            let (a, b) = rows(w);
            vector::compare(fast, kind, cmp, &a, &b)
        };
        let lane_by_lane = |f: super::scalar::ScalarFn, mods, w: &Warp| {
            let one = |lane| f(&mods, [w.get(setp.a, lane), w.get(setp.b, lane), 0, 0]);
            lanes(mask).fold(0, |m, lane| m | (one(lane) as u32 & 1) << lane)
        };
        let mut other = None;
        let value = match setp.test {
            Test::S32(cmp) => compared(Compared::Signed, cmp, self),
            Test::U32(cmp) => compared(Compared::Unsigned, cmp, self),
            Test::F32(cmp, false) => compared(Compared::Float, cmp, self),
            Test::F32(cmp, true) => compared(Compared::FloatFlushed, cmp, self),
            Test::Scalar(f, mods) => {
                other = setp.upper.map(|upper| lane_by_lane(upper, mods, self));
                lane_by_lane(f, mods, self)
            }
        };
        let joined = |v: u32| match setp.join {
            None => v,
            Some((op, p, negated)) => {
                let third = self.masks[p as usize] ^ if negated { u32::MAX } else { 0 };
                match op {
                    Join::And => v & third,
                    Join::Or => v | third,
                    Join::Xor => v ^ third,
                }
            }
        };
        let (first, second) = (joined(value), joined(other.unwrap_or(!value)));
        self.set_mask(setp.d, first, mask);
        if setp.q != NONE {
            self.set_mask(setp.q, second, mask);
        }
    }

    fn scalar(&mut self, s: &Scalar, mask: u32) {
        let keep = if s.bits >= 64 { u64::MAX } else { (1 << s.bits) - 1 };
        for lane in lanes(mask) {
            let args = s.s.map(|r| self.get(r, lane));
            self.set(s.d, lane, (s.f)(&s.mods, args) & keep);
        }
    }

    fn carry(&mut self, c: &Carry, mask: u32) {
        let keep = if c.bits >= 64 { u64::MAX } else { (1 << c.bits) - 1 };
        for lane in lanes(mask) {
            let [a, b, add] = c.s.map(|r| u128::from(self.get(r, lane)));
            let flag = u128::from(self.masks[c.flag as usize] >> lane & 1);
            let carried = if c.carry_in { flag } else { 0 };
            let signed = |v: u128| i128::from(super::int::sext(v as u64, c.bits));
            let product = if c.signed && c.kind == CarryKind::MadHi {
                (signed(a).wrapping_mul(signed(b))) as u128
            } else {
                a.wrapping_mul(b)
            };
            let total = match c.kind {
                CarryKind::Add => a + b + carried,
                CarryKind::Sub => a.wrapping_sub(b).wrapping_sub(carried),
                CarryKind::MadLo => (product & u128::from(keep)) + add + carried,
                CarryKind::MadHi => (product >> c.bits & u128::from(keep)) + add + carried,
            };
            self.set(c.d, lane, total as u64 & keep);
            if c.carry_out {
                self.set(Reg::P(c.flag), lane, (total >> c.bits) as u64 & 1);
            }
        }
    }
}
