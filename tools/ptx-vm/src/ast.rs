//! The syntax tree: output of the parser, input of the decoder.

use crate::types::Ty;

/// A declared register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RegRef {
    /// Unique in its function.
    pub id: u64,
    pub ty: Ty,
}

/// An argument of an instruction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    Reg(RegRef),
    /// `!%p1`
    Not(RegRef),
    /// `%tid.x` and the like
    Special(String),
    Int(i64),
    F32(u32),
    F64(u64),
    /// Index of a label
    Label(usize),
    /// A variable, parameter or function, plus bytes
    Symbol(String, i64),
    /// `[base+offset]`
    Memory(Box<Operand>, i64),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `%r1|%p1`
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)` of a call
    List(Vec<Operand>),
    /// `_`
    Sink,
}

/// One instruction as written.
#[derive(Debug, Clone)]
pub(crate) struct Instr {
    pub line: u32,
    /// Predicate and whether it is negated.
    pub guard: Option<(RegRef, bool)>,
    /// Opcode with all suffixes.
    pub opcode: String,
    pub operands: Vec<Operand>,
}

/// Instructions and labels in the order of the text.
#[derive(Debug, Clone)]
pub(crate) enum Statement {
    Instr(Instr),
    /// Index of the label.
    Label(usize),
}

/// State space of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Const,
    Param,
}

/// One entry of an initialiser.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Initial {
    Bits(u64),
    /// Address of a variable plus bytes
    Address(String, i64),
}

/// A declared variable or parameter.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub name: String,
    pub space: Space,
    pub ty: Ty,
    pub align: u64,
    /// Bytes; zero for `extern` arrays of open size.
    pub size: u64,
    pub initial: Vec<Initial>,
}

/// An entry or a device function.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub name: String,
    pub entry: bool,
    pub params: Vec<Variable>,
    pub returns: Vec<Variable>,
    pub variables: Vec<Variable>,
    pub statements: Vec<Statement>,
    /// Labels by index; the value is the name.
    pub labels: Vec<String>,
    pub max_threads: Option<u32>,
    /// `.branchtargets` lists: name and label indices.
    pub tables: Vec<(String, Vec<usize>)>,
    pub registers: u64,
    pub line: u32,
    pub has_body: bool,
}

/// The whole file.
#[derive(Debug, Clone, Default)]
pub(crate) struct File {
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
}
