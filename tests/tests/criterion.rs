//! Matching and losses on the virtual GPU, compared with the host.
//!
//! The same random points must give the same pairs, losses and gradients. A step waits once, and
//! its launches do not depend on the targets.

use dressage_engine::{DType, Device, Tensor, backward, ops};
use dressage_kernels::check::{noise, relative_error};
use dressage_kernels::device::Counters;
use dressage_models::objective::Targets;
use dressage_models::objective::mask2former::criterion::{
    Assignment, AssignmentTable, Candidate, Criterion, CriterionConfig, LayerMatch, Loss,
    MatchedPair, PointSource, RandomPoints, named_terms,
};
use half::bf16;

/// Images, channels of the embeddings, side of the masks and of the label maps.
const B: usize = 3;
const C: usize = 8;
const SIDE: usize = 12;
const LABELS: usize = 24;
const LAYERS: usize = 2;

fn criterion(classes: usize) -> Criterion {
    let published = CriterionConfig::published(classes);
    Criterion { config: CriterionConfig { points: 60, ..published } }
}

/// Label maps in rectangles: image `i` has the classes `present[i]` and pixels to ignore.
fn labels(present: &[&[u8]]) -> Tensor {
    let mut all = Vec::new();
    for classes in present {
        let class = |at: usize| match classes.len() {
            0 => 255,
            n => [classes[(at / 3) % n], 255][usize::from(at.is_multiple_of(11))],
        };
        all.extend((0..LABELS * LABELS).map(class));
    }
    Tensor::from_slice(&all, &[present.len(), LABELS, LABELS]).unwrap()
}

/// Images with a few classes, with none, and with all classes.
fn mixed(classes: usize) -> Targets {
    let all: Vec<u8> = (0..classes as u8).collect();
    Targets::new(labels(&[&[0, 2], &[], &all]), classes).unwrap()
}

/// Simulated outputs of a network, as leaves.
#[derive(Clone)]
struct Predictions {
    /// Class logits and mask embeddings or masks per prediction, then the pixel embeddings.
    leaves: Vec<Tensor>,
    embedded: bool,
}

impl Predictions {
    fn new(queries: usize, classes: usize, embedded: bool, working: DType) -> Predictions {
        let value = |seed: u64, scale: f32, shape: &[usize]| {
            let values = noise::<f32>(shape.iter().product(), seed);
            let rounded = |v: &f32| match working {
                DType::Bf16 => bf16::from_f32(scale * v).to_f32(),
                _ => scale * v,
            };
            let values: Vec<f32> = values.iter().map(rounded).collect();
            Tensor::from_slice(&values, shape).unwrap().leaf()
        };
        let mut leaves = Vec::new();
        for l in 0..LAYERS as u64 {
            leaves.push(value(10 + l, 3.0, &[B, queries, classes + 1]));
            leaves.push(match embedded {
                true => value(20 + l, 2.0, &[B, queries, C]),
                false => value(30 + l, 6.0, &[B, queries, SIDE, SIDE]),
            });
        }
        leaves.push(value(40, 2.0, &[B, SIDE * SIDE, C]));
        Predictions { leaves, embedded }
    }

    fn on(&self, device: &Device, working: DType) -> Predictions {
        let put = |x: &Tensor| x.detach().to_device(device, working).unwrap().leaf();
        Predictions { leaves: self.leaves.iter().map(put).collect(), ..*self }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let feature = &self.leaves[2 * LAYERS];
        let candidate = |l: usize| {
            let (cls, of) = (self.leaves[2 * l].clone(), self.leaves[2 * l + 1].clone());
            if !self.embedded {
                return Candidate { cls, mask: of, embed: None };
            }
            let mask = ops::matmul(&of.detach(), &feature.detach(), false, true).unwrap();
            let mask = ops::reshape(&mask, &[B, of.dim(1), SIDE, SIDE]).unwrap();
            Candidate { cls, mask, embed: Some((of, feature.clone())) }
        };
        (0..LAYERS).map(candidate).collect()
    }
}

fn wide(x: &Tensor) -> Vec<f64> {
    let x = x.detach().to_host().unwrap();
    match x.dtype() {
        DType::Bf16 => x.data::<bf16>().unwrap().iter().map(|x| x.to_f64()).collect(),
        _ => x.data::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect(),
    }
}

/// Pairs, costs and losses, then the total and the gradients by leaf.
struct Outcome {
    pairs: Vec<Vec<MatchedPair>>,
    costs: Vec<f64>,
    values: Vec<f64>,
    gradients: Vec<Vec<f64>>,
}

fn outcome(loss: Loss, predictions: &Predictions) -> Outcome {
    let costs = loss.layers.iter().flat_map(|l| l.costs.iter().flatten());
    let costs = costs.map(|&c| f64::from(c)).collect();
    let pairs = loss.layers.iter().map(|l| l.pairs.clone()).collect();
    let values = [wide(&loss.values), wide(&loss.total)].concat();
    let mut grads = backward(loss.total).unwrap();
    let gradient = |x: &Tensor| grads.take(x).map(|g| wide(&g)).unwrap_or_default();
    Outcome { pairs, costs, values, gradients: predictions.leaves.iter().map(gradient).collect() }
}

fn random(device: Option<&Device>, step: u64) -> RandomPoints {
    let mut points = RandomPoints::new(device, 5).unwrap();
    points.set_step(step).unwrap();
    points
}

/// Checks that the device gives the host's pairs, with costs, losses and gradients within `bounds`.
fn check(queries: usize, classes: usize, embedded: bool, working: DType, bounds: [f64; 3]) {
    let (criterion, targets) = (criterion(classes), mixed(classes));
    let predictions = Predictions::new(queries, classes, embedded, working);
    let run = |predictions: &Predictions, targets: &Targets| {
        let candidates = predictions.candidates();
        let mut points = random(candidates[0].cls.device(), 9);
        let loss = criterion.loss(&candidates, targets, &mut points).unwrap();
        outcome(loss, predictions)
    };
    let want = run(&predictions, &targets);
    let device = Device::virtual_gpu();
    let (there, placed) = (predictions.on(&device, working), targets.to_device(&device).unwrap());
    let got = run(&there, &placed);
    let what = format!("{queries} queries, {classes} classes, embedded {embedded}, {working}");
    let pairs: usize = want.pairs.iter().map(Vec::len).sum();
    assert_eq!(pairs, LAYERS * (queries.min(2) + queries.min(classes)), "{what}");
    assert_eq!(got.pairs, want.pairs, "{what}");
    let hold = |part: &str, got: &[f64], want: &[f64], bound: f64| {
        let error = relative_error(got, want);
        println!("{what}, {part}: {error:.2e}");
        assert_eq!(got.len(), want.len(), "{what}, {part}");
        assert!(error <= bound, "{what}, {part}: {error:.2e} above {bound:.1e}");
    };
    hold("costs", &got.costs, &want.costs, bounds[0]);
    hold("losses", &got.values, &want.values, bounds[1]);
    for (i, (got, want)) in got.gradients.iter().zip(&want.gradients).enumerate() {
        assert_eq!(want.is_empty(), i == 2 * LAYERS && !embedded, "{what}");
        hold(&format!("gradient {i}"), got, want, bounds[2]);
    }
    let again = run(&there, &placed);
    assert_eq!((again.values, again.gradients), (got.values, got.gradients), "{what}: again");
}

#[test]
fn losses_are_those_of_the_host() {
    // Sums of some hundred terms, most of the same sign.
    let bounds = [2e-6, 2e-6, 5e-6];
    check(6, 4, true, DType::F32, bounds);
    check(6, 4, false, DType::F32, bounds);
    // More targets than queries.
    check(3, 5, true, DType::F32, bounds);
    check(6, 150, true, DType::F32, bounds);
}

/// Checks that unmatched targets are ignored. The losses must equal, bit for bit, those of an image
/// that shows only the matched classes.
#[test]
fn targets_beyond_the_queries_count_for_nothing() {
    for (queries, classes) in [(1, 3), (3, 5), (6, 150)] {
        let criterion = criterion(classes);
        let all: Vec<u8> = (0..classes as u8).collect();
        let shown = labels(&[&[0, 2], &[], &all]);
        let targets = Targets::new(shown.clone(), classes).unwrap();
        let predictions = Predictions::new(queries, classes, true, DType::F32);
        let device = Device::virtual_gpu();
        let there = predictions.on(&device, DType::F32);
        for l in 0..LAYERS {
            let candidate = |of: &Predictions| of.candidates().remove(l);
            let loss = |candidate: Candidate, targets: &Targets| {
                let mut points = random(candidate.cls.device(), 9);
                let loss = criterion.loss(&[candidate], targets, &mut points).unwrap();
                let pairs = loss.layers[0].pairs.clone();
                (pairs, wide(&loss.values))
            };
            let (pairs, values) = loss(candidate(&predictions), &targets);
            let matched: Vec<usize> =
                (0..B).map(|i| pairs.iter().filter(|p| p.image == i).count()).collect();
            assert_eq!(matched, [queries.min(2), 0, queries]);
            let seen = |at: usize, class: u8| {
                let image = at / (LABELS * LABELS);
                pairs.iter().any(|p| p.image == image && p.class == class)
            };
            let shown = shown.data::<u8>().unwrap().iter().enumerate();
            let rest: Vec<u8> = shown.map(|(at, &c)| if seen(at, c) { c } else { 255 }).collect();
            let rest = Tensor::from_slice(&rest, &[B, LABELS, LABELS]).unwrap();
            let rest = Targets::new(rest, classes).unwrap();
            let what = format!("{queries} queries, {classes} classes, prediction {l}");
            assert_eq!(loss(candidate(&predictions), &rest), (pairs, values), "{what}");
            let [targets, rest] = [&targets, &rest].map(|t| t.to_device(&device).unwrap());
            let found = loss(candidate(&there), &targets);
            assert_eq!(loss(candidate(&there), &rest), found, "{what} on a device");
        }
    }
}

#[test]
fn stored_in_bf16_the_same_numbers_give_the_same_losses() {
    // The masks are those of the host, so only gradients are rounded, to eight bits.
    check(6, 4, false, DType::Bf16, [2e-6, 2e-6, 1.0 / 256.0]);
}

#[test]
fn losses_of_masks_in_bf16_are_off_by_their_rounding() {
    // The host's mask logits of up to 30 are not rounded. So other points are nearest to zero, and
    // each value differs by up to 1 in 256.
    let (criterion, targets) = (criterion(4), mixed(4));
    let predictions = Predictions::new(6, 4, true, DType::Bf16);
    let device = Device::virtual_gpu();
    let there = predictions.on(&device, DType::Bf16);
    let placed = targets.to_device(&device).unwrap();
    let want = criterion.loss(&predictions.candidates(), &targets, &mut random(None, 9)).unwrap();
    let got = criterion.loss(&there.candidates(), &placed, &mut random(Some(&device), 9)).unwrap();
    for (got, want) in got.layers.iter().zip(&want.layers) {
        assert_eq!(got.pairs, want.pairs);
    }
    let error = relative_error(&wide(&got.values), &wide(&want.values));
    println!("masks in bf16: {error:.2e}");
    assert!(error <= 0.02, "{error:.2e}");
}

/// The tensors of a step that keep their addresses.
struct StaticBuffers {
    targets: Targets,
    assigned: AssignmentTable,
    points: RandomPoints,
    previous: Tensor,
}

fn since(device: &Device, before: Counters) -> [u64; 3] {
    let now = device.counters();
    [now.launches - before.launches, now.products - before.products, now.waits - before.waits]
}

#[test]
fn a_step_waits_once_and_does_the_same_work_whatever_the_targets() {
    let (k, q) = (4, 6);
    let criterion = criterion(k);
    let device = Device::virtual_gpu();
    let predictions = Predictions::new(q, k, true, DType::F32).on(&device, DType::F32);
    let candidates = predictions.candidates();
    let steps =
        [labels(&[&[0, 2], &[], &[3]]), labels(&[&[], &[], &[]]), labels(&[&[0, 1, 2, 3][..]; 3])];
    let steps = steps.map(|labels| Targets::new(labels, k).unwrap());
    let mut buffers = StaticBuffers {
        targets: steps[0].to_device(&device).unwrap(),
        assigned: AssignmentTable::new(Some(&device), &criterion.config, [LAYERS, B, q]).unwrap(),
        points: RandomPoints::new(Some(&device), 5).unwrap(),
        previous: Tensor::zeros_on(Some(&device), DType::F32, &[3 * LAYERS]).unwrap(),
    };
    let (mut work, mut reserved, mut reported) = (Vec::new(), Vec::new(), vec![0.0; 3 * LAYERS]);
    for (step, targets) in steps.iter().enumerate() {
        let placed = targets.to_device(&device).unwrap();
        let mut fresh_points = random(Some(&device), step as u64);
        let fresh = criterion.loss(&candidates, &placed, &mut fresh_points).unwrap();
        let fresh = outcome(fresh, &predictions);
        let before = device.counters();
        buffers.targets.overwrite(targets).unwrap();
        buffers.points.set_step(step as u64).unwrap();
        let StaticBuffers { targets, assigned, points, previous } = &mut buffers;
        let costs = criterion.costs(&candidates, targets, points, Some(previous)).unwrap();
        let phase1 = since(&device, before);
        let (assignment, values) = criterion.assign(&costs, targets).unwrap();
        assert_eq!(values, reported, "what came down beside the costs of step {step}");
        let middle = device.counters();
        assigned.upload(&assignment).unwrap();
        let terms = criterion.terms(&candidates, targets, assigned, points).unwrap();
        let phase3 = since(&device, middle);
        *previous = terms.values.clone();
        let loss = Loss { total: terms.total, values: terms.values, layers: Vec::new() };
        drop((terms.points, costs));
        let start = device.counters();
        let one = Tensor::full(&[], 1.0f32).to_device(&device, DType::F32).unwrap();
        drop(dressage_engine::backward_from(loss.total.clone(), one).unwrap());
        let phase4 = since(&device, start);
        assert_eq!(since(&device, before)[2], 1, "waits of step {step}");
        work.push([phase1, phase3, phase4]);
        reserved.push(device.usage().reservations);
        reported = loss.values.to_host().unwrap().data::<f32>().unwrap().to_vec();
        let reported: Vec<f64> = reported.iter().map(|&v| f64::from(v)).collect();
        assert_eq!(reported, fresh.values[..3 * LAYERS], "step {step}");
    }
    println!("launches, products, waits: costs, losses, backward {:?}", work[0]);
    assert!(work.iter().all(|w| *w == work[0]), "{work:?}");
    assert_eq!(reserved[2], reserved[0], "memory taken from the device after the first step");
    // Launches for points, masks and labels at the points, costs.
    let l = LAYERS as u64;
    assert_eq!(work[0][0], [4 * l, 0, 0]);
    // Classes; embeddings; candidates, their logits, other points, the choice; masks and labels at
    // the points; losses of pairs, their sum. The total is one more sum.
    assert_eq!(work[0][1], [10 * l + 2, l, 0]);
    // An image without a target counts as one mask; its mask and dice losses are 0.
    assert!(reported.iter().all(|v| v.is_finite() && *v > 0.0));
    assert_eq!(named_terms(&reported)[1].0, "d0.loss_mask");
    assert_eq!(named_terms(&reported)[5].0, "loss_dice");
}

#[test]
fn without_targets_only_the_classes_count() {
    let criterion = criterion(4);
    let device = Device::virtual_gpu();
    let predictions = Predictions::new(6, 4, true, DType::F32).on(&device, DType::F32);
    let none = Targets::new(labels(&[&[], &[], &[]]), 4).unwrap().to_device(&device).unwrap();
    let loss =
        criterion.loss(&predictions.candidates(), &none, &mut random(Some(&device), 0)).unwrap();
    let got = outcome(loss, &predictions);
    for (i, value) in got.values[..3 * LAYERS].iter().enumerate() {
        assert_eq!(*value == 0.0, i % 3 > 0, "{:?}", got.values);
    }
    for l in 0..LAYERS {
        assert!(got.gradients[2 * l].iter().any(|&g| g != 0.0));
        assert!(got.gradients[2 * l + 1].iter().all(|&g| g == 0.0));
    }
}

#[test]
fn a_cost_that_is_no_number_is_named() {
    let criterion = criterion(4);
    let device = Device::virtual_gpu();
    let predictions = Predictions::new(6, 4, false, DType::F32);
    let mut there = predictions.on(&device, DType::F32);
    let cls = predictions.leaves[2].detach();
    let mut damaged = cls.data::<f32>().unwrap().to_vec();
    damaged[(2 * 6 + 3) * 5] = f32::NAN;
    let damaged = Tensor::from_slice(&damaged, cls.shape()).unwrap();
    there.leaves[2] = damaged.to_device(&device, DType::F32).unwrap();
    let placed = mixed(4).to_device(&device).unwrap();
    let error =
        criterion.loss(&there.candidates(), &placed, &mut random(Some(&device), 0)).err().unwrap();
    let sentence = "cost of query 3 and target 0 is NaN (prediction 1, image 2 of the batch)";
    assert!(error.to_string().contains(sentence), "{error}");
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    let (criterion, targets) = (criterion(4), mixed(4));
    let device = Device::virtual_gpu();
    let host = Predictions::new(6, 4, true, DType::F32);
    let there = host.on(&device, DType::F32);
    let refused = |predictions: &Predictions, targets: &Targets, points: &mut dyn PointSource| {
        criterion.loss(&predictions.candidates(), targets, points).err().unwrap().to_string()
    };
    assert_eq!(
        refused(&there, &targets, &mut random(Some(&device), 0)),
        "the targets are not on the virtual GPU; Targets::to_device copies them"
    );
    let placed = targets.to_device(&device).unwrap();
    let other = Targets::new(labels(&[&[0]]), 4).unwrap().to_device(&device).unwrap();
    let error = refused(&there, &other, &mut random(Some(&device), 0));
    assert!(error.contains("does not fit the targets"), "{error}");
    for (predictions, targets, points) in
        [(&host, &targets, Some(&device)), (&there, &placed, None)]
    {
        let error = refused(predictions, targets, &mut random(points, 0));
        assert_eq!(error, "the random points are drawn elsewhere than the predictions");
    }
    let error = Targets::new(labels(&[&[0, 4]]), 4).err().unwrap().to_string();
    assert_eq!(error, "label value 4 is not one of the 4 classes (or 255)");
    let mut padded = placed;
    let error = padded.overwrite(&Targets::new(labels(&[&[0]]), 4).unwrap()).unwrap_err();
    assert!(error.to_string().contains("cannot replace those"), "{error}");

    let mut table = AssignmentTable::new(Some(&device), &criterion.config, [1, B, 6]).unwrap();
    let mut upload = |pairs: Vec<MatchedPair>| {
        let layers = vec![LayerMatch { costs: Vec::new(), pairs }];
        table.upload(&Assignment { layers }).map_err(|e| e.to_string())
    };
    let pair = MatchedPair { image: 1, query: 2, class: 3 };
    upload(vec![pair; 4]).unwrap();
    for bad in [
        MatchedPair { image: B, ..pair },
        MatchedPair { query: 6, ..pair },
        MatchedPair { class: 4, ..pair },
    ] {
        let error = upload(vec![bad]).unwrap_err();
        assert!(error.contains("has no place among 3 images of 6 queries"), "{error}");
    }
    upload(vec![pair; 5]).unwrap_err();
    let none = Assignment { layers: Vec::new() };
    let error = table.upload(&none).unwrap_err().to_string();
    assert_eq!(error, "0 predictions matched, room for 1");
}
