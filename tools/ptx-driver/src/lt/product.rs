//! Matrix products on the virtual GPU's memory.

use half::bf16;
use ptx_vm::{Address, Gpu, MemoryError};
use rayon::prelude::*;

use super::arithmetic::{gelu, gelu_slope, tf32};
use super::check::{Epilogue, Sizes};
use super::{BF16, Description, Layout, width};
use crate::code::Code;

/// A product with all the data that it needs to run later.
#[derive(Debug)]
pub(crate) struct Product {
    pub sizes: Sizes,
    pub description: Description,
    pub epilogue: Epilogue,
    pub layouts: [Layout; 4],
    /// Addresses of A, B, C and D.
    pub addresses: [u64; 4],
    pub alpha: f32,
    pub beta: f32,
    pub workspace: (u64, u64),
}

type Failed = (Code, String);

fn illegal(what: &'static str) -> impl Fn(MemoryError) -> Failed {
    move |error| (Code::ILLEGAL_ADDRESS, format!("cublasLtMatmul: {what}: {error}"))
}

/// Reads elements as f32.
fn load(gpu: &Gpu, address: u64, count: usize, kind: u32, what: &'static str) -> Loaded {
    let mut bytes = vec![0u8; count * width(kind) as usize];
    gpu.read(Address(address), &mut bytes).map_err(illegal(what))?;
    Ok(if kind == BF16 {
        let values = bytes.as_chunks::<2>().0.iter();
        values.map(|&pair| bf16::from_le_bytes(pair).to_f32()).collect()
    } else {
        bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
    })
}

type Loaded = Result<Vec<f32>, Failed>;

/// Writes elements, rounded to their type.
fn save(
    gpu: &mut Gpu,
    address: u64,
    values: &[f32],
    kind: u32,
    what: &'static str,
) -> Result<(), Failed> {
    let bytes: Vec<u8> = if kind == BF16 {
        values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
    } else {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    };
    gpu.write(Address(address), &bytes).map_err(illegal(what))
}

/// Returns the address of a matrix of a batch.
fn matrix(address: u64, index: usize, stride: i64, kind: u32) -> u64 {
    address + index as u64 * stride as u64 * width(kind)
}

/// Returns `op` of a matrix, as contiguous rows of `inner` elements.
fn turned(
    values: &[f32],
    layout: &Layout,
    by_column: bool,
    outer: usize,
    inner: usize,
) -> Vec<f32> {
    let mut rows = Vec::with_capacity(outer * inner);
    for i in 0..outer {
        for j in 0..inner {
            rows.push(values[if by_column { layout.at(j, i) } else { layout.at(i, j) }]);
        }
    }
    rows
}

/// Returns a bit for each of up to eight values, the lowest for the first: whether ReLU keeps it.
fn positive(values: &[f32]) -> u8 {
    values.iter().enumerate().map(|(i, &x)| u8::from(x > 0.0) << i).sum()
}

impl Product {
    /// Computes the product; sums are in f64 in the order of `k`, rounded once to f32.
    pub fn run(&self, gpu: &mut Gpu) -> Result<(), Failed> {
        let (start, bytes) = self.workspace;
        if bytes > 0 {
            // The content of the workspace after a call is undefined.
            gpu.fill(Address(start), 0xFF, bytes as usize).map_err(illegal("the workspace"))?;
        }
        (0..self.sizes.batch).try_for_each(|i| self.run_one(gpu, i))
    }

    /// Returns `op(A)` as rows of `k` elements, and `op(B)` as columns of `k` elements.
    fn operands(&self, gpu: &Gpu, index: usize) -> Result<[Vec<f32>; 2], Failed> {
        let Sizes { m, n, k, .. } = self.sizes;
        let [a, b, ..] = &self.layouts;
        let from = matrix(self.addresses[0], index, a.stride, a.kind);
        let stored = load(gpu, from, a.span(), a.kind, "A")?;
        let mut left = turned(&stored, a, self.description.operation[0] != 0, m, k);
        let from = matrix(self.addresses[1], index, b.stride, b.kind);
        let stored = load(gpu, from, b.span(), b.kind, "B")?;
        let mut right = turned(&stored, b, self.description.operation[1] == 0, n, k);
        if self.description.compute == 77 {
            left.iter_mut().chain(&mut right).for_each(|x| *x = tf32(*x));
        }
        Ok([left, right])
    }

    fn run_one(&self, gpu: &mut Gpu, index: usize) -> Result<(), Failed> {
        let Sizes { m, n, k, .. } = self.sizes;
        let [_, _, c, d] = &self.layouts;
        let [left, right] = self.operands(gpu, index)?;
        // Column-major: `m` values for each of `n` columns.
        let mut out = vec![0.0f32; m * n];
        out.par_chunks_mut(m).enumerate().for_each(|(j, column)| {
            let b = &right[j * k..][..k];
            for (i, x) in column.iter_mut().enumerate() {
                let a = &left[i * k..][..k];
                let sum: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                *x = (f64::from(self.alpha) * sum) as f32;
            }
        });
        if self.beta != 0.0 {
            let from = matrix(self.addresses[2], index, c.stride, c.kind);
            let old = load(gpu, from, c.span(), c.kind, "C")?;
            for (at, x) in out.iter_mut().enumerate() {
                *x += self.beta * old[c.at(at % m, at / m)];
            }
        }
        self.finish(gpu, index, &mut out)?;
        self.gradients(gpu, index, [&left, &right])?;
        // Bytes between the columns of D do not belong to the product.
        let to = matrix(self.addresses[3], index, d.stride, d.kind);
        let (lines, long) = if d.order == 0 { (n, m) } else { (m, n) };
        for line in 0..lines {
            let values: Vec<f32> = (0..long)
                .map(|at| if d.order == 0 { out[line * m + at] } else { out[at * m + line] })
                .collect();
            let first = if d.order == 0 { d.at(0, line) } else { d.at(line, 0) };
            save(gpu, to + first as u64 * width(d.kind), &values, d.kind, "D")?;
        }
        Ok(())
    }

    /// Applies the epilogue to `out`, which is column-major.
    fn finish(&self, gpu: &mut Gpu, index: usize, out: &mut [f32]) -> Result<(), Failed> {
        let Sizes { m, .. } = self.sizes;
        let (epilogue, description) = (self.epilogue, &self.description);
        let kind = self.layouts[3].kind;
        let vector = matrix(description.bias, index, description.bias_stride, kind);
        let aux_column = |j: usize| {
            let at = index as u64 * description.aux_stride as u64;
            let at = at + j as u64 * description.aux_ld as u64;
            description.aux + epilogue.aux_bytes(at, kind)
        };
        if epilogue.bias {
            let bias = load(gpu, vector, m, kind, "the bias")?;
            for column in out.chunks_mut(m) {
                column.iter_mut().zip(&bias).for_each(|(x, b)| *x += b);
            }
        }
        if epilogue.aux_out {
            for (j, column) in out.chunks(m).enumerate() {
                if epilogue.bits() {
                    let mask: Vec<u8> = column.chunks(8).map(positive).collect();
                    gpu.write(Address(aux_column(j)), &mask).map_err(illegal("the mask"))?;
                } else {
                    save(gpu, aux_column(j), column, kind, "the auxiliary matrix")?;
                }
            }
        }
        if epilogue.d_relu {
            let mut mask = vec![0; m.div_ceil(8)];
            for (j, column) in out.chunks_mut(m).enumerate() {
                gpu.read(Address(aux_column(j)), &mut mask).map_err(illegal("the mask"))?;
                for (i, x) in column.iter_mut().enumerate() {
                    *x = if mask[i / 8] >> (i % 8) & 1 == 1 { *x } else { 0.0 };
                }
            }
        }
        if epilogue.relu {
            out.iter_mut().for_each(|x| *x = x.max(0.0));
        }
        if epilogue.gelu {
            out.iter_mut().for_each(|x| *x = gelu(*x));
        }
        if epilogue.d_gelu {
            for (j, column) in out.chunks_mut(m).enumerate() {
                let saved = load(gpu, aux_column(j), m, kind, "the auxiliary matrix")?;
                column.iter_mut().zip(&saved).for_each(|(x, &at)| *x *= gelu_slope(at));
            }
        }
        if epilogue.bias_gradient {
            let mut sums = vec![0.0f64; m];
            for column in out.chunks(m) {
                sums.iter_mut().zip(column).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
            save(gpu, vector, &sums, kind, "the gradient of the bias")?;
        }
        Ok(())
    }

    /// Writes the sums of an operand over `k`.
    fn gradients(&self, gpu: &mut Gpu, index: usize, operands: [&[f32]; 2]) -> Result<(), Failed> {
        let kind = self.layouts[3].kind;
        let to = matrix(self.description.bias, index, self.description.bias_stride, kind);
        let wanted = [self.epilogue.gradient_a, self.epilogue.gradient_b];
        for (rows, _) in operands.iter().zip(wanted).filter(|(_, wanted)| *wanted) {
            let sum = |row: &[f32]| row.iter().map(|&x| f64::from(x)).sum::<f64>() as f32;
            let sums: Vec<f32> = rows.chunks(self.sizes.k).map(sum).collect();
            save(gpu, to, &sums, kind, "the gradient of the bias")?;
        }
        Ok(())
    }
}
