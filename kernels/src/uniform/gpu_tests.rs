use super::Uniform;
use crate::device::Device;

/// The host's numbers and the device's, twice.
fn check(s: Uniform, step: u64, rows: Option<&[i32]>) {
    let device = Device::virtual_gpu();
    let run = || {
        let step = device.upload("step", &[step as u32 as i32]).unwrap();
        let table = rows.map(|rows| device.upload("rows", rows).unwrap());
        let mut out = device.alloc("out", s.streams * s.rows * s.draws).unwrap();
        let table = table.as_ref().map(|table| table.view());
        s.fill_gpu(&device, step.view(), table, out.view_mut()).unwrap();
        device.download(out.view()).unwrap()
    };
    let got = run();
    assert!(got == run(), "{s:?}: a second time");
    let mut want = vec![f32::NAN; got.len()];
    s.fill(step, rows, &mut want).unwrap();
    assert!(got == want, "{s:?}: not the CPU's bits");
    println!("uniform {s:?}: the CPU's bits");
}

#[test]
fn kernels_give_the_bits_of_the_cpu() {
    for (streams, rows, draws) in [(1, 1, 1), (3, 1, 26), (1, 7, 13), (2, 5, 1030)] {
        let s = Uniform {
            seed: 0x1234_5678_9ABC,
            purpose: 0x4153,
            first: 9 << 20,
            streams,
            rows,
            draws,
        };
        check(s, 3, None);
        // Rows of a table out of order, one twice, one padding, one far behind.
        let table = [5, 0, -1, 5, 1 << 30, 2, 1];
        check(s, u64::from(u32::MAX) + 7, Some(&table[..rows]));
    }
}

#[test]
fn nothing_to_draw_is_no_launch() {
    let device = Device::virtual_gpu();
    let s = Uniform { seed: 1, purpose: 2, first: 3, streams: 2, rows: 0, draws: 4 };
    let step = device.upload("step", &[0]).unwrap();
    let mut out = device.alloc("out", 0).unwrap();
    s.fill_gpu(&device, step.view(), None, out.view_mut()).unwrap();
    assert_eq!(device.counters().launches, 0);
    let s = Uniform { rows: 1, ..s };
    let error = s.fill_gpu(&device, step.view(), None, out.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "uniform: out has 0 elements, its sizes ask for 8");
}
