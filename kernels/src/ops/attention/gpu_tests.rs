use half::bf16;

use super::{Attention, SavedGpu};
use crate::device::{Device, Float};

/// Checks the shared memory layout: the rows of a tile that are read together hit every bank once.
/// At 80 channels, ten units of 16 bytes, a copy extends into the next row, where one lane in eight
/// conflicts with another: one more pass per copy.
#[test]
fn tiles_meet_no_bank_twice() {
    for d in [32, 64, 80] {
        let s = Attention { b: 1, heads: 1, d, nq: 128, nk: 128 };
        let device = Device::virtual_gpu();
        let x = device.upload("qkv", &vec![bf16::ONE; 3 * 128 * d]).unwrap();
        let mut out = device.alloc("out", 128 * d).unwrap();
        let mut lse = device.alloc("lse", 128).unwrap();
        s.forward_packed_gpu(&device, x.view(), out.view_mut(), lse.view_mut()).unwrap();
        let mut dqkv = device.alloc("dqkv", 3 * 128 * d).unwrap();
        let (saved, g) = (SavedGpu { out: out.view(), lse: lse.view() }, out.view());
        s.backward_packed_gpu(&device, x.view(), saved, g, dqkv.view_mut()).unwrap();
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
    let s = Attention { b: 1, heads: 2, d: 32, nq: 3, nk: 0 };
    for d in [32, 80] {
        let s = Attention { d, ..s };
        let (n, device) = (3 * 2 * d, Device::virtual_gpu());
        let x = device.upload("x", &vec![1.0f32; n]).unwrap();
        let none = device.alloc("none", 0).unwrap();
        let mut out = device.alloc("out", n).unwrap();
        let mut lse = device.alloc("lse", 6).unwrap();
        let (k, q) = (none.view(), x.view());
        s.forward_gpu(&device, q, k, k, None, out.view_mut(), lse.view_mut()).unwrap();
        let mut dq = device.alloc("dq", n).unwrap();
        let saved = SavedGpu { out: out.view(), lse: lse.view() };
        let to = Some(dq.view_mut());
        s.backward_gpu(&device, q, k, k, None, saved, q, to, None).unwrap();
        assert_eq!(device.download(out.view()).unwrap(), vec![0.0; n]);
        assert_eq!(device.download(lse.view()).unwrap(), [f32::INFINITY; 6]);
        assert_eq!(device.download(dq.view()).unwrap(), vec![0.0; n]);
    }
}

#[test]
fn head_widths_without_a_kernel_are_named() {
    let device = Device::virtual_gpu();
    let s = Attention { b: 1, heads: 1, d: 48, nq: 1, nk: 1 };
    let x = device.zeros::<f32>("x", 48).unwrap();
    let (mut out, mut lse) = (device.alloc("out", 48).unwrap(), device.alloc("lse", 1).unwrap());
    let x = x.view();
    let error = s.forward_gpu(&device, x, x, x, None, out.view_mut(), lse.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "attention: heads of 48 channels have no GPU kernel");
    let s = Attention { d: 16, heads: 3, ..s };
    let qkv = device.zeros::<f32>("qkv", 144).unwrap();
    let rel = device.zeros::<f32>("rel", 6).unwrap();
    let (rel, mut lse) = (rel.view(), device.alloc("lse", 3).unwrap());
    let (out, lse) = (out.view_mut(), lse.view_mut());
    let error = s.forward_relative_gpu(&device, qkv.view(), rel, [1, 1], out, lse).unwrap_err();
    assert_eq!(
        error.to_string(),
        "attention: heads of 16 channels with relative positions have no GPU kernel"
    );
}

/// Few queries split many keys among blocks: one more launch in each direction.
#[test]
fn keys_are_split_where_queries_are_few() {
    let launches = |nk: usize| {
        let s = Attention { b: 1, heads: 1, d: 32, nq: 3, nk };
        let device = Device::virtual_gpu();
        let up = |n: usize| device.upload("x", &vec![bf16::ONE; n * 32]).unwrap();
        let (q, k) = (up(3), up(nk));
        let mut out = device.alloc("out", 96).unwrap();
        let mut lse = device.alloc("lse", 3).unwrap();
        let (qv, kv) = (q.view(), k.view());
        s.forward_gpu(&device, qv, kv, kv, None, out.view_mut(), lse.view_mut()).unwrap();
        let forward = device.counters().launches;
        let mut dq = device.alloc("dq", 96).unwrap();
        let saved = SavedGpu { out: out.view(), lse: lse.view() };
        s.backward_gpu(&device, qv, kv, kv, None, saved, qv, Some(dq.view_mut()), None).unwrap();
        (forward, device.counters().launches - forward)
    };
    // Seven tiles of 64 keys are one part, eight are two.
    assert_eq!(launches(448), (1, 2));
    assert_eq!(launches(449), (2, 3));
}

/// The join of split keys does not hide NaN either: one NaN makes only its own row NaN.
#[test]
fn nothing_hides_a_nan() {
    let s = Attention { b: 1, heads: 1, d: 32, nq: 3, nk: 601 };
    let device = Device::virtual_gpu();
    let mut x = vec![1.0f32; 3 * 32];
    x[32 + 5] = f32::NAN;
    let q = device.upload("q", &x).unwrap();
    let k = device.upload("k", &vec![1.0f32; s.nk * 32]).unwrap();
    let (mut out, mut lse) = (device.alloc("out", 96).unwrap(), device.alloc("lse", 3).unwrap());
    let (qv, kv) = (q.view(), k.view());
    s.forward_gpu(&device, qv, kv, kv, None, out.view_mut(), lse.view_mut()).unwrap();
    let out: Vec<f32> = device.download(out.view()).unwrap();
    assert!(out[32..64].iter().all(|x| x.is_nan()), "{:?}", &out[32..64]);
    assert!(out[..32].iter().chain(&out[64..]).all(|x| (x - 1.0).abs() < 1e-6));
}

fn relative_launches<T: Float>(grid: [usize; 2]) -> crate::Result<u64> {
    let n = grid[0] * grid[1];
    let s = Attention { b: 1, heads: 16, d: 80, nq: n, nk: n };
    let device = Device::dry_run();
    let all = n * s.width();
    let (qkv, dout) = (device.alloc::<T>("qkv", 3 * all)?, device.alloc::<T>("dout", all)?);
    let rel = device.alloc::<T>("rel", 16 * n * (grid[0] + grid[1]))?;
    let (mut out, mut lse) = (device.alloc("out", all)?, device.alloc("lse", 16 * n)?);
    let (x, r) = (qkv.view(), rel.view());
    s.forward_relative_gpu(&device, x, r, grid, out.view_mut(), lse.view_mut())?;
    let (mut dqkv, mut drel) = (device.alloc("d", 3 * all)?, device.alloc("d", rel.len())?);
    let saved = SavedGpu { out: out.view(), lse: lse.view() };
    let (to, to_rel) = (dqkv.view_mut(), drel.view_mut());
    s.backward_relative_gpu(&device, x, r, grid, saved, dout.view(), to, to_rel)?;
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
