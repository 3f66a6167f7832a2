//! Arithmetic: from opcode and suffixes to a function, its modifiers and its operands.

use super::Decoder;
use crate::ast::Operand;
use crate::exec::scalar::{Cmp, Mods, Rounding, ScalarFn};
use crate::exec::{convert, float, half, int};
use crate::program::{Carry, CarryKind, Class, Join, Op, Pack, PredOp, Reg, Scalar, Setp, Test};
use crate::types::Ty;

/// The suffixes of an arithmetic instruction, sorted.
pub(super) struct Form<'a> {
    pub name: &'a str,
    pub types: Vec<Ty>,
    pub mods: Mods,
    /// What is neither a type nor a modifier that all instructions share
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

/// A function with the types of its destination and sources.
struct Known {
    f: ScalarFn,
    d: Ty,
    s: Vec<Ty>,
    class: Class,
}

fn known(f: ScalarFn, d: Ty, s: &[Ty], class: Class) -> Option<Known> {
    Some(Known { f, d, s: s.to_vec(), class })
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
        let k = lookup(&mut form).or_else(|| float_lookup(&form))?;
        let mut s = [Reg::None; 4];
        let given = ops.get(1..)?;
        let extra = usize::from(form.name == "lop3");
        (given.len() == k.s.len() + extra).then_some(())?;
        for ((row, operand), ty) in s.iter_mut().zip(given).zip(&k.s) {
            *row = match (operand, form.name) {
                // A conversion may read a register wider than its source type.
                (Operand::Reg(r), "cvt") if ty.bits() < r.ty.bits() && r.ty.bits() <= 32 => {
                    self.register(*r)
                }
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
        if let Some(op) = super::vector::fast(&form, d, &s) {
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

    /// Additions with carry; the flag is a predicate that no name reaches.
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

fn compare(ty: Ty) -> ScalarFn {
    match ty {
        Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2 => half::compare,
        Ty::F64 => float::compare,
        _ => int::compare,
    }
}

/// Integer, bit and conversion instructions.
fn lookup(form: &mut Form) -> Option<Known> {
    let m = &mut form.mods;
    let ty = m.ty;
    let words = &form.words[..];
    let double = match ty {
        Ty::U16 => Some(Ty::U32),
        Ty::S16 => Some(Ty::S32),
        Ty::U32 => Some(Ty::U64),
        Ty::S32 => Some(Ty::S64),
        _ => None,
    };
    let class = Class::Integer;
    m.wrap = words.contains(&"wrap") || words.contains(&"shiftamt");
    if ty.is_int() && (form.name != "cvt") {
        let (one, two, three) = ([ty], [ty, ty], [ty, ty, ty]);
        let shift = [ty, Ty::U32];
        let wide = double.unwrap_or(ty);
        let found = match (form.name, words) {
            ("add", []) => known(int::add, ty, &two, class),
            ("sub", []) => known(int::sub, ty, &two, class),
            ("mul", ["lo"]) => known(int::mul_lo, ty, &two, class),
            ("mul", ["hi"]) => known(int::mul_hi, ty, &two, class),
            ("mul", ["wide"]) => known(int::mul_wide, double?, &two, class),
            ("mad", ["lo"]) => known(int::mad_lo, ty, &three, class),
            ("mad", ["hi"]) => known(int::mad_hi, ty, &three, class),
            ("mad", ["wide"]) => known(int::mad_wide, double?, &[ty, ty, wide], class),
            ("mad24", ["lo"]) => known(int::mad24_lo, ty, &three, class),
            ("mad24", ["hi"]) => known(int::mad24_hi, ty, &three, class),
            ("mul24", ["lo"]) => known(int::mad24_lo, ty, &two, class),
            ("mul24", ["hi"]) => known(int::mad24_hi, ty, &two, class),
            ("sad", []) => known(int::sad, ty, &three, class),
            ("div", []) => known(int::div, ty, &two, class),
            ("rem", []) => known(int::rem, ty, &two, class),
            ("abs", []) => known(int::abs, ty, &one, class),
            ("neg", []) => known(int::neg, ty, &one, class),
            ("min", []) => known(int::min, ty, &two, class),
            ("max", []) => known(int::max, ty, &two, class),
            ("and", []) => known(int::and, ty, &two, class),
            ("or", []) => known(int::or, ty, &two, class),
            ("xor", []) => known(int::xor, ty, &two, class),
            ("not", []) => known(int::not, ty, &one, class),
            ("cnot", []) => known(int::cnot, ty, &one, class),
            ("shl", []) => known(int::shl, ty, &shift, class),
            ("shr", []) => known(int::shr, ty, &shift, class),
            ("popc", []) => known(int::popc, Ty::U32, &one, class),
            ("clz", []) => known(int::clz, Ty::U32, &one, class),
            ("bfind", [] | ["shiftamt"]) => known(int::bfind, Ty::U32, &one, class),
            ("brev", []) => known(int::brev, ty, &one, class),
            ("fns", []) => known(int::fns, ty, &[Ty::B32, Ty::B32, Ty::S32], class),
            ("bfe", []) => known(int::bfe, ty, &[ty, Ty::U32, Ty::U32], class),
            ("bfi", []) => known(int::bfi, ty, &[ty, ty, Ty::U32, Ty::U32], class),
            ("bmsk", ["clamp"] | ["wrap"]) => known(int::bmsk, ty, &two, class),
            ("shf", ["l", "clamp" | "wrap"]) => known(int::shf_l, ty, &three, class),
            ("shf", ["r", "clamp" | "wrap"]) => known(int::shf_r, ty, &three, class),
            ("lop3", []) => known(int::lop3, ty, &three, class),
            ("prmt", []) => known(int::prmt, ty, &three, class),
            ("prmt", [mode]) => {
                let modes = ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"];
                m.mode = modes.iter().position(|k| k == mode)? as u8;
                known(int::prmt_mode, ty, &three, class)
            }
            ("dp4a", []) if form.types.len() == 2 => {
                (m.ty, m.from) = (form.types[0], form.types[1]);
                known(int::dp4a, Ty::B32, &[Ty::B32; 3], class)
            }
            ("dp2a", ["lo" | "hi"]) if form.types.len() == 2 => {
                (m.ty, m.from) = (form.types[0], form.types[1]);
                m.mode = if words[0] == "hi" { 2 } else { 0 };
                known(int::dp2a, Ty::B32, &[Ty::B32; 3], class)
            }
            ("slct", []) if form.types.len() == 2 => {
                let d = form.types[0];
                known(int::slct_s32, d, &[d, d, Ty::S32], class)
            }
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    match (form.name, words) {
        ("add", []) if matches!(ty, Ty::U16x2 | Ty::S16x2) => {
            known(int::add_x2, ty, &[ty, ty], class)
        }
        ("min", []) if matches!(ty, Ty::U16x2 | Ty::S16x2) => {
            known(int::min_x2, ty, &[ty, ty], class)
        }
        ("max", []) if matches!(ty, Ty::U16x2 | Ty::S16x2) => {
            known(int::max_x2, ty, &[ty, ty], class)
        }
        ("slct", []) if ty == Ty::F32 && form.types.len() == 2 => {
            let d = form.types[0];
            known(int::slct_f32, d, &[d, d, Ty::F32], class)
        }
        ("set", [cmp]) if form.types.len() == 2 => {
            m.cmp = Cmp::parse(cmp)?;
            (m.ty, m.from) = (ty, form.types[0]);
            known(set, m.from, &[ty, ty], class)
        }
        ("cvt", []) if form.types.len() == 2 => conversion(form),
        ("cvt", ["pack"]) => None,
        _ => None,
    }
}

/// `set`: all ones or 1.0 where the comparison holds.
fn set(m: &Mods, s: [u64; 4]) -> u64 {
    let f = if m.ty == Ty::F32 { float::compare } else { compare(m.ty) };
    let one = |truth: u64, half: u64| if truth == 0 { 0 } else { half };
    match m.from {
        Ty::F32 => one(f(m, s), u64::from(1f32.to_bits())),
        Ty::F16 => one(f(m, s), 0x3C00),
        Ty::Bf16 => one(f(m, s), 0x3F80),
        Ty::F16x2 => one(f(m, s), 0x3C00) | one(half::compare_upper(m, s), 0x3C00) << 16,
        Ty::Bf16x2 => one(f(m, s), 0x3F80) | one(half::compare_upper(m, s), 0x3F80) << 16,
        _ if m.ty.is_packed() => {
            one(f(m, s), 0xFFFF) | one(half::compare_upper(m, s), 0xFFFF) << 16
        }
        _ => one(f(m, s), u64::MAX),
    }
}

fn conversion(form: &mut Form) -> Option<Known> {
    let (d, s) = (form.types[0], form.types[1]);
    (form.mods.ty, form.mods.from) = (d, s);
    let f: ScalarFn = match (d, s) {
        (Ty::F16x2 | Ty::Bf16x2, Ty::F32) => {
            return known(convert::pair, d, &[s, s], Class::Float);
        }
        _ if d.is_int() && s.is_int() => convert::int_to_int,
        _ if d.is_int() && s.is_float() => convert::float_to_int,
        _ if d.is_float() && s.is_int() => convert::int_to_float,
        _ if d.is_float() && s.is_float() => convert::float_to_float,
        _ => return None,
    };
    let class = if d.is_int() && s.is_int() { Class::Integer } else { Class::Float };
    known(f, d, &[s], class)
}

/// Float instructions.
fn float_lookup(form: &Form) -> Option<Known> {
    let ty = form.mods.ty;
    let (one, two, three) = ([ty], [ty, ty], [ty, ty, ty]);
    let is_half = matches!(ty, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2);
    let index = match ty {
        Ty::F32 => 0,
        Ty::F64 => 1,
        _ if is_half => 2,
        _ => return None,
    };
    let pick = |f: [Option<ScalarFn>; 3]| f[index];
    if form.name == "testp" && index < 2 {
        return known(float::testp, Ty::Pred, &one, Class::Float);
    }
    let (class, special) = (Class::Float, Class::Special);
    if !form.words.is_empty() {
        return None;
    }
    let all = |a: ScalarFn, b: ScalarFn, c: ScalarFn| pick([Some(a), Some(b), Some(c)]);
    let no_half = |a: ScalarFn, b: ScalarFn| pick([Some(a), Some(b), None]);
    match form.name {
        "add" => known(all(float::add_f32, float::add_f64, half::add)?, ty, &two, class),
        "sub" => known(all(float::sub_f32, float::sub_f64, half::sub)?, ty, &two, class),
        "mul" => known(all(float::mul_f32, float::mul_f64, half::mul)?, ty, &two, class),
        "fma" | "mad" => known(all(float::fma_f32, float::fma_f64, half::fma)?, ty, &three, class),
        "min" => known(all(float::min_f32, float::min_f64, half::min)?, ty, &two, class),
        "max" => known(all(float::max_f32, float::max_f64, half::max)?, ty, &two, class),
        "neg" => known(all(float::neg_f32, float::neg_f64, half::neg)?, ty, &one, class),
        "abs" => known(all(float::abs_f32, float::abs_f64, half::abs)?, ty, &one, class),
        "div" => known(no_half(float::div_f32, float::div_f64)?, ty, &two, special),
        "rcp" => known(no_half(float::rcp_f32, float::rcp_f64)?, ty, &one, special),
        "sqrt" => known(no_half(float::sqrt_f32, float::sqrt_f64)?, ty, &one, special),
        "rsqrt" => known(no_half(float::rsqrt_f32, float::rsqrt_f64)?, ty, &one, special),
        "copysign" => known(no_half(float::copysign_f32, float::copysign_f64)?, ty, &two, class),
        "ex2" => known(pick([Some(float::ex2_f32), None, Some(half::ex2)])?, ty, &one, special),
        "tanh" => known(pick([Some(float::tanh_f32), None, Some(half::tanh)])?, ty, &one, special),
        "lg2" => known(pick([Some(float::lg2_f32), None, None])?, ty, &one, special),
        "sin" => known(pick([Some(float::sin_f32), None, None])?, ty, &one, special),
        "cos" => known(pick([Some(float::cos_f32), None, None])?, ty, &one, special),
        _ => None,
    }
}
