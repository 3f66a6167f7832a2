//! Constant tables of a device: uploaded at their first use, so that a steady step uploads none.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

use super::{Device, Element, View, lock};
use crate::Result;

/// Bytes of tables above which unused ones are freed. The tables of a training step take a few
/// megabytes; whole images of many sizes would add ever new ones.
const KEPT: usize = 64 << 20;

/// Key of a table: its name, and the numbers that determine it.
type Key = (&'static str, Vec<u64>);

/// Address and size of a table.
#[derive(Debug)]
struct Table {
    address: u64,
    bytes: usize,
}

/// The tables of a device.
#[derive(Default)]
pub(super) struct Tables {
    cache: HashMap<Key, Arc<Table>>,
    bytes: usize,
}

impl Tables {
    /// Removes all tables when the device closes; returns their addresses.
    pub fn drain(&mut self) -> Vec<u64> {
        self.cache.drain().map(|(_, table)| table.address).collect()
    }

    /// Removes unused tables; returns their addresses.
    fn unused(&mut self) -> Vec<u64> {
        let mut unused = Vec::new();
        self.cache.retain(|_, table| {
            let in_use = Arc::strong_count(table) > 1;
            if !in_use {
                unused.push(table.address);
                self.bytes -= table.bytes;
            }
            in_use
        });
        unused
    }
}

/// A read-only table that a device keeps.
#[derive(Clone, Debug)]
pub struct Constant<T: Element> {
    device: Device,
    table: Arc<Table>,
    element: PhantomData<T>,
}

impl<T: Element> Constant<T> {
    /// The device that the table is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The whole table.
    pub fn view(&self) -> View<'_, T> {
        View::at(self.device.id(), self.table.address, self.table.bytes / size_of::<T>())
    }
}

impl Device {
    /// The table `name` for these `numbers`, from which `make` creates the same one every time. If
    /// the device does not keep it yet, `make` is called and the table uploaded.
    ///
    /// # Errors
    /// [`crate::KernelError::OutOfMemory`]; a failure of the device; whatever `make` returns.
    pub fn constant<T: Element, E: From<crate::KernelError>>(
        &self,
        name: &'static str,
        numbers: &[u64],
        make: impl FnOnce() -> std::result::Result<Vec<T>, E>,
    ) -> std::result::Result<Constant<T>, E> {
        let mut tables = lock(&self.0.tables);
        let key = (name, numbers.to_vec());
        let table = match tables.cache.get(&key) {
            Some(table) => Arc::clone(table),
            None => {
                if tables.bytes > KEPT {
                    tables.unused().into_iter().for_each(|address| self.give_back(address));
                }
                let table = Arc::new(self.upload_table(name, &make()?)?);
                tables.bytes += table.bytes;
                tables.cache.insert(key, Arc::clone(&table));
                table
            }
        };
        Ok(Constant { device: self.clone(), table, element: PhantomData })
    }

    /// Copies a table to pool memory without a buffer: a buffer would keep alive the device that
    /// keeps it.
    fn upload_table<T: Element>(&self, name: &'static str, host: &[T]) -> Result<Table> {
        let bytes = size_of_val(host);
        let address = self.take(name, bytes)?;
        let written = match bytes {
            0 => Ok(()),
            _ => self.put(address, bytemuck::cast_slice(host)),
        };
        if let Err(error) = written {
            self.give_back(address);
            return Err(error);
        }
        Ok(Table { address, bytes })
    }
}
