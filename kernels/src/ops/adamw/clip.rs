//! Norm of all gradients of a step, and the factor that limits it.
//!
//! ```text
//! norm = sqrt(sum of the squares of all elements of all gradients)
//! factor = min(1, most / (norm + 1e-6))
//! ```
//! Squares are summed in chunks of 4096 elements of a gradient. Within a chunk there are 256 sums,
//! each of eight consecutive elements at a time, then 32 of these are added pairwise, then eight in
//! order. The sums of the chunks are added the same way. Each operation is rounded in f32, so host
//! and device give the same bits, for any number of threads.
//!
//! Source: Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013;
//! the small addend is PyTorch's.

use rayon::prelude::*;

use super::gpu::{CHUNK, PTX, Table};
use crate::device::sizes::small;
use crate::device::{Args, Buffer, Device, Grid, View};
use crate::{Result, dry_run};

/// Threads of a block, and elements that one takes at a time.
const THREADS: usize = 256;
const VECTOR: usize = 8;

/// Factor that limits the norm of all `gradients` together to `most`, and the norm.
pub fn clip_factor(gradients: &[&[f32]], most: f64) -> [f32; 2] {
    if dry_run::skip("adamw") {
        return [1.0, 0.0];
    }
    let chunks: Vec<&[f32]> = gradients.iter().flat_map(|g| g.chunks(CHUNK)).collect();
    let partial: Vec<f32> = chunks.par_iter().map(|chunk| squares(chunk)).collect();
    let mut sums = [0.0; THREADS];
    for (i, partial) in partial.into_iter().enumerate() {
        sums[i % THREADS] += partial;
    }
    let norm = block_sum(&mut sums).sqrt();
    [(most as f32 / (norm + 1e-6)).min(1.0), norm]
}

/// Multiplies a gradient by a factor.
pub fn scale(g: &mut [f32], factor: f32) {
    if !dry_run::skip("adamw") {
        g.par_chunks_mut(CHUNK).for_each(|g| g.iter_mut().for_each(|g| *g *= factor));
    }
}

/// Sum of the squares of a chunk.
fn squares(chunk: &[f32]) -> f32 {
    let mut sums = [0.0; THREADS];
    for round in chunk.chunks(THREADS * VECTOR) {
        for (sum, own) in sums.iter_mut().zip(round.chunks(VECTOR)) {
            own.iter().for_each(|g| *sum += g * g);
        }
    }
    block_sum(&mut sums)
}

/// Sum of the sums of the threads of a block: `block_sum` of `adamw.cu`.
fn block_sum(sums: &mut [f32; THREADS]) -> f32 {
    let mut total = 0.0;
    for warp in sums.chunks_exact_mut(32) {
        for half in [16, 8, 4, 2, 1] {
            let (low, high) = warp.split_at_mut(half);
            low.iter_mut().zip(high).for_each(|(a, b)| *a += *b);
        }
        total += warp[0];
    }
    total
}

/// Mirrors `Norm` in `adamw.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    chunks: u32,
    most: f32,
}

/// Mirrors `Gradient` in `adamw.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
struct Chunk {
    g: u64,
    n: u64,
}

/// [`clip_factor`] on a device, in two launches. Keeps the table of addresses and the result.
#[derive(Debug)]
pub struct ClipNorm {
    most: f64,
    table: Table<Chunk>,
    factor: Option<Buffer<f32>>,
}

impl ClipNorm {
    /// Creates the limit `most` of the norm.
    pub fn new(most: f64) -> ClipNorm {
        ClipNorm { most, table: Table::default(), factor: None }
    }

    /// The limit of the norm.
    pub fn most(&self) -> f64 {
        self.most
    }

    /// Queues the norm of all `gradients` and returns factor and norm `[2]`, at the same address in
    /// every step. Does not wait, and may be captured after it ran once.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn launch(
        &mut self,
        device: &Device,
        gradients: &[View<'_, f32>],
    ) -> Result<View<'_, f32>> {
        let mut chunks = Vec::new();
        for g in gradients {
            let chunk = |start: usize| Chunk {
                g: g.address() + 4 * start as u64,
                n: (g.len() - start).min(CHUNK) as u64,
            };
            chunks.extend((0..g.len()).step_by(CHUNK).map(chunk));
        }
        let count = chunks.len();
        let sizes = Sizes { chunks: small("adamw", "chunks", count)?, most: self.most as f32 };
        let mut factor = match self.factor.take() {
            Some(factor) => factor,
            None => device.alloc("adamw.factor", 2)?,
        };
        let mut partial = device.alloc::<f32>("adamw.squares", count)?;
        if count > 0 {
            let table = self.table.write(device, chunks)?;
            let mut args = Args::new(&sizes).read(table).write(partial.view_mut());
            for g in gradients {
                // Not parameters of the kernel: the table holds their addresses.
                args = args.behind_view(g);
            }
            let (kernel, grid) = (PTX.kernel("gradient_squares"), Grid::line(count, 1, 256));
            // SAFETY: block i takes chunk i, which is within a gradient, and writes element i.
            unsafe { device.launch(&kernel, &grid, &args)? };
        }
        let args = Args::new(&sizes).read(partial.view()).write(factor.view_mut());
        // SAFETY: one block reads `count` sums and writes two elements.
        unsafe { device.launch(&PTX.kernel("clip_factor"), &Grid::line(1, 1, 256), &args)? };
        Ok(self.factor.insert(factor).view())
    }
}
