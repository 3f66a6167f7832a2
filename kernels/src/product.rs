//! One thread's matrix product on strided f32 views, for operations that multiply small tiles
//! inside a task.

use gemm::Parallelism;

/// A matrix inside a slice: element `(i, j)` is `data[i * rs + j * cs]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub data: &'a [f32],
    pub rs: usize,
    pub cs: usize,
}

/// `c = a b`, or `c += a b` with `add`; `c` is `[m, n]` with rows `c_rs` apart, `a` `[m, k]`, `b`
/// `[k, n]`.
///
/// # Panics
/// If a view does not hold its matrix.
pub(crate) fn product(
    (m, n, k): (usize, usize, usize),
    a: View<'_>,
    b: View<'_>,
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
    assert!(end(m, k, a.rs, a.cs) <= a.data.len(), "a does not hold its matrix");
    assert!(end(k, n, b.rs, b.cs) <= b.data.len(), "b does not hold its matrix");
    assert!(end(m, n, c_rs, 1) <= c.len() && n <= c_rs, "c does not hold its matrix");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, noise};

    #[test]
    fn strides_and_addition() {
        let (m, n, k) = (5, 7, 3);
        let (a, b) = (noise::<f32>(k * m, 1), noise::<f32>(n * k, 2));
        let start = noise::<f32>(m * 9, 3);
        for add in [false, true] {
            let mut c = start.clone();
            // a and b are stored transposed; rows of c are 9 apart.
            let (av, bv) = (View { data: &a, rs: 1, cs: m }, View { data: &b, rs: 1, cs: k });
            product((m, n, k), av, bv, &mut c, 9, add);
            let mut want = start.clone();
            for i in 0..m {
                for j in 0..n {
                    let dot: f32 = (0..k).map(|l| a[l * m + i] * b[j * k + l]).sum();
                    want[i * 9 + j] = dot + if add { start[i * 9 + j] } else { 0.0 };
                }
            }
            assert_close("product", &c, &want, 1e-6);
        }
    }
}
