//! Differences between two recipes, key by key.

use std::collections::{BTreeMap, BTreeSet};

use toml::Value;

use super::Recipe;
use super::bearing::{Bearing, bearing};
use super::keys::find;
use super::resolve::pattern;

/// A key with two values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Dotted path, such as `data.eval.0.crop`; that of the list entry if one recipe lacks the
    /// entry.
    pub key: String,
    /// Influence of the key.
    pub bearing: Bearing,
    /// The first value, as TOML.
    pub before: String,
    /// The second value, as TOML.
    pub now: String,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (before {}, now {})", self.key, self.before, self.now)
    }
}

/// All keys whose values differ between `before` and `now`, sorted by name.
pub fn changes(before: &Recipe, now: &Recipe) -> Vec<Change> {
    let table = |recipe: &Recipe| Value::try_from(recipe).ok();
    let mut found = Vec::new();
    compare("", table(before).as_ref(), table(now).as_ref(), &mut found);
    found
}

fn compare(path: &str, before: Option<&Value>, now: Option<&Value>, found: &mut Vec<Change>) {
    let inside = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    let key = find(&pattern(path)).is_some();
    match (before, now) {
        (Some(Value::Table(before)), Some(Value::Table(now))) if !key => {
            let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
            for name in names {
                compare(&inside(name), before.get(name), now.get(name), found);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(now))) if !key => {
            for i in 0..before.len().max(now.len()) {
                compare(&inside(&i.to_string()), before.get(i), now.get(i), found);
            }
        }
        (before, now) if before != now => {
            let (key, bearing) = (path.to_owned(), bearing(path));
            found.push(Change { key, bearing, before: shown(before), now: shown(now) });
        }
        _ => {}
    }
}

/// A value as TOML; for a data set its name.
fn shown(value: Option<&Value>) -> String {
    match value {
        None => "none".to_owned(),
        Some(Value::Table(table)) if table.contains_key("name") => table["name"].to_string(),
        Some(value) => value.to_string().trim().to_owned(),
    }
}

/// Values of all keys that affect the network and its training, as TOML, by dotted path. Storage
/// precision is left out: training may continue from a state elsewhere.
pub fn settings(recipe: &Recipe) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    if let Ok(value) = Value::try_from(recipe) {
        collect("", &value, &mut found);
    }
    found
}

fn collect(path: &str, value: &Value, found: &mut BTreeMap<String, String>) {
    let inside = |name: &str| if path.is_empty() { name.into() } else { format!("{path}.{name}") };
    match value {
        value if find(&pattern(path)).is_some() => {
            let counts = matches!(bearing(path), Bearing::Network | Bearing::Learning);
            let value = counts.then(|| shown(Some(value)));
            found.extend(value.map(|value| (path.to_owned(), value)));
        }
        Value::Table(table) => {
            table.iter().for_each(|(name, value)| collect(&inside(name), value, found));
        }
        Value::Array(list) => {
            let named = list.iter().enumerate();
            named.for_each(|(i, value)| collect(&inside(&i.to_string()), value, found));
        }
        _ => {}
    }
}

/// Differences between earlier `settings` and those of `now`. Keys that did not exist then are
/// ignored.
pub(crate) fn changed_settings(before: &BTreeMap<String, String>, now: &Recipe) -> Vec<Change> {
    let now = settings(now);
    let known: BTreeSet<String> = before.keys().map(|key| pattern(key)).collect();
    let new = now.keys().filter(|key| !before.contains_key(*key) && known.contains(&pattern(key)));
    let none = || "none".to_owned();
    let has = |settings: &BTreeMap<String, String>, entry: &str| {
        settings.keys().any(|key| key.starts_with(entry))
    };
    let change = |key: &String| {
        let value = |settings: &BTreeMap<String, String>, key: &str| {
            settings.get(key).cloned().unwrap_or_else(none)
        };
        // A list entry that only one of the two has is one change, shown by its name.
        let whole = entry_of(key).filter(|entry| has(before, entry) != has(&now, entry));
        let named = whole.map_or_else(|| key.clone(), |entry| format!("{entry}name"));
        let key = whole.map_or(key.as_str(), |entry| entry.trim_end_matches('.')).to_owned();
        let (before, now) = (value(before, &named), value(&now, &named));
        Change { bearing: bearing(&key), key, before, now }
    };
    let differs = |key: &&String| before.get(*key) != now.get(*key);
    let mut all: Vec<Change> = before.keys().filter(differs).chain(new).map(change).collect();
    all.dedup();
    all
}

/// The list entry that contains a key, such as `data.train.1.`.
fn entry_of(key: &str) -> Option<&str> {
    let is_index = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let mut end = 0;
    for part in key.split_inclusive('.') {
        end += part.len();
        if is_index(part.trim_end_matches('.')) {
            return Some(&key[..end]);
        }
    }
    None
}
