//! Settings from environment variables, read once.

use crate::fatal;

/// Settings of a process; the README lists the variables.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Number of devices.
    pub devices: usize,
    /// Bytes of memory of all devices together.
    pub memory: u64,
    /// Compute capability times ten.
    pub capability: u32,
    /// Version that the driver reports.
    pub version: i32,
    /// Whether work waits for the next call that synchronises.
    pub delay: bool,
    /// Whether leaks are listed at the end.
    pub leaks: bool,
    /// Whether a launch returns the error of its own kernel.
    pub blocking: bool,
    /// Prefix of the names of kernels that fail with an illegal address.
    pub fails: Option<String>,
    /// Prefix of the names of kernels that do nothing.
    pub skips: Option<String>,
    /// Version that cuBLASLt reports.
    pub lt_version: usize,
    /// Whether cuBLASLt fails to start.
    pub lt_broken: bool,
    /// Place where cuBLASLt refuses epilogues.
    pub epilogues: Epilogues,
}

/// Places where cuBLASLt refuses a product with an epilogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Epilogues {
    /// Nowhere.
    Taken,
    /// The choice of an algorithm.
    RefusedAtChoice,
    /// The call, after the choice of an algorithm has succeeded.
    RefusedAtCall,
}

impl Settings {
    pub fn read() -> Settings {
        Settings {
            devices: number("PTX_DRIVER_DEVICES", 1) as usize,
            memory: number("PTX_DRIVER_MEMORY", 8192).saturating_mul(1 << 20),
            capability: capability(),
            version: number("PTX_DRIVER_VERSION", 13000) as i32,
            delay: flag("PTX_DRIVER_DELAY"),
            leaks: flag("PTX_DRIVER_LEAKS"),
            blocking: flag("CUDA_LAUNCH_BLOCKING"),
            fails: text("PTX_DRIVER_FAIL"),
            skips: text("PTX_DRIVER_SKIP"),
            lt_version: number("PTX_DRIVER_CUBLASLT", 130_000) as usize,
            lt_broken: flag("PTX_DRIVER_CUBLASLT_BROKEN"),
            epilogues: epilogues(),
        }
    }

    /// Returns the maximum opt-in shared memory of a block (CUDA programming guide, compute
    /// capabilities).
    pub fn shared_most(&self) -> u64 {
        match self.capability {
            70 => 96 << 10,
            75 => 64 << 10,
            80 => 163 << 10,
            86 | 89 => 99 << 10,
            _ => 227 << 10,
        }
    }

    /// Returns the newest PTX version that this driver accepts: major times ten plus minor.
    pub fn ptx(&self) -> u32 {
        match self.version {
            13000.. => 90,
            12090.. => 88,
            12080.. => 87,
            12050.. => 85,
            version => 80 + (version.max(12000) as u32 - 12000) / 10,
        }
    }
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn flag(name: &str) -> bool {
    text(name).is_some_and(|value| value != "0")
}

fn number(name: &str, unset: u64) -> u64 {
    let Some(value) = text(name) else { return unset };
    let Ok(number) = value.trim().parse() else {
        fatal(&format!("{name} is `{value}`, it has to be a whole number"))
    };
    number
}

fn capability() -> u32 {
    match text("PTX_DRIVER_CAPABILITY").as_deref() {
        None | Some("9.0") => 90,
        Some("7.0") => 70,
        Some("7.5") => 75,
        Some("8.0") => 80,
        Some("8.6") => 86,
        Some("8.9") => 89,
        Some(other) => {
            let known = "7.0, 7.5, 8.0, 8.6, 8.9 or 9.0";
            fatal(&format!("PTX_DRIVER_CAPABILITY is `{other}`, it may be {known}"))
        }
    }
}

fn epilogues() -> Epilogues {
    match text("PTX_DRIVER_EPILOGUES").as_deref() {
        None => Epilogues::Taken,
        Some("choice") => Epilogues::RefusedAtChoice,
        Some("call") => Epilogues::RefusedAtCall,
        Some(other) => {
            fatal(&format!("PTX_DRIVER_EPILOGUES is `{other}`, it may be choice or call"))
        }
    }
}
