use half::bf16;

use super::{Attention, Backward, Forward, PackedAttention, PackedBackward, PackedForward};
use crate::Result;
use crate::call::{Gpu, Launch};
use crate::device::{Buffer, Device, Float};

/// out and lse, and dq where queries are also the incoming gradient.
type Outputs<T> = (Buffer<T>, Buffer<f32>, Buffer<T>);

/// Runs both directions, of which the backward one computes only dq. Keys are also values.
fn run<T: Float>(device: &Device, s: &Attention, q: &[T], k: &[T]) -> Result<(Outputs<T>, u64)> {
    let (q, k) = (device.upload("q", q)?, device.upload("k", k)?);
    let (mut out, mut dq) = (device.alloc("out", q.len())?, device.alloc("dq", q.len())?);
    let mut lse = device.alloc("lse", s.rows_of_scores())?;
    let (qv, kv, blocked) = (q.view(), k.view(), None);
    let (to, to_lse) = (out.view_mut(), lse.view_mut());
    Forward::<Gpu, T> { q: qv, k: kv, v: kv, blocked, out: to, lse: to_lse }.launch(device, s)?;
    let launches = device.counters().launches;
    Backward::<Gpu, T> {
        q: qv,
        k: kv,
        v: kv,
        blocked,
        out: Some(out.view()),
        lse: lse.view(),
        dout: qv,
        dq: Some(dq.view_mut()),
        dk: None,
        dv: None,
    }
    .launch(device, s)?;
    Ok(((out, lse, dq), launches))
}

/// Runs both directions of the packed form on zeros or, outside of dry runs, ones.
fn run_packed<T: Float>(device: &Device, s: &PackedAttention, x: Buffer<T>) -> Result<()> {
    let (n, core) = (x.len() / 3, s.separate());
    let rel = s.grid.map(|_| device.alloc::<T>("rel", s.biases())).transpose()?;
    let mut drel = s.grid.map(|_| device.alloc::<T>("drel", s.biases())).transpose()?;
    let rel = rel.as_ref().map(Buffer::view);
    let (mut out, mut dqkv) = (device.alloc("out", n)?, device.alloc("dqkv", 3 * n)?);
    let mut lse = device.alloc("lse", core.rows_of_scores())?;
    let (qkv, to, to_lse) = (x.view(), out.view_mut(), lse.view_mut());
    PackedForward::<Gpu, T> { rel, qkv, out: to, lse: to_lse }.launch(device, s)?;
    let (lse, out, dqkv) = (lse.view(), out.view(), dqkv.view_mut());
    let drel = drel.as_mut().map(Buffer::view_mut);
    PackedBackward::<Gpu, T> { rel, qkv, out: Some(out), lse, dout: out, dqkv, drel }
        .launch(device, s)
}

/// Checks the shared memory layout: the rows of a tile that are read together hit every bank once.
/// At 80 channels, ten units of 16 bytes, a copy extends into the next row, where one lane in eight
/// conflicts with another: one more pass per copy.
#[test]
fn tiles_meet_no_bank_twice() {
    for d in [32, 64, 80] {
        let s = PackedAttention { b: 1, t: 128, heads: 1, d, grid: None };
        let device = Device::virtual_gpu();
        let x = device.upload("qkv", &vec![bf16::ONE; 3 * 128 * d]).unwrap();
        run_packed(&device, &s, x).unwrap();
        let work = device.work().unwrap();
        println!("attention, d {d}: {work:?}");
        // Forward has one block of 128 queries; dq and dkv have two of 64 with two operands each.
        let rows = (128 + 256) + 2 * (2 * (64 + 64) + 2 * 256);
        let expected = if d == 80 { rows * 10 / 32 } else { 0 };
        assert_eq!(work.bank_conflicts, expected);
    }
}

#[test]
fn no_keys_give_zeros() {
    for d in [32, 80] {
        let s = Attention { b: 1, heads: 2, d, nq: 3, nk: 0, masked: false };
        let (n, device) = (3 * 2 * d, Device::virtual_gpu());
        let ((out, lse, dq), _) = run(&device, &s, &vec![1.0f32; n], &[]).unwrap();
        assert_eq!(device.download(out.view()).unwrap(), vec![0.0; n]);
        assert_eq!(device.download(lse.view()).unwrap(), [f32::INFINITY; 6]);
        assert_eq!(device.download(dq.view()).unwrap(), vec![0.0; n]);
    }
}

#[test]
fn head_widths_without_a_kernel_are_named() {
    let device = Device::virtual_gpu();
    let s = Attention { b: 1, heads: 1, d: 48, nq: 1, nk: 1, masked: false };
    let error = run(&device, &s, &[0.0f32; 48], &[0.0; 48]).err().map(|error| error.to_string());
    assert_eq!(error.unwrap(), "attention: heads of 48 channels have no GPU kernel");
    let s = PackedAttention { b: 1, t: 1, heads: 3, d: 16, grid: Some([1, 1]) };
    let error = run_packed(&device, &s, device.zeros::<f32>("qkv", 144).unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "attention: heads of 16 channels with relative positions have no GPU kernel"
    );
}

/// Few queries split many keys among blocks: one more launch in each direction.
#[test]
fn keys_are_split_where_queries_are_few() {
    let launches = |nk: usize| {
        let s = Attention { b: 1, heads: 1, d: 32, nq: 3, nk, masked: false };
        let (device, ones) = (Device::virtual_gpu(), |n: usize| vec![bf16::ONE; n * 32]);
        let (_, forward) = run(&device, &s, &ones(3), &ones(nk)).unwrap();
        (forward, device.counters().launches - forward)
    };
    // Seven tiles of 64 keys are one part, eight are two.
    assert_eq!(launches(448), (1, 2));
    assert_eq!(launches(449), (2, 3));
}

/// The join of split keys does not hide NaN either: one NaN makes only its own row NaN.
#[test]
fn nothing_hides_a_nan() {
    let s = Attention { b: 1, heads: 1, d: 32, nq: 3, nk: 601, masked: false };
    let device = Device::virtual_gpu();
    let mut x = vec![1.0f32; 3 * 32];
    x[32 + 5] = f32::NAN;
    let ((out, ..), _) = run(&device, &s, &x, &vec![1.0f32; s.nk * 32]).unwrap();
    let out: Vec<f32> = device.download(out.view()).unwrap();
    assert!(out[32..64].iter().all(|x| x.is_nan()), "{:?}", &out[32..64]);
    assert!(out[..32].iter().chain(&out[64..]).all(|x| (x - 1.0).abs() < 1e-6));
}

fn relative_launches<T: Float>(grid: [usize; 2]) -> Result<u64> {
    let s = PackedAttention { b: 1, t: grid[0] * grid[1], heads: 16, d: 80, grid: Some(grid) };
    let device = Device::dry_run();
    run_packed(&device, &s, device.alloc::<T>("qkv", 3 * s.separate().queries())?)?;
    Ok(device.counters().launches)
}

/// Shared memory has room for the biases of a block's queries for the largest grid of SAM.
#[test]
fn grids_that_fit_into_shared_memory() {
    assert_eq!(relative_launches::<bf16>([64, 64]), Ok(4));
    assert_eq!(relative_launches::<f32>([64, 64]), Ok(4));
    let error = relative_launches::<f32>([160, 160]).unwrap_err().to_string();
    assert!(error.contains("more than 163 KiB of dynamic shared memory"), "{error}");
}
