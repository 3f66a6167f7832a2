//! A restricted unpickler. It reads the pickles of PyTorch files into values without running any
//! code.
//!
//! A pickle is a program for a stack machine that can name any function and call it. This unpickler
//! knows the few names that rebuild tensors ([`value::Global`]) and turns them into descriptions.
//! Every other class becomes an opaque value; its arguments and state are dropped. Opcodes of
//! protocols 2 to 5 are known, except those that refer outside the file.
//!
//! The memory that a hostile pickle can use is bounded by its length. The machine counts all memory
//! that it uses and stops at [`PER_BYTE`] bytes per byte read so far, or at [`AT_MOST`] in total.
//! Real checkpoints take about a dozen bytes per byte, and their pickle is a thousandth of the
//! file.

mod calls;
#[cfg(test)]
mod tests;
mod value;

use std::collections::HashMap;

use value::{Node, Span};
pub use value::{StorageType, StridedView, Tree, Value};

/// Result with the cause of an error, without the file's name.
type PickleResult<T> = Result<T, String>;

/// Bytes that values may take per byte of the pickle.
pub const PER_BYTE: usize = 64;

/// Bytes that values may take in addition, for a pickle of any length.
pub const BASE: usize = 64 << 10;

/// Maximum bytes that values may take in total.
pub const AT_MOST: usize = 256 << 20;

/// Longest name of a module or class.
const LINE: usize = 4096;

/// Reads the pickle at the start of `bytes`; more may follow it.
pub fn read(bytes: &[u8]) -> PickleResult<Tree<'_>> {
    let tree = Tree {
        bytes,
        nodes: Vec::new(),
        storages: Vec::new(),
        views: Vec::new(),
        classes: Vec::new(),
        root: Value::None,
        len: 0,
    };
    let machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        tree,
        spent: 0,
        deepest: 0,
    };
    machine.run()
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    tree: Tree<'a>,
    spent: usize,
    /// Largest height of stack and marks so far.
    deepest: usize,
}

impl<'a> Machine<'a> {
    fn run(mut self) -> PickleResult<Tree<'a>> {
        loop {
            let at = self.at;
            let op = self.byte()?;
            if op == b'.' {
                self.tree.root = self.pop()?;
                self.tree.len = self.at;
                return Ok(self.tree);
            }
            let known = self.scalar(op)? || self.memory(op)? || self.group(op)? || self.call(op)?;
            if !known {
                return Err(format!(
                    "its pickle has the opcode {op:#04x} at byte {at}, which PyTorch does not write"
                ));
            }
        }
    }

    fn damaged(&self, what: &str) -> String {
        format!("its pickle is damaged at byte {}: {what}", self.at)
    }

    /// Adds `bytes` to the count of used memory.
    fn charge(&mut self, bytes: usize) -> PickleResult<()> {
        self.spent += bytes;
        if self.spent > (self.at * PER_BYTE + BASE).min(AT_MOST) {
            return Err("its pickle expands to far more than its size; no weights do that".into());
        }
        Ok(())
    }

    fn take(&mut self, n: usize) -> PickleResult<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else { return Err(self.damaged("it ends too early")) };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> PickleResult<[u8; N]> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.damaged("it ends too early"))
    }

    fn byte(&mut self) -> PickleResult<u8> {
        self.number::<1>().map(|[b]| b)
    }

    fn u32(&mut self) -> PickleResult<u32> {
        self.number().map(u32::from_le_bytes)
    }

    /// Reads a length of eight bytes.
    fn long(&mut self) -> PickleResult<usize> {
        let n = self.number().map(u64::from_le_bytes)?;
        usize::try_from(n).map_err(|_| self.damaged("it ends too early"))
    }

    /// Reads the next `n` bytes as a span.
    fn span(&mut self, n: usize) -> PickleResult<Span> {
        let start = self.at;
        self.take(n)?;
        match (u32::try_from(start), u32::try_from(n)) {
            (Ok(start), Ok(len)) => Ok(Span { start, len }),
            _ => Err("its pickle is larger than 4 GiB; no weights are".into()),
        }
    }

    /// The rest of the line.
    fn line(&mut self) -> PickleResult<Span> {
        let rest = &self.bytes[self.at..];
        let Some(n) = rest.iter().take(LINE).position(|b| *b == b'\n') else {
            return Err(self.damaged("a name has no end"));
        };
        let span = self.span(n)?;
        self.at += 1;
        Ok(span)
    }

    fn height(&mut self) -> PickleResult<()> {
        let height = self.stack.len() + self.marks.len();
        if height > self.deepest {
            self.deepest = height;
            self.charge(2 * size_of::<Value>())?;
        }
        Ok(())
    }

    fn push(&mut self, value: Value) -> PickleResult<()> {
        self.stack.push(value);
        self.height()
    }

    fn pop(&mut self) -> PickleResult<Value> {
        // Values below a mark are not part of the group that it opened.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.damaged("it takes more values than its stack has"));
        }
        self.stack.pop().ok_or_else(|| self.damaged("it takes more values than its stack has"))
    }

    /// All values above the last mark.
    fn group_values(&mut self) -> PickleResult<Vec<Value>> {
        let mark = self.marks.pop().filter(|m| *m <= self.stack.len());
        let Some(mark) = mark else { return Err(self.damaged("a group has no beginning")) };
        Ok(self.stack.split_off(mark))
    }

    fn node(&mut self, node: Node) -> PickleResult<Value> {
        self.charge(2 * size_of::<Node>())?;
        let Ok(at) = u32::try_from(self.tree.nodes.len()) else {
            return Err(self.damaged("it holds too many values"));
        };
        self.tree.nodes.push(node);
        Ok(Value::Node(at))
    }

    fn push_node(&mut self, node: Node) -> PickleResult<()> {
        let value = self.node(node)?;
        self.push(value)
    }

    fn tuple(&mut self, items: Vec<Value>) -> PickleResult<()> {
        if items.is_empty() {
            return self.push(Value::EmptyTuple);
        }
        self.charge(items.len() * size_of::<Value>())?;
        self.push_node(Node::Tuple(items))
    }

    /// Handles opcodes of numbers, texts and other values without parts.
    fn scalar(&mut self, op: u8) -> PickleResult<bool> {
        let value = match op {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(self.number().map(i32::from_le_bytes)?.into()),
            b'K' => Value::Int(self.byte()?.into()),
            b'M' => Value::Int(self.number().map(u16::from_le_bytes)?.into()),
            b'G' => Value::Float(self.number().map(f64::from_be_bytes)?),
            0x8a => {
                let n = self.byte()?.into();
                self.integer(n)?
            }
            0x8b => {
                let n = self.u32()? as usize;
                self.integer(n)?
            }
            _ => match self.text(op)? {
                Some(value) => value,
                None => return Ok(false),
            },
        };
        self.push(value)?;
        Ok(true)
    }

    fn text(&mut self, op: u8) -> PickleResult<Option<Value>> {
        let n = match op {
            0x8c | b'U' | b'C' => self.byte()?.into(),
            b'X' | b'T' | b'B' => self.u32()? as usize,
            0x8d | 0x8e | 0x96 => self.long()?,
            _ => return Ok(None),
        };
        let span = self.span(n)?;
        Ok(Some(match op {
            b'C' | b'B' | 0x8e | 0x96 => Value::Bytes(span),
            _ => Value::Text(span),
        }))
    }

    /// A little-endian integer in two's complement of `n` bytes.
    fn integer(&mut self, n: usize) -> PickleResult<Value> {
        let span = self.span(n)?;
        let digits = self.tree.piece(span);
        if n > 8 {
            return Ok(Value::Bytes(span));
        }
        let negative = digits.last().is_some_and(|b| b & 0x80 != 0);
        let mut all = [if negative { 0xff } else { 0 }; 8];
        all[..n].copy_from_slice(digits);
        Ok(Value::Int(i64::from_le_bytes(all)))
    }

    /// Handles opcodes of the memo and the stack, and those without effect.
    fn memory(&mut self, op: u8) -> PickleResult<bool> {
        match op {
            0x80 => {
                let protocol = self.byte()?;
                if protocol > 5 {
                    return Err(self.damaged(&format!("there is no protocol {protocol}")));
                }
            }
            // A frame only gives the number of bytes to read at once.
            0x95 => _ = self.long()?,
            b'q' => {
                let key = self.byte()?.into();
                self.remember(key)?;
            }
            b'r' => {
                let key = self.u32()?;
                self.remember(key)?;
            }
            0x94 => {
                let key = self.memo.len() as u32;
                self.remember(key)?;
            }
            b'h' => {
                let key = self.byte()?.into();
                self.recall(key)?;
            }
            b'j' => {
                let key = self.u32()?;
                self.recall(key)?;
            }
            b'(' => {
                self.marks.push(self.stack.len());
                self.height()?;
            }
            b'0' => match self.marks.last() {
                // Python drops the mark if nothing is above it.
                Some(mark) if *mark == self.stack.len() => _ = self.marks.pop(),
                _ => _ = self.pop()?,
            },
            b'1' => _ = self.group_values()?,
            b'2' => {
                let top = self.pop()?;
                self.push(top)?;
                self.push(top)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn remember(&mut self, key: u32) -> PickleResult<()> {
        let Some(top) = self.stack.last().copied() else {
            return Err(self.damaged("it takes more values than its stack has"));
        };
        if self.memo.insert(key, top).is_none() {
            self.charge(3 * size_of::<(u32, Value)>())?;
        }
        Ok(())
    }

    fn recall(&mut self, key: u32) -> PickleResult<()> {
        match self.memo.get(&key).copied() {
            Some(value) => self.push(value),
            None => Err(self.damaged("it reads a memo entry that it never wrote")),
        }
    }

    /// Handles opcodes of tuples, lists, dictionaries and sets. Sets become lists and tuples.
    fn group(&mut self, op: u8) -> PickleResult<bool> {
        match op {
            b')' => self.push(Value::EmptyTuple)?,
            0x85..=0x87 => {
                let n = usize::from(op - 0x84);
                let floor = self.marks.last().copied().unwrap_or(0);
                let Some(from) = self.stack.len().checked_sub(n).filter(|at| *at >= floor) else {
                    return Err(self.damaged("it takes more values than its stack has"));
                };
                let items = self.stack.split_off(from);
                self.tuple(items)?;
            }
            b't' | 0x91 => {
                let items = self.group_values()?;
                self.tuple(items)?;
            }
            b']' | 0x8f => self.push_node(Node::List(Vec::new()))?,
            b'l' => {
                let items = self.group_values()?;
                self.charge(items.len() * size_of::<Value>())?;
                self.push_node(Node::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' | 0x90 => {
                let items = self.group_values()?;
                self.append(&items)?;
            }
            b'}' => self.push_node(Node::Dict(Vec::new()))?,
            b'd' => {
                let items = self.group_values()?;
                self.push_node(Node::Dict(Vec::new()))?;
                self.set(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.group_values()?;
                self.set(&items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The node on top of the stack; `None` for an opaque value.
    fn top(&mut self) -> PickleResult<Option<&mut Node>> {
        match self.stack.last() {
            Some(Value::Node(at)) => Ok(self.tree.nodes.get_mut(*at as usize)),
            Some(_) => Ok(None),
            None => Err(self.damaged("it takes more values than its stack has")),
        }
    }

    fn append(&mut self, items: &[Value]) -> PickleResult<()> {
        self.charge(2 * size_of_val(items))?;
        if let Some(Node::List(list)) = self.top()? {
            list.extend_from_slice(items);
        }
        Ok(())
    }

    fn set(&mut self, items: &[Value]) -> PickleResult<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.damaged("a key has no value"));
        }
        self.charge(2 * size_of_val(items))?;
        if let Some(Node::Dict(dict)) = self.top()? {
            dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        }
        Ok(())
    }
}
