//! Checks of an operation, from its calls and a few sizes.
//!
//! Each folder states in [`Checks`] its passes, the sizes with their reasons, and the magnitude of
//! its inputs. From that follow, on the host and on any device: gradients against central
//! differences in f64, the fast form and the kernels against the reference within the bound of
//! [`Bounded`](super::bounded::Bounded) numbers, two runs with the same bytes, operands left out
//! and added to, each operand one element too short, and sizes of nothing. Times are in `timings`.
//!
//! Operands go by name. An input that an earlier pass wrote has the values of that pass, in the form
//! under check; every other input is drawn. The gradient of an input `x` is named `dx`.

use super::noise;
use super::operands::{Draw, Operand, Output, Values, Variant};
pub(crate) use super::pass::{Arithmetic, Depth, Pass};
use super::pass::{Form, Run};
use super::verify::{Verification, Verify};
use crate::call::Operation;
use crate::{Result, Write};

/// Magnitude of a drawn operand: noise in (-1, 1) times `scale`, plus `shift`.
#[derive(Debug, Clone, Copy)]
struct Magnitude {
    name: &'static str,
    scale: f32,
    shift: f32,
}

/// Sizes that are checked, and a mean of one operand far from zero.
struct Case<O> {
    s: O,
    shift: Option<(&'static str, f32)>,
    on_device: bool,
    /// Elements before each input in its buffer, so that accesses are not aligned.
    offset: usize,
}

/// Change of drawn values of an operand.
type Edit<O> = fn(&O, &mut [f64]);

/// Passes, sizes and magnitudes of an operation.
pub(crate) struct Checks<O> {
    pub(super) name: fn(&O) -> &'static str,
    pub(super) shape: fn(&O) -> String,
    pub(super) passes: Vec<Pass<O>>,
    magnitudes: Vec<Magnitude>,
    given: Vec<(&'static str, Edit<O>)>,
    edits: Vec<(&'static str, Edit<O>)>,
    gradients: Vec<O>,
    cases: Vec<Case<O>>,
    empty: Vec<O>,
    refused: Vec<O>,
    pub(super) timed: Vec<O>,
    pub(super) timed_in_f32: Vec<O>,
    more: Vec<Verify>,
    pub(super) timed_on_host: Vec<(&'static str, O)>,
}

/// An operation that states its checks.
pub(crate) trait Checked: Operation {
    /// Passes, sizes and magnitudes.
    fn checks() -> Checks<Self>;
}

impl<O: Operation> Checks<O> {
    /// Creates checks without passes; `shape` prints the sizes.
    pub fn new(shape: fn(&O) -> String) -> Checks<O> {
        Checks {
            name: |_| O::NAME,
            shape,
            passes: Vec::new(),
            magnitudes: Vec::new(),
            given: Vec::new(),
            edits: Vec::new(),
            gradients: Vec::new(),
            cases: Vec::new(),
            empty: Vec::new(),
            refused: Vec::new(),
            timed: Vec::new(),
            timed_in_f32: Vec::new(),
            more: Vec::new(),
            timed_on_host: Vec::new(),
        }
    }

    /// Names the kernels of these sizes, where they are not those of the operation.
    pub fn named(mut self, name: fn(&O) -> &'static str) -> Checks<O> {
        self.name = name;
        self
    }

    /// Adds a pass. The first one is the forward pass.
    pub fn pass(mut self, pass: Pass<O>) -> Checks<O> {
        self.passes.push(pass);
        self
    }

    /// Draws an operand from (-`scale`, `scale`).
    pub fn scaled(mut self, name: &'static str, scale: f32) -> Checks<O> {
        self.magnitudes.push(Magnitude { name, scale, shift: 0.0 });
        self
    }

    /// Sets the values of an operand in every run, such as indices.
    pub(crate) fn given(mut self, name: &'static str, values: Edit<O>) -> Checks<O> {
        self.given.push((name, values));
        self
    }

    /// Adds checks on a device that no pass can state.
    pub(crate) fn more(mut self, verify: Verify) -> Checks<O> {
        self.more.push(verify);
        self
    }

    /// Changes the drawn values of an operand, where a form is compared with the reference.
    pub(crate) fn edited(mut self, name: &'static str, edit: Edit<O>) -> Checks<O> {
        self.edits.push((name, edit));
        self
    }

    /// Compares gradients with central differences at these sizes.
    pub fn gradients(mut self, all: impl IntoIterator<Item = O>) -> Checks<O> {
        self.gradients.extend(all);
        self
    }

    /// Compares all forms with the reference at these sizes.
    pub fn sizes(mut self, all: impl IntoIterator<Item = O>) -> Checks<O> {
        self.cases.extend(all.into_iter().map(|s| Case {
            s,
            shift: None,
            on_device: true,
            offset: 0,
        }));
        self
    }

    /// Compares all forms with inputs that begin `offset` elements into a buffer.
    pub fn unaligned(mut self, offset: usize, all: impl IntoIterator<Item = O>) -> Checks<O> {
        let case = |s| Case { s, shift: None, on_device: true, offset };
        self.cases.extend(all.into_iter().map(case));
        self
    }

    /// Compares only the fast form, at sizes that take long on the virtual GPU.
    pub(crate) fn host_sizes(mut self, all: impl IntoIterator<Item = O>) -> Checks<O> {
        self.cases.extend(all.into_iter().map(|s| Case {
            s,
            shift: None,
            on_device: false,
            offset: 0,
        }));
        self
    }

    /// Compares the forms in f32 with a mean of an operand far from zero.
    pub fn shifted(
        mut self,
        name: &'static str,
        mean: f32,
        all: impl IntoIterator<Item = O>,
    ) -> Checks<O> {
        let case = |s| Case { s, shift: Some((name, mean)), on_device: true, offset: 0 };
        self.cases.extend(all.into_iter().map(case));
        self
    }

    /// Compares only the fast form with a mean of an operand far from zero.
    pub(crate) fn host_shifted(
        mut self,
        name: &'static str,
        mean: f32,
        all: impl IntoIterator<Item = O>,
    ) -> Checks<O> {
        let case = |s| Case { s, shift: Some((name, mean)), on_device: false, offset: 0 };
        self.cases.extend(all.into_iter().map(case));
        self
    }

    /// Expects that nothing is computed at these sizes.
    pub fn empty(mut self, all: impl IntoIterator<Item = O>) -> Checks<O> {
        self.empty.extend(all);
        self
    }

    /// Expects that these sizes are refused.
    pub fn refused(mut self, all: impl IntoIterator<Item = O>) -> Checks<O> {
        self.refused.extend(all);
        self
    }

    /// Times the kernels in bf16 at these sizes of a real network.
    pub fn timed(mut self, all: impl IntoIterator<Item = O>) -> Checks<O> {
        self.timed.extend(all);
        self
    }

    /// Times the kernels in f32 at these sizes of a real network.
    pub fn timed_in_f32(mut self, all: impl IntoIterator<Item = O>) -> Checks<O> {
        self.timed_in_f32.extend(all);
        self
    }

    /// Times the host in f32 at these sizes, which have names.
    pub(crate) fn timed_on_host(
        mut self,
        all: impl IntoIterator<Item = (&'static str, O)>,
    ) -> Checks<O> {
        self.timed_on_host.extend(all);
        self
    }

    /// Values of an operand at these sizes.
    pub(super) fn draw(
        &self,
        s: &O,
        shift: Option<(&'static str, f32)>,
        name: &'static str,
        n: usize,
    ) -> Vec<f64> {
        let known = self.magnitudes.iter().find(|m| m.name == name).copied();
        let mut of = known.unwrap_or(Magnitude { name, scale: 1.0, shift: 0.0 });
        if let Some((_, mean)) = shift.filter(|(to, _)| *to == name) {
            of.shift = mean;
        }
        let seed = name.bytes().fold(0, |seed: u64, b| 31 * (seed % (1 << 32)) + u64::from(b));
        let values = noise::<f32>(n, seed).into_iter();
        let mut values: Vec<f64> = values.map(|x| f64::from(of.scale * x + of.shift)).collect();
        let given = self.given.iter().filter(|(to, _)| *to == name);
        given.for_each(|(_, set)| set(s, &mut values));
        values
    }

    /// Checks the kernels on the device of the verification.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn on_device(&self, verification: &mut Verification<'_>) -> Result<()> {
        let device = verification.device();
        for case in self.cases.iter().filter(|case| case.on_device) {
            self.compare(verification, Form::F32(device), case)?;
            if case.shift.is_none() {
                self.compare(verification, Form::Bf16(device), case)?;
            }
        }
        for verify in &self.more {
            verify(verification)?;
        }
        self.refusals(verification, Form::F32(device))
    }

    /// Checks gradients and the fast form of the host.
    ///
    /// # Errors
    /// Sizes that the operation refuses.
    pub fn on_host(&self, verification: &mut Verification<'_>) -> Result<()> {
        for s in &self.gradients {
            self.gradient(verification, s)?;
        }
        for case in &self.cases {
            self.compare(verification, Form::Fast, case)?;
        }
        self.refusals(verification, Form::Fast)
    }

    fn case(&self, form: Form<'_>, s: &O) -> String {
        let suffix = match form {
            Form::Exact | Form::Bounded(_) => "_f64",
            Form::Fast | Form::F32(_) => "_f32",
            Form::Bf16(_) => "_bf16",
        };
        format!("{}{suffix} {}", (self.name)(s), (self.shape)(s))
    }

    /// Compares a form with the reference, pass by pass.
    fn compare(
        &self,
        verification: &mut Verification<'_>,
        form: Form<'_>,
        Case { s, shift, offset, .. }: &Case<O>,
    ) -> Result<()> {
        let (mut what, mut known) = (self.case(form, s), Values::new());
        if *offset > 0 {
            what += &format!(" from {offset}");
        }
        let draw: Draw<'_> = &|name, n| {
            let mut values = self.draw(s, *shift, name, n);
            let edits = self.edits.iter().filter(|(to, _)| *to == name);
            edits.for_each(|(_, edit)| edit(s, &mut values));
            values
        };
        for pass in self.passes(form) {
            for (how, variant) in &pass.variants(s, *offset) {
                let mut values = known.clone();
                let mut run = || {
                    values.clone_from(&known);
                    let values = &mut values;
                    (pass.run)(form, Run { s, values, draw, variant })
                };
                let (got, second) = (run()?, run()?);
                let name = format!("{what}: two runs of {}{how} give the same bytes", pass.name);
                verification.holds(&name, got == second);
                let want = pass.want(form, Run { s, values: &mut values, draw, variant })?;
                for (got, want) in got.iter().zip(&want) {
                    let name = format!("{what}: {}{how}", want.name);
                    let bound = |i: usize| want.bounds[i];
                    verification.near(&name, &got.values, &want.values, got.rounding, bound);
                }
                if how.is_empty() {
                    values.extend(got.into_iter().map(|got| (got.name, got.values)));
                    known = values;
                }
            }
        }
        Ok(())
    }

    /// Compares the gradients that passes write with central differences of the first pass.
    fn gradient(&self, verification: &mut Verification<'_>, s: &O) -> Result<()> {
        let Some((first, rest)) = self.passes.split_first() else { return Ok(()) };
        let (mut values, variant) = (Values::new(), Variant::default());
        let draw: Draw<'_> = &|name, n| self.draw(s, None, name, n);
        let run = |pass: &Pass<O>, values: &mut Values| {
            (pass.run)(Form::Exact, Run { s, values, draw, variant: &variant })
        };
        let outputs = run(first, &mut values)?;
        let inputs = values.clone();
        values.extend(outputs.into_iter().map(|out| (out.name, out.values)));
        for pass in rest {
            let operands = (pass.list)(s, &variant).into_iter();
            let added = operands.filter(|operand| operand.write == Some(Write::Add));
            values.extend(added.map(|operand| (operand.name, vec![0.0; operand.len])));
            for gradient in run(pass, &mut values)? {
                let to = gradient.name.strip_prefix('d').and_then(|x| inputs.get_key_value(x));
                let Some((name, _)) = to else {
                    if !values.contains_key(gradient.name) {
                        let what = format!("{}: {}", self.case(Form::Exact, s), gradient.name);
                        verification.holds(&format!("{what} is the gradient of an input"), false);
                    }
                    continue;
                };
                let numeric = differences(&inputs, name, |moved| {
                    Ok(objective(&run(first, moved)?, &values))
                })?;
                let largest = gradient.values.iter().fold(1e-3, |a: f64, g| a.max(g.abs()));
                let what = format!("{}: {}", self.case(Form::Exact, s), gradient.name);
                verification.near(&what, &gradient.values, &numeric, 0.0, |_| 1e-6 * largest);
            }
        }
        Ok(())
    }

    /// Checks what must be refused and what must do nothing.
    fn refusals(&self, verification: &mut Verification<'_>, form: Form<'_>) -> Result<()> {
        let forms = if matches!(form, Form::Fast) { vec![form, Form::Exact] } else { vec![form] };
        for form in forms {
            for case in self.cases.iter().take(2) {
                self.short(verification, form, &case.s);
            }
            for s in &self.empty {
                let what = format!("{}: there is nothing to do", self.case(form, s));
                verification.holds(&what, self.outcomes(form, s).all(|done| done.is_ok()));
            }
            for s in &self.refused {
                let refused = |error: String| error.starts_with(O::NAME) && error.contains('0');
                let what = format!("{}: the sizes are refused", self.case(form, s));
                let all = self.outcomes(form, s).all(|done| done.is_err_and(refused));
                verification.holds(&what, all);
            }
        }
        self.idle(verification, form)
    }

    /// Passes that have a form.
    fn passes(&self, form: Form<'_>) -> impl Iterator<Item = &Pass<O>> {
        let on_device = matches!(form, Form::F32(_) | Form::Bf16(_));
        self.passes.iter().filter(move |pass| pass.on_device || !on_device)
    }

    /// Result of one call on drawn values, or its message.
    fn outcome(
        &self,
        pass: &Pass<O>,
        form: Form<'_>,
        s: &O,
        variant: &Variant,
    ) -> std::result::Result<(), String> {
        let draw: Draw<'_> = &|name, n| self.draw(s, None, name, n);
        let run = Run { s, values: &mut Values::new(), draw, variant };
        (pass.run)(form, run).map(drop).map_err(|error| error.to_string())
    }

    /// Outcomes of all passes with all operands.
    fn outcomes(
        &self,
        form: Form<'_>,
        s: &O,
    ) -> impl Iterator<Item = std::result::Result<(), String>> {
        self.passes(form).map(move |pass| self.outcome(pass, form, s, &Variant::default()))
    }

    /// Checks that each operand that is one element too short is refused by name.
    fn short(&self, verification: &mut Verification<'_>, form: Form<'_>, s: &O) {
        let on_device = matches!(form, Form::F32(_) | Form::Bf16(_));
        for pass in self.passes(form) {
            let list = if on_device { pass.list } else { pass.list_on_host };
            let operands = list(s, &Variant::default()).into_iter();
            for Operand { name, len, .. } in operands.filter(|operand| operand.len > 0) {
                let short = Variant { short: Some(name), ..Variant::default() };
                let found = self.outcome(pass, form, s, &short);
                let less = len - 1;
                let sizes = format!("has {less} elements, its sizes require {len}");
                let what = format!("{}: a short {name} is refused", self.case(form, s));
                verification.holds(&what, found == Err(format!("{}: {name} {sizes}", O::NAME)));
            }
        }
    }

    /// Checks that a pass whose outputs are all left out launches nothing.
    fn idle(&self, verification: &mut Verification<'_>, form: Form<'_>) -> Result<()> {
        let (Form::F32(device), Some(Case { s, .. })) = (form, self.cases.first()) else {
            return Ok(());
        };
        let draw: Draw<'_> = &|name, n| self.draw(s, None, name, n);
        for pass in self.passes(form) {
            let operands = (pass.list)(s, &Variant::default());
            let outputs = || operands.iter().filter(|operand| operand.write.is_some());
            if outputs().all(|operand| operand.optional) {
                let without = outputs().map(|operand| operand.name).collect();
                let variant = Variant { without, ..Variant::default() };
                let before = device.counters().launches;
                let values = &mut Values::new();
                (pass.run)(form, Run { s, values, draw, variant: &variant })?;
                let what = format!("{}: nothing is launched for nothing", self.case(form, s));
                verification.holds(&what, device.counters().launches == before);
            }
        }
        Ok(())
    }
}

/// Sum of the products of outputs with their incoming gradients: of `y` with `dy`.
fn objective(outputs: &[Output], values: &Values) -> f64 {
    let incoming =
        |out: &Output| values.iter().find(|(d, _)| d.strip_prefix('d') == Some(out.name));
    let products = outputs.iter().filter_map(|out| Some((out, incoming(out)?.1)));
    products.map(|(out, d)| super::weighted_sum(&out.values, d)).sum()
}

/// Central differences of `f` by each element of one input.
fn differences(
    inputs: &Values,
    name: &'static str,
    f: impl Fn(&mut Values) -> Result<f64>,
) -> Result<Vec<f64>> {
    const STEP: f64 = 1e-5;
    let at = |j: usize, step: f64| {
        let mut moved = inputs.clone();
        moved.entry(name).and_modify(|x| x[j] += step);
        f(&mut moved)
    };
    let count = inputs.get(name).map_or(0, Vec::len);
    (0..count).map(|j| Ok((at(j, STEP)? - at(j, -STEP)?) / (2.0 * STEP))).collect()
}
