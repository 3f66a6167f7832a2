//! Launches of `attention.cu` (bf16) and `attention_f32.cu`.
//!
//! docs/kernels.md has FLOPs, bytes and the limits of a GPU. The backward pass reads `out`, unlike
//! the CPU code. It handles keys piece by piece, and `sum_j(p dp)` over the whole row equals `dout
//! . out`: one dot product instead of another loop over the keys. It computes the scores twice,
//! once by queries (`dq`) and once by keys (`dk`, `dv`): `14 b heads nq nk d` FLOP instead of 10.
//! In return, sums have a fixed order without atomics and without a workspace of the size of `dq`
//! per block.
//!
//! Each head width has one set of kernels for all forms. Only 80 channels support relative
//! positions, only 32 split their keys.

use super::{Attention, Backward, Forward, PackedAttention, PackedBackward, PackedForward};
use crate::call::{Gpu, Launch, Operation};
use crate::device::sizes::small;
use crate::device::{Args, Buffer, Device, Float, Grid, Kernel, Module, View, ViewMut};
use crate::{KernelError, Result};

static BF16: Module = Module::new("attention", include_str!("../../../ptx/attention.ptx"));
static F32: Module = Module::new("attention_f32", include_str!("../../../ptx/attention_f32.ptx"));

/// Mirrors `ATTENTION_THREADS` in `attention.cuh`.
const THREADS: u32 = 128;

/// Rows per block of the kernels with one warp per row.
const WARP_ROWS: usize = 4;

/// Keys per chunk of `attention.cuh`; rows of the grid are split into whole chunks.
const CHUNK: u32 = 16;

/// Target number of blocks when keys are split: four per SM of an H200, which is the occupancy at
/// 32 channels.
const SPLIT_BLOCKS: usize = 528;

/// Minimum tiles of keys per part, so that a block does more products than loads of queries.
const PART_TILES: usize = 4;

/// Mirrors `AttentionSizes` in `attention.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    b: u32,
    heads: u32,
    nq: u32,
    nk: u32,
    d: u32,
    scale: f32,
    q_start: u32,
    k_start: u32,
    v_start: u32,
    q_token: u32,
    k_token: u32,
    parts: u32,
    part_tiles: u32,
    grid_h: u32,
    grid_w: u32,
    grid_pitch: u32,
    q_image: u64,
    k_image: u64,
}

/// Kernels of one head width, and the sizes they were written for.
struct Entries {
    forward: &'static str,
    dq: &'static str,
    dkv: &'static str,
    /// Query rows per block of the forward pass and of `dq`.
    rows: [usize; 2],
    /// Keys per tile of the forward pass; queries or keys per tile of the backward pass.
    tiles: [usize; 2],
}

/// Relative positions of an attention: `[b, heads, nq, h + w]` for keys on a grid `[h, w]`.
#[derive(Clone, Copy)]
struct Relative<'a, T> {
    rel: View<'a, T>,
    grid: [usize; 2],
}

/// Head widths that have kernels, ascending; others are padded with zeros.
pub const WIDTHS: &[usize] = &[32, 64, 80];

/// Rows per block of `attention_dkv`.
const KEY_ROWS: usize = 64;

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Attention, device: &Device) -> Result<()> {
        let Forward { q, k, v, blocked, out, lse } = self;
        let (sizes, qkv) = (s.separate_sizes()?, [q, k, v]);
        Inputs { s: *s, device, sizes, qkv, blocked, relative: None }.forward(out, lse)
    }
}

impl<'a, T: Float> Launch<'a> for PackedForward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &PackedAttention, device: &Device) -> Result<()> {
        Inputs::packed(s, device, self.qkv, self.rel)?.forward(self.out, self.lse)
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Attention, device: &Device) -> Result<()> {
        let Backward { q, k, v, blocked, out, lse, dout, dq, dk, dv } = self;
        if dq.is_none() && dk.is_none() && dv.is_none() {
            return Ok(());
        }
        let (sizes, qkv) = (s.separate_sizes()?, [q, k, v]);
        let inputs = Inputs { s: *s, device, sizes, qkv, blocked, relative: None };
        let pass = inputs.backward(out.unwrap_or_default(), lse, dout)?;
        if let Some(dq) = dq {
            pass.dq(dq, None)?;
        }
        // One kernel computes both; one that is left out goes to scratch memory.
        let scratch = || device.alloc("attention.unused", s.keys());
        match (dk, dv) {
            (None, None) => Ok(()),
            (Some(dk), Some(dv)) => pass.dkv(dk, Some(dv)),
            (Some(dk), None) => pass.dkv(dk, Some(scratch()?.view_mut())),
            (None, Some(dv)) => pass.dkv(scratch()?.view_mut(), Some(dv)),
        }
    }
}

impl<'a, T: Float> Launch<'a> for PackedBackward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &PackedAttention, device: &Device) -> Result<()> {
        let PackedBackward { rel, qkv, out, lse, dout, mut dqkv, drel } = self;
        let inputs = Inputs::packed(s, device, qkv, rel)?;
        let pass = inputs.backward(out.unwrap_or_default(), lse, dout)?;
        pass.dq(dqkv.reborrow(), drel)?;
        pass.dkv(dqkv, None)
    }
}

impl PackedAttention {
    fn sizes(&self) -> Result<Sizes> {
        let (s, c) = (self.separate(), self.heads * self.d);
        let sizes = s.sizes([0, c, 2 * c], 3 * c, [self.t * 3 * c; 2])?;
        let Some([h, w]) = self.grid.map(|grid| grid.map(|n| n as u32)) else { return Ok(sizes) };
        Ok(Sizes { grid_h: h, grid_w: w, grid_pitch: w.next_multiple_of(CHUNK), ..sizes })
    }
}

impl Attention {
    /// Splits the keys into parts if a call has few rows. The split depends only on the sizes, so
    /// that the same call gives bitwise equal results everywhere.
    fn split(&self, sizes: &mut Sizes, rows: usize, tile: usize) -> usize {
        let (blocks, tiles) =
            (self.nq.div_ceil(rows) * self.heads * self.b, self.nk.div_ceil(tile));
        let most = if self.d == 32 { tiles / PART_TILES } else { 1 };
        let wanted = (SPLIT_BLOCKS / blocks.max(1)).clamp(1, most.max(1));
        let part_tiles = tiles.div_ceil(wanted).max(1);
        let parts = tiles.div_ceil(part_tiles).max(1);
        (sizes.parts, sizes.part_tiles) = (parts as u32, part_tiles as u32);
        parts
    }

    /// Buffer for the partial results of split keys: `n` values for each row of each part.
    fn partial(&self, device: &Device, parts: usize, n: usize) -> Result<Option<Buffer<f32>>> {
        let rows = self.b * self.heads * self.nq;
        (parts > 1).then(|| device.alloc("attention.partial", parts * rows * n)).transpose()
    }

    fn separate_sizes(&self) -> Result<Sizes> {
        let token = self.width();
        self.sizes([0; 3], token, [self.nq * token, self.nk * token])
    }

    fn sizes(&self, starts: [usize; 3], token: usize, images: [usize; 2]) -> Result<Sizes> {
        // The kernel uses signed integers, and tiles may extend past the end.
        let small =
            |name, n: usize| small(Self::NAME, name, n.saturating_mul(2).saturating_add(256));
        small("queries", self.nq)?;
        small("keys", self.nk)?;
        small("a token", token)?;
        let [q_start, k_start, v_start] = starts.map(|n| n as u32);
        Ok(Sizes {
            b: self.b as u32,
            heads: self.heads as u32,
            nq: self.nq as u32,
            nk: self.nk as u32,
            d: self.d as u32,
            scale: 1.0 / (self.d as f32).sqrt(),
            q_start,
            k_start,
            v_start,
            q_token: token as u32,
            k_token: token as u32,
            parts: 1,
            part_tiles: 0,
            // One row with all keys.
            grid_h: u32::from(self.nk > 0),
            grid_w: self.nk as u32,
            grid_pitch: (self.nk.max(1) as u32).next_multiple_of(CHUNK),
            q_image: images[0] as u64,
            k_image: images[1] as u64,
        })
    }

    fn grid(&self, blocks: usize, shared: usize) -> Grid {
        Grid::new([blocks, self.heads, self.b], [THREADS, 1, 1]).shared(shared)
    }

    /// Bytes of a row of a head in shared memory.
    fn pitch<T>(&self) -> usize {
        self.d * size_of::<T>() + 16
    }

    /// The kernels for this head width; sizes as in `attention.cu` and `attention_f32.cu`.
    fn entries<T: Float>(&self, relative: bool) -> Result<Entries> {
        let [forward, dq, dkv] = match (self.d, relative) {
            (32, false) => ["attention_forward_32", "attention_dq_32", "attention_dkv_32"],
            (64, false) => ["attention_forward_64", "attention_dq_64", "attention_dkv_64"],
            (80, _) => ["attention_forward_80", "attention_dq_80", "attention_dkv_80"],
            (d, _) => {
                let with = if relative { " with relative positions" } else { "" };
                let what = format!("heads of {d} channels{with} have no GPU kernel");
                return Err(KernelError::Size { op: Self::NAME, what });
            }
        };
        let (rows, tiles) = match (size_of::<T>(), self.d) {
            (2, 32) => ([64, 64], [64, 64]),
            (2, 64) => ([128, 128], [64, 64]),
            (2, _) => ([128, 64], [32, 64]),
            _ => ([64, 64], [32, 32]),
        };
        Ok(Entries { forward, dq, dkv, rows, tiles })
    }
}

/// Number of elements rounded up to an odd multiple of eight: a pitch without bank conflicts.
fn odd_eights(n: usize) -> usize {
    8 * (n.div_ceil(8) | 1)
}

/// Bytes of `RelativeRows` for `rows` rows of a block.
fn rel_rows<T>(rows: usize, [h, w]: [usize; 2]) -> usize {
    rows * odd_eights(w.next_multiple_of(CHUNK as usize) + h) * size_of::<T>()
}

/// Bytes of shared memory to turn f32 weights from results into operands: `rows` rows per block by
/// `cols`.
fn scratch<T>(rows: usize, cols: usize) -> usize {
    if size_of::<T>() == 4 { rows * (cols + 4) * 4 } else { 0 }
}

fn kernel<T: Float>(name: &'static str) -> Kernel {
    if size_of::<T>() == 4 { F32.kernel_of::<T>(name) } else { BF16.kernel_of::<T>(name) }
}

/// Inputs of checked lengths.
struct Inputs<'a, T> {
    s: Attention,
    device: &'a Device,
    sizes: Sizes,
    qkv: [View<'a, T>; 3],
    blocked: Option<View<'a, u8>>,
    relative: Option<Relative<'a, T>>,
}

impl<'a, T: Float> Inputs<'a, T> {
    fn packed(
        s: &PackedAttention,
        device: &'a Device,
        qkv: View<'a, T>,
        rel: Option<View<'a, T>>,
    ) -> Result<Self> {
        let relative = rel.zip(s.grid).map(|(rel, grid)| Relative { rel, grid });
        let (sizes, qkv) = (s.sizes()?, [qkv; 3]);
        Ok(Inputs { s: s.separate(), device, sizes, qkv, blocked: None, relative })
    }

    fn entries(&self) -> Result<Entries> {
        self.s.entries::<T>(self.relative.is_some())
    }

    /// Arguments that all kernels but those of whole rows begin with.
    fn args(&self, sizes: &Sizes) -> Args<'a> {
        let [q, k, v] = self.qkv;
        let args = Args::new(sizes).read(q).read(k).read(v).read_if(self.blocked);
        args.read_if(self.relative.map(|r| r.rel))
    }

    /// Writes `out` and `lse`, which have the lengths of the sizes.
    fn forward(self, mut out: ViewMut<'_, T>, mut lse: ViewMut<'_, f32>) -> Result<()> {
        let (s, device, entries) = (&self.s, self.device, self.entries()?);
        let mut sizes = self.sizes;
        let (rows, tile) = (entries.rows[0], entries.tiles[0]);
        let shared = (rows + 4 * tile) * s.pitch::<T>() + scratch::<T>(rows, tile);
        let shared = shared + self.relative.map_or(0, |r| rel_rows::<T>(rows, r.grid));
        let parts = s.split(&mut sizes, rows, tile);
        let grid = s.grid(s.nq.div_ceil(rows) * parts, shared);
        let mut partial = s.partial(device, parts, s.d + 2)?;
        let args = self.args(&sizes).write(out.reborrow()).write(lse.reborrow());
        let args = args.write_if(partial.as_mut().map(Buffer::view_mut));
        // SAFETY: the lengths were checked; rows beyond nq and keys beyond nk are not touched;
        // partial holds d sums and two more values for each row of each part.
        unsafe { device.launch(&kernel::<T>(entries.forward), &grid, &args)? };
        let Some(partial) = partial else { return Ok(()) };
        let args = Args::new(&sizes).read(partial.view()).write(out).write(lse);
        let grid = Grid::line(s.rows_of_scores(), WARP_ROWS, THREADS);
        // SAFETY: as above; a warp beyond the last row does nothing.
        unsafe { device.launch(&kernel::<T>("attention_join"), &grid, &args) }
    }

    /// Computes `dout . out` of every row, `[b, heads, nq]`.
    fn backward(
        self,
        out: View<'a, T>,
        lse: View<'a, f32>,
        dout: View<'a, T>,
    ) -> Result<BackwardPass<'a, T>> {
        let (rows, entries) = (self.s.rows_of_scores(), self.entries()?);
        let mut delta = self.device.alloc("attention.delta", rows)?;
        let args = Args::new(&self.sizes).read(out).read(dout).write(delta.view_mut());
        let grid = Grid::line(rows, WARP_ROWS, THREADS);
        // SAFETY: the lengths were checked; a warp beyond the last row does nothing.
        unsafe { self.device.launch(&kernel::<T>("attention_delta"), &grid, &args)? };
        Ok(BackwardPass { inputs: self, entries, lse, delta, dout })
    }
}

/// One backward pass with checked operands.
struct BackwardPass<'a, T> {
    inputs: Inputs<'a, T>,
    entries: Entries,
    lse: View<'a, f32>,
    delta: Buffer<f32>,
    dout: View<'a, T>,
}

impl<T: Float> BackwardPass<'_, T> {
    /// Arguments up to `dout`, which both kernels share.
    fn args(&self, sizes: &Sizes) -> Args<'_> {
        self.inputs.args(sizes).read(self.lse).read(self.delta.view()).read(self.dout)
    }

    fn dq(&self, mut dq: ViewMut<'_, T>, drel: Option<ViewMut<'_, T>>) -> Result<()> {
        let Inputs { s, device, sizes, relative, .. } = &self.inputs;
        let (rows, tile) = (self.entries.rows[1], self.entries.tiles[1]);
        let shared = (2 * rows + 4 * tile) * s.pitch::<T>() + scratch::<T>(rows, 16);
        let shared = shared
            + relative.map_or(0, |r| {
                let columns = odd_eights(r.grid[1].next_multiple_of(CHUNK as usize));
                rel_rows::<T>(rows, r.grid) + rows * columns * size_of::<f32>()
            });
        let mut sizes = *sizes;
        let parts = s.split(&mut sizes, rows, tile);
        let grid = s.grid(s.nq.div_ceil(rows) * parts, shared);
        let mut partial = s.partial(device, parts, s.d)?;
        let args = self.args(&sizes).write(dq.reborrow()).write_if(drel);
        let args = args.write_if(partial.as_mut().map(Buffer::view_mut));
        // SAFETY: the lengths were checked; rows beyond nq and keys beyond nk are not touched;
        // partial holds d sums for each row of each part.
        unsafe { device.launch(&kernel::<T>(self.entries.dq), &grid, &args)? };
        let Some(partial) = partial else { return Ok(()) };
        let args = Args::new(&sizes).read(partial.view()).write(dq);
        let grid = Grid::line(s.rows_of_scores(), WARP_ROWS, THREADS);
        // SAFETY: as above; a warp beyond the last row does nothing.
        unsafe { device.launch(&kernel::<T>("attention_join_dq"), &grid, &args) }
    }

    /// Launches the kernel for dk and dv. Without `dv`, `dk` is the buffer of all three gradients.
    fn dkv(&self, dk: ViewMut<'_, T>, dv: Option<ViewMut<'_, T>>) -> Result<()> {
        let (s, tile) = (&self.inputs.s, self.entries.tiles[1]);
        let rows = (2 * KEY_ROWS + 4 * tile) * s.pitch::<T>();
        let shared = rows + 4 * tile * 4 + scratch::<T>(KEY_ROWS, 16);
        let grid = s.grid(s.nk.div_ceil(KEY_ROWS), shared);
        let args = self.args(&self.inputs.sizes).write(dk).write_if(dv);
        // SAFETY: the lengths were checked; rows beyond nk and queries beyond nq are not touched.
        unsafe { self.inputs.device.launch(&kernel::<T>(self.entries.dkv), &grid, &args) }
    }
}
