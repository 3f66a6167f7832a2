//! The table of operations.

use dressage_engine::{Result, Tensor, ops, recompute};

use crate::Case;

fn case(
    name: &'static str,
    inputs: &[&[usize]],
    tolerance: f64,
    run: fn(&[Tensor]) -> Result<Tensor>,
) -> Case {
    Case { name, inputs: inputs.iter().map(|s| s.to_vec()).collect(), run, tolerance }
}

/// Every case.
pub fn all() -> Vec<Case> {
    [products(), pointwise(), norms_and_convolutions(), rows_and_views(), resampling(), attention()]
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

fn pointwise() -> Vec<Case> {
    vec![
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
        case("resize bicubic by factor", &[&[1, 4, 4, 3]], 1e-5, |x| {
            ops::resize_bicubic_by_factor(&x[0], [2.1 / 4.0, 5.1 / 4.0], [2, 5])
        }),
        case("resize bicubic antialiased", &[&[1, 6, 5, 2]], 1e-5, |x| {
            ops::resize_bicubic_antialiased(&x[0], 4, 7)
        }),
    ]
}

fn attention() -> Vec<Case> {
    vec![case(
        "ms_deform_attn",
        &[&[1, 10, 2, 3], &[1, 10, 2, 2, 2, 2], &[1, 10, 2, 4]],
        1e-5,
        |x| ops::ms_deform_attn(&x[0], &x[1], &x[2], &[(1, 2), (2, 4)]),
    )]
}
