//! Names and shapes of the published files of each family, as the spec lists them (backbones §4,
//! dinov3 §2, §4). Nothing here comes from the code that reads them.

use crate::checkpoint::{Content, Entry, ScalarType};

/// A published file: who names its tensors, the recipe's name of its network, and the tensors.
pub struct Published {
    /// Value of `model.backbone`.
    pub backbone: &'static str,
    /// Source of the names.
    pub names: &'static str,
    /// Settings of a recipe beside the name.
    pub settings: &'static [&'static str],
    /// Tensors, zeros unless the format needs values.
    pub entries: Vec<Entry>,
}

/// Sizes of a transformer.
#[derive(Clone, Copy)]
struct Sizes {
    c: u64,
    depth: u64,
    hidden: u64,
}

const LARGE: Sizes = Sizes { c: 1024, depth: 24, hidden: 4096 };

/// Collects names with shapes.
#[derive(Default)]
struct Names(Vec<Entry>);

impl Names {
    fn add(mut self, name: &str, shape: &[u64]) -> Names {
        self.0.push(Entry::zeros(name, shape));
        self
    }

    /// Weight `[out, in]` and bias `[out]`.
    fn layer(self, name: &str, [output, input]: [u64; 2]) -> Names {
        let weight = self.add(&format!("{name}.weight"), &[output, input]);
        weight.add(&format!("{name}.bias"), &[output])
    }

    /// Weight and bias `[c]`.
    fn norm(self, name: &str, c: u64) -> Names {
        self.add(&format!("{name}.weight"), &[c]).add(&format!("{name}.bias"), &[c])
    }

    /// Batch norm over `c` channels, with its statistics and the count of its batches.
    fn batch_norm(self, name: &str, c: u64) -> Names {
        let names = self.norm(name, c).add(&format!("{name}.running_mean"), &[c]);
        names
            .add(&format!("{name}.running_var"), &[c])
            .count(&format!("{name}.num_batches_tracked"))
    }

    fn count(mut self, name: &str) -> Names {
        let (kind, content) = (ScalarType::I64, Content::Bytes(7i64.to_le_bytes().to_vec()));
        self.0.push(Entry { kind, content, ..Entry::zeros(name, &[]) });
        self
    }

    /// The mask of the biases of queries, keys and values: it hides that of the keys.
    fn mask(mut self, name: &str, c: u64) -> Names {
        let values = [1f32, 0.0, 1.0].map(|x| x.to_le_bytes().repeat(c as usize));
        let content = Content::Bytes(values.concat());
        self.0.push(Entry { content, ..Entry::zeros(name, &[3 * c]) });
        self
    }

    fn blocks(self, depth: u64, block: impl Fn(Names, u64) -> Names) -> Names {
        (0..depth).fold(self, block)
    }
}

/// Every family in every naming style that the program reads, but DINOv2.
pub fn all() -> Vec<Published> {
    let file = |backbone, names, Names(entries): Names| {
        let settings = &[][..];
        Published { backbone, names, settings, entries }
    };
    let torchvision = file("resnet50", "torchvision", resnet([3, 4, 6, 3], "", "bn1"));
    vec![
        file("clip-l", "authors", clip("visual.")),
        file("clip-l", "Hugging Face", clip_hf()),
        file("mae-l", "authors", mae()),
        file("mae-l", "Hugging Face", mae_hf()),
        file("eva02-l", "authors", eva02()),
        file("eva02-l", "timm", eva02_timm()),
        file("sam-h", "authors", sam("image_encoder.blocks")),
        file("sam-h", "Hugging Face", sam("vision_encoder.layers")),
        file("dinov3-l", "authors", dinov3(LARGE, false)),
        file("dinov3-l", "Hugging Face", dinov3_hf(LARGE, false)),
        file("dinov3-l", "timm", dinov3_timm(LARGE, false)),
        file("dinov3-l-plus", "authors", dinov3(LARGE, true)),
        file("dinov3-l-plus", "Hugging Face", dinov3_hf(LARGE, true)),
        file("dinov3-l-plus", "timm", dinov3_timm(LARGE, true)),
        file("convnext-l", "authors", convnext()),
        file("convnext-l", "OpenMMLab", convnext_open_mmlab()),
        file("convnext-l", "timm", convnext_timm()),
        file("resnet50", "OpenMMLab", resnet([3, 4, 6, 3], "stem.", "stem.7")),
        file("resnet101", "OpenMMLab", resnet([3, 4, 23, 3], "stem.", "stem.7")),
        file("resnet50", "timm", resnet([3, 4, 6, 3], "conv1.", "bn1")),
        Published { settings: &["model.stem=single"], ..torchvision },
    ]
}

fn clip(prefix: &str) -> Names {
    let Sizes { c, depth, hidden } = LARGE;
    let at = |name: &str| format!("{prefix}{name}");
    Names::default()
        .add(&at("class_embedding"), &[c])
        .add(&at("positional_embedding"), &[257, c])
        .add(&at("conv1.weight"), &[c, 3, 14, 14])
        .norm(&at("ln_pre"), c)
        .blocks(depth, |names, i| {
            let at = |name: &str| format!("{prefix}transformer.resblocks.{i}.{name}");
            names
                .add(&at("attn.in_proj_weight"), &[3 * c, c])
                .add(&at("attn.in_proj_bias"), &[3 * c])
                .layer(&at("attn.out_proj"), [c, c])
                .norm(&at("ln_1"), c)
                .norm(&at("ln_2"), c)
                .layer(&at("mlp.c_fc"), [hidden, c])
                .layer(&at("mlp.c_proj"), [c, hidden])
        })
        .norm(&at("ln_post"), c)
        .add(&at("proj"), &[c, 768])
        // The text tower.
        .add("positional_embedding", &[77, 768])
        .add("transformer.resblocks.0.attn.in_proj_weight", &[2304, 768])
        .add("text_projection", &[768, 768])
        .add("logit_scale", &[])
}

fn clip_hf() -> Names {
    let Sizes { c, depth, hidden } = LARGE;
    let names = Names::default()
        .add("vision_model.embeddings.class_embedding", &[c])
        .add("vision_model.embeddings.patch_embedding.weight", &[c, 3, 14, 14])
        .add("vision_model.embeddings.position_embedding.weight", &[257, c])
        .add("vision_model.embeddings.position_ids", &[1, 257])
        .norm("vision_model.pre_layrnorm", c)
        .blocks(depth, |names, i| {
            let at = |name: &str| format!("vision_model.encoder.layers.{i}.{name}");
            ["q_proj", "k_proj", "v_proj", "out_proj"]
                .iter()
                .fold(names, |names, part| names.layer(&at(&format!("self_attn.{part}")), [c, c]))
                .norm(&at("layer_norm1"), c)
                .norm(&at("layer_norm2"), c)
                .layer(&at("mlp.fc1"), [hidden, c])
                .layer(&at("mlp.fc2"), [c, hidden])
        });
    names
        .norm("vision_model.post_layernorm", c)
        .add("visual_projection.weight", &[768, c])
        .add("text_model.embeddings.token_embedding.weight", &[49408, 768])
        .add("logit_scale", &[])
}

/// What DINO-like files have before and after their blocks.
fn around(c: u64, p: u64, positions: Option<u64>) -> Names {
    let names = Names::default()
        .add("cls_token", &[1, 1, c])
        .add("patch_embed.proj.weight", &[c, 3, p, p])
        .add("patch_embed.proj.bias", &[c]);
    match positions {
        Some(n) => names.add("pos_embed", &[1, n, c]),
        None => names,
    }
}

fn mae() -> Names {
    let Sizes { c, depth, hidden } = LARGE;
    let names = around(c, 16, Some(197)).blocks(depth, |names, i| {
        let at = |name: &str| format!("blocks.{i}.{name}");
        names
            .norm(&at("norm1"), c)
            .layer(&at("attn.qkv"), [3 * c, c])
            .layer(&at("attn.proj"), [c, c])
            .norm(&at("norm2"), c)
            .layer(&at("mlp.fc1"), [hidden, c])
            .layer(&at("mlp.fc2"), [c, hidden])
    });
    names.norm("norm", c)
}

fn mae_hf() -> Names {
    let Sizes { c, depth, hidden } = LARGE;
    let names = Names::default()
        .add("vit.embeddings.cls_token", &[1, 1, c])
        .add("vit.embeddings.position_embeddings", &[1, 197, c])
        .add("vit.embeddings.patch_embeddings.projection.weight", &[c, 3, 16, 16])
        .add("vit.embeddings.patch_embeddings.projection.bias", &[c])
        .blocks(depth, |names, i| {
            let at = |name: &str| format!("vit.encoder.layer.{i}.{name}");
            ["query", "key", "value"]
                .iter()
                .fold(names, |names, part| {
                    names.layer(&at(&format!("attention.attention.{part}")), [c, c])
                })
                .layer(&at("attention.output.dense"), [c, c])
                .layer(&at("intermediate.dense"), [hidden, c])
                .layer(&at("output.dense"), [c, hidden])
                .norm(&at("layernorm_before"), c)
                .norm(&at("layernorm_after"), c)
        });
    names.norm("vit.layernorm", c).norm("decoder.decoder_norm", 512)
}

/// Hidden width of EVA-02.
const EVA_HIDDEN: u64 = 2730;

fn eva02() -> Names {
    let Sizes { c, depth, .. } = LARGE;
    let names = around(c, 14, Some(257)).blocks(depth, |names, i| {
        let at = |name: &str| format!("blocks.{i}.{name}");
        ["q_proj", "k_proj", "v_proj"]
            .iter()
            .fold(names, |names, part| names.add(&at(&format!("attn.{part}.weight")), &[c, c]))
            .add(&at("attn.q_bias"), &[c])
            .add(&at("attn.v_bias"), &[c])
            .layer(&at("attn.proj"), [c, c])
            .norm(&at("norm1"), c)
            .norm(&at("norm2"), c)
            .layer(&at("mlp.w1"), [EVA_HIDDEN, c])
            .layer(&at("mlp.w2"), [EVA_HIDDEN, c])
            .norm(&at("mlp.ffn_ln"), EVA_HIDDEN)
            .layer(&at("mlp.w3"), [c, EVA_HIDDEN])
    });
    names
        .add("mask_token", &[1, 1, c])
        .norm("norm", c)
        .layer("lm_head", [1024, c])
        .add("rope.freqs_cos", &[256, 64])
        .add("rope.freqs_sin", &[256, 64])
}

fn eva02_timm() -> Names {
    let Sizes { c, depth, .. } = LARGE;
    let names = around(c, 14, Some(257)).blocks(depth, |names, i| {
        let at = |name: &str| format!("blocks.{i}.{name}");
        names
            .layer(&at("attn.q_proj"), [c, c])
            .add(&at("attn.k_proj.weight"), &[c, c])
            .layer(&at("attn.v_proj"), [c, c])
            .layer(&at("attn.proj"), [c, c])
            .norm(&at("norm1"), c)
            .norm(&at("norm2"), c)
            .layer(&at("mlp.fc1_g"), [EVA_HIDDEN, c])
            .layer(&at("mlp.fc1_x"), [EVA_HIDDEN, c])
            .norm(&at("mlp.norm"), EVA_HIDDEN)
            .layer(&at("mlp.fc2"), [c, EVA_HIDDEN])
    });
    names.norm("fc_norm", c)
}

fn sam(blocks: &str) -> Names {
    let (c, depth, hidden) = (1280, 32, 5120);
    let theirs = blocks.starts_with("vision");
    let (prefix, norm, patch) = match theirs {
        true => ("vision_encoder.", "layer_norm", "projection"),
        false => ("image_encoder.", "norm", "proj"),
    };
    let names = Names::default()
        .add(&format!("{prefix}pos_embed"), &[1, 64, 64, c])
        .add(&format!("{prefix}patch_embed.{patch}.weight"), &[c, 3, 16, 16])
        .add(&format!("{prefix}patch_embed.{patch}.bias"), &[c])
        .blocks(depth, |names, i| {
            let at = |name: &str| format!("{blocks}.{i}.{name}");
            let rows = if [7, 15, 23, 31].contains(&i) { 127 } else { 27 };
            names
                .norm(&at(&format!("{norm}1")), c)
                .layer(&at("attn.qkv"), [3 * c, c])
                .layer(&at("attn.proj"), [c, c])
                .add(&at("attn.rel_pos_h"), &[rows, 80])
                .add(&at("attn.rel_pos_w"), &[rows, 80])
                .norm(&at(&format!("{norm}2")), c)
                .layer(&at("mlp.lin1"), [hidden, c])
                .layer(&at("mlp.lin2"), [c, hidden])
        });
    match theirs {
        true => names
            .add("vision_encoder.neck.conv1.weight", &[256, c, 1, 1])
            .norm("vision_encoder.neck.layer_norm1", 256)
            .add("mask_decoder.iou_token.weight", &[1, 256]),
        false => names
            .add("image_encoder.neck.0.weight", &[256, c, 1, 1])
            .norm("image_encoder.neck.1", 256)
            .add("prompt_encoder.no_mask_embed.weight", &[1, 256]),
    }
}

fn dinov3(Sizes { c, depth, hidden }: Sizes, gated: bool) -> Names {
    let names = around(c, 16, None)
        .add("storage_tokens", &[1, 4, c])
        .add("mask_token", &[1, c])
        .blocks(depth, |names, i| {
            let at = |name: &str| format!("blocks.{i}.{name}");
            let names = names
                .norm(&at("norm1"), c)
                .layer(&at("attn.qkv"), [3 * c, c])
                .mask(&at("attn.qkv.bias_mask"), c)
                .layer(&at("attn.proj"), [c, c])
                .add(&at("ls1.gamma"), &[c])
                .norm(&at("norm2"), c)
                .add(&at("ls2.gamma"), &[c]);
            match gated {
                false => {
                    names.layer(&at("mlp.fc1"), [hidden, c]).layer(&at("mlp.fc2"), [c, hidden])
                }
                true => names
                    .layer(&at("mlp.w1"), [hidden, c])
                    .layer(&at("mlp.w2"), [hidden, c])
                    .layer(&at("mlp.w3"), [c, hidden]),
            }
        });
    let names = names.norm("norm", c).add("rope_embed.periods", &[16]);
    if gated { names } else { names.norm("local_cls_norm", c) }
}

fn dinov3_hf(Sizes { c, depth, hidden }: Sizes, gated: bool) -> Names {
    let names = Names::default()
        .add("embeddings.cls_token", &[1, 1, c])
        .add("embeddings.register_tokens", &[1, 4, c])
        .add("embeddings.mask_token", &[1, 1, c])
        .add("embeddings.patch_embeddings.weight", &[c, 3, 16, 16])
        .add("embeddings.patch_embeddings.bias", &[c])
        .blocks(depth, |names, i| {
            let at = |name: &str| format!("layer.{i}.{name}");
            let names = names
                .norm(&at("norm1"), c)
                .layer(&at("attention.q_proj"), [c, c])
                .add(&at("attention.k_proj.weight"), &[c, c])
                .layer(&at("attention.v_proj"), [c, c])
                .layer(&at("attention.o_proj"), [c, c])
                .add(&at("layer_scale1.lambda1"), &[c])
                .norm(&at("norm2"), c)
                .add(&at("layer_scale2.lambda1"), &[c])
                .layer(&at("mlp.up_proj"), [hidden, c])
                .layer(&at("mlp.down_proj"), [c, hidden]);
            if gated { names.layer(&at("mlp.gate_proj"), [hidden, c]) } else { names }
        });
    names.norm("norm", c)
}

fn dinov3_timm(Sizes { c, depth, hidden }: Sizes, gated: bool) -> Names {
    let names = around(c, 16, None).add("reg_token", &[1, 4, c]).blocks(depth, |names, i| {
        let at = |name: &str| format!("blocks.{i}.{name}");
        let names = names
            .norm(&at("norm1"), c)
            .add(&at("attn.qkv.weight"), &[3 * c, c])
            .layer(&at("attn.proj"), [c, c])
            .add(&at("gamma_1"), &[c])
            .norm(&at("norm2"), c)
            .add(&at("gamma_2"), &[c]);
        match gated {
            // The distilled models without biases, and those with them.
            false => names.layer(&at("mlp.fc1"), [hidden, c]).layer(&at("mlp.fc2"), [c, hidden]),
            true => names
                .add(&at("attn.q_bias"), &[c])
                .add(&at("attn.v_bias"), &[c])
                .layer(&at("mlp.fc1_g"), [hidden, c])
                .layer(&at("mlp.fc1_x"), [hidden, c])
                .layer(&at("mlp.fc2"), [c, hidden]),
        }
    });
    names.norm("norm", c)
}

/// A ResNet: with the three convolutions of a deep stem under `stem`, or with one; `last` is the stem's
/// last norm.
fn resnet(depths: [u64; 4], stem: &str, last: &str) -> Names {
    let at = |name: &str| format!("{stem}{name}");
    let names = match stem {
        "" => Names::default().add("conv1.weight", &[64, 3, 7, 7]),
        _ => Names::default()
            .add(&at("0.weight"), &[32, 3, 3, 3])
            .batch_norm(&at("1"), 32)
            .add(&at("3.weight"), &[32, 32, 3, 3])
            .batch_norm(&at("4"), 32)
            .add(&at("6.weight"), &[64, 32, 3, 3]),
    };
    let stages = (0..4).zip(depths);
    let names = stages.fold(names.batch_norm(last, 64), |names, (stage, blocks)| {
        let (c, before) = (64 << stage, if stage == 0 { 64 } else { 128 << stage });
        names.blocks(blocks, |names, i| {
            let at = |name: &str| format!("layer{}.{i}.{name}", stage + 1);
            let input = if i == 0 { before } else { 4 * c };
            let names = names
                .add(&at("conv1.weight"), &[c, input, 1, 1])
                .batch_norm(&at("bn1"), c)
                .add(&at("conv2.weight"), &[c, c, 3, 3])
                .batch_norm(&at("bn2"), c)
                .add(&at("conv3.weight"), &[4 * c, c, 1, 1])
                .batch_norm(&at("bn3"), 4 * c);
            match i {
                0 => names
                    .add(&at("downsample.0.weight"), &[4 * c, input, 1, 1])
                    .batch_norm(&at("downsample.1"), 4 * c),
                _ => names,
            }
        })
    });
    names.layer("fc", [1000, 2048])
}

/// Stages of a ConvNeXt-L: number, channels before it, channels, blocks.
const STAGES: [(u64, u64, u64, u64); 4] =
    [(0, 3, 192, 3), (1, 192, 384, 3), (2, 384, 768, 27), (3, 768, 1536, 3)];

/// Layers of all blocks of a ConvNeXt: `at` makes a name of stage, block and one of `layers`, which
/// are the depthwise convolution, the norm and both layers of the MLP.
fn convnext_blocks(
    names: Names,
    at: impl Fn(u64, u64, &str) -> String,
    layers: [&str; 4],
) -> Names {
    let [depthwise, norm, up, down] = layers;
    STAGES.iter().fold(names, |names, &(stage, _, c, blocks)| {
        names.blocks(blocks, |names, i| {
            let at = |name: &str| at(stage, i, name);
            names
                .add(&at("gamma"), &[c])
                .add(&format!("{}.weight", at(depthwise)), &[c, 1, 7, 7])
                .add(&format!("{}.bias", at(depthwise)), &[c])
                .norm(&at(norm), c)
                .layer(&at(up), [4 * c, c])
                .layer(&at(down), [c, 4 * c])
        })
    })
}

/// Stem and reductions: `conv` and `norm` make their names of the stage.
fn convnext_reductions(conv: impl Fn(u64) -> String, norm: impl Fn(u64) -> String) -> Names {
    STAGES.iter().fold(Names::default(), |names, &(stage, before, c, _)| {
        let (side, normed) = if stage == 0 { (4, c) } else { (2, before) };
        names
            .add(&format!("{}.weight", conv(stage)), &[c, before, side, side])
            .add(&format!("{}.bias", conv(stage)), &[c])
            .norm(&norm(stage), normed)
    })
}

fn convnext() -> Names {
    let at = |stage: u64, place: u64| format!("downsample_layers.{stage}.{place}");
    let reductions = convnext_reductions(|s| at(s, s.min(1)), |s| at(s, 1 - s.min(1)));
    let layers = ["dwconv", "norm", "pwconv1", "pwconv2"];
    convnext_blocks(reductions, |s, i, name| format!("stages.{s}.{i}.{name}"), layers)
        .norm("norm", 1536)
        .layer("head", [21841, 1536])
}

fn convnext_open_mmlab() -> Names {
    let at = |stage: u64, place: u64| format!("backbone.downsample_layers.{stage}.{place}");
    let reductions = convnext_reductions(|s| at(s, s.min(1)), |s| at(s, 1 - s.min(1)));
    let layers = ["depthwise_conv", "norm", "pointwise_conv1", "pointwise_conv2"];
    convnext_blocks(reductions, |s, i, name| format!("backbone.stages.{s}.{i}.{name}"), layers)
        .norm("backbone.norm3", 1536)
        .layer("head.fc", [21841, 1536])
}

fn convnext_timm() -> Names {
    let at = |stage: u64, place: u64| match stage {
        0 => format!("stem.{place}"),
        _ => format!("stages.{stage}.downsample.{place}"),
    };
    let reductions = convnext_reductions(|s| at(s, s.min(1)), |s| at(s, 1 - s.min(1)));
    let layers = ["conv_dw", "norm", "mlp.fc1", "mlp.fc2"];
    convnext_blocks(reductions, |s, i, name| format!("stages.{s}.blocks.{i}.{name}"), layers)
        .norm("head.norm", 1536)
        .layer("head.fc", [21841, 1536])
}
