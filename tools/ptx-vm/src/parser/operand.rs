//! Parsing of operands and numbers.

use super::Parser;
use crate::ast::{Operand, RegRef};
use crate::error::ParseError;
use crate::lexer::TokenKind;

impl Parser<'_> {
    /// Parses an integer with optional sign.
    pub(super) fn integer(&mut self) -> Result<i64, ParseError> {
        let negative = self.take("-");
        let token = self.next()?;
        let value = (token.kind == TokenKind::Number).then(|| int(token.text)).flatten();
        let value = value.ok_or_else(|| {
            self.at -= 1;
            self.error(format!("a whole number expected, `{}` found", token.text))
        })?;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    /// Parses `+4`, `-4` or nothing.
    pub(super) fn optional_offset(&mut self) -> Result<i64, ParseError> {
        if self.take("+") || self.is("-") { self.integer() } else { Ok(0) }
    }

    pub(super) fn operand(&mut self) -> Result<Operand, ParseError> {
        if self.depth >= 8 {
            return Err(self.error("an operand nested too deeply"));
        }
        self.depth += 1;
        let mut operand = self.single()?;
        if self.take("|") {
            operand = Operand::Pair(Box::new(operand), Box::new(self.single()?));
        }
        self.depth -= 1;
        Ok(operand)
    }

    fn single(&mut self) -> Result<Operand, ParseError> {
        if self.take("[") {
            let base = match self.peek() {
                Some(t) if t.kind == TokenKind::Number => Operand::Int(self.integer()?),
                _ => self.name()?,
            };
            let offset = self.optional_offset()?;
            // Tensor maps and similar operands, `[map, {x, y}]`, are kept as a list; their form is
            // unknown.
            if self.take(",") {
                let more = self.operand()?;
                self.expect("]")?;
                return Ok(Operand::List(vec![base, more]));
            }
            self.expect("]")?;
            let (base, inner) = match base {
                Operand::Symbol(name, by) => (Operand::Symbol(name, 0), by),
                other => (other, 0),
            };
            return Ok(Operand::Memory(Box::new(base), offset.wrapping_add(inner)));
        }
        if self.is("{") {
            return Ok(Operand::Vector(self.list("{", "}")?));
        }
        if self.is("(") {
            return Ok(Operand::List(self.list("(", ")")?));
        }
        if self.take("!") {
            return match self.name()? {
                Operand::Reg(r) => Ok(Operand::Not(r)),
                _ => Err(self.error("a predicate expected after `!`")),
            };
        }
        if self.is("-") {
            return Ok(match self.peek_after_minus() {
                Some(Operand::F32(bits)) => Operand::F32(bits ^ 0x8000_0000),
                Some(Operand::F64(bits)) => Operand::F64(bits ^ (1 << 63)),
                _ => return Ok(Operand::Int(self.integer()?)),
            });
        }
        match self.peek() {
            Some(t) if t.kind == TokenKind::Number => {
                let value = number(t.text);
                self.at += 1;
                value.ok_or_else(|| {
                    self.at -= 1;
                    self.error(format!("`{}` is not a number", t.text))
                })
            }
            _ => {
                let base = self.name()?;
                match base {
                    Operand::Symbol(name, 0) => {
                        let offset = self.optional_offset()?;
                        Ok(Operand::Symbol(name, offset))
                    }
                    other => Ok(other),
                }
            }
        }
    }

    /// Parses a negated floating-point constant; integers are not consumed.
    fn peek_after_minus(&mut self) -> Option<Operand> {
        let token = self.tokens.get(self.at + 1)?;
        let value = number(token.text).filter(|_| token.kind == TokenKind::Number)?;
        let float = matches!(value, Operand::F32(_) | Operand::F64(_));
        if float {
            self.at += 2;
        }
        float.then_some(value)
    }

    fn list(&mut self, open: &str, close: &str) -> Result<Vec<Operand>, ParseError> {
        self.expect(open)?;
        let mut out = Vec::new();
        while !self.take(close) {
            if out.len() >= 256 || self.is(open) {
                return Err(self.error("a list of operands that is too long or nested"));
            }
            out.push(self.operand()?);
            if !self.is(close) {
                self.expect(",")?;
            }
        }
        Ok(out)
    }

    /// Parses a register, special register, sink or symbol.
    fn name(&mut self) -> Result<Operand, ParseError> {
        let word = self.word()?;
        if word == "_" {
            return Ok(Operand::Sink);
        }
        if let Some(register) = self.register(word) {
            return Ok(Operand::Reg(register));
        }
        for scope in self.scopes.iter().rev() {
            if let Some(unique) = scope.variables.get(word) {
                return Ok(Operand::Symbol(unique.clone(), 0));
            }
        }
        if let Some(special) = word.strip_prefix('%') {
            let declared = special.chars().last().is_some_and(|c| c.is_ascii_digit())
                && !special.starts_with("envreg")
                && !special.starts_with("pm");
            if declared {
                self.at -= 1;
                return Err(self.error(format!("register `{word}` is not declared")));
            }
            return Ok(Operand::Special(word.to_owned()));
        }
        if matches!(word, "WARP_SZ") {
            return Ok(Operand::Int(32));
        }
        Ok(Operand::Symbol(word.to_owned(), 0))
    }

    /// Finds the register that `word` names, in the innermost scope that declares it.
    pub(super) fn register(&self, word: &str) -> Option<RegRef> {
        let digits = word.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, digits) = word.split_at(word.len() - digits);
        let number = digits.parse::<u64>().ok();
        for scope in self.scopes.iter().rev() {
            if let Some(&(id, ty)) = scope.registers.get(word) {
                return Some(RegRef { id, ty });
            }
            let Some(number) = number else { continue };
            let range = scope.ranges.iter().find(|r| r.prefix == prefix && number < r.count);
            if let Some(range) = range {
                return Some(RegRef { id: range.base + number, ty: range.ty });
            }
        }
        None
    }
}

fn int(text: &str) -> Option<i64> {
    let text = text.strip_suffix('U').unwrap_or(text);
    let lower = text.to_ascii_lowercase();
    let value = if let Some(hex) = lower.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = lower.strip_prefix("0b") {
        u64::from_str_radix(binary, 2)
    } else if lower.len() > 1 && lower.starts_with('0') {
        u64::from_str_radix(&lower, 8)
    } else {
        lower.parse()
    };
    value.ok().map(|v| v as i64)
}

/// Parses any number: `0f3F800000`, `0d3FF0000000000000`, `0x1F`, `12U`, `1.5`.
fn number(text: &str) -> Option<Operand> {
    let prefix = text.get(..2).unwrap_or("");
    if matches!(prefix, "0f" | "0F") && text.len() == 10 {
        return u32::from_str_radix(&text[2..], 16).ok().map(Operand::F32);
    }
    if matches!(prefix, "0d" | "0D") && text.len() == 18 {
        return u64::from_str_radix(&text[2..], 16).ok().map(Operand::F64);
    }
    if text.contains('.') {
        return text.parse::<f64>().ok().map(|v| Operand::F64(v.to_bits()));
    }
    int(text).map(Operand::Int)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_every_spelling() {
        assert_eq!(number("0f3F800000"), Some(Operand::F32(1f32.to_bits())));
        assert_eq!(number("0d3FF0000000000000"), Some(Operand::F64(1f64.to_bits())));
        assert_eq!(number("0xFFFFFFFFFFFFFFFF"), Some(Operand::Int(-1)));
        assert_eq!(number("0x10U"), Some(Operand::Int(16)));
        assert_eq!(number("010"), Some(Operand::Int(8)));
        assert_eq!(number("0b101"), Some(Operand::Int(5)));
        assert_eq!(number("1.5"), Some(Operand::F64(1.5f64.to_bits())));
        assert_eq!(number("12x"), None);
        assert_eq!(number("99999999999999999999"), None);
    }
}
