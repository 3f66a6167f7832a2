//! A stand-in for `libcuda.so` and `libcublasLt.so`, for developers without a GPU.
//!
//! The library exports the C functions of the driver API and of cuBLASLt that Dressage calls, and
//! executes them on the virtual GPU of `ptx-vm`. So the binary that runs on a GPU runs its CUDA
//! backend on any machine. It is stricter than a GPU: see the README.
//!
//! Every exported function is a frame (`entry`) around a body that returns a code with a message;
//! the message goes to standard error. Undefined behaviour ends the process (`fatal`).

mod api;
mod code;
mod entry;
mod lt;
mod settings;
mod state;
mod work;

use std::io::Write;
use std::path::{Path, PathBuf};

/// File names under which programs look for the two libraries.
pub const NAMES: [&str; 4] = ["libcuda.so", "libcuda.so.1", "libcublasLt.so", "libcublasLt.so.13"];

/// Creates links in `folder` to the built `library`, under the names that programs look for. The
/// folder can then be put on `LD_LIBRARY_PATH`.
///
/// They have to be links to one file: then the loader loads it once, and cuBLASLt finds the memory
/// of the driver. Copies would be two libraries.
///
/// # Errors
/// Those of the file system.
pub fn link(library: &Path, folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let library = library.canonicalize()?;
    for name in NAMES {
        let new = folder.join(format!(".{name}.{}", std::process::id()));
        let _ = std::fs::remove_file(&new);
        std::os::unix::fs::symlink(&library, &new)?;
        // Renamed, so that a program that starts meanwhile finds the old link or the new one.
        std::fs::rename(&new, folder.join(name))?;
    }
    Ok(())
}

/// Returns the path where cargo puts the library, from a program or test of the same build.
pub fn built() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let mut folders = program.ancestors().skip(1).take(2);
    folders.find_map(|folder| {
        [folder.to_path_buf(), folder.join("deps")]
            .iter()
            .map(|at| at.join("libptx_driver.so"))
            .find(|path| path.is_file())
    })
}

/// Prints a line to standard error; a failed write is ignored.
fn report_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "ptx-driver: {line}");
}

/// Ends the process if a real driver would continue with undefined behaviour.
fn fatal(why: &str) -> ! {
    report_line(&format!("undefined behaviour: {why}"));
    std::process::abort()
}
