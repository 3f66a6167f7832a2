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
use dressage_kernels::device::View;
use dressage_kernels::ops::adamw::{self, AdamW, ClipNorm, MultiAdamW};
use dressage_models::weights::{ScalarType, StateDict};

use crate::groups::{ParamGroups, Setting};
use crate::schedule::Rates;
use crate::{Result, TrainError};

/// One parameter with its moments.
struct Slot {
    param: Param,
    setting: Setting,
    m: Tensor,
    v: Tensor,
    /// Average of the weights over the updates, f32.
    average: Option<Tensor>,
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
    /// Limit of the norm of all gradients together.
    clip: Option<ClipNorm>,
}

/// Slot indices of the parameters in each launch of a captured update.
pub(crate) struct CapturedUpdate(Vec<Vec<usize>>);

/// Prefix of all names of moments in a checkpoint.
pub(crate) const MOMENTS: &str = "optimiser.";

/// Prefixes of the first and second moments.
const FIRST: &str = "optimiser.m.";
pub(crate) const SECOND: &str = "optimiser.v.";

/// Prefix of the averages of the weights.
pub(crate) const AVERAGE: &str = "optimiser.average.";

impl Optimiser {
    /// Creates zero moments for `params`, stored where those are. Learning rate and weight decay of
    /// `adamw` are set anew at every step.
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
            Ok(Slot { setting, m: zeros()?, v: zeros()?, average: None, t: 0, param })
        };
        let slots = params.into_iter().map(slot).collect::<Result<Vec<Slot>>>()?;
        let mut settings: Vec<Setting> = Vec::new();
        for slot in &slots {
            if !settings.contains(&slot.setting) {
                settings.push(slot.setting);
            }
        }
        let (updated, launches) = (Vec::new(), Vec::new());
        Ok(Optimiser { adamw, slots, updated, settings, launches, clip: None })
    }

    /// Limits the norm of all gradients of an update together to `most`; 0 limits nothing.
    #[must_use]
    pub fn with_clip_norm(mut self, most: f64) -> Optimiser {
        self.clip = (most > 0.0).then(|| ClipNorm::new(most));
        self
    }

    /// Keeps an average of the weights, in f32 and stored where these are. It starts as the
    /// weights, and each update moves it ([`Rates::average`]).
    ///
    /// # Errors
    /// Too little memory.
    pub fn with_average(mut self) -> Result<Optimiser> {
        self.slots.iter_mut().try_for_each(Slot::start_average)?;
        Ok(self)
    }

    /// Exchanges the weights with their averages; a second call undoes it.
    ///
    /// # Errors
    /// Too little memory on the device.
    pub fn swap_averages(&mut self) -> Result<()> {
        for Slot { param, average, .. } in &mut self.slots {
            if let Some(average) = average {
                let weights = param.master().detach();
                param.set(average)?;
                *average = weights;
            }
        }
        Ok(())
    }

    /// Updates every parameter that has a gradient, at `rates`. Returns the names of those without
    /// one. On a device nothing changes if `guard`, a single value there, is not
    /// finite ([`MultiAdamW::update`]). The host has checked its loss and needs no guard.
    ///
    /// # Errors
    /// A gradient of another type, or a parameter that a graph still holds; a failure of the
    /// device.
    pub fn step(
        &mut self,
        rates: Rates,
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
            Some(device) => self.step_on(&device, rates, gradients, guard)?,
            None => self.step_on_host(rates, gradients)?,
        }
        Ok(without)
    }

    /// AdamW constants of a setting.
    fn constants(&self, rates: Rates, setting: Setting) -> AdamW {
        AdamW {
            lr: rates.lr * setting.lr_mult,
            weight_decay: rates.weight_decay * setting.decay_mult,
            average: rates.average,
            ..self.adamw
        }
    }

    fn step_on_host(&mut self, rates: Rates, gradients: Vec<(usize, Tensor)>) -> Result<()> {
        let factor = match &self.clip {
            Some(clip) => {
                let all = gradients.iter().map(|(_, g)| Ok(g.data()?));
                Some(adamw::clip_factor(&all.collect::<Result<Vec<_>>>()?, clip.most())[0])
            }
            None => None,
        };
        for (i, mut g) in gradients {
            if let Some(factor) = factor {
                adamw::scale(g.make_mut()?, factor);
            }
            let adamw = self.constants(rates, self.slots[i].setting);
            let Slot { param, m, v, t, .. } = &mut self.slots[i];
            param.update(|p| {
                // Weights that are still mapped from a file get their own memory at their first
                // update.
                let p = with_category(Category::Weights, || p.make_mut::<f32>())?;
                adamw.update(*t, p, m.data_mut()?, v.data_mut()?, g.data()?)?;
                Ok(())
            })?;
        }
        // Also of weights that this step left as they are: their average still moves to them.
        let mover = AdamW { average: rates.average, ..self.adamw };
        for Slot { param, average, .. } in &mut self.slots {
            if let Some(average) = average {
                mover.average(average.data_mut()?, param.master().data()?)?;
            }
        }
        Ok(())
    }

    fn step_on(
        &mut self,
        device: &Device,
        rates: Rates,
        gradients: Vec<(usize, Tensor)>,
        guard: Option<&Tensor>,
    ) -> Result<()> {
        let groups = self.all_constants(rates);
        let factor = self.clip.as_mut().map(|clip| limit(clip, device, &gradients)).transpose()?;
        let with = Common { device, settings: &self.settings, guard, factor };
        let by_count = by_count(&mut self.slots, gradients);
        self.launches.resize_with(by_count.len().max(self.launches.len()), MultiAdamW::default);
        for ((t, slots), launch) in by_count.into_iter().zip(&mut self.launches) {
            launch.set_step(device, t, &groups)?;
            queue(launch, &with, slots)?;
        }
        Ok(())
    }

    /// AdamW constants of every setting.
    fn all_constants(&self, rates: Rates) -> Vec<AdamW> {
        self.settings.iter().map(|s| self.constants(rates, *s)).collect()
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
        let gradients: Vec<(usize, Tensor)> =
            slots.filter_map(|(i, s)| Some((i, grads.take(&s.param.get())?))).collect();
        let factor = self.clip.as_mut().map(|clip| limit(clip, device, &gradients)).transpose()?;
        let with = Common { device, settings: &self.settings, guard: Some(guard), factor };
        let mut recorded = Vec::new();
        for (n, slots) in by_count(&mut self.slots, gradients).into_values().enumerate() {
            recorded.push(slots.iter().map(|(i, ..)| *i).collect());
            let Some(launch) = self.launches.get_mut(n) else {
                return Err(KernelError::Capture("an update was never queued before".into()).into());
            };
            queue(launch, &with, slots)?;
        }
        Ok(CapturedUpdate(recorded))
    }

    /// Whether the parameters of each recorded launch still have the same number of updates.
    pub(crate) fn still_valid(&self, recorded: &CapturedUpdate) -> bool {
        let t = |i: &usize| self.slots[*i].t;
        recorded.0.iter().all(|launch| launch.windows(2).all(|two| t(&two[0]) == t(&two[1])))
    }

    /// Counts a recorded update and writes its constants at `rates` where its launches read them.
    /// Does not wait.
    ///
    /// # Errors
    /// A failure of the device.
    pub(crate) fn write_constants(
        &mut self,
        device: &Device,
        recorded: &CapturedUpdate,
        rates: Rates,
    ) -> Result<()> {
        let groups = self.all_constants(rates);
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

    /// Device addresses of the moments and averages.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Option<u64>> {
        let average = |s: &Slot| s.average.as_ref().and_then(Tensor::address);
        self.slots.iter().flat_map(move |s| [s.m.address(), s.v.address(), average(s)])
    }

    /// Learning rate multiplier and weight decay of each parameter, by name.
    pub fn settings(&self) -> BTreeMap<String, Setting> {
        self.slots.iter().map(|s| (s.param.name().to_string(), s.setting)).collect()
    }

    /// Moments and averages under their checkpoint names, in host memory.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::with_capacity(2 * self.slots.len());
        for s in &self.slots {
            let name = s.param.name();
            all.push((format!("{FIRST}{name}"), s.m.to_host()?));
            all.push((format!("{SECOND}{name}"), s.v.to_host()?));
            if let Some(average) = &s.average {
                all.push((format!("{AVERAGE}{name}"), average.to_host()?));
            }
        }
        Ok(all)
    }

    /// Updates so far of each parameter.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.slots.iter().map(|s| (s.param.name().to_string(), s.t)).collect()
    }

    /// Loads moments, averages and counts from a checkpoint, after the weights. Averages that it lacks
    /// start as the weights.
    ///
    /// # Errors
    /// A parameter whose moments are missing or of another shape, by name.
    pub fn restore(&mut self, dict: &mut StateDict, counts: &BTreeMap<String, u64>) -> Result<()> {
        let origin = dict.origin().to_string();
        let averaged = dict.names().any(|name| name.starts_with(AVERAGE));
        for slot in &mut self.slots {
            if slot.average.is_some() && !averaged {
                slot.start_average()?;
            }
            let name = slot.param.name();
            let average = slot.average.as_mut().filter(|_| averaged).map(|a| (AVERAGE, a));
            let moments = [(FIRST, &mut slot.m), (SECOND, &mut slot.v)];
            for (prefix, moment) in moments.into_iter().chain(average) {
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

impl Slot {
    /// Makes the average equal to the weights.
    fn start_average(&mut self) -> Result<()> {
        let weights = self.param.master().detach();
        self.average = Some(with_category(Category::Optimiser, || weights.deep_copy())?);
        Ok(())
    }
}

/// A parameter that is locked until its update is queued.
struct LockedParam<'a> {
    values: RwLockWriteGuard<'a, Values>,
    m: &'a mut Tensor,
    v: &'a mut Tensor,
    average: Option<&'a mut Tensor>,
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

/// What all launches of an update share.
struct Common<'a> {
    device: &'a Device,
    settings: &'a [Setting],
    guard: Option<&'a Tensor>,
    /// Factor of all gradients.
    factor: Option<View<'a, f32>>,
}

/// Queues the norm of all gradients; returns the factor that limits it.
fn limit<'a>(
    clip: &'a mut ClipNorm,
    device: &Device,
    gradients: &[(usize, Tensor)],
) -> Result<View<'a, f32>> {
    let views = gradients.iter().map(|(_, g)| Ok(g.view()?)).collect::<Result<Vec<_>>>()?;
    Ok(clip.launch(device, &views)?)
}

/// Queues the update of parameters with the same number of updates.
fn queue(
    launch: &mut MultiAdamW,
    with: &Common<'_>,
    slots: Vec<(usize, &mut Slot, Tensor)>,
) -> Result<()> {
    let guard = with.guard.map(Tensor::view).transpose()?;
    let mut tensors = lock_all(with.settings, slots)?;
    let mut views = tensors.iter_mut().map(LockedParam::views).collect::<Result<Vec<_>>>()?;
    Ok(launch.launch(with.device, &mut views, guard, with.factor)?)
}

fn lock_all<'a>(
    settings: &[Setting],
    slots: Vec<(usize, &'a mut Slot, Tensor)>,
) -> Result<Vec<LockedParam<'a>>> {
    let lock = |(_, slot, g): (usize, &'a mut Slot, Tensor)| {
        let Slot { param, setting, m, v, average, .. } = slot;
        let group = settings.iter().position(|s| s == setting).unwrap_or(0);
        let average = average.as_mut();
        Ok(LockedParam { values: param.write()?, m, v, average, g, group })
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
            average: self.average.as_mut().map(|average| average.view_mut()).transpose()?,
            group: self.group,
        })
    }
}
