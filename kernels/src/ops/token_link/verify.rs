//! Verification of the token link on a device against the CPU in f64.

use half::bf16;

use super::TokenLink;
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "token_link", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    // One element, a block that is not full, more than one block and all layers of ViT-L.
    for (layers, m, c) in [(1, 1, 1), (3, 7, 13), (24, 10, 32)] {
        check::<f32>(verification, layers, m, c)?;
        check::<bf16>(verification, layers, m, c)?;
    }
    Ok(())
}

fn check<T: Float>(
    verification: &mut Verification<'_>,
    layers: usize,
    m: usize,
    c: usize,
) -> Result<()> {
    let s = TokenLink { layers, m, c };
    let mut q = noise::<f32>(layers * m * c, 1);
    if layers > 2 {
        // A tie between the first and the third layer: the first one gets the gradient.
        q[0] = 3.0;
        q[2 * m * c] = 3.0;
    }
    let ((q, exact_q), (dout, exact_dout)) = (stored::<T>(&q), stored::<T>(&noise(3 * m * c, 2)));
    let what = format!("token_link{} [{layers}, {m}, {c}]", T::SUFFIX);
    let device = verification.device();
    let (got_out, got_dq) = verification.twice(&what, || {
        let (q, dout) = (device.upload("q", &q)?, device.upload("dout", &dout)?);
        let mut out = device.alloc("out", 3 * m * c)?;
        let mut dq = device.alloc("dq", layers * m * c)?;
        s.forward_gpu(device, q.view(), out.view_mut())?;
        s.backward_gpu(device, q.view(), dout.view(), dq.view_mut())?;
        Ok((device.download(out.view())?, device.download(dq.view())?))
    })?;
    let (mut out, mut dq) = (vec![0.0; 3 * m * c], vec![0.0; layers * m * c]);
    s.forward(&exact_q, &mut out)?;
    s.backward(&exact_q, &exact_dout, &mut dq)?;
    // Sums of one value per layer, each at most 3, and a quotient; sums of three gradients below 1.
    let depth = layers as f64 + 1.0;
    verification.within::<T>(&format!("{what}: out"), &got_out, &out, |_| depth * UNIT * 3.0);
    verification.within::<T>(&format!("{what}: dq"), &got_dq, &dq, |_| 3.0 * UNIT * 3.0);
    Ok(())
}

/// 100 queries of 256 channels in each of the 24 layers of ViT-L.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = TokenLink { layers: 24, m: 100, c: 256 };
    let each = s.m * s.c;
    let shape = format!("[{}, {}, {}]", s.layers, s.m, s.c);
    let q = filled::<bf16>(device, "q", s.layers * each, 1)?;
    let mut out = device.alloc("out", 3 * each)?;
    let forward = move || s.forward_gpu(device, q.view(), out.view_mut());
    let q = filled::<bf16>(device, "q", s.layers * each, 1)?;
    let dout = filled(device, "dout", 3 * each, 2)?;
    let mut dq = device.alloc("dq", s.layers * each)?;
    let backward = move || s.backward_gpu(device, q.view(), dout.view(), dq.view_mut());
    // Forward: a comparison and an addition per layer. Backward: a comparison.
    let flops = [2 * s.layers * each, s.layers * each];
    let bytes = [2 * (s.layers + 3) * each, 2 * (2 * s.layers + 3) * each];
    Ok(vec![
        Timed::new("token_link_fwd_bf16", shape.clone(), flops[0], bytes[0], forward),
        Timed::new("token_link_bwd_bf16", shape, flops[1], bytes[1], backward),
    ])
}
