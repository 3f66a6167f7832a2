//! Launches of `residual.cu`.

use super::Residual;
use crate::device::sizes::{RowSplit, small, tile2d};
use crate::device::{Args, Device, Float, Module, View, ViewMut};
use crate::ops::reduce::column_finish;
use crate::{KernelError, Result, check_count};

static PTX: Module = Module::new("residual", include_str!("../../../ptx/residual.ptx"));

/// Mirrors `Residual` in `residual.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    c: u32,
    rows: u32,
}

impl Residual {
    /// [`Residual::forward`] on a device, with the optional bias of the previous product: `y = x +
    /// gamma (r + bias)`.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        r: View<'_, T>,
        bias: Option<View<'_, f32>>,
        gamma: Option<View<'_, f32>>,
        y: ViewMut<'_, T>,
    ) -> Result<()> {
        self.check_gpu("x", x.len())?;
        self.check_gpu("r", r.len())?;
        self.check_gpu("y", y.len())?;
        self.check_columns(&[("bias", bias), ("gamma", gamma)])?;
        let (grid, rows) = tile2d(self.n, self.c);
        let args = Args::new(&self.sizes(rows)?).read(x).read(r);
        let args = args.read_if(bias).read_if(gamma).write(y);
        // SAFETY: the lengths were checked; threads beyond a row or the last row do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("residual_fwd"), &grid, &args) }
    }

    /// [`Residual::backward`] on a device: writes `dr` and adds to `dgamma`; each is optional. Only
    /// `dgamma` needs `r` and `bias`. The gradient of the bias is the sum of `dr` over the rows
    /// ([`crate::ops::reduce::column_sums_gpu`]).
    ///
    /// # Errors
    /// A view whose length does not match the sizes; `dgamma` without `r`; a failure of the device.
    pub fn backward_gpu<T: Float>(
        &self,
        device: &Device,
        r: Option<View<'_, T>>,
        bias: Option<View<'_, f32>>,
        gamma: Option<View<'_, f32>>,
        dy: View<'_, T>,
        dr: Option<ViewMut<'_, T>>,
        dgamma: Option<ViewMut<'_, f32>>,
    ) -> Result<()> {
        self.check_gpu("dy", dy.len())?;
        self.check_columns(&[("bias", bias), ("gamma", gamma)])?;
        if let Some(dr) = dr {
            self.check_gpu("dr", dr.len())?;
            let (grid, rows) = tile2d(self.n, self.c);
            let args = Args::new(&self.sizes(rows)?).read_if(gamma).read(dy).write(dr);
            // SAFETY: the lengths were checked; threads beyond the rows do nothing.
            unsafe { device.launch(&PTX.kernel_of::<T>("residual_bwd"), &grid, &args)? };
        }
        let Some(dgamma) = dgamma else { return Ok(()) };
        check_count("residual", "dgamma", dgamma.len(), self.c)?;
        let Some(r) = r else {
            let what = "the gradient of gamma needs r".into();
            return Err(KernelError::Size { op: "residual", what });
        };
        self.check_gpu("r", r.len())?;
        let splits = RowSplit::of(self.n);
        let mut partial = device.alloc("residual.partial", splits.count * self.c)?;
        let args = Args::new(&self.sizes(splits.rows)?).read(r).read_if(bias).read(dy);
        let args = args.write(partial.view_mut());
        let kernel = PTX.kernel_of::<T>("residual_columns");
        // SAFETY: the lengths were checked; partial holds one sum per split and column.
        unsafe { device.launch(&kernel, &splits.grid(self.c), &args)? };
        column_finish(device, partial.view(), splits.count, dgamma)
    }

    fn check_gpu(&self, name: &'static str, found: usize) -> Result<()> {
        check_count("residual", name, found, self.n * self.c)
    }

    fn check_columns(&self, all: &[(&'static str, Option<View<'_, f32>>)]) -> Result<()> {
        all.iter().try_for_each(|(name, view)| {
            check_count("residual", name, view.map_or(self.c, |view| view.len()), self.c)
        })
    }

    fn sizes(&self, rows: usize) -> Result<Sizes> {
        Ok(Sizes {
            n: small("residual", "n", self.n)?,
            c: small("residual", "c", self.c)?,
            rows: small("residual", "rows", rows)?,
        })
    }
}
