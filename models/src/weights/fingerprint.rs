//! Which weights are these? A number that depends on names, shapes and values.

use std::collections::BTreeMap;

use dressage_engine::{Param, Tensor, hash_name};
use rayon::prelude::*;

/// Numbers that stand for values, by name of the parameter.
pub type Digests = BTreeMap<String, u64>;

/// 64-bit fingerprint of parameters, as 16 hexadecimal digits. Not a cryptographic hash: it tells
/// files apart that were mixed up, not files that were forged.
pub fn fingerprint<'a>(params: impl IntoIterator<Item = &'a Param>) -> String {
    fingerprint_with(params, &Digests::new())
}

/// As [`fingerprint`], with `known` digests in place of the values of some parameters: those that
/// were rounded since.
pub fn fingerprint_with<'a>(
    params: impl IntoIterator<Item = &'a Param>,
    known: &Digests,
) -> String {
    let params: Vec<&Param> = params.into_iter().collect();
    let each: Vec<u64> = params
        .par_iter()
        .map(|p| match known.get(p.name()) {
            Some(digest) => *digest,
            None => digest(p.name(), &p.get()),
        })
        .collect();
    format!("{:016x}", each.into_iter().fold(0, |h, x| mix(h ^ x)))
}

/// What name, shape and values of one parameter add to the fingerprint.
pub fn digest(name: &str, value: &Tensor) -> u64 {
    let name = hash_name(&format!("{name} {:?}", value.shape()));
    value.bytes().chunks(8).fold(name, |h, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(h ^ u64::from_le_bytes(word))
    })
}

/// One multiply-xorshift round (the finaliser of SplitMix64, shortened).
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^ (x >> 29)
}

#[cfg(test)]
mod tests {
    use dressage_engine::DType;

    use super::*;
    use crate::build::{Init, Linear, Precision, Scope};

    /// A frozen and a trained layer, and the fingerprint of their parameters.
    fn layers(precision: Precision) -> (BTreeMap<String, Param>, String) {
        let root = Scope::new(DType::F32, 3).precision(precision);
        let init = || Init::Normal(1.0);
        Linear::new(&root.sub("frozen").trainable(false), 7, 5, init(), init());
        Linear::new(&root.sub("trained"), 7, 5, init(), init());
        let params = root.finish("layers", &[]).expect("built");
        let fingerprint = fingerprint_with(params.values(), &root.digests());
        (params, fingerprint)
    }

    #[test]
    fn rounding_narrows_frozen_matrices_alone_and_keeps_the_fingerprint() {
        let ((wide, before), (narrow, after)) = (layers(Precision::F32), layers(Precision::Bf16));
        assert_eq!(before, after);
        assert_ne!(fingerprint(wide.values()), fingerprint(narrow.values()));
        for (name, param) in &narrow {
            let rounded = name == "frozen.weight";
            assert_eq!(param.get().dtype() == DType::Bf16, rounded, "{name}");
            let same = param.get().bytes() == wide[name].get().bytes();
            assert_eq!(same, !rounded, "{name}");
        }
    }
}
