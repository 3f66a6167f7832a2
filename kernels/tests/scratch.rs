//! Count of scratch memory, in a process of its own: every operation adds to it.

use dressage_kernels::call::{Call, Host};
use dressage_kernels::cpu::scratch;
use dressage_kernels::ops::conv2d::{Conv2d, Forward};

/// A convolution that unfolds 9 MiB of rows, on a new thread.
fn convolve() {
    let s =
        Conv2d { b: 1, h: 64, w: 64, ci: 64, co: 4, kh: 3, kw: 3, stride: 1, pad: 1, dilation: 1 };
    let run = move || {
        let (x, weight) = (vec![1.0f32; 64 * 64 * 64], vec![1.0f32; 64 * 4 * 9]);
        let mut y = vec![0.0f32; 64 * 64 * 4];
        let (x, weight, y) = (&x[..], &weight[..], &mut y[..]);
        Forward::<Host, f32> { x, weight, bias: None, y }.run(&s)
    };
    std::thread::spawn(run).join().expect("joined").expect("computed");
}

#[test]
fn large_memory_is_shared_and_counted() {
    const UNFOLDED: usize = (1 << 20) * size_of::<f32>();
    assert_eq!(scratch::allocated(), 0);
    convolve();
    let allocated = scratch::allocated();
    assert!(allocated > UNFOLDED / 2, "{allocated} bytes");
    // The next thread reuses the memory of the last one.
    convolve();
    assert_eq!(scratch::allocated(), allocated);
    scratch::trim();
    let remaining = scratch::allocated();
    assert!(remaining + UNFOLDED / 2 < allocated, "{remaining} bytes are left of {allocated}");
}
