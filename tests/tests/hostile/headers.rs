//! Headers of safetensors and legacy files that describe data which does not exist.

use std::io::Cursor;

use dressage_tests::checkpoint::{self, Entry, Pickle, ScalarType};
use dressage_tests::samples::Form;

use super::{Case, Expect, pickles};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    lengths(&mut cases);
    tensors(&mut cases);
    texts(&mut cases);
    legacy(&mut cases);
    cases
}

/// A file with this header, followed by `data` bytes.
fn with_header(header: &[u8], data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn refused(name: String, bytes: Vec<u8>) -> Case {
    Case::new(Form::Safetensors, name, bytes, Expect::Refused)
}

fn lengths(cases: &mut Vec<Case>) {
    let header = br#"{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}}"#;
    let whole = with_header(header, 64);
    cases.push(Case::new(Form::Safetensors, "as it should be", whole.clone(), Expect::Loads));
    let n = header.len() as u64;
    for length in [0, 1, 2, n - 1, n + 1, n + 64, n + 65, 1 << 27, 1 << 40, 1 << 63, u64::MAX] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        cases.push(refused(format!("header of {length} bytes"), bytes));
    }
}

fn tensors(cases: &mut Vec<Case>) {
    let max = u64::MAX.to_string();
    let shapes = [
        "[15]",
        "[17]",
        "[-16]",
        "[16.0]",
        "[1e1]",
        "[\"16\"]",
        "[null]",
        "[[16]]",
        "16",
        "null",
        "{}",
        "[4,5]",
        "[0]",
        "[]",
        "[9223372036854775807]",
        "[4294967296,4294967296]",
        "[9223372036854775807,2]",
        "[18446744073709551616]",
        "[0,18446744073709551615]",
        "[18446744073709551615,0]",
        "[2,18446744073709551615,0]",
        &max,
        "[16,]",
        "[16",
    ];
    for shape in shapes {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,64]}}}}"#);
        cases.push(refused(format!("shape {shape}"), with_header(header.as_bytes(), 64)));
    }
    let offsets = [
        "[0,63]",
        "[0,65]",
        "[1,65]",
        "[64,0]",
        "[-1,63]",
        "[0,18446744073709551615]",
        "[18446744073709551615,63]",
        "[0]",
        "[]",
        "[0,64,64]",
        "null",
        "[0.0,64.0]",
        "[18446744073709551552,18446744073709551616]",
    ];
    for offsets in offsets {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":[16],"data_offsets":{offsets}}}}}"#);
        cases.push(refused(format!("offsets {offsets}"), with_header(header.as_bytes(), 64)));
    }
    for dtype in
        ["F31", "f32", "", "F8_E5M2", "C64", "F32\\n", "\\u0000", "F64", "I64", "U8", "BOOL"]
    {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":[16],"data_offsets":[0,64]}}}}"#);
        cases.push(refused(format!("dtype {dtype}"), with_header(header.as_bytes(), 64)));
    }
    let two = |a: &str, b: &str| {
        let tensor =
            |offsets: &str| format!(r#"{{"dtype":"F32","shape":[8],"data_offsets":{offsets}}}"#);
        format!(r#"{{"a":{},"b":{}}}"#, tensor(a), tensor(b))
    };
    for (a, b) in
        [("[0,32]", "[0,32]"), ("[0,32]", "[16,48]"), ("[0,32]", "[33,65]"), ("[32,64]", "[32,64]")]
    {
        let bytes = with_header(two(a, b).as_bytes(), 64);
        cases.push(refused(format!("two at {a} and {b}"), bytes));
    }
    let twice = two("[0,32]", "[32,64]").replace("\"b\"", "\"a\"");
    cases.push(Case::new(
        Form::Safetensors,
        "a name twice",
        with_header(twice.as_bytes(), 64),
        Expect::Either,
    ));
    sums(cases);
}

/// Headers that are very long.
fn sums(cases: &mut Vec<Case>) {
    let ones = format!("[{}16]", "1,".repeat(100_000));
    let header = format!(r#"{{"a":{{"dtype":"F32","shape":{ones},"data_offsets":[0,64]}}}}"#);
    let mut add = |name: &str, header: &str, data: usize, expect: Expect| {
        let bytes = with_header(header.as_bytes(), data);
        cases.push(Case::new(Form::Safetensors, name, bytes, expect));
    };
    add("100,001 axes", &header, 64, Expect::Either);
    let many: Vec<String> = (0..20_000)
        .map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[],"data_offsets":[{i},{}]}}"#, i + 1))
        .collect();
    add("20,000 tensors", &format!("{{{}}}", many.join(",")), 20_000, Expect::Either);
    let empty: Vec<String> = (0..20_000)
        .map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    add("20,000 empty tensors", &format!("{{{}}}", empty.join(",")), 0, Expect::Either);
    let notes: Vec<String> = (0..50_000).map(|i| format!("\"{i}\":\"\"")).collect();
    let notes = format!(r#"{{"__metadata__":{{{}}}}}"#, notes.join(","));
    add("50,000 notes", &notes, 0, Expect::Either);
    let own: Vec<String> = (0..50_000).map(|i| format!("\\\"{i}\\\":\\\"\\\"")).collect();
    let own = format!(r#"{{"__metadata__":{{"dressage":"{{{}}}"}}}}"#, own.join(","));
    add("50,000 notes in a note", &own, 0, Expect::Either);
    let deep = format!(r#"{{"__metadata__":{{"dressage":"{}"}}}}"#, "[".repeat(100_000));
    add("a note of brackets", &deep, 0, Expect::Either);
}

fn texts(cases: &mut Vec<Case>) {
    let tensor = r#"{"dtype":"F32","shape":[16],"data_offsets":[0,64]}"#;
    let deep = "[".repeat(100_000);
    let objects = r#"{"a":"#.repeat(100_000);
    let headers: [(&str, &str); 18] = [
        ("nothing", ""),
        ("an empty object", "{}"),
        ("an array", "[]"),
        ("a number", "1"),
        ("null", "null"),
        ("spaces", "                "),
        ("half an object", "{\"a\":"),
        ("two objects", "{}{}"),
        ("a tensor that is a number", "{\"a\":1}"),
        ("a tensor that is null", "{\"a\":null}"),
        ("a tensor without fields", "{\"a\":{}}"),
        ("notes that are a number", "{\"__metadata__\":1}"),
        ("notes of numbers", "{\"__metadata__\":{\"a\":1}}"),
        ("notes of notes", "{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}"),
        ("a byte order mark", "\u{feff}{}"),
        ("Infinity", "{\"a\":{\"dtype\":\"F32\",\"shape\":[Infinity],\"data_offsets\":[0,64]}}"),
        ("brackets", &deep),
        ("objects", &objects),
    ];
    for (name, header) in headers {
        let expect = if name == "an empty object" { Expect::Either } else { Expect::Refused };
        let bytes = with_header(header.as_bytes(), 0);
        cases.push(Case::new(Form::Safetensors, format!("header: {name}"), bytes, expect));
    }
    let bytes = with_header(b"{\"\xFF\xFE\":1}", 0);
    cases.push(refused("header: not UTF-8".into(), bytes));
    let long = "n".repeat(100_000);
    let names =
        ["", "\\n", "\\u0000", "\\u001b[31m", "../../etc/passwd", "\\ud800", "__metadata__", &long];
    for name in names {
        let shown: String = name.chars().take(16).collect();
        let header = format!(r#"{{"{name}":{tensor}}}"#);
        let bytes = with_header(header.as_bytes(), 64);
        cases.push(Case::new(Form::Safetensors, format!("name {shown}"), bytes, Expect::Either));
        // The error message must name it.
        let bytes =
            with_header(header.replace("F32", "F8_E4M3").replace("16", "64").as_bytes(), 64);
        cases.push(refused(format!("name {shown} of a type unknown here"), bytes));
        let bytes = with_header(header.replace("F32", &format!("F{name}")).as_bytes(), 64);
        cases.push(refused(format!("name {shown} for a type"), bytes));
    }
}

/// The pickles next to the state dict of a legacy file, and the counts before its storages.
fn legacy(cases: &mut Vec<Case>) {
    let entry = Entry::bytes("a", ScalarType::F32, &[4], vec![0; 16]);
    let mut whole = Cursor::new(Vec::new());
    checkpoint::legacy(&mut whole, &[entry], "").expect("file");
    let whole = whole.into_inner();
    let starts: Vec<usize> =
        (0..whole.len()).filter(|at| whole[*at..].starts_with(&[0x80, 2])).collect();
    assert_eq!(starts.len(), 5);
    let ends: Vec<usize> = starts[1..].iter().copied().chain([whole.len() - 24]).collect();
    let mut add = |name: &str, bytes: Vec<u8>, expect: Expect| {
        cases.push(Case::new(Form::Legacy, format!("legacy: {name}"), bytes, expect));
    };
    add("as it should be", whole.clone(), Expect::Loads);
    let with = |i: usize, pickle: &[u8]| [&whole[..starts[i]], pickle, &whole[ends[i]..]].concat();
    let odd: [(&str, &[u8]); 6] = [
        ("nothing", b"\x80\x02N."),
        ("another number", b"\x80\x02M\x12\x34."),
        ("a word", b"\x80\x02X\x01\x00\x00\x00a."),
        ("an empty dict", b"\x80\x02}."),
        ("an empty list", b"\x80\x02]."),
        ("a call", b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR."),
    ];
    for (name, pickle) in odd {
        for i in [0, 1, 3] {
            add(&format!("{name} for pickle {i}"), with(i, pickle), Expect::Refused);
        }
        // The description of the machine may say anything but big-endian.
        add(&format!("{name} for the machine"), with(2, pickle), Expect::Either);
        add(&format!("{name} for the list"), with(4, pickle), Expect::Refused);
    }
    let big = Pickle::new().raw(b"}(").text("little_endian").raw(b"\x89u").stop();
    add("big-endian", with(2, &big), Expect::Refused);
    for count in [0, 3, 5, 1 << 32, 1 << 60, 1 << 62, u64::MAX / 4 + 2, u64::MAX] {
        let mut bytes = whole.clone();
        let at = whole.len() - 24;
        bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
        add(&format!("{count} elements"), bytes, Expect::Refused);
    }
    lists(&mut add, &with);
    for i in 1..5 {
        let bytes = [&whole[..starts[i]], &whole[ends[i]..]].concat();
        add(&format!("without pickle {i}"), bytes, Expect::Refused);
        add(&format!("with pickle {i} only"), whole[starts[i]..ends[i]].to_vec(), Expect::Refused);
    }
    add("only its number", whole[..ends[0]].to_vec(), Expect::Refused);
    add("the number over and over", whole[..ends[0]].repeat(1000), Expect::Refused);
    let views = pickles::legacy(&part(0, 4));
    cases.push(Case::new(Form::Legacy, "legacy: a storage in a storage", views, Expect::Either));
    for (start, count) in [(1, 4), (-1, 4), (i64::MAX, 4), (0, i64::MAX), (4, 1), (2, -1)] {
        let name = format!("legacy: {count} from {start} on in a storage");
        cases.push(Case::new(
            Form::Legacy,
            name,
            pickles::legacy(&part(start, count)),
            Expect::Refused,
        ));
    }
}

type With<'a> = &'a dyn Fn(usize, &[u8]) -> Vec<u8>;

fn lists(add: &mut dyn FnMut(&str, Vec<u8>, Expect), with: With) {
    let key = "94224136472544";
    let list = |keys: &[&str]| {
        keys.iter().fold(Pickle::new().raw(b"]("), |p, k| p.text(k)).raw(b"e").stop()
    };
    add("the storage twice", with(4, &list(&[key, key])), Expect::Either);
    add("the storage 10,000 times", with(4, &list(&vec![key; 10_000])), Expect::Either);
    add("an unknown storage", with(4, &list(&["7"])), Expect::Refused);
    add("an unknown storage first", with(4, &list(&["7", key])), Expect::Refused);
    add("a storage with a line break", with(4, &list(&["\n", key])), Expect::Refused);
    add("numbers for storages", with(4, b"\x80\x02](K\x01K\x02e."), Expect::Refused);
    add("lists for storages", with(4, b"\x80\x02](]]e."), Expect::Refused);
}

/// A tensor in a part of a storage: `count` elements from `start` on.
fn part(start: i64, count: i64) -> Vec<u8> {
    let of = Pickle::new().raw(b"}(").text("a").global("torch._utils", "_rebuild_tensor_v2");
    let of = of.raw(b"((").text("storage").global("torch", "FloatStorage").text("94224136472544");
    let of = of.text("cpu").int(4).raw(b"(").text("part").int(start).int(count).raw(b"ttQ");
    of.int(0).ints(&[4]).ints(&[1]).raw(b"\x89)tRu").stop()
}
