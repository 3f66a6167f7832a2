//! Advisory locks on files. They end with the process that owns them, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// A file that was opened to be locked.
pub(crate) enum Locked {
    /// A file that is locked until it is closed.
    Acquired(File),
    /// A file that another process has locked.
    Busy,
    /// A file without a lock, since its file system does not support them.
    Unknown(File),
}

/// Opens `path` for writing, creates it if there is none, and locks it unless another process has.
///
/// # Errors
/// A file that cannot be opened or created.
pub(crate) fn lock(path: &Path) -> io::Result<Locked> {
    loop {
        let file = open(path)?;
        // A lock on /dev/full would be shared by all who write there.
        if !file.metadata()?.is_file() {
            return Ok(Locked::Unknown(file));
        }
        match file.try_lock() {
            // The previous owner may have removed or replaced the file meanwhile.
            Ok(()) if !is_at(&file, path)? => {}
            Ok(()) => return Ok(Locked::Acquired(file)),
            Err(TryLockError::WouldBlock) => return Ok(Locked::Busy),
            Err(TryLockError::Error(error)) if has_no_locks(&error) => {
                return Ok(Locked::Unknown(file));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    // Opening a pipe that nobody reads would block the program.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NONBLOCK.bits() as i32,
    );
    options.open(path)
}

/// Whether `path` still leads to `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;

    let open = file.metadata()?;
    match path.metadata() {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    // Open files cannot be removed on these systems.
    Ok(true)
}

fn has_no_locks(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error()) {
        return true;
    }
    error.kind() == io::ErrorKind::Unsupported
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_locked(locked: io::Result<Locked>) -> bool {
        matches!(locked.expect("opened"), Locked::Acquired(_))
    }

    #[test]
    fn one_at_a_time_until_the_file_is_closed() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("lock");
        let first = lock(&path).expect("opened");
        assert!(matches!(first, Locked::Acquired(_)));
        assert!(matches!(lock(&path).expect("opened"), Locked::Busy));
        drop(first);
        assert!(is_locked(lock(&path)));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_locked_and_not_waited_for() {
        assert!(matches!(lock(Path::new("/dev/null")).expect("opened"), Locked::Unknown(_)));
        let dir = tempfile::tempdir().expect("folder");
        let pipe = dir.path().join("pipe");
        crate::files::tests::make_pipe(&pipe);
        assert!(lock(&pipe).is_err(), "nobody reads from it");
        // A file that was removed while it was locked is not the new file of its name.
        let path = dir.path().join("lock");
        let guard = lock(&path).expect("opened");
        std::fs::remove_file(&path).expect("removed");
        assert!(is_locked(lock(&path)));
        drop(guard);
    }
}
