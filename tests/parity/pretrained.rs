//! A published backbone with its real weights, at several patch and image sizes.

use std::path::{Path, PathBuf};

use dressage_engine::DType;
use dressage_engine::{Tensor, no_grad, ops};
use dressage_models::Precision;
use dressage_models::backbone::{Ffn, PUBLISHED, Vit, VitConfig};
use dressage_models::params::Scope;
use dressage_models::weights::{StateDict, convert_backbone};
use dressage_tests::Outcome;
use dressage_tests::compare::{Bound, Table};
use dressage_tests::fixture::Fixture;

/// Path of the weights of a case: `weights/<folder of the case>.safetensors`, next to the fixtures'
/// folder.
///
/// # Errors
/// The path that was tried, if there is no such file.
pub fn weights_of(case: &Path) -> Result<PathBuf, String> {
    let folder = case.parent().unwrap_or(Path::new("."));
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let above = folder.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    let path = above.join("weights").join(format!("{name}.safetensors"));
    if path.is_file() { Ok(path) } else { Err(format!("no weights at {}", path.display())) }
}

/// Network sizes from the tensors; heads are 64 wide in all published sizes.
fn config(weights: &StateDict, patch: Option<usize>, grid: Option<usize>) -> Outcome<VitConfig> {
    let shape = |name: &str| -> Outcome<Vec<usize>> {
        let tensor = weights.get(name).ok_or_else(|| format!("weights without {name}"))?;
        Ok(tensor.shape().to_vec())
    };
    let (kernel, table) = (shape("patch_embed.proj.weight")?, shape("pos_embed")?);
    let depth = (0..).take_while(|i| weights.get(&format!("blocks.{i}.norm1.weight")).is_some());
    let depth = depth.count();
    let native = ((table[1] - 1) as f64).sqrt().round() as usize;
    let ffn = match weights.get("blocks.0.mlp.w12.weight") {
        Some(_) => Ffn::Swiglu,
        None => Ffn::Mlp,
    };
    Ok(VitConfig {
        embed_dim: kernel[0],
        depth,
        heads: kernel[0] / 64,
        patch: patch.unwrap_or(kernel[2]),
        grid: grid.unwrap_or(native),
        ffn,
        hidden: ffn.hidden(kernel[0], 4.0),
        registers: 0,
        taps: [depth - 1; 4],
        ..PUBLISHED[0].vit()?.clone()
    })
}

/// The bound of a tensor. The reference is f64. Its notes state an error of up to 1.3e-6 of the
/// largest value for the same forward pass in f32, after the last block. Another order of summation
/// adds to that.
fn bound(want: &Tensor) -> Outcome<Bound> {
    relative(want, 1e-5)
}

/// The bound of tokens after `blocks` blocks. Rounding to bf16 changes each weight by up to 2^-9 of
/// itself. The four matrices of a block add independent errors of that size, so errors grow as the
/// root of the number of matrices.
fn tokens_bound(want: &Tensor, precision: Precision, blocks: usize) -> Outcome<Bound> {
    match precision {
        Precision::F32 => bound(want),
        Precision::Bf16 => relative(want, (4.0 * blocks as f64).sqrt() / 512.0),
    }
}

fn relative(want: &Tensor, error: f64) -> Outcome<Bound> {
    let largest = want.data::<f32>()?.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    Ok(Bound::abs(error * f64::from(largest)))
}

/// Compares position table, patch kernel, and tokens after some blocks and after the final norm, at
/// the recorded tokens.
pub fn tokens(
    fixture: &Fixture,
    weights: &Path,
    precision: Precision,
    table: &mut Table,
) -> Outcome<()> {
    let weights = StateDict::open(weights)?;
    let native = config(&weights, None, None)?;
    let note = |key: &str| fixture.note(key).ok_or_else(|| format!("no note `{key}`"));
    let patch: usize = note("patch")?.parse()?;
    let config = if patch == native.patch {
        native
    } else {
        // For another patch size, kernel and table were converted once, the table to the grid of
        // the image.
        let (rows, columns) = note("grid")?.split_once('x').ok_or("the grid is no `AxB`")?;
        if rows != columns {
            return Err("a table converted to a grid that is not square".into());
        }
        config(&weights, Some(patch), Some(rows.parse()?))?
    };
    let weights = convert_backbone(weights, &config.clone().into())?.renamed("backbone.", "");
    if let Some(kernel) = weights.get("patch_embed.proj.weight") {
        let kernel = kernel.to_float(DType::F32)?.ok_or("the patch kernel holds no floats")?;
        for first in fixture.names("patch_embed.proj.weight.first") {
            let name = format!("patch_embed.proj.weight.first{first}");
            let want = fixture.floats(&name)?;
            let bound = bound(&want)?;
            table.within(&name, &ops::rows(&kernel, 0, first.parse()?)?, &want, |_| bound)?;
        }
    }
    let scope = Scope::with_weights(DType::F32, precision, 0, weights, &[""]);
    let scope = scope.trainable(false);
    let vit = Vit::new(&scope, config)?;
    scope.finish("the backbone", &[])?;
    no_grad(|| compare(fixture, table, &vit, precision))
}

fn compare(fixture: &Fixture, table: &mut Table, vit: &Vit, p: Precision) -> Outcome<()> {
    let index: Vec<usize> = fixture.integers("token_index")?.iter().map(|&i| i as usize).collect();
    let mut compared = |name: &str, x: &Tensor, blocks: usize| -> Outcome<()> {
        let c = x.last_dim();
        let x = ops::reshape(x, &[x.len() / c, c])?;
        let rows = ops::gather_rows(&x, &index, index.len())?;
        let want = fixture.floats(name)?;
        let bound = if blocks == 0 { bound(&want) } else { tokens_bound(&want, p, blocks) }?;
        table.within(name, &ops::reshape(&rows, want.shape())?, &want, |_| bound)
    };
    let (mut x, rows, columns) = vit.embed(&fixture.floats("input")?)?;
    let table = vit.positions(rows, columns)?.ok_or("no position table")?;
    compared("pos_embed", &table, 0)?;
    let pass = vit.pass(&x, rows, columns)?;
    for i in 0..vit.config().depth {
        x = pass.block(i, &x, None)?;
        let name = format!("tokens.block.{i}");
        if fixture.has(&name) {
            compared(&name, &x, i + 1)?;
        }
    }
    compared("tokens.norm", &vit.final_norm(&x)?, vit.config().depth)
}
