//! PIIX3 ISA bridge (82371SB function 0) and PCI interrupt routing.
//!
//! Interrupt pins of the slots are swizzled onto four wires, PIRQA#-PIRQD#; the ISA bridge's
//! registers 60h-63h say which ISA input each wire drives.

use emu_core::irq::{IrqLine, PIRQ_A};

use super::config::PciFunction;

/// PIRQA# route; B, C and D follow. A byte is the number of the ISA input.
pub(super) const PIRQ_ROUTE: u8 = 0x60;

/// The ISA bridge at power-up. It calls itself multifunction, but functions 1-7 are absent.
pub fn isa_bridge() -> PciFunction {
    PciFunction::new("82371SB", [0x8086, 0x7000])
        .command_status(0x0007, 0x0200)
        .class([0x06, 0x01, 0x00], 0)
        .bytes(0x0E, &[0x80])
}

/// Which PIRQ wire (0 = A … 3 = D) interrupt pin `pin` (1 = INTA#) of function `devfn` drives.
pub const fn pirq(devfn: u8, pin: u8) -> u8 {
    let device = devfn >> 3;
    pin.wrapping_sub(1).wrapping_add(device.wrapping_sub(1)) & 3
}

/// The wire for interrupt pin `pin` (1 = INTA#) of function `devfn`. Functions share the four
/// PIRQ inputs; each device number is a source of its own.
pub const fn pirq_line(devfn: u8, pin: u8) -> IrqLine {
    IrqLine::shared(PIRQ_A + pirq(devfn, pin), devfn >> 3)
}
