//! The decoder: parsed instructions to [`Program`]s. Device functions are inlined into their
//! callers, so that a kernel is one list of operations.

mod control;
mod forms;
mod memory;
mod operand;
mod scalar;
mod vector;

use std::collections::HashMap;

use crate::ast::{File, Function, Instr, Operand, Space, Statement, Variable};
use crate::program::{Class, Constant, Inst, NONE, Op, Placed, Program, Reg, SHARED_GAP};
use crate::types::Ty;

/// Maximum depth of calls; deeper ones are treated as recursion.
const MAX_DEPTH: usize = 24;
/// Maximum number of instructions of a program, inlined functions included.
const MAX_CODE: usize = 1 << 20;

/// A function that is being inlined.
struct Frame<'f> {
    function: &'f Function,
    id: usize,
    /// Index of the instruction after each label
    labels: Vec<Option<u32>>,
    /// Target of `ret` in an inlined function
    end: Option<u32>,
    /// Branches to patch: instruction, label (`None`: the end)
    fixups: Vec<(usize, Option<usize>)>,
    tables: Vec<(usize, Vec<usize>)>,
    /// Index of the caller's frame
    parent: Option<usize>,
}

pub(crate) struct Decoder<'f> {
    file: &'f File,
    program: Program,
    frames: Vec<Frame<'f>>,
    current: usize,
    depth: usize,
    registers: HashMap<(usize, u64), Reg>,
    constants: HashMap<(bool, Constant), u32>,
    /// Offsets of parameters, shared and local variables by frame and name
    places: HashMap<(usize, String), (Space, u64)>,
    carry: Option<u32>,
}

/// Decodes one kernel.
pub(crate) fn decode(file: &File, function: &Function) -> Program {
    let mut decoder = Decoder {
        file,
        program: Program { dynamic_align: 16, ..Program::default() },
        frames: Vec::new(),
        current: 0,
        depth: 0,
        registers: HashMap::new(),
        constants: HashMap::new(),
        places: HashMap::new(),
        carry: None,
    };
    let mut at = 0u64;
    for param in &function.params {
        at = at.next_multiple_of(param.align);
        decoder.places.insert((0, param.name.clone()), (Space::Param, at));
        at += param.size;
    }
    decoder.program.param_bytes = at;
    decoder.function(function, None);
    decoder.finish()
}

impl<'f> Decoder<'f> {
    fn finish(mut self) -> Program {
        self.emit(Op::Exit, Class::Control, self.last_line());
        if self.program.code.len() > MAX_CODE {
            self.unknown_at(0, "a kernel too long to decode, by its calls");
        }
        let end = self.program.shared_bytes.next_multiple_of(self.program.dynamic_align);
        self.program.shared_bytes = end;
        self.program
    }

    fn last_line(&self) -> u32 {
        self.program.code.last().map_or(0, |i| i.line)
    }

    fn emit(&mut self, op: Op, class: Class, line: u32) -> usize {
        self.program.code.push(Inst { op, guard: NONE, negated: false, class, line });
        self.program.code.len() - 1
    }

    /// Appends the body of `function` to the program.
    fn function(&mut self, function: &'f Function, parent: Option<usize>) {
        let id = self.frames.len();
        self.frames.push(Frame {
            function,
            id,
            labels: vec![None; function.labels.len()],
            end: None,
            fixups: Vec::new(),
            tables: Vec::new(),
            parent,
        });
        let caller = std::mem::replace(&mut self.current, id);
        for variable in &function.variables {
            if variable.space != Space::Shared || parent.is_none() {
                self.place(id, variable);
            }
        }
        for statement in &function.statements {
            match statement {
                Statement::Label(index) => {
                    let at = self.program.code.len() as u32;
                    self.frames[id].labels[*index] = Some(at);
                }
                Statement::Instr(instr) => self.instruction(instr),
            }
        }
        self.frames[id].end = Some(self.program.code.len() as u32);
        self.bind(id);
        self.current = caller;
    }

    /// Assigns an offset to a variable.
    fn place(&mut self, frame: usize, variable: &Variable) {
        let program = &mut self.program;
        let key = (frame, variable.name.clone());
        let offset = match variable.space {
            Space::Shared if variable.size == 0 => {
                program.dynamic_align = program.dynamic_align.max(variable.align);
                program.dynamic_name = plain(&variable.name);
                self.places.insert(key, (Space::Shared, u64::MAX));
                return;
            }
            Space::Shared => {
                let packed = program.static_shared.next_multiple_of(variable.align);
                program.static_shared = packed + variable.size;
                let gaps = SHARED_GAP.max(variable.align) * program.shared.len() as u64;
                let offset = (packed + gaps).next_multiple_of(variable.align);
                let name = plain(&variable.name);
                program.shared.push(Placed { name, offset, size: variable.size });
                program.shared_bytes = offset + variable.size + SHARED_GAP;
                offset
            }
            // Parameters of calls are stored in the caller's local memory.
            _ => {
                let align = variable.align.max(8);
                let offset = program.local_bytes.next_multiple_of(align);
                program.local_bytes = offset + variable.size;
                offset
            }
        };
        let space = if variable.space == Space::Shared { Space::Shared } else { Space::Local };
        self.places.insert(key, (space, offset));
    }

    /// Patches the targets of a frame's branches.
    fn bind(&mut self, id: usize) {
        let frame = &self.frames[id];
        let find = |label: &Option<usize>| match label {
            Some(index) => frame.labels.get(*index).copied().flatten(),
            None => frame.end,
        };
        let bound: Vec<_> = frame.fixups.iter().map(|(at, label)| (*at, find(label))).collect();
        let tables: Vec<_> = frame
            .tables
            .iter()
            .map(|(at, labels)| (*at, labels.iter().map(|&l| find(&Some(l))).collect()))
            .collect::<Vec<(usize, Option<Vec<u32>>)>>();
        for (at, target) in bound {
            match target {
                Some(target) => self.program.code[at].op = Op::Branch(target),
                None => self.unknown_at(at, "a branch to a label that does not exist"),
            }
        }
        for (at, targets) in tables {
            match (targets, &mut self.program.code[at].op) {
                (Some(targets), Op::BranchIndex(_, list)) => *list = targets.into(),
                _ => self.unknown_at(at, "a branch to a label that does not exist"),
            }
        }
    }

    fn unknown_at(&mut self, at: usize, form: &str) {
        let index = self.program.unknown.len() as u32;
        let line = self.program.code[at].line;
        self.program.unknown.push((line, form.to_owned()));
        self.program.code[at].op = Op::Unknown(index);
    }

    fn instruction(&mut self, instr: &Instr) {
        if self.program.code.len() > MAX_CODE {
            return;
        }
        let guard = match instr.guard {
            Some((register, negated)) => match self.register(register) {
                Reg::P(p) => Some((p, negated)),
                _ => None,
            },
            None => None,
        };
        let from = self.program.code.len();
        let parts: Vec<&str> = instr.opcode.split('.').collect();
        let call = parts[0] == "call";
        // Lanes whose predicate is false jump over the call.
        let skip = guard.filter(|_| call).map(|(p, negated)| {
            let at = self.emit(Op::Nop, Class::Control, instr.line);
            (self.program.code[at].guard, self.program.code[at].negated) = (p, !negated);
            at
        });
        if self.form(&parts, instr).is_none() {
            self.program.code.truncate(skip.map_or(from, |at| at + 1));
            let at = self.emit(Op::Nop, Class::Control, instr.line);
            self.unknown_at(at, &self.form_name(instr));
        }
        if let Some(at) = skip {
            let next = self.program.code.len() as u32;
            self.program.code[at].op = Op::Branch(next);
        } else if let Some((p, negated)) = guard {
            for inst in &mut self.program.code[from..] {
                (inst.guard, inst.negated) = (p, negated);
            }
        }
    }

    /// Returns the opcode, and for a call the function's name.
    fn form_name(&self, instr: &Instr) -> String {
        let callee = instr.operands.iter().find_map(|o| match o {
            Operand::Symbol(name, _) if instr.opcode.starts_with("call") => Some(name),
            _ => None,
        });
        match callee {
            Some(name) => format!("{} {name}", instr.opcode),
            None => instr.opcode.clone(),
        }
    }

    /// Emits the operations of an instruction; returns `None` if its form is not known.
    fn form(&mut self, parts: &[&str], instr: &Instr) -> Option<()> {
        let (ops, line) = (&instr.operands[..], instr.line);
        match parts[0] {
            "ld" | "ldu" | "st" | "atom" | "red" | "cvta" | "isspacep" | "ldmatrix"
            | "movmatrix" | "prefetch" | "prefetchu" | "applypriority" | "discard" => {
                self.memory(parts, ops, line)
            }
            "cp" => self.copy(parts, ops, line),
            "bra" | "brx" | "ret" | "exit" | "trap" | "brkpt" | "call" | "bar" | "barrier"
            | "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" | "membar" | "fence"
            | "nanosleep" | "griddepcontrol" | "pmevent" | "setmaxnreg" | "mma" => {
                self.control(parts, ops, line)
            }
            _ => self.arithmetic(parts, ops, line),
        }
    }
}

/// Returns the name in the source, without the suffix that makes it unique.
pub(crate) fn plain(name: &str) -> String {
    name.split('\'').next().unwrap_or(name).to_owned()
}

/// Whether a type needs 64-bit rows; all narrower types use rows of 32 bits.
fn is_wide(ty: Ty) -> bool {
    ty.bits() == 64
}
