//! The loss of per-pixel heads on recorded logits and labels.

use dressage_engine::{DType, Device, Tensor, backward, ops};
use dressage_tests::Outcome;
use dressage_tests::compare::Table;
use dressage_tests::fixture::Fixture;

/// Compares loss and gradient of recorded logits, on the host and on the virtual GPU. The gradient
/// of the classifier's bias is that of its logits, summed over the pixels.
pub fn loss(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    for device in [None, Some(Device::virtual_gpu())] {
        loss_at(fixture, table, device.as_ref())?;
    }
    Ok(())
}

fn loss_at(fixture: &Fixture, table: &mut Table, device: Option<&Device>) -> Outcome<()> {
    let shape = fixture.shape("input.gt_sem_seg")?;
    let labels = fixture.integers("input.gt_sem_seg")?;
    let labels =
        labels.iter().map(|&v| u8::try_from(v)).collect::<std::result::Result<Vec<_>, _>>()?;
    let mut labels = Tensor::from_slice(&labels, shape)?;
    let mut logits = fixture.floats("output.seg_logits")?;
    if let Some(device) = device {
        labels = labels.to_device(device, DType::U8)?;
        logits = logits.to_device(device, DType::F32)?;
    }
    let logits = logits.leaf();
    let resized = ops::resize_maps(&logits, [shape[1], shape[2]])?;
    let loss = ops::pixel_loss(&resized, &labels, 1.0)?;
    table.close(fixture, "output.loss_ce", &loss.detach().to_host()?)?;
    let gradient = backward(loss)?.take(&logits).ok_or("no gradient of the logits")?.to_host()?;
    let (classes, pixels) = (gradient.dim(1), gradient.dim(2) * gradient.dim(3));
    let mut bias = vec![0.0f64; classes];
    for (row, values) in gradient.data::<f32>()?.chunks_exact(pixels).enumerate() {
        bias[row % classes] += values.iter().map(|&v| f64::from(v)).sum::<f64>();
    }
    let bias: Vec<f32> = bias.into_iter().map(|v| v as f32).collect();
    let bias = Tensor::from_slice(&bias, &[classes])?;
    table.gradient(fixture, "grad.decode_head.conv_seg.bias", Some(&bias))
}
