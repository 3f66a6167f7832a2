//! Verification of a folder of kernels in a process of its own.
//!
//! After a failed kernel a process can no longer use its GPU: every later call returns the error of
//! that kernel. So later folders are verified by new processes of this program.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use dressage_kernels::check::verify::Outcome;
use serde_json::Value;

use super::found::FolderResult;

/// Time limit of a process: it may hang on the device.
const LIMIT: Duration = Duration::from_secs(600);

/// Interval between checks of the process.
const LOOK: Duration = Duration::from_millis(20);

/// Returns the outcomes of a process, and the products that it could not fuse.
pub fn examine(folder: &'static str, number: usize, runs: usize) -> (FolderResult, Vec<String>) {
    let device = format!("cuda:{number}");
    let words = ["doctor", "--device", &device, "--only", folder, "--json", "--runs"];
    let ended = std::env::current_exe()
        .and_then(|program| run(Command::new(program).args(words).arg(runs.to_string()), LIMIT));
    let failed = |why: String| {
        let what = format!("{folder}: verification in a separate process");
        let outcome = Outcome { what, values: 0, worst: f64::INFINITY, failure: Some(why) };
        (FolderResult::new(folder, vec![outcome]), Vec::new())
    };
    match ended {
        Err(error) => failed(format!("it cannot be started: {error}")),
        Ok(Ended { status: None, .. }) => {
            failed(format!("it did not end within {} s", LIMIT.as_secs()))
        }
        Ok(Ended { status: Some(status), out, errors }) => {
            let report = serde_json::from_str(&out).ok();
            let found = report.as_ref().and_then(|all: &Value| {
                let unfused = all["unfused"].as_array().into_iter().flatten();
                let unfused = unfused.filter_map(|text| text.as_str().map(str::to_owned));
                Some((FolderResult::read(folder, &all["kernels"][0])?, unfused.collect()))
            });
            let last = || errors.trim().lines().last().unwrap_or("it printed nothing").to_owned();
            found.unwrap_or_else(|| failed(format!("it ended with {status}: {}", last())))
        }
    }
}

/// Result of a process; without a status if it was killed at the limit.
struct Ended {
    status: Option<ExitStatus>,
    out: String,
    errors: String,
}

fn run(command: &mut Command, limit: Duration) -> std::io::Result<Ended> {
    let start = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    // The pipes are read all the time, so that the process never blocks on a full one.
    let [out, errors] = [collect(child.stdout.take()), collect(child.stderr.take())];
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if start.elapsed() > limit => {
                child.kill()?;
                child.wait()?;
                break None;
            }
            None => std::thread::sleep(LOOK),
        }
    };
    let [out, errors] = [out, errors].map(|text| text.join().unwrap_or_default());
    Ok(Ended { status, out, errors })
}

fn collect(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // Output before a read error is kept.
        let _ = stream.map(|mut stream| stream.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn processes_end_or_are_ended() {
        let long = Duration::from_secs(60);
        let shell = |text: &str, limit| run(Command::new("sh").args(["-c", text]), limit);
        let ended = shell("echo out; echo wrong >&2; exit 3", long).expect("started");
        assert_eq!(ended.status.and_then(|status| status.code()), Some(3));
        assert_eq!((ended.out.as_str(), ended.errors.as_str()), ("out\n", "wrong\n"));
        let ended = shell("exec sleep 600", Duration::from_millis(10)).expect("started");
        assert!(ended.status.is_none());
        assert!(run(&mut Command::new("/no/such/program"), long).is_err());
    }
}
