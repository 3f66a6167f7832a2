//! Learning rates of every step, and learning rate and weight decay of every tensor.

use dressage_engine::Tensor;
use dressage_models::backbone::{PUBLISHED, VitConfig};
use dressage_models::params::Shapes;
use dressage_models::{Segmenter, SegmenterConfig};
use dressage_tests::Outcome;
use dressage_tests::compare::{Bound, Table};
use dressage_tests::fixture::{Fixture, Settings};
use dressage_train::groups::{Method, ParamGroups};
use dressage_train::schedule::{Schedule, Segment};
use serde_json::Value;

use crate::updates::groups;

/// Compares all recorded schedules and parameter groups.
pub fn schedule(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    for (name, recorded) in fixture.json["schedules"].as_object().into_iter().flatten() {
        let segments = recorded["param_scheduler"].as_array().into_iter().flatten();
        let segments = segments.map(segment).collect::<Outcome<Vec<_>>>()?;
        let base = recorded.number("base_lr")?;
        let schedule = Schedule::new(base, segments)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (i, lr) in recorded["lr"].as_object().into_iter().flatten() {
            // The f32 tensors below, relative to the base rate, would hide errors in f64.
            let lr = lr.as_f64().ok_or("a rate that is no number")?;
            let got = schedule.lr(i.parse()?);
            if (got - lr).abs() > 1e-11 * lr.abs() {
                table.fail(format!("{name} step {i}: {got:e}, recorded {lr:e}"));
            }
            ours.push((got / base) as f32);
            theirs.push((lr / base) as f32);
        }
        let n = ours.len();
        let (ours, theirs) = (Tensor::from_slice(&ours, &[n])?, Tensor::from_slice(&theirs, &[n])?);
        table.within(name, &ours, &theirs, |_| Bound::abs(1e-7))?;
    }
    for (name, recorded) in fixture.json["param_groups"].as_object().into_iter().flatten() {
        parameter_groups(table, name, recorded)?;
    }
    Ok(())
}

fn segment(json: &Value) -> Outcome<Segment> {
    let (begin, end) = (json.size("begin")? as u64, json.size("end")? as u64);
    match json.word("type") {
        "LinearLR" => Ok(Segment::WarmUp { start: json.number("start_factor")?, begin, end }),
        "PolyLR" => {
            let (power, floor) = (json.number("power")?, json.number("eta_min")?);
            Ok(Segment::Poly { power, floor, begin, end })
        }
        other => Err(format!("unknown scheduler `{other}`").into()),
    }
}

/// Compares learning rate and decay of every tensor, by the reference's rules and by our list per
/// method.
fn parameter_groups(table: &mut Table, name: &str, recorded: &Value) -> Outcome<()> {
    let tensors = recorded["groups"].as_array().cloned().unwrap_or_default();
    let any = |part: &str| tensors.iter().any(|t| t.word("name").contains(part));
    let method = match (any("reins"), any("backbone.")) {
        (true, _) => Method::Rein,
        (false, true) => Method::Full,
        (false, false) => Method::Freeze,
    };
    let optimizer = &recorded["optimizer"];
    let (lr, decay) = (optimizer.number("lr")?, optimizer.number("weight_decay")?);
    let rules = groups(&recorded["paramwise_cfg"])?;
    let network = network(method, &tensors)?;
    for (whose, groups) in [("recorded rules", rules), ("our list", ParamGroups::of(method))] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for tensor in &tensors {
            let tensor_name = tensor.word("name");
            let Some(param) = network.get(tensor_name) else {
                table.fail(format!("{name}: the network has no {tensor_name}"));
                continue;
            };
            let setting = groups.setting(tensor_name, param.kind);
            let (lr, decay) = (lr * setting.lr_mult, decay * setting.decay_mult);
            ours.push((tensor_name, lr, decay));
            theirs.push((tensor_name, tensor.number("lr")?, tensor.number("weight_decay")?));
            if !param.trainable {
                table.fail(format!("{name}: {tensor_name} does not train"));
            }
        }
        table.equal(&format!("{name}, {whose}"), &ours, &theirs);
    }
    Ok(())
}

/// Parameters of a network under `method` that has the blocks and kinds of tokens of a list.
fn network(method: Method, tensors: &[Value]) -> Outcome<Shapes> {
    let blocks = tensors.iter().filter_map(|t| {
        let rest = t.word("name").strip_prefix("backbone.blocks.")?;
        rest.split('.').next()?.parse::<usize>().ok()
    });
    let depth = blocks.max().map_or(4, |last| last + 1);
    let taps = VitConfig::default_taps(depth);
    let backbone = VitConfig { depth, taps, ..PUBLISHED[0].vit()?.at(14, 16) };
    let mut config = SegmenterConfig::published(backbone, 19, method);
    if let Some(rein) = config.rein_mut()
        && tensors.iter().any(|t| t.word("name") == "backbone.reins.learnable_tokens")
    {
        rein.rank = 0;
    }
    let mut shapes = Segmenter::shapes(config)?;
    // A parameter of pre-training alone, which the reference keeps and trains with the others.
    let like = shapes.get("backbone.cls_token").cloned();
    shapes.extend(like.map(|like| ("backbone.mask_token".to_string(), like)));
    Ok(shapes)
}
