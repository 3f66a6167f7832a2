//! Decoding of the forms that run on all lanes of a warp at once.

use super::scalar::Form;
use crate::exec::scalar::Rounding;
use crate::program::{Op, Reg, V32, V64};
use crate::types::Ty;

/// Returns a move between rows of one kind.
pub(super) fn mov(d: Reg, s: Reg) -> Option<Op> {
    match (d, s) {
        (Reg::W(d), Reg::W(s)) => Some(Op::V32(V32::Mov, d, [s, s, s])),
        (Reg::D(d), Reg::D(s)) => Some(Op::V64(V64::Mov, d, [s, s, s])),
        _ => None,
    }
}

/// Returns the operation that packs two halves into a register.
pub(super) fn pack(whole: Reg, parts: &[Reg], bits: u32) -> Option<Op> {
    match (whole, parts, bits) {
        (Reg::W(d), &[Reg::W(a), Reg::W(b)], 16) => Some(Op::V32(V32::Pack16, d, [a, b, b])),
        (Reg::D(d), &[Reg::W(a), Reg::W(b)], 32) => Some(Op::V64(V64::Pack32, d, [a, b, b])),
        _ => None,
    }
}

/// Returns the operation that extracts one half of a register.
pub(super) fn unpack(whole: Reg, parts: &[Reg], bits: u32) -> Option<Op> {
    match (whole, parts, bits) {
        (Reg::W(a), &[Reg::W(d), Reg::None], 16) => Some(Op::V32(V32::Low16, d, [a; 3])),
        (Reg::W(a), &[Reg::None, Reg::W(d)], 16) => Some(Op::V32(V32::High16, d, [a; 3])),
        _ => None,
    }
}

fn row(r: Reg) -> u32 {
    match r {
        Reg::W(row) | Reg::D(row) | Reg::P(row) => row,
        Reg::None => 0,
    }
}

/// Returns the operation for all lanes, if this form has one.
pub(super) fn fast(form: &Form, d: Reg, s: &[Reg; 4]) -> Option<Op> {
    let m = &form.mods;
    let rows = [row(s[0]), row(s[1]), row(s[2])];
    let toward_zero = m.rounding == Rounding::Zero && m.integral;
    if let (true, Ty::F32, Ty::S32, Reg::W(d)) = (toward_zero, m.from, m.ty, d) {
        // With or without flush, values below 1 become 0.
        return (form.name == "cvt" && !m.sat).then_some(Op::V32(V32::ToS32, d, rows));
    }
    if m.sat || m.relu || m.rounding != Rounding::Nearest {
        return None;
    }
    match d {
        Reg::W(d) => Some(Op::V32(narrow(form, s)?, d, rows)),
        Reg::D(d) => Some(Op::V64(wide(form)?, d, rows)),
        _ => None,
    }
}

fn narrow(form: &Form, s: &[Reg; 4]) -> Option<V32> {
    let m = &form.mods;
    let (bits32, signed) = (m.ty.bits() == 32 && m.ty.is_int(), m.ty.is_signed());
    if s.iter().any(|r| matches!(r, Reg::D(_) | Reg::P(_))) {
        return None;
    }
    Some(match (form.name, &form.words[..]) {
        ("add", []) if bits32 => V32::Add,
        ("sub", []) if bits32 => V32::Sub,
        ("mul", ["lo"]) if bits32 => V32::Mul,
        ("mad", ["lo"]) if bits32 => V32::Mad,
        // Rows of narrow types are zero above their type, so logic needs no mask.
        ("and", []) => V32::And,
        ("or", []) => V32::Or,
        ("xor", []) => V32::Xor,
        ("not", []) if bits32 => V32::Not,
        ("neg", []) if bits32 => V32::Neg,
        ("shl", []) if bits32 => V32::Shl,
        ("shr", []) if bits32 && signed => V32::ShrS,
        ("shr", []) if bits32 => V32::ShrU,
        ("min", []) if bits32 && signed => V32::MinS,
        ("max", []) if bits32 && signed => V32::MaxS,
        ("min", []) if bits32 => V32::MinU,
        ("max", []) if bits32 => V32::MaxU,
        ("lop3", []) => V32::Lop3(m.mode),
        ("shf", ["l", "wrap"]) => V32::ShfWrapL,
        ("add", []) if m.ty == Ty::F32 => V32::FAdd(m.ftz),
        ("sub", []) if m.ty == Ty::F32 => V32::FSub(m.ftz),
        ("mul", []) if m.ty == Ty::F32 => V32::FMul(m.ftz),
        ("fma", []) if m.ty == Ty::F32 => V32::FFma(m.ftz),
        ("neg", []) if m.ty == Ty::F32 && !m.ftz => V32::FNeg,
        ("abs", []) if m.ty == Ty::F32 && !m.ftz => V32::FAbs,
        ("min", []) if m.ty == Ty::F32 && !m.nan => V32::FMin(m.ftz),
        ("max", []) if m.ty == Ty::F32 && !m.nan => V32::FMax(m.ftz),
        ("cvt", []) if m.from.bits() == 32 && m.from.is_int() && bits32 => V32::Mov,
        ("cvt", []) if m.from == Ty::S32 && m.ty == Ty::F32 => V32::FromS32,
        ("cvt", []) if m.from == Ty::F32 && !m.ftz && !m.nan && m.register <= 32 => match m.ty {
            Ty::Bf16 => V32::Bf16,
            Ty::Bf16x2 => V32::Bf16x2,
            _ => return None,
        },
        _ => return None,
    })
}

fn wide(form: &Form) -> Option<V64> {
    let m = &form.mods;
    let (int64, signed) = (m.ty.bits() == 64 && m.ty.is_int(), m.ty.is_signed());
    let int32 = m.ty.bits() == 32 && m.ty.is_int();
    Some(match (form.name, &form.words[..]) {
        ("add", []) if int64 => V64::Add,
        ("sub", []) if int64 => V64::Sub,
        ("and", []) if int64 => V64::And,
        ("or", []) if int64 => V64::Or,
        ("shl", []) if int64 => V64::Shl,
        ("shr", []) if int64 && signed => V64::ShrS,
        ("shr", []) if int64 => V64::ShrU,
        ("mul", ["wide"]) if int32 && signed => V64::MulWideS,
        ("mul", ["wide"]) if int32 => V64::MulWideU,
        ("mad", ["wide"]) if int32 && signed => V64::MadWideS,
        ("mad", ["wide"]) if int32 => V64::MadWideU,
        ("cvt", []) if int64 && m.from == Ty::S32 => V64::ExtendS,
        ("cvt", []) if int64 && matches!(m.from, Ty::U32 | Ty::B32) => V64::ExtendU,
        ("cvt", []) if int64 && m.from.bits() == 64 && m.from.is_int() => V64::Mov,
        _ => return None,
    })
}
