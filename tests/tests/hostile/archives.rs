//! Zip archives with false sizes or positions in the directory, compressed or overlapping entries,
//! or names that point elsewhere.

use std::io::{Cursor, Write};

use dressage_tests::checkpoint::{Archive, Content, Entry, torchscript_pickle, zip_pickle};
use dressage_tests::samples::{self, Form};
use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::{Case, Expect};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for sample in samples::all().expect("samples") {
        if matches!(sample.form, Form::Zip | Form::TorchScript) {
            fields(sample.form, sample.name, &sample.bytes, &mut cases);
            ends(sample.form, sample.name, &sample.bytes, &mut cases);
            flips(sample.form, sample.name, &sample.bytes, &mut cases);
        }
    }
    names(&mut cases);
    bombs(&mut cases);
    contents(&mut cases);
    cases
}

/// Positions of `mark` in an archive.
fn marks(bytes: &[u8], mark: &[u8]) -> Vec<usize> {
    (0..bytes.len()).filter(|at| bytes[*at..].starts_with(mark)).collect()
}

fn patched(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let end = (at + with.len()).min(bytes.len());
    bytes[at..end].copy_from_slice(&with[..end - at]);
    bytes
}

/// Test values for a field of `width` bytes.
fn values(width: usize) -> Vec<Vec<u8>> {
    let all: [u64; 9] = [0, 1, 2, 7, 8, 0x7FFF, 0xFFFF, 0xFFFF_FFFE, u64::MAX];
    all.iter().map(|v| v.to_le_bytes()[..width].to_vec()).collect()
}

/// A field of a record: position and width.
type Field = (usize, usize);

/// A file of an archive: name and bytes.
type File<'a> = (&'a str, &'a [u8]);

/// Fields of a directory record.
const LISTED: [Field; 9] =
    [(8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4)];

/// Fields of the header before an entry.
const LOCAL: [Field; 7] = [(0, 4), (6, 2), (8, 2), (18, 4), (22, 4), (26, 2), (28, 2)];

/// Fields of the end records of the directory: the 64-bit one, its locator, the short one.
const END_64: [Field; 5] = [(4, 8), (24, 8), (32, 8), (40, 8), (48, 8)];
const LOCATOR: [Field; 3] = [(4, 4), (8, 8), (16, 4)];
const END: [Field; 7] = [(4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)];

fn fields(form: Form, name: &str, whole: &[u8], cases: &mut Vec<Case>) {
    let records: [(&[u8], &[Field]); 5] = [
        (b"PK\x01\x02", &LISTED),
        (b"PK\x03\x04", &LOCAL),
        (b"PK\x06\x06", &END_64),
        (b"PK\x06\x07", &LOCATOR),
        (b"PK\x05\x06", &END),
    ];
    for (mark, fields) in records {
        for start in marks(whole, mark) {
            for (at, width) in fields {
                for value in values(*width) {
                    let what = format!("{name} field {} at {start} is {value:?}", start + at);
                    let bytes = patched(whole, start + at, &value);
                    cases.push(Case::new(form, what, bytes, Expect::Either));
                }
            }
        }
    }
}

/// Flips one bit in each byte of a value, which checksums detect if there are any.
fn flips(form: Form, name: &str, whole: &[u8], cases: &mut Vec<Case>) {
    let expect = if name == "zip-unsummed" { Expect::Loads } else { Expect::Refused };
    for entry in samples::entries() {
        // Shorter values might also occur outside of values.
        let Content::Bytes(values) = entry.content else { continue };
        let starts = if values.len() < 8 { Vec::new() } else { marks(whole, &values) };
        for (start, i) in starts.iter().flat_map(|start| (0..values.len()).map(|i| (*start, i))) {
            let flipped = patched(whole, start + i, &[whole[start + i] ^ 1 << (i % 8)]);
            let what = format!("{name} a bit of {} flipped at {}", entry.name, start + i);
            cases.push(Case::new(form, what, flipped, expect));
        }
    }
}

/// Adds bytes before, between and after the parts of an archive.
fn ends(form: Form, name: &str, whole: &[u8], cases: &mut Vec<Case>) {
    let mut add = |what: &str, bytes: Vec<u8>, expect: Expect| {
        cases.push(Case::new(form, format!("{name} {what}"), bytes, expect));
    };
    let short = whole.len() - 22;
    add("with bytes behind", [whole, b"more"].concat(), Expect::Refused);
    add("with bytes before", [b"PK\x03\x04 and more", whole].concat(), Expect::Refused);
    add("twice", [whole, whole].concat(), Expect::Either);
    // A comment with the end record of another archive.
    let mut comment = patched(whole, short + 20, &22u16.to_le_bytes());
    comment.extend(b"PK\x05\x06\0\0\0\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0");
    add("with an end in its comment", comment, Expect::Either);
    let mut long = patched(whole, short + 20, &u16::MAX.to_le_bytes());
    long.extend(b"PK\x05\x06".repeat(16384));
    add("with a comment of ends", long, Expect::Either);
    // The 64-bit end record points at itself, beyond the file, and at the first entry.
    let at = marks(whole, b"PK\x06\x07");
    for locator in at {
        for to in [0, 1, locator as u64, whole.len() as u64 - 3, u64::MAX - 55, u64::MAX] {
            let bytes = patched(whole, locator + 8, &to.to_le_bytes());
            add(&format!("with its 64-bit end at {to}"), bytes, Expect::Refused);
        }
    }
    add("of marks", b"PK\x03\x04".repeat(1000), Expect::Refused);
    add(
        "of directory marks",
        [b"PK\x03\x04", &b"PK\x01\x02".repeat(999)[..]].concat(),
        Expect::Refused,
    );
    add("empty", b"PK\x05\x06".iter().chain(&[0; 18]).copied().collect(), Expect::Refused);
}

/// An archive with these files in the folder `root`.
fn archive(root: &str, files: &[File]) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let mut archive = Archive::new(&mut out, root);
    for (name, bytes) in files {
        archive.file(name, bytes).expect("file");
    }
    archive.finish().expect("archive");
    out.into_inner()
}

fn names(cases: &mut Vec<Case>) {
    let entries = [Entry::zeros("a", &[4])];
    let (pickle, data) = (zip_pickle(&entries, ""), [0u8; 16]);
    let mut add = |what: &str, bytes: Vec<u8>, expect: Expect| {
        cases.push(Case::new(Form::Zip, format!("names: {what}"), bytes, expect));
    };
    // The reader opens or writes no file by these names, so they are harmless.
    let roots = ["../../../../evil", "/", "C:\\Windows", "a/../../b", "\\\\host\\share", "."];
    for root in roots {
        let files: [File; 2] = [("data.pkl", &pickle), ("data/0", &data)];
        add(root, archive(root, &files), Expect::Loads);
    }
    let long = "n".repeat(60_000);
    let cases: [(&str, Vec<File>, Expect); 9] = [
        ("parent folder", vec![("../data.pkl", &pickle), ("../data/0", &data)], Expect::Loads),
        (
            "absolute storage",
            vec![("data.pkl", &pickle), ("data//etc/passwd", &data)],
            Expect::Refused,
        ),
        ("two pickles", vec![("data.pkl", &pickle), ("b/data.pkl", &pickle)], Expect::Refused),
        ("the same twice", vec![("data.pkl", &pickle), ("data.pkl", &pickle)], Expect::Refused),
        (
            "a storage twice",
            vec![("data.pkl", &pickle), ("data/0", &data), ("data/0", &[])],
            Expect::Refused,
        ),
        ("a zero byte", vec![("data.pkl\0", &pickle), ("data/0", &data)], Expect::Refused),
        ("line breaks", vec![("data.pkl", &pickle), ("a\nb\rc\x1b[31m", &data)], Expect::Refused),
        ("very long", vec![("data.pkl", &pickle), (&long, &data)], Expect::Refused),
        ("no pickle", vec![("readme.txt", b"hello"), ("data/0", &data)], Expect::Refused),
    ];
    for (what, files, expect) in cases {
        add(what, archive("archive", &files), expect);
    }
    let mut bytes = archive("archive", &[("data.pkl", &pickle), ("data/0", &data)]);
    for at in marks(&bytes.clone(), b"archive/data/0") {
        bytes[at + 3] = 0xFF;
    }
    add("not UTF-8", bytes, Expect::Refused);
}

/// Compressed entries, overlapping entries, archives inside archives.
fn bombs(cases: &mut Vec<Case>) {
    let mut add = |what: &str, bytes: Vec<u8>| {
        cases.push(Case::new(Form::Zip, format!("bomb: {what}"), bytes, Expect::Refused));
    };
    let entries = [Entry::zeros("a", &[1 << 24])];
    let pickle = zip_pickle(&entries, "");
    let deflated = |n: usize| {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![0; n]).expect("deflated");
        encoder.finish().expect("deflated")
    };
    let packed = deflated(1 << 26);
    // Sets method 8 and the unpacked size, in the directory and before the data.
    let lie = |bytes: &[u8], name: &str, method: u16, size: u32| {
        let mut bytes = bytes.to_vec();
        for at in marks(&bytes.clone(), name.as_bytes()) {
            if at >= 46 && bytes[at - 46..].starts_with(b"PK\x01\x02") {
                bytes[at - 36..at - 34].copy_from_slice(&method.to_le_bytes());
                bytes[at - 22..at - 18].copy_from_slice(&size.to_le_bytes());
            } else if at >= 30 && bytes[at - 30..].starts_with(b"PK\x03\x04") {
                bytes[at - 22..at - 20].copy_from_slice(&method.to_le_bytes());
            }
        }
        bytes
    };
    let one = archive("archive", &[("data.pkl", &pickle), ("data/0", &packed)]);
    for method in [1, 8, 9, 12, 14, 93, 95, 99] {
        add(&format!("64 MiB by method {method}"), lie(&one, "archive/data/0", method, 1 << 26));
        add(
            &format!("a pickle by method {method}"),
            lie(&one, "archive/data.pkl", method, 1 << 30),
        );
    }
    add("stored, yet larger than itself", lie(&one, "archive/data/0", 0, 1 << 26));
    add("stored, 4 GiB", lie(&one, "archive/data/0", 0, u32::MAX - 1));
    let nested = archive("archive", &[("data.pkl", &one), ("data/0", &one)]);
    add("an archive for a pickle", nested);
    add("every entry the same", overlapping());
}

/// A thousand directory entries that share one block of 16 KiB.
fn overlapping() -> Vec<u8> {
    let entries: Vec<Entry> = (0..1000).map(|i| Entry::zeros(&format!("t{i}"), &[4096])).collect();
    let mut files: Vec<(String, Vec<u8>)> = vec![("data.pkl".into(), zip_pickle(&entries, ""))];
    files.extend((0..1000).map(|i| (format!("data/{i}"), Vec::new())));
    let files: Vec<File> = files.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
    let mut bytes = archive("archive", &files);
    for at in marks(&bytes.clone(), b"PK\x01\x02").into_iter().skip(1) {
        bytes[at + 20..at + 24].copy_from_slice(&16384u32.to_le_bytes());
        bytes[at + 24..at + 28].copy_from_slice(&16384u32.to_le_bytes());
    }
    bytes
}

/// Entries that exist but have other contents.
fn contents(cases: &mut Vec<Case>) {
    let entries = [Entry::zeros("a", &[4])];
    let (pickle, script, data) =
        (zip_pickle(&entries, ""), torchscript_pickle(&entries), [0u8; 16]);
    let mut add = |form: Form, what: &str, files: &[File], expect: Expect| {
        let bytes = archive("archive", files);
        cases.push(Case::new(form, format!("contents: {what}"), bytes, expect));
    };
    let order = |order: &'static str| {
        [("data.pkl", &pickle[..]), ("data/0", &data), ("byteorder", order.as_bytes())]
    };
    add(Form::Zip, "little", &order("little"), Expect::Loads);
    add(Form::Zip, "big-endian", &order("big"), Expect::Refused);
    add(Form::Zip, "no byte order", &order("sideways"), Expect::Refused);
    add(Form::Zip, "no storages", &[("data.pkl", &pickle)], Expect::Refused);
    add(Form::Zip, "an empty pickle", &[("data.pkl", b""), ("data/0", &data)], Expect::Refused);
    add(
        Form::Zip,
        "a short storage",
        &[("data.pkl", &pickle), ("data/0", &data[1..])],
        Expect::Refused,
    );
    add(
        Form::Zip,
        "a longer storage",
        &[("data.pkl", &pickle), ("data/0", &[0; 64])],
        Expect::Loads,
    );
    let script_files = |constants: &'static [u8], pickle: &'static [u8]| {
        [("data/0", &data[..]), ("data.pkl", pickle), ("constants.pkl", constants)]
    };
    let script: &'static [u8] = script.leak();
    let flat: &'static [u8] = pickle.clone().leak();
    add(Form::TorchScript, "as it should be", &script_files(b"\x80\x02).", script), Expect::Loads);
    add(Form::TorchScript, "no constants", &script_files(b"", script), Expect::Either);
    add(
        Form::TorchScript,
        "a dict for a module",
        &script_files(b"\x80\x02).", flat),
        Expect::Refused,
    );
    let module: [File; 2] = [("data/0", &data), ("data.pkl", script)];
    add(Form::TorchScript, "a module in a plain archive", &module, Expect::Either);
}
