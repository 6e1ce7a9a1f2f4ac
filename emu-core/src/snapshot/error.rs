//! What can be wrong with a snapshot.

use std::fmt;

/// A field of a slot is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Positions from the slot's array inwards; empty = the slot itself.
    pub path: Vec<u32>,
    /// What is wrong.
    pub reason: String,
}

impl FieldError {
    /// Something wrong with element `index`.
    pub fn at(index: usize, reason: impl Into<String>) -> Self {
        Self { path: vec![index as u32], reason: reason.into() }
    }

    /// Something wrong with the value as a whole.
    pub fn here(reason: impl Into<String>) -> Self {
        Self { path: Vec::new(), reason: reason.into() }
    }

    /// The same error, but in what v86 has no slot for.
    #[must_use]
    pub fn in_extra(mut self) -> Self {
        self.reason.insert_str(0, "in env86's own state: ");
        self
    }

    /// The same error, seen from the array whose element `index` the value is.
    #[must_use]
    pub fn within(mut self, index: usize) -> Self {
        self.path.insert(0, index as u32);
        self
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for index in &self.path {
            write!(f, "[{index}]")?;
        }
        if !self.path.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for FieldError {}

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be read.
    #[error("Cannot read the snapshot at offset {offset} ({what})")]
    Io {
        /// Offset in the decompressed file.
        offset: u64,
        /// What was to be read there.
        what: &'static str,
        /// The host's error.
        source: std::io::Error,
    },
    /// The file ends too early.
    #[error("The snapshot is cut off: it ends before offset {offset} ({what})")]
    Truncated {
        /// Offset in the decompressed file that is missing.
        offset: u64,
        /// What should be there.
        what: &'static str,
    },
    /// It is something else.
    #[error("This is not a snapshot: it begins with {magic:08X}h instead of 86768676h")]
    Magic {
        /// First word.
        magic: u32,
    },
    /// Another version of the format.
    #[error("The snapshot has version {0}; only version 6 is known")]
    Version(i32),
    /// Header and file disagree.
    #[error("The snapshot's header says {header} bytes, but there are {actual}")]
    Length {
        /// As the header says.
        header: u64,
        /// As it is.
        actual: u64,
    },
    /// More of something than allowed.
    #[error("The snapshot has {found} {what}; at most {limit} are accepted")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many.
        found: u64,
        /// How many may be.
        limit: u64,
    },
    /// The info block is not the JSON it must be.
    #[error("The snapshot's info block is wrong at offset {offset}: {reason}")]
    Json {
        /// Offset in the decompressed file.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A buffer lies where it cannot be.
    #[error("Buffer {id} of the snapshot (offset {offset}, {length} bytes): {reason}")]
    Buffer {
        /// Its number.
        id: u64,
        /// Its offset in the decompressed file.
        offset: u64,
        /// Its length.
        length: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A field of a slot.
    #[error("Slot {slot} ({name}) of the snapshot, described at offset {offset}: {error}")]
    Field {
        /// Element of the state array.
        slot: usize,
        /// What the element is.
        name: &'static str,
        /// Offset of its description in the decompressed file.
        offset: u64,
        /// Which field, and what is wrong.
        error: FieldError,
    },
    /// The machine cannot take it.
    #[error("The snapshot does not fit the machine: {0}")]
    Machine(String),
}
