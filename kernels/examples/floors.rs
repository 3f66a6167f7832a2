//! Lowest times that an H200 allows each kernel, and how near to them the design should come. Sizes
//! are those of ViT-L with four images of 512 px. Writes `docs/measurements/kernel-floors.md` to
//! standard output.
//!
//! Operations and bytes are those of the verifications ([`dressage_kernels::check::verify`]). A dry run
//! finds which kernels a case launches. The resources of a multiprocessor that they take are read
//! from the table of ptxas, the argument (`docs/measurements/kernel-resources.md`). Nothing is
//! measured here.
//!
//! ```sh
//! cargo run --release -p dressage-kernels --example floors docs/measurements/kernel-resources.md
//! ```

use std::collections::BTreeMap;
use std::error::Error;

use dressage_kernels::check::verify::{self, Timed};
use dressage_kernels::device::Device;

/// Rates of an H200: bytes per second of a copy, operations per second of tensor cores and of f32
/// units. A multiply-add counts as two operations.
const COPY: f64 = 4.3e12;
const TENSOR: f64 = 790e12;
const F32: f64 = 60e12;

/// Multiprocessors, and seconds from a load to its data.
const PROCESSORS: f64 = 132.0;
const LATENCY: f64 = 0.8e-6;

/// Seconds that any kernel takes to start and to drain.
const START: f64 = 2e-6;

/// Share of a roofline that a good kernel reaches: of a copy; of products by cuBLASLt; of products
/// by `mma.sync`. That one feeds Hopper's tensor cores at five eighths of their rate.
const STREAM: f64 = 0.92;
const LIBRARY: f64 = 0.85;
const MMA: f64 = 0.62;

/// Resources of a kernel, by architecture sm_80, sm_90a.
#[derive(Clone, Copy)]
struct Taken {
    threads: f64,
    registers: [u32; 2],
    shared: f64,
    occupancy: [u32; 2],
}

/// The rows of the table of ptxas.
fn resources(text: &str) -> BTreeMap<String, Taken> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, _, name, threads, r80, _, _, o80, r90, shared, _, o90, _] = cells[..] else {
            continue;
        };
        let number = |cell: &str| cell.replace(',', "").parse::<u32>().ok();
        let all = [threads, r80, o80, r90, shared, o90].map(number);
        let [Some(threads), Some(r80), Some(o80), Some(r90), Some(shared), Some(o90)] = all else {
            continue;
        };
        let taken = Taken {
            threads: f64::from(threads),
            registers: [r80, r90],
            shared: f64::from(shared),
            occupancy: [o80, o90],
        };
        found.insert(name.trim_matches('`').to_owned(), taken);
    }
    found
}

/// A case as recorded by the device.
struct Case {
    name: String,
    shape: String,
    flops: f64,
    bytes: f64,
    kernels: Vec<(String, u64)>,
    launches: u64,
    products: u64,
}

fn case(device: &Device, timed: &mut Timed<'_>) -> Result<Case, Box<dyn Error>> {
    device.restart_trace();
    (timed.run)()?;
    let trace = device.trace().ok_or("a dry run keeps a trace")?;
    let kernels = trace.by_kernel().into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
    let total = trace.total();
    Ok(Case {
        name: timed.name.clone(),
        shape: timed.shape.clone(),
        flops: timed.flops as f64,
        bytes: timed.bytes as f64,
        kernels,
        launches: total.launches,
        products: total.products,
    })
}

/// Lowest time of a case, and its limit.
struct Floor {
    seconds: f64,
    limit: &'static str,
}

impl Case {
    fn has(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.name.contains(word))
    }

    /// Whether products run on tensor cores: in bf16, by own kernels or by cuBLASLt.
    fn tensor(&self) -> bool {
        let products = ["attention", "rein", "linear", "matmul", "conv2d", "patch_embed"];
        self.name.contains("bf16") && (self.products > 0 || self.has(&products))
    }

    fn floor(&self) -> Floor {
        let (rate, limit) =
            if self.tensor() { (TENSOR, "tensor cores") } else { (F32, "f32 units") };
        let (compute, memory) = (self.flops / rate, self.bytes / COPY);
        match compute > memory {
            true => Floor { seconds: compute, limit },
            false => Floor { seconds: memory, limit: "memory" },
        }
    }

    /// Bytes of loads under way on a multiprocessor (sm_90a), the lowest of all kernels. They are
    /// 16 a resident thread, or half the shared memory of resident blocks, which is filled ahead.
    fn under_way(&self, known: &BTreeMap<String, Taken>) -> f64 {
        let bytes = |taken: &Taken| {
            let threads = f64::from(taken.occupancy[1]) / 100.0 * 2048.0;
            (threads * 16.0).max(threads / taken.threads * taken.shared / 2.0)
        };
        let each = self.kernels.iter().filter_map(|(name, _)| known.get(name)).map(bytes);
        each.fold(f64::INFINITY, f64::min)
    }

    /// The share of the floor that is expected, and the reason why it is below 1.
    fn expected(&self, known: &BTreeMap<String, Taken>) -> (f64, String) {
        let floor = self.floor();
        let needed = COPY / PROCESSORS * LATENCY;
        let (reach, why) = match floor.limit {
            "memory" => {
                let share = self.under_way(known) / needed;
                match share < STREAM {
                    true => (share, "too few loads under way: occupancy"),
                    false => (STREAM, "a stream like a copy"),
                }
            }
            // All but attention and Rein leave their products to the library.
            "tensor cores" if self.products > 0 && !self.has(&["rein"]) => {
                (LIBRARY, "products of cuBLASLt")
            }
            "tensor cores" if self.has(&["attention"]) => {
                (MMA * 0.8, "mma.sync, and the softmax between products")
            }
            "tensor cores" => (MMA, "mma.sync and products of cuBLASLt"),
            _ => (0.7, "f32 arithmetic with its loads between"),
        };
        let work = floor.seconds / reach;
        let starts = (self.launches + self.products).max(1) as f64 * START;
        let share = floor.seconds / (work + starts);
        match starts > work {
            true => (share, format!("{} starts outlast the work", self.launches + self.products)),
            false => (share, why.to_owned()),
        }
    }

    fn row(&self, known: &BTreeMap<String, Taken>) -> String {
        let floor = self.floor();
        let (share, why) = self.expected(known);
        let worst = self.kernels.iter().filter_map(|(name, _)| known.get(name));
        let occupancy =
            worst.map(|taken| taken.occupancy).reduce(|a, b| [a[0].min(b[0]), a[1].min(b[1])]);
        let occupancy = occupancy.map_or("-".into(), |[a, b]| format!("{a} / {b}"));
        let (gflop, mb) = (self.flops / 1e9, self.bytes / 1e6);
        let Case { name, shape, launches, products, .. } = self;
        format!(
            "| `{name}` | {shape} | {launches} + {products} | {gflop:.2} | {mb:.1} | {:.2} | {} | \
             {occupancy} | {:.0} | {why} |",
            floor.seconds * 1e6,
            floor.limit,
            100.0 * share
        )
    }
}

const HEAD: &str = "# Floors of the kernels

Made by `cargo run --release -p dressage-kernels --example floors docs/measurements/kernel-resources.md`; nothing here was run on
a GPU. Sizes are those of ViT-L with four images of 512 px. `launches` counts kernels and products of one call; FLOPs and bytes are
what the work asks for, each byte once, as the kernel's `verify.rs` states; the floor is the larger of bytes at 4.3 TB/s and FLOPs at
790 TFLOP/s (bf16 on tensor cores) or 60 TFLOP/s (f32 units), the rates of an H200. `occ` is the lowest occupancy in per cent of the
kernels of the call on sm_80 / sm_90a.

The expected share of the floor is a rule, to be compared with measurements: a kernel takes 2 us to start and drain; a stream
reaches 92 % of a copy if each multiprocessor has 26 KB of loads under way (16 bytes a resident thread, or half of the shared memory
that is filled ahead), and less in proportion; products reach 85 % by cuBLASLt and 62 % by `mma.sync` on Hopper, in attention 80 %
of that; f32 arithmetic 70 %.
";

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: floors KERNEL-RESOURCES.md")?;
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let known = resources(&text);
    println!("{HEAD}");
    println!(
        "| call | sizes | launches + products | GFLOP | MB | floor us | limit | occ | expected % of it | because |"
    );
    println!("|---|---|--:|--:|--:|--:|---|--:|--:|---|");
    let device = Device::dry_run();
    let mut seen = Vec::new();
    for kernels in verify::all() {
        for timed in &mut (kernels.timed)(&device)? {
            let case = case(&device, timed)?;
            println!("{}", case.row(&known));
            seen.extend(case.kernels.into_iter().map(|(name, _)| name));
        }
    }
    println!("\n## Every kernel\n");
    println!("`timed` says whether a call above launches it.\n");
    println!("| kernel | block | regs sm_80 | occ | regs sm_90a | occ | timed |");
    println!("|---|--:|--:|--:|--:|--:|---|");
    for (name, taken) in &known {
        let timed = if seen.contains(name) { "yes" } else { "" };
        let ([r80, r90], [o80, o90]) = (taken.registers, taken.occupancy);
        println!("| `{name}` | {} | {r80} | {o80} | {r90} | {o90} | {timed} |", taken.threads);
    }
    Ok(())
}
