//! Training steps and backbones on a device, on random weights, images and labels.
//!
//! The batch is stored on the device and is the same in every step. The time of a step is the time
//! between the returns of two calls. The host waits once in each call, for the costs of the
//! matching, so the device does the work of one step between two returns. Parts of a step are not
//! timed: the host queues them long before they run, and one graph contains several of them.

use std::time::Instant;

use dressage_engine::{DType, Device, EngineError, Tensor, backward_from_all, no_grad};
use dressage_kernels::check::roofline::Roofline;
use dressage_kernels::check::timer;
use dressage_models::adapter::{Rein, ReinConfig};
use dressage_models::params::Scope;
use dressage_train::place::DeviceChoice;
use dressage_train::plan;
use dressage_train::runlog::Stage;
use dressage_train::trainer::Trainer;
use serde_json::{Value, json};

use super::case::{Case, Part};
use super::figures::{Figures, Span};
use super::table::{self, Row};
use super::whole::{self, Laps};
use super::{Args, cases, write};
use crate::console::print;
use crate::failure::Failure;
use crate::progress::Watch;

/// Minimum number of untimed steps: the first ones load kernels, the third is captured.
const WARM: usize = 4;

/// Results of one case.
struct Measured {
    spans: Vec<Span>,
    /// Keys of a peer's file other than times.
    more: Value,
}

fn failed(error: dressage_kernels::KernelError) -> Failure {
    EngineError::from(error).into()
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Measures and prints.
pub fn run(args: &Args, choice: DeviceChoice) -> Result<(), Failure> {
    let cases = cases(args)?;
    args.cpu.start()?;
    let word = match choice {
        DeviceChoice::Cuda(number) => format!("cuda:{number}"),
        _ => "virtual".to_owned(),
    };
    let limit = limits(choice, args.no_limits)?;
    let watch = Watch::new();
    let (mut rows, mut written) = (Vec::new(), Vec::new());
    for case in &cases {
        let stage = Stage::new(&watch, &format!("{} on {word}", case.title()), None);
        let device = open(choice)?;
        let measured = match case.part {
            Part::Step => step(case, &word, !args.no_graphs)?,
            _ => backbone(case, &device)?,
        };
        drop(stage);
        let found = Figures { spans: measured.spans, peak: None };
        let mut all = found.json_on(&word, case, rayon::current_num_threads());
        all["args"]["graphs"] = (!args.no_graphs).into();
        all["environment"]["gpu"] = device.name().into();
        all["environment"]["software"] = json!(device.software());
        complete(&mut all, case, &found, measured.more, limit.as_ref());
        written.push(all);
        rows.push(Row { case, here: vec![found], peer: Vec::new() });
    }
    // Without limits there are no shares.
    let none = Roofline { gflops: f64::INFINITY, gbytes: f64::INFINITY };
    print(&table::alone(&rows, limit.as_ref().unwrap_or(&none)));
    let Some(file) = &args.json else { return Ok(()) };
    let single = written.len() == 1;
    write(file, &if single { written.swap_remove(0) } else { Value::Array(written) })
}

fn open(choice: DeviceChoice) -> Result<Device, Failure> {
    match choice {
        DeviceChoice::Cuda(number) => Device::cuda(number).map_err(failed),
        _ => Ok(Device::virtual_gpu()),
    }
}

/// Measures the rates of a copy and a large product on a GPU.
fn limits(choice: DeviceChoice, without: bool) -> Result<Option<Roofline>, Failure> {
    if without || choice == DeviceChoice::Virtual {
        return Ok(None);
    }
    let device = open(choice)?;
    let limit = timer::roofline(&device).map_err(failed)?;
    device.trim().map_err(failed)?;
    Ok(Some(limit))
}

/// Adds the keys of a peer's file that are not times.
fn complete(all: &mut Value, case: &Case, found: &Figures, more: Value, limit: Option<&Roofline>) {
    let part = &mut all[&case.part.name()];
    for (key, value) in more.as_object().into_iter().flatten() {
        part[key] = value.clone();
    }
    let Some(limit) = limit else { return };
    part["gemm_ceiling_tflops"] = (limit.gflops * 1e-3).into();
    if let Some(step) = found.spans.iter().find(|span| span.name == "step") {
        let utilisation = step.flops / (step.ms.median * 1e6) / limit.gflops;
        part["model_flops_utilisation"] = utilisation.into();
    }
    all["ceiling"] = json!({"gflops": limit.gflops, "gbytes_per_s": limit.gbytes});
}

fn step(case: &Case, word: &str, graphs: bool) -> Result<Measured, Failure> {
    let recipe = whole::recipe(case, word, graphs)?;
    let flops = plan::flops(&recipe)?;
    let mut trainer = Trainer::new(recipe, false)?;
    let batch = whole::batch(case, 0);
    let start = Instant::now();
    let mut losses = vec![trainer.step_on(&batch)?.loss];
    let first = start.elapsed().as_secs_f64();
    let mut count = |trainer: &mut Trainer| -> Result<(), Failure> {
        losses.extend(trainer.queue(&batch)?.map(|done| done.loss));
        Ok(())
    };
    (1..case.warmup.max(WARM)).try_for_each(|_| count(&mut trainer))?;
    let resident = trainer.reuse_batch();
    let device = trainer.place().device().cloned();
    device.iter().for_each(Device::reset_peak);
    // The first call only fills the queue.
    count(&mut trainer)?;
    let (began, mut laps) = (Instant::now(), Laps::default());
    let mut last = began;
    for _ in 0..case.iters {
        count(&mut trainer)?;
        let now = Instant::now();
        laps.add("step", (now - last).as_secs_f64() * 1e3);
        last = now;
    }
    let wall = (last - began).as_secs_f64();
    losses.extend(trainer.flush()?.map(|done| done.loss));
    let usage = device.as_ref().map(Device::usage).unwrap_or_default();
    let more = json!({
        "params": parameters(&trainer),
        "first_step_s": first,
        "wall_ms_per_step": wall * 1e3 / case.iters as f64,
        "images_per_s": (case.iters * case.batch) as f64 / wall,
        "losses": losses,
        "peak_allocated_mib": mib(usage.peak),
        "peak_reserved_mib": mib(usage.reserved),
        "batch_on_device": resident,
        "unfused": device.map(|device| device.unfused()),
    });
    Ok(Measured { spans: laps.spans(|_| flops), more })
}

/// Counts the parameters by part of the network.
fn parameters(trainer: &Trainer) -> Value {
    let (mut backbone, mut rein, mut head) = (0, 0, 0);
    for (name, param) in trainer.model().params() {
        let sum = match name {
            name if name.starts_with("backbone.reins.") => &mut rein,
            name if name.starts_with("backbone.") => &mut backbone,
            _ => &mut head,
        };
        *sum += param.get().len();
    }
    json!({"backbone": backbone, "rein": rein, "head": head})
}

fn backbone(case: &Case, device: &Device) -> Result<Measured, Failure> {
    let root = Scope::new(DType::F32, 0);
    let net = case.config.clone().build(&root.sub("backbone").trainable(false))?;
    let rein = Rein::new(&root.sub("reins"), ReinConfig::of_stages(case.config.stages()))?;
    let shape = [case.batch, 3, case.size, case.size];
    let zeros = || Tensor::zeros(DType::F32, &shape);
    let flops = whole::counted(|| whole::pyramid(net.as_ref(), &rein, &zeros()))?;
    let working = case.precision.dtype();
    for param in root.finish("the backbone", &[])?.values() {
        param.to_device(device, working)?;
    }
    let image = Tensor::from_slice(&whole::batch(case, 0).images, &shape)?;
    let image = image.to_device(device, working)?;
    let mut laps = Laps::default();
    let mut gradients: Option<Vec<Tensor>> = None;
    for i in 0..case.warmup.max(1) + case.iters {
        if i == case.warmup.max(1) {
            device.reset_peak();
        }
        let (values, forward) = timed(device, || whole::pyramid(net.as_ref(), &rein, &image))?;
        if gradients.is_none() {
            let gradient = |y: &Tensor| whole::gradient(y)?.to_device(device, y.dtype());
            gradients = Some(values.iter().map(gradient).collect::<Result<_, _>>()?);
        }
        let pairs = values.into_iter().zip(gradients.iter().flatten().cloned()).collect();
        let (_, backward) = timed(device, || Ok(backward_from_all(pairs)?))?;
        let (_, inference) =
            timed(device, || no_grad(|| whole::pyramid(net.as_ref(), &rein, &image)))?;
        if i >= case.warmup.max(1) {
            let all = forward + backward + inference;
            let names = ["forward", "backward", "inference", "all"];
            let times = [forward, backward, inference, all];
            names.into_iter().zip(times).for_each(|(name, ms)| laps.add(name, ms));
        }
    }
    let usage = device.usage();
    let more = json!({
        "peak_allocated_mib": mib(usage.peak),
        "peak_reserved_mib": mib(usage.reserved),
        "batch_on_device": true,
        "unfused": device.unfused(),
    });
    let forward = |name: &str| if matches!(name, "forward" | "inference") { flops } else { 0 };
    Ok(Measured { spans: laps.spans(forward), more })
}

/// Returns the result of `work`, and the milliseconds that the device took for it.
fn timed<R>(
    device: &Device,
    work: impl FnOnce() -> Result<R, Failure>,
) -> Result<(R, f64), Failure> {
    let (mut work, mut done) = (Some(work), None);
    let seconds = device.time(|| {
        done = work.take().map(|work| work());
        Ok(())
    });
    let seconds = seconds.map_err(failed)?;
    let nothing = || Failure::Message("the device returned no times".into());
    Ok((done.ok_or_else(nothing)??, seconds * 1e3))
}
