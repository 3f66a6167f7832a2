//! Positions within attention: rotary embedding and relative positions on a grid.
//!
//! The rotary embedding rotates queries and keys. Relative positions add a term of the query to the
//! scores of each row and column of the grid.

use dressage_kernels::Write;
use dressage_kernels::device::Device;
use dressage_kernels::dry_run;
use dressage_kernels::ops::attention::{PackedAttention, PackedBackward, PackedForward};
use dressage_kernels::ops::relative_position::{
    self, QueryGradient, RelativePosition, TableGradients,
};
use dressage_kernels::ops::rotary::{Pairs, Rotary, Rotate, Turn};

use super::row_width::{row_width, row_width_scaled};
use super::{expect_shape, reshape, shape_error};
use crate::call::{Place, call};
use crate::dtype::kernel;
use crate::{
    Backward, DType, Edge, EngineError, Gradients, Result, Tensor, forbid_gradient, record,
};

/// Head width of the device kernels of relative positions.
const RELATIVE_WIDTH: usize = 80;

/// Rotates queries and keys of `qkv` `[b, t, 3, heads, d]` by the angles of their tokens. `pairs` says
/// which channels rotate with each other.
///
/// Values, the first `skip` tokens and those behind the rows of `table` stay unchanged. `table`
/// `[cells, d / 2, 2]` holds cosines
/// and sines ([`dressage_kernels::ops::rotary::table`]), in f32 on a device. Works in place if nobody
/// else holds the memory of `qkv`. Saves nothing.
///
/// # Errors
/// Shapes that do not fit; a table that needs a gradient; a type without a kernel.
pub fn rotary(qkv: Tensor, table: &Tensor, skip: usize, pairs: Pairs) -> Result<Tensor> {
    let &[b, t, 3, heads, d] = qkv.shape() else {
        return Err(shape_error("rotary", "qkv", "[b, t, 3, heads, d]", &qkv));
    };
    let cells = if table.shape().is_empty() { 0 } else { table.dim(0) };
    expect_shape("rotary", "table", table, &[cells, d / 2, 2])?;
    forbid_gradient("rotary", "table", table)?;
    let size = Rotary { b, t, heads, d, skip, cells, pairs, turn: Turn::Forward };
    let mut y = qkv;
    rotate(&size, &mut y, table)?;
    Ok(record(y.detach(), &[&y], || Turned { size, table: table.clone(), to: y.edge() }))
}

/// Device and type of a tensor that is mutably borrowed by a kernel call.
struct TensorOptions(Option<Device>, DType);

impl TensorOptions {
    fn device(&self) -> Option<&Device> {
        self.0.as_ref()
    }

    fn dtype(&self) -> DType {
        self.1
    }
}

fn rotate(size: &Rotary, x: &mut Tensor, table: &Tensor) -> Result<()> {
    x.make_own()?;
    let options = TensorOptions(x.device().cloned(), x.dtype());
    call!(options, size, |M, T| Rotate::<M, T> { qkv: M::write(x)?, table: M::read(table)? })
}

struct Turned {
    size: Rotary,
    table: Tensor,
    to: Edge,
}

impl Backward for Turned {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn backward(self: Box<Self>, mut dy: Tensor, grads: &mut Gradients) -> Result<()> {
        rotate(&Rotary { turn: Turn::Back, ..self.size }, &mut dy, &self.table)?;
        grads.add(&self.to, dy)
    }
}

/// Terms `[b, heads, h w, h + w]` that the queries of `qkv` `[b, h w, 3, heads, d]` add to the
/// scores.
///
/// There is one term for the keys of each row and each column of the grid `[h, w]`. It comes from
/// the tables `rows` `[2 h - 1, d]` and `columns` `[2 w - 1, d]` at the distance of query and key.
/// Saves its inputs. On a device, heads of less than 80 channels are padded with zeros.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn relative_position(
    qkv: &Tensor,
    rows: &Tensor,
    columns: &Tensor,
    [h, w]: [usize; 2],
) -> Result<Tensor> {
    let (b, heads, d) = on_grid("relative_position", qkv, [h, w])?;
    expect_shape("relative_position", "rows", rows, &[(2 * h).saturating_sub(1), d])?;
    expect_shape("relative_position", "columns", columns, &[(2 * w).saturating_sub(1), d])?;
    if let Some(width) = widened(qkv, d) {
        let [qkv, rows, columns] = [qkv, rows, columns].map(|x| row_width(x, width));
        return relative_position(&qkv?, &rows?, &columns?, [h, w]);
    }
    let size = RelativePosition { b, heads, d, h, w };
    let mut rel = qkv.empty_like(&[b, heads, h * w, h + w])?;
    call!(qkv, &size, |M, T| relative_position::Forward::<M, T> {
        qkv: M::read(qkv)?,
        rows: M::read(rows)?,
        columns: M::read(columns)?,
        rel: M::write(&mut rel)?,
    })?;
    Ok(record(rel, &[qkv, rows, columns], || Relative {
        size,
        qkv: qkv.detach(),
        tables: [rows, columns].map(Tensor::detach),
        to: qkv.edge(),
        to_tables: [rows, columns].map(Tensor::edge),
    }))
}

/// The width of the device kernels, if heads of `d` channels are narrower.
fn widened(x: &Tensor, d: usize) -> Option<usize> {
    x.device()?;
    (d < RELATIVE_WIDTH).then_some(RELATIVE_WIDTH)
}

/// Images, heads and channels per head of packed tokens on a grid.
fn on_grid(op: &'static str, qkv: &Tensor, [h, w]: [usize; 2]) -> Result<(usize, usize, usize)> {
    match *qkv.shape() {
        [b, t, 3, heads, d] if h.checked_mul(w) == Some(t) => Ok((b, heads, d)),
        _ => Err(shape_error(op, "qkv", format!("[b, {h} * {w}, 3, heads, d]"), qkv)),
    }
}

struct Relative {
    size: RelativePosition,
    qkv: Tensor,
    tables: [Tensor; 2],
    to: Edge,
    to_tables: [Edge; 2],
}

impl Backward for Relative {
    fn name(&self) -> &'static str {
        "relative_position"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let (size, qkv, [rows, columns]) = (&self.size, &self.qkv, &self.tables);
        // Attention's backward pass usually ran before, so its gradient of qkv exists and the
        // kernel adds the queries' part.
        grads.accumulate_or_write(&self.to, |dqkv, write| {
            if write == Write::Over {
                clear(dqkv)?;
            }
            call!(qkv, size, |M, T| QueryGradient::<M, T> {
                rows: M::read(rows)?,
                columns: M::read(columns)?,
                drel: M::read(&dy)?,
                dqkv: M::write(dqkv)?,
            })
        })?;
        let [to_rows, to_columns] = &self.to_tables;
        grads.accumulate_all([to_rows, to_columns], |[drows, dcolumns]| {
            call!(qkv, size, |M, T| TableGradients::<M, T> {
                qkv: M::read(qkv)?,
                drel: M::read(&dy)?,
                drows: M::write_if(drows)?,
                dcolumns: M::write_if(dcolumns)?,
            })
        })
    }
}

/// Fills `x` with zeros.
fn clear(x: &mut Tensor) -> Result<()> {
    let options = TensorOptions(x.device().cloned(), x.dtype());
    kernel!("clear", options, T,
        host => {
            let x = x.data_mut::<T>()?;
            if !dry_run::skip("clear") {
                x.fill(0.0);
            }
            Ok::<_, EngineError>(())
        },
        device => device.zero(x.view_mut::<T>()?),
    )
}

/// Self-attention of `qkv` `[b, h w, 3, heads, d]` on a grid `[h, w]`: `[b, h w, heads * d]`.
///
/// The score of a key in row `y` and column `x` is `q . k / √d + rel[.., y] + rel[.., h + x]` with
/// `rel` `[b, heads, h w, h + w]` ([`relative_position()`]). Saves both inputs and the log-sum-exp of
/// each row. On a device, heads of less than 80 channels are padded with zeros.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn relative_attention(qkv: &Tensor, rel: &Tensor, grid: [usize; 2]) -> Result<Tensor> {
    let (b, heads, d) = on_grid("relative_attention", qkv, grid)?;
    let t = grid[0] * grid[1];
    expect_shape("relative_attention", "rel", rel, &[b, heads, t, grid[0] + grid[1]])?;
    if let Some(width) = widened(qkv, d) {
        // The kernel divides by the root of the padded width.
        let factor = (width as f64 / d as f64).sqrt();
        let wide = row_width_scaled(qkv, width, [heads, 3 * heads], factor)?;
        let out = reshape(&relative_attention(&wide, rel, grid)?, &[b, t, heads, width])?;
        return reshape(&row_width(&out, d)?, &[b, t, heads * d]);
    }
    let size = PackedAttention { b, t, heads, d, grid: Some(grid) };
    let mut out = qkv.empty_like(&[b, t, heads * d])?;
    let mut lse = qkv.empty_sums(&[b, heads, t])?;
    call!(qkv, &size, |M, T| PackedForward::<M, T> {
        rel: Some(M::read(rel)?),
        qkv: M::read(qkv)?,
        out: M::write(&mut out)?,
        lse: M::write(&mut lse)?,
    })?;
    let saved = out.device().map(|_| out.detach());
    Ok(record(out, &[qkv, rel], || Attended {
        size,
        qkv: qkv.detach(),
        rel: rel.detach(),
        out: saved,
        lse,
        to: [qkv, rel].map(Tensor::edge),
    }))
}

struct Attended {
    size: PackedAttention,
    qkv: Tensor,
    rel: Tensor,
    /// The result; only on a device, whose backward kernel reads it.
    out: Option<Tensor>,
    lse: Tensor,
    to: [Edge; 2],
}

impl Backward for Attended {
    fn name(&self) -> &'static str {
        "relative_attention"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let Attended { size, qkv, rel, out, lse, to } = &*self;
        let mut dqkv = qkv.empty_like(qkv.shape())?;
        let mut drel = rel.empty_like(rel.shape())?;
        call!(qkv, size, |M, T| PackedBackward::<M, T> {
            rel: Some(M::read(rel)?),
            qkv: M::read(qkv)?,
            out: M::read_if(out.as_ref())?,
            lse: M::read(lse)?,
            dout: M::read(&dy)?,
            dqkv: M::write(&mut dqkv)?,
            drel: Some(M::write(&mut drel)?),
        })?;
        let [to_qkv, to_rel] = to;
        grads.add(to_qkv, dqkv)?;
        grads.add(to_rel, drel)
    }
}
