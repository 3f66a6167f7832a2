//! Files that are written as a whole or not at all.
//!
//! A file is written under the name `NAME.partial` in its own folder, flushed to the disk, and only
//! then renamed. A reader, or a run that starts after a power cut, sees the old file or the new
//! one. If anything fails (a full disk), the partial file is removed and the old one stays.
//!
//! A link stays a link: its target is replaced. A device or a pipe is written directly.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::lock::{self, Locked};
use crate::output::{self, Output};

/// Extension of a file while it is being written.
const PARTIAL: &str = "partial";

/// Size of the write buffer in bytes.
const BUFFER: usize = 1 << 20;

/// Partial files of this process.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the files that this process is writing. For an immediate exit: the writers fail.
pub fn remove_unfinished() {
    for path in unfinished().drain(..) {
        // The file may be finished by now, and nobody is left to receive another error.
        let _ = fs::remove_file(path);
    }
}

/// A file that could not be read, written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}{}", .path.display(), written_hint(.source))]
pub struct FileError {
    /// Attempted action, a verb.
    pub action: &'static str,
    /// File or folder.
    pub path: PathBuf,
    /// Error of the operating system.
    pub source: io::Error,
}

fn written_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => "; free some space, what was there before is untouched",
        io::ErrorKind::PermissionDenied => "; check the rights of its folder",
        _ => hint(source).unwrap_or(""),
    }
}

/// Advice on limits of the process and of the user.
pub fn hint(source: &io::Error) -> Option<&'static str> {
    #[cfg(unix)]
    {
        use rustix::io::Errno;

        let is = |errno: Errno| source.raw_os_error() == Some(errno.raw_os_error());
        if is(Errno::MFILE) || is(Errno::NFILE) {
            return Some("; raise the limit of open files (ulimit -n)");
        }
        if is(Errno::AGAIN) || is(Errno::NOMEM) {
            return Some("; raise the limits of processes (ulimit -u) and memory (ulimit -v, -d)");
        }
    }
    match source.kind() {
        io::ErrorKind::FileTooLarge => {
            Some("; raise the limit of file sizes (ulimit -f), what was there before is untouched")
        }
        io::ErrorKind::QuotaExceeded => {
            Some("; free some space of your quota, what was there before is untouched")
        }
        _ => None,
    }
}

/// Whether a file has other names (hard links), whose content would change with it.
pub(crate) fn has_other_names(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() > 1)
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { action, path, source }
}

/// Writes a file through `fill`, which gets a buffered writer. Creates the folder if there is none.
///
/// # Errors
/// [`FileError`] with the path and the cause, from the operating system or from `fill`; the old
/// file is unchanged. A folder, a disk or a socket of this name.
pub fn write(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    match output::find(path).map_err(failed("write", path))? {
        Output::File(file) => replace(&file, path, fill),
        Output::Stream => stream(path, fill).map_err(failed("write", path)),
    }
}

/// Replaces `file`, the target of `named`, as a whole.
fn replace(
    file: &Path,
    named: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    if let Some(dir) = folder(file) {
        fs::create_dir_all(dir).map_err(failed("make the folder", dir))?;
    }
    let (partial, opened) = open_partial(file).map_err(failed("write", named))?;
    unfinished().push(partial.clone());
    // Renaming before the data is on the disk could leave an empty file after a power cut.
    let written = filled(&opened, fill).and_then(|()| opened.sync_all());
    let done = written.and_then(|()| fs::rename(&partial, file));
    unfinished().retain(|path| *path != partial);
    if let Err(error) = done {
        // The first error is reported; a partial file that stays is swept later.
        let _ = fs::remove_file(&partial);
        return Err(failed("write", named)(error));
    }
    sync_folder(file);
    Ok(())
}

/// Opens an empty partial file of `path`, locked so that nobody sweeps it. If another process is
/// writing the same file, a second partial file is used.
fn open_partial(path: &Path) -> io::Result<(PathBuf, File)> {
    let mut others = 0;
    loop {
        let partial = partial_name(path, others);
        match lock::lock(&partial)? {
            Locked::Busy => others += 1,
            Locked::Acquired(file) | Locked::Unknown(file) => {
                if file.metadata()?.is_file() {
                    file.set_len(0)?;
                }
                return Ok((partial, file));
            }
        }
    }
}

fn stream(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    filled(&output::open_stream(path)?, fill)
}

fn filled(file: &File, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(BUFFER, file);
    fill(&mut writer)?;
    writer.flush()
}

/// [`write()`] for bytes in memory.
///
/// # Errors
/// As [`write()`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, |writer| writer.write_all(bytes))
}

/// Removes leftovers of interrupted writes from a folder, for files whose names `of` accepts.
/// Returns their number. A file that is being written stays. A folder that does not exist has none.
///
/// # Errors
/// [`FileError`] when the folder cannot be read or a file not be removed.
pub(crate) fn sweep(dir: &Path, of: impl Fn(&str) -> bool) -> Result<usize, FileError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed("read the folder", dir)(error)),
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry.map_err(failed("read the folder", dir))?.path();
        let is_partial = path.extension().is_some_and(|e| e == PARTIAL)
            && path.file_stem().and_then(|stem| stem.to_str()).is_some_and(&of)
            && fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file());
        if !is_partial {
            continue;
        }
        match lock::lock(&path).map_err(failed("remove", &path))? {
            Locked::Busy => {}
            Locked::Acquired(_) | Locked::Unknown(_) => {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

/// Name of a partial file: `NAME.partial`, `NAME.1.partial` and so on.
fn partial_name(path: &Path, others: u32) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    if others > 0 {
        name.push(format!(".{others}"));
    }
    name.push(".");
    name.push(PARTIAL);
    PathBuf::from(name)
}

fn folder(path: &Path) -> Option<&Path> {
    path.parent().filter(|dir| !dir.as_os_str().is_empty())
}

/// Flushes the new name itself to the disk. Best effort: some file systems cannot, and the file is
/// complete either way.
fn sync_folder(path: &Path) {
    #[cfg(unix)]
    if let Ok(dir) = File::open(folder(path).unwrap_or(Path::new("."))) {
        let _ = dir.sync_all();
    }
    #[cfg(not(unix))]
    let _ = path;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Creates a named pipe.
    #[cfg(unix)]
    pub fn make_pipe(path: &Path) {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a pipe");
    }

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
            // Meanwhile readers find the old file.
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
        // A link from the partial file to the device that is always full.
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("log");
        std::os::unix::fs::symlink("/dev/full", partial_name(&path, 0)).expect("link");
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
        for name in ["step-10", "step-20.partial", "partial", "notes.partial.txt", "my.partial"] {
            fs::write(dir.path().join(name), "x").expect("written");
        }
        let of_runs = |name: &str| name.starts_with("step-");
        write(&dir.path().join("step-30"), |w| {
            w.write_all(b"x")?;
            // Of two partial files the one that is being written stays.
            assert_eq!(sweep(dir.path(), of_runs).expect("swept"), 1);
            Ok(())
        })
        .expect("written");
        assert_eq!(
            names(dir.path()),
            ["my.partial", "notes.partial.txt", "partial", "step-10", "step-30"]
        );
        assert_eq!(sweep(&dir.path().join("none"), of_runs).expect("nothing there"), 0);
    }

    #[test]
    fn two_who_write_the_same_file_leave_one_of_theirs_whole() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("eval.json");
        write(&path, |first| {
            first.write_all(b"fir")?;
            write_bytes(&path, b"second").expect("written meanwhile");
            assert_eq!(fs::read(&path)?, b"second");
            first.write_all(b"st")
        })
        .expect("written");
        assert_eq!(fs::read(&path).expect("file"), b"first");
        assert_eq!(names(dir.path()), ["eval.json"]);
    }

    #[test]
    fn what_is_unfinished_is_known_until_it_is_done() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("file");
        let is_known = || unfinished().contains(&partial_name(&path, 0));
        for result in [Ok(()), Err(io::ErrorKind::StorageFull)] {
            let written = write(&path, |_| {
                assert!(is_known());
                result.map_err(io::Error::from)
            });
            assert_eq!(written.is_ok(), result.is_ok());
            assert!(!is_known());
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_what_they_lead_to_is_replaced() {
        use std::os::unix::fs::symlink;

        let dir = tempfile::tempdir().expect("folder");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("far")).expect("folder");
        fs::write(at("far/real"), "old").expect("written");
        symlink("far/real", at("link")).expect("link");
        symlink("link", at("twice")).expect("link");
        symlink("far", at("folder")).expect("link");
        symlink("far/new", at("dangling")).expect("link");
        symlink("loop", at("loop")).expect("link");
        for name in ["link", "twice", "folder/real"] {
            write_bytes(&at(name), name.as_bytes()).expect("written");
            assert_eq!(fs::read(at("far/real")).expect("file"), name.as_bytes());
        }
        write_bytes(&at("dangling"), b"new").expect("written");
        assert_eq!(fs::read(at("far/new")).expect("file"), b"new");
        for name in ["link", "twice", "folder", "dangling"] {
            assert!(at(name).is_symlink(), "{name}");
        }
        let error = write_bytes(&at("loop"), b"x").expect_err("leads nowhere").to_string();
        assert!(error.contains("loop"), "{error}");
        assert_eq!(names(&at("far")), ["new", "real"]);
        // A failed write leaves the target of the link, too.
        let full = write(&at("twice"), |_| Err(io::ErrorKind::StorageFull.into()));
        assert!(full.is_err() && fs::read(at("far/real")).expect("file") == b"folder/real");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn devices_and_pipes_are_written_as_they_are() {
        use std::os::unix::fs::{FileTypeExt as _, symlink};

        let dir = tempfile::tempdir().expect("folder");
        let pipe = dir.path().join("pipe");
        make_pipe(&pipe);
        symlink("pipe", dir.path().join("to-pipe")).expect("link");
        for name in ["pipe", "to-pipe"] {
            let path = dir.path().join(name);
            let reader = std::thread::spawn({
                let pipe = pipe.clone();
                move || fs::read(pipe)
            });
            let bytes: Vec<u8> = (0..3u32 << 20).map(|i| ((i * 7) >> 3) as u8).collect();
            write_bytes(&path, &bytes).expect("written");
            assert!(reader.join().expect("thread").expect("read") == bytes);
        }
        assert!(fs::symlink_metadata(&pipe).expect("pipe").file_type().is_fifo());
        for (device, holds) in [("/dev/null", true), ("/dev/full", false)] {
            let path = dir.path().join("device");
            symlink(device, &path).expect("link");
            assert_eq!(write_bytes(&path, b"text").is_ok(), holds, "{device}");
            assert!(path.is_symlink());
            assert!(fs::metadata(device).expect("device").file_type().is_char_device());
            fs::remove_file(&path).expect("removed");
        }
        assert_eq!(names(dir.path()), ["pipe", "to-pipe"]);
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("socket");
        let error = write_bytes(&socket, b"x").expect_err("a socket").to_string();
        assert!(error.contains("socket") && error.contains("name a file"), "{error}");
        assert!(write_bytes(dir.path(), b"x").is_err(), "a folder");
    }
}
