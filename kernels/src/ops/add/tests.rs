use super::{Add, Backward};
use crate::Write;
use crate::call::{Call, Host};
use crate::check::noise;

#[test]
fn sums_are_the_same_bits_on_any_pool() {
    let dy = &noise::<f32>(5003 * 97, 1)[..];
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut db = vec![0.0; 97];
        let c = Backward::<Host, _> { dy, write: Write::Add, db: &mut db };
        pool.install(|| c.run(&Add { n: 5003, inner: 97 })).unwrap();
        db
    };
    assert_eq!(run(1), run(3));
}
