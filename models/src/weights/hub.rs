//! `config.json` of a folder of the hub: sizes that its weights must have.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::container::{Fault, Told};
use super::{StateDict, recognise, shown};
use crate::{ModelError, Result};

/// File of sizes in a folder.
pub const CONFIG: &str = "config.json";

/// Files beyond this are no configuration.
const LARGEST: u64 = 1 << 20;

/// Sizes that a configuration declares; those that it leaves open are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// Channels.
    pub width: Option<usize>,
    /// Blocks.
    pub depth: Option<usize>,
    /// Heads of attention, which no shape of a tensor shows.
    pub heads: Option<usize>,
    /// Side of a patch in pixels.
    pub patch: Option<usize>,
    /// Side of the image in pixels that the position table is for.
    pub image: Option<usize>,
    /// Register tokens.
    pub registers: Option<usize>,
}

#[derive(Deserialize)]
struct Raw {
    hidden_size: Option<Value>,
    num_hidden_layers: Option<Value>,
    num_attention_heads: Option<Value>,
    patch_size: Option<Value>,
    image_size: Option<Value>,
    num_register_tokens: Option<Value>,
}

impl Declared {
    /// Reads the text of a configuration.
    pub fn parse(text: &[u8]) -> Told<Declared> {
        let raw: Raw = serde_json::from_slice(text).map_err(|e| {
            Fault::damaged(format!("is no configuration in JSON ({})", shown(&e.to_string())))
        })?;
        Ok(Declared {
            width: size("hidden_size", raw.hidden_size)?,
            depth: size("num_hidden_layers", raw.num_hidden_layers)?,
            heads: size("num_attention_heads", raw.num_attention_heads)?,
            patch: size("patch_size", raw.patch_size)?,
            image: size("image_size", raw.image_size)?,
            registers: size("num_register_tokens", raw.num_register_tokens)?,
        })
    }

    /// The configuration in `folder`, if there is one.
    pub fn of_folder(folder: &Path) -> Result<Option<Declared>> {
        let path = folder.join(CONFIG);
        let Ok(metadata) = fs::metadata(&path) else { return Ok(None) };
        if !metadata.is_file() || metadata.len() > LARGEST {
            let what = format!("is no configuration of a network, a file of up to {LARGEST} bytes");
            return Err(Fault::from(what).of(&path));
        }
        let read = |e: std::io::Error| Fault::from(format!("cannot be read: {e}")).of(&path);
        let text = fs::read(&path).map_err(read)?;
        Declared::parse(&text).map(Some).map_err(|fault| fault.of(&path))
    }

    /// Fails if the weights have other sizes. Those of several stages are not compared.
    ///
    /// # Errors
    /// [`ModelError::Mismatch`] with all that differ.
    pub fn holds_for(&self, dict: &StateDict, folder: &Path) -> Result<()> {
        let Some(known) = recognise(dict).filter(|known| known.blocks.len() == 1) else {
            return Ok(());
        };
        let image = (known.patch > 0 && known.grid > 0).then(|| known.patch * known.grid);
        let sizes = [
            ("hidden_size", self.width, Some(known.width)),
            ("num_hidden_layers", self.depth, Some(known.blocks[0])),
            ("patch_size", self.patch, Some(known.patch).filter(|n| *n > 0)),
            ("image_size", self.image, image),
            ("num_register_tokens", self.registers, Some(known.registers)),
        ];
        let differs = sizes.into_iter().filter_map(|(name, declared, found)| {
            let (declared, found) = (declared?, found?);
            let what = format!("{name} is {declared}, the weights are of {found}");
            (declared != found).then_some(what)
        });
        let differs: Vec<String> = differs.collect();
        if differs.is_empty() {
            return Ok(());
        }
        Err(ModelError::Mismatch {
            source_name: folder.join(CONFIG).display().to_string(),
            network: "the weights beside it".into(),
            difference: differs.join("; "),
        })
    }
}

/// A size; lists and nothing at all leave it open.
fn size(name: &str, value: Option<Value>) -> Told<Option<usize>> {
    const MOST: u64 = 1 << 24;
    match value {
        None | Some(Value::Null | Value::Array(_)) => Ok(None),
        Some(value) => match value.as_u64().filter(|n| *n <= MOST) {
            Some(n) => Ok(Some(n as usize)),
            None => Err(format!("{name} is {}, not a size", shown(&value.to_string())).into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_nonsense_is_refused() {
        let text =
            br#"{"model_type": "dinov2", "hidden_size": 384, "patch_size": 14, "mlp_ratio": 4,
            "num_attention_heads": 6, "image_size": [518, 518], "num_register_tokens": null}"#;
        let want =
            Declared { width: Some(384), heads: Some(6), patch: Some(14), ..Declared::default() };
        assert_eq!(Declared::parse(text), Ok(want));
        for (text, word) in [
            ("{\"hidden_size\": \"384\"}", "hidden_size is"),
            ("{\"hidden_size\": -1}", "hidden_size is -1"),
            ("{\"patch_size\": 1e30}", "patch_size is"),
            ("{\"patch_size\": {\"a\": 3}}", "patch_size is"),
            ("{\"patch_size\": 1, \"patch_size\": 2}", "duplicate field"),
            ("[1]", "no configuration in JSON"),
            ("", "no configuration in JSON"),
        ] {
            let fault = Declared::parse(text.as_bytes()).expect_err(text);
            assert!(fault.cause.contains(word), "{text}: {fault:?}");
        }
        let deep = [b"{\"a\":".as_slice(), &[b'['; 1 << 16]].concat();
        assert!(Declared::parse(&deep).is_err());
    }
}
