use super::*;
use crate::ops;

#[test]
fn isolated_work_records_whatever_it_interrupts() {
    let leaf = Tensor::full(&[2], 3.0f32).leaf();
    let inside = no_grad(|| {
        let quiet = ops::add(&leaf, &leaf).map(|y| y.tracked());
        assert!(!quiet.unwrap());
        let y = isolated(|| ops::add(&leaf, &leaf)).unwrap();
        assert!(!ops::add(&leaf, &leaf).unwrap().tracked(), "the mode around it is back");
        y
    });
    let dy = Tensor::full(&[2], 1.0f32);
    let g = backward_from(inside, dy).unwrap().take(&leaf).unwrap();
    assert_eq!(g.data::<f32>().unwrap(), [2.0, 2.0]);
}

#[test]
fn gradients_of_views_land_in_the_value() {
    let leaf = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[3, 2]).unwrap().leaf();
    // The gradient of an operation also arrives in parts.
    let twice = ops::add(&leaf, &leaf).unwrap();
    let row = |x: &Tensor, i| ops::reshape(&ops::rows(x, i, 1).unwrap(), &[2]).unwrap();
    let y = ops::add(&row(&leaf, 0), &row(&twice, 2)).unwrap();
    let z = ops::rows(&ops::rows(&twice, 1, 2).unwrap(), 0, 1).unwrap();
    let dy = Tensor::from_slice(&[1.0f32, 10.0], &[2]).unwrap();
    let dz = Tensor::from_slice(&[100.0f32, 1000.0], &[1, 2]).unwrap();
    let mut grads = backward_from_all(vec![(y, dy), (z, dz)]).unwrap();
    let g = grads.take(&leaf).unwrap();
    assert_eq!(g.shape(), [3, 2]);
    assert_eq!(g.data::<f32>().unwrap(), [1.0, 10.0, 200.0, 2000.0, 2.0, 20.0]);
    // A view is a constant while recording is off.
    assert!(!no_grad(|| ops::rows(&leaf, 0, 1)).unwrap().tracked());
}

#[test]
fn backward_work_is_booked_where_the_forward_pass_was() {
    let device = Device::dry_run();
    let leaf = Tensor::full(&[4], 1.0f32).to_device(&device, DType::F32).unwrap().leaf();
    let inside = || {
        let _range = crate::range("part");
        recompute(std::slice::from_ref(&leaf), |x| {
            let _range = crate::range("inner");
            ops::relu(&x[0])
        })
    };
    let y = inside().unwrap();
    let dy = y.detach();
    backward_from(y, dy).unwrap();
    let trace = device.trace().unwrap();
    let launches = trace.parts.iter().filter(|(_, counts)| counts.launches > 0);
    let places: Vec<_> = launches.map(|(place, _)| place.to_string()).collect();
    assert_eq!(places, ["part / inner", "recompute: part / inner", "backward: part / inner"]);
}
