//! Resources of each kernel on a multiprocessor: registers, shared memory, stack, and the number of
//! resident warps.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::source::{Source, headers};
use crate::tool::Tools;
use crate::{Error, Result, read};

/// A multiprocessor, as far as occupancy depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Multiprocessor {
    /// Architecture as ptxas calls it.
    pub arch: &'static str,
    /// Maximum resident warps.
    pub warps: usize,
    /// Maximum resident blocks.
    pub blocks: usize,
    /// Number of 32-bit registers.
    pub registers: usize,
    /// Shared memory in bytes.
    pub shared: usize,
}

/// The multiprocessors of the table, A100 and H100 or H200 (CUDA C++ Programming Guide, technical
/// specifications per compute capability).
pub const MULTIPROCESSORS: [Multiprocessor; 2] = [
    Multiprocessor { arch: "sm_80", warps: 64, blocks: 32, registers: 65536, shared: 164 << 10 },
    Multiprocessor { arch: "sm_90a", warps: 64, blocks: 32, registers: 65536, shared: 228 << 10 },
];

/// Allocation unit of a warp's registers.
const REGISTER_PIECE: usize = 256;

/// Allocation unit of shared memory in bytes, and the bytes per block that the system reserves.
const SHARED_PIECE: usize = 128;
const SHARED_OF_SYSTEM: usize = 1024;

/// Resources of one kernel, as ptxas reports them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: usize,
    /// Static shared memory of a block in bytes.
    pub shared: usize,
    /// Stack of a thread in bytes.
    pub stack: usize,
    /// Bytes of registers stored to and loaded from memory.
    pub spills: usize,
}

impl Multiprocessor {
    /// Computes the resident warps of a kernel with blocks of `threads` and `dynamic` bytes of
    /// dynamic shared memory.
    pub fn resident_warps(&self, usage: &Usage, threads: usize, dynamic: usize) -> usize {
        let warps = threads.div_ceil(32).max(1);
        let registers = (usage.registers * 32).next_multiple_of(REGISTER_PIECE).max(1);
        let by_registers = self.registers / registers / warps;
        let shared = usage.shared + dynamic + SHARED_OF_SYSTEM;
        let by_shared = self.shared / shared.next_multiple_of(SHARED_PIECE);
        let blocks = self.blocks.min(self.warps / warps).min(by_registers).min(by_shared);
        blocks * warps
    }
}

/// Returns the table of all kernels as Markdown.
///
/// # Errors
/// A file that does not assemble, a kernel without `__launch_bounds__`, a spill.
pub fn report(root: &Path, tools: &Tools, sources: &[Source]) -> Result<String> {
    let mut table = String::from(HEAD);
    let mut spills = Vec::new();
    for source in sources {
        let ptx = source.ptx(root);
        let text = read(&ptx)?;
        let blocks = block_sizes(&text);
        let dynamic = dynamic_shared(root, source)?;
        let usages = MULTIPROCESSORS
            .iter()
            .map(|m| Ok((m, usages(&tools.assemble(&ptx, m.arch)?))))
            .collect::<Result<Vec<_>>>()?;
        for kernel in usages[0].1.keys() {
            let wrong = |what: &str| Error::Output {
                tool: "ptxas",
                file: source.path.clone(),
                what: format!("kernel {kernel} {what}"),
            };
            let threads = *blocks
                .get(kernel.as_str())
                .ok_or_else(|| wrong("has no __launch_bounds__, which name its block"))?;
            let dynamic = dynamic.get(kernel.as_str()).copied().unwrap_or(0);
            let mut row = format!("| {} | `{kernel}` | {threads} ", source.stem);
            for (m, usages) in &usages {
                let usage = usages.get(kernel).ok_or_else(|| wrong("is missing in one"))?;
                if usage.spills > 0 {
                    spills.push(format!("{kernel} on {} ({} bytes)", m.arch, usage.spills));
                }
                let warps = m.resident_warps(usage, threads, dynamic);
                let shared = usage.shared + dynamic;
                let percent = 100 * warps / m.warps;
                let _ =
                    write!(row, "| {} | {shared} | {} | {percent} ", usage.registers, usage.stack);
            }
            table.push_str(&row);
            table.push_str("|\n");
        }
    }
    if spills.is_empty() { Ok(table) } else { Err(Error::Spills(spills)) }
}

const HEAD: &str = "\
# What each kernel takes of a multiprocessor

Made by `cargo run -p ptx-build -- --report` with ptxas 13.0.88 from the committed PTX; nothing here was run on a GPU. `regs`
registers of a thread, `shared` bytes of a block (static plus the dynamic bytes that the source states in a line
`// dynamic-shared KERNEL BYTES`), `stack` bytes of a thread, `occ` resident warps in per cent of the 64 that a multiprocessor can
hold. The command fails if any kernel spills registers.

| source | kernel | block | regs sm_80 | shared | stack | occ | regs sm_90a | shared | stack | occ |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
";

/// Reads the threads per block of each kernel from `.maxntid`, which `__launch_bounds__` sets.
fn block_sizes(ptx: &str) -> BTreeMap<&str, usize> {
    let mut sizes = BTreeMap::new();
    let mut kernel = "";
    for line in ptx.lines() {
        if let Some((_, rest)) = line.split_once(".entry ") {
            kernel = rest.split(['(', ' ']).next().unwrap_or_default();
        } else if let Some(rest) = line.trim().strip_prefix(".maxntid") {
            let numbers = rest.split(',').filter_map(|n| n.trim().parse::<usize>().ok());
            sizes.insert(kernel, numbers.product());
        }
    }
    sizes
}

/// Reads the bytes of dynamic shared memory, which the source or a header states as
/// `// dynamic-shared KERNEL BYTES`.
fn dynamic_shared(root: &Path, source: &Source) -> Result<BTreeMap<String, usize>> {
    let mut stated = BTreeMap::new();
    let folder = headers(root);
    let names = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path());
    let mut texts = vec![source.text.clone()];
    for header in names {
        texts.push(read(&header)?);
    }
    for line in texts.iter().flat_map(|text| text.lines()) {
        let Some(rest) = line.trim().strip_prefix("// dynamic-shared ") else { continue };
        let mut words = rest.split_whitespace();
        if let (Some(kernel), Some(Ok(bytes))) = (words.next(), words.next().map(str::parse)) {
            stated.insert(kernel.to_owned(), bytes);
        }
    }
    Ok(stated)
}

/// Reads the messages of `ptxas -v`.
fn usages(text: &str) -> BTreeMap<String, Usage> {
    let mut found: BTreeMap<String, Usage> = BTreeMap::new();
    let mut kernel = String::new();
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            found.entry(kernel.clone()).or_default();
        }
        let Some(usage) = found.get_mut(&kernel) else { continue };
        if line.contains("bytes stack frame") {
            usage.stack = before(line, " bytes stack frame");
            usage.spills = before(line, " bytes spill stores") + before(line, " bytes spill loads");
        } else if line.contains("Used ") {
            usage.registers = before(line, " registers");
            usage.shared = before(line, " bytes smem");
        }
    }
    found
}

/// Returns the number before `unit`; 0 if there is none.
fn before(line: &str, unit: &str) -> usize {
    let Some((head, _)) = line.split_once(unit) else { return 0 };
    let digits = head.len() - head.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    head[head.len() - digits..].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_ptxas_are_read() {
        let text = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'norm_f32' for 'sm_80'
ptxas info    : Function properties for norm_f32
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size, 128 bytes smem
ptxas info    : Compile time = 5.1 ms
ptxas info    : Compiling entry function 'plain' for 'sm_80'
ptxas info    : Function properties for plain
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers
";
        let got = usages(text);
        let norm = Usage { registers: 40, shared: 128, stack: 16, spills: 12 };
        assert_eq!(got["norm_f32"], norm);
        assert_eq!(got["plain"], Usage { registers: 12, ..Usage::default() });
    }

    #[test]
    fn block_sizes_come_from_the_launch_bounds() {
        let ptx = ".visible .entry one(\n)\n.maxntid 32, 8, 1\n{\n}\n.visible .entry two()\n{\n}\n";
        assert_eq!(block_sizes(ptx), BTreeMap::from([("one", 256)]));
    }

    #[test]
    fn occupancy_is_bound_by_the_scarcest_resource() {
        let [a100, hopper] = MULTIPROCESSORS;
        let usage = |registers, shared| Usage { registers, shared, ..Usage::default() };
        // 32 registers and 256 threads: 8 blocks fill the 64 warps.
        assert_eq!(a100.resident_warps(&usage(32, 0), 256, 0), 64);
        // 128 registers a thread: 4096 a warp, 16 warps.
        assert_eq!(a100.resident_warps(&usage(128, 0), 256, 0), 16);
        // 40 registers: 1280 a warp, 51 warps, 6 whole blocks of 8.
        assert_eq!(a100.resident_warps(&usage(40, 0), 256, 0), 48);
        // 80 KiB and 1 KiB of the system: two blocks in 164 KiB, two in 228 KiB.
        assert_eq!(a100.resident_warps(&usage(32, 0), 128, 80 << 10), 8);
        assert_eq!(hopper.resident_warps(&usage(32, 16 << 10), 128, 56 << 10), 12);
        // Blocks of one warp: at most 32 of them.
        assert_eq!(hopper.resident_warps(&usage(16, 0), 32, 0), 32);
    }
}
