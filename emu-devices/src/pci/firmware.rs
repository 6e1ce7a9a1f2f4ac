//! What PC firmware leaves in configuration space.
//!
//! A kernel that is loaded directly finds no BIOS that assigned resources, and Linux does not
//! assign what it finds assigned. So the assignment is made here, with SeaBIOS' algorithm: guests
//! see the same addresses whichever way they were started, and snapshots look alike.

use std::cmp::Reverse;

use crate::device::Ctx;

use super::bus::{PciBus, move_ports};
use super::config::{Bar, bar_offset};
use super::host_bridge::{PAM0, SMRAM};
use super::isa_bridge::{PIRQ_ROUTE, pirq};
use super::{devfn, reg};

/// First port of the window for assigned I/O regions.
const IO_WINDOW: u32 = 0xC000;
/// Smallest I/O region by which firmware steps: base address registers have no bits below.
const IO_GRANULE: u16 = 4;
/// ISA inputs of PIRQA#-PIRQD#.
const PIRQ_INPUTS: [u8; 4] = [10, 10, 11, 11];
/// I/O and memory decoding, SERR#.
const COMMAND_BITS: u16 = 0x0103;
/// The ACPI interrupt is wired, not routed.
const SCI: u8 = 9;

/// PIIX4 PM: (offset, value) as SeaBIOS programs it. Ports B000h and B100h, SMI on port B2h.
const PIIX4_PM_SETUP: [(u8, u32); 5] =
    [(0x40, 0xB001), (0x58, 0x0200_0000), (0x80, 0x01), (0x90, 0xB101), (0xD0, 0x0009_0000)];

impl PciBus {
    /// Assigns I/O regions, interrupt lines and command bits and programs the chipset's registers
    /// as SeaBIOS 1.16 does before it starts an operating system. The board sets the interrupt
    /// controller's ELCR for inputs 10 and 11 itself.
    pub fn post_firmware_setup(&mut self, ctx: &mut Ctx<'_>) {
        self.assign_regions(ctx);
        let with_acpi = self.slots.contains_key(&devfn::PIIX4_PM);
        for (&at, slot) in &mut self.slots {
            let f = &mut slot.function;
            let pin = f.read8(reg::INTERRUPT_PIN);
            if pin != 0 {
                let input = PIRQ_INPUTS.get(usize::from(pirq(at, pin))).copied().unwrap_or(0);
                f.write8(reg::INTERRUPT_LINE, input);
            }
            match at {
                devfn::HOST_BRIDGE => {
                    // C0000h-FFFFFh is RAM and writable: the state in which a kernel loader that
                    // runs as option ROM leaves the registers.
                    f.write8(PAM0, 0x30);
                    for i in 1..=6 {
                        f.write8(PAM0 + i, 0x33);
                    }
                    if with_acpi {
                        f.write8(SMRAM, 0x0A);
                    }
                }
                devfn::ISA_BRIDGE => {
                    for (pirq, input) in (0u8..).zip(PIRQ_INPUTS) {
                        f.write8(PIRQ_ROUTE + pirq, input);
                    }
                }
                devfn::PIIX4_PM => {
                    f.write8(reg::INTERRUPT_LINE, SCI);
                    for (offset, value) in PIIX4_PM_SETUP {
                        let _ = f.write32(offset, value);
                    }
                }
                // Decoding of the legacy ports of both channels.
                devfn::IDE => {
                    f.write16(0x40, 0x8000);
                    f.write16(0x42, 0x8000);
                }
                _ => {}
            }
            f.write16(reg::COMMAND, f.read32(reg::COMMAND) as u16 | COMMAND_BITS);
        }
    }

    /// Interrupt line of a function that was added to a machine whose firmware ran long ago: where the
    /// interrupt router sends its pin now. The rest is the operating system's, when it finds the function.
    pub fn set_up_added(&mut self, devfn: u8) {
        let pin = self.function(devfn).map_or(0, |f| f.read8(reg::INTERRUPT_PIN));
        let input = self.irq_for(devfn, pin);
        if let Some(slot) = self.slots.get_mut(&devfn).filter(|_| pin != 0) {
            slot.function.write8(reg::INTERRUPT_LINE, input);
        }
    }

    /// Largest regions first, equal ones in the order of the functions. Registers without a region
    /// read 0 afterwards, because firmware writes their old value back after the size probe.
    fn assign_regions(&mut self, ctx: &mut Ctx<'_>) {
        let mut regions = Vec::new();
        for (&at, slot) in &mut self.slots {
            for index in 0..6 {
                match slot.function.bar(index) {
                    Some(Bar::Io { size, .. }) => regions.push((size.max(IO_GRANULE), at, index)),
                    Some(Bar::Memory { value, .. }) => {
                        let _ = slot.function.write32(bar_offset(index), value);
                    }
                    None => {
                        let _ = slot.function.write32(bar_offset(index), 0);
                    }
                }
            }
            let _ = slot.function.write32(reg::ROM, 0);
        }
        regions.sort_by_key(|&(size, ..)| Reverse(size));
        let mut next = IO_WINDOW;
        for (size, at, index) in regions {
            let base = next;
            next += u32::from(size);
            if next > 0x1_0000 {
                return; // more regions than ports: the rest stays where it is
            }
            if let Some(slot) = self.slots.get_mut(&at)
                && let Some(m) = slot.function.write32(bar_offset(index), base)
            {
                move_ports(ctx.ports, slot.owner, m);
            }
        }
    }
}
