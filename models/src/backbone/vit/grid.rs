//! What a forward pass knows of its grid of patches: rotary tables and windows.

use std::sync::Arc;

use dressage_engine::{DType, Tensor, ops};
use dressage_kernels::ops::rotary::{self, Pairs};

use super::config::{RotaryEmbedding, VitConfig};
use crate::Result;

/// The grid of patches of a batch.
#[derive(Clone)]
pub(super) struct Grid {
    /// Images.
    pub b: usize,
    /// Rows and columns.
    pub size: [usize; 2],
    /// Tokens in front of the patches.
    pub lead: usize,
    /// Cosines and sines of the patches.
    pub rotary: Option<Rotary>,
    /// Order of the patches in windows.
    pub windows: Option<Arc<Windows>>,
}

impl Grid {
    /// The grid `size` of the images of `x`, which also says where tables are stored. `periods`
    /// `[d/4]` are those of a rotation by halves.
    pub fn new(config: &VitConfig, periods: &[f64], x: &Tensor, size: [usize; 2]) -> Result<Grid> {
        let b = x.dim(0);
        let side = config.windows.map(|windows| windows.side);
        let windows = side.map(|side| Windows::new(b, size, side, x)).transpose()?.map(Arc::new);
        let rotary =
            config.rotary.map(|of| Rotary::new(config, of, periods, x, size)).transpose()?;
        Ok(Grid { b, size, lead: config.lead(), rotary, windows })
    }

    /// Number of patches of an image.
    pub fn patches(&self) -> usize {
        self.size[0] * self.size[1]
    }
}

/// Table of a rotation and the channels that it pairs.
#[derive(Clone)]
pub(super) struct Rotary {
    table: Tensor,
    pairs: Pairs,
}

impl Rotary {
    fn new(
        config: &VitConfig,
        embedding: RotaryEmbedding,
        periods: &[f64],
        x: &Tensor,
        size: [usize; 2],
    ) -> Result<Rotary> {
        let d = config.embed_dim / config.heads;
        let (values, pairs) = match embedding {
            RotaryEmbedding::Neighbours { side } => {
                (rotary::table(size, side, d)?, Pairs::Neighbours)
            }
            RotaryEmbedding::Halves => (rotary::centred_table(size, periods), Pairs::Halves),
        };
        let table = constant(&values, &[size[0] * size[1], d / 2, 2], x)?;
        Ok(Rotary { table, pairs })
    }

    /// Rotates queries and keys of `qkv` `[b, t, 3, heads, d]` but those of the first `lead` tokens.
    pub fn apply(&self, qkv: Tensor, lead: usize) -> Result<Tensor> {
        Ok(ops::rotary(qkv, &self.table, lead, self.pairs)?)
    }
}

/// `values` where `x` is: in its type on the host, in f32 on a device.
fn constant(values: &[f64], shape: &[usize], x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F64 {
        return Ok(Tensor::from_slice(values, shape)?);
    }
    let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    Ok(Tensor::from_slice(&values, shape)?.constant_beside(x)?)
}

/// Order of the patches in windows of `side`, padded below and to the right.
pub(super) struct Windows {
    side: usize,
    /// Windows of all images.
    count: usize,
    /// Patch of each place in the windows, `[count * side * side]`; -1 for padding.
    order: Tensor,
    /// Place of each patch, `[b * h * w]`.
    back: Tensor,
}

impl Windows {
    fn new(b: usize, [h, w]: [usize; 2], side: usize, x: &Tensor) -> Result<Windows> {
        let (down, across) = (h.div_ceil(side), w.div_ceil(side));
        let count = b * down * across;
        let mut order = vec![-1; count * side * side];
        let mut back = vec![0; b * h * w];
        for (patch, place) in back.iter_mut().enumerate() {
            let (image, y, x) = (patch / (h * w), patch / w % h, patch % w);
            let window = (image * down + y / side) * across + x / side;
            let to = (window * side + y % side) * side + x % side;
            *place = to as i32;
            order[to] = patch as i32;
        }
        let (order, back) = (
            Tensor::from_slice(&order, &[count * side * side])?.constant_beside(x)?,
            Tensor::from_slice(&back, &[b * h * w])?.constant_beside(x)?,
        );
        Ok(Windows { side, count, order, back })
    }

    /// Rows and columns of a window.
    pub fn size(&self) -> [usize; 2] {
        [self.side; 2]
    }

    /// Windows `[count, side * side, c]` of `x` `[b, h * w, c]`, with zeros as padding.
    pub fn split(&self, x: &Tensor) -> Result<Tensor> {
        let c = x.last_dim();
        let rows = ops::reshape(x, &[x.len() / c.max(1), c])?;
        let rows = ops::reorder_rows(&rows, &self.order, &self.back)?;
        Ok(ops::reshape(&rows, &[self.count, self.side * self.side, c])?)
    }

    /// The map `[b, h * w, c]` of windows `x` `[count, side * side, c]`, without the padding.
    pub fn merge(&self, x: &Tensor, b: usize) -> Result<Tensor> {
        let c = x.last_dim();
        let rows = ops::reshape(x, &[x.len() / c.max(1), c])?;
        let rows = ops::reorder_rows(&rows, &self.back, &self.order)?;
        Ok(ops::reshape(&rows, &[b, self.back.len() / b.max(1), c])?)
    }
}
