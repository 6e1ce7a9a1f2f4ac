//! I/O APIC (82093AA): 24 inputs, each with a redirection entry.
//!
//! The board reports inputs with [`IoApic::set_line`] and then, after every access and every line
//! change, takes what is to be sent: `while let Some(m) = ioapic.next_message() { lapic.deliver(m) }`.

use emu_core::bus::AccessSize;
use emu_core::snapshot::FieldError;

use super::{ApicMessage, DeliveryMode, register_bytes, replace_bytes};
use crate::device::{Ctx, Device, DeviceState, ResetKind};

mod saved;

/// Inputs.
pub const INPUTS: usize = 24;

const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;

const IOAPICID: u8 = 0x00;
const IOAPICVER: u8 = 0x01;
const IOAPICARB: u8 = 0x02;
const IOREDTBL: u8 = 0x10;

/// 24 entries, version 11h.
const VERSION: u32 = 0x0017_0011;
const ID_MASK: u32 = 0x0F00_0000;

const VECTOR: u32 = 0xFF;
const LOGICAL: u32 = 1 << 11;
const REMOTE_IRR: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
/// Bits of the low word a guest can change: all but delivery status and remote IRR.
const LOW_WRITABLE: u32 = 0x0001_AFFF;
const HIGH_WRITABLE: u32 = 0xFF00_0000;

/// A redirection entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Redirection {
    low: u32,
    high: u32,
}

/// The chip.
#[derive(Clone, Debug)]
pub struct IoApic {
    entries: [Redirection; INPUTS],
    select: u8,
    id: u32,
    /// Edges not sent yet.
    edges: u32,
    /// Input levels.
    lines: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

impl IoApic {
    /// Where it is mapped: `(first byte, length)`.
    pub const MMIO: &[(u64, u64)] = &[(0xFEC0_0000, 0x20)];

    /// Powered up: all entries masked.
    pub fn new() -> Self {
        Self { entries: [Redirection { low: MASKED, high: 0 }; INPUTS], select: 0, id: 0, edges: 0, lines: 0 }
    }

    /// Tells the chip about input `gsi`: its level and whether it rose since the last call. A rise
    /// while the entry is masked is lost, as on the real chip.
    pub fn set_line(&mut self, gsi: u8, level_high: bool, rose: bool) {
        let Some(entry) = self.entries.get(usize::from(gsi)) else { return };
        let bit = 1 << gsi;
        if level_high {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        if rose && entry.low & (MASKED | LEVEL) == 0 {
            self.edges |= bit;
        }
    }

    /// Level of input `gsi` as last told; inputs that do not exist are low.
    pub fn line_level(&self, gsi: u8) -> bool {
        self.lines.checked_shr(u32::from(gsi)).is_some_and(|levels| levels & 1 != 0)
    }

    /// Next message to send, if any: an edge, or a level that is high and not yet being served.
    pub fn next_message(&mut self) -> Option<ApicMessage> {
        let mut due = self.due();
        while due != 0 {
            let input = due.trailing_zeros();
            due &= due - 1;
            self.edges &= !(1 << input);
            let Some(entry) = self.entries.get_mut(input as usize) else { continue };
            let delivery = DeliveryMode::from_register(entry.low);
            let level = entry.low & LEVEL != 0;
            if level {
                // Also for modes without EOI, so that each level is sent once.
                entry.low |= REMOTE_IRR;
            }
            return Some(ApicMessage {
                vector: (entry.low & VECTOR) as u8,
                delivery,
                level,
                destination: (entry.high >> 24) as u8,
                logical: entry.low & LOGICAL != 0,
            });
        }
        None
    }

    /// End of interrupt broadcast by a local APIC: level inputs with this vector may be sent again.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for entry in &mut self.entries {
            if entry.low & LEVEL != 0 && (entry.low & VECTOR) as u8 == vector {
                entry.low &= !REMOTE_IRR;
            }
        }
    }

    /// Inputs with something to send.
    fn due(&self) -> u32 {
        let mut due = 0;
        for (i, entry) in self.entries.iter().enumerate() {
            let bit = 1 << i;
            let wanted = match entry.low & (MASKED | LEVEL | REMOTE_IRR) {
                // Edge: remote IRR has no meaning.
                x if x & (MASKED | LEVEL) == 0 => self.edges & bit != 0,
                LEVEL => self.lines & bit != 0,
                _ => false,
            };
            if wanted {
                due |= bit;
            }
        }
        due
    }

    fn read_register(&self) -> u32 {
        match self.select {
            IOAPICID | IOAPICARB => self.id,
            IOAPICVER => VERSION,
            n => match self.entries.get(usize::from(n.wrapping_sub(IOREDTBL) / 2)) {
                Some(e) if n >= IOREDTBL && n & 1 == 0 => e.low,
                Some(e) if n >= IOREDTBL => e.high,
                _ => 0,
            },
        }
    }

    fn write_register(&mut self, value: u32) {
        let select = self.select;
        if select == IOAPICID {
            self.id = value & ID_MASK;
        }
        let Some(index) = select.checked_sub(IOREDTBL).map(|n| usize::from(n / 2)) else { return };
        let Some(entry) = self.entries.get_mut(index) else { return };
        if select & 1 != 0 {
            entry.high = value & HIGH_WRITABLE;
            return;
        }
        entry.low = (entry.low & !LOW_WRITABLE) | (value & LOW_WRITABLE);
        if entry.low & LEVEL == 0 {
            // Edge mode clears remote IRR; Linux uses this to recover a lost EOI.
            entry.low &= !REMOTE_IRR;
        }
        if entry.low & (MASKED | LEVEL) != 0 {
            self.edges &= !(1 << index);
        }
    }
}

impl Device for IoApic {
    fn name(&self) -> &'static str {
        "ioapic"
    }

    fn mmio_read(&mut self, _: &mut Ctx<'_>, addr: u64, size: AccessSize) -> Option<u32> {
        let register = match addr & 0x1C {
            IOREGSEL => u32::from(self.select),
            IOWIN => self.read_register(),
            _ => 0,
        };
        Some(register_bytes(register, addr, size))
    }

    fn mmio_write(&mut self, _: &mut Ctx<'_>, addr: u64, size: AccessSize, value: u32) {
        match addr & 0x1C {
            IOREGSEL => self.select = replace_bytes(u32::from(self.select), addr, size, value) as u8,
            IOWIN => self.write_register(replace_bytes(self.read_register(), addr, size, value)),
            _ => {}
        }
    }

    /// The inputs keep their levels: they belong to other devices.
    fn reset(&mut self, _: &mut Ctx<'_>, _: ResetKind) {
        *self = Self { lines: self.lines, ..Self::new() };
    }

    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        saved::SavedIoApic::capture(self).into_state()
    }

    fn restore(&mut self, _: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        saved::SavedIoApic::capture(self).read(state)?.apply(self);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(chip: &mut IoApic, register: u8, value: u32) {
        chip.select = register;
        chip.write_register(value);
    }

    fn read(chip: &mut IoApic, register: u8) -> u32 {
        chip.select = register;
        chip.read_register()
    }

    #[test]
    fn ioapic_powered_up_has_24_masked_entries() {
        let mut chip = IoApic::new();
        assert_eq!(read(&mut chip, 1), 0x0017_0011);
        assert_eq!(read(&mut chip, 0x10), 0x1_0000);
        assert_eq!(read(&mut chip, 0x3E), 0x1_0000);
        assert_eq!(read(&mut chip, 0x40), 0);
        chip.set_line(3, true, true);
        assert_eq!(chip.next_message(), None);
        // A rise while masked is lost.
        write(&mut chip, 0x16, 0x31);
        assert_eq!(chip.next_message(), None);
    }

    #[test]
    fn ioapic_edge_is_sent_once_even_if_the_line_fell() {
        let mut chip = IoApic::new();
        write(&mut chip, 0x10 + 2 * 4, 0x0931);
        write(&mut chip, 0x11 + 2 * 4, 0x0100_0000);
        chip.set_line(4, false, true);
        let message = chip.next_message().unwrap();
        assert_eq!(
            message,
            ApicMessage {
                vector: 0x31,
                delivery: DeliveryMode::LowestPriority,
                level: false,
                destination: 1,
                logical: true
            }
        );
        assert_eq!(chip.next_message(), None);
    }

    #[test]
    fn ioapic_level_is_sent_again_after_eoi_while_high() {
        let mut chip = IoApic::new();
        write(&mut chip, 0x10 + 2 * 11, 0x8051);
        chip.set_line(11, true, true);
        assert_eq!(chip.next_message().map(|m| (m.vector, m.level)), Some((0x51, true)));
        assert_eq!(read(&mut chip, 0x10 + 2 * 11), 0xC051);
        assert_eq!(chip.next_message(), None);
        chip.end_of_interrupt(0x50);
        assert_eq!(chip.next_message(), None);
        chip.end_of_interrupt(0x51);
        assert!(chip.next_message().is_some());
        chip.set_line(11, false, false);
        chip.end_of_interrupt(0x51);
        assert_eq!(chip.next_message(), None);
        assert_eq!(read(&mut chip, 0x10 + 2 * 11), 0x8051);
    }

    #[test]
    fn ioapic_switch_to_edge_clears_remote_irr() {
        let mut chip = IoApic::new();
        write(&mut chip, 0x20, 0x8060);
        chip.set_line(8, true, true);
        assert!(chip.next_message().is_some());
        write(&mut chip, 0x20, 0x1_0060);
        assert_eq!(read(&mut chip, 0x20), 0x1_0060);
        write(&mut chip, 0x20, 0x8060);
        assert!(chip.next_message().is_some());
    }

    #[test]
    fn ioapic_read_only_bits_do_not_stick() {
        let mut chip = IoApic::new();
        write(&mut chip, 0x12, 0xFFFF_FFFF);
        assert_eq!(read(&mut chip, 0x12), 0x0001_AFFF);
        write(&mut chip, 0x13, 0xFFFF_FFFF);
        assert_eq!(read(&mut chip, 0x13), 0xFF00_0000);
        write(&mut chip, 0x00, 0xFFFF_FFFF);
        assert_eq!(read(&mut chip, 0x02), 0x0F00_0000);
    }
}
