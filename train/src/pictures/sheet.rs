//! Contact sheet: rows of pictures under captions, to compare many results.

use super::{GLYPH_H, text, text_width};
use crate::Image;

const BACKGROUND: [u8; 3] = [22, 24, 29];
const BRIGHT: [u8; 3] = [240, 240, 236];
const DIM: [u8; 3] = [158, 164, 172];

/// Pixels between pictures and around the sheet.
const GAP: usize = 8;

/// Pictures side by side.
#[derive(Debug, Clone)]
pub struct SheetRow {
    /// Line above the row, such as the domain and its score.
    pub caption: String,
    /// The pictures, one per column.
    pub images: Vec<Image>,
}

/// A page of pictures.
#[derive(Debug, Clone, Default)]
pub struct Sheet {
    /// Line on top; empty for none.
    pub title: String,
    /// Headings of the columns; may be fewer than columns.
    pub columns: Vec<String>,
    /// Rows from top to bottom.
    pub rows: Vec<SheetRow>,
    /// Pixels per dot of the captions (the title is twice as large); 0 counts as 1.
    pub text_scale: usize,
}

impl Sheet {
    /// Draws everything on one picture. A column is as wide as its widest picture or heading.
    pub fn compose(&self) -> Image {
        let count = self.rows.iter().map(|row| row.images.len()).max().unwrap_or(0);
        let count = count.max(self.columns.len());
        let widths: Vec<usize> = (0..count).map(|k| self.column_width(k)).collect();
        let dot = self.text_scale.max(1);
        let line = dot * GLYPH_H + GAP;
        let title = if self.title.is_empty() { 0 } else { 2 * dot * GLYPH_H + GAP };
        let heads = if self.columns.is_empty() { 0 } else { line };
        let rows: usize = self.rows.iter().map(|row| line + row_height(row) + GAP).sum();
        let captions = self.rows.iter().map(|row| text_width(&row.caption, dot)).max().unwrap_or(0);
        let inner = (widths.iter().sum::<usize>() + GAP * count.saturating_sub(1))
            .max(text_width(&self.title, 2 * dot))
            .max(captions);
        let mut out = Image::new(inner + 2 * GAP, GAP + title + heads + rows);
        out.data.as_chunks_mut::<3>().0.fill(BACKGROUND);
        text(&mut out, GAP, GAP, &self.title, 2 * dot, BRIGHT);
        let mut y = GAP + title;
        let lefts: Vec<usize> =
            (0..count).map(|k| GAP + widths[..k].iter().map(|w| w + GAP).sum::<usize>()).collect();
        for (heading, &x) in self.columns.iter().zip(&lefts) {
            text(&mut out, x, y, heading, dot, DIM);
        }
        y += heads;
        for row in &self.rows {
            text(&mut out, GAP, y, &row.caption, dot, BRIGHT);
            y += line;
            for (image, &x) in row.images.iter().zip(&lefts) {
                paste(&mut out, image, x, y);
            }
            y += row_height(row) + GAP;
        }
        out
    }

    fn column_width(&self, k: usize) -> usize {
        let pictures = self.rows.iter().filter_map(|row| row.images.get(k)).map(|image| image.w);
        let heading =
            self.columns.get(k).map_or(0, |heading| text_width(heading, self.text_scale.max(1)));
        pictures.max().unwrap_or(0).max(heading)
    }
}

fn row_height(row: &SheetRow) -> usize {
    row.images.iter().map(|image| image.h).max().unwrap_or(0)
}

fn paste(out: &mut Image, image: &Image, x: usize, y: usize) {
    for row in 0..image.h {
        let from = &image.data[row * image.w * 3..][..image.w * 3];
        out.data[((y + row) * out.w + x) * 3..][..image.w * 3].copy_from_slice(from);
    }
}
