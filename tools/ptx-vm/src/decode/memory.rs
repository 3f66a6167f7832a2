//! Decoding of loads, stores, atomics, copies and addresses.

use super::{Decoder, is_wide};
use crate::ast::{Operand, Space};
use crate::exec::int;
use crate::exec::scalar::Mods;
use crate::program::{
    Access, AtomOp, Atomic, Class, Constant, CpAsync, LOCAL_WINDOW, Ldmatrix, NONE, Op,
    PARAM_WINDOW, Reg, SHARED_WINDOW, Scalar, V64,
};
use crate::types::Ty;

/// Whether a suffix is a hint about caches or order; the virtual GPU has no caches and ignores it.
fn is_hint(part: &str) -> bool {
    matches!(
        part,
        "ca" | "cg"
            | "cs"
            | "lu"
            | "cv"
            | "wb"
            | "wt"
            | "nc"
            | "volatile"
            | "relaxed"
            | "acquire"
            | "release"
            | "acq_rel"
            | "weak"
            | "sys"
            | "gpu"
            | "cta"
            | "cluster"
            | "mmio"
            | "noftz"
            | "noinc"
            | "unified"
            | "entry"
            | "func"
    ) || part.starts_with("L1::")
        || part.starts_with("L2::")
}

fn space(part: &str) -> Option<Space> {
    Some(match part {
        "global" => Space::Global,
        "shared" | "shared::cta" => Space::Shared,
        "local" => Space::Local,
        "const" => Space::Const,
        "param" | "param::entry" | "param::func" => Space::Param,
        _ => return None,
    })
}

/// Space, type, vector length and the other suffixes of an access.
struct Suffixes<'a> {
    space: Space,
    ty: Ty,
    lanes: usize,
    rest: Vec<&'a str>,
}

fn suffixes<'a>(parts: &[&'a str]) -> Option<Suffixes<'a>> {
    let mut out = Suffixes { space: Space::Generic, ty: Ty::Pred, lanes: 1, rest: Vec::new() };
    for part in &parts[1..] {
        if let Some(found) = space(part) {
            out.space = found;
        } else if let Some(ty) = Ty::parse(part) {
            out.ty = ty;
        } else if matches!(*part, "v2" | "v4" | "v8") {
            out.lanes = usize::from(part.as_bytes()[1] - b'0');
        } else if !is_hint(part) {
            out.rest.push(part);
        }
    }
    (out.ty != Ty::Pred).then_some(out)
}

impl Decoder<'_> {
    pub(super) fn memory(&mut self, parts: &[&str], ops: &[Operand], line: u32) -> Option<()> {
        match parts[0] {
            "ld" | "ldu" | "st" => self.access(parts, ops, line),
            "atom" | "red" => self.atomic(parts, ops, line),
            "cvta" => self.cvta(parts, ops, line),
            "isspacep" => {
                let space = space(parts.get(1)?)?;
                let d = self.dest_p(ops.first()?)?;
                let address = self.value(ops.get(1)?, Ty::U64)?;
                self.emit(Op::IsSpace(d, address, space), Class::Integer, line);
                Some(())
            }
            "ldmatrix" => self.ldmatrix(parts, ops, line),
            "movmatrix" => {
                (parts[1..] == ["sync", "aligned", "m8n8", "trans", "b16"]).then_some(())?;
                let (d, s) = (self.dest_w(ops.first()?)?, self.w(ops.get(1)?, Ty::B32)?);
                self.emit(Op::Movmatrix(d, s), Class::Warp, line);
                Some(())
            }
            // Cache hints.
            _ => {
                self.emit(Op::Nop, Class::Memory, line);
                Some(())
            }
        }
    }

    /// Returns the row of the address, the offset, and the actual space.
    fn place_operand(&mut self, operand: &Operand, space: Space) -> Option<(Reg, i64, Space)> {
        let Operand::Memory(base, offset) = operand else { return None };
        match &**base {
            Operand::Reg(r) => {
                let base = self.register(*r);
                let space = if space == Space::Param { Space::Generic } else { space };
                matches!(base, Reg::W(_) | Reg::D(_)).then_some((base, *offset, space))
            }
            Operand::Symbol(name, _) => {
                let place = self.place_of(name);
                let space = match (space, place) {
                    (Space::Param, Some((found, _))) => found,
                    _ => space,
                };
                let generic = space == Space::Generic;
                let constant = match (space, self.address(name, 0, generic)?) {
                    // Addresses of parameters are relative to their start.
                    (Space::Param, Constant::Bits(v)) => Constant::Bits(v - PARAM_WINDOW),
                    (_, other) => other,
                };
                Some((self.constant(true, constant), *offset, space))
            }
            Operand::Int(v) => {
                Some((self.constant(true, Constant::Bits(*v as u64)), *offset, space))
            }
            _ => None,
        }
    }

    fn access(&mut self, parts: &[&str], ops: &[Operand], line: u32) -> Option<()> {
        let s = suffixes(parts).filter(|s| s.rest.is_empty())?;
        let load = parts[0] != "st";
        let (address, data) =
            if load { (ops.get(1)?, ops.first()?) } else { (ops.first()?, ops.get(1)?) };
        let (base, offset, space) = self.place_operand(address, s.space)?;
        let list = match data {
            Operand::Vector(list) => &list[..],
            one => std::slice::from_ref(one),
        };
        (list.len() == s.lanes && s.ty.bytes() <= 8).then_some(())?;
        let mut regs = Vec::with_capacity(s.lanes);
        for item in list {
            regs.push(self.data_register(item, s.ty, load)?);
        }
        let width = s.ty.bytes() as u32;
        let access = Access { space, width, signed: s.ty.is_signed(), regs, base, offset };
        let access = Box::new(access);
        let op = if load { Op::Load(access) } else { Op::Store(access) };
        self.emit(op, Class::Memory, line);
        Some(())
    }

    /// Returns the data register, which may be wider than the type.
    fn data_register(&mut self, operand: &Operand, ty: Ty, load: bool) -> Option<Reg> {
        match operand {
            Operand::Reg(r) => match self.register(*r) {
                Reg::D(row) => Some(Reg::D(row)),
                Reg::W(row) if !is_wide(ty) => Some(Reg::W(row)),
                _ => None,
            },
            Operand::Sink if load => Some(Reg::None),
            other if !load => self.value(other, ty),
            _ => None,
        }
    }

    fn atomic(&mut self, parts: &[&str], ops: &[Operand], line: u32) -> Option<()> {
        let s = suffixes(parts)?;
        let [name] = s.rest[..] else { return None };
        let op = match name {
            "add" => AtomOp::Add,
            "and" => AtomOp::And,
            "or" => AtomOp::Or,
            "xor" => AtomOp::Xor,
            "exch" => AtomOp::Exch,
            "cas" => AtomOp::Cas,
            "min" => AtomOp::Min,
            "max" => AtomOp::Max,
            "inc" => AtomOp::Inc,
            "dec" => AtomOp::Dec,
            _ => return None,
        };
        let returns = parts[0] == "atom";
        let rest = ops.get(usize::from(returns)..)?;
        let (base, offset, space) = self.place_operand(rest.first()?, s.space)?;
        let list = match rest.get(1)? {
            Operand::Vector(list) => &list[..],
            one => std::slice::from_ref(one),
        };
        let fine = list.len() == s.lanes && (s.lanes == 1 || !returns);
        let fine = fine && matches!(s.ty.bytes(), 2 | 4 | 8);
        let float = s.ty.is_float() || s.ty.is_packed();
        (fine && (!float || matches!(op, AtomOp::Add | AtomOp::Min | AtomOp::Max))).then_some(())?;
        let mut values = Vec::new();
        for item in list {
            values.push(self.value(item, s.ty)?);
        }
        let c = if op == AtomOp::Cas { self.value(rest.get(2)?, s.ty)? } else { Reg::None };
        let d = match ops.first()? {
            Operand::Sink => Reg::None,
            first if returns => self.dest(first, s.ty)?,
            _ => Reg::None,
        };
        // Results of atomics, and sums of floats, depend on the order of the blocks.
        let shared = space == Space::Shared;
        let exchange = matches!(op, AtomOp::Exch | AtomOp::Cas);
        self.program.global_atomics |= !shared;
        self.program.ordered |= !shared && (d != Reg::None || float || exchange);
        let b = values.remove(0);
        let atomic = Atomic { op, ty: s.ty, space, d, base, offset, b, c, more: values };
        self.emit(Op::Atomic(Box::new(atomic)), Class::Memory, line);
        Some(())
    }

    fn cvta(&mut self, parts: &[&str], ops: &[Operand], line: u32) -> Option<()> {
        let to = parts.contains(&"to");
        let space = parts.iter().find_map(|p| space(p))?;
        let ty = Ty::parse(parts.last()?)?;
        let d = self.dest(ops.first()?, ty)?;
        let s = self.value(ops.get(1)?, ty)?;
        let window = match space {
            Space::Shared => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            _ => 0,
        };
        let by = if to { window.wrapping_neg() } else { window };
        if let (0, Reg::D(d), Reg::D(s)) = (by, d, s) {
            self.emit(Op::V64(V64::Mov, d, [s, s, s]), Class::Integer, line);
            return Some(());
        }
        let by = self.constant(is_wide(ty), Constant::Bits(by & ty_mask(ty)));
        let scalar = Scalar {
            f: int::add_address,
            mods: Mods::new(ty),
            d,
            s: [s, by, Reg::None, Reg::None],
            bits: ty.bits(),
        };
        self.emit(Op::Scalar(Box::new(scalar)), Class::Integer, line);
        Some(())
    }

    fn ldmatrix(&mut self, parts: &[&str], ops: &[Operand], line: u32) -> Option<()> {
        let trans = parts.contains(&"trans");
        let count = match *parts.iter().find(|p| p.starts_with('x'))? {
            "x1" => 1,
            "x2" => 2,
            "x4" => 4,
            _ => return None,
        };
        (parts.contains(&"m8n8") && parts.last() == Some(&"b16")).then_some(())?;
        let space = parts.iter().find_map(|p| space(p)).unwrap_or(Space::Generic);
        let (base, offset, space) = self.place_operand(ops.get(1)?, space)?;
        let list = match ops.first()? {
            Operand::Vector(list) => &list[..],
            one => std::slice::from_ref(one),
        };
        (list.len() == count).then_some(())?;
        let mut d = Vec::new();
        for item in list {
            d.push(self.dest_w(item)?);
        }
        let op = Op::Ldmatrix(Box::new(Ldmatrix { d, trans, space, base, offset }));
        self.emit(op, Class::Memory, line);
        Some(())
    }

    /// Decodes `cp.async`, its groups and its waits.
    pub(super) fn copy(&mut self, parts: &[&str], ops: &[Operand], line: u32) -> Option<()> {
        (parts.get(1) == Some(&"async")).then_some(())?;
        let op = match parts[2..] {
            ["commit_group"] => Op::CpCommit,
            ["wait_all"] => Op::CpWait(NONE),
            ["wait_group"] => match ops.first()? {
                Operand::Int(n) => Op::CpWait(u32::try_from(*n).ok()?),
                _ => return None,
            },
            ["ca" | "cg", "shared" | "shared::cta", "global", ref hints @ ..] => {
                hints.iter().all(|h| is_hint(h)).then_some(())?;
                let (dst, dst_offset, _) = self.place_operand(ops.first()?, Space::Shared)?;
                let (src, src_offset, _) = self.place_operand(ops.get(1)?, Space::Global)?;
                let Operand::Int(bytes @ (4 | 8 | 16)) = *ops.get(2)? else { return None };
                let mut size = Reg::None;
                let mut ignore = None;
                match ops.get(3) {
                    Some(Operand::Reg(r)) if r.ty == Ty::Pred => {
                        ignore = Some(self.predicate(&ops[3])?);
                    }
                    Some(Operand::Not(_)) => ignore = Some(self.predicate(&ops[3])?),
                    Some(other) => size = self.value(other, Ty::U32)?,
                    None => {}
                }
                let bytes = bytes as u32;
                Op::CpAsync(Box::new(CpAsync {
                    bytes,
                    dst,
                    dst_offset,
                    src,
                    src_offset,
                    size,
                    ignore,
                }))
            }
            _ => return None,
        };
        self.emit(op, Class::Memory, line);
        Some(())
    }
}

fn ty_mask(ty: Ty) -> u64 {
    if is_wide(ty) { u64::MAX } else { (1 << ty.bits()) - 1 }
}
