//! Recorded tensors: a safetensors file with its settings.
//!
//! The settings are in a JSON file of the same name or in the notes of the safetensors file.

use std::path::{Path, PathBuf};

use dressage_engine::{DType, Tensor};
use dressage_kernels::check::fixture_dirs;
use dressage_models::weights::{StateDict, Stored};
use serde_json::Value;

use crate::Outcome;

/// Subfolders of a folder of fixtures that are searched as well.
const SUBFOLDERS: [&str; 6] = ["backbones", "dinov2_vits14", "dinov3", "heads", "peft", "semfpn"];

/// One recorded case.
pub struct Fixture {
    /// File name without its extension, after the name of the subfolder if there is one.
    pub name: String,
    /// The safetensors file, or the JSON file if there is no other.
    pub path: PathBuf,
    /// The JSON file of the same name; else the JSON under `config` in the notes; else null.
    pub json: Value,
    /// All tensors; empty for a JSON file alone.
    pub tensors: StateDict,
    /// Whether the settings come from a JSON file next to the tensors, which states errors per
    /// tensor.
    pub sidecar: bool,
}

/// Folders of fixtures: the committed one, then those of `DRESSAGE_FIXTURES`.
pub fn roots() -> Vec<PathBuf> {
    let mut roots = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")];
    roots.extend(fixture_dirs());
    roots
}

/// Cases of one folder and its known subfolders, sorted by name. Files of other kinds are skipped.
///
/// # Errors
/// A folder that cannot be read.
pub fn list(root: &Path) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    let folders = SUBFOLDERS.iter().map(|s| root.join(s)).filter(|p| p.is_dir());
    for folder in std::iter::once(root.to_path_buf()).chain(folders) {
        let entries = folder.read_dir().map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut files = Vec::new();
        for entry in entries {
            files.push(entry?.path());
        }
        files.retain(|p| {
            let ending = p.extension().and_then(|e| e.to_str());
            match ending {
                // Some hold the contents of a PyTorch file next to them, or the weights of a case
                // under other names.
                Some("safetensors") => {
                    p.with_extension("").extension().is_none_or(|e| e != "expected" && e != "hf")
                }
                Some("pth" | "pt") => true,
                Some("json") => !p.with_extension("safetensors").exists(),
                _ => false,
            }
        });
        files.sort();
        found.extend(files);
    }
    Ok(found)
}

/// Name of a case: the file name without its extension. If the folder is a known subfolder, its
/// name comes first.
pub fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    match SUBFOLDERS.contains(&folder.as_ref()) {
        true => format!("{folder}/{stem}"),
        false => stem.into_owned(),
    }
}

impl Fixture {
    /// Reads a case.
    ///
    /// # Errors
    /// A file that cannot be read, or settings that are not JSON.
    pub fn open(path: &Path) -> Outcome<Fixture> {
        let read = |p: &Path| -> Outcome<Value> {
            let text = std::fs::read_to_string(p).map_err(|e| format!("{}: {e}", p.display()))?;
            Ok(serde_json::from_str(&text).map_err(|e| format!("{}: {e}", p.display()))?)
        };
        let (name, path) = (name_of(path), path.to_path_buf());
        if path.extension().is_some_and(|e| e == "json") {
            let json = read(&path)?;
            return Ok(Fixture { name, path, json, tensors: StateDict::default(), sidecar: true });
        }
        let tensors = StateDict::open(&path)?;
        let json_path = path.with_extension("json");
        let sidecar = json_path.exists();
        let json = match tensors.metadata().get("config") {
            _ if sidecar => read(&json_path)?,
            Some(text) => serde_json::from_str(text)?,
            None => Value::Null,
        };
        Ok(Fixture { name, path, json, tensors, sidecar })
    }

    /// A note of the safetensors file.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.tensors.metadata().get(key).map(String::as_str)
    }

    /// Whether there is a tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.get(name).is_some()
    }

    /// Tensor names that begin with `prefix`, without it.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.tensors.names().filter_map(|n| n.strip_prefix(prefix)).map(String::from).collect()
    }

    fn stored(&self, name: &str) -> Outcome<&Stored> {
        let missing = || format!("{}: no tensor {name}", self.name);
        Ok(self.tensors.get(name).ok_or_else(missing)?)
    }

    /// A float tensor as f32.
    ///
    /// # Errors
    /// If it is missing or has integers.
    pub fn floats(&self, name: &str) -> Outcome<Tensor> {
        let wrong = || format!("{}: {name} holds no floats", self.name);
        Ok(self.stored(name)?.to_float(DType::F32)?.ok_or_else(wrong)?)
    }

    /// A tensor of 64-bit or 32-bit integers or bytes.
    ///
    /// # Errors
    /// If it is missing or has floats.
    pub fn integers(&self, name: &str) -> Outcome<Vec<i64>> {
        let wrong = || format!("{}: {name} holds no integers", self.name);
        Ok(self.stored(name)?.to_integers()?.ok_or_else(wrong)?)
    }

    /// Sizes of a tensor's axes.
    ///
    /// # Errors
    /// If it is missing.
    pub fn shape(&self, name: &str) -> Outcome<&[usize]> {
        Ok(self.stored(name)?.shape())
    }

    /// The tensors whose names begin with `prefix`, which is replaced by `with`. Those named in
    /// `unused` are left out.
    pub fn weights(&self, prefix: &str, with: &str, unused: &[&str]) -> StateDict {
        let mut weights = self.tensors.clone().renamed(prefix, with);
        for name in unused {
            weights.take(&format!("{with}{name}"));
        }
        weights
    }
}

/// Access to settings, with errors that name the missing key.
pub trait Settings {
    /// A count or size; `key` may be a path through several objects, separated by `/`.
    ///
    /// # Errors
    /// If there is none.
    fn size(&self, key: &str) -> Outcome<usize>;
    /// A number.
    ///
    /// # Errors
    /// If there is none.
    fn number(&self, key: &str) -> Outcome<f64>;
    /// A list of sizes.
    ///
    /// # Errors
    /// If there is none.
    fn sizes(&self, key: &str) -> Outcome<Vec<usize>>;
    /// A switch, or `default` if it is missing.
    fn switch(&self, key: &str, default: bool) -> bool;
    /// A word, empty if it is missing.
    fn word(&self, key: &str) -> &str;
}

fn lookup<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('/').try_fold(value, |v, k| match k.parse::<usize>() {
        Ok(i) if v.is_array() => v.get(i),
        _ => v.get(k),
    })
}

impl Settings for Value {
    fn size(&self, key: &str) -> Outcome<usize> {
        let n = lookup(self, key).and_then(Value::as_f64).filter(|n| n.fract() == 0.0 && *n >= 0.0);
        Ok(n.ok_or_else(|| format!("settings: no size `{key}`"))? as usize)
    }

    fn number(&self, key: &str) -> Outcome<f64> {
        let n = lookup(self, key).and_then(Value::as_f64);
        Ok(n.ok_or_else(|| format!("settings: no number `{key}`"))?)
    }

    fn sizes(&self, key: &str) -> Outcome<Vec<usize>> {
        let list = lookup(self, key).and_then(Value::as_array);
        let list = list.ok_or_else(|| format!("settings: no list `{key}`"))?;
        (0..list.len()).map(|i| self.size(&format!("{key}/{i}"))).collect()
    }

    fn switch(&self, key: &str, default: bool) -> bool {
        lookup(self, key).and_then(Value::as_bool).unwrap_or(default)
    }

    fn word(&self, key: &str) -> &str {
        lookup(self, key).and_then(Value::as_str).unwrap_or_default()
    }
}
