//! Hooks of adapters in the blocks of a backbone.

use std::sync::{Arc, Mutex};

use dressage_engine::{DType, Tensor, ops};
use dressage_kernels::check::noise;

use super::{AdapterStep, Site};
use crate::Result;
use crate::backbone::published::named;
use crate::backbone::{Backbone, Ffn, Vit, VitConfig};
use crate::params::Scope;

pub(super) const WIDTH: usize = 8;

pub(super) fn config(ffn: Ffn) -> VitConfig {
    let taps = [0, 1, 1, 1];
    let hidden = 12;
    let base = named("dinov2-s").expect("a known name").vit().expect("a ViT").at(4, 2);
    VitConfig { embed_dim: WIDTH, depth: 2, heads: 2, ffn, hidden, taps, ..base }
}

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_slice(&noise::<f64>(shape.iter().product(), seed), shape).expect("fits")
}

/// A backbone in f64, so that two ways to one result differ by little.
fn vit(ffn: Ffn) -> Vit {
    let scope = Scope::new(DType::F64, 5);
    Vit::new(&scope, config(ffn)).expect("built")
}

pub(super) fn maps(vit: &Vit, adapter: Option<Arc<dyn AdapterStep>>) -> Vec<f64> {
    let levels = vit.forward(&tensor(&[1, 3, 8, 8], 1), adapter.as_ref()).expect("levels");
    levels.iter().flat_map(|level| level.map.data::<f64>().expect("f64").to_vec()).collect()
}

/// Adds zeros everywhere and notes where it was called.
#[derive(Default)]
struct Zeros(Mutex<Vec<String>>);

impl Zeros {
    fn note(&self, hook: String) {
        self.0.lock().expect("unpoisoned").push(hook);
    }
}

impl AdapterStep for Zeros {
    fn enter(&self, i: usize, x: Tensor) -> Result<Tensor> {
        self.note(format!("{i} enter"));
        Ok(x)
    }

    fn at_linear(
        &self,
        i: usize,
        site: Site,
        input: &dyn Fn() -> Result<Tensor>,
    ) -> Result<Option<Tensor>> {
        let n = input()?.last_dim();
        self.note(format!("{i} {site:?} {n}"));
        let out = match site {
            Site::Qkv => 3 * WIDTH,
            Site::Up => 12,
            Site::Proj | Site::Down => WIDTH,
        };
        Ok(Some(Tensor::zeros(DType::F64, &[1, 5, out])))
    }

    fn beside_mlp(&self, i: usize, x: &Tensor) -> Result<Option<Tensor>> {
        self.note(format!("{i} beside_mlp"));
        Ok(Some(Tensor::zeros(DType::F64, x.shape())))
    }

    fn leave(&self, i: usize, x: Tensor, lead: usize) -> Result<Tensor> {
        self.note(format!("{i} leave {lead}"));
        Ok(x)
    }
}

#[test]
fn every_hook_is_called_in_every_block_and_zeros_change_nothing() {
    let zeros = Arc::new(Zeros::default());
    let vit = vit(Ffn::Mlp);
    assert_eq!(maps(&vit, Some(zeros.clone())), maps(&vit, None));
    let calls = zeros.0.lock().expect("unpoisoned").clone();
    let hooks = ["enter", "Qkv 8", "Proj 8", "Up 8", "Down 12", "beside_mlp", "leave 1"];
    let want: Vec<String> =
        [0, 1].iter().flat_map(|i| hooks.iter().map(move |hook| format!("{i} {hook}"))).collect();
    assert_eq!(calls, want);
}

/// Adds `W x` at every linear layer.
struct Matrices([Tensor; 4]);

impl AdapterStep for Matrices {
    fn at_linear(
        &self,
        _i: usize,
        site: Site,
        input: &dyn Fn() -> Result<Tensor>,
    ) -> Result<Option<Tensor>> {
        Ok(Some(ops::linear(&input()?, &self.0[site as usize], None)?))
    }
}

/// Checks that an addition at a linear layer is a change of its weight, layer scale included.
#[test]
fn additions_at_linear_layers_equal_changed_weights() {
    for (ffn, names) in [
        (Ffn::Mlp, ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]),
        (Ffn::Swiglu, ["attn.qkv", "attn.proj", "mlp.w12", "mlp.w3"]),
    ] {
        let scope = Scope::new(DType::F64, 5);
        let changed = Vit::new(&scope, config(ffn)).expect("built");
        let params = scope.finish("test", &[]).expect("params");
        // Scales that are not one.
        let plain_scope = Scope::new(DType::F64, 5);
        let plain = Vit::new(&plain_scope, config(ffn)).expect("built");
        let plain_params = plain_scope.finish("test", &[]).expect("params");
        for (i, scale) in ["ls1", "ls2"].iter().enumerate() {
            for block in 0..2 {
                let name = format!("blocks.{block}.{scale}.gamma");
                for params in [&params, &plain_params] {
                    let value = noise::<f64>(WIDTH, 70 + i as u64);
                    let set = |p: &mut Tensor| {
                        p.data_mut::<f64>()?.copy_from_slice(&value);
                        Ok(())
                    };
                    params[&name].update(set).expect("written");
                }
            }
        }
        let shape = |name: &str| params[&format!("blocks.0.{name}.weight")].get().shape().to_vec();
        let more: Vec<Tensor> =
            names.iter().enumerate().map(|(i, name)| tensor(&shape(name), 30 + i as u64)).collect();
        for (name, more) in names.iter().zip(&more) {
            for block in 0..2 {
                let more = more.data::<f64>().expect("f64").to_vec();
                let add = |p: &mut Tensor| {
                    let values = p.data_mut::<f64>()?;
                    values.iter_mut().zip(&more).for_each(|(w, more)| *w += more);
                    Ok(())
                };
                params[&format!("blocks.{block}.{name}.weight")].update(add).expect("written");
            }
        }
        let more: [Tensor; 4] = more.try_into().expect("four");
        let got = maps(&plain, Some(Arc::new(Matrices(more))));
        let want = maps(&changed, None);
        let largest = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < 1e-12 * largest, "{ffn:?}: {got} is not {want}");
        }
        assert_ne!(got, maps(&plain, None));
    }
}
