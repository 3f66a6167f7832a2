//! The table of operations under test.

pub mod attention;

use dressage_engine::ops::Activated;
use dressage_engine::{DType, Result, Tensor, ops, recompute};
use dressage_kernels::check::noise;

/// An operation under test.
pub struct Case {
    /// Operation and variant.
    pub name: &'static str,
    /// Shape of each differentiable input; parameters in f32 have at most one axis.
    pub inputs: Vec<Vec<usize>>,
    /// Largest relative error of f32 against f64 in host memory. `None` where gradients stop within
    /// the case, so that they are not central differences.
    pub host: Option<f64>,
    /// Largest error of bf16 on a device, in units of 2^-8 of the largest value. It is the number
    /// of roundings of an element, each at most half a unit. In a chain they are random in sign, so
    /// the error grows as the root of their number. `None` for shapes without a form on devices.
    pub roundings: Option<f64>,
    /// The operation; inputs are f64 or f32 in host memory, f32 or bf16 on a device.
    pub run: fn(&[Tensor]) -> Result<Tensor>,
}

/// A case for both places.
fn case(
    name: &'static str,
    inputs: &[&[usize]],
    roundings: f64,
    run: fn(&[Tensor]) -> Result<Tensor>,
) -> Case {
    Case { roundings: Some(roundings), ..on_host(name, inputs, run) }
}

/// A case of shapes that devices do not take, or that are checked there by other cases.
fn on_host(name: &'static str, inputs: &[&[usize]], run: fn(&[Tensor]) -> Result<Tensor>) -> Case {
    let inputs = inputs.iter().map(|s| s.to_vec()).collect();
    Case { name, inputs, host: Some(1e-5), roundings: None, run }
}

/// A case for devices alone, since gradients stop within it.
fn on_device(
    name: &'static str,
    inputs: &[&[usize]],
    roundings: f64,
    run: fn(&[Tensor]) -> Result<Tensor>,
) -> Case {
    Case { host: None, ..case(name, inputs, roundings, run) }
}

/// A case that copies, adds or multiplies once, with a tenth of the error in host memory.
fn exact(
    name: &'static str,
    inputs: &[&[usize]],
    roundings: f64,
    run: fn(&[Tensor]) -> Result<Tensor>,
) -> Case {
    Case { host: Some(1e-6), ..case(name, inputs, roundings, run) }
}

/// All cases.
pub fn all() -> Vec<Case> {
    [
        products(),
        chains(),
        fused(),
        pointwise(),
        norms_and_convolutions(),
        copies_and_resampling(),
        attention::all(),
        losses(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub fn products() -> Vec<Case> {
    vec![
        // Roundings of the bias and of its sum.
        case("linear", &[&[2, 3, 5], &[4, 5], &[4]], 2.0, |x| {
            ops::linear(&x[0], &x[1], Some(&x[2]))
        }),
        case("linear, no bias", &[&[7, 3], &[2, 3]], 1.0, |x| ops::linear(&x[0], &x[1], None)),
        // The gradient passes only where the result is positive.
        case("linear_relu", &[&[2, 3, 5], &[4, 5], &[4]], 2.0, |x| {
            ops::linear_relu(&x[0], &x[1], &x[2])
        }),
        // Roundings of the hidden layer and the result, and of the gradient between the layers.
        case("feed_forward", &[&[2, 3, 5], &[9, 5], &[9], &[4, 9], &[4]], 3.0, |x| {
            let layer = |i| ops::Layer { weight: &x[i], bias: &x[i + 1] };
            ops::feed_forward(&x[0], layer(1), layer(3))
        }),
        case("matmul", &[&[2, 3, 5], &[2, 5, 4]], 1.0, |x| ops::matmul(&x[0], &x[1], false, false)),
        case("matmul, b transposed", &[&[2, 3, 5], &[2, 4, 5]], 1.0, |x| {
            ops::matmul(&x[0], &x[1], false, true)
        }),
        case("matmul, a transposed", &[&[5, 3], &[5, 4]], 1.0, |x| {
            ops::matmul(&x[0], &x[1], true, false)
        }),
        // The gradients of two parts are added in one value.
        case("matmul, parts of one value", &[&[6, 5]], 2.0, |x| {
            ops::matmul(&ops::rows(&x[0], 0, 3)?, &ops::rows(&x[0], 3, 3)?, false, true)
        }),
        case("matmul, both transposed", &[&[5, 3], &[4, 5]], 1.0, |x| {
            ops::matmul(&x[0], &x[1], true, true)
        }),
    ]
}

/// x, weight and bias of a norm, weight and bias of a layer, layer scale.
const BLOCK: &[&[usize]] = &[&[2, 3, 8], &[8], &[8], &[8, 8], &[8], &[8]];

pub fn chains() -> Vec<Case> {
    vec![
        // Product, bias, norm, activation, sum, and as many backward; two gradients are added.
        case("linear, norm, gelu, residual", BLOCK, 4.0, |x| {
            let y = ops::linear(&x[0], &x[3], Some(&x[4]))?;
            let y = ops::layer_norm(&y, &x[1], &x[2], 1e-6)?;
            ops::residual(&x[0], &ops::gelu(&y)?, Some(&x[5]))
        }),
        case("a matrix and a bias that are used twice", BLOCK, 4.0, |x| {
            let y = ops::linear(&x[0], &x[3], Some(&x[4]))?;
            let y = ops::linear(&ops::relu(&y)?, &x[3], Some(&x[4]))?;
            ops::layer_norm(&ops::residual(&y, &x[0], Some(&x[5]))?, &x[1], &x[2], 1e-3)
        }),
        case("norm_linear and linear_residual, trained", BLOCK, 4.0, |x| {
            // Trained in every run, so that all runs use the same code path.
            let w = if x[3].tracked() { x[3].clone() } else { x[3].leaf() };
            let norm = ops::Norm { weight: &x[1], bias: &x[2], eps: 1e-5 };
            let y = ops::norm_linear(&x[0], &norm, &w, Some(&x[4]))?;
            ops::linear_residual(&x[0], &y, Activated::Gelu, &w, Some(&x[4]), Some(&x[5]))
        }),
        case("a norm with one parameter for both", &[&[3, 8], &[8]], 2.0, |x| {
            ops::gelu(&ops::layer_norm(&x[0], &x[1], &x[1], 1e-5)?)
        }),
        on_device("frozen layers between", &[&[2, 3, 8], &[8, 8], &[8]], 4.0, |x| {
            let (w, g) = (x[1].detach(), x[2].detach());
            let norm = ops::Norm { weight: &g, bias: &g, eps: 1e-5 };
            let y = ops::norm_linear(&x[0], &norm, &w, Some(&g))?;
            let y = ops::linear_residual(&x[0], &y, Activated::Gelu, &w, Some(&g), None)?;
            ops::linear(&y, &x[1], Some(&x[2]))
        }),
        on_host("norm, linear, gelu, linear", &[&[3, 4], &[4], &[4], &[6, 4], &[2, 6]], |x| {
            let y = ops::layer_norm(&x[0], &x[1], &x[2], 1e-6)?;
            ops::linear(&ops::gelu(&ops::linear(&y, &x[3], None)?)?, &x[4], None)
        }),
        on_host("norm, sum, linear, relu, linear", &[&[3, 4], &[4], &[4], &[5, 4]], |x| {
            let y = ops::layer_norm(&x[0], &x[1], &x[2], 1e-6)?;
            let y = ops::relu(&ops::linear(&ops::add(&y, &x[2])?, &x[3], None)?)?;
            ops::linear(&y, &ops::reshape(&x[3], &[4, 5])?, None)
        }),
        on_host("norm, one parameter for both", &[&[3, 4], &[4]], |x| {
            ops::layer_norm(&x[0], &x[1], &x[1], 1e-6)
        }),
        on_host("norm of a norm", &[&[3, 4], &[4], &[4]], |x| {
            let y = ops::layer_norm(&x[0], &x[1], &x[2], 1e-6)?;
            ops::layer_norm(&y, &x[2], &x[1], 1e-6)
        }),
    ]
}

/// Fused layers: with frozen parameters, as one kernel, and with trained ones.
pub fn fused() -> Vec<Case> {
    vec![
        on_host("norm_linear, frozen", &[&[2, 3, 5]], |x| norm_linear(&with_constants(x, NORM)?)),
        on_host("norm_linear, trained", NORM, norm_linear),
        on_host("norm_linear, norm trained", &[&[2, 3, 5], &[5], &[5]], |x| {
            norm_linear(&with_constants(x, NORM)?)
        }),
        on_host("linear_residual, frozen", &[&[2, 3, 4], &[2, 3, 5]], |x| {
            linear_residual(&with_constants(x, ONTO)?, Activated::Plain)
        }),
        on_host("linear_residual, GELU, frozen", &[&[2, 3, 4], &[2, 3, 5]], |x| {
            linear_residual(&with_constants(x, ONTO)?, Activated::Gelu)
        }),
        on_host("linear_residual, GELU, trained", ONTO, |x| linear_residual(x, Activated::Gelu)),
        on_host("linear_residual, no scale, frozen", &[&[2, 3, 4], &[2, 3, 5]], |x| {
            let x = with_constants(x, ONTO)?;
            ops::linear_residual(&x[0], &x[1], Activated::Plain, &x[2], Some(&x[3]), None)
        }),
        on_host("frozen block", &[&[2, 3, 5]], |x| {
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

pub fn pointwise() -> Vec<Case> {
    vec![
        case("gelu", &[&[3, 17]], 1.0, |x| ops::gelu(&x[0])),
        case("quick_gelu", &[&[3, 17]], 1.0, |x| ops::quick_gelu(&x[0])),
        // The result is rounded before the backward pass reads it.
        case("softmax", &[&[3, 17]], 2.0, |x| ops::softmax(&x[0])),
        exact("relu", &[&[3, 17]], 1.0, |x| ops::relu(&x[0])),
        case("swiglu", &[&[3, 10]], 1.0, |x| ops::swiglu(&x[0])),
        exact("transpose", &[&[2, 3, 5]], 1.0, |x| ops::transpose(&x[0])),
        exact("transpose of a matrix", &[&[40, 33]], 1.0, |x| ops::transpose(&x[0])),
        exact("add", &[&[2, 3, 4], &[2, 3, 4]], 1.0, |x| ops::add(&x[0], &x[1])),
        exact("add, a parameter", &[&[2, 3, 4], &[4]], 1.0, |x| ops::add(&x[0], &x[1])),
        exact("add, rows of the same type", &[&[2, 3, 4], &[3, 4]], 1.0, |x| {
            ops::add(&x[0], &x[1])
        }),
        // The gradients are added: two roundings and that of their sum.
        case("add, to itself", &[&[3, 5]], 2.0, |x| {
            let y = ops::add(&x[0], &x[0])?;
            ops::add(&y, &ops::gelu(&x[0])?)
        }),
        exact("residual", &[&[2, 3, 4], &[2, 3, 4]], 1.0, |x| ops::residual(&x[0], &x[1], None)),
        exact("residual, layer scale", &[&[2, 3, 4], &[2, 3, 4], &[4]], 1.0, |x| {
            ops::residual(&x[0], &x[1], Some(&x[2]))
        }),
    ]
}

pub fn norms_and_convolutions() -> Vec<Case> {
    vec![
        case("layer_norm", &[&[2, 3, 7], &[7], &[7]], 1.0, |x| {
            ops::layer_norm(&x[0], &x[1], &x[2], 1e-5)
        }),
        case("group_norm", &[&[2, 3, 2, 6], &[6], &[6]], 1.0, |x| {
            ops::group_norm(&x[0], &x[1], &x[2], 3, 1e-5)
        }),
        case("batch_norm", &[&[2, 3, 2, 4], &[4], &[4]], 1.0, |x| {
            Ok(ops::batch_norm(&x[0], &x[1], &x[2], 1e-5)?.0)
        }),
        case("batch_norm_by", &[&[2, 3, 2, 4], &[4], &[4]], 1.0, |x| {
            let mean = like(&x[0], &[0.5, -0.25, 0.0, 2.0], &[4])?;
            let var = like(&x[0], &[0.5, 1.0, 0.125, 3.0], &[4])?;
            ops::batch_norm_by(&x[0], [&x[1], &x[2]], [&mean, &var], 1e-5)
        }),
        exact("channel_scale", &[&[2, 3, 2, 4]], 1.0, |x| {
            let factor = like(&x[0], &[1.5, 0.0, -0.75, 1.0, 2.0, 0.0, 0.25, 3.0], &[2, 4])?;
            ops::channel_scale(&x[0], &factor)
        }),
        exact("dropout", &[&[2, 3, 5]], 1.0, |x| {
            let position = table(&x[0], &[7, 1])?;
            let (seed, site, rate, whole) = (3, 5, 0.4, false);
            ops::dropout(&x[0], &ops::Dropout { seed, site, rate, whole, position })
        }),
        exact("max_pool", &[&[2, 5, 4, 3]], 1.0, |x| ops::max_pool(&x[0], 3, 2, 1)),
        case("conv2d 3x3, pad 1", &[&[2, 4, 5, 3], &[2, 3, 3, 3], &[2]], 2.0, |x| {
            ops::conv2d(&x[0], &x[1], Some(&x[2]), 1, 1)
        }),
        case("conv2d 3x3, stride 2", &[&[1, 5, 6, 2], &[3, 2, 3, 3]], 2.0, |x| {
            ops::conv2d(&x[0], &x[1], None, 2, 1)
        }),
        case("conv2d_dilated 3x3", &[&[1, 6, 5, 3], &[2, 3, 3, 3]], 2.0, |x| {
            ops::conv2d_dilated(&x[0], &x[1], None, 1, 2, 2)
        }),
        case("conv2d 1x1", &[&[1, 3, 2, 4], &[3, 4, 1, 1], &[3]], 2.0, |x| {
            ops::conv2d(&x[0], &x[1], Some(&x[2]), 1, 0)
        }),
        case("depthwise_conv 7x7, pad 3", &[&[2, 4, 5, 3], &[3, 1, 7, 7], &[3]], 2.0, |x| {
            ops::depthwise_conv(&x[0], &x[1], Some(&x[2]), 3)
        }),
        case("depthwise_conv 3x3, no bias", &[&[1, 3, 4, 8], &[8, 1, 3, 3]], 1.0, |x| {
            ops::depthwise_conv(&x[0], &x[1], None, 1)
        }),
        case("patch_embed", &[&[2, 3, 4, 6], &[5, 3, 2, 2], &[5]], 2.0, |x| {
            ops::patch_embed(&x[0], &x[1], Some(&x[2]))
        }),
    ]
}

pub fn copies_and_resampling() -> Vec<Case> {
    vec![
        exact("reshape", &[&[2, 3, 4]], 1.0, |x| ops::reshape(&x[0], &[6, 4])),
        exact("rows", &[&[5, 3]], 1.0, |x| ops::rows(&x[0], 1, 3)),
        exact("concat", &[&[2, 3, 4], &[2, 1, 4]], 1.0, |x| ops::concat(&[&x[0], &x[1]], 1)),
        exact("narrow", &[&[2, 5, 3]], 1.0, |x| ops::narrow(&x[0], 1, 2, 2)),
        exact("broadcast", &[&[3, 2]], 1.0, |x| ops::broadcast(&x[0], 4)),
        exact("prepend", &[&[1, 3], &[2, 4, 3]], 1.0, |x| ops::prepend(&x[0], &x[1])),
        exact("a sum of parts", &[&[2, 4, 3]], 2.0, |x| {
            let front = ops::narrow(&x[0], 1, 0, 2)?;
            ops::add(&front, &ops::narrow(&x[0], 1, 1, 2)?)
        }),
        exact("gather_rows, one twice", &[&[4, 3]], 2.0, |x| {
            ops::gather_rows(&x[0], &[2, 0, 2], 5)
        }),
        // Two rows in other places, padding between them, and a row that is left out.
        exact("reorder_rows", &[&[3, 4]], 1.0, |x| {
            let [order, back] = [&[2, -1, 0, -1][..], &[2, -1, 0]].map(|t| table(&x[0], t));
            ops::reorder_rows(&x[0], &order?, &back?)
        }),
        exact("gather_rows_at, one twice, padding", &[&[4, 3]], 2.0, |x| {
            ops::gather_rows_at(&x[0], &table(&x[0], &[2, -1, 0, 2, 4])?)
        }),
        case("recompute, values captured", &[&[4, 5], &[5], &[5]], 4.0, |x| {
            let (w, b) = (x[1].clone(), x[2].clone());
            recompute(&x[..1], move |x| ops::gelu(&ops::layer_norm(&x[0], &w, &b, 1e-3)?))
        }),
        on_host("recompute, of a result", &[&[4, 5], &[5], &[5]], |x| {
            let inner = ops::layer_norm(&x[0], &x[1], &x[2], 1e-5)?;
            let (w, b) = (x[1].clone(), x[2].clone());
            recompute(&[inner], move |x| {
                let y = ops::layer_norm(&x[0], &w, &b, 1e-5)?;
                ops::layer_norm(&y, &w, &b, 1e-5)
            })
        }),
        exact("row_width, wider", &[&[2, 3, 5]], 1.0, |x| ops::row_width(&x[0], 8)),
        exact("row_width, narrower", &[&[2, 3, 5]], 1.0, |x| ops::row_width(&x[0], 3)),
        case("resize by 4", &[&[1, 3, 2, 3]], 1.0, |x| ops::resize_by_factor(&x[0], 4.0)),
        case("resize by 0.5, odd", &[&[2, 5, 7, 2]], 1.0, |x| ops::resize_by_factor(&x[0], 0.5)),
        case("resize to a size", &[&[1, 5, 3, 2]], 1.0, |x| ops::resize_to(&x[0], 3, 7)),
        exact("resize_nearest", &[&[1, 3, 5, 2]], 1.0, |x| ops::resize_nearest(&x[0], 7, 4)),
        case("resize planar maps", &[&[2, 2, 3, 5]], 1.0, |x| ops::resize_maps(&x[0], [7, 4])),
        case("resize bicubic by factor", &[&[1, 4, 4, 3]], 1.0, |x| {
            ops::resize_bicubic_by_factor(&x[0], [2.1 / 4.0, 5.1 / 4.0], [2, 5])
        }),
        case("resize bicubic", &[&[1, 6, 5, 2]], 1.0, |x| ops::resize_bicubic(&x[0], 4, 7)),
        case("resize bicubic antialiased", &[&[1, 6, 5, 2]], 1.0, |x| {
            ops::resize_bicubic_antialiased(&x[0], 4, 7)
        }),
    ]
}

pub fn losses() -> Vec<Case> {
    vec![
        case("point_sample", &[&[2, 3, 4]], 1.0, |x| {
            // Inside, at the border and outside of the map.
            let points = [0.31, 0.77, 0.02, 0.98, 0.5, 0.13, 0.999, 0.6, 1.3, 0.5, 0.71, 0.42];
            ops::point_sample(&x[0], &like(&x[0], &points, &[2, 3, 2])?, 4)
        }),
        case("point_sample, points by image", &[&[4, 3, 2]], 1.0, |x| {
            let points = [0.31, 0.77, 0.02, 0.98, 0.5, 0.13, 0.999, 0.6];
            ops::point_sample(&x[0], &like(&x[0], &points, &[2, 2, 2])?, 4)
        }),
        case("mask_rows", &[&[3, 4], &[2, 5, 4]], 1.0, |x| {
            ops::mask_rows(&x[0], &x[1], &[0, 1, 1], 4)
        }),
        case("mask_loss", &[&[3, 7]], 1.0, |x| mask_loss(&x[0], None)),
        case("mask_loss, the last pair padding", &[&[3, 7]], 1.0, |x| {
            mask_loss(&x[0], Some(&like(&x[0], &[1.0, 1.0, 0.0], &[3])?))
        }),
        case("class_loss", &[&[2, 3, 4]], 1.0, |x| {
            ops::class_loss(&x[0], &[3, 0, 3, 2, 3, 1], &[1.0, 1.0, 1.0, 0.1], 2.0)
        }),
        case("class_loss_at", &[&[2, 3, 4]], 1.0, |x| {
            let weights = like(&x[0], &[1.0, 1.0, 1.0, 0.1], &[4])?;
            ops::class_loss_at(&x[0], &table(&x[0], &[3, 0, 3, 2, 3, 1])?, &weights, None, 2.0)
        }),
        case("class_loss_at, a part of a batch", &[&[2, 3, 4]], 1.0, |x| {
            let weights = like(&x[0], &[1.0, 1.0, 1.0, 0.1], &[4])?;
            let (targets, whole) = (table(&x[0], &[3, 0, 3, 2, 3, 1])?, like(&x[0], &[7.5], &[1])?);
            ops::class_loss_at(&x[0], &targets, &weights, Some(&whole), 2.0)
        }),
        case("pixel_loss", &[&[2, 4, 3, 5]], 1.0, |x| {
            let labels: Vec<u8> = (0..30).map(|i| [0, 3, 255, 1, 2][i % 5]).collect();
            let mut labels = Tensor::from_slice(&labels, &[2, 3, 5])?;
            if let Some(device) = x[0].device() {
                labels = labels.to_device(device, DType::U8)?;
            }
            ops::pixel_loss(&x[0], &labels, 2.0)
        }),
        case("total", &[&[3, 4], &[2], &[]], 1.0, |x| ops::total(&[&x[0], &x[1], &x[2]])),
        case("total of one", &[&[3, 4]], 1.0, |x| ops::total(&[&x[0]])),
    ]
}

/// Mask losses of three pairs.
fn mask_loss(x: &Tensor, pair_weights: Option<&Tensor>) -> Result<Tensor> {
    let t: Vec<f64> = (0..21).map(|i| f64::from(i % 4) / 4.0).collect();
    let (t, num) = (like(x, &t, &[3, 7])?, like(x, &[3.0], &[1])?);
    ops::mask_loss(x, &t, &num, pair_weights, [5.0, 2.0], 4)
}

/// Constants where `x` is stored: f32 on a device, in host memory the type of `x`.
fn like(x: &Tensor, values: &[f64], shape: &[usize]) -> Result<Tensor> {
    let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    let narrow = Tensor::from_slice(&narrow, shape)?;
    match (x.device(), x.dtype()) {
        (Some(device), _) => narrow.to_device(device, DType::F32),
        (None, DType::F64) => {
            let wide: Vec<f64> = values.iter().map(|&v| f64::from(v as f32)).collect();
            Tensor::from_slice(&wide, shape)
        }
        _ => Ok(narrow),
    }
}

/// A table where `x` is stored.
fn table(x: &Tensor, values: &[i32]) -> Result<Tensor> {
    let values = Tensor::from_slice(values, &[values.len()])?;
    match x.device() {
        Some(device) => values.to_device(device, DType::I32),
        None => Ok(values),
    }
}
