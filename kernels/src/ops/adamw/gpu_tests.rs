use half::bf16;

use super::verify::state;
use super::{AdamW, MultiAdamW, Tensor};
use crate::device::{Buffer, Device};

#[test]
fn a_loss_that_is_not_finite_changes_nothing() {
    let device = Device::virtual_gpu();
    let start = state(4100, 3);
    let mut step = MultiAdamW::default();
    let mut run = |loss: f32| {
        let mut b = start.clone().map(|x| device.upload("state", &x).unwrap());
        let mut copy = device.upload("copy", &[bf16::ONE; 4100]).unwrap();
        let guard = device.upload("loss", &[loss]).unwrap();
        let [p, m, v, g] = &mut b;
        let (p, m, v) = (p.view_mut(), m.view_mut(), v.view_mut());
        let mut tensors =
            [Tensor { p, m, v, g: g.view(), copy: Some(copy.view_mut()), average: None, group: 0 }];
        let groups = [AdamW::default()];
        step.update(&device, 2, &groups, &mut tensors, Some(guard.view())).unwrap();
        let copy = device.download(copy.view()).unwrap();
        (b.map(|x| device.download(x.view()).unwrap()), copy)
    };
    for loss in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (after, copy) = run(loss);
        assert!(after == start && copy == [bf16::ONE; 4100], "{loss}");
    }
    let mut want = start.clone();
    let [p, m, v, g] = &mut want;
    AdamW::default().update(2, p, m, v, g).unwrap();
    for loss in [0.0, -3.0, f32::MAX] {
        let (after, copy) = run(loss);
        assert!(after == want && copy != [bf16::ONE; 4100], "{loss}");
    }
}

#[test]
fn bad_arguments_are_named() {
    let device = Device::virtual_gpu();
    let mut b: Vec<Buffer<f32>> = (0..4).map(|i| device.zeros("b", 2 + i / 3).unwrap()).collect();
    let [p, m, v, g] = &mut b[..] else { panic!("four buffers") };
    let mut update = |t, group, long: bool| {
        let (p, m, v) = (p.view_mut(), m.view_mut(), v.view_mut());
        let g = if long { g.view() } else { g.view().slice(0..2) };
        let mut tensors = [Tensor { p, m, v, g, copy: None, average: None, group }];
        MultiAdamW::default().update(&device, t, &[AdamW::default()], &mut tensors, None)
    };
    let error = update(0, 0, false).unwrap_err();
    assert_eq!(error.to_string(), "adamw: updates are counted from 1, not from 0");
    let error = update(1, 1, false).unwrap_err();
    assert_eq!(error.to_string(), "adamw: group 1 of 1; they are counted from 0");
    let error = update(1, 0, true).unwrap_err();
    assert_eq!(error.to_string(), "adamw: g has 3 elements, its sizes require 2");
    let [p, m, v, g] = &mut b[..] else { panic!("four buffers") };
    let (p, m, v, g) = (p.view_mut(), m.view_mut(), v.view_mut(), g.view().slice(0..2));
    let mut tensors = [Tensor { p, m, v, g, copy: None, average: None, group: 0 }];
    let error = MultiAdamW::default().launch(&device, &mut tensors, None, None).unwrap_err();
    assert_eq!(error.to_string(), "adamw: group 0 of 0; they are counted from 0");
}

#[test]
fn a_captured_table_counts_as_written_only_for_its_graph() {
    let device = Device::virtual_gpu();
    let start = [4100, 700].map(|n| state(n, 5));
    let mut step = MultiAdamW::default();
    let mut there = start.clone().map(|s| s.map(|x| device.upload("state", &x).unwrap()));
    step.set_step(&device, 1, &[AdamW::default()]).unwrap();
    let launch = |step: &mut MultiAdamW, b: &mut [Buffer<f32>; 4]| {
        let [p, m, v, g] = b;
        let (p, m, v) = (p.view_mut(), m.view_mut(), v.view_mut());
        let mut tensors = [Tensor { p, m, v, g: g.view(), copy: None, average: None, group: 0 }];
        step.launch(&device, &mut tensors, None, None)
    };
    let read = |b: &[Buffer<f32>; 4]| b.each_ref().map(|x| device.download(x.view()).unwrap());
    let mut want = start.clone();
    let update = |[p, m, v, g]: &mut [Vec<f32>; 4]| {
        AdamW::default().update(1, p, m, v, g).unwrap();
    };
    // Loads the kernel and writes a table of other tensors.
    launch(&mut step, &mut there[0]).unwrap();
    drop(device.zeros::<u64>("room for the table", 7).unwrap());
    let memory = device.graph_memory();
    let (graph, ()) = device.capture(&memory, || launch(&mut step, &mut there[1])).unwrap();
    assert!(read(&there[1]) == start[1], "a capture runs nothing");
    // The addresses of the capture, whose table was not written yet.
    launch(&mut step, &mut there[1]).unwrap();
    update(&mut want[1]);
    assert!(read(&there[1]) == want[1]);
    // The graph still has its own table after other launches.
    launch(&mut step, &mut there[0]).unwrap();
    device.replay(&graph).unwrap();
    update(&mut want[0]);
    update(&mut want[0]);
    update(&mut want[1]);
    assert!([read(&there[0]), read(&there[1])] == want);
}
