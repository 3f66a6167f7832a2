//! Integer and bit instructions, one lane at a time. Arguments are zero-extended bits; the caller
//! truncates the result to the width of the destination.

use super::scalar::Mods;

/// Sign-extends the low `bits` of `v`.
pub(crate) fn sext(v: u64, bits: u32) -> i64 {
    let shift = 64 - bits;
    ((v << shift) as i64) >> shift
}

/// Zero-extends the low `bits` of `v`.
pub(crate) fn zext(v: u64, bits: u32) -> u64 {
    if bits == 64 { v } else { v & ((1 << bits) - 1) }
}

/// Returns the value as a wide integer, by the signedness of the instruction's type.
fn wide(m: &Mods, v: u64) -> i128 {
    let bits = m.ty.bits();
    if m.ty.is_signed() { i128::from(sext(v, bits)) } else { i128::from(zext(v, bits)) }
}

/// Returns the smallest and largest value of the type.
fn limits(m: &Mods) -> (i128, i128) {
    let bits = m.ty.bits();
    if m.ty.is_signed() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    }
}

fn saturated(m: &Mods, v: i128) -> u64 {
    let (low, high) = limits(m);
    if m.sat { v.clamp(low, high) as u64 } else { v as u64 }
}

pub fn add(m: &Mods, s: [u64; 4]) -> u64 {
    saturated(m, wide(m, s[0]) + wide(m, s[1]))
}

pub fn sub(m: &Mods, s: [u64; 4]) -> u64 {
    saturated(m, wide(m, s[0]) - wide(m, s[1]))
}

pub fn mul_lo(_: &Mods, s: [u64; 4]) -> u64 {
    s[0].wrapping_mul(s[1])
}

pub fn mul_hi(m: &Mods, s: [u64; 4]) -> u64 {
    product(m, s[0], s[1])[1]
}

pub fn mul_wide(m: &Mods, s: [u64; 4]) -> u64 {
    (wide(m, s[0]).wrapping_mul(wide(m, s[1]))) as u64
}

/// Returns the low and high word of the full product, each as wide as the type.
fn product(m: &Mods, a: u64, b: u64) -> [u64; 2] {
    let bits = m.ty.bits();
    if bits == 64 && !m.ty.is_signed() {
        let p = u128::from(a) * u128::from(b);
        return [p as u64, (p >> 64) as u64];
    }
    let p = wide(m, a).wrapping_mul(wide(m, b));
    [p as u64, (p >> bits) as u64]
}

pub fn mad_lo(_: &Mods, s: [u64; 4]) -> u64 {
    s[0].wrapping_mul(s[1]).wrapping_add(s[2])
}

pub fn mad_hi(m: &Mods, s: [u64; 4]) -> u64 {
    saturated(m, wide(m, product(m, s[0], s[1])[1]) + wide(m, s[2]))
}

pub fn mad_wide(m: &Mods, s: [u64; 4]) -> u64 {
    mul_wide(m, s).wrapping_add(s[2])
}

/// Returns the low 24 bits of an operand.
fn low24(m: &Mods, v: u64) -> i64 {
    if m.ty.is_signed() { sext(v, 24) } else { zext(v, 24) as i64 }
}

pub fn mad24_lo(m: &Mods, s: [u64; 4]) -> u64 {
    (low24(m, s[0]) * low24(m, s[1])).wrapping_add(s[2] as i64) as u64
}

pub fn mad24_hi(m: &Mods, s: [u64; 4]) -> u64 {
    ((low24(m, s[0]) * low24(m, s[1])) >> 16).wrapping_add(s[2] as i64) as u64
}

pub fn sad(m: &Mods, s: [u64; 4]) -> u64 {
    ((wide(m, s[0]) - wide(m, s[1])).unsigned_abs() as u64).wrapping_add(s[2])
}

/// Divides; division by zero gives all bits set, as on the hardware.
pub fn div(m: &Mods, s: [u64; 4]) -> u64 {
    let (a, b) = (wide(m, s[0]), wide(m, s[1]));
    if b == 0 { u64::MAX } else { (a / b) as u64 }
}

/// Computes the remainder; by zero it is the dividend.
pub fn rem(m: &Mods, s: [u64; 4]) -> u64 {
    let (a, b) = (wide(m, s[0]), wide(m, s[1]));
    if b == 0 { s[0] } else { (a % b) as u64 }
}

pub fn abs(m: &Mods, s: [u64; 4]) -> u64 {
    wide(m, s[0]).unsigned_abs() as u64
}

pub fn neg(_: &Mods, s: [u64; 4]) -> u64 {
    s[0].wrapping_neg()
}

pub fn min(m: &Mods, s: [u64; 4]) -> u64 {
    relu(m, wide(m, s[0]).min(wide(m, s[1])))
}

pub fn max(m: &Mods, s: [u64; 4]) -> u64 {
    relu(m, wide(m, s[0]).max(wide(m, s[1])))
}

fn relu(m: &Mods, v: i128) -> u64 {
    if m.relu { v.max(0) as u64 } else { v as u64 }
}

/// Applies `f` to each of two 16-bit halves.
fn halves(s: [u64; 4], f: impl Fn(i64, i64) -> i64, signed: bool) -> u64 {
    let part = |v: u64, k: u32| {
        let half = (v >> (16 * k)) & 0xFFFF;
        if signed { sext(half, 16) } else { half as i64 }
    };
    let one = |k| (f(part(s[0], k), part(s[1], k)) as u64) & 0xFFFF;
    one(0) | one(1) << 16
}

pub fn add_x2(m: &Mods, s: [u64; 4]) -> u64 {
    halves(s, |a, b| a + b, m.ty.is_signed())
}

pub fn min_x2(m: &Mods, s: [u64; 4]) -> u64 {
    halves(s, |a, b| if m.relu { a.min(b).max(0) } else { a.min(b) }, m.ty.is_signed())
}

pub fn max_x2(m: &Mods, s: [u64; 4]) -> u64 {
    halves(s, |a, b| if m.relu { a.max(b).max(0) } else { a.max(b) }, m.ty.is_signed())
}

pub fn and(_: &Mods, s: [u64; 4]) -> u64 {
    s[0] & s[1]
}

pub fn or(_: &Mods, s: [u64; 4]) -> u64 {
    s[0] | s[1]
}

pub fn xor(_: &Mods, s: [u64; 4]) -> u64 {
    s[0] ^ s[1]
}

pub fn not(_: &Mods, s: [u64; 4]) -> u64 {
    !s[0]
}

pub fn cnot(m: &Mods, s: [u64; 4]) -> u64 {
    u64::from(zext(s[0], m.ty.bits()) == 0)
}

/// Shifts left; a shift by the width or more gives zero.
pub fn shl(m: &Mods, s: [u64; 4]) -> u64 {
    let by = s[1] & 0xFFFF_FFFF;
    if by >= u64::from(m.ty.bits()) { 0 } else { s[0] << by }
}

/// Shifts right; a shift by the width or more leaves only the sign.
pub fn shr(m: &Mods, s: [u64; 4]) -> u64 {
    let bits = m.ty.bits();
    let by = (s[1] & 0xFFFF_FFFF).min(u64::from(bits));
    if m.ty.is_signed() {
        (sext(s[0], bits) >> by.min(63)) as u64
    } else {
        zext(s[0], bits).checked_shr(by as u32).unwrap_or(0)
    }
}

/// Executes `shf.l`: the high word of `(b:a) << c`.
pub fn shf_l(m: &Mods, s: [u64; 4]) -> u64 {
    let by = if m.wrap { s[2] & 31 } else { (s[2] & 0xFFFF_FFFF).min(32) };
    (((s[1] << 32) | s[0]) << by) >> 32
}

/// Executes `shf.r`: the low word of `(b:a) >> c`.
pub fn shf_r(m: &Mods, s: [u64; 4]) -> u64 {
    let by = if m.wrap { s[2] & 31 } else { (s[2] & 0xFFFF_FFFF).min(32) };
    ((s[1] << 32) | s[0]) >> by
}

pub fn popc(_: &Mods, s: [u64; 4]) -> u64 {
    u64::from(s[0].count_ones())
}

pub fn clz(m: &Mods, s: [u64; 4]) -> u64 {
    u64::from(s[0].leading_zeros() - (64 - m.ty.bits()))
}

/// Finds the highest bit that differs from the sign.
pub fn bfind(m: &Mods, s: [u64; 4]) -> u64 {
    let bits = m.ty.bits();
    let mut v = zext(s[0], bits);
    if m.ty.is_signed() && sext(v, bits) < 0 {
        v = zext(!v, bits);
    }
    if v == 0 {
        return 0xFFFF_FFFF;
    }
    let position = 63 - u64::from(v.leading_zeros());
    if m.wrap { u64::from(bits) - 1 - position } else { position }
}

/// Finds the n-th set bit of `a` from position `b`. It searches up (n > 0) or down (n < 0); n = 0
/// tests `b` itself.
pub fn fns(_: &Mods, s: [u64; 4]) -> u64 {
    let (mask, base, n) = (s[0] as u32, s[1] as u32, s[2] as i32);
    let none = 0xFFFF_FFFF;
    let set = |i: i64| (0..32).contains(&i) && mask >> i & 1 == 1;
    if n == 0 {
        return if set(i64::from(base)) { u64::from(base) } else { none };
    }
    let step = i64::from(n.signum());
    let (mut left, mut i) = (n.unsigned_abs(), i64::from(base));
    while (0..32).contains(&i) {
        left -= u32::from(set(i));
        if left == 0 {
            return i as u64;
        }
        i += step;
    }
    none
}

pub fn brev(m: &Mods, s: [u64; 4]) -> u64 {
    s[0].reverse_bits() >> (64 - m.ty.bits())
}

pub fn bfe(m: &Mods, s: [u64; 4]) -> u64 {
    let bits = m.ty.bits();
    let (pos, len) = ((s[1] & 0xFF) as u32, (s[2] & 0xFF) as u32);
    if len == 0 {
        return 0;
    }
    let value = zext(s[0], bits);
    let sign_at = (pos + len - 1).min(bits - 1);
    let sign = m.ty.is_signed() && value >> sign_at & 1 == 1;
    let part = value.checked_shr(pos).filter(|_| pos < bits).unwrap_or(0);
    let have = len.min(bits.saturating_sub(pos));
    let field = if have == 0 { 0 } else { zext(part, have) };
    match (sign, have) {
        (true, 0) => u64::MAX,
        (true, n) if n < 64 => field | u64::MAX << n,
        _ => field,
    }
}

pub fn bfi(m: &Mods, s: [u64; 4]) -> u64 {
    let bits = m.ty.bits();
    let (pos, len) = ((s[2] & 0xFF) as u32, (s[3] & 0xFF) as u32);
    if len == 0 || pos >= bits {
        return s[1];
    }
    let mask = zext(u64::MAX, len.min(bits - pos)) << pos;
    (s[1] & !mask) | (s[0] << pos & mask)
}

/// Returns a mask of `b` bits from bit `a` up.
pub fn bmsk(m: &Mods, s: [u64; 4]) -> u64 {
    let clip = |v: u64| if m.wrap { v & 31 } else { (v & 0xFFFF_FFFF).min(32) };
    let (from, length) = (clip(s[0]), clip(s[1]));
    (((1u64 << length) - 1) << from) & 0xFFFF_FFFF
}

/// Executes `prmt` in its default mode.
pub fn prmt(_: &Mods, s: [u64; 4]) -> u64 {
    let source = s[0] | s[1] << 32;
    (0..4).fold(0, |out, k| out | permuted(source, s[2] >> (4 * k)) << (8 * k))
}

/// Selects one byte by a nibble: three bits of position, one that replicates the sign.
fn permuted(source: u64, selector: u64) -> u64 {
    let byte = source >> (8 * (selector & 7)) & 0xFF;
    if selector & 8 == 0 { byte } else { (byte >> 7) * 0xFF }
}

/// Executes `prmt` in the modes f4e, b4e, rc8, ecl, ecr, rc16, numbered in that order.
pub fn prmt_mode(m: &Mods, s: [u64; 4]) -> u64 {
    let source = s[0] | s[1] << 32;
    let c = s[2] & 3;
    let pick = |k: u64| match m.mode {
        0 => (c + k) & 7,
        1 => (c + 8 - k) & 7,
        2 => c,
        3 => k.max(c),
        4 => k.min(c),
        _ => (c & 1) * 2 + (k & 1),
    };
    (0..4).fold(0, |out, k| out | (source >> (8 * pick(k)) & 0xFF) << (8 * k))
}

pub fn lop3(m: &Mods, s: [u64; 4]) -> u64 {
    let (a, b, c) = (s[0], s[1], s[2]);
    let mut out = 0;
    for k in 0..8u8 {
        if m.mode >> k & 1 == 1 {
            let pick = |v: u64, bit: u8| if k >> bit & 1 == 1 { v } else { !v };
            out |= pick(a, 2) & pick(b, 1) & pick(c, 0);
        }
    }
    out
}

/// Computes the sum of four byte products; `m.from` has the second operand's signedness.
pub fn dp4a(m: &Mods, s: [u64; 4]) -> u64 {
    let byte = |v: u64, k: u32, signed: bool| {
        let b = v >> (8 * k) & 0xFF;
        if signed { sext(b, 8) } else { b as i64 }
    };
    let one = |k| byte(s[0], k, m.ty.is_signed()) * byte(s[1], k, m.from.is_signed());
    (0..4).map(one).fold(s[2] as i64, i64::wrapping_add) as u64
}

/// Computes the sum of two products of a 16-bit and an 8-bit value; `m.mode` 2 takes the upper
/// bytes.
pub fn dp2a(m: &Mods, s: [u64; 4]) -> u64 {
    let part = |v: u64, shift: u32, bits: u32, signed: bool| {
        let b = zext(v >> shift, bits);
        if signed { sext(b, bits) } else { b as i64 }
    };
    let one = |k: u32| {
        let a = part(s[0], 16 * k, 16, m.ty.is_signed());
        let b = part(s[1], 8 * (k + u32::from(m.mode)), 8, m.from.is_signed());
        a * b
    };
    (0..2).map(one).fold(s[2] as i64, i64::wrapping_add) as u64
}

/// Executes `slct`: `a` if `c >= 0`.
pub fn slct_s32(_: &Mods, s: [u64; 4]) -> u64 {
    if s[2] as u32 as i32 >= 0 { s[0] } else { s[1] }
}

pub fn slct_f32(m: &Mods, s: [u64; 4]) -> u64 {
    let c = super::float::input(m, s[2]);
    if c >= 0.0 { s[0] } else { s[1] }
}

/// Adds the start of a window to an address; the start is the second operand.
pub fn add_address(_: &Mods, s: [u64; 4]) -> u64 {
    s[0].wrapping_add(s[1])
}

/// Compares integers by `m.cmp`.
pub fn compare(m: &Mods, s: [u64; 4]) -> u64 {
    let (a, b) = (wide(m, s[0]), wide(m, s[1]));
    u64::from(m.cmp.holds(a.partial_cmp(&b)))
}
