use super::crop::{acceptable, choose};
use super::photometric::{Finish, hsv_to_rgb, rgb_to_hsv, rotate_hue, saturate, shift};
use super::resize::{Window, bilinear, bilinear_window, nearest, resized_size, shortest_edges};
use super::*;
use crate::IGNORE;

const SOURCE: [u8; 12] = [0, 10, 200, 255, 37, 91, 128, 3, 250, 249, 1, 64];

/// Grey values in all three channels.
fn grey(w: usize, h: usize, values: &[u8]) -> Image {
    Image { w, h, data: values.iter().flat_map(|&v| [v, v, v]).collect() }
}

fn noise(w: usize, h: usize, classes: u32, seed: u64) -> (Image, LabelMap) {
    let mut random = Philox::new(seed, 7, 0, 0);
    let data = (0..w * h * 3).map(|_| random.next_u32() as u8).collect();
    let label = (0..w * h).map(|_| random.below(classes) as u8).collect();
    (Image { w, h, data }, LabelMap { w, h, data: label })
}

#[test]
fn bilinear_gives_the_recorded_values() {
    let up = [
        [0, 3, 9, 105, 204, 235, 255],
        [15, 25, 40, 107, 170, 160, 154],
        [37, 56, 87, 110, 119, 48, 3],
        [165, 172, 184, 119, 51, 44, 39],
        [250, 249, 249, 125, 5, 41, 64],
    ];
    let source = grey(4, 3, &SOURCE);
    assert_eq!(bilinear(&source, 5, 7), grey(7, 5, up.as_flattened()));
    assert_eq!(bilinear(&source, 2, 3), grey(3, 2, &[12, 106, 190, 199, 121, 46]));
    assert_eq!(bilinear(&source, 3, 4), source);
}

#[test]
fn nearest_gives_the_recorded_values() {
    let rows: [[u8; 7]; 3] = [
        [0, 0, 10, 10, 200, 200, 255],
        [37, 37, 91, 91, 128, 128, 3],
        [250, 250, 249, 249, 1, 1, 64],
    ];
    let expected = [rows[0], rows[0], rows[1], rows[1], rows[2]].as_flattened().to_vec();
    let source = LabelMap { w: 4, h: 3, data: SOURCE.to_vec() };
    assert_eq!(nearest(&source, 5, 7), LabelMap { w: 7, h: 5, data: expected });
}

/// A window of a resized picture equals that window of the whole one, also where rows are skipped
/// or repeated.
#[test]
fn windows_agree_with_the_whole() {
    let (image, _) = noise(53, 31, 5, 1);
    for (h, w) in [(17, 29), (31, 53), (64, 111), (31, 90), (11, 11)] {
        let whole = bilinear(&image, h, w);
        let window = Window { x: w / 3, y: h / 4, w: w / 2, h: h / 2 };
        let part = bilinear_window(&image, h, w, window);
        for y in 0..window.h {
            for x in 0..window.w {
                assert_eq!(part.pixel(x, y), whole.pixel(window.x + x, window.y + y), "{h}x{w}");
            }
        }
    }
}

/// The fixed-point result stays within one of the same formula in f64.
#[test]
fn bilinear_is_close_to_exact_interpolation() {
    let (image, _) = noise(37, 23, 5, 2);
    let (h, w) = (41, 19);
    let out = bilinear(&image, h, w);
    let at = |d: usize, input: usize, output: usize| {
        let x =
            ((d as f64 + 0.5) * input as f64 / output as f64 - 0.5).clamp(0.0, input as f64 - 1.0);
        let i = (x as usize).min(input.saturating_sub(2));
        (i, x - i as f64)
    };
    for y in 0..h {
        for x in 0..w {
            let ((i, a), (j, b)) = (at(x, image.w, w), at(y, image.h, h));
            for c in 0..3 {
                let p = |dx, dy| f64::from(image.pixel(i + dx, j + dy)[c]);
                let top = p(0, 0) * (1.0 - a) + p(1, 0) * a;
                let bottom = p(0, 1) * (1.0 - a) + p(1, 1) * a;
                let exact = top * (1.0 - b) + bottom * b;
                assert!((f64::from(out.pixel(x, y)[c]) - exact).abs() <= 1.0, "({x}, {y}, {c})");
            }
        }
    }
}

#[test]
fn sizes_follow_the_published_rule() {
    assert_eq!(resized_size(1052, 1914, 307, 2048), (307, 559));
    assert_eq!(resized_size(1052, 1914, 1024, 2048), (1024, 1863));
    // The long edge is capped: 2:1 pictures at 2048 wide, wider ones below 1024 high.
    assert_eq!(resized_size(512, 1024, 1024, 2048), (1024, 2048));
    let (h, w) = resized_size(300, 1200, 1024, 2048);
    assert_eq!((h, w), (512, 2048));
    assert_eq!(resized_size(1914, 1052, 307, 2048), (559, 307));
    let small = [256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, 972, 1024];
    assert_eq!(shortest_edges(512), small);
    let large =
        [512, 614, 716, 819, 921, 1024, 1126, 1228, 1331, 1433, 1536, 1638, 1740, 1843, 1945, 2048];
    assert_eq!(shortest_edges(1024), large);
}

/// Recorded from OpenCV: single pixels (rounded) and the same values in rows of 192 (floored).
#[test]
fn hsv_gives_the_recorded_values() {
    for (rgb, hsv, single, in_row) in [
        ([130, 57, 182], [138, 175, 182], [132, 57, 182], [132, 57, 182]),
        ([47, 63, 184], [117, 190, 184], [47, 61, 184], [46, 60, 184]),
        ([10, 200, 30], [63, 242, 200], [10, 200, 29], [10, 200, 29]),
        ([255, 254, 253], [15, 2, 255], [255, 254, 253], [255, 254, 253]),
        ([7, 7, 7], [0, 0, 7], [7, 7, 7], [7, 7, 7]),
        ([200, 100, 1], [15, 254, 200], [200, 100, 1], [200, 100, 0]),
    ] {
        assert_eq!(rgb_to_hsv(rgb), hsv, "{rgb:?}");
        assert_eq!(hsv_to_rgb(hsv, Finish::Nearest), single, "{hsv:?}");
        assert_eq!(hsv_to_rgb(hsv, Finish::Floor), in_row, "{hsv:?}");
        // Columns 0 to 31 of a row of 33 go through the vector loop, the last one does not.
        let mut row = Image { w: 33, h: 1, data: rgb.repeat(33) };
        rotate_hue(&mut row, 0);
        assert_eq!((row.pixel(31, 0), row.pixel(32, 0)), (in_row, single));
    }
}

#[test]
fn hue_stays_in_range_for_every_colour_of_a_coarse_cube() {
    for r in (0..=255).step_by(5) {
        for g in (0..=255).step_by(5) {
            for b in (0..=255).step_by(5) {
                let [h, _, v] = rgb_to_hsv([r, g, b]);
                assert!(h < 180 && v == r.max(g).max(b), "{r} {g} {b}: {h}");
            }
        }
    }
}

#[test]
fn distortions_truncate_and_wrap() {
    let mut image = grey(4, 1, &[0, 100, 101, 255]);
    shift(&mut image, 1.5, 0.0);
    assert_eq!(image, grey(4, 1, &[0, 150, 151, 255]));
    shift(&mut image, 1.0, -0.5);
    assert_eq!(image, grey(4, 1, &[0, 149, 150, 254]));
    // Pure red turned by 18 steps down is hue 162; up again is hue 0.
    let mut red = Image { w: 1, h: 1, data: vec![255, 0, 0] };
    rotate_hue(&mut red, -18);
    assert_eq!(rgb_to_hsv(red.pixel(0, 0)), [162, 255, 255]);
    rotate_hue(&mut red, 18);
    assert_eq!(red.pixel(0, 0), [255, 0, 0]);
    let mut colour = Image { w: 1, h: 1, data: vec![200, 100, 100] };
    saturate(&mut colour, 0.5);
    let [h, s, v] = rgb_to_hsv(colour.pixel(0, 0));
    assert!(h == 0 && v == 200 && (62..=66).contains(&s), "{h} {s} {v}");
}

#[test]
fn a_crop_needs_two_classes_and_a_cap() {
    let mut label = LabelMap { w: 8, h: 4, data: vec![0; 32] };
    let all = Window { x: 0, y: 0, w: 8, h: 4 };
    assert!(!acceptable(&label, all, 0.75), "one class");
    label.data[..8].fill(1);
    assert!(!acceptable(&label, all, 0.75), "24 of 32 is exactly the cap");
    label.data[8] = 1;
    assert!(acceptable(&label, all, 0.75), "23 of 32");
    // Pixels without a label count neither as a class nor in the sum.
    label.data[..9].fill(IGNORE);
    assert!(!acceptable(&label, all, 0.75));
    label.data.fill(IGNORE);
    assert!(!acceptable(&label, all, 0.75), "nothing labelled");
}

/// A map that no window satisfies costs exactly eleven draws of two numbers.
#[test]
fn a_hopeless_map_costs_eleven_draws() {
    let label = LabelMap { w: 40, h: 30, data: vec![3; 1200] };
    let mut random = Philox::new(5, 1, 2, 3);
    let window = choose(&label, 8, 8, 0.75, &mut random);
    let mut twin = Philox::new(5, 1, 2, 3);
    let mut last = (0, 0);
    for _ in 0..11 {
        last = (twin.below(23) as usize, twin.below(33) as usize);
    }
    assert_eq!((window.y, window.x), last);
    assert_eq!(random.next_u32(), twin.next_u32());
}

/// A cap that no crop exceeds needs no second draw, not even on a map of a single class.
#[test]
fn a_cap_of_one_takes_the_first_crop() {
    let label = LabelMap { w: 40, h: 30, data: vec![3; 1200] };
    for (cap, draws) in [(1.0, 1), (2.5, 1), (f64::INFINITY, 1), (0.999, 11)] {
        let mut random = Philox::new(5, 1, 0, 0);
        let window = choose(&label, 8, 8, cap, &mut random);
        let mut again = Philox::new(5, 1, 0, 0);
        let (mut y, mut x) = (0, 0);
        for _ in 0..draws {
            (y, x) = (again.below(23) as usize, again.below(33) as usize);
        }
        assert_eq!((window.y, window.x), (y, x), "cap {cap}");
        assert_eq!(random.next_u32(), again.next_u32(), "draws with cap {cap}");
    }
}

/// Only the right half of this map has a second class: accepted windows reach it.
#[test]
fn accepted_crops_satisfy_the_rule() {
    let mut label = LabelMap { w: 64, h: 16, data: vec![0; 1024] };
    for row in label.data.chunks_exact_mut(64) {
        row[32..].fill(1);
    }
    let mut accepted = 0;
    for seed in 0..50 {
        let mut random = Philox::new(seed, 1, 0, 0);
        let window = choose(&label, 16, 16, 0.75, &mut random);
        assert!(window.x + window.w <= 64 && (window.w, window.h) == (16, 16));
        accepted += usize::from(acceptable(&label, window, 0.75));
    }
    // One draw succeeds with 7 of 49 offsets; eleven miss with (42 / 49)^11 = 0.18.
    assert!(accepted >= 30, "{accepted}");
}

#[test]
fn small_pictures_are_padded_with_the_mean_and_with_ignore() {
    let (image, label) = noise(3, 2, 4, 3);
    let (mut floats, mut classes) = (vec![9.0; 3 * 4 * 5], vec![0; 20]);
    normalise::image_into(&image, 4, 5, &mut floats);
    normalise::label_into(&label, 4, 5, &mut classes);
    for y in 0..4 {
        for x in 0..5 {
            let inside = x < 3 && y < 2;
            let class = classes[y * 5 + x];
            assert_eq!(class, if inside { label.data[y * 3 + x] } else { IGNORE });
            for c in 0..3 {
                let v = floats[(c * 4 + y) * 5 + x];
                let (mean, std) = (normalise::MEAN[c], normalise::STD[c]);
                let expected =
                    if inside { (f32::from(image.pixel(x, y)[c]) - mean) / std } else { 0.0 };
                assert_eq!(v, expected);
            }
        }
    }
}

#[test]
fn flipping_twice_is_nothing_and_once_moves_both() {
    let (image, label) = noise(5, 3, 4, 4);
    let (mut a, mut b) = (image.clone(), label.clone());
    flip(&mut a, &mut b);
    assert_eq!(a.pixel(0, 1), image.pixel(4, 1));
    assert_eq!(b.data[5], label.data[9]);
    flip(&mut a, &mut b);
    assert_eq!((a, b), (image, label));
}

#[test]
fn the_same_key_gives_the_same_sample_and_another_key_another() {
    let (image, label) = noise(90, 60, 6, 5);
    let augment = Augment::published(32);
    let run = |step| augment.sample(&image, &label, &mut Philox::new(1, 2, 3, step)).unwrap();
    assert_eq!(run(4), run(4));
    let different = (0..8).filter(|&s| run(s) != run(s + 1)).count();
    assert!(different >= 7, "{different}");
    let (a, b) = run(0);
    assert_eq!((a.w, a.h), (b.w, b.h));
    assert!(a.w <= 32 && a.h <= 32);
}

#[test]
fn a_label_of_another_size_is_refused() {
    let (image, _) = noise(9, 9, 6, 5);
    let label = LabelMap::new(9, 8);
    let error = Augment::published(32).sample(&image, &label, &mut Philox::new(1, 2, 3, 4));
    assert!(error.unwrap_err().to_string().contains("9x8"));
}
