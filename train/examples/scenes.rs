//! Draws one contact sheet of scenes: `cargo run --release -p dressage-train --example scenes -- sheet.png`.

use dressage_train::palette::Palette;
use dressage_train::pictures::{Sheet, SheetRow, colourise, write_image};
use dressage_train::scenes::{Domain, render};

fn main() -> dressage_train::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |k: usize, other: u64| arguments.get(k).and_then(|a| a.parse().ok()).unwrap_or(other);
    let path = arguments.first().map_or("scenes.png", String::as_str);
    let (first, w, h) = (number(1, 0), number(2, 384) as usize, number(3, 224) as usize);
    let palette = Palette::cityscapes();
    let rows = (0..4)
        .map(|row| {
            let scene = |k: u64, domain| render(1, first + 2 * row + k, domain, w, h);
            let domains = [Domain::ALL[row as usize + 1], Domain::ALL[(row as usize + 2) % 6]];
            let (day, label) = scene(0, Domain::Day);
            let images = vec![
                day,
                colourise(&label, &palette),
                scene(0, domains[0]).0,
                scene(1, Domain::Day).0,
                scene(1, domains[1]).0,
            ];
            let caption = format!("scene {} day, label, {}", first + 2 * row, domains[0].name());
            SheetRow { caption, images }
        })
        .collect();
    let sheet = Sheet { title: "Street scenes".into(), columns: Vec::new(), rows };
    write_image(path.as_ref(), &sheet.compose())
}
