//! Backbones under their published names: recognition, and conversion of DINOv2's names to ours.

use std::collections::BTreeMap;

use dressage_engine::{DType, Param, Tensor, ops};
use dressage_models::backbone::{Ffn, PUBLISHED, Vit, VitConfig};
use dressage_models::params::{Precision, Scope};
use dressage_models::weights::{
    Known, StateDict, Stored, convert_backbone, fingerprint, fingerprint_of_floats,
    recognise_shapes, same_size,
};
use dressage_tests::fixture::{Fixture, Settings, list, roots};
use dressage_tests::published;

/// A DINOv2 of three blocks with all features: `registers` tokens, either type of MLP.
fn config(ffn: Ffn, registers: usize) -> VitConfig {
    VitConfig {
        embed_dim: 12,
        depth: 3,
        heads: 2,
        patch: 4,
        grid: 3,
        ffn,
        registers,
        taps: [0, 1, 1, 2],
        ..PUBLISHED[0].vit().expect("a ViT").at(4, 3)
    }
}

fn params(config: &VitConfig, weights: StateDict, strict: &[&str]) -> BTreeMap<String, Param> {
    let scope = Scope::with_weights(DType::F32, Precision::F32, 5, weights, strict);
    Vit::new(&scope.sub("backbone"), config.clone()).expect("network");
    scope.finish("the network", &[]).expect("all parameters")
}

/// The parameters of a random network under the names of the transformers library.
fn hugging_face(params: &BTreeMap<String, Param>, prefix: &str) -> StateDict {
    let mut dict = StateDict::new("dinov2.safetensors");
    for (name, param) in params {
        let names = published::hugging_face(name.strip_prefix("backbone.").expect("backbone"));
        let value = param.get().detach();
        let rows = value.dim(0) / names.len();
        for (i, name) in names.iter().enumerate() {
            let part = match names.len() {
                1 => value.clone(),
                _ => ops::rows(&value, i * rows, rows).expect("rows"),
            };
            dict.insert(format!("{prefix}{name}"), part);
        }
    }
    dict.insert(format!("{prefix}embeddings.mask_token"), Tensor::zeros(DType::F32, &[1, 12]));
    dict
}

#[test]
fn hugging_face_names_fill_every_form_of_the_network() {
    for (ffn, registers) in [(Ffn::Mlp, 0), (Ffn::Swiglu, 0), (Ffn::Mlp, 4)] {
        let config = config(ffn, registers);
        let want = params(&config, StateDict::default(), &[]);
        for prefix in ["", "dinov2."] {
            let mut dict = hugging_face(&want, prefix);
            if !prefix.is_empty() {
                // The rest of a classifier does not belong to the backbone.
                dict.insert("classifier.weight", Tensor::zeros(DType::F32, &[10, 24]));
            }
            let dict = convert_backbone(dict, &config.clone().into()).expect("names");
            // The fingerprint by which checkpoints of runs identify the network.
            let found = fingerprint_of_floats(&dict).expect("read");
            assert_eq!(found, fingerprint(want.values()));
            let got = params(&config, dict, &["backbone."]);
            for (name, param) in &want {
                assert_eq!(got[name].get().bytes(), param.get().bytes(), "{name}");
            }
        }
    }
}

#[test]
fn hugging_face_files_that_lack_something_are_refused_by_its_name() {
    let config = config(Ffn::Mlp, 0);
    let want = params(&config, StateDict::default(), &[]);
    let refused = |change: &dyn Fn(&mut StateDict), words: &[&str]| {
        let mut dict = hugging_face(&want, "");
        change(&mut dict);
        let scope = convert_backbone(dict, &config.clone().into()).and_then(|dict| {
            let scope = Scope::with_weights(DType::F32, Precision::F32, 5, dict, &["backbone."]);
            Vit::new(&scope.sub("backbone"), config.clone())?;
            scope.finish("the network", &[])
        });
        let error = scope.expect_err("this should have been refused").to_string();
        for word in words {
            assert!(error.contains(word), "{error:?} lacks {word:?}");
        }
    };
    let key = "encoder.layer.1.attention.attention.key.weight";
    refused(&|d| _ = d.take(key), &["dinov2.safetensors", key, "is missing"]);
    let turned = |d: &mut StateDict| d.insert(key, Tensor::zeros(DType::F32, &[12, 11]));
    refused(&turned, &[key, "[12, 11]", "do not form one layer"]);
    let norm = "encoder.layer.2.norm1.weight";
    refused(&|d| _ = d.take(norm), &["backbone.blocks.2.norm1.weight", "is missing"]);
    let odd = "encoder.layer.2.norm3.weight";
    refused(&|d| d.insert(odd, Tensor::zeros(DType::F32, &[1])), &[odd, "left over"]);
}

/// Names and shapes of a network of `depth` blocks, from patterns per block and single names.
fn shapes(depth: usize, blocks: &[(&str, &[usize])], others: &[(&str, &[usize])]) -> Shapes {
    let each = |i: usize| {
        let named = move |(p, s): &(&str, &[usize])| (p.replace("{}", &i.to_string()), s.to_vec());
        blocks.iter().map(named)
    };
    let others = others.iter().map(|(n, s)| (n.to_string(), s.to_vec()));
    (0..depth).flat_map(each).chain(others).collect()
}

type Shapes = BTreeMap<String, Vec<usize>>;

#[track_caller]
fn known(shapes: &Shapes) -> Known {
    recognise_shapes(shapes).unwrap_or_else(|| panic!("not recognised: {:?}", shapes.keys().next()))
}

#[test]
fn transformers_are_recognised_by_their_published_names() {
    let square: &[usize] = &[1024, 1024];
    let clip = shapes(
        24,
        &[
            ("visual.transformer.resblocks.{}.attn.in_proj_weight", &[3072, 1024]),
            ("visual.transformer.resblocks.{}.ln_1.weight", &[1024]),
            ("transformer.resblocks.{}.attn.in_proj_weight", &[2304, 768]),
        ],
        &[
            ("visual.class_embedding", &[1024]),
            ("visual.conv1.weight", &[1024, 3, 14, 14]),
            ("visual.positional_embedding", &[257, 1024]),
            ("positional_embedding", &[77, 768]),
        ],
    );
    let k = known(&clip);
    assert_eq!((k.title().as_str(), k.grid), ("CLIP ViT-L/14 (image tower)", 16));
    assert_eq!((k.prefix, k.recipe_name()), ("visual.", Some("clip-l")));
    let plain: [(&str, &[usize]); 3] = [
        ("blocks.{}.norm1.weight", &[1024]),
        ("blocks.{}.attn.qkv.bias", &[3072]),
        ("blocks.{}.mlp.fc1.weight", &[4096, 1024]),
    ];
    let mae = shapes(
        24,
        &plain,
        &[
            ("cls_token", &[1, 1, 1024]),
            ("pos_embed", &[1, 197, 1024]),
            ("patch_embed.proj.weight", &[1024, 3, 16, 16]),
        ],
    );
    assert_eq!((known(&mae).title().as_str(), known(&mae).grid), ("MAE ViT-L/16", 14));
    let eva = shapes(
        24,
        &[
            ("blocks.{}.norm1.weight", &[1024]),
            ("blocks.{}.attn.q_proj.weight", square),
            ("blocks.{}.attn.q_bias", &[1024]),
            ("blocks.{}.mlp.w1.weight", &[2730, 1024]),
        ],
        &[("patch_embed.proj.weight", &[1024, 3, 14, 14]), ("pos_embed", &[1, 257, 1024])],
    );
    assert_eq!(known(&eva).title(), "EVA-02 ViT-L/14");
    let sam = shapes(
        32,
        &[
            ("image_encoder.blocks.{}.norm1.weight", &[1280]),
            ("image_encoder.blocks.{}.attn.rel_pos_h", &[27, 80]),
            ("image_encoder.blocks.{}.mlp.lin1.weight", &[5120, 1280]),
        ],
        &[
            ("image_encoder.pos_embed", &[1, 64, 64, 1280]),
            ("image_encoder.patch_embed.proj.weight", &[1280, 3, 16, 16]),
            ("mask_decoder.iou_token.weight", &[1, 256]),
        ],
    );
    let k = known(&sam);
    assert_eq!((k.title().as_str(), k.grid), ("SAM ViT-H/16 (image encoder)", 64));
}

#[test]
fn sizes_of_dinov2_are_distinguished() {
    for (c, depth, size) in [(384, 12, "s"), (768, 12, "b"), (1024, 24, "l"), (1536, 40, "g")] {
        let mut dino = shapes(
            depth,
            &[("blocks.{}.norm1.weight", &[c]), ("blocks.{}.ls1.gamma", &[c])],
            &[
                ("patch_embed.proj.weight", &[c, 3, 14, 14]),
                ("patch_embed.proj.bias", &[c]),
                ("pos_embed", &[1, 1370, c]),
                ("register_tokens", &[1, 4, c]),
            ],
        );
        let k = known(&dino);
        assert_eq!((k.recipe_name(), k.registers), (Some(format!("dinov2-{size}").as_str()), 4));
        assert!(k.title().ends_with("/14 with 4 registers"), "{}", k.title());
        dino.remove("register_tokens");
        let prefixed = dino.into_iter().map(|(name, s)| (format!("backbone.{name}"), s)).collect();
        let k = known(&prefixed);
        assert_eq!((k.prefix, k.registers, k.grid), ("backbone.", 0, 37));
    }
}

#[test]
fn convolutional_networks_are_recognised_by_their_stages() {
    // Stages count from 1 in ResNets and from 0 elsewhere.
    let stages = |pattern: &str, first: usize, blocks: [usize; 4], c: usize| -> Shapes {
        let each = |(s, n): (usize, usize)| {
            let stage = pattern.replacen("{}", &(s + first).to_string(), 1);
            (0..n).map(move |i| (stage.replacen("{}", &i.to_string(), 1), vec![c << s, 1, 1, 1]))
        };
        blocks.into_iter().enumerate().flat_map(each).collect()
    };
    let resnet = |stem: &str, blocks| {
        let mut shapes = stages("layer{}.{}.conv3.weight", 1, blocks, 256);
        shapes.insert(stem.into(), vec![64, 3, 7, 7]);
        known(&shapes)
    };
    let k = resnet("conv1.weight", [3, 4, 6, 3]);
    assert_eq!((k.title().as_str(), k.names.contains("torchvision")), ("ResNet-50", true));
    let k = resnet("stem.0.weight", [3, 4, 23, 3]);
    assert_eq!((k.title().as_str(), k.names.contains("OpenMMLab")), ("ResNet-101", true));
    for (gamma, sign) in [
        ("stages.{}.{}.gamma", "stages.0.0.dwconv.weight"),
        ("stages.{}.{}.gamma", "stages.0.0.depthwise_conv.weight"),
        ("stages.{}.blocks.{}.gamma", "stages.0.blocks.0.conv_dw.weight"),
    ] {
        let mut shapes = stages(gamma, 0, [3, 3, 27, 3], 192);
        shapes.insert(sign.into(), vec![192, 1, 7, 7]);
        assert_eq!(known(&shapes).title(), "ConvNeXt-L", "{sign}");
    }
}

/// Expected titles of recorded files and key lists, by a word of their file name.
const RECORDED: [(&str, &str); 9] = [
    ("clip_vit", "CLIP"),
    ("convnext", "ConvNeXt"),
    ("dinov2", "DINOv2"),
    ("eva02", "EVA-02"),
    ("mae_vit", "MAE"),
    ("resnet", "ResNet"),
    ("sam_vit", "SAM"),
    ("CLIPVisionTransformer", "CLIP ViT-L/16 (image tower)"),
    ("EVA2-L", "EVA-02 ViT-L/16"),
];

#[test]
fn recorded_networks_are_recognised() {
    let (mut checked, mut keys) = (0, 0);
    for path in roots().iter().flat_map(|root| list(root).expect("folder")) {
        let fixture = Fixture::open(&path).expect("fixture");
        let title = |name: &str| {
            RECORDED.iter().find(|(word, _)| name.contains(word)).map(|(_, title)| *title)
        };
        let mut weights = fixture.tensors.clone().renamed("weight.", "").shapes();
        if let Some(want) = title(&fixture.name).filter(|_| !weights.is_empty()) {
            // End-to-end cases contain the adapter as well.
            weights.retain(|name, _| !name.starts_with("reins."));
            let got = known(&weights).title();
            assert!(got.starts_with(want), "{}: {got}", fixture.name);
            checked += 1;
        }
        for (what, network) in fixture.json.as_object().into_iter().flatten() {
            let Some(listed) = network["keys"].as_array() else { continue };
            let shape = |key: &serde_json::Value| {
                (key.word("key").to_string(), key.sizes("shape").expect("shape"))
            };
            let shapes: Shapes = listed.iter().map(shape).collect();
            let got = recognise_shapes(&shapes).map(|k| k.title());
            let want = match what.as_str() {
                "DinoVisionTransformer-L" => Some("DINOv2 ViT-L/16"),
                "mmseg_MAE-L" => Some("MAE ViT-L/16"),
                other => title(other),
            };
            assert_eq!(got.as_deref(), want, "{what}");
            keys += 1;
        }
    }
    assert!(checked >= 1 && keys >= 10, "{checked} files and {keys} lists were looked at");
}

fn config_of_width(embed_dim: usize) -> VitConfig {
    VitConfig { embed_dim, ..config(Ffn::Mlp, 0) }
}

#[test]
fn weights_of_others_are_named_where_a_network_is_wanted() {
    let config = config(Ffn::Mlp, 0);
    let refused = |shapes: Shapes, config: &VitConfig, words: &[&str]| {
        let mut dict = StateDict::new("some.pth");
        for (name, shape) in shapes {
            dict.insert(name, Stored::from(Tensor::zeros(DType::U8, &shape)));
        }
        let loaded = same_size(&dict, &config.clone().into())
            .and_then(|()| convert_backbone(dict, &config.clone().into()));
        let error = loaded.expect_err("another backbone").to_string();
        for word in words {
            assert!(error.contains(word), "{error:?} lacks {word:?}");
        }
    };
    let resnet = shapes(
        2,
        &[("layer1.{}.conv3.weight", &[256, 64, 1, 1])],
        &[("conv1.weight", &[64, 3, 7, 7])],
    );
    refused(resnet, &config, &["some.pth", "ResNet of [2, 0, 0, 0] blocks", "another family"]);
    // A published network of the right sizes and of another family.
    let large = VitConfig { depth: 24, ..config_of_width(1024) };
    let clip = shapes(
        24,
        &[
            ("visual.transformer.resblocks.{}.attn.in_proj_weight", &[3072, 1024]),
            ("visual.transformer.resblocks.{}.ln_1.weight", &[1024]),
        ],
        &[("visual.class_embedding", &[1024]), ("visual.conv1.weight", &[1024, 3, 14, 14])],
    );
    refused(clip, &large, &["CLIP ViT-L/14", "another family", "model.backbone to clip-l"]);
    let small = shapes(
        12,
        &[("blocks.{}.norm1.weight", &[384]), ("blocks.{}.ls1.gamma", &[384])],
        &[("patch_embed.proj.weight", &[384, 3, 14, 14]), ("patch_embed.proj.bias", &[384])],
    );
    let words = ["DINOv2 ViT-S/14", "12 blocks of 384", "3 blocks of 12", "model.backbone"];
    refused(small, &config, &words);
}
