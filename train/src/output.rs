//! Destination of an output: a file that is replaced as a whole, or a device or pipe.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Kind of an output.
#[derive(Debug, PartialEq)]
pub(crate) enum Output {
    /// A file, existing or not: the target of all links.
    File(PathBuf),
    /// A device or a pipe, written directly.
    Stream,
}

/// Number of links after which they are taken for a loop.
const LONGEST: usize = 40;

/// Time that a pipe waits for a reader.
const READER: Duration = Duration::from_secs(30);

/// Follows `path` to its target.
///
/// # Errors
/// A folder, a disk, a socket, or links that lead nowhere.
pub(crate) fn find(path: &Path) -> io::Result<Output> {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Output::File(end_of_links(path)?));
        }
        Err(error) => return Err(error),
    };
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if metadata.is_file() {
        return Ok(Output::File(end_of_links(path)?));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;

        let kind = metadata.file_type();
        let refused = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if kind.is_block_device() {
            return refused("it is a disk; name a file");
        }
        if kind.is_socket() {
            return refused("it is a socket; name a file or a pipe");
        }
    }
    Ok(Output::Stream)
}

/// Follows links to their target, which need not exist.
fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    let mut at = path.to_path_buf();
    for _ in 0..LONGEST {
        match fs::symlink_metadata(&at) {
            Ok(metadata) if metadata.is_symlink() => {
                let target = fs::read_link(&at)?;
                at = at.parent().unwrap_or(Path::new("")).join(target);
            }
            _ => return Ok(at),
        }
    }
    Err(io::Error::other("its links loop"))
}

/// Opens a device or a pipe for writing. A pipe waits half a minute for a reader.
///
/// # Errors
/// An output that cannot be opened, or a pipe without a reader.
pub(crate) fn open_stream(path: &Path) -> io::Result<File> {
    let begin = Instant::now();
    loop {
        match open_at_once(path) {
            #[cfg(unix)]
            Err(error) if is_unread(&error, path) => {
                if begin.elapsed() > READER {
                    let what = format!("nobody read from this pipe for {} s", READER.as_secs());
                    return Err(io::Error::other(what));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            opened => return opened,
        }
    }
}

#[cfg(unix)]
fn open_at_once(path: &Path) -> io::Result<File> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    use std::os::unix::fs::OpenOptionsExt as _;

    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    // From here on writes wait for a slow reader.
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

#[cfg(not(unix))]
fn open_at_once(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// Whether `path` is a pipe that nobody has opened for reading.
#[cfg(unix)]
fn is_unread(error: &io::Error, path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;

    error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
        && path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
}
