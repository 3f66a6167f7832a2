//! Backbones with and without Rein, end to end.

use dressage_engine::{DType, Tensor};
use dressage_models::adapter::{Adapter, Rein};
use dressage_models::backbone::{Backbone, Vit};
use dressage_models::params::{Precision, Scope};
use dressage_tests::Outcome;
use dressage_tests::compare::Table;
use dressage_tests::fixture::Fixture;

use crate::layout::{channels_first, channels_last, gradients, parameter_gradients};
use crate::settings::{self, LINK, MASK_TOKEN};

/// Prefixes of parameters that the case must contain: all.
const STRICT: &[&str] = &[""];

/// Compares `DinoVisionTransformer`: pyramid, gradients of the image and of all parameters.
pub fn plain(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let weights = fixture.weights("param.", "", &[MASK_TOKEN]);
    let scope = Scope::with_weights(DType::F32, Precision::F32, 0, weights, STRICT);
    let vit = Vit::new(&scope, settings::vit(&fixture.json["config"])?)?;
    let params = scope.finish("the backbone", &[])?;
    let image = fixture.floats("input.image")?.leaf();
    let mut outputs = Vec::new();
    for (i, level) in vit.forward(&image, None)?.iter().enumerate() {
        outputs.push(weighted(fixture, table, i, level.resized()?)?);
    }
    let mut grads = gradients(&outputs)?;
    table.gradient(fixture, "grad.input.image", grads.take(&image).as_ref())?;
    parameter_gradients(fixture, table, &params, &mut grads, "")
}

/// Compares `ReinsDinoVisionTransformer` in training: gradients of the adapter, none of the
/// backbone.
pub fn with_rein(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let config = &fixture.json["config"];
    let rein_config = settings::rein(&config["reins_config"])?;
    let unused: Vec<String> = match rein_config.link {
        true => Vec::new(),
        false => LINK.map(|n| format!("reins.{n}")).to_vec(),
    };
    let mut left_out: Vec<&str> = unused.iter().map(String::as_str).collect();
    left_out.push(MASK_TOKEN);
    let weights = fixture.weights("param.", "", &left_out);
    let scope = Scope::with_weights(DType::F32, Precision::F32, 0, weights, STRICT);
    let vit = Vit::new(&scope.trainable(false), settings::vit(config)?)?;
    let rein = Rein::new(&scope.sub("reins"), rein_config)?;
    let params = scope.finish("the backbone with Rein", &[])?;
    trainable_as_recorded(fixture, table, &unused, &params);
    let step = rein.step(None)?;
    let mut outputs = Vec::new();
    let image = fixture.floats("input.image")?;
    for (i, level) in vit.forward(&image, Some(&step))?.iter().enumerate() {
        outputs.push(weighted(fixture, table, i, level.resized()?)?);
    }
    match step.queries() {
        Some(queries) => {
            table.close(fixture, "output.queries", queries)?;
            outputs.push((queries.clone(), fixture.floats("input.query_weight")?));
        }
        None if fixture.has("output.queries") => table.fail("output.queries: we made none"),
        None => {}
    }
    let mut grads = gradients(&outputs)?;
    parameter_gradients(fixture, table, &params, &mut grads, "")
}

/// Compares a level and pairs it with its loss weight.
fn weighted(
    fixture: &Fixture,
    table: &mut Table,
    i: usize,
    map: Tensor,
) -> Outcome<(Tensor, Tensor)> {
    table.close(fixture, &format!("output.{i}"), &channels_first(&map)?)?;
    let weight = channels_last(&fixture.floats(&format!("input.out_weight.{i}"))?)?;
    Ok((map, weight))
}

/// Checks that the trained parameters are those of the reference, less those it keeps unused.
fn trainable_as_recorded(
    fixture: &Fixture,
    table: &mut Table,
    unused: &[String],
    params: &std::collections::BTreeMap<String, dressage_engine::Param>,
) {
    let list = fixture.json["trainable"].as_array().cloned().unwrap_or_default();
    let mut want: Vec<String> = list.iter().filter_map(|n| n.as_str()).map(String::from).collect();
    want.retain(|n| !unused.contains(n));
    want.sort();
    let got: Vec<String> =
        params.values().filter(|p| p.trainable()).map(|p| p.name().to_string()).collect();
    table.equal("trainable", &got, &want);
}
