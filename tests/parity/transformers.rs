//! Vision transformers of all families, from the names of their files (`backbones/`, `dinov3/`).

use dressage_engine::{DType, Tensor, ops};
use dressage_models::adapter::{Adapter, Rein};
use dressage_models::backbone::{
    Backbone, ClassToken, Ffn, QkvBias, RotaryEmbedding, Vit, VitConfig, WindowConfig,
    published::named,
};
use dressage_models::weights::StateDict;
use dressage_tests::Outcome;
use dressage_tests::compare::Table;
use dressage_tests::fixture::{Fixture, Settings};

use crate::backbones::rein_config;
use crate::case::{Case, PARAM, WEIGHT, converted};

fn case<'a>(
    fixture: &'a Fixture,
    table: &'a mut Table,
    config: VitConfig,
    prefix: &'static str,
) -> Outcome<Case<'a, Vit>> {
    let whole = config.clone().into();
    Case::new(fixture, table, whole, prefix, |scope| Vit::new(scope, config))
}

/// Settings of a family for a small network. Widths and grids are those of the weights.
fn config(fixture: &Fixture, family: &str, prefix: &str, names: Names) -> Outcome<VitConfig> {
    let shape = |name: &str| fixture.shape(&format!("{prefix}{name}"));
    let patch = shape(names.patch)?;
    let base = named(family)?.vit()?.clone();
    let (embed_dim, patch) = (patch[0], patch[2]);
    let grid = match names.positions.map(shape).transpose()? {
        Some([1, g, _, _]) => *g,
        Some([1, n, _] | [n, _]) => (n - 1).isqrt(),
        _ => base.grid,
    };
    let depth = names.depth(fixture, prefix);
    Ok(VitConfig {
        embed_dim,
        depth,
        patch,
        grid,
        hidden: shape(names.hidden)?[0],
        taps: if depth == 4 { [0, 1, 2, 3] } else { [depth - 1; 4] },
        ..base
    })
}

/// Names in the files of a family that show sizes.
struct Names {
    patch: &'static str,
    positions: Option<&'static str>,
    /// First layer of the first MLP.
    hidden: &'static str,
}

impl Names {
    /// Number of blocks, from the names like that of the first MLP.
    fn depth(&self, fixture: &Fixture, prefix: &str) -> usize {
        let name =
            |i: usize| format!("{prefix}{}", self.hidden.replacen(".0.", &format!(".{i}."), 1));
        (0..).find(|&i| !fixture.has(&name(i))).unwrap_or_default()
    }
}

/// Compares CLIP of Hugging Face: the class token as in the original.
pub fn clip_hf(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let names = Names {
        patch: "vision_model.embeddings.patch_embedding.weight",
        positions: Some("vision_model.embeddings.position_embedding.weight"),
        hidden: "vision_model.encoder.layers.0.mlp.fc1.weight",
    };
    let config = VitConfig {
        heads: fixture.json.size("num_attention_heads")?,
        class_token: ClassToken::Once,
        ..config(fixture, "clip-l", WEIGHT, names)?
    };
    let eps = config.eps;
    let mut case = case(fixture, table, config, WEIGHT)?;
    let input = fixture.floats("input")?.leaf();
    let x = blocks(&mut case, &input, ["embeddings", "pre_layrnorm"])?;
    let (b, c) = (x.dim(0), x.dim(2));
    let class = ops::reshape(&ops::narrow(&x, 1, 0, 1)?, &[b, c])?;
    let weight = case.leaf("vision_model.post_layernorm.weight")?;
    let bias = case.leaf("vision_model.post_layernorm.bias")?;
    case.add("pooler_cls_post_layernorm", &ops::layer_norm(&class, &weight, &bias, eps)?)?;
    case.finish(&[("grad.input", input)], |_| true)
}

/// Compares the reference's CLIP: the class token twice, maps of all blocks.
pub fn clip_reference(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let names = Names {
        patch: "conv1.weight",
        positions: Some("positional_embedding"),
        hidden: "transformer.resblocks.0.mlp.c_fc.weight",
    };
    let config =
        VitConfig { heads: fixture.json.size("h")?, ..config(fixture, "clip-l", WEIGHT, names)? };
    let mut case = case(fixture, table, config, WEIGHT)?;
    let input = fixture.floats("input")?.leaf();
    let (x, gh, gw) = case.net.embed(&input)?;
    case.add("tokens_before_ln_pre", &x)?;
    let mut x = case.net.pre_norm(x)?;
    case.add("tokens_after_ln_pre", &x)?;
    for i in 0..case.net.config().depth {
        x = case.net.pass(&x, gh, gw)?.block(i, &x, None)?;
        let map = case.net.pass(&x, gh, gw)?.map(&x)?;
        case.add_map(&format!("feature_map.{i}"), &map)?;
    }
    case.finish(&[("grad.input", input)], |_| true)
}

/// Compares MAE of Hugging Face, to the final norm.
pub fn mae(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let names = Names {
        patch: "vit.embeddings.patch_embeddings.projection.weight",
        positions: Some("vit.embeddings.position_embeddings"),
        hidden: "vit.encoder.layer.0.intermediate.dense.weight",
    };
    let config = VitConfig {
        heads: fixture.json.size("num_attention_heads")?,
        ..config(fixture, "mae-l", WEIGHT, names)?
    };
    let mut case = case(fixture, table, config, WEIGHT)?;
    let input = fixture.floats("input")?.leaf();
    let x = blocks(&mut case, &input, ["embeddings", ""])?;
    let y = case.net.final_norm(&x)?;
    case.add("final_layernorm", &y)?;
    case.finish(&[("grad.input", input)], |_| true)
}

/// Compares SAM of Hugging Face, to the neck, which is not part of the network.
pub fn sam(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let json = &fixture.json;
    let names = Names {
        patch: "vision_encoder.patch_embed.projection.weight",
        positions: Some("vision_encoder.pos_embed"),
        hidden: "vision_encoder.layers.0.mlp.lin1.weight",
    };
    let list = json.sizes("global_attn_indexes")?;
    let first = *list.first().ok_or("no global block")?;
    let rows = fixture.shape(&format!("weight.vision_encoder.layers.{first}.attn.rel_pos_h"))?[0];
    let config = VitConfig {
        heads: json.size("num_attention_heads")?,
        windows: Some(WindowConfig {
            side: json.size("window_size")?,
            global: std::array::from_fn(|i| *list.get(i).unwrap_or(&first)),
            global_rows: rows,
        }),
        ..config(fixture, "sam-h", WEIGHT, names)?
    };
    let eps = config.eps;
    let mut case = case(fixture, table, config, WEIGHT)?;
    let input = fixture.floats("input")?.leaf();
    let (mut x, gh, gw) = case.net.embed(&input)?;
    let map = |x: &Tensor| ops::reshape(x, &[x.dim(0), gh, gw, x.dim(2)]);
    let patches = case.net.patches(&input)?.0;
    case.add("patch_embed", &map(&patches)?)?;
    for i in 0..case.net.config().depth {
        x = case.net.pass(&x, gh, gw)?.block(i, &x, None)?;
        case.add(&format!("block.{i}"), &map(&x)?)?;
    }
    let mut y = map(&x)?;
    for i in [1, 2] {
        let weight = case.leaf(&format!("vision_encoder.neck.conv{i}.weight"))?;
        y = ops::conv2d(&y, &weight, None, 1, i - 1)?;
        let [weight, bias] = ["weight", "bias"]
            .map(|name| case.leaf(&format!("vision_encoder.neck.layer_norm{i}.{name}")));
        y = ops::layer_norm(&y, &weight?, &bias?, eps)?;
    }
    case.add_map("neck", &y)?;
    case.finish(&[("grad.input", input)], |_| true)
}

/// Settings of EVA-02, whose files have either names.
fn eva_config(fixture: &Fixture) -> Outcome<VitConfig> {
    let json = &fixture.json;
    let hidden = match fixture.has("weight.blocks.0.mlp.w1.weight") {
        true => "blocks.0.mlp.w1.weight",
        false => "blocks.0.mlp.fc1_g.weight",
    };
    let (patch, positions) = ("patch_embed.proj.weight", Some("pos_embed"));
    Ok(VitConfig {
        heads: json.size("h")?,
        rotary: Some(RotaryEmbedding::Neighbours { side: json.size("pt")? }),
        ..config(fixture, "eva02-l", WEIGHT, Names { patch, positions, hidden })?
    })
}

/// Compares EVA-02 block by block.
pub fn eva02(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let mut case = case(fixture, table, eva_config(fixture)?, WEIGHT)?;
    let input = fixture.floats("input")?.leaf();
    if fixture.has("output.patch_embed") {
        let patches = case.net.patches(&input)?.0;
        case.add("patch_embed", &patches)?;
    }
    blocks(&mut case, &input, ["", ""])?;
    case.finish(&[("grad.input", input)], |_| true)
}

/// Compares EVA-02 with Rein end to end.
pub fn rein_eva02(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let config = eva_config(fixture)?;
    let rein_config = rein_config(fixture, config.depth)?;
    let mut case = case(fixture, table, config, WEIGHT)?;
    let rein = Rein::new(&case.scope.sub("reins"), rein_config)?;
    let step = rein.step(None)?;
    let input = fixture.floats("input")?.leaf();
    for (i, level) in case.net.forward(&input, Some(&step))?.iter().enumerate() {
        case.add_map(&format!("pyramid.{i}"), &level.resized()?)?;
    }
    if let Some(queries) = step.queries() {
        case.add("queries", queries)?;
    }
    case.finish(&[("grad.input", input)], |_| true)
}

/// Compares DINOv3 at several image sizes, in its authors' names.
pub fn dinov3(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let json = &fixture.json;
    let gated = fixture.has("param.blocks.0.mlp.w1.weight");
    let hidden = if gated { "blocks.0.mlp.w1.weight" } else { "blocks.0.mlp.fc1.weight" };
    let names = Names { patch: "patch_embed.proj.weight", positions: None, hidden };
    let config = VitConfig {
        heads: json.size("config/heads")?,
        registers: fixture.shape("param.storage_tokens")?[1],
        ffn: if gated { Ffn::Swiglu } else { Ffn::Mlp },
        qkv_bias: match fixture.has("param.blocks.0.attn.qkv.bias") {
            true => QkvBias::MaskedKey,
            false => QkvBias::Absent,
        },
        eps: json.number("layer_norm_eps")?,
        ..config(fixture, "dinov3-l", PARAM, names)?
    };
    hugging_face(fixture, table, &config)?;
    let mut case = case(fixture, table, config, PARAM)?;
    let mut inputs = Vec::new();
    for image in fixture.names("input.image.") {
        let input = fixture.floats(&format!("input.image.{image}"))?.leaf();
        let (mut x, gh, gw) = case.net.embed(&input)?;
        for i in 0..case.net.config().depth {
            x = case.net.pass(&x, gh, gw)?.block(i, &x, None)?;
            let name = format!("{image}.block.{i}");
            case.pair(&format!("output.{name}"), &format!("input.out_weight.{name}"), &x)?;
        }
        let name = format!("{image}.norm");
        let y = case.net.final_norm(&x)?;
        case.pair(&format!("output.{name}"), &format!("input.out_weight.{name}"), &y)?;
        inputs.push((format!("grad.input.image.{image}"), input));
    }
    let inputs: Vec<(&str, Tensor)> =
        inputs.iter().map(|(name, input)| (name.as_str(), input.clone())).collect();
    case.finish(&inputs, |name| !name.contains("rope"))
}

/// Compares the weights under Hugging Face's names, converted, with the authors'.
fn hugging_face(fixture: &Fixture, table: &mut Table, config: &VitConfig) -> Outcome<()> {
    let path = fixture.path.with_extension("hf.safetensors");
    let config = config.clone().into();
    let theirs = converted(StateDict::open(&path)?, &config)?;
    let ours = converted(fixture.weights(PARAM, "", &[]), &config)?;
    let names = |dict: &StateDict| dict.names().cloned().collect::<Vec<_>>();
    table.equal("names under Hugging Face's names", &names(&theirs), &names(&ours));
    for (name, ours) in ours.iter() {
        let float = |t: &dressage_models::weights::Stored| t.to_float(DType::F32);
        let Some(theirs) = theirs.get(name) else { continue };
        let (Some(a), Some(b)) = (float(theirs)?, float(ours)?) else { continue };
        table.close_to(name, &a, &b)?;
    }
    Ok(())
}

/// Compares the tokens before the blocks, as the first name, those behind the norm before them, as
/// the second, and those after each block, which it returns. An empty name is not recorded.
fn blocks(
    case: &mut Case<'_, Vit>,
    input: &Tensor,
    [embedded, normed]: [&str; 2],
) -> Outcome<Tensor> {
    let (x, gh, gw) = case.net.embed(input)?;
    if !embedded.is_empty() {
        case.add(embedded, &x)?;
    }
    let mut x = case.net.pre_norm(x)?;
    if !normed.is_empty() {
        case.add(normed, &x)?;
    }
    for i in 0..case.net.config().depth {
        x = case.net.pass(&x, gh, gw)?.block(i, &x, None)?;
        case.add(&format!("block.{i}"), &x)?;
    }
    Ok(x)
}
