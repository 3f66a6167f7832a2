//! Typed memory of a device, and views of it. A view is to a buffer what a slice is to a vector.

use std::any::TypeId;
use std::marker::PhantomData;
use std::ops::Range;

use super::{Device, Element};

/// Memory of a device, `[len]` elements of `T`. Dropping it returns it to the device's pool.
pub struct Buffer<T: Element> {
    device: Device,
    address: u64,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    pub(super) fn new(device: Device, address: u64, len: usize) -> Buffer<T> {
        Buffer { device, address, len, element: PhantomData }
    }

    /// The device that the buffer is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A read-only view of the whole buffer.
    pub fn view(&self) -> View<'_, T> {
        let (id, address, len) = (self.device.0.id, self.address, self.len);
        View { id, address, len, memory: PhantomData }
    }

    /// A writable view of the whole buffer.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        let (id, address, len) = (self.device.0.id, self.address, self.len);
        ViewMut { id, address, len, memory: PhantomData }
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        self.device.give_back(self.address);
    }
}

impl<T: Element> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let element = std::any::type_name::<T>();
        write!(f, "Buffer({} x {element} on {})", self.len, self.device.name())
    }
}

/// A view of elements of a buffer for reading.
#[derive(Debug)]
pub struct View<'a, T> {
    id: u32,
    address: u64,
    len: usize,
    memory: PhantomData<&'a [T]>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

/// A view of nothing.
impl<T> Default for View<'_, T> {
    fn default() -> Self {
        View { id: 0, address: 0, len: 0, memory: PhantomData }
    }
}

/// A view of elements of a buffer for writing, or for reading and writing.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    id: u32,
    address: u64,
    len: usize,
    memory: PhantomData<&'a mut [T]>,
}

/// A view of nothing.
impl<T> Default for ViewMut<'_, T> {
    fn default() -> Self {
        ViewMut { id: 0, address: 0, len: 0, memory: PhantomData }
    }
}

/// # Panics
/// If the range is not within `len` elements.
fn offset<T>(address: u64, len: usize, range: &Range<usize>) -> u64 {
    assert!(range.start <= range.end && range.end <= len, "view {range:?} of {len} elements");
    address + (range.start * size_of::<T>()) as u64
}

impl<'a, T> View<'a, T> {
    pub(super) fn at(id: u32, address: u64, len: usize) -> View<'a, T> {
        View { id, address, len, memory: PhantomData }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the view is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of the view.
    ///
    /// # Panics
    /// If the range is not within the view.
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> View<'a, T> {
        let address = offset::<T>(self.address, self.len, &range);
        View { address, len: range.len(), ..self }
    }

    /// The view with element type `U`, if that is its type; for code generic over the type.
    pub(crate) fn of_type<U: Element>(self) -> Option<View<'a, U>>
    where
        T: Element,
    {
        let same = TypeId::of::<T>() == TypeId::of::<U>();
        same.then_some(View {
            id: self.id,
            address: self.address,
            len: self.len,
            memory: PhantomData,
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Address on the device, for address tables that a kernel reads and for detecting moved
    /// memory. It is valid only as long as the view is borrowed.
    pub fn address(&self) -> u64 {
        self.address
    }
}

/// Number of elements of `T` in `bytes` bytes at `address`.
///
/// # Panics
/// If the bytes are not a whole number of aligned elements.
fn elements<T>(address: u64, bytes: usize) -> usize {
    let whole = bytes.is_multiple_of(size_of::<T>());
    let aligned = address.is_multiple_of(align_of::<T>() as u64);
    assert!(whole && aligned, "{bytes} bytes at {address:#x} are not whole, aligned elements");
    bytes / size_of::<T>()
}

impl<'a> View<'a, u8> {
    /// The bytes as elements of another type.
    ///
    /// # Panics
    /// If they are not a whole number of aligned elements.
    #[must_use]
    pub fn cast<T: Element>(self) -> View<'a, T> {
        let len = elements::<T>(self.address, self.len);
        View { id: self.id, address: self.address, len, memory: PhantomData }
    }
}

impl<'a> ViewMut<'a, u8> {
    /// The bytes as elements of another type.
    ///
    /// # Panics
    /// If they are not a whole number of aligned elements.
    #[must_use]
    pub fn cast<T: Element>(self) -> ViewMut<'a, T> {
        let len = elements::<T>(self.address, self.len);
        ViewMut { id: self.id, address: self.address, len, memory: PhantomData }
    }
}

impl<'a, T> ViewMut<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the view is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of the view.
    ///
    /// # Panics
    /// If the range is not within the view.
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> ViewMut<'a, T> {
        let address = offset::<T>(self.address, self.len, &range);
        ViewMut { address, len: range.len(), ..self }
    }

    /// A view of the same elements with a shorter lifetime, so that `self` can be used afterwards.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut { id: self.id, address: self.address, len: self.len, memory: PhantomData }
    }

    /// A read-only view of the same elements.
    pub(crate) fn as_view(&self) -> View<'_, T> {
        View { id: self.id, address: self.address, len: self.len, memory: PhantomData }
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Address on the device, for address tables that a kernel reads. It is valid only as long as
    /// the view is borrowed.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}
