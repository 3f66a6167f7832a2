//! Writers of checkpoints in the formats that their authors publish.
//!
//! Each writer takes the same list of [`Entry`] and streams it to its output, so a file of any size
//! needs no memory. Zeros are skipped instead of written. In a file they become holes that take
//! neither disk space nor time, so a test can write a checkpoint of full size.
//!
//! | function | form |
//! |---|---|
//! | [`zip`] | the current format of `torch.save`: an archive of a pickle and the raw storages |
//! | [`legacy`] | its format before 1.6: five pickles, then the storages |
//! | [`torchscript`] | the format of `torch.jit.save`: a module tree in an archive, with code |
//! | [`safetensors`](mod@safetensors) | a JSON header, then the data |

mod archive;
mod pickle;
mod torch;

use std::io::{self, Seek, SeekFrom, Write};

pub use archive::Archive;
pub use pickle::Pickle;
pub use torch::{legacy, torchscript, torchscript_pickle, zip, zip_pickle, zip_unsummed};

/// Element types of the formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalarType {
    /// 64-bit floats.
    F64,
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// The upper halves of 32-bit floats.
    Bf16,
    /// 64-bit integers.
    I64,
    /// 32-bit integers.
    I32,
    /// Bytes.
    U8,
    /// Booleans, one byte each.
    Bool,
}

impl ScalarType {
    /// Bytes of one element.
    pub fn size(self) -> u64 {
        match self {
            ScalarType::F64 | ScalarType::I64 => 8,
            ScalarType::F32 | ScalarType::I32 => 4,
            ScalarType::F16 | ScalarType::Bf16 => 2,
            ScalarType::U8 | ScalarType::Bool => 1,
        }
    }

    /// PyTorch's class for a storage of such elements.
    pub fn storage(self) -> &'static str {
        match self {
            ScalarType::F64 => "DoubleStorage",
            ScalarType::F32 => "FloatStorage",
            ScalarType::F16 => "HalfStorage",
            ScalarType::Bf16 => "BFloat16Storage",
            ScalarType::I64 => "LongStorage",
            ScalarType::I32 => "IntStorage",
            ScalarType::U8 => "ByteStorage",
            ScalarType::Bool => "BoolStorage",
        }
    }

    fn safetensors(self) -> &'static str {
        match self {
            ScalarType::F64 => "F64",
            ScalarType::F32 => "F32",
            ScalarType::F16 => "F16",
            ScalarType::Bf16 => "BF16",
            ScalarType::I64 => "I64",
            ScalarType::I32 => "I32",
            ScalarType::U8 => "U8",
            ScalarType::Bool => "BOOL",
        }
    }
}

/// Content of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Zeros, in the number that the shape says.
    Zeros,
    /// This many zero bytes, whatever the shape says.
    Hole(u64),
    /// These bytes, little-endian, whatever the shape says.
    Bytes(Vec<u8>),
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name in the state dict.
    pub name: String,
    /// Type of the elements.
    pub kind: ScalarType,
    /// Sizes of the axes.
    pub shape: Vec<u64>,
    /// The elements.
    pub content: Content,
}

impl Entry {
    /// Creates a tensor of f32 zeros.
    pub fn zeros(name: &str, shape: &[u64]) -> Entry {
        let (name, shape) = (name.to_string(), shape.to_vec());
        Entry { name, kind: ScalarType::F32, shape, content: Content::Zeros }
    }

    /// Creates a tensor with these little-endian bytes.
    pub fn bytes(name: &str, kind: ScalarType, shape: &[u64], bytes: Vec<u8>) -> Entry {
        let (name, shape) = (name.to_string(), shape.to_vec());
        Entry { name, kind, shape, content: Content::Bytes(bytes) }
    }

    /// Number of elements that the shape says.
    pub fn len(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Whether the shape has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of bytes that are written.
    pub fn written(&self) -> u64 {
        match &self.content {
            Content::Zeros => self.len() * self.kind.size(),
            Content::Hole(bytes) => *bytes,
            Content::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// An output that a checkpoint can be written to.
pub trait Out: Write + Seek {}

impl<T: Write + Seek> Out for T {}

/// Writes the elements. Zeros are skipped, so something must be written after them.
fn put(out: &mut dyn Out, entry: &Entry) -> io::Result<()> {
    match &entry.content {
        Content::Bytes(bytes) => out.write_all(bytes),
        _ => out.seek(SeekFrom::Current(entry.written() as i64)).map(|_| ()),
    }
}

/// Ends an output after skipped zeros by writing the last zero.
fn end(out: &mut dyn Out) -> io::Result<()> {
    let at = out.stream_position()?;
    if out.seek(SeekFrom::End(0))? < at {
        out.seek(SeekFrom::Start(at - 1))?;
        out.write_all(&[0])?;
    }
    out.flush()
}

/// Writes a safetensors file.
///
/// # Errors
/// Errors of `out`.
pub fn safetensors(out: &mut dyn Out, entries: &[Entry]) -> io::Result<()> {
    let mut at = 0;
    let mut header = serde_json::Map::new();
    for entry in entries {
        let next = at + entry.written();
        let fields = serde_json::json!({
            "dtype": entry.kind.safetensors(), "shape": entry.shape, "data_offsets": [at, next],
        });
        header.insert(entry.name.clone(), fields);
        at = next;
    }
    let mut header = serde_json::Value::Object(header).to_string();
    // Data begins at a multiple of eight, so that it can be used in place.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    entries.iter().try_for_each(|entry| put(out, entry))?;
    end(out)
}
