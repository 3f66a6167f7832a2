//! Floating-point instructions compared with Rust, including all roundings of conversions.

#[path = "common/snippet.rs"]
mod snippet;

use half::{bf16, f16};
use snippet::{check, float_inputs};

const NAN: u32 = 0x7FFF_FFFF;

fn canonical(v: f32) -> u32 {
    if v.is_nan() { NAN } else { v.to_bits() }
}

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn check32(op: &str, sources: usize, want: impl Fn(f32, f32, f32) -> u32) {
    let list = ["%f1", "%f1, %f2", "%f1, %f2, %f3"][sources - 1];
    let body = format!("{op} %f4, {list}; mov.b32 %r4, %f4; cvt.u64.u32 %rd0, %r4;");
    check(&body, &float_inputs(), |[a, b, c]| u64::from(want(f(a), f(b), f(c))));
}

fn flush(v: f32) -> f32 {
    if v.is_subnormal() { 0f32.copysign(v) } else { v }
}

#[test]
fn arithmetic_of_f32() {
    check32("add.f32", 2, |a, b, _| canonical(a + b));
    check32("sub.f32", 2, |a, b, _| canonical(a - b));
    check32("mul.f32", 2, |a, b, _| canonical(a * b));
    check32("fma.rn.f32", 3, |a, b, c| canonical(a.mul_add(b, c)));
    check32("div.rn.f32", 2, |a, b, _| canonical(a / b));
    check32("sqrt.rn.f32", 1, |a, _, _| canonical(a.sqrt()));
    check32("rcp.rn.f32", 1, |a, _, _| canonical(1.0 / a));
    check32("add.ftz.f32", 2, |a, b, _| canonical(flush(flush(a) + flush(b))));
    check32("fma.rn.ftz.f32", 3, |a, b, c| canonical(flush(flush(a).mul_add(flush(b), flush(c)))));
    check32("add.sat.f32", 2, |a, b, _| {
        let v = a + b;
        if v > 0.0 { v.min(1.0).to_bits() } else { 0 }
    });
    check32("neg.f32", 1, |a, _, _| a.to_bits() ^ 0x8000_0000);
    check32("abs.f32", 1, |a, _, _| a.to_bits() & 0x7FFF_FFFF);
    check32("copysign.f32", 2, |a, b, _| b.copysign(a).to_bits());
}

#[test]
fn smallest_and_largest() {
    let order = |v: f32| {
        let bits = v.to_bits() as i32;
        bits ^ (((bits >> 31) as u32) >> 1) as i32
    };
    let pick = move |a: f32, b: f32, max: bool| match (a.is_nan(), b.is_nan()) {
        (true, true) => NAN,
        (true, false) => b.to_bits(),
        (false, true) => a.to_bits(),
        _ if (order(a) < order(b)) != max => a.to_bits(),
        _ => b.to_bits(),
    };
    check32("min.f32", 2, move |a, b, _| pick(a, b, false));
    check32("max.f32", 2, move |a, b, _| pick(a, b, true));
    check32(
        "min.NaN.f32",
        2,
        move |a, b, _| {
            if a.is_nan() || b.is_nan() { NAN } else { pick(a, b, false) }
        },
    );
}

/// Returns the f32 at or below an f64, computed without the code under test.
fn down(v: f64) -> f32 {
    let near = v as f32;
    if f64::from(near) > v { near.next_down() } else { near }
}

fn up(v: f64) -> f32 {
    -down(-v)
}

fn towards_zero(v: f64) -> f32 {
    if v < 0.0 { up(v) } else { down(v) }
}

#[test]
fn directed_rounding_of_f32() {
    let exact = |a: f32, b: f32| f64::from(a) * f64::from(b);
    check32("mul.rm.f32", 2, |a, b, _| canonical(down(exact(a, b))));
    check32("mul.rp.f32", 2, |a, b, _| canonical(up(exact(a, b))));
    check32("mul.rz.f32", 2, |a, b, _| canonical(towards_zero(exact(a, b))));
    // A sum of terms of similar size is exact in f64.
    let body = "add.rm.f32 %f4, %f1, 0f3F000001; mov.b32 %r4, %f4; cvt.u64.u32 %rd0, %r4;";
    check(body, &near_one(), |[a, ..]| {
        u64::from(down(f64::from(f(a)) + f64::from(f32::from_bits(0x3F00_0001))).to_bits())
    });
    let body = "fma.rp.f32 %f4, %f1, %f1, 0fBF800000; mov.b32 %r4, %f4; cvt.u64.u32 %rd0, %r4;";
    check(body, &near_one(), |[a, ..]| {
        u64::from(up(f64::from(f(a)) * f64::from(f(a)) - 1.0).to_bits())
    });
}

fn near_one() -> Vec<[u64; 3]> {
    (0..100u64).map(|i| [0x3F00_0000 + i * 104_729 % 0x0100_0000, 0, 0]).collect()
}

#[test]
fn approximations_are_exact_to_the_last_bit_or_two() {
    type One = (&'static str, fn(f64) -> f64);
    let all: [One; 7] = [
        ("ex2.approx.f32", f64::exp2),
        ("lg2.approx.f32", f64::log2),
        ("sin.approx.f32", f64::sin),
        ("cos.approx.f32", f64::cos),
        ("tanh.approx.f32", f64::tanh),
        ("rsqrt.approx.f32", |v| 1.0 / v.sqrt()),
        ("sqrt.approx.f32", f64::sqrt),
    ];
    for (op, want) in all {
        check32(op, 1, |a, _, _| canonical(want(f64::from(a)) as f32));
    }
}

// With NaN, "not at least" is not the same as "less".
#[allow(clippy::neg_cmp_op_on_partial_ord, clippy::nonminimal_bool, clippy::double_comparisons)]
#[test]
fn comparisons_with_nan() {
    type Pair = (&'static str, fn(f32, f32) -> bool);
    let all: [Pair; 14] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a < b || a > b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
        ("equ", |a, b| !(a < b || a > b)),
        ("neu", |a, b| a != b),
        ("ltu", |a, b| !(a >= b)),
        ("leu", |a, b| !(a > b)),
        ("gtu", |a, b| !(a <= b)),
        ("geu", |a, b| !(a < b)),
        ("num", |a, b| !a.is_nan() && !b.is_nan()),
        ("nan", |a, b| a.is_nan() || b.is_nan()),
    ];
    for (name, holds) in all {
        let body = format!("setp.{name}.f32 %p1, %f1, %f2; selp.u64 %rd0, 1, 0, %p1;");
        check(&body, &float_inputs(), |[a, b, _]| u64::from(holds(f(a), f(b))));
        let body = format!(
            "cvt.f64.f32 %fd4, %f1; cvt.f64.f32 %fd5, %f2; setp.{name}.f64 %p1, %fd4, %fd5;
             selp.u64 %rd0, 1, 0, %p1;"
        );
        check(&body, &float_inputs(), |[a, b, _]| u64::from(holds(f(a), f(b))));
    }
}

#[test]
fn float_to_integer_in_all_roundings() {
    type Round = (&'static str, fn(f32) -> f32);
    let all: [Round; 4] = [
        ("rni", f32::round_ties_even),
        ("rzi", f32::trunc),
        ("rmi", f32::floor),
        ("rpi", f32::ceil),
    ];
    for (name, round) in all {
        let to = |ty: &str| format!("cvt.{name}.{ty}.f32 %r4, %f1; cvt.u64.u32 %rd0, %r4;");
        // Rust's `as` clamps and converts NaN to zero, as PTX does.
        check(&to("s32"), &float_inputs(), |[a, ..]| u64::from(round(f(a)) as i32 as u32));
        check(&to("u32"), &float_inputs(), |[a, ..]| u64::from(round(f(a)) as u32));
        let wide = format!("cvt.{name}.s64.f32 %rd0, %f1;");
        check(&wide, &float_inputs(), |[a, ..]| round(f(a)) as i64 as u64);
        let same = format!("cvt.{name}.f32.f32 %f4, %f1; mov.b32 %r4, %f4; cvt.u64.u32 %rd0, %r4;");
        check(&same, &float_inputs(), |[a, ..]| u64::from(canonical(round(f(a)))));
    }
}

#[test]
fn integer_to_float_in_all_roundings() {
    type Round = (&'static str, fn(f64) -> f32);
    let all: [Round; 4] = [("rn", |v| v as f32), ("rz", towards_zero), ("rm", down), ("rp", up)];
    let inputs: Vec<[u64; 3]> = snippet::triples();
    for (name, round) in all {
        let body = |ty: &str| {
            format!("cvt.{name}.f32.{ty} %f4, %r1; mov.b32 %r4, %f4; cvt.u64.u32 %rd0, %r4;")
        };
        check(&body("s32"), &inputs, |[a, ..]| u64::from(round(f64::from(a as i32)).to_bits()));
        check(&body("u32"), &inputs, |[a, ..]| u64::from(round(f64::from(a as u32)).to_bits()));
    }
    let body = "cvt.rn.f32.u64 %f4, %rd1; mov.b32 %r4, %f4; cvt.u64.u32 %rd0, %r4;";
    check(body, &inputs, |[a, ..]| u64::from((a as f32).to_bits()));
    check("cvt.rn.f64.s64 %fd4, %rd1; mov.b64 %rd0, %fd4;", &inputs, |[a, ..]| {
        (a as i64 as f64).to_bits()
    });
}

#[test]
fn sixteen_bit_floats_and_back() {
    let nan16 = |bits: u16, nan: bool| if nan { 0x7FFF } else { u64::from(bits) };
    let body = |op: &str| format!("{op} %rs4, %f1; cvt.u64.u16 %rd0, %rs4;");
    let inputs = float_inputs();
    check(&body("cvt.rn.bf16.f32"), &inputs, |[a, ..]| {
        nan16(bf16::from_f32(f(a)).to_bits(), f(a).is_nan())
    });
    check(&body("cvt.rn.f16.f32"), &inputs, |[a, ..]| {
        nan16(f16::from_f32(f(a)).to_bits(), f(a).is_nan())
    });
    // Truncation of a bf16 keeps the upper half of the f32.
    check(&body("cvt.rz.bf16.f32"), &inputs, |[a, ..]| match f(a) {
        v if v.is_nan() => 0x7FFF,
        _ => a >> 16 & 0xFFFF,
    });
    let body = "cvt.rn.bf16x2.f32 %r4, %f1, %f2; cvt.u64.u32 %rd0, %r4;";
    check(body, &inputs, |[a, b, _]| {
        let one = |v: f32| nan16(bf16::from_f32(v).to_bits(), v.is_nan());
        one(f(a)) << 16 | one(f(b))
    });
    let body = "cvt.rn.relu.f16x2.f32 %r4, %f1, %f2; cvt.u64.u32 %rd0, %r4;";
    check(body, &inputs, |[a, b, _]| {
        let one = |v: f32| match v {
            v if v.is_nan() => 0x7FFF,
            v if v <= 0.0 => 0,
            v => u64::from(f16::from_f32(v).to_bits()),
        };
        one(f(a)) << 16 | one(f(b))
    });
    let body = "cvt.f32.f16 %f4, %rs1; mov.b32 %r4, %f4; cvt.u64.u32 %rd0, %r4;";
    check(body, &snippet::triples(), |[a, ..]| {
        u64::from(canonical(f16::from_bits(a as u16).to_f32()))
    });
    let body = "cvt.rna.tf32.f32 %r4, %f1; cvt.u64.u32 %rd0, %r4;";
    check(body, &near_one(), |[a, ..]| (a + 0x1000) & !0x1FFF);
}

#[test]
fn arithmetic_of_sixteen_bit_floats() {
    let inputs = snippet::triples();
    let nan = |v: f32, bits: u16| if v.is_nan() { 0x7FFF } else { u64::from(bits) };
    // One operation in f64 adds at most one rounding, which is harmless for these formats.
    let h = |v: f64| nan(v as f32, f16::from_f64(v).to_bits());
    let half = |x: u64| f16::from_bits(x as u16).to_f64();
    let body = |op: &str| format!("{op} %rs4, %rs1, %rs2; cvt.u64.u16 %rd0, %rs4;");
    check(&body("add.f16"), &inputs, |[a, b, _]| h(half(a) + half(b)));
    check(&body("mul.f16"), &inputs, |[a, b, _]| h(half(a) * half(b)));
    let body = "fma.rn.f16x2 %r4, %r1, %r2, %r3; cvt.u64.u32 %rd0, %r4;";
    check(body, &inputs, |[a, b, c]| {
        let one = |s: u32| h(half(a >> s).mul_add(half(b >> s), half(c >> s)));
        one(0) | one(16) << 16
    });
    let body = "fma.rn.bf16x2 %r4, %r1, %r2, %r3; cvt.u64.u32 %rd0, %r4;";
    let wide = |x: u64| bf16::from_bits(x as u16).to_f64();
    // Numbers near one, whose products and sums are exact in f32.
    let near = |i: u64| 0x3F00 + i * 7919 % 256;
    let simple: Vec<[u64; 3]> = (0..200u64)
        .map(|i| [0, 1, 2].map(|k| near(3 * i + k) << 16 | near(5 * i + k + 1)))
        .collect();
    check(body, &simple, |[a, b, c]| {
        let one = |s: u32| {
            let exact = wide(a >> s).mul_add(wide(b >> s), wide(c >> s));
            assert_eq!(f64::from(exact as f32), exact);
            u64::from(bf16::from_f32(exact as f32).to_bits())
        };
        one(0) | one(16) << 16
    });
}

#[test]
fn arithmetic_of_f64() {
    let inputs: Vec<[u64; 3]> = float_inputs()
        .iter()
        .map(|v| v.map(|bits| (f64::from(f(bits)) * 1.000000001).to_bits()))
        .collect();
    let d = f64::from_bits;
    let c = |v: f64| if v.is_nan() { 0x7FF8_0000_0000_0000 } else { v.to_bits() };
    let body = |op: &str, list: &str| format!("{op} %fd4, {list}; mov.b64 %rd0, %fd4;");
    check(&body("add.f64", "%fd1, %fd2"), &inputs, |[x, y, _]| c(d(x) + d(y)));
    check(&body("mul.f64", "%fd1, %fd2"), &inputs, |[x, y, _]| c(d(x) * d(y)));
    check(&body("div.rn.f64", "%fd1, %fd2"), &inputs, |[x, y, _]| c(d(x) / d(y)));
    check(
        &body("fma.rn.f64", "%fd1, %fd2, %fd3"),
        &inputs,
        |[x, y, z]| c(d(x).mul_add(d(y), d(z))),
    );
    check(&body("sqrt.rn.f64", "%fd1"), &inputs, |[x, ..]| c(d(x).sqrt()));
    check(
        &body("cvt.rm.f32.f64", "%fd1").replace(
            "%fd4, %fd1; mov.b64 %rd0, %fd4",
            "%f4, %fd1; mov.b32 %r4, %f4; cvt.u64.u32 %rd0, %r4",
        ),
        &inputs,
        |[x, ..]| u64::from(canonical(down(d(x)))),
    );
}
