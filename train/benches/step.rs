//! A training step and the backbone alone, paired with a PyTorch program where one is named.
//!
//! ```text
//! cargo bench -p dressage-train --bench step -- --part step --width 384 --heads 6 --size 256
//! cargo bench -p dressage-train --bench step -- --suite --peer "python3 torch_step.py" --threads 2
//! ```
//! `--suite` runs ViT-S and ViT-B at 256 and 512 pixels, step and backbone. With `--peer` every
//! round first runs the peer as a process of its own with the same sizes, then the same work here,
//! so that both see the same machine; the table gives medians over all rounds, in milliseconds,
//! and the ratio peer / here (above 1: faster here). The peer takes `--part --precision fp32
//! --device cpu --size --width --depth --heads --batch --iters --warmup --json` and writes `{part:
//! {"ms": {name: {"median": ..}}}}`.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::Command;
use std::time::Instant;

use dressage_engine::{DType, Philox, Tensor, backward_from_all, no_grad};
use dressage_models::backbone::{Dino, DinoConfig, Rein, ReinConfig};
use dressage_models::build::Scope;
use dressage_train::data::Batch;
use dressage_train::recipe::Recipe;
use dressage_train::trainer::Trainer;

type Failure = Box<dyn Error>;

/// Sizes of one measurement.
#[derive(Clone)]
struct Case {
    part: String,
    width: usize,
    heads: usize,
    depth: usize,
    size: usize,
    batch: usize,
    iters: usize,
    warmup: usize,
}

/// Milliseconds by span, one entry per iteration.
type Spans = BTreeMap<String, Vec<f64>>;

struct Options {
    cases: Vec<Case>,
    peer: Option<String>,
    rounds: usize,
    threads: usize,
}

fn options() -> Result<Options, Failure> {
    let mut values = BTreeMap::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.strip_prefix("--") {
            Some("bench") => {}
            Some("suite") => drop(values.insert("suite".to_string(), String::new())),
            Some(key) => drop(values.insert(key.to_string(), args.next().unwrap_or_default())),
            None => return Err(format!("{arg}: options begin with --").into()),
        }
    }
    let number = |key: &str, default: usize| -> Result<usize, Failure> {
        match values.get(key) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("--{key} {text}: no number").into()),
        }
    };
    let base = Case {
        part: values.get("part").cloned().unwrap_or_else(|| "step".into()),
        width: number("width", 384)?,
        heads: number("heads", 6)?,
        depth: number("depth", 12)?,
        size: number("size", 256)?,
        batch: number("batch", 1)?,
        iters: number("iters", 5)?,
        warmup: number("warmup", 1)?,
    };
    let mut cases = Vec::new();
    if values.contains_key("suite") {
        for (width, heads) in [(384, 6), (768, 12)] {
            for size in [256, 512] {
                for part in ["step", "backbone"] {
                    cases.push(Case { part: part.into(), width, heads, size, ..base.clone() });
                }
            }
        }
    } else {
        cases.push(base);
    }
    Ok(Options {
        cases,
        peer: values.get("peer").cloned(),
        rounds: number("rounds", 3)?,
        threads: number("threads", 0)?,
    })
}

/// Blobs of ten classes, a fiftieth of the cells unlabelled, as the peer draws them.
fn batch(case: &Case, step: u64) -> Batch {
    let mut r = Philox::new(7, 0x4245_4E43, step, 0);
    let (b, s) = (case.batch, case.size);
    let images = (0..b * 3 * s * s).map(|_| r.normal() as f32).collect();
    let mut labels = vec![0u8; b * s * s];
    for map in labels.chunks_exact_mut(s * s) {
        let classes: Vec<u8> = (0..10).map(|i| (i * 19 / 10) as u8).collect();
        let cells: Vec<u8> = (0..(s / 16) * (s / 16))
            .map(|_| if r.below(50) == 0 { 255 } else { classes[r.below(10) as usize] })
            .collect();
        for (i, label) in map.iter_mut().enumerate() {
            *label = cells[(i / s / 16) * (s / 16) + i % s / 16];
        }
    }
    Batch { step, b, h: s, w: s, images, labels, names: vec!["random".into(); b] }
}

fn measure_step(case: &Case) -> Result<Spans, Failure> {
    let dir = std::env::temp_dir().join(format!("dressage-bench-{}", std::process::id()));
    let text = |key: &str, value: String| format!("{key}={value}");
    let overrides = [
        text("model.backbone", "custom".into()),
        text("model.weights", "random".into()),
        text("model.embed_dim", case.width.to_string()),
        text("model.heads", case.heads.to_string()),
        text("model.depth", case.depth.to_string()),
        text("model.ffn", (4 * case.width).to_string()),
        text("augment.crop", case.size.to_string()),
        text("train.batch", case.batch.to_string()),
        text("run.dir", dir.display().to_string()),
    ];
    let mut trainer = Trainer::new(Recipe::from_name("gtav-s-rein", &overrides)?, false)?;
    let mut spans = Spans::new();
    let names = ["data", "forward", "loss+matching", "backward", "optimizer"];
    for i in 0..case.warmup + case.iters {
        let batch = batch(case, i as u64 % 4);
        let done = trainer.step_on(&batch)?;
        if i >= case.warmup {
            for (name, seconds) in names.iter().zip(done.seconds).skip(1) {
                spans.entry(name.to_string()).or_default().push(seconds * 1e3);
            }
            let total = done.seconds.iter().sum::<f64>() * 1e3;
            spans.entry("step".into()).or_default().push(total);
        }
    }
    Ok(spans)
}

fn measure_backbone(case: &Case) -> Result<Spans, Failure> {
    let scope = Scope::new(DType::F32, 0).sub("backbone");
    let config = DinoConfig {
        embed_dim: case.width,
        heads: case.heads,
        depth: case.depth,
        taps: DinoConfig::default_taps(case.depth),
        ..DinoConfig::named("s", 16, case.size / 16)?
    };
    let backbone = Dino::new(&scope.trainable(false), config)?;
    let rein = ReinConfig::published(case.depth, case.width);
    let rein = Rein::new(&scope.sub("reins"), rein)?;
    let mut spans = Spans::new();
    let mut note = |name: &str, i: usize, from: Instant| {
        if i >= case.warmup {
            let ms = from.elapsed().as_secs_f64() * 1e3;
            spans.entry(name.to_string()).or_default().push(ms);
        }
    };
    for i in 0..case.warmup + case.iters {
        let shape = [case.batch, 3, case.size, case.size];
        let image = Tensor::from_slice(&batch(case, i as u64 % 4).images, &shape)?;
        let start = Instant::now();
        let mut values = pyramid(&backbone, &rein, &image)?;
        note("forward", i, start);
        let random = |y: Tensor| -> Result<(Tensor, Tensor), Failure> {
            let mut r = Philox::new(3, 0, 0, 0);
            let data: Vec<f32> = (0..y.len()).map(|_| r.uniform_f32() - 0.5).collect();
            let dy = Tensor::from_slice(&data, y.shape())?;
            Ok((y, dy))
        };
        let values = values.drain(..).map(random).collect::<Result<Vec<_>, _>>()?;
        let back = Instant::now();
        drop(backward_from_all(values)?);
        note("backward", i, back);
        let inference = Instant::now();
        no_grad(|| pyramid(&backbone, &rein, &image))?;
        note("inference", i, inference);
    }
    let sums = |i: usize| spans.values().map(|v| v[i]).sum::<f64>();
    let all = (0..case.iters).map(sums).collect();
    spans.insert("all".into(), all);
    Ok(spans)
}

/// The four resized maps and the queries, as the peer forms them.
fn pyramid(backbone: &Dino, rein: &Rein, image: &Tensor) -> Result<Vec<Tensor>, Failure> {
    let step = rein.step()?;
    let levels = backbone.forward(image, Some(&step))?;
    let mut out = levels.iter().map(|l| l.resized()).collect::<Result<Vec<_>, _>>()?;
    out.extend(step.queries);
    Ok(out)
}

/// Medians the peer reports for one run.
fn measure_peer(peer: &str, case: &Case, threads: usize) -> Result<Spans, Failure> {
    let json = std::env::temp_dir().join(format!("dressage-peer-{}.json", std::process::id()));
    let mut words = peer.split_whitespace();
    let program = words.next().ok_or("--peer is empty")?;
    let mut command = Command::new(program);
    command.args(words).args(["--part", &case.part, "--precision", "fp32", "--device", "cpu"]);
    for (key, value) in [
        ("--size", case.size),
        ("--width", case.width),
        ("--depth", case.depth),
        ("--heads", case.heads),
        ("--batch", case.batch),
        ("--iters", case.iters),
        ("--warmup", case.warmup),
    ] {
        command.args([key, &value.to_string()]);
    }
    command.arg("--json").arg(&json);
    for key in ["OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
        command.env(key, threads.to_string());
    }
    let output = command.output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.trim().lines().last().unwrap_or("no message").to_string();
        return Err(format!("the peer failed: {last}").into());
    }
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    std::fs::remove_file(&json)?;
    let ms = report[&case.part]["ms"].as_object().ok_or("the peer reported no times")?;
    let entry = |(k, v): (&String, &serde_json::Value)| {
        (k.clone(), v["median"].as_f64().into_iter().collect())
    };
    Ok(ms.iter().map(entry).collect())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
    }
}

fn report(case: &Case, ours: &Spans, theirs: &Spans) {
    for (name, values) in ours {
        let (low, high) = values.iter().fold((f64::MAX, 0.0f64), |(a, b), &v| (a.min(v), b.max(v)));
        let here = median(values);
        let peer = theirs.get(name).map(|v| median(v));
        let peer_text = peer.map_or("-".into(), |p| format!("{p:.0}"));
        let ratio = peer.map_or("-".into(), |p| format!("{:.2}", p / here));
        println!(
            "| {} | {} | {} | {name} | {here:.0} ({low:.0}-{high:.0}) | {peer_text} | {ratio} |",
            case.part, case.width, case.size
        );
    }
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    let threads = match options.threads {
        0 => std::thread::available_parallelism()?.get(),
        n => n,
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let rounds = if options.peer.is_some() { options.rounds } else { 1 };
    println!("{threads} threads, f32, {rounds} rounds of {} iterations", options.cases[0].iters);
    println!(
        "| part | width | size | span | here, ms: median (min-max) | peer, ms | peer / here |"
    );
    println!("|---|---|---|---|---|---|---|");
    for case in &options.cases {
        let (mut ours, mut theirs) = (Spans::new(), Spans::new());
        for _ in 0..rounds {
            if let Some(peer) = &options.peer {
                for (k, v) in measure_peer(peer, case, threads)? {
                    theirs.entry(k).or_default().extend(v);
                }
            }
            let found = match case.part.as_str() {
                "step" => measure_step(case)?,
                "backbone" => measure_backbone(case)?,
                other => return Err(format!("--part {other}: neither step nor backbone").into()),
            };
            for (k, v) in found {
                ours.entry(k).or_default().extend(v);
            }
        }
        report(case, &ours, &theirs);
    }
    Ok(())
}
