//! Handwritten pickles: values that are read, skipped or refused.

use super::*;

fn text(word: &str) -> Vec<u8> {
    let mut bytes = vec![0x8c, word.len() as u8];
    bytes.extend(word.as_bytes());
    bytes
}

/// A pickle of protocol 4, joined from pieces.
fn pickle(pieces: &[&[u8]]) -> Vec<u8> {
    [&[0x80, 4][..], &pieces.concat(), b"."].concat()
}

fn refused(bytes: &[u8], word: &str) {
    let error = read(bytes).map(|_| ()).expect_err("this should have been refused");
    assert!(error.contains(word), "{error:?} lacks {word:?}");
}

#[test]
fn scalars_of_every_width_are_read() {
    let integers: [(&[u8], i64); 8] = [
        (b"K\xff", 255),
        (b"M\x01\x02", 513),
        (b"J\xfe\xff\xff\xff", -2),
        (b"\x8a\x00", 0),
        (b"\x8a\x01\xff", -1),
        (b"\x8a\x02\x00\x01", 256),
        (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", i64::MAX),
        (b"\x8b\x01\x00\x00\x00\x05", 5),
    ];
    for (code, want) in integers {
        assert_eq!(read(&pickle(&[code])).expect("pickle").root, Value::Int(want), "{code:?}");
    }
    let float = pickle(&[b"G\x3f\xf8\0\0\0\0\0\0"]);
    assert_eq!(read(&float).expect("pickle").root, Value::Float(1.5));
    let large = pickle(&[b"\x8a\x09123456789"]);
    let tree = read(&large).expect("pickle");
    assert_eq!(tree.bytes(tree.root), Some(&b"123456789"[..]));
    for code in [&b"\x8c\x02ab"[..], b"X\x02\0\0\0ab", b"\x8d\x02\0\0\0\0\0\0\0ab", b"U\x02ab"] {
        let bytes = pickle(&[code]);
        let tree = read(&bytes).expect("pickle");
        assert_eq!(tree.text(tree.root).as_deref(), Some("ab"), "{code:?}");
    }
    let tree = read(b"\x80\x02K\x07.and more").expect("pickle");
    assert_eq!((tree.root, tree.len), (Value::Int(7), 5));
}

#[test]
fn groups_nest_and_the_memo_shares_them() {
    // {"a": [1, 2, 3], "b": the same list}, then another item through "b"'s reference.
    let bytes = pickle(&[
        b"}\x94(",
        &text("a"),
        b"]\x94(K\x01K\x02eK\x03a",
        &text("b"),
        b"h\x01uh\x01K\x04a0",
    ]);
    let tree = read(&bytes).expect("pickle");
    let pairs = tree.pairs(tree.root).expect("dictionary");
    let names: Vec<_> = pairs.iter().filter_map(|(k, _)| tree.text(*k)).collect();
    assert_eq!(names, ["a", "b"]);
    for (_, list) in pairs {
        let want: Vec<_> = (1..=4).map(Value::Int).collect();
        assert_eq!(tree.items(*list), Some(want.as_slice()));
    }
    let tuple = pickle(&[b"(K\x01K\x02)\x85K\x03\x87"]);
    // The mark stays open, as Python allows; the last three values are a tuple.
    let tree = read(&tuple).map(|t| t.items(t.root).map(<[Value]>::len)).expect("pickle");
    assert_eq!(tree, Some(3));
    // OrderedDict of pairs, as Python 2 writes it.
    let bytes = pickle(&[b"ccollections\nOrderedDict\n](", &text("k"), b"K\x05\x86e\x85R"]);
    let tree = read(&bytes).expect("pickle");
    let pairs = tree.pairs(tree.root).expect("dictionary");
    assert_eq!((tree.text(pairs[0].0).as_deref(), pairs[0].1), (Some("k"), Value::Int(5)));
}

#[test]
fn what_is_unknown_is_passed_over_and_named() {
    // os.system("rm"), with state, keyword arguments and items put into it.
    let calls: [&[u8]; 4] = [
        b"cos\nsystem\n\x8c\x02rm\x85R",
        b"\x8c\x02os\x8c\x06system\x93\x8c\x02rm\x85\x81}b",
        b"cos\nsystem\n)}\x92(K\x01K\x02u(K\x03e",
        b"cos\nsystem\n)R)R",
    ];
    for call in calls {
        let bytes = pickle(&[call]);
        let tree = read(&bytes).expect("pickle");
        assert!(matches!(tree.root, Value::Opaque(_)), "{:?}", tree.root);
        assert_eq!(tree.class_of(tree.root).as_deref(), Some("os.system"));
    }
    // A class named as in legacy files of whole models.
    let [tag, file, code] = ["module", "net.py", "class Net: ..."].map(text);
    let bytes = pickle(&[b"(", &tag, b"cnet\nNet\n", &file, &code, b"tQ)\x81}b"]);
    let tree = read(&bytes).expect("pickle");
    assert_eq!(tree.class_of(tree.root).as_deref(), Some("net.Net"));
    let bytes = pickle(&[b"c__torch__.Net\nVit\n)\x81}", &text("a"), b"K\x01sb"]);
    let tree = read(&bytes).expect("pickle");
    assert_eq!(tree.class_of(tree.root).as_deref(), Some("__torch__.Net.Vit"));
    assert_eq!(tree.attributes(tree.root).map(<[_]>::len), Some(1));
}

/// `('storage', torch.FloatStorage, '0', 'cpu', 24)` as a persistent id.
fn storage() -> Vec<u8> {
    let [tag, key, device] = ["storage", "0", "cpu"].map(text);
    [b"(", tag.as_slice(), b"ctorch\nFloatStorage\n", &key, &device, b"K\x18tQ"].concat()
}

#[test]
fn tensors_are_described_however_they_are_wrapped() {
    let plain = [
        b"ctorch._utils\n_rebuild_tensor_v2\n(".as_slice(),
        &storage(),
        b"K\x02K\x06K\x04\x86K\x01K\x06\x86\x89)t",
    ]
    .concat();
    let call = [plain.as_slice(), b"R"].concat();
    let parameter =
        [b"ctorch._utils\n_rebuild_parameter\n".as_slice(), &call, b"\x88)\x87R"].concat();
    let typed =
        [b"ctorch._tensor\n_rebuild_from_type_v2\n(".as_slice(), &plain[..plain.len()], b"\x94"]
            .concat();
    // (func, type, args, state): the function and its arguments are on the stack in that order.
    let typed = [typed.as_slice(), b"0ctorch\nSize\nh\x00}tR"].concat();
    for bytes in [call.as_slice(), &parameter, &typed].map(|code| pickle(&[code])) {
        let tree = read(&bytes).expect("pickle");
        let view = tree.view(tree.root).expect("tensor");
        let (storage, size) = (tree.storage(&view), tree.items(view.size));
        assert_eq!((storage.count, storage.start, view.offset), (24, 0, 2));
        assert_eq!(storage.element.kind, Some(crate::weights::ScalarType::F32));
        assert_eq!(tree.key(storage.key).as_deref(), Some("0"));
        assert_eq!(size, Some(&[Value::Int(6), Value::Int(4)][..]));
    }
}

#[test]
fn broken_pickles_are_refused() {
    let whole = pickle(&[b"}(", &text("a"), b"]K\x01aG\0\0\0\0\0\0\0\0Nu"]);
    for keep in 0..whole.len() {
        refused(&whole[..keep], "ends too early");
    }
    refused(b"\x80\x06N.", "no protocol 6");
    refused(b"I01\n.", "opcode 0x49");
    refused(b"\x80\x05\x97.", "opcode 0x97");
    refused(b".", "more values than its stack has");
    refused(b"(0.", "more values than its stack has");
    refused(b"K\x01(t(\x85.", "more values than its stack has");
    refused(b"N(a.", "more values than its stack has");
    refused(b"t.", "a group has no beginning");
    refused(b"}(K\x01u.", "a key has no value");
    refused(b"h\x05.", "reads a memo entry");
    refused(b"q\x05.", "more values than its stack has");
    refused(b"cos\nsystem", "no end");
    refused(&[b"c".as_slice(), &[b'x'; 5000], b"\n."].concat(), "no end");
    refused(b"K\x01)R.", "not a function");
    refused(b"ctorch\nSize\nK\x01R.", "no arguments");
    refused(b"ctorch\nSize\n)R.", "lacks an argument");
    refused(b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "lacks an argument");
    refused(b"ctorch._utils\n_rebuild_tensor_v2\n(NK\0))tR.", "no storage");
    refused(b"ctorch._tensor\n_rebuild_from_type_v2\n)R.", "no arguments");
    refused(b"NQ.", "not described");
    refused(b"(NNNNNtQ.", "not described");
    refused(b"NN\x93.", "no name");
}

#[test]
fn what_a_pickle_takes_is_bounded_by_its_length() {
    const N: usize = 1 << 20;
    // Millions of empty lists, dictionaries and memo entries; a dictionary made many times from one
    // long list.
    for op in [b"]", b"}"] {
        refused(&pickle(&[&op.repeat(N)]), "far more than its size");
    }
    refused(&pickle(&[&b"(".repeat(N)]), "more values than its stack has");
    refused(&pickle(&[b"N", &b"\x94".repeat(N)]), "far more than its size");
    let list = [b"](".as_slice(), &b"N".repeat(N), b"e\x94\x85\x94"].concat();
    let again = b"ccollections\nOrderedDict\nh\x01R0".repeat(1000);
    refused(&pickle(&[&list, &again]), "far more than its size");
    // Realistic pickles pass: long lists of numbers, lists of lists.
    let numbers = [b"](".as_slice(), &b"K\x01".repeat(N), b"e"].concat();
    read(&pickle(&[&numbers])).expect("a list of numbers");
    let nested = [b"](".as_slice(), &b"(K\x01K\x02K\x03t".repeat(N / 8), b"e"].concat();
    read(&pickle(&[&nested])).expect("a list of tuples");
}

#[test]
fn circles_are_read_and_cost_nothing() {
    // A list that contains itself, and a dictionary that is its own value.
    let bytes = pickle(&[b"]\x94h\x00a"]);
    let tree = read(&bytes).expect("pickle");
    assert_eq!(tree.items(tree.root), Some(&[tree.root][..]));
    let bytes = pickle(&[b"}\x94", &text("state_dict"), b"h\x00s"]);
    let tree = read(&bytes).expect("pickle");
    let found = crate::weights::wrappers::unwrapped(&tree, tree.root);
    assert_eq!((found.dict, found.passed.len()), (tree.root, 4));
}

/// A dictionary of these values.
fn dict(pairs: &[(&str, &[u8])]) -> Vec<u8> {
    let pairs = pairs.iter().flat_map(|(key, value)| [text(key), value.to_vec()]);
    [b"}(".to_vec(), pairs.collect::<Vec<_>>().concat(), b"u".to_vec()].concat()
}

/// A tensor of four floats.
fn tensor() -> Vec<u8> {
    [
        &b"ctorch._utils\n_rebuild_tensor_v2\n(("[..],
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        b"K\x04tQK\x00(K\x04t(K\x01t\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

/// Entries of a file, the wrappers on the path to its weights, and those that are skipped.
type Wrapped<'a> = (&'a [(&'a str, &'a [u8])], &'a [&'a str], &'a [&'a str]);

#[test]
fn weights_are_found_under_their_wrappers_and_averages_first() {
    let weights = dict(&[("norm.weight", &tensor())]);
    let (w, number) = (weights.as_slice(), &b"K\x03"[..]);
    let settings = dict(&[("decay", number)]);
    let shadow = dict(&[("decay", number), ("shadow", w)]);
    let cases: [Wrapped; 12] = [
        (&[("swa_state_dict", w)], &["swa_state_dict"], &[]),
        (&[("swa_model", w), ("epoch", number)], &["swa_model"], &[]),
        (&[("ema", &shadow)], &["ema", "shadow"], &[]),
        (&[("model", w), ("model_ema", w)], &["model_ema"], &["model"]),
        (&[("model", w), ("teacher", w)], &["teacher"], &["model"]),
        (&[("params", w), ("params_ema", w)], &["params_ema"], &["params"]),
        (&[("ema_state_dict", w), ("state_dict", w)], &["state_dict"], &["ema_state_dict"]),
        (&[("ema", &settings), ("model", w)], &["model"], &[]),
        (&[("of_another_name", w), ("epoch", number)], &["of_another_name"], &[]),
        (&[("left", w), ("right", w)], &[], &[]),
        (&[("norm.weight", &tensor()), ("ema", &settings)], &[], &[]),
        (&[], &[], &[]),
    ];
    for (pairs, passed, other_entries) in cases {
        let bytes = pickle(&[&dict(pairs)]);
        let tree = read(&bytes).expect("pickle");
        let found = crate::weights::wrappers::unwrapped(&tree, tree.root);
        let others: Vec<&str> =
            found.other_entries.iter().map(|(other, _)| other.as_str()).collect();
        assert_eq!(
            (found.passed, others.as_slice()),
            (passed.iter().map(|w| w.to_string()).collect(), other_entries)
        );
    }
}
