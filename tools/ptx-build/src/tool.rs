//! The pinned compiler: search, check of its version, calls.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::source::{FLAGS, PTX_VERSION, Source, headers};
use crate::{Error, Result, failed, read};

/// Release that compiles the committed files.
pub const VERSION: &str = "13.0.88";

/// Instructions for its installation without root and without a toolkit.
pub const INSTALL: &str = "install the pinned wheels with `python3 -m venv .cuda && \
    .cuda/bin/pip install --no-deps nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 \
    nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96`";

/// nvcc and ptxas of one toolkit.
#[derive(Debug, Clone)]
pub struct Tools {
    nvcc: PathBuf,
    ptxas: PathBuf,
}

impl Tools {
    /// Finds nvcc at `given` or, without it, in `.cuda` of the project or on the search path. ptxas
    /// is in the same folder.
    ///
    /// # Errors
    /// There is no nvcc, or it is not of release [`VERSION`].
    pub fn find(root: &Path, given: Option<&Path>) -> Result<Tools> {
        let nvcc = match given {
            Some(path) if path.is_file() => path.to_owned(),
            Some(path) => {
                let what = format!("there is no nvcc at {}: {INSTALL}", path.display());
                return Err(Error::Compiler(what));
            }
            None => wheel(root).or_else(on_path).ok_or_else(|| {
                let what = format!("no nvcc in .cuda of the project or on the path: {INSTALL}");
                Error::Compiler(what)
            })?,
        };
        let ptxas = nvcc.with_file_name("ptxas");
        for tool in [&nvcc, &ptxas] {
            let output = Command::new(tool).arg("--version").output();
            let output = output.map_err(failed("run", tool))?;
            let text = String::from_utf8_lossy(&output.stdout);
            if !text.contains(&format!("V{VERSION}")) {
                let line = text.lines().find(|line| line.contains("release"));
                let found = line.unwrap_or("nothing about its release").trim().to_owned();
                return Err(Error::Version { path: tool.clone(), found });
            }
        }
        Ok(Tools { nvcc, ptxas })
    }

    /// Compiles a source to PTX in its committed form.
    ///
    /// # Errors
    /// The source does not compile.
    pub fn compile(&self, root: &Path, source: &Source) -> Result<String> {
        let folder =
            tempfile::tempdir().map_err(failed("make a folder in", &std::env::temp_dir()))?;
        let output = folder.path().join("out.ptx");
        let mut command = Command::new(&self.nvcc);
        command.args(FLAGS).arg("-I").arg(headers(root)).arg("-o").arg(&output).arg(&source.path);
        run("nvcc", &mut command, &self.nvcc, &source.path)?;
        let text = read(&output)?;
        committed_form(source, &text)
    }

    /// Assembles a PTX file for `arch` and returns the messages of ptxas.
    ///
    /// # Errors
    /// The file does not assemble.
    pub fn assemble(&self, ptx: &Path, arch: &str) -> Result<String> {
        let folder =
            tempfile::tempdir().map_err(failed("make a folder in", &std::env::temp_dir()))?;
        let mut command = Command::new(&self.ptxas);
        command.arg(format!("-arch={arch}")).args(["-O3", "-v", "-o"]);
        command.arg(folder.path().join("out.cubin")).arg(ptx);
        let output = run("ptxas", &mut command, &self.ptxas, ptx)?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn run(tool: &'static str, command: &mut Command, path: &Path, source: &Path) -> Result<Output> {
    let output = command.output().map_err(failed("run", path))?;
    if output.status.success() {
        return Ok(output);
    }
    let message = [&output.stdout[..], &output.stderr[..]].concat();
    let message = String::from_utf8_lossy(&message).trim().to_owned();
    Err(Error::Refused { tool, file: source.to_owned(), message })
}

/// Returns nvcc's output with its top comment replaced and the version lowered. The comment has
/// builds and dates of the compiler; the rest is the same bytes on every machine.
fn committed_form(source: &Source, text: &str) -> Result<String> {
    let wrong =
        |what: &str| Error::Output { tool: "nvcc", file: source.path.clone(), what: what.into() };
    let start = text.find("\n.version ").ok_or_else(|| wrong("there is no line .version"))? + 1;
    let (_, rest) = text[start..].split_once('\n').ok_or_else(|| wrong("it ends at .version"))?;
    Ok(format!("{}.version {PTX_VERSION}\n{}\n", source.header(), rest.trim_end()))
}

/// Finds nvcc in the wheels in `.cuda`.
fn wheel(root: &Path) -> Option<PathBuf> {
    let libraries = std::fs::read_dir(root.join(".cuda/lib")).ok()?;
    let inside = |python: PathBuf| python.join("site-packages/nvidia/cu13/bin/nvcc");
    libraries.flatten().map(|entry| inside(entry.path())).find(|nvcc| nvcc.is_file())
}

fn on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("nvcc")).find(|nvcc| nvcc.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        let path = PathBuf::from("kernels/src/a/a.cu");
        let (name, stem) = ("kernels/src/a/a.cu".into(), "a".into());
        Source { path, name, stem, hash: 0xabc, text: String::new() }
    }

    #[test]
    fn the_compilers_comment_goes_and_the_version_is_lowered() {
        let text =
            "//\n// Generated by NVIDIA NVVM Compiler\n//\n\n.version 9.0\n.target sm_80\n\n";
        let got = committed_form(&source(), text).unwrap();
        assert_eq!(
            got,
            "// Generated by ptx-build from kernels/src/a/a.cu; do not edit.\n\
             // source-hash: 0000000000000abc\n\n.version 8.0\n.target sm_80\n"
        );
        assert!(committed_form(&source(), "no PTX").is_err());
    }

    #[test]
    fn an_absent_compiler_and_a_wrong_one_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Tools::find(dir.path(), Some(&dir.path().join("nvcc"))).unwrap_err();
        assert!(error.to_string().contains("install the pinned wheels"), "{error}");
        // `echo` prints its arguments or its own version, never this release.
        let error = Tools::find(dir.path(), Some(Path::new("/bin/echo"))).unwrap_err();
        assert!(error.to_string().contains("nothing about its release"), "{error}");
    }
}
