//! Typed memory of a device, and views of it that are to a buffer what a slice is to a vector.

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

    /// The device it lies on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The whole buffer, to read.
    pub fn view(&self) -> View<'_, T> {
        let (id, address, len) = (self.device.0.id, self.address, self.len);
        View { id, address, len, memory: PhantomData }
    }

    /// The whole buffer, to write.
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

/// Elements of a buffer, to read.
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

/// Elements of a buffer, to write (or to read and write).
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    id: u32,
    address: u64,
    len: usize,
    memory: PhantomData<&'a mut [T]>,
}

/// # Panics
/// If the range does not lie within `len` elements.
fn offset<T>(address: u64, len: usize, range: &Range<usize>) -> u64 {
    assert!(range.start <= range.end && range.end <= len, "view {range:?} of {len} elements");
    address + (range.start * size_of::<T>()) as u64
}

impl<'a, T> View<'a, T> {
    pub(super) fn at(id: u32, address: u64, len: usize) -> View<'a, T> {
        View { id, address, len, memory: PhantomData }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Part of the elements.
    ///
    /// # Panics
    /// If the range does not lie within the view.
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> View<'a, T> {
        let address = offset::<T>(self.address, self.len, &range);
        View { address, len: range.len(), ..self }
    }

    /// The view, if `U` is its type of elements: for code that is generic over it.
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

    /// Address on the device, for tables of addresses that a kernel reads and to tell whether
    /// something has moved. Elements lie there only as long as the view is borrowed.
    pub fn address(&self) -> u64 {
        self.address
    }
}

/// Elements of `T` in so many bytes at an address.
///
/// # Panics
/// If the bytes are no whole number of aligned elements.
fn elements<T>(address: u64, bytes: usize) -> usize {
    let whole = bytes.is_multiple_of(size_of::<T>());
    let aligned = address.is_multiple_of(align_of::<T>() as u64);
    assert!(whole && aligned, "{bytes} bytes at {address:#x} are no elements");
    bytes / size_of::<T>()
}

impl<'a> View<'a, u8> {
    /// The bytes as elements of another type.
    ///
    /// # Panics
    /// If they are no whole number of aligned elements.
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
    /// If they are no whole number of aligned elements.
    #[must_use]
    pub fn cast<T: Element>(self) -> ViewMut<'a, T> {
        let len = elements::<T>(self.address, self.len);
        ViewMut { id: self.id, address: self.address, len, memory: PhantomData }
    }
}

impl<'a, T> ViewMut<'a, T> {
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Part of the elements.
    ///
    /// # Panics
    /// If the range does not lie within the view.
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> ViewMut<'a, T> {
        let address = offset::<T>(self.address, self.len, &range);
        ViewMut { address, len: range.len(), ..self }
    }

    /// The same elements for a shorter time, so that `self` can be used again.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut { id: self.id, address: self.address, len: self.len, memory: PhantomData }
    }

    /// The same elements, to read.
    pub fn as_view(&self) -> View<'_, T> {
        View { id: self.id, address: self.address, len: self.len, memory: PhantomData }
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Address on the device, for tables of addresses that a kernel reads. Only as long as the
    /// view is borrowed.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}
