//! Stored tensors: in a file, in memory, or in parts. Values are read and converted only on
//! request. They are copied then, so that later changes to the file do not change them.

use std::io::{self, Write};
use std::sync::Arc;

use bytemuck::cast_slice_mut;
use dressage_engine::{DType, MappedFile, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::archive_entry::ArchiveEntry;
use super::elements::{FloatTarget, decode, encode};
use super::reading::{of_reading, read_at, strided_runs, unchanged};
use super::scalar_type::ScalarType;
use crate::Result;

/// A tensor as stored in a file.
#[derive(Debug, Clone)]
pub struct Stored {
    kind: ScalarType,
    shape: Vec<usize>,
    values: Values,
    /// The archive entry with the values.
    member: Option<Arc<ArchiveEntry>>,
    /// Name in the file, before wrappers and prefixes are removed.
    own_name: Option<Arc<str>>,
}

#[derive(Debug, Clone)]
enum Values {
    /// In memory, contiguous.
    Tensor(Tensor),
    /// In a file.
    File(Located),
    /// Parts stacked along the first axis, all of one kind.
    Rows(Vec<Stored>),
}

/// Place of the values in a file: `start` in bytes, `strides` in elements.
#[derive(Debug, Clone)]
struct Located {
    pages: Arc<MappedFile>,
    start: usize,
    strides: Vec<usize>,
    /// Whether they are used in place.
    in_place: bool,
}

/// Bytes of a file that are read at once, a multiple of every element.
const PIECE: usize = 1 << 20;

impl From<Tensor> for Stored {
    fn from(tensor: Tensor) -> Stored {
        let (kind, shape) = (tensor.dtype().into(), tensor.shape().to_vec());
        Stored { kind, shape, values: Values::Tensor(tensor), member: None, own_name: None }
    }
}

/// Strides, in elements, of row-major order.
pub(super) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

impl Stored {
    /// A tensor in a mapped file: `start` in bytes, `strides` in elements. The caller has checked
    /// that every element is inside the map.
    pub(super) fn mapped(
        pages: &Arc<MappedFile>,
        kind: ScalarType,
        start: usize,
        shape: Vec<usize>,
        strides: Vec<usize>,
    ) -> Stored {
        let located = Located { pages: pages.clone(), start, strides, in_place: false };
        Stored { kind, shape, values: Values::File(located), member: None, own_name: None }
    }

    /// Whether the file has a checksum of the values.
    pub(super) fn is_summed(&self) -> bool {
        self.member.is_some()
    }

    /// The same tensor as part of an archive entry.
    pub(super) fn inside(self, member: Option<Arc<ArchiveEntry>>) -> Stored {
        Stored { member, ..self }
    }

    /// Sets the name that the file has for it.
    pub(super) fn set_own_name(&mut self, name: &str) {
        self.own_name = Some(name.into());
    }

    /// The name in the file.
    pub(super) fn own_name(&self) -> Option<&str> {
        self.own_name.as_deref()
    }

    /// The part with element `at` in row-major order, and the index of the element in this part.
    pub(super) fn part_at(&self, mut at: usize) -> (&Stored, usize) {
        let Values::Rows(parts) = &self.values else { return (self, at) };
        for part in parts {
            if at < part.len() {
                return part.part_at(at);
            }
            at -= part.len();
        }
        (self, at)
    }

    /// The same values with axes of length 1 in front, up to `rank` axes.
    pub(super) fn with_rank(mut self, rank: usize) -> Stored {
        let ones = rank.saturating_sub(self.shape.len());
        let shape = [vec![1; ones], self.shape.clone()].concat();
        match &mut self.values {
            Values::Tensor(tensor) => match dressage_engine::ops::reshape(tensor, &shape) {
                Ok(reshaped) => *tensor = reshaped,
                Err(_) => return self,
            },
            Values::File(located) => {
                located.strides = [vec![0; ones], located.strides.clone()].concat()
            }
            // Stacks grow along their first axis.
            Values::Rows(_) => return self,
        }
        self.shape = shape;
        self
    }

    /// Uses the values in place in the file from now on, if their type and order allow it. They
    /// change if the file changes; the caller must check it ([`MappedFile::unchanged`]).
    pub(super) fn use_in_place(&mut self) {
        if let Values::File(located) = &mut self.values {
            located.in_place = true;
        }
    }

    /// Compares the values with their checksum in the file, once per archive entry. Other files
    /// have no checksums. Of the methods that read values, only [`Stored::checked_float`] does this
    /// check.
    ///
    /// # Errors
    /// [`Damaged`](crate::ModelError::Damaged) if they differ; a file that cannot be read.
    pub fn check(&self) -> Result<()> {
        if let Values::Rows(parts) = &self.values {
            parts.iter().try_for_each(Stored::check)?;
        }
        self.member.as_ref().map_or(Ok(()), |member| member.check())
    }

    /// Tensors of equal trailing shape as one, stacked along the first axis. Parts of different
    /// float types are widened to f32. `None` if they do not stack.
    ///
    /// # Errors
    /// Parts to be widened that cannot be read.
    pub fn stacked(mut parts: Vec<Stored>) -> Result<Option<Stored>> {
        let Some(first) = parts.first() else { return Ok(None) };
        let Some(tail) = first.shape.get(1..).map(<[usize]>::to_vec) else { return Ok(None) };
        let kind = first.kind;
        if parts.iter().any(|p| p.shape.get(1..) != Some(tail.as_slice())) {
            return Ok(None);
        }
        if parts.iter().any(|p| p.kind != kind) {
            // The entries of the parts are checked together with the whole.
            let widen = |p: &Stored| {
                let float = p.to_float(DType::F32)?;
                let (member, own_name) = (p.member.clone(), p.own_name.clone());
                Ok(float.map(|t| Stored { member, own_name, ..Stored::from(t) }))
            };
            let widened = parts.iter().map(widen).collect::<Result<Option<_>>>()?;
            let Some(widened) = widened else { return Ok(None) };
            parts = widened;
        }
        let rows = parts.iter().map(|p| p.shape[0]).sum();
        let shape = [vec![rows], tail].concat();
        let kind = parts[0].kind;
        Ok(Some(Stored { kind, shape, values: Values::Rows(parts), member: None, own_name: None }))
    }

    /// Type of the elements.
    pub fn kind(&self) -> ScalarType {
        self.kind
    }

    /// Sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values as f32, f64 or bf16, copied from the file; `None` for integers.
    ///
    /// # Errors
    /// A file that was changed or cut short since it was opened, or cannot be read.
    pub fn to_float(&self, dtype: DType) -> Result<Option<Tensor>> {
        if !self.kind.is_float() {
            return Ok(None);
        }
        match &self.values {
            Values::Tensor(t) if t.dtype() == dtype => return Ok(Some(t.clone())),
            _ => {}
        }
        if let Some((view, _)) = self.in_place(dtype) {
            return Ok(Some(view));
        }
        let mut y = Tensor::empty_of(dtype, &self.shape);
        let read = match dtype {
            DType::F32 => self.read(y.data_mut::<f32>()?),
            DType::F64 => self.read(y.data_mut::<f64>()?),
            DType::Bf16 => self.read(y.data_mut::<bf16>()?),
            DType::I32 | DType::U8 => return Ok(None),
        };
        read.and_then(|()| self.unchanged()).map_err(of_reading)?;
        Ok(Some(y))
    }

    /// As [`Stored::to_float`], and compares the bytes with the file's checksums
    /// ([`Stored::check`]).
    ///
    /// # Errors
    /// As both.
    pub fn checked_float(&self, dtype: DType) -> Result<Option<Tensor>> {
        let whole = match (&self.values, &self.member) {
            (Values::File(at), Some(member)) if self.kind.engine() == Some(dtype) => {
                let end = at.start + self.len() * self.kind.size();
                (self.contiguous(at) && (at.start..end) == member.range).then_some(member)
            }
            _ => None,
        };
        // Bytes that are in memory are not read a second time.
        let Some(member) = whole.filter(|_| self.in_place(dtype).is_none()) else {
            self.check()?;
            return self.to_float(dtype);
        };
        let float = self.to_float(dtype)?;
        float.as_ref().map_or(Ok(()), |t| member.check_bytes(t.bytes()))?;
        Ok(float)
    }

    /// A view of the values in the mapped file, and this file, if they are used in place.
    pub(crate) fn in_place(&self, dtype: DType) -> Option<(Tensor, &Arc<MappedFile>)> {
        let Values::File(at) = &self.values else { return None };
        if !at.in_place || self.kind.engine() != Some(dtype) || !self.contiguous(at) {
            return None;
        }
        let view = Tensor::from_map(at.pages.clone(), at.start, dtype, &self.shape).ok()?;
        Some((view, &at.pages))
    }

    /// The file with the values, the first of several.
    pub(crate) fn path(&self) -> Option<&std::path::Path> {
        match &self.values {
            Values::Tensor(_) => None,
            Values::File(at) => Some(at.pages.path()),
            Values::Rows(parts) => parts.first()?.path(),
        }
    }

    /// Range of the bytes in their file, if they are in one file and contiguous.
    pub(super) fn range(&self) -> Option<(&Arc<MappedFile>, std::ops::Range<usize>)> {
        match &self.values {
            Values::File(at) if self.contiguous(at) => {
                Some((&at.pages, at.start..at.start + self.len() * self.kind.size()))
            }
            _ => None,
        }
    }

    fn contiguous(&self, at: &Located) -> bool {
        let mut axes = self.shape.iter().zip(row_major(&self.shape)).zip(&at.strides);
        axes.all(|((n, want), have)| *n <= 1 || want == *have) || self.is_empty()
    }

    /// Checks that no file of the values was written to since it was opened.
    fn unchanged(&self) -> io::Result<()> {
        match &self.values {
            Values::Tensor(_) => Ok(()),
            Values::Rows(parts) => parts.iter().try_for_each(Stored::unchanged),
            Values::File(at) => unchanged(&at.pages),
        }
    }

    /// The values as 64-bit integers, truth values as 0 and 1; `None` for floats.
    ///
    /// # Errors
    /// As [`Stored::to_float`].
    pub fn to_integers(&self) -> Result<Option<Vec<i64>>> {
        if self.kind.is_float() {
            return Ok(None);
        }
        let mut values = Vec::with_capacity(self.len());
        let read = self.each_run(&mut |run| {
            match self.kind {
                ScalarType::I64 => {
                    values.extend(run.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)));
                }
                ScalarType::I32 => {
                    let words = run.as_chunks().0.iter();
                    values.extend(words.map(|b| i64::from(i32::from_le_bytes(*b))));
                }
                ScalarType::I16 => {
                    let words = run.as_chunks().0.iter();
                    values.extend(words.map(|b| i64::from(i16::from_le_bytes(*b))));
                }
                ScalarType::I8 => values.extend(run.iter().map(|b| i64::from(*b as i8))),
                _ => values.extend(run.iter().map(|b| i64::from(*b))),
            }
            Ok(())
        });
        read.map_err(of_reading)?;
        Ok(Some(values))
    }

    /// Writes the values to `out` in row-major order, little-endian, floats as `kind`. Integers are
    /// written unchanged.
    ///
    /// # Errors
    /// Errors of `out`; a file that cannot be read; a finite value beyond the largest of `kind`.
    pub fn write(&self, kind: ScalarType, out: &mut dyn Write) -> io::Result<()> {
        const CHUNK: usize = 1 << 16;
        let as_is = kind == self.kind || !(kind.is_float() && self.kind.is_float());
        let (mut values, mut bytes) = (Vec::<f64>::new(), Vec::new());
        self.each_run(&mut |run| {
            if as_is {
                return out.write_all(run);
            }
            for run in run.chunks(CHUNK * self.kind.size()) {
                values.resize(run.len() / self.kind.size(), 0.0);
                decode(self.kind, run, &mut values);
                bytes.clear();
                encode(kind, &values, &mut bytes)?;
                out.write_all(&bytes)?;
            }
            Ok(())
        })
    }

    /// Calls `f` with the bytes of all elements in row-major order, in pieces.
    ///
    /// # Errors
    /// Errors of `f`; a file that was changed or cut short, or cannot be read.
    pub(super) fn each_run(&self, f: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        match &self.values {
            Values::Tensor(t) => return f(t.bytes()),
            Values::Rows(parts) => return parts.iter().try_for_each(|part| part.each_run(f)),
            Values::File(at) if self.contiguous(at) => {
                let bytes = self.len() * self.kind.size();
                let mut piece = vec![0; bytes.min(PIECE)];
                for from in (0..bytes).step_by(PIECE) {
                    let piece = &mut piece[..(bytes - from).min(PIECE)];
                    read_at(&at.pages, at.start + from, piece)?;
                    f(piece)?;
                }
            }
            Values::File(at) => {
                let span = self.span(at)?;
                strided_runs(&span, self.kind.size(), &self.shape, &at.strides, f)?;
            }
        }
        self.unchanged()
    }

    /// The bytes from the first element to the last.
    fn span(&self, at: &Located) -> io::Result<Vec<u8>> {
        let axes = self.shape.iter().zip(&at.strides);
        let last: usize = axes.map(|(n, stride)| n.saturating_sub(1) * stride).sum();
        let mut span = vec![0; (last + 1) * self.kind.size()];
        read_at(&at.pages, at.start, &mut span)?;
        Ok(span)
    }

    /// Fills `out` with the values, which are floats.
    fn read<T: FloatTarget>(&self, out: &mut [T]) -> io::Result<()> {
        let size = self.kind.size();
        match &self.values {
            Values::Tensor(t) => decode(self.kind, t.bytes(), out),
            Values::Rows(parts) => {
                let mut rest = out;
                for part in parts {
                    let (own, others) = rest.split_at_mut(part.len());
                    part.read(own)?;
                    rest = others;
                }
            }
            Values::File(at) if self.contiguous(at) => {
                let n = PIECE / size;
                return out.par_chunks_mut(n).enumerate().try_for_each(|(i, out)| {
                    let from = at.start + i * n * size;
                    if self.kind.engine() == Some(T::DTYPE) {
                        return read_at(&at.pages, from, cast_slice_mut(out));
                    }
                    let mut piece = vec![0; out.len() * size];
                    read_at(&at.pages, from, &mut piece)?;
                    decode(self.kind, &piece, out);
                    Ok(())
                });
            }
            Values::File(at) => {
                let (span, mut done) = (self.span(at)?, 0);
                return strided_runs(&span, size, &self.shape, &at.strides, &mut |run| {
                    let n = run.len() / size;
                    decode(self.kind, run, &mut out[done..done + n]);
                    done += n;
                    Ok(())
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
