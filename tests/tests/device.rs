//! Networks on the virtual GPU, compared with the host.
//!
//! The virtual GPU executes the production kernels and fails on any access that a real GPU would
//! not survive.

use std::collections::BTreeMap;

use dressage_engine::{DType, Device, Param, Tensor, backward_from_all};
use dressage_kernels::check::{noise, relative_error};
use dressage_models::adapter::{Adapter, Rein, ReinConfig};
use dressage_models::backbone::{Backbone, Ffn, Level, PUBLISHED, Vit, VitConfig};
use dressage_models::objective::mask2former::head::{Head, HeadConfig, Queries};
use dressage_models::params::Scope;
use half::bf16;

const WIDTH: usize = 64;
const SIDE: usize = 4 * 5;

fn vit(ffn: Ffn) -> VitConfig {
    VitConfig {
        embed_dim: WIDTH,
        depth: 1,
        heads: 2,
        patch: 4,
        // The grid differs from the image's, so that the table is resized.
        grid: 3,
        ffn,
        hidden: ffn.hidden(WIDTH, 2.0),
        registers: 0,
        taps: [0; 4],
        ..PUBLISHED[0].vit().expect("a ViT").clone()
    }
}

/// A small head with `queries` queries, which Rein provides.
fn head(queries: usize, mask_width: usize) -> HeadConfig {
    HeadConfig {
        dim: 64,
        mask_width,
        queries,
        heads: 2,
        groups: 8,
        encoder_layers: 1,
        encoder_ffn: 96,
        decoder_layers: 3,
        decoder_ffn: 96,
        ..HeadConfig::published([WIDTH; 4], 3, Queries::Linked)
    }
}

/// A frozen backbone with trained tokens and head, as in fine-tuning.
struct Network {
    vit: Vit,
    rein: Option<Rein>,
    head: Option<Head>,
    params: BTreeMap<String, Param>,
}

impl Network {
    fn new(ffn: Ffn, tokens: usize, mask_width: Option<usize>) -> Network {
        let scope = Scope::new(DType::F32, 7);
        let vit = Vit::new(&scope.sub("backbone").trainable(false), vit(ffn)).unwrap();
        let config = ReinConfig {
            tokens,
            rank: 4,
            query_dim: 64,
            patch: 4,
            // The features change by about their own size.
            scale: 1.0,
            ..ReinConfig::published(1, WIDTH)
        };
        let rein = (tokens > 0).then(|| Rein::new(&scope.sub("reins"), config).unwrap());
        let head = mask_width.map(|m| Head::new(&scope.sub("head"), head(tokens, m)).unwrap());
        let params = scope.finish("test", &[]).unwrap();
        Network { vit, rein, head, params }
    }

    /// Values of the tapped map and the queries, or of the head's predictions; then gradients by
    /// name.
    fn run(&self, place: Option<(&Device, DType)>) -> Vec<(String, Vec<f64>)> {
        let image = Tensor::from_slice(&noise::<f32>(2 * 3 * SIDE * SIDE, 1), &[2, 3, SIDE, SIDE]);
        let put = |x: Tensor| match place {
            Some((device, dtype)) => x.to_device(device, dtype).unwrap(),
            None => x,
        };
        let step = self.rein.as_ref().map(|rein| rein.step(None).unwrap());
        let levels: Vec<Level> = self.vit.forward(&put(image.unwrap()), step.as_ref()).unwrap();
        let queries = step.and_then(|step| step.queries().cloned());
        let outputs: Vec<Tensor> = match &self.head {
            None => std::iter::once(levels[0].map.clone()).chain(queries).collect(),
            Some(head) => {
                let output = head.forward(&levels, queries.as_ref(), false).unwrap();
                output.predictions.into_iter().flat_map(|p| [p.cls, p.mask]).collect()
            }
        };
        let named = |(i, x): (usize, &Tensor)| (format!("result {i}"), wide(x));
        let mut all: Vec<_> = outputs.iter().enumerate().map(named).collect();
        if self.rein.is_none() {
            return all;
        }
        let with_gradient = |(i, y): (usize, Tensor)| {
            let dy = Tensor::from_slice(&noise::<f32>(y.len(), 2 + i as u64), y.shape());
            (y, put(dy.unwrap()))
        };
        let outputs = outputs.into_iter().enumerate().map(with_gradient).collect();
        let mut grads = backward_from_all(outputs).unwrap();
        for (name, param) in self.params.iter().filter(|(_, param)| param.trainable()) {
            let g = grads.take(&param.get()).unwrap_or_else(|| panic!("{name} has no gradient"));
            assert_eq!(g.dtype(), DType::F32, "{name}");
            all.push((name.clone(), wide(&g)));
        }
        all
    }
}

fn wide(x: &Tensor) -> Vec<f64> {
    let x = x.detach().to_host().unwrap();
    match x.dtype() {
        DType::Bf16 => x.data::<bf16>().unwrap().iter().map(|x| x.to_f64()).collect(),
        _ => x.data::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect(),
    }
}

fn check(make: impl Fn() -> Network, working: DType, bound: f64) {
    let want = make().run(None);
    let device = Device::virtual_gpu();
    let there = make();
    for param in there.params.values() {
        param.to_device(&device, working).unwrap();
    }
    let got = there.run(Some((&device, working)));
    assert_eq!(got.len(), want.len());
    for ((name, got), (_, want)) in got.iter().zip(&want) {
        let error = relative_error(got, want);
        println!("{working}, {name}: {error:.2e}");
        assert!(error <= bound, "{working}, {name}: {error:.2e} above {bound:.1e}");
    }
    assert_eq!(there.run(Some((&device, working))), got, "{working}: a second time");
}

#[test]
fn a_frozen_block_gives_the_values_of_the_host() {
    check(|| Network::new(Ffn::Mlp, 0, None), DType::F32, 2e-6);
    check(|| Network::new(Ffn::Swiglu, 0, None), DType::F32, 2e-6);
}

#[test]
fn a_block_with_rein_gives_values_and_gradients_of_the_host() {
    check(|| Network::new(Ffn::Mlp, 7, None), DType::F32, 2e-6);
}

#[test]
fn a_block_with_rein_in_bf16_is_off_by_its_roundings() {
    // About twenty roundings on the longest path, each of at most 2^-9 with random sign. The root
    // of twenty times 2^-9 is 0.009, and the largest of some thousand values may be twice that.
    check(|| Network::new(Ffn::Mlp, 7, None), DType::Bf16, 0.02);
}

#[test]
fn a_network_gives_predictions_and_gradients_of_the_host() {
    // Not in bf16: a mask logit near zero that changes its sign blocks or unblocks a key.
    check(|| Network::new(Ffn::Mlp, 7, Some(64)), DType::F32, 1e-5);
}

#[test]
fn masks_wider_or_narrower_than_the_features_give_the_values_of_the_host() {
    // One of them is not a multiple of the vector width.
    for mask_width in [96, 37] {
        check(|| Network::new(Ffn::Mlp, 7, Some(mask_width)), DType::F32, 1e-5);
    }
}
