//! Opcodes of pickle protocol 2 that checkpoints use.

use std::collections::BTreeMap;

/// A pickle that is being written. Texts and classes that occur more than once are memoised, as in
/// PyTorch's pickler.
#[derive(Debug, Clone)]
pub struct Pickle {
    bytes: Vec<u8>,
    memo: BTreeMap<String, u32>,
    next: u32,
}

impl Default for Pickle {
    fn default() -> Pickle {
        Pickle::new()
    }
}

impl Pickle {
    /// Starts a pickle with the opcode of protocol 2.
    pub fn new() -> Pickle {
        Pickle { bytes: vec![0x80, 2], memo: BTreeMap::new(), next: 0 }
    }

    /// Ends the pickle and returns its bytes.
    pub fn stop(mut self) -> Vec<u8> {
        self.bytes.push(b'.');
        self.bytes
    }

    /// Adds raw opcodes. They are `(` mark, `)` empty tuple, `}` empty dict, `]` empty list, `t`
    /// tuple, `u` set items, `e` append, `s` set one, `R` call, `Q` look up a storage, `b` build.
    pub fn raw(mut self, opcodes: &[u8]) -> Pickle {
        self.bytes.extend_from_slice(opcodes);
        self
    }

    /// Stores the value on top of the stack under the next memo number.
    pub fn memoise(mut self) -> Pickle {
        match u8::try_from(self.next) {
            Ok(n) => self.bytes.extend([b'q', n]),
            Err(_) => {
                self.bytes.push(b'r');
                self.bytes.extend(self.next.to_le_bytes());
            }
        }
        self.next += 1;
        self
    }

    fn recall(mut self, number: u32) -> Pickle {
        match u8::try_from(number) {
            Ok(n) => self.bytes.extend([b'h', n]),
            Err(_) => {
                self.bytes.push(b'j');
                self.bytes.extend(number.to_le_bytes());
            }
        }
        self
    }

    fn once(mut self, key: String, say: impl FnOnce(&mut Vec<u8>)) -> Pickle {
        if let Some(number) = self.memo.get(&key) {
            let number = *number;
            return self.recall(number);
        }
        say(&mut self.bytes);
        self.memo.insert(key, self.next);
        self.memoise()
    }

    /// Adds a text.
    pub fn text(self, text: &str) -> Pickle {
        self.once(format!("text {text}"), |bytes| {
            bytes.push(b'X');
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
        })
    }

    /// Adds a class or function.
    pub fn global(self, module: &str, name: &str) -> Pickle {
        self.once(format!("global {module} {name}"), |bytes| {
            bytes.extend(format!("c{module}\n{name}\n").as_bytes());
        })
    }

    /// Adds an integer in the shortest form.
    pub fn int(mut self, value: i64) -> Pickle {
        if let Ok(byte) = u8::try_from(value) {
            self.bytes.extend([b'K', byte]);
        } else if let Ok(short) = u16::try_from(value) {
            self.bytes.push(b'M');
            self.bytes.extend(short.to_le_bytes());
        } else if let Ok(long) = i32::try_from(value) {
            self.bytes.push(b'J');
            self.bytes.extend(long.to_le_bytes());
        } else {
            self.bytes.extend([0x8a, 8]);
            self.bytes.extend(value.to_le_bytes());
        }
        self
    }

    /// Adds a tuple of integers.
    pub fn ints(self, values: &[i64]) -> Pickle {
        match values.len() {
            0 => self.raw(b")"),
            n @ 1..=3 => {
                let filled = values.iter().fold(self, |p, v| p.int(*v));
                filled.raw(&[0x84 + n as u8]).memoise()
            }
            _ => values.iter().fold(self.raw(b"("), |p, v| p.int(*v)).raw(b"t").memoise(),
        }
    }

    /// Adds an empty ordered dict.
    pub fn ordered_dict(self) -> Pickle {
        self.global("collections", "OrderedDict").raw(b")R").memoise()
    }

    /// Adds a tensor as a view of a storage. A storage of the legacy format has a sixth field.
    pub fn tensor(self, storage: &Storage, offset: i64, sizes: &[i64], strides: &[i64]) -> Pickle {
        let named = self
            .global("torch._utils", "_rebuild_tensor_v2")
            .raw(b"((")
            .text("storage")
            .global("torch", storage.class)
            .text(&storage.key)
            .text("cpu")
            .int(storage.count);
        let named = if storage.sixth { named.raw(b"N") } else { named };
        let viewed = named.raw(b"t").memoise().raw(b"Q").int(offset).ints(sizes).ints(strides);
        viewed.raw(&[0x89]).ordered_dict().raw(b"t").memoise().raw(b"R").memoise()
    }
}

/// Description of a storage in a pickle.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Its class in PyTorch, such as `FloatStorage`.
    pub class: &'static str,
    /// Its name: of an entry in the archive, or in the list at the end of the legacy format.
    pub key: String,
    /// Number of its elements.
    pub count: i64,
    /// Whether a sixth field follows, as in the legacy format.
    pub sixth: bool,
}
