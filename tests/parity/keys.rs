//! Names, shapes and counts of the parameters of full-size networks.

use std::collections::BTreeMap;

use dressage_engine::{DType, DryRun};
use dressage_models::adapter::{Rein, ReinConfig};
use dressage_models::backbone::published::named;
use dressage_models::backbone::{Ffn, PUBLISHED, Vit, VitConfig};
use dressage_models::objective::mask2former::head::{Head, HeadConfig, Queries};
use dressage_models::params::Scope;
use dressage_tests::Outcome;
use dressage_tests::compare::Table;
use dressage_tests::fixture::{Fixture, Settings};
use serde_json::Value;

use crate::settings::MASK_TOKEN;

type Shapes = BTreeMap<String, Vec<usize>>;

/// Shapes of all parameters of a network, found without allocating them.
fn shapes_of(build: impl FnOnce(&Scope) -> Outcome<()>) -> Outcome<Shapes> {
    DryRun::new().run(|| {
        let scope = Scope::new(DType::F32, 0);
        build(&scope)?;
        Ok(scope.shapes()?.into_iter().map(|(name, param)| (name, param.shape)).collect())
    })
}

fn count(shapes: &Shapes) -> usize {
    shapes.values().map(|s| s.iter().product::<usize>()).sum()
}

/// The recorded keys of one network.
fn recorded(network: &Value) -> Outcome<Shapes> {
    let keys = network["keys"].as_array().ok_or("no list of keys")?;
    keys.iter().map(|k| Ok((k.word("key").to_string(), k.sizes("shape")?))).collect()
}

/// Recorded shapes by name; the constructors of settings read sizes from them.
struct Sizes<'a>(&'a Shapes);

impl Sizes<'_> {
    /// Size of axis `axis` of the parameter `name`.
    fn of(&self, name: &str, axis: usize) -> Outcome<usize> {
        let size = self.0.get(name).and_then(|s| s.get(axis)).copied();
        Ok(size.ok_or_else(|| format!("recorded keys without {name}"))?)
    }

    /// Number of layers named `prefix{i}.`.
    fn layers(&self, prefix: &str) -> usize {
        let any = |i: &usize| self.0.keys().any(|k| k.starts_with(&format!("{prefix}{i}.")));
        (0..).take_while(any).count()
    }
}

fn vit_config(keys: &Shapes, prefix: &str) -> Outcome<VitConfig> {
    let keys = Sizes(keys);
    let name = |n: &str| format!("{prefix}{n}");
    let c = keys.of(&name("cls_token"), 2)?;
    let depth = keys.layers(&name("blocks."));
    let positions = keys.of(&name("pos_embed"), 1)? - 1;
    Ok(VitConfig {
        embed_dim: c,
        depth,
        heads: 1,
        patch: keys.of(&name("patch_embed.proj.weight"), 2)?,
        grid: (positions as f64).sqrt().round() as usize,
        ffn: Ffn::Mlp,
        hidden: keys.of(&name("blocks.0.mlp.fc1.weight"), 0)?,
        registers: 0,
        taps: [depth - 1; 4],
        ..PUBLISHED[0].vit()?.clone()
    })
}

fn rein_config(keys: &Shapes, prefix: &str) -> Outcome<ReinConfig> {
    let low_rank = keys.contains_key(&format!("{prefix}learnable_tokens_a"));
    let keys = Sizes(keys);
    let name = |n: &str| format!("{prefix}{n}");
    let tokens = name(if low_rank { "learnable_tokens_a" } else { "learnable_tokens" });
    Ok(ReinConfig {
        tokens: keys.of(&tokens, 1)?,
        rank: if low_rank { keys.of(&tokens, 2)? } else { 0 },
        query_dim: keys.of(&name("transform.weight"), 0)?,
        ..ReinConfig::published(keys.of(&tokens, 0)?, keys.of(&name("mlp_delta_f.weight"), 0)?)
    })
}

fn head_config(keys: &Shapes, prefix: &str) -> Outcome<HeadConfig> {
    let name = |n: &str| format!("{prefix}{n}");
    let own = keys.contains_key(&name("query_embed.weight"));
    let keys = Sizes(keys);
    let (encoder, decoder) =
        (name("pixel_decoder.encoder.layers."), name("transformer_decoder.layers."));
    let weights = format!("{encoder}0.self_attn.attention_weights.weight");
    Ok(HeadConfig {
        in_channels: [keys.of(&name("pixel_decoder.input_convs.0.conv.weight"), 1)?; 4],
        dim: keys.of(&name("cls_embed.weight"), 1)?,
        mask_width: keys.of(&name("mask_embed.4.weight"), 0)?,
        classes: keys.of(&name("cls_embed.weight"), 0)? - 1,
        queries: if own { keys.of(&name("query_embed.weight"), 0)? } else { 1 },
        // Shapes show only the product of heads, levels (3) and points.
        heads: 1,
        points: keys.of(&weights, 0)? / 3,
        groups: 1,
        encoder_layers: keys.layers(&encoder),
        encoder_ffn: keys.of(&format!("{encoder}0.ffn.layers.0.0.weight"), 0)?,
        decoder_layers: keys.layers(&decoder),
        decoder_ffn: keys.of(&format!("{decoder}0.ffn.layers.0.0.weight"), 0)?,
        source: if own { Queries::Own } else { Queries::Linked },
    })
}

/// Compares names and shapes; `unused` are recorded keys that our networks do not have.
fn same(table: &mut Table, what: &str, ours: &Shapes, mut theirs: Shapes, unused: &[&str]) {
    for name in unused {
        if theirs.remove(*name).is_none() {
            table.fail(format!("{what}: {name} is not among the recorded keys"));
        }
    }
    let ours: Vec<_> = ours.iter().collect();
    let theirs: Vec<_> = theirs.iter().collect();
    table.equal(what, &ours, &theirs);
}

/// Compares `keys.json`: the state dicts of full-size networks.
pub fn keys(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    for (what, network) in fixture.json.as_object().into_iter().flatten() {
        let theirs = recorded(network)?;
        let (ours, unused): (Shapes, &[&str]) = match what.as_str() {
            "ReinMask2FormerHead" | "mmseg_Mask2FormerHead" => {
                let config = head_config(&theirs, "")?;
                (shapes_of(|s| Ok(Head::new(s, config).map(|_| ())?))?, &[])
            }
            "LoRAReins" | "Reins" => {
                let config = rein_config(&theirs, "")?;
                (shapes_of(|s| Ok(Rein::new(s, config).map(|_| ())?))?, &[])
            }
            "DinoVisionTransformer-L" => {
                let config = vit_config(&theirs, "")?;
                (shapes_of(|s| Ok(Vit::new(s, config).map(|_| ())?))?, &[MASK_TOKEN])
            }
            "rein_and_head_checkpoint" => {
                let rein = rein_config(&theirs, "backbone.reins.")?;
                let head = head_config(&theirs, "decode_head.")?;
                let ours = shapes_of(|s| {
                    Rein::new(&s.sub("backbone").sub("reins"), rein)?;
                    Ok(Head::new(&s.sub("decode_head"), head).map(|_| ())?)
                })?;
                (ours, &[])
            }
            // Backbones of other authors.
            _ => continue,
        };
        let elements: usize = count(&ours)
            + unused.iter().map(|n| theirs[*n].iter().product::<usize>()).sum::<usize>();
        table.equal(&format!("{what}: parameters"), &[elements], &[network.size("parameters")?]);
        same(table, what, &ours, theirs, unused);
    }
    published(fixture, table)
}

/// Checks that our published settings lead to the recorded shapes.
fn published(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let json = &fixture.json;
    for (network, source) in
        [("ReinMask2FormerHead", Queries::Linked), ("mmseg_Mask2FormerHead", Queries::Own)]
    {
        let theirs = recorded(&json[network])?;
        let read = head_config(&theirs, "")?;
        let config = HeadConfig::published(read.in_channels, read.classes, source);
        let ours = shapes_of(|s| Ok(Head::new(s, config).map(|_| ())?))?;
        same(table, &format!("{network} as published"), &ours, theirs, &[]);
    }
    let theirs = recorded(&json["LoRAReins"])?;
    let read = rein_config(&theirs, "")?;
    let config = ReinConfig::of_stages(read.stages);
    let ours = shapes_of(|s| Ok(Rein::new(s, config).map(|_| ())?))?;
    same(table, "LoRAReins as published", &ours, theirs, &[]);
    let theirs = recorded(&json["DinoVisionTransformer-L"])?;
    let read = vit_config(&theirs, "")?;
    let config = named("dinov2-l")?.vit()?.at(read.patch, read.grid);
    let ours = shapes_of(|s| Ok(Vit::new(s, config).map(|_| ())?))?;
    same(table, "DinoVisionTransformer-L as published", &ours, theirs, &[MASK_TOKEN]);
    Ok(())
}

/// Compares `param_counts.json`: counts of the adapter in all its forms, and of whole networks.
pub fn counts(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    for (network, entries) in fixture.json["rein"].as_object().into_iter().flatten() {
        // "ViT-L (c=1024, N=24)"
        let value = |key: &str| -> Outcome<usize> { after(network, key) };
        let (c, n) = (value("c=")?, value("N=")?);
        for (entry, recorded) in entries.as_object().into_iter().flatten() {
            let Some(recorded) = recorded.as_u64() else { continue };
            let config = ReinConfig {
                rank: after(entry, "r=").unwrap_or(0),
                link: !entry.contains("without_link") && !entry.contains("no link"),
                share: !entry.contains("unshared"),
                ..ReinConfig::published(n, c)
            };
            // The formula for unshared layers counts one scale per layer; ours share one scale.
            let scales = if config.share { 0 } else { n - 1 };
            let ours = count(&shapes_of(|s| Ok(Rein::new(s, config).map(|_| ())?))?) + scales;
            table.equal(&format!("{network}, {entry}"), &[ours as u64], &[recorded]);
        }
    }
    let large = fixture.json["rein"].as_object().into_iter().flatten();
    let large = large.map(|(name, _)| name).find(|name| name.starts_with("ViT-L"));
    let channels = after(large.ok_or("no count for ViT-L")?, "c=")?;
    for (config, recorded) in fixture.json["configured_models"].as_object().into_iter().flatten() {
        let source = match recorded["head_rest"]["querys2feat.weight"].is_number() {
            true => Queries::Linked,
            false => Queries::Own,
        };
        // All of these are large models, and heads differ only with the width of the backbone.
        let classes = recorded.size("head_rest/cls_embed.bias")? - 1;
        let head = HeadConfig::published([channels; 4], classes, source);
        let ours = shapes_of(|s| Ok(Head::new(s, head).map(|_| ())?))?;
        table.equal(&format!("{config}: head"), &[count(&ours)], &[recorded.size("head_total")?]);
    }
    Ok(())
}

/// The number after `key` in a text.
fn after(text: &str, key: &str) -> Outcome<usize> {
    let rest = text.split_once(key).ok_or_else(|| format!("no {key} in {text}"))?.1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}
