//! Matching and losses of Mask2Former (spec mask2former §4).

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{DType, Philox, Tensor, no_grad, ops};
use dressage_kernels::match_cost::MatchCost;
use dressage_kernels::outline;
use dressage_kernels::point_sample::LabelSample;
use dressage_kernels::uncertain_points::UncertainPoints;

use crate::head::HeadOutput;
use crate::matching::{Costs, match_all};
use crate::{ModelError, Result};

/// Label of pixels that no loss looks at.
pub const IGNORE: u8 = 255;

/// Settings of the losses.
#[derive(Debug, Clone, PartialEq)]
pub struct CriterionConfig {
    /// Classes k, without "no object".
    pub classes: usize,
    /// Points P per mask.
    pub points: usize,
    /// Candidates per point of the uncertain part.
    pub oversample: f64,
    /// Share of the points chosen by uncertainty.
    pub importance: f64,
    /// Class weight of "no object".
    pub no_object: f64,
    /// Weights of the class, mask and dice terms, in the losses and in the costs of matching.
    pub weights: [f64; 3],
}

impl CriterionConfig {
    /// The published settings.
    pub fn published(classes: usize) -> CriterionConfig {
        CriterionConfig {
            classes,
            points: 12544,
            oversample: 3.0,
            importance: 0.75,
            no_object: 0.1,
            weights: [2.0, 5.0, 5.0],
        }
    }
}

/// What a step draws at random: points as (x, y) in [0, 1), (0, 0) the top left corner.
pub trait PointSource {
    /// `[n, 2]`: points for the costs of one image, shared by its queries and targets.
    ///
    /// # Errors
    /// If the source cannot deliver.
    fn assign(&mut self, layer: usize, image: usize, n: usize) -> Result<Tensor>;
    /// `[rows, n, 2]`: candidates for the uncertain points of each matched pair.
    ///
    /// # Errors
    /// If the source cannot deliver.
    fn oversample(&mut self, layer: usize, rows: usize, n: usize) -> Result<Tensor>;
    /// `[rows, n, 2]`: the points taken without regard to uncertainty.
    ///
    /// # Errors
    /// If the source cannot deliver.
    fn random(&mut self, layer: usize, rows: usize, n: usize) -> Result<Tensor>;
}

/// Points from the counter-based generator, keyed by seed and step.
pub struct RandomPoints {
    /// Seed of the run.
    pub seed: u64,
    /// Step of the run.
    pub step: u64,
    /// Most rows there can be: buffers are taken for so many.
    pub capacity: usize,
}

impl RandomPoints {
    fn draw(&self, purpose: u32, stream: u64, shape: &[usize], capacity: usize) -> Result<Tensor> {
        let mut t = Tensor::with_capacity(DType::F32, shape, capacity);
        if outline::skips("points") {
            return Ok(t);
        }
        let mut r = Philox::new(self.seed, purpose, stream, self.step);
        t.data_mut::<f32>()?.fill_with(|| r.uniform_f32());
        Ok(t)
    }
}

impl PointSource for RandomPoints {
    fn assign(&mut self, layer: usize, image: usize, n: usize) -> Result<Tensor> {
        let stream = ((layer as u64) << 20) | image as u64;
        self.draw(0x4153_5349, stream, &[n, 2], 2 * n)
    }

    fn oversample(&mut self, layer: usize, rows: usize, n: usize) -> Result<Tensor> {
        self.draw(0x4F56_4552, layer as u64, &[rows, n, 2], self.capacity * n * 2)
    }

    fn random(&mut self, layer: usize, rows: usize, n: usize) -> Result<Tensor> {
        self.draw(0x5241_4E44, layer as u64, &[rows, n, 2], self.capacity * n * 2)
    }
}

/// What the network should have said.
pub struct Targets {
    /// `[b, H, W]` u8, 255 = ignore.
    labels: Tensor,
    /// Classes present in each image, ascending; each is one target.
    classes: Vec<Vec<u8>>,
}

impl Targets {
    /// Targets from label maps `[b, H, W]` (u8).
    ///
    /// # Errors
    /// Another shape or type; a label that is neither a class nor 255.
    pub fn new(labels: Tensor, classes: usize) -> Result<Targets> {
        let &[_, h, w] = labels.shape() else {
            let text = format!("labels are {:?}, expected [b, H, W]", labels.shape());
            return Err(ModelError::Config(text));
        };
        let present = |map: &[u8]| {
            let mut seen = [false; 256];
            map.iter().for_each(|&v| seen[v as usize] = true);
            let found: Vec<u8> = (0..=254u8).filter(|&v| seen[v as usize]).collect();
            match found.iter().find(|&&v| v as usize >= classes) {
                Some(v) => Err(ModelError::Config(format!(
                    "label value {v} is not one of the {classes} classes (or 255)"
                ))),
                None => Ok(found),
            }
        };
        let maps = labels.data::<u8>()?.chunks_exact((h * w).max(1));
        let classes = maps.map(present).collect::<Result<_>>()?;
        Ok(Targets { labels, classes })
    }

    /// Targets of all `classes` in each of `b` images of side `s`, for an outline: no pixel is
    /// looked at.
    pub fn outlined(b: usize, s: usize, classes: usize) -> Targets {
        let all: Vec<u8> = (0..=254u8).take(classes).collect();
        Targets { labels: Tensor::empty::<u8>(&[b, s, s]), classes: vec![all; b] }
    }

    /// Classes present in each image, ascending.
    pub fn classes(&self) -> &[Vec<u8>] {
        &self.classes
    }

    /// What the mask losses are divided by: targets, an image without any counting as one.
    pub fn num_masks(&self) -> f64 {
        self.classes.iter().map(|c| c.len().max(1)).sum::<usize>().max(1) as f64
    }
}

/// One prediction as the criterion sees it.
pub struct Candidate {
    /// Class logits `[b, q, k + 1]`.
    pub cls: Tensor,
    /// Mask logits `[b, q, h, w]`; read without gradient if `embed` is given.
    pub mask: Tensor,
    /// Mask embeddings `[b, q, c]` and pixel embeddings `[b, h * w, c]` whose product `mask` is.
    pub embed: Option<(Tensor, Tensor)>,
}

impl Candidate {
    /// The predictions of a head.
    pub fn of(output: &HeadOutput) -> Vec<Candidate> {
        let one = |p: &crate::head::Prediction| Candidate {
            cls: p.cls.clone(),
            mask: p.mask.detach(),
            embed: Some((p.mask_embed.clone(), output.mask_feature.clone())),
        };
        output.predictions.iter().map(one).collect()
    }

    /// Mask logits `[r, h, w]` of matched pairs, differentiable.
    fn rows(&self, pairs: &[Pair], capacity: usize) -> Result<Tensor> {
        let (q, h, w) = (self.mask.dim(1), self.mask.dim(2), self.mask.dim(3));
        let indices: Vec<usize> = pairs.iter().map(|p| p.image * q + p.query).collect();
        let rows = match &self.embed {
            Some((e, feature)) => {
                let flat = ops::reshape(e, &[e.dim(0) * q, e.last_dim()])?;
                let e = ops::gather_rows(&flat, &indices, capacity)?;
                let images: Vec<usize> = pairs.iter().map(|p| p.image).collect();
                ops::mask_rows(&e, feature, &images, capacity)?
            }
            None => {
                let flat = ops::reshape(&self.mask, &[self.mask.dim(0) * q, h, w])?;
                ops::gather_rows(&flat, &indices, capacity)?
            }
        };
        Ok(ops::reshape(&rows, &[pairs.len(), h, w])?)
    }
}

/// A matched query and its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Image of the batch.
    pub image: usize,
    /// Query.
    pub query: usize,
    /// Class of its target.
    pub class: u8,
}

/// What one prediction contributed.
#[derive(Debug, Clone)]
pub struct LayerLoss {
    /// Weighted losses: class, mask, dice.
    pub values: [f32; 3],
    /// Costs `[q, g]` of each image, targets in ascending class order.
    pub costs: Vec<Vec<f32>>,
    /// Matched pairs by image, then query.
    pub pairs: Vec<Pair>,
    /// Points `[r, p, 2]` the mask losses read; absent without pairs.
    pub points: Option<Tensor>,
}

/// The whole loss.
pub struct Loss {
    /// Sum of all terms, differentiable.
    pub total: Tensor,
    /// By prediction, the first one made before any decoder layer.
    pub layers: Vec<LayerLoss>,
}

impl Loss {
    /// Terms under the reference's names: the last prediction's are `loss_*`, earlier ones'
    /// `d{i}.loss_*`.
    pub fn named(&self) -> Vec<(String, f32)> {
        let last = self.layers.len().saturating_sub(1);
        let name = |i: usize, term: &str| match i {
            i if i == last => format!("loss_{term}"),
            i => format!("d{i}.loss_{term}"),
        };
        let terms = ["cls", "mask", "dice"];
        let named = |(i, l): (usize, &LayerLoss)| {
            let values = l.values;
            terms.iter().zip(values).map(move |(t, v)| (name(i, t), v)).collect::<Vec<_>>()
        };
        self.layers.iter().enumerate().flat_map(named).collect()
    }
}

/// Costs `[q, g]` of each image and the matched pairs of one prediction.
type Matched = (Vec<Vec<f32>>, Vec<Pair>);

/// Computes matching and losses.
#[derive(Debug, Clone)]
pub struct Criterion {
    /// Settings.
    pub config: CriterionConfig,
}

impl Criterion {
    /// Losses of all predictions against the targets.
    ///
    /// # Errors
    /// A cost that is not a number, with layer, image, query and target; shapes that do not fit.
    pub fn loss(
        &self,
        candidates: &[Candidate],
        targets: &Targets,
        points: &mut dyn PointSource,
    ) -> Result<Loss> {
        let matched = no_grad(|| self.match_targets(candidates, targets, points))?;
        let mut parts = Vec::new();
        let mut layers = Vec::new();
        for (l, (candidate, (costs, pairs))) in candidates.iter().zip(matched).enumerate() {
            let cls = self.class_term(candidate, &pairs)?;
            let masks = self.mask_term(l, candidate, targets, &pairs, points)?;
            let (mask, dice) = match &masks {
                Some((loss, _)) => {
                    let v = loss.data::<f32>()?;
                    (v[0], v[1])
                }
                None => (0.0, 0.0),
            };
            let values = [cls.item::<f32>()?, mask, dice];
            parts.push(cls);
            let points = masks.map(|(loss, points)| {
                parts.push(loss);
                points
            });
            layers.push(LayerLoss { values, costs, pairs, points });
        }
        let total = ops::total(&parts.iter().collect::<Vec<_>>())?;
        Ok(Loss { total, layers })
    }

    /// Costs and matched pairs of every prediction.
    fn match_targets(
        &self,
        candidates: &[Candidate],
        targets: &Targets,
        points: &mut dyn PointSource,
    ) -> Result<Vec<Matched>> {
        let mut costs = Vec::new();
        for (l, candidate) in candidates.iter().enumerate() {
            let images = (0..targets.classes.len())
                .map(|i| self.costs(l, i, candidate, targets, points))
                .collect::<Result<Vec<_>>>()?;
            costs.push(images);
        }
        let mut problems = Vec::new();
        for (layer, images) in costs.iter().enumerate() {
            for (image, costs) in images.iter().enumerate() {
                let queries = candidates[layer].cls.dim(1);
                let targets = targets.classes[image].len();
                problems.push(Costs { layer, image, queries, targets, costs });
            }
        }
        let solved = match_all(&problems).map_err(|e| ModelError::Matching(e.to_string()))?;
        let mut solved = solved.into_iter();
        let pair_up = |costs: Vec<Vec<f32>>| {
            let mut pairs = Vec::new();
            for (image, classes) in targets.classes.iter().enumerate() {
                let found = solved.next().map(|a| a.pairs()).unwrap_or_default();
                let pair = |(query, t): (usize, usize)| Pair { image, query, class: classes[t] };
                pairs.extend(found.into_iter().map(pair));
            }
            (costs, pairs)
        };
        Ok(costs.into_iter().map(pair_up).collect())
    }

    /// Costs `[q, g]` of one image.
    fn costs(
        &self,
        layer: usize,
        image: usize,
        candidate: &Candidate,
        targets: &Targets,
        points: &mut dyn PointSource,
    ) -> Result<Vec<f32>> {
        let classes = &targets.classes[image];
        let (q, g, p) = (candidate.cls.dim(1), classes.len(), self.config.points);
        let at = points.assign(layer, image, p)?;
        if g == 0 {
            return Ok(Vec::new());
        }
        let (h, w) = (candidate.mask.dim(2), candidate.mask.dim(3));
        let maps = ops::reshape(&ops::rows(&candidate.mask.detach(), image, 1)?, &[q, h, w])?;
        let x = ops::point_sample(&maps, &at, q)?;
        let mut t = Tensor::with_capacity(DType::F32, &[g, p], self.config.classes * p);
        let (lh, lw) = (targets.labels.dim(1), targets.labels.dim(2));
        let labels = ops::rows(&targets.labels, image, 1)?;
        let sample = LabelSample { h: lh, w: lw, p };
        sample.shared(labels.data::<u8>()?, classes, at.data::<f32>()?, t.data_mut::<f32>()?)?;
        let cls = ops::rows(&candidate.cls.detach(), image, 1)?;
        let ids: Vec<i32> = classes.iter().map(|&c| i32::from(c)).collect();
        let mut cost = vec![0.0; q * g];
        let [class_weight, mask_weight, dice_weight] = self.config.weights;
        let k = self.config.classes;
        let size = MatchCost { q, g, k, p, class_weight, mask_weight, dice_weight };
        size.compute(cls.data::<f32>()?, &ids, x.data()?, t.data()?, &mut cost)?;
        Ok(cost)
    }

    fn class_term(&self, candidate: &Candidate, pairs: &[Pair]) -> Result<Tensor> {
        let (b, q, k) = (candidate.cls.dim(0), candidate.cls.dim(1), self.config.classes);
        let mut labels = vec![k as i32; b * q];
        for pair in pairs {
            labels[pair.image * q + pair.query] = i32::from(pair.class);
        }
        let mut weights = vec![1.0; k];
        weights.push(self.config.no_object);
        Ok(ops::class_loss(&candidate.cls, &labels, &weights, self.config.weights[0])?)
    }

    /// Mask and dice loss `[2]` and the points they read; `None` without pairs, where both are
    /// zero.
    fn mask_term(
        &self,
        layer: usize,
        candidate: &Candidate,
        targets: &Targets,
        pairs: &[Pair],
        points: &mut dyn PointSource,
    ) -> Result<Option<(Tensor, Tensor)>> {
        if pairs.is_empty() {
            return Ok(None);
        }
        let b = targets.classes.len();
        let capacity = b * self.config.classes.min(candidate.cls.dim(1));
        let rows = candidate.rows(pairs, capacity)?;
        let at = with_category(Category::Data, || {
            no_grad(|| self.choose_points(layer, &rows.detach(), capacity, points))
        })?;
        let x = ops::point_sample(&rows, &at, capacity)?;
        let (r, p) = (pairs.len(), self.config.points);
        let mut t = Tensor::with_capacity(DType::F32, &[r, p], capacity * p);
        let images: Vec<usize> = pairs.iter().map(|p| p.image).collect();
        let classes: Vec<u8> = pairs.iter().map(|p| p.class).collect();
        let labels = &targets.labels;
        let sample = LabelSample { h: labels.dim(1), w: labels.dim(2), p };
        let (at_data, t_data) = (at.data::<f32>()?, t.data_mut::<f32>()?);
        sample.each(labels.data::<u8>()?, &images, &classes, at_data, t_data)?;
        let [_, mask_weight, dice_weight] = self.config.weights;
        let loss =
            ops::mask_loss(&x, &t, targets.num_masks(), [mask_weight, dice_weight], capacity)?;
        Ok(Some((loss, at)))
    }

    /// Three quarters of the points where the logits are nearest to zero, the rest anywhere.
    fn choose_points(
        &self,
        layer: usize,
        rows: &Tensor,
        capacity: usize,
        points: &mut dyn PointSource,
    ) -> Result<Tensor> {
        let (r, p) = (rows.dim(0), self.config.points);
        let n_over = (p as f64 * self.config.oversample) as usize;
        let keep = (p as f64 * self.config.importance) as usize;
        let over = points.oversample(layer, r, n_over)?;
        let random = points.random(layer, r, p - keep)?;
        let logits = ops::point_sample(rows, &over, capacity)?;
        let mut chosen = Tensor::with_capacity(DType::F32, &[r, p, 2], capacity * p * 2);
        UncertainPoints { r, n_over, keep, n_rand: p - keep }.select(
            logits.data::<f32>()?,
            over.data()?,
            random.data()?,
            chosen.data_mut()?,
        )?;
        Ok(chosen)
    }
}
