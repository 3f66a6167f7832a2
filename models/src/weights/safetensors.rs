//! Reading and writing safetensors.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use dressage_engine::{DType, Tensor};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, View};

use super::{StateDict, Stored};
use crate::{ModelError, Result};

/// Opens a file; f32, bf16 and u8 tensors stay in the mapping.
pub fn open(path: &Path) -> Result<StateDict> {
    let fail = |cause: String| ModelError::Read { path: path.to_path_buf(), cause };
    let file = File::open(path).map_err(|e| fail(format!("cannot open weights: {e}")))?;
    // SAFETY: the map is read-only; a file that another process shortens while it is mapped ends
    // this process with a bus error, which no check here could prevent.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| fail(format!("cannot map weights: {e}")))?;
    let map = Arc::new(map);
    if PICKLES.iter().any(|magic| map.starts_with(magic)) {
        return Err(fail("is a PyTorch file; save its tensors as safetensors first".into()));
    }
    let parsed = SafeTensors::deserialize(&map).map_err(|e| fail(describe(&e)))?;
    let (_, header) = SafeTensors::read_metadata(&map).map_err(|e| fail(describe(&e)))?;
    let base = map.as_ptr() as usize;
    let mut dict = StateDict::new(path.display().to_string());
    if let Some(notes) = header.metadata() {
        dict.metadata.extend(notes.iter().map(|(k, v)| (k.clone(), v.clone())));
        dict.metadata.extend(notes.get(OWN).map(|own| unpack(own)).unwrap_or_default());
    }
    for (name, view) in parsed.tensors() {
        let offset = view.data().as_ptr() as usize - base;
        let stored = read(&map, offset, view.dtype(), view.shape(), view.data())
            .map_err(|cause| fail(format!("tensor {name}: {cause}")))?;
        dict.insert(name, stored);
    }
    Ok(dict)
}

/// How PyTorch's own files begin: zip archives, and bare pickles of protocol 2 or later before
/// them.
const PICKLES: [&[u8]; 4] = [b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04"];

/// Name of the one entry that holds this crate's notes: a map of several would be written in the
/// order of a hash table.
const OWN: &str = "dressage";

/// Notes from the object that [`write_safetensors`] joined them to; none from anything else.
fn unpack(own: &str) -> BTreeMap<String, String> {
    serde_json::from_str(own).unwrap_or_default()
}

fn read(
    map: &Arc<Mmap>,
    offset: usize,
    dtype: Dtype,
    shape: &[usize],
    data: &[u8],
) -> std::result::Result<Stored, String> {
    let mapped = |t: DType| {
        let view = Tensor::from_map(map.clone(), offset, t, shape);
        // A header of odd length leaves the data unaligned: copy it then.
        let copy = || copied(t, shape, data);
        Ok(Stored::Tensor(view.unwrap_or_else(|_| copy())))
    };
    match dtype {
        Dtype::F32 => mapped(DType::F32),
        Dtype::F64 => mapped(DType::F64),
        Dtype::BF16 => mapped(DType::Bf16),
        Dtype::I32 => mapped(DType::I32),
        Dtype::U8 | Dtype::BOOL => mapped(DType::U8),
        Dtype::F16 => Ok(Stored::Half(bytemuck::pod_collect_to_vec(data), shape.to_vec())),
        Dtype::I64 => Ok(Stored::I64(bytemuck::pod_collect_to_vec(data), shape.to_vec())),
        other => Err(format!("element type {other:?} is not supported")),
    }
}

fn copied(dtype: DType, shape: &[usize], data: &[u8]) -> Tensor {
    let mut t = Tensor::zeros(dtype, shape);
    // A tensor that was just made is neither shared nor of another type; the arms cannot fail.
    let done = match dtype {
        DType::F32 => t.data_mut::<f32>().map(|d| write(d, data)),
        DType::F64 => t.data_mut::<f64>().map(|d| write(d, data)),
        DType::Bf16 => t.data_mut::<half::bf16>().map(|d| write(d, data)),
        DType::I32 => t.data_mut::<i32>().map(|d| write(d, data)),
        DType::U8 => t.data_mut::<u8>().map(|d| write(d, data)),
    };
    debug_assert!(done.is_ok());
    t
}

fn write<T: bytemuck::Pod>(to: &mut [T], data: &[u8]) {
    bytemuck::cast_slice_mut(to).copy_from_slice(data);
}

/// One sentence for a header that does not hold.
fn describe(error: &safetensors::SafeTensorError) -> String {
    use safetensors::SafeTensorError as E;
    match error {
        E::HeaderTooSmall => "is too short to be a safetensors file".into(),
        E::MetadataIncompleteBuffer | E::InvalidHeaderLength => {
            "is truncated, or not a safetensors file; fetch it again".into()
        }
        E::HeaderTooLarge => "declares a header larger than any real one; not safetensors?".into(),
        other => format!("is not a valid safetensors file ({other})"),
    }
}

struct Bytes<'a>(&'a Tensor);

impl View for Bytes<'_> {
    fn dtype(&self) -> Dtype {
        match self.0.dtype() {
            DType::F32 => Dtype::F32,
            DType::F64 => Dtype::F64,
            DType::Bf16 => Dtype::BF16,
            DType::I32 => Dtype::I32,
            DType::U8 => Dtype::U8,
        }
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.0.bytes().into()
    }

    fn data_len(&self) -> usize {
        self.0.bytes().len()
    }
}

/// Writes tensors and notes as safetensors to `out`; the order of `tensors` decides nothing but
/// equal input gives equal bytes.
///
/// # Errors
/// Whatever `out` fails with.
pub fn write_safetensors(
    tensors: &[(String, Tensor)],
    notes: &[(&str, String)],
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let views = tensors.iter().map(|(name, t)| (name.clone(), Bytes(t)));
    let joined: serde_json::Map<String, serde_json::Value> =
        notes.iter().map(|(k, v)| (k.to_string(), v.clone().into())).collect();
    let joined = serde_json::Value::Object(joined).to_string();
    let notes = (!notes.is_empty()).then(|| HashMap::from([(OWN.to_string(), joined)]));
    let bytes = safetensors::serialize(views, notes)
        .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e.to_string()))?;
    out.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_and_tensors_come_back() {
        let path = std::env::temp_dir().join(format!("dressage-notes-{}", std::process::id()));
        let tensor = Tensor::from_slice(&[1.5f32, -2.0], &[2]).expect("tensor");
        let notes = [("dressage", "{\"step\":3}".to_string()), ("more", "words".to_string())];
        let mut file = File::create(&path).expect("file");
        write_safetensors(&[("a".to_string(), tensor)], &notes, &mut file).expect("written");
        let mut dict = open(&path).expect("opened");
        for (name, text) in &notes {
            assert_eq!(dict.metadata().get(*name), Some(text), "{name}");
        }
        let read = dict.take("a").and_then(|t| t.to_float(DType::F32)).expect("tensor");
        assert_eq!(read.data::<f32>().expect("f32"), [1.5, -2.0]);
        std::fs::remove_file(&path).expect("removed");
    }
}
