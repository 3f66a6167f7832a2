//! Parity with the public reference implementation: every recorded case is recomputed and compared.
//!
//! The comparison is by tensor, forward and backward. Cases are in `tests/fixtures` and in the
//! folders of `DRESSAGE_FIXTURES`. All sizes are read from the cases.
//! `cargo test -p dressage-tests --release parity -- --nocapture` prints a line for each.

mod adapters;
mod backbones;
mod case;
mod containers;
mod convnext;
mod head;
mod keys;
mod layout;
mod loss;
mod narrow;
mod per_pixel;
mod pretrained;
mod rein;
mod resize;
mod resnet;
mod schedule;
mod semfpn;
mod settings;
mod slide;
mod step;
mod transformers;
mod updates;
mod vit;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dressage_models::Precision;
use dressage_tests::Outcome;
use dressage_tests::compare::{Table, Tolerance};
use dressage_tests::fixture::{Fixture, Settings, list, name_of, roots};

/// Result of one case.
enum Verdict {
    Compared(Table),
    /// No comparison exists for this kind of case.
    NotCovered,
    /// The case cannot run here, for this reason.
    Absent(String),
}

type Check = fn(&Fixture, &mut Table) -> Outcome<()>;

/// Chooses the comparison for a case by its own description.
fn check_for(fixture: &Fixture) -> Option<Check> {
    let family = match fixture.json.word("family") {
        "vit_tiny" => Some(vit::plain as Check),
        "rein_vit" => Some(vit::with_rein as Check),
        "rein_core" => Some(rein::layers as Check),
        "msdeform" => Some(head::pixel_decoder as Check),
        "head" => Some(head::head as Check),
        "loss" => Some(loss::loss as Check),
        "step" => Some(step::step as Check),
        "slide" => Some(slide::slide as Check),
        _ => None,
    };
    let model = fixture.json.word("model");
    let by_model = || match model {
        "official DinoVisionTransformer" => Some(backbones::dino as Check),
        "reference Reins" | "reference LoRAReins" => Some(backbones::rein as Check),
        m if m.starts_with("reference ReinsDinoVisionTransformer") => {
            Some(backbones::rein_dino as Check)
        }
        "transformers CLIPVisionModel" => Some(transformers::clip_hf as Check),
        "facebookresearch/dinov3 DinoVisionTransformer" => Some(transformers::dinov3 as Check),
        m if m.starts_with("transformers SamVisionEncoder") => Some(transformers::sam as Check),
        m if m.starts_with("reference CLIPVisionTransformer") => {
            Some(transformers::clip_reference as Check)
        }
        m if m.starts_with("transformers ViTMAEModel") => Some(transformers::mae as Check),
        m if m.starts_with("timm ConvNeXt") => Some(convnext::timm as Check),
        m if m.starts_with("reference EVA2") || m.starts_with("timm Eva") => {
            Some(transformers::eva02 as Check)
        }
        "timm ResNet Bottleneck" => Some(resnet::resnet as Check),
        m if m.starts_with("reference ReinsEVA2") => Some(transformers::rein_eva02 as Check),
        _ => None,
    };
    let json = &fixture.json;
    let by_content = || {
        if json["schedules"].is_object() {
            Some(schedule::schedule as Check)
        } else if json["configured_models"].is_object() {
            Some(keys::counts as Check)
        } else if json["ReinMask2FormerHead"]["keys"].is_array() {
            Some(keys::keys as Check)
        } else {
            None
        }
    };
    let by_name = || match (json.word("group"), json.word("fixture").split_once('.')?.0) {
        ("peft", _) => Some(adapters::adapter as Check),
        ("heads", "loss") => Some(loss::loss as Check),
        ("heads", "scores") => Some(loss::scores as Check),
        ("semfpn", _) if fixture.has("output.window.0") => Some(semfpn::slide as Check),
        ("semfpn", _) if fixture.has("output.neck.0") => Some(semfpn::neck_and_head as Check),
        ("semfpn", _) if fixture.has("output.loss_ce") => Some(per_pixel::loss as Check),
        _ => None,
    };
    let resize = || fixture.note("cases").is_some().then_some(resize::cases as Check);
    family.or_else(by_model).or_else(by_content).or_else(by_name).or_else(resize)
}

/// Runs the comparison at `path`. Cases with a published backbone also run with its weights in
/// bf16.
fn run(path: &Path, precision: Precision) -> Outcome<Verdict> {
    if path.extension().is_some_and(|e| e == "pth" || e == "pt") {
        if precision != Precision::F32 {
            return Ok(Verdict::NotCovered);
        }
        let mut table = Table::new(Tolerance::Float64);
        containers::same_as_expected(path, &mut table)?;
        return Ok(Verdict::Compared(table));
    }
    let fixture = Fixture::open(path)?;
    let mut table = Table::new(Tolerance::of(&fixture));
    if fixture.note("patch").is_some() && fixture.has("token_index") {
        return match pretrained::weights_of(path) {
            Ok(weights) => {
                pretrained::tokens(&fixture, &weights, precision, &mut table)?;
                Ok(Verdict::Compared(table))
            }
            Err(why) => Ok(Verdict::Absent(why)),
        };
    }
    let check = check_for(&fixture).filter(|_| precision == Precision::F32);
    let Some(check) = check else { return Ok(Verdict::NotCovered) };
    check(&fixture, &mut table)?;
    Ok(Verdict::Compared(table))
}

/// [`run`] that turns a panic into an error of the case.
fn run_guarded(path: &Path, precision: Precision) -> Outcome<Verdict> {
    catch_unwind(AssertUnwindSafe(|| run(path, precision)))
        .unwrap_or_else(|_| Err("panicked".into()))
}

/// Prints the line of a case; returns false if it failed.
fn report(name: &str, outcome: &Outcome<Verdict>) -> bool {
    let table = match outcome {
        Err(error) => {
            println!("{name:<46} FAIL  {error}");
            return false;
        }
        Ok(Verdict::Compared(table)) => table,
        Ok(_) => return true,
    };
    let worst = match table.worst() {
        Some((error, tensor)) => format!("worst {error:.1e} of the largest ({tensor})"),
        None => "exact".into(),
    };
    let failures = table.failures();
    let verdict = if failures.is_empty() { "ok  " } else { "FAIL" };
    println!("{name:<46} {verdict}  {:4} compared  {worst}", table.compared());
    const SHOWN: usize = 12;
    for failure in failures.iter().take(SHOWN) {
        println!("        {failure}");
    }
    if failures.len() > SHOWN {
        println!("        and {} more", failures.len() - SHOWN);
    }
    failures.is_empty()
}

/// Runs every case of every folder. All of them run before a failure ends the test.
#[test]
fn parity_with_the_reference() {
    let (mut passed, mut failed, mut tensors) = (0, Vec::new(), 0);
    let (mut not_covered, mut absent) = (BTreeSet::new(), Vec::new());
    for root in roots() {
        let paths = list(&root).unwrap_or_else(|e| panic!("{e}"));
        assert!(!paths.is_empty(), "{}: no fixtures", root.display());
        println!("{}", root.display());
        let both = |p| [(p, Precision::F32), (p, Precision::Bf16)];
        for (path, precision) in paths.iter().flat_map(both) {
            let narrow = precision == Precision::Bf16;
            let name = name_of(path) + if narrow { ", bf16 weights" } else { "" };
            let outcome = run_guarded(path, precision);
            let good = report(&name, &outcome);
            match outcome {
                Ok(Verdict::NotCovered | Verdict::Absent(_)) if narrow => {}
                Ok(Verdict::NotCovered) => _ = not_covered.insert(name),
                Ok(Verdict::Absent(why)) => absent.push(format!("{name}: {why}")),
                Ok(Verdict::Compared(table)) => {
                    tensors += table.compared();
                    if good { passed += 1 } else { failed.push(name) }
                }
                Err(_) => failed.push(name),
            }
        }
    }
    for line in &absent {
        println!("not run: {line}");
    }
    if !not_covered.is_empty() {
        let names: Vec<&str> = not_covered.iter().map(String::as_str).collect();
        println!("not covered yet: {}", names.join(", "));
    }
    println!(
        "{passed} passed, {} failed, {} not run, {} not covered; {tensors} tensors compared",
        failed.len(),
        absent.len(),
        not_covered.len()
    );
    assert!(failed.is_empty(), "differ from the reference: {}", failed.join(", "));
}

/// Checks that a weight or prediction off by a thousandth fails, in every kind of case.
#[test]
fn parity_notices_a_wrong_number() {
    const ALTERED: [&str; 5] =
        ["mlp_delta_f.weight", "mask_feature.weight", "mlp.fc1.weight", "cls_pred.0", "cls_embed"];
    let mut families = BTreeSet::new();
    for path in list(&roots()[0]).unwrap_or_else(|e| panic!("{e}")) {
        let mut fixture = Fixture::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let Some(check) = check_for(&fixture) else { continue };
        let wanted = |n: &&String| {
            (n.starts_with("param.") || n.starts_with("weight.") || n.starts_with("input."))
                && ALTERED.iter().any(|a| n.contains(a))
        };
        let Some(name) = fixture.tensors.names().find(wanted).cloned() else { continue };
        let mut tensor =
            fixture.floats(&name).unwrap_or_else(|e| panic!("{e}")).deep_copy().expect("a copy");
        for v in tensor.data_mut::<f32>().unwrap_or_else(|e| panic!("{e}")) {
            *v *= 1.001;
        }
        fixture.tensors.insert(name.clone(), tensor);
        let mut table = Table::new(Tolerance::of(&fixture));
        check(&fixture, &mut table).unwrap_or_else(|e| panic!("{}: {e}", fixture.name));
        assert!(!table.failures().is_empty(), "{}: {name} altered unnoticed", fixture.name);
        families.insert(fixture.name);
    }
    assert!(families.len() >= 8, "{families:?}");
}
