//! AdamW over all trainable parameters, each its own group (spec training-and-data §1.2, §1.4).
//!
//! Moments are stored where their parameter is. On a device one launch updates all parameters with
//! the same number of updates, which usually is all of them. Results are bitwise equal to those of
//! the host. The same launch also writes the working copies.

use std::collections::BTreeMap;
use std::sync::RwLockWriteGuard;

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{DType, Device, Gradients, Param, Tensor, Values};
use dressage_kernels::KernelError;
use dressage_kernels::ops::adamw::{self, AdamW, MultiAdamW};
use dressage_models::weights::{ScalarType, StateDict};

use crate::groups::{ParamGroups, Setting};
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
    /// Indices of the slots that the last step updated.
    updated: Vec<usize>,
    /// Distinct settings, each with one set of constants in a launch.
    settings: Vec<Setting>,
    /// Tables of the launches, one for each number of updates that occurs.
    launches: Vec<MultiAdamW>,
}

/// Slot indices of the parameters in each launch of a captured update.
pub(crate) struct CapturedUpdate(Vec<Vec<usize>>);

/// Prefix of all names of moments in a checkpoint.
pub(crate) const MOMENTS: &str = "optimiser.";

/// Prefixes of the first and second moments.
const FIRST: &str = "optimiser.m.";
pub(crate) const SECOND: &str = "optimiser.v.";

impl Optimiser {
    /// Creates zero moments for `params`, stored where those are. The learning rate of `adamw` is
    /// set anew at every step.
    ///
    /// # Errors
    /// Too little memory on the device.
    pub fn new(params: Vec<Param>, groups: &ParamGroups, adamw: AdamW) -> Result<Optimiser> {
        let slot = |param: Param| {
            let value = param.master();
            let zeros = || {
                with_category(Category::Optimiser, || {
                    Tensor::zeros_on(value.device(), DType::F32, value.shape())
                })
            };
            let setting = groups.setting(param.name(), param.kind());
            Ok(Slot { setting, m: zeros()?, v: zeros()?, t: 0, param })
        };
        let slots = params.into_iter().map(slot).collect::<Result<Vec<Slot>>>()?;
        let mut settings: Vec<Setting> = Vec::new();
        for slot in &slots {
            if !settings.contains(&slot.setting) {
                settings.push(slot.setting);
            }
        }
        Ok(Optimiser { adamw, slots, updated: Vec::new(), settings, launches: Vec::new() })
    }

    /// Updates every parameter that has a gradient, with learning rate `lr`. Returns the names of
    /// those without one. On a device nothing changes if `guard`, a single value there, is not
    /// finite ([`MultiAdamW::update`]). The host has checked its loss and needs no guard.
    ///
    /// # Errors
    /// A gradient of another type, or a parameter that a graph still holds; a failure of the
    /// device.
    pub fn step(
        &mut self,
        lr: f64,
        grads: &mut Gradients,
        guard: Option<&Tensor>,
    ) -> Result<Vec<String>> {
        let mut without = Vec::new();
        let mut gradients = Vec::new();
        for (i, slot) in self.slots.iter_mut().enumerate() {
            match grads.take(&slot.param.get()) {
                Some(g) => {
                    slot.t += 1;
                    gradients.push((i, g));
                }
                None => without.push(slot.param.name().to_string()),
            }
        }
        self.updated = gradients.iter().map(|(i, _)| *i).collect();
        let device = self.slots.first().and_then(|s| s.param.master().device().cloned());
        match device {
            Some(device) => self.step_on(&device, lr, gradients, guard)?,
            None => self.step_on_host(lr, gradients)?,
        }
        Ok(without)
    }

    /// AdamW constants of a setting.
    fn constants(&self, lr: f64, setting: Setting) -> AdamW {
        AdamW {
            lr: lr * setting.lr_mult,
            weight_decay: self.adamw.weight_decay * setting.decay_mult,
            ..self.adamw
        }
    }

    fn step_on_host(&mut self, lr: f64, gradients: Vec<(usize, Tensor)>) -> Result<()> {
        for (i, g) in gradients {
            let adamw = self.constants(lr, self.slots[i].setting);
            let Slot { param, m, v, t, .. } = &mut self.slots[i];
            param.update(|p| {
                // Weights that are still mapped from a file get their own memory at their first
                // update.
                let p = with_category(Category::Weights, || p.make_mut::<f32>())?;
                adamw.update(*t, p, m.data_mut()?, v.data_mut()?, g.data()?)?;
                Ok(())
            })?;
        }
        Ok(())
    }

    fn step_on(
        &mut self,
        device: &Device,
        lr: f64,
        gradients: Vec<(usize, Tensor)>,
        guard: Option<&Tensor>,
    ) -> Result<()> {
        let groups = self.all_constants(lr);
        let by_count = by_count(&mut self.slots, gradients);
        self.launches.resize_with(by_count.len().max(self.launches.len()), MultiAdamW::default);
        for ((t, slots), launch) in by_count.into_iter().zip(&mut self.launches) {
            launch.set_step(device, t, &groups)?;
            queue(launch, device, &self.settings, slots, guard)?;
        }
        Ok(())
    }

    /// AdamW constants of every setting.
    fn all_constants(&self, lr: f64) -> Vec<AdamW> {
        self.settings.iter().map(|s| self.constants(lr, *s)).collect()
    }

    /// Queues the update of [`Optimiser::step`] within a capture. It writes no constants and counts
    /// no update: [`Optimiser::write_constants`] does both before each replay. The same parameters
    /// must have been updated before.
    ///
    /// # Errors
    /// As [`Optimiser::step`].
    pub(crate) fn record(
        &mut self,
        device: &Device,
        grads: &mut Gradients,
        guard: &Tensor,
    ) -> Result<CapturedUpdate> {
        let slots = self.slots.iter().enumerate();
        let gradients = slots.filter_map(|(i, s)| Some((i, grads.take(&s.param.get())?))).collect();
        let mut recorded = Vec::new();
        for (n, slots) in by_count(&mut self.slots, gradients).into_values().enumerate() {
            recorded.push(slots.iter().map(|(i, ..)| *i).collect());
            let Some(launch) = self.launches.get_mut(n) else {
                return Err(KernelError::Capture("an update was never queued before".into()).into());
            };
            queue(launch, device, &self.settings, slots, Some(guard))?;
        }
        Ok(CapturedUpdate(recorded))
    }

    /// Whether the parameters of each recorded launch still have the same number of updates.
    pub(crate) fn still_valid(&self, recorded: &CapturedUpdate) -> bool {
        let t = |i: &usize| self.slots[*i].t;
        recorded.0.iter().all(|launch| launch.windows(2).all(|two| t(&two[0]) == t(&two[1])))
    }

    /// Counts a recorded update and writes its constants where its launches read them. The learning
    /// rate is `lr`. Does not wait.
    ///
    /// # Errors
    /// A failure of the device.
    pub(crate) fn write_constants(
        &mut self,
        device: &Device,
        recorded: &CapturedUpdate,
        lr: f64,
    ) -> Result<()> {
        let groups = self.all_constants(lr);
        self.updated = recorded.0.concat();
        for i in &self.updated {
            self.slots[*i].t += 1;
        }
        for (slots, launch) in recorded.0.iter().zip(&mut self.launches) {
            if let Some(first) = slots.first() {
                launch.set_step(device, self.slots[*first].t, &groups)?;
            }
        }
        Ok(())
    }

    /// Undoes the count of the last step, which the device skipped because its loss was not finite.
    pub(crate) fn undo_count(&mut self) {
        for i in std::mem::take(&mut self.updated) {
            self.slots[i].t -= 1;
        }
    }

    /// Device addresses of the moments.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Option<u64>> {
        self.slots.iter().flat_map(|s| [s.m.address(), s.v.address()])
    }

    /// Learning rate multiplier and weight decay of each parameter, by name.
    pub fn settings(&self) -> BTreeMap<String, Setting> {
        self.slots.iter().map(|s| (s.param.name().to_string(), s.setting)).collect()
    }

    /// Moments under their checkpoint names, in host memory.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::with_capacity(2 * self.slots.len());
        for s in &self.slots {
            let name = s.param.name();
            all.push((format!("{FIRST}{name}"), s.m.to_host()?));
            all.push((format!("{SECOND}{name}"), s.v.to_host()?));
        }
        Ok(all)
    }

    /// Updates so far of each parameter.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.slots.iter().map(|s| (s.param.name().to_string(), s.t)).collect()
    }

    /// Loads moments and counts from a checkpoint.
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
                    stored.filter(|s| s.shape() == moment.shape() && s.kind() == ScalarType::F32);
                let value = stored.and_then(|s| s.to_float(DType::F32).transpose()).transpose()?;
                let Some(value) = value else {
                    return Err(TrainError::Checkpoint {
                        path: origin.into(),
                        what: format!("{key} is missing or of another shape"),
                    });
                };
                *moment = with_category(Category::Optimiser, || match moment.device() {
                    Some(device) => value.to_device(device, DType::F32),
                    None => value.deep_copy(),
                })?;
            }
            slot.t = counts.get(name).copied().unwrap_or(0);
        }
        self.updated.clear();
        Ok(())
    }
}

/// A parameter that is locked until its update is queued.
struct LockedParam<'a> {
    values: RwLockWriteGuard<'a, Values>,
    m: &'a mut Tensor,
    v: &'a mut Tensor,
    g: Tensor,
    group: usize,
}

/// Parameters with their gradients, by number of updates.
type ByCount<'a> = BTreeMap<u64, Vec<(usize, &'a mut Slot, Tensor)>>;

fn by_count(slots: &mut [Slot], gradients: Vec<(usize, Tensor)>) -> ByCount<'_> {
    let mut all = ByCount::new();
    let mut gradients = gradients.into_iter().peekable();
    for (i, slot) in slots.iter_mut().enumerate() {
        if let Some((_, g)) = gradients.next_if(|(at, _)| *at == i) {
            all.entry(slot.t).or_default().push((i, slot, g));
        }
    }
    all
}

/// Queues the update of parameters with the same number of updates.
fn queue(
    launch: &mut MultiAdamW,
    device: &Device,
    settings: &[Setting],
    slots: Vec<(usize, &mut Slot, Tensor)>,
    guard: Option<&Tensor>,
) -> Result<()> {
    let guard = guard.map(Tensor::view).transpose()?;
    let mut tensors = lock_all(settings, slots)?;
    let mut views = tensors.iter_mut().map(LockedParam::views).collect::<Result<Vec<_>>>()?;
    Ok(launch.launch(device, &mut views, guard)?)
}

fn lock_all<'a>(
    settings: &[Setting],
    slots: Vec<(usize, &'a mut Slot, Tensor)>,
) -> Result<Vec<LockedParam<'a>>> {
    let lock = |(_, slot, g): (usize, &'a mut Slot, Tensor)| {
        let Slot { param, setting, m, v, .. } = slot;
        let group = settings.iter().position(|s| s == setting).unwrap_or(0);
        Ok(LockedParam { values: param.write()?, m, v, g, group })
    };
    slots.into_iter().map(lock).collect()
}

impl LockedParam<'_> {
    fn views(&mut self) -> Result<adamw::Tensor<'_>> {
        let Values { value, working } = &mut *self.values;
        Ok(adamw::Tensor {
            p: value.view_mut()?,
            m: self.m.view_mut()?,
            v: self.v.view_mut()?,
            g: self.g.view()?,
            copy: working.as_mut().map(Tensor::view_mut).transpose()?,
            group: self.group,
        })
    }
}
