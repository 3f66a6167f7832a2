//! System, processor, GPUs and libraries.

use std::path::Path;

use dressage_kernels::cpu::simd;
use dressage_kernels::device::probe::{self, Gpu, Library};
use dressage_train::machine;
use serde_json::{Value, json};

use crate::console::grouped;

/// Hardware and software of this machine.
pub struct Machine {
    system: String,
    processor: String,
    cores: usize,
    vectors: Vec<&'static str>,
    memory: Option<usize>,
    available: Option<usize>,
    libraries: [Library; 3],
    gpus: Result<Vec<Gpu>, String>,
}

impl Machine {
    /// Collects them.
    pub fn look() -> Machine {
        Machine {
            system: system(),
            processor: line_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            vectors: vectors(),
            memory: line_of("/proc/meminfo", "MemTotal").and_then(|text| kib(&text)),
            available: machine::available(),
            libraries: probe::libraries(),
            gpus: probe::gpus().map_err(|error| error.to_string()),
        }
    }

    /// Returns them as text.
    pub fn text(&self) -> String {
        let mut lines = vec![
            format!("system         {}", self.system),
            format!("processor      {}, {} cores for this process", self.processor, self.cores),
            format!("vectors        {}; {} is used", self.vectors.join(" "), simd::described()),
        ];
        let gib = |bytes: usize| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
        let memory = self.memory.map_or_else(|| "unknown".into(), gib);
        let available = self.available.map(|bytes| format!(", {} available", gib(bytes)));
        lines.push(format!("memory         {memory}{}", available.unwrap_or_default()));
        for library in &self.libraries {
            lines.push(format!("{:14} {}", library.name, found(library)));
            let passed_over = library.passed_over.iter();
            lines.extend(passed_over.map(|why| format!("{:14} skipped: {why}", "")));
        }
        match &self.gpus {
            Ok(gpus) => lines.extend(
                gpus.iter().map(|gpu| format!("GPU {:<10} {}", gpu.ordinal, describe(gpu))),
            ),
            Err(why) => lines.push(format!("GPU            {why}")),
        }
        let ptx = probe::ptx_version();
        lines.push(format!("PTX            {ptx}, needs a driver of CUDA 12.0 (525) or later"));
        lines.join("\n")
    }

    /// Returns them as JSON.
    pub fn json(&self) -> Value {
        let library = |l: &Library| {
            json!({
                "name": l.name, "version": l.version, "path": l.path, "looked_for": l.looked_for,
                "passed_over": l.passed_over,
            })
        };
        let gpu = |g: &Gpu| {
            json!({
                "number": g.ordinal, "name": g.name,
                "compute": format!("{}.{}", g.compute.0, g.compute.1),
                "memory": g.memory, "multiprocessors": g.multiprocessors, "clock_mhz": g.clock,
                "memory_clock_mhz": g.memory_clock, "bus_bits": g.bus, "l2_bytes": g.l2,
            })
        };
        json!({
            "dressage": env!("CARGO_PKG_VERSION"),
            "system": self.system,
            "arch": std::env::consts::ARCH,
            "processor": self.processor,
            "cores": self.cores,
            "vectors": self.vectors,
            "vectors_used": simd::level().to_string(),
            "memory": self.memory,
            "available": self.available,
            "libraries": self.libraries.iter().map(library).collect::<Vec<_>>(),
            "loader_path": std::env::var("LD_LIBRARY_PATH").ok(),
            "gpus": self.gpus.as_ref().ok().map(|all| all.iter().map(gpu).collect::<Vec<_>>()),
            "no_gpu": self.gpus.as_ref().err(),
            "ptx": probe::ptx_version(),
        })
    }
}

/// Describes where a library was found, or where it was searched.
fn found(library: &Library) -> String {
    match (&library.version, &library.path) {
        (Some(version), Some(path)) => format!("{version}, {}", path.display()),
        (Some(version), None) => version.clone(),
        (None, _) => {
            let (folders, names): (Vec<&String>, Vec<&String>) =
                library.looked_for.iter().partition(|name| Path::new(name).is_absolute());
            let (first, rest) = (names.first(), names.len().saturating_sub(1));
            let first = first.map_or("", |name| name.as_str());
            let mut text = format!(
                "not found, so {}: neither {first} nor {rest} other names are on the loader's path",
                library.without
            );
            folders.iter().for_each(|folder| text += &format!(",\n{:14} nor in {folder}", ""));
            text
        }
    }
}

fn describe(gpu: &Gpu) -> String {
    let Gpu { name, compute: (major, minor), memory, multiprocessors, .. } = gpu;
    let mut text = format!(
        "{name}, compute capability {major}.{minor}, {multiprocessors} multiprocessors, {} MiB",
        grouped(memory >> 20)
    );
    if *major < 8 {
        text += ", too old: the kernels need 8.0";
    }
    if let Some(clock) = gpu.clock {
        text += &format!(", up to {clock} MHz");
    }
    if let (Some(clock), Some(bus)) = (gpu.memory_clock, gpu.bus) {
        text += &format!(", memory up to {clock} MHz on {bus} bits");
    }
    text
}

/// Description of the system: `Debian GNU/Linux 12, Linux 6.1.0, x86_64`.
fn system() -> String {
    let mut parts = Vec::new();
    if let Ok(release) = std::fs::read_to_string("/etc/os-release") {
        let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        parts.extend(name.map(|name| name.trim_matches('"').to_owned()));
    }
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    parts.push(format!("{} {}", std::env::consts::OS, kernel.trim()).trim().to_owned());
    parts.push(std::env::consts::ARCH.into());
    parts.join(", ")
}

/// Returns the text after the colon in the line that begins with `key`.
fn line_of(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn kib(text: &str) -> Option<usize> {
    text.strip_suffix("kB")?.trim().parse().ok().map(|kib: usize| kib << 10)
}

/// Vector extensions that matter to kernels.
fn vectors() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let all = [
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("f16c", std::is_x86_feature_detected!("f16c")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
            ("avx512bf16", std::is_x86_feature_detected!("avx512bf16")),
        ];
        all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(kib("16384 kB"), Some(16 << 20));
        assert_eq!(kib("16384"), None);
    }

    #[test]
    fn the_embedded_ptx_is_for_8_0() {
        let ptx = include_str!("../../../../../kernels/ptx/add.ptx");
        assert!(ptx.lines().any(|line| line.trim() == ".target sm_80"));
    }

    #[test]
    fn a_library_is_described_with_its_place_or_its_absence() {
        let mut library = Library {
            name: "cuBLASLt",
            version: None,
            path: None,
            looked_for: ["libx.so.13", "libx.so", "/a/lib"].map(String::from).to_vec(),
            passed_over: Vec::new(),
            without: "nothing multiplies",
        };
        let text = found(&library);
        assert!(
            text.starts_with("not found, so nothing multiplies: neither libx.so.13 nor 1 other")
        );
        assert!(text.ends_with("nor in /a/lib"), "{text}");
        (library.version, library.path) = (Some("13.1.0".into()), Some("/a/lib/libx.so.13".into()));
        assert_eq!(found(&library), "13.1.0, /a/lib/libx.so.13");
    }

    #[test]
    fn a_gpu_is_described_with_what_is_known() {
        let gpu = Gpu {
            ordinal: 1,
            name: "NVIDIA X".into(),
            compute: (9, 0),
            memory: 80 << 30,
            multiprocessors: 132,
            clock: Some(1980),
            memory_clock: None,
            bus: Some(5120),
            l2: None,
        };
        let text = describe(&gpu);
        assert_eq!(
            text,
            "NVIDIA X, compute capability 9.0, 132 multiprocessors, 81,920 MiB, up to 1980 MHz"
        );
        assert!(describe(&Gpu { compute: (7, 5), ..gpu }).contains("too old"));
    }
}
