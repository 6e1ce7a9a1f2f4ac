//! The power management block in snapshots: slot 50.
//!
//! PM1 control, status and enable, and the four GPE bytes. The timer is derived from guest time and not
//! saved. v86 stores what guests write to the GPE status bytes instead of clearing bits; nothing here can
//! raise such an event, so they are not read.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::{AcpiPm, CONTROL_SLEEP_ENABLE, STATUS_TIMER, TIMER_STATUS_PERIOD, ticks};
use crate::device::{Ctx, DeviceState};
use crate::saved::keep;

/// The block.
pub(super) struct SavedPm {
    control: u16,
    /// With the timer's bit as it is now.
    status: u16,
    enable: u16,
    gpe: [u8; 4],
}

impl SavedPm {
    pub(super) fn capture(chip: &AcpiPm, ctx: &Ctx<'_>) -> Self {
        let &AcpiPm { device: _, sci: _, status, enable, control, gpe, seen } = chip;
        let passed = ticks(ctx.now) / TIMER_STATUS_PERIOD != seen / TIMER_STATUS_PERIOD;
        Self { control, status: status | if passed { STATUS_TIMER } else { 0 }, enable, gpe }
    }

    pub(super) fn apply(self, chip: &mut AcpiPm, ctx: &mut Ctx<'_>) {
        let Self { control, status, enable, gpe } = self;
        *chip = AcpiPm {
            device: chip.device,
            sci: chip.sci,
            status,
            enable,
            control: control & !CONTROL_SLEEP_ENABLE,
            gpe,
            seen: ticks(ctx.now),
        };
        chip.update(ctx);
    }

    pub(super) fn into_state(self) -> DeviceState {
        DeviceState::v86(values![self.control, self.status, self.enable, Value::bytes(self.gpe)])
    }

    /// What `state` says, and `self` where it says nothing.
    pub(super) fn read(mut self, mut state: DeviceState) -> Result<Self, FieldError> {
        let Some(mut fields) = Fields::of(&mut state.v86)? else { return Ok(self) };
        keep(&mut self.control, fields.u16(0)?);
        keep(&mut self.status, fields.u16(1)?);
        keep(&mut self.enable, fields.u16(2)?);
        if let Some([_, _, enable_low, enable_high]) = fields.u8s(3)? {
            self.gpe = [0, 0, enable_low, enable_high];
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use emu_core::bus::AccessSize;
    use emu_core::irq::IrqLine;

    use super::super::{PM_TIMER, PM1_CONTROL, PM1_ENABLE, PM1_STATUS, time_of};
    use super::*;
    use crate::device::Device;
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;

    const SCI: IrqLine = IrqLine::wired_to(9);

    fn outw(board: &mut TestBoard, pm: &mut AcpiPm, port: u16, value: u32) {
        pm.port_write(&mut board.ctx(), port, AccessSize::Word, value);
    }

    fn restored_at(now: u64, state: DeviceState) -> (TestBoard, AcpiPm) {
        let (mut board, mut pm) = (TestBoard::new(), AcpiPm::new(SCI));
        board.now = now;
        board.power_up(&mut pm, 1);
        pm.restore(&mut board.ctx(), state).unwrap();
        (board, pm)
    }

    fn exercise(pm: &mut AcpiPm, board: &mut TestBoard) {
        outw(board, pm, PM1_CONTROL, 0x0401);
        outw(board, pm, PM1_ENABLE, 0x0121);
        board.outb(pm, 0xAFE2, 0x5A);
        pm.press_power_button(&mut board.ctx());
        board.advance(pm, 3_000_000_000);
    }

    snapshot_conformance! {
        pm_snapshot_conforms,
        make: || AcpiPm::new(SCI),
        exercise: exercise,
        ignored: &[],
    }

    #[test]
    fn pm_state_is_v86s_array_and_sci_stays_high() {
        let (mut board, mut pm) = (TestBoard::new(), AcpiPm::new(SCI));
        board.power_up(&mut pm, 1);
        exercise(&mut pm, &mut board);
        let state = pm.save(&mut board.ctx());
        assert_eq!(state, DeviceState::v86(values![0x0401, 0x0101, 0x0121, Value::bytes([0, 0, 0x5A, 0])]));
        let timer = board.port_in(&mut pm, PM_TIMER, AccessSize::Dword);
        let (mut board, mut pm) = restored_at(board.now, state);
        assert!(board.irq.is_high(SCI));
        assert_eq!(board.port_in(&mut pm, PM_TIMER, AccessSize::Dword), timer);
        outw(&mut board, &mut pm, PM1_STATUS, 0x0101);
        assert!(!board.irq.is_high(SCI));
        assert_eq!(board.events.next_deadline(), Some(time_of(2 << 23)), "the timer goes on");
    }

    #[test]
    fn pm_timer_change_before_saving_is_not_lost() {
        let (mut board, mut pm) = (TestBoard::new(), AcpiPm::new(SCI));
        board.power_up(&mut pm, 1);
        outw(&mut board, &mut pm, PM1_ENABLE, 1);
        board.now = time_of(1 << 23);
        let (board, _) = restored_at(board.now, pm.save(&mut board.ctx()));
        assert!(board.irq.is_high(SCI));
    }

    #[test]
    fn pm_array_of_v86_raises_no_event_from_its_gpe_status() {
        let array = values![0x2001, 0, 0x0121, Value::bytes([0xFF, 0xFF, 2, 0])];
        let (mut board, mut pm) = restored_at(0, DeviceState::v86(array));
        assert!(!board.irq.is_high(SCI));
        assert!(!board.requests.power_off);
        assert_eq!([0xAFE0, 0xAFE2].map(|p| board.inb(&mut pm, p)), [0, 2]);
        assert_eq!(board.port_in(&mut pm, PM1_CONTROL, AccessSize::Word), 1);
    }
}
