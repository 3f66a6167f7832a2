//! Place where a network is trained or applied: the host, a GPU, or the virtual GPU.

use std::str::FromStr;

use dressage_engine::memory::usage_on;
use dressage_engine::{DType, Device};
use dressage_models::Segmenter;
use serde::Serialize;

use dressage_kernels::device::probe;

use crate::plan::mib;
use crate::recipe::Run;
use crate::runlog::Progress;
use crate::verified;
use crate::{Result, TrainError};

/// Device that `run.device` requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device if it can be used, else the host.
    Auto,
    /// The host.
    Cpu,
    /// The CUDA device with this index.
    Cuda(usize),
    /// A device that executes the same kernels on the CPU and checks every access: slow, for
    /// checks.
    Virtual,
}

impl FromStr for DeviceChoice {
    /// Description of the accepted values.
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<DeviceChoice, &'static str> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            "virtual" => Ok(DeviceChoice::Virtual),
            _ => text
                .strip_prefix("cuda:")
                .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|n| n.parse().ok())
                .map(DeviceChoice::Cuda)
                .ok_or("auto, cpu, cuda, cuda:N (a GPU by its number, from 0) or virtual"),
        }
    }
}

/// Host or device that does the work.
#[derive(Debug, Clone)]
pub struct Place {
    device: Option<Device>,
    working: DType,
    description: String,
    warning: Option<String>,
}

impl Place {
    /// The host.
    pub fn host() -> Place {
        Place { device: None, working: DType::F32, description: "the CPU".into(), warning: None }
    }

    /// A device that executes nothing, for the plan of a step ([`crate::plan`]).
    pub(crate) fn for_dry_run(device: &Device, run: &Run) -> Place {
        let (device, working) = (Some(device.clone()), run.precision.dtype());
        Place { device, working, description: "the dry run".into(), warning: None }
    }

    /// Opens the place that the settings of a run request. A GPU that `auto` takes verifies its
    /// kernels first, once for each kind of GPU, driver and build of this program. `progress`
    /// reports this.
    ///
    /// # Errors
    /// A device that cannot be used, with the reason; a word that names no device.
    pub fn of(run: &Run, progress: &dyn Progress) -> Result<Place> {
        let open = |device: Device, more: &str| {
            let (working, name) = (run.precision.dtype(), device.name());
            let description = format!("{name}, activations in {working}{more}");
            Place { device: Some(device), working, description, warning: None }
        };
        let choice = run.device.parse().map_err(|expected| TrainError::Setting {
            setting: "run.device",
            what: format!("is `{}`, it must be {expected}", run.device),
        })?;
        Ok(match choice {
            DeviceChoice::Cpu => Place::host(),
            DeviceChoice::Virtual => {
                open(Device::virtual_gpu(), "; it checks every access and is slow by design")
            }
            DeviceChoice::Cuda(n) => {
                let device = Device::cuda(n).map_err(|source| TrainError::Device { source })?;
                let unverified = "; its kernels are not verified on this GPU (run dressage doctor)";
                let more = if verified::is_verified(&device) { "" } else { unverified };
                open(device, more)
            }
            DeviceChoice::Auto => {
                let found = Device::cuda(0).map_err(|error| error.to_string());
                match found.and_then(|gpu| verified::ensure(&gpu, progress).map(|()| gpu)) {
                    Ok(device) => open(device, " (run.device=auto)"),
                    Err(why) => Place::instead(&why),
                }
            }
        })
    }

    /// Falls back to the host, since no GPU can be used.
    fn instead(why: &str) -> Place {
        let mut gpus = probe::installed();
        if let (true, Ok(all)) = (gpus.is_empty(), probe::gpus()) {
            gpus.extend(all.into_iter().map(|gpu| gpu.name));
        }
        let warning = gpus.first().map(|gpu| {
            format!(
                "this machine has a GPU ({gpu}) that is NOT USED; the CPU does the work, many \
                 times slower: {why}; `dressage doctor` shows more, and run.device=cpu (--device \
                 cpu) turns this warning off"
            )
        });
        Place { description: format!("the CPU; {why}"), warning, ..Place::host() }
    }

    /// Warning about a GPU that exists and is not used.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// The device; `None` for the host.
    pub fn device(&self) -> Option<&Device> {
        self.device.as_ref()
    }

    /// Whether it is a real GPU.
    pub fn is_gpu(&self) -> bool {
        self.device.as_ref().is_some_and(|device| device.software().is_some())
    }

    /// Description of the place and the reason for it, for users.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Moves a network to this place.
    ///
    /// # Errors
    /// Too little memory on the device.
    pub fn take(&self, mut model: Segmenter) -> Result<Segmenter> {
        if let Some(device) = &self.device {
            model.to_device(device, self.working)?;
        }
        Ok(model)
    }
}

/// Device memory that a run used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceMemory {
    /// Name that the device reports.
    pub device: String,
    /// Bytes of tensors at their peak.
    pub tensors: usize,
    /// Bytes reserved from the device: tensors, workspace of kernels, and buffers for reuse.
    pub reserved: usize,
    /// Fused products that the library refused. Launches and memory differ from the plan by them.
    pub unfused: Vec<String>,
}

impl DeviceMemory {
    pub(crate) fn now(device: &Device) -> DeviceMemory {
        let usage = usage_on(device);
        let (tensors, reserved) = (usage.peak, usage.system_bytes);
        DeviceMemory { device: device.name(), tensors, reserved, unfused: device.unfused() }
    }

    /// The memory as one line.
    pub fn line(&self) -> String {
        let (tensors, reserved) = (mib(self.tensors), mib(self.reserved));
        let line = format!("tensors {tensors} at the peak, {reserved} reserved on {}", self.device);
        match &self.unfused[..] {
            [] => line,
            all => {
                format!("{line}\nnot fused by cuBLASLt, computed separately: {}", all.join("; "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::runlog::Silent;

    fn of(run: &Run) -> Result<Place> {
        Place::of(run, &Silent)
    }

    fn run(device: &str) -> Run {
        let run = crate::recipe::Recipe::from_name("demo", &[]).expect("recipe").run;
        Run { device: device.into(), ..run }
    }

    #[test]
    fn words_name_places() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:0", DeviceChoice::Cuda(0)),
            ("cuda:13", DeviceChoice::Cuda(13)),
            ("virtual", DeviceChoice::Virtual),
        ] {
            assert_eq!(text.parse(), Ok(choice), "{text}");
        }
        for text in ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:+1", "cuda:99999999999999999999"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_choice_says_what_it_took() {
        assert!(of(&run("cpu")).expect("host").device().is_none());
        let place = of(&run("virtual")).expect("virtual");
        assert!(place.device().is_some());
        for words in ["the virtual GPU", "bf16", "slow"] {
            assert!(place.description().contains(words), "{}", place.description());
        }
        let error = of(&run("nonsense")).expect_err("refused").to_string();
        assert!(error.contains("run.device") && error.contains("cuda:N"), "{error}");
        match Device::cuda(0) {
            Ok(_) => assert!(of(&run("auto")).expect("a GPU").device().is_some()),
            Err(why) => {
                let place = of(&run("auto")).expect("the host");
                assert!(place.device().is_none());
                assert_eq!(place.description(), format!("the CPU; {why}"));
                let error = of(&run("cuda")).expect_err("refused").to_string();
                assert!(error.contains(&why.to_string()) && error.contains("run.device=cpu"));
            }
        }
    }
}
