//! Options of the update: accumulation, clipping, averaged weights, annealed decay.

use std::collections::{BTreeMap, BTreeSet};

use dressage_engine::DType;
use dressage_train::checkpoint;
use dressage_train::data::Batch;
use dressage_train::interrupt::Interrupt;
use dressage_train::runlog::Silent;
use dressage_train::trainer::{Trainer, load};

use super::{VIRTUAL, device, small, trainer, values};

/// Host and virtual GPU.
const PLACES: [&[&str]; 2] = [&["run.device=cpu"], &VIRTUAL];

/// The tensors of a trainer's state, by name.
fn state(trainer: &Trainer) -> BTreeMap<String, Vec<f32>> {
    let (_, dict) = checkpoint::open(&trainer.save().expect("saved")).expect("a checkpoint");
    let floats = |t: &dressage_models::weights::Stored| {
        let tensor = t.to_float(DType::F32).expect("read").expect("floats");
        tensor.data::<f32>().expect("f32").to_vec()
    };
    dict.iter().map(|(name, stored)| (name.clone(), floats(stored))).collect()
}

fn batches(trainer: &Trainer, n: usize) -> Vec<Batch> {
    let mut loader = trainer.loader().expect("loader");
    (0..n).map(|_| loader.next_batch().expect("batch")).collect()
}

/// A trainer in a folder of its own, which it needs as long as it runs.
fn fresh(settings: &[&[&str]]) -> (Trainer, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("folder");
    (trainer(dir.path(), &settings.concat(), false), dir)
}

/// Checks that the first moments, and so the gradients, differ by rounding alone.
fn same_gradients(a: &Trainer, b: &Trainer, share: f32, what: &str) {
    let (a, b) = (state(a), state(b));
    let moments = a.iter().filter(|(name, _)| name.starts_with("optimiser.m."));
    for (name, a) in moments {
        let b = &b[name];
        let most = b.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        let off = a.iter().zip(b).fold(0.0, |off: f32, (a, b)| off.max((a - b).abs()));
        assert!(off <= share * most + 1e-7, "{what}: {name} is off by {off} of {most}");
    }
}

/// Number of classes in each image of a batch.
fn classes(batch: &Batch) -> Vec<usize> {
    let of = |map: &[u8]| map.iter().filter(|v| **v != 255).collect::<BTreeSet<_>>().len();
    batch.labels.chunks_exact(batch.h * batch.w).map(of).collect()
}

#[test]
fn two_batches_of_one_image_act_as_one_of_two() {
    let (two, clip) = (["train.batch=1", "train.accumulate=2"], "train.clip_norm=0.5");
    for (head, places) in [("mask2former", &PLACES[..]), ("per-pixel", &PLACES[..1])] {
        let head = format!("head.kind={head}");
        let (mut large, _dir) = fresh(&[&[&head, clip]]);
        let all = batches(&large, 12);
        // With as many classes in each image, losses divided for each part would be the same.
        let differs = |batch: &Batch| classes(batch)[0] != classes(batch)[1];
        let i = all.iter().position(differs).expect("images with other numbers of classes");
        let batch = &all[i];
        let want = large.step_on(batch).expect("step");
        for place in places {
            let (mut parts, _dir) = fresh(&[place, &two, &[&head, clip]]);
            assert!(batches(&parts, i + 1)[i].images == batch.images, "other samples");
            let before = parts.place().device().map(|d| d.counters().waits);
            let found = parts.step_on(batch).expect("step");
            for (a, b) in values(&found).into_iter().zip(values(&want)) {
                assert!((a - b).abs() <= 1e-4 * b.abs() + 1e-6, "{place:?}: {a} for {b}");
            }
            if let Some(before) = before {
                // For the matching of each part, and for the loss.
                assert_eq!(device(&parts).counters().waits - before, 3);
            }
            same_gradients(&parts, &large, 1e-3, &format!("{head}, {place:?}"));
        }
    }
}

#[test]
fn parts_are_captured_and_replayed() {
    let settings = [
        "run.device=virtual",
        "train.batch=1",
        "train.accumulate=2",
        "train.clip_norm=0.1",
        "train.ema.rate=0.2",
        "train.ema.start=2",
        "train.weight_decay_end=0",
    ];
    let run = |graphs: &str| {
        let (mut trainer, _dir) = fresh(&[&settings, &[graphs]]);
        let mut graphs = Vec::new();
        let mut losses = Vec::new();
        for batch in batches(&trainer, 4) {
            let before = device(&trainer).counters().graphs;
            losses.extend(trainer.queue(&batch).expect("queued").map(|log| log.loss.to_bits()));
            graphs.push(device(&trainer).counters().graphs - before);
        }
        losses.extend(trainer.flush().expect("flushed").map(|log| log.loss.to_bits()));
        (losses, state(&trainer), graphs)
    };
    let (with, without) = (run("run.graphs=true"), run("run.graphs=false"));
    assert_eq!(with.2, [0, 0, 4, 4]);
    assert_eq!(without.2, [0; 4]);
    assert!(with.0.len() == 4 && with.0 == without.0, "losses");
    assert!(with.1 == without.1, "states");
}

/// Checks an update of a tensor, in which it has the decay `decay`, against the formula.
fn follows(
    name: &str,
    [before, now]: [&BTreeMap<String, Vec<f32>>; 2],
    t: i32,
    lr: f64,
    decay: f64,
) {
    let (c1, c2) = (1.0 - 0.9f64.powi(t), (1.0 - 0.999f64.powi(t)).sqrt());
    let [m, v] = ["m", "v"].map(|m| &now[&format!("optimiser.{m}.{name}")]);
    for (j, p) in now[name].iter().enumerate() {
        let [old, m, v] = [&before[name], m, v].map(|x| f64::from(x[j]));
        let want = old * (1.0 - lr * decay) - lr / c1 * m / (v.sqrt() / c2 + 1e-8);
        let off = (f64::from(*p) - want).abs();
        assert!(off <= 1e-6 * old.abs() + 1e-7, "update {t}: {p} for {want}");
    }
}

#[test]
fn averages_and_decay_follow_their_formulas() {
    let settings = [
        "train.batch=1",
        "train.steps=4",
        "train.lr=0.01",
        "train.weight_decay=8",
        "train.weight_decay_end=2",
        "train.ema.rate=0.25",
        "train.ema.start=2",
    ];
    for place in PLACES {
        let (mut trainer, _dir) = fresh(&[place, &settings]);
        let mut before = state(&trainer);
        for (step, batch) in batches(&trainer, 4).iter().enumerate() {
            let lr = trainer.step_on(batch).expect("step").lr;
            let now = state(&trainer);
            // Half a cosine from 8 to 2.
            let decay = 5.0 + 3.0 * (std::f64::consts::PI * step as f64 / 3.0).cos();
            let both = [&before, &now];
            follows("decode_head.cls_embed.weight", both, step as i32 + 1, lr, decay);
            let mut seen = 0;
            for (name, a) in &now {
                let Some(name) = name.strip_prefix("optimiser.average.") else { continue };
                let old = &before[&format!("optimiser.average.{name}")];
                let want = |(a, w): (&f32, &f32)| if step < 2 { *w } else { a + 0.25 * (w - a) };
                let want: Vec<f32> = old.iter().zip(&now[name]).map(want).collect();
                assert!(*a == want, "{place:?}, step {step}: {name}");
                seen += 1;
            }
            assert_eq!(seen, trainer.model().trainable().len());
            before = now;
        }
    }
}

#[test]
fn the_norm_of_all_gradients_is_limited() {
    let moments = |limit: f64| {
        let (mut trainer, _dir) = fresh(&[&[&format!("train.clip_norm={limit}")]]);
        trainer.step_on(&batches(&trainer, 1)[0]).expect("step");
        let mut all = state(&trainer);
        all.retain(|name, _| name.starts_with("optimiser.m."));
        all
    };
    let whole = moments(0.0);
    // m = (1 - beta1) g after the first step.
    let squares = whole.values().flatten().map(|m| (f64::from(*m) / 0.1).powi(2));
    let norm = squares.sum::<f64>().sqrt();
    assert!(norm > 1.0, "{norm}");
    let clipped = moments(norm / 8.0);
    for (name, m) in &whole {
        for (m, clipped) in m.iter().zip(&clipped[name]) {
            let off = (m / 8.0 - clipped).abs();
            assert!(off <= 1e-5 * m.abs() + 1e-12, "{name}: {m}, {clipped}");
        }
    }
    assert!(moments(2.0 * norm) == whole, "a norm below the limit");
}

#[test]
fn averaged_weights_are_scored_and_loaded() {
    let test = "data.eval=[{name = 'fog', source = 'scenes', count = 1, size = [32, 32]}]";
    // A head whose first predictions are of many classes, so that weights and averages differ there.
    let head = "head.kind=per-pixel";
    let settings = ["train.batch=1", "train.steps=3", "train.lr=0.01", head, test];
    let settings = [&settings[..], &["train.ema.rate=0.01"]].concat();
    for place in PLACES {
        let run = |more: &str| {
            let dir = tempfile::tempdir().expect("folder");
            let recipe = small(dir.path(), &[place, &settings, &[more]].concat());
            let mut trainer = Trainer::new(recipe.clone(), false).expect("trainer");
            let outcome = trainer.run(&Silent, &Interrupt::default()).expect("run");
            let score = outcome.report.expect("scores").sets[0].miou;
            let bytes = std::fs::read(outcome.checkpoint).expect("checkpoint");
            (bytes, score, state(&trainer), (recipe, dir))
        };
        // An evaluation between steps leaves the weights and their averages as they are.
        let (bytes, score, now, (mut recipe, dir)) = run("train.eval_every=2");
        if place == PLACES[0] {
            let (others, same, ..) = run("train.eval_every=0");
            assert!(bytes == others && score == same);
            assert_ne!(score, run("eval.averaged=false").1);
        }
        assert!(recipe.eval.averaged);
        for averaged in [true, false] {
            recipe.eval.averaged = averaged;
            let model = load(&recipe, &dir.path().join("run"), 3).expect("network");
            for param in model.trainable() {
                let prefix = if averaged { "optimiser.average." } else { "" };
                let want = &now[&format!("{prefix}{}", param.name())];
                let found = param.master().detach();
                assert!(found.data::<f32>().expect("f32") == &want[..], "{}", param.name());
            }
        }
    }
}

#[test]
fn averages_that_a_state_lacks_start_as_its_weights() {
    let dir = tempfile::tempdir().expect("folder");
    let mut plain = trainer(dir.path(), &[], false);
    plain.step_on(&batches(&plain, 1)[0]).expect("step");
    let weights = state(&plain);
    drop(plain);
    let with = small(dir.path(), &["train.ema.rate=0.5"]);
    let error = load(&with, &dir.path().join("run"), 1).map(drop).expect_err("no averages");
    assert!(error.to_string().contains("holds no averaged weights"), "{error}");
    let changed = dressage_train::resume::Resume { changed: true, ..Default::default() };
    let resumed = Trainer::set_up(with.clone(), Some(&changed), &Silent).expect("resumed");
    let found = state(&resumed);
    for param in resumed.model().trainable() {
        let name = param.name();
        assert!(found[&format!("optimiser.average.{name}")] == weights[name], "{name}");
    }
}
