//! One thread's matrix product on strided f32 views, for operations that multiply small tiles
//! inside a task.

use gemm::Parallelism;

use crate::cpu::simd;
use crate::cpu::simd::{LANES, madd};
use crate::simd;

/// A matrix inside a slice: element `(i, j)` is `data[i * rs + j * cs]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatrixView<'a> {
    pub data: &'a [f32],
    pub rs: usize,
    pub cs: usize,
}

/// `c = a b`, or `c += a b` with `add`; `c` is `[m, n]` with rows `c_rs` apart, `a` `[m, k]`, `b`
/// `[k, n]`.
///
/// # Panics
/// If a view is too short for its matrix.
pub(crate) fn product(
    (m, n, k): (usize, usize, usize),
    a: MatrixView<'_>,
    b: MatrixView<'_>,
    c: &mut [f32],
    c_rs: usize,
    add: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    let end = |rows: usize, cols: usize, rs: usize, cs: usize| {
        if rows == 0 || cols == 0 { 0 } else { (rows - 1) * rs + (cols - 1) * cs + 1 }
    };
    assert!(end(m, k, a.rs, a.cs) <= a.data.len(), "a is too short for its matrix");
    assert!(end(k, n, b.rs, b.cs) <= b.data.len(), "b is too short for its matrix");
    assert!(end(m, n, c_rs, 1) <= c.len() && n <= c_rs, "c is too short for its matrix");
    if simd::own_products() {
        own((m, n, k), a, b, c, c_rs, add);
        return;
    }
    // SAFETY: the assertions keep every element the strides reach inside its slice; c does not
    // overlap a or b.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_rs as isize,
            add,
            a.data.as_ptr(),
            a.cs as isize,
            a.rs as isize,
            b.data.as_ptr(),
            b.cs as isize,
            b.rs as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Columns that are summed at once.
const COLUMNS: usize = 4 * LANES;

simd! {
    /// Computes the same as [`product`]. Each sum runs in order of the depth, or in the order of
    /// [`simd::dot`] where both operands are contiguous along the depth.
    fn own<FMA>(
        size: (usize, usize, usize), a: MatrixView, b: MatrixView, c: &mut [f32], c_rs: usize,
        add: bool,
    ) {
        let (m, n, k) = size;
        for i in 0..m {
            let row = &mut c[i * c_rs..][..n];
            if !add {
                row.fill(0.0);
            }
            if a.cs == 1 && b.rs == 1 && b.cs != 1 {
                let a = &a.data[i * a.rs..][..k];
                for (j, c) in row.iter_mut().enumerate() {
                    *c += simd::dot::<FMA>(a, &b.data[j * b.cs..][..k]);
                }
                continue;
            }
            for (at, out) in row.chunks_mut(COLUMNS).enumerate() {
                let mut sum = [0.0f32; COLUMNS];
                for l in 0..k {
                    let x = a.data[i * a.rs + l * a.cs];
                    let first = l * b.rs + at * COLUMNS * b.cs;
                    if let (1, Some(b)) = (b.cs, b.data[first..].first_chunk::<COLUMNS>()) {
                        for j in 0..COLUMNS {
                            sum[j] = madd::<FMA>(x, b[j], sum[j]);
                        }
                    } else {
                        for j in 0..out.len() {
                            sum[j] = madd::<FMA>(x, b.data[first + j * b.cs], sum[j]);
                        }
                    }
                }
                for (c, sum) in out.iter_mut().zip(&sum) {
                    *c += sum;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, noise};

    #[test]
    fn strides_and_addition() {
        type Form = fn((usize, usize, usize), MatrixView, MatrixView, &mut [f32], usize, bool);
        for (m, n, k) in [(5, 7, 3), (3, 150, 40), (1, 64, 17)] {
            let ldc = n + 2;
            let (a, b) = (noise::<f32>(k * m, 1), noise::<f32>(n * k, 2));
            let turn = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect()
            };
            let (at, bt) = (turn(&a, m, k), turn(&b, n, k));
            let start = noise::<f32>(m * ldc, 3);
            for add in [false, true] {
                let mut want = start.clone();
                for i in 0..m {
                    for j in 0..n {
                        let dot: f32 = (0..k).map(|l| a[i * k + l] * b[j * k + l]).sum();
                        want[i * ldc + j] = dot + if add { start[i * ldc + j] } else { 0.0 };
                    }
                }
                for av in
                    [MatrixView { data: &a, rs: k, cs: 1 }, MatrixView { data: &at, rs: 1, cs: m }]
                {
                    for bv in [
                        MatrixView { data: &b, rs: 1, cs: k },
                        MatrixView { data: &bt, rs: n, cs: 1 },
                    ] {
                        for form in [product as Form, own] {
                            let mut c = start.clone();
                            form((m, n, k), av, bv, &mut c, ldc, add);
                            assert_close("product", &c, &want, 1e-5);
                        }
                    }
                }
            }
        }
    }
}
