//! Scores of a segmentation, from integer counts.
//!
//! ```text
//! IoU[c] = both / (labelled + predicted - both)     Acc[c] = both / labelled     aAcc = sum both / sum labelled
//! ```
//! over all pixels of a set whose label is not 255. mIoU and mAcc are means over the classes whose
//! ratio is defined: a class that is neither labelled nor predicted counts nowhere; one that is
//! predicted but never labelled has IoU 0 and no Acc. Values are per cent rounded to two decimals;
//! the mean over several sets is the plain mean of the rounded values, as published. Source: spec
//! training-and-data §6. The counts are integers, where the reference adds in f32.

mod table;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::IGNORE;

/// Errors of counting.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MetricError {
    /// A value that is no class.
    #[error("{what} at pixel {pixel} is {value}, classes go from 0 to {}", classes - 1)]
    Value {
        /// `label` or `prediction`.
        what: &'static str,
        /// Position in the picture, row-major.
        pixel: usize,
        /// Value found.
        value: u8,
        /// Number of classes.
        classes: usize,
    },
    /// Label and prediction of different sizes, or counts of different numbers of classes.
    #[error("{what}: {expected} expected, {found} found")]
    Size {
        /// Name of what differs.
        what: &'static str,
        /// Number expected.
        expected: usize,
        /// Number found.
        found: usize,
    },
}

/// Confusion matrix: pixels by label and prediction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    k: usize,
    /// `[k, k]`: rows are labels, columns predictions.
    counts: Vec<u64>,
}

impl Confusion {
    /// Makes an empty matrix of `k` classes (1 to 255).
    ///
    /// # Errors
    /// [`MetricError::Size`] for another `k`.
    pub fn new(k: usize) -> Result<Self, MetricError> {
        if !(1..=255).contains(&k) {
            return Err(MetricError::Size { what: "classes (1 to 255)", expected: 255, found: k });
        }
        Ok(Self { k, counts: vec![0; k * k] })
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.k
    }

    /// Pixels labelled `label` and predicted `prediction`; 0 beyond the last class.
    pub fn count(&self, label: usize, prediction: usize) -> u64 {
        let inside = label < self.k && prediction < self.k;
        if inside { self.counts[label * self.k + prediction] } else { 0 }
    }

    /// Counts a picture. On an error none of its pixels are counted.
    ///
    /// # Errors
    /// Different lengths; a label that is neither a class nor [`IGNORE`]; a prediction that is no
    /// class where the label is one.
    pub fn add(&mut self, labels: &[u8], predictions: &[u8]) -> Result<(), MetricError> {
        let (expected, found) = (labels.len(), predictions.len());
        if expected != found {
            return Err(MetricError::Size { what: "pixels of the prediction", expected, found });
        }
        let classes = self.k;
        let mut counts = vec![0_u64; classes * classes];
        for (pixel, (&label, &prediction)) in labels.iter().zip(predictions).enumerate() {
            if label == IGNORE {
                continue;
            }
            for (what, value) in [("label", label), ("prediction", prediction)] {
                if usize::from(value) >= classes {
                    return Err(MetricError::Value { what, pixel, value, classes });
                }
            }
            counts[usize::from(label) * classes + usize::from(prediction)] += 1;
        }
        self.counts.iter_mut().zip(&counts).for_each(|(sum, n)| *sum += n);
        Ok(())
    }

    /// Adds the counts of another part of the set.
    ///
    /// # Errors
    /// Another number of classes.
    pub fn merge(&mut self, other: &Self) -> Result<(), MetricError> {
        let (expected, found) = (self.k, other.k);
        if expected != found {
            return Err(MetricError::Size { what: "classes", expected, found });
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, n)| *sum += n);
        Ok(())
    }

    /// Merges classes into groups. Pixels labelled with a class of no group no longer count, nor do
    /// those predicted as one. So compare networks only if all their classes are in groups.
    ///
    /// # Errors
    /// A group that names a class beyond the last, or no group.
    pub fn grouped(&self, groups: &[Vec<usize>]) -> Result<Self, MetricError> {
        let mut out = Self::new(groups.len())?;
        if let Some(&found) = groups.iter().flatten().find(|&&c| c >= self.k) {
            return Err(MetricError::Size { what: "class of a group", expected: self.k, found });
        }
        for (a, labels) in groups.iter().enumerate() {
            for (b, predictions) in groups.iter().enumerate() {
                let pairs = labels.iter().flat_map(|&l| predictions.iter().map(move |&p| (l, p)));
                out.counts[a * out.k + b] = pairs.map(|(l, p)| self.count(l, p)).sum();
            }
        }
        Ok(out)
    }

    /// Computes the scores.
    pub fn scores(&self) -> Scores {
        let k = self.k;
        let both: Vec<u64> = (0..k).map(|c| self.counts[c * k + c]).collect();
        let labelled: Vec<u64> =
            (0..k).map(|c| self.counts[c * k..(c + 1) * k].iter().sum()).collect();
        let predicted: Vec<u64> =
            (0..k).map(|c| (0..k).map(|row| self.counts[row * k + c]).sum()).collect();
        let iou: Vec<_> =
            (0..k).map(|c| ratio(both[c], labelled[c] + predicted[c] - both[c])).collect();
        let acc: Vec<_> = (0..k).map(|c| ratio(both[c], labelled[c])).collect();
        Scores {
            miou: mean(&iou),
            macc: mean(&acc),
            aacc: ratio(both.iter().sum(), labelled.iter().sum()),
            iou,
            acc,
            pixels: labelled.iter().sum(),
        }
    }
}

/// Scores from 0 to 1; `None` if there was nothing to compare.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// IoU of each class, `[k]`.
    pub iou: Vec<Option<f64>>,
    /// Acc of each class, `[k]`.
    pub acc: Vec<Option<f64>>,
    /// Mean of the defined IoU values.
    pub miou: Option<f64>,
    /// Mean of the defined Acc values.
    pub macc: Option<f64>,
    /// Share of all pixels that are correct.
    pub aacc: Option<f64>,
    /// Pixels counted.
    pub pixels: u64,
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn mean(values: &[Option<f64>]) -> Option<f64> {
    let defined: Vec<f64> = values.iter().flatten().copied().collect();
    (!defined.is_empty()).then(|| defined.iter().sum::<f64>() / defined.len() as f64)
}

/// Per cent with two decimals, ties to the even digit.
pub fn percent(ratio: f64) -> f64 {
    (ratio * 100.0 * 100.0).round_ties_even() / 100.0
}

/// Scores of one set in per cent, rounded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetReport {
    /// Name of the set.
    pub name: String,
    /// Width and height of the box that images were fitted into, `[0, 0]` for their own size. A
    /// score without it says little, since the published ones are taken at half size.
    #[serde(rename = "box")]
    pub test_box: [usize; 2],
    /// Number of images.
    pub images: usize,
    /// Pixels counted.
    pub pixels: u64,
    /// Whether the mean over sets counts it.
    pub in_mean: bool,
    /// Mean IoU.
    #[serde(rename = "mIoU")]
    pub miou: Option<f64>,
    /// Mean accuracy.
    #[serde(rename = "mAcc")]
    pub macc: Option<f64>,
    /// Accuracy over all pixels.
    #[serde(rename = "aAcc")]
    pub aacc: Option<f64>,
    /// IoU of each class, `[k]`.
    #[serde(rename = "IoU")]
    pub iou: Vec<Option<f64>>,
    /// Acc of each class, `[k]`.
    #[serde(rename = "Acc")]
    pub acc: Vec<Option<f64>>,
}

/// Means over the sets, from their rounded values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeanReport {
    /// Mean IoU.
    #[serde(rename = "mIoU")]
    pub miou: Option<f64>,
    /// Mean accuracy.
    #[serde(rename = "mAcc")]
    pub macc: Option<f64>,
    /// Accuracy over all pixels.
    #[serde(rename = "aAcc")]
    pub aacc: Option<f64>,
}

/// An evaluation on one or several sets; serialises to the JSON that `dressage eval` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Sets, in the order of the recipe.
    pub sets: Vec<SetReport>,
    /// Means over the sets that count.
    pub mean: MeanReport,
}

impl SetReport {
    /// Rounds the scores of `counts`.
    pub fn new(
        name: &str,
        test_box: [usize; 2],
        images: usize,
        in_mean: bool,
        counts: &Confusion,
    ) -> Self {
        let s = counts.scores();
        let all = |values: &[Option<f64>]| values.iter().map(|v| v.map(percent)).collect();
        Self {
            name: name.to_owned(),
            test_box,
            images,
            pixels: s.pixels,
            in_mean,
            miou: s.miou.map(percent),
            macc: s.macc.map(percent),
            aacc: s.aacc.map(percent),
            iou: all(&s.iou),
            acc: all(&s.acc),
        }
    }
}

impl Report {
    /// Combines sets. Those without a single labelled pixel have no value and do not enter the
    /// mean.
    ///
    /// # Errors
    /// A set with another number of classes than names.
    pub fn new(classes: Vec<String>, sets: Vec<SetReport>) -> Result<Self, MetricError> {
        let expected = classes.len();
        if let Some(set) = sets.iter().find(|set| set.iou.len() != expected) {
            let found = set.iou.len();
            return Err(MetricError::Size { what: "classes", expected, found });
        }
        let over = |value: fn(&SetReport) -> Option<f64>| {
            mean(&sets.iter().filter(|set| set.in_mean).map(value).collect::<Vec<_>>())
        };
        let mean = MeanReport {
            miou: over(|set| set.miou),
            macc: over(|set| set.macc),
            aacc: over(|set| set.aacc),
        };
        Ok(Self { classes, sets, mean })
    }
}
