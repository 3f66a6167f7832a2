//! What kind of file is this? Told by its bytes; the name does not matter.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use dressage_engine::Pages;

use super::{Source, StateDict, Stored, names, safetensors, torch};
use crate::{ModelError, Result};

/// A cause, without the file's name.
pub type Told<T> = std::result::Result<T, String>;

/// Form of a file of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// safetensors.
    Safetensors,
    /// `.pth` of `torch.save` since 1.6: a zip archive.
    Zip,
    /// `.pth` of `torch.save` before 1.6: pickles and raw storages.
    Legacy,
    /// Archive of `torch.jit.save`.
    TorchScript,
}

impl std::fmt::Display for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Container::Safetensors => "safetensors",
            Container::Zip => "PyTorch (zip)",
            Container::Legacy => "PyTorch (legacy)",
            Container::TorchScript => "TorchScript archive",
        })
    }
}

/// What a file holds, before prefixes are taken off.
pub struct Contents {
    pub container: Container,
    pub tensors: BTreeMap<String, Stored>,
    pub wrapper: Vec<&'static str>,
    pub skipped: Vec<(String, String)>,
    pub metadata: BTreeMap<String, String>,
}

/// Maps a file and reads its directory of tensors.
pub fn open(path: &Path) -> Result<StateDict> {
    let fail = |cause: String| ModelError::Read { path: path.to_path_buf(), cause };
    let file = File::open(path).map_err(|e| fail(format!("cannot open weights: {e}")))?;
    let pages = Pages::of_file(&file).map_err(|e| fail(format!("cannot map weights: {e}")))?;
    dictionary(pages, path)
}

/// As [`open`], for a file that lies in memory: it is copied once, since tensors are views of pages.
pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<StateDict> {
    let fail = |e: std::io::Error| ModelError::Read {
        path: path.to_path_buf(),
        cause: format!("cannot map weights: {e}"),
    };
    dictionary(Pages::of_bytes(bytes).map_err(fail)?, path)
}

fn dictionary(map: Pages, path: &Path) -> Result<StateDict> {
    let fail = |cause: String| ModelError::Read { path: path.to_path_buf(), cause };
    let contents = read(&Arc::new(map), path).map_err(fail)?;
    let Contents { container, mut tensors, mut wrapper, skipped, metadata } = contents;
    if names::strip_parallel(&mut tensors) {
        wrapper.push("module.");
    }
    let source = Some(Source { container, wrapper, skipped });
    Ok(StateDict { origin: path.display().to_string(), tensors, metadata, source })
}

fn read(map: &Arc<Pages>, path: &Path) -> Told<Contents> {
    let bytes: &[u8] = map;
    // First, since the length of a header may look like the start of a pickle.
    if safetensors::begins(bytes) {
        return safetensors::read(map, path);
    }
    match bytes {
        [] => Err("is empty; fetch it again".into()),
        [b'P', b'K', 3 | 5, 4 | 6, ..] => torch::archive(map, path),
        [0x80, 2..=5, ..] => torch::legacy(map),
        _ => Err(unknown(bytes)),
    }
}

fn unknown(bytes: &[u8]) -> String {
    let text = bytes.trim_ascii_start();
    if text.starts_with(b"<") {
        return "is a web page, not weights: the download went wrong; fetch it again".into();
    }
    if text.starts_with(b"version https://git-lfs") {
        return "is a pointer of Git LFS, not weights; fetch the file that it stands for".into();
    }
    "is neither safetensors nor a PyTorch file (zip, legacy or TorchScript), or only the start of \
     one; fetch it again"
        .into()
}
