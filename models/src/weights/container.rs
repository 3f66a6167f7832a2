//! File formats, detected from the bytes and not from the names.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dressage_engine::MappedFile;

use super::folder::{self, Index};
use super::{FileSource, StateDict, Stored, hub, safetensors, torch, wrappers};
use crate::{ModelError, Result};

/// Reason why a file cannot be read, without its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The cause.
    pub cause: String,
    /// Whether the bytes are damaged, so that a new copy of the file may help.
    pub damaged: bool,
}

impl Fault {
    /// Fault of damaged bytes.
    pub fn damaged(cause: impl Into<String>) -> Fault {
        Fault { cause: cause.into(), damaged: true }
    }

    /// The error for the file `path`.
    pub fn of(self, path: &Path) -> ModelError {
        let (path, cause) = (path.to_path_buf(), self.cause);
        match self.damaged {
            true => ModelError::Damaged { path, cause },
            false => ModelError::Read { path, cause },
        }
    }
}

impl From<String> for Fault {
    fn from(cause: String) -> Fault {
        Fault { cause, damaged: false }
    }
}

impl From<&str> for Fault {
    fn from(cause: &str) -> Fault {
        cause.to_string().into()
    }
}

/// Result of a reader, or the reason why it refused the file.
pub type FileResult<T> = std::result::Result<T, Fault>;

/// Format of a file of weights.
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

/// Contents of a file, before prefixes are removed.
pub struct Contents {
    pub container: Container,
    pub tensors: BTreeMap<String, Stored>,
    pub wrapper: Vec<String>,
    pub skipped: Vec<(String, String)>,
    pub metadata: BTreeMap<String, String>,
}

/// Opens a file, an index of several, or a folder.
pub fn open(path: &Path) -> Result<StateDict> {
    let metadata = fs::metadata(path).map_err(|e| cannot_open(path, &e))?;
    if metadata.is_dir() {
        return folder::open(path);
    }
    let pages = map(path)?;
    match index(&pages) {
        Some(index) => folder::open_index(path, index.map_err(|fault| fault.of(path))?),
        None => {
            let contents = read(&pages).map_err(|fault| fault.of(path))?;
            dictionary(contents, path, vec![path.to_path_buf()])
        }
    }
}

/// As [`open`], for a file in memory. It is copied once, since tensors are views of mapped pages.
pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<StateDict> {
    let pages = MappedFile::of_bytes(bytes, path).map(Arc::new);
    let pages = pages.map_err(|e| Fault::from(format!("cannot map weights: {e}")).of(path))?;
    let contents = match index(&pages) {
        None => read(&pages),
        Some(index) => index.and_then(|index| {
            let n = index.files().len();
            Err(format!("is an index of {n} other files; open it by its path").into())
        }),
    };
    dictionary(contents.map_err(|fault| fault.of(path))?, path, Vec::new())
}

fn cannot_open(path: &Path, error: &std::io::Error) -> ModelError {
    Fault::from(format!("cannot open weights: {error}")).of(path)
}

/// Maps one file. Anything else is refused before it is opened, because opening a pipe would block.
pub fn map(path: &Path) -> Result<Arc<MappedFile>> {
    let metadata = fs::metadata(path).map_err(|e| cannot_open(path, &e))?;
    if !metadata.is_file() {
        let what = "is a folder, device or pipe, not a file; weights are read from files";
        return Err(Fault::from(what).of(path));
    }
    let file = File::open(path).map_err(|e| cannot_open(path, &e))?;
    let pages = MappedFile::of_file(file, path);
    let pages = pages.map_err(|e| Fault::from(format!("cannot map weights: {e}")).of(path))?;
    Ok(Arc::new(pages))
}

/// Makes the dictionary of what was read, with the names of the network.
pub fn dictionary(contents: Contents, path: &Path, files: Vec<PathBuf>) -> Result<StateDict> {
    let Contents { container, mut tensors, mut wrapper, mut skipped, metadata } = contents;
    tensors.iter_mut().for_each(|(name, tensor)| tensor.set_own_name(name));
    wrappers::normalise(&mut tensors, &mut wrapper, &mut skipped)
        .map_err(|fault| fault.of(path))?;
    let source = Some(FileSource { container, files, wrapper, skipped });
    let origin = path.display().to_string();
    Ok(StateDict { origin, tensors, metadata, source, declared: None, converted_from: None })
}

/// The index of shards in these bytes; `None` if they do not begin like one.
fn index(bytes: &[u8]) -> Option<FileResult<Index>> {
    // This test comes first, since the length of a header may be a brace.
    let text = bytes.strip_prefix(hub::BOM).unwrap_or(bytes).trim_ascii_start();
    (!safetensors::begins(bytes) && text.starts_with(b"{")).then(|| Index::parse(text))
}

/// Reads the tensors of one file.
pub fn read(map: &Arc<MappedFile>) -> FileResult<Contents> {
    let bytes: &[u8] = map;
    // This test comes first, since the length of a header may look like the start of a pickle.
    if safetensors::begins(bytes) {
        return safetensors::read(map);
    }
    match bytes {
        [] => Err(Fault::damaged("is empty")),
        [b'P', b'K', 3 | 5, 4 | 6, ..] => torch::archive(map),
        [0x80, 2..=5, ..] => torch::legacy(map),
        _ => Err(unknown(bytes)),
    }
}

fn unknown(bytes: &[u8]) -> Fault {
    let text = bytes.trim_ascii_start();
    if text.starts_with(b"<") {
        return Fault::damaged("is a web page, not weights: the download went wrong");
    }
    if text.starts_with(b"version https://git-lfs") {
        let what = "is a pointer of Git LFS, not the weights that it stands for; fetch them with \
                    git lfs pull";
        return what.into();
    }
    Fault::damaged(
        "is neither safetensors nor a PyTorch file (zip, legacy or TorchScript), or only the \
         start of one",
    )
}
