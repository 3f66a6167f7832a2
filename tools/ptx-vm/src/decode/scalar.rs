//! Decoding of arithmetic: opcode and suffixes to a function, its modifiers and its operands.

use super::Decoder;
use super::forms::{compare, find};
use crate::ast::Operand;
use crate::exec::half;
use crate::exec::scalar::{Cmp, Mods, Rounding, ScalarFn};
use crate::program::{Carry, CarryKind, Class, Join, Op, Pack, PredOp, Reg, Scalar, Setp, Test};
use crate::types::Ty;

/// The suffixes of an arithmetic instruction, by kind.
pub(super) struct Form<'a> {
    pub name: &'a str,
    pub types: Vec<Ty>,
    pub mods: Mods,
    /// Suffixes that are neither a type nor a modifier of all instructions
    pub words: Vec<&'a str>,
}

impl<'a> Form<'a> {
    fn parse(parts: &[&'a str]) -> Option<Form<'a>> {
        let mut mods = Mods::new(Ty::B32);
        let (mut types, mut words) = (Vec::new(), Vec::new());
        for &part in &parts[1..] {
            if let Some(ty) = Ty::parse(part) {
                (ty != Ty::B128).then_some(())?;
                types.push(ty);
                continue;
            }
            match part {
                "ftz" => mods.ftz = true,
                "sat" => mods.sat = true,
                "NaN" | "satfinite" => mods.nan = true,
                "relu" => mods.relu = true,
                "rn" | "rni" => mods.rounding = Rounding::Nearest,
                "rna" => mods.rounding = Rounding::NearestAway,
                "rz" | "rzi" => mods.rounding = Rounding::Zero,
                "rm" | "rmi" => mods.rounding = Rounding::Down,
                "rp" | "rpi" => mods.rounding = Rounding::Up,
                "approx" | "full" => {}
                other => words.push(other),
            }
            mods.integral |= matches!(part, "rni" | "rzi" | "rmi" | "rpi");
        }
        mods.ty = *types.last()?;
        Some(Form { name: parts[0], types, mods, words })
    }
}

impl Decoder<'_> {
    pub(super) fn arithmetic(&mut self, parts: &[&str], ops: &[Operand], line: u32) -> Option<()> {
        let mut form = Form::parse(parts)?;
        let ty = form.mods.ty;
        match form.name {
            "mov" => return self.mov(&form, ops, line),
            "setp" => return self.setp(&form, ops, line),
            "selp" => return self.selp(ty, ops, line),
            "and" | "or" | "xor" | "not" if ty == Ty::Pred => {
                return self.between_predicates(form.name, ops, line);
            }
            "add" | "addc" | "sub" | "subc" | "mad" | "madc"
                if form.name.ends_with('c') || form.words.contains(&"cc") =>
            {
                return self.carry(&form, ops, line);
            }
            "lop3" => {
                let Operand::Int(table @ 0..=255) = *ops.get(4)? else { return None };
                form.mods.mode = table as u8;
            }
            "testp" => {
                let names = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
                let [word] = form.words[..] else { return None };
                form.mods.mode = names.iter().position(|n| *n == word)? as u8;
            }
            _ => {}
        }
        let k = find(&mut form)?;
        let mut s = [Reg::None; 4];
        let given = ops.get(1..)?;
        let extra = usize::from(form.name == "lop3");
        (given.len() == k.s.len() + extra).then_some(())?;
        for ((row, operand), ty) in s.iter_mut().zip(given).zip(&k.s) {
            *row = match (operand, form.name) {
                // A conversion may read a register wider than its source type.
                (Operand::Reg(r), "cvt") if ty.bits() < r.ty.bits() => self.register(*r),
                _ => self.value(operand, *ty)?,
            };
        }
        let d = match ops.first()? {
            Operand::Reg(r) if form.name == "cvt" && r.ty.bits() > k.d.bits() => {
                form.mods.register = r.ty.bits();
                let wider = self.register(*r);
                (wider != Reg::None).then_some(wider)?
            }
            first => {
                form.mods.register = k.d.bits();
                self.dest(first, k.d)?
            }
        };
        // The fast forms read each source from the rows of its type.
        let low_half = matches!((s[0], k.s.first()), (Reg::D(_), Some(ty)) if ty.bits() < 64);
        if let (false, Some(op)) = (low_half, super::vector::fast(&form, d, &s)) {
            self.emit(op, k.class, line);
            return Some(());
        }
        let bits = if form.name == "cvt" { form.mods.register } else { k.d.bits() };
        let scalar = Scalar { f: k.f, mods: form.mods, d, s, bits };
        self.emit(Op::Scalar(Box::new(scalar)), k.class, line);
        Some(())
    }

    fn mov(&mut self, form: &Form, ops: &[Operand], line: u32) -> Option<()> {
        let ty = form.mods.ty;
        let [first, second] = ops else { return None };
        if ty == Ty::Pred {
            let d = self.dest_p(first)?;
            let (p, negated) = self.predicate(second)?;
            let op = Op::Pred(if negated { PredOp::Not } else { PredOp::Mov }, d, p, p);
            self.emit(op, Class::Integer, line);
            return Some(());
        }
        let op = match (first, second) {
            (Operand::Vector(parts), whole) => {
                let p = self.pack(whole, parts, ty, true)?;
                let fast = super::vector::unpack(p.whole, &p.parts, p.bits);
                fast.unwrap_or_else(|| Op::Unpack(Box::new(p)))
            }
            (whole, Operand::Vector(parts)) => {
                let p = self.pack(whole, parts, ty, false)?;
                let fast = super::vector::pack(p.whole, &p.parts, p.bits);
                fast.unwrap_or_else(|| Op::Pack(Box::new(p)))
            }
            (_, Operand::Special(name)) if is_clock(name) => Op::Clock(self.dest(first, ty)?),
            _ => {
                let d = self.dest(first, ty)?;
                let s = self.value(second, ty)?;
                super::vector::mov(d, s)?
            }
        };
        self.emit(op, Class::Integer, line);
        Some(())
    }

    fn pack(&mut self, whole: &Operand, list: &[Operand], ty: Ty, unpack: bool) -> Option<Pack> {
        let bits = ty.bits().checked_div(list.len() as u32)?;
        let part = match bits {
            8 => Ty::B8,
            16 => Ty::B16,
            32 => Ty::B32,
            _ => return None,
        };
        let mut parts = Vec::new();
        for item in list {
            parts.push(match item {
                Operand::Sink if unpack => Reg::None,
                item if unpack => self.dest(item, part)?,
                item => self.value(item, part)?,
            });
        }
        let whole = if unpack { self.value(whole, ty)? } else { self.dest(whole, ty)? };
        Some(Pack { whole, parts, bits })
    }

    fn selp(&mut self, ty: Ty, ops: &[Operand], line: u32) -> Option<()> {
        let [d, a, b, p] = ops else { return None };
        let (d, mut a, mut b) = (self.dest(d, ty)?, self.value(a, ty)?, self.value(b, ty)?);
        let (p, negated) = self.predicate(p)?;
        if negated {
            (a, b) = (b, a);
        }
        let op = match (d, a, b) {
            (Reg::W(d), Reg::W(a), Reg::W(b)) => Op::Selp32(d, a, b, p),
            (Reg::D(d), Reg::D(a), Reg::D(b)) => Op::Selp64(d, a, b, p),
            _ => return None,
        };
        self.emit(op, Class::Integer, line);
        Some(())
    }

    fn between_predicates(&mut self, name: &str, ops: &[Operand], line: u32) -> Option<()> {
        let d = self.dest_p(ops.first()?)?;
        let (a, false) = self.predicate(ops.get(1)?)? else { return None };
        let (op, b) = match name {
            "not" => (PredOp::Not, a),
            name => {
                let (b, false) = self.predicate(ops.get(2)?)? else { return None };
                let op = match name {
                    "and" => PredOp::And,
                    "or" => PredOp::Or,
                    _ => PredOp::Xor,
                };
                (op, b)
            }
        };
        self.emit(Op::Pred(op, d, a, b), Class::Integer, line);
        Some(())
    }

    fn setp(&mut self, form: &Form, ops: &[Operand], line: u32) -> Option<()> {
        let ty = form.mods.ty;
        let mut mods = form.mods;
        mods.cmp = Cmp::parse(form.words.first()?)?;
        let join = match form.words.get(1) {
            None => None,
            Some(&"and") => Some(Join::And),
            Some(&"or") => Some(Join::Or),
            Some(&"xor") => Some(Join::Xor),
            Some(_) => return None,
        };
        let (d, q) = match ops.first()? {
            Operand::Pair(d, q) => {
                let q = if **q == Operand::Sink { None } else { Some(self.dest_p(q)?) };
                (self.dest_p(d)?, q)
            }
            d => (self.dest_p(d)?, None),
        };
        let test = match ty {
            Ty::S32 => Test::S32(mods.cmp),
            Ty::U32 | Ty::B32 => Test::U32(mods.cmp),
            Ty::F32 => Test::F32(mods.cmp, mods.ftz),
            ty => Test::Scalar(compare(ty), mods),
        };
        let (a, b) = (self.value(ops.get(1)?, ty)?, self.value(ops.get(2)?, ty)?);
        let join = match join {
            Some(op) => {
                let (p, negated) = self.predicate(ops.get(3)?)?;
                Some((op, p, negated))
            }
            None => None,
        };
        let packed = ty.is_packed();
        let upper = packed.then_some(half::compare_upper as ScalarFn);
        let q = q.unwrap_or(crate::program::NONE);
        let setp = Setp { test, d, q, upper, a, b, join };
        self.emit(Op::Setp(Box::new(setp)), Class::Integer, line);
        Some(())
    }

    /// Decodes additions with carry; the flag is a predicate without a name.
    fn carry(&mut self, form: &Form, ops: &[Operand], line: u32) -> Option<()> {
        let ty = form.mods.ty;
        let mad = form.name.starts_with("mad");
        let kind = match (form.name, form.words.first()) {
            ("add" | "addc", _) => CarryKind::Add,
            ("sub" | "subc", _) => CarryKind::Sub,
            (_, Some(&"lo")) => CarryKind::MadLo,
            (_, Some(&"hi")) => CarryKind::MadHi,
            _ => return None,
        };
        if self.carry.is_none() {
            self.program.masks += 1;
            self.carry = Some(self.program.masks as u32 - 1);
        }
        (ops.len() == 3 + usize::from(mad)).then_some(())?;
        let d = self.dest(&ops[0], ty)?;
        let mut s = [Reg::None; 3];
        for (row, operand) in s.iter_mut().zip(&ops[1..]) {
            *row = self.value(operand, ty)?;
        }
        let carry = Carry {
            d,
            s,
            bits: ty.bits(),
            signed: ty.is_signed(),
            kind,
            carry_in: form.name.ends_with('c'),
            carry_out: form.words.contains(&"cc"),
            flag: self.carry?,
        };
        self.emit(Op::Carry(Box::new(carry)), Class::Integer, line);
        Some(())
    }
}

fn is_clock(name: &str) -> bool {
    matches!(
        name,
        "%clock"
            | "%clock64"
            | "%clock_hi"
            | "%globaltimer"
            | "%globaltimer_lo"
            | "%globaltimer_hi"
    )
}
