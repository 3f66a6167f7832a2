//! Whole training steps, on the host and on the virtual GPU: forward, losses, backward, AdamW.

use dressage_engine::{DType, Device, Tensor};
use dressage_tests::Outcome;
use dressage_tests::compare::{Bound, Table};
use dressage_tests::fixture::{Fixture, Settings};

use crate::layout::parameter_gradients_of;
use crate::updates::{Execution, Updates, adamw, network, updates};

/// Compares a few steps: losses of each, gradients of the first, parameters after the last.
pub fn step(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    compare(fixture, table, &updates(fixture, Execution::Host)?)?;
    let device = Device::virtual_gpu();
    let there = updates(fixture, Execution::Device(&device, DType::F32))?;
    compare(fixture, table, &there)?;
    for (s, (waits, _)) in there.waits.iter().enumerate() {
        table.equal(&format!("waits of step {s}"), &[*waits], &[1]);
    }
    Ok(())
}

/// Compares the steps of one place with the recorded ones.
fn compare(fixture: &Fixture, table: &mut Table, found: &Updates) -> Outcome<()> {
    trained_tensors(fixture, table, found)?;
    for (s, (total, terms)) in found.losses.iter().enumerate() {
        for (name, value) in terms {
            let name = format!("output.step{s}.decode.{name}");
            table.close(fixture, &name, &Tensor::scalar(*value))?;
        }
        table.close(fixture, &format!("output.step{s}.total"), &Tensor::scalar(*total))?;
        let (lr, recorded) = (found.rates[s], fixture.json.number(&format!("steps/{s}/lr"))?);
        if (lr - recorded).abs() > 1e-12 * recorded {
            table.fail(format!("learning rate of step {s}: {lr:e}, recorded {recorded:e}"));
        }
        if !found.without[s].is_empty() {
            table.fail(format!("step {s}: no gradient for {}", found.without[s].join(", ")));
        }
    }
    table.equal("steps", &[found.losses.len()], &[fixture.json.size("case/steps")?]);
    let model = network(fixture)?;
    let names: Vec<&str> = model.params().keys().map(String::as_str).collect();
    parameter_gradients_of(fixture, table, &names, "", |name| found.gradients.get(name).cloned())?;
    after(fixture, table, &names, found)
}

/// Compares the names of the trained tensors, each with its learning rate and decay.
fn trained_tensors(fixture: &Fixture, table: &mut Table, found: &Updates) -> Outcome<()> {
    let adamw = adamw(&fixture.json["case"]["optim_wrapper"]["optimizer"])?;
    let describe = |name: &str, lr: f64, decay: f64| format!("{name} lr {lr:e} decay {decay}");
    let ours: Vec<String> = found
        .settings
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
    Ok(())
}

/// Compares the parameters after the last step. Where the gradient is zero up to rounding, AdamW
/// moves by about the learning rate in a direction that depends on rounding. Elsewhere
/// (`clear_after`) the bound is tight.
fn after(fixture: &Fixture, table: &mut Table, names: &[&str], found: &Updates) -> Outcome<()> {
    const CLEAR: f64 = 2e-6;
    const UNCLEAR: f64 = 7e-4;
    let steps = fixture.json.size("case/steps")?;
    for name in names {
        let key = format!("output.param_after{steps}.{name}");
        let Some(value) = found.after.get(*name) else {
            if fixture.has(&key) {
                table.fail(format!("{name}: frozen here, trained in the reference"));
            }
            continue;
        };
        let clear = fixture.integers(&format!("output.clear_after{steps}.{name}"))?;
        let len = clear.len();
        let tight = |i: usize| clear[i] == 1 && !is_key_bias(name, i, len);
        let bound = |i: usize| Bound::abs(if tight(i) { CLEAR } else { UNCLEAR });
        table.within(&key, value, &fixture.floats(&key)?, bound)?;
    }
    Ok(())
}

/// Whether element `i` of a packed bias (rows q, k, v) belongs to the keys. Such an element shifts
/// all logits of a query alike, so its gradient is zero up to rounding (around 1e-9). There
/// `clear_after` only says that two runs of the reference happened to round alike.
fn is_key_bias(name: &str, i: usize, len: usize) -> bool {
    name.ends_with("in_proj_bias") && (len / 3..2 * len / 3).contains(&i)
}
