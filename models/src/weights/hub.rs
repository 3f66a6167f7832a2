//! `config.json` of a folder from the Hugging Face hub: sizes that its weights must have.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::container::{Fault, FileResult};
use super::{Family, Known, StateDict, recognise, shown};
use crate::{ModelError, Result};

/// File name of the configuration in a folder.
pub const CONFIG: &str = "config.json";

/// Byte order mark that some editors write before a text.
pub const BOM: &[u8] = b"\xef\xbb\xbf";

/// Maximum size of a configuration file in bytes.
const LARGEST: u64 = 1 << 20;

/// Sizes that a configuration declares; those that it does not declare are `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Declared {
    /// Channels.
    pub width: Option<usize>,
    /// Blocks.
    pub depth: Option<usize>,
    /// Attention heads, which no tensor shape shows.
    pub heads: Option<usize>,
    /// Side of a patch in pixels.
    pub patch: Option<usize>,
    /// Side in pixels of the image that the position table is for.
    pub image: Option<usize>,
    /// Register tokens.
    pub registers: Option<usize>,
    /// Hidden channels of an MLP per input channel, before the reduction by a third for a gate.
    pub mlp_ratio: Option<f64>,
    /// Hidden channels of an MLP.
    pub hidden: Option<usize>,
    /// Whether MLPs are gated (SwiGLU).
    pub gated: Option<bool>,
    /// Type of the whole network, not of a part of it.
    pub model_type: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    hidden_size: Option<Value>,
    num_hidden_layers: Option<Value>,
    num_attention_heads: Option<Value>,
    patch_size: Option<Value>,
    image_size: Option<Value>,
    num_register_tokens: Option<Value>,
    mlp_ratio: Option<Value>,
    intermediate_size: Option<Value>,
    use_swiglu_ffn: Option<Value>,
    use_gated_mlp: Option<Value>,
    model_type: Option<Value>,
    backbone_config: Option<IgnoredAny>,
    vision_config: Option<IgnoredAny>,
}

impl Declared {
    /// Reads the text of a configuration.
    pub fn parse(text: &[u8]) -> FileResult<Declared> {
        let raw: Raw =
            serde_json::from_slice(text.strip_prefix(BOM).unwrap_or(text)).map_err(|e| {
                Fault::damaged(format!(
                    "is not a configuration in JSON ({})",
                    shown(&e.to_string())
                ))
            })?;
        let whole = raw.backbone_config.is_none() && raw.vision_config.is_none();
        let model_type = raw.model_type.filter(|_| whole);
        Ok(Declared {
            width: size("hidden_size", raw.hidden_size)?,
            depth: size("num_hidden_layers", raw.num_hidden_layers)?,
            heads: size("num_attention_heads", raw.num_attention_heads)?,
            patch: size("patch_size", raw.patch_size)?,
            image: size("image_size", raw.image_size)?,
            registers: size("num_register_tokens", raw.num_register_tokens)?,
            mlp_ratio: raw.mlp_ratio.and_then(|ratio| ratio.as_f64()),
            hidden: size("intermediate_size", raw.intermediate_size)?,
            gated: raw.use_swiglu_ffn.or(raw.use_gated_mlp).and_then(|gated| gated.as_bool()),
            model_type: model_type.and_then(|name| name.as_str().map(str::to_string)),
        })
    }

    /// The configuration in `folder`, if there is one.
    pub(crate) fn of_folder(folder: &Path) -> Result<Option<Declared>> {
        let path = folder.join(CONFIG);
        let Ok(metadata) = fs::metadata(&path) else { return Ok(None) };
        if !metadata.is_file() || metadata.len() > LARGEST {
            let what = format!("must be a configuration file of up to {LARGEST} bytes");
            return Err(Fault::from(what).of(&path));
        }
        let read = |e: std::io::Error| Fault::from(format!("cannot be read: {e}")).of(&path);
        let text = fs::read(&path).map_err(read)?;
        Declared::parse(&text).map(Some).map_err(|fault| fault.of(&path))
    }

    /// Checks that the weights have these sizes. Weights with several stages are not compared.
    ///
    /// # Errors
    /// [`ModelError::Mismatch`] with all sizes that differ.
    pub(crate) fn holds_for(&self, dict: &StateDict, folder: &Path) -> Result<()> {
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
        let differs: Vec<String> = differs.chain(self.other_form(dict, &known)).collect();
        if differs.is_empty() {
            return Ok(());
        }
        Err(ModelError::Mismatch {
            source_name: folder.join(CONFIG).display().to_string(),
            network: "the weights in its folder".into(),
            difference: differs.join("; "),
        })
    }
}

impl Declared {
    /// Description of a declared type or MLP that the weights do not have.
    fn other_form(&self, dict: &StateDict, known: &Known) -> Option<String> {
        let word = match known.family {
            Family::Dinov2 => "dinov2",
            Family::Dinov3 => "dinov3",
            Family::Clip => "clip",
            Family::Mae => "vit",
            Family::Sam => "sam",
            _ => return None,
        };
        if let Some(name) = self.model_type.as_ref().filter(|name| !name.contains(word)) {
            let (name, family) = (shown(name), known.family);
            return Some(format!("model_type is {name}, the weights are of {family}"));
        }
        let rows = |ending: &str| {
            let is = |name: &str| name.starts_with(known.prefix) && name.ends_with(ending);
            let found = dict.iter().find(|(name, _)| is(name));
            found.and_then(|(_, t)| t.shape().first().copied())
        };
        // Both halves of a gated MLP may be in one matrix.
        let packed = rows(".mlp.weights_in.weight").or_else(|| rows(".mlp.w12.weight"));
        let endings = [".mlp.fc1.weight", ".mlp.up_proj.weight", ".mlp.w1.weight"];
        let (gated, found) = match packed {
            Some(rows) => (true, rows / 2),
            None => (known.gated, endings.iter().find_map(|ending| rows(ending))?),
        };
        if self.gated.is_some_and(|declared| declared != gated) {
            let (declared, are) = (!gated, if gated { "gated" } else { "plain" });
            let key =
                if known.family == Family::Dinov3 { "use_gated_mlp" } else { "use_swiglu_ffn" };
            return Some(format!("{key} is {declared}, the weights are of {are} MLPs"));
        }
        if let Some(hidden) = self.hidden.filter(|hidden| *hidden != found) {
            return Some(format!("intermediate_size is {hidden}, the weights are of {found}"));
        }
        let ratio = self.mlp_ratio.filter(|_| known.family == Family::Dinov2)?;
        let plain = (known.width as f64 * ratio) as usize;
        let want = if gated { (plain.saturating_mul(2) / 3).div_ceil(8) * 8 } else { plain };
        (want != found).then(|| {
            format!("mlp_ratio {ratio} makes {want} channels in an MLP, the weights have {found}")
        })
    }
}

/// Reads a size; `None` for lists and missing or null values.
fn size(name: &str, value: Option<Value>) -> FileResult<Option<usize>> {
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
        let want = Declared {
            width: Some(384),
            heads: Some(6),
            patch: Some(14),
            mlp_ratio: Some(4.0),
            model_type: Some("dinov2".into()),
            ..Declared::default()
        };
        let marked = [BOM, text].concat();
        assert_eq!(Declared::parse(&marked), Ok(want.clone()));
        assert_eq!(Declared::parse(text), Ok(want));
        for (text, word) in [
            ("{\"hidden_size\": \"384\"}", "hidden_size is"),
            ("{\"hidden_size\": -1}", "hidden_size is -1"),
            ("{\"patch_size\": 1e30}", "patch_size is"),
            ("{\"patch_size\": {\"a\": 3}}", "patch_size is"),
            ("{\"patch_size\": 1, \"patch_size\": 2}", "duplicate field"),
            ("[1]", "not a configuration in JSON"),
            ("", "not a configuration in JSON"),
        ] {
            let fault = Declared::parse(text.as_bytes()).expect_err(text);
            assert!(fault.cause.contains(word), "{text}: {fault:?}");
        }
        let deep = [b"{\"a\":".as_slice(), &[b'['; 1 << 16]].concat();
        assert!(Declared::parse(&deep).is_err());
    }
}
