//! Parameter counts. The code that builds the networks counts them, without allocating their
//! memory.

use dressage_engine::{DType, DryRun, Role};

use crate::adapter::AdapterConfig;
use crate::backbone::BackboneConfig;
use crate::params::{ParamShape, Scope, Shapes};
use crate::{Result, Segmenter, SegmenterConfig};

/// Parameters of a network by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamCounts {
    /// The backbone without its adapter.
    pub backbone: usize,
    /// The adapter.
    pub adapter: usize,
    /// The head.
    pub head: usize,
    /// Parameters that the optimiser updates.
    pub trained: usize,
    /// Statistics of the backbone's batch norms, and a counter for each, as published files have.
    pub statistics: usize,
}

/// Counts the parameters of a network.
///
/// # Errors
/// Sizes that do not fit together.
pub fn network(config: SegmenterConfig) -> Result<ParamCounts> {
    let shapes = Segmenter::shapes(config)?;
    let of = |role: Role| sum(&shapes, |param| param.kind.role == role);
    Ok(ParamCounts {
        backbone: of(Role::Backbone),
        adapter: of(Role::Adapter),
        head: of(Role::Head),
        trained: sum(&shapes, |param| param.trainable),
        statistics: statistics(&shapes),
    })
}

/// Running means and variances of a backbone, and the counter of each pair.
fn statistics(shapes: &Shapes) -> usize {
    let of_backbone = |param: &&ParamShape| param.kind.role == Role::Backbone;
    let is_statistic =
        |name: &str| name.ends_with(".running_mean") || name.ends_with(".running_var");
    let all = shapes.iter().filter(|(name, _)| is_statistic(name)).map(|(_, param)| param);
    let lengths: Vec<usize> = all.filter(of_backbone).map(ParamShape::count).collect();
    lengths.iter().sum::<usize>() + lengths.len() / 2
}

/// Counts the parameters of an adapter alone, for backbones of any kind.
///
/// # Errors
/// As [`AdapterConfig::build`].
pub fn adapter(config: &AdapterConfig) -> Result<usize> {
    let shapes = DryRun::new().run(|| {
        let root = Scope::new(DType::F32, 0);
        config.build(&root)?;
        root.shapes()
    })?;
    Ok(sum(&shapes, |_| true))
}

/// Shapes of all parameters of a backbone under the names of its authors' files.
///
/// # Errors
/// As [`BackboneConfig::build`].
pub fn backbone(config: impl Into<BackboneConfig>) -> Result<Shapes> {
    DryRun::new().run(|| {
        let root = Scope::new(DType::F32, 0);
        config.into().build(&root)?;
        root.shapes()
    })
}

fn sum(shapes: &Shapes, counts: impl Fn(&ParamShape) -> bool) -> usize {
    let counted = shapes.values().filter(|param| !param.kind.buffer && counts(param));
    counted.map(ParamShape::count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Method;
    use crate::adapter::{AdaptFormerConfig, LoraConfig, LoraTargets, ReinConfig, VptConfig};
    use crate::backbone::VitConfig;
    use crate::backbone::published::named;
    use crate::objective::ObjectiveConfig;

    /// Expected counts from the classes of the published code (spec peft-and-dgss). Those of
    /// unshared layers are from the formula there, which has one scale per layer; the code and this
    /// crate have one in total.
    #[test]
    fn adapters_have_the_published_sizes() {
        let rein = |config| adapter(&AdapterConfig::Rein(config));
        let large = |rank| ReinConfig { rank, ..ReinConfig::published(24, 1024) };
        let ranks = [(4, 2_666_369), (8, 2_774_273), (16, 2_990_081), (32, 3_421_697)];
        for (rank, expected) in ranks.into_iter().chain([(64, 4_284_929), (0, 5_016_065)]) {
            assert_eq!(rein(large(rank)).expect("counted"), expected, "rank {rank}");
        }
        let no_link = ReinConfig { link: false, ..large(16) };
        assert_eq!(rein(no_link).expect("counted"), 2_530_817);
        let core = ReinConfig { link: false, share: false, ..large(0) };
        assert_eq!(rein(core).expect("counted"), 52_838_424 - 23);
        let link = ReinConfig { share: false, ..large(0) };
        assert_eq!(rein(link).expect("counted"), 59_332_888 - 23);
        let small = [(12, 768, 1_741_569), (12, 384, 684_033)];
        let large = [(32, 1280, 4_510_721), (40, 1536, 6_359_041)];
        for (layers, c, expected) in small.into_iter().chain(large) {
            let found = rein(ReinConfig::published(layers, c)).expect("counted");
            assert_eq!(found, expected, "{layers} layers of {c}");
        }
        let convnext = named("convnext-l").expect("known");
        let staged = rein(ReinConfig::of_stages(convnext.config.stages()));
        assert_eq!(staged.expect("counted"), 8_289_156);
        let lora = LoraConfig::published(24, 1024);
        let qkv = LoraConfig { targets: LoraTargets::Qkv, ..lora.clone() };
        let fused = LoraConfig { targets: LoraTargets::Fused, ..lora.clone() };
        let others = [
            (AdapterConfig::Lora(lora), 786_432),
            (AdapterConfig::Lora(qkv), 1_179_648),
            (AdapterConfig::Lora(fused), 786_432),
            (AdapterConfig::AdaptFormer(AdaptFormerConfig::published(24, 1024)), 3_171_840),
            (AdapterConfig::Vpt(VptConfig::published(24, 1024)), 3_686_400),
        ];
        for (config, expected) in others {
            assert_eq!(adapter(&config).expect("counted"), expected, "{config:?}");
        }
    }

    /// Published counts (spec backbones §1.2). They include the mask token of the pre-training, one
    /// row of channels that no network here has.
    #[test]
    fn backbones_have_the_published_sizes() {
        let sizes = [("dinov2-s", 21_993_216), ("dinov2-b", 86_453_760), ("dinov2-l", 304_199_680)];
        let others = [
            ("clip-l", 304_148_480),
            ("mae-l", 304_149_504),
            ("eva02-l", 304_237_504),
            ("sam-h", 632_175_360),
            ("convnext-l", 196_233_024),
        ];
        for (name, expected) in others {
            let backbone = named(name).expect("known").at(16, 32);
            let counted = network(SegmenterConfig::published(backbone, 19, Method::Freeze));
            assert_eq!(counted.expect("counted").backbone, expected, "{name}");
        }
        // Published with the mask token.
        let dinov3 = [
            ("dinov3-s", 21_601_152),
            ("dinov3-s-plus", 28_697_472),
            ("dinov3-b", 85_669_632),
            ("dinov3-l", 303_154_176),
            ("dinov3-l-plus", 403_915_776),
            ("dinov3-h-plus", 840_633_600),
        ];
        for (name, expected) in dinov3 {
            let backbone = named(name).expect("known").at(16, 32);
            let mask_token = backbone.widths()[0];
            let counted = network(SegmenterConfig::published(backbone, 19, Method::Freeze));
            assert_eq!(counted.expect("counted").backbone + mask_token, expected, "{name}");
        }
        for (name, expected) in sizes.into_iter().chain([("dinov2-g", 1_136_227_328)]) {
            for (patch, grid, at) in [(16, 32, expected), (14, 37, native(name))] {
                let backbone = named(name).expect("known").at(patch, grid);
                let mask_token = backbone.widths()[0];
                let counted = network(SegmenterConfig::published(backbone, 19, Method::Rein));
                assert_eq!(counted.expect("counted").backbone + mask_token, at, "{name}/{patch}");
            }
        }
    }

    /// Without running statistics, which the published counts include (spec backbones §1.2).
    #[test]
    fn resnets_have_the_published_sizes() {
        let sizes = [
            ("resnet50", [23_527_264, 53_303, 13_187_588]),
            ("resnet101", [42_519_392, 105_578, 13_493_316]),
        ];
        for (name, [trained, buffers, rein]) in sizes {
            let backbone = named(name).expect("known").config.clone();
            let shapes = super::backbone(backbone.clone()).expect("shapes");
            let running = shapes.values().filter(|param| param.kind.buffer);
            // Each norm has two of them, and PyTorch counts its batches.
            let norms = running.clone().count() / 2;
            assert_eq!(running.map(ParamShape::count).sum::<usize>() + norms, buffers, "{name}");
            let counted = network(SegmenterConfig::published(backbone, 19, Method::Rein));
            let counted = counted.expect("counted");
            assert_eq!((counted.backbone, counted.adapter), (trained, rein), "{name}");
        }
    }

    fn native(name: &str) -> usize {
        match name {
            "dinov2-s" => 22_056_576,
            "dinov2-b" => 86_580_480,
            "dinov2-l" => 304_368_640,
            _ => 1_136_480_768,
        }
    }

    #[test]
    fn networks_have_the_published_sizes() {
        let large = |method| {
            let backbone = named("dinov2-l").expect("known").at(16, 32);
            network(SegmenterConfig::published(backbone, 19, method)).expect("counted")
        };
        // The published count includes the mask token of the pre-training.
        let backbone = 304_199_680 - 1024;
        let rein = large(Method::Rein);
        assert_eq!((rein.backbone, rein.adapter, rein.head), (backbone, 2_990_081, 20_579_796));
        assert_eq!(rein.trained, 2_990_081 + 20_579_796);
        let (freeze, full) = (large(Method::Freeze), large(Method::Full));
        assert_eq!((freeze.adapter, freeze.head, freeze.trained), (0, 20_565_204, 20_565_204));
        assert_eq!(full.trained, backbone + 20_565_204);
        // With the statistics of the batch norms, as the paper counts.
        for (name, expected, all) in
            [("resnet50", 23_527_264, 23_580_567), ("resnet101", 42_519_392, 42_624_970)]
        {
            let backbone = named(name).expect("known").at(16, 32);
            let counts = network(SegmenterConfig::published(backbone, 19, Method::Freeze));
            let counts = counts.expect("counted");
            assert_eq!(counts.backbone, expected, "{name}");
            assert_eq!(counts.backbone + counts.statistics, all, "{name}");
        }
    }

    /// Counted names and shapes are those of a network that was built.
    #[test]
    fn what_is_counted_are_the_parameters_of_the_network() {
        let backbone = VitConfig {
            embed_dim: 12,
            depth: 4,
            heads: 3,
            taps: [0, 1, 2, 3],
            ..named("dinov2-s").expect("known").vit().expect("a ViT").at(8, 2)
        };
        let mut config = SegmenterConfig::published(backbone, 5, Method::Rein);
        if let ObjectiveConfig::Mask2Former { head, .. } = &mut config.objective {
            head.dim = 32;
        }
        if let Some(rein) = config.rein_mut() {
            rein.query_dim = 32;
        }
        let counted = Segmenter::shapes(config.clone()).expect("shapes");
        let weights = crate::weights::StateDict::default();
        let built = Segmenter::new(config, dressage_engine::DType::F32, 1, weights, &[]);
        let built = built.expect("built");
        let described = |(name, p): (&String, &_)| (name.clone(), ParamShape::of(p));
        let shapes: Shapes = built.params().iter().map(described).collect();
        assert_eq!(counted, shapes);
    }
}
