//! One call of an operation, as it is checked: in which forms it runs, and how far these may be off.

use half::bf16;

use super::bounded::{Bounded, Charge, with_charge};
use super::operands::{Draw, Operand, Operands, Output, Values, Variant, list};
use super::sum_error;
use crate::call::{self, Call, Gpu, Host, Launch, Operation};
use crate::device::{Device, Element};
use crate::{Real, Result, Write};

/// A form of a call that is run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form<'d> {
    /// The reference in f64.
    Exact,
    /// The reference with bounds, for sums that are charged so.
    Bounded(Charge),
    /// The form of the host in f32.
    Fast,
    /// The kernels in f32.
    F32(&'d Device),
    /// The kernels in bf16.
    Bf16(&'d Device),
}

/// A call with values for its operands.
pub(super) struct Run<'a, O> {
    pub s: &'a O,
    pub values: &'a mut Values,
    pub draw: Draw<'a>,
    pub variant: &'a Variant,
}

/// Depth of the sums of an output: on a device and in the fast form of the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Depth {
    /// Additions on the path of one term through a kernel.
    pub device: f64,
    /// Additions on its path through the fast form.
    pub host: f64,
}

/// Arithmetic of a form whose bounds are stated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arithmetic {
    /// Additions on the path of one term of the sums ([`Depth`]).
    pub depth: f64,
    /// Whether the form is that of a device in bf16.
    pub bf16: bool,
}

impl Arithmetic {
    /// Relative error of the storage type.
    pub fn rounding(self) -> f64 {
        f64::from(if self.bf16 { bf16::ROUNDING } else { f32::ROUNDING })
    }

    /// Error of a sum of `n` products, in tensor cores if the form is in bf16 ([`sum_error`]).
    pub fn products(self, n: usize) -> f64 {
        if self.bf16 { sum_error::<bf16>(n) } else { sum_error::<f32>(n) }
    }
}

/// Bounds of an output, from the sizes, the arithmetic, and the values of the inputs and of the
/// reference.
type Stated<O> = fn(&O, Arithmetic, &Values) -> Vec<f64>;

/// Outputs whose sums have some depth.
type Sums<O> = (&'static [&'static str], fn(&O) -> Depth);

/// A call that is ready to run many times.
type Ready<'d> = Box<dyn FnMut() -> Result<()> + 'd>;

/// One call of an operation, as it is checked. The functions are those of the call's type, which is
/// known to the constructor alone.
pub(crate) struct Pass<O> {
    /// Part of the names of its kernels.
    pub(super) name: &'static str,
    /// Floating-point operations that it requires.
    pub(super) flops: fn(&O) -> usize,
    sums: Vec<Sums<O>>,
    tensor_cores: &'static [&'static str],
    stated: Vec<(&'static str, Stated<O>)>,
    shares: Vec<(&'static [&'static str], f64)>,
    /// Bytes that it moves, if not those of its operands.
    bytes: Option<fn(&O, usize) -> usize>,
    pub(super) on_device: bool,
    /// Runs one form and returns the outputs.
    pub(super) run: fn(Form<'_>, Run<'_, O>) -> Result<Vec<Output>>,
    /// Operands on a device in bf16, and on the host in f32.
    pub(super) list: fn(&O, &Variant) -> Vec<Operand>,
    pub(super) list_on_host: fn(&O, &Variant) -> Vec<Operand>,
    /// The same in f32.
    pub(super) list_in_f32: fn(&O, &Variant) -> Vec<Operand>,
    /// Calls to be timed, on a device in bf16 and in f32, and on the host in f32.
    pub(super) timed: for<'d> fn(&'d Device, &O, Draw<'_>) -> Result<Ready<'d>>,
    pub(super) timed_in_f32: for<'d> fn(&'d Device, &O, Draw<'_>) -> Result<Ready<'d>>,
    pub(super) timed_on_host: fn(&O, Draw<'_>, &Variant) -> Result<Ready<'static>>,
}

impl<O: Operation> Pass<O> {
    /// Creates a pass that only the host has.
    pub(crate) fn of_host<C: Call<Op = O>>(name: &'static str) -> Pass<O> {
        Pass {
            name,
            flops: |_| 0,
            sums: Vec::new(),
            tensor_cores: &[],
            stated: Vec::new(),
            shares: Vec::new(),
            bytes: None,
            on_device: false,
            run: |form, run| match form {
                Form::Exact => on_host::<f64, C>(run),
                Form::Fast => on_host::<f32, C>(run),
                // A device has no such pass.
                _ => with_charge(charge_of(form), || on_host::<Bounded, C>(run)),
            },
            list: list::<Gpu, bf16, C>,
            list_in_f32: list::<Gpu, f32, C>,
            timed: |_, _, _| Ok(Box::new(|| Ok(()))),
            timed_in_f32: |_, _, _| Ok(Box::new(|| Ok(()))),
            timed_on_host: |s, draw, variant| {
                let (s, mut values) = (s.clone(), Values::new());
                let mut operands = Operands::new::<f32, C>(Host, &s, &mut values, draw, variant)?;
                Ok(Box::new(move || call::run::<f32, C>(&s, operands.bind::<f32, C>(&s))))
            },
            list_on_host: list::<Host, f32, C>,
        }
    }

    /// Creates a pass of host and device. It requires so many operations.
    pub fn of<C: Call<Op = O>>(name: &'static str, flops: fn(&O) -> usize) -> Pass<O>
    where
        for<'a> C::At<'a, Gpu, f32>: Launch<'a, Op = O>,
        for<'a> C::At<'a, Gpu, bf16>: Launch<'a, Op = O>,
    {
        Pass {
            flops,
            on_device: true,
            run: |form, run| match form {
                Form::Exact => on_host::<f64, C>(run),
                Form::Fast => on_host::<f32, C>(run),
                Form::Bounded(charge) => with_charge(charge, || on_host::<Bounded, C>(run)),
                Form::F32(device) => {
                    let Run { s, values, draw, variant } = run;
                    let mut operands = Operands::new::<f32, C>(device, s, values, draw, variant)?;
                    operands.bind::<f32, C>(s).launch(device, s)?;
                    operands.outputs::<f32, C>(s)
                }
                Form::Bf16(device) => {
                    let Run { s, values, draw, variant } = run;
                    let mut operands = Operands::new::<bf16, C>(device, s, values, draw, variant)?;
                    operands.bind::<bf16, C>(s).launch(device, s)?;
                    operands.outputs::<bf16, C>(s)
                }
            },
            timed: ready::<bf16, C>,
            timed_in_f32: ready::<f32, C>,
            ..Pass::of_host::<C>(name)
        }
    }

    /// End of the names of its kernels, without the type; nothing for the only pass.
    pub(super) fn suffix(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!("_{}", self.name) }
    }

    /// States the depth of the sums in some outputs. Without it, sums may have any order.
    pub fn sums(mut self, outputs: &'static [&'static str], depth: fn(&O) -> Depth) -> Pass<O> {
        self.sums.push((outputs, depth));
        self
    }

    /// States that these outputs are sums of products in tensor cores where operands are in bf16.
    pub fn on_tensor_cores(mut self, outputs: &'static [&'static str]) -> Pass<O> {
        self.tensor_cores = outputs;
        self
    }

    /// States the bounds of an output for which those of the reference are too wide.
    pub fn bound(mut self, output: &'static str, bounds: Stated<O>) -> Pass<O> {
        self.stated.push((output, bounds));
        self
    }

    /// States that in f32 these outputs are off by at most this share of the largest value of each,
    /// which is less than the bounds of long sums allow.
    pub fn accurate(mut self, outputs: &'static [&'static str], share: f64) -> Pass<O> {
        self.shares.push((outputs, share));
        self
    }

    /// States the bytes that a call moves, from the sizes and the bytes of an element, where it does
    /// not touch all of its operands.
    pub fn moves(mut self, bytes: fn(&O, usize) -> usize) -> Pass<O> {
        self.bytes = Some(bytes);
        self
    }

    /// Bytes that a call with these operands moves, whose elements have `size` bytes.
    pub(super) fn bytes(&self, s: &O, operands: &[Operand], size: usize) -> usize {
        match self.bytes {
            Some(bytes) => bytes(s, size),
            None => operands.iter().map(|operand| operand.moved).sum(),
        }
    }

    fn depth(&self, s: &O, output: &str) -> Depth {
        let any = Depth { device: f64::INFINITY, host: f64::INFINITY };
        let stated = self.sums.iter().find(|(outputs, _)| outputs.contains(&output));
        stated.map_or(any, |(_, depth)| depth(s))
    }

    /// Ways to make the call: with all operands, adding where the caller chooses, without each
    /// optional operand, and without all of these.
    pub(super) fn variants(&self, s: &O, offset: usize) -> Vec<(String, Variant)> {
        let all = Variant { offset, ..Variant::default() };
        let mut variants = vec![(String::new(), all.clone())];
        let operands = (self.list)(s, &all);
        let adding = Variant { write: Write::Add, ..all.clone() };
        if operands.iter().zip(&(self.list)(s, &adding)).any(|(a, b)| a.write != b.write) {
            variants.push((" added".into(), adding));
        }
        let optional = operands.iter().filter(|operand| operand.optional);
        let optional: Vec<&'static str> = optional.map(|operand| operand.name).collect();
        let without = |without| Variant { without, ..all.clone() };
        for name in &optional {
            variants.push((format!(" without {name}"), without(vec![*name])));
        }
        if optional.len() > 1 {
            variants.push((" without what is optional".into(), without(optional)));
        }
        variants
    }

    /// Values and bounds of the reference for the inputs of a run.
    pub(super) fn want(&self, form: Form<'_>, run: Run<'_, O>) -> Result<Vec<Output>> {
        let Run { s, values, draw, variant } = run;
        let on_host = matches!(form, Form::Fast);
        let side = |depth: Depth| if on_host { depth.host } else { depth.device };
        let bf16 = matches!(form, Form::Bf16(_));
        let mut bounded =
            |charge| (self.run)(Form::Bounded(charge), Run { s, values, draw, variant });
        let mut want = bounded(Charge::Depth(f64::INFINITY))?;
        let charges =
            self.sums.iter().map(|(names, depth)| (*names, Charge::Depth(side(depth(s)))));
        let cores = (bf16 && !self.tensor_cores.is_empty())
            .then_some((self.tensor_cores, Charge::TensorCores));
        for (names, charge) in charges.chain(cores) {
            let found = bounded(charge)?;
            let summed = want.iter_mut().zip(found).filter(|(w, _)| names.contains(&w.name));
            summed.for_each(|(want, found)| want.bounds = found.bounds);
        }
        if !self.stated.is_empty() {
            let mut known = values.clone();
            known.extend(want.iter().map(|want| (want.name, want.values.clone())));
            for (output, bounds) in &self.stated {
                let arithmetic = Arithmetic { depth: side(self.depth(s, output)), bf16 };
                let found = want.iter_mut().filter(|want| want.name == *output);
                found.for_each(|want| want.bounds = bounds(s, arithmetic, &known));
            }
        }
        for (outputs, share) in self.shares.iter().filter(|_| !bf16) {
            for want in want.iter_mut().filter(|want| outputs.contains(&want.name)) {
                let most = share * want.values.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
                want.bounds.iter_mut().for_each(|bound| *bound = bound.min(most));
            }
        }
        Ok(want)
    }
}

fn charge_of(form: Form<'_>) -> Charge {
    if let Form::Bounded(charge) = form { charge } else { Charge::Depth(f64::INFINITY) }
}

/// A call on a device with drawn operands.
fn ready<'d, T: Element, C: Call>(
    device: &'d Device,
    s: &C::Op,
    draw: Draw<'_>,
) -> Result<Ready<'d>>
where
    for<'a> C::At<'a, Gpu, T>: Launch<'a, Op = C::Op>,
{
    let (s, mut values, variant) = (s.clone(), Values::new(), Variant::default());
    let mut operands = Operands::new::<T, C>(device, &s, &mut values, draw, &variant)?;
    Ok(Box::new(move || operands.bind::<T, C>(&s).launch(device, &s)))
}

fn on_host<T: Real, C: Call>(run: Run<'_, C::Op>) -> Result<Vec<Output>> {
    let Run { s, values, draw, variant } = run;
    let mut operands = Operands::new::<T, C>(Host, s, values, draw, variant)?;
    call::run::<T, C>(s, operands.bind::<T, C>(s))?;
    operands.outputs::<T, C>(s)
}
