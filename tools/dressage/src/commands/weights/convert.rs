//! `dressage weights convert`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use dressage_models::weights::{ScalarType, StateDict, refuse_part, shown, write};
use dressage_train::files;

use crate::console::{grouped, say_of, warn};
use crate::failure::Failure;

/// Write the tensors of a file as safetensors
///
/// Names are those of the file. Wrappers such as state_dict are followed, prefixes such as module.
/// are removed, everything that is no tensor is dropped, and shards become one file. Tensors are
/// read and written one by one, so memory does not grow with the file.
#[derive(clap::Args)]
pub struct Args {
    /// File of weights, index of shards, or folder
    input: PathBuf,

    /// File to write; its name ends in .safetensors or has no ending
    output: PathBuf,

    /// Type for floats; whole numbers keep theirs [default: as they are]
    #[arg(long, value_enum)]
    dtype: Option<OutputType>,
}

/// Types that floats are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputType {
    /// 32 bits
    F32,
    /// 16 bits with the range of f32
    Bf16,
    /// 16 bits of IEEE 754, up to 65504
    F16,
}

impl OutputType {
    fn kind(self) -> ScalarType {
        match self {
            OutputType::F32 => ScalarType::F32,
            OutputType::Bf16 => ScalarType::Bf16,
            OutputType::F16 => ScalarType::F16,
        }
    }
}

/// Converts.
pub fn run(args: &Args) -> Result<(), Failure> {
    names_safetensors(&args.output)?;
    refuse_part(&args.input)?;
    let dict = StateDict::open(&args.input)?;
    let inputs = dict.source().map_or(&[][..], |source| &source.files);
    if inputs.iter().any(|input| same_file(input, &args.output)) {
        let what = format!("{} is the input itself; name another output", args.output.display());
        return Err(Failure::Message(what));
    }
    let tensors: Vec<_> = dict
        .iter()
        .map(|(name, t)| {
            let kind =
                args.dtype.filter(|_| t.kind().is_float()).map_or(t.kind(), OutputType::kind);
            (name.as_str(), t, kind)
        })
        .collect();
    dict.check()?;
    let n = tensors.len();
    let bytes: usize = tensors.iter().map(|(_, t, kind)| t.len() * kind.size()).sum();
    let notes: Vec<_> = dict.metadata().iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    files::write(&args.output, |out| write(tensors, &notes, out))?;
    let output = args.output.display();
    for (name, t) in dict.iter() {
        if let Some((at, value)) = t.first_not_finite()? {
            let (name, shape) = (shown(name), t.shape());
            let what = format!("tensor {name} holds {value} at element {at} of {shape:?}");
            warn(&format!("{output}: {what}; no network can be built from it"));
            break;
        }
    }
    say_of(&args.output, &format!("{output}: {n} tensors of {} bytes together", grouped(bytes)));
    Ok(())
}

/// Extensions that are removed from a name when another is proposed.
const OTHERS: [&str; 19] = [
    "pth", "pt", "bin", "ckpt", "pkl", "pickle", "npz", "npy", "h5", "onnx", "gguf", "msgpack",
    "tar", "gz", "zip", "json", "txt", "index", "part",
];

/// Refuses an output whose name has an extension other than `.safetensors`.
pub(super) fn names_safetensors(output: &Path) -> Result<(), Failure> {
    let ending = |path: &Path| path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let is_safetensors = |path: &Path| ending(path).is_some_and(|e| e == "safetensors");
    // Devices and pipes may have any name.
    let is_special = fs::metadata(output).is_ok_and(|m| !m.is_file() && !m.is_dir());
    if ending(output).is_none_or(|e| e.is_empty()) || is_safetensors(output) || is_special {
        return Ok(());
    }
    let mut right = output.to_path_buf();
    while ending(&right).is_some_and(|e| OTHERS.contains(&e.as_str())) {
        right.set_extension("");
    }
    if !is_safetensors(&right) {
        right.as_mut_os_string().push(".safetensors");
    }
    let (output, right) = (output.display(), right.display());
    Err(Failure::Message(format!("{output}: only safetensors is written; name the output {right}")))
}

/// Whether two paths lead to one file, including by links.
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
