//! Recorded training steps on the virtual GPU in bf16, compared with bf16 rounding alone.
//!
//! Rounding alone means the same steps on the host in f32, with every value rounded that a device
//! stores in bf16 ([`dressage_engine::bf16_emulation`]). Both are compared with the host in f32.
//! The error of a device may be up to three times that of rounding alone.
//!
//! Rounding also changes discrete decisions: which query is matched to which target, which keys a
//! mask blocks, which points are uncertain. Two roundings decide some of these differently, so a
//! single tensor can be close in one run and far off in the other. The error is therefore the root
//! of the mean square over many tensors. It is taken over all tensors where matching is part of the
//! run, and over each part of the network where the pairs are given.

use std::collections::BTreeMap;

use dressage_engine::{DType, Device, Tensor, bf16_emulation};
use dressage_tests::fixture::{Fixture, list, roots};

use crate::updates::{Execution, Updates, network, round_matrices, updates, updates_with};

/// Largest allowed error of a device, in units of the error of rounding.
const ALLOWED: f64 = 3.0;

/// A recorded case of the committed folder.
fn fixture(name: &str) -> Fixture {
    let named = |p: &std::path::PathBuf| p.file_stem().is_some_and(|stem| stem == name);
    let path = list(&roots()[0]).expect("fixtures").into_iter().find(named);
    Fixture::open(&path.expect("a recorded case")).expect("readable")
}

fn steps(fixture: &Fixture, execution: Execution<'_>) -> Updates {
    updates(fixture, execution).unwrap_or_else(|e| panic!("{e}"))
}

/// Errors of tensors by part of the network: sum of squares and count.
#[derive(Default)]
struct Errors(BTreeMap<String, (f64, f64)>);

impl Errors {
    /// Adds the error of a tensor relative to its own size.
    fn add(&mut self, part: String, found: &[f32], exact: &[f32]) {
        assert_eq!(found.len(), exact.len(), "{part}");
        let square = |x: f64| x * x;
        let pairs = found.iter().zip(exact).map(|(a, b)| (f64::from(*a), f64::from(*b)));
        let (error, size) =
            pairs.fold((0.0, 0.0), |(e, s), (a, b)| (e + square(a - b), s + square(b)));
        // A gradient that is zero throughout has no size for a relative error.
        if size > 0.0 {
            let (sum, n) = self.0.entry(part).or_default();
            (*sum, *n) = (*sum + error / size, *n + 1.0);
        }
    }

    fn root_mean_square(&self, part: &str) -> f64 {
        let (sum, n) = self.0[part];
        (sum / n).sqrt()
    }
}

fn floats(x: &Tensor) -> &[f32] {
    x.data().expect("f32")
}

/// Name of a parameter's part of the network: adapter, pixel decoder, each decoder layer, ...
fn part_of(name: &str) -> String {
    let pieces: Vec<&str> = name.split('.').collect();
    let n = if pieces.get(2) == Some(&"layers") { 4 } else { 2 };
    pieces[..n.min(pieces.len())].join(".")
}

/// Errors of the losses of all steps, the first step's gradients and the total parameter changes.
fn errors(found: &Updates, exact: &Updates, start: &Fixture, by_part: bool) -> Errors {
    let mut all = Errors::default();
    let label = |what: &str, name: &str| match by_part {
        true => format!("{what} of {}", part_of(name)),
        false => what.to_owned(),
    };
    for (s, (found, exact)) in found.losses.iter().zip(&exact.losses).enumerate() {
        for ((name, a), (_, b)) in found.1.iter().zip(&exact.1) {
            all.add("losses".into(), &[*a], &[*b]);
            // This prediction comes before any mask, so no decision but the pairs affects it.
            if s == 0 && by_part && name.starts_with("d0.") {
                all.add("losses of the first prediction".into(), &[*a], &[*b]);
            }
        }
    }
    for (name, exact) in &exact.gradients {
        let found = found.gradients.get(name).unwrap_or_else(|| panic!("no gradient of {name}"));
        all.add(label("gradients", name), floats(found), floats(exact));
    }
    for (name, exact) in &exact.after {
        let before = start.floats(&format!("param.{name}")).expect("parameter");
        let change = |after: &Tensor| -> Vec<f32> {
            floats(after).iter().zip(floats(&before)).map(|(a, b)| a - b).collect()
        };
        all.add(label("changes", name), &change(&found.after[name]), &change(exact));
    }
    all
}

/// Fails if an error of `found` exceeds three times that of `reference`.
fn within(found: &Errors, reference: &Errors) {
    let mut beyond = Vec::new();
    for part in reference.0.keys() {
        let (error, rounding) = (found.root_mean_square(part), reference.root_mean_square(part));
        println!("{part:60} rounding {rounding:.2e}, device {error:.2e}");
        if error > ALLOWED * rounding {
            beyond.push(part);
        }
    }
    assert!(beyond.is_empty(), "errors of more than {ALLOWED} times those of rounding: {beyond:?}");
    assert!(found.0.keys().eq(reference.0.keys()));
}

/// All results of some steps as bytes, in a fixed order.
fn bytes(found: &Updates) -> Vec<u8> {
    let mut all = Vec::new();
    for (total, terms) in &found.losses {
        all.extend(total.to_bits().to_le_bytes());
        terms.iter().for_each(|(_, value)| all.extend(value.to_bits().to_le_bytes()));
    }
    for value in found.gradients.values().chain(found.after.values()) {
        all.extend_from_slice(value.bytes());
    }
    all
}

#[test]
fn steps_in_bf16_are_off_by_its_rounding() {
    let fixture = fixture("step");
    let exact = steps(&fixture, Execution::Host);
    let device = Device::virtual_gpu();
    let execution = Execution::Device(&device, DType::Bf16);
    let there = steps(&fixture, execution);
    let rounded = steps(&fixture, Execution::Rounded);
    let of = |found: &Updates| errors(found, &exact, &fixture, false);
    within(&of(&there), &of(&rounded));

    let given = &exact.assignments;
    let with =
        |execution| updates_with(&fixture, execution, given).unwrap_or_else(|e| panic!("{e}"));
    let of = |found: &Updates| errors(found, &exact, &fixture, true);
    within(&of(&with(execution)), &of(&with(Execution::Rounded)));

    let again = steps(&fixture, Execution::Device(&Device::virtual_gpu(), DType::Bf16));
    assert!(bytes(&again) == bytes(&there), "the same steps twice differ");
    let f32_twice = [(); 2].map(|()| {
        let device = Device::virtual_gpu();
        steps(&fixture, Execution::Device(&device, DType::F32))
    });
    assert!(bytes(&f32_twice[0]) == bytes(&f32_twice[1]), "the same steps twice differ in f32");
    for found in [&there, &again, &f32_twice[0]] {
        let waits: Vec<u64> = found.waits.iter().map(|w| w.0).collect();
        assert_eq!(waits, [1; 3], "waits of each step");
        assert_eq!(found.waits[1].1, found.waits[2].1, "reservations after the second step");
    }
}

#[test]
fn scores_in_bf16_are_off_by_its_rounding() {
    let fixture = fixture("slide.whole");
    let image = fixture.floats("input.image").expect("image");
    let model = || network(&fixture).unwrap_or_else(|e| panic!("{e}"));
    let exact = model().scores(&image).expect("scores");
    let narrow = model();
    round_matrices(&narrow).unwrap_or_else(|e| panic!("{e}"));
    let reference = bf16_emulation::emulate(|| narrow.scores(&image)).expect("scores");
    let device = Device::virtual_gpu();
    let mut there = model();
    there.to_device(&device, DType::Bf16).expect("moved");
    let found = there.image(image).and_then(|image| there.scores(&image)).expect("scores");
    let found = found.to_host().expect("copied");
    let of = |scores: &Tensor| {
        let mut errors = Errors::default();
        errors.add("scores".into(), floats(scores), floats(&exact));
        errors
    };
    within(&of(&found), &of(&reference));
}
