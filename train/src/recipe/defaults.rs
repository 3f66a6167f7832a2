//! The published settings, from which every recipe starts (spec training-and-data §1.1, backbones
//! §1.1). Defaults that do not depend on other keys are in the catalogue.

use dressage_models::backbone::published::{FFN_RATIO, NAMES};
use dressage_models::backbone::{BackboneConfig, Ffn, PUBLISHED, Published, VitConfig};
use toml::{Table, Value};

use super::follow::at;
use super::keys::KEYS;
use super::resolve::place;
use crate::palette::CITYSCAPES;

/// Names that `model.backbone` takes.
pub(super) const BACKBONES: &[&str] = &{
    let mut names = [CUSTOM; NAMES.len() + 1];
    let mut i = 0;
    while i < NAMES.len() {
        names[i] = NAMES[i];
        i += 1;
    }
    names
};

/// Value of `model.backbone` for sizes that are not published.
const CUSTOM: &str = "custom";

/// The published backbone of a recipe. One with its own sizes starts from those of the smallest.
pub(crate) fn base(backbone: &str) -> &'static Published {
    PUBLISHED.iter().find(|published| published.name == backbone).unwrap_or(&PUBLISHED[0])
}

/// Names of the id tables that `id_map` takes (spec training-and-data §4, §5).
pub(super) const ID_MAPS: &[&str] =
    &["train_ids", "cityscapes", "gtav", "mapillary", "synthia", "urbansyn"];

/// Names of the looks of drawn scenes.
pub(super) const DOMAINS: &[&str] = &["day", "night", "fog", "rain", "snow", "palette"];

/// Stride of two thirds of a window, rounded: 341 of 512 and 683 of 1024.
pub(super) fn stride(crop: usize) -> usize {
    (crop.saturating_mul(2).saturating_add(1) / 3).max(1)
}

/// Defaults of all keys, for a recipe in which `given` is set; no data, no weights.
///
/// # Errors
/// A default of the catalogue that is not TOML.
pub(super) fn published(given: &Value) -> Result<Value, String> {
    let mut all = Value::Table(Table::new());
    for key in KEYS.iter().filter(|key| !key.path.contains("[]")) {
        if let Some(value) = key.default_value() {
            place(&mut all, key.path, value)?;
        }
    }
    for (path, value) in following(given, &all)? {
        place(&mut all, path, value)?;
    }
    Ok(all)
}

/// Keys whose defaults follow others, with the values for a recipe in which `given` is set.
fn following(given: &Value, fixed: &Value) -> Result<Vec<(&'static str, Value)>, String> {
    let text = |path| text_at(given, path).or(text_at(fixed, path));
    let count = |path| count_at(given, path).or(count_at(fixed, path)).unwrap_or_default();
    let published = &base(text("model.backbone").unwrap_or_default()).config;
    let (config, stages) = vit_like(published, at(given, "model.stages"));
    let hidden = match (count_at(given, "model.embed_dim"), at(given, "model.ffn_form")) {
        (None, None) => config.hidden,
        (width, form) => {
            // A form of another name is refused where its key is checked.
            let form = form.cloned().and_then(|form| form.try_into::<Ffn>().ok());
            form.unwrap_or(config.ffn).hidden(width.unwrap_or(config.embed_dim), FFN_RATIO)
        }
    };
    let crop = count("augment.crop");
    let window = count_at(given, "eval.crop").unwrap_or(crop);
    let decay = at(given, "train.weight_decay").or(at(fixed, "train.weight_decay"));
    let number = |value: &Value| value.as_float().or(value.as_integer().map(|n| n as f64));
    let rate = at(given, "train.ema.rate").and_then(Value::as_float);
    let averages = rate.is_some_and(|rate| rate > 0.0);
    let whole = |n: usize| i64::try_from(n).map_or(Value::Integer(i64::MAX), Value::Integer);
    let depth = count_at(given, "model.depth").unwrap_or(config.depth);
    let soma = text("model.method") == Some("soma");
    let classes = CITYSCAPES.iter().map(|class| Value::from(class.name)).collect();
    Ok(vec![
        ("model.embed_dim", whole(config.embed_dim)),
        ("model.depth", whole(config.depth)),
        ("model.stages", Value::Array(stages.into_iter().map(whole).collect())),
        ("model.heads", whole(config.heads)),
        ("model.ffn", whole(hidden)),
        ("model.ffn_form", Value::try_from(config.ffn).map_err(|error| error.to_string())?),
        ("model.registers", whole(config.registers)),
        ("model.tap_norm", Value::Boolean(config.tap_norm)),
        ("model.image", whole(crop)),
        ("model.taps", Value::Array(config.taps.map(whole).to_vec())),
        ("soma.first_block", whole(depth / 3)),
        ("recycle-lora.first_block", whole(depth / 3)),
        ("train.adapter_lr_mult", Value::Float(if soma { 0.5 } else { 1.0 })),
        ("lora.alpha", Value::Float(count("lora.rank") as f64)),
        ("rein.link", Value::Boolean(text("head.kind") == Some("mask2former"))),
        ("rein.tokens", whole(count("head.queries"))),
        ("head.classes", Value::Array(classes)),
        ("head.mask_width", whole(count("head.width"))),
        ("data.train", Value::Array(vec![])),
        ("data.eval", Value::Array(vec![])),
        ("augment.max_long_edge", whole(crop.saturating_mul(4))),
        ("eval.crop", whole(window)),
        ("eval.stride", whole(stride(window))),
        ("eval.averaged", Value::Boolean(averages)),
        // A value of another kind is refused where its key is checked.
        ("train.weight_decay_end", Value::Float(decay.and_then(number).unwrap_or_default())),
    ])
}

/// Defaults of an entry of the list `list`, where `all` are those of the other keys and `given` is
/// set.
pub(super) fn entry(list: &str, given: &Value, all: &Value) -> Table {
    let mut table = Table::new();
    for key in KEYS {
        let name = key.path.strip_prefix(list).and_then(|rest| rest.strip_prefix("[]."));
        let Some(name) = name else { continue };
        // The windows of a set are those of all sets.
        let common = || at(given, &format!("eval.{name}")).or(at(all, &format!("eval.{name}")));
        if let Some(value) = key.default_value().or_else(|| common().cloned()) {
            table.insert(name.to_owned(), value);
        }
    }
    table
}

fn text_at<'a>(value: &'a Value, path: &str) -> Option<&'a str> {
    at(value, path)?.as_str()
}

/// Values for the keys of transformers, and the blocks of each stage where there are several. A
/// network of stages has the blocks of all of them, tapped at their ends.
fn vit_like(published: &BackboneConfig, given: Option<&Value>) -> (VitConfig, Vec<usize>) {
    if let BackboneConfig::Vit(config) = published {
        return (config.clone(), Vec::new());
    }
    let published = published.stages();
    let width = published.first().map_or(0, |stage| stage.width);
    let given = given.and_then(Value::as_array);
    let given = given.and_then(|list| list.iter().map(|n| sane(n.as_integer()?)).collect());
    let stages: Vec<usize> =
        given.unwrap_or_else(|| published.iter().map(|stage| stage.blocks).collect());
    let mut taps = [0; 4];
    let mut depth: usize = 0;
    for (tap, blocks) in taps.iter_mut().zip(&stages) {
        depth = depth.saturating_add(*blocks);
        *tap = depth.saturating_sub(1);
    }
    let like = VitConfig::dinov2(width, depth, 1, Ffn::Mlp);
    (VitConfig { taps, tap_norm: true, ..like }, stages)
}

fn count_at(value: &Value, path: &str) -> Option<usize> {
    at(value, path)?.as_integer().and_then(sane)
}

/// A size from a recipe, limited. Values derived from an absurd size must not overflow before the
/// check refuses the size.
pub(super) fn sane(size: i64) -> Option<usize> {
    usize::try_from(size.min(u32::MAX.into())).ok()
}
