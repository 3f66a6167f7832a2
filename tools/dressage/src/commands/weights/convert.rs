//! `dressage weights convert`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use dressage_models::weights::{Kind, StateDict, write};
use dressage_train::files;

use crate::console::{grouped, say_of};
use crate::failure::Failure;

/// Write the tensors of a file as safetensors
///
/// Names are those of the file: wrappers such as state_dict are followed, module. and the like are
/// taken off, everything that is no tensor is left behind, shards become one file. One tensor after the other is read and
/// written, so memory does not grow with the file.
#[derive(clap::Args)]
pub struct Args {
    /// File of weights, index of shards, or folder
    input: PathBuf,

    /// File to write; its name ends in .safetensors, or in nothing that stands for another form
    output: PathBuf,

    /// Type for floats; whole numbers keep theirs [default: as they are]
    #[arg(long, value_enum)]
    dtype: Option<Float>,
}

/// Types that floats are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Float {
    /// 32 bits
    F32,
    /// 16 bits with the range of f32
    Bf16,
    /// 16 bits of IEEE 754, up to 65504
    F16,
}

impl Float {
    fn kind(self) -> Kind {
        match self {
            Float::F32 => Kind::F32,
            Float::Bf16 => Kind::Bf16,
            Float::F16 => Kind::F16,
        }
    }
}

/// Converts.
pub fn run(args: &Args) -> Result<(), Failure> {
    names_safetensors(&args.output)?;
    let dict = StateDict::open(&args.input)?;
    let inputs = dict.source().map_or(&[][..], |source| &source.files);
    if inputs.iter().any(|input| same_file(input, &args.output)) {
        let what = format!("{} is the input itself; name another output", args.output.display());
        return Err(Failure::Told(what));
    }
    let tensors: Vec<_> = dict
        .iter()
        .map(|(name, t)| {
            let kind = args.dtype.filter(|_| t.kind().is_float()).map_or(t.kind(), Float::kind);
            (name.as_str(), t, kind)
        })
        .collect();
    dict.check()?;
    let n = tensors.len();
    let bytes: usize = tensors.iter().map(|(_, t, kind)| t.len() * kind.size()).sum();
    let notes: Vec<_> = dict.metadata().iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    files::write(&args.output, |out| write(tensors, &notes, out))?;
    let output = args.output.display();
    say_of(&args.output, &format!("{output}: {n} tensors of {} bytes together", grouped(bytes)));
    Ok(())
}

/// Endings of files of weights in other forms.
const OTHERS: [&str; 11] =
    ["pth", "pt", "bin", "ckpt", "pkl", "npz", "npy", "h5", "onnx", "gguf", "msgpack"];

/// Refuses a name that says another form than the one that is written.
pub(super) fn names_safetensors(output: &Path) -> Result<(), Failure> {
    let ending = output.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if !OTHERS.contains(&ending.as_str()) {
        return Ok(());
    }
    let right = output.with_extension("safetensors");
    let (output, right) = (output.display(), right.display());
    Err(Failure::Told(format!("{output}: only safetensors is written; name the output {right}")))
}

/// Whether two paths lead to one file, also by links.
fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let number = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
        number(a).is_some_and(|a| number(b) == Some(a))
    }
    #[cfg(not(unix))]
    {
        let real = |path: &Path| fs::canonicalize(path).ok();
        real(a).is_some_and(|a| real(b) == Some(a))
    }
}
