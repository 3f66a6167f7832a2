//! A block reduction without its first barrier; the finding is printed.

use ptx_vm::{Gpu, Launch, Module, Params};

/// `tests/cuda/layer_norm.cu` without the barrier in its reduction.
const PTX: &str = include_str!("../tests/cuda/ptx/layer_norm-barrier.ptx");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let module = Module::parse("layer_norm-barrier.ptx", PTX)?;
    let mut gpu = Gpu::new();
    let (rows, c) = (2usize, 256usize);
    let x = gpu.alloc("x", rows * c * 4);
    let gamma = gpu.alloc("gamma", c * 4);
    let y = gpu.alloc("y", rows * c * 4);
    gpu.fill(x, 0, rows * c * 4)?;
    gpu.fill(gamma, 0, c * 4)?;
    let mut params = Params::new();
    params.address(x).address(gamma).address(gamma).address(y);
    params.i32(rows as i32).i32(c as i32).f32(1e-5);
    let launch = Launch {
        grid: [rows as u32, 1, 1],
        block: [128, 1, 1],
        dynamic_shared: 0,
        params: params.bytes(),
    };
    for finding in gpu.launch(&module, "layer_norm", &launch)?.findings {
        println!("{finding}");
    }
    Ok(())
}
