use half::bf16;

use super::{Args, Buffer, Device, Grid, Module};
use crate::call::{Gpu, Launch};
use crate::check::noise;
use crate::ops::adamw::{AdamW, MultiAdamW, Tensor};
use crate::ops::layer_norm::{Forward, LayerNorm};
use crate::ops::matmul::MatMul;
use crate::{KernelError, Result, Write};

const N: usize = 5;
const C: usize = 24;
const M: usize = 9;

/// A layer norm, a product with trained weights and their update. These parts of a training step
/// show whether captured work differs from direct work.
struct Step {
    device: Device,
    x: Buffer<f32>,
    norm: Buffer<f32>,
    /// Weights, their moments and the copy that the product reads.
    state: [Buffer<f32>; 3],
    working: Buffer<bf16>,
    optimiser: MultiAdamW,
}

impl Step {
    fn new() -> Step {
        let device = Device::virtual_gpu();
        let up = |name, seed| device.upload(name, &noise::<f32>(M * C, seed)).unwrap();
        let state = [up("weight", 1), up("m", 2), device.zeros("v", M * C).unwrap()];
        Step {
            x: device.upload("x", &noise(N * C, 3)).unwrap(),
            norm: device.upload("norm", &noise(2 * C, 4)).unwrap(),
            state,
            working: device.zeros("working", M * C).unwrap(),
            optimiser: MultiAdamW::default(),
            device,
        }
    }

    fn prepare(&mut self, t: u64) {
        self.device.write(self.x.view_mut(), &noise(N * C, 10 + t)).unwrap();
        self.optimiser.set_step(&self.device, t, &[AdamW::default()]).unwrap();
    }

    /// First part: the norm of `x` and its product with the weights, `[N, M]`.
    fn forward(&self) -> Result<(Buffer<bf16>, Buffer<f32>)> {
        let device = &self.device;
        let mut wide = device.alloc("wide", N * C)?;
        let (mut mean, mut rstd) = (device.alloc("mean", N)?, device.alloc("rstd", N)?);
        let (weight, bias) = (self.norm.view().slice(0..C), self.norm.view().slice(C..2 * C));
        let layer = LayerNorm { n: N, c: C, eps: 1e-6 };
        let (x, y) = (self.x.view(), wide.view_mut());
        let (mean, rstd) = (mean.view_mut(), rstd.view_mut());
        Forward::<Gpu, f32> { x, weight, bias, y, mean, rstd }.launch(device, &layer)?;
        let mut y = device.alloc("y", N * C)?;
        crate::ops::add::cast_gpu(device, wide.view(), y.view_mut())?;
        drop(wide);
        let mut out = device.alloc("out", N * M)?;
        let sizes = MatMul::new(N, M, C).trans_b();
        let working = self.working.view();
        device.matmul(&sizes, 1.0, y.view(), working, Write::Over, out.view_mut())?;
        Ok((y, out))
    }

    /// Second part: `out^T y` as the gradient of the weights, and their update.
    fn backward(&mut self, (y, out): (Buffer<bf16>, Buffer<f32>)) -> Result<()> {
        let device = &self.device;
        let mut narrow = device.alloc("narrow", N * M)?;
        crate::ops::add::cast_gpu::<f32, bf16>(device, out.view(), narrow.view_mut())?;
        drop(out);
        let mut g = device.zeros::<f32>("g", M * C)?;
        let sizes = MatMul::new(M, C, N).trans_a();
        device.matmul(&sizes, 1.0, narrow.view(), y.view(), Write::Add, g.view_mut())?;
        drop(y);
        let [p, m, v] = &mut self.state;
        let (p, m, v) = (p.view_mut(), m.view_mut(), v.view_mut());
        let copy = Some(self.working.view_mut());
        let mut tensors = [Tensor { p, m, v, g: g.view(), copy, average: None, group: 0 }];
        self.optimiser.launch(device, &mut tensors, None, None)
    }

    fn direct(&mut self, t: u64) -> Vec<f32> {
        self.prepare(t);
        let made = self.forward().unwrap();
        let seen = self.device.download(made.1.view()).unwrap();
        self.backward(made).unwrap();
        seen
    }

    fn weights(&self) -> Vec<f32> {
        self.device.download(self.state[0].view()).unwrap()
    }
}

/// Values that the host reads between the parts, and the weights, of five steps without graphs.
fn expected() -> Vec<(Vec<f32>, Vec<f32>)> {
    let mut step = Step::new();
    (1..=5).map(|t| (step.direct(t), step.weights())).collect()
}

#[test]
fn a_replayed_step_gives_the_bits_of_direct_work() {
    let expected = expected();
    let mut step = Step::new();
    let device = step.device.clone();
    step.direct(1);
    let before = device.usage();
    let memory = device.graph_memory();
    step.prepare(2);
    let launched = device.counters();
    let (first, made) = device.capture(&memory, || step.forward()).unwrap();
    assert_eq!(device.counters(), launched, "a capture runs nothing");
    assert_eq!((first.launches(), first.products()), (2, 1));
    device.replay(&first).unwrap();
    let after = device.counters();
    assert_eq!(after.launches, launched.launches + 2);
    assert_eq!((after.products, after.graphs), (launched.products + 1, 1));
    // The second graph reads a result of the first one and drops it.
    let mut fixed = device.zeros::<f32>("seen", N * M).unwrap();
    device.copy(made.1.view(), fixed.view_mut()).unwrap();
    assert_eq!(device.download(fixed.view()).unwrap(), expected[1].0);
    let (second, ()) = device.capture(&memory, || step.backward(made)).unwrap();
    device.replay(&second).unwrap();
    assert_eq!(step.weights(), expected[1].1);
    for t in 3..=5 {
        step.prepare(t);
        device.replay(&first).unwrap();
        device.replay(&second).unwrap();
        assert_eq!(step.weights(), expected[t as usize - 1].1, "step {t}");
    }
    // All blocks came from the pool and nothing was reserved for the graphs.
    assert_eq!(device.usage().reservations, before.reservations + 1);
    assert!(device.usage().graphs > 0);
    drop((first, second, memory, fixed));
    assert_eq!(device.usage().graphs, 0);
    device.trim().unwrap();
    assert_eq!(device.usage().reserved, device.usage().live);
}

#[test]
fn graphs_of_a_memory_run_in_their_order() {
    let mut step = Step::new();
    let device = step.device.clone();
    step.direct(1);
    let memory = device.graph_memory();
    let (first, made) = device.capture(&memory, || step.forward()).unwrap();
    let (second, ()) = device.capture(&memory, || step.backward(made)).unwrap();
    let refused = "graph capture: graph 1 of its memory reads what graph 0 wrote: replay that one \
                   first";
    assert_eq!(device.replay(&second).unwrap_err().to_string(), refused);
    device.replay(&first).unwrap();
    device.replay(&first).unwrap();
    device.replay(&second).unwrap();
    assert_eq!(device.replay(&second).unwrap_err().to_string(), refused);
    let other = Device::virtual_gpu();
    let error = other.replay(&first).unwrap_err().to_string();
    assert!(error.starts_with("replay: an argument is on device number"), "{error}");
    let error = other.capture(&memory, || Ok::<(), KernelError>(())).unwrap_err().to_string();
    assert!(error.starts_with("capture: an argument is on device number"), "{error}");
}

#[test]
fn memory_of_a_graph_is_handed_to_no_one_else() {
    let device = Device::virtual_gpu();
    let work = || {
        let mut a = device.zeros::<u8>("a", 100)?;
        let at = a.view().address();
        device.zero(a.view_mut())?;
        drop(a);
        // Within the graph the block is reused.
        let b = device.zeros::<u8>("b", 100)?;
        let c = device.zeros::<u8>("c", 100)?;
        Ok::<_, KernelError>((at, b, c))
    };
    drop(work().unwrap());
    let memory = device.graph_memory();
    let (graph, (at, b, c)) = device.capture(&memory, work).unwrap();
    assert_eq!(at, b.view().address());
    let captured = c.view().address();
    drop((b, c));
    assert_eq!((device.usage().live, device.usage().graphs), (0, 200));
    let outside: Vec<Buffer<u8>> = (0..3).map(|_| device.alloc("outside", 100).unwrap()).collect();
    for buffer in &outside {
        assert!(![at, captured].contains(&buffer.view().address()));
    }
    device.replay(&graph).unwrap();
    // A later graph of the same memory takes it, one of another memory does not.
    let (_later, later) = device.capture(&memory, || device.alloc::<u8>("d", 100)).unwrap();
    assert!([at, captured].contains(&later.view().address()));
    drop(outside);
    let other = device.graph_memory();
    let (_other, mine) = device.capture(&other, || device.alloc::<u8>("e", 100)).unwrap();
    assert!(![at, captured].contains(&mine.view().address()));
    // A buffer may outlive the graphs.
    drop((graph, _later, memory));
    assert_eq!(device.usage().graphs, 0);
    drop(later);
    assert_eq!((device.usage().live, device.usage().graphs), (100, 0));
}

#[test]
fn buffers_from_elsewhere_stay_reserved_while_a_graph_touches_them() {
    let device = Device::virtual_gpu();
    let source = device.upload("source", &[1.0f32, 2.0]).unwrap();
    let mut copy = device.zeros::<f32>("copy", 2).unwrap();
    let memory = device.graph_memory();
    let queue = || device.copy(source.view(), copy.view_mut());
    let (graph, ()) = device.capture(&memory, queue).unwrap();
    let at = source.view().address();
    drop(source);
    assert_eq!(device.usage().graphs, 8);
    assert_ne!(device.alloc::<f32>("new", 2).unwrap().view().address(), at);
    device.replay(&graph).unwrap();
    assert_eq!(device.download(copy.view()).unwrap(), [1.0, 2.0]);
    drop((graph, memory));
    assert_eq!(device.usage().graphs, 0);
}

/// Copies x[i] to y[i] for i < n.
static COPY: Module = Module::new(
    "copy",
    ".version 8.0
.target sm_80
.address_size 64
.visible .entry copy(
    .param .align 4 .b8 size[4],
    .param .u64 x,
    .param .u64 y
)
.maxntid 32, 1, 1
{
    .reg .pred %p<2>;
    .reg .b32 %r<4>;
    .reg .b64 %d<8>;
    ld.param.u32 %r1, [size];
    ld.param.u64 %d1, [x];
    ld.param.u64 %d2, [y];
    mov.u32 %r2, %tid.x;
    setp.ge.u32 %p1, %r2, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %d3, %d1;
    cvta.to.global.u64 %d4, %d2;
    mul.wide.u32 %d5, %r2, 4;
    add.s64 %d6, %d3, %d5;
    add.s64 %d7, %d4, %d5;
    ld.global.u32 %r3, [%d6];
    st.global.u32 [%d7], %r3;
DONE:
    ret;
}
",
);

fn copy(device: &Device, x: &Buffer<u32>, y: &mut Buffer<u32>) -> Result<()> {
    let args = Args::new(&(x.len() as u32)).read(x.view()).write(y.view_mut());
    // SAFETY: the virtual device checks every access.
    unsafe { device.launch(&COPY.kernel("copy"), &Grid::line(1, 1, 32), &args) }
}

#[test]
fn stale_memory_is_found_at_every_replay() {
    let device = Device::virtual_gpu();
    let x = device.upload("x", &[7u32; 4]).unwrap();
    let mut y = device.zeros::<u32>("y", 4).unwrap();
    copy(&device, &x, &mut y).unwrap();
    drop(device.alloc::<u32>("block", 4).unwrap());
    let memory = device.graph_memory();
    // `first` leaves its contents in the block; `second` reads it without writing it.
    let stale = || {
        let mut first = device.alloc("first", 4)?;
        copy(&device, &x, &mut first)?;
        drop(first);
        let second = device.alloc("second", 4)?;
        copy(&device, &second, &mut y)
    };
    let (graph, ()) = device.capture(&memory, stale).unwrap();
    for _ in 0..2 {
        let error = device.replay(&graph).unwrap_err().to_string();
        assert!(error.contains("never written") && error.contains("`second`"), "{error}");
    }
    drop((graph, memory));
    // Nor does a replay read the data of the replay before.
    let memory = device.graph_memory();
    let (graph, temporary) = device
        .capture(&memory, || {
            let mut temporary = device.alloc("held", 4)?;
            copy(&device, &temporary, &mut y)?;
            copy(&device, &x, &mut temporary)?;
            Ok::<_, KernelError>(temporary)
        })
        .unwrap();
    for _ in 0..2 {
        let error = device.replay(&graph).unwrap_err().to_string();
        assert!(error.contains("never written") && error.contains("`held`"), "{error}");
    }
    drop(temporary);
}

#[test]
fn what_a_graph_cannot_capture_is_refused() {
    let device = Device::virtual_gpu();
    let mut x = device.upload("x", &[1u32, 2]).unwrap();
    let memory = device.graph_memory();
    let mut refused = |work: &mut dyn FnMut(&mut Buffer<u32>) -> Result<()>, start: &str| {
        let error = device.capture(&memory, || work(&mut x)).unwrap_err().to_string();
        assert!(error.starts_with(&format!("graph capture: {start}")), "{error}");
        assert!(!error.contains('\n'));
    };
    refused(&mut |x| device.write(x.view_mut(), &[1, 2]), "the host writes during a capture");
    refused(&mut |x| device.download(x.view()).map(drop), "the host reads during a capture");
    refused(&mut |_| device.wait(), "the host waits during a capture");
    refused(&mut |_| device.trim(), "the host releases memory during a capture");
    refused(
        &mut |_| device.alloc::<u32>("new", 77).map(drop),
        "the pool holds no free block of 308 bytes for new, and nothing can be reserved during a \
         capture: run the same work before, until it reserves nothing",
    );
    refused(
        &mut |_| device.capture(&memory, || Ok::<(), KernelError>(())).map(drop),
        "a capture is under way",
    );
    refused(
        &mut |x| {
            let other = device.clone();
            std::thread::scope(|s| s.spawn(|| other.zero(x.view_mut())).join().unwrap())
        },
        "another thread captures a graph on this device",
    );
    let y = device.upload("y", &[3u32, 4]).unwrap();
    refused(&mut |x| copy(&device, &y, x), "copy was never launched");
    // After each refusal, and after a panic, the device works on as before.
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        device.capture(&memory, || -> Result<()> { panic!("on purpose") })
    }));
    assert!(panics.is_err());
    device.zero(x.view_mut()).unwrap();
    assert_eq!(device.download(x.view()).unwrap(), [0, 0]);
    let (graph, ()) = device.capture(&memory, || device.zero(x.view_mut())).unwrap();
    let (within, ()) = device
        .capture(&memory, || {
            let error = device.replay(&graph).unwrap_err().to_string();
            assert!(error.starts_with("graph capture: the host replays"), "{error}");
            Ok::<(), KernelError>(())
        })
        .unwrap();
    device.replay(&graph).unwrap();
    device.replay(&within).unwrap();
}

#[test]
fn constants_are_those_of_the_capture() {
    let device = Device::virtual_gpu();
    let mut x = device.zeros::<u32>("x", 2).unwrap();
    let mut table = vec![5u32, 6];
    device.write_constant(x.view_mut(), &table).unwrap();
    assert_eq!(device.download(x.view()).unwrap(), [5, 6]);
    let memory = device.graph_memory();
    let (graph, ()) =
        device.capture(&memory, || device.write_constant(x.view_mut(), &table)).unwrap();
    table.fill(9);
    for _ in 0..2 {
        device.write(x.view_mut(), &table).unwrap();
        device.replay(&graph).unwrap();
        assert_eq!(device.download(x.view()).unwrap(), [5, 6]);
    }
    let error = device.write_constant(x.view_mut(), &table[..1]).unwrap_err().to_string();
    assert_eq!(error, "write: host has 1 elements, its sizes require 2");
}
