//! Conversion of the reference's settings to ours.

use dressage_engine::RecomputePolicy;
use dressage_models::adapter::{AdapterConfig, ReinConfig};
use dressage_models::backbone::{Ffn, PUBLISHED, Stage, VitConfig};
use dressage_models::objective::ObjectiveConfig;
use dressage_models::objective::mask2former::criterion::CriterionConfig;
use dressage_models::objective::mask2former::head::{HeadConfig, Queries};
use dressage_models::{Method, Precision, SegmenterConfig};
use dressage_tests::Outcome;
use dressage_tests::fixture::Settings;
use serde_json::Value;

/// A parameter that the reference keeps, though only masked pre-training uses it.
pub const MASK_TOKEN: &str = "mask_token";

/// Parameters of the link, which the reference keeps even without a link.
pub const LINK: [&str; 4] = ["transform.weight", "transform.bias", "merge.weight", "merge.bias"];

/// Settings of `DinoVisionTransformer` and its subclass with Rein.
pub fn vit(config: &Value) -> Outcome<VitConfig> {
    let taps = config.sizes("out_indices")?;
    let (embed_dim, patch) = (config.size("embed_dim")?, config.size("patch_size")?);
    let ffn = ffn(config.word("ffn_layer"));
    Ok(VitConfig {
        embed_dim,
        depth: config.size("depth")?,
        heads: config.size("num_heads")?,
        patch,
        grid: config.size("img_size")? / patch,
        ffn,
        hidden: ffn.hidden(embed_dim, config.number("mlp_ratio")?),
        registers: config.size("num_register_tokens").unwrap_or(0),
        taps: taps.try_into().map_err(|t| format!("{t:?}: four taps are needed"))?,
        ..PUBLISHED[0].vit()?.clone()
    })
}

/// Type of the MLP from its name in the reference.
pub fn ffn(word: &str) -> Ffn {
    if word.starts_with("swiglu") { Ffn::Swiglu } else { Ffn::Mlp }
}

/// Settings of `Reins` and `LoRAReins`.
pub fn rein(config: &Value) -> Outcome<ReinConfig> {
    Ok(ReinConfig {
        stages: vec![Stage {
            blocks: config.size("num_layers")?,
            width: config.size("embed_dims")?,
        }],
        tokens: config.size("token_length")?,
        rank: match config.word("type") {
            "LoRAReins" => config.size("lora_dim")?,
            _ => 0,
        },
        query_dim: config.size("query_dims")?,
        patch: config.size("patch_size")?,
        link: config.switch("link_token_to_query", true),
        softmax: config.switch("use_softmax", true),
        zero_mlp_delta_f: config.switch("zero_mlp_delta_f", false),
        share: true,
        scale: 1e-3,
    })
}

/// Settings of `MSDeformAttnPixelDecoder`. `in_channels` and widths may be in the head's settings
/// `outer`.
pub fn pixel_decoder(config: &Value, outer: &Value) -> Outcome<HeadConfig> {
    let channels = outer.sizes("in_channels")?;
    let layer = "encoder/layer_cfg";
    Ok(HeadConfig {
        in_channels: channels.try_into().map_err(|c| format!("{c:?}: four levels are needed"))?,
        dim: outer.size("feat_channels")?,
        mask_width: outer.size("out_channels")?,
        classes: 1,
        queries: 1,
        heads: config.size(&format!("{layer}/self_attn_cfg/num_heads"))?,
        points: config.size(&format!("{layer}/self_attn_cfg/num_points"))?,
        groups: config.size("norm_cfg/num_groups")?,
        encoder_layers: config.size("encoder/num_layers")?,
        encoder_ffn: config.size(&format!("{layer}/ffn_cfg/feedforward_channels"))?,
        decoder_layers: 0,
        decoder_ffn: 1,
        source: Queries::Own,
    })
}

/// Settings of `ReinMask2FormerHead`.
pub fn head(config: &Value) -> Outcome<HeadConfig> {
    let decoder = &config["transformer_decoder"];
    let pixel = pixel_decoder(&config["pixel_decoder"], config)?;
    for attn in ["self_attn_cfg", "cross_attn_cfg"] {
        if decoder.size(&format!("layer_cfg/{attn}/num_heads"))? != pixel.heads {
            return Err("the decoders have different numbers of heads".into());
        }
    }
    Ok(HeadConfig {
        classes: config.size("num_classes")?,
        queries: config.size("num_queries")?,
        decoder_layers: decoder.size("num_layers")?,
        decoder_ffn: decoder.size("layer_cfg/ffn_cfg/feedforward_channels")?,
        source: match config.switch("replace_query_feat", false) {
            true => Queries::Linked,
            false => Queries::LinkedPosition,
        },
        ..pixel
    })
}

/// Loss settings of `ReinMask2FormerHead`.
pub fn criterion(config: &Value) -> Outcome<CriterionConfig> {
    let classes = config.size("num_classes")?;
    let train = &config["train_cfg"];
    let weights =
        ["loss_cls", "loss_mask", "loss_dice"].map(|l| config.number(&format!("{l}/loss_weight")));
    let [cls, mask, dice] = weights;
    let weights = [cls?, mask?, dice?];
    for (i, weight) in weights.iter().enumerate() {
        if train.number(&format!("assigner/match_costs/{i}/weight"))? != *weight {
            return Err("costs and losses have different weights".into());
        }
    }
    for i in 0..classes {
        if config.number(&format!("loss_cls/class_weight/{i}"))? != 1.0 {
            return Err("classes have weights of their own".into());
        }
    }
    Ok(CriterionConfig {
        classes,
        points: train.size("num_points")?,
        oversample: train.number("oversample_ratio")?,
        importance: train.number("importance_sample_ratio")?,
        no_object: config.number(&format!("loss_cls/class_weight/{classes}"))?,
        weights,
    })
}

/// Loss settings of a case: from the reference's settings, or from single numbers with the
/// published weights of the terms.
pub fn losses(json: &Value) -> Outcome<CriterionConfig> {
    if json["config"].is_object() {
        return criterion(&json["config"]);
    }
    let classes = json.size("num_classes")?;
    Ok(CriterionConfig {
        points: json.size("points")?,
        oversample: json.number("oversample_ratio")?,
        importance: json.number("importance_sample_ratio")?,
        no_object: json.number(&format!("class_weight/{classes}"))?,
        ..CriterionConfig::published(classes)
    })
}

/// Settings of `EncoderDecoder` with Rein.
pub fn segmenter(config: &Value) -> Outcome<SegmenterConfig> {
    let backbone = &config["backbone"];
    Ok(SegmenterConfig {
        backbone: vit(backbone)?.into(),
        adapter: Some(AdapterConfig::Rein(rein(&backbone["reins_config"])?)),
        objective: ObjectiveConfig::Mask2Former {
            head: head(&config["decode_head"])?,
            loss: criterion(&config["decode_head"])?,
        },
        method: Method::Rein,
        precision: Precision::F32,
        recompute: RecomputePolicy::None,
        merge: false,
    })
}
