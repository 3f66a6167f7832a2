//! A training step of the engine as two graphs: forward with the loss, then backward.

use dressage_engine::{DType, Device, Gradients, Result, Tensor, backward, ops};
use dressage_kernels::check::noise;

const SHAPE: [usize; 4] = [1, 4, 4, 8];

struct Net {
    device: Device,
    x: Tensor,
    /// Weights and biases of two layers, weight and bias of a norm.
    params: [Tensor; 6],
}

impl Net {
    fn new(dtype: DType) -> Net {
        let device = Device::virtual_gpu();
        let up = |shape: &[usize], seed, dtype| {
            let host = noise::<f32>(shape.iter().product(), seed);
            Tensor::from_slice(&host, shape).unwrap().to_device(&device, dtype).unwrap()
        };
        let matrix = |seed| up(&[8, 8], seed, dtype).leaf();
        let vector = |seed| up(&[8], seed, DType::F32).leaf();
        let params = [matrix(1), vector(2), matrix(3), vector(4), vector(5), vector(6)];
        Net { x: up(&SHAPE, 7, dtype), params, device }
    }

    fn forward(&self) -> Result<Tensor> {
        let [w1, b1, w2, b2, gamma, beta] = &self.params;
        let z = ops::layer_norm(&self.x, gamma, beta, 1e-6)?;
        let h = ops::linear_relu(&z, w1, b1)?;
        let h = ops::residual(&z, &ops::gelu(&ops::linear(&h, w2, Some(b2))?)?, None)?;
        let y = ops::resize_to(&h, 5, 3)?;
        let rows = ops::reshape(&y, &[15, 8])?;
        let gram = ops::matmul(&rows, &rows, false, true)?;
        ops::total(&[&ops::cast(&gram, DType::F32)?, &ops::cast(&rows, DType::F32)?])
    }

    /// Writes the inputs of a step to the buffers that the graphs read.
    fn feed(&mut self, seed: u64) {
        let host = noise::<f32>(SHAPE.iter().product(), seed);
        let host = Tensor::from_slice(&host, &SHAPE).unwrap();
        let there = host.to_device(&self.device, self.x.dtype()).unwrap();
        match self.x.dtype() {
            DType::F32 => {
                let (from, to) = (there.view::<f32>().unwrap(), self.x.view_mut().unwrap());
                self.device.copy(from, to).unwrap();
            }
            _ => {
                let from = there.view::<half::bf16>().unwrap();
                self.device.copy(from, self.x.view_mut().unwrap()).unwrap();
            }
        }
    }

    /// Takes the gradients out of the backward pass.
    fn take(&self, mut grads: Gradients) -> Vec<Tensor> {
        self.params.iter().map(|p| grads.take(p).unwrap()).collect()
    }
}

fn bytes(loss: &Tensor, grads: &[Tensor]) -> Vec<Vec<u8>> {
    let host = |t: &Tensor| t.to_host().unwrap().bytes().to_vec();
    [host(&loss.detach())].into_iter().chain(grads.iter().map(host)).collect()
}

#[test]
fn a_step_as_two_graphs_gives_the_bits_of_direct_work() {
    for dtype in [DType::F32, DType::Bf16] {
        let mut net = Net::new(dtype);
        let direct: Vec<_> = (10..13)
            .map(|seed| {
                net.feed(seed);
                let loss = net.forward().unwrap();
                let grads = net.take(backward(loss.clone()).unwrap());
                bytes(&loss, &grads)
            })
            .collect();
        assert!(direct[0] != direct[1]);
        let device = net.device.clone();
        let memory = device.graph_memory();
        let before = device.usage();
        let (first, loss) = device.capture(&memory, || net.forward()).unwrap();
        let detached = loss.detach();
        let (second, grads) =
            device.capture(&memory, || backward(loss).map(|grads| net.take(grads))).unwrap();
        assert_eq!(device.usage().reservations, before.reservations);
        let waits = device.counters().waits;
        for (step, seed) in (10..13).enumerate() {
            net.feed(seed);
            device.replay(&first).unwrap();
            device.replay(&second).unwrap();
            assert_eq!(device.counters().waits, waits + 7 * step as u64);
            assert!(bytes(&detached, &grads) == direct[step], "{dtype:?}, step {step}");
        }
        assert_eq!(device.counters().graphs, 6);
    }
}
