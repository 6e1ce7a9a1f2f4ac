//! A parallel port in snapshots: slots 90 and 91, `[data, status, control, latched status or null]`.

use emu_core::snapshot::{FieldError, Fields};
use emu_core::values;

use super::{CONTROL_MASK, ParallelPort};
use crate::device::{Ctx, DeviceState};
use crate::saved::keep;

/// The registers.
pub(super) struct SavedParallel {
    data: u8,
    status: u8,
    control: u8,
    latched: Option<u8>,
}

impl SavedParallel {
    pub(super) fn capture(port: &ParallelPort) -> Self {
        let &ParallelPort { base: _, data, status, control, latched, irq: _, sink: _ } = port;
        Self { data, status, control, latched }
    }

    pub(super) fn apply(self, port: &mut ParallelPort, ctx: &mut Ctx<'_>) {
        let Self { data, status, control, latched } = self;
        (port.data, port.status, port.control, port.latched) = (data, status, control, latched);
        // The acknowledge pulse is over.
        ctx.irq.set(port.irq, false);
    }

    pub(super) fn into_state(self) -> DeviceState {
        DeviceState::v86(values![self.data, self.status, self.control, self.latched])
    }

    /// What `state` says, and `self` where it says nothing.
    pub(super) fn read(mut self, mut state: DeviceState) -> Result<Self, FieldError> {
        let Some(fields) = Fields::of(&mut state.v86)? else { return Ok(self) };
        keep(&mut self.data, fields.u8(0)?);
        keep(&mut self.status, fields.u8(1)?);
        keep(&mut self.control, fields.u8(2)?.map(|control| control & CONTROL_MASK));
        self.latched = fields.u8(3)?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use emu_core::irq::IrqLine;
    use emu_core::snapshot::Value;

    use super::super::PrinterSink;
    use super::*;
    use crate::device::Device;
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;

    const LINE: IrqLine = IrqLine::wired_to(7);
    const B: u16 = ParallelPort::LPT1;

    struct NoPaper;

    impl PrinterSink for NoPaper {
        fn print(&mut self, _: u8) {}
    }

    fn new() -> ParallelPort {
        let mut port = ParallelPort::new(B, LINE);
        port.set_sink(Some(Box::new(NoPaper)));
        port
    }

    fn print(port: &mut ParallelPort, board: &mut TestBoard) {
        board.outb(port, B, b'x');
        board.outb(port, B + 2, 0x1D);
    }

    fn restored(v86: Value) -> (TestBoard, ParallelPort) {
        let (mut board, mut port) = (TestBoard::new(), new());
        board.power_up(&mut port, 1);
        port.restore(&mut board.ctx(), DeviceState::v86(v86)).unwrap();
        (board, port)
    }

    snapshot_conformance! {
        parallel_snapshot_conforms,
        make: new,
        exercise: print,
        ignored: &[],
    }

    #[test]
    fn parallel_acknowledge_is_still_seen_after_restoring() {
        let (mut board, mut port) = (TestBoard::new(), new());
        print(&mut port, &mut board);
        let state = port.save(&mut board.ctx());
        assert_eq!(state, DeviceState::v86(values![b'x', 0xD8, 0x1D, 0x98]));
        let (mut board, mut port) = restored(state.v86);
        assert_eq!([1, 1, 0].map(|r| board.inb(&mut port, B + r)), [0x98, 0xD8, b'x']);
        board.outb(&mut port, B + 2, 0x1D);
        assert_eq!(board.inb(&mut port, B + 1), 0xD8, "the strobe was active before");
    }

    #[test]
    fn parallel_array_of_v86_is_written_back_unchanged() {
        for array in [values![0, 216, 0, Value::Null], values![170, 216, 0, Value::Null]] {
            let (mut board, mut port) = restored(array.clone());
            assert_eq!(port.save(&mut board.ctx()), DeviceState::v86(array));
        }
    }
}
