//! Dropout of adapters and stochastic depth in training.

use dressage_engine::{DType, Tensor};
use dressage_kernels::check::noise;

use super::tests::{WIDTH, config, maps};
use super::{
    AdaptFormer, AdaptFormerConfig, Adapter, AdapterConfig, AdapterStep, LoraConfig, Site,
};
use crate::Generator;
use crate::backbone::{Backbone, Ffn, Vit, VitConfig};
use crate::params::Scope;

/// An adapter in f64 whose parameters are away from zero.
fn moved<A>(build: impl FnOnce(&Scope) -> A) -> A {
    let scope = Scope::new(DType::F64, 5);
    let adapter = build(&scope);
    for (seed, param) in scope.finish("test", &[]).expect("params").values().enumerate() {
        let values = noise::<f64>(param.get().len(), seed as u64);
        let set = |x: &mut Tensor| {
            x.data_mut::<f64>()?.copy_from_slice(&values);
            Ok(())
        };
        param.update(set).expect("written");
    }
    adapter
}

fn values(x: &Tensor) -> Vec<f64> {
    x.data::<f64>().expect("f64").to_vec()
}

/// Checks that `addition` draws in each step anew, and that its mean is the one without dropout.
fn assert_unbiased(adapter: &dyn Adapter, addition: impl Fn(&dyn AdapterStep) -> Vec<f64>) {
    let whole = addition(&*adapter.step(None).expect("step"));
    let mut generator = Generator::new(None, 9).expect("generator");
    let mut at = |step| {
        generator.set_step(step, 0).expect("set");
        addition(&*adapter.step(Some(&generator)).expect("step"))
    };
    assert_eq!(at(1), at(1));
    assert_ne!(at(1), at(2));
    let (steps, mut sum) = (4000, vec![0.0; whole.len()]);
    for step in 0..steps {
        sum.iter_mut().zip(at(step)).for_each(|(sum, x)| *sum += x);
    }
    let largest = whole.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    for (sum, whole) in sum.iter().zip(&whole) {
        let mean = sum / steps as f64;
        assert!((mean - whole).abs() < 0.1 * largest, "{mean} on average, {whole} without");
    }
}

#[test]
fn lora_drops_its_input_in_training() {
    let sizes = LoraConfig { rank: 3, dropout: 0.5, ..LoraConfig::published(2, WIDTH) };
    let lora = moved(|scope| AdapterConfig::Lora(sizes).build(scope).expect("built"));
    let x = Tensor::from_slice(&noise::<f64>(WIDTH, 3), &[1, 1, WIDTH]).expect("fits");
    assert_unbiased(&*lora, |step| {
        let more = step.at_linear(1, Site::Qkv, &|| Ok(x.clone())).expect("linear");
        values(&more.expect("an addition"))
    });
}

#[test]
fn adaptformer_drops_its_hidden_rows_in_training() {
    let published = AdaptFormerConfig::published(2, WIDTH);
    let sizes = AdaptFormerConfig { bottleneck: 6, dropout: 0.5, ..published };
    let adaptformer = moved(|scope| AdaptFormer::new(scope, &sizes));
    let x = Tensor::from_slice(&noise::<f64>(WIDTH, 3), &[1, 1, WIDTH]).expect("fits");
    assert_unbiased(&adaptformer, |step| {
        values(&step.beside_mlp(1, &x).expect("mlp").expect("an addition"))
    });
}

#[test]
fn stochastic_depth_skips_branches_of_images() {
    let vit = |drop_path| {
        let config = VitConfig { drop_path, ..config(Ffn::Mlp) };
        Vit::new(&Scope::new(DType::F64, 5), config).expect("built")
    };
    let (images, mut generator) = (32, Generator::new(None, 9).expect("generator"));
    let image = noise::<f64>(images * 3 * 8 * 8, 1);
    let image = Tensor::from_slice(&image, &[images, 3, 8, 8]).expect("fits");
    let mut tapped = |vit: &Vit, step| {
        generator.set_step(step, 0).expect("set");
        let levels = vit.train(&image, None, &generator).expect("levels");
        [0, 3].map(|tap| values(&levels[tap].map))
    };
    let (never, often) = (vit(0.0), vit(0.5));
    assert_eq!(maps(&often, None), maps(&never, None), "predictions drop nothing");
    let [first, last] = tapped(&never, 1);
    let [first_of_often, last_of_often] = tapped(&often, 1);
    assert_eq!(first, first_of_often, "the first block is never dropped");
    assert_eq!(last_of_often, tapped(&often, 1)[1]);
    assert_ne!(last_of_often, tapped(&often, 2)[1]);
    let n = last.len() / images;
    let skipped = last_of_often.chunks(n).zip(first.chunks(n)).filter(|(a, b)| a == b).count();
    // Both branches of the last block are dropped in a quarter of the images.
    assert!((3..=14).contains(&skipped), "{skipped} of {images} images skip the last block");
}
