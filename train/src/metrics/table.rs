//! A report as text: a row for each class, a column for each set, means below.

use std::fmt::Write as _;

use super::{Report, SetReport};

/// Narrowest column of numbers: `100.00`.
const NUMBER: usize = 6;
/// Widest column of numbers; longer names of sets are cut.
const WIDEST: usize = 16;
/// Fewest characters that are shown of a class name.
const LEAST: usize = 6;

struct Column<'a> {
    title: String,
    width: usize,
    cells: Vec<Option<f64>>,
    set: Option<&'a SetReport>,
}

impl Report {
    /// Table of IoU per class and the means, in per cent, within `width` columns of text. Sets that
    /// do not fit side by side go into further blocks below. Names that do not fit are cut and end
    /// in `…`. Six characters of a class name and one set are shown even if `width` is less.
    pub fn table(&self, width: usize) -> String {
        let mut rows: Vec<&str> = self.classes.iter().map(String::as_str).collect();
        rows.extend(["mIoU", "mAcc", "aAcc"]);
        let columns = self.columns();
        let widest = columns.iter().map(|c| c.width).max().unwrap_or(NUMBER);
        let longest = rows.iter().map(|r| r.chars().count()).max().unwrap_or(0);
        let name = longest.min(width.saturating_sub(widest + 2)).max(LEAST);
        let mut text = String::new();
        let mut rest = columns.as_slice();
        while !rest.is_empty() {
            let mut used = name;
            let fits = rest.iter().take_while(|c| {
                used += c.width + 2;
                used <= width
            });
            let block = fits.count().max(1);
            if !text.is_empty() {
                text.push('\n');
            }
            write_block(&mut text, &rows, self.classes.len(), name, &rest[..block]);
            rest = &rest[block..];
        }
        text
    }

    fn columns(&self) -> Vec<Column<'_>> {
        let column = |title: &str, cells, set| Column {
            title: title.to_owned(),
            width: title.chars().count().clamp(NUMBER, WIDEST),
            cells,
            set,
        };
        let mut columns: Vec<_> = self
            .sets
            .iter()
            .map(|set| {
                let means = [set.miou, set.macc, set.aacc];
                column(&set.name, set.iou.iter().copied().chain(means).collect(), Some(set))
            })
            .collect();
        if self.sets.iter().filter(|set| set.in_mean).count() > 1 {
            let mut cells = vec![None; self.classes.len()];
            cells.extend([self.mean.miou, self.mean.macc, self.mean.aacc]);
            columns.push(column("mean", cells, None));
        }
        columns
    }
}

fn write_block(
    text: &mut String,
    rows: &[&str],
    classes: usize,
    name: usize,
    columns: &[Column<'_>],
) {
    let mut line = format!("{:name$}", "class");
    for column in columns {
        let _ = write!(line, "  {:>w$}", cut(&column.title, column.width), w = column.width);
    }
    let rule = "-".repeat(line.chars().count());
    let _ = writeln!(text, "{line}\n{rule}");
    for (i, row) in rows.iter().enumerate() {
        if i == classes {
            let _ = writeln!(text, "{rule}");
        }
        let mut line = format!("{:name$}", cut(row, name));
        for column in columns {
            let cell = match (column.cells[i], column.set) {
                (Some(value), _) => format!("{value:.2}"),
                (None, Some(_)) => "-".to_owned(),
                // The mean over sets has no value per class.
                (None, None) => String::new(),
            };
            let _ = write!(line, "  {cell:>w$}", w = column.width);
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// Cuts a word to `width` characters, the last an ellipsis if some are left out.
fn cut(word: &str, width: usize) -> String {
    if word.chars().count() <= width {
        return word.to_owned();
    }
    word.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}
