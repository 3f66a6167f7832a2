//! Output of a run: JSON lines in its folder, and progress reports. The library prints nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::files::{self, FileError};

/// The log of a run, `log.jsonl`. It has one JSON object per line with at least `kind` and `step`,
/// in the order of events.
#[derive(Debug)]
pub struct RunLog {
    path: PathBuf,
    file: File,
}

#[derive(Serialize)]
struct Line<'a, T> {
    kind: &'a str,
    step: u64,
    #[serde(flatten)]
    fields: &'a T,
}

impl RunLog {
    /// Opens the log at `path` for a run that has done `step` steps; creates it if there is none.
    /// Lines of later steps are dropped, since the run writes them again. So is a last line that a
    /// power cut truncated.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(path: &Path, step: u64) -> Result<Self, FileError> {
        match fs::read(path) {
            Ok(old) => {
                let before = lines_where(&old, |_, at| at <= step);
                if before.as_bytes() != old || files::has_other_names(path) {
                    files::write_bytes(path, before.as_bytes())?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => files::write_bytes(path, b"")?,
            Err(source) => return Err(FileError { action: "read", path: path.to_owned(), source }),
        }
        Ok(Self { path: path.to_owned(), file: append_to(path)? })
    }

    /// Appends a line. `fields` serialises to an object; numbers that are not finite become `null`.
    ///
    /// # Errors
    /// [`FileError`], also for fields that are not an object.
    pub fn write<T: Serialize>(
        &mut self,
        kind: &str,
        step: u64,
        fields: &T,
    ) -> Result<(), FileError> {
        let line = self.line(kind, step, fields)?;
        // One call for the whole line: a reader that follows the file never sees half of it.
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.flush());
        written.map_err(|source| FileError { action: "write", path: self.path.clone(), source })
    }

    /// Formats a line with its line end.
    fn line<T: Serialize>(&self, kind: &str, step: u64, fields: &T) -> Result<String, FileError> {
        let failed = |error: serde_json::Error| FileError {
            action: "write",
            path: self.path.clone(),
            source: error.into(),
        };
        serde_json::to_string(&Line { kind, step, fields }).map(|line| line + "\n").map_err(failed)
    }

    /// Appends a line in place of those of the same kind and step. The file always has the old or
    /// the new one.
    ///
    /// # Errors
    /// As [`RunLog::write`].
    pub fn replace<T: Serialize>(
        &mut self,
        kind: &str,
        step: u64,
        fields: &T,
    ) -> Result<(), FileError> {
        let failed = |source| FileError { action: "read", path: self.path.clone(), source };
        let old = fs::read(&self.path).map_err(failed)?;
        let mut text = lines_where(&old, |of, at| of != kind || at != step);
        if text.as_bytes() == old {
            return self.write(kind, step, fields);
        }
        text += &self.line(kind, step, fields)?;
        files::write_bytes(&self.path, text.as_bytes())?;
        self.file = append_to(&self.path)?;
        Ok(())
    }

    /// Whether the log has a line of this kind and step.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn holds(&self, kind: &str, step: u64) -> Result<bool, FileError> {
        let lines = read_log(&self.path)?;
        Ok(lines.iter().any(|line| line["kind"] == kind && line["step"] == step))
    }

    /// Writes everything so far to the disk. Called before each checkpoint, since a run that is
    /// resumed there does not write these lines again, and after each score.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn sync(&self) -> Result<(), FileError> {
        let failed = |source| FileError { action: "write", path: self.path.clone(), source };
        self.file.sync_data().map_err(failed)
    }
}

/// Whether a log has whole lines that no run wrote or that are damaged.
pub(crate) fn has_foreign_lines(text: &[u8]) -> bool {
    let lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let is_own = |line: &[u8]| {
        serde_json::from_slice::<Value>(line)
            .is_ok_and(|line| line["step"].is_u64() && line["kind"].is_string())
    };
    !lines.into_iter().all(is_own)
}

/// The whole lines of a log whose kind and step `keep` accepts.
fn lines_where(log: &[u8], keep: impl Fn(&str, u64) -> bool) -> String {
    let text = String::from_utf8_lossy(log);
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let is_kept = |line: &&str| {
        let Ok(value) = serde_json::from_str::<Value>(line) else { return false };
        value["step"].as_u64().is_some_and(|at| keep(value["kind"].as_str().unwrap_or(""), at))
    };
    lines.filter(is_kept).collect()
}

/// Opens the file at `path` for appending.
fn append_to(path: &Path) -> Result<File, FileError> {
    let opened = OpenOptions::new().append(true).open(path);
    opened.map_err(|source| FileError { action: "write", path: path.to_owned(), source })
}

/// Reads the objects of a log, without a truncated last line.
///
/// # Errors
/// [`FileError`] when it cannot be read or a whole line is not JSON.
pub fn read_log(path: &Path) -> Result<Vec<Value>, FileError> {
    let failed = |source| FileError { action: "read", path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(failed)?;
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).map_err(|error| failed(error.into())))
        .collect()
}

/// Progress reporter of long work, such as a progress bar or a log. Calls come from the thread that
/// does the work; stages do not nest.
pub trait Progress: Send + Sync {
    /// Begins a stage, such as `training`, of `total` steps if that is known.
    fn begin(&self, stage: &str, total: Option<u64>);
    /// Reports that the stage has done `position` steps. `rate` is a text such as `3.2 images/s`,
    /// or empty if there is none.
    fn at(&self, position: u64, rate: &str);
    /// Ends the stage, finished or not.
    fn end(&self);
    /// Reports a text that deserves a line of its own.
    fn note(&self, text: &str);
}

/// Progress reporter that ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _stage: &str, _total: Option<u64>) {}
    fn at(&self, _position: u64, _rate: &str) {}
    fn end(&self) {}
    fn note(&self, _text: &str) {}
}

/// A stage that reports its end even after an error.
pub struct Stage<'a> {
    progress: &'a dyn Progress,
}

impl<'a> Stage<'a> {
    /// Begins a stage.
    pub fn new(progress: &'a dyn Progress, name: &str, total: Option<u64>) -> Self {
        progress.begin(name, total);
        Self { progress }
    }

    /// Reports a position.
    pub fn at(&self, position: u64, rate: &str) {
        self.progress.at(position, rate);
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        self.progress.end();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Serialize)]
    struct Step {
        lr: f64,
        loss: f32,
    }

    #[test]
    fn lines_are_objects_and_a_resumed_run_continues_them() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("run/log.jsonl");
        let mut log = RunLog::open(&path, 0).expect("opened");
        for step in 0..5 {
            log.write("step", step, &Step { lr: 1e-4, loss: step as f32 }).expect("written");
        }
        for step in [2, 3, 4] {
            log.write("eval", step, &serde_json::json!({ "mIoU": 41.25 })).expect("written");
        }
        log.sync().expect("synced");
        drop(log);
        // A power cut in the middle of a line.
        let mut file = OpenOptions::new().append(true).open(&path).expect("log");
        file.write_all(b"{\"kind\":\"step\",\"st").expect("written");
        drop(file);
        assert_eq!(read_log(&path).expect("log").len(), 8);
        let mut log = RunLog::open(&path, 3).expect("opened");
        log.replace("eval", 3, &serde_json::json!({ "mIoU": 42.5 })).expect("written");
        log.write("step", 4, &Step { lr: 5e-5, loss: f32::NAN }).expect("written");
        let lines = read_log(&path).expect("log");
        let steps: Vec<_> = lines.iter().map(|l| l["step"].as_u64()).collect();
        assert_eq!(steps, [0, 1, 2, 3, 2, 3, 4].map(Some));
        assert_eq!((&lines[4]["kind"], &lines[5]["mIoU"]), (&"eval".into(), &42.5.into()));
        assert_eq!((&lines[6]["lr"], &lines[6]["loss"]), (&serde_json::json!(5e-5), &Value::Null));
        assert_eq!(lines[1]["kind"], "step");
    }

    #[test]
    fn what_cannot_be_logged_is_an_error() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("log.jsonl");
        let mut log = RunLog::open(&path, 0).expect("opened");
        assert!(log.write("step", 0, &3).is_err(), "a number has no fields");
        assert_eq!(fs::read(&path).expect("log"), b"");
        fs::write(&path, "no json\n").expect("written");
        let error = read_log(&path).expect_err("damaged");
        assert!(error.to_string().contains("log.jsonl"), "{error}");
        assert!(RunLog::open(dir.path(), 0).is_err(), "a folder is no log");
    }

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Heard {
        fn push(&self, text: String) {
            self.0.lock().expect("unpoisoned").push(text);
        }
    }

    impl Progress for Heard {
        fn begin(&self, stage: &str, total: Option<u64>) {
            self.push(format!("begin {stage} {total:?}"));
        }
        fn at(&self, position: u64, rate: &str) {
            self.push(format!("{position} {rate}"));
        }
        fn end(&self) {
            self.push("end".to_owned());
        }
        fn note(&self, text: &str) {
            self.push(text.to_owned());
        }
    }

    #[test]
    fn a_stage_ends_even_after_an_error() {
        let heard = Heard::default();
        let work = || -> Result<(), String> {
            let stage = Stage::new(&heard, "training", Some(9));
            stage.at(1, "2 images/s");
            Err("out of memory".to_owned())
        };
        assert!(work().is_err());
        heard.note("saved");
        let heard = heard.0.into_inner().expect("unpoisoned");
        assert_eq!(heard, ["begin training Some(9)", "1 2 images/s", "end", "saved"]);
    }
}
