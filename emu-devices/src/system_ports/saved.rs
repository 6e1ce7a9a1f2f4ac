//! The single ports in snapshots: v86 saves none of them, all are in the extra array.

use emu_core::snapshot::{FieldError, Value};
use emu_core::values;

use super::SystemPorts;
use crate::device::DeviceState;
use crate::saved::{EXTRA_VERSION, keep, read_extra};

/// The latches.
pub(super) struct SavedPorts {
    control_a: u8,
    post_code: u8,
}

impl SavedPorts {
    pub(super) fn capture(ports: &SystemPorts) -> Self {
        let SystemPorts { control_a, post_code, debug: _ } = ports;
        Self { control_a: *control_a, post_code: *post_code }
    }

    pub(super) fn apply(self, ports: &mut SystemPorts) {
        (ports.control_a, ports.post_code) = (self.control_a, self.post_code);
    }

    pub(super) fn into_state(self) -> DeviceState {
        DeviceState { v86: Value::Null, extra: values![EXTRA_VERSION, self.control_a, self.post_code] }
    }

    /// What `state` says, and `self` where it says nothing.
    pub(super) fn read(mut self, mut state: DeviceState) -> Result<Self, FieldError> {
        read_extra(&mut state.extra, |fields| {
            keep(&mut self.control_a, fields.u8(1)?);
            keep(&mut self.post_code, fields.u8(2)?);
            Ok(())
        })?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::serial::NullSink;
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;

    fn new() -> SystemPorts {
        SystemPorts::new(Box::new(NullSink))
    }

    fn exercise(ports: &mut SystemPorts, board: &mut TestBoard) {
        board.outb(ports, 0x92, 0x03);
        board.outb(ports, 0x80, 0x7F);
    }

    snapshot_conformance! {
        system_ports_snapshot_conforms,
        make: new,
        exercise: exercise,
        ignored: &[],
    }

    #[test]
    fn system_control_a_is_restored_without_resetting_the_machine() {
        let (mut board, mut ports) = (TestBoard::new(), new());
        exercise(&mut ports, &mut board);
        let state = ports.save(&mut board.ctx());
        assert_eq!(state, DeviceState { v86: Value::Null, extra: values![1, 3, 0x7F] });
        let (mut board, mut ports) = (TestBoard::new(), new());
        ports.restore(&mut board.ctx(), state).unwrap();
        assert!(!board.requests.reset);
        assert_eq!((board.inb(&mut ports, 0x92), ports.post_code()), (3, 0x7F));
        board.outb(&mut ports, 0x92, 0x03);
        assert!(!board.requests.reset, "the bit was set before");
    }
}
