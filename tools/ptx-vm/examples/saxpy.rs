//! y = a x + y on the virtual GPU, from PTX text to results.

use ptx_vm::{Gpu, Launch, Module, Params};

/// PTX of `if (i < n) y[i] = a * x[i] + y[i];`, written by hand.
const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry saxpy(.param .u32 n, .param .f32 a, .param .u64 x, .param .u64 y)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<5>;
    .reg .b64 %rd<6>;
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.s32 %p1, %r5, %r1;
    @%p1 bra done;
    ld.param.f32 %f1, [a];
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [y];
    mul.wide.s32 %rd3, %r5, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.f32 %f2, [%rd4];
    ld.global.f32 %f3, [%rd5];
    fma.rn.f32 %f4, %f1, %f2, %f3;
    st.global.f32 [%rd5], %f4;
done:
    ret;
}";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let module = Module::parse("saxpy", PTX)?;
    let mut gpu = Gpu::new();
    let n = 1000;
    let (x, y) = (gpu.alloc("x", 4 * n), gpu.alloc("y", 4 * n));
    for i in 0..n {
        gpu.write(x.offset(4 * i as u64), &(i as f32).to_le_bytes())?;
        gpu.write(y.offset(4 * i as u64), &1f32.to_le_bytes())?;
    }
    let mut params = Params::new();
    params.u32(n as u32).f32(2.0).address(x).address(y);
    let launch =
        Launch { grid: [8, 1, 1], block: [128, 1, 1], dynamic_shared: 0, params: params.bytes() };
    let report = gpu.launch(&module, "saxpy", &launch)?;
    let mut last = [0; 4];
    gpu.read(y.offset(4 * (n as u64 - 1)), &mut last)?;
    println!("y[{}] = {}", n - 1, f32::from_le_bytes(last));
    println!("{} findings", report.findings.len());
    let c = report.counters;
    println!(
        "{} thread-instructions, {} bytes asked for, {} moved",
        c.thread_instructions(),
        c.global_bytes,
        c.global_bytes_moved
    );
    Ok(())
}
