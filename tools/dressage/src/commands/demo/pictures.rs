//! Pictures of the demo: a scene in every look, its label, and the prediction of each network.

use std::path::{Path, PathBuf};

use dressage_train::evaluate::{Inference, predict};
use dressage_train::palette::Palette;
use dressage_train::pictures::{Sheet, SheetRow, colourise, write_image, write_label};
use dressage_train::{TrainError, network};

use super::Trained;
use crate::failure::Failure;

/// Index of the test scene that is shown, the same in every look.
const SCENE: usize = 3;

/// Writes all pictures below `out` and returns the path of the sheet that shows them together.
pub fn write(out: &Path, trained: &[Trained]) -> Result<PathBuf, Failure> {
    let dir = out.join("pictures");
    let fail = |source| TrainError::Write { path: dir.clone(), source };
    std::fs::create_dir_all(&dir).map_err(fail)?;
    let palette = Palette::cityscapes();
    let mut sheet = Sheet {
        title: "trained on day alone".into(),
        columns: ["input", "label"]
            .into_iter()
            .chain(trained.iter().map(|t| t.method))
            .map(str::to_owned)
            .collect(),
        rows: Vec::new(),
        text_scale: 1,
    };
    let sets = trained.first().map(|t| t.recipe.data.eval.as_slice()).unwrap_or_default();
    for (k, set) in sets.iter().enumerate() {
        let name = &set.set.name;
        let file = |what: &str| dir.join(format!("{name}_{what}.png"));
        let mut caption = name.clone();
        let mut images = Vec::new();
        for t in trained {
            let source = network::source(&t.recipe, &set.set)?;
            let (image, label) = source.load(SCENE.min(source.len() - 1))?;
            let how = Inference::of_set(&t.recipe.eval, set);
            let found = predict(t.trainer.model(), &image, how, image.h, image.w)?;
            if images.is_empty() {
                write_image(&file("input"), &image)?;
                write_label(&file("label"), &label, &palette)?;
                images.extend([image, colourise(&label, &palette)]);
            }
            write_label(&file(t.method), &found, &palette)?;
            images.push(colourise(&found, &palette));
            let miou = t.report.sets.get(k).and_then(|set| set.miou).unwrap_or(0.0);
            caption.push_str(&format!("   {} {miou:.1}", t.method));
        }
        sheet.rows.push(SheetRow { caption, images });
    }
    let path = out.join("contact-sheet.png");
    write_image(&path, &sheet.compose())?;
    Ok(path)
}
