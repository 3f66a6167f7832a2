//! Planted faults, compiled by nvcc: each one is found and reported with its kind and place.

mod common;

use common::*;
use ptx_vm::{FindingKind, Gpu, Params, Report};

/// Asserts that there is a finding of a kind, and that its message contains these words.
fn assert_found(report: &Report, kind: FindingKind, in_sentence: &[&str]) {
    let found = report.findings.iter().find(|f| f.kind == kind);
    let Some(found) = found else {
        let list: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        panic!("no finding {kind:?} among {list:#?}");
    };
    assert!(found.line > 0 && !found.instruction.is_empty());
    let sentence = found.to_string();
    for part in in_sentence {
        assert!(sentence.contains(part), "`{part}` is not in: {sentence}");
    }
}

#[test]
fn missing_barrier_after_the_copies_arrive() {
    let report = gemm(&module("gemm-barrier"), 64, 64, 96).0;
    assert_found(&report, FindingKind::SharedRace, &["ldmatrix", "wrote at line", "no barrier"]);
}

#[test]
fn wrong_cp_async_wait_group() {
    let (report, c, a, b) = gemm(&module("gemm-wait"), 64, 64, 96);
    assert_found(&report, FindingKind::CopyInFlight, &["ldmatrix", "has not been waited for"]);
    // The old bytes were used, as on a GPU with a slow copy.
    let want: f32 = (0..96).map(|t| a[t] * b[t]).sum();
    assert!((c[0] - want).abs() > 1e-3 || c[0].is_nan());
}

#[test]
fn missing_barrier_at_the_end_of_the_loop() {
    let report = gemm(&module("gemm-war"), 64, 64, 96).0;
    assert_found(&report, FindingKind::SharedRace, &["cp.async", "read at line"]);
}

#[test]
fn missing_barrier_in_a_block_reduction() {
    let report = layer_norm(&module("layer_norm-barrier"), 3, 3, 128, 130).0;
    assert_found(&report, FindingKind::SharedRace, &["partial", "wrote at line", "no barrier"]);
}

#[test]
fn missing_barrier_before_shared_memory_is_used_again() {
    let report = layer_norm(&module("layer_norm-war"), 3, 3, 128, 130).0;
    assert_found(&report, FindingKind::SharedRace, &["partial", "read at line", "no barrier"]);
}

#[test]
fn shuffle_mask_that_leaves_lanes_out() {
    let report = layer_norm(&module("layer_norm-mask"), 3, 3, 64, 130).0;
    assert_found(&report, FindingKind::AbsentLanes, &["shfl.sync", "lane 16", "leaves it out"]);
}

#[test]
fn slot_that_no_warp_has_written() {
    let report = layer_norm(&module("layer_norm-slot"), 3, 3, 64, 130).0;
    assert_found(&report, FindingKind::Uninitialised, &["partial", "+ 8"]);
}

#[test]
fn row_past_the_end() {
    let report = layer_norm(&module("layer_norm-row"), 3, 4, 64, 130).0;
    assert_found(&report, FindingKind::OutOfBounds, &["`x`", "block (3, 0, 0)", "1560 bytes"]);
}

#[test]
fn buffer_that_is_one_row_short() {
    let module = module("layer_norm");
    let mut gpu = Gpu::new();
    let (rows, c) = (4, 64);
    let x = upload(&mut gpu, "activations", &random(1, rows * c));
    let gamma = upload(&mut gpu, "gamma", &random(2, c));
    let y = gpu.alloc("output", (rows - 1) * c * 4);
    let mut p = Params::new();
    p.address(x).address(gamma).address(gamma).address(y);
    p.i32(rows as i32).i32(c as i32).f32(1e-5);
    let report = run(&mut gpu, &module, "layer_norm", rows as u32, 64, 0, &p);
    assert_eq!(report.findings.len(), 1);
    let parts = ["writes 4 bytes", "`output`", "block (3, 0, 0)"];
    assert_found(&report, FindingKind::OutOfBounds, &parts);
}

#[test]
fn barrier_that_half_of_the_lanes_reach() {
    let report = layer_norm(&module("layer_norm-divergent"), 3, 3, 64, 130).0;
    assert_found(&report, FindingKind::DivergentBarrier, &["0x55555555", "0xaaaaaaaa"]);
}

#[test]
fn lanes_that_exited_before_a_shuffle() {
    let report = layer_norm(&module("layer_norm-exited"), 3, 3, 64, 130).0;
    assert_found(&report, FindingKind::AbsentLanes, &["shfl.sync", "0xff000000", "have exited"]);
}

#[test]
fn misaligned_vector() {
    let mut gpu = Gpu::new();
    let (x, y) = (upload(&mut gpu, "x", &random(1, 68)), gpu.alloc("y", 256));
    let mut p = Params::new();
    p.address(x).address(y).i32(64).f32(2.0);
    let report = run(&mut gpu, &module("small-vector"), "scale4", 1, 32, 0, &p);
    assert_found(&report, FindingKind::Misaligned, &["ld.global", "16 bytes"]);
}

#[test]
fn accumulator_that_nobody_cleared() {
    let mut gpu = Gpu::new();
    let (a, y) = (upload(&mut gpu, "a", &random(1, 80)), gpu.alloc("sums", 40));
    let mut p = Params::new();
    p.address(a).address(y).i32(10).i32(8);
    let report = run(&mut gpu, &module("small"), "row_sums", 1, 32, 0, &p);
    assert_found(&report, FindingKind::Uninitialised, &["`sums`", "nobody has written"]);
}

#[test]
fn too_little_dynamic_shared_memory() {
    let mut gpu = Gpu::new();
    let (x, y) = (upload(&mut gpu, "x", &random(1, 256)), gpu.alloc("y", 1024));
    let mut p = Params::new();
    p.address(x).address(y);
    let report = run(&mut gpu, &module("small"), "reverse", 1, 256, 1020, &p);
    assert_found(&report, FindingKind::OutOfBounds, &["`tile`", "holds 1020 bytes"]);
}

#[test]
fn plain_increments_where_atomics_belong() {
    let mut gpu = Gpu::new();
    let x = gpu.alloc("x", 512);
    gpu.write(x, &[7; 512]).expect("it fits");
    let counts = upload_u32(&mut gpu, "counts", &[0; 256]);
    let mut p = Params::new();
    p.address(x).address(counts).i32(512);
    let report = run(&mut gpu, &module("small-writes"), "histogram", 1, 256, 0, &p);
    assert_found(&report, FindingKind::SharedRace, &["bins"]);
}

fn exchange_inside_a_warp(module_name: &str) -> Report {
    let mut gpu = Gpu::new();
    let numbers: Vec<u32> = (0..32).collect();
    let (x, y) = (upload_u32(&mut gpu, "x", &numbers), gpu.alloc("y", 128));
    let mut p = Params::new();
    p.address(x).address(y);
    run(&mut gpu, &module(module_name), "neighbour", 1, 32, 0, &p)
}

#[test]
fn exchange_inside_a_warp_without_syncwarp() {
    assert_clean(&exchange_inside_a_warp("small"));
    let report = exchange_inside_a_warp("small-syncwarp");
    assert_found(&report, FindingKind::SharedRace, &["no barrier or __syncwarp in between"]);
}

#[test]
fn shuffle_taken_for_a_memory_barrier() {
    let report = exchange_inside_a_warp("small-shuffle");
    assert_found(&report, FindingKind::SharedRace, &["no barrier or __syncwarp in between"]);
}

#[test]
fn use_after_free() {
    let mut gpu = Gpu::new();
    let (x, y) = (upload(&mut gpu, "x", &random(1, 64)), gpu.alloc("y", 256));
    gpu.free(x).expect("it is allocated");
    assert!(gpu.free(x).is_err());
    let mut p = Params::new();
    p.address(x).address(y).i32(64).f32(2.0);
    let report = run(&mut gpu, &module("small"), "scale4", 1, 32, 0, &p);
    assert_found(&report, FindingKind::OutOfBounds, &["reads 16 bytes"]);
}

#[test]
fn memory_that_was_renewed_counts_as_never_written() {
    let mut gpu = Gpu::new();
    let (x, y) = (upload(&mut gpu, "x", &random(1, 64)), gpu.alloc("y", 256));
    gpu.renew(x, "next owner").expect("it is allocated");
    assert!(gpu.renew(x.offset(4), "x").is_err());
    let mut p = Params::new();
    p.address(x).address(y).i32(64).f32(2.0);
    let report = run(&mut gpu, &module("small"), "scale4", 1, 32, 0, &p);
    assert_found(&report, FindingKind::Uninitialised, &["`next owner`"]);
}

#[test]
fn blocks_that_write_one_element() {
    let mut gpu = Gpu::new();
    let (x, y) = (upload(&mut gpu, "x", &random(1, 64)), gpu.alloc("maxima", 32));
    let mut p = Params::new();
    p.address(x).address(y).i32(8);
    let report = run(&mut gpu, &module("small"), "row_max", 8, 1, 0, &p);
    assert_clean(&report);
    let report = run(&mut gpu, &module("small-blocks"), "row_max", 8, 1, 0, &p);
    let parts = ["`maxima` + 0", "block (1, 0, 0)", "what block (0, 0, 0) writes"];
    assert_found(&report, FindingKind::GlobalRace, &parts);
}
