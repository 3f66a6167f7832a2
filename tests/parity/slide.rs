//! Inference: windows, their average, resizing to the original size, the classes.

use dressage_engine::{DType, Device, Tensor, ops};
use dressage_models::Segmenter;
use dressage_tests::Outcome;
use dressage_tests::compare::Table;
use dressage_tests::fixture::{Fixture, Settings};
use dressage_train::evaluate::argmax;
use dressage_train::windows::{ScoreMap, Window, slide as windows, whole};

use crate::updates::network;

/// The part of `image` `[1, 3, h, w]` in a window.
fn cut(image: &Tensor, window: &Window) -> Outcome<Tensor> {
    let (h, w) = (image.dim(2), image.dim(3));
    let data = image.data::<f32>()?;
    let mut part = Vec::with_capacity(3 * window.h() * window.w());
    for c in 0..3 {
        for y in window.y0..window.y1 {
            let row = &data[(c * h + y) * w..][..w];
            part.extend_from_slice(&row[window.x0..window.x1]);
        }
    }
    Ok(Tensor::from_slice(&part, &[1, 3, window.h(), window.w()])?)
}

/// Windows in row-major order; `crop` and `stride` are (height, width).
fn grid([h, w]: [usize; 2], crop: &[usize], stride: &[usize]) -> Outcome<Vec<Window>> {
    if crop[0] == crop[1] && stride[0] == stride[1] {
        return Ok(windows(h, w, crop[0], stride[0])?);
    }
    // Our windows are square, so each axis is computed separately.
    let (rows, columns) = (windows(h, 1, crop[0], stride[0])?, windows(1, w, crop[1], stride[1])?);
    let across = |r: &Window| {
        let Window { y0, y1, .. } = *r;
        columns.iter().map(move |c| Window { y0, y1, ..*c }).collect::<Vec<_>>()
    };
    Ok(rows.iter().flat_map(across).collect())
}

/// Compares `EncoderDecoder` at test time, on the host and on the virtual GPU.
pub fn slide(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    slide_with(fixture, table, &network(fixture)?)?;
    let mut there = network(fixture)?;
    there.to_device(&Device::virtual_gpu(), DType::F32)?;
    slide_with(fixture, table, &there)
}

fn slide_with(fixture: &Fixture, table: &mut Table, model: &Segmenter) -> Outcome<()> {
    let image = fixture.shape("input.image")?;
    let (h, w) = (image[2], image[3]);
    let case = &fixture.json["case"];
    let windows = match case.word("mode") {
        "whole" => vec![whole(h, w)],
        _ => {
            let (crop, stride) = (case.sizes("crop")?, case.sizes("stride")?);
            grid([h, w], &crop, &stride)?
        }
    };
    let size: [usize; 2] = match case.sizes("ori_shape")?[..] {
        [h, w] => [h, w],
        _ => return Err("ori_shape is no height and width".into()),
    };
    windows_of(fixture, table, model, &windows, size)
}

/// Compares the scores of windows, their average, its resize to `size`, and the classes.
pub fn windows_of(
    fixture: &Fixture,
    table: &mut Table,
    model: &Segmenter,
    windows: &[Window],
    size: [usize; 2],
) -> Outcome<()> {
    let classes = model.objective().classes();
    let image = fixture.floats("input.image")?;
    let (h, w) = (image.dim(2), image.dim(3));
    table.equal("windows", &[windows.len()], &[fixture.json.size("windows")?]);
    let mut sum = ScoreMap::new(classes, h, w);
    for (i, window) in windows.iter().enumerate() {
        let scores = model.scores(&model.image(cut(&image, window)?)?)?.to_host()?;
        let name = format!("output.window.{i}");
        if fixture.has(&name) {
            table.close(fixture, &name, &scores)?;
        }
        sum.add(*window, scores.data::<f32>()?, window.h(), window.w())?;
    }
    let average = Tensor::from_slice(&sum.finish()?, &[1, classes, h, w])?;
    table.close(fixture, "output.logits", &average)?;
    let resized = ops::resize_maps(&average, size)?;
    let resized = ops::reshape(&resized, &[classes, size[0], size[1]])?;
    table.close(fixture, "output.logits_resized", &resized)?;
    let clear = fixture.integers("output.argmax_clear")?;
    let chosen = argmax(resized.data::<f32>()?, classes);
    let recorded = fixture.integers("output.argmax")?;
    // If the two best classes are closer than the rounding error, either may win.
    let where_clear = |values: &[i64]| -> Vec<i64> {
        values.iter().zip(&clear).filter(|(_, c)| **c == 1).map(|(v, _)| *v).collect()
    };
    let chosen: Vec<i64> = chosen.iter().map(|&c| i64::from(c)).collect();
    if chosen.len() != recorded.len() {
        table.fail(format!("output.argmax: {} pixels, not {}", chosen.len(), recorded.len()));
    }
    table.equal("output.argmax", &where_clear(&chosen), &where_clear(&recorded));
    Ok(())
}
