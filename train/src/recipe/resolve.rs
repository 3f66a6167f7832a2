//! Layers of a recipe: defaults, file, overrides.

use std::path::{Path, PathBuf};

use dressage_models::weights::shown;
use toml::{Table, Value};

use super::error::nearest;
use super::extends::Layer;
use super::keys::{KEYS, Key, ValueKind, find};
use super::{RANDOM, Recipe, RecipeError, check, defaults, follow};

/// Builds the recipe `name` from the text of a file in `dir` and from overrides.
pub(super) fn resolve(
    name: &str,
    origin: &str,
    dir: &Path,
    text: &str,
    overrides: &[String],
) -> Result<Recipe, RecipeError> {
    let Layer { mut value, mut derived, .. } = Layer::read(origin, dir, text)?;
    for text in overrides {
        apply(&mut value, text)?;
    }
    let paths: Vec<&str> = overrides.iter().map(|text| path_of(text)).collect();
    follow::rederive(&mut value, &mut derived, &paths);
    let (mut recipe, values) = with_defaults(name, origin, dir, value)?;
    recipe.derived = derived;
    check::check(&recipe, &values)?;
    Ok(recipe)
}

/// Parses a recipe, with lists of data sets as lists.
pub(super) fn parsed(origin: &str, text: &str) -> Result<Table, RecipeError> {
    let mut table: Table = toml::from_str(text).map_err(|error| RecipeError::Syntax {
        origin: origin.to_owned(),
        what: syntax(text, &error),
    })?;
    make_lists(&mut table);
    Ok(table)
}

/// Checks every key of a recipe of a file in `dir` and its type, and adds their paths to `set`.
pub(super) fn walked(
    origin: &str,
    dir: &Path,
    mut value: Value,
    set: &mut Vec<String>,
) -> Result<Value, RecipeError> {
    walk(&mut value, "", &mut |key, path, value| {
        accept(key, origin, path, value)?;
        if key.kind == ValueKind::Path {
            relative_to(value, dir);
        }
        set.push(path.to_owned());
        Ok(())
    })
    .map_err(|error| error.at(origin))?;
    Ok(value)
}

/// The parser's message in one line, with the position in `text`.
fn syntax(text: &str, error: &toml::de::Error) -> String {
    let what = shown(error.message());
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return what };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("no valid TOML at line {line}, column {column}: {what}")
}

/// Turns a single table `[data.train]` or `[data.eval]` into a list of one.
fn make_lists(table: &mut Table) {
    let Some(Value::Table(data)) = table.get_mut("data") else { return };
    for list in ["train", "eval"] {
        if let Some(value @ Value::Table(_)) = data.get_mut(list) {
            *value = Value::Array(vec![value.clone()]);
        }
    }
}

/// A value that is not allowed at its place.
enum Misfit {
    Unknown(String),
    Type { path: String, found: String, expected: &'static str },
    Known(RecipeError),
}

impl Misfit {
    fn at(self, origin: &str) -> RecipeError {
        let origin = origin.to_owned();
        match self {
            Self::Known(error) => error,
            Self::Unknown(key) => {
                let nearest = nearest_key(&key);
                RecipeError::UnknownKey { nearest, origin, key: shown(&key) }
            }
            Self::Type { path: key, found, expected } => {
                let (key, expected) = (shown(&key), expected.to_owned());
                RecipeError::WrongType { origin, key, found, expected }
            }
        }
    }
}

impl From<RecipeError> for Misfit {
    fn from(error: RecipeError) -> Self {
        Self::Known(error)
    }
}

type Visit<'a> = &'a mut dyn FnMut(&'static Key, &str, &mut Value) -> Result<(), RecipeError>;

/// Calls `visit` with every value that belongs to a key of the catalogue; fails on anything else.
fn walk(value: &mut Value, path: &str, visit: Visit<'_>) -> Result<(), Misfit> {
    if let Some(key) = find(&pattern(path)) {
        return Ok(visit(key, path, value)?);
    }
    let found = describe(value);
    let list = format!("{}[].", pattern(path));
    if KEYS.iter().any(|key| key.path.starts_with(&list)) {
        let Value::Array(entries) = value else {
            let (path, expected) = (path.to_owned(), "a list of tables");
            return Err(Misfit::Type { path, found, expected });
        };
        for (i, entry) in entries.iter_mut().enumerate() {
            walk(entry, &format!("{path}.{i}"), visit)?;
        }
        return Ok(());
    }
    let inside = format!("{}.", pattern(path));
    if !path.is_empty() && !KEYS.iter().any(|key| key.path.starts_with(&inside)) {
        return Err(Misfit::Unknown(first_key(path, value)));
    }
    let Value::Table(table) = value else {
        return Err(Misfit::Type { path: path.to_owned(), found, expected: "a table" });
    };
    for (name, value) in table.iter_mut() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        walk(value, &path, visit)?;
    }
    Ok(())
}

/// The first key inside an unknown table, or `path` itself for any other value. The key says more
/// than the table's name.
fn first_key(path: &str, value: &Value) -> String {
    match value.as_table().and_then(|table| table.iter().next()) {
        Some((name, value)) => first_key(&format!("{path}.{name}"), value),
        None => path.to_owned(),
    }
}

/// The key of an override `key.sub=value`.
pub(super) fn path_of(text: &str) -> &str {
    text.split_once('=').map_or(text, |(path, _)| path).trim()
}

/// Converts `data.train.3.name` to the form of the catalogue: `data.train[].name`.
pub(super) fn pattern(path: &str) -> String {
    let mut pattern = String::new();
    for part in path.split('.') {
        if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            pattern.push_str("[]");
        } else {
            if !pattern.is_empty() {
                pattern.push('.');
            }
            pattern.push_str(part);
        }
    }
    pattern
}

/// The known key that was probably meant. It is few edits away as a whole, or has the same last
/// part in another section.
fn nearest_key(key: &str) -> Option<String> {
    let wanted = pattern(key);
    let paths = || KEYS.iter().map(|key| key.path);
    let leaf = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let same_leaf = || paths().find(|path| leaf(path) == leaf(&wanted)).map(str::to_owned);
    let (section, last) = wanted.rsplit_once('.').unwrap_or(("", &wanted));
    let in_section = paths().filter_map(|path| {
        let (head, leaf) = path.rsplit_once('.').unwrap_or(("", path));
        (head == section).then_some(leaf)
    });
    // First a misspelt key in the right section, then the right key in another section, then any
    // near key.
    let full = |leaf: String| if section.is_empty() { leaf } else { format!("{section}.{leaf}") };
    nearest(last, in_section)
        .map(full)
        .or_else(same_leaf)
        .or_else(|| nearest(&wanted, paths()))
        .or_else(|| nearest(section, paths().filter_map(|p| p.rsplit_once('.').map(|(s, _)| s))))
}

fn accept(
    key: &'static Key,
    origin: &str,
    path: &str,
    value: &mut Value,
) -> Result<(), RecipeError> {
    if key.kind.takes(value) {
        return Ok(());
    }
    let mut expected = key.kind.describe();
    let words = match key.kind {
        ValueKind::Choice(words) => words,
        ValueKind::IdMap => defaults::ID_MAPS,
        _ => &[],
    };
    if let Some(near) = value.as_str().and_then(|word| nearest(word, words.iter().copied())) {
        expected.push_str(&format!("; did you mean `{near}`?"));
    }
    let (origin, found) = (origin.to_owned(), describe(value));
    Err(RecipeError::WrongType { origin, key: path.to_owned(), found, expected })
}

/// Type of a value, or its text if that is short.
fn describe(value: &Value) -> String {
    let text = match value {
        // Its text can be as long as the recipe and does not help in a message.
        Value::Table(_) => return "a table".to_owned(),
        _ => shown(&value.to_string()),
    };
    match value {
        Value::Array(_) if text.len() > 40 => "a list of other things".to_owned(),
        _ if text.chars().count() > 60 => {
            format!("{}...", text.chars().take(60).collect::<String>())
        }
        _ => text,
    }
}

fn relative_to(value: &mut Value, dir: &Path) {
    if let Value::String(text) = value
        && text != RANDOM
        && !text.is_empty()
        && !dir.as_os_str().is_empty()
    {
        *text = dir.join(&text).to_string_lossy().into_owned();
    }
}

/// Applies one `key.sub=value`.
fn apply(root: &mut Value, text: &str) -> Result<(), RecipeError> {
    let fail = |what: String| RecipeError::Override { text: shown(text), what };
    let origin = format!("override `{}`", shown(text));
    let (path, word) =
        text.split_once('=').ok_or_else(|| fail("it must have the form key=value".into()))?;
    let (path, word) = (path.trim(), word.trim());
    let key = find(&pattern(path));
    let Some(key) = key else {
        // Whole lists of tables may be replaced; the walk refuses anything else that is not a key.
        let mut value = parse(word).map_err(fail)?;
        walk(&mut value, path, &mut |key, path, value| accept(key, &origin, path, value))
            .map_err(|error| error.at(&origin))?;
        return place(root, path, value).map_err(fail);
    };
    let mut value = match parse(word) {
        Ok(value) if value.is_str() || value.is_table() || !key.kind.is_text() => value,
        // Texts that parse as something else: a name of digits, a folder that looks like a date.
        _ if key.kind.is_text() => Value::String(word.to_owned()),
        Ok(value) => value,
        Err(what) => return Err(fail(what)),
    };
    accept(key, &origin, path, &mut value)?;
    place(root, path, value).map_err(fail)
}

/// Parses a TOML value, or takes a bare word as a text.
fn parse(word: &str) -> Result<Value, String> {
    match toml::from_str::<Table>(&format!("value = {word}")) {
        Ok(mut table) if table.len() == 1 => table.remove("value").ok_or_else(String::new),
        _ if word.starts_with(['[', '{', '"', '\'']) => {
            Err("the value is not valid TOML; quote it for the shell".to_owned())
        }
        _ => Ok(Value::String(word.to_owned())),
    }
}

/// Sets the value at `path`. Creates tables on the way, and a list entry at the list's end.
pub(super) fn place(root: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let mut at = root;
    let mut done = String::new();
    let parts: Vec<&str> = path.split('.').collect();
    for (i, part) in parts.iter().enumerate() {
        if let Ok(index) = part.parse::<usize>() {
            if at.as_table().is_some_and(Table::is_empty) {
                *at = Value::Array(vec![]);
            }
            let Value::Array(entries) = at else {
                return Err(format!("`{done}` has no numbered entries"));
            };
            if index > entries.len() {
                return Err(format!("`{done}` has {} entries, counted from 0", entries.len()));
            }
            if index == entries.len() {
                entries.push(Value::Table(Table::new()));
            }
            at = &mut entries[index];
        } else {
            let Value::Table(table) = at else {
                return Err(format!("`{done}` is a list, name an entry: `{done}.0.{part}`"));
            };
            at = table.entry(*part).or_insert_with(|| Value::Table(Table::new()));
        }
        done = parts[..=i].join(".");
    }
    *at = value;
    Ok(())
}

/// Fills in the default of every key that is not set. Also returns the values as a table.
fn with_defaults(
    name: &str,
    origin: &str,
    dir: &Path,
    mut given: Value,
) -> Result<(Recipe, Value), RecipeError> {
    let broken = |what: String| RecipeError::Syntax { origin: origin.to_owned(), what };
    let mut all = defaults::published(&given).map_err(broken)?;
    let named = |value: &mut Value| {
        place(value, "name", Value::from(name))?;
        let root = Value::try_from(dir).map_err(|error| error.to_string())?;
        place(value, "data.root", root)
    };
    named(&mut all).map_err(broken)?;
    for list in ["train", "eval"] {
        let entry = defaults::entry(&format!("data.{list}"), &given, &all);
        let entries = given.get_mut("data").and_then(|data| data.get_mut(list));
        for given in entries.and_then(Value::as_array_mut).into_iter().flatten() {
            let mut filled = Value::Table(entry.clone());
            if let Some(crop) = given.get("crop").and_then(Value::as_integer)
                && let Some(slot) = filled.get_mut("stride")
                && let Some(crop) = defaults::sane(crop)
            {
                *slot = Value::Integer(defaults::stride(crop) as i64);
            }
            merge(&mut filled, std::mem::replace(given, Value::Boolean(false)));
            *given = filled;
        }
    }
    merge(&mut all, given);
    let mut recipe: Recipe =
        all.clone().try_into().map_err(|e: toml::de::Error| broken(shown(e.message())))?;
    settle(&mut recipe).map_err(|e| broken(format!("no working directory: {e}")))?;
    Ok((recipe, all))
}

/// Makes paths absolute and copies common values to the sets.
fn settle(recipe: &mut Recipe) -> std::io::Result<()> {
    if recipe.run.dir.as_os_str().is_empty() {
        recipe.run.dir = PathBuf::from("runs").join(&recipe.name);
    }
    for file in [&mut recipe.model.weights, &mut recipe.model.checkpoint] {
        if !file.as_os_str().is_empty() && *file != Path::new(RANDOM) {
            *file = std::path::absolute(&*file)?;
        }
    }
    recipe.run.dir = std::path::absolute(&recipe.run.dir)?;
    if recipe.data.root.as_os_str().is_empty() {
        recipe.data.root = PathBuf::from(".");
    }
    recipe.data.root = std::path::absolute(&recipe.data.root)?;
    let data = &mut recipe.data;
    let sets = data.train.iter_mut().chain(data.eval.iter_mut().map(|eval| &mut eval.set));
    for set in sets {
        if set.groups.is_empty() {
            set.groups = data.groups.clone();
        }
    }
    Ok(())
}

/// Merges `over` into `base`: tables key by key, everything else as a whole.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Table(base), Value::Table(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(slot) => merge(slot, value),
                    None => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (base, over) => *base = over,
    }
}
