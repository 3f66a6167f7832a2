//! LoRA, AdaptFormer and VPT-deep on small backbones (`peft/`).

use dressage_engine::{DType, Tensor, ops};
use dressage_models::adapter::{
    AdaptFormerConfig, Adapter, AdapterConfig, LoraConfig, LoraTargets, VptConfig, is_adapter,
};
use dressage_models::backbone::published::named;
use dressage_models::backbone::{BackboneConfig, RotaryEmbedding, Vit, VitConfig};
use dressage_models::params::{Precision, Scope};
use dressage_models::weights::{StateDict, convert_backbone};
use dressage_tests::Outcome;
use dressage_tests::compare::Table;
use dressage_tests::fixture::{Fixture, Settings};

use crate::layout::gradients;

/// Prefix that the peft library puts before every name.
const PEFT: &str = "base_model.model.";

/// Name of an adapter's parameter in the network. Separate projections are parts of a packed one.
fn ours(name: &str) -> String {
    let name = name.strip_prefix(PEFT).unwrap_or(name);
    ["q", "k", "v"].iter().fold(name.to_string(), |name, part| {
        name.replace(&format!("attn.{part}_proj.lora"), &format!("attn.qkv.{part}.lora"))
    })
}

fn backbone(fixture: &Fixture) -> Outcome<VitConfig> {
    let config = &fixture.json["config"];
    let (patch, depth) = (config.size("patch_size")?, config.size("depth")?);
    let eva = config.size("swiglu_hidden").is_ok();
    let base = named(if eva { "eva02-l" } else { "dinov2-l" })?.vit()?.clone();
    Ok(VitConfig {
        embed_dim: config.size("embed_dim")?,
        depth,
        heads: config.size("num_heads")?,
        patch,
        grid: config.size("img_size")? / patch,
        hidden: config.size(if eva { "swiglu_hidden" } else { "mlp_hidden" })?,
        rotary: match eva {
            true => Some(RotaryEmbedding::Neighbours { side: config.size("pt_hw_seq_len")? }),
            false => None,
        },
        taps: [depth - 1; 4],
        ..base
    })
}

fn config(fixture: &Fixture, vit: &VitConfig) -> Outcome<AdapterConfig> {
    let (json, layers, embed_dim) = (&fixture.json, vit.depth, vit.embed_dim);
    let method = json.word("method");
    Ok(if method.starts_with("LoRA") {
        let targets = match json["targets"].as_array().map(Vec::len) {
            Some(1) => LoraTargets::Fused,
            Some(2) => LoraTargets::Qv,
            _ => LoraTargets::Qkv,
        };
        let (rank, alpha) = (json.size("rank")?, json.number("alpha")?);
        AdapterConfig::Lora(LoraConfig { layers, embed_dim, rank, alpha, dropout: 0.0, targets })
    } else if method.starts_with("AdaptFormer") {
        let (bottleneck, scale) = (json.size("bottleneck")?, json.number("scale")?);
        AdapterConfig::AdaptFormer(AdaptFormerConfig {
            layers,
            embed_dim,
            bottleneck,
            scale,
            dropout: 0.0,
        })
    } else {
        let prompts = json.size("prompts_per_block")?;
        AdapterConfig::Vpt(VptConfig { layers, embed_dim, prompts, patch: vit.patch })
    })
}

/// The network of a fixture: its scope, the frozen backbone, the adapter and its names there.
struct Network {
    scope: Scope,
    vit: Vit,
    adapter: Box<dyn Adapter>,
    names: Vec<String>,
}

fn network(fixture: &Fixture, vit: &VitConfig, adapter: &AdapterConfig) -> Outcome<Network> {
    let is_own = |name: &str| is_adapter(&format!("backbone.{name}"));
    let mut weights = fixture.weights("param.", "", &[]);
    let own = weights.part(is_own);
    let names: Vec<String> = own.names().cloned().collect();
    let whole: BackboneConfig = vit.clone().into();
    let mut dict: StateDict = convert_backbone(weights, &whole)?.renamed("backbone.", "");
    dict.add(own.into_iter().map(|(name, tensor)| (ours(&name), tensor)));
    let scope = Scope::with_weights(DType::F32, Precision::F32, 0, dict, &[""]);
    let vit = Vit::new(&scope.trainable(false), vit.clone())?;
    let adapter = adapter.build(&scope)?;
    Ok(Network { scope, vit, adapter, names })
}

/// Compares the tokens after each block, the gradients of the adapter and of the image, and merged
/// weights.
pub fn adapter(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let vit_config = backbone(fixture)?;
    let adapter = config(fixture, &vit_config)?;
    merged(fixture, table, network(fixture, &vit_config, &adapter)?)?;
    let Network { scope, vit, adapter, names } = network(fixture, &vit_config, &adapter)?;
    let step = adapter.step(None)?;
    let input = fixture.floats("input.image")?.leaf();
    let (mut x, rows, columns) = vit.embed(&input)?;
    let pass = vit.pass(&x, rows, columns)?;
    let mut pairs: Vec<(Tensor, Tensor)> = Vec::new();
    for i in 0..vit.config().depth {
        x = pass.block(i, &x, Some(&step))?;
        table.close(fixture, &format!("output.block.{i}"), &x)?;
        pairs.push((x.clone(), fixture.floats(&format!("input.out_weight.block.{i}"))?));
    }
    let mut grads = gradients(&pairs)?;
    table.gradient(fixture, "grad.input.image", grads.take(&input).as_ref())?;
    let params = scope.finish("the network", &[])?;
    for name in names {
        let param = params.get(&ours(&name)).ok_or_else(|| format!("no parameter {name}"))?;
        table.gradient(fixture, &format!("grad.{name}"), grads.take(&param.get()).as_ref())?;
    }
    Ok(())
}

/// Compares every recorded weight with the network's after the adapter was merged. Separate
/// projections are parts of a packed one.
fn merged(fixture: &Fixture, table: &mut Table, network: Network) -> Outcome<()> {
    const MERGED: &str = "output.merged.";
    let recorded = fixture.names(MERGED);
    if recorded.is_empty() {
        return Ok(());
    }
    network.adapter.merge(&network.scope)?;
    let params = network.scope.finish("the network", &[])?;
    for name in recorded {
        let own = name.strip_prefix(MERGED).unwrap_or(&name);
        let part = ["q", "k", "v"].iter().position(|p| own.contains(&format!("attn.{p}_proj.")));
        let packed = match own.split_once("attn.") {
            Some((block, _)) if part.is_some() => format!("{block}attn.qkv.weight"),
            _ => own.to_string(),
        };
        let weight = params.get(&packed).ok_or_else(|| format!("no parameter {packed}"))?.get();
        let weight = match part {
            None => weight,
            Some(part) => ops::rows(&weight, part * weight.dim(0) / 3, weight.dim(0) / 3)?,
        };
        table.close(fixture, &format!("{MERGED}{own}"), &weight)?;
    }
    Ok(())
}
