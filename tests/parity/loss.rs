//! Matching and losses on recorded predictions, labels and random points.

use dressage_engine::{DType, Device, Tensor, backward, ops};
use dressage_models::objective::mask2former::criterion::{
    Candidate, Criterion, CriterionConfig, LayerLoss, PointSource, Slots,
};
use dressage_models::objective::{IGNORE, Targets};
use dressage_models::{ModelError, Result};
use dressage_tests::Outcome;
use dressage_tests::compare::Table;
use dressage_tests::fixture::{Fixture, Settings};

use crate::settings;

/// The random points of the reference, by name.
pub struct RecordedPoints<'a> {
    pub fixture: &'a Fixture,
    /// Start of the names, up to `layer`.
    pub prefix: String,
}

impl RecordedPoints<'_> {
    fn read(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        let wrong = |text: String| ModelError::Config(format!("{name}: {text}"));
        let points = self.fixture.floats(&name).map_err(|e| wrong(e.to_string()))?;
        if points.len() != shape.iter().product::<usize>() {
            return Err(wrong(format!("we draw {shape:?}, recorded {:?}", points.shape())));
        }
        // Recorded tensors are in a mapped file; their shape may have a leading 1.
        Ok(ops::reshape(&points, shape)?)
    }
}

impl PointSource for RecordedPoints<'_> {
    fn assign(
        &mut self,
        device: Option<&Device>,
        layer: usize,
        b: usize,
        n: usize,
    ) -> Result<Tensor> {
        let name = |image: usize| format!("layer{layer}.assign.image{image}");
        let images = (0..b).map(|image| self.read(&name(image), &[1, n, 2]));
        let images = images.collect::<Result<Vec<_>>>()?;
        let all = ops::concat(&images.iter().collect::<Vec<_>>(), 0)?;
        Ok(device.map_or(Ok(all.clone()), |device| all.to_device(device, DType::F32))?)
    }

    fn oversample(&mut self, layer: usize, slots: &Slots, n: usize) -> Result<Tensor> {
        slots.scatter(n, |rows| self.read(&format!("layer{layer}.oversample"), &[rows, n, 2]))
    }

    fn random(&mut self, layer: usize, slots: &Slots, n: usize) -> Result<Tensor> {
        slots.scatter(n, |rows| self.read(&format!("layer{layer}.random"), &[rows, n, 2]))
    }
}

/// Targets from the recorded label maps.
pub fn targets(fixture: &Fixture, classes: usize) -> Outcome<Targets> {
    let labels = fixture.integers("input.gt_sem_seg")?;
    let labels =
        labels.iter().map(|&v| u8::try_from(v)).collect::<std::result::Result<Vec<_>, _>>();
    let labels = Tensor::from_slice(&labels?, fixture.shape("input.gt_sem_seg")?)?;
    Ok(Targets::new(labels, classes)?)
}

/// Compares costs, assignments, points, losses and gradients of given predictions, on the host and
/// on the virtual GPU.
pub fn loss(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let config = settings::losses(&fixture.json)?;
    let targets = targets(fixture, config.classes)?;
    target_lists(fixture, table, &targets)?;
    loss_at(fixture, table, &config, &targets, None)?;
    let device = Device::virtual_gpu();
    let there = targets.to_device(&device)?;
    loss_at(fixture, table, &config, &there, Some(&device))
}

/// Runs the comparison of [`loss`] in the place of `targets`.
fn loss_at(
    fixture: &Fixture,
    table: &mut Table,
    config: &CriterionConfig,
    targets: &Targets,
    device: Option<&Device>,
) -> Outcome<()> {
    let n = fixture.names("input.cls_pred.").len();
    let input = |name: String| -> Outcome<Tensor> {
        let x = fixture.floats(&name)?;
        Ok(match device {
            Some(device) => x.to_device(device, DType::F32)?.leaf(),
            None => x.leaf(),
        })
    };
    let mut candidates = Vec::new();
    for i in 0..n {
        let cls = input(format!("input.cls_pred.{i}"))?;
        let mask = input(format!("input.mask_pred.{i}"))?;
        candidates.push(Candidate { cls, mask, embed: None });
    }
    let mut points = RecordedPoints { fixture, prefix: "input.rand.".into() };
    let criterion = Criterion { config: config.clone() };
    let waits = || device.map_or(0, |device| device.counters().waits);
    let before = waits();
    let loss = criterion.loss(&candidates, targets, &mut points)?;
    if waits() - before != u64::from(device.is_some()) {
        table.fail(format!("the losses waited {} times for the device", waits() - before));
    }
    for (l, layer) in loss.layers.iter().enumerate() {
        let queries = candidates[l].cls.dim(1);
        costs(fixture, table, l, layer, targets)?;
        matches(fixture, table, l, layer, targets, queries, config)?;
        let slots = device.map(|_| config.classes.min(queries));
        chosen_points(fixture, table, l, layer, config, slots)?;
    }
    for (name, value) in loss.named()? {
        table.close(fixture, &format!("output.{name}"), &Tensor::scalar(value))?;
    }
    let total = loss.total.detach().to_host()?;
    if fixture.has("output.total") {
        table.close(fixture, "output.total", &total)?;
    } else {
        let (got, want) = (f64::from(total.item::<f32>()?), fixture.json.number("total")?);
        if (got - want).abs() > 1e-5 * want.abs() {
            table.fail(format!("the total is {got}, recorded {want}"));
        }
    }
    let mut grads = backward(loss.total)?;
    for (i, c) in candidates.iter().enumerate() {
        for (name, leaf) in [("cls", &c.cls), ("mask", &c.mask)] {
            let g = grads.take(leaf).map(|g| g.to_host()).transpose()?;
            table.gradient(fixture, &format!("grad.input.{name}_pred.{i}"), g.as_ref())?;
        }
    }
    Ok(())
}

/// Recorded classes of the targets of an image, in the reference's order.
fn recorded_classes(fixture: &Fixture, image: usize) -> Outcome<Vec<i64>> {
    fixture.integers(&format!("output.gt_labels.image{image}"))
}

/// Checks that our targets are the recorded ones. The classes must be the same, and each mask must
/// cover the pixels of its class in the label map.
fn target_lists(fixture: &Fixture, table: &mut Table, targets: &Targets) -> Outcome<()> {
    let labels = fixture.integers("input.gt_sem_seg")?;
    let pixels = labels.len() / targets.classes().len().max(1);
    for (image, classes) in targets.classes().iter().enumerate() {
        let recorded = recorded_classes(fixture, image)?;
        let mut sorted = recorded.clone();
        sorted.sort_unstable();
        let ours: Vec<i64> = classes.iter().map(|&c| i64::from(c)).collect();
        table.equal(&format!("gt_labels.image{image}"), &ours, &sorted);
        let name = format!("output.gt_masks.image{image}");
        if !fixture.has(&name) {
            continue;
        }
        let map = &labels[image * pixels..][..pixels];
        let masks: Vec<i64> =
            recorded.iter().flat_map(|c| map.iter().map(move |v| i64::from(v == c))).collect();
        table.equal(&name, &masks, &fixture.integers(&name)?);
        debug_assert!(classes.iter().all(|c| *c != IGNORE));
    }
    Ok(())
}

/// Compares weighted costs, with our ascending classes put into the recorded order.
fn costs(
    fixture: &Fixture,
    table: &mut Table,
    l: usize,
    layer: &LayerLoss,
    targets: &Targets,
) -> Outcome<()> {
    for (image, costs) in layer.costs.iter().enumerate() {
        let name = format!("output.layer{l}.cost.image{image}");
        let (classes, order) = (&targets.classes()[image], recorded_classes(fixture, image)?);
        if classes.is_empty() && !fixture.has(&name) {
            continue;
        }
        let place = |c: &i64| classes.iter().position(|v| i64::from(*v) == *c);
        let Some(order) = order.iter().map(place).collect::<Option<Vec<usize>>>() else {
            table.fail(format!("{name}: other targets"));
            continue;
        };
        let g = classes.len();
        let ours: Vec<f32> =
            costs.chunks_exact(g).flat_map(|row| order.iter().map(|&j| row[j])).collect();
        table.close(fixture, &name, &Tensor::from_slice(&ours, &[costs.len() / g, g])?)?;
    }
    Ok(())
}

/// Compares which query is matched to which target, and the resulting labels.
fn matches(
    fixture: &Fixture,
    table: &mut Table,
    l: usize,
    layer: &LayerLoss,
    targets: &Targets,
    queries: usize,
    config: &CriterionConfig,
) -> Outcome<()> {
    let b = targets.classes().len();
    let mut labels = vec![config.classes as i64; b * queries];
    let mut matched = vec![0i64; b * queries];
    for pair in &layer.pairs {
        labels[pair.image * queries + pair.query] = i64::from(pair.class);
        matched[pair.image * queries + pair.query] = 1;
    }
    for (what, ours) in [("labels", &labels), ("matched", &matched)] {
        let name = format!("output.layer{l}.{what}");
        if !fixture.has(&name) {
            continue;
        }
        table.equal(&name, ours, &fixture.integers(&name)?);
    }
    for image in 0..b {
        let name = format!("output.layer{l}.match_query.image{image}");
        if !fixture.has(&name) {
            continue;
        }
        let classes = recorded_classes(fixture, image)?;
        let query = fixture.integers(&name)?;
        let gt = fixture.integers(&format!("output.layer{l}.match_gt.image{image}"))?;
        let mut recorded: Vec<(i64, i64)> =
            query.iter().zip(&gt).map(|(q, g)| (*q, classes[*g as usize])).collect();
        recorded.sort_unstable();
        let ours = layer.pairs.iter().filter(|p| p.image == image);
        let ours: Vec<(i64, i64)> = ours.map(|p| (p.query as i64, i64::from(p.class))).collect();
        table.equal(&name, &ours, &recorded);
    }
    Ok(())
}

/// Compares the points of each pair bit by bit. The uncertain ones are compared as a set, then the
/// random ones in order. On a device each image has `slots` rows.
fn chosen_points(
    fixture: &Fixture,
    table: &mut Table,
    l: usize,
    layer: &LayerLoss,
    config: &CriterionConfig,
    slots: Option<usize>,
) -> Outcome<()> {
    let name = format!("output.layer{l}.points");
    let pairs = layer.points.as_ref().map(|points| of_pairs(points, layer, slots)).transpose()?;
    let Some(points) = &pairs.filter(|points| !points.is_empty()) else {
        if fixture.has(&name) {
            table.fail(format!("{name}: we chose none"));
        }
        return Ok(());
    };
    let recorded = fixture.floats(&name)?;
    let keep = (config.points as f64 * config.importance) as usize;
    let ordered = |t: &Tensor| -> Outcome<Vec<[u32; 2]>> {
        let mut all = Vec::with_capacity(t.len() / 2);
        for row in t.data::<f32>()?.chunks_exact(2 * config.points) {
            let mut row: Vec<[u32; 2]> =
                row.chunks_exact(2).map(|p| [p[0].to_bits(), p[1].to_bits()]).collect();
            row[..keep].sort_unstable();
            all.extend(row);
        }
        Ok(all)
    };
    table.equal(&name, &ordered(points)?, &ordered(&recorded)?);
    Ok(())
}

/// Rows of `points` that belong to pairs, in the order of the pairs.
fn of_pairs(points: &Tensor, layer: &LayerLoss, slots: Option<usize>) -> Outcome<Tensor> {
    let Some(slots) = slots else { return Ok(points.clone()) };
    let before = |i: usize| {
        let image = layer.pairs[i].image;
        (image, layer.pairs[..i].iter().filter(|p| p.image == image).count())
    };
    let row = |i: usize| before(i).0 * slots + before(i).1;
    let rows: Vec<usize> = (0..layer.pairs.len()).map(row).collect();
    Ok(ops::gather_rows(&points.to_host()?, &rows, rows.len())?)
}

/// Compares scores of given predictions, on the host and on the virtual GPU.
pub fn scores(fixture: &Fixture, table: &mut Table) -> Outcome<()> {
    let [cls, mask] = ["cls", "mask"].map(|of| fixture.floats(&format!("input.{of}_pred")));
    let (cls, mask) = (cls?, mask?);
    let size = [fixture.json.size("height")?, fixture.json.size("width")?];
    table.close(fixture, "output.scores", &ops::semantic_scores(&cls, &mask, size)?)?;
    let device = Device::virtual_gpu();
    let [cls, mask] = [cls, mask].map(|x| x.to_device(&device, DType::F32));
    let there = ops::semantic_scores(&cls?, &mask?, size)?;
    table.close(fixture, "output.scores", &there.to_host()?)
}
