//! Contiguous, row-major tensors that are cheap to clone.

use std::ops::Range;
use std::sync::Arc;

use dressage_kernels::device::Constant;
use dressage_kernels::dry_run;
use rayon::prelude::*;

use crate::device::DeviceBuffer;
use crate::graph::{Edge, Origin, fresh_id};
use crate::memory::Buffer;
use crate::saved::RecomputeFn;
use crate::{DType, Element, EngineError, MappedFile, Result};

/// Memory that holds the elements.
pub(crate) enum Storage {
    Pooled(Buffer),
    /// Pages, usually of a file.
    Mapped(Arc<MappedFile>),
    /// Device memory, which the host cannot address.
    Device(DeviceBuffer),
    /// Constant table that a device caches.
    Table(Constant<u8>),
}

impl Storage {
    /// The bytes; `None` for device memory.
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Storage::Pooled(buffer) => Some(buffer.bytes()),
            Storage::Mapped(map) => Some(map),
            Storage::Device(_) | Storage::Table(_) => None,
        }
    }

    fn reserved(&self) -> bool {
        matches!(self, Storage::Pooled(buffer) if buffer.reserved())
    }
}

/// A contiguous, row-major array with a place in the graph.
///
/// Cloning copies a pointer. [`crate::ops::reshape`] and [`crate::ops::rows`] share the memory. Any
/// other operation that changes the order of elements copies them.
#[derive(Clone)]
pub struct Tensor {
    shape: Arc<[usize]>,
    dtype: DType,
    pub(crate) storage: Arc<Storage>,
    /// Bytes from the start of the storage.
    offset: usize,
    pub(crate) origin: Origin,
    /// Function that recomputes the value; an operation can save it instead of the memory.
    pub(crate) recompute_fn: Option<RecomputeFn>,
}

/// The part of its storage that a tensor shows.
pub(crate) struct Extent {
    shape: Arc<[usize]>,
    offset: usize,
}

impl Tensor {
    /// Creates a tensor with undefined content from recycled memory. The caller writes all
    /// elements.
    pub fn empty<T: Element>(shape: &[usize]) -> Tensor {
        Self::empty_of(T::DTYPE, shape)
    }

    /// [`Tensor::empty`] with the type given as a value.
    pub fn empty_of(dtype: DType, shape: &[usize]) -> Tensor {
        Self::with_capacity(dtype, shape, shape.iter().product())
    }

    /// [`Tensor::empty_of`] in a buffer with room for `capacity` elements. Tensors whose size
    /// depends on the data use it, so that the pool sees a single size.
    pub fn with_capacity(dtype: DType, shape: &[usize], capacity: usize) -> Tensor {
        let n = shape.iter().product::<usize>().max(capacity);
        Self::in_storage(Storage::Pooled(Buffer::take(n * dtype.size())), dtype, shape)
    }

    /// Creates a constant at the start of `storage`, which has room for at least its elements.
    pub(crate) fn in_storage(storage: Storage, dtype: DType, shape: &[usize]) -> Tensor {
        let (storage, origin) = (Arc::new(storage), Origin::Constant);
        Tensor { shape: shape.into(), dtype, storage, offset: 0, origin, recompute_fn: None }
    }

    /// Creates a tensor with all elements `value`.
    pub fn full<T: Element>(shape: &[usize], value: T) -> Tensor {
        let mut t = Self::empty::<T>(shape);
        t.owned_mut::<T>().fill(value);
        t
    }

    /// Creates a tensor of zeros.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Tensor {
        let mut t = Self::empty_of(dtype, shape);
        if !t.storage.reserved() {
            t.owned_mut_bytes().fill(0);
        }
        t
    }

    /// Creates a tensor with a copy of `data`.
    ///
    /// # Errors
    /// If `data` has another number of elements than `shape`.
    pub fn from_slice<T: Element>(data: &[T], shape: &[usize]) -> Result<Tensor> {
        if data.len() != shape.iter().product::<usize>() {
            return Err(EngineError::Shape {
                op: "from_slice",
                arg: "shape",
                expected: format!("a shape of {} elements", data.len()),
                found: shape.to_vec(),
            });
        }
        let mut t = Self::empty::<T>(shape);
        t.owned_mut::<T>().copy_from_slice(data);
        Ok(t)
    }

    /// Creates a scalar, of shape `[]`.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Self::full(&[], value)
    }

    /// Creates a view of mapped pages; `offset` is in bytes.
    ///
    /// # Errors
    /// If the map is too short or the offset is not aligned to the element type.
    pub fn from_map(
        map: Arc<MappedFile>,
        offset: usize,
        dtype: DType,
        shape: &[usize],
    ) -> Result<Tensor> {
        let bytes = shape.iter().product::<usize>().checked_mul(dtype.size());
        let end = bytes.and_then(|b| b.checked_add(offset));
        let aligned = (map.as_ptr() as usize + offset).is_multiple_of(dtype.size());
        if !aligned || end.is_none_or(|end| end > map.len()) {
            return Err(EngineError::Shape {
                op: "from_map",
                arg: "shape",
                expected: format!("{} aligned bytes from {offset}", map.len()),
                found: shape.to_vec(),
            });
        }
        let storage = Arc::new(Storage::Mapped(map));
        let origin = Origin::Constant;
        Ok(Tensor { shape: shape.into(), dtype, storage, offset, origin, recompute_fn: None })
    }

    /// Sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Size of axis `i`; 1 beyond the last.
    pub fn dim(&self, i: usize) -> usize {
        self.shape.get(i).copied().unwrap_or(1)
    }

    /// Size of the last axis; 1 for a scalar.
    pub fn last_dim(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The elements.
    ///
    /// # Errors
    /// If the tensor has another type or is on a device.
    pub fn data<T: Element>(&self) -> Result<&[T]> {
        self.expect_type::<T>("data")?;
        match self.storage.bytes() {
            Some(bytes) => Ok(bytemuck::cast_slice(&bytes[self.span()])),
            None => Err(self.not_on_host("data")),
        }
    }

    /// The elements as raw bytes in native byte order.
    ///
    /// # Panics
    /// If the tensor is on a device ([`Tensor::device`]), whose memory the host cannot address.
    pub fn bytes(&self) -> &[u8] {
        let bytes = self.storage.bytes();
        &bytes.expect("bytes of a tensor in host memory")[self.span()]
    }

    /// Byte range of the elements in the storage.
    pub(crate) fn span(&self) -> Range<usize> {
        self.offset..self.offset + self.len() * self.dtype.size()
    }

    pub(crate) fn expect_type<T: Element>(&self, op: &'static str) -> Result<()> {
        if self.dtype == T::DTYPE {
            return Ok(());
        }
        Err(EngineError::Type { op, expected: T::DTYPE.name(), found: self.dtype })
    }

    /// The first element that is NaN or infinite, with its row-major index. `None` for integers and
    /// for a tensor on a device.
    pub fn first_not_finite(&self) -> Option<(usize, f64)> {
        fn first<T: Element + Into<f64>>(x: &[T]) -> Option<(usize, f64)> {
            // No branch per element, so that a piece is scanned at memory speed.
            const PIECE: usize = 1 << 14;
            let finite = |x: &[T]| x.iter().fold(true, |all, x| all & (*x).into().is_finite());
            let at = x.par_chunks(PIECE).position_first(|piece| !finite(piece))?;
            let piece = &x[at * PIECE..];
            let within = piece.iter().position(|x| !(*x).into().is_finite())?;
            Some((at * PIECE + within, piece[within].into()))
        }
        match self.dtype {
            DType::F32 => first(self.data::<f32>().ok()?),
            DType::F64 => first(self.data::<f64>().ok()?),
            DType::Bf16 => first(self.data::<half::bf16>().ok()?),
            DType::I32 | DType::U8 => None,
        }
    }

    /// The element of a one-element tensor. Waits for the device if the tensor is on one.
    ///
    /// # Errors
    /// If the tensor has another type or another number of elements, or the device fails.
    pub fn item<T: Element>(&self) -> Result<T> {
        self.expect_one("item")?;
        let host = self.detach().to_host()?;
        host.data::<T>()?.first().copied().ok_or_else(|| self.not_one("item"))
    }

    /// Fails unless the tensor has exactly one element.
    pub(crate) fn expect_one(&self, op: &'static str) -> Result<()> {
        if self.len() == 1 { Ok(()) } else { Err(self.not_one(op)) }
    }

    fn not_one(&self, op: &'static str) -> EngineError {
        let (expected, found) = ("one element".into(), self.shape.to_vec());
        EngineError::Shape { op, arg: "tensor", expected, found }
    }

    /// The elements, for writing in place.
    ///
    /// # Errors
    /// If the memory is shared with another tensor or is on a device, or if the type differs.
    pub fn data_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        self.expect_type::<T>("data_mut")?;
        if self.device().is_some() {
            return Err(self.not_on_host("data_mut"));
        }
        let span = self.span();
        self.recompute_fn = None;
        match Arc::get_mut(&mut self.storage) {
            Some(Storage::Pooled(buffer)) => {
                Ok(bytemuck::cast_slice_mut(&mut buffer.bytes_mut()[span]))
            }
            _ => Err(EngineError::Shared { op: "data_mut" }),
        }
    }

    /// [`Tensor::data_mut`] that copies shared memory first.
    ///
    /// # Errors
    /// If the type differs or the tensor is on a device.
    pub fn make_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        self.make_own()?;
        self.data_mut()
    }

    /// Copies memory that is shared or mapped, so that it can be written in place.
    ///
    /// # Errors
    /// No room for a copy on the device.
    pub(crate) fn make_own(&mut self) -> Result<()> {
        let storage = Arc::get_mut(&mut self.storage);
        if !matches!(storage, Some(Storage::Pooled(_) | Storage::Device(_))) {
            let origin = self.origin.clone();
            *self = Tensor { origin, ..self.deep_copy()? };
        }
        Ok(())
    }

    /// A constant copy in memory of its own, on the same device or the host.
    ///
    /// # Errors
    /// No room for it on the device; a failure of the device.
    pub fn deep_copy(&self) -> Result<Tensor> {
        let mut copy = self.empty_like(&self.shape)?;
        if self.device().is_some() {
            self.copy_on_device(&mut copy)?;
        } else if !dry_run::skip("copy") {
            copy.owned_mut_bytes().copy_from_slice(self.bytes());
        }
        Ok(copy)
    }

    /// The bytes of a new tensor that nobody else holds, for writing.
    pub(crate) fn owned_mut_bytes(&mut self) -> &mut [u8] {
        let n = self.len() * self.dtype.size();
        match Arc::get_mut(&mut self.storage) {
            Some(Storage::Pooled(buffer)) => &mut buffer.bytes_mut()[..n],
            _ => &mut [],
        }
    }

    fn owned_mut<T: Element>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.owned_mut_bytes())
    }

    /// The same elements, outside the graph.
    pub fn detach(&self) -> Tensor {
        Tensor { origin: Origin::Constant, ..self.clone() }
    }

    /// The same elements as a new leaf of the graph: a value that gets a gradient.
    pub fn leaf(&self) -> Tensor {
        Tensor { origin: Origin::Leaf(fresh_id()), recompute_fn: None, ..self.clone() }
    }

    /// Whether this value or one that it depends on needs a gradient.
    pub fn tracked(&self) -> bool {
        !matches!(self.origin, Origin::Constant)
    }

    /// The handle through which a backward pass delivers the gradient of this value.
    pub fn edge(&self) -> Edge {
        Edge::new(self)
    }

    pub(crate) fn with_origin(self, origin: Origin) -> Tensor {
        Tensor { origin, ..self }
    }

    pub(crate) fn with_dtype(self, dtype: DType) -> Tensor {
        Tensor { dtype, ..self }
    }

    pub(crate) fn with_recompute(self, recompute_fn: RecomputeFn) -> Tensor {
        Tensor { recompute_fn: Some(recompute_fn), ..self }
    }

    /// Makes the tensor show only `len` elements from `start` on, as `[len]`. The memory stays the
    /// same. Returns what [`Tensor::restore`] needs.
    pub(crate) fn focus(&mut self, start: usize, len: usize) -> Extent {
        let before = Extent { shape: self.shape.clone(), offset: self.offset };
        self.shape = [len].into();
        self.offset += start * self.dtype.size();
        before
    }

    /// Reverts [`Tensor::focus`].
    pub(crate) fn restore(&mut self, before: Extent) {
        (self.shape, self.offset) = (before.shape, before.offset);
    }

    /// Runs `f` on a view of only `len` elements from `start` on.
    pub(crate) fn within<R>(
        &mut self,
        start: usize,
        len: usize,
        f: impl FnOnce(&mut Tensor) -> R,
    ) -> R {
        let before = self.focus(start, len);
        let result = f(self);
        self.restore(before);
        result
    }

    /// A view of the same memory with another shape, outside the graph.
    pub(crate) fn part(&self, offset: usize, shape: &[usize]) -> Tensor {
        Tensor {
            shape: shape.into(),
            dtype: self.dtype,
            storage: self.storage.clone(),
            offset: self.offset + offset * self.dtype.size(),
            origin: Origin::Constant,
            recompute_fn: None,
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let graph = if self.tracked() { ", tracked" } else { "" };
        let place = self.device().map(|d| format!(" on {}", d.name())).unwrap_or_default();
        write!(f, "Tensor({} {:?}{place}{graph})", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_in_place_needs_sole_ownership() {
        let mut a = Tensor::full(&[2, 3], 1.0f32);
        a.data_mut::<f32>().unwrap()[0] = 5.0;
        let b = a.clone();
        assert!(matches!(a.data_mut::<f32>(), Err(EngineError::Shared { .. })));
        a.make_mut::<f32>().unwrap()[0] = 7.0;
        assert_eq!(b.data::<f32>().unwrap()[0], 5.0);
        assert_eq!(a.data::<f32>().unwrap()[0], 7.0);
    }

    #[test]
    fn another_type_is_refused() {
        let a = Tensor::full(&[1], 1u8);
        assert_eq!(
            a.data::<f32>().unwrap_err().to_string(),
            "data: element type is u8, expected f32"
        );
    }
}
