//! The DMA controllers in snapshots: slot 49.
//!
//! Elements 0-7 have one entry per channel: page, high page, current and base address, current and base
//! count, mask, mode. Element 8 is the byte pointer, of which v86 has one for both controllers; the
//! extra array has the two.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::{Channel, Dma8237};
use crate::device::DeviceState;
use crate::saved::{EXTRA_VERSION, keep, read_extra};

/// The pair.
pub(super) struct SavedDma {
    page: [u8; 8],
    page_high: [u8; 8],
    address: [u16; 8],
    base_address: [u16; 8],
    count: [u16; 8],
    base_count: [u16; 8],
    masked: [bool; 8],
    mode: [u8; 8],
    flip_flop: [bool; 2],
}

impl SavedDma {
    pub(super) fn capture(pair: &Dma8237) -> Self {
        let Dma8237 { channels, flip_flop } = pair;
        let mut saved = Self {
            page: [0; 8],
            page_high: [0; 8],
            address: [0; 8],
            base_address: [0; 8],
            count: [0; 8],
            base_count: [0; 8],
            masked: [false; 8],
            mode: [0; 8],
            flip_flop: *flip_flop,
        };
        for (n, channel) in channels.iter().enumerate() {
            let &Channel { address, base_address, count, base_count, page, page_high, mode, masked } =
                channel;
            saved.page[n] = page;
            saved.page_high[n] = page_high;
            saved.address[n] = address;
            saved.base_address[n] = base_address;
            saved.count[n] = count;
            saved.base_count[n] = base_count;
            saved.masked[n] = masked;
            saved.mode[n] = mode;
        }
        saved
    }

    pub(super) fn apply(self, pair: &mut Dma8237) {
        for (n, channel) in pair.channels.iter_mut().enumerate() {
            *channel = Channel {
                address: self.address[n],
                base_address: self.base_address[n],
                count: self.count[n],
                base_count: self.base_count[n],
                page: self.page[n],
                page_high: self.page_high[n],
                mode: self.mode[n],
                masked: self.masked[n],
            };
        }
        pair.flip_flop = self.flip_flop;
    }

    pub(super) fn into_state(self) -> DeviceState {
        let [first, second] = self.flip_flop;
        let v86 = values![
            Value::bytes(self.page),
            Value::bytes(self.page_high),
            Value::u16s(&self.address),
            Value::u16s(&self.base_address),
            Value::u16s(&self.count),
            Value::u16s(&self.base_count),
            Value::bytes(self.masked.map(u8::from)),
            Value::bytes(self.mode),
            u8::from(first),
        ];
        DeviceState { v86, extra: values![EXTRA_VERSION, first, second] }
    }

    /// What `state` says, and `self` where it says nothing.
    pub(super) fn read(mut self, mut state: DeviceState) -> Result<Self, FieldError> {
        if let Some(mut fields) = Fields::of(&mut state.v86)? {
            keep(&mut self.page, fields.u8s(0)?);
            keep(&mut self.page_high, fields.u8s(1)?);
            keep(&mut self.address, fields.u16s(2)?);
            keep(&mut self.base_address, fields.u16s(3)?);
            keep(&mut self.count, fields.u16s(4)?);
            keep(&mut self.base_count, fields.u16s(5)?);
            keep(&mut self.masked, fields.u8s(6)?.map(|mask| mask.map(|masked| masked != 0)));
            keep(&mut self.mode, fields.u8s(7)?);
            keep(&mut self.flip_flop, fields.bool(8)?.map(|high| [high; 2]));
        }
        read_extra(&mut state.extra, |fields| {
            let [first, second] = &mut self.flip_flop;
            keep(first, fields.bool(1)?);
            keep(second, fields.bool(2)?);
            Ok(())
        })?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, IsaDma};
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;

    fn restored(state: DeviceState) -> (TestBoard, Dma8237) {
        let (mut board, mut dma) = (TestBoard::new(), Dma8237::new());
        board.power_up(&mut dma, 1);
        dma.restore(&mut board.ctx(), state).unwrap();
        (board, dma)
    }

    /// Channel 2 (auto-init) half way through 8 bytes, channel 5 programmed, half an address on each
    /// controller, channels 1 and 3 masked.
    fn exercise(dma: &mut Dma8237, board: &mut TestBoard) {
        for (port, value) in [
            (0x0C, 0),
            (0x0B, 0x56),
            (0x04, 0x00),
            (0x04, 0x10),
            (0x05, 7),
            (0x05, 0),
            (0x81, 0x02),
            (0xD6, 0x45),
            (0xC4, 0x34),
            (0xC4, 0x12),
            (0xC6, 0xFF),
            (0xC6, 0x01),
            (0x8B, 0x05),
            (0x48B, 0x01),
            (0x0F, 0x0A),
            (0x00, 0x77),
        ] {
            board.outb(dma, port, value);
        }
        assert_eq!(dma.write_memory(&mut board.mem, 2, &[1, 2, 3, 4]), 4);
    }

    fn exercise_second(dma: &mut Dma8237, board: &mut TestBoard) {
        exercise(dma, board);
        board.outb(dma, 0x0C, 0);
        board.outb(dma, 0xC4, 0x55);
    }

    snapshot_conformance! {
        dma_snapshot_conforms,
        make: Dma8237::new,
        exercise: exercise_second,
        ignored: &[],
    }

    /// What [`exercise`] leaves.
    fn golden() -> Value {
        values![
            Value::bytes([0, 0, 2, 0, 0, 5, 0, 0]),
            Value::bytes([0, 0, 0, 0, 0, 1, 0, 0]),
            Value::u16s(&[0x77, 0, 0x1004, 0, 0, 0x1234, 0, 0]),
            Value::u16s(&[0x77, 0, 0x1000, 0, 0, 0x1234, 0, 0]),
            Value::u16s(&[0, 0, 3, 0, 0, 0x01FF, 0, 0]),
            Value::u16s(&[0, 0, 7, 0, 0, 0x01FF, 0, 0]),
            Value::bytes([0, 1, 0, 1, 0, 0, 0, 0]),
            Value::bytes([0, 0, 0x56, 0, 0, 0x45, 0, 0]),
            1,
        ]
    }

    #[test]
    fn dma_state_is_v86s_array_and_the_transfer_goes_on() {
        let (mut board, mut dma) = (TestBoard::new(), Dma8237::new());
        exercise(&mut dma, &mut board);
        let state = dma.save(&mut board.ctx());
        assert_eq!(state.v86, golden());
        let (mut board, mut dma) = restored(state);
        assert_eq!(dma.remaining(2), 4);
        assert_eq!(dma.write_memory(&mut board.mem, 2, &[5, 6, 7, 8, 9]), 5);
        assert_eq!(board.mem.dma_slice(0x2_1004, 4), Some(&[5, 6, 7, 8][..]));
        assert_eq!(board.mem.dma_slice(0x2_1000, 1), Some(&[9][..]));
        board.outb(&mut dma, 0x00, 0x66); // the high byte
        assert_eq!([board.inb(&mut dma, 0x00), board.inb(&mut dma, 0x00)], [0x77, 0x66]);
    }

    #[test]
    fn dma_array_of_v86_moves_both_byte_pointers_and_is_written_back_unchanged() {
        let (mut board, mut dma) = restored(DeviceState::v86(golden()));
        assert_eq!(dma.save(&mut board.ctx()).v86, golden());
        assert_eq!(board.inb(&mut dma, 0xC4), 0x12, "the high byte");
        assert_eq!((board.inb(&mut dma, 0x0F), dma.remaining(5)), (0xFA, 0x400));
    }
}
