//! `dressage weights fingerprint`.

use std::path::PathBuf;

use dressage_models::weights::{
    StateDict, convert_backbone, fingerprint_of, fingerprint_of_floats, recognise,
};

use crate::console::print;
use crate::failure::Failure;

/// Print a number that identifies weights
///
/// The number of a file depends on names, types, shapes and values of its tensors, not on its form:
/// a converted file keeps it as long as types are kept. For a backbone there is a second
/// number, that of the frozen network made from it; checkpoints of runs contain it.
#[derive(clap::Args)]
pub struct Args {
    /// File of weights, index of shards, or folder
    file: PathBuf,

    /// Patch side of the network (model.patch)
    #[arg(long, default_value_t = 16)]
    patch: usize,

    /// Image side in pixels of its position table (model.image, by default augment.crop)
    #[arg(long, default_value_t = 512)]
    image: usize,
}

/// Prints the fingerprints.
pub fn run(args: &Args) -> Result<(), Failure> {
    let Args { patch, image, .. } = *args;
    if patch == 0 || image == 0 || !image.is_multiple_of(patch) {
        let what = format!("--image {image} is not a multiple of --patch {patch}");
        return Err(Failure::Message(what));
    }
    let dict = StateDict::open(&args.file)?;
    dict.check()?;
    print(&format!("{}  {}", fingerprint_of(&dict)?, dict.origin()));
    let dict = StateDict::open_network(&args.file)?;
    let known = recognise(&dict).and_then(|known| known.config());
    if let Some(config) = known {
        let network = convert_backbone(dict, &config.at(patch, image / patch))?;
        let of = match config.vit() {
            Some(_) => format!("the frozen backbone with {patch} px patches for {image} px"),
            None => "the frozen backbone".into(),
        };
        print(&format!("{}  {of}", fingerprint_of_floats(&network)?));
    }
    Ok(())
}
