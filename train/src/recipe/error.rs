//! Errors of recipes.

use std::path::PathBuf;

use dressage_models::weights::shown;

use super::EMBEDDED;

/// A recipe that cannot be used; the text names the file or override and the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("cannot read recipe {path}: {source}")]
    Read {
        /// File.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// Text that is not TOML.
    #[error("{origin}: {what}")]
    Syntax {
        /// File or override.
        origin: String,
        /// The parser's message, with the line.
        what: String,
    },
    /// A key that no recipe has.
    #[error("{origin}: unknown key `{key}`{}", suggestion(.nearest))]
    UnknownKey {
        /// File or override.
        origin: String,
        /// The key.
        key: String,
        /// The nearest known key, if one is near.
        nearest: Option<String>,
    },
    /// A value of another type than the key takes.
    #[error("{origin}: `{key}` is {found}, it must be {expected}")]
    WrongType {
        /// File or override.
        origin: String,
        /// The key.
        key: String,
        /// The value that was found.
        found: String,
        /// Values that the key takes.
        expected: String,
    },
    /// A value of the right type that makes no sense.
    #[error("recipe {recipe}: `{key}` {what}")]
    Value {
        /// Name of the recipe.
        recipe: String,
        /// The key.
        key: String,
        /// Description of the error, in words and numbers.
        what: String,
    },
    /// An override that is not `key=value`, does not fit the recipe or has no effect.
    #[error("override `{text}`: {what}")]
    Override {
        /// The override.
        text: String,
        /// Description of the error.
        what: String,
    },
    /// No embedded recipe of this name.
    #[error("there is no recipe `{name}`{}; `train --list` shows all", suggestion(.nearest))]
    UnknownRecipe {
        /// The requested name.
        name: String,
        /// The nearest known name, if one is near.
        nearest: Option<String>,
    },
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default()
}

impl RecipeError {
    pub(super) fn unknown_recipe(name: &str) -> Self {
        let names = EMBEDDED.iter().map(|recipe| recipe.name.as_str());
        Self::UnknownRecipe { name: shown(name), nearest: nearest(name, names) }
    }
}

/// The candidate with the fewest edits, if those are few for the word's length; the first on ties.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    // No known word is this long, and the cost is the product of both lengths.
    const LONGEST: usize = 100;
    if word.len() > LONGEST {
        return None;
    }
    known
        .map(|k| (strsim::osa_distance(word, k), k))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= (word.chars().count() / 3).max(2))
        .map(|(_, k)| k.to_owned())
}
