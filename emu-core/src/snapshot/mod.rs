//! Snapshots: v86's state container, version 6, as a tree of values.
//!
//! | file | what |
//! | --- | --- |
//! | `value` | [`Value`]: numbers, arrays, typed arrays |
//! | `json` | the info block: JSON text to values and back |
//! | `fields` | [`Fields`]: a device's array read field by field |
//! | `container` | header, info block, buffers: [`Reader`] and [`write`] |
//! | `pages` | guest memory, of which only pages that are not zero are stored |
//! | `slots` | which element of the state array is what |
//! | `cpu` | the processor's slots |
//! | `error` | [`SnapshotError`], [`FieldError`] |
//!
//! What a device's array contains is the device's business: each chip has a `saved` module. The format
//! is described for maintainers in `docs/snapshots.md`.
//!
//! Everything here may come from a hostile file: lengths are checked against [`Limits`] before
//! anything is allocated.

mod container;
pub mod cpu;
mod error;
mod fields;
mod json;
mod pages;
pub mod slots;
mod value;

pub use container::{Layout, Limits, Output, Reader, Source, Written, write};
pub use error::{FieldError, SnapshotError};
pub use fields::Fields;
pub use pages::{PackedMemory, PageRun};
pub use value::{Kind, Typed, Value};

/// Version of the container.
pub const STATE_VERSION: i32 = 6;
/// First word of the file.
pub const STATE_MAGIC: u32 = 0x8676_8676;

/// A state array and where in the file its elements were.
#[derive(Debug, Default)]
pub struct State {
    slots: Vec<Value>,
    offsets: Vec<u64>,
}

impl State {
    /// No slots.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn from_parts(slots: Vec<Value>, offsets: Vec<u64>) -> Self {
        Self { slots, offsets }
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True without slots.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Element `slot`; `Null` if there is none.
    pub fn get(&self, slot: usize) -> &Value {
        self.slots.get(slot).unwrap_or(&Value::Null)
    }

    /// Element `slot`, if there is one.
    pub fn get_mut(&mut self, slot: usize) -> Option<&mut Value> {
        self.slots.get_mut(slot)
    }

    /// Takes element `slot` out, leaving `Null`.
    pub fn take(&mut self, slot: usize) -> Value {
        self.slots.get_mut(slot).map_or(Value::Null, std::mem::take)
    }

    /// Sets element `slot`, filling up with `Null`.
    pub fn set(&mut self, slot: usize, value: impl Into<Value>) {
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || Value::Null);
        }
        if let Some(at) = self.slots.get_mut(slot) {
            *at = value.into();
        }
    }

    /// All elements.
    pub fn slots(&self) -> &[Value] {
        &self.slots
    }

    /// Offset in the (decompressed) file of the JSON text of element `slot`.
    pub fn offset(&self, slot: usize) -> u64 {
        self.offsets.get(slot).copied().unwrap_or(0)
    }

    /// The error of a field of `slot`, with its place.
    pub fn error(&self, slot: usize, error: FieldError) -> SnapshotError {
        SnapshotError::Field { slot, name: slots::name(slot), offset: self.offset(slot), error }
    }
}
