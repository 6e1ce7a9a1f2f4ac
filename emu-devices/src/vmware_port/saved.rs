//! The back door in snapshots: slot 89, `[enabled, absolute]`.
//!
//! The packets that wait and the pointer's last state, which v86 loses, are in the extra array.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::{BUTTON_LEFT, BUTTON_MIDDLE, BUTTON_RIGHT, QUEUE, VmwarePort};
use crate::device::DeviceState;
use crate::saved::{EXTRA_VERSION, keep, read_extra};

/// The back door.
pub(super) struct SavedVmware {
    enabled: bool,
    absolute: bool,
    queue: Vec<u32>,
    tail_is_move: bool,
    buttons: u32,
    position: Option<(u16, u16)>,
}

impl SavedVmware {
    pub(super) fn capture(port: &VmwarePort) -> Self {
        let VmwarePort { enabled, absolute, queue, tail_is_move, buttons, position } = port;
        Self {
            enabled: *enabled,
            absolute: *absolute,
            queue: queue.iter().copied().collect(),
            tail_is_move: *tail_is_move,
            buttons: *buttons,
            position: *position,
        }
    }

    pub(super) fn apply(self, port: &mut VmwarePort) {
        let Self { enabled, absolute, queue, tail_is_move, buttons, position } = self;
        *port = VmwarePort { enabled, absolute, queue: queue.into(), tail_is_move, buttons, position };
    }

    pub(super) fn into_state(self) -> DeviceState {
        let extra = values![
            EXTRA_VERSION,
            Value::u32s(&self.queue),
            self.tail_is_move,
            self.buttons,
            self.position.map(|(x, _)| x),
            self.position.map(|(_, y)| y),
        ];
        DeviceState { v86: values![self.enabled, self.absolute], extra }
    }

    /// What `state` says, and `self` where it says nothing.
    pub(super) fn read(mut self, mut state: DeviceState) -> Result<Self, FieldError> {
        if let Some(fields) = Fields::of(&mut state.v86)? {
            keep(&mut self.enabled, fields.bool(0)?);
            keep(&mut self.absolute, fields.bool(1)?);
        }
        read_extra(&mut state.extra, |fields| {
            if let Some(queue) = fields.typed(1)? {
                let words = queue.to_u32s().filter(|words| words.len() <= QUEUE);
                self.queue = words.ok_or_else(|| FieldError::at(1, "no queue of packets"))?;
            }
            keep(&mut self.tail_is_move, fields.bool(2)?);
            let bits = BUTTON_LEFT | BUTTON_RIGHT | BUTTON_MIDDLE;
            keep(&mut self.buttons, fields.u32(3)?.map(|buttons| buttons & bits));
            self.position = fields.u16(4)?.zip(fields.u16(5)?);
            Ok(())
        })?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        ABSOLUTE, ENABLE, MAGIC, POINTER_COMMAND, POINTER_DATA, POINTER_ID, POINTER_STATUS, STATUS_OFF,
    };
    use super::*;
    use crate::device::Device;
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;

    fn call(port: &mut VmwarePort, command: u32, ebx: u32) -> [u32; 4] {
        let [eax, ebx, ecx, edx, ..] = port.backdoor([MAGIC, ebx, command, 0, 0, 0], 0).unwrap();
        [eax, ebx, ecx, edx]
    }

    fn exercise(port: &mut VmwarePort, _: &mut TestBoard) {
        call(port, POINTER_COMMAND, ENABLE);
        call(port, POINTER_COMMAND, ABSOLUTE);
        port.pointer_moved(1, 2);
        port.pointer_buttons(1, 0);
        port.pointer_moved(3, 4);
    }

    fn restored(state: DeviceState) -> VmwarePort {
        let (mut board, mut port) = (TestBoard::new(), VmwarePort::new());
        board.power_up(&mut port, 1);
        port.restore(&mut board.ctx(), state).unwrap();
        port
    }

    snapshot_conformance! {
        vmware_snapshot_conforms,
        make: VmwarePort::new,
        exercise: exercise,
        ignored: &[],
    }

    #[test]
    fn vmware_packets_half_read_go_on_after_restoring() {
        let mut port = VmwarePort::new();
        exercise(&mut port, &mut TestBoard::new());
        assert_eq!(call(&mut port, POINTER_DATA, 3)[..3], [POINTER_ID, 0, 1]);
        let state = port.save(&mut TestBoard::new().ctx());
        assert_eq!(state.v86, values![true, true]);
        let mut port = restored(state);
        port.pointer_moved(3, 4); // where it was
        port.pointer_moved(5, 6); // replaces the move that waits
        assert_eq!(call(&mut port, POINTER_DATA, 2)[..2], [2, 0]);
        assert_eq!(call(&mut port, POINTER_DATA, 4), [0x20, 1, 2, 0]);
        assert_eq!(call(&mut port, POINTER_DATA, 4), [0x20, 5, 6, 0]);
        assert_eq!(call(&mut port, POINTER_STATUS, 0)[0], 0);
    }

    #[test]
    fn vmware_array_of_v86_has_an_empty_queue() {
        let mut port = restored(DeviceState::v86(values![true, true]));
        assert!(port.is_absolute());
        assert_eq!(call(&mut port, POINTER_STATUS, 0)[0], 0);
        port.pointer_moved(7, 8);
        assert_eq!(call(&mut port, POINTER_DATA, 4), [0, 7, 8, 0]);
        let mut port = restored(DeviceState::v86(values![false, false]));
        assert_eq!(call(&mut port, POINTER_STATUS, 0)[0], STATUS_OFF);
    }

    #[test]
    fn vmware_queue_longer_than_possible_is_refused() {
        let (mut board, mut port) = (TestBoard::new(), VmwarePort::new());
        let state = DeviceState { v86: Value::Null, extra: values![1, Value::u32s(&[0; QUEUE + 1])] };
        assert_eq!(port.restore(&mut board.ctx(), state).unwrap_err().path, [1]);
    }
}
