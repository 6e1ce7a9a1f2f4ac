//! Single ports without a chip of their own: system control port A (92h), the POST code (80h), the
//! SMI handshake (B2h/B3h) and the debug consoles of emulators (E9h, 402h, 500h).
//!
//! The A20 gate of port 92h is not modelled: A20 is always open on this machine.

use emu_core::bus::AccessSize;
use emu_core::snapshot::FieldError;

use crate::device::{Ctx, Device, DeviceState, ResetKind};
use crate::serial::SerialSink;

mod saved;

const POST_CODE: u16 = 0x80;
const SYSTEM_CONTROL_A: u16 = 0x92;
const SMI_STATUS: u16 = 0xB3;
const DEBUG_E9: u16 = 0xE9;
const DEBUG_SEABIOS: u16 = 0x402;
const DEBUG_VGABIOS: u16 = 0x500;

/// Port 92h: 0 to 1 resets the machine.
const FAST_RESET: u8 = 1 << 0;

/// The ports named in the module's description.
pub struct SystemPorts {
    control_a: u8,
    post_code: u8,
    debug: Box<dyn SerialSink>,
}

impl SystemPorts {
    /// Ports to claim: `(first, count)`.
    pub const PORTS: &[(u16, u16)] = &[
        (POST_CODE, 1),
        (SYSTEM_CONTROL_A, 1),
        (0xB2, 2),
        (DEBUG_E9, 1),
        (DEBUG_SEABIOS, 1),
        (DEBUG_VGABIOS, 1),
    ];

    /// `debug` gets the bytes written to the debug consoles.
    pub fn new(debug: Box<dyn SerialSink>) -> Self {
        Self { control_a: 0, post_code: 0, debug }
    }

    /// Last value written to port 80h.
    pub fn post_code(&self) -> u8 {
        self.post_code
    }
}

impl Device for SystemPorts {
    fn name(&self) -> &'static str {
        "system-ports"
    }

    /// The debug consoles float: a guest that probes 402h for E9h must not find a console it would
    /// then flood. POST codes float as well (there is no latch behind port 80h).
    fn port_read(&mut self, _: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        match (port, size) {
            (SYSTEM_CONTROL_A, AccessSize::Byte) => Some(u32::from(self.control_a)),
            (SMI_STATUS, AccessSize::Byte) => Some(0),
            _ => None,
        }
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        let value = value as u8;
        if size != AccessSize::Byte {
            return;
        }
        match port {
            POST_CODE => self.post_code = value,
            SYSTEM_CONTROL_A => {
                if value & !self.control_a & FAST_RESET != 0 {
                    ctx.requests.reset = true;
                }
                self.control_a = value;
            }
            DEBUG_E9 | DEBUG_SEABIOS | DEBUG_VGABIOS => self.debug.write(value),
            _ => {}
        }
    }

    fn reset(&mut self, _: &mut Ctx<'_>, _: ResetKind) {
        self.control_a = 0;
        self.post_code = 0;
    }

    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        saved::SavedPorts::capture(self).into_state()
    }

    fn restore(&mut self, _: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        saved::SavedPorts::capture(self).read(state)?.apply(self);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::NullSink;
    use crate::testing::TestBoard;
    use std::sync::mpsc;

    struct Channel(mpsc::Sender<u8>);
    impl SerialSink for Channel {
        fn write(&mut self, byte: u8) {
            let _ = self.0.send(byte);
        }
    }

    #[test]
    fn system_ports_probed_read_as_on_the_reference_machine() {
        let mut board = TestBoard::new();
        let mut dev = SystemPorts::new(Box::new(NullSink));
        board.power_up(&mut dev, 1);
        let read = [0x80, 0xB2, 0xB3, 0xE9, 0x402, 0x92].map(|p| board.inb(&mut dev, p));
        assert_eq!(read, [0xFF, 0xFF, 0x00, 0xFF, 0xFF, 0x00]);
        assert_eq!(board.port_in(&mut dev, 0x92, AccessSize::Word), 0xFFFF);
    }

    #[test]
    fn system_control_a_latches_and_resets_once_on_the_rising_bit() {
        let mut board = TestBoard::new();
        let mut dev = SystemPorts::new(Box::new(NullSink));
        board.outb(&mut dev, 0x92, 0x02);
        assert_eq!(board.inb(&mut dev, 0x92), 0x02);
        assert!(!board.requests.reset);
        board.outb(&mut dev, 0x92, 0x03);
        assert!(board.requests.reset);
        board.requests.reset = false;
        board.outb(&mut dev, 0x92, 0x03);
        assert!(!board.requests.reset);
    }

    #[test]
    fn debug_consoles_pass_bytes_to_the_sink() {
        let mut board = TestBoard::new();
        let (tx, rx) = mpsc::channel();
        let mut dev = SystemPorts::new(Box::new(Channel(tx)));
        board.outb(&mut dev, 0xE9, b'a');
        board.outb(&mut dev, 0x402, b'b');
        board.outb(&mut dev, 0x500, b'c');
        board.outb(&mut dev, 0x80, 0x55);
        assert_eq!(rx.try_iter().collect::<Vec<_>>(), b"abc");
        assert_eq!(dev.post_code(), 0x55);
    }
}
