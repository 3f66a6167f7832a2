//! The decoded form of a kernel. Registers, constants and special registers are all numbered rows,
//! so hot code has only one kind of operand.

use crate::ast::Space;
use crate::exec::scalar::{Cmp, Mods, ScalarFn};

/// No register.
pub(crate) const NONE: u32 = u32::MAX;

/// A register of one of the three files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reg {
    None,
    /// Up to 32 bits a lane
    W(u32),
    /// 64 bits a lane
    D(u32),
    /// A mask of lanes
    P(u32),
}

/// Special registers that are constant while a warp runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    WarpCount,
    /// Zero: one multiprocessor, one grid
    Zero,
    One,
    MaskEq,
    MaskLe,
    MaskLt,
    MaskGe,
    MaskGt,
    DynamicShared,
    TotalShared,
}

/// A constant row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u64),
    Special(Special),
    /// Address of a module variable plus bytes
    Variable(usize, i64),
    /// Start of dynamic shared memory plus bytes
    DynamicShared(i64),
}

/// Operations on 32-bit rows that run on all lanes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum V32 {
    Mov,
    Add,
    Sub,
    Mul,
    Mad,
    And,
    Or,
    Xor,
    Not,
    Neg,
    Shl,
    ShrU,
    ShrS,
    MinS,
    MaxS,
    MinU,
    MaxU,
    Lop3(u8),
    ShfWrapL,
    FAdd(bool),
    FSub(bool),
    FMul(bool),
    FFma(bool),
    FNeg,
    FAbs,
    FMin(bool),
    FMax(bool),
    /// Two 16-bit halves, the first one lower
    Pack16,
    /// The lower half
    Low16,
    /// The upper half
    High16,
    /// Two f32 to bf16 to nearest even, the first one upper
    Bf16x2,
    /// f32 to bf16, to nearest even
    Bf16,
    /// Signed integer to f32, to nearest even
    FromS32,
    /// f32 to signed integer, towards zero, clamped, NaN to zero
    ToS32,
}

/// Operations with 64-bit results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum V64 {
    Mov,
    Add,
    Sub,
    And,
    Or,
    /// Count in a 32-bit row
    Shl,
    ShrU,
    ShrS,
    /// 32-bit factors
    MulWideS,
    MulWideU,
    /// 32-bit factors, 64-bit term
    MadWideS,
    MadWideU,
    /// 32-bit source
    ExtendS,
    ExtendU,
    /// Two 32-bit sources, the first one lower
    Pack32,
}

/// Type of a comparison.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Test {
    S32(Cmp),
    U32(Cmp),
    /// Comparison, and whether operands are flushed to zero
    F32(Cmp, bool),
    Scalar(ScalarFn, Mods),
}

/// Operation that combines the result of setp with a third predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    And,
    Or,
    Xor,
}

/// Operations between masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PredOp {
    Mov,
    Not,
    And,
    Or,
    Xor,
}

#[derive(Debug, Clone)]
pub(crate) struct Setp {
    pub test: Test,
    pub d: u32,
    /// Second destination: the negated result, or of the upper half
    pub q: u32,
    pub upper: Option<ScalarFn>,
    pub a: Reg,
    pub b: Reg,
    /// Operation, predicate, negated
    pub join: Option<(Join, u32, bool)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub f: ScalarFn,
    pub mods: Mods,
    pub d: Reg,
    pub s: [Reg; 4],
    /// Bits kept of the result
    pub bits: u32,
}

/// Arithmetic with the carry flag.
#[derive(Debug, Clone)]
pub(crate) struct Carry {
    pub d: Reg,
    pub s: [Reg; 3],
    pub bits: u32,
    pub signed: bool,
    pub kind: CarryKind,
    pub carry_in: bool,
    pub carry_out: bool,
    /// Mask that stores the flag
    pub flag: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CarryKind {
    Add,
    Sub,
    MadLo,
    MadHi,
}

/// A load or store.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub space: Space,
    /// Bytes of one element
    pub width: u32,
    pub signed: bool,
    pub regs: Vec<Reg>,
    pub base: Reg,
    pub offset: i64,
}

/// Operations of atom and red.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum AtomOp {
    Add,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Min,
    Max,
    Inc,
    Dec,
}

#[derive(Debug, Clone)]
pub(crate) struct Atomic {
    pub op: AtomOp,
    pub ty: crate::types::Ty,
    pub space: Space,
    pub d: Reg,
    pub base: Reg,
    pub offset: i64,
    pub b: Reg,
    pub c: Reg,
    /// Noftz vector forms repeat the operation on consecutive words.
    pub more: Vec<Reg>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Debug, Clone)]
pub(crate) struct Shfl {
    pub mode: ShflMode,
    pub d: u32,
    pub p: u32,
    pub a: u32,
    pub b: u32,
    pub c: u32,
    pub mask: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReduxOp {
    Add,
    MinS,
    MaxS,
    MinU,
    MaxU,
    And,
    Or,
    Xor,
}

#[derive(Debug, Clone)]
pub(crate) struct Barrier {
    /// Row with the number of the barrier
    pub id: u32,
    /// Row with the number of threads, or `NONE` for all
    pub threads: u32,
    /// Arrive without waiting
    pub arrive: bool,
    pub reduce: Option<BarReduce>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct BarReduce {
    pub kind: BarKind,
    pub d: Reg,
    pub p: u32,
    pub negated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarKind {
    Popc,
    And,
    Or,
}

/// Element type of a matrix product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MmaType {
    Bf16,
    F16,
    Tf32,
}

/// `mma.sync` with 16 rows and 8 columns, f32 accumulators.
#[derive(Debug, Clone)]
pub(crate) struct Mma {
    pub ty: MmaType,
    /// Inner size: 4, 8 or 16
    pub k: u32,
    pub d: [u32; 4],
    pub a: Vec<u32>,
    pub b: Vec<u32>,
    pub c: [u32; 4],
}

#[derive(Debug, Clone)]
pub(crate) struct Ldmatrix {
    pub d: Vec<u32>,
    pub trans: bool,
    pub space: Space,
    pub base: Reg,
    pub offset: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct CpAsync {
    pub bytes: u32,
    pub dst: Reg,
    pub dst_offset: i64,
    pub src: Reg,
    pub src_offset: i64,
    /// Row with the number of source bytes, or `NONE`
    pub size: Reg,
    /// Predicate that makes the copy write zeros only, negated or not
    pub ignore: Option<(u32, bool)>,
}

/// Moves between one register and several narrower ones.
#[derive(Debug, Clone)]
pub(crate) struct Pack {
    pub whole: Reg,
    pub parts: Vec<Reg>,
    /// Bits of one part
    pub bits: u32,
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    V32(V32, u32, [u32; 3]),
    V64(V64, u32, [u32; 3]),
    Selp32(u32, u32, u32, u32),
    Selp64(u32, u32, u32, u32),
    Setp(Box<Setp>),
    Pred(PredOp, u32, u32, u32),
    Scalar(Box<Scalar>),
    Carry(Box<Carry>),
    Pack(Box<Pack>),
    Unpack(Box<Pack>),
    Branch(u32),
    /// Row of the index, targets
    BranchIndex(u32, Box<[u32]>),
    Exit,
    Trap,
    Nop,
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    Shfl(Box<Shfl>),
    /// Mode, destination, predicate, negated, row of the member mask
    Vote(VoteMode, Reg, u32, bool, u32),
    ActiveMask(u32),
    /// Destination, value, row of the member mask, all-form's predicate
    Match(u32, Reg, u32, Option<u32>),
    Redux(ReduxOp, u32, u32, u32),
    /// Destination row, predicate, row of the member mask
    Elect(u32, u32, u32),
    WarpSync(u32),
    Barrier(Box<Barrier>),
    Mma(Box<Mma>),
    Ldmatrix(Box<Ldmatrix>),
    /// Transpose of an 8x8 matrix of 16-bit values in the warp's registers: destination, source
    Movmatrix(u32, u32),
    CpAsync(Box<CpAsync>),
    CpCommit,
    /// Groups that may stay open
    CpWait(u32),
    Clock(Reg),
    /// `isspacep`: destination, address, space
    IsSpace(u32, Reg, Space),
    /// Index into the names of unknown forms.
    Unknown(u32),
}

/// Classes in which instructions are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Integer, logic, compare, select, convert, move.
    Integer,
    /// f32, f64, f16 and bf16 arithmetic.
    Float,
    /// Sine, exponential, reciprocal and similar functions.
    Special,
    /// Branches, returns, barriers and synchronisation.
    Control,
    /// Loads, stores, copies and atomics.
    Memory,
    /// Shuffles, votes and reductions inside a warp.
    Warp,
    /// Matrix products.
    Matrix,
}

#[derive(Debug, Clone)]
pub(crate) struct Inst {
    pub op: Op,
    /// Predicate, or `NONE`
    pub guard: u32,
    pub negated: bool,
    pub class: Class,
    pub line: u32,
}

/// A variable in shared memory.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub name: String,
    pub offset: u64,
    pub size: u64,
}

/// A kernel ready to run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Program {
    pub code: Vec<Inst>,
    pub rows32: usize,
    pub rows64: usize,
    pub masks: usize,
    pub constants32: Vec<(u32, Constant)>,
    pub constants64: Vec<(u32, Constant)>,
    /// Predicates that are constant
    pub constant_masks: Vec<(u32, bool)>,
    pub shared: Vec<Placed>,
    /// Bytes before dynamic shared memory, in the padded layout
    pub shared_bytes: u64,
    /// Bytes as declared
    pub static_shared: u64,
    pub dynamic_align: u64,
    pub dynamic_name: String,
    pub local_bytes: u64,
    pub param_bytes: u64,
    /// Unknown forms, with their lines
    pub unknown: Vec<(u32, String)>,
    /// Whether blocks must run one after another: the order of their atomics affects the result
    pub ordered: bool,
    /// Whether there are atomics on memory that blocks share
    pub global_atomics: bool,
}

/// First generic address of shared memory.
pub(crate) const SHARED_WINDOW: u64 = 0x0100_0000;
/// First generic address of local memory.
pub(crate) const LOCAL_WINDOW: u64 = 0x0200_0000;
/// First generic address of parameters.
pub(crate) const PARAM_WINDOW: u64 = 0x0300_0000;
/// Bytes of each window.
pub(crate) const WINDOW: u64 = 0x0100_0000;
/// Unused bytes between variables in shared memory: all 32 banks once. So the banks of the
/// following variables do not change.
pub(crate) const SHARED_GAP: u64 = 128;
