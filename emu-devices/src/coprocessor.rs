//! Error logic of the numeric coprocessor in the PC/AT manner (82371SB data sheet, "Coprocessor
//! Error Support"): FERR# latches IRQ 13, port F0h acknowledges.
//!
//! It only matters to guests that leave CR0.NE clear. Writing port F0h lowers IRQ 13 and, while FERR#
//! is asserted, asserts IGNNE#, so that the interrupt handler can use x87 instructions before it has
//! cleared the exception; IGNNE# follows FERR# down.

use emu_core::bus::AccessSize;
use emu_core::irq::{IrqLine, IrqLines};
use emu_core::snapshot::FieldError;

use crate::device::{Ctx, Device, DeviceState, ResetKind};

mod saved;

const CLEAR_BUSY: u16 = 0xF0;

/// The latch and its two pins.
#[derive(Clone, Debug)]
pub struct CoprocessorError {
    irq: IrqLine,
    ferr: bool,
    ignne: bool,
}

impl CoprocessorError {
    /// Ports to claim: `(first, count)`.
    pub const PORTS: &[(u16, u16)] = &[(CLEAR_BUSY, 1)];

    /// No error. `irq` is IRQ 13 on a PC.
    pub fn new(irq: IrqLine) -> Self {
        Self { irq, ferr: false, ignne: false }
    }

    /// Level of FERR#. Returns IGNNE#: true lets the waiting instruction pass.
    pub fn set_ferr(&mut self, irq: &mut IrqLines, asserted: bool) -> bool {
        if asserted && !self.ferr {
            irq.set(self.irq, true);
        }
        self.ferr = asserted;
        self.ignne &= asserted;
        self.ignne
    }
}

impl Device for CoprocessorError {
    fn name(&self) -> &'static str {
        "coprocessor-error"
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, _: u16, size: AccessSize, _: u32) {
        if size == AccessSize::Byte {
            ctx.irq.set(self.irq, false);
            self.ignne = self.ferr;
        }
    }

    fn reset(&mut self, ctx: &mut Ctx<'_>, _: ResetKind) {
        *self = Self::new(self.irq);
        ctx.irq.set(self.irq, false);
    }

    fn save(&mut self, ctx: &mut Ctx<'_>) -> DeviceState {
        saved::SavedError::capture(self, ctx).into_state()
    }

    fn restore(&mut self, ctx: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        saved::SavedError::capture(self, ctx).read(state)?.apply(self, ctx);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestBoard;

    const IRQ_13: IrqLine = IrqLine::wired_to(13);

    #[test]
    fn coprocessor_error_latches_irq_13_until_port_f0_and_ignne_until_ferr_falls() {
        let mut board = TestBoard::new();
        let mut chip = CoprocessorError::new(IRQ_13);
        assert!(!chip.set_ferr(&mut board.irq, true), "the instruction waits");
        assert!(!chip.set_ferr(&mut board.irq, true), "and is tried again");
        assert!(board.irq.is_high(IRQ_13));
        board.outb(&mut chip, 0xF0, 0);
        assert!(!board.irq.is_high(IRQ_13));
        assert!(chip.set_ferr(&mut board.irq, true), "the handler may use the x87");
        assert!(!board.irq.is_high(IRQ_13), "the same error does not interrupt again");
        assert!(!chip.set_ferr(&mut board.irq, false));
        assert!(!chip.set_ferr(&mut board.irq, true), "the next error waits again");
        assert!(board.irq.is_high(IRQ_13));
    }

    #[test]
    fn coprocessor_error_cleared_before_port_f0_does_not_ignore_the_next_one() {
        let mut board = TestBoard::new();
        let mut chip = CoprocessorError::new(IRQ_13);
        let _ = chip.set_ferr(&mut board.irq, true);
        let _ = chip.set_ferr(&mut board.irq, false);
        assert!(board.irq.is_high(IRQ_13), "latched");
        board.outb(&mut chip, 0xF0, 0);
        assert!(!board.irq.is_high(IRQ_13));
        assert!(!chip.set_ferr(&mut board.irq, true));
    }
}
