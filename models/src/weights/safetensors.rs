//! Reading and writing safetensors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dressage_engine::{MappedFile, Tensor};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};

use super::archive_entry::ArchiveEntry;
use super::container::{Contents, Fault, FileResult};
use super::stored::row_major;
use super::{Container, ScalarType, Stored, shown, sums};

/// Bytes of the length in front of the header.
const LENGTH: usize = 8;

/// Longest header in bytes; longer ones are refused, as by the format's own library.
const LARGEST: u64 = 100_000_000;

/// Whether the bytes begin like a safetensors file: a length and the header's brace.
pub fn begins(bytes: &[u8]) -> bool {
    let length = bytes.first_chunk::<LENGTH>().map(|b| u64::from_le_bytes(*b));
    length.is_some_and(|n| n <= LARGEST) && bytes.get(LENGTH) == Some(&b'{')
}

/// Reads the header of a mapped file and compares it with its checksum. The tensors stay in the
/// map.
pub fn read(map: &Arc<MappedFile>) -> FileResult<Contents> {
    let (length, header) =
        SafeTensors::read_metadata(map).map_err(|e| Fault::damaged(describe(map, &e)))?;
    let mut metadata = BTreeMap::new();
    if let Some(notes) = header.metadata() {
        metadata.extend(notes.iter().map(|(k, v)| (k.clone(), v.clone())));
        if let Some(own) = metadata.get(OWN).and_then(|own| unpack(own)) {
            metadata.remove(OWN);
            metadata.extend(own);
        }
    }
    let mut infos: Vec<_> = header.tensors().into_iter().collect();
    infos.sort_by_key(|(_, info)| info.data_offsets);
    let sums = sums::check(&map[..LENGTH + length], &mut metadata, infos.len())?;
    let mut tensors = BTreeMap::new();
    for (i, (name, info)) in infos.into_iter().enumerate() {
        let kind = kind(info.dtype).ok_or_else(|| {
            format!(
                "tensor {}: element type {:?} is not supported; save it as F32, F16 or BF16",
                shown(&name),
                info.dtype
            )
        })?;
        let start = LENGTH + length + info.data_offsets.0;
        let (shape, strides) = (info.shape.clone(), row_major(&info.shape));
        let stored = Stored::mapped(map, kind, start, shape, strides);
        let member = sums.as_ref().map(|sums| {
            let range = start..LENGTH + length + info.data_offsets.1;
            let (pages, name) = (map.clone(), name.clone());
            let (sum, good, differs) = (sums[i], AtomicBool::new(false), sums::differs_in as _);
            Arc::new(ArchiveEntry { name, pages, range, sum, good, differs })
        });
        tensors.insert(name, stored.inside(member));
    }
    let (wrapper, skipped) = (Vec::new(), Vec::new());
    Ok(Contents { container: Container::Safetensors, tensors, wrapper, skipped, metadata })
}

/// Name of the one entry with this crate's notes. Several entries would be written in the order of
/// a hash table.
const OWN: &str = "dressage";

/// Notes from the object into which [`write`] joined them; `None` for anything else.
fn unpack(own: &str) -> Option<BTreeMap<String, String>> {
    serde_json::from_str(own).ok()
}

fn kind(dtype: Dtype) -> Option<ScalarType> {
    Some(match dtype {
        Dtype::F64 => ScalarType::F64,
        Dtype::F32 => ScalarType::F32,
        Dtype::F16 => ScalarType::F16,
        Dtype::BF16 => ScalarType::Bf16,
        Dtype::I64 => ScalarType::I64,
        Dtype::I32 => ScalarType::I32,
        Dtype::I16 => ScalarType::I16,
        Dtype::I8 => ScalarType::I8,
        Dtype::U8 => ScalarType::U8,
        Dtype::BOOL => ScalarType::Bool,
        _ => return None,
    })
}

fn dtype(kind: ScalarType) -> Dtype {
    match kind {
        ScalarType::F64 => Dtype::F64,
        ScalarType::F32 => Dtype::F32,
        ScalarType::F16 => Dtype::F16,
        ScalarType::Bf16 => Dtype::BF16,
        ScalarType::I64 => Dtype::I64,
        ScalarType::I32 => Dtype::I32,
        ScalarType::I16 => Dtype::I16,
        ScalarType::I8 => Dtype::I8,
        ScalarType::U8 => Dtype::U8,
        ScalarType::Bool => Dtype::BOOL,
    }
}

/// Cause of an error for a header that is not valid.
fn describe(bytes: &[u8], error: &safetensors::SafeTensorError) -> String {
    use safetensors::SafeTensorError as E;
    match (error, wrong(bytes)) {
        (E::MetadataIncompleteBuffer | E::InvalidHeaderLength, _) => {
            "is truncated, or no safetensors file".into()
        }
        (E::TensorInvalidInfo | E::ValidationOverflow, Some((name, info))) => format!(
            "tensor {}: shape {} does not make the bytes {} to {} with elements of type {:?}",
            shown(&name),
            shown(&format!("{:?}", info.shape)),
            info.data_offsets.0,
            info.data_offsets.1,
            info.dtype
        ),
        // Some causes quote the file.
        (other, _) => format!("is not a valid safetensors file ({})", shown(&other.to_string())),
    }
}

/// The first tensor by name whose shape and type do not give the length of its bytes.
fn wrong(bytes: &[u8]) -> Option<(String, TensorInfo)> {
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk::<LENGTH>()?)).ok()?;
    let header = bytes.get(LENGTH..)?.get(..length)?;
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
    let mut infos = tensors.filter_map(|(name, v)| Some((name, serde_json::from_value(v).ok()?)));
    infos.find(|(_, info): &(_, TensorInfo)| {
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, axis| n.checked_mul(*axis));
        let (start, end) = info.data_offsets;
        let there = end.checked_sub(start).and_then(|n| n.checked_mul(8));
        bits.is_none() || bits != there
    })
}

/// A tensor to be written: its name, its values and the type to write (floats only; integers keep
/// theirs).
pub type Written<'a> = (&'a str, &'a Stored, ScalarType);

/// Writes tensors and notes as safetensors to `out`, one tensor after the other. The order of
/// `tensors` has no effect; equal input gives equal bytes.
///
/// # Errors
/// Errors of `out`; two tensors of one name.
pub fn write(
    tensors: Vec<Written<'_>>,
    notes: &[(&str, String)],
    out: &mut dyn Write,
) -> io::Result<()> {
    write_all(tensors, notes, false, out)
}

/// As [`write()`], with a checksum of the header and of each tensor, so that a single changed bit is
/// detected. Every value is read twice.
///
/// # Errors
/// As [`write()`].
pub fn write_summed(
    tensors: Vec<Written<'_>>,
    notes: &[(&str, String)],
    out: &mut dyn Write,
) -> io::Result<()> {
    write_all(tensors, notes, true, out)
}

fn write_all(
    mut tensors: Vec<Written<'_>>,
    notes: &[(&str, String)],
    summed: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let invalid = |e: String| io::Error::new(io::ErrorKind::InvalidData, e);
    // Wide types first, so that every tensor is aligned to its elements.
    tensors.sort_by(|a, b| b.2.size().cmp(&a.2.size()).then(a.0.cmp(b.0)));
    let mut infos = Vec::with_capacity(tensors.len());
    let (mut at, mut names) = (0, BTreeSet::new());
    for (name, stored, kind) in &tensors {
        if !names.insert(*name) {
            return Err(invalid(format!("two tensors are named {}", shown(name))));
        }
        let end = at + stored.len() * kind.size();
        let (dtype, shape) = (dtype(*kind), stored.shape().to_vec());
        infos.push((name.to_string(), TensorInfo { dtype, shape, data_offsets: (at, end) }));
        at = end;
    }
    let mut joined: serde_json::Map<String, serde_json::Value> =
        notes.iter().map(|(k, v)| (k.to_string(), v.clone().into())).collect();
    if summed {
        sums::add(&mut joined, &tensors)?;
    }
    let joined = (!joined.is_empty()).then(|| serde_json::Value::Object(joined).to_string());
    let notes = joined.map(|joined| HashMap::from([(OWN.to_string(), joined)]));
    let header = Metadata::new(notes, infos).map_err(|e| invalid(e.to_string()))?;
    out.write_all(&header_bytes(&header, summed)?)?;
    tensors.iter().try_for_each(|(name, stored, kind)| {
        stored.write(*kind, out).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => invalid(format!("tensor {}: {e}", shown(name))),
            _ => e,
        })
    })
}

/// The header after its length, padded with spaces to a multiple of [`LENGTH`].
fn header_bytes(header: &Metadata, summed: bool) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; LENGTH];
    serde_json::to_writer(&mut bytes, header)?;
    bytes.resize(bytes.len().next_multiple_of(LENGTH), b' ');
    let length = (bytes.len() - LENGTH) as u64;
    bytes[..LENGTH].copy_from_slice(&length.to_le_bytes());
    if summed {
        sums::seal(&mut bytes);
    }
    Ok(bytes)
}

/// As [`write_summed`], for tensors in memory.
///
/// # Errors
/// As [`write()`].
pub fn write_safetensors(
    tensors: &[(String, Tensor)],
    notes: &[(&str, String)],
    out: &mut dyn Write,
) -> io::Result<()> {
    let stored: Vec<(&str, Stored)> =
        tensors.iter().map(|(name, t)| (name.as_str(), t.clone().into())).collect();
    write_summed(stored.iter().map(|(name, t)| (*name, t, t.kind())).collect(), notes, out)
}

#[cfg(test)]
mod tests {
    use dressage_engine::DType;

    use super::*;
    use crate::weights::StateDict;

    #[test]
    fn notes_and_tensors_come_back() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let tensor = |v: &[f32]| Tensor::from_slice(v, &[v.len()]).expect("tensor");
        let tensors = [("b".to_string(), tensor(&[1.5, -2.0])), ("a".to_string(), tensor(&[]))];
        let notes = [("dressage", "{\"step\":3}".to_string()), ("more", "words".to_string())];
        write_safetensors(&tensors, &notes, &mut file.as_file()).expect("written");
        let mut dict = StateDict::open(file.path()).expect("opened");
        assert_eq!(dict.metadata().len(), 2);
        for (name, text) in &notes {
            assert_eq!(dict.metadata().get(*name), Some(text), "{name}");
        }
        let read =
            dict.take("b").and_then(|t| t.to_float(DType::F32).expect("read")).expect("tensor");
        assert_eq!(read.data::<f32>().expect("f32"), [1.5, -2.0]);
        assert_eq!(dict.take("a").expect("tensor").shape(), [0]);
    }

    #[test]
    fn types_are_narrowed_on_the_way_and_lie_aligned() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let floats = Stored::from(Tensor::from_slice(&[0.5f32, 3.0, -1.0], &[3]).expect("tensor"));
        let flags = Stored::from(Tensor::from_slice(&[1u8, 0, 1], &[3]).expect("tensor"));
        let tensors = vec![
            ("flags", &flags, flags.kind()),
            ("half", &floats, ScalarType::F16),
            ("wide", &floats, ScalarType::F32),
        ];
        write(tensors, &[], &mut file.as_file()).expect("written");
        let dict = StateDict::open(file.path()).expect("opened");
        let kinds: Vec<_> = dict.names().filter_map(|n| Some(dict.get(n)?.kind())).collect();
        assert_eq!(kinds, [ScalarType::U8, ScalarType::F16, ScalarType::F32]);
        for name in ["half", "wide"] {
            let t = dict.get(name).and_then(|t| t.to_float(DType::F32).expect("read"));
            let t = t.expect("floats");
            assert_eq!(t.data::<f32>().expect("f32"), [0.5, 3.0, -1.0], "{name}");
        }
        let twice = vec![("a", &floats, ScalarType::F32), ("a", &floats, ScalarType::F32)];
        assert!(write(twice, &[], &mut Vec::new()).is_err());
    }
}
