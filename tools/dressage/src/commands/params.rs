//! `dressage params`.

use clap::builder::{PossibleValue, PossibleValuesParser};
use dressage_models::adapter::{AdapterConfig, LoraTargets, ReinConfig};
use dressage_models::backbone::{BackboneConfig, PUBLISHED, Published, Stage};
use dressage_models::params::ParamShape;
use dressage_models::weights::Family;
use dressage_models::{Method, SegmenterConfig, counts};

use crate::console::{grouped, print};
use crate::failure::Failure;

/// Count trained and frozen parameters, and compare them with the Rein paper
///
/// The counts come from the code that builds the networks, for 19 classes at 512 px; nothing is
/// allocated or loaded. A count that equals the paper's at its number of digits is followed by `=`.
#[derive(clap::Args)]
pub struct Args {
    /// Size of the backbone
    #[arg(long, default_value = ALL, value_parser = PossibleValuesParser::new(sizes()))]
    size: String,
}

/// Value of `--size` for every backbone.
const ALL: &str = "all";

/// Backbones to count for.
fn sizes() -> impl Iterator<Item = PossibleValue> {
    let published = PUBLISHED.iter().map(|p| PossibleValue::new(p.short).help(p.title()));
    published.chain([PossibleValue::new(ALL).help("All of these")])
}

/// Row of a table: a part, its number of parameters, and the paper's number in millions.
struct Row {
    what: String,
    count: usize,
    paper: Option<&'static str>,
}

fn row(what: impl Into<String>, count: usize, paper: Option<&'static str>) -> Row {
    Row { what: what.into(), count, paper }
}

/// The backbone for which the paper has counts.
const PAPER: &str = "dinov2-l";

/// Counts.
pub fn run(args: &Args) -> Result<(), Failure> {
    let wanted = |size: &str| args.size == size || args.size == ALL;
    let mut tables = Vec::new();
    for published in PUBLISHED {
        if wanted(published.short) {
            let backbone = published.at(16, 32);
            let mut rows = network(published, &backbone)?;
            rows.extend(adapters(backbone.stages(), published.name == PAPER)?);
            rows.extend(others(&backbone, published.name)?);
            let sizes = sizes_of(&backbone.stages());
            tables.push(table(&format!("{} ({sizes})", published.title()), &rows));
        }
    }
    print(&tables.join("\n"));
    Ok(())
}

/// Blocks and channels of a backbone in words.
fn sizes_of(stages: &[Stage]) -> String {
    let (blocks, widths): (Vec<_>, Vec<_>) = stages.iter().map(|s| (s.blocks, s.width)).unzip();
    match stages {
        [Stage { blocks, width }] => format!("{blocks} blocks of {width} channels"),
        _ => format!("stages of {blocks:?} blocks of {widths:?} channels"),
    }
}

fn rein(config: ReinConfig) -> Result<usize, Failure> {
    Ok(counts::adapter(&AdapterConfig::Rein(config))?)
}

/// The paper's counts of a backbone and of Rein on it, in millions. That of MAE, 330.94, includes
/// integer buffers (spec backbones §1.2).
fn in_paper(name: &str) -> [Option<&'static str>; 2] {
    match name {
        PAPER => [Some("304.20"), Some("2.99")],
        "clip-l" => [Some("304.15"), Some("2.99")],
        "mae-l" => [None, Some("2.99")],
        "eva02-l" => [Some("304.24"), Some("2.99")],
        "sam-h" => [Some("632.18"), Some("4.51")],
        _ => [None, None],
    }
}

/// Counts the parameters of the network by part.
fn network(published: &Published, backbone: &BackboneConfig) -> Result<Vec<Row>, Failure> {
    let count = |method| counts::network(SegmenterConfig::published(backbone.clone(), 19, method));
    let (with, plain) = (count(Method::Rein)?, count(Method::Freeze)?);
    let paper = |text| Some(text).filter(|_| published.name == PAPER);
    let [of_backbone, of_rein] = in_paper(published.name);
    let mut rows = vec![row("backbone", with.backbone, of_backbone)];
    if matches!(published.family, Family::Dinov2 | Family::Dinov3) {
        let count = with.backbone + backbone.widths()[0];
        rows.push(row("  + mask token of its pre-training", count, None));
    }
    if published.family == Family::ResNet {
        let shapes = counts::backbone(backbone.clone())?;
        let of_norms: Vec<usize> =
            shapes.values().filter(|p| p.kind.buffer).map(ParamShape::count).collect();
        // Each norm has two, and PyTorch counts its batches.
        let count = with.backbone + of_norms.iter().sum::<usize>() + of_norms.len() / 2;
        let in_paper = if published.size == "50" { "23.58" } else { "42.62" };
        rows.push(row("  + statistics of its norms", count, Some(in_paper)));
    }
    rows.extend([
        row("Rein", with.adapter, of_rein),
        row("head with queries from Rein", with.head, paper("20.6")),
        row("head with queries of its own", plain.head, paper("20.6")),
        row("trained, method rein", with.trained, None),
        row("trained, method freeze", plain.trained, None),
        row("trained, method full", count(Method::Full)?.trained, None),
    ]);
    Ok(rows)
}

/// Counts Rein from its first variant to the last, and by rank.
fn adapters(stages: Vec<Stage>, large: bool) -> Result<Vec<Row>, Failure> {
    let base = ReinConfig::of_stages(stages);
    let whole = ReinConfig { rank: 0, ..base.clone() };
    let core = ReinConfig { link: false, share: false, ..whole.clone() };
    let linked = ReinConfig { share: false, ..whole.clone() };
    let paper = |text| Some(text).filter(|_| large);
    let mut rows = vec![
        row("Rein, whole tokens, MLPs per layer, no link", rein(core)?, paper("52.84")),
        row("  + tokens linked to queries", rein(linked)?, paper("59.33")),
        row("  + layers share MLPs", rein(whole)?, paper("5.02")),
    ];
    let ranks = [(4, "2.67"), (8, "2.77"), (16, "2.99"), (32, "3.42"), (64, "4.28")];
    for (rank, text) in ranks {
        let count = rein(ReinConfig { rank, ..base.clone() })?;
        rows.push(row(format!("  + tokens of rank {rank}"), count, paper(text)));
    }
    let alone = rein(ReinConfig { link: false, ..base })?;
    rows.push(row("Rein, rank 16, MLPs shared, no link", alone, paper("2.53")));
    Ok(rows)
}

/// Counts the adapters beside Rein. LoRA has separate factors for the separate layers of EVA-02.
fn others(backbone: &BackboneConfig, name: &str) -> Result<Vec<Row>, Failure> {
    let paper = |of: &str, text| Some(text).filter(|_| name == of);
    let all = [
        ("LoRA, queries and values", Method::Lora, paper(PAPER, "0.79")),
        ("LoRA, queries, keys and values", Method::Lora, paper("eva02-l", "1.18")),
        ("AdaptFormer", Method::Adaptformer, paper(PAPER, "3.17")),
        ("VPT-deep", Method::Vpt, paper(PAPER, "3.69")),
    ];
    let mut rows = Vec::new();
    for (what, method, paper) in all {
        let adapter = method.adapter(backbone).filter(|adapter| backbone.takes(adapter).is_ok());
        let Some(mut adapter) = adapter else { continue };
        if let (AdapterConfig::Lora(lora), true) = (&mut adapter, what.contains("keys")) {
            lora.targets = LoraTargets::Qkv;
        }
        rows.push(row(what, counts::adapter(&adapter)?, paper));
    }
    Ok(rows)
}

fn table(title: &str, rows: &[Row]) -> String {
    let width = rows.iter().map(|r| r.what.chars().count()).max().unwrap_or(0);
    let mut text =
        format!("{title}\n{:width$}  {:>13}  {:>8}  {:>8}\n", "", "parameters", "M", "paper");
    for Row { what, count, paper } in rows {
        let published = paper.unwrap_or_default();
        let digits = published.split_once('.').map_or(0, |(_, d)| d.len());
        let millions = *count as f64 / 1e6;
        let mark = if format!("{millions:.digits$}") == published { " =" } else { "" };
        let line = format!(
            "{what:width$}  {:>13}  {millions:>8.2}  {published:>8}{mark}",
            grouped(*count)
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
