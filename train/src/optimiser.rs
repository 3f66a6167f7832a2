//! AdamW over all trainable parameters, each its own group (spec training-and-data §1.2, §1.4).

use std::collections::BTreeMap;

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{DType, Gradients, Param, Tensor};
use dressage_kernels::adamw::AdamW;
use dressage_models::weights::{Kind, StateDict};

use crate::groups::{Groups, Setting, in_norm};
use crate::{Result, TrainError};

/// One parameter with its moments.
struct Slot {
    param: Param,
    setting: Setting,
    m: Tensor,
    v: Tensor,
    /// Updates so far; a tensor without a gradient in a step is skipped and does not count it.
    t: u64,
}

/// The optimiser.
pub struct Optimiser {
    adamw: AdamW,
    slots: Vec<Slot>,
}

/// What all names of moments in a checkpoint begin with.
pub(crate) const MOMENTS: &str = "optimiser.";

/// Prefixes of the moments.
const FIRST: &str = "optimiser.m.";
const SECOND: &str = "optimiser.v.";

impl Optimiser {
    /// Moments of zero for `params`. The learning rate of `adamw` is set anew at every step.
    pub fn new(params: Vec<Param>, groups: &Groups, adamw: AdamW) -> Optimiser {
        let slot = |param: Param| {
            let value = param.get();
            let zeros =
                || with_category(Category::Optimiser, || Tensor::zeros(DType::F32, value.shape()));
            let setting = groups.setting(param.name(), in_norm(param.name()));
            Slot { setting, m: zeros(), v: zeros(), t: 0, param }
        };
        Optimiser { adamw, slots: params.into_iter().map(slot).collect() }
    }

    /// Updates every parameter that has a gradient with learning rate `lr`; returns the names of
    /// those that had none.
    ///
    /// # Errors
    /// A gradient of another type, or a parameter that a graph still holds.
    pub fn step(&mut self, lr: f64, grads: &mut Gradients) -> Result<Vec<String>> {
        let mut without = Vec::new();
        for slot in &mut self.slots {
            let Some(g) = grads.take(&slot.param.get()) else {
                without.push(slot.param.name().to_string());
                continue;
            };
            slot.t += 1;
            let adamw = AdamW {
                lr: lr * slot.setting.lr_mult,
                weight_decay: self.adamw.weight_decay * slot.setting.decay_mult,
                ..self.adamw
            };
            let (t, m, v) = (slot.t, &mut slot.m, &mut slot.v);
            slot.param.update(|p| {
                // Weights that are still a file's pages get memory of their own at their first
                // update.
                let p = with_category(Category::Weights, || p.make_mut::<f32>())?;
                adamw.update(t, p, m.data_mut()?, v.data_mut()?, g.data()?)?;
                Ok(())
            })?;
        }
        Ok(without)
    }

    /// Learning rate multiplier and weight decay of each parameter, by name.
    pub fn settings(&self) -> BTreeMap<String, Setting> {
        self.slots.iter().map(|s| (s.param.name().to_string(), s.setting)).collect()
    }

    /// Moments under their checkpoint names.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let both = |s: &Slot| {
            let name = s.param.name();
            [(format!("{FIRST}{name}"), s.m.clone()), (format!("{SECOND}{name}"), s.v.clone())]
        };
        self.slots.iter().flat_map(both).collect()
    }

    /// Updates so far of each parameter.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.slots.iter().map(|s| (s.param.name().to_string(), s.t)).collect()
    }

    /// Takes moments and counts from a checkpoint.
    ///
    /// # Errors
    /// A parameter whose moments are missing or of another shape, by name.
    pub fn restore(&mut self, dict: &mut StateDict, counts: &BTreeMap<String, u64>) -> Result<()> {
        let origin = dict.origin().to_string();
        for slot in &mut self.slots {
            let name = slot.param.name();
            for (prefix, moment) in [(FIRST, &mut slot.m), (SECOND, &mut slot.v)] {
                let key = format!("{prefix}{name}");
                let stored = dict.take(&key);
                let stored =
                    stored.filter(|s| s.shape() == moment.shape() && s.kind() == Kind::F32);
                let Some(value) = stored.and_then(|s| s.to_float(DType::F32)) else {
                    return Err(TrainError::Checkpoint {
                        path: origin.into(),
                        what: format!("{key} is missing or of another shape"),
                    });
                };
                *moment = with_category(Category::Optimiser, || value.deep_copy())?;
                value.release();
            }
            slot.t = counts.get(name).copied().unwrap_or(0);
        }
        Ok(())
    }
}
