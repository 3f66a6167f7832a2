//! Interrupted downloads: files of full length that end in zeros.
//!
//! A downloader may reserve the whole length first, so missing data is zeros. A zip archive then
//! lacks its directory, but a safetensors file lacks nothing that a reader needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use dressage_engine::MappedFile;

use super::reading::{of_reading, read_at};
use super::{Container, StateDict, Stored};
use crate::{ModelError, Result};

/// Points of evidence for an unfinished download; some tensors are legitimately zero.
const ENOUGH: usize = 2;

/// Numbers of zeros at the end of a tensor: more than chance, and proof for a matrix.
const ZEROS: [usize; 2] = [16, 256];

/// Parts of names of tensors that are never completely zero.
const NEVER_ZERO: [&str; 4] = ["patch_embed", "pos_embed", "position_embedding", "projection"];

/// Checks that no file without checksums ends in zeros in place of weights. A file whose last
/// tensor ends in other values costs one small read.
///
/// # Errors
/// [`ModelError::Damaged`]; a file that cannot be read.
pub fn check(dict: &StateDict) -> Result<()> {
    let unsummed = [Container::Safetensors, Container::Legacy];
    if dict.source().is_none_or(|source| !unsummed.contains(&source.container)) {
        return Ok(());
    }
    let mut files = BTreeMap::<usize, (Arc<MappedFile>, Vec<Placed<'_>>)>::new();
    for (name, stored) in dict.iter().filter(|(_, stored)| !stored.is_summed()) {
        let Some((pages, range)) = stored.range() else { continue };
        let file = files.entry(Arc::as_ptr(pages) as usize);
        file.or_insert_with(|| (pages.clone(), Vec::new())).1.push((range, name, stored));
    }
    files.into_values().try_for_each(|(pages, tensors)| whole(&pages, tensors))
}

/// Byte range, name and tensor.
type Placed<'a> = (std::ops::Range<usize>, &'a String, &'a Stored);

fn whole(pages: &MappedFile, tensors: Vec<Placed<'_>>) -> Result<()> {
    let Some(end) = tensors.iter().map(|(range, ..)| range.end).max() else { return Ok(()) };
    let start = tensors.iter().map(|(range, ..)| range.start).min().unwrap_or(0);
    let zeros = end - zeros_from(pages, start, end).map_err(of_reading)?;
    let points: usize = tensors.into_iter().map(|placed| judged(placed, end - zeros)).sum();
    if points < ENOUGH {
        return Ok(());
    }
    let cause = format!(
        "the last {zeros} of its {} bytes are zeros, as of a download that was not finished",
        pages.len()
    );
    Err(ModelError::Damaged { path: pages.path().to_path_buf(), cause })
}

/// Points of evidence in a tensor whose file is zero from byte `from` on.
fn judged((range, name, stored): Placed<'_>, from: usize) -> usize {
    if range.end <= from || !stored.kind().is_float() || stored.is_empty() {
        return 0;
    }
    let matrix = stored.shape().iter().filter(|n| **n > 1).count() > 1;
    let gains = !matrix && name.contains("norm") && name.ends_with(".weight");
    if range.start < from {
        let zeros = (range.end - from) / stored.kind().size();
        return match zeros {
            n if n < ZEROS[0] => 0,
            n if gains || (matrix && n >= ZEROS[1]) => ENOUGH,
            // A few channels may be dead.
            _ => 1,
        };
    }
    match NEVER_ZERO.iter().any(|part| matrix && name.contains(part)) || gains {
        true => ENOUGH,
        // A layer initialised to zeros is followed by one that is not.
        false => usize::from(matrix),
    }
}

/// The first byte of the zeros that end at `end`, not before `start`.
fn zeros_from(pages: &MappedFile, start: usize, end: usize) -> std::io::Result<usize> {
    const PIECE: usize = 1 << 16;
    let (mut at, mut piece) = (end, vec![0; PIECE]);
    while at > start {
        let n = (at - start).min(PIECE);
        let piece = &mut piece[..n];
        read_at(pages, at - n, piece)?;
        if let Some(last) = piece.iter().rposition(|b| *b != 0) {
            return Ok(at - n + last + 1);
        }
        at -= n;
    }
    Ok(start)
}

#[cfg(test)]
mod tests {
    use dressage_engine::Tensor;

    use super::*;
    use crate::weights::write;

    /// Checks a file of tensors with these names and shapes. The last `cut` bytes are zero, and so
    /// are tensors for which `zero` is true. The file has its own order of tensors.
    fn file(shapes: &[(&str, &[usize])], zero: impl Fn(&str) -> bool, cut: usize) -> Result<()> {
        let tensor = |name: &str, shape: &[usize]| {
            let n = shape.iter().product();
            let value = if zero(name) { 0.0 } else { 0.3 };
            Tensor::from_slice(&vec![value as f32; n], shape).expect("tensor")
        };
        let tensors: Vec<(_, Stored)> =
            shapes.iter().map(|(n, s)| (*n, tensor(n, s).into())).collect();
        let mut bytes = Vec::new();
        // Without checksums, as in files of other programs.
        let all = tensors.iter().map(|(name, t)| (*name, t, t.kind())).collect();
        write(all, &[], &mut bytes).expect("written");
        let n = bytes.len();
        bytes[n - cut..].fill(0);
        let dict = StateDict::from_bytes("some.safetensors".as_ref(), &bytes).expect("opened");
        check(&dict)
    }

    const BACKBONE: [(&str, &[usize]); 8] = [
        ("blocks.0.attn.qkv.bias", &[96]),
        ("blocks.0.attn.qkv.weight", &[96, 32]),
        ("blocks.0.norm1.bias", &[32]),
        ("blocks.0.norm1.weight", &[32]),
        ("norm.bias", &[32]),
        ("norm.weight", &[32]),
        ("patch_embed.proj.weight", &[32, 3, 4, 4]),
        ("pos_embed", &[1, 17, 32]),
    ];

    #[test]
    fn unfinished_downloads_are_noticed_wherever_they_stopped() {
        let bytes: usize = BACKBONE.iter().map(|(_, s)| 4 * s.iter().product::<usize>()).sum();
        file(&BACKBONE, |_| false, 0).expect("whole");
        file(&BACKBONE, |_| false, 1023).expect("fewer zeros than mean something");
        for cut in (1024..bytes).step_by(97).chain([bytes]) {
            // Untrained biases are zeros in an intact file too.
            for zero in [|_: &str| false, |name: &str| name.ends_with("bias")] {
                let error = file(&BACKBONE, zero, cut).expect_err("unfinished").to_string();
                let words = ["some.safetensors", "bytes are zeros", "not finished"];
                assert!(words.iter().all(|w| error.contains(w)), "{cut}: {error}");
            }
        }
    }

    #[test]
    fn tensors_that_begin_as_zeros_are_no_fault() {
        let starts: [(&str, &[usize]); 4] = [
            ("a.lora_A.weight", &[64, 4]),
            ("a.lora_B.weight", &[4, 64]),
            ("z.lora_A.weight", &[64, 4]),
            ("z.lora_B.weight", &[4, 64]),
        ];
        file(&starts, |name| name.contains("lora_B"), 0).expect("a fresh low-rank adapter");
        let head: [(&str, &[usize]); 4] = [
            ("attention_weights.bias", &[96]),
            ("attention_weights.weight", &[96, 64]),
            ("mask_token", &[1, 64]),
            ("norm.weight", &[64]),
        ];
        let tail: [(&str, &[usize]); 3] =
            [("norm.bias", &[64]), ("norm.weight", &[64]), ("offsets.weight", &[64, 64])];
        file(&head, |name| name != "norm.weight", 0).expect("all but the last");
        file(&tail, |name| !name.ends_with("norm.weight"), 0).expect("one matrix of zeros");
        file(&[("mask_token", &[1, 64])], |_| true, 0).expect("a vector");
    }
}
