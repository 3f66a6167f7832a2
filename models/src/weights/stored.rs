//! Tensors where they lie: as pages of a file, in memory, or in parts. Nothing is read or converted
//! before somebody asks.

use std::io::{self, Write};
use std::sync::Arc;

use dressage_engine::{DType, Pages, Tensor};
use half::bf16;

use super::elements::{Float, decode, encode};
use super::member::Member;
use crate::Result;

/// Type of the elements as a file holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float of IEEE 754.
    F16,
    /// 16-bit brain float.
    Bf16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// Byte.
    U8,
    /// Truth value, one byte, 0 or 1.
    Bool,
}

impl Kind {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Kind::F64 | Kind::I64 => 8,
            Kind::F32 | Kind::I32 => 4,
            Kind::F16 | Kind::Bf16 | Kind::I16 => 2,
            Kind::I8 | Kind::U8 | Kind::Bool => 1,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Kind::F64 | Kind::F32 | Kind::F16 | Kind::Bf16)
    }

    /// The engine's type of the same bytes.
    fn engine(self) -> Option<DType> {
        match self {
            Kind::F64 => Some(DType::F64),
            Kind::F32 => Some(DType::F32),
            Kind::Bf16 => Some(DType::Bf16),
            Kind::I32 => Some(DType::I32),
            Kind::U8 | Kind::Bool => Some(DType::U8),
            Kind::F16 | Kind::I64 | Kind::I16 | Kind::I8 => None,
        }
    }
}

impl From<DType> for Kind {
    fn from(dtype: DType) -> Kind {
        match dtype {
            DType::F64 => Kind::F64,
            DType::F32 => Kind::F32,
            DType::Bf16 => Kind::Bf16,
            DType::I32 => Kind::I32,
            DType::U8 => Kind::U8,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::F64 => "f64",
            Kind::F32 => "f32",
            Kind::F16 => "f16",
            Kind::Bf16 => "bf16",
            Kind::I64 => "i64",
            Kind::I32 => "i32",
            Kind::I16 => "i16",
            Kind::I8 => "i8",
            Kind::U8 => "u8",
            Kind::Bool => "bool",
        })
    }
}

/// A tensor as a file holds it.
#[derive(Debug, Clone)]
pub struct Stored {
    kind: Kind,
    shape: Vec<usize>,
    values: Values,
    /// The entry of an archive that holds the values.
    member: Option<Arc<Member>>,
}

#[derive(Debug, Clone)]
enum Values {
    /// Contiguous, in a type of the engine.
    Tensor(Tensor),
    /// Everything else in a file: another type, unaligned, or not in row-major order.
    Strided { map: Arc<Pages>, start: usize, strides: Vec<usize> },
    /// One after the other along the first axis, all of one kind.
    Rows(Vec<Stored>),
}

impl From<Tensor> for Stored {
    fn from(tensor: Tensor) -> Stored {
        let (kind, shape) = (tensor.dtype().into(), tensor.shape().to_vec());
        Stored { kind, shape, values: Values::Tensor(tensor), member: None }
    }
}

/// Strides, in elements, of row-major order.
pub(super) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

impl Stored {
    /// A tensor in a mapped file: `start` in bytes, `strides` in elements. The caller has checked
    /// that every element lies inside the map.
    pub(super) fn mapped(
        map: &Arc<Pages>,
        kind: Kind,
        start: usize,
        shape: Vec<usize>,
        strides: Vec<usize>,
    ) -> Stored {
        let ordered = shape.iter().zip(row_major(&shape)).zip(&strides);
        let contiguous =
            ordered.clone().all(|((n, want), have)| *n <= 1 || want == *have) || shape.contains(&0);
        let view = kind
            .engine()
            .filter(|_| contiguous)
            .and_then(|dtype| Tensor::from_map(map.clone(), start, dtype, &shape).ok());
        let values = match view {
            Some(tensor) => Values::Tensor(tensor),
            None => Values::Strided { map: map.clone(), start, strides },
        };
        Stored { kind, shape, values, member: None }
    }

    /// The same tensor as part of an entry of an archive.
    pub(super) fn inside(self, member: Option<Arc<Member>>) -> Stored {
        Stored { member, ..self }
    }

    /// Compares the values with the checksum that the file has of them, once for each entry of an
    /// archive; other files have none. What follows asks for values without asking for this.
    ///
    /// # Errors
    /// [`crate::ModelError::Read`] if they differ.
    pub fn check(&self) -> Result<()> {
        if let Values::Rows(parts) = &self.values {
            parts.iter().try_for_each(Stored::check)?;
        }
        self.member.as_ref().map_or(Ok(()), |member| member.check())
    }

    /// Tensors of equal trailing shape as one, stacked along the first axis; parts of different
    /// float types are widened to f32. `None` if they do not stack.
    pub fn stacked(mut parts: Vec<Stored>) -> Option<Stored> {
        let first = parts.first()?;
        let (kind, tail) = (first.kind, first.shape.get(1..)?.to_vec());
        if parts.iter().any(|p| p.shape.get(1..) != Some(tail.as_slice())) {
            return None;
        }
        if parts.iter().any(|p| p.kind != kind) {
            // What they were made from is checked when the whole is.
            let widened = parts
                .iter()
                .map(|p| Some(Stored::from(p.to_float(DType::F32)?).inside(p.member.clone())));
            parts = widened.collect::<Option<_>>()?;
        }
        let rows = parts.iter().map(|p| p.shape[0]).sum();
        let shape = [vec![rows], tail].concat();
        Some(Stored { kind: parts[0].kind, shape, values: Values::Rows(parts), member: None })
    }

    /// Type of the elements.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values as f32, f64 or bf16: the file's own pages where they are of that type already,
    /// else a copy, and the file's pages are let go. `None` for integers.
    pub fn to_float(&self, dtype: DType) -> Option<Tensor> {
        if !self.kind.is_float() {
            return None;
        }
        if let Some(view) = self.view(dtype) {
            return Some(view.clone());
        }
        let mut y = Tensor::empty_of(dtype, &self.shape);
        match dtype {
            DType::F32 => self.decode(y.data_mut::<f32>().ok()?),
            DType::F64 => self.decode(y.data_mut::<f64>().ok()?),
            DType::Bf16 => self.decode(y.data_mut::<bf16>().ok()?),
            DType::I32 | DType::U8 => return None,
        }
        self.release();
        Some(y)
    }

    /// The values where they lie, if they are of this type already.
    pub fn view(&self, dtype: DType) -> Option<&Tensor> {
        match &self.values {
            Values::Tensor(t) if t.dtype() == dtype => Some(t),
            _ => None,
        }
    }

    /// Lets go of the pages of a file behind the values, which are elsewhere now. They are read
    /// again if somebody asks again.
    pub fn release(&self) {
        match &self.values {
            Values::Tensor(tensor) => tensor.release(),
            Values::Rows(parts) => parts.iter().for_each(Stored::release),
            Values::Strided { map, start, strides } => {
                let axes = self.shape.iter().zip(strides);
                let last: usize = axes.map(|(n, stride)| n.saturating_sub(1) * stride).sum();
                map.release(*start..start + (last + 1) * self.kind.size());
            }
        }
    }

    /// The values as 64-bit integers, truth values as 0 and 1; `None` for floats.
    pub fn to_integers(&self) -> Option<Vec<i64>> {
        if self.kind.is_float() {
            return None;
        }
        let mut values = Vec::with_capacity(self.len());
        self.each_run(&mut |run| match self.kind {
            Kind::I64 => values.extend(run.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b))),
            Kind::I32 => {
                values.extend(run.as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))));
            }
            Kind::I16 => {
                values.extend(run.as_chunks().0.iter().map(|b| i64::from(i16::from_le_bytes(*b))));
            }
            Kind::I8 => values.extend(run.iter().map(|b| i64::from(*b as i8))),
            _ => values.extend(run.iter().map(|b| i64::from(*b))),
        });
        Some(values)
    }

    /// Writes the values to `out` in row-major order, little-endian, floats as `kind`; integers
    /// are written as they are.
    ///
    /// # Errors
    /// Whatever `out` fails with; a finite value beyond the largest of `kind`.
    pub fn write(&self, kind: Kind, out: &mut dyn Write) -> io::Result<()> {
        const CHUNK: usize = 1 << 16;
        let mut done = Ok(());
        let as_is = kind == self.kind || !(kind.is_float() && self.kind.is_float());
        let (mut values, mut bytes) = (Vec::<f64>::new(), Vec::new());
        self.each_run(&mut |run| {
            if done.is_err() {
                return;
            }
            if as_is {
                done = out.write_all(run);
                return;
            }
            for run in run.chunks(CHUNK * self.kind.size()) {
                values.resize(run.len() / self.kind.size(), 0.0);
                decode(self.kind, run, &mut values);
                bytes.clear();
                done = encode(kind, &values, &mut bytes).and_then(|()| out.write_all(&bytes));
                if done.is_err() {
                    return;
                }
            }
        });
        done
    }

    /// Calls `f` with the bytes of all elements in row-major order, in pieces.
    pub(super) fn each_run(&self, f: &mut dyn FnMut(&[u8])) {
        match &self.values {
            Values::Tensor(t) => f(t.bytes()),
            Values::Rows(parts) => parts.iter().for_each(|part| part.each_run(f)),
            Values::Strided { map, start, strides } => {
                strided_runs(&map[*start..], self.kind.size(), &self.shape, strides, f);
            }
        }
    }

    fn decode<T: Float>(&self, out: &mut [T]) {
        let (size, mut at) = (self.kind.size(), 0);
        self.each_run(&mut |run| {
            let n = run.len() / size;
            decode(self.kind, run, &mut out[at..at + n]);
            at += n;
        });
    }
}

/// Walks a strided view in row-major order. Axes at the end that lie in order make one piece.
fn strided_runs(
    bytes: &[u8],
    size: usize,
    shape: &[usize],
    strides: &[usize],
    f: &mut dyn FnMut(&[u8]),
) {
    if shape.contains(&0) {
        return;
    }
    let (mut run, mut outer) = (1, shape.len());
    while outer > 0 && (shape[outer - 1] == 1 || strides[outer - 1] == run) {
        outer -= 1;
        run *= shape[outer];
    }
    let mut index = vec![0; outer];
    let mut at = 0;
    loop {
        f(&bytes[at * size..(at + run) * size]);
        let mut axis = outer;
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers 0, 1, 2 ... as f32 in a mapped file, `shift` bytes behind its start.
    fn map(n: usize, shift: usize) -> Arc<Pages> {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(&vec![0; shift]).expect("written");
        for i in 0..n {
            file.write_all(&(i as f32).to_le_bytes()).expect("written");
        }
        Arc::new(Pages::of_file(&file).expect("map"))
    }

    fn floats(stored: &Stored) -> Vec<f32> {
        let t = stored.to_float(DType::F32).expect("floats");
        assert_eq!(t.shape(), stored.shape());
        t.data::<f32>().expect("f32").to_vec()
    }

    #[test]
    fn views_of_a_map_are_taken_in_place_and_others_decoded() {
        let file = map(24, 0);
        let whole = Stored::mapped(&file, Kind::F32, 8, vec![2, 3], vec![3, 1]);
        assert_eq!(floats(&whole), [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        let bytes = whole.to_float(DType::F32).expect("floats").bytes().as_ptr();
        assert_eq!(bytes, file[8..].as_ptr(), "no copy");
        let turned = Stored::mapped(&file, Kind::F32, 0, vec![3, 2, 2], vec![1, 12, 3]);
        assert_eq!(
            floats(&turned),
            [0.0, 3.0, 12.0, 15.0, 1.0, 4.0, 13.0, 16.0, 2.0, 5.0, 14.0, 17.0]
        );
        // Axes of length one have any stride; one value may stand for many.
        let one = Stored::mapped(&file, Kind::F32, 4, vec![1, 2, 1], vec![99, 1, 7]);
        assert_eq!(floats(&one), [1.0, 2.0]);
        let spread = Stored::mapped(&file, Kind::F32, 12, vec![2, 2], vec![0, 0]);
        assert_eq!(floats(&spread), [3.0; 4]);
        assert!(floats(&Stored::mapped(&file, Kind::F32, 96, vec![0, 4], vec![4, 1])).is_empty());
        let shifted = map(3, 1);
        let unaligned = Stored::mapped(&shifted, Kind::F32, 1, vec![3], vec![1]);
        assert_eq!(floats(&unaligned), [0.0, 1.0, 2.0]);
    }

    #[test]
    fn parts_stack_in_order_whatever_their_type() {
        let tensor = |v: &[f32]| Tensor::from_slice(v, &[v.len() / 2, 2]).expect("tensor");
        let (a, b) = (tensor(&[1.0, 2.0]), tensor(&[3.0, 4.0, 5.0, 6.0]));
        let both = Stored::stacked(vec![a.clone().into(), b.into()]).expect("stack");
        assert_eq!(
            (both.shape(), floats(&both)),
            (&[3, 2][..], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        );
        let wide = Tensor::from_slice(&[7.0f64, 8.0], &[1, 2]).expect("tensor");
        let both = Stored::stacked(vec![a.clone().into(), wide.into()]).expect("stack");
        assert_eq!((both.kind(), floats(&both)), (Kind::F32, vec![1.0, 2.0, 7.0, 8.0]));
        let other = Tensor::zeros(DType::F32, &[1, 3]);
        assert!(Stored::stacked(vec![a.into(), other.into()]).is_none());
        assert!(Stored::stacked(vec![Tensor::scalar(1.0f32).into()]).is_none());
    }

    #[test]
    fn floats_are_written_in_the_type_asked_for() {
        let t = Tensor::from_slice(&[1.0f32, -2.5, 65504.0], &[3]).expect("tensor");
        let written = |kind| {
            let mut out = Vec::new();
            Stored::from(t.clone()).write(kind, &mut out).expect("written");
            out
        };
        assert_eq!(written(Kind::F32), t.bytes());
        assert_eq!(written(Kind::F16), [0x00, 0x3c, 0x00, 0xc1, 0xff, 0x7b]);
        assert_eq!(written(Kind::Bf16), [0x80, 0x3f, 0x20, 0xc0, 0x80, 0x47]);
        let large = Stored::from(Tensor::full(&[2], 65_520.0f32));
        let error = large.write(Kind::F16, &mut Vec::new()).expect_err("too large");
        assert!(error.to_string().contains("65520"), "{error}");
        let flags = Stored::from(Tensor::from_slice(&[1u8, 0], &[2]).expect("tensor"));
        let mut out = Vec::new();
        flags.write(Kind::F32, &mut out).expect("written");
        assert_eq!(out, [1, 0], "integers stay");
        assert_eq!(flags.to_integers(), Some(vec![1, 0]));
        assert!(flags.to_float(DType::F32).is_none());
    }
}
