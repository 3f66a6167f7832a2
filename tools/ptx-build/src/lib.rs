//! Compiles `kernels/src/**/*.cu` to `kernels/ptx/*.ptx` with one pinned compiler, and reports the
//! resources of each kernel.
//!
//! The generated PTX is committed: a machine with only a driver can run it, and `cargo build` needs
//! no toolkit. Each file contains a hash of its sources ([`source`]), so that a test without a
//! compiler detects a source that was changed but not recompiled. The alternative, a build script
//! that calls nvcc, would give every machine different bytes, and most machines none.

pub mod resources;
pub mod source;
pub mod tool;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Errors of a regeneration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder that cannot be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    File {
        /// The attempted action, a verb.
        action: &'static str,
        /// File or folder.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A source includes a header that does not exist.
    #[error(
        "{} includes \"{header}\", which is neither in its folder nor in kernels/src/ops/cuda",
        .file.display()
    )]
    Header {
        /// The source.
        file: PathBuf,
        /// The header as written.
        header: String,
    },
    /// Two sources would write the same file.
    #[error(
        "{} and {} would both make {stem}.ptx: rename one",
        .first.display(), .second.display()
    )]
    Stem {
        /// File name without its extension.
        stem: String,
        /// One source.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// There is no compiler.
    #[error("{0}")]
    Compiler(String),
    /// A compiler of another version.
    #[error(
        "{} says \"{found}\", the committed PTX is made by release {}: other versions give other \
         bytes",
        .path.display(), tool::VERSION
    )]
    Version {
        /// The tool.
        path: PathBuf,
        /// The version that it reports.
        found: String,
    },
    /// A source that does not compile or assemble.
    #[error("{tool} refuses {}:\n{message}", .file.display())]
    Refused {
        /// nvcc or ptxas.
        tool: &'static str,
        /// The compiled file.
        file: PathBuf,
        /// Message of the tool.
        message: String,
    },
    /// Output of a tool that is not as expected.
    #[error("{tool} on {}: {what}", .file.display())]
    Output {
        /// nvcc or ptxas.
        tool: &'static str,
        /// The compiled file.
        file: PathBuf,
        /// The missing part.
        what: String,
    },
    /// Committed files that differ from those that the sources make.
    #[error("out of date: {}; run `cargo run -p ptx-build` and commit the result", .0.join(", "))]
    Stale(Vec<String>),
    /// Kernels that spill registers to memory.
    #[error("registers are spilled to memory by {}", .0.join(", "))]
    Spills(Vec<String>),
}

/// Result of a step of the tool.
pub type Result<T> = std::result::Result<T, Error>;

/// Returns a function that builds the error of a file operation.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}

/// Reads a text file.
///
/// # Errors
/// [`Error::File`].
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(failed("read", path))
}

/// Writes a text file under a temporary name in the same folder, then renames it.
///
/// # Errors
/// [`Error::File`]; an existing file is then unchanged.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
    let put = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        readable_by_all(file.path())?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    put().map_err(failed("write", path))
}

/// Makes a file readable by all: temporary files are private, committed files are not.
#[cfg(unix)]
fn readable_by_all(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable_by_all(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Finds the folder that contains `kernels/src`, from `start` upwards.
///
/// # Errors
/// There is no such folder.
pub fn project_root(start: &Path) -> Result<PathBuf> {
    let found = start.ancestors().find(|dir| dir.join("kernels/src").is_dir());
    found.map(Path::to_owned).ok_or_else(|| {
        let what = format!("no folder kernels/src in {} or above it", start.display());
        Error::Compiler(what)
    })
}
