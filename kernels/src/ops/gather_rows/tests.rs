use super::{Forward, GatherRows};
use crate::call::{Call, Host};

#[test]
fn padding_reads_zeros() {
    let (s, mut y) = (GatherRows { n: 2, r: 3, c: 2 }, [5.0f32; 6]);
    Forward::<Host, _> { x: &[1.0, 2.0, 3.0, 4.0], indices: &[1, -1, 2], y: &mut y }
        .run(&s)
        .unwrap();
    assert_eq!(y, [3.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
}
