//! Training, evaluation and files of the heads with a loss of every pixel: the per-pixel head and the
//! semantic FPN.

mod common;

use std::path::Path;

use common::recipe;
use dressage_engine::{DType, Device, Tensor};
use dressage_models::Generator;
use dressage_models::objective::Targets;
use dressage_models::weights::{HeadIn, StateDict, write_summed};
use dressage_train::interrupt::Interrupt;
use dressage_train::network;
use dressage_train::recipe::Recipe;
use dressage_train::runlog::Silent;
use dressage_train::trainer::{Trainer, load};

fn small(dir: &Path, more: &[&str]) -> Recipe {
    let own = ["head.kind=per-pixel", "augment.crop=32", "train.batch=2", "train.steps=4"];
    recipe(dir, &[&own[..], more].concat())
}

/// Loss of each of three steps on the same batches, with the sum of its terms.
fn losses(trainer: &mut Trainer) -> Vec<f32> {
    let mut loader = trainer.loader().expect("loader");
    let step = |_| {
        let log = trainer.step_with(&mut loader).expect("step");
        assert_eq!(log.terms, [("loss_ce".to_owned(), log.loss)]);
        log.loss
    };
    (0..3).map(step).collect()
}

#[test]
fn three_steps_have_the_losses_of_the_host_on_a_device() {
    let per_pixel = ["freeze", "rein", "full"].map(|method| (method, "per-pixel"));
    for (method, kind) in
        per_pixel.into_iter().chain([("rein", "semfpn"), ("full", "semfpn"), ("rein", "deconv")])
    {
        let (method, kind) = (format!("model.method={method}"), format!("head.kind={kind}"));
        let dirs = [(); 2].map(|()| tempfile::tempdir().expect("folder"));
        let places = [&["run.device=cpu"][..], &["run.device=virtual", "run.precision=f32"]];
        let run = |i: usize| {
            let recipe = small(
                dirs[i].path(),
                &[places[i], &[&method, &kind, "head.fpn_width=24"]].concat(),
            );
            losses(&mut Trainer::new(recipe, false).expect("trainer"))
        };
        let (here, there) = (run(0), run(1));
        assert!(here[0] > 0.1, "{here:?}");
        for (a, b) in here.iter().zip(&there) {
            assert!((a - b).abs() <= 2e-4 * a, "{method}, {kind}: {here:?} here, {there:?} there");
        }
    }
}

#[test]
fn a_run_is_scored_and_its_checkpoint_has_the_head_alone() {
    let dir = tempfile::tempdir().expect("folder");
    let settings = [
        format!("run.dir={}", dir.path().join("run").display()),
        "head.kind=per-pixel".to_owned(),
        "model.method=freeze".to_owned(),
        "run.device=cpu".to_owned(),
        "train.steps=4".to_owned(),
        "data.train.0.count=8".to_owned(),
        "data.eval.0.count=1".to_owned(),
        "data.eval.1.count=1".to_owned(),
        "data.eval.2.count=1".to_owned(),
    ];
    let recipe = Recipe::from_name("demo", &settings).expect("recipe");
    let mut trainer = Trainer::new(recipe.clone(), false).expect("trainer");
    let outcome = trainer.run(&Silent, &Interrupt::default()).expect("run");
    let report = outcome.report.expect("scores");
    assert!(
        report.sets.iter().all(|set| set.miou.is_some_and(|miou| (0.0..=100.0).contains(&miou)))
    );
    let dict = StateDict::open(&outcome.checkpoint).expect("checkpoint");
    let classes = recipe.classes();
    let channels = 4 * recipe.model.embed_dim;
    assert_eq!(HeadIn::of(&dict), Some(HeadIn::PerPixel { classes, channels }));
    // The network of the run folder gives the scores of the trainer's, on any device.
    let image = Tensor::from_slice(&vec![0.25f32; 3 * 32 * 64], &[1, 3, 32, 64]).expect("image");
    let want = trainer.model().scores(&image).expect("scores");
    assert_eq!(want.shape(), [1, classes, 32, 64]);
    let mut model = load(&recipe, &recipe.run.dir, 4).expect("network");
    let same = model.scores(&image).expect("scores");
    assert_eq!(same.data::<f32>().expect("f32"), want.data::<f32>().expect("f32"));
    model.to_device(&Device::virtual_gpu(), DType::F32).expect("device");
    let there = model.scores(&model.image(image).expect("image")).expect("scores");
    let there = there.to_host().expect("host");
    let pairs = there.data::<f32>().expect("f32").iter().zip(want.data::<f32>().expect("f32"));
    assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() <= 1e-4), "scores differ");
}

#[test]
fn without_labels_nothing_is_learned() {
    let dir = tempfile::tempdir().expect("folder");
    let recipe = small(dir.path(), &["model.method=freeze"]);
    let model = network::build(&recipe).expect("network");
    let image = Tensor::from_slice(&vec![0.5f32; 3 * 32 * 32], &[1, 3, 32, 32]).expect("image");
    let labels = Tensor::from_slice(&vec![255u8; 32 * 32], &[1, 32, 32]).expect("labels");
    let targets = Targets::new(labels, recipe.classes()).expect("targets");
    let mut loss = model.objective().clone().step_loss(None, 1, 0).expect("loss");
    let generator = Generator::new(None, 0).expect("generator");
    model.predict(&image, &generator, &mut *loss).expect("forward");
    loss.costs(&targets, None).expect("nothing to compare");
    assert!(loss.decide(&targets).expect("nothing to decide").is_empty());
    let terms = loss.losses(&targets).expect("loss");
    assert_eq!(terms.total.item::<f32>().expect("a number"), 0.0);
    let mut grads = dressage_engine::backward(terms.total).expect("backward");
    let bias = &model.params()["decode_head.conv_seg.bias"];
    let gradient = grads.take(&bias.get()).expect("a gradient");
    assert!(gradient.data::<f32>().expect("f32").iter().all(|&g| g == 0.0));
}

#[test]
fn settings_that_need_queries_are_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let recipe = small(dir.path(), &[]);
    assert!(!recipe.rein.link, "the link follows the head");
    let settings = ["head.kind=per-pixel", "model.method=rein", "rein.link=true"];
    let settings = settings.map(str::to_owned);
    let error = Recipe::from_name("demo", &settings).expect_err("refused").to_string();
    assert!(error.contains("rein.link"), "{error}");
    assert!(error.contains("only a head of kind mask2former has queries"), "{error}");
    // A run of one head cannot go on with the other.
    let mut trainer = Trainer::new(recipe.clone(), false).expect("trainer");
    losses(&mut trainer);
    trainer.save().expect("saved");
    drop(trainer);
    let other = common::recipe(dir.path(), &["augment.crop=32", "train.batch=2", "train.steps=4"]);
    let error = Trainer::new(other, true).err().expect("refused");
    assert!(error.to_string().contains("head.kind"), "{error}");
}

/// Values of a running statistic.
fn statistic(trainer: &Trainer, name: &str) -> Vec<f32> {
    let param = &trainer.model().params()[name];
    param.master().to_host().expect("host").data::<f32>().expect("f32").to_vec()
}

#[test]
fn statistics_of_the_semantic_fpn_are_in_its_files() {
    const MEAN: &str = "decode_head.scale_heads.3.4.bn.running_mean";
    let dir = tempfile::tempdir().expect("folder");
    let more = ["head.kind=semfpn", "head.fpn_width=24", "model.method=freeze"];
    let mut trainer = Trainer::new(small(dir.path(), &more), false).expect("trainer");
    let fingerprint = trainer.model().backbone_fingerprint();
    let start = statistic(&trainer, MEAN);
    assert_eq!(start, vec![0.0; 24]);
    losses(&mut trainer);
    let moved = statistic(&trainer, MEAN);
    assert!(moved.iter().all(|mean| *mean != 0.0), "{moved:?}");
    assert_eq!(trainer.model().backbone_fingerprint(), fingerprint);
    // An evaluation leaves them as they are.
    let image = Tensor::from_slice(&vec![0.25f32; 3 * 32 * 64], &[1, 3, 32, 64]).expect("image");
    let want = trainer.model().scores(&image).expect("scores");
    assert_eq!(statistic(&trainer, MEAN), moved);
    let saved = trainer.save().expect("saved");
    let dict = StateDict::open(&saved).expect("checkpoint");
    let classes = trainer.model().objective().classes();
    assert_eq!(HeadIn::of(&dict), Some(HeadIn::SemFpn { classes, neck: 32, channels: 24 }));
    drop(trainer);
    let resumed = Trainer::new(small(dir.path(), &more), true).expect("resumed");
    assert_eq!(statistic(&resumed, MEAN), moved);
    // Files of the reference also count batches, which is of no use here.
    let mut dict = dressage_train::checkpoint::trained(dict);
    let counted = Tensor::from_slice(&[3i32], &[]).expect("a count");
    dict.insert(MEAN.replace("running_mean", "num_batches_tracked"), counted);
    let file = dir.path().join("exported.safetensors");
    let tensors: Vec<_> = dict.iter().map(|(name, t)| (name.as_str(), t, t.kind())).collect();
    let mut out = std::fs::File::create(&file).expect("a file");
    write_summed(tensors, &[], &mut out).expect("written");
    let checkpoint = format!("model.checkpoint={}", file.display());
    let model = network::build(&small(dir.path(), &[&more[..], &[&checkpoint]].concat()));
    let same = model.expect("network").scores(&image).expect("scores");
    assert_eq!(same.data::<f32>().expect("f32"), want.data::<f32>().expect("f32"));
}

#[test]
fn the_seed_decides_what_is_dropped() {
    let run = |seed: &str, rate: &str| {
        let dir = tempfile::tempdir().expect("folder");
        let own = ["head.kind=semfpn", "model.method=freeze", "train.batch=2", seed, rate];
        let mut trainer = Trainer::new(small(dir.path(), &own), false).expect("trainer");
        losses(&mut trainer)
    };
    let half = run("train.seed=1", "head.dropout=0.5");
    assert_eq!(half, run("train.seed=1", "head.dropout=0.5"));
    assert_ne!(half, run("train.seed=1", "head.dropout=0"));
}
