//! Checks of values that have the right type but make no sense.

use std::collections::BTreeSet;
use std::path::Path;

use dressage_models::backbone::{BackboneConfig, ClassToken, Ffn, Stem};
use dressage_models::weights::shown;
use toml::Value;

use super::defaults::base;
use super::follow::at;
use super::keys::{KEYS, Key};
use super::{EvalMode, HeadKind, Recipe, RecipeError, Set, SourceKind};
use crate::groups::Method;
use crate::palette::CITYSCAPES;
use crate::place::DeviceChoice;

/// Fails with the first key whose value is not valid.
pub(super) fn check(recipe: &Recipe, values: &Value) -> Result<(), RecipeError> {
    let checks = [model, adapter, head, loss, augment, train, eval];
    let relations = || checks.iter().find_map(|check| check(recipe, values).err());
    let wrong = sizes(recipe, values).err().or_else(relations);
    let wrong = wrong.or_else(|| run(recipe).err());
    match wrong.or_else(|| data(recipe).err()) {
        None => Ok(()),
        Some((key, what)) => Err(RecipeError::Value { recipe: shown(&recipe.name), key, what }),
    }
}

type Wrong = Result<(), (String, String)>;

fn ensure(key: &str, holds: bool, what: impl FnOnce() -> String) -> Wrong {
    if holds { Ok(()) } else { Err((key.to_owned(), what())) }
}

fn at_least_one(pairs: &[(&str, usize)]) -> Wrong {
    pairs
        .iter()
        .try_for_each(|(key, n)| ensure(key, *n > 0, || "is 0, it must be 1 or more".into()))
}

fn at_most(most: usize, pairs: &[(&str, usize)]) -> Wrong {
    pairs.iter().try_for_each(|(key, n)| {
        ensure(key, *n <= most, || format!("is {n}, it must be at most {most}"))
    })
}

fn divides(key: &str, n: usize, what: &str, d: usize) -> Wrong {
    ensure(key, n.is_multiple_of(d), || format!("is {n}, it must be a multiple of {what} ({d})"))
}

/// Checks the largest values. A value that follows others is checked after them.
fn sizes(recipe: &Recipe, values: &Value) -> Wrong {
    let derived = |key: &&Key| recipe.derived.iter().any(|path| path == key.path);
    let (last, first): (Vec<&Key>, Vec<&Key>) = KEYS.iter().partition(derived);
    first.into_iter().chain(last).try_for_each(|key| {
        let wrong = at(values, key.path).and_then(|value| key.range.above(value));
        wrong.map_or(Ok(()), |what| Err((key.path.to_owned(), what)))
    })
}

/// Checks the ranges of the keys of a section that are not in a list of tables.
fn ranges(section: &str, values: &Value) -> Wrong {
    let own = KEYS.iter().filter(|key| key.path.split('.').next() == Some(section));
    own.into_iter().try_for_each(|key| {
        let wrong = at(values, key.path).and_then(|value| key.range.misses(value));
        wrong.map_or(Ok(()), |what| Err((key.path.to_owned(), what)))
    })
}

fn run(recipe: &Recipe) -> Wrong {
    let device = &recipe.run.device;
    match device.parse::<DeviceChoice>() {
        Ok(_) => Ok(()),
        Err(expected) => {
            ensure("run.device", false, || format!("is `{}`, it must be {expected}", shown(device)))
        }
    }
}

fn model(recipe: &Recipe, values: &Value) -> Wrong {
    let m = &recipe.model;
    ensure("model.weights", m.weights != Path::new(""), || {
        "is not set: name the backbone's checkpoint, or `random` to train without one".to_owned()
    })?;
    ranges("model", values)?;
    let of_resnets = [
        ("model.stem", m.stem == Stem::Deep),
        ("model.dilated", !m.dilated),
        ("model.frozen_statistics", !m.frozen_statistics),
    ];
    let no_resnet = || {
        of_resnets.iter().try_for_each(|(key, unset)| {
            ensure(key, *unset, || format!("is set for a ResNet, and {} is none", m.backbone))
        })
    };
    ensure("model.drop_path", m.drop_path == 0.0 || m.method == Method::Full, || {
        format!("is {}, but only method full trains the blocks; set it to 0", m.drop_path)
    })?;
    let base = &base(&m.backbone).config;
    let doubles = base.vit().is_some_and(|vit| vit.class_token == ClassToken::Twice);
    ensure("model.double_class_token", doubles || m.double_class_token, || {
        format!("is set for CLIP, and {} is none; leave it out", m.backbone)
    })?;
    match base {
        BackboneConfig::Vit(_) => no_resnet()?,
        BackboneConfig::ConvNext(_) => {
            no_resnet()?;
            return staged(recipe);
        }
        BackboneConfig::ResNet(_) => {
            divides("model.embed_dim", m.embed_dim, "the widths of a ResNet's layers", 8)?;
            return staged(recipe);
        }
    }
    ensure("model.stages", m.stages.is_empty(), || {
        format!("is set, but {} is a transformer, which has model.depth blocks", m.backbone)
    })?;
    divides("model.embed_dim", m.embed_dim, "model.heads", m.heads)?;
    // `model.image` follows the crop unless it is set, so the error names the crop.
    divides("augment.crop", recipe.augment.crop, "model.patch", m.patch)?;
    // The coarsest map of the head has half the patches per axis.
    ensure("augment.crop", recipe.augment.crop >= 2 * m.patch, || {
        format!("is {}, it must be at least two patches ({})", recipe.augment.crop, 2 * m.patch)
    })?;
    divides("model.image", m.image, "model.patch", m.patch)?;
    let rising = m.taps.windows(2).all(|w| w[0] < w[1]);
    let inside = m.taps.iter().all(|&t| t < m.depth);
    ensure("model.taps", m.taps.len() == 4 && rising && inside, || {
        let taps = shown(&format!("{:?}", m.taps));
        format!("is {taps}, it must be four rising blocks below {}", m.depth)
    })
}

/// Checks the model of a backbone of stages, for which the keys of transformers say nothing.
fn staged(recipe: &Recipe) -> Wrong {
    let m = &recipe.model;
    let some = m.stages.iter().all(|&blocks| (1..=1024).contains(&blocks));
    ensure("model.stages", m.stages.len() == 4 && some, || {
        format!("is {}, it must be four numbers from 1 to 1024", shown(&format!("{:?}", m.stages)))
    })?;
    let blocks: usize = m.stages.iter().sum();
    let ends = m.stages.iter().scan(0, |end, &blocks| {
        *end += blocks;
        Some(*end - 1)
    });
    let untouched = [
        ("model.depth", m.depth == blocks),
        ("model.heads", m.heads == 1),
        ("model.ffn", m.ffn == 4 * m.embed_dim),
        ("model.ffn_form", m.ffn_form == Ffn::Mlp),
        ("model.registers", m.registers == 0),
        ("model.patch", m.patch == 16),
        ("model.tap_norm", m.tap_norm),
        ("model.drop_path", m.drop_path == 0.0),
        ("model.taps", ends.eq(m.taps.iter().copied())),
    ];
    untouched.iter().try_for_each(|(key, holds)| {
        ensure(key, *holds, || {
            format!("is set for a transformer, and {} is none; leave it out", m.backbone)
        })
    })?;
    let transformers = [Method::Lora, Method::Adaptformer, Method::Vpt];
    ensure("model.method", !transformers.contains(&m.method), || {
        format!("is {}, an adapter of transformers, and {} is none; set rein", m.method, m.backbone)
    })?;
    divides("augment.crop", recipe.augment.crop, "the coarsest stride", 32)
}

fn adapter(recipe: &Recipe, values: &Value) -> Wrong {
    let (r, queries) = (&recipe.rein, recipe.head.queries);
    match recipe.model.method {
        Method::Rein => ranges("rein", values)?,
        Method::Freeze | Method::Full | Method::Bitfit | Method::Norms => return Ok(()),
        Method::Lora => return ranges("lora", values),
        Method::Adaptformer => return ranges("adaptformer", values),
        Method::Vpt => return ranges("vpt", values),
        Method::Soma => return ranges("soma", values),
        Method::RecycleLora => return ranges("recycle-lora", values),
    }
    let linked = recipe.head.kind == HeadKind::Mask2former;
    ensure("rein.link", !r.link || linked, || {
        "is true, but only a head of kind mask2former has queries".to_owned()
    })?;
    ensure("rein.tokens", !r.link || r.tokens == queries, || {
        format!("is {}, it must equal head.queries ({queries}) because rein.link is on", r.tokens)
    })
}

fn head(recipe: &Recipe, values: &Value) -> Wrong {
    let h = &recipe.head;
    ranges("head", values)?;
    divides("head.width", h.width, "head.heads", h.heads)?;
    divides("head.width", h.width, "head.norm_groups", h.norm_groups)?;
    // The sine position code has a sine and a cosine for each of two axes.
    divides("head.width", h.width, "the parts of a position code", 4)?;
    let k = h.classes.len();
    ensure("head.classes", (1..=255).contains(&k), || {
        format!("has {k} names, it must have 1 to 255")
    })
}

fn loss(_: &Recipe, values: &Value) -> Wrong {
    ranges("loss", values)
}

fn augment(recipe: &Recipe, values: &Value) -> Wrong {
    let a = &recipe.augment;
    ranges("augment", values)?;
    let edges = a.short_edges();
    let usable = a.ratios.iter().all(|r| r.is_finite()) && edges.iter().all(|&e| e > 0);
    ensure("augment.ratios", usable, || {
        format!("gives the shortest edges {}", shown(&format!("{edges:?}")))
    })?;
    ensure("augment.cat_max_ratio", a.cat_max_ratio > 0.0, || {
        format!("is {}, it must be above 0", a.cat_max_ratio)
    })
}

fn train(recipe: &Recipe, values: &Value) -> Wrong {
    let t = &recipe.train;
    ranges("train", values)?;
    ensure("train.warm_up_steps", t.warm_up_steps <= t.steps, || {
        format!("is {}, it must not exceed train.steps ({})", t.warm_up_steps, t.steps)
    })?;
    let schedules = recipe.schedule().and(recipe.decay_schedule());
    schedules.map(|_| ()).map_err(|error| ("train".to_owned(), error.to_string()))
}

fn eval(recipe: &Recipe, values: &Value) -> Wrong {
    ranges("eval", values)?;
    ensure("eval.averaged", !recipe.eval.averaged || recipe.train.ema.rate > 0.0, || {
        "is true, but train.ema.rate is 0, so that no weights are averaged".to_owned()
    })?;
    let mut windows = vec![("eval".to_owned(), recipe.eval.crop, recipe.eval.stride)];
    for (i, set) in recipe.data.eval.iter().enumerate() {
        windows.push((format!("data.eval.{i}"), set.crop, set.stride));
        let [w, h] = set.test_box;
        ensure(&format!("data.eval.{i}.box"), (w == 0) == (h == 0), || {
            format!("is [{w}, {h}], it must have two sides, or be [0, 0] to keep the size")
        })?;
        at_most(1 << 14, &[(&format!("data.eval.{i}.box"), w.max(h))])?;
        at_most(1 << 20, &[(&format!("data.eval.{i}.crop"), set.crop)])?;
    }
    for (key, crop, stride) in windows {
        at_least_one(&[(&format!("{key}.crop"), crop), (&format!("{key}.stride"), stride)])?;
        if recipe.eval.mode == EvalMode::Slide {
            let (what, side) = match recipe.model.stages.is_empty() {
                true => ("model.patch", recipe.model.patch),
                false => ("the coarsest stride", 32),
            };
            divides(&format!("{key}.crop"), crop, what, side)?;
            ensure(&format!("{key}.stride"), stride <= crop, || {
                format!("is {stride}, windows of {crop} would leave gaps")
            })?;
        }
    }
    Ok(())
}

fn data(recipe: &Recipe) -> Wrong {
    let data = &recipe.data;
    ensure("data.train", !data.train.is_empty(), || "names no training set".to_owned())?;
    groups("data.groups", &data.groups, recipe.classes())?;
    for (i, set) in data.train.iter().enumerate() {
        check_set(&format!("data.train.{i}"), set, recipe.classes())?;
    }
    let mut names = BTreeSet::new();
    for (i, eval) in data.eval.iter().enumerate() {
        let key = format!("data.eval.{i}");
        check_set(&key, &eval.set, recipe.classes())?;
        ensure(&format!("{key}.name"), names.insert(&eval.set.name), || {
            format!("is `{}`, another evaluation set has this name", shown(&eval.set.name))
        })?;
    }
    Ok(())
}

fn check_set(key: &str, set: &Set, classes: usize) -> Wrong {
    let unset = || "is not set".to_owned();
    ensure(&format!("{key}.name"), !set.name.is_empty(), unset)?;
    match set.source {
        SourceKind::Files => {
            ensure(&format!("{key}.images"), set.images != Path::new(""), unset)?;
            ensure(&format!("{key}.labels"), set.labels != Path::new(""), unset)?;
            ensure(&format!("{key}.image_suffix"), !set.image_suffix.is_empty(), unset)?;
            ensure(&format!("{key}.label_suffix"), !set.label_suffix.is_empty(), unset)?;
        }
        SourceKind::Scenes => {
            at_least_one(&[
                (&format!("{key}.count"), set.count),
                (&format!("{key}.size"), set.size[0]),
                (&format!("{key}.size"), set.size[1]),
            ])?;
            let side = set.size[0].max(set.size[1]);
            at_most(1 << 14, &[(&format!("{key}.size"), side)])?;
            at_most(1 << 24, &[(&format!("{key}.count"), set.count)])?;
            let drawn = CITYSCAPES.len();
            ensure(&format!("{key}.source"), !set.groups.is_empty() || classes == drawn, || {
                format!(
                    "is scenes, which have the {drawn} Cityscapes classes; for other classes say \
                     in data.groups which of them belong together"
                )
            })?;
        }
    }
    groups(&format!("{key}.groups"), &set.groups, classes)
}

fn groups(key: &str, groups: &[Vec<usize>], classes: usize) -> Wrong {
    if groups.is_empty() {
        return Ok(());
    }
    let n = groups.len();
    ensure(key, n == classes, || format!("has {n} groups, head.classes has {classes} names"))?;
    let mut seen = [false; 255];
    for &id in groups.iter().flatten() {
        ensure(key, id < 255, || format!("holds the id {id}, ids go from 0 to 254"))?;
        ensure(key, !seen[id], || format!("holds the id {id} twice"))?;
        seen[id] = true;
    }
    Ok(())
}
