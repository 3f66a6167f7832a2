//! A network that is small enough to train in a test, and runs of it.

use std::path::Path;

use dressage_train::recipe::Recipe;

/// Four blocks of 32 channels, two decoder layers, drawn scenes, crops of 64 pixels.
const TINY: &str = r#"
[model]
backbone = "custom"
weights = "random"
method = "rein"
embed_dim = 32
depth = 4
heads = 2
patch = 16
taps = [0, 1, 2, 3]

[rein]
rank = 4

[head]
width = 32
queries = 20
heads = 2
encoder_layers = 1
encoder_ffn = 64
decoder_layers = 2
decoder_ffn = 64
norm_groups = 8

[loss]
points = 100

[augment]
crop = 64

[train]
steps = 20
batch = 2
lr = 1e-3
log_every = 1

[[data.train]]
name = "day"
source = "scenes"
count = 12
size = [128, 64]
"#;

/// The tiny recipe with its run folder `dir/run`, changed by `settings` such as `train.seed=7`.
pub fn recipe(dir: &Path, settings: &[&str]) -> Recipe {
    let file = dir.join("tiny.toml");
    std::fs::write(&file, TINY).expect("recipe file");
    let run = format!("run.dir={}", dir.join("run").display());
    let mut all = vec![run, "run.device=cpu".to_owned()];
    all.extend(settings.iter().map(|s| s.to_string()));
    Recipe::from_file(&file, &all).expect("recipe")
}
