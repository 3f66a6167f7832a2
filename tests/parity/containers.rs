//! PyTorch files compared with their contents (`NAME.pth` and `NAME.expected.safetensors`).

use std::path::Path;

use dressage_engine::DType;
use dressage_models::weights::{Container, ScalarType, StateDict, Stored};
use dressage_tests::Outcome;
use dressage_tests::compare::Table;

/// Compares names, types, shapes and values of every tensor. The container is recognised from the
/// bytes.
pub fn same_as_expected(path: &Path, table: &mut Table) -> Outcome<()> {
    let got = StateDict::open(path)?;
    let want = StateDict::open(&path.with_extension("expected.safetensors"))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let source = got.source().ok_or("a dictionary without a source")?;
    // File names state container and wrapper: ckpt_zip_model.pth, ckpt_clip_torchscript.pt.
    let words: Vec<&str> = stem.splitn(3, '_').skip(1).collect();
    let (container, wrapper) = match words.as_slice() {
        [_, "torchscript"] => (Container::TorchScript, None),
        ["zip", wrapper] => (Container::Zip, Some(*wrapper)),
        ["legacy", wrapper] => (Container::Legacy, Some(*wrapper)),
        _ => return Err(format!("{stem} does not say what it is").into()),
    };
    table.equal("container", &[source.container], &[container]);
    let wrapper = wrapper.filter(|w| *w != "flat").map(str::to_string);
    let wrapper: Vec<String> = wrapper.into_iter().collect();
    table.equal("wrapper", &source.wrapper, &wrapper);
    let names = |dict: &StateDict| dict.names().cloned().collect::<Vec<_>>();
    table.equal("names", &names(&got), &names(&want));
    for (name, want) in want.iter() {
        let Some(got) = got.get(name) else { continue };
        table.equal(&format!("{name}: shape"), got.shape(), want.shape());
        // Floats of TorchScript files are recorded as f32.
        let widened = container == Container::TorchScript && got.kind().is_float();
        let kind = if widened { ScalarType::F32 } else { got.kind() };
        table.equal(&format!("{name}: type"), &[kind], &[want.kind()]);
        table.equal(name, &bytes(got, kind)?, &bytes(want, kind)?);
        if let Some(floats) = got.to_float(DType::F64)? {
            let want = want.to_float(DType::F64)?.ok_or("recorded integers")?;
            table.equal(&format!("{name} as f64"), floats.data::<f64>()?, want.data::<f64>()?);
        }
    }
    Ok(())
}

/// The values in row-major order.
fn bytes(tensor: &Stored, kind: ScalarType) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    tensor.write(kind, &mut bytes)?;
    Ok(bytes)
}
