//! Parallel port (SPP): data, status and control.
//!
//! A printer is always on line: it takes a byte at each strobe and acknowledges at once.

use std::any::Any;

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLine;
use emu_core::snapshot::FieldError;

use crate::device::{Ctx, Device, DeviceState, ResetKind};

mod saved;

/// Status of an idle printer: not busy, no acknowledge, selected, no error.
const STATUS_IDLE: u8 = 0xD8;
/// Status: acknowledge (active low).
const STATUS_NACK: u8 = 0x40;
/// Control: strobe.
const CONTROL_STROBE: u8 = 0x01;
/// Control: interrupt at acknowledge.
const CONTROL_IRQ: u8 = 0x10;
/// Control bits that exist.
const CONTROL_MASK: u8 = 0x1F;

/// What is at the other end of the cable.
pub trait PrinterSink: Send {
    /// Takes one byte. Must not block.
    fn print(&mut self, byte: u8);
}

/// A parallel port.
pub struct ParallelPort {
    base: u16,
    data: u8,
    status: u8,
    control: u8,
    /// Status at the last acknowledge, until it is read: the pulse is shorter than a port access.
    latched: Option<u8>,
    irq: IrqLine,
    sink: Option<Box<dyn PrinterSink>>,
}

impl ParallelPort {
    /// First port of LPT1.
    pub const LPT1: u16 = 0x378;
    /// Home ports of LPT1.
    pub const PORTS: &'static [(u16, u16)] = &[(Self::LPT1, 3)];

    /// A port at `base` (three ports).
    pub fn new(base: u16, irq: IrqLine) -> Self {
        Self { base, data: 0, status: STATUS_IDLE, control: 0, latched: None, irq, sink: None }
    }

    /// Plugs a printer in.
    pub fn set_sink(&mut self, sink: Option<Box<dyn PrinterSink>>) {
        self.sink = sink;
    }

    fn read(&mut self, reg: u16) -> u8 {
        match reg {
            0 => self.data,
            1 => self.latched.take().unwrap_or(self.status),
            _ => self.control,
        }
    }

    fn write(&mut self, ctx: &mut Ctx<'_>, reg: u16, value: u8) {
        match reg {
            0 => self.data = value,
            1 => {}
            _ => {
                let strobe = value & !self.control & CONTROL_STROBE != 0;
                self.control = value & CONTROL_MASK;
                if strobe && let Some(sink) = self.sink.as_mut() {
                    sink.print(self.data);
                    self.acknowledge(ctx);
                }
            }
        }
    }

    fn acknowledge(&mut self, ctx: &mut Ctx<'_>) {
        self.latched = Some(self.status & !STATUS_NACK);
        if self.control & CONTROL_IRQ != 0 {
            ctx.irq.pulse(self.irq);
            ctx.irq.set(self.irq, false);
        }
    }
}

impl Device for ParallelPort {
    fn name(&self) -> &'static str {
        "parallel"
    }

    fn port_read(&mut self, _: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        let reg = port.wrapping_sub(self.base);
        match (reg, size) {
            (0..=2, AccessSize::Byte) => Some(self.read(reg).into()),
            (0..=1, AccessSize::Word) => Some(u32::from(self.read(reg)) | u32::from(self.read(reg + 1)) << 8),
            _ => None,
        }
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        let reg = port.wrapping_sub(self.base);
        match (reg, size) {
            (0..=2, AccessSize::Byte) => self.write(ctx, reg, value as u8),
            (0..=1, AccessSize::Word) => {
                self.write(ctx, reg, value as u8);
                self.write(ctx, reg + 1, (value >> 8) as u8);
            }
            _ => {}
        }
    }

    fn reset(&mut self, ctx: &mut Ctx<'_>, _: ResetKind) {
        (self.data, self.status, self.control, self.latched) = (0, STATUS_IDLE, 0, None);
        ctx.irq.set(self.irq, false);
    }

    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        saved::SavedParallel::capture(self).into_state()
    }

    fn restore(&mut self, ctx: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        saved::SavedParallel::capture(self).read(state)?.apply(self, ctx);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::testing::TestBoard;

    const LINE: IrqLine = IrqLine::wired_to(7);
    const B: u16 = ParallelPort::LPT1;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl PrinterSink for Paper {
        fn print(&mut self, byte: u8) {
            self.0.lock().unwrap().push(byte);
        }
    }

    #[test]
    fn parallel_registers_read_back_as_a_plain_port() {
        let (mut board, mut lpt) = (TestBoard::new(), ParallelPort::new(B, LINE));
        board.outb(&mut lpt, B, 0xAA);
        board.outb(&mut lpt, B + 1, 0xFF);
        board.outb(&mut lpt, B + 2, 0xEC);
        assert_eq!([0, 1, 2].map(|r| board.inb(&mut lpt, B + r)), [0xAA, 0xD8, 0x0C]);
        assert_eq!(board.port_in(&mut lpt, B, AccessSize::Word), 0xD8AA);
        assert_eq!(board.port_in(&mut lpt, B + 2, AccessSize::Word), 0xFFFF);
    }

    #[test]
    fn parallel_strobe_prints_once_and_acknowledges() {
        let (mut board, mut lpt) = (TestBoard::new(), ParallelPort::new(B, LINE));
        let paper = Paper::default();
        lpt.set_sink(Some(Box::new(paper.clone())));
        for byte in *b"Hi" {
            board.outb(&mut lpt, B, byte);
            board.outb(&mut lpt, B + 2, 0x1D);
            board.outb(&mut lpt, B + 2, 0x1D);
            assert!(board.take_rise(LINE));
            assert_eq!(board.inb(&mut lpt, B + 1), 0x98);
            assert_eq!(board.inb(&mut lpt, B + 1), 0xD8);
            board.outb(&mut lpt, B + 2, 0x1C);
        }
        assert_eq!(*paper.0.lock().unwrap(), b"Hi");
    }
}
