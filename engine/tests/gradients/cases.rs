//! The table of operations under test.

use dressage_engine::ops::Activated;
use dressage_engine::{DType, Result, Tensor, ops, recompute};
use dressage_kernels::check::noise;
use dressage_kernels::rotary;

use crate::Case;

fn case(
    name: &'static str,
    inputs: &[&[usize]],
    tolerance: f64,
    run: fn(&[Tensor]) -> Result<Tensor>,
) -> Case {
    Case { name, inputs: inputs.iter().map(|s| s.to_vec()).collect(), run, tolerance }
}

/// All cases.
pub fn all() -> Vec<Case> {
    [
        products(),
        chains(),
        frozen(),
        pointwise(),
        norms_and_convolutions(),
        rows_and_views(),
        resampling(),
        attention(),
        losses(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn products() -> Vec<Case> {
    vec![
        case("linear", &[&[2, 3, 5], &[4, 5], &[4]], 1e-5, |x| {
            ops::linear(&x[0], &x[1], Some(&x[2]))
        }),
        case("linear, no bias", &[&[7, 3], &[2, 3]], 1e-5, |x| ops::linear(&x[0], &x[1], None)),
        case("matmul", &[&[2, 3, 5], &[2, 5, 4]], 1e-5, |x| {
            ops::matmul(&x[0], &x[1], false, false)
        }),
        case("matmul, b transposed", &[&[2, 3, 5], &[2, 4, 5]], 1e-5, |x| {
            ops::matmul(&x[0], &x[1], false, true)
        }),
        case("matmul, a transposed", &[&[5, 3], &[5, 4]], 1e-5, |x| {
            ops::matmul(&x[0], &x[1], true, false)
        }),
        case("matmul, both transposed", &[&[5, 3], &[4, 5]], 1e-5, |x| {
            ops::matmul(&x[0], &x[1], true, true)
        }),
    ]
}

fn chains() -> Vec<Case> {
    vec![
        case("norm, linear, gelu, linear", &[&[3, 4], &[4], &[4], &[6, 4], &[2, 6]], 1e-5, |x| {
            let y = ops::layer_norm(&x[0], &x[1], &x[2], 1e-6)?;
            ops::linear(&ops::gelu(&ops::linear(&y, &x[3], None)?)?, &x[4], None)
        }),
        case("norm, sum, linear, relu, linear", &[&[3, 4], &[4], &[4], &[5, 4]], 1e-5, |x| {
            let y = ops::layer_norm(&x[0], &x[1], &x[2], 1e-6)?;
            let y = ops::relu(&ops::linear(&ops::add(&y, &x[2])?, &x[3], None)?)?;
            ops::linear(&y, &ops::reshape(&x[3], &[4, 5])?, None)
        }),
        case("norm, one parameter for both", &[&[3, 4], &[4]], 1e-5, |x| {
            ops::layer_norm(&x[0], &x[1], &x[1], 1e-6)
        }),
        case("norm of a norm", &[&[3, 4], &[4], &[4]], 1e-5, |x| {
            let y = ops::layer_norm(&x[0], &x[1], &x[2], 1e-6)?;
            ops::layer_norm(&y, &x[2], &x[1], 1e-6)
        }),
    ]
}

/// Fused layers: with frozen parameters, as one kernel, and with trained ones.
fn frozen() -> Vec<Case> {
    vec![
        case("norm_linear, frozen", &[&[2, 3, 5]], 1e-5, |x| {
            norm_linear(&with_constants(x, NORM)?)
        }),
        case("norm_linear, trained", NORM, 1e-5, norm_linear),
        case("norm_linear, norm trained", &[&[2, 3, 5], &[5], &[5]], 1e-5, |x| {
            norm_linear(&with_constants(x, NORM)?)
        }),
        case("linear_residual, frozen", &[&[2, 3, 4], &[2, 3, 5]], 1e-5, |x| {
            linear_residual(&with_constants(x, ONTO)?, Activated::Plain)
        }),
        case("linear_residual, GELU, frozen", &[&[2, 3, 4], &[2, 3, 5]], 1e-5, |x| {
            linear_residual(&with_constants(x, ONTO)?, Activated::Gelu)
        }),
        case("linear_residual, GELU, trained", ONTO, 1e-5, |x| linear_residual(x, Activated::Gelu)),
        case("linear_residual, no scale, frozen", &[&[2, 3, 4], &[2, 3, 5]], 1e-5, |x| {
            let x = with_constants(x, ONTO)?;
            ops::linear_residual(&x[0], &x[1], Activated::Plain, &x[2], Some(&x[3]), None)
        }),
        case("frozen block", &[&[2, 3, 5]], 1e-5, |x| {
            // The gradients of a value with two readers are added in place.
            let h = norm_linear(&with_constants(x, NORM)?)?;
            let p = with_constants(&[x[0].clone(), h], DOWN)?;
            linear_residual(&p, Activated::Gelu)
        }),
    ]
}

/// x, weight and bias of the norm, weight, bias.
const NORM: &[&[usize]] = &[&[2, 3, 5], &[5], &[5], &[4, 5], &[4]];
/// x, z, weight, bias, layer scale.
const ONTO: &[&[usize]] = &[&[2, 3, 4], &[2, 3, 5], &[4, 5], &[4], &[4]];
const DOWN: &[&[usize]] = &[&[2, 3, 5], &[2, 3, 4], &[5, 4], &[5], &[5]];

/// `x`, with constants appended for the remaining shapes.
fn with_constants(x: &[Tensor], shapes: &[&[usize]]) -> Result<Vec<Tensor>> {
    let mut all = x.to_vec();
    for (i, shape) in shapes.iter().enumerate().skip(x.len()) {
        all.push(like(&x[0], &noise(shape.iter().product(), 40 + i as u64), shape)?);
    }
    Ok(all)
}

fn norm_linear(x: &[Tensor]) -> Result<Tensor> {
    let norm = ops::Norm { weight: &x[1], bias: &x[2], eps: 1e-5 };
    ops::norm_linear(&x[0], &norm, &x[3], Some(&x[4]))
}

fn linear_residual(x: &[Tensor], f: Activated) -> Result<Tensor> {
    ops::linear_residual(&x[0], &x[1], f, &x[2], Some(&x[3]), Some(&x[4]))
}

fn pointwise() -> Vec<Case> {
    vec![
        case("quick_gelu", &[&[3, 17]], 1e-5, |x| ops::quick_gelu(&x[0])),
        case("softmax", &[&[3, 17]], 1e-5, |x| ops::softmax(&x[0])),
        case("gelu", &[&[3, 17]], 1e-5, |x| ops::gelu(&x[0])),
        case("relu", &[&[3, 17]], 1e-6, |x| ops::relu(&x[0])),
        case("swiglu", &[&[3, 10]], 1e-5, |x| ops::swiglu(&x[0])),
        case("add", &[&[2, 3, 4], &[2, 3, 4]], 1e-6, |x| ops::add(&x[0], &x[1])),
        case("add, b broadcast", &[&[2, 3, 4], &[4]], 1e-6, |x| ops::add(&x[0], &x[1])),
        case("residual", &[&[2, 3, 4], &[2, 3, 4]], 1e-6, |x| ops::residual(&x[0], &x[1], None)),
        case("residual, layer scale", &[&[2, 3, 4], &[2, 3, 4], &[4]], 1e-6, |x| {
            ops::residual(&x[0], &x[1], Some(&x[2]))
        }),
    ]
}

fn norms_and_convolutions() -> Vec<Case> {
    vec![
        case("layer_norm", &[&[2, 3, 7], &[7], &[7]], 1e-5, |x| {
            ops::layer_norm(&x[0], &x[1], &x[2], 1e-5)
        }),
        case("group_norm", &[&[2, 3, 2, 6], &[6], &[6]], 1e-5, |x| {
            ops::group_norm(&x[0], &x[1], &x[2], 3, 1e-5)
        }),
        case("conv2d 3x3, pad 1", &[&[2, 4, 5, 3], &[2, 3, 3, 3], &[2]], 1e-5, |x| {
            ops::conv2d(&x[0], &x[1], Some(&x[2]), 1, 1)
        }),
        case("conv2d 3x3, stride 2", &[&[1, 5, 6, 2], &[3, 2, 3, 3]], 1e-5, |x| {
            ops::conv2d(&x[0], &x[1], None, 2, 1)
        }),
        case("conv2d 1x1", &[&[1, 3, 2, 4], &[3, 4, 1, 1], &[3]], 1e-5, |x| {
            ops::conv2d(&x[0], &x[1], Some(&x[2]), 1, 0)
        }),
        case("patch_embed", &[&[2, 3, 4, 6], &[5, 3, 2, 2], &[5]], 1e-5, |x| {
            ops::patch_embed(&x[0], &x[1], Some(&x[2]))
        }),
    ]
}

fn rows_and_views() -> Vec<Case> {
    vec![
        case("reshape", &[&[2, 3, 4]], 1e-6, |x| ops::reshape(&x[0], &[6, 4])),
        case("rows", &[&[5, 3]], 1e-6, |x| ops::rows(&x[0], 1, 3)),
        case("concat", &[&[2, 3, 4], &[2, 1, 4]], 1e-6, |x| ops::concat(&[&x[0], &x[1]], 1)),
        case("narrow", &[&[2, 5, 3]], 1e-6, |x| ops::narrow(&x[0], 1, 2, 2)),
        case("broadcast", &[&[3, 2]], 1e-6, |x| ops::broadcast(&x[0], 4)),
        case("prepend", &[&[1, 3], &[2, 4, 3]], 1e-6, |x| ops::prepend(&x[0], &x[1])),
        case("gather_rows_at, one twice, padding", &[&[4, 3]], 1e-6, |x| {
            ops::gather_rows_at(&x[0], &Tensor::from_slice(&[2i32, -1, 0, 2, 4], &[5])?)
        }),
        case("gather_rows, one twice", &[&[4, 3]], 1e-6, |x| {
            ops::gather_rows(&x[0], &[2, 0, 2], 5)
        }),
        case("recompute, values captured", &[&[4, 5], &[5], &[5]], 1e-5, |x| {
            let inner = ops::layer_norm(&x[0], &x[1], &x[2], 1e-5)?;
            let (w, b) = (x[1].clone(), x[2].clone());
            recompute(&[inner], move |x| {
                let y = ops::layer_norm(&x[0], &w, &b, 1e-5)?;
                ops::layer_norm(&y, &w, &b, 1e-5)
            })
        }),
    ]
}

fn resampling() -> Vec<Case> {
    vec![
        case("resize by 4", &[&[1, 3, 2, 3]], 1e-5, |x| ops::resize_by_factor(&x[0], 4.0)),
        case("resize by 0.5, odd", &[&[2, 5, 7, 2]], 1e-5, |x| ops::resize_by_factor(&x[0], 0.5)),
        case("resize to a size", &[&[1, 5, 3, 2]], 1e-5, |x| ops::resize_to(&x[0], 3, 7)),
        case("resize planar maps", &[&[2, 2, 3, 5]], 1e-5, |x| ops::resize_maps(&x[0], [7, 4])),
        case("row_width, wider", &[&[2, 3, 5]], 1e-6, |x| ops::row_width(&x[0], 8)),
        case("row_width, narrower", &[&[2, 3, 5]], 1e-6, |x| ops::row_width(&x[0], 3)),
        case("resize bicubic by factor", &[&[1, 4, 4, 3]], 1e-5, |x| {
            ops::resize_bicubic_by_factor(&x[0], [2.1 / 4.0, 5.1 / 4.0], [2, 5])
        }),
        case("resize bicubic antialiased", &[&[1, 6, 5, 2]], 1e-5, |x| {
            ops::resize_bicubic_antialiased(&x[0], 4, 7)
        }),
    ]
}

fn attention() -> Vec<Case> {
    vec![
        case("self_attention", &[&[2, 5, 3, 2, 4]], 1e-5, |x| ops::self_attention(&x[0])),
        case("attention", &[&[2, 3, 6], &[2, 5, 6], &[2, 5, 6]], 1e-5, |x| {
            ops::attention(&x[0], &x[1], &x[2], 2, None)
        }),
        case("attention, keys blocked", &[&[1, 3, 4], &[1, 4, 4], &[1, 4, 4]], 1e-5, |x| {
            let blocked = [0u8, 1, 0, 0, 1, 1, 1, 0, 0, 0, 1, 0];
            let blocked = Tensor::from_slice(&blocked, &[1, 3, 4])?;
            ops::attention(&x[0], &x[1], &x[2], 2, Some(&blocked))
        }),
        case(
            "ms_deform_attn",
            &[&[1, 10, 2, 3], &[1, 10, 2, 2, 2, 2], &[1, 10, 2, 4]],
            1e-5,
            |x| ops::ms_deform_attn(&x[0], &x[1], &x[2], &[(1, 2), (2, 4)]),
        ),
        case("rotary", &[&[2, 5, 3, 2, 4]], 1e-5, |x| {
            let table = like(&x[0], &rotary::table([2, 2], 16, 4)?, &[4, 2, 2])?;
            // A shared operand is copied; an unshared one is rotated in place.
            let y = ops::rotary(x[0].clone(), &table, 1)?;
            ops::self_attention(&ops::rotary(y, &table, 1)?)
        }),
        case("relative_position", &[&[2, 6, 3, 2, 4], &[5, 4], &[3, 4]], 1e-5, |x| {
            ops::relative_position(&x[0], &x[1], &x[2], [3, 2])
        }),
        case("relative attention", &[&[2, 6, 3, 2, 4], &[5, 4], &[3, 4]], 1e-5, |x| {
            let rel = ops::relative_position(&x[0], &x[1], &x[2], [3, 2])?;
            ops::relative_attention(&x[0], &rel, [3, 2])
        }),
        case("rein", REIN, 1e-5, |x| rein(x, true)),
        case("rein, no softmax", REIN, 1e-5, |x| rein(x, false)),
        case("token_link", &[&[3, 4, 5]], 1e-6, |x| ops::token_link(&x[0])),
    ]
}

/// Features with one class row, five tokens, their values, W_f, b_f, scale.
const REIN: &[&[usize]] = &[&[2, 1 + 4, 6], &[5, 6], &[4, 6], &[6, 6], &[6], &[]];

fn rein(x: &[Tensor], softmax: bool) -> Result<Tensor> {
    let parts = ops::ReinParts {
        tokens: x[1].clone(),
        values: x[2].clone(),
        weight: &x[3],
        bias: &x[4],
        scale: &x[5],
    };
    ops::rein(&x[0], &parts, 1, softmax)
}

fn losses() -> Vec<Case> {
    vec![
        case("point_sample", &[&[2, 3, 4]], 1e-5, |x| {
            // Inside, at the border and outside of the map.
            let points = [0.31, 0.77, 0.02, 0.98, 0.5, 0.13, 0.999, 0.6, 1.3, 0.5, 0.71, 0.42];
            let points = like(&x[0], &points, &[2, 3, 2])?;
            ops::point_sample(&x[0], &points, 4)
        }),
        case("point_sample, points by image", &[&[4, 3, 2]], 1e-5, |x| {
            let points = [0.31, 0.77, 0.02, 0.98, 0.5, 0.13, 0.999, 0.6];
            ops::point_sample(&x[0], &like(&x[0], &points, &[2, 2, 2])?, 4)
        }),
        case("mask_rows", &[&[3, 4], &[2, 5, 4]], 1e-5, |x| {
            ops::mask_rows(&x[0], &x[1], &[0, 1, 1], 4)
        }),
        case("mask_loss", &[&[3, 7]], 1e-5, |x| {
            let t: Vec<f64> = (0..21).map(|i| f64::from(i % 4) / 3.0).collect();
            ops::mask_loss(&x[0], &like(&x[0], &t, &[3, 7])?, 3.0, [5.0, 2.0], 4)
        }),
        case("class_loss", &[&[2, 3, 4]], 1e-5, |x| {
            ops::class_loss(&x[0], &[3, 0, 3, 2, 3, 1], &[1.0, 1.0, 1.0, 0.1], 2.0)
        }),
        case("total", &[&[3], &[]], 1e-5, |x| ops::total(&[&x[0], &x[1]])),
    ]
}

/// Constants in the type of `x`.
fn like(x: &Tensor, values: &[f64], shape: &[usize]) -> Result<Tensor> {
    match x.dtype() {
        DType::F64 => Tensor::from_slice(values, shape),
        _ => Tensor::from_slice(&values.iter().map(|&v| v as f32).collect::<Vec<_>>(), shape),
    }
}
