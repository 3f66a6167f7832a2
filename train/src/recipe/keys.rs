//! Catalogue of recipe keys: kind, default, meaning and range of each. It decides which keys exist,
//! gives their defaults, checks their values and is printed by `dressage train --help-recipe`. The influence of each key, and so where
//! it may change, is in `super::bearing`.

use std::fmt::Write as _;

use toml::{Table, Value};

pub use super::catalogue::KEYS;
use super::defaults::ID_MAPS;

/// Type of a key's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueKind {
    /// Text.
    Text,
    /// A path, relative to the recipe file.
    Path,
    /// A path below `data.root`.
    Folder,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// A whole number, 0 or more.
    Count,
    /// A number.
    Real,
    /// A list of texts.
    Texts,
    /// A list of whole numbers.
    Counts,
    /// A list of numbers.
    Reals,
    /// Two whole numbers.
    Pair,
    /// A list of lists of whole numbers.
    Groups,
    /// The name of a table of ids, or a table such as `{ 7 = 0, 8 = 1 }`.
    IdMap,
}

/// A key of a recipe.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Dotted path; `[]` stands for the position in a list of tables.
    pub path: &'static str,
    /// Type of its value.
    pub kind: ValueKind,
    /// Value of the key where it is not set, as TOML; [`FOLLOWS`] if that depends on other keys.
    pub default: &'static str,
    /// Meaning, for the help text.
    pub help: &'static str,
    /// Values that make sense.
    pub range: Range,
}

/// Default of a key whose value follows others.
pub const FOLLOWS: &str = "";

/// A row of the catalogue, with every value of its kind allowed.
pub(super) const fn key(
    path: &'static str,
    kind: ValueKind,
    default: &'static str,
    help: &'static str,
) -> Key {
    Key { path, kind, default, help, range: Range::Any }
}

impl Key {
    /// Its default, unless it follows others.
    pub(super) fn default_value(&self) -> Option<Value> {
        let mut table = toml::from_str::<Table>(&format!("value = {}", self.default)).ok()?;
        table.remove("value")
    }

    /// The key with this range.
    pub(super) const fn range(self, range: Range) -> Key {
        Key { range, ..self }
    }

    /// The key with whole numbers from `least` to `most`.
    pub(super) const fn within(self, least: i64, most: i64) -> Key {
        self.range(Range::Whole(least, most))
    }

    /// The key with whole numbers from `least`.
    pub(super) const fn from(self, least: i64) -> Key {
        self.within(least, i64::MAX)
    }

    /// The key with whole numbers up to `most`.
    pub(super) const fn up_to(self, most: i64) -> Key {
        self.within(0, most)
    }
}

/// Values of a key that make sense.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// Every value of its kind, or a check of its own.
    Any,
    /// Whole numbers from the first to the second.
    Whole(i64, i64),
    /// Numbers from the first to the second.
    Between(f64, f64),
    /// Finite numbers from 0.
    NotNegative,
    /// Finite numbers above 0.
    Positive,
    /// Numbers from 0, below 1.
    BelowOne,
}

impl Range {
    /// Description of what is too large about a value, if it is.
    pub(super) fn above(self, value: &Value) -> Option<String> {
        let (Range::Whole(_, most), n) = (self, value.as_integer()?) else { return None };
        (n > most).then(|| format!("is {n}, it must be at most {most}"))
    }

    /// Description of what is wrong about a value that is not too large.
    pub(super) fn misses(self, value: &Value) -> Option<String> {
        if let (Range::Whole(least, _), Some(n)) = (self, value.as_integer()) {
            return (n < least).then(|| format!("is {n}, it must be {least} or more"));
        }
        let v = value.as_float().or(value.as_integer().map(|n| n as f64))?;
        let (holds, wanted) = match self {
            Range::Any | Range::Whole(..) => return None,
            Range::Between(a, b) => ((a..=b).contains(&v), format!("between {a} and {b}")),
            Range::NotNegative => (v.is_finite() && v >= 0.0, "0 or more".to_owned()),
            Range::Positive => (v.is_finite() && v > 0.0, "above 0".to_owned()),
            Range::BelowOne => ((0.0..1.0).contains(&v), "at least 0 and below 1".to_owned()),
        };
        (!holds).then(|| format!("is {v}, it must be {wanted}"))
    }
}

/// Finds the key of this path, with `[]` for positions.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

impl ValueKind {
    /// Describes the values that the key takes.
    pub fn describe(self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::Path | Self::Folder => "a path".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Flag => "true or false".to_owned(),
            Self::Count => "a whole number, 0 or more".to_owned(),
            Self::Real => "a number".to_owned(),
            Self::Texts => "a list of texts".to_owned(),
            Self::Counts => "a list of whole numbers, 0 or more".to_owned(),
            Self::Reals => "a list of numbers".to_owned(),
            Self::Pair => "two whole numbers, 0 or more".to_owned(),
            Self::Groups => "a list of lists of whole numbers, 0 or more".to_owned(),
            Self::IdMap => {
                format!("one of {}, or a table {{ value = train id }}", ID_MAPS.join(", "))
            }
        }
    }

    /// Whether the value is of this kind.
    pub(super) fn takes(self, value: &Value) -> bool {
        let list = |each: Self| value.as_array().is_some_and(|a| a.iter().all(|v| each.takes(v)));
        match self {
            Self::Text | Self::Path | Self::Folder => value.is_str(),
            Self::Choice(words) => value.as_str().is_some_and(|v| words.contains(&v)),
            Self::Flag => value.is_bool(),
            Self::Count => value.as_integer().is_some_and(|v| v >= 0),
            Self::Real => value.is_float() || value.is_integer(),
            Self::Texts => list(Self::Text),
            Self::Counts => list(Self::Count),
            Self::Reals => list(Self::Real),
            Self::Pair => list(Self::Count) && value.as_array().is_some_and(|a| a.len() == 2),
            Self::Groups => list(Self::Counts),
            Self::IdMap => match value {
                Value::Table(table) => table.iter().all(|(from, to)| {
                    from.parse::<u8>().is_ok()
                        && to.as_integer().is_some_and(|id| (0..=255).contains(&id))
                }),
                _ => Self::Choice(ID_MAPS).takes(value),
            },
        }
    }

    /// Whether a bare word is a text of this kind.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Path | Self::Folder | Self::Choice(_) | Self::IdMap)
    }
}

/// Help text: all keys with their kinds and meanings, by section. Lines are at most `width` columns
/// long where the words allow.
pub fn help(width: usize) -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        let (head, leaf) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        if head != section {
            let title = match head.strip_suffix("[]") {
                Some(list) => format!("[[{list}]]"),
                None => format!("[{head}]"),
            };
            let _ = writeln!(text, "\n{title}");
            section = head;
        }
        let words = format!("{}. {}", key.help, key.kind.describe());
        let mut line = format!("  {leaf:<18}");
        for word in words.split(' ') {
            if line.chars().count() + 1 + word.chars().count() > width && !line.trim().is_empty() {
                let _ = writeln!(text, "{}", line.trim_end());
                line = " ".repeat(20);
            }
            line.push(' ');
            line.push_str(word);
        }
        let _ = writeln!(text, "{line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_of_their_kind_and_in_range() {
        for key in KEYS {
            let Some(value) = key.default_value() else {
                assert_eq!(key.default, FOLLOWS, "{}", key.path);
                continue;
            };
            assert!(key.kind.takes(&value), "{}: {value}", key.path);
            assert_eq!(key.range.above(&value).or(key.range.misses(&value)), None, "{}", key.path);
        }
    }

    #[test]
    fn ranges_name_what_is_wrong() {
        let whole = Range::Whole(2, 4);
        for (n, above, misses) in [(1, false, true), (2, false, false), (5, true, false)] {
            let value = Value::Integer(n);
            assert_eq!(whole.above(&value).is_some(), above, "{n}");
            assert_eq!(whole.misses(&value).is_some(), misses, "{n}");
        }
        let misses = |range: Range, value: f64| range.misses(&Value::Float(value));
        assert_eq!(
            misses(Range::NotNegative, -0.5).as_deref(),
            Some("is -0.5, it must be 0 or more")
        );
        assert_eq!(
            Range::NotNegative.misses(&Value::Integer(-1)).as_deref(),
            Some("is -1, it must be 0 or more")
        );
        for range in
            [Range::NotNegative, Range::Positive, Range::BelowOne, Range::Between(0.0, 9.0)]
        {
            assert!(misses(range, f64::NAN).is_some() && misses(range, 0.5).is_none(), "{range:?}");
            assert!(misses(range, f64::INFINITY).is_some(), "{range:?}");
        }
        assert!(misses(Range::Positive, 0.0).is_some() && misses(Range::BelowOne, 1.0).is_some());
        assert_eq!(misses(Range::Any, f64::NAN), None);
    }
}
