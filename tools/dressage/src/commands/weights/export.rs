//! `dressage weights export`.

use std::path::{Path, PathBuf};

use dressage_models::weights::{write_safetensors, write_summed};
use dressage_train::trainer::load;
use dressage_train::{checkpoint, files, run_folder};

use super::super::{Wanted, refuse_own_file};
use super::convert::names_safetensors;
use crate::console::{grouped, say_of};
use crate::failure::Failure;

/// Write what a run has trained under the names of the reference implementation
///
/// Rein's tensors are named backbone.reins.*, the head's decode_head.*, as in released checkpoints;
/// the optimiser's state is not written. The file is safetensors and can be used as
/// model.checkpoint. With --merge it is the whole network, with the low-rank factors of lora, soma or
/// recycle-lora added to the backbone's weights; use it with model.method=freeze.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the run
    run_dir: PathBuf,

    /// Step of the checkpoint, by default the newest
    #[arg(long, value_name = "STEP")]
    checkpoint: Option<u64>,

    /// Write the averaged weights of the run (train.ema.rate), not its weights
    #[arg(long, conflicts_with = "merge")]
    averaged: bool,

    /// File to write, by default weights-step-STEP.safetensors in the run folder, or averages- or
    /// merged-step-STEP.safetensors
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Add low-rank factors to the backbone's weights and write the whole network in f32
    #[arg(long)]
    merge: bool,
}

/// Exports.
pub fn run(args: &Args) -> Result<(), Failure> {
    args.out.as_deref().map_or(Ok(()), names_safetensors)?;
    args.out.as_deref().map_or(Ok(()), |out| refuse_own_file(&args.run_dir, out))?;
    let mut wanted = Wanted::find(&args.run_dir, args.checkpoint)?;
    if args.merge {
        return merged(args, &mut wanted);
    }
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
    report(&out, n, values, step);
    Ok(())
}

/// Writes the whole network with a merged adapter.
fn merged(args: &Args, wanted: &mut Wanted) -> Result<(), Failure> {
    let settings = ["model.merge_adapter=true", "model.precision=f32"].map(str::to_owned);
    let recipe = run_folder::recipe_of(&args.run_dir, &settings)?;
    let model = wanted.open(&args.run_dir, |step| load(&recipe, &args.run_dir, step))?;
    let step = wanted.step;
    let name = format!("merged-step-{step:06}.safetensors");
    let out = args.out.clone().unwrap_or_else(|| args.run_dir.join(name));
    let params = model.params().values();
    let tensors: Vec<_> = params.map(|p| (p.name().to_string(), p.master().detach())).collect();
    let about = [("method", format!("{}, merged", model.method())), ("step", step.to_string())];
    files::write(&out, |file| write_safetensors(&tensors, &about, file))?;
    report(&out, tensors.len(), tensors.iter().map(|(_, t)| t.len()).sum(), step);
    Ok(())
}

fn report(out: &Path, tensors: usize, values: usize, step: u64) {
    let text =
        format!("{}: {tensors} tensors, {} values, step {step}", out.display(), grouped(values));
    say_of(out, &text);
}
