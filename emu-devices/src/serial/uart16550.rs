//! 16550A UART.
//!
//! The line has no speed: what the guest sends is sent at once, and the transmitter always reads as
//! empty. Input waits in a bounded host-side queue and enters the 16-byte FIFO as the guest makes
//! room. Two measures keep interrupt-driven drivers, which loop until the UART is quiet, from
//! looping too long (Linux: "too much work for irq"): after a burst of sent bytes the next "holding
//! register empty" interrupt waits until the driver has seen that there is no interrupt, or for the
//! end of a short window, and input waits for the end of a window after a burst.
//!
//! Differences from a real chip:
//!
//! * The character timeout is immediate: characters below the trigger level interrupt at once.
//! * Host input survives what drivers do while they open a port. Switching the FIFOs on or off
//!   keeps it; so does emptying the receive FIFO while the receive interrupt is off, and then input
//!   is held back until that interrupt is enabled or a driver that polls has waited a moment.
//!   (Linux empties the FIFO and reads away a byte on every open; piped input would lose bytes.)
//! * The interrupt does not depend on OUT2.

mod saved;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLine;
use emu_core::snapshot::FieldError;
use emu_core::time::VmTime;

use self::saved::SavedUart;
use super::spec::*;
use super::{NullSink, SerialSink};
use crate::device::{Ctx, Device, DeviceId, DeviceState, ResetKind};

/// Host input that may wait, bytes.
pub const INPUT_QUEUE: usize = 64 << 10;

/// Bytes that are sent in a window before the transmit interrupt waits for its end. With 16 bytes
/// per interrupt this stays under Linux's limit of 256 rounds in one interrupt.
const SEND_BURST: u32 = 2048;
const SEND_WINDOW_NS: u64 = 500_000;
/// How long it waits after the driver has found no interrupt: its handler returns meanwhile.
const SEND_PAUSE_NS: u64 = 5_000;

/// Bytes that enter the FIFO in a window.
const RECEIVE_BURST: u32 = 4096;
const RECEIVE_WINDOW_NS: u64 = 1_000_000;

/// How long input stays away after the receive FIFO was emptied with the receive interrupt off.
const QUIET_NS: u64 = 10_000_000;

/// Counts bytes per window of time.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    start: VmTime,
    bytes: u32,
}

impl Pace {
    /// Bytes so far in the window that `now` lies in.
    fn used(&mut self, now: VmTime, window: u64) -> u32 {
        if now.saturating_sub(self.start) >= window {
            *self = Self { start: now, bytes: 0 };
        }
        self.bytes
    }
}

/// The chip with its eight ports.
pub struct Uart16550 {
    device: DeviceId,
    irq: IrqLine,
    sink: Box<dyn SerialSink>,
    ier: u8,
    /// Last FIFO control value (without the self-clearing bits).
    fcr: u8,
    lcr: u8,
    mcr: u8,
    /// Overrun and the like, until LSR is read.
    line_errors: u8,
    /// Modem inputs from the host, as bits of MSR.
    modem_inputs: u8,
    /// Low nibble of MSR.
    modem_deltas: u8,
    scratch: u8,
    divisor: u16,
    /// "Holding register empty" waits to be reported.
    thre: bool,
    /// The same, held back until then.
    thre_at: Option<VmTime>,
    /// Receive FIFO, or receive buffer.
    fifo: VecDeque<u8>,
    /// Host input that has not arrived at the chip yet.
    input: VecDeque<u8>,
    /// No input before this time, unless the receive interrupt is on.
    quiet_until: VmTime,
    sent: Pace,
    received: Pace,
}

impl Uart16550 {
    /// First ports of COM1 to COM4; each has eight.
    pub const COM_PORTS: [u16; 4] = [0x3F8, 0x2F8, 0x3E8, 0x2E8];

    /// Ports to claim for COM1: `(first, count)`. The others differ in the first port only.
    pub const PORTS: &[(u16, u16)] = &[(Self::COM_PORTS[0], 8)];

    /// Powered up. The chip looks at the low three bits of port numbers only. Ports that share an
    /// interrupt (COM1 and COM3, COM2 and COM4) take different sources of it.
    pub fn new(irq: IrqLine, sink: Box<dyn SerialSink>) -> Self {
        Self {
            device: 0,
            irq,
            sink,
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            line_errors: 0,
            modem_inputs: 0,
            modem_deltas: 0,
            scratch: 0,
            divisor: 0,
            thre: true,
            thre_at: None,
            fifo: VecDeque::with_capacity(FIFO_SIZE),
            input: VecDeque::new(),
            quiet_until: 0,
            sent: Pace::default(),
            received: Pace::default(),
        }
    }

    /// Bytes [`Uart16550::receive`] would take now.
    pub fn space(&self) -> usize {
        INPUT_QUEUE.saturating_sub(self.input.len())
    }

    /// Input from the host. Returns how many bytes were taken; offer the rest again later.
    pub fn receive(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) -> usize {
        let n = data.len().min(self.space());
        self.input.extend(data.iter().take(n));
        self.update(ctx);
        n
    }

    /// Input bytes the guest has not read.
    pub fn pending_input(&self) -> usize {
        self.input.len() + self.fifo.len()
    }

    /// The guest wants to be told about input.
    pub fn is_listening(&self) -> bool {
        self.ier & IER_RECEIVE != 0
    }

    /// Interrupt enable register, modem control register and divisor latch.
    fn setup(&self) -> (u8, u8, u16) {
        (self.ier, self.mcr, self.divisor)
    }

    /// Sets the modem inputs, as bits [`MSR_CTS`], [`MSR_DSR`], [`MSR_RI`] and [`MSR_DCD`].
    pub fn set_modem_inputs(&mut self, ctx: &mut Ctx<'_>, lines: u8) {
        let before = self.modem_lines();
        self.modem_inputs = lines & 0xF0;
        self.note_modem_changes(before);
        self.update(ctx);
    }

    /// Modem outputs, as bits [`MCR_DTR`] and [`MCR_RTS`].
    pub fn modem_outputs(&self) -> u8 {
        if self.is_loopback() { 0 } else { self.mcr & (MCR_DTR | MCR_RTS) }
    }

    /// Passes a flush to the sink: nothing more comes for now.
    pub fn flush_output(&mut self) {
        self.sink.flush();
    }

    // ---- state -------------------------------------------------------------------------------

    fn is_loopback(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    fn has_fifo(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.has_fifo() { FIFO_SIZE } else { 1 }
    }

    fn trigger_level(&self) -> usize {
        if self.has_fifo() { TRIGGER_LEVELS[usize::from(self.fcr >> 6)] } else { 1 }
    }

    /// High nibble of MSR.
    fn modem_lines(&self) -> u8 {
        if !self.is_loopback() {
            return self.modem_inputs;
        }
        let wires = [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD)];
        wires.iter().fold(0, |lines, (from, to)| if self.mcr & from != 0 { lines | to } else { lines })
    }

    fn note_modem_changes(&mut self, before: u8) {
        let now = self.modem_lines();
        let changed = (now ^ before) & !MSR_RI;
        // Only the end of a ring counts.
        let ring_ended = before & !now & MSR_RI;
        self.modem_deltas |= (changed | ring_ended) >> 4;
    }

    /// Interrupt identification without the FIFO bits.
    fn cause(&self) -> u8 {
        if self.ier & IER_LINE != 0 && self.line_errors != 0 {
            IIR_LINE
        } else if self.ier & IER_RECEIVE != 0 && !self.fifo.is_empty() {
            if self.fifo.len() >= self.trigger_level() { IIR_RECEIVE } else { IIR_TIMEOUT }
        } else if self.ier & IER_THRE != 0 && self.thre {
            IIR_THRE
        } else if self.ier & IER_MODEM != 0 && self.modem_deltas != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn transmit(&mut self, byte: u8, now: VmTime) {
        if self.is_loopback() {
            if self.fifo.len() < self.capacity() {
                self.fifo.push_back(byte);
            } else {
                self.line_errors |= LSR_OVERRUN;
                if !self.has_fifo() {
                    self.fifo.clear();
                    self.fifo.push_back(byte);
                }
            }
        } else {
            self.sink.write(byte);
        }
        let burst = self.sent.used(now, SEND_WINDOW_NS);
        self.sent.bytes = burst.saturating_add(1);
        self.thre = burst < SEND_BURST;
        self.thre_at = (!self.thre).then(|| self.sent.start.saturating_add(SEND_WINDOW_NS));
    }

    /// Host input goes back to where it waited.
    fn return_input(&mut self) {
        if !self.is_loopback() {
            while let Some(byte) = self.fifo.pop_back() {
                self.input.push_front(byte);
            }
        }
        self.fifo.clear();
    }

    fn write_fcr(&mut self, value: u8, now: VmTime) {
        let enable = value & FCR_ENABLE != 0;
        if enable && value & FCR_CLEAR_RECEIVE != 0 {
            if self.ier & IER_RECEIVE == 0 {
                self.return_input();
                self.quiet_until = now.saturating_add(QUIET_NS);
            }
            self.fifo.clear();
            self.line_errors = 0;
        } else if enable != self.has_fifo() {
            self.return_input();
        }
        // The other bits exist only while the FIFOs are on.
        self.fcr = if enable { value & FCR_STORED } else { 0 };
    }

    fn read_register(&mut self, register: u16, now: VmTime) -> u8 {
        match register {
            DATA if self.lcr & LCR_DLAB != 0 => self.divisor as u8,
            DATA => self.fifo.pop_front().unwrap_or(0),
            IER if self.lcr & LCR_DLAB != 0 => (self.divisor >> 8) as u8,
            IER => self.ier,
            IIR_FCR => {
                let cause = self.cause();
                if cause == IIR_THRE {
                    self.thre = false;
                } else if cause == IIR_NONE
                    && let Some(at) = &mut self.thre_at
                {
                    *at = (*at).min(now.saturating_add(SEND_PAUSE_NS));
                    self.sent = Pace { start: now, bytes: 0 };
                }
                cause | if self.has_fifo() { IIR_FIFO } else { 0 }
            }
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => {
                let data = if self.fifo.is_empty() { 0 } else { LSR_DATA };
                LSR_EMPTY | data | std::mem::take(&mut self.line_errors)
            }
            MSR => self.modem_lines() | std::mem::take(&mut self.modem_deltas),
            _ => self.scratch,
        }
    }

    fn write_register(&mut self, register: u16, value: u8, now: VmTime) {
        let before = self.setup();
        match register {
            DATA if self.lcr & LCR_DLAB != 0 => self.divisor = self.divisor & 0xFF00 | u16::from(value),
            DATA => self.transmit(value, now),
            IER if self.lcr & LCR_DLAB != 0 => self.divisor = self.divisor & 0x00FF | u16::from(value) << 8,
            IER => {
                if value & !self.ier & IER_THRE != 0 {
                    // Enabling the interrupt reports the empty transmitter, always at once:
                    // drivers test that.
                    self.thre = true;
                    self.thre_at = None;
                }
                self.ier = value & IER_MASK;
            }
            IIR_FCR => self.write_fcr(value, now),
            LCR => self.lcr = value,
            MCR => {
                let before = self.modem_lines();
                self.mcr = value & MCR_MASK;
                self.note_modem_changes(before);
            }
            SCR => self.scratch = value,
            // LSR and MSR are read-only.
            _ => {}
        }
        // A divisor is complete when its latch is closed.
        if self.lcr & LCR_DLAB == 0 && (register == LCR || self.setup() != before) {
            self.tell_setup();
        }
    }

    fn tell_setup(&mut self) {
        self.sink.setup(self.ier, self.mcr, self.divisor);
    }

    /// Moves input to the FIFO, drives the line, sets the deadline.
    fn update(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        if self.thre_at.is_some_and(|at| at <= now) {
            self.thre_at = None;
            self.thre = true;
        }
        let mut receive_at = None;
        if self.quiet_until > now && self.ier & IER_RECEIVE == 0 {
            receive_at = Some(self.quiet_until);
        } else if !self.is_loopback() {
            while self.fifo.len() < self.capacity() && !self.input.is_empty() {
                let burst = self.received.used(now, RECEIVE_WINDOW_NS);
                if burst >= RECEIVE_BURST {
                    receive_at = Some(self.received.start.saturating_add(RECEIVE_WINDOW_NS));
                    break;
                }
                self.received.bytes = burst.saturating_add(1);
                self.fifo.extend(self.input.pop_front());
            }
        }
        ctx.irq.set(self.irq, self.cause() != IIR_NONE);
        match [self.thre_at, receive_at].into_iter().flatten().min() {
            Some(at) => ctx.schedule(self.device, at),
            None => ctx.cancel(self.device),
        }
    }
}

impl Device for Uart16550 {
    fn name(&self) -> &'static str {
        "uart16550"
    }

    fn attach(&mut self, id: DeviceId) {
        self.device = id;
    }

    /// The windows of bursts are all it has to do with time.
    fn takes_recent_time(&self) -> bool {
        true
    }

    fn port_read(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        if size != AccessSize::Byte {
            return None;
        }
        let value = self.read_register(port & 7, ctx.now);
        self.update(ctx);
        Some(u32::from(value))
    }

    /// A 16-bit write of the data register sends both bytes.
    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        let [low, high, ..] = value.to_le_bytes();
        match (size, port & 7) {
            (AccessSize::Byte, register) => self.write_register(register, low, ctx.now),
            (AccessSize::Word, DATA) => {
                self.write_register(DATA, low, ctx.now);
                self.write_register(DATA, high, ctx.now);
            }
            _ => return,
        }
        self.update(ctx);
    }

    fn port_write_block(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, data: &[u8]) -> usize {
        if size != AccessSize::Byte || port & 7 != DATA {
            return 0;
        }
        for byte in data {
            self.write_register(DATA, *byte, ctx.now);
        }
        self.update(ctx);
        data.len()
    }

    fn on_event(&mut self, ctx: &mut Ctx<'_>) {
        self.update(ctx);
    }

    /// Host input that was not read yet stays.
    fn reset(&mut self, ctx: &mut Ctx<'_>, _: ResetKind) {
        self.return_input();
        let fresh = Self::new(self.irq, Box::new(NullSink));
        *self = Self {
            device: self.device,
            sink: std::mem::replace(&mut self.sink, Box::new(NullSink)),
            modem_inputs: self.modem_inputs,
            input: std::mem::take(&mut self.input),
            ..fresh
        };
        self.tell_setup();
        self.update(ctx);
    }

    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        SavedUart::capture(self).into_state()
    }

    fn restore(&mut self, ctx: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        let mut saved = SavedUart::capture(self);
        saved.read(state)?;
        saved.apply(self, ctx.now);
        self.tell_setup();
        self.update(ctx);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}
