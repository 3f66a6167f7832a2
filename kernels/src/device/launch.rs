//! Grids and arguments of a launch.

use std::marker::PhantomData;

use super::{Kernel, View, ViewMut};
use crate::{KernelError, Result};

/// Largest dynamic shared memory of a block: that of an A100, less 1 KiB that the system keeps.
const SHARED: usize = 163 << 10;

/// Blocks, threads of a block and dynamic shared memory of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y and z.
    pub blocks: [usize; 3],
    /// Threads of a block along x, y and z: those of the kernel's `__launch_bounds__`.
    pub threads: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared: usize,
}

impl Grid {
    /// Creates a grid of blocks and threads along three axes, without dynamic shared memory.
    pub const fn new(blocks: [usize; 3], threads: [u32; 3]) -> Grid {
        Grid { blocks, threads, shared: 0 }
    }

    /// Creates a grid along one axis, with as many blocks of `per_block` items as `items` need.
    pub const fn line(items: usize, per_block: usize, threads: u32) -> Grid {
        Grid::new([items.div_ceil(per_block), 1, 1], [threads, 1, 1])
    }

    /// Returns the grid with `bytes` of dynamic shared memory.
    #[must_use]
    pub const fn shared(mut self, bytes: usize) -> Grid {
        self.shared = bytes;
        self
    }

    /// Fails for a grid that no device accepts.
    pub(super) fn check(&self, kernel: &Kernel) -> Result<()> {
        let threads: u64 = self.threads.iter().map(|&n| u64::from(n)).product();
        let what = if self.blocks[0] > i32::MAX as usize {
            "more than 2147483647 blocks along x"
        } else if self.blocks[1..].iter().any(|&n| n > 65535) {
            "more than 65535 blocks along y or z"
        } else if threads == 0 || threads > 1024 {
            "a block has 1 to 1024 threads"
        } else if self.shared > SHARED {
            "more than 163 KiB of dynamic shared memory"
        } else {
            return Ok(());
        };
        Err(self.refused(kernel, what))
    }

    /// The error of a launch with this grid.
    pub(super) fn refused(&self, kernel: &Kernel, what: impl Into<String>) -> KernelError {
        KernelError::Launch {
            kernel: kernel.full_name(),
            blocks: self.blocks,
            threads: self.threads,
            what: what.into(),
        }
    }
}

/// Arguments of a kernel: one struct of sizes, then pointers.
///
/// They are packed as the kernel reads them: the struct at offset 0, each pointer at the next
/// multiple of 8. Their types and order have to be those of the kernel's declaration.
#[derive(Debug)]
pub struct Args<'a> {
    bytes: Vec<u8>,
    devices: Vec<u32>,
    addresses: Vec<u64>,
    memory: PhantomData<&'a ()>,
}

impl<'a> Args<'a> {
    /// Begins with the sizes. `S` is `#[repr(C)]` without padding ([`bytemuck::Pod`] ensures that)
    /// and aligned to at most 8.
    pub fn new<S: bytemuck::Pod>(sizes: &S) -> Args<'a> {
        const { assert!(align_of::<S>() <= 8) };
        let mut bytes = Vec::with_capacity(size_of::<S>() + 96);
        bytes.extend_from_slice(bytemuck::bytes_of(sizes));
        let (devices, addresses) = (Vec::with_capacity(12), Vec::with_capacity(12));
        Args { bytes, devices, addresses, memory: PhantomData }
    }

    /// Adds an operand that the kernel reads.
    #[must_use]
    pub fn read<T>(mut self, view: View<'a, T>) -> Self {
        self.add_read(view);
        self
    }

    /// Adds an operand that the kernel writes.
    #[must_use]
    pub fn write<T>(mut self, view: ViewMut<'a, T>) -> Self {
        self.add_write(view);
        self
    }

    /// Adds an operand that the kernel reads and that a later [`Args::write`] adds as well: the
    /// kernel works in place.
    #[must_use]
    pub fn alias<T>(mut self, view: &ViewMut<'_, T>) -> Self {
        self.lies(view.id(), view.address());
        self.pointer(view.address());
        self
    }

    /// Adds an operand that the kernel reads, or a null pointer if it is absent.
    #[must_use]
    pub fn read_if<T>(mut self, view: Option<View<'a, T>>) -> Self {
        match view {
            Some(view) => self.add_read(view),
            None => self.add_null(),
        }
        self
    }

    /// Adds an operand that the kernel writes, or a null pointer if it is absent.
    #[must_use]
    pub fn write_if<T>(mut self, view: Option<ViewMut<'a, T>>) -> Self {
        match view {
            Some(view) => self.add_write(view),
            None => self.add_null(),
        }
        self
    }

    /// Adds memory that the kernel reaches through an address in another argument. It is no
    /// parameter, but it has to be on the device.
    #[must_use]
    pub fn behind<T>(mut self, view: &ViewMut<'_, T>) -> Self {
        self.lies(view.id(), view.address());
        self
    }

    /// Adds memory as [`Args::behind`] does, for memory that is only read.
    #[must_use]
    pub(crate) fn behind_view<T>(mut self, view: &View<'_, T>) -> Self {
        self.lies(view.id(), view.address());
        self
    }

    fn lies(&mut self, device: u32, address: u64) {
        self.devices.push(device);
        self.addresses.push(address);
    }

    fn pointer(&mut self, address: u64) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.bytes.extend_from_slice(&address.to_ne_bytes());
    }

    pub(crate) fn add_read<T>(&mut self, view: View<'a, T>) {
        self.lies(view.id(), view.address());
        self.pointer(view.address());
    }

    pub(crate) fn add_write<T>(&mut self, view: ViewMut<'a, T>) {
        self.lies(view.id(), view.address());
        self.pointer(view.address());
    }

    pub(crate) fn add_null(&mut self) {
        self.pointer(0);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn devices(&self) -> &[u32] {
        &self.devices
    }

    /// Addresses of the kernel's memory, including the targets of tables.
    pub(super) fn addresses(&self) -> &[u64] {
        &self.addresses
    }
}
