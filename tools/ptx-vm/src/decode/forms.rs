//! The table of arithmetic forms: name and suffixes to function, types and class.

use super::scalar::Form;
use crate::exec::scalar::{Cmp, Mods, ScalarFn};
use crate::exec::{convert, float, half, int};
use crate::program::Class;
use crate::types::Ty;

/// A function with the types of its destination and sources.
pub(super) struct Known {
    pub f: ScalarFn,
    pub d: Ty,
    pub s: Vec<Ty>,
    pub class: Class,
}

fn known(f: ScalarFn, d: Ty, s: &[Ty], class: Class) -> Option<Known> {
    Some(Known { f, d, s: s.to_vec(), class })
}

/// Returns the function that compares values of a type.
pub(super) fn compare(ty: Ty) -> ScalarFn {
    match ty {
        Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2 => half::compare,
        Ty::F64 => float::compare,
        _ => int::compare,
    }
}

/// Finds the function of a form; sets the modifiers that follow from its name.
pub(super) fn find(form: &mut Form) -> Option<Known> {
    lookup(form).or_else(|| float_lookup(form))
}

/// Finds integer, bit and conversion instructions.
fn lookup(form: &mut Form) -> Option<Known> {
    let ty = form.mods.ty;
    form.mods.wrap = form.words.contains(&"wrap") || form.words.contains(&"shiftamt");
    if ty.is_int() && form.name != "cvt" {
        let found = int_arithmetic(form).or_else(|| int_bits(form));
        if found.is_some() {
            return found;
        }
    }
    let (m, words, class) = (&mut form.mods, &form.words[..], Class::Integer);
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

fn int_arithmetic(form: &Form) -> Option<Known> {
    let (ty, class) = (form.mods.ty, Class::Integer);
    let double = match ty {
        Ty::U16 => Some(Ty::U32),
        Ty::S16 => Some(Ty::S32),
        Ty::U32 => Some(Ty::U64),
        Ty::S32 => Some(Ty::S64),
        _ => None,
    };
    let (one, two, three) = ([ty], [ty, ty], [ty, ty, ty]);
    let wide = double.unwrap_or(ty);
    match (form.name, &form.words[..]) {
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
        _ => None,
    }
}

fn int_bits(form: &mut Form) -> Option<Known> {
    let (m, words, class) = (&mut form.mods, &form.words[..], Class::Integer);
    let ty = m.ty;
    let (one, two, three) = ([ty], [ty, ty], [ty, ty, ty]);
    let shift = [ty, Ty::U32];
    match (form.name, words) {
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
    }
}

/// Executes `set`: all ones or 1.0 if the comparison holds.
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

/// Finds float instructions.
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
