//! Interrupt controllers.

pub mod ioapic;
pub mod lapic;
pub mod pic8259;

use emu_core::snapshot::{FieldError, Typed, Value};

/// An interrupt message on the APIC bus, from an I/O APIC (or a local APIC's command register) to
/// local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicMessage {
    /// Vector, meaningful for fixed and lowest-priority delivery.
    pub vector: u8,
    /// What the receiver does with it.
    pub delivery: DeliveryMode,
    /// Level triggered: the receiver reports its end of interrupt back.
    pub level: bool,
    /// Destination: an APIC id, or a logical set if `logical`.
    pub destination: u8,
    /// How `destination` is to be read.
    pub logical: bool,
}

/// Delivery mode field of redirection entries, command and vector registers (bits 10:8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// The vector, to everybody addressed.
    Fixed,
    /// The vector, to the one that runs at the lowest priority.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// Initialise.
    Init,
    /// Start up (command register only).
    StartUp,
    /// The vector comes from the 8259.
    ExtInt,
    /// Not assigned.
    Reserved,
}

impl DeliveryMode {
    /// From a register's low word.
    pub fn from_register(value: u32) -> Self {
        match (value >> 8) & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => Self::Reserved,
        }
    }
}

/// A 32-bit register seen through an access of another width: the addressed bytes of it.
pub(crate) fn register_bytes(register: u32, addr: u64, size: emu_core::bus::AccessSize) -> u32 {
    (register >> ((addr & 3) * 8)) & size.ones()
}

/// A 32-bit register after the addressed bytes were replaced.
pub(crate) fn replace_bytes(register: u32, addr: u64, size: emu_core::bus::AccessSize, value: u32) -> u32 {
    let shift = (addr & 3) * 8;
    let mask = size.ones() << shift;
    (register & !mask) | ((value << shift) & mask)
}

/// The APICs' state in v86's snapshots: a structure of 32-bit fields, as its bytes.
fn structure(fields: impl IntoIterator<Item = u32>) -> Value {
    Value::bytes(fields.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
}

/// The fields of such a structure.
///
/// # Errors
/// It has another size.
fn dwords<const N: usize>(typed: &Typed) -> Result<[u32; N], FieldError> {
    if typed.data.len() != N * 4 {
        return Err(FieldError::here(format!("{} bytes instead of {}", typed.data.len(), N * 4)));
    }
    let mut fields = [0; N];
    for (field, bytes) in fields.iter_mut().zip(typed.data.chunks_exact(4)) {
        *field = bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
    }
    Ok(fields)
}
