//! Measurement by another process: a peer, or this program itself.

use std::process::{Command, Stdio};
use std::time::Duration;

use dressage_train::machine::peak_resident_of;
use serde_json::Value;

use super::case::Part;
use super::figures::Figures;
use crate::failure::Failure;

/// Interval between reads of the memory of a process. Its peak only grows, so only the growth in
/// its last moments is missed.
const LOOK: Duration = Duration::from_millis(10);

/// A program with its fixed options.
#[derive(Debug, Clone)]
pub struct Program {
    words: Vec<String>,
}

impl Program {
    /// Parses a command line, its words separated by blanks.
    ///
    /// # Errors
    /// An empty command line.
    pub fn new(line: &str) -> Result<Program, Failure> {
        let words: Vec<String> = line.split_whitespace().map(String::from).collect();
        match words.is_empty() {
            true => Err(Failure::Message("--peer needs a command".into())),
            false => Ok(Program { words }),
        }
    }

    /// Returns this program itself.
    ///
    /// # Errors
    /// A system that does not report the path of the program.
    pub fn own() -> Result<Program, Failure> {
        let failed = |e| Failure::Message(format!("cannot find the path of this program: {e}"));
        let path = std::env::current_exe().map_err(failed)?;
        Ok(Program { words: vec![path.display().to_string()] })
    }

    /// Runs it with `options` on `threads` threads, and reads the file of results that `--json`
    /// names.
    ///
    /// # Errors
    /// A program that cannot be started, fails, or writes no times of `part`.
    pub fn measure(
        &self,
        options: &[String],
        threads: usize,
        part: Part,
    ) -> Result<Figures, Failure> {
        let failure = |what: String| Failure::Message(format!("{}: {what}", self.words.join(" ")));
        let name = format!("dressage-bench-{}-{}.json", std::process::id(), part.name());
        let json = std::env::temp_dir().join(name);
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(options).arg("--json").arg(&json);
        for key in ["OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
            command.env(key, threads.to_string());
        }
        let errors = json.with_extension("err");
        let log = std::fs::File::create(&errors)
            .map_err(|e| failure(format!("cannot create a log: {e}")))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().map_err(|e| failure(format!("cannot be started: {e}")))?;
        let mut peak = None;
        let status = loop {
            peak = peak_resident_of(child.id()).max(peak);
            match child.try_wait().map_err(|e| failure(format!("cannot be waited for: {e}")))? {
                Some(status) => break status,
                None => std::thread::sleep(LOOK),
            }
        };
        let stderr = std::fs::read_to_string(&errors).unwrap_or_default();
        let text = std::fs::read(&json);
        // Temporary files: the results do not depend on whether they can be removed.
        let _ = (std::fs::remove_file(&errors), std::fs::remove_file(&json));
        if !status.success() {
            let last = stderr.trim().lines().last().unwrap_or("it printed nothing").to_owned();
            return Err(failure(format!("failed ({status}): {last}")));
        }
        let text = text.map_err(|e| failure(format!("wrote no figures: {e}")))?;
        let value: Value = serde_json::from_slice(&text)
            .map_err(|e| failure(format!("wrote figures that are not valid JSON: {e}")))?;
        let found = Figures::read(&value, part)?;
        // A peak that the program itself reports is preferred.
        Ok(Figures { peak: found.peak.or(peak), ..found })
    }
}
