//! Whole training steps: forward, losses, backward, AdamW.

use std::collections::BTreeMap;

use dressage_engine::{DType, Device, EngineError, Tensor, backward};
use dressage_kernels::adamw::AdamW;
use dressage_kernels::check::relative_error;
use dressage_models::Segmenter;
use dressage_models::criterion::{Candidate, Criterion};
use dressage_tests::Outcome;
use dressage_tests::compare::{Bound, Table};
use dressage_tests::fixture::{Fixture, Settings};
use dressage_train::groups::{Groups, Rule, Setting};
use dressage_train::optimiser::Optimiser;
use dressage_train::schedule::{Schedule, Segment};
use serde_json::Value;

use crate::layout::parameter_gradients;
use crate::loss::{Recorded, targets};
use crate::settings;

/// The whole network with a case's weights.
pub fn network(fixture: &Fixture) -> Outcome<Segmenter> {
    let config = settings::segmenter(&fixture.json["config"])?;
    let weights = fixture.weights("param.", "", &["backbone.mask_token"]);
    Ok(Segmenter::new(config, DType::F32, 0, weights, &[""])?)
}

/// Rules of the reference's optimiser settings.
pub fn groups(paramwise: &Value) -> Outcome<Groups> {
    let mut rules = Vec::new();
    for (key, mult) in paramwise["custom_keys"].as_object().into_iter().flatten() {
        let number = |name: &str| mult.number(name).unwrap_or(1.0);
        let setting = Setting { lr_mult: number("lr_mult"), decay_mult: number("decay_mult") };
        rules.push(Rule { key: key.clone(), setting });
    }
    Ok(Groups::new(rules, paramwise.number("norm_decay_mult").unwrap_or(1.0)))
}

/// AdamW of the reference's optimiser settings.
pub fn adamw(optimizer: &Value) -> Outcome<AdamW> {
    Ok(AdamW {
        lr: optimizer.number("lr")?,
        beta1: optimizer.number("betas/0")?,
        beta2: optimizer.number("betas/1")?,
        eps: optimizer.number("eps")?,
        weight_decay: optimizer.number("weight_decay")?,
    })
}

/// A few steps: losses before each, gradients of the first, parameters after the last.
pub fn step(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let case = &fixture.json["case"];
    let model = network(fixture)?;
    let criterion =
        Criterion { config: settings::criterion(&fixture.json["config"]["decode_head"])? };
    let targets = targets(fixture, criterion.config.classes)?;
    let image = fixture.floats("input.image")?;
    let adamw = adamw(&case["optim_wrapper"]["optimizer"])?;
    let groups = groups(&case["paramwise_cfg"])?;
    let mut optimiser = Optimiser::new(model.trainable(), &groups, adamw);
    trained_tensors(fixture, table, &optimiser, &adamw);
    let poly = &case["poly_lr"];
    let segment = Segment::Poly {
        power: poly.number("power")?,
        floor: poly.number("eta_min")?,
        begin: poly.size("begin")? as u64,
        end: poly.size("end")? as u64,
    };
    let schedule = Schedule::new(adamw.lr, vec![segment])?;
    for s in 0..case.size("steps")? {
        let output = model.forward(&image, false)?;
        let candidates = Candidate::of(&output);
        let prefix = format!("input.rand.step{s}.");
        let loss = criterion.loss(&candidates, &targets, &mut Recorded { fixture, prefix })?;
        for (name, value) in loss.named()? {
            let name = format!("output.step{s}.decode.{name}");
            table.close(fixture, &name, &Tensor::scalar(value))?;
        }
        table.close(fixture, &format!("output.step{s}.total"), &loss.total)?;
        losses_on_device(fixture, table, &criterion, &candidates, s)?;
        let mut grads = backward(loss.total)?;
        if s == 0 {
            parameter_gradients(fixture, table, model.params(), &mut grads, "")?;
            // Comparing took them out.
            grads = again(&model, &criterion, &targets, &image, fixture)?;
        }
        let recorded = fixture.json.number(&format!("steps/{s}/lr"))?;
        let lr = schedule.lr(s as u64);
        if (lr - recorded).abs() > 1e-12 * recorded {
            table.fail(format!("learning rate of step {s}: {lr:e}, recorded {recorded:e}"));
        }
        let without = optimiser.step(lr, &mut grads)?;
        if !without.is_empty() {
            table.fail(format!("step {s}: no gradient for {}", without.join(", ")));
        }
    }
    after(fixture, table, &model)
}

/// The losses of the same predictions on the virtual GPU, and their gradients against the host's.
fn losses_on_device(
    fixture: &Fixture,
    table: &mut Table,
    criterion: &Criterion,
    candidates: &[Candidate],
    s: usize,
) -> Outcome<()> {
    let device = Device::virtual_gpu();
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for c in candidates {
        let put =
            |x: &Tensor| Ok::<_, EngineError>(x.detach().to_device(&device, DType::F32)?.leaf());
        let embed = c.embed.as_ref();
        let moved = embed.map(|(e, f)| Ok::<_, EngineError>((put(e)?, put(f)?))).transpose()?;
        there.push(Candidate { cls: put(&c.cls)?, mask: put(&c.mask)?, embed: moved });
        let leaf = |x: &Tensor| x.detach().leaf();
        let embed = embed.map(|(e, f)| (leaf(e), leaf(f)));
        here.push(Candidate { cls: leaf(&c.cls), mask: c.mask.detach(), embed });
    }
    let targets = targets(fixture, criterion.config.classes)?;
    let mut points = Recorded { fixture, prefix: format!("input.rand.step{s}.") };
    let host = criterion.loss(&here, &targets, &mut points)?;
    let loss = criterion.loss(&there, &targets.to_device(&device)?, &mut points)?;
    for (name, value) in loss.named()? {
        table.close(fixture, &format!("output.step{s}.decode.{name}"), &Tensor::scalar(value))?;
    }
    table.close(fixture, &format!("output.step{s}.total"), &loss.total.detach().to_host()?)?;
    let (mut want, mut got) = (backward(host.total)?, backward(loss.total)?);
    for (l, (here, there)) in here.iter().zip(&there).enumerate() {
        let leaves = |c: &Candidate| {
            let embed = c.embed.iter().flat_map(|(e, f)| [e.clone(), f.clone()]);
            std::iter::once(c.cls.clone()).chain(embed).collect::<Vec<_>>()
        };
        for (i, (here, there)) in leaves(here).iter().zip(&leaves(there)).enumerate() {
            let what = format!("step {s}, prediction {l}, gradient {i} on the virtual GPU");
            let (Some(want), Some(got)) = (want.take(here), got.take(there)) else {
                table.fail(format!("{what}: none"));
                continue;
            };
            let error = relative_error(got.to_host()?.data::<f32>()?, want.data()?);
            if error > 1e-5 {
                table.fail(format!("{what}: {error:.1e} of the largest off the host's"));
            }
        }
    }
    Ok(())
}

/// The gradients of step 0 once more.
fn again(
    model: &Segmenter,
    criterion: &Criterion,
    targets: &dressage_models::criterion::Targets,
    image: &Tensor,
    fixture: &Fixture,
) -> Outcome<dressage_engine::Gradients> {
    let candidates = Candidate::of(&model.forward(image, false)?);
    let mut points = Recorded { fixture, prefix: "input.rand.step0.".into() };
    Ok(backward(criterion.loss(&candidates, targets, &mut points)?.total)?)
}

/// The tensors that train, each with its rate and decay.
fn trained_tensors(fixture: &Fixture, table: &mut Table, optimiser: &Optimiser, adamw: &AdamW) {
    let describe = |name: &str, lr: f64, decay: f64| format!("{name} lr {lr:e} decay {decay}");
    let settings: BTreeMap<String, Setting> = optimiser.settings();
    let ours: Vec<String> = settings
        .iter()
        .map(|(n, s)| describe(n, adamw.lr * s.lr_mult, adamw.weight_decay * s.decay_mult))
        .collect();
    let recorded = fixture.json["param_groups"].as_object();
    let mut recorded: Vec<String> = recorded
        .into_iter()
        .flatten()
        .map(|(name, g)| {
            let number = |key: &str| g.number(key).unwrap_or(f64::NAN);
            describe(name, number("lr"), number("weight_decay"))
        })
        .collect();
    recorded.sort();
    table.equal("param_groups", &ours, &recorded);
}

/// Parameters after the last step. Where the gradient is zero up to rounding, AdamW moves by
/// about the rate in a direction that rounding decides; elsewhere (`clear_after`) the bound is
/// tight.
fn after(fixture: &Fixture, table: &mut Table, model: &Segmenter) -> Outcome<()> {
    const CLEAR: f64 = 2e-6;
    const UNCLEAR: f64 = 7e-4;
    let steps = fixture.json.size("case/steps")?;
    for (name, param) in model.params() {
        let key = format!("output.param_after{steps}.{name}");
        if !param.trainable() {
            if fixture.has(&key) {
                table.fail(format!("{name}: frozen here, trained in the reference"));
            }
            continue;
        }
        let clear = fixture.integers(&format!("output.clear_after{steps}.{name}"))?;
        let len = clear.len();
        let tight = |i: usize| clear[i] == 1 && !is_key_bias(name, i, len);
        let bound = |i: usize| Bound::abs(if tight(i) { CLEAR } else { UNCLEAR });
        table.within(&key, &param.get(), &fixture.floats(&key)?, bound)?;
    }
    Ok(())
}

/// Whether element `i` of a packed bias (rows q, k, v) adds to keys. It shifts all logits of a
/// query alike, so its gradient is zero but for rounding (around 1e-9), and `clear_after` only
/// says that two runs of the reference happened to round alike.
fn is_key_bias(name: &str, i: usize, len: usize) -> bool {
    name.ends_with("in_proj_bias") && (len / 3..2 * len / 3).contains(&i)
}
