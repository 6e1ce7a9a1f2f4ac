//! The coprocessor's error logic in snapshots: v86 has none, all of it is in the extra array.

use emu_core::snapshot::{FieldError, Value};
use emu_core::values;

use super::CoprocessorError;
use crate::device::{Ctx, DeviceState};
use crate::saved::{EXTRA_VERSION, keep, read_extra};

/// The latch and its pins.
pub(super) struct SavedError {
    ferr: bool,
    ignne: bool,
    /// Level of IRQ 13.
    irq: bool,
}

impl SavedError {
    pub(super) fn capture(chip: &CoprocessorError, ctx: &Ctx<'_>) -> Self {
        let &CoprocessorError { irq, ferr, ignne } = chip;
        Self { ferr, ignne, irq: ctx.irq.is_high(irq) }
    }

    pub(super) fn apply(self, chip: &mut CoprocessorError, ctx: &mut Ctx<'_>) {
        // IGNNE# follows FERR# down.
        (chip.ferr, chip.ignne) = (self.ferr, self.ferr && self.ignne);
        ctx.irq.set(chip.irq, self.irq);
    }

    pub(super) fn into_state(self) -> DeviceState {
        DeviceState { v86: Value::Null, extra: values![EXTRA_VERSION, self.ferr, self.ignne, self.irq] }
    }

    /// What `state` says, and `self` where it says nothing.
    pub(super) fn read(mut self, mut state: DeviceState) -> Result<Self, FieldError> {
        read_extra(&mut state.extra, |fields| {
            keep(&mut self.ferr, fields.bool(1)?);
            keep(&mut self.ignne, fields.bool(2)?);
            keep(&mut self.irq, fields.bool(3)?);
            Ok(())
        })?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use emu_core::irq::IrqLine;

    use super::*;
    use crate::device::Device;
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;

    const IRQ_13: IrqLine = IrqLine::wired_to(13);

    fn waiting(chip: &mut CoprocessorError, board: &mut TestBoard) {
        assert!(!chip.set_ferr(&mut board.irq, true));
    }

    fn in_handler(chip: &mut CoprocessorError, board: &mut TestBoard) {
        waiting(chip, board);
        board.outb(chip, 0xF0, 0);
    }

    snapshot_conformance! {
        coprocessor_snapshot_conforms,
        make: || CoprocessorError::new(IRQ_13),
        exercise: waiting,
        ignored: &[],
    }

    snapshot_conformance! {
        coprocessor_snapshot_in_the_handler_conforms,
        make: || CoprocessorError::new(IRQ_13),
        exercise: in_handler,
        ignored: &[],
    }

    #[test]
    fn coprocessor_error_goes_on_after_restoring() {
        let (mut board, mut chip) = (TestBoard::new(), CoprocessorError::new(IRQ_13));
        waiting(&mut chip, &mut board);
        let state = chip.save(&mut board.ctx());
        assert_eq!(state, DeviceState { v86: Value::Null, extra: values![1, true, false, true] });
        let (mut board, mut chip) = (TestBoard::new(), CoprocessorError::new(IRQ_13));
        chip.restore(&mut board.ctx(), state).unwrap();
        assert!(board.irq.is_high(IRQ_13));
        board.outb(&mut chip, 0xF0, 0);
        assert!(!board.irq.is_high(IRQ_13));
        assert!(chip.set_ferr(&mut board.irq, true), "the handler may use the x87");
        let state = chip.save(&mut board.ctx());
        let mut again = CoprocessorError::new(IRQ_13);
        again.restore(&mut board.ctx(), state).unwrap();
        assert!(again.set_ferr(&mut board.irq, true), "still");
        assert!(!board.irq.is_high(IRQ_13));
    }
}
