//! `dressage weights inspect`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dressage_models::backbone::published::families;
use dressage_models::weights::{HeadIn, Known, StateDict, part_of, recognise, shown};
use serde_json::{Value, json};

use crate::console::{grouped, print};
use crate::failure::Failure;

/// Show what a file contains: its form, its wrappers, the backbone, and every tensor
#[derive(clap::Args)]
pub struct Args {
    /// File of weights, index of shards, or folder
    file: PathBuf,

    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Inspects.
pub fn run(args: &Args) -> Result<(), Failure> {
    // A file of several networks is shown unchanged.
    let dict = StateDict::open_network(&args.file).or_else(|_| StateDict::open(&args.file))?;
    let files = dict.source().map_or(&[][..], |source| &source.files);
    let bytes = files.iter().filter_map(|file| Some(std::fs::metadata(file).ok()?.len())).sum();
    let text = match args.json {
        true => format!("{:#}", as_json(&dict, bytes)),
        false => as_text(&dict, bytes),
    };
    print(&text);
    Ok(())
}

/// Returns the sizes of the Rein adapter in a checkpoint, of each stage if the backbone has several.
fn adapters(dict: &StateDict) -> Vec<[usize; 4]> {
    match adapter(dict, "backbone.reins.") {
        Some(whole) => vec![whole],
        None => (0..).map_while(|i| adapter(dict, &format!("backbone.reins.{i}."))).collect(),
    }
}

/// Returns layers, tokens, rank (0 for whole tokens) and channels of the Rein tensors with a prefix.
fn adapter(dict: &StateDict, prefix: &str) -> Option<[usize; 4]> {
    let shape = |name: &str| Some(dict.get(&format!("{prefix}{name}"))?.shape().to_vec());
    match (shape("learnable_tokens_a"), shape("learnable_tokens_b"), shape("learnable_tokens")) {
        (Some(a), Some(b), _) if a.len() == 3 && b.len() == 3 => Some([a[0], a[1], a[2], b[2]]),
        (_, _, Some(t)) if t.len() == 3 => Some([t[0], t[1], 0, t[2]]),
        _ => None,
    }
}

fn known_as_text(known: &Known) -> String {
    let table = match known.grid {
        0 => String::new(),
        g => format!(", positions of {g}x{g} patches"),
    };
    let used = match (known.recipe_name(), known.closest()) {
        (Some(name), _) => format!("; model.backbone is {name}"),
        (None, Some(closest)) => {
            let name = closest.name;
            format!("; of no published size: set model.backbone={name} and sizes of its own")
        }
        (None, None) => {
            format!("; networks exist for {} only, so nothing can be trained on it", families())
        }
    };
    format!("{}, {}{table}{used}", known.title(), known.names)
}

/// Describes the parts of the weights, one line each.
fn parts(dict: &StateDict) -> Vec<String> {
    let mut parts = Vec::new();
    parts.extend(recognise(dict).map(|known| known_as_text(&known)));
    for [layers, tokens, rank, channels] in adapters(dict) {
        let rank = if rank > 0 { format!(" of rank {rank}") } else { String::new() };
        parts.push(format!("Rein, {layers} layers of {channels} channels, {tokens} tokens{rank}"));
    }
    if let Some(head) = HeadIn::of(dict) {
        let classes = head.classes().map(|n| format!(", {n} classes"));
        parts.push(format!("{}{}", head.title(), classes.unwrap_or_default()));
    }
    if parts.is_empty() {
        parts.push(format!(
            "no known backbone; the names of its tensors are {}",
            dict.first_names()
        ));
    }
    parts
}

fn as_text(dict: &StateDict, bytes: u64) -> String {
    let mut text = format!("{}\n", dict.origin());
    let mut line = |what: &str, words: &str| text.push_str(&format!("{what:<12}{words}\n"));
    if let Some(source) = dict.source() {
        let files = match source.files.len() {
            0 | 1 => String::new(),
            n => format!(" in {n} files"),
        };
        let bytes = grouped(bytes as usize);
        line("form", &format!("{}{files}, {bytes} bytes", source.container));
        let name = source.files.first().and_then(|file| file.file_name()).unwrap_or_default();
        if source.files.len() == 1
            && let Some((part, of)) = part_of(&name.to_string_lossy())
        {
            line("part", &format!("{part} of {of}"));
        }
        if !source.wrapper.is_empty() {
            line("inside", &source.wrapper.join(" > "));
        }
        for (name, class) in &source.skipped {
            line("skipped", &format!("{name}: {class}"));
        }
    }
    let parts = parts(dict);
    parts.iter().enumerate().for_each(|(i, part)| line(if i == 0 { "holds" } else { "" }, part));
    for (name, value) in dict.metadata() {
        line("note", &format!("{}: {}", shown(name), shown(value)));
    }
    let mut kinds = BTreeMap::<String, usize>::new();
    dict.iter().for_each(|(_, t)| *kinds.entry(t.kind().to_string()).or_default() += 1);
    let kinds: Vec<String> = kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    let values: usize = dict.iter().map(|(_, t)| t.len()).sum();
    let n = dict.len();
    if let Err(error) = dict.check_end() {
        line("warning", &error.to_string());
    }
    line("tensors", &format!("{n} ({}), {} values", kinds.join(", "), grouped(values)));
    text.push('\n');
    let width = dict.names().map(|name| shown(name).chars().count()).max().unwrap_or(0);
    for (name, t) in dict.iter() {
        let (name, kind, shape) = (shown(name), t.kind().to_string(), t.shape());
        text.push_str(&format!("{name:width$}  {kind:<4}  {shape:?}\n"));
    }
    text
}

fn as_json(dict: &StateDict, bytes: u64) -> Value {
    let known = recognise(dict).map(|k| {
        json!({
            "title": k.title(),
            "names": k.names,
            "prefix": k.prefix,
            "recipe_name": k.recipe_name(),
            "width": k.width,
            "blocks": k.blocks,
            "patch": k.patch,
            "grid": k.grid,
            "registers": k.registers,
        })
    });
    let rein = adapters(dict).into_iter().map(|[layers, tokens, rank, channels]| {
        json!({ "layers": layers, "tokens": tokens, "rank": rank, "channels": channels })
    });
    let rein = match &rein.collect::<Vec<Value>>()[..] {
        [] => Value::Null,
        [one] => one.clone(),
        stages => json!(stages),
    };
    let source = dict.source();
    let skipped = source.map(|s| s.skipped.as_slice()).unwrap_or_default();
    let skipped: Vec<Value> =
        skipped.iter().map(|(name, class)| json!({ "name": name, "class": class })).collect();
    let tensors: Vec<Value> = dict
        .iter()
        .map(|(name, t)| json!({"name": name, "type": t.kind().to_string(), "shape": t.shape()}))
        .collect();
    json!({
        "file": dict.origin(),
        "bytes": bytes,
        "container": source.map(|s| s.container.to_string()),
        "wrapper": source.map(|s| s.wrapper.clone()),
        "skipped": skipped,
        "backbone": known,
        "rein": rein,
        "head": HeadIn::of(dict).is_some(),
        "metadata": dict.metadata(),
        "tensors": tensors,
    })
}
