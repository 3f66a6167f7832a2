//! Integer, logic, bit and conversion instructions compared with Rust.

#[path = "common/snippet.rs"]
mod snippet;

use snippet::{check, triples};

/// Checks `op` on 32-bit registers; the result is zero-extended.
fn check32(op: &str, sources: usize, want: impl Fn(u32, u32, u32) -> u32) {
    let list = ["%r1", "%r1, %r2", "%r1, %r2, %r3"][sources - 1];
    let body = format!("{op} %r4, {list}; cvt.u64.u32 %rd0, %r4;");
    check(&body, &triples(), |[a, b, c]| u64::from(want(a as u32, b as u32, c as u32)));
}

fn check64(op: &str, list: &str, want: impl Fn(u64, u64, u64) -> u64) {
    check(&format!("{op} %rd0, {list};"), &triples(), |[a, b, c]| want(a, b, c));
}

#[test]
fn sums_products_and_quotients() {
    check32("add.s32", 2, |a, b, _| a.wrapping_add(b));
    check32("sub.u32", 2, |a, b, _| a.wrapping_sub(b));
    check32("mul.lo.s32", 2, |a, b, _| a.wrapping_mul(b));
    check32("mul.hi.u32", 2, |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    check32("mul.hi.s32", 2, |a, b, _| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32);
    check32("mad.lo.u32", 3, |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    check32("div.u32", 2, |a, b, _| a.checked_div(b).unwrap_or(u32::MAX));
    check32("rem.u32", 2, |a, b, _| a.checked_rem(b).unwrap_or(a));
    check32("div.s32", 2, |a, b, _| match b {
        0 => u32::MAX,
        b => (a as i32).wrapping_div(b as i32) as u32,
    });
    check32("rem.s32", 2, |a, b, _| match b {
        0 => a,
        b => (a as i32).wrapping_rem(b as i32) as u32,
    });
    check32("add.sat.s32", 2, |a, b, _| (a as i32).saturating_add(b as i32) as u32);
    check32("sub.sat.s32", 2, |a, b, _| (a as i32).saturating_sub(b as i32) as u32);
    check32("sad.s32", 3, |a, b, c| (a as i32).abs_diff(b as i32).wrapping_add(c));
    check32("min.s32", 2, |a, b, _| (a as i32).min(b as i32) as u32);
    check32("max.u32", 2, |a, b, _| a.max(b));
    check32("abs.s32", 1, |a, _, _| (a as i32).unsigned_abs());
    check32("neg.s32", 1, |a, _, _| a.wrapping_neg());
    check64("mul.wide.u32", "%r1, %r2", |a, b, _| (a & 0xFFFF_FFFF) * (b & 0xFFFF_FFFF));
    check64("mul.wide.s32", "%r1, %r2", |a, b, _| {
        (i64::from(a as i32) * i64::from(b as i32)) as u64
    });
    check64("mad.wide.s32", "%r1, %r2, %rd3", |a, b, c| {
        (i64::from(a as i32) * i64::from(b as i32)).wrapping_add(c as i64) as u64
    });
    check64("mul.hi.u64", "%rd1, %rd2", |a, b, _| ((u128::from(a) * u128::from(b)) >> 64) as u64);
    check64("div.s64", "%rd1, %rd2", |a, b, _| match b {
        0 => u64::MAX,
        b => (a as i64).wrapping_div(b as i64) as u64,
    });
    check64("min.s64", "%rd1, %rd2", |a, b, _| (a as i64).min(b as i64) as u64);
}

#[test]
fn carries_reach_the_next_word() {
    let add = "mov.b64 {%r4, %r5}, %rd1; mov.b64 {%r6, %r7}, %rd2;
        add.cc.u32 %r8, %r4, %r6; addc.u32 %r9, %r5, %r7; mov.b64 %rd0, {%r8, %r9};";
    check(add, &triples(), |[a, b, _]| a.wrapping_add(b));
    let sub = add.replace("add.cc", "sub.cc").replace("addc", "subc");
    check(&sub, &triples(), |[a, b, _]| a.wrapping_sub(b));
    let mad = "mov.b64 {%r4, %r5}, %rd3; mad.lo.cc.u32 %r8, %r1, %r2, %r4;
        madc.hi.u32 %r9, %r1, %r2, %r5; mov.b64 %rd0, {%r8, %r9};";
    check(mad, &triples(), |[a, b, c]| {
        u64::from(a as u32).wrapping_mul(u64::from(b as u32)).wrapping_add(c)
    });
}

#[test]
fn shifts_beyond_the_width() {
    check32("shl.b32", 2, |a, b, _| a.checked_shl(b).unwrap_or(0));
    check32("shr.u32", 2, |a, b, _| a.checked_shr(b).unwrap_or(0));
    check32("shr.s32", 2, |a, b, _| ((a as i32) >> b.min(31)) as u32);
    check64("shl.b64", "%rd1, %r2", |a, b, _| a.checked_shl(b as u32).unwrap_or(0));
    check64("shr.s64", "%rd1, %r2", |a, b, _| ((a as i64) >> (b as u32).min(63)) as u64);
    check64("shr.u64", "%rd1, %r2", |a, b, _| a.checked_shr(b as u32).unwrap_or(0));
    let pair = |a: u32, b: u32| u64::from(b) << 32 | u64::from(a);
    check32("shf.l.wrap.b32", 3, |a, b, c| (pair(a, b) << (c & 31) >> 32) as u32);
    check32("shf.l.clamp.b32", 3, |a, b, c| (pair(a, b) << c.min(32) >> 32) as u32);
    check32("shf.r.wrap.b32", 3, |a, b, c| (pair(a, b) >> (c & 31)) as u32);
    check32("shf.r.clamp.b32", 3, |a, b, c| (pair(a, b) >> c.min(32)) as u32);
    let narrow = "shl.b16 %rs4, %rs1, %r2; cvt.u64.u16 %rd0, %rs4;";
    check(narrow, &triples(), |[a, b, _]| {
        let by = b as u32;
        if by > 15 { 0 } else { u64::from((a as u16) << by) }
    });
}

#[test]
fn bits() {
    check32("and.b32", 2, |a, b, _| a & b);
    check32("or.b32", 2, |a, b, _| a | b);
    check32("xor.b32", 2, |a, b, _| a ^ b);
    check32("not.b32", 1, |a, _, _| !a);
    check32("cnot.b32", 1, |a, _, _| u32::from(a == 0));
    check32("popc.b32", 1, |a, _, _| a.count_ones());
    check32("clz.b32", 1, |a, _, _| a.leading_zeros());
    check32("brev.b32", 1, |a, _, _| a.reverse_bits());
    check32("bfind.u32", 1, |a, _, _| a.checked_ilog2().unwrap_or(u32::MAX));
    check32("bfind.s32", 1, |a, _, _| {
        let v = if (a as i32) < 0 { !a } else { a };
        v.checked_ilog2().unwrap_or(u32::MAX)
    });
    check("popc.b64 %r4, %rd1; cvt.u64.u32 %rd0, %r4;", &triples(), |[a, ..]| {
        u64::from(a.count_ones())
    });
    for table in [0x00u8, 0x80, 0xC0, 0xE8, 0x96, 0xFE, 0x78] {
        let body = format!("lop3.b32 %r4, %r1, %r2, %r3, {table}; cvt.u64.u32 %rd0, %r4;");
        check(&body, &triples(), |[a, b, c]| {
            (0..32).fold(0, |v, i| {
                let index = (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
                v | u64::from(table >> index & 1) << i
            })
        });
    }
}

#[test]
fn fields_and_bytes() {
    let field = |a: u32, pos: u32, len: u32, signed: bool| {
        let sign_at = (pos + len).wrapping_sub(1).min(31);
        let fill = signed && len > 0 && a >> sign_at & 1 == 1;
        (0..32).fold(0u32, |v, i| {
            let bit = if i >= len || pos + i > 31 { fill } else { a >> (pos + i) & 1 == 1 };
            v | u32::from(bit) << i
        })
    };
    check32("bfe.u32", 3, |a, b, c| field(a, b & 255, c & 255, false));
    check32("bfe.s32", 3, |a, b, c| field(a, b & 255, c & 255, true));
    let body = "and.b32 %r5, %r3, 63; shr.u32 %r6, %r3, 6; bfi.b32 %r4, %r1, %r2, %r5, %r6;
        cvt.u64.u32 %rd0, %r4;";
    check(body, &triples(), |[a, b, c]| {
        let (pos, len) = (c as u32 & 63, c as u32 >> 6 & 255);
        u64::from((0..32).fold(b as u32, |v, i| {
            let inside = i >= pos && i - pos < len;
            if inside { v & !(1 << i) | (a as u32 >> (i - pos) & 1) << i } else { v }
        }))
    });
    check32("prmt.b32", 3, |a, b, c| {
        let source = u64::from(b) << 32 | u64::from(a);
        (0..4).fold(0, |v, k| {
            let s = c >> (4 * k) & 15;
            let byte = (source >> (8 * (s & 7))) as u8;
            let byte = if s > 7 { ((byte as i8) >> 7) as u8 } else { byte };
            v | u32::from(byte) << (8 * k)
        })
    });
    check32("dp4a.s32.u32", 3, |a, b, c| {
        (0..4).fold(c, |v, k| {
            let (x, y) = ((a >> (8 * k)) as i8, (b >> (8 * k)) as u8);
            v.wrapping_add((i32::from(x) * i32::from(y)) as u32)
        })
    });
}

#[test]
fn comparisons_and_selections() {
    type Pair = (&'static str, fn(u32, u32) -> bool);
    let all: [Pair; 8] = [
        ("eq.s32", |a, b| a == b),
        ("ne.b32", |a, b| a != b),
        ("lt.s32", |a, b| (a as i32) < b as i32),
        ("lt.u32", |a, b| a < b),
        ("ge.s32", |a, b| a as i32 >= b as i32),
        ("hi.u32", |a, b| a > b),
        ("ls.u32", |a, b| a <= b),
        ("gt.s16", |a, b| a as i16 > b as i16),
    ];
    for (name, holds) in all {
        let regs = if name.ends_with("16") { "%rs1, %rs2" } else { "%r1, %r2" };
        let body = format!("setp.{name} %p1, {regs}; selp.u64 %rd0, %rd3, 7, %p1;");
        check(&body, &triples(), |[a, b, c]| if holds(a as u32, b as u32) { c } else { 7 });
    }
    let body = "setp.lt.s32 %p1, %r1, 0; setp.gt.and.u32 %p2|%p3, %r1, %r2, !%p1;
        selp.u32 %r4, 1, 0, %p2; selp.u32 %r5, 2, 0, %p3; or.b32 %r4, %r4, %r5;
        cvt.u64.u32 %rd0, %r4;";
    check(body, &triples(), |[a, b, _]| {
        let (a, b) = (a as u32, b as u32);
        let third = a as i32 >= 0;
        u64::from(a > b && third) | u64::from(a <= b && third) << 1
    });
    let body = "set.lt.u32.s32 %r4, %r1, %r2; slct.u32.s32 %r5, %r4, %r2, %r3;
        cvt.u64.u32 %rd0, %r5;";
    check(body, &triples(), |[a, b, c]| {
        let set = if (a as i32) < b as i32 { u32::MAX } else { 0 };
        u64::from(if c as i32 >= 0 { set } else { b as u32 })
    });
    let body = "mov.pred %p1, -1; xor.pred %p1, %p1, -1; selp.u64 %rd0, 1, 2, %p1;";
    check(body, &triples()[..8], |_| 2);
}

#[test]
fn conversions_between_integers() {
    let narrow = |to: &str, from: &str, source: &str| {
        format!("cvt.{to}.{from} %r4, {source}; cvt.u64.u32 %rd0, %r4;")
    };
    let t = triples();
    check(&narrow("s32", "s8", "%r1"), &t, |[a, ..]| u64::from(a as i8 as i32 as u32));
    check(&narrow("u32", "u8", "%r1"), &t, |[a, ..]| a & 0xFF);
    check(&narrow("s8", "s32", "%r1"), &t, |[a, ..]| u64::from(a as i8 as i32 as u32));
    check(&narrow("sat.s8", "s32", "%r1"), &t, |[a, ..]| {
        u64::from((a as i32).clamp(-128, 127) as u32)
    });
    check(&narrow("sat.u8", "s32", "%r1"), &t, |[a, ..]| (a as i32).clamp(0, 255) as u64);
    check(&narrow("s32", "s16", "%rs1"), &t, |[a, ..]| u64::from(a as i16 as i32 as u32));
    check("cvt.s64.s32 %rd0, %r1;", &t, |[a, ..]| a as i32 as i64 as u64);
    check("cvt.u64.u32 %rd0, %r1;", &t, |[a, ..]| a & 0xFFFF_FFFF);
    // A source register wider than the type is read by its low bits.
    check("cvt.s64.s32 %rd0, %rd1;", &t, |[a, ..]| a as i32 as i64 as u64);
    check("cvt.u64.u16 %rd0, %rd1;", &t, |[a, ..]| a & 0xFFFF);
    check("cvt.rn.f32.s32 %f4, %rd1; mov.b32 %r4, %f4; cvt.u64.u32 %rd0, %r4;", &t, |[a, ..]| {
        u64::from((a as i32 as f32).to_bits())
    });
    check("cvt.u32.u16 %r4, %r1; cvt.u64.u32 %rd0, %r4;", &t, |[a, ..]| a & 0xFFFF);
    check("cvt.sat.s32.s64 %r4, %rd1; cvt.s64.s32 %rd0, %r4;", &t, |[a, ..]| {
        (a as i64).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u64
    });
    check(
        "mov.b32 {%rs4, %rs5}, %r1; mov.b32 %r4, {%rs5, %rs4}; cvt.u64.u32 %rd0, %r4;",
        &t,
        |[a, ..]| u64::from((a as u32).rotate_left(16)),
    );
}
