//! `dressage doctor`.

mod apart;
mod found;
mod machine;
mod table;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dressage_engine::EngineError;
use dressage_kernels::KernelError;
use dressage_kernels::check::roofline::{self, Roofline};
use dressage_kernels::check::timer::{self, Timer};
use dressage_kernels::check::verify::{self, Kernels};
use dressage_kernels::device::Device;
use dressage_train::place::DeviceChoice;
use dressage_train::runlog::Stage;
use dressage_train::verified as memo;
use rayon::prelude::*;
use serde_json::{Value, json};

use self::found::{FolderResult, Time};
use self::machine::Machine;
use super::Cpu;
use crate::console::print;
use crate::failure::Failure;
use crate::progress::Watch;

/// Show what this machine has, and verify every kernel on it
///
/// Lists the system, the GPUs and the libraries of CUDA with their versions and the searched
/// places. Then every kernel is compared with its reference in f64: the worst error is given in
/// units of its bound, so values up to 1 are right, and two runs have to give the same bytes. On a
/// real GPU every kernel is also timed at sizes of ViT-L (four images of 512 px) and compared with
/// the rates of a copy and a large product in the same run. The virtual GPU executes the same PTX
/// and checks every access; it is not timed. After a kernel has failed on a GPU, each further
/// folder is verified in a process of its own, since the failure would affect it too.
#[derive(clap::Args)]
#[command(after_help = "Exit code 1 if a kernel is wrong, or if the device is not there.

Examples:
  dressage doctor
  dressage doctor --device virtual --kernels norm
  dressage doctor --device cuda:0 --json > doctor.json")]
pub struct Args {
    /// Device for the kernels: auto (CUDA if it works, else the virtual GPU), cuda, cuda:N, virtual,
    /// or cpu for the forms that the CPU computes with
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = choice)]
    device: DeviceChoice,

    /// Only kernels of folders whose names contain this, or match it if it has a `*` or `?`
    #[arg(long, value_name = "PATTERN")]
    kernels: Option<String>,

    /// Only the kernels of the folder of this name; with --json every comparison is listed
    #[arg(long, value_name = "FOLDER", conflicts_with = "kernels")]
    only: Option<String>,

    /// Timed runs of each kernel on a GPU; the median counts. 0 skips the timing
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(..=10000)
    )]
    runs: u32,

    #[command(flatten)]
    cpu: Cpu,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn choice(text: &str) -> Result<DeviceChoice, String> {
    text.parse().map_err(|expected: &str| format!("it must be {expected}"))
}

/// Device of the kernels.
enum Target {
    Cpu,
    Virtual {
        why: Option<String>,
    },
    /// A GPU and its number.
    Cuda(Device, usize),
}

impl Target {
    fn of(choice: DeviceChoice) -> Result<Target, KernelError> {
        Ok(match choice {
            DeviceChoice::Cpu => Target::Cpu,
            DeviceChoice::Virtual => Target::Virtual { why: None },
            DeviceChoice::Cuda(n) => Target::Cuda(Device::cuda(n)?, n),
            DeviceChoice::Auto => match Device::cuda(0) {
                Ok(device) => Target::Cuda(device, 0),
                Err(error) => Target::Virtual { why: Some(error.to_string()) },
            },
        })
    }

    fn description(&self) -> String {
        match self {
            Target::Cpu => "the CPU".into(),
            Target::Virtual { why: None } => "the virtual GPU".into(),
            Target::Virtual { why: Some(why) } => format!("the virtual GPU, because: {why}"),
            Target::Cuda(device, _) => device.name(),
        }
    }

    fn json(&self) -> Value {
        let kind = match self {
            Target::Cpu => "cpu",
            Target::Virtual { .. } => "virtual",
            Target::Cuda(..) => "cuda",
        };
        json!({"kind": kind, "description": self.description()})
    }

    /// Returns the folders that can be verified.
    fn folders(&self) -> Vec<Kernels> {
        if matches!(self, Target::Cpu) { verify::cpu::all() } else { verify::all() }
    }
}

/// Inspects the machine and verifies the kernels.
pub fn run(args: &Args) -> Result<(), Failure> {
    args.cpu.start()?;
    let machine = Machine::look();
    if !args.json {
        print(&machine.text());
    }
    let target = match Target::of(args.device) {
        Ok(target) => target,
        Err(error) => {
            if args.json {
                print(&format!("{:#}", json!({"machine": machine.json(), "holds": false})));
            }
            return Err(EngineError::from(error).into());
        }
    };
    let folders = match &args.only {
        Some(name) => only(target.folders(), name)?,
        None => chosen(target.folders(), args.kernels.as_deref())?,
    };
    if !args.json {
        print(&format!("kernels        on {}\n", target.description()));
    }
    let examined = examine(&target, &folders, args.runs as usize)?;
    let found = &examined.found;
    match args.json {
        true => print(&format!("{:#}", examined.json(&machine, &target, args.only.is_some()))),
        false => examined.print_report(&target),
    }
    let wrong: Vec<&str> = found.iter().filter(|f| !f.holds()).map(|f| f.name).collect();
    if let (Target::Cuda(device, _), true) = (&target, wrong.is_empty())
        && folders.len() == target.folders().len()
    {
        memo::remember(device);
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => {
            let (n, names) = (wrong.len(), wrong.join(", "));
            let what = format!("the kernels of {n} of {} folders are wrong: {names}", found.len());
            Err(Failure::Message(what))
        }
    }
}

/// Results of the verification and the timing.
struct Examined {
    found: Vec<FolderResult>,
    ceiling: Option<Roofline>,
    /// Products whose epilogue cuBLASLt does not fuse.
    unfused: Vec<String>,
}

impl Examined {
    fn json(&self, machine: &Machine, target: &Target, every: bool) -> Value {
        let ceiling = self.ceiling.as_ref();
        let folder = |found: &FolderResult| {
            let mut json = found.json(ceiling);
            if every {
                json["outcomes"] = found.outcomes_json();
            }
            json
        };
        json!({
            "machine": machine.json(),
            "device": target.json(),
            "checks": matches!(target, Target::Virtual { .. }).then_some(verify::CHECKS),
            "ceiling": ceiling.map(|c| json!({"gflops": c.gflops, "gbytes_per_s": c.gbytes})),
            "kernels": self.found.iter().map(folder).collect::<Vec<_>>(),
            "unfused": self.unfused,
            "holds": self.found.iter().all(FolderResult::holds),
        })
    }

    fn print_report(&self, target: &Target) {
        print(&table::verifications(&self.found));
        if matches!(target, Target::Virtual { .. }) {
            print(&format!("checked at every instruction: {}", verify::CHECKS));
        }
        if let Some(ceiling) = &self.ceiling {
            print(&table::times(&self.found, ceiling));
        }
        for product in &self.unfused {
            print(&format!("not fused by cuBLASLt, computed separately: {product}"));
        }
    }
}

/// Returns the folder of this name.
fn only(all: Vec<Kernels>, name: &str) -> Result<Vec<Kernels>, Failure> {
    let names: Vec<&str> = all.iter().map(|kernels| kernels.name).collect();
    match all.iter().find(|kernels| kernels.name == name) {
        Some(kernels) => Ok(vec![*kernels]),
        None => {
            let names = names.join(", ");
            Err(Failure::Message(format!("--only {name}: no such folder; there are {names}")))
        }
    }
}

/// Returns the folders that match a pattern.
fn chosen(all: Vec<Kernels>, pattern: Option<&str>) -> Result<Vec<Kernels>, Failure> {
    let Some(pattern) = pattern else { return Ok(all) };
    let names: Vec<&str> = all.iter().map(|kernels| kernels.name).collect();
    let failure = |what: String| Failure::Message(format!("--kernels {pattern}: {what}"));
    let like = glob::Pattern::new(pattern).map_err(|e| failure(e.to_string()))?;
    let plain = !pattern.contains(['*', '?', '[']);
    let fits = |name: &str| if plain { name.contains(pattern) } else { like.matches(name) };
    let fitting: Vec<Kernels> = all.iter().filter(|k| fits(k.name)).copied().collect();
    match fitting.is_empty() {
        true => Err(failure(format!("no kernels match; there are {}", names.join(", ")))),
        false => Ok(fitting),
    }
}

/// Verifies the folders. On the CPU and on a real GPU it measures the roofline, on a real GPU it
/// also times the kernels.
fn examine(target: &Target, folders: &[Kernels], runs: usize) -> Result<Examined, Failure> {
    let (watch, done) = (Watch::new(), AtomicU64::new(0));
    let stage = Stage::new(&watch, "kernels", Some(folders.len() as u64));
    let report = |found: FolderResult| {
        let done = done.fetch_add(1, Relaxed) + 1;
        stage.at(done, if done < folders.len() as u64 { found.name } else { "" });
        found
    };
    let (found, ceiling) = match target {
        Target::Cpu => {
            // Kernels of the CPU need no device.
            let found = folders.iter().map(|k| report(verified(k, &Device::dry_run()))).collect();
            (found, Some(roofline::measure()))
        }
        Target::Virtual { .. } => {
            let one = |k: &Kernels| report(verified(k, &Device::virtual_gpu()));
            (folders.par_iter().map(one).collect(), None)
        }
        Target::Cuda(device, number) => return on_gpu(device, *number, folders, runs, report),
    };
    Ok(Examined { found, ceiling, unfused: Vec::new() })
}

fn verified(kernels: &Kernels, device: &Device) -> FolderResult {
    FolderResult::new(kernels.name, kernels.run(device))
}

/// [`examine`] on a GPU: in this process until a folder fails, then each folder in a process of its
/// own.
fn on_gpu(
    device: &Device,
    number: usize,
    folders: &[Kernels],
    runs: usize,
    report: impl Fn(FolderResult) -> FolderResult,
) -> Result<Examined, Failure> {
    let failed = |error| Failure::from(EngineError::from(error));
    let ceiling = match runs {
        0 => None,
        _ => Some(timer::roofline(device).map_err(failed)?),
    };
    device.trim().map_err(failed)?;
    let (mut found, mut unfused) = (Vec::<FolderResult>::new(), Vec::new());
    for kernels in folders {
        let one = if found.iter().any(|before| !before.holds()) {
            let (one, more) = apart::examine(kernels.name, number, runs);
            unfused.extend(more);
            one
        } else {
            let mut one = verified(kernels, device);
            if runs > 0 && one.holds() {
                one.time(times(kernels, device, runs));
            }
            one
        };
        found.push(report(one));
    }
    unfused.extend(device.unfused());
    unfused.sort();
    unfused.dedup();
    Ok(Examined { found, ceiling, unfused })
}

fn times(kernels: &Kernels, device: &Device, runs: usize) -> Result<Vec<Time>, KernelError> {
    let mut watch = Timer::new(device)?;
    let mut found = Vec::new();
    for timed in &mut (kernels.timed)(device)? {
        let seconds = watch.runs(timed, runs)?;
        found.push(Time::new(timed, &seconds));
    }
    drop(watch);
    device.trim()?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_folders() {
        let names = |pattern| -> Vec<&str> {
            let chosen = chosen(verify::all(), Some(pattern)).expect("folders");
            chosen.iter().map(|k| k.name).collect()
        };
        assert_eq!(names("norm"), ["batch_norm", "group_norm", "layer_norm"]);
        assert_eq!(names("layer_*"), ["layer_norm"]);
        assert_eq!(names("add"), ["add"]);
        let Err(error) = chosen(verify::all(), Some("nothing")) else { panic!("no folder") };
        let text = error.to_string();
        assert!(text.starts_with("--kernels nothing: ") && text.contains("layer_norm"), "{text}");
        assert!(chosen(verify::all(), Some("[")).is_err());
        let alone = only(verify::all(), "attention").expect("a folder");
        assert_eq!(alone.iter().map(|k| k.name).collect::<Vec<_>>(), ["attention"]);
        assert!(only(verify::all(), "attent").is_err());
    }
}
