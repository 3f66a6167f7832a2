use super::*;

fn counted(k: usize, labels: &[u8], predictions: &[u8]) -> Confusion {
    let mut c = Confusion::new(k).expect("classes");
    c.add(labels, predictions).expect("valid values");
    c
}

/// Worked out by hand. Class 0: 2 right, 3 labelled, 3 predicted; class 1: 1 right, 2 labelled, 2
/// predicted; class 2 only predicted (once); class 3 nowhere; the pixel labelled 255 is predicted
/// 3 and must not count.
#[test]
fn ratios_by_hand() {
    let c = counted(4, &[0, 0, 0, 1, 1, 255], &[0, 0, 1, 1, 2, 3]);
    assert_eq!((c.count(0, 1), c.count(1, 2), c.count(3, 3), c.count(9, 0)), (1, 1, 0, 0));
    let s = c.scores();
    assert_eq!(s.iou, [Some(2.0 / 3.0), Some(1.0 / 3.0), Some(0.0), None]);
    assert_eq!(s.acc, [Some(2.0 / 3.0), Some(0.5), None, None]);
    assert_eq!(s.miou, Some((2.0 / 3.0 + 1.0 / 3.0) / 3.0));
    assert_eq!(s.macc, Some((2.0 / 3.0 + 0.5) / 2.0));
    assert_eq!((s.aacc, s.pixels), (Some(3.0 / 5.0), 5));
}

#[test]
fn a_set_is_counted_as_a_whole() {
    // Per image, class 0 has IoU 1 and 1/3; over the set 2/4.
    let mut all = counted(2, &[0, 1], &[0, 1]);
    let second = counted(2, &[0, 0, 1], &[0, 1, 0]);
    all.merge(&second).expect("same classes");
    assert_eq!(all.scores().iou[0], Some(0.5));
    let at_once = counted(2, &[0, 1, 0, 0, 1], &[0, 1, 0, 1, 0]);
    assert_eq!(all, at_once);
    assert!(all.merge(&Confusion::new(3).expect("classes")).is_err());
}

#[test]
fn nothing_to_compare_has_no_value() {
    let s = counted(2, &[255, 255], &[0, 1]).scores();
    assert_eq!((s.miou, s.macc, s.aacc, s.pixels), (None, None, None, 0));
}

#[test]
fn values_beyond_the_classes_are_refused_and_nothing_is_counted() {
    let mut c = Confusion::new(3).expect("classes");
    let error = c.add(&[0, 3], &[0, 0]).expect_err("label 3");
    assert_eq!(error, MetricError::Value { what: "label", pixel: 1, value: 3, classes: 3 });
    assert!(error.to_string().contains("label at pixel 1 is 3, classes go from 0 to 2"));
    assert!(c.add(&[0, 1], &[0, 7]).is_err());
    assert!(c.add(&[0, 1], &[0]).is_err());
    assert_eq!(c, Confusion::new(3).expect("classes"));
    c.add(&[255], &[200]).expect("ignored pixels may hold anything");
    assert!(Confusion::new(0).is_err() && Confusion::new(256).is_err());
}

#[test]
fn groups_take_classes_together() {
    let c = counted(4, &[0, 1, 2, 2, 3], &[1, 0, 2, 0, 0]);
    let g = c.grouped(&[vec![0, 1], vec![2]]).expect("valid groups");
    assert_eq!((g.count(0, 0), g.count(1, 0), g.count(1, 1), g.count(0, 1)), (2, 1, 1, 0));
    assert!(c.grouped(&[vec![4]]).is_err() && c.grouped(&[]).is_err());
}

#[test]
fn rounding_is_to_two_decimals() {
    assert_eq!(percent(2.0 / 3.0), 66.67);
    assert_eq!(percent(0.5), 50.0);
    // 0.125 per cent: exactly between 0.12 and 0.13.
    assert_eq!(percent(0.00125), 0.12);
    assert_eq!(percent(1.0), 100.0);
}

fn set(name: &str, in_mean: bool, labels: &[u8], predictions: &[u8]) -> SetReport {
    SetReport::new(name, [1024, 512], 1, in_mean, &counted(2, labels, predictions))
}

fn report() -> Report {
    // Accuracies 2/3, 1/3 and 1: 66.67 and 33.33 rounded, whose mean is 50 exactly; the third set
    // is left out.
    let sets = vec![
        set("cityscapes", true, &[0, 0, 0], &[0, 0, 1]),
        set("bdd", true, &[0, 0, 0], &[0, 1, 1]),
        set("a set with a very long name", false, &[0], &[0]),
    ];
    Report::new(vec!["road".into(), "traffic light".into()], sets).expect("two classes")
}

#[test]
fn the_mean_over_sets_is_taken_of_rounded_values() {
    let r = report();
    assert_eq!(r.sets[0].aacc, Some(66.67));
    assert_eq!(r.mean.aacc, Some((66.67 + 33.33) / 2.0));
    let thirds = vec![set("a", true, &[0, 0, 0], &[0, 0, 1]), set("b", true, &[0; 3], &[0; 3])];
    let r = Report::new(vec!["x".into(), "y".into()], thirds).expect("two classes");
    assert_eq!(r.mean.aacc, Some((66.67 + 100.0) / 2.0));
    assert!(Report::new(vec!["x".into()], report().sets).is_err());
}

#[test]
fn the_table_at_full_width() {
    let want = "\
class          cityscapes     bdd  a set with a ve…    mean
-----------------------------------------------------------
road                66.67   33.33            100.00
traffic light        0.00    0.00                 -
-----------------------------------------------------------
mIoU                33.33   16.67            100.00   25.00
mAcc                66.67   33.33            100.00   50.00
aAcc                66.67   33.33            100.00   50.00
";
    let got = report().table(80);
    assert_eq!(got, want, "\n{got}");
}

#[test]
fn the_table_holds_its_width_and_loses_nothing() {
    let r = report();
    for width in 0..100 {
        let text = r.table(width);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        // One column next to the shortest name is the narrowest form.
        assert!(widest <= width.max(6 + 2 + 16), "{widest} columns of {width}:\n{text}");
        for number in ["66.67", "33.33", "16.67", "100.00", "25.00"] {
            assert!(text.contains(number), "{number} is missing at {width}:\n{text}");
        }
    }
}

#[test]
fn json_reads_back() {
    let r = report();
    let json = serde_json::to_string(&r).expect("JSON");
    assert!(json.contains("\"mIoU\":33.33") && json.contains("\"IoU\":[66.67,0.0]"), "{json}");
    assert!(json.contains("\"box\":[1024,512]"), "{json}");
    assert_eq!(serde_json::from_str::<Report>(&json).expect("report"), r);
}
