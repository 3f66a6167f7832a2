//! Conversion of published weights: patch kernels and position tables are resized on load (spec
//! backbones §3.3).

use dressage_engine::{DType, Tensor};
use dressage_kernels::call::{Call, Host};
use dressage_kernels::ops::resize::{Axis, Forward, Mode, Resize, Step};

use super::StateDict;
use super::families::recognise;
use super::finite::finite;
use super::renaming::own_names;
use crate::backbone::published::families;
use crate::backbone::{BackboneConfig, UNUSED};
use crate::{ModelError, Result};

fn bicubic(x: &Tensor, maps: usize, from: [usize; 2], to: [usize; 2], c: usize) -> Result<Tensor> {
    let rows = Axis::new(from[0], to[0], Mode::Bicubic, Step::Size)?;
    let cols = Axis::new(from[1], to[1], Mode::Bicubic, Step::Size)?;
    let mut y = Tensor::empty::<f32>(&[maps, to[0], to[1], c]);
    let operands = Forward::<Host, f32> { x: x.data()?, y: y.data_mut()? };
    operands.run(&Resize { n: maps, c, y: rows, x: cols })?;
    Ok(y)
}

/// Resizes a patch kernel `[c, 3, p, p]` to `[c, 3, patch, patch]`: bicubic with a = -0.75, per
/// pair of channels. The sum is not renormalised.
///
/// # Errors
/// If the kernel is not a square four-dimensional one.
pub fn resize_patch_kernel(kernel: &Tensor, patch: usize) -> Result<Tensor> {
    match *kernel.shape() {
        [c, 3, p, q] if p == q && p == patch => {
            Ok(dressage_engine::ops::reshape(kernel, &[c, 3, p, q])?)
        }
        [c, 3, p, q] if p == q => {
            let y = bicubic(kernel, 3 * c, [p, p], [patch, patch], 1)?;
            Ok(dressage_engine::ops::reshape(&y, &[c, 3, patch, patch])?)
        }
        _ => Err(ModelError::Config(format!(
            "patch_embed.proj.weight is {:?}, expected [c, 3, p, p]",
            kernel.shape()
        ))),
    }
}

/// Resizes a position table `[1, 1 + g*g, c]` to `[1, 1 + grid*grid, c]`. The first row does not
/// change; the grid is resized bicubically to the given size.
///
/// # Errors
/// If the table is not a class row and a square grid.
pub fn resize_pos_embed(table: &Tensor, grid: usize) -> Result<Tensor> {
    let wrong = || {
        ModelError::Config(format!(
            "pos_embed is {:?}, expected [1, 1 + g*g, c] with a square grid",
            table.shape()
        ))
    };
    let &[1, n, c] = table.shape() else { return Err(wrong()) };
    let g = (n.saturating_sub(1) as f64).sqrt().round() as usize;
    if n < 2 || g * g + 1 != n {
        return Err(wrong());
    }
    if g == grid {
        return Ok(table.clone());
    }
    let map =
        dressage_engine::ops::rows(&dressage_engine::ops::reshape(table, &[n, c])?, 1, n - 1)?;
    let map = bicubic(&map, 1, [g, g], [grid, grid], c)?;
    let mut y = Tensor::empty::<f32>(&[1, 1 + grid * grid, c]);
    let out = y.data_mut::<f32>()?;
    out[..c].copy_from_slice(&table.data::<f32>()?[..c]);
    out[c..].copy_from_slice(map.data()?);
    Ok(y)
}

/// Converts published weights of a backbone to the reference's names, with prefix `backbone.`. Patch kernel and position table are resized.
///
/// # Errors
/// A backbone of a family without a network; a kernel or table of another form. Other misfits are found when
/// the network is built.
pub fn convert_backbone(weights: StateDict, patch: usize, grid: usize) -> Result<StateDict> {
    let weights = match recognise(&weights) {
        None if weights.names().any(|n| n.starts_with("decode_head.") || n.contains("reins.")) => {
            let difference = "it holds an adapter or a head without a backbone; name it in \
                              model.checkpoint, and the backbone's own file in model.weights";
            return Err(misfit(&weights, difference.into()));
        }
        // Unknown names are compared with those of the network later.
        None => weights,
        Some(known) if !known.has_network() => {
            let difference = format!(
                "it holds {}, but networks exist for {1} only; name a checkpoint of {1}",
                known.title(),
                families()
            );
            return Err(misfit(&weights, difference));
        }
        Some(known) => own_names(weights, &known)?,
    };
    let mut dict = weights.renamed("", "backbone.");
    for name in UNUSED {
        // Values that are not finite show a broken file even in a tensor that is not used.
        if let Some(unused) = dict.take(&format!("backbone.{name}"))
            && let Some(t) = unused.checked_float(DType::F32)?
        {
            finite(name, &unused, dict.origin(), &t)?;
        }
    }
    sized(&mut dict, "backbone.patch_embed.proj.weight", &|t| resize_patch_kernel(t, patch))?;
    sized(&mut dict, "backbone.pos_embed", &|t| resize_pos_embed(t, grid))?;
    Ok(dict)
}

/// Refuses weights of a published size for a network of another size. The message is shorter than
/// the list of all shapes that differ.
///
/// # Errors
/// A backbone of another published size than `config`; another number of heads than the file's own
/// configuration declares. No shape shows the number of heads.
pub fn same_size(weights: &StateDict, config: &BackboneConfig) -> Result<()> {
    let BackboneConfig::Vit(config) = config;
    if let Some(heads) = weights.declared().and_then(|d| d.heads).filter(|n| *n != config.heads) {
        let own = config.heads;
        let difference = format!("its config.json declares {heads} heads, the network has {own}");
        return Err(misfit(weights, difference));
    }
    let Some(known) = recognise(weights) else { return Ok(()) };
    let same = known.width == config.embed_dim && known.blocks == [config.depth];
    let Some(name) = known.recipe_name().filter(|_| !same) else { return Ok(()) };
    let difference = format!(
        "it holds {} ({} blocks of {} channels), the network has {} blocks of {}; set \
         model.backbone to {name}, or name another file",
        known.title(),
        known.blocks[0],
        known.width,
        config.depth,
        config.embed_dim
    );
    Err(misfit(weights, difference))
}

fn misfit(weights: &StateDict, difference: String) -> ModelError {
    let (source_name, network) = (weights.origin().to_string(), "the network".into());
    ModelError::Mismatch { source_name, network, difference }
}

/// Replaces a tensor by the result of `f`. An error names the file.
fn sized(dict: &mut StateDict, name: &str, f: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<()> {
    // A tensor that is missing or has no floats is reported with all others when the network is
    // built.
    let Some(stored) = dict.get(name) else { return Ok(()) };
    let Some(t) = stored.checked_float(DType::F32)? else { return Ok(()) };
    // Resizing would spread such a value to many others that are not in a file.
    finite(name, stored, dict.origin(), &t)?;
    let made = f(&t).map_err(|error| misfit(dict, error.to_string()))?;
    if made.shape() != t.shape() {
        dict.insert(name, made);
    }
    Ok(())
}
