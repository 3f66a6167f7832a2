//! Operations on the virtual GPU, compared with the host in f64.
//!
//! The virtual GPU executes the production kernels and fails on any access that a real GPU would
//! not survive. Each row of the table runs in f32 and in bf16 with these checks. The result and all
//! gradients agree with f64 on the same (rounded) inputs. Each input tracked alone gives the same
//! bits, and so does saving as little as possible. A second run gives the same bytes. Nothing waits
//! for the device. Gradients of leaves are f32.

use std::slice::from_ref;

use dressage_engine::memory::{self, Category, with_category};
use dressage_engine::{
    DType, Device, DryRun, EngineError, Param, RecomputePolicy, Result, Tensor, backward,
    backward_from, floats, no_grad, ops, recompute, with_recompute_policy,
};
use dressage_kernels::check::{noise, relative_error};
use half::bf16;

use crate::cases::{self, Case};

/// Values rounded so that the type represents them exactly.
fn rounded(values: &[f64], dtype: DType) -> Vec<f32> {
    let narrow = |x: &f64| match dtype {
        DType::Bf16 => bf16::from_f64(*x).to_f32(),
        _ => *x as f32,
    };
    values.iter().map(narrow).collect()
}

/// Storage type of an input of this shape, for activations of type `working`.
fn stored(shape: &[usize], working: DType) -> DType {
    if shape.len() > 1 { working } else { DType::F32 }
}

fn wide(x: &Tensor) -> Vec<f64> {
    let x = x.detach().to_host().unwrap();
    match x.dtype() {
        DType::Bf16 => x.data::<bf16>().unwrap().iter().map(|x| x.to_f64()).collect(),
        DType::F64 => x.data::<f64>().unwrap().to_vec(),
        _ => x.data::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect(),
    }
}

/// Result and gradients in their storage types; `None` if no gradient arrived.
type Outcome = [Option<Tensor>];

fn run(case: &Case, inputs: &[Tensor], dy: &Tensor, only: Option<usize>) -> Vec<Option<Tensor>> {
    let leaf = |(i, x): (usize, &Tensor)| match only.is_none_or(|only| only == i) {
        true => x.leaf(),
        false => x.clone(),
    };
    let inputs: Vec<Tensor> = inputs.iter().enumerate().map(leaf).collect();
    let y = (case.run)(&inputs).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let mut all = vec![Some(y.detach())];
    let grads = backward_from(y, dy.clone());
    let mut grads = grads.unwrap_or_else(|e| panic!("{}, backward: {e}", case.name));
    all.extend(inputs.iter().map(|x| grads.take(x)));
    all
}

fn bytes(outcome: &Outcome) -> Vec<Vec<u8>> {
    let host = |x: &Tensor| x.to_host().unwrap().bytes().to_vec();
    outcome.iter().map(|x| x.as_ref().map(host).unwrap_or_default()).collect()
}

/// Inputs in f64 on the host and, with the same values, on the device.
fn inputs(device: &Device, case: &Case, working: DType) -> (Vec<Tensor>, Vec<Tensor>) {
    let both = |(i, shape): (usize, &Vec<usize>)| {
        let dtype = stored(shape, working);
        let values = rounded(&noise(shape.iter().product(), 17 + i as u64), dtype);
        let exact: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
        let there = Tensor::from_slice(&values, shape).unwrap().to_device(device, dtype).unwrap();
        (Tensor::from_slice(&exact, shape).unwrap(), there)
    };
    case.inputs.iter().enumerate().map(both).unzip()
}

/// The largest error of result and gradients, relative to the allowed error.
fn compare(device: &Device, name: &str, bound: f64, got: &Outcome, want: &Outcome) -> f64 {
    let mut worst: f64 = 0.0;
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let what = if i == 0 { "result".into() } else { format!("gradient {}", i - 1) };
        let got = got.as_ref().unwrap_or_else(|| panic!("{name}, {what}: none"));
        let want = want.as_ref().unwrap_or_else(|| panic!("{name}, {what}: none on the host"));
        assert_eq!(got.shape(), want.shape(), "{name}, {what}");
        assert_eq!(got.device(), Some(device), "{name}, {what}");
        if i > 0 {
            assert_eq!(got.dtype(), DType::F32, "{name}, {what}");
        }
        let error = relative_error(&wide(got), &wide(want));
        assert!(error <= bound, "{name}, {what}: {error:.2e} above {bound:.2e}");
        worst = worst.max(error / bound);
    }
    worst
}

fn check(device: &Device, case: &Case, roundings: f64, working: DType) {
    let (exact, there) = inputs(device, case, working);
    let y = no_grad(|| (case.run)(&exact)).unwrap();
    let dy: Vec<f32> = rounded(&noise(y.len(), 5), DType::Bf16);
    let exact_dy: Vec<f64> = dy.iter().map(|&x| f64::from(x)).collect();
    let want = run(case, &exact, &Tensor::from_slice(&exact_dy, y.shape()).unwrap(), None);

    let dy = Tensor::from_slice(&dy, y.shape()).unwrap().to_device(device, working).unwrap();
    let waits = device.counters().waits;
    let got = run(case, &there, &dy, None);
    let name = format!("{} {working}", case.name);
    assert_eq!(device.counters().waits, waits, "{name}: waited for the device");
    // f32: twice the root of some hundred terms, times 2^-24. bf16: see the case.
    let bound = if working == DType::Bf16 { roundings / 256.0 } else { 2e-6 };
    let worst = compare(device, &name, bound, &got, &want);
    println!("{name}: worst error {worst:.2} of the bound");

    let all = bytes(&got);
    assert_eq!(all, bytes(&run(case, &there, &dy, None)), "{name}: a second time");
    let cheap = with_recompute_policy(RecomputePolicy::Cheap, || run(case, &there, &dy, None));
    assert_eq!(all, bytes(&cheap), "{name}: recompute policy");
    for i in 0..there.len() {
        let alone = bytes(&run(case, &there, &dy, Some(i)));
        for (j, part) in alone.iter().enumerate() {
            let expected: &[u8] = if j == 0 || j == i + 1 { &all[j] } else { &[] };
            assert!(part == expected, "{name}: input {i} tracked alone, part {j}");
        }
    }
}

fn check_all(cases: Vec<Case>) {
    let device = Device::virtual_gpu();
    for case in &cases {
        let Some(roundings) = case.roundings else { continue };
        check(&device, case, roundings, DType::F32);
        check(&device, case, roundings, DType::Bf16);
    }
}

#[test]
fn products_match_the_host() {
    check_all(cases::products());
}

#[test]
fn chains_match_the_host() {
    check_all(cases::chains());
}

#[test]
fn fused_layers_match_the_host() {
    check_all(cases::fused());
}

#[test]
fn pointwise_operations_match_the_host() {
    check_all(cases::pointwise());
}

#[test]
fn norms_and_convolutions_match_the_host() {
    check_all(cases::norms_and_convolutions());
}

#[test]
fn copies_and_resampling_match_the_host() {
    check_all(cases::copies_and_resampling());
}

#[test]
fn attention_matches_the_host() {
    check_all(cases::attention::all());
}

#[test]
fn losses_match_the_host() {
    check_all(cases::losses());
}

#[test]
fn attention_masks_match_the_host() {
    let device = Device::virtual_gpu();
    let logits = Tensor::from_slice(&noise::<f32>(2 * 3 * 5 * 4, 1), &[2, 3, 5, 4]).unwrap();
    let (raw, used) = ops::attention_mask(&logits, [3, 7]).unwrap();
    let there = logits.to_device(&device, DType::F32).unwrap();
    let (raw_there, used_there) = ops::attention_mask(&there, [3, 7]).unwrap();
    assert_eq!(raw_there.to_host().unwrap().bytes(), raw.bytes());
    assert_eq!(used_there.to_host().unwrap().bytes(), used.bytes());
    assert!(raw.bytes().contains(&1) && raw.bytes().contains(&0));
}

fn ones(device: &Device, shape: &[usize]) -> Tensor {
    Tensor::full(shape, 1.0f32).to_device(device, DType::F32).unwrap()
}

#[test]
fn a_tensor_goes_to_a_device_and_back() {
    let device = Device::virtual_gpu();
    let x = Tensor::from_slice(&[1.0f32, -2.5, 1.0 + 1.0 / 256.0, 3.0], &[2, 2]).unwrap();
    let there = x.to_device(&device, DType::F32).unwrap();
    assert_eq!((there.device(), there.dtype()), (Some(&device), DType::F32));
    assert_eq!(there.to_host().unwrap().bytes(), x.bytes());
    // The upload and the kernel round alike, ties to even.
    let narrow = x.to_device(&device, DType::Bf16).unwrap();
    let cast = there.to_device(&device, DType::Bf16).unwrap();
    assert_eq!(wide(&narrow), [1.0, -2.5, 1.0, 3.0]);
    assert_eq!(wide(&cast), wide(&narrow));
    let other = Device::virtual_gpu();
    let moved = narrow.to_device(&other, DType::F32).unwrap();
    assert_eq!((moved.device(), wide(&moved)), (Some(&other), vec![1.0, -2.5, 1.0, 3.0]));
    // Views share memory, and shared memory is not written in place.
    let mut row = ops::rows(&ops::reshape(&there, &[4]).unwrap(), 1, 2).unwrap();
    assert_eq!(wide(&row), [-2.5, 1.0 + 1.0 / 256.0]);
    assert!(matches!(row.view_mut::<f32>(), Err(EngineError::Shared { .. })));
    let mut own = row.deep_copy().unwrap();
    device.write(own.view_mut().unwrap(), &[7.0f32, 8.0]).unwrap();
    assert_eq!((wide(&own), wide(&row)[0]), (vec![7.0, 8.0], -2.5));
    let labels = Tensor::from_slice(&[1u8, 2, 3], &[3]).unwrap();
    let there = labels.to_device(&device, DType::U8).unwrap();
    assert_eq!(there.to_host().unwrap().data::<u8>().unwrap(), [1, 2, 3]);
}

#[test]
fn a_table_is_written_at_its_address_and_read_as_another_type() {
    let device = Device::virtual_gpu();
    let mut table = Tensor::zeros_on(Some(&device), DType::I32, &[4]).unwrap();
    let bits = 0.75f32.to_bits() as i32;
    table.overwrite(&[3, -1, bits, 7]).unwrap();
    let weight = ops::rows(&table, 2, 1).unwrap().bits_as(DType::F32).unwrap();
    assert_eq!(wide(&weight), [0.75]);
    assert_eq!(table.to_host().unwrap().data::<i32>().unwrap(), [3, -1, bits, 7]);
    assert!(matches!(table.overwrite(&[0; 4]), Err(EngineError::Shared { .. })));
    drop(weight);
    let (launches, waits) = (device.counters().launches, device.counters().waits);
    table.overwrite(&[0, 1, 2, 3]).unwrap();
    assert_eq!((device.counters().launches, device.counters().waits), (launches, waits));
    assert_eq!(table.to_host().unwrap().data::<i32>().unwrap(), [0, 1, 2, 3]);
    let error = table.overwrite(&[0; 3]).unwrap_err().to_string();
    assert_eq!(error, "write: host has 3 elements, its sizes require 4");
    let error = table.bits_as(DType::U8).unwrap_err().to_string();
    assert_eq!(error, "bits_as: element type is i32, expected u8");
}

#[test]
fn tensors_in_other_memory_are_refused_in_one_sentence() {
    let device = Device::virtual_gpu();
    let (host, there) = (Tensor::full(&[2, 3], 1.0f32), ones(&device, &[2, 3]));
    let says = |result: Result<Tensor>, sentence: &str| {
        assert_eq!(result.unwrap_err().to_string(), sentence);
    };
    assert_eq!(
        there.data::<f32>().unwrap_err().to_string(),
        "data: the tensor is on the virtual GPU, not in host memory; to_host copies it there"
    );
    assert_eq!(
        host.view::<f32>().unwrap_err().to_string(),
        "view: the tensor is in host memory, not on a device; to_device copies it there"
    );
    // The error of an operation without a device kernel.
    let alone = || floats!("sort", there, T => Ok(Tensor::empty::<T>(&[1])));
    says(
        alone(),
        "sort: not implemented on the virtual GPU; copy the operands to host memory with to_host",
    );
    says(
        ops::class_loss(&there, &[0, 3], &[1.0; 3], 1.0),
        "class_loss: target 3 is not one of 3 classes",
    );
    says(
        ops::add(&there, &host),
        "view: the tensor is in host memory, not on a device; to_device copies it there",
    );
    says(
        ops::add(&host, &there),
        "data: the tensor is on the virtual GPU, not in host memory; to_host copies it there",
    );
    let other = ones(&Device::virtual_gpu(), &[2, 3]);
    let error = ops::add(&there, &other).unwrap_err().to_string();
    assert!(error.starts_with("launch: an argument is on device number"), "{error}");
    let bytes = Tensor::zeros(DType::U8, &[2]).to_device(&device, DType::U8).unwrap();
    says(ops::gelu(&bytes), "activation: element type is u8, expected f32 or bf16");
    says(
        there.leaf().to_host(),
        "to_host: tensor needs a gradient, but the operation has none; \
         detach it if that is meant",
    );
    says(
        Tensor::scalar(1.0f64).to_device(&device, DType::F32),
        "to_device: element type is f64, expected f32",
    );
}

#[test]
fn a_dry_run_refuses_work_on_a_device() {
    let device = Device::virtual_gpu();
    let x = ones(&device, &[4]);
    let error = DryRun::new().run(|| ops::gelu(&x)).unwrap_err().to_string();
    assert_eq!(error, "a dry run cannot use the virtual GPU; use `Device::dry_run()`");
}

#[test]
fn only_reading_a_number_waits() {
    let device = Device::virtual_gpu();
    let (x, w) = (ones(&device, &[4, 8]).leaf(), ones(&device, &[8, 8]).leaf());
    let before = device.counters();
    let loss = || {
        let y = ops::gelu(&ops::linear(&x, &w, None).unwrap()).unwrap();
        ops::total(&[&ops::add(&y, &x).unwrap()]).unwrap()
    };
    let value = loss();
    let mut grads = backward(value.clone()).unwrap();
    let dx = grads.take(&x).unwrap();
    let after = device.counters();
    assert!(after.launches > before.launches + 5 && after.products == before.products + 3);
    assert_eq!(after.waits, before.waits);
    assert_eq!(value.item::<f32>().unwrap(), 288.0);
    assert_eq!(device.counters().waits, before.waits + 1);
    dx.to_host().unwrap();
    assert_eq!(device.counters().waits, before.waits + 2);
    // A second step with the same sizes takes no new memory from the device.
    drop((value, grads, dx));
    let reserved = device.usage().reservations;
    drop(backward(loss()).unwrap());
    assert_eq!(device.usage().reservations, reserved);
}

#[test]
fn an_operand_that_needs_no_gradient_gets_no_work() {
    let device = Device::virtual_gpu();
    let (x, w, b) = (ones(&device, &[4, 8]), ones(&device, &[6, 8]), ones(&device, &[8]));
    let dy = ones(&device, &[4, 6]);
    let cost = |x: &Tensor, w: &Tensor, b: &Tensor| {
        let norm = ops::Norm { weight: b, bias: b, eps: 1e-5 };
        let y = ops::norm_linear(x, &norm, w, None).unwrap();
        let before = device.counters();
        backward_from(y, dy.clone()).unwrap();
        let after = device.counters();
        (after.products - before.products, after.launches - before.launches)
    };
    // The product for the input and the norm; the product for the weight; the product for the norm,
    // columns and two sums of partial sums. The second of these is added to the first in one more
    // launch.
    assert_eq!(cost(&x.leaf(), &w, &b), (1, 1));
    assert_eq!(cost(&x, &w.leaf(), &b), (1, 0));
    assert_eq!(cost(&x, &w, &b.leaf()), (1, 4));
}

#[test]
fn memory_of_a_device_is_booked_by_category() {
    let device = Device::virtual_gpu();
    let used = || memory::usage_on(&device).bytes;
    let w = with_category(Category::Weights, || ones(&device, &[10, 10]));
    let x = ones(&device, &[5, 10]).leaf();
    assert_eq!(used(), [400, 0, 0, 200, 0]);
    let y = ops::linear(&x, &w, None).unwrap();
    assert_eq!(used(), [400, 0, 0, 400, 0]);
    let grads = backward_from(y, ones(&device, &[5, 10])).unwrap();
    assert_eq!(used(), [400, 0, 200, 200, 0], "the result and its gradient are gone");
    assert_eq!(memory::usage_on(&device).peak, 1000);
    drop((grads, x, w));
    assert_eq!(used(), [0; 5]);
    assert_eq!(memory::usage_on(&Device::virtual_gpu()).peak, 0);
}

#[test]
fn a_checkpoint_is_recomputed_to_the_same_bits() {
    let device = Device::virtual_gpu();
    let values = noise::<f32>(24, 3);
    let x = Tensor::from_slice(&values, &[3, 8]).unwrap();
    let x = x.to_device(&device, DType::Bf16).unwrap().leaf();
    let (w, b) = (ones(&device, &[8]).leaf(), ones(&device, &[8]).leaf());
    let segment = {
        let (w, b) = (w.clone(), b.clone());
        move |x: &[Tensor]| ops::gelu(&ops::layer_norm(&x[0], &w, &b, 1e-6)?)
    };
    let gradients = |y: Tensor| {
        let mut grads = backward_from(y, ones(&device, &[3, 8])).unwrap();
        [&x, &w, &b].map(|leaf| wide(&grads.take(leaf).unwrap()))
    };
    let plain = gradients(segment(from_ref(&x)).unwrap());
    assert_eq!(gradients(recompute(from_ref(&x), segment).unwrap()), plain);
}

#[test]
fn a_trained_matrix_has_a_master_and_a_working_copy() {
    let device = Device::virtual_gpu();
    let value = || Tensor::from_slice(&[1.001f32, 2.0, 3.0, 4.0], &[2, 2]).unwrap();
    let place = |trainable| {
        let param = Param::new("w", value(), trainable);
        let leaf = param.get();
        param.to_device(&device, DType::Bf16).unwrap();
        (param, leaf)
    };
    let (trained, leaf) = place(true);
    assert_eq!((trained.get().dtype(), trained.master().dtype()), (DType::Bf16, DType::F32));
    assert_eq!(wide(&trained.master())[0], f64::from(1.001f32));
    assert_eq!(wide(&trained.get())[0], 1.0);
    // It is still the same leaf, with an f32 gradient.
    let y = ops::gelu(&trained.get()).unwrap();
    let g = backward_from(y, ones(&device, &[2, 2])).unwrap().take(&leaf).unwrap();
    assert_eq!(g.dtype(), DType::F32);
    // The copy follows an update.
    trained.update(|p| Ok(device.write(p.view_mut()?, &[5.0f32, 6.001, 7.0, 8.0])?)).unwrap();
    assert_eq!(wide(&trained.get()), [5.0, 6.0, 7.0, 8.0]);
    assert_eq!(wide(&trained.master())[1], f64::from(6.001f32));
    let (frozen, _) = place(false);
    assert_eq!((frozen.get().dtype(), frozen.master().dtype()), (DType::Bf16, DType::Bf16));
    let bias = Param::new("b", Tensor::full(&[3], 0.1f32), true);
    bias.to_device(&device, DType::Bf16).unwrap();
    assert_eq!(bias.get().dtype(), DType::F32);
}
