//! Runs a command with the stand-in on the loader's path; without a command it prints the folder.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let failed = |why: String| {
        eprintln!("ptx-driver: {why}");
        ExitCode::from(2)
    };
    let Some(library) = ptx_driver::built() else {
        return failed(
            "libptx_driver.so is not in the folder of this program; build both with cargo".into(),
        );
    };
    let folder = library.with_file_name("ptx-driver-libraries");
    if let Err(error) = ptx_driver::link(&library, &folder) {
        return failed(format!("{}: {error}", folder.display()));
    }
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        println!("{}", folder.display());
        return ExitCode::SUCCESS;
    };
    let mut path = folder.into_os_string();
    if let Some(others) = std::env::var_os("LD_LIBRARY_PATH").filter(|path| !path.is_empty()) {
        path.push(":");
        path.push(others);
    }
    // Returns only if the program cannot be started.
    let error = Command::new(&program).args(words).env("LD_LIBRARY_PATH", path).exec();
    failed(format!("{}: {error}", program.to_string_lossy()))
}
