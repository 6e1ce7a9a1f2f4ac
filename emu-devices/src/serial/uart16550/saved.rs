//! State of the UART in snapshots: slot 54, or 79 to 81 for the other ports.
//!
//! | v86's array | here |
//! | --- | --- |
//! | 0 | pending interrupts: derived, except bit 2 ("holding register empty") |
//! | 1, 2, 4, 5, 7, 9 | divisor, LCR, FCR, IER, MCR, scratch register |
//! | 3 | LSR: derived |
//! | 6 | IIR: derived |
//! | 8 | MSR: modem inputs and their changes |
//! | 10 | interrupt number: written, not read, because the board is wired as it is |
//!
//! v86 keeps no received bytes. Where its file says that there are some (0, bits 4 and 12; 3, bit 0),
//! they are gone, and the guest sees an empty FIFO rather than a zero byte nobody has sent. Our files
//! set those bits all the same: v86 lowers the interrupt only when the guest reads that zero byte.
//!
//! What v86 has no place for (FIFO, waiting host input, receive errors, pauses) is in our own part.

use std::collections::VecDeque;

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::time::VmTime;
use emu_core::values;

use super::{INPUT_QUEUE, Pace, QUIET_NS, SEND_WINDOW_NS, Uart16550};
use crate::device::DeviceState;
use crate::serial::spec::*;

/// Layout of our own part.
const VERSION: i64 = 1;

/// Bits of LSR that are errors.
const LSR_ERRORS: u8 = 0x1E;

/// The chip's state as plain data.
#[derive(Debug, Default)]
pub(super) struct SavedUart {
    irq: u8,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    line_errors: u8,
    modem_inputs: u8,
    modem_deltas: u8,
    scratch: u8,
    divisor: u16,
    thre: bool,
    thre_at: Option<VmTime>,
    fifo: Vec<u8>,
    input: Vec<u8>,
    quiet_until: VmTime,
    sent: Pace,
    received: Pace,
}

/// Bytes, or nothing if there are none: v86 does not load a compressed file with many empty buffers.
fn queue(bytes: Vec<u8>) -> Value {
    if bytes.is_empty() { Value::Null } else { Value::bytes(bytes) }
}

/// A time as JSON can hold it.
fn time(at: VmTime) -> Value {
    Value::Int(i64::try_from(at).unwrap_or(i64::MAX))
}

fn read_time(f: &Fields<'_>, index: usize) -> Result<Option<VmTime>, FieldError> {
    Ok(f.i64(index)?.map(|at| u64::try_from(at).unwrap_or(0)))
}

impl SavedUart {
    /// The state of a chip.
    pub(super) fn capture(chip: &Uart16550) -> Self {
        let Uart16550 {
            device: _,
            irq,
            sink: _,
            ier,
            fcr,
            lcr,
            mcr,
            line_errors,
            modem_inputs,
            modem_deltas,
            scratch,
            divisor,
            thre,
            thre_at,
            fifo,
            input,
            quiet_until,
            sent,
            received,
        } = chip;
        Self {
            irq: irq.number(),
            ier: *ier,
            fcr: *fcr,
            lcr: *lcr,
            mcr: *mcr,
            line_errors: *line_errors,
            modem_inputs: *modem_inputs,
            modem_deltas: *modem_deltas,
            scratch: *scratch,
            divisor: *divisor,
            thre: *thre,
            thre_at: *thre_at,
            fifo: fifo.iter().copied().collect(),
            input: input.iter().copied().collect(),
            quiet_until: *quiet_until,
            sent: *sent,
            received: *received,
        }
    }

    /// Puts the state into a chip at guest time `now`. Its interrupt and deadline are still those of
    /// before.
    pub(super) fn apply(self, chip: &mut Uart16550, now: VmTime) {
        chip.ier = self.ier & IER_MASK;
        chip.fcr = if self.fcr & FCR_ENABLE != 0 { self.fcr & FCR_STORED } else { 0 };
        chip.lcr = self.lcr;
        chip.mcr = self.mcr & MCR_MASK;
        chip.line_errors = self.line_errors & LSR_ERRORS;
        chip.modem_inputs = self.modem_inputs & 0xF0;
        chip.modem_deltas = self.modem_deltas & 0x0F;
        chip.scratch = self.scratch;
        chip.divisor = self.divisor;
        // Times may be wrong in any way: no pause lasts longer than it can, and no window began later
        // than now.
        chip.thre_at = self.thre_at.map(|at| at.min(now.saturating_add(SEND_WINDOW_NS)));
        chip.thre = self.thre && chip.thre_at.is_none();
        chip.fifo = self.fifo.into_iter().take(FIFO_SIZE).collect();
        chip.input = VecDeque::from(self.input);
        chip.quiet_until = self.quiet_until.min(now.saturating_add(QUIET_NS));
        let pace = |pace: Pace| Pace { start: pace.start.min(now), ..pace };
        (chip.sent, chip.received) = (pace(self.sent), pace(self.received));
    }

    /// Pending interrupts and IIR as v86 has them: received data is always a character timeout while
    /// the FIFOs are on.
    fn v86_interrupts(&self) -> (u32, u8) {
        let received = if self.fcr & FCR_ENABLE != 0 { IIR_TIMEOUT } else { IIR_RECEIVE };
        let causes = [
            (!self.fifo.is_empty(), IER_RECEIVE, received),
            // v86 knows no pauses: an interrupt that is put off is due.
            (self.thre || self.thre_at.is_some(), IER_THRE, IIR_THRE),
            (self.modem_deltas != 0, IER_MODEM, IIR_MODEM),
        ];
        let pending = causes.iter().filter(|cause| cause.0).fold(0, |bits, cause| bits | 1 << cause.2);
        let first = causes.iter().find(|cause| cause.0 && self.ier & cause.1 != 0);
        (pending, first.map_or(IIR_NONE, |cause| cause.2))
    }

    pub(super) fn into_state(self) -> DeviceState {
        let (pending, iir) = self.v86_interrupts();
        // Without errors: v86 would show them for ever.
        let lsr = LSR_EMPTY | if self.fifo.is_empty() { 0 } else { LSR_DATA };
        let v86 = values![
            pending,
            self.divisor,
            self.lcr,
            lsr,
            self.fcr,
            self.ier,
            iir,
            self.mcr,
            self.modem_inputs | self.modem_deltas,
            self.scratch,
            self.irq,
        ];
        let extra = values![
            VERSION,
            queue(self.fifo),
            queue(self.input),
            self.line_errors,
            self.thre,
            self.thre_at.map(time),
            time(self.quiet_until),
            time(self.sent.start),
            self.sent.bytes,
            time(self.received.start),
            self.received.bytes,
        ];
        DeviceState { v86, extra }
    }

    /// Takes over what a snapshot says.
    ///
    /// # Errors
    /// A field is of a wrong type.
    pub(super) fn read(&mut self, mut state: DeviceState) -> Result<(), FieldError> {
        if let Some(f) = Fields::of(&mut state.v86)? {
            self.read_v86(&f)?;
        }
        match Fields::of(&mut state.extra) {
            Ok(Some(mut f)) => self.read_extra(&mut f),
            other => other.map(|_| ()),
        }
        .map_err(FieldError::in_extra)
    }

    fn read_v86(&mut self, f: &Fields<'_>) -> Result<(), FieldError> {
        if let Some(pending) = f.u32(0)? {
            self.thre = pending & 1 << IIR_THRE != 0;
        }
        self.divisor = f.u16(1)?.unwrap_or(self.divisor);
        self.lcr = f.u8(2)?.unwrap_or(self.lcr);
        f.u8(3)?;
        self.fcr = f.u8(4)?.unwrap_or(self.fcr);
        self.ier = f.u8(5)?.unwrap_or(self.ier);
        f.u8(6)?;
        self.mcr = f.u8(7)?.unwrap_or(self.mcr);
        if let Some(msr) = f.u8(8)? {
            (self.modem_inputs, self.modem_deltas) = (msr & 0xF0, msr & 0x0F);
        }
        self.scratch = f.u8(9)?.unwrap_or(self.scratch);
        f.u8(10)?;
        Ok(())
    }

    fn read_extra(&mut self, f: &mut Fields<'_>) -> Result<(), FieldError> {
        if f.i64(0)? != Some(VERSION) {
            return Err(FieldError::at(0, "unknown layout"));
        }
        self.fifo = f.bytes_up_to(1, FIFO_SIZE)?.unwrap_or_default();
        // What was in the FIFO may have gone back.
        self.input = f.bytes_up_to(2, INPUT_QUEUE + FIFO_SIZE)?.unwrap_or_default();
        self.line_errors = f.u8(3)?.unwrap_or(0);
        self.thre = f.bool(4)?.unwrap_or(self.thre);
        self.thre_at = read_time(f, 5)?;
        self.quiet_until = read_time(f, 6)?.unwrap_or(0);
        let pace = |f: &Fields<'_>, index| -> Result<Pace, FieldError> {
            Ok(Pace { start: read_time(f, index)?.unwrap_or(0), bytes: f.u32(index + 1)?.unwrap_or(0) })
        };
        self.sent = pace(f, 7)?;
        self.received = pace(f, 9)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use emu_core::irq::IrqLine;

    use super::*;
    use crate::device::Device;
    use crate::serial::NullSink;
    use crate::testing::TestBoard;

    const IRQ4: IrqLine = IrqLine::wired_to(4);
    const COM1: u16 = 0x3F8;

    fn make() -> Uart16550 {
        Uart16550::new(IRQ4, Box::new(NullSink))
    }

    fn restored(board: &mut TestBoard, state: DeviceState) -> Uart16550 {
        board.irq = emu_core::irq::IrqLines::new();
        board.events = emu_core::time::EventQueue::new();
        let mut uart = make();
        board.power_up(&mut uart, 1);
        uart.restore(&mut board.ctx(), state).unwrap();
        uart
    }

    fn read(board: &mut TestBoard, uart: &mut Uart16550, register: u16) -> u8 {
        board.inb(uart, COM1 + register)
    }

    fn write(board: &mut TestBoard, uart: &mut Uart16550, register: u16, value: u8) {
        board.outb(uart, COM1 + register, value);
    }

    fn exercise(uart: &mut Uart16550, board: &mut TestBoard) {
        board.advance(uart, 3_000_000);
        for (register, value) in
            [(LCR, 0x80), (DATA, 0x0C), (IER, 0x01), (LCR, 0x03), (SCR, 0xA5), (MCR, 0x0B), (IIR_FCR, 0x81)]
        {
            write(board, uart, register, value);
        }
        uart.set_modem_inputs(&mut board.ctx(), 0xB0);
        // More than the FIFO holds.
        uart.receive(&mut board.ctx(), b"twenty received chars");
        uart.line_errors = 0x02;
        write(board, uart, IER, 0x0F);
        for _ in 0..=super::super::SEND_BURST {
            write(board, uart, DATA, b'x');
        }
    }

    crate::snapshot_conformance!(
        uart_snapshot_conformance,
        make: make,
        exercise: exercise,
        ignored: &[],
    );

    #[test]
    fn uart_saved_array_is_the_one_v86_expects() {
        let mut board = TestBoard::new();
        let mut uart = make();
        board.power_up(&mut uart, 1);
        let fresh = uart.save(&mut board.ctx());
        assert_eq!(fresh.v86, values![4, 0, 0, 0x60, 0, 0, 1, 0, 0, 0, 4]);
        exercise(&mut uart, &mut board);
        let state = uart.save(&mut board.ctx());
        // Data in a FIFO is v86's "character timeout" (0Ch); the transmit interrupt is not put off.
        assert_eq!(state.v86, values![0x1005, 0x010C, 3, 0x61, 0x81, 0x0F, 0x0C, 0x0B, 0xBB, 0xA5, 4]);
        // Without FIFOs it is "received data".
        write(&mut board, &mut uart, IIR_FCR, 0);
        let Value::Array(items) = uart.save(&mut board.ctx()).v86 else { unreachable!() };
        assert_eq!((&items[0], &items[6]), (&Value::Int(0x15), &Value::Int(4)));
    }

    #[test]
    fn uart_of_a_v86_guest_that_waits_for_its_transmit_interrupt_gets_it() {
        // COM1 as a Linux guest has it open, 115200 8N1, in the middle of sending.
        let array = || values![4, 1, 0x13, 0x60, 0x81, 7, 2, 0x0B, 0, 0, 4];
        let mut board = TestBoard::new();
        let mut uart = restored(&mut board, DeviceState::v86(array()));
        assert!(board.irq.is_high(IRQ4));
        assert_eq!(uart.save(&mut board.ctx()).v86, array(), "unchanged");
        assert_eq!(read(&mut board, &mut uart, IIR_FCR), IIR_FIFO | IIR_THRE);
        assert!(!board.irq.is_high(IRQ4));
        assert_eq!([IER, LCR, MCR, LSR].map(|r| read(&mut board, &mut uart, r)), [7, 0x13, 0x0B, 0x60]);
        write(&mut board, &mut uart, DATA, b'x');
        assert!(board.irq.is_high(IRQ4), "sending goes on");
    }

    #[test]
    fn uart_of_an_idle_v86_guest_is_quiet_until_input_comes() {
        // Everything was sent: no interrupt pends.
        let array = || values![0, 1, 0x13, 0x60, 0x81, 5, 1, 0x0B, 0xB0, 0x55, 3];
        let mut board = TestBoard::new();
        let mut uart = restored(&mut board, DeviceState::v86(array()));
        assert!(!board.irq.is_high(IRQ4));
        assert_eq!((read(&mut board, &mut uart, MSR), read(&mut board, &mut uart, SCR)), (0xB0, 0x55));
        uart.receive(&mut board.ctx(), b"k");
        assert!(board.irq.is_high(IRQ4));
        assert_eq!(read(&mut board, &mut uart, DATA), b'k');
        // The wire is the board's, whatever the file says.
        let Value::Array(items) = uart.save(&mut board.ctx()).v86 else { unreachable!() };
        assert_eq!(items[10], Value::Int(4));
    }

    #[test]
    fn uart_of_a_v86_guest_with_unread_input_has_none() {
        let array = values![0x1004, 1, 0x13, 0x61, 7, 5, 0x0C, 0x0B, 0, 0, 4];
        let mut board = TestBoard::new();
        let mut uart = restored(&mut board, DeviceState::v86(array));
        assert!(!board.irq.is_high(IRQ4));
        assert_eq!([IIR_FCR, LSR].map(|r| read(&mut board, &mut uart, r)), [0xC1, 0x60]);
        // The FIFO control bits that clear themselves are not kept.
        let Value::Array(items) = uart.save(&mut board.ctx()).v86 else { unreachable!() };
        assert_eq!(items[4], Value::Int(1));
    }

    #[test]
    fn uart_saved_in_the_middle_of_everything_goes_on_where_it_was() {
        let mut board = TestBoard::new();
        let mut uart = make();
        board.power_up(&mut uart, 1);
        exercise(&mut uart, &mut board);
        let state = uart.save(&mut board.ctx());
        let mut uart = restored(&mut board, state);
        assert!(board.irq.is_high(IRQ4));
        assert_eq!(read(&mut board, &mut uart, LSR), 0x63);
        let mut got = Vec::new();
        while read(&mut board, &mut uart, LSR) & LSR_DATA != 0 {
            got.push(read(&mut board, &mut uart, DATA));
        }
        assert_eq!(got, b"twenty received chars");
        assert_eq!(read(&mut board, &mut uart, MSR), 0xBB);
        assert_eq!(read(&mut board, &mut uart, IIR_FCR), IIR_FIFO | IIR_NONE);
        assert!(!board.irq.is_high(IRQ4), "the transmit interrupt is still put off");
        board.advance(&mut uart, SEND_WINDOW_NS);
        assert_eq!(read(&mut board, &mut uart, IIR_FCR), IIR_FIFO | IIR_THRE);
    }

    #[test]
    fn uart_times_far_away_hold_nothing_up() {
        let mut board = TestBoard::new();
        let mut uart = make();
        board.power_up(&mut uart, 1);
        exercise(&mut uart, &mut board);
        write(&mut board, &mut uart, IER, IER_THRE);
        let mut state = uart.save(&mut board.ctx());
        let Value::Array(items) = &mut state.extra else { unreachable!() };
        items[1] = Value::Null;
        for at in [5, 6, 7, 9] {
            items[at] = Value::Int(i64::MAX);
        }
        for bytes in [8, 10] {
            items[bytes] = Value::Int(u32::MAX.into());
        }
        let mut uart = restored(&mut board, state);
        assert!(!board.irq.is_high(IRQ4));
        board.advance(&mut uart, QUIET_NS);
        assert!(board.irq.is_high(IRQ4));
        assert_eq!(read(&mut board, &mut uart, DATA), b'c', "what the FIFO had room for comes after it");
    }
}
