//! Meaning of names and calls for the unpickler.

use super::value::{Class, Global, Node, Span, Storage, StorageType, StridedView, Value};
use super::{Machine, PickleResult};
use crate::weights::ScalarType;

impl Machine<'_> {
    /// Handles opcodes of names, calls and storages.
    pub(super) fn call(&mut self, op: u8) -> PickleResult<bool> {
        match op {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let global = self.global(module, name)?;
                self.push(Value::Global(global))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (module, name) else {
                    return Err(self.damaged("a class has no name"));
                };
                let global = self.global(module, name)?;
                self.push(Value::Global(global))?;
            }
            b'R' | 0x81 => {
                let (args, callee) = (self.pop()?, self.pop()?);
                let value = self.result(callee, args)?;
                self.push(value)?;
            }
            0x92 => {
                let (_keywords, args, callee) = (self.pop()?, self.pop()?, self.pop()?);
                let value = self.result(callee, args)?;
                self.push(value)?;
            }
            b'b' => {
                let state = self.pop()?;
                if let Some(Node::Object(_, attributes)) = self.top()? {
                    *attributes = state;
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let value = self.storage(id)?;
                self.push(value)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn global(&mut self, module: Span, name: Span) -> PickleResult<Global> {
        let (m, n) = (self.tree.piece(module), self.tree.piece(name));
        Ok(match (m, n) {
            (b"torch._utils", b"_rebuild_tensor_v2" | b"_rebuild_tensor") => Global::Tensor,
            (b"torch._utils", b"_rebuild_parameter" | b"_rebuild_parameter_with_state") => {
                Global::Parameter
            }
            (b"torch._tensor", b"_rebuild_from_type_v2") => Global::FromType,
            (b"collections", b"OrderedDict" | b"defaultdict") => Global::Dict,
            (b"torch", b"Size") => Global::Size,
            (b"torch.jit._pickle", b"restore_type_tag") => Global::TypeTag,
            (b"torch" | b"torch.storage", _) if element(n).is_some() => {
                element(n).map_or(Global::Size, Global::Storage)
            }
            _ => {
                self.charge(2 * size_of::<(Span, Span)>())?;
                let class = Class(self.tree.classes.len() as u32);
                self.tree.classes.push((module, name));
                match m.starts_with(b"__torch__") {
                    true => Global::Script(class),
                    false => Global::Unknown(class),
                }
            }
        })
    }

    /// The first items of a tuple, without a copy of the rest: it may be long and read often.
    fn first<const N: usize>(&self, tuple: Value) -> Option<[Option<Value>; N]> {
        let items = self.tree.items(tuple)?;
        Some(std::array::from_fn(|i| items.get(i).copied()))
    }

    /// Value that a call stands for.
    fn result(&mut self, callee: Value, args: Value) -> PickleResult<Value> {
        let Value::Global(mut global) = callee else {
            return match callee {
                // A method of an unknown class.
                Value::Opaque(class) => Ok(Value::Opaque(class)),
                _ => Err(self.damaged("it calls something that is not a function")),
            };
        };
        let Some(mut items) = self.first::<4>(args) else {
            return Err(self.damaged("a call has no arguments"));
        };
        if global == Global::FromType {
            // Its arguments are the function that makes the tensor and the arguments of this
            // function.
            let inner = items[2].and_then(|args| self.first::<4>(args));
            match (items[0], inner) {
                (Some(Value::Global(callee)), Some(args)) if callee != Global::FromType => {
                    (global, items) = (callee, args);
                }
                _ => return Err(self.damaged("a tensor has no arguments")),
            }
        }
        match (global, items[0]) {
            (Global::Tensor, _) => self.tensor(items),
            (Global::Parameter | Global::Size | Global::TypeTag, Some(value)) => Ok(value),
            (Global::Dict, first) => self.dict(first),
            (Global::Script(class), _) => self.node(Node::Object(class, Value::None)),
            (Global::Unknown(class), _) => Ok(Value::Opaque(class)),
            _ => Err(self.damaged("a call lacks an argument")),
        }
    }

    /// An ordered dictionary; Python 2 passes the pairs as an argument.
    fn dict(&mut self, pairs: Option<Value>) -> PickleResult<Value> {
        let listed = pairs.and_then(|p| self.tree.items(p)).unwrap_or(&[]);
        // Items that are not pairs are counted too, because the same list may be passed many times.
        self.charge(listed.len() * size_of::<(Value, Value)>())?;
        let listed = pairs.and_then(|p| self.tree.items(p)).unwrap_or(&[]);
        let pair = |p: &Value| match self.tree.items(*p) {
            Some([key, value]) => Some((*key, *value)),
            _ => None,
        };
        let pairs = listed.iter().filter_map(pair).collect();
        self.node(Node::Dict(pairs))
    }

    fn tensor(&mut self, args: [Option<Value>; 4]) -> PickleResult<Value> {
        let [Some(storage), Some(Value::Int(offset)), Some(size), Some(stride)] = args else {
            return Err(self.damaged("a tensor lacks an argument"));
        };
        let storage = match storage {
            // The storage is opaque, so the tensor is too.
            Value::Opaque(class) => return Ok(Value::Opaque(class)),
            Value::Node(at) => match self.tree.nodes.get(at as usize) {
                Some(Node::Storage(at)) => *at,
                _ => return Err(self.damaged("a tensor has no storage")),
            },
            _ => return Err(self.damaged("a tensor has no storage")),
        };
        self.charge(2 * size_of::<StridedView>())?;
        let at = self.tree.views.len() as u32;
        self.tree.views.push(StridedView { storage, offset, size, stride });
        self.node(Node::Tensor(at))
    }

    /// The storage of a persistent id: `('storage', class, key, device, count)`. In legacy files
    /// the place in another storage, or nothing, follows.
    fn storage(&mut self, id: Value) -> PickleResult<Value> {
        let items = self.first::<6>(id).unwrap_or_default();
        let tag = items[0].and_then(|tag| self.tree.text(tag));
        // Legacy files of whole models name classes like this.
        if let (Some("module"), Some(class)) = (tag.as_deref(), items[1]) {
            return Ok(class);
        }
        let [_, Some(class), Some(key), Some(_), Some(Value::Int(count)), part] = items else {
            return Err(self.damaged("a storage is not described as PyTorch does it"));
        };
        if tag.as_deref() != Some("storage") {
            return Err(self.damaged("a storage is not described as PyTorch does it"));
        }
        let element = match class {
            Value::Global(Global::Storage(element)) => element,
            Value::Global(Global::Unknown(class)) => return Ok(Value::Opaque(class)),
            _ => return Err(self.damaged("a storage has no type")),
        };
        let part = part.and_then(|view| self.tree.items(view));
        let (start, count) = match part {
            Some([_, Value::Int(start), Value::Int(count)]) => (*start, *count),
            _ => (0, count),
        };
        let (Ok(start), Ok(count)) = (u64::try_from(start), u64::try_from(count)) else {
            return Err(self.damaged("a storage has a negative size"));
        };
        self.charge(2 * size_of::<Storage>())?;
        let at = self.tree.storages.len() as u32;
        self.tree.storages.push(Storage { key, element, count, start });
        self.node(Node::Storage(at))
    }
}

/// Element type of the storage class with this name.
fn element(class: &[u8]) -> Option<StorageType> {
    let known = |kind: ScalarType| Some(StorageType { kind: Some(kind), size: kind.size() });
    let other = |size| Some(StorageType { kind: None, size });
    match class {
        b"DoubleStorage" => known(ScalarType::F64),
        b"FloatStorage" => known(ScalarType::F32),
        b"HalfStorage" => known(ScalarType::F16),
        b"BFloat16Storage" => known(ScalarType::Bf16),
        b"LongStorage" => known(ScalarType::I64),
        b"IntStorage" => known(ScalarType::I32),
        b"ShortStorage" => known(ScalarType::I16),
        b"CharStorage" => known(ScalarType::I8),
        b"ByteStorage" => known(ScalarType::U8),
        b"BoolStorage" => known(ScalarType::Bool),
        b"ComplexDoubleStorage" => other(16),
        b"ComplexFloatStorage" => other(8),
        b"QInt32Storage" => other(4),
        b"QInt8Storage" | b"QUInt8Storage" | b"UntypedStorage" => other(1),
        _ => None,
    }
}
