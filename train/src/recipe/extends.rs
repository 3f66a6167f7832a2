//! Recipes that extend others: `extends = "gtav"`, or a list of which later ones override earlier
//! ones.
//!
//! Each is the name of a recipe in the program, or a file beside the recipe. Tables are merged key
//! by key; lists, as those of data sets, are replaced whole. Name and description are not inherited.

use std::path::Path;

use dressage_models::weights::shown;
use toml::{Table, Value};

use super::resolve::{parsed, walked};
use super::{RecipeError, embedded, follow, read};

/// Longest chain of recipes that extend each other.
const DEEPEST: usize = 8;

/// Keys of a recipe that extending ones do not inherit.
const OWN: [&str; 2] = ["name", "about"];

/// Keys of a recipe and those it extends.
pub(super) struct Layer {
    /// The keys with their values.
    pub value: Value,
    /// Keys whose values follow others.
    pub derived: Vec<String>,
    /// Paths of the keys that it sets itself.
    set: Vec<String>,
}

impl Layer {
    /// Reads the recipe `text` of a file in `dir`, and those it extends.
    ///
    /// # Errors
    /// Invalid TOML, an unknown key, a wrong type; a recipe that does not exist, or that extends
    /// itself.
    pub fn read(origin: &str, dir: &Path, text: &str) -> Result<Layer, RecipeError> {
        Layer::at(0, origin, dir, text)
    }

    fn at(depth: usize, origin: &str, dir: &Path, text: &str) -> Result<Layer, RecipeError> {
        let mut table = parsed(origin, text)?;
        let bases = bases(origin, &mut table)?;
        let mut set = Vec::new();
        let mut own = walked(origin, dir, Value::Table(table), &mut set)?;
        let derived = follow::take(&mut own);
        let own = Layer { value: own, derived, set };
        if bases.is_empty() {
            return Ok(own);
        }
        if depth == DEEPEST {
            let what = format!(
                "extends more than {DEEPEST} recipes one after the other; does one extend itself?"
            );
            return Err(RecipeError::Syntax { origin: origin.to_owned(), what });
        }
        let mut all = Layer { value: Value::Table(Table::new()), derived: vec![], set: vec![] };
        for base in bases {
            let mut base = Layer::named(depth + 1, &base, dir)?;
            if let Value::Table(table) = &mut base.value {
                OWN.iter().for_each(|key| drop(table.remove(*key)));
            }
            all.add(base);
        }
        all.add(own);
        Ok(all)
    }

    /// A recipe of the program, or of a file beside the one that extends it.
    fn named(depth: usize, name: &str, dir: &Path) -> Result<Layer, RecipeError> {
        if let Some(text) = embedded::text(name) {
            return Layer::at(depth, &format!("recipe {name}"), Path::new(""), text);
        }
        let path = dir.join(name);
        if !path.exists() && path.extension().is_none() && !name.contains('/') {
            return Err(RecipeError::unknown_recipe(name));
        }
        let text =
            read(&path).map_err(|source| RecipeError::Read { path: path.clone(), source })?;
        let dir = path.parent().unwrap_or_else(|| Path::new(""));
        Layer::at(depth, &path.display().to_string(), dir, &text)
    }

    /// Puts `over` on top. Values that follow keys in it are derived anew.
    fn add(&mut self, over: Layer) {
        merge(&mut self.value, over.value);
        let set: Vec<&str> = over
            .set
            .iter()
            .filter(|path| !over.derived.contains(path))
            .map(String::as_str)
            .collect();
        follow::rederive(&mut self.value, &mut self.derived, &set);
        self.derived.extend(over.derived);
        self.set.extend(over.set);
    }
}

/// Removes the names of the extended recipes from `table`.
fn bases(origin: &str, table: &mut Table) -> Result<Vec<String>, RecipeError> {
    let found = match table.remove("extends") {
        None => return Ok(Vec::new()),
        Some(Value::String(name)) => return Ok(vec![name]),
        Some(found) => found,
    };
    let names =
        found.as_array().map(|all| all.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let names = names.flatten().ok_or_else(|| RecipeError::WrongType {
        origin: origin.to_owned(),
        key: "extends".to_owned(),
        found: shown(found.type_str()),
        expected: "the name of a recipe, or a list of names".to_owned(),
    })?;
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// Replaces the keys of `under` by those of `over`.
fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Table(under), Value::Table(over)) => {
            for (key, value) in over {
                match under.get_mut(&key) {
                    Some(old) => merge(old, value),
                    None => drop(under.insert(key, value)),
                }
            }
        }
        (under, over) => *under = over,
    }
}
