//! Launches of `attention.cu` (bf16) and `attention_f32.cu`.
//!
//! FLOPs, bytes and what a GPU can give are worked out in docs/kernels.md. The backward pass reads
//! `out`, which the CPU form does not: it walks over keys piece by piece, and `sum_j(p dp)` over
//! the whole row is `dout . out`, one dot product instead of another walk. It forms the scores
//! twice, once by queries (`dq`) and once by keys (`dk`, `dv`): 14 instead of 10 products of `b
//! heads nq nk d`, for sums in a fixed order without atomics or a workspace of `dq`'s size a block.

use super::{Attention, OP};
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Kernel, Module, View, ViewMut};
use crate::{KernelError, Result, check_count};

static BF16: Module = Module::new("attention", include_str!("../../ptx/attention.ptx"));
static F32: Module = Module::new("attention_f32", include_str!("../../ptx/attention_f32.ptx"));

/// `ATTENTION_THREADS` of `attention.cuh`.
const THREADS: u32 = 128;

/// Rows of `delta` that a block forms, one for each of its warps.
const DELTA_ROWS: usize = 4;

/// `AttentionSizes` of `attention.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    b: u32,
    heads: u32,
    nq: u32,
    nk: u32,
    scale: f32,
    q_start: u32,
    k_start: u32,
    v_start: u32,
    q_token: u32,
    k_token: u32,
    q_image: u64,
    k_image: u64,
}

/// What the backward pass on a device needs beside the inputs.
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
    delta: &'static str,
    /// Query rows of a block of the forward pass and of `dq`.
    rows: [usize; 2],
    /// Keys of a tile of the forward pass; queries or keys of one of the backward pass.
    tiles: [usize; 2],
}

/// Head widths that have kernels, ascending; others are widened with zeros.
pub const WIDTHS: &[usize] = &[32, 64, 80];

/// Those that have kernels with blocked keys.
pub const BLOCKED_WIDTHS: &[usize] = &[32];

/// Rows of a block of `attention_dkv`.
const KEY_ROWS: usize = 64;

impl Attention {
    /// [`Attention::forward`] on a device: writes `out` and `lse`, which is f32. `d` is 32, 64 or
    /// 80, with `blocked` 32; q, k and v begin at multiples of 16 bytes.
    ///
    /// # Errors
    /// A view of another length than the sizes say; a head width without a kernel; a failure of
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
        self.launch_forward(device, &sizes, [q, k, v], blocked, out, lse)
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
        self.launch_forward(device, &sizes, [qkv; 3], None, out, lse)
    }

    /// [`Attention::backward`] on a device: writes `dq`, and `dk` with `dv`; each may be left out.
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
        let pass = Backward { s: self, device, sizes, qkv: [q, k, v], blocked, saved, dout };
        let delta = pass.delta()?;
        if let Some(dq) = dq {
            pass.dq(delta.view(), dq)?;
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
        let qkv = [qkv; 3];
        let pass = Backward { s: self, device, sizes, qkv, blocked: None, saved, dout };
        let delta = pass.delta()?;
        pass.dq(delta.view(), dqkv.reborrow())?;
        pass.dkv(delta.view(), dqkv, None)
    }

    fn launch_forward<T: Float>(
        &self,
        device: &Device,
        sizes: &Sizes,
        [q, k, v]: [View<'_, T>; 3],
        blocked: Option<View<'_, u8>>,
        out: ViewMut<'_, T>,
        lse: ViewMut<'_, f32>,
    ) -> Result<()> {
        check_count(OP, "out", out.len(), self.b * self.nq * self.width())?;
        check_count(OP, "lse", lse.len(), self.b * self.heads * self.nq)?;
        let entries = self.entries::<T>(blocked.is_some())?;
        let (rows, tile) = (entries.rows[0], entries.tiles[0]);
        let shared = (rows + 4 * tile) * self.pitch::<T>() + scratch::<T>(rows, tile);
        let grid = self.grid(self.nq, rows, shared);
        let args = Args::new(sizes).read(q).read(k).read(v).read_if(blocked).write(out).write(lse);
        // SAFETY: the lengths were checked; rows beyond nq and keys beyond nk are not touched.
        unsafe { device.launch(&kernel::<T>(entries.forward), &grid, &args) }
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
            let what = format!("packed, but {} queries and {} keys", self.nq, self.nk);
            return Err(KernelError::Size { op: OP, what });
        }
        let c = self.width();
        check_count(OP, "qkv", len, self.b * self.nq * 3 * c)?;
        self.sizes([0, c, 2 * c], 3 * c, [self.nq * 3 * c; 2])
    }

    fn sizes(&self, starts: [usize; 3], token: usize, images: [usize; 2]) -> Result<Sizes> {
        // Signed in the kernel, and tiles may reach past the end.
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
            scale: 1.0 / (self.d as f32).sqrt(),
            q_start,
            k_start,
            v_start,
            q_token: token as u32,
            k_token: token as u32,
            q_image: images[0] as u64,
            k_image: images[1] as u64,
        })
    }

    fn grid(&self, n: usize, rows: usize, shared: usize) -> Grid {
        Grid::new([n.div_ceil(rows), self.heads, self.b], [THREADS, 1, 1]).shared(shared)
    }

    /// Bytes of a row of a head in shared memory.
    fn pitch<T>(&self) -> usize {
        self.d * size_of::<T>() + 16
    }

    /// The kernels for this head width; sizes as in `attention.cu` and `attention_f32.cu`.
    fn entries<T: Float>(&self, blocked: bool) -> Result<Entries> {
        let half = size_of::<T>() == 2;
        let (forward, dq, dkv, delta) = match (self.d, blocked) {
            (32, false) => (
                "attention_forward_32",
                "attention_dq_32",
                "attention_dkv_32",
                "attention_delta_32",
            ),
            (64, false) => (
                "attention_forward_64",
                "attention_dq_64",
                "attention_dkv_64",
                "attention_delta_64",
            ),
            (80, false) => (
                "attention_forward_80",
                "attention_dq_80",
                "attention_dkv_80",
                "attention_delta_80",
            ),
            (32, true) => (
                "attention_forward_32_blocked",
                "attention_dq_32_blocked",
                "attention_dkv_32_blocked",
                "attention_delta_32",
            ),
            (d, _) => {
                let with = if blocked { " with blocked keys" } else { "" };
                let what = format!("heads of {d} channels{with} have no GPU kernel");
                return Err(KernelError::Size { op: OP, what });
            }
        };
        let rows = match (half, self.d, blocked) {
            (true, 80, false) => [128, 64],
            (true, _, false) => [128, 128],
            _ => [64, 64],
        };
        let tiles = match (half, self.d) {
            (true, 80) => [32, 64],
            (true, _) => [64, 64],
            (false, _) => [32, 32],
        };
        Ok(Entries { forward, dq, dkv, delta, rows, tiles })
    }
}

/// Bytes of shared memory in which f32 weights change from results to operands: `rows` rows of a
/// block by `cols`.
fn scratch<T>(rows: usize, cols: usize) -> usize {
    if size_of::<T>() == 4 { rows * (cols + 4) * 4 } else { 0 }
}

fn kernel<T: Float>(name: &'static str) -> Kernel {
    if size_of::<T>() == 4 { F32.kernel_of::<T>(name) } else { BF16.kernel_of::<T>(name) }
}

/// One backward pass, its operands checked.
struct Backward<'a, T> {
    s: &'a Attention,
    device: &'a Device,
    sizes: Sizes,
    qkv: [View<'a, T>; 3],
    blocked: Option<View<'a, u8>>,
    saved: SavedGpu<'a, T>,
    dout: View<'a, T>,
}

impl<'a, T: Float> Backward<'a, T> {
    /// `dout . out` of every row, `[b, heads, nq]`.
    fn delta(&self) -> Result<crate::device::Buffer<f32>> {
        let s = self.s;
        let (features, rows) = (s.b * s.nq * s.width(), s.b * s.heads * s.nq);
        check_count(OP, "out", self.saved.out.len(), features)?;
        check_count(OP, "lse", self.saved.lse.len(), rows)?;
        check_count(OP, "dout", self.dout.len(), features)?;
        let mut delta = self.device.alloc("attention.delta", rows)?;
        let entries = s.entries::<T>(self.blocked.is_some())?;
        let args = Args::new(&self.sizes).read(self.saved.out).read(self.dout);
        let args = args.write(delta.view_mut());
        let grid = Grid::line(rows, DELTA_ROWS, THREADS);
        // SAFETY: the lengths were checked; a warp beyond the last row does nothing.
        unsafe { self.device.launch(&kernel::<T>(entries.delta), &grid, &args)? };
        Ok(delta)
    }

    /// Arguments up to `dout`, which both other kernels share.
    fn args(&self, delta: View<'a, f32>) -> Args<'a> {
        let [q, k, v] = self.qkv;
        let args = Args::new(&self.sizes).read(q).read(k).read(v).read_if(self.blocked);
        args.read(self.saved.lse).read(delta).read(self.dout)
    }

    fn dq(&self, delta: View<'_, f32>, dq: ViewMut<'_, T>) -> Result<()> {
        let (s, entries) = (self.s, self.s.entries::<T>(self.blocked.is_some())?);
        let (rows, tile) = (entries.rows[1], entries.tiles[1]);
        let shared = (2 * rows + 4 * tile) * s.pitch::<T>() + scratch::<T>(rows, 16);
        let grid = s.grid(s.nq, rows, shared);
        let args = self.args(delta).write(dq);
        // SAFETY: the lengths were checked; rows beyond nq and keys beyond nk are not touched.
        unsafe { self.device.launch(&kernel::<T>(entries.dq), &grid, &args) }
    }

    /// Without `dv`, `dk` is the buffer of all three gradients.
    fn dkv(
        &self,
        delta: View<'_, f32>,
        dk: ViewMut<'_, T>,
        dv: Option<ViewMut<'_, T>>,
    ) -> Result<()> {
        let (s, entries) = (self.s, self.s.entries::<T>(self.blocked.is_some())?);
        let tile = entries.tiles[1];
        let rows = (2 * KEY_ROWS + 4 * tile) * s.pitch::<T>();
        let shared = rows + 4 * tile * 4 + scratch::<T>(KEY_ROWS, 16);
        let grid = s.grid(s.nk, KEY_ROWS, shared);
        let args = self.args(delta).write(dk).write_if(dv);
        // SAFETY: the lengths were checked; rows beyond nk and queries beyond nq are not touched.
        unsafe { self.device.launch(&kernel::<T>(entries.dkv), &grid, &args) }
    }
}
