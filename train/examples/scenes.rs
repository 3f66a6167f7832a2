//! Draws a contact sheet of scenes in every domain.
//! `cargo run --release -p dressage-train --example scenes -- sheet.png [first] [width] [height]`.

use dressage_train::palette::Palette;
use dressage_train::pictures::{Sheet, SheetRow, colourise, write_image};
use dressage_train::scenes::{Domain, render};

fn main() -> dressage_train::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |k: usize, other: u64| arguments.get(k).and_then(|a| a.parse().ok()).unwrap_or(other);
    let path = arguments.first().map_or("scenes.png", String::as_str);
    let (first, w, h) = (number(1, 0), number(2, 320) as usize, number(3, 192) as usize);
    let palette = Palette::cityscapes();
    let columns = Domain::ALL.iter().map(|domain| domain.name().to_owned());
    let columns = ["label".to_owned()].into_iter().chain(columns).collect();
    let rows = (first..first + 4)
        .map(|index| {
            let label = colourise(&render(1, index, Domain::Day, w, h).1, &palette);
            let domains = Domain::ALL.iter().map(|&domain| render(1, index, domain, w, h).0);
            let images = [label].into_iter().chain(domains).collect();
            SheetRow { caption: format!("scene {index}"), images }
        })
        .collect();
    let sheet = Sheet { title: "Street scenes".into(), columns, rows, text_scale: 2 };
    write_image(path.as_ref(), &sheet.compose())
}
