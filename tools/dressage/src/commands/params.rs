//! `dressage params`.

use clap::builder::{PossibleValue, PossibleValuesParser};
use dressage_models::adapter::{AdapterConfig, ReinConfig};
use dressage_models::backbone::{PUBLISHED, VitConfig};
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
            let (n, c) = (backbone.depth, backbone.embed_dim);
            let large = published.name == PAPER;
            let mut rows = network(&backbone, large)?;
            rows.extend(adapters(n, c, large)?);
            let title = published.title();
            tables.push(table(&format!("{title} ({n} blocks of {c} channels)"), &rows));
        }
    }
    print(&tables.join("\n"));
    Ok(())
}

fn rein(config: ReinConfig) -> Result<usize, Failure> {
    Ok(counts::adapter(&AdapterConfig::Rein(config))?)
}

/// Counts the parameters of the network by part.
fn network(backbone: &VitConfig, large: bool) -> Result<Vec<Row>, Failure> {
    let count = |method| counts::network(SegmenterConfig::published(backbone.clone(), 19, method));
    let (with, plain) = (count(Method::Rein)?, count(Method::Freeze)?);
    let paper = |text| Some(text).filter(|_| large);
    Ok(vec![
        row("backbone", with.backbone, paper("304.20")),
        row("  + mask token of its pre-training", with.backbone + backbone.embed_dim, None),
        row("Rein", with.adapter, paper("2.99")),
        row("head with queries from Rein", with.head, paper("20.6")),
        row("head with queries of its own", plain.head, paper("20.6")),
        row("trained, method rein", with.trained, None),
        row("trained, method freeze", plain.trained, None),
        row("trained, method full", count(Method::Full)?.trained, None),
    ])
}

/// Counts Rein from its first variant to the last, and by rank.
fn adapters(layers: usize, c: usize, large: bool) -> Result<Vec<Row>, Failure> {
    let base = ReinConfig::published(layers, c);
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
