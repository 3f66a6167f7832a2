//! Values of a pickle.

use std::borrow::Cow;

use crate::weights::ScalarType;

/// A piece of the pickle's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

/// A value: small ones directly, others as an index into the [`Tree`]. Lists and dictionaries can
/// change after other values refer to them, so a tree may have cycles. Code that walks it must
/// count the steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// A text, UTF-8 unless Python 2 wrote it.
    Text(Span),
    /// Bytes, or an integer of more than 64 bits.
    Bytes(Span),
    EmptyTuple,
    /// A class or function that was named.
    Global(Global),
    /// The result of calling something that [`Global`] does not list.
    Opaque(Class),
    Node(u32),
}

/// A class by its index in [`Tree::classes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class(pub u32);

/// The classes and functions that the unpickler knows. Calling one builds a description. No foreign
/// code runs, whatever the pickle names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Global {
    /// `torch._utils._rebuild_tensor_v2`, and `_rebuild_tensor`, which has only its first
    /// arguments.
    Tensor,
    /// `torch._utils._rebuild_parameter` and its form with state: the tensor it wraps.
    Parameter,
    /// `torch._tensor._rebuild_from_type_v2`: a tensor with attributes.
    FromType,
    /// `collections.OrderedDict`, `collections.defaultdict`.
    Dict,
    /// `torch.Size`.
    Size,
    /// `torch.jit._pickle.restore_type_tag`: its first argument.
    TypeTag,
    /// `torch.FloatStorage` and the like.
    Storage(StorageType),
    /// A class of a TorchScript archive.
    Script(Class),
    /// Anything else.
    Unknown(Class),
}

/// Type of a storage's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageType {
    /// Type, if it can be read.
    pub kind: Option<ScalarType>,
    /// Bytes of one element.
    pub size: usize,
}

/// A storage that tensors are views of.
#[derive(Debug, Clone, Copy)]
pub struct Storage {
    /// Name of its entry or key.
    pub key: Value,
    pub element: StorageType,
    /// Elements.
    pub count: u64,
    /// First element in the storage named by the key, for views of storages.
    pub start: u64,
}

/// A tensor as its rebuild call describes it, not yet checked.
#[derive(Debug, Clone, Copy)]
pub struct StridedView {
    /// Index in [`Tree::storages`].
    pub storage: u32,
    /// In elements.
    pub offset: i64,
    /// Tuples of integers.
    pub size: Value,
    pub stride: Value,
}

/// A value with parts.
#[derive(Debug)]
pub enum Node {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage(u32),
    Tensor(u32),
    /// An object of a TorchScript class with its attributes, a dictionary.
    Object(Class, Value),
}

/// All values of a pickle.
#[derive(Debug)]
pub struct Tree<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) nodes: Vec<Node>,
    pub(super) storages: Vec<Storage>,
    pub(super) views: Vec<StridedView>,
    /// Module and name.
    pub(super) classes: Vec<(Span, Span)>,
    /// The object that was pickled.
    pub root: Value,
    /// Bytes of the pickle.
    pub len: usize,
}

impl<'a> Tree<'a> {
    pub(super) fn piece(&self, span: Span) -> &'a [u8] {
        // Spans are made from slices of these bytes.
        &self.bytes[span.start as usize..span.start as usize + span.len as usize]
    }

    fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(at) => self.nodes.get(at as usize),
            _ => None,
        }
    }

    /// A text; bytes that are not UTF-8 are replaced.
    pub fn text(&self, value: Value) -> Option<Cow<'a, str>> {
        match value {
            Value::Text(span) => Some(String::from_utf8_lossy(self.piece(span))),
            _ => None,
        }
    }

    /// Bytes, or the little-endian digits of a large integer.
    pub fn bytes(&self, value: Value) -> Option<&'a [u8]> {
        match value {
            Value::Bytes(span) => Some(self.piece(span)),
            _ => None,
        }
    }

    /// Name of a storage: a text, or a number in files of Python 2.
    pub fn key(&self, value: Value) -> Option<Cow<'a, str>> {
        match value {
            Value::Int(n) => Some(n.to_string().into()),
            other => self.text(other),
        }
    }

    /// Items of a tuple or list.
    pub fn items(&self, value: Value) -> Option<&[Value]> {
        match (value, self.node(value)) {
            (Value::EmptyTuple, _) => Some(&[]),
            (_, Some(Node::Tuple(items) | Node::List(items))) => Some(items),
            _ => None,
        }
    }

    /// Pairs of a dictionary, in the order of insertion.
    pub fn pairs(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.node(value) {
            Some(Node::Dict(pairs)) => Some(pairs),
            _ => None,
        }
    }

    /// Attributes of a TorchScript object.
    pub fn attributes(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.node(value) {
            Some(Node::Object(_, state)) => Some(self.pairs(*state).unwrap_or(&[])),
            _ => None,
        }
    }

    /// A tensor.
    pub fn view(&self, value: Value) -> Option<StridedView> {
        match self.node(value) {
            Some(Node::Tensor(at)) => self.views.get(*at as usize).copied(),
            _ => None,
        }
    }

    /// The storage of a tensor.
    pub fn storage(&self, view: &StridedView) -> Storage {
        // A view always refers to an existing storage.
        self.storages[view.storage as usize]
    }

    /// All storages, in the order in which they are named.
    pub fn storages(&self) -> &[Storage] {
        &self.storages
    }

    /// Class of an object that was skipped, or of a TorchScript object.
    pub(crate) fn class_of(&self, value: Value) -> Option<String> {
        let class = match (value, self.node(value)) {
            (Value::Opaque(class) | Value::Global(Global::Unknown(class)), _) => class,
            (_, Some(Node::Object(class, _))) => *class,
            _ => return None,
        };
        let (module, name) = *self.classes.get(class.0 as usize)?;
        let part = |span| String::from_utf8_lossy(self.piece(span));
        Some(format!("{}.{}", part(module), part(name)))
    }
}
