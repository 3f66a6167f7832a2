//! Resizing like PyTorch's, in f32 and f64, forward and backward. Cases of loading and of run time
//! are also recomputed by the code that resizes there.

use dressage_engine::{DType, Element, Tensor};
use dressage_kernels::Real;
use dressage_kernels::call::{Call, Host};
use dressage_kernels::ops::resize::{Axis, Backward, Forward, Mode, Resize, Step};
use dressage_models::backbone::{PUBLISHED, PositionTable, Vit, VitConfig};
use dressage_models::params::{Precision, Scope};
use dressage_models::weights::{StateDict, resize_patch_kernel, resize_pos_embed};
use dressage_tests::Outcome;
use dressage_tests::compare::{Bound, Table};
use dressage_tests::fixture::{Fixture, Settings};
use serde_json::Value;

use crate::layout::{channels_first, channels_last};

/// Bound for f32: PyTorch's f32 kernels round their coordinates to f32, which moves values by up to
/// a few millionths. Ours agree with its f64 kernels.
const F32: f64 = 2e-5;
const F64: f64 = 1e-12;

/// Compares every case that the notes list.
pub fn cases(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let cases: Value = serde_json::from_str(fixture.note("cases").unwrap_or("[]"))?;
    for case in cases.as_array().ok_or("no list of cases")? {
        let name = case.word("name");
        let axes = axes(fixture, case).map_err(|e| format!("{name}: {e}"))?;
        forward::<f32>(fixture, table, name, &axes, "output", F32)?;
        if fixture.has(&format!("{name}.output_f64")) {
            forward::<f64>(fixture, table, name, &axes, "output_f64", F64)?;
        }
        if case.switch("grad", false) {
            let probe = fixture.floats(&format!("{name}.probe"))?;
            let want = fixture.floats(&format!("{name}.grad_input"))?;
            let lead = want.shape()[..2].iter().product();
            let got = passes::<f32>(probe.data()?, lead, &axes, true)?;
            let got = Tensor::from_slice(&got, want.shape())?;
            table.within(&format!("{name}: gradient"), &got, &want, |_| Bound::abs(F32))?;
        }
        on_load(fixture, table, case)?;
        at_run_time(fixture, table, case)?;
    }
    Ok(())
}

fn input(fixture: &Fixture, case: &Value) -> Outcome<Tensor> {
    fixture.floats(&format!("{}.input", case.word("name")))
}

/// The axes after the first two, as the case resizes them.
fn axes(fixture: &Fixture, case: &Value) -> Outcome<Vec<Axis>> {
    let shape = input(fixture, case)?.shape()[2..].to_vec();
    let mode = match case.word("mode") {
        "linear" | "bilinear" | "trilinear" => Mode::Bilinear,
        "bicubic" if case.switch("antialias", false) => Mode::BicubicAntialias,
        "bicubic" => Mode::Bicubic,
        other => return Err(format!("mode {other:?} is unknown").into()),
    };
    let given = |key: &str, i: usize| {
        let value = &case[key];
        value.get(i).unwrap_or(value).as_f64()
    };
    let axis = |(i, n): (usize, &usize)| -> Outcome<Axis> {
        let (to, step) = match (given("size", i), given("scale_factor", i)) {
            (Some(to), None) => (to as usize, Step::Size),
            (None, Some(f)) => ((*n as f64 * f).floor() as usize, Step::Factor(f)),
            _ => return Err("neither a size nor a factor".into()),
        };
        Ok(Axis::new(*n, to, mode, step)?)
    };
    shape.iter().enumerate().map(axis).collect()
}

fn forward<T: Element + Real>(
    fixture: &Fixture,
    table: &mut Table,
    name: &str,
    axes: &[Axis],
    output: &str,
    bound: f64,
) -> Outcome<()> {
    let key = format!("{name}.{output}");
    let stored = |key: &str| {
        let tensor = fixture.tensors.get(key).map(|t| t.to_float(T::DTYPE)).transpose()?;
        Ok::<_, Box<dyn std::error::Error>>(tensor.flatten().ok_or(format!("no floats {key}"))?)
    };
    let (input, want) = (stored(&format!("{name}.input"))?, stored(&key)?);
    let lead = input.shape()[..2].iter().product();
    let got = passes::<T>(input.data()?, lead, axes, false)?;
    table.within(&key, &Tensor::from_slice(&got, want.shape())?, &want, |_| Bound::abs(bound))
}

/// Resizes the last axes of `[lead, ..]`. The rule is separable, so the depth of a volume is a
/// separate pass, and a line is a map of one row.
fn passes<T: Real>(x: &[T], lead: usize, axes: &[Axis], back: bool) -> Outcome<Vec<T>> {
    let one = Axis::new(1, 1, Mode::Bilinear, Step::Size)?;
    let run = |x: &[T], n: usize, c: usize, [y, cols]: [&Axis; 2]| -> Outcome<Vec<T>> {
        let s = Resize { n, c, y: y.clone(), x: cols.clone() };
        let mut out = vec![T::ZERO; if back { s.input_len() } else { s.output_len() }];
        if back {
            Backward::<Host, _> { dy: x, dx: &mut out }.run(&s)?
        } else {
            Forward::<Host, _> { x, y: &mut out }.run(&s)?
        }
        Ok(out)
    };
    match axes {
        [x_axis] => run(x, lead, 1, [&one, x_axis]),
        [y_axis, x_axis] => run(x, lead, 1, [y_axis, x_axis]),
        [depth, y_axis, x_axis] if !back => {
            let y = run(x, lead * depth.n_in(), 1, [y_axis, x_axis])?;
            run(&y, lead, y_axis.n_out() * x_axis.n_out(), [depth, &one])
        }
        _ => Err("no pass for this many axes".into()),
    }
}

/// Compares the resizing of patch kernels and position tables while weights are loaded.
fn on_load(fixture: &Fixture, table: &mut Table, case: &Value) -> Outcome<()> {
    let square = case.sizes("size").ok().filter(|s| s.len() == 2 && s[0] == s[1]);
    let plain = case.word("mode") == "bicubic" && !case.switch("antialias", false);
    let (Some(size), true) = (square, plain) else { return Ok(()) };
    let (name, x) = (case.word("name"), input(fixture, case)?);
    let want = fixture.floats(&format!("{name}.output"))?;
    let &[b, c, h, w] = x.shape() else { return Ok(()) };
    if c == 3 {
        let got = resize_patch_kernel(&x, size[0])?;
        table.within(&format!("{name}, kernel on load"), &got, &want, |_| Bound::abs(F32))?;
    }
    if b == 1 && h == w {
        let got = resize_pos_embed(&with_class_row(&x, c)?, size[0], PositionTable::Dinov2)?;
        let (class, got) = without_class_row(&got, [size[0], size[0]], c)?;
        table.equal(&format!("{name}: class row"), &class, &vec![7.0; c]);
        table.within(&format!("{name}, table on load"), &got, &want, |_| Bound::abs(F32))?;
    }
    Ok(())
}

/// Compares the resizing of position tables in the network, for an image of another size.
fn at_run_time(fixture: &Fixture, table: &mut Table, case: &Value) -> Outcome<()> {
    let (name, x) = (case.word("name"), input(fixture, case)?);
    let antialias = case.switch("antialias", false);
    let &[1, c, g, w] = x.shape() else { return Ok(()) };
    let want = fixture.floats(&format!("{name}.output"))?;
    let &[_, _, rows, columns] = want.shape() else { return Ok(()) };
    // The factors of DINOv2 use a size that is 0.1 patches larger.
    let tenth =
        |i: usize, n: usize| case["scale_factor"][i].as_f64() == Some((n as f64 + 0.1) / g as f64);
    if g != w || !(antialias || (tenth(0, rows) && tenth(1, columns))) {
        return Ok(());
    }
    let config = VitConfig {
        embed_dim: c,
        depth: 1,
        heads: 1,
        taps: [0; 4],
        registers: usize::from(antialias),
        ..PUBLISHED[0].vit()?.at(16, g)
    };
    let mut weights = StateDict::new("the case");
    weights.insert("pos_embed", with_class_row(&x, c)?);
    let vit = Vit::new(
        &Scope::with_weights(DType::F32, Precision::F32, 0, weights, &["pos_embed"]),
        config,
    )?;
    let positions = vit.positions(rows, columns)?.ok_or("no position table")?;
    let (class, got) = without_class_row(&positions, [rows, columns], c)?;
    table.equal(&format!("{name}: class row"), &class, &vec![7.0; c]);
    table.within(&format!("{name}, at run time"), &got, &want, |_| Bound::abs(F32))
}

/// Converts a map `[1, c, g, g]` to a position table `[1, 1 + g*g, c]` with a first row of 7s.
fn with_class_row(x: &Tensor, c: usize) -> Outcome<Tensor> {
    let mut values = vec![7.0f32; c];
    values.extend(channels_last(x)?.data::<f32>()?);
    let rows = values.len() / c;
    Ok(Tensor::from_slice(&values, &[1, rows, c])?)
}

/// Splits a table into its first row and the rest as a map `[1, c, rows, columns]`.
fn without_class_row(
    table: &Tensor,
    [rows, columns]: [usize; 2],
    c: usize,
) -> Outcome<(Vec<f32>, Tensor)> {
    let (class, map) = table.data::<f32>()?.split_at(c);
    let map = Tensor::from_slice(map, &[1, rows, columns, c])?;
    Ok((class.to_vec(), channels_first(&map)?))
}
