use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::checks::{Checks, Pass};
use super::verify::{Outcome, Verification};
use crate::Real;
use crate::call::{Call, Host, Memory, Operands, Operation, Walk};
use crate::device::{Device, Element};

/// Squares of `n` numbers, right or with one mistake.
#[derive(Clone, Copy)]
struct Square {
    n: usize,
    mistake: Mistake,
}

#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    Gradient,
    FastForm,
    Unstable,
    Length,
}

/// Calls of the unstable form.
static CALLS: AtomicUsize = AtomicUsize::new(0);

impl Operation for Square {
    const NAME: &'static str = "square";
}

#[derive(Default)]
struct Forward<'a, M: Memory, T: Element> {
    x: M::In<'a, T>,
    y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = Square;

    fn list(&mut self, s: &Square, w: &mut impl Walk<'a, M>) {
        if s.mistake == Mistake::Length {
            let found = M::count_in(&self.x);
            w.reads("x", &mut self.x, if found > 0 { found } else { s.n });
        } else {
            w.reads("x", &mut self.x, s.n);
        }
        w.writes("y", &mut self.y, s.n);
    }
}

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = Square;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(_s: &Square, Forward { x, y }: Forward<'_, Host, U>) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * x);
    }

    fn fast(s: &Square, Forward { x, y }: Forward<'_, Host, f32>) {
        let factor = if s.mistake == Mistake::FastForm { 1.0 + 4.0 * f32::EPSILON } else { 1.0 };
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * x * factor);
        if s.mistake == Mistake::Unstable && CALLS.fetch_add(1, Relaxed) % 2 == 1 {
            y[0] = y[0].next_up();
        }
    }
}

#[derive(Default)]
struct Backward<'a, M: Memory, T: Element> {
    x: M::In<'a, T>,
    dy: M::In<'a, T>,
    dx: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = Square;

    fn list(&mut self, s: &Square, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.n);
        w.reads("dy", &mut self.dy, s.n);
        w.writes("dx", &mut self.dx, s.n);
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = Square;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &Square, Backward { x, dy, dx }: Backward<'_, Host, U>) {
        let factor = U::of(if s.mistake == Mistake::Gradient { 2.001 } else { 2.0 });
        for i in 0..s.n {
            dx[i] = factor * x[i] * dy[i];
        }
    }
}

fn outcomes(mistake: Mistake) -> Vec<Outcome> {
    let size = |n| Square { n, mistake };
    let checks = Checks::new(|s: &Square| format!("[{}]", s.n))
        .pass(Pass::of_host::<Forward<'_, Host, f32>>("fwd"))
        .pass(Pass::of_host::<Backward<'_, Host, f32>>("bwd"))
        .gradients([size(3)])
        .sizes([size(1), size(40)])
        .empty([size(0)]);
    let device = Device::dry_run();
    let mut verification = Verification::new(&device);
    checks.on_host(&mut verification).unwrap();
    verification.into_outcomes()
}

fn failures(mistake: Mistake) -> Vec<String> {
    let failed = outcomes(mistake).into_iter().filter(|outcome| outcome.failure.is_some());
    failed.map(|outcome| outcome.what).collect()
}

#[test]
fn a_right_operation_passes_all_checks() {
    assert_eq!(failures(Mistake::None), [""; 0]);
    let names: Vec<String> = outcomes(Mistake::None).into_iter().map(|o| o.what).collect();
    for name in [
        "square_f64 [3]: dx",
        "square_f32 [40]: y",
        "square_f32 [40]: two runs of bwd give the same bytes",
        "square_f32 [40]: dx",
        "square_f32 [40]: a short dy is refused",
        "square_f64 [1]: a short x is refused",
        "square_f32 [0]: there is nothing to do",
    ] {
        assert!(names.iter().any(|found| found == name), "{name} is missing in {names:?}");
    }
}

#[test]
fn a_mistake_is_found_by_its_check() {
    let gradient = failures(Mistake::Gradient);
    assert_eq!(gradient, ["square_f64 [3]: dx"]);
    let fast = failures(Mistake::FastForm);
    assert!(fast.contains(&"square_f32 [40]: y".to_owned()), "{fast:?}");
    let unstable = failures(Mistake::Unstable);
    let runs = "square_f32 [1]: two runs of fwd give the same bytes";
    assert_eq!(unstable, [runs.to_owned(), runs.replace("[1]", "[40]")]);
    let length = failures(Mistake::Length);
    assert!(length.contains(&"square_f32 [40]: a short x is refused".to_owned()), "{length:?}");
    assert!(length.iter().all(|what| what.contains("short x")), "{length:?}");
}
