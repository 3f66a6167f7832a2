//! `dressage bench` as a user sees it, at sizes that take little time.

use std::path::Path;

use serde_json::Value;

use crate::common::{done, dressage, refused};

pub fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("a file of figures");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn figures_of_every_part_are_printed_and_written() {
    let dir = tempfile::tempdir().expect("folder");
    let small = ["--size", "64", "--iters", "2", "--warmup", "0", "--threads", "1"];
    let parts = ["bench", "step", "backbone", "forward", "block", "kernels", "--json", "all.json"];
    let text = done(dressage(dir.path(), &[&parts[..], &small[..]].concat()));
    for words in ["GFLOP/s", "GB/s", "loss+matching", "forward+backward", "deform, backward"] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    let all = json(&dir.path().join("all.json"));
    let cases = all.as_array().expect("several cases are a list");
    assert_eq!(cases.len(), 10);
    let whole = |part: &str| cases.iter().find(|c| c["args"]["part"] == part).expect(part);
    for (part, span) in [("step", "optimizer"), ("backbone", "inference"), ("forward", "inference")]
    {
        let ms = &whole(part)[part]["ms"][span];
        let of = |key: &str| ms[key].as_f64().expect(key);
        assert!(0.0 < of("min") && of("min") <= of("median") && of("median") <= of("max"));
    }
    // 17 tokens of 384 channels: qkv, proj and both layers of the MLP, and attention with 6 heads.
    let flops = 2.0 * 17.0 * 384.0 * 384.0 * 12.0 + 4.0 * 6.0 * 17.0 * 17.0 * 64.0;
    assert_eq!(whole("block")["block"]["flops"]["inference"], flops);
    let rows = whole("gemm")["gemm"].as_array().expect("rows");
    assert!(rows.iter().any(|r| r["name"] == "y = x W'   rows 17, 384 -> 1152"));

    let one = ["bench", "block", "--model", "b", "--precision", "bf16", "--json", "one.json"];
    done(dressage(dir.path(), &[&one[..], &small[..]].concat()));
    let one = json(&dir.path().join("one.json"));
    assert_eq!(one["args"]["width"], 768);
    assert!(one["ceiling"]["gflops"].as_f64().expect("a limit") > 0.1);
    assert!(one["block"]["peak_rss_mib"].as_f64().expect("a peak") > 10.0);
}

/// A peer receives its options and writes its results to the given file.
#[cfg(unix)]
#[test]
fn a_peer_is_printed_next_to_ours() {
    let dir = tempfile::tempdir().expect("folder");
    let script = r#"
        while [ $# -gt 0 ]; do
            case "$1" in --part) part="$2" ;; --json) file="$2" ;; --width) width="$2" ;; esac
            shift 2
        done
        [ "$part" = block ] || { echo "no such part: $part" >&2; exit 3; }
        [ "$width" = 384 ] || exit 4
        echo '{"block": {"ms": {"inference": {"median": 9e9, "min": 8e9, "max": 9e9}}}}' > "$file"
    "#;
    std::fs::write(dir.path().join("peer.sh"), script).expect("written");
    let run = |parts: &[&str], more: &[&str]| {
        let small = ["--size", "32", "--iters", "1", "--rounds", "2", "--peer", "sh peer.sh"];
        dressage(dir.path(), &[&["bench"], parts, &small[..], more].concat())
    };
    let text = done(run(&["block"], &["--json", "pair.json"]));
    let row = text.lines().find(|l| l.contains("| inference |")).expect("a row");
    assert!(row.contains("9000000000 (8000000000-9000000000)"), "{row}");
    let pair = json(&dir.path().join("pair.json"));
    assert_eq!(pair[0]["peer"].as_array().map(Vec::len), Some(2));
    assert_eq!(pair[0]["here"].as_array().map(Vec::len), Some(2));
    // A part that the peer does not know is refused, but the results so far are shown first.
    let failed = run(&["block", "forward"], &[]);
    assert!(String::from_utf8_lossy(&failed.stdout).contains("forward, ViT-S, 32 px"));
    refused(failed, 1, &["sh peer.sh", "no such part: forward"]);
    refused(run(&["block"], &["--model", "g"]), 1, &["SwiGLU", "--peer"]);
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let run = |args: &[&str]| dressage(dir.path(), &[&["bench"], args].concat());
    refused(run(&["--size", "100"]), 1, &["--size 100", "multiple of 32"]);
    refused(run(&["--size", "4294967296"]), 2, &["4294967296", "--size"]);
    refused(run(&["--size", "8192"]), 2, &["8192", "4096"]);
    refused(run(&["--batch", "0"]), 2, &["--batch"]);
    refused(run(&["--threads", "1000000"]), 2, &["--threads"]);
    // Terabytes: no machine has them.
    let huge = ["step", "--size", "4096", "--batch", "256"];
    refused(run(&huge), 1, &["MiB", "are available"]);
    refused(run(&["--model", "h"]), 1, &["`h`", "s, b, l, g"]);
    refused(run(&["block", "--method", "lora"]), 1, &["--method", "step"]);
    refused(run(&["--method", "loar"]), 2, &["loar", "--method"]);
    refused(run(&["--method", "lora", "--peer", "x"]), 1, &["lora", "--peer"]);
    let tiny = ["step", "--model", "tiny", "--size", "32", "--iters", "1", "--method", "lora,full"];
    let text = done(run(&tiny));
    assert!(text.contains("ViT-tiny, 32 px, lora") && text.contains("ViT-tiny, 32 px, full"));
    refused(run(&["stride"]), 2, &["stride"]);
    refused(run(&["--precision", "f8"]), 2, &["f8", "bf16"]);
    refused(run(&["kernels", "--device", "cpu"]), 2, &["--device", "cuda:N"]);
    refused(run(&["block", "--device", "cuda"]), 1, &["--device", "`step` and `backbone`"]);
    refused(run(&["kernels", "--device", "virtual"]), 1, &["--device", "cuda:N"]);
    refused(run(&["step", "--device", "cuda:1000"]), 1, &["no CUDA device: "]);
    refused(run(&["step", "--no-graphs"]), 2, &["--device"]);
    refused(run(&["kernels", "--device", "cuda:1000"]), 1, &["no CUDA device: "]);
    refused(run(&["kernels", "--device", "cuda", "--peer", "x"]), 2, &["--device", "--peer"]);
    refused(run(&["block", "--peer", " "]), 1, &["--peer needs a command"]);
    let absent = ["block", "--size", "32", "--iters", "1", "--peer", "no-such-program-here"];
    refused(run(&absent), 1, &["no-such-program-here", "cannot be started"]);
}

/// Keys of the JSON that peers write for a step.
const STEP: [&str; 9] = [
    "params",
    "ms",
    "first_step_s",
    "wall_ms_per_step",
    "images_per_s",
    "losses",
    "peak_allocated_mib",
    "peak_reserved_mib",
    "flops",
];

pub fn check_device_figures(all: &Value, iters: usize) {
    let part = |name: &str| {
        let found = all.as_array().expect("two parts").iter().find(|c| c["args"]["part"] == name);
        &found.expect(name)[name]
    };
    let step = part("step");
    for key in STEP {
        assert!(!step[key].is_null(), "{key} is missing in {step:#}");
    }
    let losses = step["losses"].as_array().expect("losses");
    assert!(losses.len() > iters && losses.iter().all(|l| l.as_f64().is_some_and(f64::is_finite)));
    assert!(step["ms"]["step"]["median"].as_f64().is_some_and(|ms| ms > 0.0));
    assert_eq!(step["batch_on_device"], true);
    assert!(step["flops"]["step"].as_f64().is_some_and(|flops| flops > 0.0));
    for span in ["forward", "backward", "inference", "all"] {
        assert!(part("backbone")["ms"][span]["min"].as_f64().is_some_and(|ms| ms > 0.0), "{span}");
    }
}

#[test]
fn steps_and_backbones_are_measured_on_a_device() {
    let dir = tempfile::tempdir().expect("folder");
    let sizes = ["--model", "tiny", "--size", "32", "--iters", "2", "--threads", "1"];
    let what = ["bench", "step", "backbone", "--device", "virtual", "--json", "all.json"];
    let text = done(dressage(dir.path(), &[&what[..], &sizes[..]].concat()));
    assert!(text.contains("step, ViT-tiny, 32 px, bf16"), "{text}");
    let all = json(&dir.path().join("all.json"));
    check_device_figures(&all, 2);
    assert_eq!(all[0]["args"]["device"], "virtual");
    // Launch by launch, in f32.
    let what = ["bench", "step", "--device", "virtual", "--no-graphs", "--precision", "f32"];
    let what = [&what[..], &["--json", "step.json"], &sizes[..]].concat();
    done(dressage(dir.path(), &what));
    let one = json(&dir.path().join("step.json"));
    assert_eq!(
        (&one["step"]["batch_on_device"], &one["args"]["graphs"]),
        (&true.into(), &false.into())
    );
}
