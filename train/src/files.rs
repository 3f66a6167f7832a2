//! Files that are either there as a whole or not at all.
//!
//! A file is written under the name `NAME.partial` in its own folder, flushed to the disk, and
//! only then renamed. A reader, or a run that starts after a power cut, sees the old file or the
//! new one. If anything fails (a full disk), the partial file is removed and the old one stays.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// What a file name ends in while it is being written.
const PARTIAL: &str = "partial";

/// A file that could not be read, written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}{}", .path.display(), hint(.source))]
pub struct FileError {
    /// What was tried, a verb.
    pub action: &'static str,
    /// File or folder.
    pub path: PathBuf,
    /// What the operating system says.
    pub source: io::Error,
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => "; free some space, what was there before is untouched",
        io::ErrorKind::PermissionDenied => "; check the rights of its folder",
        _ => "",
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { action, path, source }
}

/// Writes a file through `fill`, which gets a buffered writer; makes the folder if there is none.
///
/// # Errors
/// [`FileError`] with the path and the cause, from the operating system or from `fill`; the old
/// file is untouched.
pub fn write(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    if let Some(dir) = folder(path) {
        fs::create_dir_all(dir).map_err(failed("make the folder", dir))?;
    }
    let partial = partial_name(path);
    let written = File::create(&partial).and_then(|file| {
        let mut writer = BufWriter::with_capacity(1 << 20, file);
        fill(&mut writer)?;
        // Renaming before the data is on the disk could leave an empty file after a power cut.
        writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    });
    let done = written.and_then(|()| fs::rename(&partial, path));
    if let Err(error) = done {
        // The first error is the one to report; a partial file that stays is swept later.
        let _ = fs::remove_file(&partial);
        return Err(failed("write", path)(error));
    }
    sync_folder(path);
    Ok(())
}

/// [`write`] for bytes at hand.
///
/// # Errors
/// As [`write`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, |writer| writer.write_all(bytes))
}

/// Removes what interrupted writes have left in a folder; says how many files that were. A folder
/// that does not exist holds none.
///
/// # Errors
/// [`FileError`] when the folder cannot be read or a file not be removed.
pub fn sweep(dir: &Path) -> Result<usize, FileError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed("read the folder", dir)(error)),
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry.map_err(failed("read the folder", dir))?.path();
        if path.extension().is_some_and(|e| e == PARTIAL) && path.is_file() {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn partial_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(".");
    name.push(PARTIAL);
    PathBuf::from(name)
}

fn folder(path: &Path) -> Option<&Path> {
    path.parent().filter(|dir| !dir.as_os_str().is_empty())
}

/// Puts the new name itself on the disk. Best effort: some file systems cannot, and the file is
/// whole either way.
fn sync_folder(path: &Path) {
    #[cfg(unix)]
    if let Ok(dir) = File::open(folder(path).unwrap_or(Path::new("."))) {
        let _ = dir.sync_all();
    }
    #[cfg(not(unix))]
    let _ = path;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("folder")
            .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn files_appear_whole_and_alone() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("a/b/weights.safetensors");
        write_bytes(&path, b"first").expect("written");
        write(&path, |w| {
            w.write_all(b"sec")?;
            // While it is being written, readers find the old one.
            assert_eq!(fs::read(&path)?, b"first");
            w.write_all(b"ond")
        })
        .expect("written");
        assert_eq!(fs::read(&path).expect("file"), b"second");
        assert_eq!(names(path.parent().expect("folder")), ["weights.safetensors"]);
    }

    #[test]
    fn a_full_disk_leaves_the_old_file_and_no_rest() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("checkpoint");
        write_bytes(&path, b"old").expect("written");
        let error = write(&path, |w| {
            // More than the buffer holds, so that a part has reached the disk.
            w.write_all(&vec![7; 3 << 20])?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .expect_err("the writer fails");
        let text = error.to_string();
        assert!(text.contains("checkpoint") && text.contains("free some space"), "{text}");
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).expect("file"), b"old");
        assert_eq!(names(dir.path()), ["checkpoint"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_real_full_device_is_reported() {
        // A link that leads the partial file to the device that is always full.
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("log");
        std::os::unix::fs::symlink("/dev/full", partial_name(&path)).expect("link");
        let error = write_bytes(&path, b"text").expect_err("no space");
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull, "{error}");
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_place_that_is_no_folder_is_named() {
        let dir = tempfile::tempdir().expect("folder");
        fs::write(dir.path().join("file"), "x").expect("written");
        let error = write_bytes(&dir.path().join("file/inside"), b"y").expect_err("not a folder");
        assert!(error.to_string().contains("file"), "{error}");
        // A folder where the file should go: the rename fails, nothing stays behind.
        fs::create_dir_all(dir.path().join("taken/inside")).expect("folder");
        assert!(write_bytes(&dir.path().join("taken"), b"y").is_err());
        assert_eq!(names(dir.path()), ["file", "taken"]);
    }

    #[test]
    fn rests_of_killed_runs_are_swept() {
        let dir = tempfile::tempdir().expect("folder");
        for name in ["step-10", "step-20.partial", "partial", "notes.partial.txt"] {
            fs::write(dir.path().join(name), "x").expect("written");
        }
        assert_eq!(sweep(dir.path()).expect("swept"), 1);
        assert_eq!(names(dir.path()), ["notes.partial.txt", "partial", "step-10"]);
        assert_eq!(sweep(&dir.path().join("none")).expect("nothing there"), 0);
    }
}
