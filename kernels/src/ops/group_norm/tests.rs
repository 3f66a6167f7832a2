use super::{Backward, Forward, GroupNorm};
use crate::call::{Call, Host};
use crate::check::noise;

#[test]
fn bits_do_not_depend_on_threads() {
    let s = GroupNorm { b: 2, hw: 333, c: 40, groups: 4, eps: 1e-5 };
    let (x, weight) = (&noise::<f32>(26_640, 1)[..], &noise::<f32>(40, 2)[..]);
    let dy = &noise::<f32>(26_640, 3)[..];
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut y, mut mean, mut rstd) = (vec![0.0; x.len()], vec![0.0; 8], vec![0.0; 8]);
            let forward = Forward::<Host, _> {
                x,
                weight,
                bias: weight,
                y: &mut y,
                mean: &mut mean,
                rstd: &mut rstd,
            };
            forward.run(&s).unwrap();
            let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; 40], vec![0.0; 40]);
            let backward = Backward::<Host, _> {
                x,
                weight,
                mean: &mean,
                rstd: &rstd,
                dy,
                dx: Some(&mut dx),
                dweight: Some(&mut dw),
                dbias: Some(&mut db),
            };
            backward.run(&s).unwrap();
            (y, dx, dw, db)
        })
    };
    assert!(run(1) == run(3));
}

#[test]
fn wrong_groups_are_named() {
    let s = GroupNorm { b: 1, hw: 1, c: 4, groups: 3, eps: 1e-5 };
    let error = Forward::<Host, f32>::default().run(&s).unwrap_err();
    assert_eq!(error.to_string(), "group_norm: 4 channels do not divide into 3 groups");
}
