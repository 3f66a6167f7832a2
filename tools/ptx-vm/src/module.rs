//! A parsed PTX file and the kernels in it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ast::File;
use crate::decode;
use crate::error::ParseError;
use crate::parser;
use crate::program::Program;

/// Number of the next module: a device uses it to know which modules' variables are allocated.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A parameter of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Name in the PTX text.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Alignment in bytes.
    pub align: u64,
    /// Offset in the packed parameters.
    pub offset: u64,
}

/// Static properties of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Name, as mangled in the PTX text.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Bytes of static shared memory.
    pub static_shared: u64,
    /// Maximum threads of a block, if the source states it.
    pub max_threads: Option<u32>,
    /// Virtual registers of up to 32 bits, of 64 bits, and predicates, constants not counted.
    pub registers: [usize; 3],
    /// Bytes of local memory a thread.
    pub local: u64,
    /// Number of instructions.
    pub instructions: usize,
    /// Line of its head in the PTX text.
    pub line: u32,
}

/// A form of instruction that the machine does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownForm {
    /// Kernel that contains it.
    pub kernel: String,
    /// Line, counted from 1.
    pub line: u32,
    /// Opcode with suffixes.
    pub form: String,
}

/// A PTX file, ready to launch.
#[derive(Debug)]
pub struct Module {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) lines: Vec<String>,
    pub(crate) file: File,
    kernels: Vec<Kernel>,
    pub(crate) programs: Vec<Program>,
}

impl Module {
    /// Reads PTX text; `name` is used in messages. Instructions of unknown form are kept, see
    /// [`Module::unknown_forms`].
    ///
    /// # Errors
    /// [`ParseError`] with the line, if the text is not PTX.
    pub fn parse(name: &str, text: &str) -> Result<Module, ParseError> {
        let file = parser::parse(name, text)?;
        let entries = || file.functions.iter().filter(|f| f.entry && f.has_body);
        let programs: Vec<Program> = entries().map(|f| decode::decode(&file, f)).collect();
        let kernels = entries()
            .zip(&programs)
            .map(|(f, program)| {
                let mut offset = 0u64;
                let params = f.params.iter().map(|p| {
                    let at = offset.next_multiple_of(p.align);
                    offset = at + p.size;
                    Param { name: p.name.clone(), size: p.size, align: p.align, offset: at }
                });
                Kernel {
                    name: f.name.clone(),
                    params: params.collect(),
                    static_shared: program.static_shared,
                    max_threads: f.max_threads,
                    registers: [
                        program.rows32 - program.constants32.len(),
                        program.rows64 - program.constants64.len(),
                        program.masks,
                    ],
                    local: program.local_bytes,
                    instructions: program.code.len(),
                    line: f.line,
                }
            })
            .collect();
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let lines = text.lines().map(str::to_owned).collect();
        Ok(Module { id, name: name.to_owned(), lines, file, kernels, programs })
    }

    /// Returns the name given to [`Module::parse`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the kernels, in the order of the text.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// Returns the instructions that stop a launch when they are reached.
    pub fn unknown_forms(&self) -> Vec<UnknownForm> {
        let each = self.kernels.iter().zip(&self.programs);
        each.flat_map(|(kernel, program)| {
            program.unknown.iter().map(|(line, form)| UnknownForm {
                kernel: kernel.name.clone(),
                line: *line,
                form: form.clone(),
            })
        })
        .collect()
    }

    pub(crate) fn index(&self, kernel: &str) -> Option<usize> {
        self.kernels.iter().position(|k| k.name == kernel)
    }
}
