//! Sources of the criterion's random points.

use dressage_engine::{DType, Device, Tensor, ops};
use dressage_kernels::call::{Call, Gpu, Host, Launch};
use dressage_kernels::dry_run;
use dressage_kernels::ops::uniform::{Fill, Uniform};

use crate::{ModelError, Result};

/// Source of the random points of a step: (x, y) in [0, 1), (0, 0) is the top left corner.
///
/// The values do not depend on the place: on a device they are those of the host, in the slots of
/// the pairs.
pub trait PointSource {
    /// `[b, n, 2]`: points for the costs of each image, shared by its queries and targets.
    ///
    /// # Errors
    /// If the source cannot deliver; a failure of the device.
    fn assign(
        &mut self,
        device: Option<&Device>,
        layer: usize,
        b: usize,
        n: usize,
    ) -> Result<Tensor>;
    /// `[slots, n, 2]`: candidates for the uncertain points of the pair in each slot. Padding slots
    /// may have any initialised values.
    ///
    /// # Errors
    /// If the source cannot deliver; a failure of the device.
    fn oversample(&mut self, layer: usize, slots: &Slots, n: usize) -> Result<Tensor>;
    /// `[slots, n, 2]`: the points that do not depend on uncertainty, as
    /// [`PointSource::oversample`].
    ///
    /// # Errors
    /// If the source cannot deliver; a failure of the device.
    fn random(&mut self, layer: usize, slots: &Slots, n: usize) -> Result<Tensor>;
}

/// Assignment of matched pairs to rows. On the host each pair has a row, in order; on a device
/// each image has a fixed number of slots, some of which are padding.
#[derive(Debug, Clone)]
pub struct Slots {
    /// `[slots]`, i32 on a device: index of the pair among all pairs of the prediction; -1 for
    /// padding. Absent on the host.
    pub pair_index: Option<Tensor>,
    /// Number of pairs known to the host: those of the assignment that was written last.
    pub filled: usize,
    /// Index of the first pair of the host, among all pairs of a batch of which these images are a part.
    pub first: usize,
    /// Largest number of pairs, for which buffers on the host have room.
    pub capacity: usize,
}

impl Slots {
    /// Device of the slots; `None` for the host.
    pub fn device(&self) -> Option<&Device> {
        self.pair_index.as_ref().and_then(Tensor::device)
    }

    /// Points `[slots, n, 2]` of the slots, from those that `draw` returns for the contiguous
    /// pairs on the host.
    ///
    /// # Errors
    /// Errors of `draw`; a failure of the device.
    pub fn scatter(&self, n: usize, draw: impl FnOnce(usize) -> Result<Tensor>) -> Result<Tensor> {
        let (Some(index), Some(device)) = (&self.pair_index, self.device()) else {
            return draw(self.filled);
        };
        if self.filled == 0 {
            return Ok(Tensor::zeros_on(Some(device), DType::F32, &[index.len(), n, 2])?);
        }
        let rows = draw(self.filled)?.to_device(device, DType::F32)?;
        Ok(ops::gather_rows_at(&rows, index)?)
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

/// Points from the counter-based generator, keyed by seed and step. A device draws them itself.
pub struct RandomPoints {
    seed: u64,
    step: u64,
    /// Index of the first image in the whole batch.
    first_image: usize,
    /// `[1]` on a device: low 32 bits of the step. Kernel launches read it, so they are the same in
    /// every step.
    word: Option<Tensor>,
}

impl RandomPoints {
    /// Points of step 0, for predictions on `device` or the host.
    ///
    /// # Errors
    /// No room on the device.
    pub fn new(device: Option<&Device>, seed: u64) -> Result<RandomPoints> {
        let word = device.map(|device| Tensor::zeros_on(Some(device), DType::I32, &[1]));
        Ok(RandomPoints { seed, step: 0, first_image: 0, word: word.transpose()? })
    }

    /// Sets the index of the first image in the batch of which the images are a part.
    pub fn set_first_image(&mut self, image: usize) {
        self.first_image = image;
    }

    /// Sets the step of the points drawn next. Does not wait for a device.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn set_step(&mut self, step: u64) -> Result<()> {
        self.step = step;
        match &mut self.word {
            Some(word) => Ok(word.overwrite(&[step as u32 as i32])?),
            None => Ok(()),
        }
    }

    /// Draws `points` of the given shape, for the pairs in `rows` if they are given. Fails if
    /// `device` is not the one of these points.
    fn draw(
        &self,
        device: Option<&Device>,
        points: Uniform,
        rows: Option<&Tensor>,
        (shape, capacity): (&[usize], usize),
    ) -> Result<Tensor> {
        if device != self.word.as_ref().and_then(Tensor::device) {
            let text = "the random points are drawn elsewhere than the predictions";
            return Err(ModelError::Config(text.into()));
        }
        let mut t = Tensor::with_capacity_on(device, DType::F32, shape, capacity)?;
        match (&self.word, device) {
            (Some(word), Some(device)) => {
                let rows = rows.map(Tensor::view::<i32>).transpose()?;
                let fill = Fill::<Gpu, f32> { step: word.view()?, rows, out: t.view_mut()? };
                fill.launch(device, &points)?;
            }
            _ if dry_run::skip("points") => {}
            _ => {
                let step = &[self.step as u32 as i32];
                let rows = rows.map(Tensor::data::<i32>).transpose()?;
                Fill::<Host, f32> { step, rows, out: t.data_mut()? }.run(&points)?;
            }
        }
        Ok(t)
    }

    fn of_pairs(&self, purpose: Purpose, layer: usize, slots: &Slots, n: usize) -> Result<Tensor> {
        let count = slots.pair_index.as_ref().map_or(slots.filled, Tensor::len);
        let later;
        let rows = match &slots.pair_index {
            None if slots.first > 0 => {
                let rows: Vec<i32> = (slots.first..).take(count).map(|i| i as i32).collect();
                later = Tensor::from_slice(&rows, &[count])?;
                Some(&later)
            }
            rows => rows.as_ref(),
        };
        let points = purpose.points(self.seed, layer as u64, [1, count, n]);
        let shape = [count, n, 2];
        self.draw(slots.device(), points, rows, (&shape, slots.capacity * n * 2))
    }
}

impl PointSource for RandomPoints {
    fn assign(
        &mut self,
        device: Option<&Device>,
        layer: usize,
        b: usize,
        n: usize,
    ) -> Result<Tensor> {
        let points = Purpose::Assign.points(self.seed, stream(layer, self.first_image), [b, 1, n]);
        self.draw(device, points, None, (&[b, n, 2], 0))
    }

    fn oversample(&mut self, layer: usize, slots: &Slots, n: usize) -> Result<Tensor> {
        self.of_pairs(Purpose::Oversample, layer, slots, n)
    }

    fn random(&mut self, layer: usize, slots: &Slots, n: usize) -> Result<Tensor> {
        self.of_pairs(Purpose::Random, layer, slots, n)
    }
}
