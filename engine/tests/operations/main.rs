//! Every differentiable operation: against central differences in f64, and on a device against
//! the host. One table of cases serves both.

mod cases;
mod device;
mod gradients;
mod graphs;

/// Names of the functions that `ops` exports.
fn exported() -> Vec<&'static str> {
    let text = include_str!("../../src/ops/mod.rs");
    let uses = text.split("pub use ").skip(1).filter_map(|part| part.split_once(';'));
    let names = uses.filter_map(|(path, _)| path.split_once("::")).flat_map(|(_, names)| {
        names.trim_matches(['{', '}']).split(',').map(str::trim).filter(|name| !name.is_empty())
    });
    names.filter(|name| name.starts_with(char::is_lowercase)).collect()
}

#[test]
fn every_operation_has_a_case() {
    let cases = [include_str!("cases.rs"), include_str!("cases/attention.rs")];
    let calls = |name: &str| cases.iter().any(|text| text.contains(&format!("ops::{name}(")));
    let without: Vec<_> = exported().into_iter().filter(|name| !calls(name)).collect();
    // Masks and codes of positions have no gradient; a cast in host memory does nothing.
    let no_gradient = [
        "attention_mask",
        "sine_position",
        "match_cost",
        "sample_labels",
        "semantic_scores",
        "uncertain_points",
    ];
    assert_eq!(without, [&["cast"][..], &no_gradient].concat());
    assert!(exported().len() > 40, "{:?}", exported());
}
