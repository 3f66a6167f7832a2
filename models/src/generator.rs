//! Random numbers of a training step: dropout and stochastic depth.

use dressage_engine::{Device, Tensor, ops};

use crate::Result;
use crate::adapter::Site;

/// Place in a block at which training drops something.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Dropped {
    /// The input of what an adapter adds to a linear layer.
    Linear(Site),
    /// The hidden rows of AdaptFormer.
    Bottleneck,
    /// The branch of the attention.
    Attention,
    /// The branch of the MLP.
    Mlp,
}

impl Dropped {
    /// Number of the place in block `i`.
    fn site(self, i: usize) -> u32 {
        let place = match self {
            Dropped::Linear(site) => site as u32,
            Dropped::Bottleneck => 8,
            Dropped::Attention => 9,
            Dropped::Mlp => 10,
        };
        16 * i as u32 + place
    }
}

/// Source of the random numbers of a training step. Seed, step and place in the batch decide them.
#[derive(Debug, Clone)]
pub struct Generator {
    seed: u64,
    /// Step and number of the first image in the batch, `[2]`. On a device it keeps its address.
    position: Tensor,
}

impl Generator {
    /// Numbers of step 0 under `seed`, for tensors on `device` or the host.
    ///
    /// # Errors
    /// No room on the device.
    pub fn new(device: Option<&Device>, seed: u64) -> Result<Generator> {
        let position = Tensor::from_slice(&[0, 0], &[2])?;
        let position = match device {
            Some(device) => position.to_device(device, position.dtype())?,
            None => position,
        };
        Ok(Generator { seed, position })
    }

    /// Turns to a step whose images are the batch's from number `first` on.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn set_step(&mut self, step: u64, first: usize) -> Result<()> {
        let position = [step as i32, first as i32];
        match self.position.device() {
            Some(_) => self.position.overwrite(&position)?,
            None => self.position = Tensor::from_slice(&position, &[2])?,
        }
        Ok(())
    }
}

/// Dropout of one rate in a training step.
pub(crate) struct Dropout {
    generator: Generator,
    rate: f64,
}

impl Dropout {
    /// The dropout of a training step; `None` where nothing is dropped.
    pub fn new(generator: Option<&Generator>, rate: f64) -> Option<Dropout> {
        let generator = generator.filter(|_| rate > 0.0)?.clone();
        Some(Dropout { generator, rate })
    }

    /// `x` `[b, ..]` with a share of its elements set to zero, in block `i`.
    pub fn apply(&self, x: &Tensor, i: usize, at: Dropped) -> Result<Tensor> {
        self.drop(x, at.site(i), self.rate, false)
    }

    /// A branch `x` `[b, ..]` of block `i` with a share of its images set to zero. The share rises
    /// from 0 at the first of `depth` blocks to the rate at the last.
    pub fn path(&self, x: &Tensor, [i, depth]: [usize; 2], at: Dropped) -> Result<Tensor> {
        let rate = self.rate * i as f64 / (depth - 1).max(1) as f64;
        if rate > 0.0 { self.drop(x, at.site(i), rate, true) } else { Ok(x.clone()) }
    }

    fn drop(&self, x: &Tensor, site: u32, rate: f64, whole: bool) -> Result<Tensor> {
        let Generator { seed, position } = self.generator.clone();
        Ok(ops::dropout(x, &ops::Dropout { seed, site, rate, whole, position })?)
    }
}
