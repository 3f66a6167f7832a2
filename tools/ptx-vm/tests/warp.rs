//! Operations across lanes and warps: shuffles, votes, reductions, fragments, barriers.

#[path = "common/snippet.rs"]
mod snippet;

use half::f16;
use ptx_vm::{Gpu, Launch, Module, Params};
use snippet::lanes;

/// Returns 32 different inputs.
fn inputs() -> Vec<[u64; 3]> {
    (0..32u64).map(|i| [i * i * 7919 % 1009 + 1, i % 5, i * 3 + 1]).collect()
}

fn check(body: &str, want: impl Fn(usize, &[u32]) -> u64) {
    let inputs = inputs();
    let a: Vec<u32> = inputs.iter().map(|v| v[0] as u32).collect();
    for (lane, got) in lanes(body, &inputs).into_iter().enumerate() {
        assert_eq!(got, want(lane, &a), "{body}, lane {lane}");
    }
}

#[test]
fn shuffles_in_every_mode() {
    let body = |mode: &str, by: u32, c: u32| {
        format!(
            "shfl.sync.{mode}.b32 %r4|%p1, %r1, {by}, {c}, -1; selp.u32 %r5, 1, 0, %p1;
             mov.b64 %rd0, {{%r4, %r5}};"
        )
    };
    let pair = |v: u32, ok: bool| u64::from(v) | u64::from(ok) << 32;
    for by in [1, 3, 16] {
        check(&body("up", by, 0), |i, a| {
            let from = i as i32 - by as i32;
            if from >= 0 { pair(a[from as usize], true) } else { pair(a[i], false) }
        });
        check(&body("down", by, 31), |i, a| {
            let from = i + by as usize;
            if from < 32 { pair(a[from], true) } else { pair(a[i], false) }
        });
        check(&body("bfly", by, 31), |i, a| pair(a[i ^ by as usize], true));
        check(&body("idx", by, 31), |_, a| pair(a[by as usize], true));
        // Width 8: mask 24 in bits 8 to 12.
        check(&body("down", by, 0x181F), |i, a| {
            let from = i + by as usize;
            if from / 8 == i / 8 { pair(a[from], true) } else { pair(a[i], false) }
        });
        check(&body("idx", by, 0x181F), |i, a| pair(a[i / 8 * 8 + by as usize % 8], true));
    }
}

#[test]
fn votes_matches_and_reductions() {
    let setp = "setp.lt.u32 %p1, %r1, 500;";
    check(&format!("{setp} vote.sync.ballot.b32 %r4, %p1, -1; cvt.u64.u32 %rd0, %r4;"), |_, a| {
        (0..32).fold(0, |m, i| m | u64::from(a[i] < 500) << i)
    });
    let vote = |mode: &str, p: &str| {
        format!("{setp} vote.sync.{mode}.pred %p2, {p}, -1; selp.u64 %rd0, 1, 0, %p2;")
    };
    check(&vote("all", "%p1"), |_, a| u64::from(a.iter().all(|&v| v < 500)));
    check(&vote("any", "%p1"), |_, a| u64::from(a.iter().any(|&v| v < 500)));
    check(&vote("any", "!%p1"), |_, a| u64::from(a.iter().any(|&v| v >= 500)));
    check(&vote("uni", "%p1"), |_, _| 0);
    check("match.any.sync.b32 %r4, %r2, -1; cvt.u64.u32 %rd0, %r4;", |i, _| {
        (0..32).filter(|k| k % 5 == i % 5).fold(0, |m, k| m | 1 << k)
    });
    check("redux.sync.add.s32 %r4, %r1, -1; cvt.u64.u32 %rd0, %r4;", |_, a| {
        u64::from(a.iter().sum::<u32>())
    });
    check("redux.sync.max.u32 %r4, %r1, -1; cvt.u64.u32 %rd0, %r4;", |_, a| {
        u64::from(a.iter().copied().max().unwrap_or(0))
    });
    check("activemask.b32 %r4; cvt.u64.u32 %rd0, %r4;", |_, _| 0xFFFF_FFFF);
    check("mov.u32 %r4, %lanemask_lt; cvt.u64.u32 %rd0, %r4;", |i, _| (1 << i) - 1);
}

#[test]
fn lanes_that_part_meet_again() {
    // Each lane loops as many times as its second input says; the sum is shuffled afterwards.
    let body = "mov.u32 %r4, 0; mov.u32 %r5, 0;
        again: setp.ge.u32 %p1, %r5, %r2; @%p1 bra out;
        add.u32 %r4, %r4, %r1; add.u32 %r5, %r5, 1; bra again;
        out: shfl.sync.bfly.b32 %r6, %r4, 1, 31, -1; cvt.u64.u32 %rd0, %r6;";
    check(body, |i, a| u64::from(a[i ^ 1]) * ((i ^ 1) as u64 % 5));
    let table = "targets: .branchtargets one, two, three;
        brx.idx %r5, targets;
        one: mov.u64 %rd0, 10; bra end;
        two: mov.u64 %rd0, 20; bra end;
        three: mov.u64 %rd0, 30;
        end: bar.warp.sync -1;";
    check(&format!("rem.u32 %r5, %r0, 3; {table}"), |i, _| 10 * (i as u64 % 3 + 1));
}

/// Returns the value at row r, column c of a matrix whose values are all different.
fn element(r: usize, c: usize) -> f32 {
    (r * 8 + c) as f32 / 16.0 - 3.0
}

#[test]
fn fragments_of_matrices() {
    // A 8 x 8 matrix of f16 in shared memory, row by row: each lane stores two elements.
    let store = ".shared .align 16 .b8 tile[128];
        mov.u32 %r10, tile; mad.lo.u32 %r11, %r0, 4, %r10; st.shared.u32 [%r11], %r1;
        bar.warp.sync -1; and.b32 %r12, %r0, 7; mad.lo.u32 %r13, %r12, 16, %r10;";
    let inputs: Vec<[u64; 3]> = (0..32u64).map(|i| [(2 * i) | ((2 * i + 1) << 16), 0, 0]).collect();
    let plain = format!(
        "{store} ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r4}}, [%r13]; cvt.u64.u32 %rd0, %r4;"
    );
    for (lane, got) in lanes(&plain, &inputs).into_iter().enumerate() {
        let first = (lane / 4 * 8 + lane % 4 * 2) as u64;
        assert_eq!(got, first | (first + 1) << 16, "lane {lane}");
    }
    let transposed = plain.replace(".x1.", ".x1.trans.");
    for (lane, got) in lanes(&transposed, &inputs).into_iter().enumerate() {
        let (r, c) = ((lane / 4) as u64, (lane % 4 * 2) as u64);
        assert_eq!(got, (c * 8 + r) | ((c + 1) * 8 + r) << 16, "lane {lane}");
    }
    let moved = "movmatrix.sync.aligned.m8n8.trans.b16 %r4, %r1; cvt.u64.u32 %rd0, %r4;";
    assert_eq!(lanes(moved, &inputs), lanes(&transposed, &inputs));
}

#[test]
fn products_of_fragments() {
    let pack = |a: f32, b: f32| {
        u64::from(f16::from_f32(a).to_bits()) | u64::from(f16::from_f32(b).to_bits()) << 16
    };
    // A of 16 x 8 with `element`, B of 8 x 8 with the row number on its diagonal: the product
    // scales the columns of A.
    let inputs: Vec<[u64; 3]> = (0..32)
        .map(|lane| {
            let (g, t) = (lane / 4, lane % 4 * 2);
            let b = |k: usize| if k == g { k as f32 } else { 0.0 };
            let (upper, lower) = (
                pack(element(g, t), element(g, t + 1)),
                pack(element(g + 8, t), element(g + 8, t + 1)),
            );
            [upper, lower, pack(b(t), b(t + 1))]
        })
        .collect();
    let body = "mov.f32 %f10, 0f3F800000;
        mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f4, %f5, %f6, %f7}, {%r1, %r2}, {%r3},
            {%f10, %f10, %f10, %f10};
        mov.b64 %rd0, {%f5, %f6};";
    for (lane, got) in lanes(body, &inputs).into_iter().enumerate() {
        let (g, t) = (lane / 4, lane % 4 * 2);
        let want = [element(g, t + 1) * (t + 1) as f32 + 1.0, element(g + 8, t) * t as f32 + 1.0];
        let found = [f32::from_bits(got as u32), f32::from_bits((got >> 32) as u32)];
        assert_eq!(found, want, "lane {lane}");
    }
    let tf32: Vec<[u64; 3]> = (0..32)
        .map(|lane| {
            let (g, t) = (lane / 4, lane % 4);
            let b = if t == g { 2f32 } else { 0.0 };
            let a = |r: usize| u64::from(element(r, t).to_bits());
            [a(g), a(g + 8), u64::from(b.to_bits())]
        })
        .collect();
    // With B twice the unit matrix, columns 0 to 3 of the product are twice A.
    let body = "mov.f32 %f10, 0f00000000;
        mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%f4, %f5, %f6, %f7}, {%r1, %r2}, {%r3},
            {%f10, %f10, %f10, %f10};
        mov.b64 %rd0, {%f4, %f7};";
    for (lane, got) in lanes(body, &tf32).into_iter().enumerate() {
        let (g, t) = (lane / 4, lane % 4 * 2);
        let twice = |r: usize, c: usize| if c < 4 { 2.0 * element(r, c) } else { 0.0 };
        let found = [f32::from_bits(got as u32), f32::from_bits((got >> 32) as u32)];
        assert_eq!(found, [twice(g, t), twice(g + 8, t + 1)], "lane {lane}");
    }
}

/// Runs a kernel in which each thread writes one u32; asserts that there are no findings.
fn block(body: &str, threads: u32) -> Vec<u32> {
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64
.visible .entry k(.param .u64 out) {{
    .reg .pred %p<9>; .reg .b32 %r<30>; .reg .b64 %rd<9>;
    .shared .align 16 .b8 tile[4096];
    ld.param.u64 %rd1, [out];
    mov.u32 %r0, %tid.x; mov.u32 %r10, tile;
    mad.wide.u32 %rd2, %r0, 4, %rd1; shl.b32 %r2, %r0, 2; add.u32 %r3, %r2, %r10;
    {body}
    st.global.u32 [%rd2], %r1;
    ret;
}}"
    );
    let module = Module::parse("block", &text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(module.unknown_forms(), []);
    let mut gpu = Gpu::new();
    let out = gpu.alloc("out", 4 * threads as usize);
    let mut p = Params::new();
    p.address(out);
    let launch =
        Launch { grid: [1; 3], block: [threads, 1, 1], dynamic_shared: 0, params: p.bytes() };
    let report = gpu.launch(&module, "k", &launch).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(report.findings, []);
    let mut bytes = vec![0; 4 * threads as usize];
    gpu.read(out, &mut bytes).expect("it fits");
    bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}

#[test]
fn barriers_that_count() {
    let body = "rem.u32 %r4, %r0, 3; setp.eq.u32 %p1, %r4, 0;
        bar.red.popc.u32 %r5, 0, %p1; bar.red.or.pred %p2, 0, %p1; bar.red.and.pred %p3, 0, !%p1;
        selp.u32 %r6, 1000, 0, %p2; selp.u32 %r7, 5000, 0, %p3;
        add.u32 %r1, %r5, %r6; add.u32 %r1, %r1, %r7;";
    assert_eq!(block(body, 100), vec![34 + 1000; 100]);
}

#[test]
fn producers_and_consumers_at_named_barriers() {
    // Warp 0 writes, arrives at barrier 1 and does not wait; warp 1 waits there and reads.
    let body = "setp.ge.u32 %p1, %r0, 32; @%p1 bra consumer;
        st.shared.u32 [%r3], %r0; bar.arrive 1, 64; mov.u32 %r1, 7; bra end;
        consumer: bar.sync 1, 64; ld.shared.u32 %r1, [%r3+-128];
        end:";
    let want: Vec<u32> = (0..64).map(|i| if i < 32 { 7 } else { i - 32 }).collect();
    assert_eq!(block(body, 64), want);
}

#[test]
fn atomics_on_shared_memory() {
    let body = "setp.eq.u32 %p1, %r0, 0; mov.u32 %r4, 5; mov.u32 %r5, 0;
        @%p1 st.shared.u32 [tile], %r5; @%p1 st.shared.u32 [tile+4], %r4;
        @%p1 st.shared.u32 [tile+8], %r5; bar.sync 0;
        atom.shared.add.u32 %r6, [tile], 2; red.shared.max.s32 [tile+4], %r0;
        atom.shared.cas.b32 %r7, [tile+8], 0, 77; bar.sync 0;
        ld.shared.u32 %r8, [tile]; ld.shared.u32 %r9, [tile+4]; ld.shared.u32 %r11, [tile+8];
        add.u32 %r1, %r8, %r9; add.u32 %r1, %r1, %r11;";
    assert_eq!(block(body, 64), vec![128 + 63 + 77; 64]);
}

#[test]
fn copies_fill_with_zeros() {
    // 4 of 16 bytes come from the source, the others are zero; with 0 the source is not read.
    let body = "st.global.u32 [%rd2], 287454020; shl.b32 %r4, %r0, 4; add.u32 %r5, %r4, %r10;
        and.b64 %rd3, %rd2, -16; mov.u32 %r6, 4; setp.ne.u32 %p1, %r0, 0; selp.u32 %r6, 0, 4, %p1;
        selp.u64 %rd3, 0, %rd3, %p1;
        cp.async.cg.shared.global [%r5], [%rd3], 16, %r6; cp.async.commit_group;
        cp.async.wait_group 0; ld.shared.v4.u32 {%r11, %r12, %r13, %r14}, [%r5];
        or.b32 %r1, %r11, %r12; or.b32 %r1, %r1, %r13; or.b32 %r1, %r1, %r14;";
    let want: Vec<u32> = (0..8).map(|i| if i == 0 { 287_454_020 } else { 0 }).collect();
    assert_eq!(block(body, 8), want);
}
