//! Graphs, page-locked copies and epilogues of the CUDA backend.

use dressage_kernels::Result;
use dressage_kernels::Write;
use dressage_kernels::call::{Gpu, Launch};
use dressage_kernels::device::{Buffer, Device, Epilogue};
use dressage_kernels::ops::activation::{Activation, Forward, Pointwise};
use dressage_kernels::ops::matmul::MatMul;

use crate::run;

const N: usize = 4;
const M: usize = 5;
const K: usize = 3;

/// Operands and results of a small step; all values are whole numbers, so sums are exact.
struct Step {
    device: Device,
    x: Buffer<f32>,
    weight: Buffer<f32>,
    bias: Buffer<f32>,
    y: Buffer<f32>,
    z: Buffer<f32>,
    sums: Buffer<f32>,
    table: Buffer<u32>,
}

/// `y`, `z`, the sums of rows and the table.
type Results = (Vec<f32>, Vec<f32>, Vec<f32>, Vec<u32>);

fn whole(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7 + seed * 5) % 11) as f32 - 5.0).collect()
}

impl Step {
    fn new(device: Device) -> Result<Step> {
        Ok(Step {
            x: device.zeros("x", N * K)?,
            weight: device.upload("weight", &whole(K * M, 1))?,
            bias: device.upload("bias", &whole(M, 2))?,
            y: device.zeros("y", N * M)?,
            z: device.zeros("z", N * M)?,
            sums: device.zeros("sums", N)?,
            table: device.zeros("table", 3)?,
            device,
        })
    }

    /// Queues products with epilogues, a kernel, a copy, zeros and a constant.
    fn queue(&mut self) -> Result<()> {
        let (sizes, over) = (MatMul::new(N, M, K), Write::Over);
        let (x, weight) = (self.x.view(), self.weight.view());
        let mut raw = self.device.alloc("raw", N * M)?;
        let sums = Epilogue::RowSums(self.sums.view_mut());
        assert!(self.device.matmul_with(&sizes, 1.0, x, weight, over, sums, raw.view_mut())?);
        let bias = Epilogue::BiasRelu(self.bias.view());
        assert!(self.device.matmul_with(&sizes, 1.0, x, weight, over, bias, self.y.view_mut())?);
        self.device.zero(self.z.view_mut())?;
        let gelu = Pointwise { f: Activation::Gelu, n: self.y.len() };
        Forward::<Gpu, _> { x: self.y.view(), y: self.z.view_mut() }.launch(&self.device, &gelu)?;
        self.device.copy(raw.view(), self.y.view_mut())?;
        self.device.write_constant(self.table.view_mut(), &[3, 1, 2])
    }

    fn results(&self) -> Result<Results> {
        let down = |buffer: &Buffer<f32>| self.device.download(buffer.view());
        let table = self.device.download(self.table.view())?;
        Ok((down(&self.y)?, down(&self.z)?, down(&self.sums)?, table))
    }
}

#[test]
fn a_captured_step_gives_the_bits_of_the_virtual_gpu() {
    run("graphs::child_step", &[("PTX_DRIVER_LEAKS", "1")]).quietly();
    run("graphs::child_step", &[("PTX_DRIVER_DELAY", "1")]).quietly();
}

pub fn child_step() {
    let replayed = |device: Device| -> Result<Vec<_>> {
        let mut step = Step::new(device.clone())?;
        step.device.write(step.x.view_mut(), &whole(N * K, 3))?;
        step.queue()?;
        let mut seen = vec![step.results()?];
        let memory = device.graph_memory();
        let (graph, ()) = device.capture(&memory, || step.queue())?;
        for seed in 4..7 {
            step.device.write(step.x.view_mut(), &whole(N * K, seed))?;
            device.zero(step.table.view_mut())?;
            device.replay(&graph)?;
            seen.push(step.results()?);
        }
        Ok(seen)
    };
    let got = replayed(Device::cuda(0).unwrap()).unwrap();
    assert_eq!(got, replayed(Device::virtual_gpu()).unwrap());
    // By hand: the first row of x for the first seed is [-1, -5, 2], the sums of its rows -4.
    assert_eq!((got[0].2[0], &got[0].3[..]), (-4.0, &[3, 1, 2][..]));
}

#[test]
fn a_run_that_retains_memory_has_to_run_twice_before_its_capture() {
    run("graphs::child_retained", &[("PTX_DRIVER_LEAKS", "1")]).quietly();
}

pub fn child_retained() {
    let device = Device::cuda(0).unwrap();
    let mut retained = None;
    let mut run = || -> Result<()> {
        let first = device.zeros::<u32>("first", 8)?;
        let _second = device.zeros::<u32>("second", 100)?;
        drop(first);
        if retained.is_none() {
            // The block of `first`: both sizes are rounded to 512 bytes.
            retained = Some(device.zeros::<u32>("kept", 4)?);
        }
        Ok(())
    };
    run().unwrap();
    let error = device.capture(&device.graph_memory(), &mut run).unwrap_err().to_string();
    assert!(error.contains("run the same work before, until it reserves nothing"), "{error}");
    run().unwrap();
    let (graph, ()) = device.capture(&device.graph_memory(), &mut run).unwrap();
    device.replay(&graph).unwrap();
    device.wait().unwrap();
}

#[test]
fn long_copies_through_page_locked_memory_arrive() {
    run("graphs::child_copies", &[("PTX_DRIVER_LEAKS", "1")]).quietly();
    run("graphs::child_copies", &[("PTX_DRIVER_DELAY", "1")]).quietly();
}

pub fn child_copies() {
    // More than all page-locked slots together, in pieces of many sizes.
    let device = Device::cuda(0).unwrap();
    let words: Vec<u32> = (0..9_000_011u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    let whole = device.upload("whole", &words).unwrap();
    let mut parts = device.alloc::<u32>("parts", words.len()).unwrap();
    let (mut at, mut size) = (0, 1);
    while at < words.len() {
        let end = words.len().min(at + size);
        device.write(parts.view_mut().slice(at..end), &words[at..end]).unwrap();
        (at, size) = (end, size * 3 + 1);
    }
    assert!(device.download(whole.view()).unwrap() == words);
    assert!(device.download(parts.view()).unwrap() == words);
    assert_eq!(device.download(parts.view().slice(77..80)).unwrap(), words[77..80]);
}

#[test]
fn a_driver_that_is_too_old_is_refused() {
    let variables = [("PTX_DRIVER_VERSION", "11080"), ("CHILD_EXPECTS", "CUDA 11.8")];
    run("facade::child_no_device", &variables).quietly();
}
