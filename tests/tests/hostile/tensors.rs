//! Views that exceed their storage: sizes, strides and offsets beyond it, below zero, or beyond 64
//! bits.

use dressage_tests::checkpoint::Pickle;
use dressage_tests::samples::Form;

use super::{Case, Expect, pickles};

const MAX: i64 = i64::MAX;

/// A view of a storage of 16 bytes, with each field as opcodes.
struct StridedView {
    class: &'static str,
    key: Vec<u8>,
    count: Vec<u8>,
    offset: Vec<u8>,
    sizes: Vec<u8>,
    strides: Vec<u8>,
}

fn int(value: i64) -> Vec<u8> {
    opcodes(Pickle::new().int(value))
}

fn ints(values: &[i64]) -> Vec<u8> {
    // No memo: its numbers would collide with those of the enclosing pickle.
    let items = values.iter().flat_map(|v| int(*v));
    b"(".iter().copied().chain(items).chain(*b"t").collect()
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn opcodes(pickle: Pickle) -> Vec<u8> {
    let bytes = pickle.stop();
    bytes[2..bytes.len() - 1].to_vec()
}

impl StridedView {
    fn new(sizes: &[i64], strides: &[i64]) -> StridedView {
        StridedView {
            class: "FloatStorage",
            key: text("0"),
            count: int(4),
            offset: int(0),
            sizes: ints(sizes),
            strides: ints(strides),
        }
    }

    /// The tensor, with the fields `more` after the element count of its storage.
    fn tensor(&self, more: &[u8]) -> Vec<u8> {
        let head = b"ctorch._utils\n_rebuild_tensor_v2\n((";
        let class = format!("ctorch\n{}\n", self.class);
        let parts: [&[u8]; 12] = [
            head,
            &text("storage"),
            class.as_bytes(),
            &self.key,
            &text("cpu"),
            &self.count,
            more,
            b"tQ",
            &self.offset,
            &self.sizes,
            &self.strides,
            b"\x89)tR",
        ];
        parts.concat()
    }
}

fn dict(tensors: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"\x80\x02}(".to_vec();
    for (i, tensor) in tensors.iter().enumerate() {
        bytes.extend(text(&format!("t{i}")));
        bytes.extend(tensor);
    }
    bytes.extend(b"u.");
    bytes
}

fn module(tensors: &[Vec<u8>]) -> Vec<u8> {
    let dict = dict(tensors);
    [b"\x80\x02c__torch__\nNet\n)\x81", &dict[2..dict.len() - 1], b"b."].concat()
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, views: &[StridedView], expect: Expect| {
        let flat: Vec<Vec<u8>> = views.iter().map(|v| v.tensor(b"")).collect();
        let older: Vec<Vec<u8>> = views.iter().map(|v| v.tensor(b"N")).collect();
        for (form, bytes) in [
            (Form::Zip, pickles::zip(&dict(&flat))),
            (Form::TorchScript, pickles::script(&module(&flat))),
        ] {
            cases.push(Case::new(form, format!("view: {name}"), bytes, expect));
        }
        // The only storage of the legacy file has another name.
        let bytes = pickles::legacy(&dict(&older));
        cases.push(Case::new(Form::Legacy, format!("view: {name}"), bytes, Expect::Refused));
    };
    shapes(&mut add);
    fields(&mut add);
    many(&mut add);
    cases
}

type Add<'a> = &'a mut dyn FnMut(&str, &[StridedView], Expect);

fn shapes(add: Add) {
    let fine: [(&[i64], &[i64]); 7] = [
        (&[4], &[1]),
        (&[2, 2], &[1, 2]),
        (&[], &[]),
        (&[0], &[1]),
        (&[0, 3], &[MAX, MAX]),
        (&[2], &[3]),
        (&[1, 1, 1, 4], &[MAX, MAX, MAX, 1]),
    ];
    for (sizes, strides) in fine {
        add(
            &format!("{sizes:?} by {strides:?}"),
            &[StridedView::new(sizes, strides)],
            Expect::Either,
        );
    }
    add("as it should be", &[StridedView::new(&[2, 2], &[2, 1])], Expect::Loads);
    let wrong: [(&[i64], &[i64]); 22] = [
        (&[5], &[1]),
        (&[2, 3], &[3, 1]),
        (&[-1], &[1]),
        (&[-4], &[1]),
        (&[-2, -2], &[2, 1]),
        (&[MAX], &[1]),
        (&[MAX, MAX], &[1, 1]),
        (&[1 << 32, 1 << 32], &[1, 1]),
        (&[1 << 31, 1 << 31, 4], &[0, 0, 1]),
        (&[i64::MIN], &[1]),
        (&[4], &[-1]),
        (&[4], &[i64::MIN]),
        (&[2], &[MAX]),
        (&[3, 2], &[MAX, MAX]),
        (&[2, 2], &[2]),
        (&[4], &[]),
        (&[], &[1]),
        // Repeated elements would make terabytes from a tiny file.
        (&[1 << 40], &[0]),
        (&[1 << 20, 1 << 20], &[0, 0]),
        (&[MAX], &[0]),
        (&[1 << 30, 4], &[0, 1]),
        (&[1 << 62, 4], &[0, 1]),
    ];
    for (sizes, strides) in wrong {
        add(
            &format!("{sizes:?} by {strides:?}"),
            &[StridedView::new(sizes, strides)],
            Expect::Refused,
        );
    }
    let axes = vec![1; 10_000];
    add("10,000 axes", &[StridedView::new(&axes, &axes)], Expect::Either);
    let axes = vec![2; 63];
    add("2^63 elements on 63 axes", &[StridedView::new(&axes, &[0; 63])], Expect::Refused);
}

fn fields(add: Add) {
    let set = |change: &dyn Fn(&mut StridedView)| {
        let mut view = StridedView::new(&[4], &[1]);
        change(&mut view);
        [view]
    };
    for offset in [1, 4, MAX, MAX / 4, -1, i64::MIN] {
        let view = set(&|v| v.offset = int(offset));
        add(&format!("offset {offset}"), &view, Expect::Refused);
    }
    for count in [0, 3, 5, 1 << 40, MAX, -1, i64::MIN] {
        let view = set(&|v| v.count = int(count));
        add(&format!("storage of {count}"), &view, Expect::Refused);
    }
    let long = [&[0x8A, 100][..], &[1; 100]].concat();
    let odd: [(&str, &[u8]); 9] = [
        ("nothing", b"N"),
        ("true", b"\x88"),
        ("a float", b"G\x40\x10\x00\x00\x00\x00\x00\x00"),
        ("a word", b"X\x01\x00\x00\x004"),
        ("a list", b"]"),
        ("a dict", b"}"),
        ("a class", b"cos\nsystem\n"),
        ("a call", b"cos\nsystem\n)R"),
        ("800 bits", &long),
    ];
    for (name, value) in odd {
        let value = value.to_vec();
        add(&format!("offset: {name}"), &set(&|v| v.offset = value.clone()), Expect::Either);
        add(&format!("count: {name}"), &set(&|v| v.count = value.clone()), Expect::Either);
        add(&format!("key: {name}"), &set(&|v| v.key = value.clone()), Expect::Refused);
        add(&format!("sizes: {name}"), &set(&|v| v.sizes = value.clone()), Expect::Either);
        add(&format!("strides: {name}"), &set(&|v| v.strides = value.clone()), Expect::Either);
        let within = [b"(", &value[..], b"t"].concat();
        add(&format!("sizes of {name}"), &set(&|v| v.sizes = within.clone()), Expect::Either);
    }
    for key in ["", "1", "00", "../data/0", "/etc/passwd", "0\0", "0/../0", "\u{660}", "-0"] {
        add(&format!("key {key:?}"), &set(&|v| v.key = text(key)), Expect::Refused);
    }
    for class in ["DoubleStorage", "LongStorage"] {
        add(&format!("a {class} of 32 bytes"), &set(&|v| v.class = class), Expect::Refused);
    }
    // Complex numbers are not supported: such tensors are skipped.
    for class in
        ["ComplexDoubleStorage", "UntypedStorage", "storage", "Tensor", "load", "__class__"]
    {
        add(&format!("a {class} for a type"), &set(&|v| v.class = class), Expect::Either);
    }
}

/// Many small false sizes that add up.
fn many(add: Add) {
    let views = |n: usize, sizes: &[i64], strides: &[i64]| -> Vec<StridedView> {
        (0..n).map(|_| StridedView::new(sizes, strides)).collect()
    };
    add("a thousand of the same", &views(1000, &[2, 2], &[1, 2]), Expect::Either);
    add("a thousand repeated", &views(1000, &[1 << 30], &[0]), Expect::Refused);
    add("a thousand, a thousand times", &views(1000, &[1000], &[0]), Expect::Either);
    add("a hundred empty ones of 2^40", &views(100, &[1 << 40, 0], &[1, 1]), Expect::Either);
}
