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

use super::{Attention, OP};
use crate::device::sizes::small;
use crate::device::{Args, Buffer, Device, Float, Grid, Kernel, Module, View, ViewMut};
use crate::{KernelError, Result, check_count};

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

/// Saved values that the backward pass on a device needs in addition to the inputs.
#[derive(Debug, Clone, Copy)]
pub struct SavedGpu<'a, T> {
    /// Result of the forward pass, `[b, nq, heads * d]`.
    pub out: View<'a, T>,
    /// Log-sum-exp of each row, `[b, heads, nq]`.
    pub lse: View<'a, f32>,
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

impl Attention {
    /// [`Attention::forward`] on a device: writes `out` and `lse`, which is f32. `d` is 32, 64 or
    /// 80; q, k and v begin at multiples of 16 bytes.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a head width without a kernel; a failure of
    /// the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        q: View<'_, T>,
        k: View<'_, T>,
        v: View<'_, T>,
        blocked: Option<View<'_, u8>>,
        out: ViewMut<'_, T>,
        lse: ViewMut<'_, f32>,
    ) -> Result<()> {
        self.check_separate(q.len(), k.len(), v.len(), blocked)?;
        let sizes = self.separate_sizes()?;
        self.launch_forward(device, sizes, [q, k, v], blocked, None, out, lse)
    }

    /// [`Attention::forward_packed`] on a device; see [`Attention::forward_gpu`].
    ///
    /// # Errors
    /// As [`Attention::forward_gpu`]; `nq` other than `nk`.
    pub fn forward_packed_gpu<T: Float>(
        &self,
        device: &Device,
        qkv: View<'_, T>,
        out: ViewMut<'_, T>,
        lse: ViewMut<'_, f32>,
    ) -> Result<()> {
        let sizes = self.packed_sizes(qkv.len())?;
        self.launch_forward(device, sizes, [qkv; 3], None, None, out, lse)
    }

    /// [`Attention::forward_relative`] on a device; see [`Attention::forward_gpu`]. `d` is 80.
    ///
    /// # Errors
    /// As [`Attention::forward_packed_gpu`]; a grid whose size differs from the number of tokens,
    /// or too many biases per query for the shared memory of a block.
    pub fn forward_relative_gpu<T: Float>(
        &self,
        device: &Device,
        qkv: View<'_, T>,
        rel: View<'_, T>,
        grid: [usize; 2],
        out: ViewMut<'_, T>,
        lse: ViewMut<'_, f32>,
    ) -> Result<()> {
        let sizes = self.relative_sizes(qkv.len(), rel.len(), grid)?;
        let relative = Some(Relative { rel, grid });
        self.launch_forward(device, sizes, [qkv; 3], None, relative, out, lse)
    }

    /// [`Attention::backward`] on a device: writes `dq`, and `dk` with `dv`; each is optional.
    ///
    /// # Errors
    /// As [`Attention::forward_gpu`].
    pub fn backward_gpu<T: Float>(
        &self,
        device: &Device,
        q: View<'_, T>,
        k: View<'_, T>,
        v: View<'_, T>,
        blocked: Option<View<'_, u8>>,
        saved: SavedGpu<'_, T>,
        dout: View<'_, T>,
        dq: Option<ViewMut<'_, T>>,
        dkv: Option<(ViewMut<'_, T>, ViewMut<'_, T>)>,
    ) -> Result<()> {
        self.check_separate(q.len(), k.len(), v.len(), blocked)?;
        let (queries, keys) = (q.len(), k.len());
        check_count(OP, "dq", dq.as_ref().map_or(queries, ViewMut::len), queries)?;
        if let Some((dk, dv)) = &dkv {
            check_count(OP, "dk", dk.len(), keys)?;
            check_count(OP, "dv", dv.len(), keys)?;
        }
        let sizes = self.separate_sizes()?;
        let (qkv, relative) = ([q, k, v], None);
        let pass = Backward { s: self, device, sizes, qkv, blocked, relative, saved, dout };
        let delta = pass.delta()?;
        if let Some(dq) = dq {
            pass.dq(delta.view(), dq, None)?;
        }
        dkv.map_or(Ok(()), |(dk, dv)| pass.dkv(delta.view(), dk, Some(dv)))
    }

    /// [`Attention::backward_packed`] on a device: writes `dqkv`.
    ///
    /// # Errors
    /// As [`Attention::forward_packed_gpu`].
    pub fn backward_packed_gpu<T: Float>(
        &self,
        device: &Device,
        qkv: View<'_, T>,
        saved: SavedGpu<'_, T>,
        dout: View<'_, T>,
        mut dqkv: ViewMut<'_, T>,
    ) -> Result<()> {
        let sizes = self.packed_sizes(qkv.len())?;
        check_count(OP, "dqkv", dqkv.len(), qkv.len())?;
        let (qkv, blocked, relative) = ([qkv; 3], None, None);
        let pass = Backward { s: self, device, sizes, qkv, blocked, relative, saved, dout };
        let delta = pass.delta()?;
        pass.dq(delta.view(), dqkv.reborrow(), None)?;
        pass.dkv(delta.view(), dqkv, None)
    }

    /// [`Attention::backward_relative`] on a device: writes `dqkv` and `drel`.
    ///
    /// # Errors
    /// As [`Attention::forward_relative_gpu`].
    pub fn backward_relative_gpu<T: Float>(
        &self,
        device: &Device,
        qkv: View<'_, T>,
        rel: View<'_, T>,
        grid: [usize; 2],
        saved: SavedGpu<'_, T>,
        dout: View<'_, T>,
        mut dqkv: ViewMut<'_, T>,
        drel: ViewMut<'_, T>,
    ) -> Result<()> {
        let sizes = self.relative_sizes(qkv.len(), rel.len(), grid)?;
        check_count(OP, "dqkv", dqkv.len(), qkv.len())?;
        check_count(OP, "drel", drel.len(), rel.len())?;
        let (qkv, blocked, relative) = ([qkv; 3], None, Some(Relative { rel, grid }));
        let pass = Backward { s: self, device, sizes, qkv, blocked, relative, saved, dout };
        let delta = pass.delta()?;
        pass.dq(delta.view(), dqkv.reborrow(), Some(drel))?;
        pass.dkv(delta.view(), dqkv, None)
    }

    fn launch_forward<T: Float>(
        &self,
        device: &Device,
        mut sizes: Sizes,
        [q, k, v]: [View<'_, T>; 3],
        blocked: Option<View<'_, u8>>,
        relative: Option<Relative<'_, T>>,
        mut out: ViewMut<'_, T>,
        mut lse: ViewMut<'_, f32>,
    ) -> Result<()> {
        check_count(OP, "out", out.len(), self.b * self.nq * self.width())?;
        check_count(OP, "lse", lse.len(), self.b * self.heads * self.nq)?;
        let entries = self.entries::<T>(relative.is_some())?;
        let (rows, tile) = (entries.rows[0], entries.tiles[0]);
        let shared = (rows + 4 * tile) * self.pitch::<T>() + scratch::<T>(rows, tile);
        let shared = shared + relative.map_or(0, |r| rel_rows::<T>(rows, r.grid));
        let parts = self.split(&mut sizes, rows, tile);
        let grid = self.grid(self.nq.div_ceil(rows) * parts, shared);
        let mut partial = self.partial(device, parts, self.d + 2)?;
        let args = Args::new(&sizes).read(q).read(k).read(v).read_if(blocked);
        let args = args.read_if(relative.map(|r| r.rel)).write(out.reborrow());
        let args = args.write(lse.reborrow()).write_if(partial.as_mut().map(Buffer::view_mut));
        // SAFETY: the lengths were checked; rows beyond nq and keys beyond nk are not touched;
        // partial holds d sums and two more values for each row of each part.
        unsafe { device.launch(&kernel::<T>(entries.forward), &grid, &args)? };
        let Some(partial) = partial else { return Ok(()) };
        let args = Args::new(&sizes).read(partial.view()).write(out).write(lse);
        let grid = Grid::line(self.b * self.heads * self.nq, WARP_ROWS, THREADS);
        // SAFETY: as above; a warp beyond the last row does nothing.
        unsafe { device.launch(&kernel::<T>("attention_join"), &grid, &args) }
    }

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

    fn check_separate(
        &self,
        q: usize,
        k: usize,
        v: usize,
        blocked: Option<View<'_, u8>>,
    ) -> Result<()> {
        self.check_heads()?;
        let (queries, keys) = (self.b * self.nq, self.b * self.nk);
        check_count(OP, "q", q, queries * self.width())?;
        check_count(OP, "k", k, keys * self.width())?;
        check_count(OP, "v", v, keys * self.width())?;
        let flags = self.b * self.nq * self.nk;
        check_count(OP, "blocked", blocked.map_or(flags, |x| x.len()), flags)
    }

    fn separate_sizes(&self) -> Result<Sizes> {
        let token = self.width();
        self.sizes([0; 3], token, [self.nq * token, self.nk * token])
    }

    fn packed_sizes(&self, len: usize) -> Result<Sizes> {
        self.check_heads()?;
        if self.nq != self.nk {
            let what = format!("packed form with {} queries and {} keys", self.nq, self.nk);
            return Err(KernelError::Size { op: OP, what });
        }
        let c = self.width();
        check_count(OP, "qkv", len, self.b * self.nq * 3 * c)?;
        self.sizes([0, c, 2 * c], 3 * c, [self.nq * 3 * c; 2])
    }

    fn relative_sizes(&self, qkv: usize, rel: usize, grid: [usize; 2]) -> Result<Sizes> {
        self.check_grid(rel, grid)?;
        let [h, w] = grid.map(|n| n as u32);
        let grid = (h, w, w.next_multiple_of(CHUNK));
        let sizes = self.packed_sizes(qkv)?;
        Ok(Sizes { grid_h: grid.0, grid_w: grid.1, grid_pitch: grid.2, ..sizes })
    }

    fn sizes(&self, starts: [usize; 3], token: usize, images: [usize; 2]) -> Result<Sizes> {
        // The kernel uses signed integers, and tiles may extend past the end.
        let small = |name, n: usize| small(OP, name, n.saturating_mul(2).saturating_add(256));
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
                return Err(KernelError::Size { op: OP, what });
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

/// One backward pass with checked operands.
struct Backward<'a, T> {
    s: &'a Attention,
    device: &'a Device,
    sizes: Sizes,
    qkv: [View<'a, T>; 3],
    blocked: Option<View<'a, u8>>,
    relative: Option<Relative<'a, T>>,
    saved: SavedGpu<'a, T>,
    dout: View<'a, T>,
}

impl<'a, T: Float> Backward<'a, T> {
    /// Computes `dout . out` of every row, `[b, heads, nq]`.
    fn delta(&self) -> Result<Buffer<f32>> {
        let s = self.s;
        let (features, rows) = (s.b * s.nq * s.width(), s.b * s.heads * s.nq);
        check_count(OP, "out", self.saved.out.len(), features)?;
        check_count(OP, "lse", self.saved.lse.len(), rows)?;
        check_count(OP, "dout", self.dout.len(), features)?;
        self.entries()?;
        let mut delta = self.device.alloc("attention.delta", rows)?;
        let args = Args::new(&self.sizes).read(self.saved.out).read(self.dout);
        let args = args.write(delta.view_mut());
        let grid = Grid::line(rows, WARP_ROWS, THREADS);
        // SAFETY: the lengths were checked; a warp beyond the last row does nothing.
        unsafe { self.device.launch(&kernel::<T>("attention_delta"), &grid, &args)? };
        Ok(delta)
    }

    fn entries(&self) -> Result<Entries> {
        self.s.entries::<T>(self.relative.is_some())
    }

    /// Arguments up to `dout`, which the two other kernels share.
    fn args(&self, sizes: &Sizes, delta: View<'a, f32>) -> Args<'a> {
        let [q, k, v] = self.qkv;
        let args = Args::new(sizes).read(q).read(k).read(v).read_if(self.blocked);
        let args = args.read_if(self.relative.map(|r| r.rel));
        args.read(self.saved.lse).read(delta).read(self.dout)
    }

    fn dq(
        &self,
        delta: View<'_, f32>,
        mut dq: ViewMut<'_, T>,
        drel: Option<ViewMut<'_, T>>,
    ) -> Result<()> {
        let (s, entries) = (self.s, self.entries()?);
        let (rows, tile) = (entries.rows[1], entries.tiles[1]);
        let shared = (2 * rows + 4 * tile) * s.pitch::<T>() + scratch::<T>(rows, 16);
        let shared = shared
            + self.relative.map_or(0, |r| {
                let columns = odd_eights(r.grid[1].next_multiple_of(CHUNK as usize));
                rel_rows::<T>(rows, r.grid) + rows * columns * size_of::<f32>()
            });
        let mut sizes = self.sizes;
        let parts = s.split(&mut sizes, rows, tile);
        let grid = s.grid(s.nq.div_ceil(rows) * parts, shared);
        let mut partial = s.partial(self.device, parts, s.d)?;
        let args = self.args(&sizes, delta).write(dq.reborrow()).write_if(drel);
        let args = args.write_if(partial.as_mut().map(Buffer::view_mut));
        // SAFETY: the lengths were checked; rows beyond nq and keys beyond nk are not touched;
        // partial holds d sums for each row of each part.
        unsafe { self.device.launch(&kernel::<T>(entries.dq), &grid, &args)? };
        let Some(partial) = partial else { return Ok(()) };
        let args = Args::new(&sizes).read(partial.view()).write(dq);
        let grid = Grid::line(s.b * s.heads * s.nq, WARP_ROWS, THREADS);
        // SAFETY: as above; a warp beyond the last row does nothing.
        unsafe { self.device.launch(&kernel::<T>("attention_join_dq"), &grid, &args) }
    }

    /// Launches the kernel for dk and dv. Without `dv`, `dk` is the buffer of all three gradients.
    fn dkv(
        &self,
        delta: View<'_, f32>,
        dk: ViewMut<'_, T>,
        dv: Option<ViewMut<'_, T>>,
    ) -> Result<()> {
        let (s, entries) = (self.s, self.entries()?);
        let tile = entries.tiles[1];
        let rows = (2 * KEY_ROWS + 4 * tile) * s.pitch::<T>();
        let shared = rows + 4 * tile * 4 + scratch::<T>(KEY_ROWS, 16);
        let grid = s.grid(s.nk.div_ceil(KEY_ROWS), shared);
        let args = self.args(&self.sizes, delta).write(dk).write_if(dv);
        // SAFETY: the lengths were checked; rows beyond nk and queries beyond nq are not touched.
        unsafe { self.device.launch(&kernel::<T>(entries.dkv), &grid, &args) }
    }
}
