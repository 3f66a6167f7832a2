//! Parsing of variables: `.shared .align 16 .b8 tile[4096];`, parameters, initialisers.

use super::Parser;
use crate::ast::{Initial, Operand, Space, Variable};
use crate::error::ParseError;
use crate::types::Ty;

/// Maximum size of a variable in bytes; larger ones are damaged input.
const MAX_BYTES: u64 = 1 << 32;

impl Parser<'_> {
    /// Parses a statement that declares variables at module level or in a body; starts at the
    /// space.
    pub(super) fn variables(&mut self, external: bool) -> Result<Vec<Variable>, ParseError> {
        let space = match self.next()?.text {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Param,
            other => return Err(self.error(format!("`{other}` is not a state space"))),
        };
        let mut out = vec![self.variable(space, external)?];
        while self.take(",") {
            let first = &out[0];
            let (ty, align) = (first.ty, first.align);
            let name = self.word()?.to_owned();
            out.push(self.rest(name, space, ty, 1, align, external)?);
        }
        self.expect(";")?;
        Ok(out)
    }

    /// Parses one variable after its state space.
    pub(super) fn variable(
        &mut self,
        space: Space,
        external: bool,
    ) -> Result<Variable, ParseError> {
        let (mut align, mut lanes, mut ty) = (0, 1, None);
        loop {
            let word = self.word()?;
            match word {
                ".align" => align = u64::from(self.count()?),
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                ".ptr" | ".const" | ".global" | ".local" | ".shared" | ".volatile" => {}
                ".attribute" => while self.next()?.text != ")" {},
                ".texref" | ".samplerref" | ".surfref" => ty = Some(Ty::B64),
                _ if word.starts_with('.') => match Ty::parse(&word[1..]) {
                    Some(found) => ty = Some(found),
                    None => return Err(self.error(format!("unknown type `{word}`"))),
                },
                name => {
                    let ty = ty.ok_or_else(|| self.error(format!("`{name}` has no type")))?;
                    return self.rest(name.to_owned(), space, ty, lanes, align, external);
                }
            }
        }
    }

    fn rest(
        &mut self,
        name: String,
        space: Space,
        ty: Ty,
        lanes: u64,
        align: u64,
        external: bool,
    ) -> Result<Variable, ParseError> {
        let element = ty.bytes() as u64 * lanes;
        let mut size = element;
        let mut open = false;
        while self.take("[") {
            if self.take("]") {
                open = true;
                continue;
            }
            size = size.saturating_mul(self.integer()?.max(0) as u64);
            self.expect("]")?;
        }
        let mut initial = Vec::new();
        if self.take("=") {
            self.initial(ty, &mut initial, 0)?;
        }
        if open {
            size = element * initial.len() as u64;
        }
        let align = if align == 0 { element.max(1) } else { align };
        let fine = align.is_power_of_two() && align <= 1024 && size <= MAX_BYTES;
        if !fine || (initial.len() as u64).saturating_mul(ty.bytes() as u64) > size {
            return Err(self.error(format!("size or alignment of `{name}` makes no sense")));
        }
        if external && space == Space::Shared {
            size = 0;
        }
        Ok(Variable { name, space, ty, align, size, initial })
    }

    /// Parses the values of an initialiser into a flat list.
    fn initial(&mut self, ty: Ty, out: &mut Vec<Initial>, depth: usize) -> Result<(), ParseError> {
        if depth > 8 {
            return Err(self.error("an initialiser nested too deeply"));
        }
        if self.take("{") {
            while !self.take("}") {
                self.initial(ty, out, depth + 1)?;
                if !self.is("}") {
                    self.expect(",")?;
                }
            }
            return Ok(());
        }
        if self.take("generic") {
            self.expect("(")?;
            let name = self.word()?.to_owned();
            self.expect(")")?;
            let offset = self.optional_offset()?;
            out.push(Initial::Address(name, offset));
            return Ok(());
        }
        let value = match self.operand()? {
            Operand::Int(v) if ty == Ty::F32 => Initial::Bits(u64::from((v as f32).to_bits())),
            Operand::Int(v) if ty == Ty::F64 => Initial::Bits((v as f64).to_bits()),
            Operand::Int(v) => Initial::Bits(v as u64),
            Operand::F32(bits) => Initial::Bits(u64::from(bits)),
            Operand::F64(bits) if ty == Ty::F32 => {
                Initial::Bits(u64::from((f64::from_bits(bits) as f32).to_bits()))
            }
            Operand::F64(bits) => Initial::Bits(bits),
            Operand::Symbol(name, offset) => Initial::Address(name, offset),
            _ => return Err(self.error("this is not a constant")),
        };
        out.push(value);
        Ok(())
    }
}
