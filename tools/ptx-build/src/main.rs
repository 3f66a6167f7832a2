//! Command line of `ptx-build`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use ptx_build::source::{self, Source};
use ptx_build::tool::Tools;
use ptx_build::{Error, Result, project_root, read, resources, write};

/// Compiles kernels/src/**/*.cu to kernels/ptx/*.ptx with the pinned nvcc, or checks that these
/// files are up to date.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// nvcc to use; without it the one in .cuda of the project or on the path.
    #[arg(long, value_name = "PATH")]
    nvcc: Option<PathBuf>,
    /// Write nothing: compare the compiled sources with the files, byte by byte.
    #[arg(long)]
    check: bool,
    /// Assemble the committed PTX and write docs/measurements/kernel-resources.md (with --check:
    /// compare). Fails if a kernel spills registers.
    #[arg(long)]
    report: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ptx-build: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let here = std::env::current_dir().map_err(|source| Error::File {
        action: "find",
        path: PathBuf::from("."),
        source,
    })?;
    let root = project_root(&here)?;
    let sources = source::sources(&root)?;
    let tools = Tools::find(&root, args.nvcc.as_deref())?;
    if args.report {
        let text = resources::report(&root, &tools, &sources)?;
        return put(args, &root, &root.join("docs/measurements/kernel-resources.md"), &text);
    }
    regenerate(args, &root, &tools, &sources)
}

fn regenerate(args: &Args, root: &Path, tools: &Tools, sources: &[Source]) -> Result<()> {
    let mut stale = Vec::new();
    for source in sources {
        let text = tools.compile(root, source)?;
        match put(args, root, &source.ptx(root), &text) {
            Err(Error::Stale(names)) => stale.extend(names),
            other => other?,
        }
    }
    for path in source::orphans(root, sources)? {
        if args.check {
            stale.push(format!("{} (no source makes it)", shown(root, &path)));
        } else {
            let failed = |source| Error::File { action: "remove", path: path.clone(), source };
            std::fs::remove_file(&path).map_err(failed)?;
            println!("removed {}", shown(root, &path));
        }
    }
    if stale.is_empty() { Ok(()) } else { Err(Error::Stale(stale)) }
}

/// Writes `text` unless the file has it already; with `--check` compares only.
fn put(args: &Args, root: &Path, path: &Path, text: &str) -> Result<()> {
    let name = shown(root, path);
    let same = path.is_file() && read(path)? == text;
    match (same, args.check) {
        (true, _) => println!("{name} is up to date"),
        (false, true) => return Err(Error::Stale(vec![name])),
        (false, false) => {
            write(path, text)?;
            println!("wrote {name}");
        }
    }
    Ok(())
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}
