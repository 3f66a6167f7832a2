use super::UncertainPoints;
use crate::check::noise;
use crate::device::Device;

fn check(s: UncertainPoints, logits: &[f32]) {
    let device = Device::virtual_gpu();
    let points = noise::<f32>(s.r * s.n_over * 2, 2);
    let random = noise::<f32>(s.r * s.n_rand * 2, 3);
    let row = 2 * (s.keep + s.n_rand);
    let run = || {
        let logits = device.upload("logits", logits).unwrap();
        let points = device.upload("points", &points).unwrap();
        let random = device.upload("random", &random).unwrap();
        let mut out = device.alloc("out", s.r * row).unwrap();
        let (l, p, r) = (logits.view(), points.view(), random.view());
        s.select_gpu(&device, l, p, r, out.view_mut()).unwrap();
        device.download(out.view()).unwrap()
    };
    let got = run();
    assert_eq!(got, run());
    let mut want = vec![0.0f32; s.r * row];
    s.select(logits, &points, &random, &mut want).unwrap();
    assert!(got == want, "{s:?}");
    println!("uncertain_points {s:?}: the CPU's choice");
}

#[test]
fn the_choice_is_the_cpus() {
    for (r, n_over, keep, n_rand) in
        [(1, 1, 1, 0), (2, 7, 3, 2), (3, 2500, 700, 5), (1, 1024, 1024, 1), (2, 5, 0, 3)]
    {
        let s = UncertainPoints { r, n_over, keep, n_rand };
        check(s, &noise(r * n_over, 1));
        // Many ties, of either sign; zeros of either sign; what is not a number counts as certain.
        let ties: Vec<f32> =
            noise::<f32>(r * n_over, 5).iter().map(|x| (x * 4.0).round()).collect();
        check(s, &ties);
        check(s, &vec![1.5; r * n_over]);
        let mut damaged = ties;
        damaged.iter_mut().step_by(3).for_each(|x| *x = f32::NAN);
        check(s, &damaged);
    }
}

#[test]
fn too_many_points_are_refused() {
    let device = Device::virtual_gpu();
    let b = device.zeros::<f32>("b", 2).unwrap();
    let mut out = device.alloc("out", 4).unwrap();
    let s = UncertainPoints { r: 1, n_over: 1, keep: 2, n_rand: 0 };
    let (one, two) = (b.view().slice(0..1), b.view());
    let error = s.select_gpu(&device, one, two, two.slice(0..0), out.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "uncertain_points: 2 of 1 points cannot be kept");
}
