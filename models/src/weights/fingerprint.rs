//! Which weights are these? A number that depends on names, shapes and values.

use dressage_engine::{Param, hash_name};
use rayon::prelude::*;

/// 64-bit fingerprint of parameters, as 16 hexadecimal digits. Not a cryptographic hash: it tells
/// files apart that were mixed up, not files that were forged.
pub fn fingerprint<'a>(params: impl IntoIterator<Item = &'a Param>) -> String {
    let params: Vec<&Param> = params.into_iter().collect();
    let each: Vec<u64> = params
        .par_iter()
        .map(|p| {
            let value = p.get();
            let name = hash_name(&format!("{} {:?}", p.name(), value.shape()));
            value.bytes().chunks(8).fold(name, |h, chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                mix(h ^ u64::from_le_bytes(word))
            })
        })
        .collect();
    format!("{:016x}", each.into_iter().fold(0, |h, x| mix(h ^ x)))
}

/// One multiply-xorshift round (the finaliser of SplitMix64, shortened).
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^ (x >> 29)
}
