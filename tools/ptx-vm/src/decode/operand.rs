//! Decoding of operands to rows.

use super::{Decoder, is_wide};
use crate::ast::{Operand, RegRef, Space};
use crate::exec::float::{self, F16};
use crate::exec::scalar::Rounding;
use crate::program::{Constant, LOCAL_WINDOW, PARAM_WINDOW, Reg, SHARED_WINDOW, Special};
use crate::types::Ty;

impl Decoder<'_> {
    /// Returns the row of a declared register.
    pub(super) fn register(&mut self, r: RegRef) -> Reg {
        let key = (self.frames[self.current].id, r.id);
        if let Some(&known) = self.registers.get(&key) {
            return known;
        }
        let program = &mut self.program;
        let new = match r.ty {
            Ty::Pred => {
                program.masks += 1;
                Reg::P(program.masks as u32 - 1)
            }
            ty if is_wide(ty) => Reg::D(self.row64()),
            // No supported instruction takes 128-bit registers.
            Ty::B128 => Reg::None,
            _ => Reg::W(self.row32()),
        };
        self.registers.insert(key, new);
        new
    }

    pub(super) fn row32(&mut self) -> u32 {
        self.program.rows32 += 1;
        self.program.rows32 as u32 - 1
    }

    pub(super) fn row64(&mut self) -> u32 {
        self.program.rows64 += 1;
        self.program.rows64 as u32 - 1
    }

    /// Returns a row with a constant.
    pub(super) fn constant(&mut self, wide: bool, value: Constant) -> Reg {
        let row = match self.constants.get(&(wide, value)) {
            Some(&row) => row,
            None => {
                let row = if wide { self.row64() } else { self.row32() };
                let list = if wide {
                    &mut self.program.constants64
                } else {
                    &mut self.program.constants32
                };
                list.push((row, value));
                self.constants.insert((wide, value), row);
                row
            }
        };
        if wide { Reg::D(row) } else { Reg::W(row) }
    }

    /// Returns the row of a source operand of a type.
    pub(super) fn value(&mut self, operand: &Operand, ty: Ty) -> Option<Reg> {
        let wide = is_wide(ty);
        let found = match operand {
            Operand::Reg(r) => self.register(*r),
            Operand::Special(name) => {
                let special = special(name)?;
                self.constant(wide, Constant::Special(special))
            }
            Operand::Symbol(name, offset) => {
                let constant = self.address(name, *offset, false)?;
                self.constant(wide, constant)
            }
            other => {
                let bits = immediate(other, ty)?;
                self.constant(wide, Constant::Bits(bits))
            }
        };
        let fits = match found {
            Reg::W(_) => !wide && ty != Ty::Pred,
            Reg::D(_) => wide,
            Reg::P(_) => ty == Ty::Pred,
            Reg::None => false,
        };
        fits.then_some(found)
    }

    /// Returns the row of a source of at most 32 bits.
    pub(super) fn w(&mut self, operand: &Operand, ty: Ty) -> Option<u32> {
        match self.value(operand, ty)? {
            Reg::W(row) => Some(row),
            _ => None,
        }
    }

    /// Returns the row of a destination.
    pub(super) fn dest(&mut self, operand: &Operand, ty: Ty) -> Option<Reg> {
        matches!(operand, Operand::Reg(_)).then_some(())?;
        self.value(operand, ty)
    }

    pub(super) fn dest_w(&mut self, operand: &Operand) -> Option<u32> {
        match self.dest(operand, Ty::B32)? {
            Reg::W(row) => Some(row),
            _ => None,
        }
    }

    /// Returns a predicate and whether it is negated.
    pub(super) fn predicate(&mut self, operand: &Operand) -> Option<(u32, bool)> {
        let (register, negated) = match operand {
            Operand::Reg(r) => (*r, false),
            Operand::Not(r) => (*r, true),
            Operand::Int(v) => return Some((self.constant_mask(*v != 0), false)),
            _ => return None,
        };
        match self.register(register) {
            Reg::P(p) => Some((p, negated)),
            _ => None,
        }
    }

    /// Returns a destination predicate.
    pub(super) fn dest_p(&mut self, operand: &Operand) -> Option<u32> {
        matches!(operand, Operand::Reg(_)).then_some(())?;
        self.predicate(operand).map(|(p, _)| p)
    }

    fn constant_mask(&mut self, truth: bool) -> u32 {
        let program = &mut self.program;
        let known = program.constant_masks.iter().find(|(_, t)| *t == truth);
        if let Some(&(p, _)) = known {
            return p;
        }
        program.masks += 1;
        let p = program.masks as u32 - 1;
        program.constant_masks.push((p, truth));
        p
    }

    /// Returns the address of a variable, in its own space or as a generic one.
    pub(super) fn address(&mut self, name: &str, by: i64, generic: bool) -> Option<Constant> {
        let (space, offset) = match self.place_of(name) {
            Some(found) => found,
            None => {
                let index = self.file.variables.iter().position(|v| v.name == name)?;
                let variable = &self.file.variables[index];
                if variable.space != Space::Shared {
                    return Some(Constant::Variable(index, by));
                }
                // Shared arrays of the module are placed in each kernel that uses them.
                self.place(0, variable);
                self.places.get(&(0, name.to_owned())).copied()?
            }
        };
        let window = match space {
            Space::Shared if generic => SHARED_WINDOW,
            Space::Local if generic => LOCAL_WINDOW,
            Space::Param => PARAM_WINDOW,
            _ => 0,
        };
        if offset == u64::MAX {
            return Some(Constant::DynamicShared(by.wrapping_add(window as i64)));
        }
        Some(Constant::Bits(window.wrapping_add(offset).wrapping_add(by as u64)))
    }

    /// Returns space and offset of a name: of this function, or of the kernel for shared arrays.
    pub(super) fn place_of(&self, name: &str) -> Option<(Space, u64)> {
        let id = self.frames[self.current].id;
        let own = self.places.get(&(id, name.to_owned()));
        let kernel = || self.places.get(&(0, name.to_owned()));
        own.or_else(|| kernel().filter(|(space, _)| *space == Space::Shared)).copied()
    }
}

/// Converts an immediate to the bits of a type.
pub(super) fn immediate(operand: &Operand, ty: Ty) -> Option<u64> {
    let float = match operand {
        Operand::F32(bits) => f64::from(f32::from_bits(*bits)),
        Operand::F64(bits) => f64::from_bits(*bits),
        Operand::Int(v) if matches!(ty, Ty::F32 | Ty::F64) => *v as f64,
        Operand::Int(v) => {
            return Some(if ty.bits() >= 64 { *v as u64 } else { *v as u64 & mask(ty) });
        }
        _ => return None,
    };
    Some(match ty {
        Ty::F64 | Ty::B64 => match operand {
            Operand::F64(bits) => *bits,
            _ => float.to_bits(),
        },
        Ty::F16 => float::narrow(float, F16, Rounding::Nearest),
        Ty::F32 | Ty::B32 | Ty::Tf32 => match operand {
            Operand::F32(bits) => u64::from(*bits),
            _ => u64::from((float as f32).to_bits()),
        },
        _ => return None,
    })
}

fn mask(ty: Ty) -> u64 {
    (1 << ty.bits()) - 1
}

/// Parses the special registers that are constant while a warp runs.
fn special(name: &str) -> Option<Special> {
    let axis = |text: &str| match text {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((base, tail)) = name.split_once('.') {
        let axis = axis(tail)?;
        return Some(match base {
            "%tid" => Special::Tid(axis),
            "%ntid" => Special::Ntid(axis),
            "%ctaid" => Special::Ctaid(axis),
            "%nctaid" => Special::Nctaid(axis),
            // Without clusters each block is its own cluster.
            "%clusterid" => Special::Ctaid(axis),
            "%nclusterid" => Special::Nctaid(axis),
            "%cluster_ctaid" => Special::Zero,
            "%cluster_nctaid" => Special::One,
            _ => return None,
        });
    }
    Some(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::WarpCount,
        "%smid" | "%gridid" | "%cluster_ctarank" => Special::Zero,
        "%nsmid" | "%cluster_nctarank" => Special::One,
        "%lanemask_eq" => Special::MaskEq,
        "%lanemask_le" => Special::MaskLe,
        "%lanemask_lt" => Special::MaskLt,
        "%lanemask_ge" => Special::MaskGe,
        "%lanemask_gt" => Special::MaskGt,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        _ => return None,
    })
}
