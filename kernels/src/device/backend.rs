//! What a device has to be able to do; the rest of the façade is common.

use std::time::Instant;

use super::{Grid, Kernel, Work};
use crate::matmul::{Beta, MatMul};
use crate::{KernelError, Result};

/// Number of a graph among those of its device.
pub(super) type GraphId = u64;

/// The two storage types of a product's operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    F32,
    Bf16,
}

/// What a product does beside multiplying, with the address of its vector, which is of the type of
/// `C`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fused {
    Nothing,
    /// Adds a vector `[m]` to every row.
    Bias(u64),
    /// The same, then the larger of that and 0.
    BiasRelu(u64),
    /// The same, and writes a mask of bits (address of the bias, of the mask).
    BiasReluMask(u64, u64),
    /// Zeros where the mask has no bit.
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

/// Bytes of a row of `m` bits in a mask: cuBLASLt wants a multiple of 128 bits.
pub(super) const fn mask_row(m: usize) -> usize {
    m.next_multiple_of(128) / 8
}

/// A product whose operands were checked: `C = alpha op(A) op(B)`, or added to `C`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub sizes: MatMul,
    pub alpha: f32,
    pub beta: Beta,
    /// Storage of `A` and `B`.
    pub operands: Storage,
    /// Storage of `C`.
    pub result: Storage,
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub fused: Fused,
}

/// One device. Addresses are the device's; everything is queued in order of the calls.
pub(super) trait Backend: Send + Sync {
    /// What the device calls itself.
    fn name(&self) -> String;
    /// Reservations are rounded up to a multiple of this many bytes.
    fn granularity(&self) -> usize;
    /// New memory; `None` if there is none.
    fn reserve(&self, name: &'static str, bytes: usize) -> Result<Option<u64>>;
    /// Memory that was given back is handed out again for another purpose: its contents are
    /// undefined from now on. Returns its address, which may be another.
    fn renew(&self, name: &'static str, address: u64, bytes: usize) -> Result<u64>;
    /// Ends a reservation. Called where nothing can be reported any more.
    fn release(&self, address: u64, bytes: usize);
    fn write(&self, to: u64, bytes: &[u8]) -> Result<()>;
    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()>;
    fn zero(&self, to: u64, bytes: usize) -> Result<()>;
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()>;
    fn wait(&self) -> Result<()>;
    fn launch(&self, kernel: &Kernel, grid: &Grid, params: &[u8]) -> Result<()>;
    /// Queues a product; `false` if it turns out that the device cannot do what is fused with it:
    /// nothing is queued then, and it does not [fit](Backend::fits) from then on.
    fn product(&self, product: &Product) -> Result<bool>;
    /// Fused products that the library refused, in words.
    fn unfused(&self) -> Vec<String> {
        Vec::new()
    }
    /// Bytes that can still be reserved, where the device tells.
    fn free_memory(&self) -> Option<usize> {
        None
    }
    /// Whether nothing is executed.
    fn is_dry_run(&self) -> bool {
        false
    }
    /// Seconds that what `work` queues takes, until it is done.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.wait()?;
        let start = Instant::now();
        work()?;
        self.wait()?;
        Ok(start.elapsed().as_secs_f64())
    }
    /// Whether the device can do what is fused with this product.
    fn fits(&self, product: &Product) -> Result<bool> {
        Ok(product.fused == Fused::Nothing)
    }
    /// Begins to record what is queued by this thread instead of running it. Until the end nothing
    /// is reserved, released, read, written or waited for.
    fn begin_capture(&self) -> Result<()> {
        Err(KernelError::Capture(format!("{} records nothing", self.name())))
    }
    /// Ends recording; `None` if it was broken off and nothing is to be kept.
    fn end_capture(&self, keep: bool) -> Result<Option<GraphId>> {
        let _ = keep;
        Ok(None)
    }
    /// While recording: memory changes its purpose here, its contents are undefined from this
    /// place of the sequence on. The address stays.
    fn record_renewal(&self, name: &'static str, address: u64) {
        let _ = (name, address);
    }
    /// While recording: a copy of these bytes, the same at every replay.
    fn record_write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.write(to, bytes)
    }
    /// Queues what was recorded.
    fn replay(&self, graph: GraphId) -> Result<()> {
        let _ = graph;
        Err(KernelError::Capture(format!("{} has no graphs", self.name())))
    }
    /// Ends the life of a graph; may be called while recording.
    fn forget(&self, graph: GraphId) {
        let _ = graph;
    }
    /// Bytes of page-locked host memory that copies go through.
    fn pinned(&self) -> usize {
        0
    }
    /// The libraries behind the device, with their versions.
    fn software(&self) -> Option<String> {
        None
    }
    /// What the kernels did, where the device counts it.
    fn work(&self) -> Option<Work> {
        None
    }
}
