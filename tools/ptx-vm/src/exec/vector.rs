//! The operations that matter for speed, on all 32 lanes at once. The bodies are compiled twice:
//! for AVX2 with FMA, and for any CPU. Both give bitwise equal results: a fused multiply-add rounds
//! once either way, and every NaN result is the one NaN of PTX.

use super::float::{NAN32, flush};
use super::scalar::Cmp;
use super::warp::Warp;
use crate::program::{V32, V64};

/// Values of a 32-bit register over the lanes.
pub(crate) type Row = [u32; 32];
/// Values of a 64-bit register over the lanes.
pub(crate) type Wide = [u64; 32];

#[inline(always)]
fn put<T: Copy>(d: &mut [T; 32], v: &[T; 32], mask: u32) {
    if mask == u32::MAX {
        *d = *v;
        return;
    }
    for i in 0..32 {
        d[i] = if mask >> i & 1 == 1 { v[i] } else { d[i] };
    }
}

#[inline(always)]
fn map1(a: &Row, f: impl Fn(u32) -> u32) -> Row {
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i]);
    }
    out
}

#[inline(always)]
fn map2(a: &Row, b: &Row, f: impl Fn(u32, u32) -> u32) -> Row {
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i], b[i]);
    }
    out
}

#[inline(always)]
fn map3(a: &Row, b: &Row, c: &Row, f: impl Fn(u32, u32, u32) -> u32) -> Row {
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i], b[i], c[i]);
    }
    out
}

#[inline(always)]
fn bits(v: f32) -> u32 {
    if v.is_nan() { NAN32 } else { v.to_bits() }
}

#[inline(always)]
fn float2(a: &Row, b: &Row, ftz: bool, f: impl Fn(f32, f32) -> f32) -> Row {
    if ftz {
        let g = |x, y| flush(bits(f(f32::from_bits(flush(x)), f32::from_bits(flush(y)))));
        map2(a, b, g)
    } else {
        map2(a, b, |x, y| bits(f(f32::from_bits(x), f32::from_bits(y))))
    }
}

#[inline(always)]
fn fma(a: &Row, b: &Row, c: &Row, ftz: bool) -> Row {
    let f = |x, y, z| f32::from_bits(x).mul_add(f32::from_bits(y), f32::from_bits(z));
    if ftz {
        map3(a, b, c, |x, y, z| flush(bits(f(flush(x), flush(y), flush(z)))))
    } else {
        map3(a, b, c, |x, y, z| bits(f(x, y, z)))
    }
}

/// Returns the smaller of two values. -0 is below +0; a NaN operand is ignored.
#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    let first = a < b || (a == b && a.is_sign_negative());
    if b.is_nan() || first { a } else { b }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    let first = a > b || (a == b && b.is_sign_negative());
    if b.is_nan() || first { a } else { b }
}

/// Rounds to bf16, ties to even; every NaN becomes the one NaN of PTX.
#[inline(always)]
fn bf16(x: u32) -> u32 {
    let rounded = x.wrapping_add(0x7FFF + (x >> 16 & 1)) >> 16;
    if x & 0x7FFF_FFFF > 0x7F80_0000 { 0x7FFF } else { rounded }
}

#[inline(always)]
fn lop3(a: &Row, b: &Row, c: &Row, table: u8) -> Row {
    let mut out = [0u32; 32];
    for k in 0..8u8 {
        if table >> k & 1 == 0 {
            continue;
        }
        let flip = |bit: u8| if k >> bit & 1 == 1 { 0 } else { u32::MAX };
        let (fa, fb, fc) = (flip(2), flip(1), flip(0));
        for i in 0..32 {
            out[i] |= (a[i] ^ fa) & (b[i] ^ fb) & (c[i] ^ fc);
        }
    }
    out
}

#[inline(always)]
fn v32_body(op: V32, d: &mut Row, s: [&Row; 3], mask: u32) {
    let [a, b, c] = s;
    let v = match op {
        V32::Mov => *a,
        V32::Add => map2(a, b, u32::wrapping_add),
        V32::Sub => map2(a, b, u32::wrapping_sub),
        V32::Mul => map2(a, b, u32::wrapping_mul),
        V32::Mad => map3(a, b, c, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
        V32::And => map2(a, b, |x, y| x & y),
        V32::Or => map2(a, b, |x, y| x | y),
        V32::Xor => map2(a, b, |x, y| x ^ y),
        V32::Not => map1(a, |x| !x),
        V32::Neg => map1(a, u32::wrapping_neg),
        V32::Shl => map2(a, b, |x, n| if n > 31 { 0 } else { x << (n & 31) }),
        V32::ShrU => map2(a, b, |x, n| if n > 31 { 0 } else { x >> (n & 31) }),
        V32::ShrS => map2(a, b, |x, n| ((x as i32) >> n.min(31)) as u32),
        V32::MinS => map2(a, b, |x, y| (x as i32).min(y as i32) as u32),
        V32::MaxS => map2(a, b, |x, y| (x as i32).max(y as i32) as u32),
        V32::MinU => map2(a, b, u32::min),
        V32::MaxU => map2(a, b, u32::max),
        V32::Lop3(table) => lop3(a, b, c, table),
        V32::ShfWrapL => map3(a, b, c, |lo, hi, n| {
            (((u64::from(hi) << 32 | u64::from(lo)) << (n & 31)) >> 32) as u32
        }),
        V32::FAdd(ftz) => float2(a, b, ftz, |x, y| x + y),
        V32::FSub(ftz) => float2(a, b, ftz, |x, y| x - y),
        V32::FMul(ftz) => float2(a, b, ftz, |x, y| x * y),
        V32::FFma(ftz) => fma(a, b, c, ftz),
        V32::FNeg => map1(a, |x| x ^ 0x8000_0000),
        V32::FAbs => map1(a, |x| x & 0x7FFF_FFFF),
        V32::FMin(ftz) => float2(a, b, ftz, smaller),
        V32::FMax(ftz) => float2(a, b, ftz, larger),
        V32::Pack16 => map2(a, b, |lo, hi| lo | hi << 16),
        V32::Low16 => map1(a, |x| x & 0xFFFF),
        V32::High16 => map1(a, |x| x >> 16),
        V32::Bf16x2 => map2(a, b, |hi, lo| bf16(hi) << 16 | bf16(lo)),
        V32::Bf16 => map1(a, bf16),
        V32::FromS32 => map1(a, |x| (x as i32 as f32).to_bits()),
        V32::ToS32 => map1(a, |x| f32::from_bits(x) as i32 as u32),
    };
    put(d, &v, mask);
}

#[inline(always)]
fn wide2(a: &Wide, b: &Wide, f: impl Fn(u64, u64) -> u64) -> Wide {
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i], b[i]);
    }
    out
}

#[inline(always)]
fn shift(a: &Wide, n: &Row, f: impl Fn(u64, u32) -> u64) -> Wide {
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i], n[i]);
    }
    out
}

#[inline(always)]
fn widen(a: &Row, f: impl Fn(u32) -> u64) -> Wide {
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i]);
    }
    out
}

#[inline(always)]
fn product(a: &Row, b: &Row, signed: bool) -> Wide {
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = if signed {
            (i64::from(a[i] as i32) * i64::from(b[i] as i32)) as u64
        } else {
            u64::from(a[i]) * u64::from(b[i])
        };
    }
    out
}

#[inline(always)]
fn v64_body(op: V64, w: &mut Warp, d: u32, s: [u32; 3], mask: u32) {
    let [a, b, c] = s.map(|row| row as usize);
    let (r32, r64) = (&w.r32, &w.r64);
    let add = |p: Wide, q: &Wide| wide2(&p, q, u64::wrapping_add);
    let v = match op {
        V64::Mov => r64[a],
        V64::Add => wide2(&r64[a], &r64[b], u64::wrapping_add),
        V64::Sub => wide2(&r64[a], &r64[b], u64::wrapping_sub),
        V64::And => wide2(&r64[a], &r64[b], |x, y| x & y),
        V64::Or => wide2(&r64[a], &r64[b], |x, y| x | y),
        V64::Shl => shift(&r64[a], &r32[b], |x, n| if n > 63 { 0 } else { x << (n & 63) }),
        V64::ShrU => shift(&r64[a], &r32[b], |x, n| if n > 63 { 0 } else { x >> (n & 63) }),
        V64::ShrS => shift(&r64[a], &r32[b], |x, n| ((x as i64) >> n.min(63)) as u64),
        V64::MulWideS => product(&r32[a], &r32[b], true),
        V64::MulWideU => product(&r32[a], &r32[b], false),
        V64::MadWideS => add(product(&r32[a], &r32[b], true), &r64[c]),
        V64::MadWideU => add(product(&r32[a], &r32[b], false), &r64[c]),
        V64::ExtendS => widen(&r32[a], |x| i64::from(x as i32) as u64),
        V64::ExtendU => widen(&r32[a], u64::from),
        V64::Pack32 => {
            let (lo, hi) = (&r32[a], &r32[b]);
            std::array::from_fn(|i| u64::from(lo[i]) | u64::from(hi[i]) << 32)
        }
    };
    put(&mut w.r64[d as usize], &v, mask);
}

#[inline(always)]
fn test(a: &Row, b: &Row, f: impl Fn(u32, u32) -> bool) -> u32 {
    let mut out = 0;
    for i in 0..32 {
        out |= u32::from(f(a[i], b[i])) << i;
    }
    out
}

#[inline(always)]
fn ordered<T: Copy + PartialOrd>(cmp: Cmp, a: &Row, b: &Row, f: impl Fn(u32) -> T) -> u32 {
    match cmp {
        Cmp::Eq => test(a, b, |x, y| f(x) == f(y)),
        Cmp::Ne => test(a, b, |x, y| f(x) < f(y) || f(x) > f(y)),
        Cmp::Lt => test(a, b, |x, y| f(x) < f(y)),
        Cmp::Le => test(a, b, |x, y| f(x) <= f(y)),
        Cmp::Gt => test(a, b, |x, y| f(x) > f(y)),
        Cmp::Ge => test(a, b, |x, y| f(x) >= f(y)),
        Cmp::Equ => !ordered_ne(a, b, &f),
        Cmp::Neu => test(a, b, |x, y| f(x) != f(y)),
        Cmp::Ltu => !test(a, b, |x, y| f(x) >= f(y)),
        Cmp::Leu => !test(a, b, |x, y| f(x) > f(y)),
        Cmp::Gtu => !test(a, b, |x, y| f(x) <= f(y)),
        Cmp::Geu => !test(a, b, |x, y| f(x) < f(y)),
        Cmp::Num => test(a, b, |x, y| f(x).partial_cmp(&f(y)).is_some()),
        Cmp::Nan => test(a, b, |x, y| f(x).partial_cmp(&f(y)).is_none()),
    }
}

#[inline(always)]
fn ordered_ne<T: Copy + PartialOrd>(a: &Row, b: &Row, f: &impl Fn(u32) -> T) -> u32 {
    test(a, b, |x, y| f(x) < f(y) || f(x) > f(y))
}

/// Interpretation of the bits in a comparison.
#[derive(Clone, Copy)]
pub(crate) enum Compared {
    Signed,
    Unsigned,
    Float,
    FloatFlushed,
}

#[inline(always)]
fn compare_body(kind: Compared, cmp: Cmp, a: &Row, b: &Row) -> u32 {
    match kind {
        Compared::Signed => ordered(cmp, a, b, |x| x as i32),
        Compared::Unsigned => ordered(cmp, a, b, |x| x),
        Compared::Float => ordered(cmp, a, b, f32::from_bits),
        Compared::FloatFlushed => ordered(cmp, a, b, |x| f32::from_bits(flush(x))),
    }
}

#[inline(always)]
fn select_body(w: &mut Warp, d: u32, s: [u32; 2], truth: u32, mask: u32, wide: bool) {
    let [a, b] = s.map(|row| row as usize);
    if wide {
        let mut v = w.r64[b];
        put(&mut v, &w.r64[a], truth);
        put(&mut w.r64[d as usize], &v, mask);
    } else {
        let mut v = w.r32[b];
        put(&mut v, &w.r32[a], truth);
        put(&mut w.r32[d as usize], &v, mask);
    }
}

/// Compiles a body also for AVX2 with FMA, and selects one at run time.
macro_rules! two_ways {
    ($(#[$doc:meta])* $name:ident, $body:ident, ($($arg:ident: $ty:ty),*) $(-> $out:ty)?) => {
        $(#[$doc])*
        pub(crate) fn $name(fast: bool, $($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn compiled($($arg: $ty),*) $(-> $out)? {
                    $body($($arg),*)
                }
                if fast {
                    // SAFETY: `fast` is set only where the CPU has AVX2 and FMA.
                    return unsafe { compiled($($arg),*) };
                }
            }
            let _ = fast;
            $body($($arg),*)
        }
    };
}
pub(crate) use two_ways;

#[inline(always)]
fn v32_rows(op: V32, w: &mut Warp, d: u32, s: [u32; 3], mask: u32) {
    let s = s.map(|row| w.r32[row as usize]);
    v32_body(op, &mut w.r32[d as usize], [&s[0], &s[1], &s[2]], mask);
}

two_ways!(
    /// Executes a 32-bit operation.
    v32, v32_rows, (op: V32, w: &mut Warp, d: u32, s: [u32; 3], mask: u32)
);
two_ways!(
    /// Executes a 64-bit operation.
    v64, v64_body, (op: V64, w: &mut Warp, d: u32, s: [u32; 3], mask: u32)
);
two_ways!(
    /// Returns the mask of lanes where a comparison holds.
    compare, compare_body, (kind: Compared, cmp: Cmp, a: &Row, b: &Row) -> u32
);
two_ways!(
    /// Selects the first source where `truth` is set, the second elsewhere.
    select, select_body,
    (w: &mut Warp, d: u32, s: [u32; 2], truth: u32, mask: u32, wide: bool)
);

/// Whether the CPU can run the AVX2 form.
pub(crate) fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}
