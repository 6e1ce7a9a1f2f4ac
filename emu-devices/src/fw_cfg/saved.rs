//! fw_cfg in snapshots: slot 62, the bytes of the selected item as a typed array, `[]` if there are none.
//!
//! v86 does not save how far they were read and goes on at the beginning, so only the bytes that are
//! left are saved.

use emu_core::snapshot::{FieldError, Fields, Value};

use super::FwCfg;
use crate::device::DeviceState;

/// What is left of the selected item.
pub(super) struct SavedFwCfg {
    rest: Vec<u8>,
}

impl SavedFwCfg {
    pub(super) fn capture(device: &FwCfg) -> Self {
        // The rest is the machine's configuration.
        let FwCfg { ram_size: _, files: _, selected, position } = device;
        Self { rest: selected.get(*position..).unwrap_or_default().to_vec() }
    }

    pub(super) fn apply(self, device: &mut FwCfg) {
        device.selected = self.rest;
        device.position = 0;
    }

    pub(super) fn into_state(self) -> DeviceState {
        let nothing = self.rest.is_empty();
        DeviceState::v86(if nothing { Value::Array(Vec::new()) } else { Value::bytes(self.rest) })
    }

    /// What `state` says, and `self` where it says nothing.
    pub(super) fn read(mut self, mut state: DeviceState) -> Result<Self, FieldError> {
        match state.v86 {
            Value::Typed(typed) if typed.kind.size() == 1 => self.rest = typed.data,
            Value::Typed(_) => return Err(FieldError::here("expected bytes")),
            ref mut other => {
                if Fields::of(other)?.is_some_and(|fields| !fields.is_empty()) {
                    return Err(FieldError::at(0, "expected bytes in a typed array"));
                }
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use emu_core::bus::AccessSize;

    use super::super::{DATA, SELECTOR};
    use super::*;
    use crate::device::Device;
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;

    fn select(device: &mut FwCfg, board: &mut TestBoard) {
        device.port_write(&mut board.ctx(), SELECTOR, AccessSize::Word, 0);
        assert_eq!(board.inb(device, DATA), b'Q');
    }

    fn restored(state: DeviceState) -> Vec<u8> {
        let (mut board, mut device) = (TestBoard::new(), FwCfg::new(0));
        board.power_up(&mut device, 1);
        device.restore(&mut board.ctx(), state).unwrap();
        (0..5).map(|_| board.inb(&mut device, DATA)).collect()
    }

    snapshot_conformance! {
        fw_cfg_snapshot_conforms,
        make: || FwCfg::new(1 << 20),
        exercise: select,
        ignored: &[],
    }

    #[test]
    fn fw_cfg_goes_on_reading_where_it_was() {
        let (mut board, mut device) = (TestBoard::new(), FwCfg::new(0));
        assert_eq!(device.save(&mut board.ctx()), DeviceState::v86(Value::Array(Vec::new())));
        select(&mut device, &mut board);
        let state = device.save(&mut board.ctx());
        assert_eq!(state, DeviceState::v86(Value::bytes(*b"EMU")));
        assert_eq!(restored(state), *b"EMU\0\0");
    }

    #[test]
    fn fw_cfg_array_of_v86_without_selection_reads_zeros() {
        assert_eq!(restored(DeviceState::v86(Value::Array(Vec::new()))), [0; 5]);
        assert_eq!(restored(DeviceState::v86(Value::bytes([1, 2, 3, 4]))), [1, 2, 3, 4, 0]);
    }

    #[test]
    fn fw_cfg_array_of_numbers_is_refused() {
        let (mut board, mut device) = (TestBoard::new(), FwCfg::new(0));
        let state = DeviceState::v86(Value::Array(vec![1.into()]));
        assert_eq!(device.restore(&mut board.ctx(), state).unwrap_err().path, [0]);
    }
}
