//! Conversion of published weights: patch kernels and position tables are resized on load (spec
//! backbones §3.3).

use dressage_engine::{DType, Tensor, ops};
use dressage_kernels::call::{Call, Host};
use dressage_kernels::ops::resize::{Axis, Forward, Mode, Resize, Step};

use super::families::{Family, Known, recognise};
use super::finite::finite;
use super::renaming::{own_names, usable};
use super::{StateDict, convnext, dinov3};
use crate::adapter::is_adapter;
use crate::backbone::published::families;
use crate::backbone::{BackboneConfig, PositionTable, Stage, Stem};
use crate::{ModelError, Result};

/// Resizes `maps` maps `[from[0], from[1], c]` to the size `to`.
fn resized(
    x: &Tensor,
    maps: usize,
    from: [usize; 2],
    to: [usize; 2],
    c: usize,
    mode: Mode,
) -> Result<Tensor> {
    let rows = Axis::new(from[0], to[0], mode, Step::Size)?;
    let cols = Axis::new(from[1], to[1], mode, Step::Size)?;
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
        [c, 3, p, q] if p == q && p == patch => Ok(ops::reshape(kernel, &[c, 3, p, q])?),
        [c, 3, p, q] if p == q => {
            let y = resized(kernel, 3 * c, [p, p], [patch, patch], 1, Mode::Bicubic)?;
            Ok(ops::reshape(&y, &[c, 3, patch, patch])?)
        }
        _ => Err(ModelError::Config(format!(
            "patch_embed.proj.weight is {:?}, expected [c, 3, p, p]",
            kernel.shape()
        ))),
    }
}

/// Resizes a position table to `grid` patches a side, to the given size.
///
/// A table `[1, 1 + g*g, c]` keeps its first row; a table `[1, g, g, c]` has no row for a class
/// token. The grid is resized bilinearly for CLIP, else bicubically.
///
/// # Errors
/// If the table is not a class row and a square grid, or not a square map.
pub fn resize_pos_embed(table: &Tensor, grid: usize, positions: PositionTable) -> Result<Tensor> {
    let mode = match positions {
        PositionTable::Bilinear => Mode::Bilinear,
        _ => Mode::Bicubic,
    };
    let (class, g, c) = match *table.shape() {
        [1, g, w, c] if g == w && g > 0 => (0, g, c),
        [1, n, c] if n > 1 && (n - 1).isqrt().pow(2) == n - 1 => (1, (n - 1).isqrt(), c),
        _ => {
            return Err(ModelError::Config(format!(
                "pos_embed is {:?}, expected [1, 1 + g*g, c] or [1, g, g, c] with a square grid",
                table.shape()
            )));
        }
    };
    if g == grid {
        return Ok(table.clone());
    }
    let rows = ops::reshape(table, &[class + g * g, c])?;
    let map = resized(&ops::rows(&rows, class, g * g)?, 1, [g, g], [grid, grid], c, mode)?;
    if class == 0 {
        return Ok(map);
    }
    let mut y = Tensor::empty::<f32>(&[1, 1 + grid * grid, c]);
    let out = y.data_mut::<f32>()?;
    out[..c].copy_from_slice(&table.data::<f32>()?[..c]);
    out[c..].copy_from_slice(map.data()?);
    Ok(y)
}

/// End of the names of the counters of batches, which a fixed momentum does not need.
pub(super) const BATCHES: &str = ".num_batches_tracked";

/// Converts published weights of a backbone to the names and shapes of its network, with prefix
/// `backbone.`. Patch kernel and position table are resized.
///
/// # Errors
/// A backbone of a family without a network; a kernel or table of another form; a bias of DINOv3's
/// keys without a mask that hides it. Other misfits are found when the network is built.
pub fn convert_backbone(mut weights: StateDict, config: &BackboneConfig) -> Result<StateDict> {
    weights.retain(|name| !name.ends_with(BATCHES));
    let mut dict = match recognise(&weights) {
        None if weights
            .names()
            .any(|n| n.starts_with("decode_head.") || is_adapter(n) || n.contains("reins.")) =>
        {
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
        Some(known) => {
            let mut dict = own_names(weights, &known)?;
            match (known.family, config) {
                (Family::Dinov3, BackboneConfig::Vit(vit)) => {
                    dinov3::complete(&mut dict, vit, known.names)?;
                }
                (Family::ConvNeXt, BackboneConfig::ConvNext(sizes)) => {
                    convnext::complete(&mut dict, sizes);
                }
                _ => {}
            }
            dict
        }
    };
    for name in config.unused() {
        if let Some(unused) = dict.take(name) {
            usable(name, &unused, dict.origin())?;
        }
    }
    if let Some(vit) = config.vit() {
        for (name, rank) in [("cls_token", 3), ("pos_embed", vit.table_shape().len())] {
            if let Some(tensor) = dict.take(name) {
                dict.insert(name, tensor.with_rank(rank));
            }
        }
        sized(&mut dict, "patch_embed.proj.weight", &|t| resize_patch_kernel(t, vit.patch))?;
        sized(&mut dict, "pos_embed", &|t| resize_pos_embed(t, vit.grid, vit.positions))?;
    }
    Ok(dict.renamed("", "backbone."))
}

/// Whether networks of `family` are transformers, ResNets or ConvNeXts like that of `config`.
fn same_kind(family: Family, config: &BackboneConfig) -> bool {
    match family {
        Family::ResNet => matches!(config, BackboneConfig::ResNet(_)),
        Family::ConvNeXt => matches!(config, BackboneConfig::ConvNext(_)),
        _ => config.vit().is_some(),
    }
}

/// Refuses weights of a published size for a network of another size. The message is shorter than
/// the list of all shapes that differ.
///
/// # Errors
/// A backbone of another published size than `config`; another number of heads than the file's own
/// configuration declares. No shape shows the number of heads.
pub fn same_size(weights: &StateDict, config: &BackboneConfig) -> Result<()> {
    let vit = config.vit();
    let heads = vit.map(|vit| vit.heads).zip(weights.declared().and_then(|d| d.heads));
    if let Some((own, heads)) = heads.filter(|(own, heads)| own != heads) {
        let difference = format!("its config.json declares {heads} heads, the network has {own}");
        return Err(misfit(weights, difference));
    }
    let Some(known) = recognise(weights) else { return Ok(()) };
    let Some(published) = known.published() else {
        if same_kind(known.family, config) {
            return Ok(());
        }
        let difference = format!(
            "it holds {}, the network is of another family; name another file",
            known.title()
        );
        return Err(misfit(weights, difference));
    };
    let gated = vit.is_some_and(|vit| vit.ffn.gated());
    let same_sizes = known.has_sizes(config) && known.gated == gated;
    let alike = match (vit, published.config.vit()) {
        (Some(own), Some(theirs)) => own.is_like(theirs),
        (own, theirs) => own.is_none() && theirs.is_none(),
    };
    if let (true, BackboneConfig::ResNet(own)) = (same_sizes, config)
        && own.stem != known.stem()
    {
        let (theirs, stem) = match known.stem() {
            Stem::Single => ("one 7x7 convolution", "single"),
            Stem::Deep => ("three 3x3 convolutions", "deep"),
        };
        let difference = format!(
            "it holds {} whose stem is {theirs}; set model.stem to {stem}, or name another file",
            known.title()
        );
        return Err(misfit(weights, difference));
    }
    if same_sizes && alike {
        return Ok(());
    }
    let what = match same_sizes {
        true => "the network is of another family".into(),
        false => {
            let forms = if known.gated == gated { "" } else { ", with other MLPs" };
            format!("the network has {}{forms}", of_stages(&config.stages()))
        }
    };
    let difference = format!(
        "it holds {} ({}), {what}; set model.backbone to {}, or name another file",
        known.title(),
        known_sizes(&known),
        published.name
    );
    Err(misfit(weights, difference))
}

/// Blocks and channels of a network, for a message.
fn of_stages(stages: &[Stage]) -> String {
    let (blocks, widths): (Vec<_>, Vec<_>) = stages.iter().map(|s| (s.blocks, s.width)).unzip();
    match stages {
        [Stage { blocks, width }] => format!("{blocks} blocks of {width}"),
        _ => format!("stages of {blocks:?} blocks of {widths:?}"),
    }
}

/// Blocks and channels in a file, for a message.
fn known_sizes(known: &Known) -> String {
    match known.blocks[..] {
        [blocks] => format!("{blocks} blocks of {} channels", known.width),
        ref blocks => format!("stages of {blocks:?} blocks, the first of {} channels", known.width),
    }
}

pub(super) fn misfit(weights: &StateDict, difference: String) -> ModelError {
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
    let in_file = |text: String| text.replace(name, &dict.name_in_file(name));
    let made = f(&t).map_err(|error| misfit(dict, in_file(error.to_string())))?;
    if made.shape() != t.shape() {
        dict.insert(name, made);
    }
    Ok(())
}
