//! Lock that lets one process at a time train in a folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::lock::{self, Locked};
use crate::{Result, TrainError};

/// Name of the lock file in a run folder; it is removed when the run ends.
pub const LOCK: &str = "run.lock";

/// A folder that this process trains in. Trainers of one process share it.
pub(super) struct FolderLock {
    /// Path without links, so that two names of a folder are one.
    folder: PathBuf,
    /// Lock file, closed and so unlocked before the folders below are removed.
    file: Option<File>,
    /// Whether the file system supports locks.
    locked: bool,
    /// Folders that did not exist before, the innermost first.
    made: Vec<PathBuf>,
}

/// Contents of a lock file.
#[derive(Serialize, Deserialize)]
struct LockOwner {
    process: u32,
    host: String,
    since: String,
}

/// Folders that this process trains in.
static OPEN_LOCKS: Mutex<BTreeMap<PathBuf, Weak<FolderLock>>> = Mutex::new(BTreeMap::new());

fn open_locks() -> MutexGuard<'static, BTreeMap<PathBuf, Weak<FolderLock>>> {
    OPEN_LOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FolderLock {
    /// Creates `dir` if there is none, and locks it for this process.
    ///
    /// # Errors
    /// A folder that another process trains in, or that cannot be made or written to.
    pub(super) fn of(dir: &Path) -> Result<Arc<FolderLock>> {
        let mut all = open_locks();
        let failed = |source| TrainError::Write { path: dir.to_path_buf(), source };
        let absent = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let made: Vec<_> = dir.ancestors().take_while(absent).map(Path::to_path_buf).collect();
        fs::create_dir_all(dir).map_err(failed)?;
        let folder = fs::canonicalize(dir).map_err(failed)?;
        if let Some(folder_lock) = all.get(&folder).and_then(Weak::upgrade) {
            return Ok(folder_lock);
        }
        let path = folder.join(LOCK);
        let (mut file, locked) = match lock::lock(&path) {
            Ok(Locked::Acquired(file)) => (file, true),
            Ok(Locked::Unknown(file)) => (file, false),
            Ok(Locked::Busy) => return Err(busy(dir, &path)),
            Err(source) => {
                remove_empty(&made);
                return Err(TrainError::Write { path, source });
            }
        };
        // The text is for users who find the folder locked; the lock works without it.
        let _ = LockOwner::this_process().write(&mut file);
        let folder_lock =
            Arc::new(FolderLock { folder: folder.clone(), file: Some(file), locked, made });
        all.insert(folder, Arc::downgrade(&folder_lock));
        Ok(folder_lock)
    }

    /// Whether the lock excludes other processes.
    pub(super) fn is_locked(&self) -> bool {
        self.locked
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        let mut all = open_locks();
        all.remove(&self.folder);
        // Removed while it is locked: a process that waits for it checks whether the name still
        // leads to it. A lock file that stays excludes nobody.
        let _ = fs::remove_file(self.folder.join(LOCK));
        self.file = None;
        remove_empty(&self.made);
    }
}

/// Removes folders as long as they are empty.
fn remove_empty(folders: &[PathBuf]) {
    let _ = folders.iter().try_for_each(fs::remove_dir);
}

fn busy(dir: &Path, lock: &Path) -> TrainError {
    let text = fs::read_to_string(lock).unwrap_or_default();
    let who = match serde_json::from_str::<LockOwner>(&text) {
        Ok(LockOwner { process, host, since }) => {
            format!("process {process} on {host} since {since}")
        }
        Err(_) => "another process".to_owned(),
    };
    let what = format!("is in use by {who}; wait until it has ended, or choose another run.dir");
    TrainError::RunFolder { path: dir.to_path_buf(), what }
}

impl LockOwner {
    fn this_process() -> LockOwner {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        LockOwner { process: std::process::id(), host: host(), since: date(now.as_secs()) }
    }

    fn write(&self, file: &mut File) -> io::Result<()> {
        use io::Write as _;

        let text = serde_json::to_string(self)?;
        file.set_len(0)?;
        writeln!(file, "{text}")
    }
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "this machine".into())
}

/// Formats seconds since 1970 as `2026-05-01 09:30:00 UTC`.
fn date(seconds: u64) -> String {
    let is_leap = |y: u64| y.is_multiple_of(400) || (y.is_multiple_of(4) && !y.is_multiple_of(100));
    let (mut days, mut year) = (seconds / 86_400, 1970);
    loop {
        let length = 365 + u64::from(is_leap(year));
        if days < length {
            break;
        }
        (days, year) = (days - length, year + 1);
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        (days, month) = (days - length, month + 1);
    }
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{:02} {h:02}:{m:02}:{s:02} UTC", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_767_225_599, "2025-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }

    #[test]
    fn a_folder_is_locked_by_one_process_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("folder");
        let run = dir.path().join("runs/a");
        let folder_lock = FolderLock::of(&run).expect("free");
        // Another holder has the lock file open; a flock belongs to the opened file.
        assert!(matches!(lock::lock(&run.join(LOCK)).expect("opened"), Locked::Busy));
        let shared = FolderLock::of(&dir.path().join("runs/../runs/a")).expect("of this process");
        drop(folder_lock);
        assert!(matches!(lock::lock(&run.join(LOCK)).expect("opened"), Locked::Busy));
        drop(shared);
        assert!(!dir.path().join("runs").exists());
    }

    #[test]
    fn a_refusal_names_the_process_that_locked_the_folder() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join(LOCK);
        let Ok(Locked::Acquired(mut other)) = lock::lock(&path) else { panic!("free") };
        let refused = || FolderLock::of(dir.path()).map(|_| ()).expect_err("in use").to_string();
        assert!(refused().contains("another process") && refused().contains("run.dir"));
        LockOwner::this_process().write(&mut other).expect("written");
        let text = refused();
        let process = format!("process {} on {} since 20", std::process::id(), host());
        assert!(text.contains(&process), "{text}");
        // A lock file of a dead process excludes nobody.
        drop(other);
        let folder_lock = FolderLock::of(dir.path()).expect("free");
        drop(folder_lock);
        assert!(!path.exists() && dir.path().exists());
    }
}
