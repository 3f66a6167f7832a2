//! Trainings of the program in folders of their own, and their results.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::TINY;

/// Steps of the trainings; checkpoints and evaluations come after every second step.
pub const STEPS: u64 = 6;

/// Settings of all trainings.
const SETTINGS: [&str; 5] = [
    "run.dir=run",
    "train.steps=6",
    "train.checkpoint_every=2",
    "train.eval_every=2",
    "train.keep=2",
];

/// A folder with the recipe and the run, and the device.
pub struct Training {
    dir: TempDir,
    device: &'static str,
}

/// Files of a finished training.
#[derive(PartialEq)]
pub struct Finished {
    /// Bytes of the last checkpoint.
    last: Vec<u8>,
    /// Names in `checkpoints`.
    pub names: Vec<String>,
    /// Lines of the log about steps and scores, without times and memory.
    log: Vec<Value>,
    /// Unfinished files of writes.
    partial: Vec<PathBuf>,
}

impl Training {
    pub fn new(device: &'static str) -> Training {
        let dir = tempfile::tempdir().expect("folder");
        fs::write(dir.path().join("tiny.toml"), TINY).expect("recipe");
        Training { dir, device }
    }

    /// Returns the run folder.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Whether there is a checkpoint to resume.
    pub fn has_checkpoint(&self) -> bool {
        !checkpoints(&self.run_dir()).is_empty()
    }

    /// Returns the command that starts or resumes the training.
    pub fn command(&self) -> Command {
        let mut command = self.program(&["train", "tiny.toml", "--device", self.device]);
        command.args(SETTINGS);
        if self.device == "virtual" {
            // As little work as possible: each instruction of a kernel is interpreted.
            command.args(["augment.crop=16", "loss.points=8", "head.queries=4"]);
            command.arg("data.eval.0.count=1");
        }
        if self.has_checkpoint() {
            command.arg("--resume");
        }
        command
    }

    /// Returns a command of the program in this folder, without output.
    pub fn program(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dressage"));
        command.args(args).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Trains to the end without disturbance.
    pub fn finish(&self) -> Finished {
        let output = self.command().stderr(Stdio::piped()).output().expect("the program starts");
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{}: {words}", self.device);
        self.finished()
    }

    /// Reads the files after the end.
    pub fn finished(&self) -> Finished {
        let dir = self.run_dir();
        let last = dir.join(format!("checkpoints/step-{STEPS:06}.safetensors"));
        let last = fs::read(&last).unwrap_or_else(|e| panic!("{}: {e}", last.display()));
        let names = checkpoints(&dir).into_keys().collect();
        let partial =
            [dir.clone(), dir.join("checkpoints")].iter().flat_map(|d| partial(d)).collect();
        Finished { last, names, log: lines(&dir.join("log.jsonl")), partial }
    }
}

/// Returns the checkpoints of a run by name, without other files of the folder.
pub fn checkpoints(run: &Path) -> BTreeMap<String, PathBuf> {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return BTreeMap::new() };
    let named = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().expect("UTF-8");
        let whole = name.starts_with("step-") && name.ends_with(".safetensors");
        whole.then(|| (name, entry.path()))
    };
    entries.filter_map(|entry| named(entry.expect("entry"))).collect()
}

/// Returns the unfinished files in `dir`.
fn partial(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("folder").map(|entry| entry.expect("entry").path());
    entries.filter(|path| path.extension().is_some_and(|e| e == "partial")).collect()
}

/// Reads the lines about steps and scores, without values that depend on the machine.
fn lines(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).expect("log");
    let parsed = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let fields = line.as_object_mut().expect("object");
        for key in ["seconds", "waited", "images_per_s", "memory_mib"] {
            fields.remove(key);
        }
        line
    });
    parsed.filter(|line| line["kind"] == "train" || line["kind"] == "eval").collect()
}

impl Finished {
    /// Asserts that `found`, disturbed as `how` says, has the same checkpoint, log and scores.
    #[track_caller]
    pub fn same(&self, found: &Finished, how: &str) {
        let steps = |of: &Finished| -> Vec<String> {
            of.log.iter().map(|line| format!("{} {}", line["kind"], line["step"])).collect()
        };
        assert_eq!(steps(found), steps(self), "{how}: lines of the log");
        assert!(found.log == self.log, "{how}: {:#?} is not {:#?}", found.log, self.log);
        assert!(found.partial.is_empty(), "{how}: left behind are {:?}", found.partial);
        assert!(found.last == self.last, "{how}: the last checkpoint has other bytes");
    }
}

/// Runs an undisturbed training; returns its results and its time.
pub fn reference(device: &'static str) -> (Finished, Duration) {
    let begin = Instant::now();
    let finished = Training::new(device).finish();
    let trained = finished.log.iter().filter(|line| line["kind"] == "train").count();
    assert_eq!(trained as u64, STEPS);
    let scored = finished.log.iter().filter(|line| line["kind"] == "eval").count();
    assert_eq!(scored, 3);
    (finished, begin.elapsed())
}
