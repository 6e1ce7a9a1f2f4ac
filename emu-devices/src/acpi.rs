//! Power management block of the PIIX4 (82371AB data sheet, chapter 7): PM1 event and control
//! registers, PM timer, GPE0. Only present on machines with ACPI.
//!
//! The ports are fixed where SeaBIOS expects them. Sleep types are those of its tables: S3 is 1, S4
//! is 2, S5 is 0. Entering S4 or S5 switches the power off; S3 is ignored.

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLine;
use emu_core::snapshot::FieldError;
use emu_core::time::{NS_PER_SEC, VmTime};

use crate::device::{Ctx, Device, DeviceId, DeviceState, ResetKind};

mod saved;

const PM1_STATUS: u16 = 0xB000;
const PM1_ENABLE: u16 = 0xB002;
const PM1_CONTROL: u16 = 0xB004;
const PM_TIMER: u16 = 0xB008;
const GPE0: u16 = 0xAFE0;

/// PM timer clock, Hz.
pub const PM_TIMER_HZ: u64 = 3_579_545;
const TIMER_MASK: u64 = 0x00FF_FFFF;
/// The timer's status is set each time bit 23 changes.
const TIMER_STATUS_PERIOD: u64 = 1 << 23;

const STATUS_TIMER: u16 = 1 << 0;
const STATUS_POWER_BUTTON: u16 = 1 << 8;
/// Timer, global, power button, RTC.
const ENABLE_MASK: u16 = 0x0521;

const CONTROL_SCI_ENABLE: u16 = 1 << 0;
const CONTROL_SLEEP_ENABLE: u16 = 1 << 13;

/// Sleep type (PM1 control bits 12:10) of suspend to disk.
pub const SLEEP_TYPE_S4: u16 = 2;
/// Sleep type of soft off.
pub const SLEEP_TYPE_S5: u16 = 0;

fn ticks(now: VmTime) -> u64 {
    (u128::from(now) * u128::from(PM_TIMER_HZ) / u128::from(NS_PER_SEC)) as u64
}

/// First nanosecond at which [`ticks`] is `ticks`.
fn time_of(ticks: u64) -> VmTime {
    let ns = (u128::from(ticks) * u128::from(NS_PER_SEC)).div_ceil(u128::from(PM_TIMER_HZ));
    VmTime::try_from(ns).unwrap_or(VmTime::MAX)
}

/// The block.
#[derive(Clone, Debug)]
pub struct AcpiPm {
    device: DeviceId,
    sci: IrqLine,
    status: u16,
    enable: u16,
    control: u16,
    /// Status (2 bytes) and enable (2 bytes).
    gpe: [u8; 4],
    /// Timer value up to which its status was computed.
    seen: u64,
}

impl AcpiPm {
    /// Ports to claim: `(first, count)`.
    pub const PORTS: &[(u16, u16)] = &[(PM1_STATUS, 12), (GPE0, 4)];

    /// Powered up in ACPI mode. `sci` is the system control interrupt (IRQ 9).
    pub fn new(sci: IrqLine) -> Self {
        Self { device: 0, sci, status: 0, enable: 0, control: CONTROL_SCI_ENABLE, gpe: [0; 4], seen: 0 }
    }

    /// The host presses the power button: an operating system with ACPI shuts down.
    pub fn press_power_button(&mut self, ctx: &mut Ctx<'_>) {
        self.status |= STATUS_POWER_BUTTON;
        self.update(ctx);
    }

    fn update(&mut self, ctx: &mut Ctx<'_>) {
        let now = ticks(ctx.now);
        if now / TIMER_STATUS_PERIOD != self.seen / TIMER_STATUS_PERIOD {
            self.status |= STATUS_TIMER;
        }
        self.seen = now;
        let [status_low, status_high, enable_low, enable_high] = self.gpe;
        let gpe = (status_low & enable_low) | (status_high & enable_high);
        ctx.irq.set(self.sci, self.status & self.enable & ENABLE_MASK != 0 || gpe != 0);
        if self.enable & !self.status & STATUS_TIMER != 0 {
            let next = (now / TIMER_STATUS_PERIOD).saturating_add(1).saturating_mul(TIMER_STATUS_PERIOD);
            ctx.schedule(self.device, time_of(next));
        } else {
            ctx.cancel(self.device);
        }
    }

    fn write_control(&mut self, ctx: &mut Ctx<'_>, value: u16) {
        self.control = value & !CONTROL_SLEEP_ENABLE;
        let sleep_type = (value >> 10) & 7;
        if value & CONTROL_SLEEP_ENABLE != 0 && matches!(sleep_type, SLEEP_TYPE_S4 | SLEEP_TYPE_S5) {
            ctx.requests.power_off = true;
        }
    }
}

impl Device for AcpiPm {
    fn name(&self) -> &'static str {
        "piix4-pm"
    }

    fn attach(&mut self, id: DeviceId) {
        self.device = id;
    }

    fn port_read(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        self.update(ctx);
        match (port, size) {
            (PM1_STATUS, AccessSize::Word) => Some(u32::from(self.status)),
            (PM1_ENABLE, AccessSize::Word) => Some(u32::from(self.enable)),
            (PM1_CONTROL, AccessSize::Word) => Some(u32::from(self.control)),
            (PM1_CONTROL, AccessSize::Byte) => Some(u32::from(self.control & 0xFF)),
            (PM_TIMER, AccessSize::Dword) => Some((ticks(ctx.now) & TIMER_MASK) as u32),
            (_, AccessSize::Byte) => {
                self.gpe.get(usize::from(port.wrapping_sub(GPE0))).map(|b| u32::from(*b))
            }
            _ => None,
        }
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        self.update(ctx);
        match (port, size) {
            // Writing 1 clears.
            (PM1_STATUS, AccessSize::Word) => self.status &= !(value as u16),
            (PM1_ENABLE, AccessSize::Word) => self.enable = value as u16,
            (PM1_CONTROL, AccessSize::Word) => self.write_control(ctx, value as u16),
            (_, AccessSize::Byte) => {
                let index = usize::from(port.wrapping_sub(GPE0));
                if let Some(byte) = self.gpe.get_mut(index) {
                    // No source sets the status bytes; writing 1 clears them.
                    *byte = if index < 2 { *byte & !(value as u8) } else { value as u8 };
                }
            }
            _ => {}
        }
        self.update(ctx);
    }

    fn on_event(&mut self, ctx: &mut Ctx<'_>) {
        self.update(ctx);
    }

    fn reset(&mut self, ctx: &mut Ctx<'_>, _: ResetKind) {
        *self = Self { device: self.device, seen: ticks(ctx.now), ..Self::new(self.sci) };
        self.update(ctx);
    }

    fn save(&mut self, ctx: &mut Ctx<'_>) -> DeviceState {
        saved::SavedPm::capture(self, ctx).into_state()
    }

    fn restore(&mut self, ctx: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        saved::SavedPm::capture(self, ctx).read(state)?.apply(self, ctx);
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

    const SCI: IrqLine = IrqLine::wired_to(9);

    fn new() -> (TestBoard, AcpiPm) {
        let mut board = TestBoard::new();
        let mut pm = AcpiPm::new(SCI);
        board.power_up(&mut pm, 1);
        (board, pm)
    }

    fn outw(board: &mut TestBoard, pm: &mut AcpiPm, port: u16, value: u16) {
        pm.port_write(&mut board.ctx(), port, AccessSize::Word, u32::from(value));
    }

    fn inw(board: &mut TestBoard, pm: &mut AcpiPm, port: u16) -> u16 {
        board.port_in(pm, port, AccessSize::Word) as u16
    }

    #[test]
    fn pm_powers_up_in_acpi_mode_with_the_reference_widths() {
        let (mut board, mut pm) = new();
        assert_eq!(inw(&mut board, &mut pm, 0xB004), 1);
        assert_eq!(board.inb(&mut pm, 0xB004), 1);
        assert_eq!(board.inb(&mut pm, 0xB000), 0xFF);
        assert_eq!(board.port_in(&mut pm, 0xB004, AccessSize::Dword), 0xFFFF_FFFF);
        assert_eq!(inw(&mut board, &mut pm, 0xB008), 0xFFFF);
        assert_eq!(board.inb(&mut pm, 0xAFE3), 0);
    }

    #[test]
    fn pm_timer_counts_3579545_a_second_in_24_bits() {
        let (mut board, mut pm) = new();
        board.advance(&mut pm, NS_PER_SEC);
        assert_eq!(board.port_in(&mut pm, 0xB008, AccessSize::Dword), 3_579_545);
        board.advance(&mut pm, 9 * NS_PER_SEC);
        assert_eq!(board.port_in(&mut pm, 0xB008, AccessSize::Dword), 35_795_450 - 2 * (1 << 24));
    }

    #[test]
    fn pm_timer_raises_sci_when_bit_23_changes() {
        let (mut board, mut pm) = new();
        outw(&mut board, &mut pm, 0xB002, 1);
        let at = board.events.next_deadline().unwrap();
        assert_eq!(at, time_of(1 << 23));
        board.advance(&mut pm, at - 1);
        assert!(!board.irq.is_high(SCI));
        board.advance(&mut pm, 1);
        assert!(board.irq.is_high(SCI));
        assert_eq!(inw(&mut board, &mut pm, 0xB000), 1);
        outw(&mut board, &mut pm, 0xB000, 1);
        assert!(!board.irq.is_high(SCI));
        assert_eq!(board.events.next_deadline(), Some(time_of(1 << 24)));
    }

    #[test]
    fn pm_timer_status_is_set_for_polling_too() {
        let (mut board, mut pm) = new();
        board.advance(&mut pm, 3 * NS_PER_SEC);
        assert_eq!(inw(&mut board, &mut pm, 0xB000), 1);
        assert!(!board.irq.is_high(SCI));
    }

    #[test]
    fn pm_power_button_raises_sci_if_enabled() {
        let (mut board, mut pm) = new();
        outw(&mut board, &mut pm, 0xB002, 1 << 8);
        pm.press_power_button(&mut board.ctx());
        assert!(board.irq.is_high(SCI));
        outw(&mut board, &mut pm, 0xB000, 1 << 8);
        assert!(!board.irq.is_high(SCI));
    }

    #[test]
    fn pm_sleep_types_off_and_disk_switch_off_only_with_enable() {
        let (mut board, mut pm) = new();
        for value in [0x0001, 0x0401, 0x2401] {
            outw(&mut board, &mut pm, 0xB004, value);
            assert!(!board.requests.power_off, "{value:#x}");
        }
        assert_eq!(inw(&mut board, &mut pm, 0xB004), 0x0401, "the enable bit reads 0");
        outw(&mut board, &mut pm, 0xB004, 0x2001);
        assert!(board.requests.power_off);
    }

    #[test]
    fn pm_gpe_enables_are_stored_and_status_stays_clear() {
        let (mut board, mut pm) = new();
        for i in 0..4 {
            board.outb(&mut pm, 0xAFE0 + i, 0xFF);
        }
        assert_eq!([0xAFE0, 0xAFE1, 0xAFE2, 0xAFE3].map(|p| board.inb(&mut pm, p)), [0, 0, 0xFF, 0xFF]);
        assert!(!board.irq.is_high(SCI));
    }
}
