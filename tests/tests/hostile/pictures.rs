//! Pictures with false sizes in their headers, or with chunks and segments that make no sense.

use dressage_tests::samples::{self, Form};

use super::{Case, Expect};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for sample in samples::all().expect("samples") {
        match sample.form {
            Form::Png => png(sample.name, &sample.bytes, &mut cases),
            Form::Jpeg => jpeg(sample.name, &sample.bytes, &mut cases),
            _ => {}
        }
    }
    cases
}

/// The chunks of a PNG: kind and data.
fn chunks(bytes: &[u8]) -> Vec<([u8; 4], Vec<u8>)> {
    let mut chunks = Vec::new();
    let mut at = 8;
    while at + 12 <= bytes.len() {
        let size = u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
        let kind = bytes[at + 4..at + 8].try_into().expect("four bytes");
        chunks.push((kind, bytes[at + 8..at + 8 + size].to_vec()));
        at += 12 + size;
    }
    chunks
}

/// A PNG of these chunks, with correct checksums.
fn joined(chunks: &[([u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in chunks {
        bytes.extend((data.len() as u32).to_be_bytes());
        let covered = [&kind[..], data].concat();
        bytes.extend(&covered);
        bytes.extend(crc32fast::hash(&covered).to_be_bytes());
    }
    bytes
}

fn png(name: &str, whole: &[u8], cases: &mut Vec<Case>) {
    let chunks = chunks(whole);
    let mut add = |what: String, bytes: Vec<u8>, expect: Expect| {
        cases.push(Case::new(Form::Png, format!("{name} {what}"), bytes, expect));
    };
    // Sizes that no such file can contain.
    let max = i32::MAX as u32;
    for (w, h) in [
        (max, max),
        (1, max),
        (max, 1),
        (1 << 16, 1 << 16),
        (1 << 20, 1 << 20),
        (u32::MAX, u32::MAX),
    ] {
        let mut changed = chunks.clone();
        changed[0].1[..4].copy_from_slice(&w.to_be_bytes());
        changed[0].1[4..8].copy_from_slice(&h.to_be_bytes());
        add(format!("of {w}x{h}"), joined(&changed), Expect::Refused);
        changed[0].1[12] = 1;
        add(format!("of {w}x{h}, interlaced"), joined(&changed), Expect::Refused);
    }
    for (w, h) in [(0u32, 0u64), (0, 5), (5, 0), (1, 1), (15, 16), (17, 16), (2000, 3), (3, 2000)] {
        let mut changed = chunks.clone();
        changed[0].1[..8].copy_from_slice(&((u64::from(w) << 32) | h).to_be_bytes());
        add(format!("of {w}x{h}"), joined(&changed), Expect::Either);
    }
    for depth in [0, 1, 2, 3, 4, 8, 16, 32, 255] {
        for colour in [0, 1, 2, 3, 4, 5, 6, 7, 255] {
            let mut changed = chunks.clone();
            (changed[0].1[8], changed[0].1[9]) = (depth, colour);
            add(format!("of depth {depth} and colour {colour}"), joined(&changed), Expect::Either);
        }
    }
    for (at, value) in [(10, 1), (10, 255), (11, 1), (11, 255), (12, 1), (12, 2), (12, 255)] {
        let mut changed = chunks.clone();
        changed[0].1[at] = value;
        add(format!("with byte {at} of its header {value}"), joined(&changed), Expect::Either);
    }
    for i in 0..chunks.len() {
        let mut changed = chunks.clone();
        let chunk = changed.remove(i);
        add(format!("without chunk {i}"), joined(&changed), Expect::Either);
        changed.insert(0, chunk.clone());
        add(format!("with chunk {i} first"), joined(&changed), Expect::Either);
        let twice = [&chunks[..=i], &chunks[i..]].concat();
        add(format!("with chunk {i} twice"), joined(&twice), Expect::Either);
        let many = [&chunks[..i], &vec![chunk; 1000], &chunks[i..]].concat();
        add(format!("with chunk {i} a thousand times"), joined(&many), Expect::Either);
        // A complete chunk with a correct checksum, but cut contents.
        let size = chunks[i].1.len();
        for keep in (0..6).chain(size.saturating_sub(6)..size) {
            let mut cut = chunks.clone();
            cut[i].1.truncate(keep);
            add(format!("with {keep} bytes of chunk {i}"), joined(&cut), Expect::Either);
        }
    }
    extra(name, &chunks, cases);
}

/// Chunks that describe more than the picture.
fn extra(name: &str, chunks: &[([u8; 4], Vec<u8>)], cases: &mut Vec<Case>) {
    let bomb = {
        use std::io::Write;
        let best = flate2::Compression::best();
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), best);
        encoder.write_all(&vec![0; 1 << 24]).expect("deflated");
        encoder.finish().expect("deflated")
    };
    let with_bomb = |head: &[u8]| [head, &bomb].concat();
    let extras: [(&str, [u8; 4], Vec<u8>); 14] = [
        ("a profile of 16 MiB", *b"iCCP", with_bomb(b"x\0\0")),
        ("a text of 16 MiB", *b"zTXt", with_bomb(b"x\0\0")),
        ("a text of 16 MiB in English", *b"iTXt", with_bomb(b"x\0\x01\0en\0x\0")),
        ("no transparency", *b"tRNS", vec![]),
        ("much transparency", *b"tRNS", vec![1; 5000]),
        ("a palette of nothing", *b"PLTE", vec![]),
        ("a palette of 4 bytes", *b"PLTE", vec![1; 4]),
        ("a palette of 3000 bytes", *b"PLTE", vec![1; 3000]),
        ("an animation of 2^32 frames", *b"acTL", vec![0xFF; 8]),
        ("a frame beyond", *b"fcTL", vec![0xFF; 26]),
        ("a frame of nothing", *b"fcTL", vec![0; 26]),
        ("a gamma of nothing", *b"gAMA", vec![0; 4]),
        ("an EXIF of noise", *b"eXIf", (0..200).map(|i| i as u8).collect()),
        ("an unknown chunk that matters", *b"ABCD", vec![7; 10]),
    ];
    for (what, kind, data) in extras {
        for at in 1..chunks.len() {
            let mut changed = chunks.to_vec();
            changed.insert(at, (kind, data.clone()));
            let name = format!("{name} with {what} before chunk {at}");
            cases.push(Case::new(Form::Png, name, joined(&changed), Expect::Either));
        }
    }
    // Far too many pixels after a small header, and a stream that stops.
    let pixels = chunks.iter().position(|(kind, _)| kind == b"IDAT").expect("pixels");
    let mut changed = chunks.to_vec();
    changed[pixels].1 = bomb.clone();
    let name = format!("{name} with pixels of 16 MiB");
    cases.push(Case::new(Form::Png, name, joined(&changed), Expect::Either));
}

/// Positions of the segments of a JPEG, up to its first scan.
fn segments(bytes: &[u8]) -> Vec<(usize, u8, usize)> {
    let mut found = Vec::new();
    let mut at = 2;
    while at + 4 <= bytes.len() && bytes[at] == 0xFF {
        let size = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        found.push((at, bytes[at + 1], size));
        at += 2 + size;
        if found.last().is_some_and(|s| s.1 == 0xDA) {
            break;
        }
    }
    found
}

fn jpeg(name: &str, whole: &[u8], cases: &mut Vec<Case>) {
    let segments = segments(whole);
    let mut add = |what: String, bytes: Vec<u8>, expect: Expect| {
        cases.push(Case::new(Form::Jpeg, format!("{name} {what}"), bytes, expect));
    };
    let &(frame, ..) = segments.iter().find(|s| s.1 == 0xC0).expect("a frame");
    let sized = |w: u16, h: u16| {
        let mut bytes = whole.to_vec();
        bytes[frame + 5..frame + 7].copy_from_slice(&h.to_be_bytes());
        bytes[frame + 7..frame + 9].copy_from_slice(&w.to_be_bytes());
        bytes
    };
    for (w, h) in [(65535, 65535), (65535, 4000), (4000, 65535), (20000, 20000)] {
        add(format!("of {w}x{h}"), sized(w, h), Expect::Refused);
        for kind in [0xC1, 0xC2, 0xC9] {
            let mut bytes = sized(w, h);
            bytes[frame + 1] = kind;
            add(format!("of {w}x{h} and frame {kind:#x}"), bytes, Expect::Refused);
        }
    }
    for (w, h) in [(0, 0), (0, 9), (9, 0), (1, 1), (40, 18), (33, 500), (500, 18), (700, 700)] {
        add(format!("of {w}x{h}"), sized(w, h), Expect::Either);
    }
    // Each byte of the headers is set to values that are too large, too small or another marker.
    let scan = segments.last().map_or(whole.len(), |s| s.0 + 2 + s.2);
    for at in 2..scan {
        for value in [0, 1, 4, 0x0F, 0x44, 0xC2, 0xD9, 0xFF] {
            let mut bytes = whole.to_vec();
            bytes[at] = value;
            add(format!("with byte {at} of its headers {value}"), bytes, Expect::Either);
        }
    }
    for (i, &(at, kind, size)) in segments.iter().enumerate() {
        let segment = &whole[at..at + 2 + size];
        let without = [&whole[..at], &whole[at + 2 + size..]].concat();
        add(format!("without segment {i} ({kind:#x})"), without, Expect::Either);
        for n in [1, 2, 500] {
            let many = [&whole[..at], &segment.repeat(n)[..], &whole[at..]].concat();
            add(format!("with segment {i} {n} times more"), many, Expect::Either);
        }
        let late = [&whole[..scan], segment, &whole[scan..]].concat();
        add(format!("with segment {i} inside the scan"), late, Expect::Either);
    }
    let behind = whole.len() - 2;
    let fill = |n: usize, byte: u8| [&whole[..behind], &vec![byte; n], &whole[behind..]].concat();
    add("with 100,000 bytes more in its scan".into(), fill(100_000, 0x55), Expect::Either);
    add("with zeros in its scan".into(), fill(100_000, 0), Expect::Either);
    add("with 50,000 restart markers".into(), fill(50_000, 0xD0), Expect::Either);
    add("twice".into(), [whole, whole].concat(), Expect::Either);
    let scans = [&whole[..behind], &whole[segments[segments.len() - 1].0..]].concat();
    add("with two scans".into(), scans, Expect::Either);
    exif(name, whole, cases);
}

fn exif(name: &str, whole: &[u8], cases: &mut Vec<Case>) {
    let tags: [(&str, &[u8]); 6] = [
        ("nothing", b""),
        ("a header only", b"MM\0\x2A\0\0\0\x08"),
        ("a table beyond", b"MM\0\x2A\xFF\xFF\xFF\xFF"),
        ("65535 tags", b"MM\0\x2A\0\0\0\x08\xFF\xFF"),
        ("orientation 0", b"MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\0\0\0\0\0\0\0"),
        ("orientation 99", b"II\x2A\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0"),
    ];
    for (what, tags) in tags {
        let body = [b"Exif\0\0", tags].concat();
        let size = (body.len() as u16 + 2).to_be_bytes();
        let bytes = [&whole[..2], b"\xFF\xE1", &size, &body, &whole[2..]].concat();
        cases.push(Case::new(
            Form::Jpeg,
            format!("{name} with EXIF of {what}"),
            bytes,
            Expect::Either,
        ));
    }
    for (number, count) in [(0, 0), (1, 1), (1, 255), (255, 255), (2, 1)] {
        let body = [&b"ICC_PROFILE\0"[..], &[number, count], &[7; 1000]].concat();
        let size = (body.len() as u16 + 2).to_be_bytes();
        let part = [&b"\xFF\xE2"[..], &size, &body].concat();
        let bytes = [&whole[..2], &part.repeat(20)[..], &whole[2..]].concat();
        let name = format!("{name} with profile part {number} of {count}, 20 times");
        cases.push(Case::new(Form::Jpeg, name, bytes, Expect::Either));
    }
}
