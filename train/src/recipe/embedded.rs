//! Recipes that are embedded in the program.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use toml::{Table, Value};

/// A recipe that is embedded in the program.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// Name, as given to `dressage train`.
    pub name: String,
    /// Its TOML.
    text: String,
    /// Published mIoU by table of the paper, `figure-4` or `later` (work after the paper).
    pub paper: BTreeMap<String, String>,
}

impl Embedded {
    /// The recipe's own line on what it trains.
    pub fn about(&self) -> String {
        let table = toml::from_str::<Table>(&self.text).unwrap_or_default();
        table.get("about").and_then(Value::as_str).unwrap_or_default().to_owned()
    }
}

/// A group of the list of recipes: the key of `paper`, and a title with the meaning of the numbers.
pub const GROUPS: &[(&str, &str)] = &[
    ("1", "Table 1: frozen backbones"),
    ("2", "Table 2: backbones"),
    ("3", "Table 3: Cityscapes to ACDC, mIoU of each condition on the test server"),
    ("4", "Table 4: parameter-efficient methods"),
    ("6", "Table 6: parts of Rein, mIoU on Cityscapes"),
    ("7", "Table 7: Cityscapes to BDD100K / Mapillary = mean"),
    ("8", "Table 8: smaller backbones, mean mIoU"),
    ("9", "Table 9: rank of the tokens on DINOv2-L, mean mIoU"),
    ("12", "Table 12: rank of the tokens on EVA02-L, mean mIoU"),
    ("14", "Table 14: semantic FPN as head"),
    ("15", "Table 15: backbones under one head"),
    ("figure-4", "Figure 4: number of tokens on DINOv2-L, mean mIoU"),
    ("later", "After the paper, with their own protocols"),
];

/// Recipes with a file of their own.
const FILES: [(&str, &str); 2] = [
    ("demo", include_str!("embedded/demo.toml")),
    ("tracks", include_str!("embedded/tracks.toml")),
];

/// The tables of the paper, and parts that recipes extend.
static TABLES: LazyLock<BTreeMap<String, Embedded>> = LazyLock::new(|| {
    let tables: Table = toml::from_str(include_str!("embedded/tables.toml")).unwrap_or_default();
    let entry = |(name, value): (String, Value)| {
        let Value::Table(mut table) = value else { return None };
        let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
        let paper = match table.remove("paper") {
            Some(Value::Table(paper)) => paper.into_iter().map(|(k, v)| (k, text(v))).collect(),
            _ => BTreeMap::new(),
        };
        let text = toml::to_string(&table).ok()?;
        Some((name.clone(), Embedded { name, text, paper }))
    };
    tables.into_iter().filter_map(entry).collect()
});

/// All recipes that can be trained, in the order of listing.
pub static EMBEDDED: LazyLock<Vec<Embedded>> = LazyLock::new(|| {
    let file = |(name, text): (&str, &str)| Embedded {
        name: name.to_owned(),
        text: text.to_owned(),
        paper: BTreeMap::new(),
    };
    let rows = TABLES.values().filter(|recipe| !recipe.paper.is_empty()).cloned();
    FILES.into_iter().map(file).chain(rows).collect()
});

/// The TOML of a recipe, or of a part that others extend.
pub(super) fn text(name: &str) -> Option<&'static str> {
    let file = FILES.iter().find(|(file, _)| *file == name).map(|(_, text)| *text);
    file.or_else(|| TABLES.get(name).map(|recipe| recipe.text.as_str()))
}
