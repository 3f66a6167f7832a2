//! Decoding of branches, calls, barriers, operations across lanes, and matrix products.

use super::{Decoder, MAX_DEPTH};
use crate::ast::{Operand, Space};
use crate::program::{
    BarKind, BarReduce, Barrier, Class, Mma, MmaType, NONE, Op, ReduxOp, Shfl, ShflMode, VoteMode,
};
use crate::types::Ty;

impl<'f> Decoder<'f> {
    pub(super) fn control(&mut self, parts: &[&str], ops: &[Operand], line: u32) -> Option<()> {
        let frame = self.current;
        let (op, class) = match parts[0] {
            "bra" => {
                let Operand::Label(label) = ops.first()? else { return None };
                let at = self.emit(Op::Nop, Class::Control, line);
                self.frames[frame].fixups.push((at, Some(*label)));
                return Some(());
            }
            "brx" => return self.branch_index(ops, line),
            "ret" if self.frames[frame].parent.is_some() => {
                let at = self.emit(Op::Nop, Class::Control, line);
                self.frames[frame].fixups.push((at, None));
                return Some(());
            }
            "ret" | "exit" => (Op::Exit, Class::Control),
            "trap" | "brkpt" => (Op::Trap, Class::Control),
            "call" => return self.call(ops),
            "bar" if parts.get(1) == Some(&"warp") => {
                (Op::WarpSync(self.w(ops.first()?, Ty::B32)?), Class::Control)
            }
            "bar" | "barrier" => (self.barrier(parts, ops)?, Class::Control),
            "membar" | "fence" => {
                let known = parts[1..].iter().all(|p| {
                    matches!(
                        *p,
                        "cta"
                            | "gl"
                            | "sys"
                            | "gpu"
                            | "sc"
                            | "acq_rel"
                            | "acquire"
                            | "release"
                            | "cluster"
                            | "proxy"
                            | "alias"
                            | "async"
                            | "global"
                    )
                });
                known.then_some((Op::Nop, Class::Control))?
            }
            "nanosleep" | "griddepcontrol" | "pmevent" | "setmaxnreg" => (Op::Nop, Class::Control),
            "mma" => (self.mma(parts, ops)?, Class::Matrix),
            _ => (self.together(parts, ops)?, Class::Warp),
        };
        self.emit(op, class, line);
        Some(())
    }

    fn branch_index(&mut self, ops: &[Operand], line: u32) -> Option<()> {
        let index = self.w(ops.first()?, Ty::U32)?;
        let Operand::Symbol(name, _) = ops.get(1)? else { return None };
        let frame = self.current;
        let function = self.frames[frame].function;
        let (_, labels) = function.tables.iter().find(|(n, _)| n == name)?;
        let at = self.emit(Op::BranchIndex(index, Box::default()), Class::Control, line);
        self.frames[frame].tables.push((at, labels.clone()));
        Some(())
    }

    /// Inlines the callee; arguments and results are local variables already.
    fn call(&mut self, ops: &[Operand]) -> Option<()> {
        let name = ops.iter().find_map(|o| match o {
            Operand::Symbol(name, 0) => Some(name),
            _ => None,
        })?;
        let file = self.file;
        let callee = file.functions.iter().find(|f| &f.name == name && f.has_body)?;
        (self.depth < MAX_DEPTH).then_some(())?;
        let at = ops.iter().position(|o| matches!(o, Operand::Symbol(..)))?;
        let list = |o: Option<&Operand>| match o {
            Some(Operand::List(items)) => items.clone(),
            _ => Vec::new(),
        };
        let results = if at == 0 { Vec::new() } else { list(ops.first()) };
        let arguments = list(ops.get(at + 1));
        let fits = results.len() == callee.returns.len() && arguments.len() == callee.params.len();
        fits.then_some(())?;
        let id = self.frames.len();
        let pairs = callee.returns.iter().zip(&results);
        for (formal, actual) in pairs.chain(callee.params.iter().zip(&arguments)) {
            let Operand::Symbol(actual, 0) = actual else { return None };
            let place = self.place_of(actual)?;
            (place.0 == Space::Local).then_some(())?;
            self.places.insert((id, formal.name.clone()), place);
        }
        self.depth += 1;
        let parent = self.current;
        self.function(callee, Some(parent));
        self.depth -= 1;
        Some(())
    }

    fn barrier(&mut self, parts: &[&str], ops: &[Operand]) -> Option<Op> {
        let parts: Vec<&str> =
            parts[1..].iter().copied().filter(|p| !matches!(*p, "cta" | "aligned")).collect();
        let mut barrier = Barrier { id: 0, threads: NONE, arrive: false, reduce: None };
        match parts[..] {
            ["sync"] | ["arrive"] => {
                barrier.arrive = parts[0] == "arrive";
                barrier.id = self.w(ops.first()?, Ty::U32)?;
                if let Some(threads) = ops.get(1) {
                    barrier.threads = self.w(threads, Ty::U32)?;
                }
            }
            ["red", kind, _] => {
                barrier.id = self.w(ops.get(1)?, Ty::U32)?;
                if ops.len() == 4 {
                    barrier.threads = self.w(&ops[2], Ty::U32)?;
                }
                let (p, negated) = self.predicate(ops.last()?)?;
                let (kind, ty) = match kind {
                    "popc" => (BarKind::Popc, Ty::U32),
                    "and" => (BarKind::And, Ty::Pred),
                    "or" => (BarKind::Or, Ty::Pred),
                    _ => return None,
                };
                let d = self.dest(&ops[0], ty)?;
                barrier.reduce = Some(BarReduce { kind, d, p, negated });
            }
            _ => return None,
        }
        Some(Op::Barrier(Box::new(barrier)))
    }

    /// Decodes shuffles, votes, matches and reductions.
    fn together(&mut self, parts: &[&str], ops: &[Operand]) -> Option<Op> {
        match parts[..] {
            ["shfl", "sync", mode, "b32"] => self.shuffle(mode, ops),
            ["vote", "sync", mode, _] => {
                let (mode, ty) = match mode {
                    "all" => (VoteMode::All, Ty::Pred),
                    "any" => (VoteMode::Any, Ty::Pred),
                    "uni" => (VoteMode::Uni, Ty::Pred),
                    "ballot" => (VoteMode::Ballot, Ty::B32),
                    _ => return None,
                };
                let d = self.dest(ops.first()?, ty)?;
                let (p, negated) = self.predicate(ops.get(1)?)?;
                Some(Op::Vote(mode, d, p, negated, self.w(ops.get(2)?, Ty::B32)?))
            }
            ["match", mode @ ("any" | "all"), "sync", ty] => {
                let (d, p) = match ops.first()? {
                    Operand::Pair(d, p) => (self.dest_w(d)?, Some(self.dest_p(p)?)),
                    d => (self.dest_w(d)?, (mode == "all").then_some(NONE)),
                };
                let value = self.value(ops.get(1)?, Ty::parse(ty)?)?;
                Some(Op::Match(d, value, self.w(ops.get(2)?, Ty::B32)?, p))
            }
            ["redux", "sync", op, ty] => {
                let op = match (op, ty) {
                    ("add", "u32" | "s32") => ReduxOp::Add,
                    ("min", "u32") => ReduxOp::MinU,
                    ("max", "u32") => ReduxOp::MaxU,
                    ("min", "s32") => ReduxOp::MinS,
                    ("max", "s32") => ReduxOp::MaxS,
                    ("and", _) => ReduxOp::And,
                    ("or", _) => ReduxOp::Or,
                    ("xor", _) => ReduxOp::Xor,
                    _ => return None,
                };
                let (d, a) = (self.dest_w(ops.first()?)?, self.w(ops.get(1)?, Ty::B32)?);
                Some(Op::Redux(op, d, a, self.w(ops.get(2)?, Ty::B32)?))
            }
            ["activemask", "b32"] => Some(Op::ActiveMask(self.dest_w(ops.first()?)?)),
            ["elect", "sync"] => {
                let Operand::Pair(d, p) = ops.first()? else { return None };
                let d = if **d == Operand::Sink { NONE } else { self.dest_w(d)? };
                let p = self.dest_p(p)?;
                Some(Op::Elect(d, p, self.w(ops.get(1)?, Ty::B32)?))
            }
            _ => None,
        }
    }

    fn shuffle(&mut self, mode: &str, ops: &[Operand]) -> Option<Op> {
        let mode = match mode {
            "up" => ShflMode::Up,
            "down" => ShflMode::Down,
            "bfly" => ShflMode::Bfly,
            "idx" => ShflMode::Idx,
            _ => return None,
        };
        let (d, p) = match ops.first()? {
            Operand::Pair(d, p) => (self.dest_w(d)?, self.dest_p(p)?),
            d => (self.dest_w(d)?, NONE),
        };
        let mut rows = [0; 4];
        for (row, operand) in rows.iter_mut().zip(ops.get(1..5)?) {
            *row = self.w(operand, Ty::B32)?;
        }
        let [a, b, c, mask] = rows;
        Some(Op::Shfl(Box::new(Shfl { mode, d, p, a, b, c, mask })))
    }

    fn mma(&mut self, parts: &[&str], ops: &[Operand]) -> Option<Op> {
        let ["sync", "aligned", shape, "row", "col", "f32", a, b, "f32"] = parts[1..] else {
            return None;
        };
        let (ty, k) = match (a, shape) {
            ("bf16", "m16n8k16") => (MmaType::Bf16, 16),
            ("bf16", "m16n8k8") => (MmaType::Bf16, 8),
            ("f16", "m16n8k16") => (MmaType::F16, 16),
            ("f16", "m16n8k8") => (MmaType::F16, 8),
            ("tf32", "m16n8k8") => (MmaType::Tf32, 8),
            ("tf32", "m16n8k4") => (MmaType::Tf32, 4),
            _ => return None,
        };
        (a == b && ops.len() == 4).then_some(())?;
        let per_row = if ty == MmaType::Tf32 { 1 } else { 2 };
        let mut rows = Vec::new();
        let counts = [4, 16 * k as usize / 32 / per_row, 8 * k as usize / 32 / per_row, 4];
        for (n, (operand, count)) in ops.iter().zip(counts).enumerate() {
            let list = match operand {
                Operand::Vector(list) => &list[..],
                one => std::slice::from_ref(one),
            };
            (list.len() == count).then_some(())?;
            let ty = if n == 0 || n == 3 { Ty::F32 } else { Ty::B32 };
            let mut found = Vec::new();
            for item in list {
                found.push(if n == 0 { self.dest_w(item)? } else { self.w(item, ty)? });
            }
            rows.push(found);
        }
        let c = <[u32; 4]>::try_from(rows.pop()?).ok()?;
        let (b, a) = (rows.pop()?, rows.pop()?);
        let d = <[u32; 4]>::try_from(rows.pop()?).ok()?;
        Some(Op::Mma(Box::new(Mma { ty, k, d, a, b, c })))
    }
}
