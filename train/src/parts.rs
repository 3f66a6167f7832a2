//! What a step works on: the parts of a batch, and the sums over them.

use dressage_engine::{Gradients, Tensor, ops, range};
use dressage_models::Generator;
use dressage_models::objective::{BatchPart, LossTerms, StepLoss, Targets};

use crate::Result;

/// What a step reads and writes besides weights and moments. On a device all of it keeps its
/// address from step to step.
pub(crate) struct StepBuffers {
    /// Parts of the batch, in order; usually one.
    pub parts: Vec<Part>,
    /// `[1 + terms]`: the sum of all losses of the last step, then each term.
    pub loss_readback: Tensor,
    /// Gradient 1 that the backward pass starts from.
    pub one: Tensor,
}

/// Images whose losses and gradients are computed at once.
pub(crate) struct Part {
    pub image: Tensor,
    pub targets: Targets,
    pub loss: Box<dyn StepLoss>,
    pub generator: Generator,
}

/// Images and targets of each part of a batch.
pub(crate) type Parts = Vec<(Tensor, Targets)>;

/// Losses and gradients of the parts of a batch, added up.
#[derive(Default)]
pub(crate) struct Sums {
    pub losses: Option<LossTerms>,
    pub grads: Gradients,
}

impl Sums {
    /// Adds the losses of a part, whose gradients are added later.
    pub fn add_losses(&mut self, part: &LossTerms) -> Result<&LossTerms> {
        let (mut total, mut values) = (part.total.detach(), part.values.detach());
        if let Some(before) = self.losses.take() {
            total = ops::add(&before.total, &total)?;
            values = ops::add(&before.values, &values)?;
        }
        Ok(self.losses.insert(LossTerms { total, values }))
    }
}

impl StepBuffers {
    /// Images, height and width.
    pub fn size(&self) -> [usize; 3] {
        let images = self.parts.iter().map(|part| part.image.dim(0)).sum();
        let side = |i| self.parts.first().map_or(0, |part| part.image.dim(i));
        [images, side(2), side(3)]
    }

    /// Writes a batch over the previous one on a device. Does not wait.
    pub fn write(&mut self, batch: &Parts) -> Result<()> {
        let _range = range("data");
        for (part, (image, targets)) in self.parts.iter_mut().zip(batch) {
            part.image.overwrite_from(image)?;
            part.targets.overwrite(targets)?;
        }
        Ok(())
    }

    /// Sets the step of the losses, and what each part needs to know of the others.
    pub fn set_step(&mut self, step: u64) -> Result<()> {
        let images = self.parts.iter().flat_map(|part| part.targets.classes());
        let targets: Vec<usize> = images.map(Vec::len).collect();
        let (several, mut first) = (self.parts.len() > 1, 0);
        for part in &mut self.parts {
            let of_batch = several.then_some(BatchPart { targets: &targets, first });
            part.loss.set_step(step, of_batch)?;
            part.generator.set_step(step, first)?;
            first += part.targets.classes().len();
        }
        Ok(())
    }

    /// Drops what only a replay of this step would need.
    pub fn release(&mut self) {
        self.parts.iter_mut().for_each(|part| part.loss.release());
    }
}
