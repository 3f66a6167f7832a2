//! A few training steps of a recorded network, on the host or on a device. As in the trainer, the
//! losses of a step are read together with the costs of the next.

use std::collections::BTreeMap;

use dressage_engine::{DType, Device, Tensor, backward, bf16_emulation, no_grad, ops};
use dressage_kernels::ops::adamw::AdamW;
use dressage_models::Segmenter;
use dressage_models::objective::mask2former::criterion::{
    Assignment, Candidate, Criterion, named_terms,
};
use dressage_tests::Outcome;
use dressage_tests::fixture::{Fixture, Settings};
use dressage_train::groups::{ParamGroups, Rule, Setting};
use dressage_train::optimiser::Optimiser;
use dressage_train::schedule::{Rates, Schedule, Segment};
use serde_json::Value;

use crate::loss::{RecordedPoints, targets};
use crate::settings;

/// The place of the steps.
#[derive(Clone, Copy)]
pub enum Execution<'a> {
    Host,
    /// The host with bf16 rounding ([`bf16_emulation`]): matrices before each step, results of
    /// operations, and intermediate gradients.
    Rounded,
    /// A device with activations and matrices of this type.
    Device(&'a Device, DType),
}

impl Execution<'_> {
    fn rounding<R>(self, f: impl FnOnce() -> R) -> R {
        match self {
            Execution::Rounded => bf16_emulation::emulate(f),
            _ => f(),
        }
    }
}

/// The results of the steps, all in host memory.
pub struct Updates {
    /// Total and terms of the loss, by step.
    pub losses: Vec<(f32, Vec<(String, f32)>)>,
    /// Gradients of the first step.
    pub gradients: BTreeMap<String, Tensor>,
    /// Parameters after the last step.
    pub after: BTreeMap<String, Tensor>,
    /// Names of trained parameters without a gradient, by step.
    pub without: Vec<Vec<String>>,
    /// Learning rates by step.
    pub rates: Vec<f64>,
    /// Learning rate and decay by trained parameter.
    pub settings: BTreeMap<String, Setting>,
    /// Assignments of queries to targets, by step.
    pub assignments: Vec<Assignment>,
    /// By step: the number of waits for the device, and the memory reservations so far.
    pub waits: Vec<(u64, u64)>,
}

/// Creates the whole network with a case's weights.
pub fn network(fixture: &Fixture) -> Outcome<Segmenter> {
    let config = settings::segmenter(&fixture.json["config"])?;
    let weights = fixture.weights("param.", "", &["backbone.mask_token"]);
    Ok(Segmenter::new(config, DType::F32, 0, weights, &[""])?)
}

/// Parameter groups from the reference's optimiser settings.
pub fn groups(paramwise: &Value) -> Outcome<ParamGroups> {
    let mut rules = Vec::new();
    for (key, mult) in paramwise["custom_keys"].as_object().into_iter().flatten() {
        let number = |name: &str| mult.number(name).unwrap_or(1.0);
        let setting = Setting { lr_mult: number("lr_mult"), decay_mult: number("decay_mult") };
        rules.push(Rule { key: key.clone(), setting });
    }
    Ok(ParamGroups::new(rules, paramwise.number("norm_decay_mult").unwrap_or(1.0)))
}

/// AdamW from the reference's optimiser settings.
pub fn adamw(optimizer: &Value) -> Outcome<AdamW> {
    Ok(AdamW {
        lr: optimizer.number("lr")?,
        beta1: optimizer.number("betas/0")?,
        beta2: optimizer.number("betas/1")?,
        eps: optimizer.number("eps")?,
        weight_decay: optimizer.number("weight_decay")?,
        ..AdamW::default()
    })
}

fn schedule(case: &Value, lr: f64) -> Outcome<Schedule> {
    let poly = &case["poly_lr"];
    let segment = Segment::Poly {
        power: poly.number("power")?,
        floor: poly.number("eta_min")?,
        begin: poly.size("begin")? as u64,
        end: poly.size("end")? as u64,
    };
    Ok(Schedule::new(lr, vec![segment])?)
}

/// Sets the working copies of matrices to their values rounded to bf16.
pub fn round_matrices(model: &Segmenter) -> Outcome<()> {
    for param in model.params().values().filter(|p| p.master().shape().len() > 1) {
        let mut values = param.write()?;
        values.working = Some(bf16_emulation::to_bf16(&values.value.detach())?);
    }
    Ok(())
}

/// State shared by the steps.
struct Run<'a> {
    fixture: &'a Fixture,
    execution: Execution<'a>,
    /// Assignments that replace the computed ones, by step.
    given: &'a [Assignment],
    model: Segmenter,
    criterion: Criterion,
    optimiser: Optimiser,
    schedule: Schedule,
    weight_decay: f64,
}

impl<'a> Run<'a> {
    fn new(
        fixture: &'a Fixture,
        execution: Execution<'a>,
        given: &'a [Assignment],
    ) -> Outcome<Run<'a>> {
        let case = &fixture.json["case"];
        let mut model = network(fixture)?;
        if let Execution::Device(device, working) = execution {
            model.to_device(device, working)?;
        }
        let config = settings::criterion(&fixture.json["config"]["decode_head"])?;
        let adamw = adamw(&case["optim_wrapper"]["optimizer"])?;
        let optimiser = Optimiser::new(model.trainable(), &groups(&case["paramwise_cfg"])?, adamw)?;
        let schedule = schedule(case, adamw.lr)?;
        let (criterion, weight_decay) = (Criterion { config }, adamw.weight_decay);
        Ok(Run { fixture, execution, given, model, criterion, optimiser, schedule, weight_decay })
    }

    /// Runs one step. `readback` has the unread losses of the previous step, and then those of this
    /// one.
    fn step(&mut self, s: usize, readback: &mut Option<Tensor>, all: &mut Updates) -> Outcome<()> {
        let device = match self.execution {
            Execution::Device(device, _) => Some(device),
            _ => None,
        };
        let counters = || device.map_or((0, 0), |d| (d.counters().waits, d.usage().reservations));
        let before = counters();
        let image = self.model.image(self.fixture.floats("input.image")?)?;
        let mut targets = targets(self.fixture, self.criterion.config.classes)?;
        if let Some(device) = device {
            targets = targets.to_device(device)?;
        }
        if matches!(self.execution, Execution::Rounded) {
            round_matrices(&self.model)?;
        }
        let head = self.model.objective().mask2former().ok_or("not a Mask2Former")?;
        let candidates = self.execution.rounding(|| {
            self.model.with_features(&image, |f| Ok(Candidate::of(&head.forward(f, false)?)))
        })?;
        let mut points =
            RecordedPoints { fixture: self.fixture, prefix: format!("input.rand.step{s}.") };
        let costs = self.criterion.costs(&candidates, &targets, &mut points, readback.as_ref())?;
        let (found, previous) = self.criterion.assign(&costs, &targets)?;
        all.add_losses(&previous);
        let assignment = self.given.get(s).cloned().unwrap_or(found);
        all.assignments.push(assignment.clone());
        let loss = self.criterion.losses(&candidates, &targets, assignment, &mut points)?;
        drop((candidates, costs));
        let total = ops::reshape(&loss.total.detach(), &[1])?;
        *readback = Some(no_grad(|| ops::concat(&[&total, &loss.values.detach()], 0))?);
        let mut grads = self.execution.rounding(|| backward(loss.total))?;
        let mut gradients = Vec::new();
        for (name, param) in self.model.params().iter().filter(|_| s == 0) {
            if let Some(g) = grads.take(&param.get()) {
                grads.add(&param.get().edge(), g.clone())?;
                gradients.push((name.clone(), g));
            }
        }
        let lr = self.schedule.lr(s as u64);
        let rates = Rates { lr, weight_decay: self.weight_decay, average: 1.0 };
        let guard = device.map(|_| &total);
        all.without.push(self.optimiser.step(rates, &mut grads, guard)?);
        all.rates.push(lr);
        let after = counters();
        all.waits.push((after.0 - before.0, after.1));
        for (name, g) in gradients {
            all.gradients.insert(name, g.to_host()?);
        }
        Ok(())
    }
}

impl Updates {
    /// Adds the losses that a step left unread: their sum, then each.
    fn add_losses(&mut self, readback: &[f32]) {
        if let Some((total, values)) = readback.split_first() {
            self.losses.push((*total, named_terms(values)));
        }
    }
}

/// Runs the number of steps that the case says.
pub fn updates(fixture: &Fixture, execution: Execution<'_>) -> Outcome<Updates> {
    updates_with(fixture, execution, &[])
}

/// [`updates`] with assignments that replace the computed ones, by step.
pub fn updates_with(
    fixture: &Fixture,
    execution: Execution<'_>,
    given: &[Assignment],
) -> Outcome<Updates> {
    let mut run = Run::new(fixture, execution, given)?;
    let mut all = Updates {
        losses: Vec::new(),
        gradients: BTreeMap::new(),
        after: BTreeMap::new(),
        without: Vec::new(),
        rates: Vec::new(),
        settings: run.optimiser.settings(),
        assignments: Vec::new(),
        waits: Vec::new(),
    };
    let mut readback = None;
    for s in 0..fixture.json.size("case/steps")? {
        run.step(s, &mut readback, &mut all)?;
    }
    if let Some(readback) = readback {
        all.add_losses(readback.to_host()?.data()?);
    }
    for param in run.model.trainable() {
        let value = param.master().detach().to_host()?;
        all.after.insert(param.name().to_owned(), value);
    }
    Ok(all)
}
