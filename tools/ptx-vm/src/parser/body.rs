//! Bodies of functions: declarations, labels, instructions, nested scopes.

use super::{Parser, Range, Scope};
use crate::ast::{Function, Instr, Operand, Statement};
use crate::error::ParseError;
use crate::lexer::TokenKind;
use crate::types::Ty;

/// Maximum nesting of scopes; deeper ones are damaged input.
const MAX_DEPTH: usize = 64;

impl<'a> Parser<'a> {
    /// Parses everything up to the closing brace of the function.
    pub(super) fn body(&mut self, f: &mut Function) -> Result<(), ParseError> {
        self.scopes.push(Scope::default());
        let outer = self.scopes.len() - 1;
        loop {
            let token = self.next()?;
            match token.text {
                "{" => {
                    if self.scopes.len() > MAX_DEPTH {
                        return Err(self.error("scopes nested too deeply"));
                    }
                    let first_statement = f.statements.len();
                    self.scopes.push(Scope { first_statement, ..Scope::default() });
                }
                "}" => {
                    self.close_scope(f);
                    if self.scopes.len() == outer {
                        return self.check_labels(f);
                    }
                }
                ";" => {}
                _ => {
                    self.at -= 1;
                    self.statement(f)?;
                }
            }
        }
    }

    /// Binds the branches of the scope to its labels; unbound ones belong to an outer scope.
    fn close_scope(&mut self, f: &mut Function) {
        let Some(scope) = self.scopes.pop() else { return };
        if scope.labels.is_empty() {
            return;
        }
        for statement in &mut f.statements[scope.first_statement..] {
            let Statement::Instr(instr) = statement else { continue };
            if !instr.opcode.starts_with("br") {
                continue;
            }
            for operand in &mut instr.operands {
                let Operand::Symbol(name, 0) = operand else { continue };
                if let Some(&label) = scope.labels.get(name) {
                    *operand = Operand::Label(label);
                }
            }
        }
        for (_, names) in &mut f.tables {
            for index in names {
                let local = scope.labels.get(&f.labels[*index]);
                *index = local.copied().unwrap_or(*index);
            }
        }
    }

    fn check_labels(&self, f: &Function) -> Result<(), ParseError> {
        for statement in &f.statements {
            let Statement::Instr(instr) = statement else { continue };
            let plain = instr.opcode == "bra" || instr.opcode == "bra.uni";
            if let (true, Some(Operand::Symbol(name, _))) = (plain, instr.operands.first()) {
                let message = format!("there is no label `{name}`");
                return Err(ParseError::new(self.name, instr.line, message));
            }
        }
        Ok(())
    }

    fn statement(&mut self, f: &mut Function) -> Result<(), ParseError> {
        let token = self.next()?;
        if token.kind == TokenKind::Word && self.is(":") {
            self.at += 1;
            return self.label(token.text, f);
        }
        match token.text {
            ".reg" => self.declare_registers(),
            ".shared" | ".local" | ".param" | ".global" | ".const" => {
                self.at -= 1;
                for mut variable in self.variables(false)? {
                    let unique = format!("{}'{}", variable.name, self.unique);
                    self.unique += 1;
                    if let Some(scope) = self.scopes.last_mut() {
                        scope.variables.insert(variable.name.clone(), unique.clone());
                    }
                    variable.name = unique;
                    f.variables.push(variable);
                }
                Ok(())
            }
            ".loc" | ".file" => {
                self.at -= 1;
                self.skip_line();
                Ok(())
            }
            ".pragma" | ".callprototype" | ".calltargets" | ".minnctapersm" => {
                self.skip_statement()
            }
            ".branchtargets" => Err(self.error("`.branchtargets` without a label")),
            "@" => {
                let negated = self.take("!");
                let name = self.word()?;
                let register = self.register(name).filter(|r| r.ty == Ty::Pred);
                let register = register.ok_or_else(|| {
                    self.at -= 1;
                    self.error(format!("`{name}` is not a declared predicate"))
                })?;
                let mut instr = self.instruction()?;
                instr.guard = Some((register, negated));
                f.statements.push(Statement::Instr(instr));
                Ok(())
            }
            _ => {
                self.at -= 1;
                let instr = self.instruction()?;
                f.statements.push(Statement::Instr(instr));
                Ok(())
            }
        }
    }

    fn label(&mut self, name: &str, f: &mut Function) -> Result<(), ParseError> {
        if self.take(".branchtargets") {
            let mut targets = Vec::new();
            loop {
                // Bound to real labels when the scope closes; until then each target is a label of
                // its own.
                targets.push(f.labels.len());
                f.labels.push(self.word()?.to_owned());
                if !self.take(",") {
                    break;
                }
            }
            f.tables.push((name.to_owned(), targets));
            return self.expect(";");
        }
        if self.is(".callprototype") || self.is(".calltargets") {
            return self.skip_statement();
        }
        let index = f.labels.len();
        f.labels.push(name.to_owned());
        f.statements.push(Statement::Label(index));
        let known = self.scopes.last_mut().and_then(|s| s.labels.insert(name.to_owned(), index));
        if known.is_some() {
            return Err(self.error(format!("label `{name}` occurs twice")));
        }
        Ok(())
    }

    fn declare_registers(&mut self) -> Result<(), ParseError> {
        let word = self.word()?;
        if matches!(word, ".v2" | ".v4") {
            return Err(self.error("vector registers are not supported"));
        }
        let ty = Ty::parse(word.trim_start_matches('.'));
        let ty = ty.ok_or_else(|| self.error(format!("unknown type `{word}`")))?;
        loop {
            let name = self.word()?.to_owned();
            let mut range = None;
            if self.take("<") {
                range = Some(u64::from(self.count()?));
                self.expect(">")?;
            }
            let base = self.registers;
            self.registers = base.saturating_add(range.unwrap_or(1));
            if let Some(scope) = self.scopes.last_mut() {
                match range {
                    Some(count) => scope.ranges.push(Range { prefix: name, count, base, ty }),
                    None => {
                        scope.registers.insert(name, (base, ty));
                    }
                }
            }
            if !self.take(",") {
                return self.expect(";");
            }
        }
    }

    fn instruction(&mut self) -> Result<Instr, ParseError> {
        let line = self.line();
        let opcode = self.word()?.to_owned();
        if opcode.starts_with(['.', '%', '$']) {
            self.at -= 1;
            return Err(self.error(format!("`{opcode}` is not an instruction")));
        }
        let mut operands = Vec::new();
        while !self.take(";") {
            if operands.len() >= 64 {
                return Err(self.error("an instruction with too many operands"));
            }
            operands.push(self.operand()?);
            if !self.is(";") {
                self.expect(",")?;
            }
        }
        Ok(Instr { line, guard: None, opcode, operands })
    }
}
