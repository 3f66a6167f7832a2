//! Launches of `rein.cu`.
//!
//! Forward: one kernel from features to `X` (scores, softmax, values, residual), one product with
//! `W_f`, one pass that applies bias, scale and residual. Backward: one product with `W_f`, one
//! kernel that recomputes scores and weights and computes `df` from `dX0`, one kernel for the sums
//! over patches for the tokens, one product for `dW_f`. Intermediate results are stored in the type
//! of the features; docs/kernels.md has the arithmetic.

use super::{Backward, Forward, Rein};
use crate::call::{Gpu, Launch, Operation};
use crate::device::sizes::{aligned, each, small};
use crate::device::{Args, Buffer, Device, Float, Grid, Kernel, Module, View, ViewMut};
use crate::ops::matmul::MatMul;
use crate::{KernelError, Result, Write};

static PTX: Module = Module::new("rein", include_str!("../../../ptx/rein.ptx"));

/// Equal to `REIN_THREADS` and `REIN_ROWS` in `rein.cuh`.
const THREADS: u32 = 128;
const ROWS: usize = 32;

/// Channels must be a multiple of this; others are padded with zeros.
pub const CHANNELS: usize = 64;

/// Columns per block of `rein_sums`, and the patches that it multiplies at a time.
const COLUMNS: usize = 64;
const DEPTH: usize = 32;

/// Patches per split of the sums over patches. 4 images of 1024 patches and 1024 channels make 8
/// splits, 256 blocks, and 7 MB of partial sums.
const SPLIT: usize = 512;

/// Mirrors `ReinSizes` in `rein.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    b: u32,
    skip: u32,
    n: u32,
    c: u32,
    m: u32,
    softmax: u32,
    scale: f32,
    splits: u32,
}

/// Kernels for a number of tokens.
struct Entries {
    mix: &'static str,
    backward: &'static str,
    sums: &'static str,
    /// Maximum number of tokens.
    width: usize,
}

/// Sizes that have a kernel: `c` is a multiple of [`CHANNELS`], `m` at most 208. Views begin at
/// multiples of 16 bytes.
impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Rein, device: &Device) -> Result<()> {
        let Forward { f, tokens, values, weight, bias, scale, out, lse } = self;
        let (sizes, entries) = s.entries()?;
        let read = [("f", f.address()), ("tokens", tokens.address()), ("values", values.address())];
        aligned(Rein::NAME, &read)?;
        aligned(Rein::NAME, &[("bias", bias.address()), ("out", out.address())])?;
        let features = s.b * s.n * s.c;
        let mut x = device.alloc("rein.x", features)?;
        let shared = 2 * (entries.width + ROWS) * pitch::<T>(chunk::<T>())
            + ROWS * pitch::<T>(entries.width)
            + ROWS * (entries.width + 8) * 4;
        let args = Args::new(&sizes).read(f).read(tokens).read(values);
        let args = args.write(x.view_mut()).write(lse);
        let kernel = PTX.kernel_of::<T>(entries.mix);
        // SAFETY: the lengths were checked; patches beyond n and tokens beyond m are not touched.
        unsafe { device.launch(&kernel, &s.by_patches(shared), &args)? };
        let mut y = device.alloc::<T>("rein.y", features)?;
        let product = MatMul::new(s.b * s.n, s.c, s.c).trans_b();
        device.matmul(&product, 1.0, x.view(), weight, Write::Over, y.view_mut())?;
        let args = Args::new(&sizes).read(f).read(y.view()).read(bias).read(scale).write(out);
        let grid = each(f.len() / 8);
        // SAFETY: eight elements per thread, and c is a multiple of eight.
        unsafe { device.launch(&PTX.kernel_of::<T>("rein_finish"), &grid, &args) }
    }
}

/// As the forward pass.
impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(mut self, s: &Rein, device: &Device) -> Result<()> {
        let (df, dtokens, dvalues) = (self.df.take(), self.dtokens.take(), self.dvalues.take());
        let (dweight, dbias, dscale) = (self.dweight.take(), self.dbias.take(), self.dscale.take());
        let Backward { f, tokens, values, bias, dout, .. } = self;
        let (sizes, entries) = s.entries()?;
        let read = [("f", f.address()), ("tokens", tokens.address()), ("values", values.address())];
        aligned(Rein::NAME, &read)?;
        let df_at = df.as_ref().map_or(0, ViewMut::address);
        let others = [("bias", bias.address()), ("dout", dout.address()), ("df", df_at)];
        aligned(Rein::NAME, &others)?;
        let parameters = [&dtokens, &dvalues, &dweight, &dbias, &dscale];
        if df.is_none() && parameters.into_iter().all(Option::is_none) {
            return Ok(());
        }
        if f.is_empty() || s.n == 0 {
            // Without patches the gradient passes unchanged.
            return df.map_or(Ok(()), |df| device.copy(dout, df));
        }
        let pass = Pass { s, device, sizes, entries, of: self };
        let mixed = pass.mix(df, dweight.is_some())?;
        if let (Some(dweight), Some(sx)) = (dweight, &mixed.sx) {
            pass.weight(sx.view(), dweight)?;
        }
        if dtokens.is_some() || dvalues.is_some() {
            pass.tokens(&mixed, dtokens, dvalues)?;
        }
        if dbias.is_some() || dscale.is_some() {
            pass.bias(&mixed, dbias, dscale)?;
        }
        Ok(())
    }
}

impl Rein {
    fn by_patches(&self, shared: usize) -> Grid {
        Grid::new([self.n.div_ceil(ROWS), self.b, 1], [THREADS, 1, 1]).shared(shared)
    }

    /// Sizes of the kernels, and the kernels for the number of tokens.
    fn entries(&self) -> Result<(Sizes, Entries)> {
        let entries = if self.m <= 112 {
            let (mix, backward) = ("rein_mix_112", "rein_mix_backward_112");
            Entries { mix, backward, sums: "rein_sums_112", width: 112 }
        } else {
            let (mix, backward) = ("rein_mix_208", "rein_mix_backward_208");
            Entries { mix, backward, sums: "rein_sums_208", width: 208 }
        };
        if self.m == 0 || self.m > 208 || self.c == 0 || !self.c.is_multiple_of(CHANNELS) {
            let what = format!(
                "{} tokens of {} channels; the GPU kernel takes 1 to 208 of a multiple of 64",
                self.m, self.c
            );
            return Err(KernelError::Size { op: Rein::NAME, what });
        }
        // The kernel forms `skip + n` and `b * n` in 31 bits.
        small(Rein::NAME, "the number of rows of an image", self.skip + self.n)?;
        small(Rein::NAME, "the number of patches", self.b * self.n)?;
        let sizes = Sizes {
            b: small(Rein::NAME, "b", self.b)?,
            skip: small(Rein::NAME, "skip", self.skip)?,
            n: small(Rein::NAME, "n", self.n)?,
            c: small(Rein::NAME, "c", self.c)?,
            m: self.m as u32,
            softmax: u32::from(self.softmax),
            scale: self.score_scale::<f32>(),
            splits: small(Rein::NAME, "splits", self.splits())?,
        };
        Ok((sizes, entries))
    }

    /// Number of splits of the sums over patches, the same for every image.
    fn splits(&self) -> usize {
        self.b * self.n.div_ceil(SPLIT)
    }
}

/// Channels per chunk of the forward pass. The backward pass has twice as many operands in shared
/// memory and uses half.
fn chunk<T>() -> usize {
    if size_of::<T>() == 4 { 32 } else { 64 }
}

/// Bytes per row of `n` elements in shared memory.
fn pitch<T>(n: usize) -> usize {
    n * size_of::<T>() + 16
}

/// One backward pass with checked operands.
struct Pass<'p, 'a, T: Float> {
    s: &'p Rein,
    device: &'p Device,
    sizes: Sizes,
    entries: Entries,
    /// The operands, without gradients.
    of: Backward<'a, Gpu, T>,
}

/// Inputs of the sums over patches.
struct Mixed<T: Float> {
    /// G W_f, `[b, n, c]`.
    dx0: Buffer<T>,
    /// s X, `[b, n, c]`, if needed.
    sx: Option<Buffer<T>>,
    /// S without column 0 and dz, `[b, n, width]`.
    weights: Buffer<T>,
    dz: Buffer<T>,
    /// <X, dX0> of each block.
    shares: Buffer<f32>,
}

impl<T: Float> Pass<'_, '_, T> {
    /// G without the leading skipped rows: images are `(skip + n) c` apart.
    fn patches(&self) -> View<'_, T> {
        self.of.dout.slice(self.s.skip * self.s.c..self.of.dout.len())
    }

    fn launch(&self, kernel: Kernel, grid: Grid, args: &Args<'_>) -> Result<()> {
        // SAFETY: the lengths were checked and buffers are as long as their layout says; patches
        // beyond n, tokens beyond m and elements beyond the last are not touched.
        unsafe { self.device.launch(&kernel, &grid, args) }
    }

    fn mix(&self, df: Option<ViewMut<'_, T>>, with_sx: bool) -> Result<Mixed<T>> {
        let (s, device, width) = (self.s, self.device, self.entries.width);
        let (patches, features) = (s.b * s.n, s.b * s.n * s.c);
        let mut dx0 = device.alloc("rein.dx0", features)?;
        let stride_a = (s.skip + s.n) * s.c;
        let stride_c = s.n * s.c;
        let product =
            MatMul { batch: s.b, stride_a, stride_b: 0, stride_c, ..MatMul::new(s.n, s.c, s.c) };
        let (g, w) = (self.patches(), self.of.weight);
        device.matmul(&product, 1.0, g, w, Write::Over, dx0.view_mut())?;
        let mut sx = with_sx.then(|| device.alloc("rein.sx", features)).transpose()?;
        let mut weights = device.alloc("rein.weights", patches * width)?;
        let mut dz = device.alloc("rein.dz", patches * width)?;
        let mut shares = device.alloc("rein.shares", s.b * s.n.div_ceil(ROWS))?;
        let shared = 2 * (2 * width + 3 * ROWS) * pitch::<T>(chunk::<T>() / 2)
            + 2 * ROWS * pitch::<T>(width)
            + ROWS * (width + 8) * 4;
        let of = &self.of;
        let args = Args::new(&self.sizes).read(of.f).read(of.tokens).read(of.values);
        let args = args.read(of.scale).read(of.lse).read(of.dout).read(dx0.view()).write_if(df);
        let args = args.write_if(sx.as_mut().map(Buffer::view_mut)).write(weights.view_mut());
        let args = args.write(dz.view_mut()).write(shares.view_mut());
        let kernel = PTX.kernel_of::<T>(self.entries.backward);
        self.launch(kernel, s.by_patches(shared), &args)?;
        drop(args);
        Ok(Mixed { dx0, sx, weights, dz, shares })
    }

    /// dW_f += G^T (s X), image by image.
    fn weight(&self, sx: View<'_, T>, dweight: ViewMut<'_, f32>) -> Result<()> {
        let s = self.s;
        let (stride_a, stride_b) = ((s.skip + s.n) * s.c, s.n * s.c);
        let product = MatMul::new(s.c, s.c, s.n).trans_a();
        let product = MatMul { batch: s.b, stride_a, stride_b, stride_c: 0, ..product };
        self.device.matmul(&product, 1.0, self.patches(), sx, Write::Add, dweight)
    }

    fn tokens(
        &self,
        mixed: &Mixed<T>,
        dtokens: Option<ViewMut<'_, f32>>,
        dvalues: Option<ViewMut<'_, f32>>,
    ) -> Result<()> {
        let (s, width) = (self.s, self.entries.width);
        let mut partial = self.device.alloc::<f32>("rein.partial", 2 * s.splits() * width * s.c)?;
        let args = Args::new(&self.sizes).read(self.of.f).read(mixed.dx0.view());
        let args = args.read(mixed.weights.view()).read(mixed.dz.view()).write(partial.view_mut());
        let shared = 2 * DEPTH * (pitch::<T>(width) + pitch::<T>(COLUMNS));
        let grid = Grid::new([s.c / COLUMNS, s.splits(), 2], [THREADS, 1, 1]).shared(shared);
        self.launch(PTX.kernel_of::<T>(self.entries.sums), grid, &args)?;
        drop(args);
        let args = Args::new(&self.sizes).read(partial.view()).read(self.of.scale);
        let args = args.write_if(dtokens).write_if(dvalues);
        self.launch(PTX.kernel("rein_add_tokens"), each(2 * s.m * s.c), &args)
    }

    fn bias(
        &self,
        mixed: &Mixed<T>,
        dbias: Option<ViewMut<'_, f32>>,
        dscale: Option<ViewMut<'_, f32>>,
    ) -> Result<()> {
        let s = self.s;
        let mut columns = self.device.alloc::<f32>("rein.columns", s.splits() * s.c)?;
        let args = Args::new(&self.sizes).read(self.of.dout).write(columns.view_mut());
        let grid = Grid::new([s.c / 32, s.splits(), 1], [256, 1, 1]);
        self.launch(PTX.kernel_of::<T>("rein_columns"), grid, &args)?;
        drop(args);
        let args = Args::new(&self.sizes).read(columns.view()).read(mixed.shares.view());
        let args = args.read(self.of.bias).read(self.of.scale).write_if(dbias).write_if(dscale);
        self.launch(PTX.kernel("rein_add_bias"), Grid::new([1; 3], [256, 1, 1]), &args)
    }
}
