//! Measurements of an operation at the sizes that it states.

use half::bf16;

use super::checks::Checks;
use super::operands::{Draw, Variant};
use super::verify::Timed;
use crate::call::Operation;
use crate::device::Device;
use crate::{Result, Write};

impl<O: Operation> Checks<O> {
    /// Launches to be timed on a device.
    ///
    /// # Errors
    /// No room for their operands.
    pub fn launches<'d>(&self, device: &'d Device) -> Result<Vec<Timed<'d>>> {
        let mut all = Vec::new();
        let bf16 = self.timed.iter().map(|s| (s, "bf16"));
        for (s, kind) in bf16.chain(self.timed_in_f32.iter().map(|s| (s, "f32"))) {
            let draw: Draw<'_> = &|name, n| self.draw(s, None, name, n);
            for pass in self.passes.iter().filter(|pass| pass.on_device) {
                let (list, timed, size) = match kind {
                    "bf16" => (pass.list, pass.timed, size_of::<bf16>()),
                    _ => (pass.list_in_f32, pass.timed_in_f32, size_of::<f32>()),
                };
                let bytes = pass.bytes(s, &list(s, &Variant::default()), size);
                let name = format!("{}{}_{kind}", (self.name)(s), pass.suffix());
                let run = timed(device, s, draw)?;
                all.push(Timed::new(name, (self.shape)(s), (pass.flops)(s), bytes, run));
            }
        }
        Ok(all)
    }

    /// Calls to be timed on the host: with all operands, and without gradients of parameters where
    /// they are optional.
    ///
    /// # Errors
    /// Sizes that the operation refuses.
    pub fn calls(&self) -> Result<Vec<Timed<'static>>> {
        let mut all = Vec::new();
        for (place, s) in &self.timed_on_host {
            let draw: Draw<'_> = &|name, n| self.draw(s, None, name, n);
            for pass in &self.passes {
                let operands = (pass.list_on_host)(s, &Variant::default());
                let added = operands.iter().filter(|operand| operand.optional);
                let added = added.filter(|operand| operand.write == Some(Write::Add));
                let frozen: Vec<&'static str> = added.map(|operand| operand.name).collect();
                let mut variants = vec![("", Vec::new())];
                if !frozen.is_empty() {
                    variants.push((", frozen", frozen));
                }
                for (how, without) in variants {
                    let variant = Variant { without, ..Variant::default() };
                    let operands = (pass.list_on_host)(s, &variant);
                    let bytes = pass.bytes(s, &operands, size_of::<f32>());
                    let name = format!("{}{}_f32{how}", (self.name)(s), pass.suffix());
                    let run = (pass.timed_on_host)(s, draw, &variant)?;
                    let shape = format!("{place} {}", (self.shape)(s));
                    all.push(Timed::new(name, shape, (pass.flops)(s), bytes, run));
                }
            }
        }
        Ok(all)
    }
}
