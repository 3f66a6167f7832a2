//! Grid, block and parameters of a launch.

use crate::gpu::Address;

/// Launch configuration and parameters of a kernel.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// Parameters, packed at the kernel's offsets; see [`Params`].
    pub params: &'a [u8],
}

/// Packs parameters in order, each at the next multiple of its alignment.
///
/// ```
/// let mut params = ptx_vm::Params::new();
/// params.u32(7).f64(0.5);
/// assert_eq!(params.bytes().len(), 16);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Params {
    bytes: Vec<u8>,
}

impl Params {
    /// Returns an empty list of parameters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a structure as bytes, with its alignment.
    pub fn raw(&mut self, data: &[u8], align: usize) -> &mut Self {
        let start = self.bytes.len().next_multiple_of(align.max(1));
        self.bytes.resize(start, 0);
        self.bytes.extend_from_slice(data);
        self
    }

    /// Appends a 32-bit unsigned integer.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.raw(&v.to_le_bytes(), 4)
    }

    /// Appends a 32-bit signed integer.
    pub fn i32(&mut self, v: i32) -> &mut Self {
        self.raw(&v.to_le_bytes(), 4)
    }

    /// Appends a 64-bit unsigned integer.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.raw(&v.to_le_bytes(), 8)
    }

    /// Appends a 64-bit signed integer.
    pub fn i64(&mut self, v: i64) -> &mut Self {
        self.raw(&v.to_le_bytes(), 8)
    }

    /// Appends an f32.
    pub fn f32(&mut self, v: f32) -> &mut Self {
        self.raw(&v.to_le_bytes(), 4)
    }

    /// Appends an f64.
    pub fn f64(&mut self, v: f64) -> &mut Self {
        self.raw(&v.to_le_bytes(), 8)
    }

    /// Appends a pointer to device memory.
    pub fn address(&mut self, v: Address) -> &mut Self {
        self.u64(v.0)
    }

    /// Returns the bytes for [`Launch::params`].
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
