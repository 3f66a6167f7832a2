//! `dressage weights export`.

use std::path::PathBuf;

use dressage_models::weights::write_summed;
use dressage_train::{checkpoint, files};

use super::super::{Wanted, refuse_own_file};
use super::convert::names_safetensors;
use crate::console::{grouped, say_of};
use crate::failure::Failure;

/// Write what a run has trained under the names of the reference implementation
///
/// Rein's tensors are named backbone.reins.*, the head's decode_head.*, as in released checkpoints;
/// the optimiser's state is not written. The file is safetensors and can be used as
/// model.checkpoint.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the run
    run_dir: PathBuf,

    /// Step of the checkpoint, by default the newest
    #[arg(long, value_name = "STEP")]
    checkpoint: Option<u64>,

    /// Write the averaged weights of the run (train.ema.rate), not its weights
    #[arg(long)]
    averaged: bool,

    /// File to write, by default weights-step-STEP.safetensors in the run folder, or
    /// averages-step-STEP.safetensors
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Exports.
pub fn run(args: &Args) -> Result<(), Failure> {
    args.out.as_deref().map_or(Ok(()), names_safetensors)?;
    args.out.as_deref().map_or(Ok(()), |out| refuse_own_file(&args.run_dir, out))?;
    let mut wanted = Wanted::find(&args.run_dir, args.checkpoint)?;
    let open = |step| checkpoint::open_of(&args.run_dir, step, "--checkpoint");
    let (notes, mut dict) = wanted.open(&args.run_dir, open)?;
    let step = wanted.step;
    let mut kind = "weights";
    if args.averaged {
        checkpoint::use_averages(&checkpoint::path_of(&args.run_dir, step), &mut dict)?;
        kind = "averages";
    }
    let dict = checkpoint::trained(dict);
    let name = format!("{kind}-step-{step:06}.safetensors");
    let out = args.out.clone().unwrap_or_else(|| args.run_dir.join(name));
    let tensors: Vec<_> = dict.iter().map(|(name, t)| (name.as_str(), t, t.kind())).collect();
    let (n, values) = (tensors.len(), tensors.iter().map(|(_, t, _)| t.len()).sum());
    // Metadata for readers who get only this file.
    let about = [
        ("method", notes.method),
        ("step", notes.step.to_string()),
        ("backbone fingerprint", notes.backbone),
    ];
    files::write(&out, |file| write_summed(tensors, &about, file))?;
    let text = format!("{}: {n} tensors, {} values, step {step}", out.display(), grouped(values));
    say_of(&out, &text);
    Ok(())
}
