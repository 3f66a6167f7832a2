use super::{Backward, BatchNorm, Forward, Running};
use crate::call::{Call, Gpu, Host, Launch};
use crate::check::noise;
use crate::device::Device;

const SIZES: BatchNorm = BatchNorm { n: 333, c: 40, eps: 1e-5, momentum: 0.1, training: true };

#[test]
fn bits_do_not_depend_on_threads() {
    let (x, weight) = (&noise::<f32>(13_320, 1)[..], &noise::<f32>(40, 2)[..]);
    let dy = &noise::<f32>(13_320, 3)[..];
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut y, mut mean, mut var) = (vec![0.0; x.len()], vec![0.0; 40], vec![0.0; 40]);
            let (bias, y_out) = (weight, &mut y[..]);
            let (mean_out, var_out) = (&mut mean[..], &mut var[..]);
            let forward =
                Forward::<Host, _> { x, weight, bias, y: y_out, mean: mean_out, var: var_out };
            forward.run(&SIZES).unwrap();
            let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; 40], vec![0.0; 40]);
            let backward = Backward::<Host, _> {
                x,
                weight,
                mean: &mean,
                var: &var,
                dy,
                dx: Some(&mut dx),
                dweight: Some(&mut dw),
                dbias: Some(&mut db),
            };
            backward.run(&SIZES).unwrap();
            (y, mean, var, dx, dw, db)
        })
    };
    assert!(run(1) == run(3));
}

#[test]
fn one_pixel_has_no_variance() {
    let s = BatchNorm { n: 1, ..SIZES };
    let error = Forward::<Host, f32>::default().run(&s).unwrap_err();
    assert_eq!(error.to_string(), "batch_norm: 1 pixels per channel have no variance");
}

/// Statistics [mean, variance] after a step with this loss, on the host and on a device.
fn moved(loss: f32) -> [[f32; 2]; 2] {
    let s = BatchNorm { n: 5, c: 1, ..SIZES };
    let (mut mean, mut var) = ([1.0f32], [2.0]);
    let call = Running::<Host, _> {
        mean: &[3.0],
        var: &[4.0],
        guard: Some(&[loss]),
        running_mean: &mut mean,
        running_var: &mut var,
    };
    call.run(&s).unwrap();
    let device = Device::virtual_gpu();
    let [m, v, guard, mut there_mean, mut there_var] =
        [3.0f32, 4.0, loss, 1.0, 2.0].map(|x| device.upload("x", &[x]).unwrap());
    let call = Running::<Gpu, f32> {
        mean: m.view(),
        var: v.view(),
        guard: Some(guard.view()),
        running_mean: there_mean.view_mut(),
        running_var: there_var.view_mut(),
    };
    call.launch(&device, &s).unwrap();
    let there = [&there_mean, &there_var].map(|x| device.download(x.view()).unwrap()[0]);
    [[mean[0], var[0]], there]
}

#[test]
fn running_statistics_move_a_tenth_unless_the_loss_is_not_finite() {
    // The variance of five values is multiplied by 5 / 4.
    for [mean, var] in moved(0.5) {
        assert!((mean - 1.2).abs() < 1e-6 && (var - 2.3).abs() < 1e-6, "{mean} {var}");
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(moved(bad), [[1.0, 2.0]; 2]);
    }
}
