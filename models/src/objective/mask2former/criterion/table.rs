//! An assignment as the losses read it.

use dressage_engine::{DType, Device, Tensor, ops};

use super::points::Slots;
use super::results::mask_count;
use super::{Assignment, CriterionConfig, MatchedPair};
use crate::objective::BatchPart;
use crate::{ModelError, Result};

/// The matching as the losses read it.
///
/// On the host each matched pair has a row. On a device there is one table of all predictions at a
/// fixed address, filled by one copy, and the class weights. Each image has `s = min(k, q)` slots, its maximum number of pairs. Pairs fill the slots by
/// ascending query; the rest is padding. For each prediction the table contains entries of 32 bits:
///
/// ```text
/// labels  [b, q]   class assigned to each query, k = no object
/// queries [b, s]   query of each slot, counted over the batch; -1 = padding, as below
/// images  [b, s]
/// classes [b, s]
/// pairs   [b, s]   index of the pair among those of the prediction
/// weights [b, s]   f32: 1, or 0 for padding
/// ```
///
/// After all predictions the table contains, as f32, the divisor of each prediction's mask losses and
/// that of the class losses over a batch of which the images are a part.
pub struct AssignmentTable {
    /// `[layers * (b q + 5 b s) + layers + 1]`, i32 on a device; absent on the host.
    table: Option<Tensor>,
    /// `[k + 1]`, f32.
    class_weights: Tensor,
    layers: usize,
    b: usize,
    q: usize,
    k: usize,
    /// Pairs of each prediction.
    pairs: Vec<Vec<MatchedPair>>,
    /// Weight of the class "no object".
    no_object: f32,
    /// The batch of which the images are a part.
    whole: Option<Whole>,
}

/// Sums over the images of a batch.
#[derive(Debug, Clone, Copy)]
struct Whole {
    /// Matched pairs of the images before the part.
    first_pair: usize,
    /// Divisor of the mask losses.
    masks: f32,
    /// Class weights of all queries.
    class_weights: f32,
}

/// The table's part of one prediction, with `r` rows.
pub(super) struct Matched {
    /// `[b, q]`, i32.
    pub labels: Tensor,
    /// `[r]`, i32: query of each row, counted over the batch.
    pub queries: Tensor,
    /// `[r]`, i32.
    pub images: Tensor,
    /// `[r]`, i32.
    pub classes: Tensor,
    /// `[r]`, f32: 1, or 0 for padding; absent on the host.
    pub weights: Option<Tensor>,
    /// `[1]`, f32: divisor of the mask losses.
    pub num: Tensor,
    /// `[1]`, f32: divisor of the class loss, if it is not that of these images alone.
    pub class_divisor: Option<Tensor>,
    /// Rows of the pairs.
    pub slots: Slots,
    /// The pairs themselves, on the host.
    pub pairs: Option<Vec<MatchedPair>>,
}

impl AssignmentTable {
    /// Creates a table for `layers` predictions of `q` queries for `b` images. Nothing is matched
    /// until an assignment is uploaded.
    ///
    /// # Errors
    /// No room on the device.
    pub fn new(
        device: Option<&Device>,
        config: &CriterionConfig,
        [layers, b, q]: [usize; 3],
    ) -> Result<AssignmentTable> {
        let k = config.classes;
        let mut weights = vec![1.0f32; k];
        weights.push(config.no_object as f32);
        let mut class_weights = Tensor::from_slice(&weights, &[k + 1])?;
        let mut table = None;
        if let Some(device) = device {
            class_weights = class_weights.to_device(device, DType::F32)?;
            let words = layers * (b * q + 5 * b * k.min(q) + 1) + 1;
            table = Some(Tensor::empty_on(Some(device), DType::I32, &[words])?);
        }
        let pairs = vec![Vec::new(); layers];
        let (no_object, whole) = (config.no_object as f32, None);
        let mut empty =
            AssignmentTable { table, class_weights, layers, b, q, k, pairs, no_object, whole };
        empty.write(&vec![&[][..]; layers])?;
        Ok(empty)
    }

    /// Overwrites the assignment with a new one. One copy; does not wait.
    ///
    /// # Errors
    /// Another number of predictions; a pair without a slot; a part of the table that losses still
    /// use; a failure of the device.
    pub fn upload(&mut self, assignment: &Assignment) -> Result<()> {
        let pairs: Vec<&[MatchedPair]> = assignment.layers.iter().map(|l| &l.pairs[..]).collect();
        self.write(&pairs)
    }

    /// Makes the images a part of a batch, from the next assignment on. How many pairs other images
    /// have follows from their targets: as many, but not more than there are queries.
    pub fn set_part(&mut self, part: Option<BatchPart<'_>>) {
        self.whole = part.map(|BatchPart { targets, first }| {
            let pairs = |images: &[usize]| images.iter().map(|&n| n.min(self.q)).sum::<usize>();
            let (matched, queries) = (pairs(targets), targets.len() * self.q);
            let masks = targets.iter().map(|&n| n.min(self.q).max(1)).sum::<usize>().max(1);
            let others = f64::from(self.no_object) * (queries - matched) as f64;
            let class_weights = (matched as f64 + others) as f32;
            Whole { first_pair: pairs(&targets[..first]), masks: masks as f32, class_weights }
        });
    }

    /// Divisor of the mask losses of a prediction.
    fn masks(&self, pairs: &[MatchedPair]) -> f32 {
        self.whole.map_or_else(|| mask_count(pairs, self.b) as f32, |whole| whole.masks)
    }

    /// Numbers of predictions, images and queries of the table.
    pub fn sizes(&self) -> [usize; 3] {
        [self.layers, self.b, self.q]
    }

    /// Number of slots of an image.
    pub fn slots(&self) -> usize {
        self.k.min(self.q)
    }

    fn write(&mut self, layers: &[&[MatchedPair]]) -> Result<()> {
        if layers.len() != self.layers {
            let text = format!("{} predictions matched, room for {}", layers.len(), self.layers);
            return Err(ModelError::Config(text));
        }
        let mut words = Vec::new();
        for pairs in layers {
            self.append(pairs, &mut words)?;
        }
        let nums: Vec<f32> = layers.iter().map(|pairs| self.masks(pairs)).collect();
        if let Some(table) = &mut self.table {
            let class_divisor = self.whole.map_or(0.0, |whole| whole.class_weights);
            words.extend(nums.into_iter().chain([class_divisor]).map(|num| num.to_bits() as i32));
            table.overwrite(&words)?;
        }
        self.pairs = layers.iter().map(|pairs| pairs.to_vec()).collect();
        Ok(())
    }

    /// Appends the part of one prediction.
    fn append(&self, pairs: &[MatchedPair], words: &mut Vec<i32>) -> Result<()> {
        let (b, q, s) = (self.b, self.q, self.slots());
        let start = words.len();
        words.resize(start + b * q, self.k as i32);
        words.resize(start + b * q + 4 * b * s, -1);
        words.resize(start + b * q + 5 * b * s, 0);
        let (labels, slots) = words[start..].split_at_mut(b * q);
        let mut next: Vec<usize> = (0..b).map(|image| image * s).collect();
        for (row, pair) in pairs.iter().enumerate() {
            let fits = pair.image < b && pair.query < q && usize::from(pair.class) < self.k;
            let slot = match fits.then(|| &mut next[pair.image]) {
                Some(slot) if *slot < (pair.image + 1) * s => slot,
                _ => {
                    let text = format!(
                        "{pair:?} has no place among {b} images of {q} queries and {} classes",
                        self.k
                    );
                    return Err(ModelError::Config(text));
                }
            };
            let query = pair.image * q + pair.query;
            labels[query] = i32::from(pair.class);
            let weight = 1.0f32.to_bits() as i32;
            let index = self.first_pair() + row;
            let entries =
                [query as i32, pair.image as i32, i32::from(pair.class), index as i32, weight];
            for (i, entry) in entries.into_iter().enumerate() {
                slots[i * b * s + *slot] = entry;
            }
            *slot += 1;
        }
        Ok(())
    }

    /// Index of the first pair among those of the whole batch.
    fn first_pair(&self) -> usize {
        self.whole.map_or(0, |whole| whole.first_pair)
    }

    /// `[k + 1]`, f32.
    pub(super) fn class_weights(&self) -> &Tensor {
        &self.class_weights
    }

    /// The part of prediction `l`.
    pub(super) fn layer(&self, l: usize) -> Result<Matched> {
        let capacity = self.b * self.slots();
        let (filled, labels) = (self.pairs[l].len(), self.b * self.q);
        let Some(table) = &self.table else { return self.on_host(&self.pairs[l]) };
        let (start, first) = (l * (labels + 5 * capacity), self.first_pair());
        let nums = self.layers * (labels + 5 * capacity);
        let part = |i: usize| ops::rows(table, start + labels + i * capacity, capacity);
        Ok(Matched {
            labels: ops::rows(table, start, labels)?,
            queries: part(0)?,
            images: part(1)?,
            classes: part(2)?,
            weights: Some(part(4)?.bits_as(DType::F32)?),
            num: ops::rows(table, nums + l, 1)?.bits_as(DType::F32)?,
            class_divisor: match self.whole {
                Some(_) => Some(ops::rows(table, nums + self.layers, 1)?.bits_as(DType::F32)?),
                None => None,
            },
            slots: Slots { pair_index: Some(part(3)?), filled, first, capacity },
            pairs: None,
        })
    }

    /// The part of a prediction with these pairs, in host memory.
    fn on_host(&self, pairs: &[MatchedPair]) -> Result<Matched> {
        let mut labels = vec![self.k as i32; self.b * self.q];
        for pair in pairs {
            labels[pair.image * self.q + pair.query] = i32::from(pair.class);
        }
        let column = |of: &dyn Fn(&MatchedPair) -> usize| {
            let values: Vec<i32> = pairs.iter().map(|pair| of(pair) as i32).collect();
            let mut column =
                Tensor::with_capacity(DType::I32, &[pairs.len()], self.b * self.slots());
            column.data_mut::<i32>()?.copy_from_slice(&values);
            Ok::<_, ModelError>(column)
        };
        Ok(Matched {
            labels: Tensor::from_slice(&labels, &[labels.len()])?,
            queries: column(&|pair| pair.image * self.q + pair.query)?,
            images: column(&|pair| pair.image)?,
            classes: column(&|pair| usize::from(pair.class))?,
            weights: None,
            num: Tensor::from_slice(&[self.masks(pairs)], &[1])?,
            class_divisor: match &self.whole {
                Some(whole) => Some(Tensor::from_slice(&[whole.class_weights], &[1])?),
                None => None,
            },
            slots: Slots {
                pair_index: None,
                filled: pairs.len(),
                first: self.first_pair(),
                capacity: self.b * self.slots(),
            },
            pairs: Some(pairs.to_vec()),
        })
    }
}
