//! The I/O APIC in snapshots: slot 63, v86's structure of 52 dwords as bytes.
//!
//! | dword | what |
//! | --- | --- |
//! | 0-23 | low words of the entries |
//! | 24-47 | high words |
//! | 48 | register select |
//! | 49 | id, 0-15 |
//! | 50 | IRR: edges not sent yet, levels that are high |
//! | 51 | input levels |
//!
//! Before August 2025 the same fields were an array: two typed arrays and four numbers. Everything
//! fits; there is no extra array. Bits that the registers do not have are dropped.

use emu_core::snapshot::{FieldError, Fields, Value};

use super::{HIGH_WRITABLE, INPUTS, IoApic, LEVEL, LOW_WRITABLE, REMOTE_IRR, Redirection};
use crate::device::DeviceState;
use crate::irqchip::{dwords, structure};
use crate::saved::keep;

const DWORDS: usize = 2 * INPUTS + 4;
const INPUT_BITS: u32 = (1 << INPUTS) - 1;

/// The chip.
pub(super) struct SavedIoApic {
    low: [u32; INPUTS],
    high: [u32; INPUTS],
    select: u8,
    /// As v86 keeps it: not shifted to its place in the register.
    id: u32,
    edges: u32,
    lines: u32,
}

impl SavedIoApic {
    pub(super) fn capture(chip: &IoApic) -> Self {
        let &IoApic { entries, select, id, edges, lines } = chip;
        Self {
            low: entries.map(|Redirection { low, high: _ }| low),
            high: entries.map(|Redirection { low: _, high }| high),
            select,
            id: id >> 24,
            edges,
            lines,
        }
    }

    pub(super) fn apply(self, chip: &mut IoApic) {
        let Self { low, high, select, id, edges, lines } = self;
        for ((entry, low), high) in chip.entries.iter_mut().zip(low).zip(high) {
            *entry = Redirection { low: low & (LOW_WRITABLE | REMOTE_IRR), high: high & HIGH_WRITABLE };
        }
        chip.select = select;
        chip.id = (id & 0xF) << 24;
        chip.edges = edges & INPUT_BITS;
        chip.lines = lines & INPUT_BITS;
    }

    /// Inputs that are level triggered.
    fn levels(&self) -> u32 {
        self.low.iter().rev().fold(0, |bits, low| bits << 1 | u32::from(low & LEVEL != 0))
    }

    pub(super) fn into_state(self) -> DeviceState {
        let levels = self.levels();
        let irr = (self.edges & !levels) | (self.lines & levels);
        let rest = [u32::from(self.select), self.id, irr, self.lines];
        DeviceState::v86(structure(self.low.into_iter().chain(self.high).chain(rest)))
    }

    /// What `state` says, and `self` where it says nothing.
    pub(super) fn read(mut self, mut state: DeviceState) -> Result<Self, FieldError> {
        match &mut state.v86 {
            Value::Typed(typed) => {
                let words: [u32; DWORDS] = dwords(typed)?;
                let mut words = words.into_iter();
                for word in self.low.iter_mut().chain(&mut self.high) {
                    keep(word, words.next());
                }
                keep(&mut self.select, words.next().map(|select| select as u8));
                keep(&mut self.id, words.next());
                keep(&mut self.edges, words.next());
                keep(&mut self.lines, words.next());
            }
            other => {
                let Some(mut fields) = Fields::of(other)? else { return Ok(self) };
                keep(&mut self.low, fields.u32s(0)?);
                keep(&mut self.high, fields.u32s(1)?);
                keep(&mut self.select, fields.u8(2)?);
                keep(&mut self.id, fields.u32(3)?);
                keep(&mut self.edges, fields.u32(4)?);
                keep(&mut self.lines, fields.u32(5)?);
            }
        }
        self.edges &= !self.levels();
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use emu_core::bus::AccessSize;
    use emu_core::values;

    use super::*;
    use crate::device::Device;
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;

    fn write(board: &mut TestBoard, chip: &mut IoApic, register: u8, value: u32) {
        chip.mmio_write(&mut board.ctx(), 0xFEC0_0000, AccessSize::Dword, register.into());
        chip.mmio_write(&mut board.ctx(), 0xFEC0_0010, AccessSize::Dword, value);
    }

    fn read(board: &mut TestBoard, chip: &mut IoApic, register: u8) -> u32 {
        chip.mmio_write(&mut board.ctx(), 0xFEC0_0000, AccessSize::Dword, register.into());
        chip.mmio_read(&mut board.ctx(), 0xFEC0_0010, AccessSize::Dword).unwrap()
    }

    fn restored(v86: Value) -> (TestBoard, IoApic) {
        let (mut board, mut chip) = (TestBoard::new(), IoApic::new());
        board.power_up(&mut chip, 1);
        chip.restore(&mut board.ctx(), DeviceState::v86(v86)).unwrap();
        (board, chip)
    }

    /// Edges on 1 (unmasked), a level in service on 11, a level on 10 that is masked.
    fn exercise(chip: &mut IoApic, board: &mut TestBoard) {
        write(board, chip, 0x00, 0x0500_0000);
        write(board, chip, 0x12, 0x0931);
        write(board, chip, 0x13, 0x0100_0000);
        write(board, chip, 0x26, 0x8051);
        write(board, chip, 0x24, 0x1_8052);
        chip.set_line(11, true, true);
        assert_eq!(chip.next_message().map(|m| m.vector), Some(0x51));
        chip.set_line(1, false, true);
        chip.set_line(10, true, true);
    }

    snapshot_conformance! {
        ioapic_snapshot_conforms,
        make: IoApic::new,
        exercise: exercise,
        ignored: &[],
    }

    /// What [`exercise`] leaves, in v86's structure.
    fn golden() -> [u32; DWORDS] {
        let mut words = [0; DWORDS];
        words[..INPUTS].fill(0x1_0000);
        words[1] = 0x0931;
        words[11] = 0xC051;
        words[10] = 0x1_8052;
        words[INPUTS + 1] = 0x0100_0000;
        words[48..].copy_from_slice(&[0x24, 5, 0xC02, 0xC00]);
        words
    }

    fn check_goes_on(board: &mut TestBoard, chip: &mut IoApic) {
        assert!(chip.line_level(10) && chip.line_level(11) && !chip.line_level(1) && !chip.line_level(40));
        assert_eq!(chip.next_message().map(|m| (m.vector, m.destination)), Some((0x31, 1)));
        assert_eq!(chip.next_message(), None, "11 is in service, 10 is masked");
        chip.end_of_interrupt(0x51);
        assert_eq!(chip.next_message().map(|m| (m.vector, m.level)), Some((0x51, true)));
        write(board, chip, 0x24, 0x8052);
        assert_eq!(chip.next_message().map(|m| m.vector), Some(0x52));
        assert_eq!(read(board, chip, 0), 0x0500_0000);
    }

    #[test]
    fn ioapic_state_is_v86s_structure_and_goes_on_from_it() {
        let (mut board, mut chip) = (TestBoard::new(), IoApic::new());
        exercise(&mut chip, &mut board);
        let state = chip.save(&mut board.ctx());
        assert_eq!(state, DeviceState::v86(structure(golden())));
        let Value::Typed(typed) = &state.v86 else { panic!("no typed array") };
        assert_eq!((typed.kind.name(), typed.data.len()), ("Uint8Array", 208));
        let (mut board, mut chip) = restored(state.v86);
        check_goes_on(&mut board, &mut chip);
    }

    #[test]
    fn ioapic_array_from_before_august_2025_is_accepted() {
        let words = golden();
        let (low, high) = (Value::i32s(&words[..INPUTS]), Value::i32s(&words[INPUTS..48]));
        let (mut board, mut chip) = restored(values![low, high, 0x24, 5, 0xC02, 0xC00]);
        check_goes_on(&mut board, &mut chip);
    }

    #[test]
    fn ioapic_structure_of_another_length_is_refused() {
        let (mut board, mut chip) = (TestBoard::new(), IoApic::new());
        let state = DeviceState::v86(Value::bytes([0; 204]));
        let error = chip.restore(&mut board.ctx(), state).unwrap_err();
        assert_eq!(error.to_string(), "204 bytes instead of 208");
    }
}
