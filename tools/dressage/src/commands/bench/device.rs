//! Measurement of all kernels on a GPU, at the sizes that their folders state.

use dressage_engine::EngineError;
use dressage_kernels::Result as Done;
use dressage_kernels::check::timer::{self, Timer};
use dressage_kernels::check::verify;
use dressage_kernels::device::Device;
use dressage_models::Precision;
use dressage_train::place::DeviceChoice;
use dressage_train::runlog::Stage;
use serde_json::json;

use super::case::{Case, Part};
use super::figures::{Figures, Span, Stat};
use super::table::{self, Row};
use super::{Args, gpu, write};
use crate::console::print;
use crate::failure::Failure;
use crate::progress::Watch;

/// Parses the name of a device on the command line.
pub fn choice(text: &str) -> Result<DeviceChoice, String> {
    match text.parse() {
        Ok(choice @ (DeviceChoice::Cuda(_) | DeviceChoice::Virtual)) => Ok(choice),
        _ => Err("it must be cuda, cuda:N (a GPU by its number) or virtual; the CPU is the \
                  default"
            .into()),
    }
}

/// Measures and prints.
pub fn run(args: &Args, choice: DeviceChoice) -> Result<(), Failure> {
    match (&args.parts[..], choice) {
        ([Part::Kernels], DeviceChoice::Cuda(number)) => kernels(args, number),
        ([Part::Kernels], _) => Err(Failure::Message(
            "--device: kernels are timed only on a GPU (cuda or cuda:N)".into(),
        )),
        (parts, _) if parts.iter().all(|p| matches!(p, Part::Step | Part::Backbone)) => {
            gpu::run(args, choice)
        }
        _ => Err(Failure::Message(
            "--device: only `step` and `backbone`, or `kernels` by itself, run on a device".into(),
        )),
    }
}

fn kernels(args: &Args, number: usize) -> Result<(), Failure> {
    let failed = |error| Failure::from(EngineError::from(error));
    let device = Device::cuda(number).map_err(failed)?;
    // The sizes that the folders state.
    let mut case = Case::new(Part::Kernels, "l", 512)?;
    (case.batch, case.precision) = (4, Precision::Bf16);
    (case.iters, case.warmup) = (args.iters as usize, args.warmup as usize);
    let limit = timer::roofline(&device).map_err(failed)?;
    device.trim().map_err(failed)?;
    let watch = Watch::new();
    let folders = verify::all();
    let stage = Stage::new(&watch, "kernels", Some(folders.len() as u64));
    let mut spans = Vec::new();
    for (i, folder) in folders.iter().enumerate() {
        spans.extend(spans_of(folder, &device, case.iters).map_err(failed)?);
        stage.at(i as u64 + 1, if i + 1 < folders.len() { folder.name } else { "" });
    }
    drop(stage);
    let found = Figures { spans, peak: None };
    if let Some(file) = &args.json {
        let mut all = found.json_on(&format!("cuda:{number}"), &case, 1);
        all["environment"]["gpu"] = json!(device.name());
        all["ceiling"] = json!({"gflops": limit.gflops, "gbytes_per_s": limit.gbytes});
        write(file, &all)?;
    }
    print(&format!(
        "{}; a product in bf16 reaches {:.1} TFLOP/s, a copy {:.0} GB/s\n",
        device.name(),
        limit.gflops * 1e-3,
        limit.gbytes
    ));
    print(&table::alone(&[Row { case: &case, here: vec![found], peer: Vec::new() }], &limit));
    Ok(())
}

fn spans_of(folder: &verify::Kernels, device: &Device, runs: usize) -> Done<Vec<Span>> {
    let mut watch = Timer::new(device)?;
    let mut spans = Vec::new();
    for timed in &mut (folder.timed)(device)? {
        let ms: Vec<f64> = watch.runs(timed, runs)?.iter().map(|s| s * 1e3).collect();
        let name = format!("{} {}", timed.name, timed.shape);
        let (flops, bytes) = (timed.flops as f64, timed.bytes as f64);
        spans.push(Span { name, ms: Stat::of(&ms), flops, bytes });
    }
    drop(watch);
    device.trim()?;
    Ok(spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_no_device() {
        assert_eq!(choice("cuda"), Ok(DeviceChoice::Cuda(0)));
        assert_eq!(choice("cuda:3"), Ok(DeviceChoice::Cuda(3)));
        assert_eq!(choice("virtual"), Ok(DeviceChoice::Virtual));
        for wrong in ["cpu", "auto", "cuda:", "cuda:-1", "3"] {
            assert!(choice(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_folder_gives_spans() {
        let device = Device::dry_run();
        for folder in verify::all() {
            let spans = spans_of(&folder, &device, 2).expect("launches fit their sizes");
            assert!(!spans.is_empty(), "{}", folder.name);
            assert!(spans.iter().all(|s| s.flops + s.bytes > 0.0), "{}", folder.name);
        }
    }
}
