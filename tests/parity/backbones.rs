//! Cases of `backbones/`, computed in f64. The settings are in the notes of the file. Every output
//! has a random weight.

use dressage_engine::{DType, Tensor};
use dressage_models::adapter::{Adapter, Rein, ReinConfig};
use dressage_models::backbone::{Backbone, PUBLISHED, Stage, Vit, VitConfig};
use dressage_models::params::{Precision, Scope};
use dressage_tests::Outcome;
use dressage_tests::compare::Table;
use dressage_tests::fixture::{Fixture, Settings};

use crate::layout::{channels_first, channels_last, gradients};
use crate::settings::{LINK, MASK_TOKEN, ffn};

/// Outputs with their loss weights; each is compared when it is added.
struct Outputs<'a> {
    fixture: &'a Fixture,
    table: &'a mut Table,
    pairs: Vec<(Tensor, Tensor)>,
}

impl Outputs<'_> {
    fn add(&mut self, name: &str, y: &Tensor) -> Outcome<()> {
        self.table.close(self.fixture, &format!("output.{name}"), y)?;
        self.pairs.push((y.clone(), self.fixture.floats(&format!("probe.{name}"))?));
        Ok(())
    }

    fn add_map(&mut self, name: &str, y: &Tensor) -> Outcome<()> {
        self.table.close(self.fixture, &format!("output.{name}"), &channels_first(y)?)?;
        let probe = channels_last(&self.fixture.floats(&format!("probe.{name}"))?)?;
        self.pairs.push((y.clone(), probe));
        Ok(())
    }

    /// Fails for recorded outputs that were not added. Then compares the gradients of input and
    /// parameters.
    fn finish(self, scope: &Scope, input: &Tensor) -> Outcome<()> {
        let recorded = self.fixture.names("output.").len();
        if self.pairs.len() != recorded {
            self.table.fail(format!("{} outputs, recorded {recorded}", self.pairs.len()));
        }
        let mut grads = gradients(&self.pairs)?;
        let got = grads.take(input);
        self.table.gradient(self.fixture, "grad.input", got.as_ref())?;
        let params = scope.finish("the network", &[])?;
        super::layout::parameter_gradients(self.fixture, self.table, &params, &mut grads, "weight.")
    }
}

fn outputs<'a>(fixture: &'a Fixture, table: &'a mut Table) -> Outputs<'a> {
    Outputs { fixture, table, pairs: Vec::new() }
}

fn scope(fixture: &Fixture, unused: &[&str]) -> Scope {
    Scope::with_weights(
        DType::F32,
        Precision::F32,
        0,
        fixture.weights("weight.", "", unused),
        &[""],
    )
}

fn vit_config(fixture: &Fixture) -> Outcome<VitConfig> {
    let json = &fixture.json;
    let (depth, patch, width) = (json.size("d")?, json.size("p")?, json.size("w")?);
    let registers = json.size("reg").unwrap_or(0);
    if json.switch("aa", registers > 0) != (registers > 0) {
        return Err("only networks with registers resize their positions antialiased".into());
    }
    let ffn = ffn(json.word("ffn"));
    let hidden = match fixture.shape("weight.blocks.0.mlp.fc1.weight") {
        Ok(shape) => shape[0],
        // The official ratio tests the rule that rounds the width of a SwiGLU.
        Err(_) => ffn.hidden(width, 4.0),
    };
    Ok(VitConfig {
        embed_dim: width,
        depth,
        heads: json.size("h")?,
        patch,
        grid: json.size("img")? / patch,
        ffn,
        hidden,
        registers,
        taps: match json.sizes("out") {
            Ok(taps) => taps.try_into().map_err(|t| format!("{t:?}: four taps are needed"))?,
            // The test reads the blocks one by one.
            Err(_) => [depth - 1; 4],
        },
        ..PUBLISHED[0].vit()?.clone()
    })
}

pub fn rein_config(fixture: &Fixture, layers: usize) -> Outcome<ReinConfig> {
    let json = &fixture.json;
    let low_rank = json.word("model").contains("LoRAReins");
    Ok(ReinConfig {
        stages: vec![Stage { blocks: layers, width: json.size("w").or_else(|_| json.size("c"))? }],
        tokens: json.size("m")?,
        rank: if low_rank { json.size("r")? } else { 0 },
        query_dim: json.size("q")?,
        patch: 1,
        link: fixture.has("output.queries"),
        softmax: json.switch("use_softmax", true),
        zero_mlp_delta_f: json.switch("zero_mlp_delta_f", false),
        share: true,
        // The recorded scale replaces it.
        scale: 1.0,
    })
}

/// Compares the official backbone: tokens before the blocks, after each and after the final norm.
pub fn dino(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let scope = scope(fixture, &[MASK_TOKEN]);
    let vit = Vit::new(&scope, vit_config(fixture)?)?;
    let input = fixture.floats("input")?.leaf();
    let mut outputs = outputs(fixture, table);
    let (mut x, gh, gw) = vit.embed(&input)?;
    outputs.add("tokens", &x)?;
    for i in 0..vit.config().depth {
        x = vit.pass(&x, gh, gw)?.block(i, &x, None)?;
        outputs.add(&format!("block.{i}"), &x)?;
    }
    outputs.add("final_norm", &vit.final_norm(&x)?)?;
    outputs.finish(&scope, &input)
}

/// Compares the adapter: its layers, one after the other, on one sequence with a class token.
pub fn rein(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let config = rein_config(fixture, fixture.json.size("L")?)?;
    let (layers, unused): (usize, &[&str]) =
        (config.stages[0].blocks, if config.link { &[] } else { &LINK });
    let scope = scope(fixture, unused);
    let rein = Rein::new(&scope, config)?;
    let step = rein.step(None)?;
    let input = fixture.floats("input")?.leaf();
    let mut outputs = outputs(fixture, table);
    let mut x = input.clone();
    for i in 0..layers {
        x = step.leave(i, x.clone(), 1)?;
        outputs.add(&format!("layer.{i}"), &x)?;
    }
    if let Some(queries) = step.queries() {
        outputs.add("queries", queries)?;
    }
    outputs.finish(&scope, &input)
}

/// Compares backbone and adapter end to end, with everything trainable.
pub fn rein_dino(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let config = vit_config(fixture)?;
    let rein_config = rein_config(fixture, config.depth)?;
    let unused: &[&str] = if rein_config.link { &[] } else { &LINK };
    let mut left_out: Vec<String> = unused.iter().map(|n| format!("reins.{n}")).collect();
    left_out.push(MASK_TOKEN.into());
    let scope = scope(fixture, &left_out.iter().map(String::as_str).collect::<Vec<_>>());
    let vit = Vit::new(&scope, config)?;
    let rein = Rein::new(&scope.sub("reins"), rein_config)?;
    let step = rein.step(None)?;
    let input = fixture.floats("input")?.leaf();
    let mut outputs = outputs(fixture, table);
    for (i, level) in vit.forward(&input, Some(&step))?.iter().enumerate() {
        outputs.add_map(&format!("pyramid.{i}"), &level.resized()?)?;
    }
    if let Some(queries) = step.queries() {
        outputs.add("queries", queries)?;
    }
    outputs.finish(&scope, &input)
}
