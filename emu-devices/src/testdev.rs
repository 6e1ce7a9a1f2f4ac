//! Devices of test programs, not of a PC: no machine has them unless its owner puts them there
//! ([`Machine::attach`](crate::machine::Machine::attach)). Neither is part of snapshots.

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLine;

use crate::device::{Ctx, Device, ResetKind};
use crate::serial::SerialSink;

/// A port whose bytes go to the host: POST codes (80h, 190h), consoles (E9h). Reads float.
pub struct DebugPort {
    sink: Box<dyn SerialSink>,
}

impl DebugPort {
    /// A port that writes to `sink`.
    pub fn new(sink: Box<dyn SerialSink>) -> Self {
        Self { sink }
    }
}

impl Device for DebugPort {
    fn name(&self) -> &'static str {
        "debug-port"
    }

    fn port_write(&mut self, _: &mut Ctx<'_>, _: u16, size: AccessSize, value: u32) {
        if size == AccessSize::Byte {
            self.sink.write(value as u8);
        }
    }

    fn reset(&mut self, _: &mut Ctx<'_>, _: ResetKind) {}

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

/// Interrupt inputs the device can drive.
const LINES: u16 = 24;
/// Wires of test programs come last among those that share an input.
const SOURCE: u8 = 31;

/// The device kvm-unit-tests expect (QEMU's `pc-testdev`): a register, a piece of memory, and ports that
/// drive interrupt inputs. Its exit port is [`DebugExit`](crate::debug_exit::DebugExit).
pub struct TestDevice {
    register: u32,
    memory: Box<[u8]>,
}

impl TestDevice {
    /// Ports to claim, `(first, count)`: the 32-bit register, in any width; a port whose writes other
    /// emulators take as a wish to drop mappings of a page; the register byte by byte; the level of each
    /// interrupt input.
    pub const PORTS: &[(u16, u16)] = &[(0xE0, 4), (0xE4, 4), (0xE8, 4), (0x2000, LINES)];
    /// Memory window: `(first, length)`.
    pub const MMIO: &[(u64, u64)] = &[(0xFF00_0000, 0x1_0000)];

    /// A device with everything zero.
    pub fn new() -> Self {
        Self { register: 0, memory: vec![0; 0x1_0000].into_boxed_slice() }
    }

    fn bytes(&self, addr: u64, size: AccessSize) -> Option<std::ops::Range<usize>> {
        let at = (addr & 0xFFFF) as usize;
        let end = at.checked_add(size.bytes() as usize)?;
        (end <= self.memory.len()).then_some(at..end)
    }
}

impl Default for TestDevice {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for TestDevice {
    fn name(&self) -> &'static str {
        "test-device"
    }

    fn port_read(&mut self, _: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        match port {
            0xE0..=0xE3 => Some(self.register >> (8 * (port & 3)) & size.ones()),
            0xE8..=0xEB if size == AccessSize::Byte => Some(self.register >> (8 * (port & 3)) & 0xFF),
            _ => None,
        }
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        let shift = 8 * (port & 3);
        let mask = size.ones() << shift;
        match port {
            0xE0..=0xE3 => self.register = self.register & !mask | value << shift & mask,
            0xE8..=0xEB if size == AccessSize::Byte => {
                self.register = self.register & !mask | value << shift & mask;
            }
            0x2000.. if port < 0x2000 + LINES => {
                ctx.irq.set(IrqLine::shared((port & 0x1F) as u8, SOURCE), value & 0xFF != 0);
            }
            _ => {}
        }
    }

    fn mmio_read(&mut self, _: &mut Ctx<'_>, addr: u64, size: AccessSize) -> Option<u32> {
        let bytes = self.memory.get(self.bytes(addr, size)?)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    fn mmio_write(&mut self, _: &mut Ctx<'_>, addr: u64, size: AccessSize, value: u32) {
        let range = self.bytes(addr, size);
        if let Some(bytes) = range.and_then(|range| self.memory.get_mut(range)) {
            for (to, from) in bytes.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
        }
    }

    fn reset(&mut self, _: &mut Ctx<'_>, _: ResetKind) {
        self.register = 0;
        self.memory.fill(0);
    }

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestBoard;

    #[test]
    fn register_is_written_in_parts_and_read_as_a_whole() {
        let mut board = TestBoard::new();
        let mut device = TestDevice::new();
        let ctx = &mut board.ctx();
        device.port_write(ctx, 0xE0, AccessSize::Dword, 0x1234_5678);
        device.port_write(ctx, 0xE2, AccessSize::Word, 0xABCD);
        device.port_write(ctx, 0xE8, AccessSize::Byte, 0x99);
        assert_eq!(device.port_read(ctx, 0xE0, AccessSize::Dword), Some(0xABCD_5699));
        assert_eq!(device.port_read(ctx, 0xE1, AccessSize::Byte), Some(0x56));
        assert_eq!(device.port_read(ctx, 0xE8, AccessSize::Word), None);
    }

    #[test]
    fn memory_keeps_what_is_written_and_ends_with_the_window() {
        let mut board = TestBoard::new();
        let mut device = TestDevice::new();
        let ctx = &mut board.ctx();
        device.mmio_write(ctx, 0xFF00_0010, AccessSize::Dword, 0x1234_5678);
        assert_eq!(device.mmio_read(ctx, 0xFF00_0011, AccessSize::Word), Some(0x3456));
        assert_eq!(device.mmio_read(ctx, 0xFF00_FFFF, AccessSize::Word), None);
    }
}
