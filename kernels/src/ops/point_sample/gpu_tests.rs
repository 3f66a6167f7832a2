use super::PointSample;
use super::verify::points;
use crate::check::noise;
use crate::device::Device;

#[test]
fn the_maps_of_an_image_read_its_points() {
    let device = Device::virtual_gpu();
    let (sets, of_set, p) = (3, 2, 50);
    let all = PointSample { r: sets * of_set, h: 7, w: 5, p, shared: true };
    let maps = noise::<f32>(all.r * 35, 1);
    let (at, dvalues) = (points(sets * p, 2), noise::<f32>(all.r * p, 3));
    let run = |s: PointSample, maps: &[f32], at: &[f32], dvalues: &[f32]| {
        let (maps, at) = (device.upload("m", maps).unwrap(), device.upload("at", at).unwrap());
        let dvalues = device.upload("dvalues", dvalues).unwrap();
        let mut values = device.alloc("values", s.r * p).unwrap();
        let mut dmaps = device.alloc::<f32>("dmaps", s.r * 35).unwrap();
        s.forward_gpu(&device, maps.view(), at.view(), values.view_mut()).unwrap();
        s.backward_gpu(&device, at.view(), dvalues.view(), dmaps.view_mut()).unwrap();
        (device.download(values.view()).unwrap(), device.download(dmaps.view()).unwrap())
    };
    let (values, dmaps) = run(all, &maps, &at, &dvalues);
    let one = PointSample { r: of_set, ..all };
    for i in 0..sets {
        let (m, v) = (i * of_set * 35, i * of_set * p);
        let want = run(one, &maps[m..][..70], &at[i * p * 2..][..2 * p], &dvalues[v..][..2 * p]);
        assert!(want.0 == values[v..][..2 * p] && want.1 == dmaps[m..][..70], "set {i}");
    }
    let error = all.forward_gpu(
        &device,
        device.zeros::<f32>("m", all.r * 35).unwrap().view(),
        device.zeros("at", 4 * p * 2).unwrap().view(),
        device.alloc("v", all.r * p).unwrap().view_mut(),
    );
    let sentence = "point_sample: points has 400 elements, its sizes require 100";
    assert_eq!(error.unwrap_err().to_string(), sentence);
}
