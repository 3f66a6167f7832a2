//! The table of operations.

use dressage_engine::{ops, recompute};

use crate::Case;

/// Every case.
pub fn all() -> Vec<Case> {
    vec![
        Case {
            name: "layer_norm",
            inputs: vec![vec![2, 3, 7], vec![7], vec![7]],
            run: |x| ops::layer_norm(&x[0], &x[1], &x[2], 1e-5),
            tolerance: 1e-5,
        },
        Case {
            name: "reshape",
            inputs: vec![vec![2, 3, 4]],
            run: |x| ops::reshape(&x[0], &[6, 4]),
            tolerance: 1e-6,
        },
        Case {
            name: "rows",
            inputs: vec![vec![5, 3]],
            run: |x| ops::rows(&x[0], 1, 3),
            tolerance: 1e-6,
        },
        Case {
            name: "recompute, one value captured",
            inputs: vec![vec![4, 5], vec![5], vec![5]],
            run: |x| {
                let inner = ops::layer_norm(&x[0], &x[1], &x[2], 1e-5)?;
                let (w, b) = (x[1].clone(), x[2].clone());
                recompute(&[inner], move |x| {
                    let y = ops::layer_norm(&x[0], &w, &b, 1e-5)?;
                    ops::layer_norm(&y, &w, &b, 1e-5)
                })
            },
            tolerance: 1e-5,
        },
    ]
}
