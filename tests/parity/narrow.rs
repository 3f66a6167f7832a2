//! The recorded training steps on the virtual GPU in bf16, against the rounding of bf16 alone; what
//! a step takes there; the same bytes twice.

use std::collections::BTreeMap;

use dressage_engine::{DType, Device, Tensor};
use dressage_tests::fixture::{Fixture, list, roots};

use crate::updates::{Place, Updates, updates};

/// The smallest recorded case of training steps.
fn fixture() -> Fixture {
    let named = |p: &std::path::PathBuf| p.file_stem().is_some_and(|stem| stem == "step");
    let path = list(&roots()[0]).expect("fixtures").into_iter().find(named);
    Fixture::open(&path.expect("recorded steps")).expect("readable")
}

fn steps(fixture: &Fixture, place: Place<'_>) -> Updates {
    updates(fixture, place).unwrap_or_else(|e| panic!("{e}"))
}

/// Everything that came of some steps, in one order.
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

/// Sum of squares of a difference and of the exact values.
#[derive(Clone, Copy, Default)]
struct Norms {
    error: f64,
    exact: f64,
}

impl Norms {
    fn add(&mut self, found: f64, exact: f64) {
        self.error += (found - exact).powi(2);
        self.exact += exact.powi(2);
    }

    fn relative(self) -> f64 {
        (self.error / self.exact).sqrt()
    }
}

fn floats(x: &Tensor) -> Vec<f64> {
    x.data::<f32>().expect("f32").iter().map(|&v| f64::from(v)).collect()
}

/// Root mean square over tensors of the error of each relative to its own size.
fn over_tensors(found: &BTreeMap<String, Tensor>, exact: &BTreeMap<String, Tensor>) -> f64 {
    let (mut sum, mut n) = (0.0, 0);
    for (name, exact) in exact {
        let mut norms = Norms::default();
        for (a, b) in floats(&found[name]).into_iter().zip(floats(exact)) {
            norms.add(a, b);
        }
        if norms.exact > 0.0 {
            println!("{name}: {:.2e} {:.2e}", norms.relative(), norms.exact.sqrt());
            sum += norms.relative().powi(2);
            n += 1;
        }
    }
    (sum / f64::from(n)).sqrt()
}

#[test]
fn steps_in_bf16() {
    let fixture = fixture();
    let device = Device::virtual_gpu();
    let exact = steps(&fixture, Place::Host);
    let reference = steps(&fixture, Place::Rounded);
    let found = steps(&fixture, Place::Device(&device, DType::Bf16));
    for s in 0..3 {
        println!("{:?} {:?} {:?}", exact.losses[s].0, reference.losses[s].0, found.losses[s].0);
        for i in 0..exact.losses[s].1.len() {
            println!(
                "   {:?} {:?} {:?}",
                exact.losses[s].1[i], reference.losses[s].1[i].1, found.losses[s].1[i].1
            );
        }
    }
    println!("reference");
    let r = over_tensors(&reference.gradients, &exact.gradients);
    println!("device");
    let d = over_tensors(&found.gradients, &exact.gradients);
    println!("grads {r:.3e} {d:.3e}");
    println!("waits {:?}", found.waits);
    let again = steps(&fixture, Place::Device(&Device::virtual_gpu(), DType::Bf16));
    assert!(bytes(&found) == bytes(&again));
}
