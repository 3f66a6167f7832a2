//! Limits of a machine: memory, threads, and the code of its CPU.

use std::path::Path;

use dressage_train::Image;
use dressage_train::data::{Table, read_label};
use dressage_train::pictures::write_image;
use serde_json::Value;

use crate::common::{TINY, done, dressage, err, refused};

/// Returns a folder with the tiny recipe.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("tiny.toml"), TINY).expect("written");
    dir
}

/// Reads the bytes of the run's checkpoint after `step`.
fn checkpoint(dir: &Path, run: &str, step: u64) -> Vec<u8> {
    let name = format!("{run}/checkpoints/step-{step:06}.safetensors");
    std::fs::read(dir.join(name)).expect("checkpoint")
}

/// Reads the losses of a run's log, and its entries about the CPU.
fn losses(dir: &Path, run: &str) -> (Vec<f64>, Vec<String>) {
    let text = std::fs::read_to_string(dir.join(run).join("log.jsonl")).expect("log");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let trained = lines.filter(|line| line["kind"] == "train");
    let of = |line: Value| {
        let cpu = line["cpu"].as_str().expect("the code of the CPU").to_owned();
        (line["loss"].as_f64().expect("loss"), cpu)
    };
    trained.map(of).unzip()
}

#[test]
fn threads_beyond_the_cores_are_capped() {
    let dir = folder();
    let args = ["train", "tiny.toml", "--threads", "4096", "run.workers=4096", "train.steps=1"];
    let output = dressage(dir.path(), &args);
    let noted = err(&output);
    done(output);
    for key in ["run.threads=4096 is too many for ", "run.workers=4096 is too many for "] {
        assert!(noted.contains(key), "{noted}");
    }
    let huge = ["train", "tiny.toml", "--threads", "99999999999"];
    refused(dressage(dir.path(), &huge), 1, &["run.threads", "at most 4096"]);
    let plain = dressage(dir.path(), &["train", "tiny.toml", "run.dir=plain", "train.steps=1"]);
    assert!(!err(&plain).contains("too many for"), "{}", err(&plain));
    done(plain);
    let [many, one] = ["runs/tiny", "plain"].map(|run| checkpoint(dir.path(), run, 1));
    assert!(many == one, "threads and workers changed the result");
    done(dressage(
        dir.path(),
        &["weights", "inspect", "plain/checkpoints/step-000001.safetensors"],
    ));
}

#[cfg(target_arch = "x86_64")]
fn runs(code: &str) -> bool {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match code {
        "avx512" => avx2 && avx512,
        "avx2" => avx2,
        _ => true,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn runs(code: &str) -> bool {
    code == "portable"
}

/// The README's guarantee on equal seeds. With a named code the results are bitwise equal on any
/// CPU that has it and with any number of threads; AVX2 and AVX-512 give the same bits.
#[test]
fn a_code_of_the_cpu_gives_the_same_bits_everywhere() {
    let dir = folder();
    let train = |run: &str, more: &[&str]| {
        let run = format!("run.dir={run}");
        let sizes = ["augment.crop=64", "head.width=32", "loss.points=300", "train.batch=2"];
        let args = [&["train", "tiny.toml", &run, "data.eval=[]"], &sizes[..], more].concat();
        dressage(dir.path(), &args)
    };
    for code in ["portable", "avx2", "avx512"] {
        if !runs(code) {
            refused(train(code, &["--cpu", code]), 1, &["run.cpu", &format!("cannot run {code}")]);
            continue;
        }
        done(train(code, &["--cpu", code]));
        let set = format!("run.cpu={code}");
        done(train("again", &["--threads", "3", &set]));
        let same = checkpoint(dir.path(), code, 3) == checkpoint(dir.path(), "again", 3);
        assert!(same, "{code}: three threads gave other bits than one");
        std::fs::remove_dir_all(dir.path().join("again")).expect("removed");
        let (found, cpu) = losses(dir.path(), code);
        assert_eq!((found.len(), cpu), (3, vec![code.to_owned(); 3]));
    }
    if runs("avx512") {
        let same = checkpoint(dir.path(), "avx2", 3) == checkpoint(dir.path(), "avx512", 3);
        assert!(same, "AVX2 and AVX-512 gave other bits");
    }
    done(train("auto", &[]));
    let (auto, cpu) = losses(dir.path(), "auto");
    assert!(cpu.iter().all(|cpu| cpu.starts_with("auto (")), "{cpu:?}");
    // The code changes only the rounding.
    for code in ["portable", "avx2", "avx512"].into_iter().filter(|code| runs(code)) {
        for (a, b) in losses(dir.path(), code).0.iter().zip(&auto) {
            assert!((a - b).abs() < 2e-3 * b.abs(), "{code}: {a}, auto: {b}");
        }
    }
    refused(train("none", &["--cpu", "sse"]), 1, &["run.cpu", "portable"]);
    refused(dressage(dir.path(), &["bench", "step", "--cpu", "sse"]), 2, &["portable"]);
}

/// The C library has its own code for some CPUs; disabling it changes nothing.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn portable_code_leaves_nothing_to_the_c_library() {
    let dir = folder();
    for (run, masked) in [("all", ""), ("masked", "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F,-FMA4")] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_dressage"))
            .args(["train", "tiny.toml", "--cpu", "portable", "data.eval=[]"])
            .arg(format!("run.dir={run}"))
            .env("GLIBC_TUNABLES", masked)
            .current_dir(dir.path())
            .output();
        done(output.expect("the program starts"));
    }
    let [all, masked] = ["all", "masked"].map(|run| checkpoint(dir.path(), run, 3));
    assert!(all == masked, "functions of the C library decide bits");
}

#[cfg(target_os = "linux")]
mod limited {
    use std::process::{Command, Output};

    use super::*;

    /// Runs the program with a limit such as `ulimit -v 100000`.
    fn within(dir: &Path, limit: &str, args: &[&str]) -> Output {
        Command::new("sh")
            .args(["-c", &format!("{limit} && exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_dressage"))
            .args(args)
            .current_dir(dir)
            .output()
            .expect("a shell")
    }

    /// Asserts success, or exit code 1 with one sentence; returns whether it was success.
    #[track_caller]
    fn done_or_refused(output: &Output, what: &str) -> bool {
        let (code, text) = (output.status.code(), err(output));
        let errors = text.lines().filter(|line| line.starts_with("error: ")).count();
        assert!(!text.contains("panicked"), "{what}: {text}");
        match code {
            Some(0) => assert_eq!(errors, 0, "{what}: {text}"),
            Some(1) => assert_eq!(errors, 1, "{what}: {text}"),
            other => panic!("{what}: ended with {other:?}: {text}"),
        }
        code == Some(0)
    }

    #[test]
    fn little_address_space_is_a_sentence() {
        let dir = folder();
        let sizes = ["augment.crop=256", "model.embed_dim=96", "model.depth=6", "model.heads=3"];
        let more = ["model.taps=[1,3,4,5]", "head.width=64", "train.steps=2", "data.eval=[]"];
        let args = [&["train", "tiny.toml"], &sizes[..], &more[..]].concat();
        // Below 40 MB the system itself may end the program, before its first instruction.
        for limit in [40_000, 50_000, 60_000, 80_000, 100_000, 140_000, 200_000, 300_000, 500_000] {
            let output = within(dir.path(), &format!("ulimit -v {limit}"), &args);
            if done_or_refused(&output, &format!("{limit} KB")) {
                break;
            }
            // Nothing is left that would refuse the next try.
            assert!(!dir.path().join("runs/tiny/checkpoints").exists(), "{limit} KB");
        }
        done(within(dir.path(), "ulimit -v 8000000", &[&args[..], &["run.dir=whole"]].concat()));
    }

    #[test]
    fn the_plan_looks_at_the_limit_of_address_space() {
        let dir = folder();
        let large = ["train", "tiny.toml", "augment.crop=1024", "train.batch=4", "data.eval=[]"];
        let output = within(dir.path(), "ulimit -v 400000", &large);
        let words = ["needs", " MiB", "within the limit of 391 MiB of address space (ulimit -v)"];
        refused(output, 1, &words);
        assert!(!dir.path().join("runs").exists(), "nothing was built");
        let command = ["plan", "tiny.toml"];
        assert!(done_or_refused(&within(dir.path(), "ulimit -v 4000000", &command), "plan"));
    }

    #[test]
    fn a_small_stack_of_the_first_thread_is_no_limit() {
        let dir = folder();
        let args = ["train", "tiny.toml", "train.steps=1", "data.eval=[]"];
        done(within(dir.path(), "ulimit -s 256", &args));
    }

    /// Writes an image of 8 million pixels.
    fn picture(dir: &Path) {
        let (w, h) = (4096, 2048);
        let data = (0..w * h).flat_map(|i| [(i % w / 16) as u8, (i / w / 8) as u8, 99]).collect();
        write_image(&dir.join("large.png"), &Image { w, h, data }).expect("written");
    }

    /// The logits of the whole image alone would be 640 MB.
    #[test]
    fn a_large_picture_is_predicted_in_little_memory() {
        let dir = folder();
        done(dressage(dir.path(), &["train", "tiny.toml", "train.steps=1", "data.eval=[]"]));
        picture(dir.path());
        let predict = |limit: &str, more: &[&str]| {
            within(dir.path(), limit, &[&["predict", "runs/tiny", "large.png"], more].concat())
        };
        let windows = ["--set", "eval.crop=256", "--set", "eval.stride=224", "--out", "out"];
        done(predict("ulimit -v 600000", &windows));
        let classes = Table::new("test", &Default::default(), 19, None).expect("table");
        let label = read_label(&dir.path().join("out/large_label.png"), &classes).expect("label");
        assert_eq!((label.w, label.h), (4096, 2048));
        // In one window it would take gigabytes, which is reported beforehand.
        let whole = predict("ulimit -v 600000", &["--set", "eval.mode=whole"]);
        refused(whole, 1, &["large.png", "1 windows of 4096x2048", "eval.mode=slide", "ulimit -v"]);
    }
}
