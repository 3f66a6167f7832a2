//! The parser: PTX text to functions and variables. Instructions are kept as written; the decoder
//! decides whether their form is known.

mod body;
mod operand;
mod variable;

use std::collections::HashMap;

use crate::ast::{File, Function, Space, Variable};
use crate::error::ParseError;
use crate::lexer::{self, Token, TokenKind};
use crate::types::Ty;

/// Maximum number of tokens of a file, so that damaged input cannot exhaust memory.
const MAX_TOKENS: usize = 1 << 26;

/// Reads a whole file.
pub(crate) fn parse(name: &str, source: &str) -> Result<File, ParseError> {
    let tokens = lexer::tokens(name, source)?;
    if tokens.len() > MAX_TOKENS {
        return Err(ParseError::new(name, 1, "the file is too long"));
    }
    let mut parser =
        Parser { name, tokens, at: 0, scopes: Vec::new(), registers: 0, unique: 0, depth: 0 };
    parser.file()
}

/// Registers declared as `%r<100>`.
struct Range {
    prefix: String,
    count: u64,
    base: u64,
    ty: Ty,
}

/// Names declared between `{` and `}`.
#[derive(Default)]
struct Scope {
    ranges: Vec<Range>,
    registers: HashMap<String, (u64, Ty)>,
    /// Map from the name in the text to the name that is unique in the function.
    variables: HashMap<String, String>,
    labels: HashMap<String, usize>,
    first_statement: usize,
}

struct Parser<'a> {
    name: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
    scopes: Vec<Scope>,
    registers: u64,
    unique: usize,
    /// Nesting depth of the operand that is being read
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    fn line(&self) -> u32 {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens.get(self.at.min(last)).map_or(1, |t| t.line)
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError::new(self.name, self.line(), message)
    }

    fn next(&mut self) -> Result<Token<'a>, ParseError> {
        let token = self.peek().ok_or_else(|| self.error("the file ends too early"))?;
        self.at += 1;
        Ok(token)
    }

    fn is(&self, text: &str) -> bool {
        self.peek().is_some_and(|t| t.text == text && t.kind != TokenKind::Text)
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.is(text);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, text: &str) -> Result<(), ParseError> {
        if self.take(text) {
            return Ok(());
        }
        let found = self.peek().map_or("the end of the file", |t| t.text);
        Err(self.error(format!("`{text}` expected, `{found}` found")))
    }

    fn word(&mut self) -> Result<&'a str, ParseError> {
        match self.peek() {
            Some(t) if t.kind == TokenKind::Word => {
                self.at += 1;
                Ok(t.text)
            }
            other => {
                let found = other.map_or("the end of the file", |t| t.text);
                Err(self.error(format!("a name expected, `{found}` found")))
            }
        }
    }

    /// Parses an unsigned number that fits 32 bits.
    fn count(&mut self) -> Result<u32, ParseError> {
        let value = self.integer()?;
        u32::try_from(value).map_err(|_| self.error(format!("{value} is out of range")))
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.peek().is_some_and(|t| t.line == line) {
            self.at += 1;
        }
    }

    fn skip_statement(&mut self) -> Result<(), ParseError> {
        while self.next()?.text != ";" {}
        Ok(())
    }

    fn skip_braces(&mut self) -> Result<(), ParseError> {
        while !self.take("{") {
            self.next()?;
        }
        let mut depth = 1;
        while depth > 0 {
            match self.next()?.text {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&mut self) -> Result<File, ParseError> {
        let mut file = File::default();
        let mut external = false;
        while let Some(token) = self.peek() {
            match token.text {
                ".version" | ".target" | ".file" | ".loc" | ".address_size" => self.skip_line(),
                ".extern" => {
                    external = true;
                    self.at += 1;
                    continue;
                }
                ".visible" | ".weak" | ".common" => self.at += 1,
                ".section" => self.skip_braces()?,
                ".pragma" | ".alias" => self.skip_statement()?,
                ".entry" | ".func" => {
                    let function = self.function()?;
                    add_function(&mut file.functions, function);
                }
                ".global" | ".const" | ".shared" => {
                    let found = self.variables(external)?;
                    file.variables.extend(found);
                }
                ";" => self.at += 1,
                other => return Err(self.error(format!("`{other}` has no place here"))),
            }
            external = false;
        }
        Ok(file)
    }

    fn function(&mut self) -> Result<Function, ParseError> {
        let line = self.line();
        let entry = self.next()?.text == ".entry";
        self.scopes = vec![Scope::default()];
        self.registers = 0;
        self.unique = 0;
        let mut returns = Vec::new();
        if !entry && self.is("(") {
            returns = self.parameters()?;
        }
        let name = self.word()?.to_owned();
        let params = if self.is("(") { self.parameters()? } else { Vec::new() };
        let mut function = Function {
            name,
            entry,
            params,
            returns,
            variables: Vec::new(),
            statements: Vec::new(),
            labels: Vec::new(),
            max_threads: None,
            tables: Vec::new(),
            registers: 0,
            line,
            has_body: false,
        };
        while !self.is("{") && !self.is(";") {
            self.function_directive(&mut function)?;
        }
        if self.take("{") {
            function.has_body = true;
            self.body(&mut function)?;
        }
        function.registers = self.registers;
        Ok(function)
    }

    fn function_directive(&mut self, function: &mut Function) -> Result<(), ParseError> {
        let directive = self.word()?;
        match directive {
            ".maxntid" | ".reqntid" => {
                let mut threads = u64::from(self.count()?);
                while self.take(",") {
                    threads = threads.saturating_mul(u64::from(self.count()?));
                }
                function.max_threads = Some(u32::try_from(threads).unwrap_or(u32::MAX));
            }
            ".minnctapersm" | ".maxnreg" | ".maxnctapersm" | ".maxclusterrank" => {
                self.count()?;
            }
            ".reqnctapercluster" => {
                self.count()?;
                while self.take(",") {
                    self.count()?;
                }
            }
            ".pragma" => self.skip_statement()?,
            ".noreturn" | ".explicitcluster" | ".unique" => {}
            ".attribute" => while self.next()?.text != ")" {},
            other => return Err(self.error(format!("unknown directive `{other}`"))),
        }
        Ok(())
    }

    /// Parses `(.param .u64 name, ...)`; the body can then use the names.
    fn parameters(&mut self) -> Result<Vec<Variable>, ParseError> {
        self.expect("(")?;
        let mut out = Vec::new();
        while !self.take(")") {
            let variable = match self.next()?.text {
                ".param" => self.variable(Space::Param, false)?,
                ".reg" => self.variable(Space::Param, false)?,
                other => return Err(self.error(format!("`.param` expected, `{other}` found"))),
            };
            out.push(variable);
            if !self.is(")") {
                self.expect(",")?;
            }
        }
        if let Some(scope) = self.scopes.last_mut() {
            for v in &out {
                scope.variables.insert(v.name.clone(), v.name.clone());
            }
        }
        Ok(out)
    }
}

/// Adds a function; a definition replaces its declaration, whichever comes first.
fn add_function(functions: &mut Vec<Function>, function: Function) {
    match functions.iter_mut().find(|f| f.name == function.name) {
        Some(known) if !known.has_body => *known = function,
        Some(_) if !function.has_body => {}
        _ => functions.push(function),
    }
}
