//! LoRA, SoMA and RecycleLoRA on small backbones in f64.

use dressage_engine::{DType, Param, Role, Tensor};
use dressage_kernels::check::noise;

use super::tests::{WIDTH, config, maps};
use super::{
    Adapter, AdapterConfig, BlockSizes, DecomposedConfig, Decomposition, LoraConfig, LoraTargets,
};
use crate::Method;
use crate::backbone::published::named;
use crate::backbone::{Ffn, Vit, VitConfig};
use crate::params::{Init, Scope};

fn soma(vit: &VitConfig) -> AdapterConfig {
    let decomposition = Decomposition::Singular { rank: 3 };
    let soma = DecomposedConfig { first: 1, ..DecomposedConfig::soma(BlockSizes::of(vit)) };
    AdapterConfig::Decomposed(DecomposedConfig { decomposition, ..soma })
}

fn recycle(vit: &VitConfig) -> AdapterConfig {
    let decomposition = Decomposition::PivotedQr { rank: 4, second_rank: 2 };
    let recycle = DecomposedConfig { first: 0, ..DecomposedConfig::recycle(BlockSizes::of(vit)) };
    AdapterConfig::Decomposed(DecomposedConfig { decomposition, ..recycle })
}

fn lora(targets: LoraTargets) -> AdapterConfig {
    let sizes = LoraConfig { rank: 3, alpha: 5.0, ..LoraConfig::published(2, WIDTH) };
    AdapterConfig::Lora(LoraConfig { targets, ..sizes })
}

/// A frozen backbone with an adapter that will be merged.
fn adapted(vit: &VitConfig, adapter: &AdapterConfig) -> (Vit, Box<dyn Adapter>, Scope) {
    let scope = Scope::new(DType::F64, 5);
    adapter.announce(&scope, true);
    let frozen = scope.role(Role::Backbone).trainable(false);
    let backbone = Vit::new(&frozen, vit.clone()).expect("built");
    let adapter = adapter.build(&scope.role(Role::Adapter)).expect("built");
    (backbone, adapter, scope)
}

fn assert_close(got: &[f64], want: &[f64], what: &str) {
    let largest = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < 1e-12 * largest, "{what}: {got} is not {want}");
    }
}

#[test]
fn decomposed_weights_start_as_the_frozen_network() {
    for ffn in [Ffn::Mlp, Ffn::Swiglu] {
        let vit = config(ffn);
        let frozen = Vit::new(&Scope::new(DType::F64, 5), vit.clone()).expect("built");
        for adapter in [soma(&vit), recycle(&vit)] {
            let (backbone, own, scope) = adapted(&vit, &adapter);
            let step = own.step(None).expect("step");
            assert_close(&maps(&backbone, Some(step)), &maps(&frozen, None), "start");
            assert_ne!(maps(&backbone, None), maps(&frozen, None), "the weights are not split");
            let params = scope.finish("test", &[]).expect("params");
            let trained = params.values().filter(|p| p.trainable());
            let biases = |p: &&Param| p.kind().role == Role::Backbone;
            let expected = match &adapter {
                AdapterConfig::Decomposed(config) => config.tuned().len(),
                _ => 0,
            };
            assert_eq!(trained.filter(biases).count(), expected);
        }
    }
}

/// The same backbone after its adapter was merged, and before, with factors away from their start.
#[test]
fn a_merged_adapter_equals_the_adapter() {
    for ffn in [Ffn::Mlp, Ffn::Swiglu] {
        let vit = config(ffn);
        let lora = [LoraTargets::Qv, LoraTargets::Qkv, LoraTargets::Fused].map(lora);
        for config in [soma(&vit), recycle(&vit)].into_iter().chain(lora) {
            let (backbone, adapter, scope) = adapted(&vit, &config);
            let params = scope.finish("test", &[]).expect("params");
            for (seed, param) in params.values().filter(|p| p.trainable()).enumerate() {
                let moved = |x: &mut Tensor| {
                    let more = noise::<f64>(x.len(), seed as u64);
                    x.data_mut::<f64>()?.iter_mut().zip(more).for_each(|(x, more)| *x += more);
                    Ok(())
                };
                param.update(moved).expect("written");
            }
            let before = maps(&backbone, Some(adapter.step(None).expect("step")));
            scope.restore(params);
            adapter.merge(&scope).expect("merged");
            assert_close(&maps(&backbone, None), &before, "merged");
            let left = scope.finish("test", &[]).expect("params");
            assert!(!left.keys().any(|name| name.contains("lora_")), "{:?}", left.keys());
        }
    }
}

/// Factors of `weight` `[rows, columns]`, as B₀ A₀ of each branch.
fn products(
    decomposition: Decomposition,
    weight: &[f64],
    [rows, columns]: [usize; 2],
) -> Vec<Vec<f64>> {
    let blocks = BlockSizes::of(&config(Ffn::Mlp));
    let config = DecomposedConfig { first: 0, decomposition, blocks };
    let weight = Tensor::from_slice(weight, &[rows, columns]).expect("fits");
    let matrix = super::decomposed::matrix(&weight, 0, rows).expect("f64");
    let product = |[a, b]: [Init; 2]| {
        let (Init::Values(a), Init::Values(b)) = (a, b) else { panic!("no values") };
        let rank = b.len() / rows;
        let of = |at: usize| {
            (0..rank).map(|k| b[at / columns * rank + k] * a[k * columns + at % columns]).sum()
        };
        (0..rows * columns).map(of).collect()
    };
    config.factors(&matrix).expect("factors").into_iter().map(product).collect()
}

#[test]
fn soma_takes_the_smallest_singular_values() {
    // A permuted diagonal has its entries as singular values.
    let (entries, places) = ([5.0f64, -0.5, 3.0, 0.25, 2.0], [3, 0, 6, 1, 4]);
    let (mut weight, mut smallest) = (vec![0.0; 35], vec![0.0; 35]);
    for (row, (entry, column)) in entries.iter().zip(places).enumerate() {
        weight[row * 7 + column] = *entry;
        smallest[row * 7 + column] = if entry.abs() < 1.0 { *entry } else { 0.0 };
    }
    let found = products(Decomposition::Singular { rank: 2 }, &weight, [5, 7]);
    assert_close(&found[0], &smallest, "smallest");
}

#[test]
fn recycle_lora_takes_the_last_and_the_first_columns() {
    for (rows, columns) in [(5, 7), (7, 5), (6, 6)] {
        let n = rows.min(columns);
        let weight = noise::<f64>(rows * columns, 3);
        let decomposition = Decomposition::PivotedQr { rank: n - 1, second_rank: 1 };
        let found = products(decomposition, &weight, [rows, columns]);
        let sum: Vec<f64> = found[0].iter().zip(&found[1]).map(|(a, b)| a + b).collect();
        assert_close(&sum, &weight, "all columns");
        // The first pivot is the longest column, which the first direction holds whole.
        let length = |x: &[f64], column: usize| {
            (0..rows).map(|row| x[row * columns + column].powi(2)).sum::<f64>()
        };
        let longest =
            (0..columns).max_by(|&a, &b| length(&weight, a).total_cmp(&length(&weight, b)));
        let longest = longest.expect("a column");
        let left = length(&found[0], longest);
        assert!(left < 1e-24, "{rows} x {columns}: {left}");
    }
}

/// Counts of the published networks (spec after-rein §1).
#[test]
fn soma_has_the_published_size() {
    let vit = named("dinov2-l").expect("known").at(16, 32);
    let config = crate::SegmenterConfig::published(vit, 19, Method::Soma);
    let counts = crate::counts::network(config).expect("counted");
    assert_eq!(counts.trained - counts.head, 4_866_048);
}

#[test]
fn ranks_without_room_are_refused() {
    let vit = config(Ffn::Mlp);
    let AdapterConfig::Decomposed(sizes) = soma(&vit) else { panic!("not SoMA") };
    let refused = |config: DecomposedConfig| {
        let scope = Scope::new(DType::F64, 5);
        let _frozen = Vit::new(&scope, vit.clone()).expect("built");
        AdapterConfig::Decomposed(config).build(&scope).err().expect("refused").to_string()
    };
    let decomposition = Decomposition::PivotedQr { rank: 7, second_rank: 2 };
    let text = refused(DecomposedConfig { decomposition, ..sizes.clone() });
    assert!(text.contains("rank 9") && text.contains("smaller side is 8"), "{text}");
    let text = refused(DecomposedConfig { first: 2, ..sizes });
    assert!(text.contains("first block") && text.contains("backbone has 2"), "{text}");
}
