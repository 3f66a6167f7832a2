//! `atom` and `red`.

use super::Launched;
use super::access::{At, resolve};
use super::float;
use super::int;
use super::scalar::Mods;
use super::shared::How;
use super::state::{Site, State};
use super::warp::{Warp, lanes};
use crate::ast::Space;
use crate::program::{AtomOp, Atomic, Inst};
use crate::report::FindingKind;
use crate::types::Ty;

/// Computes the new value from the old one and the operands.
fn combined(op: AtomOp, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    let m = Mods::new(ty);
    let s = [old, b, 0, 0];
    let float = ty.is_float() || ty.is_packed();
    match op {
        AtomOp::Add if ty == Ty::F32 => float::add_f32(&m, s),
        AtomOp::Add if ty == Ty::F64 => float::add_f64(&m, s),
        AtomOp::Add if float => super::half::add(&m, s),
        AtomOp::Min if float => super::half::min(&m, s),
        AtomOp::Max if float => super::half::max(&m, s),
        AtomOp::Add => old.wrapping_add(b),
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Exch => b,
        AtomOp::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
        AtomOp::Min => int::min(&m, s),
        AtomOp::Max => int::max(&m, s),
        AtomOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}

impl Warp {
    /// Executes the lanes one after another, from lane 0 up.
    pub(crate) fn atomic(
        &mut self,
        a: &Atomic,
        inst: &Inst,
        mask: u32,
        launched: &Launched,
        state: &mut State,
    ) {
        let width = a.ty.bytes() as u32;
        let keep = if width == 8 { u64::MAX } else { (1 << (8 * width)) - 1 };
        let is_sum = a.op == AtomOp::Add && (a.ty.is_float() || a.ty.is_packed());
        for lane in lanes(mask) {
            let start = self.address(a.base, a.offset, lane);
            let values = std::iter::once(&a.b).chain(&a.more);
            for (k, &r) in values.enumerate() {
                let (space, address) =
                    resolve(a.space, start.wrapping_add(k as u64 * u64::from(width)));
                let (b, c) = (self.get(r, lane), self.get(a.c, lane));
                let at = At { lane, address, bytes: width, write: false };
                let f = |old: u64| combined(a.op, a.ty, old & keep, b, c) & keep;
                state.counters.atomics += 1;
                let old = self.update(space, at, f, inst, launched, state);
                self.set(a.d, lane, old.unwrap_or(0));
                if is_sum && space == Space::Global {
                    self.order(at, inst, launched, state);
                }
            }
        }
    }

    fn update(
        &mut self,
        space: Space,
        at: At,
        f: impl Fn(u64) -> u64,
        inst: &Inst,
        launched: &Launched,
        state: &mut State,
    ) -> Option<u64> {
        self.check_alignment(at, inst, launched, state)?;
        if space == Space::Shared {
            let from = self.check_shared(at, inst, launched, state)?;
            self.check_race(at, How::Atomic, inst, launched, state);
            let bytes = &mut state.shared.bytes[from..from + at.bytes as usize];
            let old = bytes.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b));
            bytes.copy_from_slice(&f(old).to_le_bytes()[..at.bytes as usize]);
            return Some(old);
        }
        let a = self.check_global(at, inst, launched, state)?;
        state.counters.global_bytes += u64::from(at.bytes);
        state.counters.global_bytes_moved += 32;
        Some(a.update(&launched.memory.lock, at.address - a.base, at.bytes, f))
    }

    fn order(&self, at: At, inst: &Inst, launched: &Launched, state: &mut State) {
        let site = Site { lane: at.lane, address: Some(at.address), place: None };
        state.report(launched, self, inst, FindingKind::AtomicOrder, site, || {
            "a sum of floats by atomics; here lanes and blocks go in order, on a GPU they do not"
                .to_owned()
        });
    }
}
