//! What differs between two recipes, key by key.

use std::collections::BTreeSet;

use toml::Value;

use super::Recipe;
use super::bearing::{Bearing, bearing};
use super::keys::find;
use super::resolve::pattern;

/// A key with two values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Dotted path, such as `data.eval.0.crop`; a whole entry of a list if one recipe lacks it.
    pub key: String,
    /// What it decides.
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

/// All keys with other values in `now` than in `before`, in the order of their names.
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

/// A value as TOML; of a data set its name.
fn shown(value: Option<&Value>) -> String {
    match value {
        None => "none".to_owned(),
        Some(Value::Table(table)) if table.contains_key("name") => table["name"].to_string(),
        Some(value) => value.to_string().trim().to_owned(),
    }
}
