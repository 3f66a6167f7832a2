//! Batch norm in plain loops: the reference implementation.

use super::{Backward, BatchNorm, Evaluation, Forward, Running, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

/// Indices into `[n, c]` of one channel.
fn channel(s: &BatchNorm, j: usize) -> impl Iterator<Item = usize> {
    (j..s.all()).step_by(s.c)
}

fn rstd<U: Real>(s: &BatchNorm, var: U) -> U {
    U::ONE / (var + U::of(s.eps)).sqrt()
}

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = BatchNorm;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &BatchNorm, c: Forward<'_, Host, U>) {
        let Forward { x, weight, bias, y, mean, var } = c;
        let inv_n = U::ONE / U::of(s.n as f64);
        for j in 0..s.c {
            let m = channel(s, j).map(|i| x[i]).sum::<U>() * inv_n;
            mean[j] = m;
            var[j] = channel(s, j).map(|i| (x[i] - m) * (x[i] - m)).sum::<U>() * inv_n;
        }
        let (mean, var) = (&*mean, &*var);
        let evaluation = Evaluation { x, weight, bias, mean, var, y };
        Evaluation::<Host, U>::reference(s, evaluation);
    }

    fn fast(s: &BatchNorm, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}

impl<M: Memory, T: Element> Call for Evaluation<'_, M, T> {
    type Op = BatchNorm;
    type At<'a, N: Memory, U: Element> = Evaluation<'a, N, U>;

    fn reference<U: Real>(s: &BatchNorm, c: Evaluation<'_, Host, U>) {
        let Evaluation { x, weight, bias, mean, var, y } = c;
        for j in 0..s.c {
            let rstd = rstd(s, var[j]);
            for i in channel(s, j) {
                y[i] = (x[i] - mean[j]) * rstd * weight[j] + bias[j];
            }
        }
    }

    fn fast(s: &BatchNorm, c: Evaluation<'_, Host, f32>) {
        cpu::evaluation(s, c);
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = BatchNorm;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &BatchNorm, c: Backward<'_, Host, U>) {
        let Backward { x, weight, mean, var, dy, mut dx, mut dweight, mut dbias } = c;
        let inv_n = U::ONE / U::of(s.n as f64);
        for j in 0..s.c {
            let (mean, rstd) = (mean[j], rstd(s, var[j]));
            let xhat = |i: usize| (x[i] - mean) * rstd;
            // y = xhat * weight + bias
            let sum_x = channel(s, j).map(|i| dy[i] * xhat(i)).sum::<U>();
            let sum = channel(s, j).map(|i| dy[i]).sum::<U>();
            if let Some(d) = &mut dweight {
                d[j] += sum_x;
            }
            if let Some(d) = &mut dbias {
                d[j] += sum;
            }
            // xhat = (x - mean) * rstd, where in training mean and rstd depend on every x
            if let Some(dx) = &mut dx {
                for i in channel(s, j) {
                    let through = match s.training {
                        true => dy[i] - sum * inv_n - xhat(i) * (sum_x * inv_n),
                        false => dy[i],
                    };
                    dx[i] = rstd * weight[j] * through;
                }
            }
        }
    }

    fn fast(s: &BatchNorm, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }
}

impl<M: Memory, T: Element> Call for Running<'_, M, T> {
    type Op = BatchNorm;
    type At<'a, N: Memory, U: Element> = Running<'a, N, U>;

    fn reference<U: Real>(s: &BatchNorm, c: Running<'_, Host, U>) {
        let Running { mean, var, guard, running_mean, running_var } = c;
        if guard.is_some_and(|guard| !guard[0].f64().is_finite()) {
            return;
        }
        let (momentum, unbiased) = (U::of(s.momentum), U::of(s.unbiased()));
        for j in 0..s.c {
            running_mean[j] += momentum * (mean[j] - running_mean[j]);
            running_var[j] += momentum * (var[j] * unbiased - running_var[j]);
        }
    }
}
