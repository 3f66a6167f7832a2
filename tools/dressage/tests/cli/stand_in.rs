//! The program on a GPU, which `ptx-driver` stands in for: libraries found, devices chosen, and
//! messages on errors.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

use crate::bench::{check_device_figures, json};
use crate::common::{TINY, done, err, out, refused};

/// Start of the warning.
const LOUD: &str = "WARNING: this machine has a GPU";

fn library() -> PathBuf {
    ptx_driver::built().expect("cargo builds the library before these tests")
}

/// Returns the folder with driver and cuBLASLt.
fn both() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cli-ptx-driver");
        ptx_driver::link(&library(), &folder).expect("links can be made");
        folder
    })
}

/// A folder for the program, with a recipe in it.
struct Machine {
    dir: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl Machine {
    fn new(variables: &[(&str, &str)]) -> Machine {
        let dir = tempfile::tempdir().expect("folder");
        std::fs::write(dir.path().join("tiny.toml"), TINY).expect("written");
        let variables = variables.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Machine { dir, variables }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns a folder with the driver alone.
    fn driver_alone(&self) -> PathBuf {
        let folder = self.path().join("driver");
        std::fs::create_dir_all(&folder).expect("folder");
        let link = folder.join("libcuda.so");
        if !link.exists() {
            symlink(library(), link).expect("link");
        }
        folder
    }

    /// Returns a folder of a wheel in an active environment.
    fn wheel(&mut self, kind: &str) -> PathBuf {
        let venv = self.path().join("venv");
        let folder = venv.join("lib/python3.12/site-packages/nvidia").join(kind).join("lib");
        std::fs::create_dir_all(&folder).expect("folder");
        self.variables.push(("VIRTUAL_ENV".into(), venv.display().to_string()));
        folder
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_at(both(), args)
    }

    /// Runs the program with these libraries on the loader's path.
    fn run_at(&self, libraries: &Path, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dressage"));
        command.args(args).current_dir(self.path()).env("LD_LIBRARY_PATH", libraries);
        for variable in ["COLUMNS", "CUDA_LAUNCH_BLOCKING", "VIRTUAL_ENV", "CONDA_PREFIX"] {
            command.env_remove(variable);
        }
        command.env("XDG_CACHE_HOME", self.path().join("cache"));
        command.envs(self.variables.iter().map(|(key, value)| (key, value)));
        command.output().expect("the program starts")
    }

    /// Checks that `auto` trains on the CPU and warns with `why` where the GPU cannot be used.
    fn falls_back(&self, libraries: &Path, why: &str) {
        let train = ["train", "tiny.toml", "train.steps=1", "--device", "auto"];
        let output = self.run_at(libraries, &train);
        let noted = err(&output);
        let stdout = done(output);
        let device = stdout.lines().find(|line| line.starts_with("device ")).expect("a line");
        assert!(device.contains("the CPU; ") && device.contains(why), "{device}");
        assert_eq!(noted.matches(LOUD).count(), 2, "at the start and at the end: {noted}");
        let warning = noted.lines().find(|line| line.contains(LOUD)).expect("a line");
        assert!(warning.contains(why) && warning.contains("ptx-vm, not a GPU"), "{warning}");
    }
}

/// Whether the test machine has its own cuBLASLt, which is found before that of a test.
fn has_its_own(machine: &Machine) -> bool {
    let report = machine.run_at(&machine.driver_alone(), &["doctor", "--json", "--only", "add"]);
    let report: Value = serde_json::from_str(&out(&report)).expect("JSON");
    !report["machine"]["libraries"][1]["version"].is_null()
}

#[test]
fn a_library_in_a_wheel_is_found() {
    let machine = Machine::new(&[]);
    let alone = machine.driver_alone();
    if has_its_own(&machine) {
        return;
    }
    let doctor = ["doctor", "--device", "cuda", "--runs", "0", "--only", "add"];
    let words = ["libcublasLt.so.13", "on the loader's path", "nvidia-cublas"];
    refused(machine.run_at(&alone, &doctor), 1, &words);
    machine.falls_back(&alone, "libcublasLt.so.13");
    for kind in ["cu13", "cublas"] {
        let mut machine = Machine::new(&[]);
        let file = machine.wheel(kind).join("libcublasLt.so.12");
        symlink(library(), &file).expect("link");
        let stdout = done(machine.run_at(&machine.driver_alone(), &doctor));
        let line = stdout.lines().find(|line| line.starts_with("cuBLASLt ")).expect("a line");
        assert!(line.ends_with(&file.display().to_string()), "{line}");
        assert!(stdout.contains("NVTX") && stdout.contains("1 of 1 folders"), "{stdout}");
    }
}

/// Builds a cuBLASLt that only reports its version.
fn empty_library(file: &Path, version: u32) {
    let names = [
        "Create",
        "Destroy",
        "MatmulDescCreate",
        "MatmulDescDestroy",
        "MatmulDescSetAttribute",
        "MatrixLayoutCreate",
        "MatrixLayoutDestroy",
        "MatrixLayoutSetAttribute",
        "MatmulPreferenceCreate",
        "MatmulPreferenceDestroy",
        "MatmulPreferenceSetAttribute",
        "MatmulAlgoGetHeuristic",
        "Matmul",
    ];
    let mut text = format!("unsigned long cublasLtGetVersion(void) {{ return {version}; }}\n");
    names.iter().for_each(|name| text += &format!("int cublasLt{name}(void) {{ return 1; }}\n"));
    let source = file.with_extension("c");
    std::fs::write(&source, text).expect("written");
    let mut compile = Command::new("cc");
    let status = compile.args(["-shared", "-fPIC", "-o"]).arg(file).arg(&source).status();
    assert!(status.expect("a C compiler, as for building").success());
}

#[test]
fn a_library_that_cannot_be_used_gives_way_to_the_next() {
    let driver = [("PTX_DRIVER_VERSION", "12080"), ("PTX_DRIVER_CUBLASLT", "120805")];
    let mut machine = Machine::new(&driver);
    let alone = machine.driver_alone();
    if has_its_own(&machine) {
        return;
    }
    let (newer, older) = (machine.wheel("cu13"), machine.wheel("cublas"));
    empty_library(&newer.join("libcublasLt.so.13"), 130_100);
    let doctor = ["doctor", "--device", "cuda", "--runs", "0", "--only", "add"];
    // Too new for the driver, and nothing else.
    let output = machine.run_at(&alone, &doctor);
    assert!(out(&output).contains("skipped: "), "{}", out(&output));
    refused(output, 1, &["13.1.0", "580 or newer", "CUDA 12.8"]);
    // A library that loads and does not start, then a good one.
    empty_library(&newer.join("libcublasLt.so.12"), 120_900);
    refused(machine.run_at(&alone, &doctor), 1, &["12.9.0", "does not start"]);
    symlink(library(), older.join("libcublasLt.so.12")).expect("link");
    let stdout = done(machine.run_at(&alone, &doctor));
    assert!(stdout.contains("1 of 1 folders"), "{stdout}");
}

#[test]
fn a_gpu_that_is_too_old_is_a_sentence_and_auto_takes_the_cpu() {
    let machine = Machine::new(&[("PTX_DRIVER_CAPABILITY", "7.5")]);
    let train = ["train", "tiny.toml", "--device", "cuda"];
    let words = ["compute capability 7.5", "need 8.0", "--device cpu"];
    refused(machine.run(&train), 1, &words);
    assert!(!machine.path().join("runs").exists(), "a refusal leaves nothing behind");
    machine.falls_back(both(), "compute capability 7.5");
    let evaluated = machine.run(&["eval", "runs/tiny", "--device", "auto"]);
    assert_eq!(err(&evaluated).matches(LOUD).count(), 1, "{}", err(&evaluated));
    done(evaluated);
    // A command that names the CPU shows no warning.
    let quiet = machine.run(&["eval", "runs/tiny", "--device", "cpu"]);
    assert!(!err(&quiet).contains("WARNING"), "{}", err(&quiet));
    done(quiet);
}

#[test]
fn an_old_driver_and_an_environment_that_rounds_are_sentences() {
    let old = Machine::new(&[("PTX_DRIVER_VERSION", "11080")]);
    let doctor = ["doctor", "--device", "cuda", "--runs", "0", "--only", "add"];
    refused(old.run(&doctor), 1, &["CUDA 11.8", "525 or newer"]);
    let rounds = Machine::new(&[("NVIDIA_TF32_OVERRIDE", "1")]);
    refused(rounds.run(&doctor), 1, &["NVIDIA_TF32_OVERRIDE=1", "unset it"]);
    rounds.falls_back(both(), "NVIDIA_TF32_OVERRIDE=1");
    done(Machine::new(&[("NVIDIA_TF32_OVERRIDE", "0")]).run(&doctor));
}

#[test]
fn auto_takes_no_gpu_whose_kernels_are_wrong() {
    // In the folder that is verified first: a kernel that faults, and one that writes no results.
    for (variable, why) in [
        ("PTX_DRIVER_FAIL", "activation: runs to the end: "),
        ("PTX_DRIVER_SKIP", "a kernel is wrong on this GPU: "),
    ] {
        let machine = Machine::new(&[(variable, "gelu_fwd")]);
        machine.falls_back(both(), why);
        machine.falls_back_again(why);
        let memory = machine.path().join("cache");
        assert!(!memory.exists(), "what is wrong is not remembered as verified");
    }
}

impl Machine {
    /// Checks that a second run repeats the verification, since the first one failed.
    fn falls_back_again(&self, why: &str) {
        let output = self.run(&["eval", "runs/tiny", "--device", "auto"]);
        let noted = err(&output);
        done(output);
        assert!(noted.contains("verifications: 37 to do") && noted.contains(why), "{noted}");
    }
}

#[test]
fn kernels_of_a_gpu_are_verified_once() {
    let machine = Machine::new(&[]);
    // A GPU named in the command is used as it is, with a note.
    let train = ["train", "tiny.toml", "train.steps=1", "run.workers=0", "--device", "cuda"];
    let output = machine.run(&train);
    assert!(!err(&output).contains("verifications"), "{}", err(&output));
    let stdout = done(output);
    assert!(stdout.contains("not verified on this GPU"), "{stdout}");
    // The number of workers depends on the machine, and the run's recipe contains it.
    let recipe = std::fs::read_to_string(machine.path().join("runs/tiny/recipe.toml"));
    let recipe = recipe.expect("the resolved recipe");
    let line = recipe.lines().find(|line| line.starts_with("workers = ")).expect("a number");
    let workers: usize = line.trim_start_matches("workers = ").parse().expect("a number");
    assert!((2..=16).contains(&workers), "{line}");
    assert!(stdout.contains(&format!("prepared by {workers} threads")), "{stdout}");

    let eval = ["eval", "runs/tiny", "--device", "auto"];
    let first = machine.run(&eval);
    let noted = err(&first);
    done(first);
    assert!(noted.contains("verifications: 37 to do") && noted.contains("on ptx-vm"), "{noted}");
    assert!(!noted.contains("WARNING"), "{noted}");
    let second = machine.run(&eval);
    assert!(!err(&second).contains("verifications"), "remembered: {}", err(&second));
    done(second);
    let named = machine.run(&["eval", "runs/tiny", "--device", "cuda"]);
    assert!(!err(&named).contains("not verified"), "{}", err(&named));
    done(named);
}

#[test]
fn a_folder_that_fails_does_not_fail_the_next() {
    let machine = Machine::new(&[("PTX_DRIVER_FAIL", "gelu_fwd")]);
    let doctor = ["doctor", "--device", "cuda", "--runs", "0", "--kernels", "a[cd]*"];
    let output = machine.run(&doctor);
    let stdout = out(&output);
    refused(output, 1, &["the kernels of 1 of 3 folders are wrong: activation"]);
    assert!(stdout.contains("the kernels of 2 of 3 folders are right"), "{stdout}");
    for kernel in ["| add_f32", "| adamw"] {
        let row = stdout.lines().find(|line| line.starts_with(kernel)).expect(kernel);
        assert!(row.ends_with("| yes |"), "{row}");
    }
    let output = machine.run(&[&doctor[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&out(&output)).expect("JSON");
    let holds: Vec<&Value> =
        report["kernels"].as_array().expect("folders").iter().map(|k| &k["holds"]).collect();
    assert_eq!(holds, [false, true, true]);
}

#[test]
fn products_that_are_not_fused_are_done_apart_and_reported() {
    let machine = Machine::new(&[("PTX_DRIVER_EPILOGUES", "call")]);
    let doctor = ["doctor", "--device", "cuda", "--runs", "0", "--only", "linear"];
    let stdout = done(machine.run(&doctor));
    assert!(stdout.contains("not fused by cuBLASLt, computed separately: bias of ["), "{stdout}");
    let train = ["train", "tiny.toml", "train.steps=4", "--device", "cuda"];
    let output = machine.run(&train);
    assert!(!err(&output).contains("without CUDA graphs"), "{}", err(&output));
    let stdout = done(output);
    assert!(stdout.contains("not fused by cuBLASLt, computed separately: "), "{stdout}");
    let log = std::fs::read_to_string(machine.path().join("runs/tiny/log.jsonl")).expect("log");
    let memory = log.lines().find(|line| line.contains("\"kind\":\"memory\"")).expect("a line");
    let memory: Value = serde_json::from_str(memory).expect("JSON");
    assert!(memory["unfused"].as_array().is_some_and(|all| !all.is_empty()), "{memory}");
}

#[test]
fn steps_and_backbones_are_measured() {
    let machine = Machine::new(&[]);
    let what = ["bench", "step", "backbone", "--device", "cuda", "--no-limits"];
    let sizes = ["--model", "tiny", "--size", "32", "--iters", "2", "--json", "all.json"];
    let text = done(machine.run(&[&what[..], &sizes[..]].concat()));
    assert!(text.contains("step, ViT-tiny"), "{text}");
    let all = json(&machine.path().join("all.json"));
    check_device_figures(&all, 2);
    let environment = &all[0]["environment"];
    assert_eq!(environment["gpu"], "ptx-vm, not a GPU (number 0)");
    let software = environment["software"].as_str().expect("versions");
    assert!(software.contains("CUDA 13.0") && software.contains("cuBLASLt 13.0.0"), "{software}");
}
