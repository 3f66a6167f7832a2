//! Bad input and bad launches: one clear sentence each, never a panic. Reports are the same on any
//! number of threads and any CPU.

mod common;

use common::*;
use ptx_vm::{Fault, FindingKind, Gpu, Launch, Module, Params};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

fn error(text: &str) -> String {
    Module::parse("bad.ptx", text).expect_err("it is not PTX").to_string()
}

#[test]
fn damaged_text_is_refused_with_its_line() {
    let with = |body: &str| format!("{HEAD}.entry k() {{\n{body}\n}}");
    let cases = [
        (with("bra nowhere;"), "line 5: there is no label `nowhere`"),
        (with("add.u32 %r1, %r2, %r3;"), "line 5: register `%r1` is not declared"),
        (with(".reg .b33 %r<3>;"), "line 5: unknown type `.b33`"),
        (with("a: a: ret;"), "line 5: label `a` occurs twice"),
        (with(".reg .pred %p<2>; @%p2 ret;"), "line 5: `%p2` is not a declared predicate"),
        (with("ret"), "line 6: a name expected, `}` found"),
        (format!("{HEAD}.entry k() {{ ret;"), "the file ends too early"),
        (format!("{HEAD}hello"), "line 4: `hello` has no place here"),
        (format!("{HEAD}.shared .align 3 .b8 x[4];"), "makes no sense"),
        (format!("{HEAD}.global .b8 x[99999999999];"), "makes no sense"),
    ];
    for (text, want) in cases {
        let got = error(&text);
        assert!(got.starts_with("bad.ptx, ") && got.contains(want), "{got}; wanted {want}");
    }
    let nested = format!("{HEAD}.entry k() {{ ld.u32 {}", "[a,".repeat(100_000));
    assert!(error(&nested).contains("nested"));
    let scopes = format!("{HEAD}.entry k() {{ {}", "{".repeat(100_000));
    assert!(error(&scopes).contains("nested"));
}

#[test]
fn damaged_files_never_panic() {
    let text = std::fs::read(format!("{}/tests/cuda/ptx/small.ptx", env!("CARGO_MANIFEST_DIR")));
    let text = text.expect("the PTX is committed");
    let mut state = 99u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize
    };
    let mut parsed = 0;
    for _ in 0..400 {
        let mut damaged = text.clone();
        for _ in 0..1 + next() % 4 {
            let at = next() % damaged.len();
            match next() % 3 {
                0 => damaged[at] = b"{}[];,.%@0123456789abrx"[next() % 23],
                1 => drop(damaged.drain(at..(at + next() % 40).min(damaged.len()))),
                _ => {
                    let from = next() % (damaged.len() - 60);
                    let piece = damaged[from..from + next() % 60].to_vec();
                    damaged.splice(at..at, piece);
                }
            }
        }
        parsed += usize::from(Module::parse("x", &String::from_utf8_lossy(&damaged)).is_ok());
    }
    // Some damage is harmless, most is not.
    assert!((1..399).contains(&parsed), "{parsed} of 400 parsed");
}

fn launch<'a>(grid: u32, block: u32, params: &'a Params) -> Launch<'a> {
    Launch { grid: [grid, 1, 1], block: [block, 1, 1], dynamic_shared: 0, params: params.bytes() }
}

#[test]
fn launches_that_do_not_fit() {
    let module = module("small");
    let mut gpu = Gpu::new();
    let mut p = Params::new();
    p.u64(0).u64(0).i32(4);
    let mut sentence = |name: &str, l: &Launch| match gpu.launch(&module, name, l) {
        Ok(_) => panic!("it does not fit"),
        Err(fault) => fault.to_string(),
    };
    assert!(sentence("scale5", &launch(1, 32, &p)).contains("scale4, row_sums"));
    assert!(sentence("scale4", &launch(1, 32, &p)).contains("20 bytes of parameters"));
    assert!(sentence("row_max", &launch(1, 1025, &p)).contains("1 to 1024"));
    assert!(sentence("row_max", &launch(0, 32, &p)).contains("grid"));
}

#[test]
fn unknown_forms_are_reported_and_stop_only_who_reaches_them() {
    let text = format!(
        "{HEAD}.entry k(.param .u32 n) {{ .reg .pred %p<2>; .reg .b32 %r<3>;
        ld.param.u32 %r1, [n]; setp.eq.u32 %p1, %r1, 0;
        @%p1 bra end;
        frobnicate.x2.u32 %r2, %r1;
        end: ret; }}"
    );
    let module = Module::parse("x", &text).expect("it parses");
    let unknown = module.unknown_forms();
    assert_eq!((unknown[0].line, unknown[0].form.as_str()), (7, "frobnicate.x2.u32"));
    let mut gpu = Gpu::new();
    let mut p = Params::new();
    p.u32(0);
    assert!(gpu.launch(&module, "k", &launch(1, 32, &p)).is_ok());
    let mut p = Params::new();
    p.u32(1);
    let fault = gpu.launch(&module, "k", &launch(1, 32, &p)).expect_err("it is reached");
    let Fault::Stopped(finding) = fault else { panic!("{fault}") };
    assert_eq!(finding.kind, FindingKind::UnknownInstruction);
    assert!(finding.to_string().contains("`frobnicate.x2.u32`"));
}

#[test]
fn instructions_without_operands_are_unknown_forms() {
    let names = [
        "atom.global.add.u32",
        "red.global.add.f32",
        "ld.global.u32",
        "st.shared.v4.f32",
        "mov.b64",
        "setp.lt.s32",
        "selp.b32",
        "cvt.u32.u64",
        "fma.rn.f32",
        "lop3.b32",
        "prmt.b32",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
        "shfl.sync.up.b32",
        "bar.sync",
        "vote.sync.all.pred",
        "match.any.sync.b32",
        "redux.sync.add.s32",
        "elect.sync",
        "bra",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
        "cp.async.cg.shared.global",
        "call",
        "brx.idx",
        "cp.async.wait_group",
        "add.cc.u32",
        "cvta.to.global.u64",
        "isspacep.shared",
        "and.pred",
        "add.b128",
        "cvt.b128.u32",
        "st.global.b128",
        "bar.red.popc.u32",
        "dp4a.s32",
        "set.lt.u32",
    ];
    let body: String = names.iter().map(|n| format!("{n};\n")).collect();
    let module = Module::parse("x", &format!("{HEAD}.entry k() {{\n{body} ret; }}"));
    let unknown = module.expect("it parses").unknown_forms();
    let forms: Vec<&str> = unknown.iter().map(|u| u.form.as_str()).collect();
    assert_eq!(forms, names);
}

#[test]
fn endless_loops_and_deadlocks_end() {
    let text = format!(
        "{HEAD}.entry spin() {{ again: bra again; }}
        .entry wait() {{ .reg .pred %p<2>; .reg .b32 %r<3>; mov.u32 %r1, %tid.x;
        setp.lt.u32 %p1, %r1, 32; @%p1 bra first; bar.sync 1; ret; first: bar.sync 2; ret; }}"
    );
    let module = Module::parse("x", &text).expect("it parses");
    let mut gpu = Gpu::new();
    gpu.set_instruction_limit(1000);
    let p = Params::new();
    let mut kind = |name: &str| match gpu.launch(&module, name, &launch(3, 64, &p)) {
        Err(Fault::Stopped(finding)) => (finding.kind, finding.block),
        other => panic!("{other:?}"),
    };
    assert_eq!(kind("spin"), (FindingKind::InstructionLimit, [0, 0, 0]));
    assert_eq!(kind("wait"), (FindingKind::Deadlock, [0, 0, 0]));
}

#[test]
fn copies_outside_an_allocation_are_refused() {
    let mut gpu = Gpu::new();
    let at = gpu.alloc("weights", 10);
    let error = gpu.write(at.offset(8), &[0; 4]).expect_err("two bytes too many");
    assert!(error.to_string().contains("`weights`, which holds 10 bytes"));
    assert!(gpu.read(at.offset(1 << 20), &mut [0]).is_err());
    gpu.write(at.offset(3), &[1, 2, 3, 4, 5, 6, 7]).expect("it fits");
    let mut out = [0; 6];
    gpu.read(at.offset(4), &mut out).expect("it fits");
    assert_eq!(out, [2, 3, 4, 5, 6, 7]);
}

#[test]
fn reports_are_the_same_on_any_number_of_threads() {
    let run = |threads: usize, name: &str| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            let (report, y) = layer_norm(&module(name), 9, 10, 96, 77);
            (report, y.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
        })
    };
    for name in ["layer_norm", "layer_norm-row", "layer_norm-divergent", "layer_norm-exited"] {
        assert_eq!(run(1, name), run(3, name), "{name}");
    }
}

#[test]
fn sums_of_floats_by_atomics_are_reported() {
    let text = format!(
        "{HEAD}.entry k(.param .u64 p) {{ .reg .b64 %rd<2>; .reg .f32 %f<2>;
        ld.param.u64 %rd1, [p]; mov.f32 %f1, 0f3F800000; red.global.add.f32 [%rd1], %f1; ret; }}"
    );
    let module = Module::parse("x", &text).expect("it parses");
    let mut gpu = Gpu::new();
    let sum = upload(&mut gpu, "sum", &[0.5]);
    let mut p = Params::new();
    p.address(sum);
    let report = gpu.launch(&module, "k", &launch(4, 32, &p)).expect("it runs");
    assert_eq!(download(&gpu, sum, 1), [128.5]);
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].kind, FindingKind::AtomicOrder);
}

#[test]
fn module_variables_start_with_their_values() {
    let text = format!(
        "{HEAD}.global .align 4 .u32 table[4] = {{1, 0x20, 3}};
        .global .u64 link = generic(table)+4;
        .entry k(.param .u64 p) {{ .reg .b64 %rd<4>; .reg .b32 %r<3>;
        ld.param.u64 %rd1, [p]; ld.global.u64 %rd2, [link]; ld.u32 %r1, [%rd2];
        ld.global.u32 %r2, [table+8]; add.u32 %r1, %r1, %r2; st.global.u32 [%rd1], %r1; ret; }}"
    );
    let module = Module::parse("x", &text).expect("it parses");
    let mut gpu = Gpu::new();
    let out = gpu.alloc("out", 4);
    let mut p = Params::new();
    p.address(out);
    let report = gpu.launch(&module, "k", &launch(1, 1, &p)).expect("it runs");
    assert_clean(&report);
    assert_eq!(download_u32(&gpu, out, 1), [0x23]);
    let table = gpu.symbol(&module, "table").expect("it is there");
    gpu.write(table.offset(8), &100u32.to_le_bytes()).expect("it fits");
    gpu.launch(&module, "k", &launch(1, 1, &p)).expect("it runs");
    assert_eq!(download_u32(&gpu, out, 1), [0x20 + 100]);
}

#[test]
fn the_command_reports_what_it_does_not_know() {
    let dir = tempfile::tempdir().expect("a folder");
    let check = |text: &str| {
        let file = dir.path().join("k.ptx");
        std::fs::write(&file, text).expect("it can be written");
        let command = std::process::Command::new(env!("CARGO_BIN_EXE_ptx-vm"))
            .arg("check")
            .arg(&file)
            .output()
            .expect("it starts");
        let both = [command.stdout, command.stderr].concat();
        (command.status.code(), String::from_utf8_lossy(&both).into_owned())
    };
    let (code, text) = check(&format!("{HEAD}.entry k(.param .u64 p) {{ ret; }}"));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1 kernels") && text.contains("8 B, aligned 8: p"));
    let (code, text) = check(&format!("{HEAD}.entry k() {{ wgmma.fence.sync.aligned; ret; }}"));
    assert_eq!(code, Some(1));
    assert!(text.contains("line 4: `wgmma.fence.sync.aligned` in k is not known"), "{text}");
    let (code, text) = check("what is this");
    assert_eq!(code, Some(1));
    assert!(text.contains("line 1: `what` has no place here"), "{text}");
}
