//! The adapter alone, with each layer tested independently.

use dressage_engine::DType;
use dressage_models::adapter::{Adapter, Rein};
use dressage_models::params::{Precision, Scope};
use dressage_tests::Outcome;
use dressage_tests::compare::Table;
use dressage_tests::fixture::Fixture;

use crate::layout::{batch_first, gradients, parameter_gradients};
use crate::settings::{self, LINK};

/// Compares `Reins` and `LoRAReins`: each layer with a class token, the last one without, the
/// queries, and all gradients.
pub fn layers(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let config = settings::rein(&fixture.json["config"])?;
    let unused: &[&str] = if config.link { &[] } else { &LINK };
    let n = config.stages[0].blocks;
    let scope = Scope::with_weights(
        DType::F32,
        Precision::F32,
        0,
        fixture.weights("param.", "", unused),
        &[""],
    );
    let rein = Rein::new(&scope, config)?;
    let params = scope.finish("Rein", &[])?;
    let step = rein.step(None)?;
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for i in 0..n {
        let x = fixture.floats(&format!("input.feats.{i}"))?.leaf();
        let y = step.leave(i, x.clone(), 1)?;
        table.close(fixture, &format!("output.feats.{i}"), &y)?;
        outputs.push((y, fixture.floats(&format!("input.out_weight.{i}"))?));
        inputs.push((format!("grad.input.feats.{i}"), x));
    }
    let bare = batch_first(&fixture.floats("input.feats_nocls")?)?.leaf();
    let y = step.leave(n - 1, bare.clone(), 0)?;
    table.close(fixture, "output.feats_nocls", &batch_first(&y)?)?;
    outputs.push((y, batch_first(&fixture.floats("input.out_weight.nocls")?)?));
    match step.queries() {
        Some(queries) => {
            table.close(fixture, "output.queries", queries)?;
            outputs.push((queries.clone(), fixture.floats("input.query_weight")?));
        }
        None if fixture.has("output.queries") => table.fail("output.queries: we made none"),
        None => {}
    }
    let mut grads = gradients(&outputs)?;
    for (name, x) in inputs {
        table.gradient(fixture, &name, grads.take(&x).as_ref())?;
    }
    let got = grads.take(&bare).map(|g| batch_first(&g)).transpose()?;
    table.gradient(fixture, "grad.input.feats_nocls", got.as_ref())?;
    parameter_gradients(fixture, table, &params, &mut grads, "")
}
