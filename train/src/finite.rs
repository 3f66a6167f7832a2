//! States that can be gone on from: weights and moments that are numbers.

use rayon::prelude::*;

use crate::optimiser::SECOND;

/// Values that one task looks at.
const CHUNK: usize = 1 << 16;

/// What is wrong with the values of a tensor of a checkpoint, with the first such value: one that
/// is infinite or not a number, or a second moment below zero.
pub(crate) fn wrong(name: &str, values: &[f32]) -> Option<String> {
    let square = name.starts_with(SECOND);
    let good = |v: f32| v.is_finite() & (!square | (v >= 0.0));
    // Without an early end within a chunk, which would keep it from being done in vectors.
    let all = |chunk: &[f32]| chunk.iter().fold(true, |all, v| all & good(*v));
    if values.par_chunks(CHUNK).all(all) {
        return None;
    }
    let (at, value) = values.iter().enumerate().find(|(_, v)| !good(**v))?;
    Some(format!("{name} holds {value} (element {at} of {})", values.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bad_value_is_named() {
        let mut values = vec![1.0; 3 * CHUNK + 5];
        assert_eq!(wrong("a", &values), None);
        values[2 * CHUNK + 3] = f32::INFINITY;
        values[3 * CHUNK + 4] = f32::NAN;
        let found = wrong("a", &values).expect("infinite");
        assert_eq!(found, format!("a holds inf (element {} of {})", 2 * CHUNK + 3, values.len()));
        let below = [0.5, -0.25];
        assert_eq!(wrong("optimiser.m.a", &below), None);
        assert!(wrong("optimiser.v.a", &below).expect("below 0").contains("holds -0.25"));
    }
}
