//! `dressage weights diff`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use dressage_models::backbone::published::named;
use dressage_models::backbone::{BackboneConfig, PUBLISHED, Published, VitConfig};
use dressage_models::objective::ObjectiveConfig;
use dressage_models::objective::deconv::DeconvConfig;
use dressage_models::objective::per_pixel::PerPixelConfig;
use dressage_models::objective::semfpn::SemFpnConfig;
use dressage_models::weights::{
    Difference, Fitted, HeadIn, StateDict, convert_backbone, fitted, recognise, refuse_part,
};
use dressage_models::{Method, SegmenterConfig, counts};
use dressage_train::checkpoint;

use crate::console::print;
use crate::failure::Failure;

/// Compare a file with a backbone: what is missing, left over or of another shape
///
/// Names of other publishers are translated first, and patch kernel and position table resized, as
/// training does. A checkpoint of Rein is compared with the adapter and head on that backbone. Ends
/// with exit code 1 if there is a difference.
#[derive(clap::Args)]
pub struct Args {
    /// File of weights, index of shards, or folder
    file: PathBuf,

    /// Backbone to compare with
    #[arg(value_parser = PossibleValuesParser::new(plain().chain(with_registers())))]
    backbone: String,
}

fn plain() -> impl Iterator<Item = &'static str> {
    PUBLISHED.iter().map(|published| published.name)
}

fn with_registers() -> impl Iterator<Item = &'static str> {
    PUBLISHED.iter().filter_map(|published| Some(published.registers?.0))
}

/// Returns the backbone of this name, or of the variant with registers that has this name.
fn backbone(name: &str) -> Result<BackboneConfig, Failure> {
    let variant = |p: &'static Published| {
        let registers = p.registers.filter(|r| r.0 == name)?.1;
        let vit = p.config.vit()?.at(PATCH, GRID);
        Some(BackboneConfig::Vit(VitConfig { registers, ..vit }))
    };
    match PUBLISHED.iter().find_map(variant) {
        Some(config) => Ok(config),
        None => Ok(named(name)?.at(PATCH, GRID)),
    }
}

/// Patch side in pixels, and side of the position table in patches, for the comparison of shapes.
const PATCH: usize = 16;
const GRID: usize = 32;

/// Compares.
pub fn run(args: &Args) -> Result<(), Failure> {
    let config = backbone(&args.backbone)?;
    refuse_part(&args.file)?;
    let dict = StateDict::open_network(&args.file)?;
    let known = recognise(&dict).map(|known| format!("; it holds {}", known.title()));
    let (dict, wanted, what) = match HeadIn::of(&dict) {
        Some(head) => trained(dict, head, config, &args.backbone)?,
        None => (
            convert_backbone(dict, &config)?.renamed("backbone.", ""),
            shapes(config)?,
            args.backbone.clone(),
        ),
    };
    let difference = Difference::of(&dict, &wanted);
    let lines = difference.lines();
    if lines.is_empty() {
        print(&format!("{} fits {what}: {} tensors", dict.origin(), wanted.len()));
        return Ok(());
    }
    print(&lines.join("\n"));
    let count = |n: usize, what: &str| (n > 0).then(|| format!("{n} {what}"));
    let counts = [
        count(difference.missing.len(), "missing"),
        count(difference.reshaped.len(), "of another shape"),
        count(difference.integers.len(), "with integers"),
        count(difference.left_over.len(), "left over"),
    ];
    let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let strangers = difference.strangers(&dict).map(|words| format!("; {words}"));
    let instead = known.or(strangers).unwrap_or_default();
    Err(Failure::Message(format!("{} does not fit {what}: {counts}{instead}", dict.origin())))
}

type Shapes = BTreeMap<String, Vec<usize>>;

fn shapes(config: BackboneConfig) -> Result<Shapes, Failure> {
    let shapes = counts::backbone(config)?;
    Ok(shapes.into_iter().map(|(name, param)| (name, param.shape)).collect())
}

/// Returns adapter and head of a checkpoint, with the published shapes for its number of classes.
fn trained(
    dict: StateDict,
    head: HeadIn,
    backbone: BackboneConfig,
    name: &str,
) -> Result<(StateDict, Shapes, String), Failure> {
    let rein = dict.names().any(|name| name.starts_with("backbone.reins."));
    let classes = head.classes().filter(|n| *n > 0).unwrap_or(19);
    let method = if rein { Method::Rein } else { Method::Freeze };
    let mut config = SegmenterConfig::published(backbone, classes, method);
    let of_queries = matches!(head, HeadIn::Mask2Former { .. });
    match (head, &mut config.objective) {
        (HeadIn::PerPixel { .. }, objective) => {
            let in_channels = config.backbone.widths().to_vec();
            *objective = ObjectiveConfig::PerPixel(PerPixelConfig { in_channels, classes });
        }
        (HeadIn::Deconv { width, .. }, objective) => {
            let in_channels = config.backbone.widths().to_vec();
            *objective = ObjectiveConfig::Deconv(DeconvConfig { in_channels, width, classes });
        }
        (HeadIn::SemFpn { neck, channels, .. }, objective) => {
            let published = SemFpnConfig::published(config.backbone.widths(), classes);
            *objective = ObjectiveConfig::SemFpn(SemFpnConfig { neck, channels, ..published });
        }
        (HeadIn::Mask2Former { mask_width, .. }, ObjectiveConfig::Mask2Former { head, .. }) => {
            head.mask_width = mask_width.filter(|n| *n > 0).unwrap_or(head.mask_width);
        }
        _ => {}
    }
    // Other heads have no queries that Rein could make.
    if let (false, Some(rein)) = (of_queries, config.rein_mut()) {
        rein.link = false;
    }
    let Fitted { dict, wanted, .. } = fitted(checkpoint::trained(dict), &config)?;
    let adapter = if rein { "Rein and" } else { "a" };
    let head = match head {
        HeadIn::Mask2Former { .. } => "head",
        other => other.title(),
    };
    Ok((dict, wanted, format!("{adapter} {head} on {name}, {classes} classes")))
}
