//! Instructions that are executed one lane at a time: a plain function and its modifiers. The few
//! forms that matter for speed are in `vector`.

use std::cmp::Ordering;

use crate::types::Ty;

/// Function from up to four sources (zero-extended bits) to the destination's bits.
pub(crate) type ScalarFn = fn(&Mods, [u64; 4]) -> u64;

/// Rounding of a float result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero.
    NearestAway,
    Zero,
    Down,
    Up,
}

/// Comparisons; the `u` forms hold if an operand is NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

impl Cmp {
    pub fn parse(text: &str) -> Option<Cmp> {
        Some(match text {
            "eq" => Cmp::Eq,
            "ne" => Cmp::Ne,
            "lt" | "lo" => Cmp::Lt,
            "le" | "ls" => Cmp::Le,
            "gt" | "hi" => Cmp::Gt,
            "ge" | "hs" => Cmp::Ge,
            "equ" => Cmp::Equ,
            "neu" => Cmp::Neu,
            "ltu" => Cmp::Ltu,
            "leu" => Cmp::Leu,
            "gtu" => Cmp::Gtu,
            "geu" => Cmp::Geu,
            "num" => Cmp::Num,
            "nan" => Cmp::Nan,
            _ => return None,
        })
    }

    /// Whether the comparison holds for an order of the operands; `None` if one is NaN.
    pub fn holds(self, order: Option<Ordering>) -> bool {
        use Ordering::{Equal, Greater, Less};
        match order {
            None => !matches!(
                self,
                Cmp::Eq | Cmp::Ne | Cmp::Lt | Cmp::Le | Cmp::Gt | Cmp::Ge | Cmp::Num
            ),
            Some(o) => match self {
                Cmp::Eq | Cmp::Equ => o == Equal,
                Cmp::Ne | Cmp::Neu => o != Equal,
                Cmp::Lt | Cmp::Ltu => o == Less,
                Cmp::Le | Cmp::Leu => o != Greater,
                Cmp::Gt | Cmp::Gtu => o == Greater,
                Cmp::Ge | Cmp::Geu => o != Less,
                Cmp::Num => true,
                Cmp::Nan => false,
            },
        }
    }
}

/// Modifiers from the suffixes of an instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mods {
    /// Type of the operation, or of the destination of a conversion.
    pub ty: Ty,
    /// Type of the source of a conversion.
    pub from: Ty,
    pub rounding: Rounding,
    /// Round to a whole number first (`rni` and so on).
    pub integral: bool,
    pub ftz: bool,
    pub sat: bool,
    /// `.NaN` of min and max
    pub nan: bool,
    pub relu: bool,
    /// `.wrap`, or `.shiftamt` of bfind
    pub wrap: bool,
    pub cmp: Cmp,
    /// Table of lop3, mode of prmt
    pub mode: u8,
    /// Bits of the destination register.
    pub register: u32,
}

impl Mods {
    pub fn new(ty: Ty) -> Self {
        Self {
            ty,
            from: ty,
            rounding: Rounding::Nearest,
            integral: false,
            ftz: false,
            sat: false,
            nan: false,
            relu: false,
            wrap: false,
            cmp: Cmp::Eq,
            mode: 0,
            register: 32,
        }
    }
}
