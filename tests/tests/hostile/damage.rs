//! Intact files with damage at every byte: flipped bits, cut short, lengthened, or an overwritten
//! number.

use dressage_engine::Philox;
use dressage_tests::samples::{self, Sample};

use super::{Case, Expect};

pub fn cases() -> Vec<Case> {
    let samples = samples::all().expect("samples");
    samples.iter().enumerate().flat_map(|(i, sample)| of(i, sample)).collect()
}

fn of(number: usize, sample: &Sample) -> Vec<Case> {
    let (form, whole) = (sample.form, &sample.bytes);
    let mut cases = vec![Case::new(form, sample.name, whole.clone(), Expect::Loads)];
    let mut add = |what: String, bytes: Vec<u8>, expect: Expect| {
        cases.push(Case::new(form, format!("{} {what}", sample.name), bytes, expect));
    };
    for keep in 0..whole.len() {
        // A picture can be read without the bytes after its pixels.
        let expect = if form.is_checkpoint() { Expect::Refused } else { Expect::Either };
        add(format!("cut to {keep} bytes"), whole[..keep].to_vec(), expect);
    }
    let mut random = Philox::new(number as u64, 0x484F_5354, 0, 0);
    let mut below = |n: usize| random.below(n as u32) as usize;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << below(8);
        add(format!("bit flipped in byte {at}"), bytes, Expect::Either);
        let mut bytes = whole.clone();
        let value = [0, 0x7F, 0x80, 0xFF][below(4)];
        let end = (at + [1, 2, 4, 8][below(4)]).min(bytes.len());
        bytes[at..end].fill(value);
        add(format!("bytes {at} to {end} set to {value}"), bytes, Expect::Either);
    }
    for _ in 0..200 {
        let mut bytes = whole.clone();
        for _ in 0..2 + below(30) {
            let at = below(bytes.len());
            bytes[at] = below(256) as u8;
        }
        let name = format!("with {} noise", below(1 << 30));
        add(name, bytes, Expect::Either);
        // A piece of the file is moved to another place, where lengths no longer fit.
        let (from, to, n) = (below(whole.len()), below(whole.len()), 1 + below(64));
        let mut bytes = whole.clone();
        let piece: Vec<u8> = bytes.drain(from..(from + n).min(whole.len())).collect();
        let to = to.min(bytes.len());
        bytes.splice(to..to, piece);
        add(format!("{n} bytes moved from {from} to {to}"), bytes, Expect::Either);
    }
    cases
}
