//! Operations that a device implements; the rest of the façade is common.

use std::time::Instant;

use super::{Grid, Kernel, Work};
use crate::ops::matmul::MatMul;
use crate::{KernelError, Result, Write};

/// Number of a graph among those of its device.
pub(super) type GraphId = u64;

/// The two storage types of a product's operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    F32,
    Bf16,
}

/// Operation fused with a product, with the address of its vector. The vector has the type of `C`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fused {
    Nothing,
    /// Adds a vector `[m]` to every row.
    Bias(u64),
    /// Adds the vector, then applies a ReLU.
    BiasRelu(u64),
    /// Does the same as `BiasRelu` and writes a bit mask (addresses of the bias and of the mask).
    BiasReluMask(u64, u64),
    /// Zeroes the elements without a bit in the mask.
    ReluBackward(u64),
    /// Writes the sums of the rows of `op(A)`, `[n]`.
    RowSums(u64),
}

impl Fused {
    /// Address of its vector.
    pub fn vector(self) -> Option<u64> {
        match self {
            Fused::Nothing | Fused::ReluBackward(_) => None,
            Fused::Bias(at) | Fused::BiasRelu(at) | Fused::BiasReluMask(at, _) => Some(at),
            Fused::RowSums(at) => Some(at),
        }
    }

    /// Address of its mask.
    pub fn mask(self) -> Option<u64> {
        match self {
            Fused::BiasReluMask(_, at) | Fused::ReluBackward(at) => Some(at),
            _ => None,
        }
    }
}

/// Bytes of a row of `m` bits in a mask: cuBLASLt requires a multiple of 128 bits.
pub(super) const fn mask_row(m: usize) -> usize {
    m.next_multiple_of(128) / 8
}

/// A product whose operands were checked: `C = alpha op(A) op(B)`, or added to `C`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub sizes: MatMul,
    pub alpha: f32,
    pub write: Write,
    /// Storage of `A` and `B`.
    pub operands: Storage,
    /// Storage of `C`.
    pub result: Storage,
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub fused: Fused,
}

/// One device. Addresses are device addresses; work is queued in order of the calls.
pub(super) trait Backend: Send + Sync {
    /// Name of the device.
    fn name(&self) -> String;
    /// Granularity of reservations: sizes are rounded up to a multiple of this many bytes.
    fn granularity(&self) -> usize;
    /// Reserves new memory; `None` if there is none left.
    fn reserve(&self, name: &'static str, bytes: usize) -> Result<Option<u64>>;
    /// Prepares returned memory for another purpose: its contents are undefined from now on.
    /// Returns its address, which may differ from the old one.
    fn renew(&self, name: &'static str, address: u64, bytes: usize) -> Result<u64>;
    /// Ends a reservation. Called where no error can be reported.
    fn release(&self, address: u64, bytes: usize);
    fn write(&self, to: u64, bytes: &[u8]) -> Result<()>;
    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()>;
    fn zero(&self, to: u64, bytes: usize) -> Result<()>;
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()>;
    fn wait(&self) -> Result<()>;
    fn launch(&self, kernel: &Kernel, grid: &Grid, params: &[u8]) -> Result<()>;
    /// Queues a product. Returns `false` if the device turns out unable to do the fused operation:
    /// nothing is queued then, and the product no longer [fits](Backend::fits).
    fn product(&self, product: &Product) -> Result<bool>;
    /// Descriptions of the fused products that the library refused.
    fn unfused(&self) -> Vec<String> {
        Vec::new()
    }
    /// Bytes that can still be reserved, where the device reports them.
    fn free_memory(&self) -> Option<usize> {
        None
    }
    /// Whether nothing is executed.
    fn is_dry_run(&self) -> bool {
        false
    }
    /// Seconds that the device takes for the work that `work` queues, until it is done.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.wait()?;
        let start = Instant::now();
        work()?;
        self.wait()?;
        Ok(start.elapsed().as_secs_f64())
    }
    /// Whether the device can do the operation fused with this product.
    fn fits(&self, product: &Product) -> Result<bool> {
        Ok(product.fused == Fused::Nothing)
    }
    /// Begins to record what this thread queues instead of running it. Until the end nothing is
    /// reserved, released, read, written or waited for.
    fn begin_capture(&self) -> Result<()> {
        Err(KernelError::Capture(format!("{} records nothing", self.name())))
    }
    /// Ends the recording. Returns `None` if `keep` is false or nothing was recorded.
    fn end_capture(&self, keep: bool) -> Result<Option<GraphId>> {
        let _ = keep;
        Ok(None)
    }
    /// Records that memory changes its purpose: its contents are undefined from this point of the
    /// sequence on. The address stays.
    fn record_renewal(&self, name: &'static str, address: u64) {
        let _ = (name, address);
    }
    /// Records a copy of these bytes, the same at every replay.
    fn record_write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.write(to, bytes)
    }
    /// Queues a recorded graph.
    fn replay(&self, graph: GraphId) -> Result<()> {
        let _ = graph;
        Err(KernelError::Capture(format!("{} has no graphs", self.name())))
    }
    /// Destroys a graph; may be called while recording.
    fn forget(&self, graph: GraphId) {
        let _ = graph;
    }
    /// Bytes of page-locked host memory that copies use.
    fn pinned(&self) -> usize {
        0
    }
    /// The libraries behind the device, with their versions.
    fn software(&self) -> Option<String> {
        None
    }
    /// Work of the kernels, where the device counts it.
    fn work(&self) -> Option<Work> {
        None
    }
}
