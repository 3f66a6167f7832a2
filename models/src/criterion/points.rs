//! Sources of the criterion's random points.

use dressage_engine::{DType, Device, Tensor, ops};
use dressage_kernels::dry_run;
use dressage_kernels::ops::uniform::Uniform;

use crate::{ModelError, Result};

/// Source of the random points of a step: (x, y) in [0, 1), (0, 0) is the top left corner.
///
/// A source delivers to the host, where matched pairs are contiguous, or to a device. There each
/// image has a fixed number of slots for pairs, and some slots are padding. The methods for devices
/// must deliver the same values as those for the host, in other places. By default they copy the
/// values of the host.
pub trait PointSource {
    /// `[n, 2]`: points for the costs of one image, shared by its queries and targets.
    ///
    /// # Errors
    /// If the source cannot deliver.
    fn assign(&mut self, layer: usize, image: usize, n: usize) -> Result<Tensor>;
    /// `[rows, n, 2]`: candidates for the uncertain points of each matched pair.
    ///
    /// # Errors
    /// If the source cannot deliver.
    fn oversample(&mut self, layer: usize, rows: usize, n: usize) -> Result<Tensor>;
    /// `[rows, n, 2]`: the points that do not depend on uncertainty.
    ///
    /// # Errors
    /// If the source cannot deliver.
    fn random(&mut self, layer: usize, rows: usize, n: usize) -> Result<Tensor>;

    /// `[b, n, 2]` on a device: [`PointSource::assign`] of all images.
    ///
    /// # Errors
    /// If the source cannot deliver; a failure of the device.
    fn assign_on(&mut self, device: &Device, layer: usize, b: usize, n: usize) -> Result<Tensor> {
        let mut all = Vec::with_capacity(b * n * 2);
        for image in 0..b {
            all.extend_from_slice(self.assign(layer, image, n)?.data::<f32>()?);
        }
        Ok(Tensor::from_slice(&all, &[b, n, 2])?.to_device(device, DType::F32)?)
    }

    /// `[slots, n, 2]` on the device of the slots: [`PointSource::oversample`] of the pair in each
    /// slot. Padding slots may have any initialised values.
    ///
    /// # Errors
    /// If the source cannot deliver; a failure of the device.
    fn oversample_on(&mut self, layer: usize, slots: &Slots, n: usize) -> Result<Tensor> {
        slots.scatter(n, |rows| self.oversample(layer, rows, n))
    }

    /// As [`PointSource::oversample_on`] for [`PointSource::random`].
    ///
    /// # Errors
    /// If the source cannot deliver; a failure of the device.
    fn random_on(&mut self, layer: usize, slots: &Slots, n: usize) -> Result<Tensor> {
        slots.scatter(n, |rows| self.random(layer, rows, n))
    }
}

/// Assignment of matched pairs to the slots on a device.
#[derive(Debug, Clone)]
pub struct Slots {
    /// `[slots]`, i32 on the device: index of the pair among all pairs of the prediction; -1 for
    /// padding.
    pub pair_index: Tensor,
    /// Number of pairs known to the host: those of the assignment that was written last.
    pub filled: usize,
}

impl Slots {
    /// The device.
    ///
    /// # Errors
    /// If the table is in host memory.
    pub fn device(&self) -> Result<&Device> {
        let text = "the slots of matched pairs are not on a device";
        self.pair_index.device().ok_or_else(|| ModelError::Config(text.into()))
    }

    /// Points `[slots, n, 2]` of the slots, from those that `draw` returns for the contiguous
    /// pairs.
    fn scatter(&self, n: usize, draw: impl FnOnce(usize) -> Result<Tensor>) -> Result<Tensor> {
        let device = self.device()?;
        if self.filled == 0 {
            return Ok(Tensor::zeros_on(Some(device), DType::F32, &[self.pair_index.len(), n, 2])?);
        }
        let rows = draw(self.filled)?.to_device(device, DType::F32)?;
        Ok(ops::gather_rows_at(&rows, &self.pair_index)?)
    }
}

/// Purpose of the drawn points.
#[derive(Clone, Copy)]
enum Purpose {
    Assign = 0x4153_5349,
    Oversample = 0x4F56_4552,
    Random = 0x5241_4E44,
}

impl Purpose {
    /// Request for `streams` times `rows` rows of `n` points.
    fn points(self, seed: u64, first: u64, [streams, rows, n]: [usize; 3]) -> Uniform {
        Uniform { seed, purpose: self as u32, first, streams, rows, draws: 2 * n }
    }
}

/// Random stream of the points for the costs of an image. The next image has the next stream.
fn stream(layer: usize, image: usize) -> u64 {
    ((layer as u64) << 20) | image as u64
}

/// Points from the counter-based generator, keyed by seed and step.
pub struct RandomPoints {
    /// Seed of the run.
    pub seed: u64,
    /// Step of the run.
    pub step: u64,
    /// Maximum number of rows; buffers are allocated for this number.
    pub capacity: usize,
}

impl RandomPoints {
    fn draw(&self, points: Uniform, shape: &[usize], capacity: usize) -> Result<Tensor> {
        let mut t = Tensor::with_capacity(DType::F32, shape, capacity);
        if !dry_run::skip("points") {
            points.fill(self.step, None, t.data_mut()?)?;
        }
        Ok(t)
    }

    fn on(&self, device: &Device) -> Result<DevicePoints> {
        let mut points = DevicePoints::new(device, self.seed)?;
        points.set_step(self.step)?;
        Ok(points)
    }
}

impl PointSource for RandomPoints {
    fn assign(&mut self, layer: usize, image: usize, n: usize) -> Result<Tensor> {
        let points = Purpose::Assign.points(self.seed, stream(layer, image), [1, 1, n]);
        self.draw(points, &[n, 2], 2 * n)
    }

    fn oversample(&mut self, layer: usize, rows: usize, n: usize) -> Result<Tensor> {
        let points = Purpose::Oversample.points(self.seed, layer as u64, [1, rows, n]);
        self.draw(points, &[rows, n, 2], self.capacity * n * 2)
    }

    fn random(&mut self, layer: usize, rows: usize, n: usize) -> Result<Tensor> {
        let points = Purpose::Random.points(self.seed, layer as u64, [1, rows, n]);
        self.draw(points, &[rows, n, 2], self.capacity * n * 2)
    }

    fn assign_on(&mut self, device: &Device, layer: usize, b: usize, n: usize) -> Result<Tensor> {
        self.on(device)?.assign_on(device, layer, b, n)
    }

    fn oversample_on(&mut self, layer: usize, slots: &Slots, n: usize) -> Result<Tensor> {
        self.on(slots.device()?)?.oversample_on(layer, slots, n)
    }

    fn random_on(&mut self, layer: usize, slots: &Slots, n: usize) -> Result<Tensor> {
        self.on(slots.device()?)?.random_on(layer, slots, n)
    }
}

/// The points of [`RandomPoints`], drawn on a device. The step is read from device memory, so the
/// kernel launches are the same in every step.
pub struct DevicePoints {
    seed: u64,
    /// `[1]`: low 32 bits of the step.
    step: Tensor,
}

impl DevicePoints {
    /// Points of step 0.
    ///
    /// # Errors
    /// No room on the device.
    pub fn new(device: &Device, seed: u64) -> Result<DevicePoints> {
        let step = Tensor::zeros_on(Some(device), DType::I32, &[1])?;
        Ok(DevicePoints { seed, step })
    }

    /// Writes the step that later kernel launches read. Does not wait.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn set_step(&mut self, step: u64) -> Result<()> {
        Ok(self.step.overwrite(&[step as u32 as i32])?)
    }

    fn draw(&self, points: Uniform, rows: Option<&Tensor>, shape: &[usize]) -> Result<Tensor> {
        let Some(device) = self.step.device() else { return Err(on_host()) };
        let mut t = Tensor::empty_on(Some(device), DType::F32, shape)?;
        let rows = rows.map(Tensor::view::<i32>).transpose()?;
        points.fill_gpu(device, self.step.view()?, rows, t.view_mut()?)?;
        Ok(t)
    }

    fn in_slots(&self, purpose: Purpose, layer: usize, slots: &Slots, n: usize) -> Result<Tensor> {
        let count = slots.pair_index.len();
        let points = purpose.points(self.seed, layer as u64, [1, count, n]);
        self.draw(points, Some(&slots.pair_index), &[count, n, 2])
    }
}

fn on_host() -> ModelError {
    let text = "points on a device do not fit predictions in host memory; use RandomPoints";
    ModelError::Config(text.into())
}

impl PointSource for DevicePoints {
    fn assign(&mut self, _: usize, _: usize, _: usize) -> Result<Tensor> {
        Err(on_host())
    }

    fn oversample(&mut self, _: usize, _: usize, _: usize) -> Result<Tensor> {
        Err(on_host())
    }

    fn random(&mut self, _: usize, _: usize, _: usize) -> Result<Tensor> {
        Err(on_host())
    }

    fn assign_on(&mut self, _: &Device, layer: usize, b: usize, n: usize) -> Result<Tensor> {
        let points = Purpose::Assign.points(self.seed, stream(layer, 0), [b, 1, n]);
        self.draw(points, None, &[b, n, 2])
    }

    fn oversample_on(&mut self, layer: usize, slots: &Slots, n: usize) -> Result<Tensor> {
        self.in_slots(Purpose::Oversample, layer, slots, n)
    }

    fn random_on(&mut self, layer: usize, slots: &Slots, n: usize) -> Result<Tensor> {
        self.in_slots(Purpose::Random, layer, slots, n)
    }
}
