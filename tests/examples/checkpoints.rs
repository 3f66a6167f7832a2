//! Cost of a checkpoint in milliseconds: writing, opening, loading into a network.
//!
//!     cargo run --release -p dressage-tests --example checkpoints -- [FOLDER]
//!
//! The state is that of a run with Mask2Former at its published width, with fewer layers, on a
//! frozen ViT-S with random weights. It prints the best of several rounds.

use std::path::Path;
use std::time::Instant;

use dressage_models::weights::{StateDict, write, write_summed};
use dressage_train::recipe::Recipe;
use dressage_train::trainer::{Trainer, load};
use dressage_train::{Result, TrainError, checkpoint};

const ROUNDS: usize = 7;

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let run = format!("run.dir={}", Path::new(&folder).join("checkpoint-costs").display());
    let given = ["model.weights=random", "model.method=freeze", "augment.crop=64"];
    let layers = ["head.encoder_layers=2", "head.decoder_layers=3"];
    let more = ["run.check_memory=false", "run.device=cpu", "train.batch=1", &run];
    let settings: Vec<String> =
        given.iter().chain(&layers).chain(&more).map(|s| s.to_string()).collect();
    let recipe = Recipe::from_name("gtav-dinov2-s-rein", &settings)?;
    let trainer = Trainer::new(recipe.clone(), false)?;
    let path = trainer.save()?;
    let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
    println!("{:.1} MB", bytes as f64 / 1e6);
    best("save", || trainer.save().map(drop))?;
    best("open", || checkpoint::open(&path).map(drop))?;
    let dict = StateDict::open(&path)?;
    let all = || dict.iter().map(|(name, t)| (name.as_str(), t, t.kind())).collect();
    // Written to a sink, so that only the arithmetic is timed.
    let failed = |source| TrainError::Write { path: path.clone(), source };
    best("write", || write(all(), &[], &mut std::io::sink()).map_err(failed))?;
    best("write with sums", || write_summed(all(), &[], &mut std::io::sink()).map_err(failed))?;
    best("compare the sums", || Ok(StateDict::open(&path)?.check()?))?;
    best("build the network", || dressage_train::network::rebuild(&recipe, &dict).map(drop))?;
    best("build and restore", || load(&recipe, &recipe.run.dir, 0).map(drop))?;
    let _ = std::fs::remove_dir_all(&recipe.run.dir);
    Ok(())
}

/// Prints the shortest time of several runs of `work`.
fn best(what: &str, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    let mut shortest = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        work()?;
        shortest = shortest.min(start.elapsed().as_secs_f64());
    }
    println!("{what:20} {:8.1} ms", 1e3 * shortest);
    Ok(())
}
