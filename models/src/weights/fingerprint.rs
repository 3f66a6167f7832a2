//! Fingerprints of weights: numbers that depend on names, shapes and values.

use std::collections::BTreeMap;

use dressage_engine::{DType, Param, Tensor, hash_name};
use rayon::prelude::*;

use super::StateDict;
use super::reading::of_reading;
use crate::Result;

/// Digests of parameters, by name.
pub type Digests = BTreeMap<String, u64>;

/// 64-bit fingerprint of parameters, as 16 hexadecimal digits. It is not a cryptographic hash: it
/// detects files that were mixed up, not files that were forged.
pub fn fingerprint<'a>(params: impl IntoIterator<Item = &'a Param>) -> String {
    fingerprint_with(params, &Digests::new())
}

/// As [`fingerprint`], with `known` digests for some parameters, which were rounded since, in place
/// of their values.
pub(crate) fn fingerprint_with<'a>(
    params: impl IntoIterator<Item = &'a Param>,
    known: &Digests,
) -> String {
    let params: Vec<&Param> = params.into_iter().collect();
    let each = params.par_iter().map(|p| match known.get(p.name()) {
        Some(digest) => *digest,
        None => digest(p.name(), &p.get()),
    });
    joined(each.collect())
}

/// Contribution of one parameter to the fingerprint, from name, shape and values.
pub(crate) fn digest(name: &str, value: &Tensor) -> u64 {
    let mut hash = Hash::new(&format!("{name} {:?}", value.shape()));
    hash.add(value.bytes());
    hash.finish()
}

/// Fingerprint of the tensors of a file. It does not depend on container, wrappers or metadata.
///
/// # Errors
/// A file that was changed or cut short, or cannot be read.
pub fn fingerprint_of(dict: &StateDict) -> Result<String> {
    let tensors: Vec<_> = dict.iter().collect();
    let each = tensors.par_iter().map(|(name, tensor)| {
        let mut hash = Hash::new(&format!("{name} {} {:?}", tensor.kind(), tensor.shape()));
        let add = &mut |run: &[u8]| {
            hash.add(run);
            Ok(())
        };
        tensor.each_run(add).map_err(of_reading)?;
        Ok(hash.finish())
    });
    Ok(joined(each.collect::<Result<_>>()?))
}

/// Fingerprint of f32 parameters that are filled from a dictionary (see [`fingerprint`]). Tensors
/// are converted one at a time; those without floats are left out.
///
/// # Errors
/// As [`fingerprint_of`].
pub fn fingerprint_of_floats(dict: &StateDict) -> Result<String> {
    let tensors: Vec<_> = dict.iter().collect();
    let each = tensors.par_iter().filter_map(|(name, tensor)| {
        let float = tensor.to_float(DType::F32).transpose()?;
        Some(float.map(|float| digest(name, &float)))
    });
    Ok(joined(each.collect::<Result<_>>()?))
}

fn joined(each: Vec<u64>) -> String {
    format!("{:016x}", each.into_iter().fold(0, |h, x| mix(h ^ x)))
}

/// A running hash of words of eight bytes. The last word is padded with zeros.
struct Hash {
    state: u64,
    /// Bytes of an incomplete word.
    rest: [u8; 8],
    filled: usize,
}

impl Hash {
    fn new(name: &str) -> Hash {
        Hash { state: hash_name(name), rest: [0; 8], filled: 0 }
    }

    fn add(&mut self, mut bytes: &[u8]) {
        if self.filled > 0 {
            let n = (8 - self.filled).min(bytes.len());
            self.rest[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
            self.filled += n;
            bytes = &bytes[n..];
            if self.filled < 8 {
                return;
            }
            self.word(self.rest);
        }
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(*word));
        self.rest = [0; 8];
        self.rest[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }

    fn word(&mut self, word: [u8; 8]) {
        self.state = mix(self.state ^ u64::from_le_bytes(word));
    }

    fn finish(mut self) -> u64 {
        if self.filled > 0 {
            self.word(self.rest);
        }
        self.state
    }
}

/// One multiply-xorshift round (the finaliser of SplitMix64, shortened).
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^ (x >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::Linear;
    use crate::params::{Init, Precision, Scope};
    use crate::weights::StateDict;

    #[test]
    fn pieces_hash_like_the_whole() {
        let bytes: Vec<u8> = (0..45).collect();
        let whole = |bytes: &[u8]| {
            let mut hash = Hash::new("a");
            hash.add(bytes);
            hash.finish()
        };
        // The definition: words of eight bytes, the last one padded.
        let want = bytes.chunks(8).fold(hash_name("a"), |h, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mix(h ^ u64::from_le_bytes(word))
        });
        assert_eq!(whole(&bytes), want);
        for piece in [1, 2, 3, 7, 8, 9, 20] {
            let mut hash = Hash::new("a");
            bytes.chunks(piece).for_each(|p| hash.add(p));
            assert_eq!(hash.finish(), want, "pieces of {piece}");
        }
        assert_ne!(whole(&bytes[..44]), want);
    }

    /// A frozen and a trained layer, and the fingerprint of their parameters.
    fn layers(precision: Precision) -> (BTreeMap<String, Param>, String) {
        let root = Scope::with_weights(DType::F32, precision, 3, StateDict::default(), &[]);
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
