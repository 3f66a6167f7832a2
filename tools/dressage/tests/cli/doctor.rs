//! `dressage doctor` as a user sees it.

use serde_json::Value;

use crate::common::{done, dressage, err, out, refused};

#[test]
fn kernels_are_verified_on_the_virtual_gpu() {
    let dir = tempfile::tempdir().expect("folder");
    let args = ["doctor", "--device", "virtual", "--kernels", "layer_norm"];
    let text = done(dressage(dir.path(), &args));
    for words in ["processor", "cuBLASLt", "PTX", "on the virtual GPU", "1 of 1 folders", "races"] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    let row = text.lines().find(|line| line.starts_with("| layer_norm_bf16 |")).expect("a row");
    assert!(row.ends_with("| yes |"), "{row}");
}

#[test]
fn the_report_is_json() {
    let dir = tempfile::tempdir().expect("folder");
    let args = ["doctor", "--device", "virtual", "--kernels", "add*", "--json"];
    let json: Value = serde_json::from_str(&done(dressage(dir.path(), &args))).expect("JSON");
    assert_eq!((&json["holds"], &json["device"]["kind"]), (&true.into(), &"virtual".into()));
    let libraries = json["machine"]["libraries"].as_array().expect("libraries");
    assert!(
        libraries.iter().any(|l| l["looked_for"][0].as_str().is_some_and(|n| n.contains("cuda")))
    );
    let folder = &json["kernels"][0];
    assert_eq!(folder["folder"], "add");
    for kernel in folder["kernels"].as_array().expect("kernels") {
        let worst = kernel["worst"].as_f64().expect("a number");
        assert!((0.0..=1.0).contains(&worst), "{kernel}");
        assert!(!kernel["shapes"].as_array().expect("shapes").is_empty());
    }
    assert_eq!(folder["timed"], Value::Array(vec![]), "the virtual GPU is not timed");
}

#[test]
fn the_forms_of_the_cpu_are_verified() {
    let dir = tempfile::tempdir().expect("folder");
    let text = done(dressage(dir.path(), &["doctor", "--device", "cpu", "--kernels", "swiglu"]));
    assert!(text.contains("on the CPU") && text.contains("| swiglu_f32 |"), "{text}");
    assert!(text.contains("limits: arithmetic"), "{text}");
}

#[test]
fn missing_parts_are_reported_in_a_sentence() {
    let dir = tempfile::tempdir().expect("folder");
    // A number larger than that of any GPU.
    let run = dressage(dir.path(), &["doctor", "--device", "cuda:1000", "--kernels", "add"]);
    assert!(out(&run).contains("PTX"), "what the machine has is told even so");
    assert!(err(&run).lines().count() == 1, "{}", err(&run));
    refused(run, 1, &["no CUDA device: "]);
    let json = dressage(dir.path(), &["doctor", "--device", "cuda:1000", "--json"]);
    let report: Value = serde_json::from_str(&out(&json)).expect("JSON");
    assert_eq!(report["holds"], false);
    refused(json, 1, &["no CUDA device: "]);
    let run = |args: &[&str]| dressage(dir.path(), &[&["doctor"], args].concat());
    refused(run(&["--device", "gpu"]), 2, &["gpu", "cuda:N"]);
    refused(run(&["--device", "cpu", "--kernels", "nothing"]), 1, &["nothing", "layer_norm"]);
}

#[test]
fn auto_says_what_it_took() {
    let dir = tempfile::tempdir().expect("folder");
    let text = done(dressage(dir.path(), &["doctor", "--kernels", "class_loss"]));
    let line = text.lines().find(|line| line.starts_with("kernels")).expect("a line");
    let cuda = dressage(dir.path(), &["doctor", "--device", "cuda", "--kernels", "class_loss"]);
    match cuda.status.success() {
        true => assert!(!line.contains("virtual"), "{line}"),
        false => assert!(line.contains("on the virtual GPU, because: no CUDA device: "), "{line}"),
    }
}
