//! Measurements of whole networks and blocks, on random weights, images and labels.

use std::time::Instant;

use dressage_engine::{DType, DryRun, Philox, Tensor, backward_from, backward_from_all, no_grad};
use dressage_models::Precision;
use dressage_models::adapter::{Adapter, Rein, ReinConfig};
use dressage_models::backbone::{Backbone, Vit, VitConfig};
use dressage_models::params::Scope;
use dressage_models::weights::StateDict;
use dressage_train::data::Batch;
use dressage_train::recipe::Recipe;
use dressage_train::trainer::Trainer;
use dressage_train::{machine, plan};

use super::case::{Case, PATCH, Part, TINY, published};
use super::figures::{Figures, Span, Stat};
use crate::failure::Failure;

/// Number of different batches, used in turn.
const BATCHES: u64 = 4;

/// Times one part.
///
/// # Errors
/// Sizes that do not fit together, or too little memory.
pub fn measure(case: &Case) -> Result<Figures, Failure> {
    let spans = match case.part {
        Part::Step => step(case)?,
        Part::Backbone => backbone(case)?,
        Part::Forward => forward(case)?,
        _ => block(case)?,
    };
    Ok(Figures { spans, peak: None })
}

/// Times of laps in milliseconds by name, in the order of their first use.
#[derive(Default)]
pub struct Laps(Vec<(&'static str, Vec<f64>)>);

impl Laps {
    /// Adds a lap.
    pub fn add(&mut self, name: &'static str, ms: f64) {
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, values)) => values.push(ms),
            None => self.0.push((name, vec![ms])),
        }
    }

    /// Returns each lap with its operations.
    pub fn spans(self, flops: impl Fn(&str) -> u64) -> Vec<Span> {
        let span = |(name, ms): (&str, Vec<f64>)| {
            let (ms, flops) = (Stat::of(&ms), flops(name) as f64);
            Span { name: name.into(), ms, flops, bytes: 0.0 }
        };
        self.0.into_iter().map(span).collect()
    }
}

/// Returns images of normal noise, and labels in patches of ten classes; a fiftieth of the patches
/// are unlabelled.
pub fn batch(case: &Case, step: u64) -> Batch {
    let mut r = Philox::new(7, 0x4245_4E43, step % BATCHES, 0);
    let (b, s) = (case.batch, case.size);
    let images = (0..b * 3 * s * s).map(|_| r.normal() as f32).collect();
    let mut labels = vec![0u8; b * s * s];
    let side = s / PATCH;
    for map in labels.chunks_exact_mut(s * s) {
        let mut cell = || match r.below(50) {
            0 => dressage_train::IGNORE,
            _ => (r.below(10) * 19 / 10) as u8,
        };
        let cells: Vec<u8> = (0..side * side).map(|_| cell()).collect();
        for (i, label) in map.iter_mut().enumerate() {
            *label = cells[(i / s / PATCH) * side + i % s / PATCH];
        }
    }
    Batch { step, b, h: s, w: s, images, labels, names: vec!["random".into(); b] }
}

/// Returns a recipe for the steps of a case on `device`.
///
/// # Errors
/// Sizes that make no sense.
pub fn recipe(case: &Case, device: &str, graphs: bool) -> Result<Recipe, Failure> {
    let precision = if case.precision == Precision::Bf16 { "bf16" } else { "f32" };
    let small = case.model == TINY;
    let backbone = if small { "custom" } else { published(&case.model)?.name };
    // No file remains there.
    let dir = std::env::temp_dir().join(format!("dressage-bench-{}", std::process::id()));
    let settings = [
        ("model.backbone", backbone.to_owned()),
        ("model.weights", "random".into()),
        ("model.method", case.method.to_string()),
        ("model.precision", precision.into()),
        ("augment.crop", case.size.to_string()),
        ("train.batch", case.batch.to_string()),
        ("train.recompute", case.recompute.to_string()),
        ("run.dir", dir.display().to_string()),
        ("run.device", device.into()),
        // On a device this is the type of activations and matrices, on the host of frozen matrices.
        ("run.precision", precision.into()),
        ("run.graphs", graphs.to_string()),
    ];
    let mut settings = settings.map(|(key, value)| format!("{key}={value}")).to_vec();
    if small {
        settings.extend(SMALL.iter().map(|setting| (*setting).to_owned()));
        let VitConfig { embed_dim, depth, heads, taps, .. } = *case.vit()?;
        settings.push(format!("model.embed_dim={embed_dim}"));
        settings.push(format!("model.depth={depth}"));
        settings.push(format!("model.heads={heads}"));
        settings.push(format!("model.taps={taps:?}"));
    }
    Ok(Recipe::from_name("gtav-dinov2-s-rein", &settings)?)
}

/// Settings that make adapter, head and losses as small as the backbone of [`TINY`].
const SMALL: [&str; 11] = [
    "head.width=16",
    "head.queries=20",
    "head.heads=2",
    "head.encoder_layers=1",
    "head.encoder_ffn=16",
    "head.decoder_layers=1",
    "head.decoder_ffn=16",
    "head.norm_groups=4",
    "rein.tokens=20",
    "rein.rank=4",
    "loss.points=32",
];

fn step(case: &Case) -> Result<Vec<Span>, Failure> {
    let recipe = recipe(case, "cpu", true)?;
    let flops = plan::flops(&recipe)?;
    let mut trainer = Trainer::new(recipe, false)?;
    let mut laps = Laps::default();
    for i in 0..case.warmup + case.iters {
        let done = trainer.step_on(&batch(case, i as u64))?;
        if i < case.warmup {
            continue;
        }
        let names = ["data", "forward", "loss+matching", "backward", "optimizer"];
        for (name, seconds) in names.into_iter().zip(done.laps.into_iter().flatten()).skip(1) {
            laps.add(name, seconds * 1e3);
        }
        laps.add("step", done.seconds * 1e3);
    }
    Ok(laps.spans(|name| if name == "step" { flops } else { 0 }))
}

/// Builds a frozen backbone in the precision of the case.
fn frozen(case: &Case) -> Result<Box<dyn Backbone>, Failure> {
    Ok(case.config.clone().build(&scope(case))?)
}

/// A scope of frozen parameters in the precision of the case.
fn scope(case: &Case) -> Scope {
    let root = Scope::with_weights(DType::F32, case.precision, 0, StateDict::default(), &[]);
    root.sub("backbone").trainable(false)
}

/// Counts the operations of the products in `work` by a dry run, without arithmetic or memory.
///
/// # Errors
/// Too little memory for `work`.
pub fn counted<R>(work: impl Fn() -> Result<R, Failure>) -> Result<u64, Failure> {
    let mut dry_run = DryRun::new();
    dry_run.run(|| work().map(drop))?;
    let needed = dry_run.usage().system_bytes;
    match machine::available().filter(|free| needed > *free) {
        None => Ok(dry_run.tally().flops),
        Some(free) => Err(Failure::Message(format!(
            "the bench needs {}, but {} are available; lower --size or --batch",
            plan::mib(needed),
            plan::mib(free)
        ))),
    }
}

fn image(case: &Case, i: usize) -> Result<Tensor, Failure> {
    let shape = [case.batch, 3, case.size, case.size];
    Ok(Tensor::from_slice(&batch(case, i as u64).images, &shape)?)
}

fn backbone(case: &Case) -> Result<Vec<Span>, Failure> {
    let net = frozen(case)?;
    let adapter = ReinConfig::of_stages(case.config.stages());
    let rein = Rein::new(&Scope::new(DType::F32, 0).sub("reins"), adapter)?;
    let shape = [case.batch, 3, case.size, case.size];
    let forward = counted(|| pyramid(net.as_ref(), &rein, &Tensor::zeros(DType::F32, &shape)))?;
    let mut laps = Laps::default();
    let mut run = |i: usize, timed: bool| -> Result<(), Failure> {
        let image = image(case, i)?;
        let mut note = |name, from: Instant| {
            if timed {
                laps.add(name, from.elapsed().as_secs_f64() * 1e3);
            }
        };
        let start = Instant::now();
        let values = pyramid(net.as_ref(), &rein, &image)?;
        note("forward", start);
        let pair = |y: Tensor| gradient(&y).map(|dy| (y, dy));
        let values = values.into_iter().map(pair).collect::<Result<Vec<_>, _>>()?;
        let back = Instant::now();
        drop(backward_from_all(values)?);
        note("backward", back);
        let inference = Instant::now();
        no_grad(|| pyramid(net.as_ref(), &rein, &image))?;
        note("inference", inference);
        Ok(())
    };
    for i in 0..case.warmup + case.iters {
        run(i, i >= case.warmup)?;
    }
    let all: Vec<f64> = (0..case.iters).map(|i| laps.0.iter().map(|(_, v)| v[i]).sum()).collect();
    all.into_iter().for_each(|ms| laps.add("all", ms));
    Ok(laps.spans(|name| if name == "inference" || name == "forward" { forward } else { 0 }))
}

/// Returns random values of the shape of `y`.
pub fn gradient(y: &Tensor) -> dressage_engine::Result<Tensor> {
    let mut r = Philox::new(3, 0, 0, 0);
    let values: Vec<f32> = (0..y.len()).map(|_| r.uniform_f32() - 0.5).collect();
    Tensor::from_slice(&values, y.shape())
}

/// Computes the four resized maps and the queries, like the peer.
pub fn pyramid(net: &dyn Backbone, rein: &Rein, image: &Tensor) -> Result<Vec<Tensor>, Failure> {
    let step = rein.step(None)?;
    let levels = net.forward(image, Some(&step))?;
    let mut out = levels.iter().map(|l| l.resized()).collect::<Result<Vec<_>, _>>()?;
    out.extend(step.queries().cloned());
    Ok(out)
}

fn forward(case: &Case) -> Result<Vec<Span>, Failure> {
    let net = frozen(case)?;
    let shape = [case.batch, 3, case.size, case.size];
    let run = || Ok(no_grad(|| net.forward(&Tensor::zeros(DType::F32, &shape), None))?);
    let flops = counted(run)?;
    let mut laps = Laps::default();
    for i in 0..case.warmup + case.iters {
        let image = image(case, i)?;
        let start = Instant::now();
        drop(no_grad(|| net.forward(&image, None))?);
        if i >= case.warmup {
            laps.add("inference", start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(laps.spans(|_| flops))
}

fn block(case: &Case) -> Result<Vec<Span>, Failure> {
    let config = VitConfig { depth: 1, taps: [0; 4], ..case.vit()?.clone() };
    let (shape, grid) =
        ([case.batch, config.lead() + case.patches(), config.embed_dim], config.grid);
    let net = Vit::new(&scope(case), config)?;
    let on_grid = |x: &Tensor| net.pass(x, grid, grid);
    let inference = |x: &Tensor| Ok::<_, Failure>(no_grad(|| on_grid(x)?.block(0, x, None))?);
    let both = |x: &Tensor, dy: &Tensor| -> Result<Tensor, Failure> {
        let x = x.leaf();
        let mut gradients = backward_from(on_grid(&x)?.block(0, &x, None)?, dy.clone())?;
        let missing = || Failure::Message("the block's input received no gradient".into());
        gradients.take(&x).ok_or_else(missing)
    };
    let zeros = || Tensor::zeros(DType::F32, &shape);
    let forward = counted(|| inference(&zeros()))?;
    let all = counted(|| both(&zeros(), &zeros()))?;
    let x = gradient(&zeros())?;
    let dy = gradient(&x)?;
    let mut laps = Laps::default();
    for i in 0..case.warmup + case.iters {
        let start = Instant::now();
        drop(inference(&x)?);
        let middle = Instant::now();
        drop(both(&x, &dy)?);
        if i >= case.warmup {
            laps.add("inference", (middle - start).as_secs_f64() * 1e3);
            laps.add("forward+backward", middle.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(laps.spans(|name| if name == "inference" { forward } else { all }))
}
