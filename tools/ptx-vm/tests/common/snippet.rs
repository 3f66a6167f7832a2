//! Runs of one or a few instructions on the 32 lanes of a warp.
#![allow(dead_code)]

use ptx_vm::{Gpu, Launch, Module, Params};

/// Returns a kernel around `body`. The body reads three 64-bit inputs of its lane in %rd1..3 (their
/// low halves in %r1..3, %f1..3, %rs1..3) and writes its result to %rd0.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out)
{{
    .reg .pred %p<9>;
    .reg .b16 %rs<9>;
    .reg .b32 %r<40>;
    .reg .f32 %f<40>;
    .reg .f64 %fd<9>;
    .reg .b64 %rd<20>;
    ld.param.u64 %rd10, [in];
    ld.param.u64 %rd11, [out];
    mov.u32 %r0, %tid.x;
    mad.wide.u32 %rd12, %r0, 24, %rd10;
    mad.wide.u32 %rd13, %r0, 8, %rd11;
    ld.global.u64 %rd1, [%rd12];
    ld.global.u64 %rd2, [%rd12+8];
    ld.global.u64 %rd3, [%rd12+16];
    cvt.u32.u64 %r1, %rd1;
    cvt.u32.u64 %r2, %rd2;
    cvt.u32.u64 %r3, %rd3;
    mov.b32 %f1, %r1;
    mov.b32 %f2, %r2;
    mov.b32 %f3, %r3;
    cvt.u16.u64 %rs1, %rd1;
    cvt.u16.u64 %rs2, %rd2;
    cvt.u16.u64 %rs3, %rd3;
    mov.b64 %fd1, %rd1;
    mov.b64 %fd2, %rd2;
    mov.b64 %fd3, %rd3;
    mov.u64 %rd0, 0;
    {body}
    st.global.u64 [%rd13], %rd0;
    ret;
}}"
    )
}

/// Runs `body` on as many lanes as there are inputs (at most 32), on both code paths.
pub fn lanes(body: &str, inputs: &[[u64; 3]]) -> Vec<u64> {
    let fast = run(body, inputs, false);
    assert_eq!(fast, run(body, inputs, true), "portable code gives other bits: {body}");
    fast
}

fn run(body: &str, inputs: &[[u64; 3]], portable: bool) -> Vec<u64> {
    let module = Module::parse("snippet", &kernel(body)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(module.unknown_forms(), []);
    let mut gpu = Gpu::new();
    gpu.set_portable(portable);
    let n = inputs.len();
    let (input, out) = (gpu.alloc("in", 24 * n), gpu.alloc("out", 8 * n));
    let data: Vec<u8> = inputs.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    gpu.write(input, &data).expect("it fits");
    let mut p = Params::new();
    p.address(input).address(out);
    let launch =
        Launch { grid: [1; 3], block: [n as u32, 1, 1], dynamic_shared: 0, params: p.bytes() };
    let report = gpu.launch(&module, "k", &launch).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(report.findings, [], "{body}");
    let mut bytes = vec![0; 8 * n];
    gpu.read(out, &mut bytes).expect("it fits");
    bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect()
}

/// Runs `body` over any number of inputs and compares each lane with `want`.
pub fn check(body: &str, inputs: &[[u64; 3]], want: impl Fn([u64; 3]) -> u64) {
    for part in inputs.chunks(32) {
        for (got, &input) in lanes(body, part).into_iter().zip(part) {
            let want = want(input);
            assert_eq!(got, want, "{body} of {input:#x?}: {got:#x} against {want:#x}");
        }
    }
}

/// Edge cases of 32-bit integers and floats.
pub const EDGES: [u32; 24] = [
    0,
    1,
    2,
    3,
    31,
    32,
    33,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x0001_0000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x3F80_0000,
    0xBF80_0000,
    0x7F80_0000,
    0xFF80_0000,
    0x7FC0_0000,
    0x0000_0400,
    0x4B00_0001,
];

/// Returns all triples of edges and mixed numbers, a few hundred.
pub fn triples() -> Vec<[u64; 3]> {
    let mut state = 0x1234_5678_9ABC_DEFFu64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut out = Vec::new();
    for &a in &EDGES {
        for &b in &EDGES {
            out.push([u64::from(a), u64::from(b), next() >> 40]);
        }
    }
    out.extend((0..200).map(|_| [next(), next(), next()]));
    out
}

/// Returns floats of every size and sign, with special values.
pub fn floats() -> Vec<f32> {
    let mut out = vec![
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1.5,
        2.5,
        -2.5,
        0.49999997,
        1e-40,
        -1e-40,
        1e-38,
        3e38,
        -3e38,
        65504.0,
        65519.9,
        65520.0,
        6e-8,
        3e-8,
        2147483648.0,
        4294967296.0,
        -2147483648.0,
        1e10,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        1.0039062,
        1.0117188,
        1.0078125,
        8388608.5,
    ];
    let mut state = 77u32;
    for _ in 0..200 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let v = f32::from_bits(state);
        out.push(if v.is_nan() { 3.25 } else { v });
        out.push((state >> 8) as f32 / 65536.0 - 128.0);
    }
    out
}

pub fn float_inputs() -> Vec<[u64; 3]> {
    let f = floats();
    let at = |i: usize| u64::from(f[i % f.len()].to_bits());
    (0..2 * f.len()).map(|i| [at(i), at(i * 7 + 3), at(i * 13 + 5)]).collect()
}
