//! Conversion between the reference's layouts and ours, and gradients of several outputs at once.

use std::collections::BTreeMap;

use dressage_engine::{Gradients, Param, Tensor, backward_from, ops};
use dressage_tests::Outcome;
use dressage_tests::compare::Table;
use dressage_tests::fixture::Fixture;

/// Copies `[a, m, n, inner]` to `[a, n, m, inner]`, outside the graph.
fn swapped(x: &Tensor, [a, m, n, inner]: [usize; 4], shape: &[usize]) -> Outcome<Tensor> {
    let from = x.data::<f32>()?;
    let mut y = Tensor::empty::<f32>(shape);
    let to = y.data_mut::<f32>()?;
    for i in 0..a {
        for j in 0..m {
            for k in 0..n {
                let (s, d) = (((i * m + j) * n + k) * inner, ((i * n + k) * m + j) * inner);
                to[d..d + inner].copy_from_slice(&from[s..s + inner]);
            }
        }
    }
    Ok(y)
}

/// Copies a map `[b, c, h, w]` to `[b, h, w, c]`.
pub fn channels_last(x: &Tensor) -> Outcome<Tensor> {
    let &[b, c, h, w] = x.shape() else { return Err(format!("{x:?} is no map").into()) };
    swapped(x, [b, c, h * w, 1], &[b, h, w, c])
}

/// Copies a map `[b, h, w, c]` to `[b, c, h, w]`.
pub fn channels_first(x: &Tensor) -> Outcome<Tensor> {
    let &[b, h, w, c] = x.shape() else { return Err(format!("{x:?} is no map").into()) };
    swapped(x, [b, h * w, c, 1], &[b, c, h, w])
}

/// Copies `[m, n, c]` to `[n, m, c]`.
pub fn batch_first(x: &Tensor) -> Outcome<Tensor> {
    let &[m, n, c] = x.shape() else { return Err(format!("{x:?} is no sequence").into()) };
    swapped(x, [1, m, n, c], &[n, m, c])
}

/// Gradients of the sum of `output * weight` over all pairs.
pub fn gradients(outputs: &[(Tensor, Tensor)]) -> Outcome<Gradients> {
    let flat = |t: &Tensor| ops::reshape(t, &[t.len()]);
    let ys = outputs.iter().map(|(y, _)| flat(y)).collect::<Result<Vec<_>, _>>()?;
    let ws = outputs.iter().map(|(_, w)| flat(w)).collect::<Result<Vec<_>, _>>()?;
    let y = ops::concat(&ys.iter().collect::<Vec<_>>(), 0)?;
    let w = ops::concat(&ws.iter().collect::<Vec<_>>(), 0)?;
    Ok(backward_from(y, w)?)
}

/// Compares the gradient of every parameter with `grad.{prefix}{name}`. A parameter without a
/// recorded gradient must not get one.
pub fn parameter_gradients(
    fixture: &Fixture,
    table: &mut Table,
    params: &BTreeMap<String, Param>,
    grads: &mut Gradients,
    prefix: &str,
) -> Outcome<()> {
    let names: Vec<&str> = params.keys().map(String::as_str).collect();
    parameter_gradients_of(fixture, table, &names, prefix, |name| {
        params.get(name).and_then(|param| grads.take(&param.get()))
    })
}

/// [`parameter_gradients`] with the gradients given by parameter name.
pub fn parameter_gradients_of(
    fixture: &Fixture,
    table: &mut Table,
    names: &[&str],
    prefix: &str,
    mut gradient: impl FnMut(&str) -> Option<Tensor>,
) -> Outcome<()> {
    let mut left: Vec<String> = fixture.names("grad.");
    left.retain(|n| !n.starts_with("input.") && n != "input");
    for name in names {
        let got = gradient(name);
        let name = format!("{prefix}{name}");
        let key = format!("grad.{name}");
        left.retain(|n| *n != name);
        match (fixture.has(&key), &got) {
            (true, got) => table.gradient(fixture, &key, got.as_ref())?,
            (false, Some(_)) => table.fail(format!("{name}: a gradient the reference has not")),
            (false, None) => {}
        }
    }
    for name in left {
        table.fail(format!("grad.{name}: we have no such parameter"));
    }
    Ok(())
}
