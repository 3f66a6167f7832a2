//! The pixel decoder alone, and the whole head.

use dressage_engine::{DType, Gradients, Tensor, ops};
use dressage_models::backbone::Level;
use dressage_models::objective::mask2former::head::{Head, PixelDecoder};
use dressage_models::params::{Precision, Scope};
use dressage_tests::Outcome;
use dressage_tests::compare::Table;
use dressage_tests::fixture::Fixture;

use crate::layout::{channels_first, channels_last, gradients, parameter_gradients};
use crate::settings;

/// The recorded pyramid as channels-last leaves.
fn pyramid(fixture: &Fixture) -> Outcome<Vec<Tensor>> {
    let n = fixture.names("input.feat.").len();
    (0..n)
        .map(|i| Ok(channels_last(&fixture.floats(&format!("input.feat.{i}"))?)?.leaf()))
        .collect()
}

fn pyramid_gradients(
    fixture: &Fixture,
    table: &mut Table,
    maps: &[Tensor],
    grads: &mut Gradients,
) -> Outcome<()> {
    for (i, map) in maps.iter().enumerate() {
        let got = grads.take(map).map(|g| channels_first(&g)).transpose()?;
        table.gradient(fixture, &format!("grad.input.feat.{i}"), got.as_ref())?;
    }
    Ok(())
}

/// Compares `MSDeformAttnPixelDecoder`: maps and all gradients.
pub fn pixel_decoder(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let config = &fixture.json["config"];
    let config = settings::pixel_decoder(config, config)?;
    let scope = Scope::with_weights(
        DType::F32,
        Precision::F32,
        0,
        fixture.weights("param.", "", &[]),
        &[""],
    );
    let decoder = PixelDecoder::new(&scope, &config);
    let params = scope.finish("the pixel decoder", &[])?;
    let maps = pyramid(fixture)?;
    let levels: Vec<Level> = maps.iter().cloned().map(Level::plain).collect();
    let result = decoder.forward(&levels)?;
    let mut named = vec![("mask_feature".to_string(), result.mask_feature)];
    named.extend(result.memory.into_iter().enumerate().map(|(i, m)| (format!("memory.{i}"), m)));
    let mut outputs = Vec::new();
    for (name, map) in named {
        table.close(fixture, &format!("output.{name}"), &channels_first(&map)?)?;
        let weight = fixture.floats(&format!("input.out_weight.{name}"))?;
        outputs.push((map, channels_last(&weight)?));
    }
    let mut grads = gradients(&outputs)?;
    pyramid_gradients(fixture, table, &maps, &mut grads)?;
    parameter_gradients(fixture, table, &params, &mut grads, "")
}

/// Compares `ReinMask2FormerHead`: all predictions, attention masks and gradients.
pub fn head(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let config = settings::head(&fixture.json["config"])?;
    let scope = Scope::with_weights(
        DType::F32,
        Precision::F32,
        0,
        fixture.weights("param.", "", &[]),
        &[""],
    );
    let head = Head::new(&scope, config)?;
    let params = scope.finish("the head", &[])?;
    let (maps, queries) = (pyramid(fixture)?, fixture.floats("input.queries")?.leaf());
    let levels: Vec<Level> = maps.iter().cloned().map(Level::plain).collect();
    let result = head.forward(&levels, Some(&queries), false)?;
    let wanted = fixture.names("output.cls_pred.").len();
    if result.predictions.len() != wanted {
        table.fail(format!("{} predictions, recorded {wanted}", result.predictions.len()));
    }
    let mut outputs = Vec::new();
    for (i, p) in result.predictions.iter().enumerate() {
        table.close(fixture, &format!("output.cls_pred.{i}"), &p.cls)?;
        table.close(fixture, &format!("output.mask_pred.{i}"), &p.mask)?;
        outputs.push((p.cls.clone(), fixture.floats(&format!("input.out_weight.cls.{i}"))?));
        outputs.push((p.mask.clone(), fixture.floats(&format!("input.out_weight.mask.{i}"))?));
        // The mask of the last prediction is recorded, although no layer uses it.
        let level = &maps[maps.len() - 1 - i % (maps.len() - 1)];
        let last = ops::attention_mask(&p.mask.detach(), [level.dim(1), level.dim(2)])?.0;
        mask(fixture, table, "attn_mask_raw", i, p.attn_mask_raw.as_ref().unwrap_or(&last))?;
        if let Some(used) = &p.attn_mask_used {
            mask(fixture, table, "attn_mask_used", i, used)?;
        }
    }
    let mut grads = gradients(&outputs)?;
    pyramid_gradients(fixture, table, &maps, &mut grads)?;
    table.gradient(fixture, "grad.input.queries", grads.take(&queries).as_ref())?;
    parameter_gradients(fixture, table, &params, &mut grads, "")
}

/// Checks that an attention mask equals the recorded one in every bit.
fn mask(fixture: &Fixture, table: &mut Table, kind: &str, i: usize, got: &Tensor) -> Outcome<()> {
    let name = format!("output.{kind}.{i}");
    let got: Vec<i64> = got.data::<u8>()?.iter().map(|&v| i64::from(v)).collect();
    table.equal(&name, &got, &fixture.integers(&name)?);
    Ok(())
}
