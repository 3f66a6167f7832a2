//! Pickles that name code, unknown opcodes, cycles, endless nesting, sizes beyond any memory.

use std::io::Cursor;
use std::path::PathBuf;

use dressage_tests::checkpoint::{self, Archive, Entry, Pickle};
use dressage_tests::samples::{self, Form};

use super::{Case, Expect};

/// File that a pickle would create if its command were run.
pub fn trace() -> PathBuf {
    std::env::temp_dir().join("dressage-hostile-pickle-was-run")
}

/// A small intact state dict without its last opcode, so that anything can be appended.
fn intact() -> Vec<u8> {
    let mut bytes = checkpoint::zip_pickle(&[Entry::zeros("a", &[4])], "");
    bytes.pop();
    bytes
}

/// An archive with this pickle and one storage of 16 bytes.
pub fn zip(pickle: &[u8]) -> Vec<u8> {
    container(pickle, false)
}

/// A TorchScript archive with this pickle and one storage of 16 bytes.
pub fn script(pickle: &[u8]) -> Vec<u8> {
    container(pickle, true)
}

fn container(pickle: &[u8], script: bool) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let mut archive = Archive::new(&mut out, "archive");
    archive.file("data.pkl", pickle).expect("file");
    archive.file("data/0", &[0; 16]).expect("file");
    if script {
        archive.file("constants.pkl", b"\x80\x02).").expect("file");
    }
    archive.finish().expect("archive");
    out.into_inner()
}

/// A legacy file with this pickle and one storage of 16 bytes.
pub fn legacy(pickle: &[u8]) -> Vec<u8> {
    let mut whole = Cursor::new(Vec::new());
    let entry = Entry::bytes("a", checkpoint::ScalarType::F32, &[4], vec![0; 16]);
    checkpoint::legacy(&mut whole, &[entry], "").expect("file");
    let whole = whole.into_inner();
    // The fourth pickle is replaced.
    let starts: Vec<usize> =
        (0..whole.len()).filter(|at| whole[*at..].starts_with(&[0x80, 2])).collect();
    [&whole[..starts[3]], pickle, &whole[starts[4]..]].concat()
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, pickle: &[u8], expect: Expect| {
        cases.push(Case::new(Form::Zip, format!("pickle: {name}"), zip(pickle), expect));
        cases.push(Case::new(
            Form::Legacy,
            format!("pickle: {name}"),
            legacy(pickle),
            Expect::Either,
        ));
        let script = script(pickle);
        cases.push(Case::new(Form::TorchScript, format!("pickle: {name}"), script, Expect::Either));
    };
    // Found by fuzzing: an error that listed all of them was a page long.
    let keys = (0..20).fold(Pickle::new().raw(b"}("), |p, i| {
        p.text(&format!("{i}{}", "k".repeat(100))).raw(b"N")
    });
    add("long keys without a tensor", &keys.raw(b"u").stop(), Expect::Refused);
    opcodes(&mut add);
    code(&mut add);
    memo(&mut add);
    nesting(&mut add);
    lengths(&mut add);
    roots(&mut add);
    modules(&mut cases);
    cases
}

type Add<'a> = &'a mut dyn FnMut(&str, &[u8], Expect);

/// Every opcode without operands, and in the middle of an intact pickle.
fn opcodes(add: Add) {
    let sample = samples::entries();
    let whole = checkpoint::zip_pickle(&sample, "");
    for op in 0..=255u8 {
        add(&format!("{op:#04x} alone"), &[0x80, 2, op, b'.'], Expect::Either);
        add(&format!("{op:#04x} without end"), &[0x80, 2, op], Expect::Refused);
        add(&format!("{op:#04x} on marks"), &[0x80, 2, b'(', b'(', op, op, b'.'], Expect::Either);
        let mut filled = b"\x80\x02}]()NK\x01".to_vec();
        filled.extend([op, 0, 0, 0, 0, 0, 0, 0, 0, b'\n', b'.']);
        add(&format!("{op:#04x} on values"), &filled, Expect::Either);
        for at in [2, whole.len() / 3, whole.len() / 2, whole.len() - 2] {
            let mut bytes = whole.clone();
            bytes.insert(at, op);
            add(&format!("{op:#04x} put in at {at}"), &bytes, Expect::Either);
        }
        let mut bytes = intact();
        bytes.extend([op, b'.']);
        add(&format!("{op:#04x} before the end"), &bytes, Expect::Either);
    }
}

/// Functions with effects when they are called. Unknown functions are skipped, so the tensor next
/// to them is still found.
fn code(add: Add) {
    let command = format!("touch {}", trace().display());
    let calls = [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("subprocess", "Popen"),
        ("subprocess", "check_output"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("builtins", "__import__"),
        ("runpy", "_run_code"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch._utils", "_rebuild_everything"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("argparse", "Namespace"),
        ("pathlib", "PosixPath"),
        ("", ""),
    ];
    for (module, name) in calls {
        let called = Pickle::new().ordered_dict().raw(b"(").text("a");
        let called = tensor(called).text("run").global(module, name).raw(b"(").text(&command);
        let called = called.raw(b"tR");
        add(&format!("{module}.{name} called"), &called.clone().raw(b"u").stop(), Expect::Loads);
        let built = called.raw(b"}(").text("x").text(&command).raw(b"ubu").stop();
        add(&format!("{module}.{name} called and filled"), &built, Expect::Loads);
        let root = Pickle::new().global(module, name).raw(b"(").text(&command).raw(b"tR").stop();
        add(&format!("{module}.{name} is all there is"), &root, Expect::Refused);
        let new = Pickle::new().global(module, name).raw(b"(").text(&command).raw(b"t\x81").stop();
        add(&format!("{module}.{name} made"), &new, Expect::Refused);
        // As the type or the name of a storage.
        let typed = Pickle::new().ordered_dict().raw(b"(").text("a");
        let typed = typed.global("torch._utils", "_rebuild_tensor_v2").raw(b"((").text("storage");
        let typed = typed.global(module, name).text("0").text("cpu").int(4).raw(b"tQ");
        let typed = typed.int(0).ints(&[4]).ints(&[1]).raw(b"\x89)tRu").stop();
        add(&format!("{module}.{name} for a storage"), &typed, Expect::Refused);
    }
    let old = format!("ios\nsystem\n(S'{command}'\no.");
    add("protocol 0 instance", old.as_bytes(), Expect::Refused);
    add("protocol 0 call", format!("cos\nsystem\n(S'{command}'\ntR.").as_bytes(), Expect::Refused);
    let stacked = [b"\x80\x04\x8c\x02os\x8c\x06system\x93(X".as_slice(), &[4, 0, 0, 0], b"truetR."];
    add("named from the stack", &stacked.concat(), Expect::Refused);
    for code in [&b"\x82\x01."[..], b"\x83\x01\x00.", b"\x84\x01\x00\x00\x00."] {
        add("extension registry", &[b"\x80\x02", code].concat(), Expect::Refused);
    }
}

/// A tensor of four elements in the storage `0`.
fn tensor(pickle: Pickle) -> Pickle {
    let of = pickle.global("torch._utils", "_rebuild_tensor_v2").raw(b"((").text("storage");
    let of = of.global("torch", "FloatStorage").text("0").text("cpu").int(4).raw(b"tQ");
    of.int(0).ints(&[4]).ints(&[1]).raw(&[0x89]).ordered_dict().raw(b"tR")
}

fn memo(add: Add) {
    let tail: [(&str, &[u8]); 12] = [
        ("number 2^32 - 1", b"r\xFF\xFF\xFF\xFF"),
        ("number 2^31", b"r\x00\x00\x00\x80"),
        ("number 2^32", b"p4294967296\n"),
        ("number 10^30", b"p1000000000000000000000000000000\n"),
        ("number -1", b"p-1\n"),
        ("no number", b"p\n"),
        ("a word", b"pone\n"),
        ("unknown", b"h\xFE"),
        ("unknown 2^32 - 1", b"j\xFF\xFF\xFF\xFF"),
        ("unknown in words", b"g99999999999999999999\n"),
        ("unknown -1", b"g-1\n"),
        ("no line", b"g1"),
    ];
    for (name, tail) in tail {
        let mut bytes = intact();
        bytes.extend(tail);
        bytes.push(b'.');
        add(&format!("memo {name}"), &bytes, Expect::Either);
    }
    let scattered: Vec<u8> =
        (0..2000u32).flat_map(|i| [&b"Nr"[..], &(i * 2_000_003).to_le_bytes()].concat()).collect();
    add("memo full of gaps", &[b"\x80\x02", &scattered[..], b"."].concat(), Expect::Refused);
    add(
        "memo over and over",
        &[b"\x80\x02}", &b"q\x00".repeat(50_000)[..], b"."].concat(),
        Expect::Refused,
    );
    add(
        "memo of everything",
        &[b"\x80\x04}", &b"\x94".repeat(100_000)[..], b"."].concat(),
        Expect::Refused,
    );
    // Cycles.
    add("list in itself", b"\x80\x02]q\x00h\x00a.", Expect::Refused);
    add("list in itself, twice", b"\x80\x02]q\x00(h\x00h\x00e.", Expect::Refused);
    add("dict in itself", b"\x80\x02}q\x00(X\x01\x00\x00\x00ah\x00u.", Expect::Refused);
    for key in ["state_dict", "model", "module", "model_ema"] {
        let circle = Pickle::new().raw(b"}").memoise().raw(b"(").text(key).raw(b"h\x00u").stop();
        add(&format!("dict under its own {key}"), &circle, Expect::Refused);
    }
    let two =
        b"\x80\x02}q\x00}q\x01(X\x05\x00\x00\x00modelh\x00u0h\x00(X\x05\x00\x00\x00modelh\x01u.";
    add("two dicts in each other", two, Expect::Refused);
    add("tuple in itself", b"\x80\x02]q\x00h\x00\x85q\x01a.", Expect::Refused);
    add("circle for a shape", &shaped(b"]q\xF0h\xF0a"), Expect::Refused);
    let module = b"\x80\x02c__torch__\nNet\n)\x81q\x00}(X\x01\x00\x00\x00ah\x00ub.";
    add("module in itself", module, Expect::Refused);
    let state = b"\x80\x02c__torch__\nNet\n)\x81q\x00h\x00b.";
    add("module that is its own state", state, Expect::Refused);
}

/// A state dict with one tensor whose shape is given by these opcodes.
fn shaped(shape: &[u8]) -> Vec<u8> {
    let of = Pickle::new().ordered_dict().raw(b"(").text("a");
    let of = of.global("torch._utils", "_rebuild_tensor_v2").raw(b"((").text("storage");
    let of = of.global("torch", "FloatStorage").text("0").text("cpu").int(4).raw(b"tQ");
    of.int(0).raw(shape).ints(&[1]).raw(b"\x89)tRu").stop()
}

/// Opcodes and their number of repetitions.
type Piece<'a> = (&'a [u8], usize);

/// A pickle of pieces.
fn pieces(pieces: &[Piece]) -> Vec<u8> {
    let all: Vec<u8> = pieces.iter().flat_map(|(piece, n)| piece.repeat(*n)).collect();
    [b"\x80\x02", &all[..], b"."].concat()
}

fn nesting(add: Add) {
    const DEEP: usize = 50_000;
    let cases: [(&str, &[Piece]); 12] = [
        ("marks", &[(b"(", DEEP)]),
        ("marks into tuples", &[(b"(", DEEP), (b"t", DEEP)]),
        ("tuples", &[(b"N", 1), (b"\x85", DEEP)]),
        ("lists", &[(b"]", DEEP), (b"a", DEEP - 1)]),
        ("dicts", &[(b"}X\x05\x00\x00\x00model", DEEP), (b"N", 1), (b"s", DEEP)]),
        ("values never used", &[(b"N", DEEP)]),
        ("empty lists", &[(b"]", DEEP)]),
        ("empty dicts", &[(b"}", DEEP)]),
        ("short words", &[(b"U\x01a", DEEP)]),
        ("names", &[(b"ca\nb\n", DEEP)]),
        ("calls", &[(b"ca\nb\n)R", DEEP)]),
        ("ordered dicts", &[(b"ccollections\nOrderedDict\n)R", DEEP)]),
    ];
    for (name, parts) in cases {
        add(&format!("{DEEP} {name}"), &pieces(parts), Expect::Refused);
    }
    // Each list contains the previous one twice: 2^60 leaves for a reader that follows all of them.
    let mut laughs = b"\x80\x02]q\x00".to_vec();
    (0..60u8).for_each(|i| laughs.extend([b']', b'q', i + 1, b'(', b'h', i, b'h', i, b'e']));
    laughs.push(b'.');
    add("2^60 leaves", &laughs, Expect::Refused);
    add("2^200 leaves in pairs", &pieces(&[(b")", 1), (b"2\x86", 200)]), Expect::Refused);
}

fn lengths(add: Add) {
    let huge = u64::MAX.to_le_bytes();
    let half = (u64::MAX / 2).to_le_bytes();
    let cases: [(&str, Vec<u8>); 16] = [
        ("a word of 4 GiB", b"X\xFF\xFF\xFF\xFFabc".to_vec()),
        ("a word of 2^64", [b"\x8D", &huge[..], b"abc"].concat()),
        ("a word of 2^63", [b"\x8D", &half[..], b"abc"].concat()),
        ("a short word", b"\x8C\xFFabc".to_vec()),
        ("bytes of 4 GiB", b"B\xFF\xFF\xFF\xFFabc".to_vec()),
        ("bytes of 2^64", [b"\x8E", &huge[..], b"abc"].concat()),
        ("a buffer of 2^64", [b"\x96", &huge[..], b"abc"].concat()),
        ("a frame of 2^64", [b"\x95", &huge[..], b"}"].concat()),
        ("a string of -1", b"T\xFF\xFF\xFF\xFFabc".to_vec()),
        ("a string of 2^31", b"T\x00\x00\x00\x80abc".to_vec()),
        ("a number of 255 bytes", b"\x8A\xFF\x01".to_vec()),
        ("a number of -1 bytes", b"\x8B\xFF\xFF\xFF\xFF\x01".to_vec()),
        ("a number of 2^31 bytes", b"\x8B\xFF\xFF\xFF\x7F\x01".to_vec()),
        ("half a float", b"G\x00\x00".to_vec()),
        ("a line without end", b"cos".to_vec()),
        ("a word that is not UTF-8", b"X\x02\x00\x00\x00\xFF\xFE".to_vec()),
    ];
    for (name, opcodes) in cases {
        add(name, &[b"\x80\x02", &opcodes[..], b"."].concat(), Expect::Refused);
        let within = [b"\x80\x02}(X\x01\x00\x00\x00a", &opcodes[..], b"u."].concat();
        add(&format!("{name}, in a dict"), &within, Expect::Refused);
    }
}

/// Pickles whose root is not a dict of tensors, and dicts with odd keys.
fn roots(add: Add) {
    let roots: [(&str, &[u8]); 10] = [
        ("nothing", b"\x80\x02N."),
        ("no value", b"\x80\x02."),
        ("an empty file", b""),
        ("protocol 99", b"\x80\x63}."),
        ("a number", b"\x80\x02K\x01."),
        ("an empty dict", b"\x80\x02}."),
        ("an empty ordered dict", b"\x80\x02ccollections\nOrderedDict\n)R."),
        ("a list", b"\x80\x02](K\x01K\x02e."),
        ("half a pair", b"\x80\x02}(X\x01\x00\x00\x00au."),
        ("numbers for keys", b"\x80\x02}(K\x01K\x02u."),
    ];
    for (name, bytes) in roots {
        add(&format!("root: {name}"), bytes, Expect::Refused);
    }
    add("root: a tensor", &tensor(Pickle::new()).stop(), Expect::Refused);
    let mut behind = intact();
    behind.extend(b".}.");
    add("root: a second pickle behind", &behind, Expect::Either);
    let names =
        ["", "a\nb", "\u{1b}[31mred", "a\0b", "../../a", "ü", "\u{202e}gnp", &"n".repeat(100_000)];
    for name in names {
        let shown: String = name.chars().take(8).collect();
        let of = |p: Pickle| p.ordered_dict().raw(b"(").text(name);
        add(
            &format!("name {shown:?}"),
            &tensor(of(Pickle::new())).raw(b"u").stop(),
            Expect::Either,
        );
        // The error message must name it.
        let of = of(Pickle::new()).global("torch._utils", "_rebuild_tensor_v2").raw(b"((");
        let of = of.text("storage").global("torch", "FloatStorage").text(name).text("cpu");
        let of = of.int(4).raw(b"tQ").int(9).ints(&[4]).ints(&[1]).raw(b"\x89)tRu").stop();
        add(&format!("name {shown:?} of a wrong tensor"), &of, Expect::Refused);
        let class = name.replace('\n', "");
        let of = Pickle::new().global(&class, &class).raw(b")R").stop();
        add(&format!("name {shown:?} of a class"), &of, Expect::Refused);
    }
    let twice = tensor(tensor(Pickle::new().ordered_dict().raw(b"(").text("a")).text("a"));
    add("a name twice", &twice.raw(b"u").stop(), Expect::Either);
}

/// TorchScript modules with endless nesting.
fn modules(cases: &mut Vec<Case>) {
    let mut add = |name: &str, pickle: &[u8]| {
        let bytes = script(pickle);
        cases.push(Case::new(Form::TorchScript, name, bytes, Expect::Refused));
    };
    let open = |name: &str| {
        let mut bytes = b"c__torch__\nNet\n)\x81}(X".to_vec();
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes
    };
    let nested = |depth: usize, name: &str| {
        [b"\x80\x02", &open(name).repeat(depth)[..], b"N", &b"ub".repeat(depth), b"."].concat()
    };
    add("modules 50,000 deep", &nested(50_000, "a"));
    add("modules with long names", &nested(1000, &"n".repeat(1000)));
    // Each module contains the previous one twice.
    let mut laughs = b"\x80\x02c__torch__\nNet\n)\x81q\x00".to_vec();
    for i in 0..60u8 {
        laughs.extend(b"c__torch__\nNet\n)\x81}(X\x01\x00\x00\x00ah");
        laughs.extend([i]);
        laughs.extend(b"X\x01\x00\x00\x00bh");
        laughs.extend([i]);
        laughs.extend([b'u', b'b', b'q', i + 1]);
    }
    laughs.push(b'.');
    add("2^60 modules", &laughs);
}
