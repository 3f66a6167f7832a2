//! Verification of the kernels on a GPU that this program has not used before.
//!
//! PTX is translated by the driver, so a kernel that is right on one GPU can be wrong on another. A
//! device that is chosen automatically has to be verified once: every kernel is compared with its
//! reference, as in `dressage doctor`. A success is stored in a small file in the user's cache
//! folder. If that cannot be written, the verification runs again the next time.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, UNIX_EPOCH};

use dressage_engine::Device;
use dressage_kernels::check::verify::{self, Kernels, Outcome};

use crate::runlog::{Progress, Stage};
use crate::{files, user_cache};

/// Time limit for the kernels of one folder, after which they count as hanging.
const LIMIT: Duration = Duration::from_secs(600);

/// Number of lines that the file keeps, the latest ones.
const KEPT: usize = 64;

/// Line of the file for the verification of one kind of device.
fn line(device: &Device) -> Option<String> {
    let software = device.software()?;
    Some(format!("dressage {} on {software}", program()).replace(['\n', '\r'], " "))
}

/// Identity of this program: its version, and values that change with every build.
fn program() -> String {
    let file = std::env::current_exe().and_then(std::fs::metadata).ok();
    let build = file.map(|file| {
        let at = file.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        format!(" ({} bytes, {})", file.len(), at.map_or(0, |at| at.as_nanos()))
    });
    format!("{}{}", env!("CARGO_PKG_VERSION"), build.unwrap_or_default())
}

/// The file in the user's cache.
fn file() -> Option<PathBuf> {
    Some(user_cache::folder()?.join("verified.txt"))
}

fn lines(file: &Path) -> Vec<String> {
    let bytes = std::fs::read(file).unwrap_or_default();
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

/// Whether all kernels were verified on such a device. Virtual devices count as verified: they
/// check every access themselves.
pub(crate) fn is_verified(device: &Device) -> bool {
    let Some(line) = line(device) else { return true };
    file().is_some_and(|file| lines(&file).contains(&line))
}

/// Records that all kernels were verified on such a device. A failure is ignored: the kernels are
/// then verified again.
pub fn remember(device: &Device) {
    if let (Some(line), Some(file)) = (line(device), file()) {
        remember_in(&file, line);
    }
}

fn remember_in(file: &Path, line: String) {
    let mut all = lines(file);
    all.retain(|known| *known != line);
    all.push(line);
    let latest = &all[all.len().saturating_sub(KEPT)..];
    let _ = files::write_bytes(file, format!("{}\n", latest.join("\n")).as_bytes());
}

/// Verifies all kernels on a device unless that was done before.
///
/// # Errors
/// The first comparison that fails, in words.
pub(crate) fn ensure(device: &Device, progress: &dyn Progress) -> Result<(), String> {
    if is_verified(device) {
        return Ok(());
    }
    verify(device, verify::all(), LIMIT, progress)?;
    remember(device);
    Ok(())
}

/// Runs verifications until one fails.
fn verify(
    device: &Device,
    folders: Vec<Kernels>,
    limit: Duration,
    progress: &dyn Progress,
) -> Result<(), String> {
    progress.note(&format!(
        "first use of {}: its kernels are compared with their references once",
        device.name()
    ));
    let stage = Stage::new(progress, "verifications", Some(folders.len() as u64));
    let (names, count): (Vec<&str>, _) = (folders.iter().map(|k| k.name).collect(), folders.len());
    let (send, receive) = channel::<Vec<Outcome>>();
    let device = device.clone();
    // A separate thread, so that a kernel that hangs does not hang the program.
    let work = move || {
        for kernels in folders {
            if send.send(kernels.run(&device)).is_err() {
                return;
            }
        }
    };
    let started = std::thread::Builder::new().name("verifications".into()).spawn(work);
    started.map_err(|error| format!("the verifications of the kernels cannot start: {error}"))?;
    for (i, name) in names.iter().enumerate() {
        match receive.recv_timeout(limit) {
            Ok(outcomes) => failure(&outcomes).map_or(Ok(()), Err)?,
            Err(RecvTimeoutError::Timeout) => {
                let seconds = limit.as_secs_f64();
                return Err(format!("the kernels of {name} did not end within {seconds} s"));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(format!("the verification of the kernels of {name} stopped early"));
            }
        }
        let next = names.get(i + 1).copied().unwrap_or_default();
        stage.at(i as u64 + 1, if i + 1 < count { next } else { "" });
    }
    Ok(())
}

/// Message of the first failed comparison.
fn failure(outcomes: &[Outcome]) -> Option<String> {
    let wrong = |outcome: &Outcome| {
        let why = outcome.failure.as_ref()?;
        Some(format!("a kernel is wrong on this GPU: {}: {why}", outcome.what))
    };
    outcomes.iter().find_map(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runlog::Silent;
    use dressage_kernels::check::verify::Verification;

    fn folder(name: &'static str, verify: verify::Verify) -> Kernels {
        Kernels { name, verify, timed: |_| Ok(Vec::new()) }
    }

    fn right(verification: &mut Verification<'_>) -> dressage_kernels::Result<()> {
        verification.holds("right_f32 [1]: y", true);
        Ok(())
    }

    fn wrong(verification: &mut Verification<'_>) -> dressage_kernels::Result<()> {
        verification.holds("wrong_f32 [1]: y", false);
        Ok(())
    }

    fn hangs(_: &mut Verification<'_>) -> dressage_kernels::Result<()> {
        std::thread::sleep(Duration::from_secs(3600));
        Ok(())
    }

    fn panics(_: &mut Verification<'_>) -> dressage_kernels::Result<()> {
        std::panic::resume_unwind(Box::new("on purpose"))
    }

    #[test]
    fn the_first_wrong_kernel_is_named() {
        let device = Device::virtual_gpu();
        let run = |folders, limit| verify(&device, folders, limit, &Silent);
        let (ok, bad) = (folder("right", right), folder("wrong", wrong));
        assert_eq!(run(vec![ok, ok], LIMIT), Ok(()));
        let why = run(vec![ok, bad, ok], LIMIT).expect_err("wrong");
        assert!(why.contains("wrong_f32 [1]: y: does not hold"), "{why}");
        let why = run(vec![folder("stuck", hangs)], Duration::from_millis(20)).expect_err("hangs");
        assert!(why.contains("stuck did not end within 0.02 s"), "{why}");
        let why = run(vec![folder("broken", panics)], LIMIT).expect_err("panics");
        assert!(why.contains("broken stopped early"), "{why}");
    }

    #[test]
    fn a_verification_is_remembered_where_that_is_possible() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("cache/dressage/verified.txt");
        assert!(lines(&path).is_empty());
        (0..KEPT + 2).for_each(|i| remember_in(&path, format!("gpu {i}")));
        remember_in(&path, "gpu 5".into());
        let all = lines(&path);
        assert_eq!((all.len(), all.last().map(String::as_str)), (KEPT, Some("gpu 5")));
        assert_eq!(all[0], "gpu 2");
        // Invalid content verifies nothing and is replaced; a folder in the way is left alone.
        std::fs::write(&path, b"\xff\xfe\n\0").expect("written");
        remember_in(&path, "gpu".into());
        assert!(lines(&path).contains(&"gpu".to_owned()));
        let blocked = dir.path().join("blocked");
        std::fs::create_dir(&blocked).expect("folder");
        remember_in(&blocked, "gpu".into());
        assert!(lines(&blocked).is_empty());
        assert!(is_verified(&Device::virtual_gpu()), "it checks every access anyway");
    }
}
