use super::*;

/// The numbers 0, 1, 2 ... as f32 in a mapped file, `shift` bytes after its start.
fn map(n: usize, shift: usize) -> Arc<MappedFile> {
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(&vec![0; shift]).expect("written");
    for i in 0..n {
        file.write_all(&(i as f32).to_le_bytes()).expect("written");
    }
    Arc::new(MappedFile::of_file(file, "numbers".as_ref()).expect("map"))
}

fn floats(stored: &Stored) -> Vec<f32> {
    let t = stored.to_float(DType::F32).expect("read").expect("floats");
    assert_eq!(t.shape(), stored.shape());
    t.data::<f32>().expect("f32").to_vec()
}

#[test]
fn values_are_copied_unless_they_are_to_be_used_in_place() {
    let file = map(24, 0);
    let mut whole = Stored::mapped(&file, ScalarType::F32, 8, vec![2, 3], vec![3, 1]);
    assert_eq!(floats(&whole), [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let at = |t: &Stored| t.to_float(DType::F32).unwrap().expect("floats").bytes().as_ptr();
    assert_ne!(at(&whole), file[8..].as_ptr(), "a copy");
    whole.use_in_place();
    assert_eq!(floats(&whole), [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    assert_eq!(at(&whole), file[8..].as_ptr(), "no copy");
    assert!(whole.in_place(DType::F64).is_none());
}

#[test]
fn files_that_change_are_refused_by_name() {
    let mut file = tempfile::NamedTempFile::new().expect("file");
    file.write_all(&[0; 64]).expect("written");
    let open = || std::fs::File::open(file.path()).expect("opened");
    let pages = Arc::new(MappedFile::of_file(open(), file.path()).expect("map"));
    let stored = |kind, n| Stored::mapped(&pages, kind, 0, vec![n], vec![1]);
    let turned = || Stored::mapped(&pages, ScalarType::F32, 0, vec![4, 4], vec![1, 4]);
    let refused = |words: &str| {
        let floats = [stored(ScalarType::F32, 16), stored(ScalarType::F16, 32), turned()];
        for error in [
            floats[0].to_float(DType::F32).map(|_| ()).expect_err("changed"),
            floats[1].to_float(DType::F32).map(|_| ()).expect_err("changed"),
            floats[2].to_float(DType::F32).map(|_| ()).expect_err("changed"),
            stored(ScalarType::I32, 16).to_integers().map(|_| ()).expect_err("changed"),
        ] {
            let text = error.to_string();
            let path = file.path().to_str().expect("path");
            assert!(text.contains(path) && text.contains(words), "{text:?}");
        }
        let error = floats[0].write(ScalarType::F16, &mut Vec::new()).expect_err("changed");
        assert!(error.to_string().contains(words), "{error}");
    };
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(9);
    file.as_file().set_modified(later).expect("touched");
    refused("changed while it was in use");
    file.as_file().set_len(60).expect("cut");
    refused("cut short while it was read");
}

#[test]
fn views_of_any_order_are_read_in_theirs() {
    let file = map(24, 0);
    let turned = Stored::mapped(&file, ScalarType::F32, 0, vec![3, 2, 2], vec![1, 12, 3]);
    assert_eq!(floats(&turned), [0.0, 3.0, 12.0, 15.0, 1.0, 4.0, 13.0, 16.0, 2.0, 5.0, 14.0, 17.0]);
    // Axes of length one have any stride; one value may be repeated.
    let one = Stored::mapped(&file, ScalarType::F32, 4, vec![1, 2, 1], vec![99, 1, 7]);
    assert_eq!(floats(&one), [1.0, 2.0]);
    let spread = Stored::mapped(&file, ScalarType::F32, 12, vec![2, 2], vec![0, 0]);
    assert_eq!(floats(&spread), [3.0; 4]);
    assert!(floats(&Stored::mapped(&file, ScalarType::F32, 96, vec![0, 4], vec![4, 1])).is_empty());
    let shifted = map(3, 1);
    let unaligned = Stored::mapped(&shifted, ScalarType::F32, 1, vec![3], vec![1]);
    assert_eq!(floats(&unaligned), [0.0, 1.0, 2.0]);
}

#[test]
fn parts_stack_in_order_whatever_their_type() {
    let tensor = |v: &[f32]| Tensor::from_slice(v, &[v.len() / 2, 2]).expect("tensor");
    let (a, b) = (tensor(&[1.0, 2.0]), tensor(&[3.0, 4.0, 5.0, 6.0]));
    let both = Stored::stacked(vec![a.clone().into(), b.into()]).unwrap().expect("stack");
    assert_eq!((both.shape(), floats(&both)), (&[3, 2][..], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let wide = Tensor::from_slice(&[7.0f64, 8.0], &[1, 2]).expect("tensor");
    let both = Stored::stacked(vec![a.clone().into(), wide.into()]).unwrap().expect("stack");
    assert_eq!((both.kind(), floats(&both)), (ScalarType::F32, vec![1.0, 2.0, 7.0, 8.0]));
    let other = Tensor::zeros(DType::F32, &[1, 3]);
    assert!(Stored::stacked(vec![a.into(), other.into()]).unwrap().is_none());
    assert!(Stored::stacked(vec![Tensor::scalar(1.0f32).into()]).unwrap().is_none());
}

#[test]
fn floats_are_written_in_the_type_asked_for() {
    let t = Tensor::from_slice(&[1.0f32, -2.5, 65504.0], &[3]).expect("tensor");
    let written = |kind| {
        let mut out = Vec::new();
        Stored::from(t.clone()).write(kind, &mut out).expect("written");
        out
    };
    assert_eq!(written(ScalarType::F32), t.bytes());
    assert_eq!(written(ScalarType::F16), [0x00, 0x3c, 0x00, 0xc1, 0xff, 0x7b]);
    assert_eq!(written(ScalarType::Bf16), [0x80, 0x3f, 0x20, 0xc0, 0x80, 0x47]);
    let large = Stored::from(Tensor::full(&[2], 65_520.0f32));
    let error = large.write(ScalarType::F16, &mut Vec::new()).expect_err("too large");
    assert!(error.to_string().contains("65520"), "{error}");
    let flags = Stored::from(Tensor::from_slice(&[1u8, 0], &[2]).expect("tensor"));
    let mut out = Vec::new();
    flags.write(ScalarType::F32, &mut out).expect("written");
    assert_eq!(out, [1, 0], "integers stay");
    assert_eq!(flags.to_integers().expect("read"), Some(vec![1, 0]));
    assert!(flags.to_float(DType::F32).expect("read").is_none());
}
