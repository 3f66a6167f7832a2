//! ConvNeXt under timm's names (`backbones/`).

use dressage_models::backbone::{ConvNext, ConvNextConfig};
use dressage_tests::Outcome;
use dressage_tests::compare::Table;
use dressage_tests::fixture::{Fixture, Settings};

use crate::case::{Case, WEIGHT};

/// Compares the stem, and each stage before and after the norm of its map.
pub fn timm(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let four = |key: &str| -> Outcome<[usize; 4]> {
        let sizes = fixture.json.sizes(key)?;
        sizes.try_into().map_err(|all| format!("{key} {all:?}: four stages are needed").into())
    };
    let config = ConvNextConfig { widths: four("dims")?, depths: four("depths")? };
    let whole = config.clone().into();
    let mut case = Case::new(fixture, table, whole, WEIGHT, |scope| ConvNext::new(scope, config))?;
    let input = fixture.floats("input")?.leaf();
    let mut x = input.clone();
    for i in 0..4 {
        x = case.net.reduce(i, &x)?;
        if i == 0 {
            case.add_map("stem", &x)?;
        }
        x = case.net.blocks(i, x, None)?;
        case.add_map(&format!("stage.{i}"), &x)?;
        let map = case.net.tap(i, &x)?;
        case.add_map(&format!("stage_norm.{i}"), &map)?;
    }
    case.finish(&[("grad.input", input)], |_| true)
}
