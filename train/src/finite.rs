//! Check that training can continue from a state: weights and moments are finite.

use dressage_engine::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::optimiser::SECOND;

/// Describes the fault in a checkpoint's f32 tensor: a value that is not finite, or a negative
/// second moment. `None` if there is no fault.
///
/// # Errors
/// A tensor of another type, or one on a device.
pub(crate) fn fault(name: &str, tensor: &Tensor) -> Result<Option<String>> {
    let values = tensor.data::<f32>()?;
    let mut found = tensor.first_not_finite().map(|(at, _)| at);
    if found.is_none() && name.starts_with(SECOND) {
        found = values.par_iter().position_first(|v| *v < 0.0);
    }
    let fault = |at| format!("{name} holds {} (element {at} of {})", values[at], values.len());
    Ok(found.map(fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bad_value_is_named() {
        let fault = |name: &str, values: &[f32]| {
            let tensor = Tensor::from_slice(values, &[values.len()]).expect("tensor");
            fault(name, &tensor).expect("f32")
        };
        let mut values = vec![1.0; 200_000];
        assert_eq!(fault("a", &values), None);
        values[130_003] = f32::INFINITY;
        values[190_004] = f32::NAN;
        let found = fault("a", &values).expect("infinite");
        assert_eq!(found, "a holds inf (element 130003 of 200000)");
        let below = [0.5, -1e-12];
        assert_eq!(fault("optimiser.m.a", &below), None);
        // As f32 has it, not with the digits of f64.
        let found = fault("optimiser.v.a", &below).expect("below 0");
        assert!(found.contains("holds -0.000000000001 "), "{found}");
    }
}
