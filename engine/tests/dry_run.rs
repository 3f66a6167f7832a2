//! Dry runs compared with the real work, and the memory that a recompute policy saves.

use std::sync::{Mutex, PoisonError};

use dressage_engine::memory::{self, Category, Usage, with_category};
use dressage_engine::{
    DType, DryRun, RecomputePolicy, Result, Tensor, backward_from, checkpoint, ops,
    with_recompute_policy,
};

const ROWS: usize = 640;
const C: usize = 96;

/// Weights of a block's MLP, trained or frozen.
struct Mlp {
    norm: [Tensor; 2],
    up: Tensor,
    down: Tensor,
}

impl Mlp {
    fn new(trained: bool) -> Mlp {
        let weight = |shape: &[usize]| {
            let t = with_category(Category::Weights, || Tensor::full(shape, 0.01f32));
            if trained { t.leaf() } else { t }
        };
        let (up, down) = (weight(&[4 * C, C]), weight(&[C, 4 * C]));
        Mlp { norm: [weight(&[C]), weight(&[C])], up, down }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = ops::layer_norm(x, &self.norm[0], &self.norm[1], 1e-6)?;
        let h = ops::gelu(&ops::linear(&y, &self.up, None)?)?;
        ops::residual(x, &ops::linear(&h, &self.down, None)?, None)
    }
}

fn input() -> Tensor {
    Tensor::zeros(DType::F32, &[ROWS, C]).leaf()
}

/// Runs two blocks forward and backward; returns the saved bytes and the final account.
fn step(trained: bool) -> Result<(usize, Usage)> {
    let mlp = Mlp::new(trained);
    let x = input();
    let y = mlp.forward(&mlp.forward(&x)?)?;
    let between = memory::usage().bytes[Category::Activations as usize];
    let dy = Tensor::zeros(DType::F32, y.shape());
    drop(backward_from(y, dy)?);
    Ok((between, memory::usage()))
}

/// The account belongs to the process, so only one test at a time may use memory.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_dry_run_takes_what_the_work_takes() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    memory::trim();
    for trained in [false, true] {
        let mut dry_run = DryRun::new();
        let (_, planned) = dry_run.run(|| step(trained)).expect("gone through");
        let before = memory::usage();
        memory::reset_peak();
        let (_, real) = step(trained).expect("computed");
        assert_eq!(planned.peak, real.peak - before.total(), "trained: {trained}");
        assert_eq!(planned.system_bytes, real.system_bytes - before.system_bytes);
        assert_eq!(planned.from_system, real.from_system - before.from_system);
        let calls = &dry_run.tally().calls;
        // Two forward and two backward passes: for the input, and for both parameters together.
        assert_eq!(calls["layer_norm"], if trained { 2 + 4 } else { 2 + 2 }, "{calls:?}");
        memory::trim();
    }
}

#[test]
fn a_dry_run_touches_no_memory() {
    let mut dry_run = DryRun::new();
    // A thousand gigabytes.
    let shape = [1 << 14, 1 << 14];
    dry_run.run(|| {
        let weight = Tensor::zeros(DType::F32, &shape).leaf();
        let mut x = Tensor::zeros(DType::F32, &shape);
        let mut saved = Vec::new();
        for _ in 0..1000 {
            x = ops::relu(&ops::linear(&x, &weight, None).expect("linear")).expect("relu");
            saved.push(x.clone());
        }
    });
    assert!(dry_run.usage().peak > 1000 << 30, "{:?}", dry_run.usage());
}

/// Activation bytes that forward passes save for the backward pass.
fn left(run: impl FnOnce() -> Result<(usize, Usage)>) -> usize {
    DryRun::new().run(run).expect("gone through").0
}

#[test]
fn the_policy_saves_what_it_can() {
    let unit = ROWS * C * 4;
    let about = |bytes: usize, units: usize| {
        let range = units * unit..(units * unit) * 11 / 10;
        assert!(range.contains(&bytes), "{} units, expected {units}", bytes as f64 / unit as f64);
    };
    // Input, middle, output; and per block the input of GELU.
    about(left(|| step(false)), 3 + 2 * 4);
    about(left(|| with_recompute_policy(RecomputePolicy::Cheap, || step(false))), 3);
    // In addition per block the output of the norm and of GELU.
    about(left(|| step(true)), 3 + 2 * (4 + 1 + 4));
    about(left(|| with_recompute_policy(RecomputePolicy::Cheap, || step(true))), 3 + 2 * 4);
}

#[test]
fn recomputed_blocks_give_the_same_bits() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let values: Vec<f32> = (0..ROWS * C).map(|i| (i as f32 * 0.37).sin()).collect();
    let run = |form: fn(&Tensor) -> Result<Tensor>| {
        let x = Tensor::from_slice(&values, &[ROWS, C]).expect("input").leaf();
        let y = form(&x).expect("forward");
        let dy = Tensor::from_slice(&values, &[ROWS, C]).expect("gradient");
        let mut grads = backward_from(y.clone(), dy).expect("backward");
        let dx = grads.take(&x).expect("gradient arrived");
        (y.bytes().to_vec(), dx.bytes().to_vec())
    };
    let mlp = |x: &Tensor| Mlp::new(false).forward(x);
    let plain = run(mlp);
    assert!(plain.1.iter().any(|b| *b != 0));
    let cheap =
        run(|x| with_recompute_policy(RecomputePolicy::Cheap, || Mlp::new(false).forward(x)));
    assert!(plain == cheap, "cheap");
    fn block(x: &Tensor) -> Result<Tensor> {
        checkpoint(std::slice::from_ref(x), |x| Mlp::new(false).forward(&x[0]))
    }
    assert!(plain == run(block), "a checkpoint that is kept");
    let again = run(|x| with_recompute_policy(RecomputePolicy::Block, || block(x)));
    assert!(plain == again, "a checkpoint that runs again");
}
