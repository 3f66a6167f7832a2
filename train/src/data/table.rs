//! Map from the values in label files to the classes that are trained.
//!
//! Source of the named tables: spec training-and-data §4 and §5.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::palette::{CITYSCAPES, train_id_of_id};
use crate::{IGNORE, Result, TrainError};

/// Class numbers of a data set: the name of a built-in table or an explicit map.
///
/// Names: `train_ids` (0 to classes - 1 and 255), `cityscapes` (ids of `*_labelIds.png`), `gtav`
/// (the same ids, or the Cityscapes colours), `mapillary` (Vistas v1.2 indices), `synthia` (red
/// channel of 16-bit files), `urbansyn` (trainIds with void 19). In an explicit map, values that
/// are not listed are void.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Ids {
    /// A built-in table.
    Named(String),
    /// Value in the file (as text, since TOML keys are text) to class.
    Map(BTreeMap<String, u8>),
}

impl Default for Ids {
    fn default() -> Self {
        Ids::Named("train_ids".into())
    }
}

/// Classes merged into fewer ones, for data sets that label less finely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassGroups {
    /// Name of each group.
    pub names: Vec<String>,
    /// Group of each class, 255 for none.
    pub of: Vec<u8>,
}

const TABLES: [&str; 6] = ["train_ids", "cityscapes", "gtav", "mapillary", "synthia", "urbansyn"];

/// Mark of a value that the table does not know.
const UNKNOWN: u16 = 256;

/// A ready table: value in the file to class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Key of the data set in the recipe.
    key: String,
    map: [u16; 256],
    /// Whether colour-coded files are accepted too.
    pub(super) colours: bool,
    /// Whether the class is in the red channel of 16-bit RGB files.
    pub(super) red: bool,
    names: Vec<String>,
    groups: Option<Vec<u8>>,
}

/// Vistas v1.2 indices of each trainId.
const MAPILLARY: [(u8, &[u8]); 19] = [
    (0, &[7, 8, 10, 13, 14, 23, 24]),
    (1, &[2, 9, 11, 15]),
    (2, &[17]),
    (3, &[6]),
    (4, &[3]),
    (5, &[44, 45, 47]),
    (6, &[48]),
    (7, &[46, 49, 50]),
    (8, &[30]),
    (9, &[29]),
    (10, &[27]),
    (11, &[19]),
    (12, &[20, 21, 22]),
    (13, &[55]),
    (14, &[61]),
    (15, &[54]),
    (16, &[58]),
    (17, &[57]),
    (18, &[52]),
];

/// SYNTHIA class of each trainId.
const SYNTHIA: [(u8, u8); 19] = [
    (3, 0),
    (4, 1),
    (2, 2),
    (21, 3),
    (5, 4),
    (7, 5),
    (15, 6),
    (9, 7),
    (6, 8),
    (16, 9),
    (1, 10),
    (10, 11),
    (17, 12),
    (8, 13),
    (18, 14),
    (19, 15),
    (20, 16),
    (12, 17),
    (11, 18),
];

impl Table {
    /// Makes the table of the data set under `key`, with `classes` classes before grouping.
    ///
    /// # Errors
    /// [`TrainError::IdTable`] for an unknown name, a key that is no value from 0 to 255, a class
    /// beyond the last, or groups that do not cover the classes.
    pub fn new(key: &str, ids: &Ids, classes: usize, groups: Option<&ClassGroups>) -> Result<Self> {
        let fail = |what: String| Err(TrainError::IdTable { key: key.into(), what });
        if classes == 0 || classes > IGNORE as usize {
            return fail(format!(
                "{classes} classes, but labels can hold 1 to 255; change head.classes"
            ));
        }
        let (mut map, named) = match ids {
            Ids::Named(name) => match named(name, classes) {
                Some(map) => (map, name.as_str()),
                None => return fail(unknown_name(name)),
            },
            Ids::Map(pairs) => (explicit(key, pairs)?, ""),
        };
        if let Some(&high) = map.iter().find(|&&c| c < IGNORE as u16 && c as usize >= classes) {
            return fail(format!(
                "class {high} is beyond the last of {classes} classes; set it to a table \
                 {{ value = class }} with classes from 0 to {}, or list the groups that its \
                 classes are merged into as {key}.groups",
                classes - 1
            ));
        }
        let mut names: Vec<String> = match classes {
            19 => CITYSCAPES.iter().map(|c| c.name.to_owned()).collect(),
            _ => (0..classes).map(|k| format!("class {k}")).collect(),
        };
        if let Some(groups) = groups {
            check_groups(key, groups, classes)?;
            for class in map.iter_mut().filter(|c| **c < IGNORE as u16) {
                *class = u16::from(groups.of[*class as usize]);
            }
            names.clone_from(&groups.names);
        }
        let colours = matches!(named, "cityscapes" | "gtav");
        let groups = groups.map(|g| g.of.clone());
        Ok(Self { key: key.to_owned(), map, colours, red: named == "synthia", names, groups })
    }

    /// Class of a value in the file: [`IGNORE`] for void, `None` for a value that the table does
    /// not know.
    pub fn class(&self, value: u16) -> Option<u8> {
        let class = *self.map.get(value as usize)?;
        (class != UNKNOWN).then_some(class as u8)
    }

    /// Group of a trainId that was found by colour.
    pub(super) fn grouped(&self, train_id: u8) -> u8 {
        match &self.groups {
            Some(of) => of.get(train_id as usize).copied().unwrap_or(IGNORE),
            None => train_id,
        }
    }

    /// Key of the data set in the recipe, such as `data.train.0`.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Classes after grouping.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

fn unknown_name(name: &str) -> String {
    let near = TABLES
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    let near = near.copied().unwrap_or_default();
    format!(
        "{name:?} is not one of {}; did you mean {near:?}? Name one, or list \
             {{ value = class }}",
        TABLES.join(", ")
    )
}

fn named(name: &str, classes: usize) -> Option<[u16; 256]> {
    let void = u16::from(IGNORE);
    let mut map = [void; 256];
    match name {
        "train_ids" => {
            for (value, class) in map.iter_mut().enumerate().take(IGNORE as usize) {
                *class = if value < classes { value as u16 } else { UNKNOWN };
            }
        }
        "urbansyn" => {
            for (value, class) in map.iter_mut().enumerate().take(IGNORE as usize) {
                *class = match value {
                    0..=18 => value as u16,
                    19 => void,
                    _ => UNKNOWN,
                };
            }
        }
        "cityscapes" | "gtav" => map = std::array::from_fn(|id| train_id_of_id(id as u8).into()),
        "mapillary" => {
            for (class, indices) in MAPILLARY {
                for &index in indices {
                    map[index as usize] = class.into();
                }
            }
        }
        "synthia" => {
            for (value, class) in SYNTHIA {
                map[value as usize] = class.into();
            }
        }
        _ => return None,
    }
    Some(map)
}

fn explicit(key: &str, pairs: &BTreeMap<String, u8>) -> Result<[u16; 256]> {
    let mut map = [u16::from(IGNORE); 256];
    for (number, &class) in pairs {
        let Ok(value) = number.trim().parse::<u8>() else {
            let what = format!(
                "{number:?} is not a number from 0 to 255; list the values in the label files, as \
                 {{ 7 = 0, 8 = 1 }}"
            );
            return Err(TrainError::IdTable { key: key.into(), what });
        };
        map[value as usize] = class.into();
    }
    Ok(map)
}

fn check_groups(key: &str, groups: &ClassGroups, classes: usize) -> Result<()> {
    let fail = |what: String| {
        let what = format!("{what}; correct {key}.groups");
        Err(TrainError::IdTable { key: key.into(), what })
    };
    if groups.of.len() != classes {
        return fail(format!("its groups cover {} of {classes} classes", groups.of.len()));
    }
    let last = groups.names.len();
    match groups.of.iter().find(|&&g| g != IGNORE && g as usize >= last) {
        Some(g) => fail(format!("a class is in group {g}, but only {last} groups have names")),
        None => Ok(()),
    }
}
