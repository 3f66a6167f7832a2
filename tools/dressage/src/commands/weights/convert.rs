//! `dressage weights convert`.

use std::path::PathBuf;

use clap::ValueEnum;
use dressage_models::weights::{Kind, StateDict, write};
use dressage_train::files;

use crate::console::{grouped, say_of};
use crate::failure::Failure;

/// Write the tensors of a file as safetensors
///
/// Names are those that inspect shows: wrappers such as state_dict are followed, everything that
/// is no tensor is left behind. One tensor after the other is read and written, so memory does not
/// grow with the file.
#[derive(clap::Args)]
pub struct Args {
    /// File of weights
    input: PathBuf,

    /// File to write
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
    let dict = StateDict::open(&args.input)?;
    let real = |path: &PathBuf| std::fs::canonicalize(path).ok();
    if real(&args.input) == real(&args.output) {
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
