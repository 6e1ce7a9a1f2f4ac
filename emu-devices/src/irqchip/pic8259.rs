//! Two cascaded 8259A interrupt controllers with the edge/level registers of the PIIX south bridge.
//!
//! Intel 8259A data sheet (231468), 82371SB data sheet for ELCR. Choices where emulators differ:
//!
//! * An edge request stays latched when its line falls before it is acknowledged, as in v86 and
//!   QEMU; a level request follows its line.
//! * The slave's INT output is the master's request 2 directly. A slave request that goes away
//!   therefore takes the master's request with it, and the spurious IRQ 15 of real boards, which
//!   needs the request to vanish between INT and INTA, cannot occur: the CPU samples INT and
//!   acknowledges in one step here. [`Pic8259Pair::acknowledge`] without a request is `None`.
//! * Ports 20h/21h/A0h/A1h without initialisation: everything masked, vector base 0.

use emu_core::bus::AccessSize;
use emu_core::snapshot::FieldError;

use crate::device::{Ctx, Device, DeviceState, ResetKind};

mod saved;

const MASTER_COMMAND: u16 = 0x20;
const MASTER_DATA: u16 = 0x21;
const SLAVE_COMMAND: u16 = 0xA0;
const SLAVE_DATA: u16 = 0xA1;
const ELCR_MASTER: u16 = 0x4D0;
const ELCR_SLAVE: u16 = 0x4D1;

/// Master input the slave is wired to.
const CASCADE: u8 = 2;

/// ELCR bits that exist: IRQ 0, 1, 2, 8 and 13 are always edge triggered.
const ELCR_MASTER_MASK: u8 = 0xF8;
const ELCR_SLAVE_MASK: u8 = 0xDE;

// ICW1, OCW2 and OCW3 share the command port.
const ICW1: u8 = 1 << 4;
const ICW1_IC4: u8 = 1 << 0;
const ICW1_SINGLE: u8 = 1 << 1;
const ICW4_AUTO_EOI: u8 = 1 << 1;
const ICW4_SPECIAL_FULLY_NESTED: u8 = 1 << 4;
const OCW3: u8 = 1 << 3;
const OCW3_READ_REGISTER: u8 = 1 << 1;
const OCW3_READ_ISR: u8 = 1 << 0;
const OCW3_POLL: u8 = 1 << 2;
const OCW3_SET_SPECIAL_MASK: u8 = 1 << 6;
const OCW3_SPECIAL_MASK: u8 = 1 << 5;

/// What a poll read answers in bit 7 when there was a request.
const POLL_REQUEST: u8 = 1 << 7;

/// Next byte the data port expects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Init {
    /// Operation: OCW1.
    #[default]
    Done,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, Debug)]
struct Pic8259 {
    master: bool,
    /// Interrupt mask register, 1 = masked.
    imr: u8,
    /// In-service register.
    isr: u8,
    /// Requests latched from edges; level requests are taken from `lines`.
    edges: u8,
    /// Input levels.
    lines: u8,
    /// Edge/level control register, 1 = level.
    elcr: u8,
    /// Vector of input 0.
    base: u8,
    init: Init,
    expect_icw4: bool,
    single: bool,
    read_isr: bool,
    poll: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    special_fully_nested: bool,
    /// Input with the lowest priority; 7 unless rotated.
    lowest: u8,
}

impl Pic8259 {
    fn new(master: bool) -> Self {
        Self {
            master,
            imr: 0xFF,
            isr: 0,
            edges: 0,
            lines: 0,
            elcr: 0,
            base: 0,
            init: Init::Done,
            expect_icw4: false,
            single: false,
            read_isr: false,
            poll: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            special_fully_nested: false,
            lowest: 7,
        }
    }

    /// Interrupt request register.
    fn irr(&self) -> u8 {
        (self.edges & !self.elcr) | (self.lines & self.elcr)
    }

    /// Priority of the best set bit, 0 = highest, 8 = none set.
    fn best(&self, bits: u8) -> u8 {
        // Rotated so that the input after `lowest` becomes bit 0.
        bits.rotate_right(u32::from(self.lowest + 1) & 7).trailing_zeros() as u8
    }

    fn input_at(&self, priority: u8) -> u8 {
        (self.lowest + 1 + priority) & 7
    }

    /// Input to be acknowledged next, if it may interrupt what is in service.
    fn request(&self) -> Option<u8> {
        let wanted = self.best(self.irr() & !self.imr);
        if wanted > 7 {
            return None;
        }
        // In special mask mode, levels that are masked while in service hold nothing back.
        let blocking = if self.special_mask { self.isr & !self.imr } else { self.isr };
        let current = self.best(blocking);
        let input = self.input_at(wanted);
        let nested = self.special_fully_nested && self.master && input == CASCADE;
        (wanted < current || (nested && wanted == current)).then_some(input)
    }

    /// First INTA cycle, or a poll.
    fn accept(&mut self, input: u8) {
        let bit = 1 << (input & 7);
        self.edges &= !bit;
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.lowest = input & 7;
        }
    }

    fn set_line(&mut self, input: u8, high: bool, rose: bool) {
        let bit = 1 << (input & 7);
        if rose {
            self.edges |= bit & !self.elcr;
        }
        if high {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            *self = Self {
                master: self.master,
                imr: 0,
                lines: self.lines,
                elcr: self.elcr,
                base: self.base,
                init: Init::Icw2,
                expect_icw4: value & ICW1_IC4 != 0,
                single: value & ICW1_SINGLE != 0,
                ..Self::new(self.master)
            };
        } else if value & OCW3 != 0 {
            self.poll = value & OCW3_POLL != 0;
            if value & OCW3_READ_REGISTER != 0 {
                self.read_isr = value & OCW3_READ_ISR != 0;
            }
            if value & OCW3_SET_SPECIAL_MASK != 0 {
                self.special_mask = value & OCW3_SPECIAL_MASK != 0;
            }
        } else {
            self.write_ocw2(value);
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let input = value & 7;
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            0b001 => {
                self.end_best();
            }
            0b101 => {
                if let Some(input) = self.end_best() {
                    self.lowest = input;
                }
            }
            0b011 => self.isr &= !(1 << input),
            0b111 => {
                self.isr &= !(1 << input);
                self.lowest = input;
            }
            0b110 => self.lowest = input,
            _ => {}
        }
    }

    /// Non-specific EOI: ends the best level in service. Levels that special mask mode hides are
    /// not ended by it.
    fn end_best(&mut self) -> Option<u8> {
        let isr = if self.special_mask { self.isr & !self.imr } else { self.isr };
        let priority = self.best(isr);
        let input = self.input_at(priority);
        (priority <= 7).then(|| {
            self.isr &= !(1 << input);
            input
        })
    }

    fn write_data(&mut self, value: u8) {
        match self.init {
            Init::Done => self.imr = value,
            Init::Icw2 => {
                self.base = value & 0xF8;
                self.init = match (self.single, self.expect_icw4) {
                    (false, _) => Init::Icw3,
                    (true, true) => Init::Icw4,
                    (true, false) => Init::Done,
                };
            }
            // The wiring is fixed.
            Init::Icw3 => self.init = if self.expect_icw4 { Init::Icw4 } else { Init::Done },
            Init::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.special_fully_nested = value & ICW4_SPECIAL_FULLY_NESTED != 0;
                self.init = Init::Done;
            }
        }
    }
}

/// Master and slave 8259A as wired in a PC.
///
/// The board calls [`Pic8259Pair::set_line`] for changed inputs and asks
/// [`Pic8259Pair::output`] after every access.
#[derive(Clone, Debug)]
pub struct Pic8259Pair {
    master: Pic8259,
    slave: Pic8259,
}

impl Default for Pic8259Pair {
    fn default() -> Self {
        Self::new()
    }
}

/// Registers of one controller, for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PicRegisters {
    /// Interrupt request register.
    pub irr: u8,
    /// In-service register.
    pub isr: u8,
    /// Interrupt mask register, 1 = masked.
    pub imr: u8,
    /// Edge/level control register, 1 = level.
    pub elcr: u8,
    /// Vector of input 0.
    pub base: u8,
}

impl Pic8259Pair {
    /// Ports to claim: `(first, count)`.
    pub const PORTS: &[(u16, u16)] = &[(MASTER_COMMAND, 2), (SLAVE_COMMAND, 2), (ELCR_MASTER, 2)];

    /// Powered up: everything masked, vector bases 0, edge mode.
    pub fn new() -> Self {
        Self { master: Pic8259::new(true), slave: Pic8259::new(false) }
    }

    /// Tells the controllers about input `irq` (0-15; others are ignored): its level, and whether it
    /// rose since the last call (it may have fallen again).
    pub fn set_line(&mut self, irq: u8, level_high: bool, rose: bool) {
        match irq {
            // Input 2 of the master belongs to the slave.
            CASCADE => {}
            0..=7 => self.master.set_line(irq, level_high, rose),
            8..=15 => self.slave.set_line(irq & 7, level_high, rose),
            _ => {}
        }
        self.update_cascade();
    }

    /// Level of input `irq` (0-15; others are low) as last told; of input 2, the slave's output.
    pub fn line_level(&self, irq: u8) -> bool {
        let lines = u16::from_le_bytes([self.master.lines, self.slave.lines]);
        u32::from(lines).checked_shr(u32::from(irq)).is_some_and(|levels| levels & 1 != 0)
    }

    /// Level of the INT pin.
    pub fn output(&self) -> bool {
        self.master.request().is_some()
    }

    /// Interrupt acknowledge: the vector, `None` if there is no request.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let input = self.master.request()?;
        let vector = if input == CASCADE {
            // The cascade line is high only while the slave has a request.
            let input = self.slave.request()?;
            self.slave.accept(input);
            self.slave.base | input
        } else {
            self.master.base | input
        };
        self.master.accept(input);
        self.update_cascade();
        Some(vector)
    }

    /// Registers of `(master, slave)`.
    pub fn registers(&self) -> (PicRegisters, PicRegisters) {
        let view =
            |p: &Pic8259| PicRegisters { irr: p.irr(), isr: p.isr, imr: p.imr, elcr: p.elcr, base: p.base };
        (view(&self.master), view(&self.slave))
    }

    /// Writes a register.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            MASTER_COMMAND => self.master.write_command(value),
            MASTER_DATA => self.master.write_data(value),
            SLAVE_COMMAND => self.slave.write_command(value),
            SLAVE_DATA => self.slave.write_data(value),
            ELCR_MASTER => self.master.elcr = value & ELCR_MASTER_MASK,
            ELCR_SLAVE => self.slave.elcr = value & ELCR_SLAVE_MASK,
            _ => {}
        }
        self.update_cascade();
    }

    /// Reads a register.
    pub fn read(&mut self, port: u16) -> u8 {
        let chip = match port {
            MASTER_COMMAND | MASTER_DATA => &mut self.master,
            SLAVE_COMMAND | SLAVE_DATA => &mut self.slave,
            ELCR_MASTER => return self.master.elcr,
            ELCR_SLAVE => return self.slave.elcr,
            _ => return 0xFF,
        };
        if std::mem::take(&mut chip.poll) {
            let polled = chip.request();
            if let Some(input) = polled {
                chip.accept(input);
            }
            self.update_cascade();
            return polled.map_or(0, |input| POLL_REQUEST | input);
        }
        match port {
            MASTER_DATA | SLAVE_DATA => chip.imr,
            _ if chip.read_isr => chip.isr,
            _ => chip.irr(),
        }
    }

    fn update_cascade(&mut self) {
        let high = self.slave.request().is_some();
        // Not latched: the request goes away with the slave's.
        self.master.edges &= !(1 << CASCADE);
        self.master.set_line(CASCADE, high, high);
    }
}

impl Device for Pic8259Pair {
    fn name(&self) -> &'static str {
        "pic8259"
    }

    fn port_read(&mut self, _: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        (size == AccessSize::Byte).then(|| u32::from(self.read(port)))
    }

    fn port_write(&mut self, _: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        if size == AccessSize::Byte {
            self.write(port, value as u8);
        }
    }

    /// The inputs keep their levels: they belong to other devices.
    fn reset(&mut self, _: &mut Ctx<'_>, _: ResetKind) {
        self.master = Pic8259 { lines: self.master.lines, ..Pic8259::new(true) };
        self.slave = Pic8259 { lines: self.slave.lines, ..Pic8259::new(false) };
        // Only input 2 is not: the slave has no request any more.
        self.update_cascade();
    }

    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        saved::SavedPair::capture(self).into_state()
    }

    fn restore(&mut self, _: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        saved::SavedPair::capture(self).read(state)?.apply(self);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Initialised as PC firmware does: vectors 08h and 70h, everything unmasked.
    fn initialised() -> Pic8259Pair {
        let mut pic = Pic8259Pair::new();
        for (command, data, base, icw3) in [(0x20, 0x21, 0x08, 0x04), (0xA0, 0xA1, 0x70, 0x02)] {
            pic.write(command, 0x11);
            pic.write(data, base);
            pic.write(data, icw3);
            pic.write(data, 0x01);
        }
        pic
    }

    fn pulse(pic: &mut Pic8259Pair, irq: u8) {
        pic.set_line(irq, false, true);
    }

    #[test]
    fn pic_powered_up_masks_everything() {
        let mut pic = Pic8259Pair::new();
        assert_eq!((pic.read(0x21), pic.read(0xA1)), (0xFF, 0xFF));
        assert_eq!((pic.read(0x4D0), pic.read(0x4D1)), (0, 0));
        pic.set_line(1, true, true);
        assert!(!pic.output());
        assert_eq!(pic.acknowledge(), None);
    }

    #[test]
    fn pic_reset_withdraws_the_slaves_request() {
        let mut pic = initialised();
        pic.set_line(9, true, true);
        assert!(pic.output() && pic.line_level(CASCADE));
        let mut board = crate::testing::TestBoard::new();
        pic.reset(&mut board.ctx(), ResetKind::Warm);
        assert!(pic.line_level(9), "its device has not let go");
        assert!(!pic.output() && !pic.line_level(CASCADE));
    }

    #[test]
    fn pic_icw1_unmasks_and_forgets_edges_but_not_levels() {
        let mut pic = Pic8259Pair::new();
        pic.write(0x4D0, 0xFF);
        assert_eq!(pic.read(0x4D0), 0xF8);
        pic.set_line(1, true, true);
        pic.set_line(5, true, true);
        pic.write(0x20, 0x11);
        assert_eq!(pic.read(0x20), 1 << 5);
        pic.write(0x21, 0x23);
        pic.write(0x21, 0x04);
        pic.write(0x21, 0x01);
        assert_eq!(pic.read(0x21), 0);
        assert_eq!(pic.acknowledge(), Some(0x25));
    }

    #[test]
    fn pic_edge_is_latched_and_acknowledged_once() {
        let mut pic = initialised();
        pulse(&mut pic, 1);
        assert!(pic.output());
        assert_eq!(pic.acknowledge(), Some(0x09));
        assert!(!pic.output());
        pic.write(0x20, 0x0B);
        assert_eq!(pic.read(0x20), 0x02);
        pic.write(0x20, 0x20);
        assert_eq!(pic.read(0x20), 0x00);
        assert_eq!(pic.acknowledge(), None);
    }

    #[test]
    fn pic_level_request_follows_its_line_and_comes_again_after_eoi() {
        let mut pic = initialised();
        pic.write(0x4D1, 0x0C);
        pic.set_line(10, true, true);
        assert_eq!(pic.acknowledge(), Some(0x72));
        assert!(!pic.output());
        pic.write(0xA0, 0x20);
        pic.write(0x20, 0x20);
        assert!(pic.output());
        pic.set_line(10, false, false);
        assert!(!pic.output());
        assert_eq!(pic.acknowledge(), None);
    }

    #[test]
    fn pic_level_pulse_that_ended_leaves_no_request() {
        let mut pic = initialised();
        pic.write(0x4D1, 0x0C);
        pic.set_line(11, false, true);
        assert!(!pic.output());
    }

    #[test]
    fn pic_masked_slave_request_takes_the_master_request_away() {
        let mut pic = initialised();
        pulse(&mut pic, 14);
        assert!(pic.output());
        assert_eq!(pic.read(0x20), 0x04);
        pic.write(0xA1, 0x40);
        assert!(!pic.output());
        pic.write(0xA1, 0x00);
        assert_eq!(pic.acknowledge(), Some(0x76));
    }

    #[test]
    fn pic_priorities_are_fixed_and_slave_counts_as_two() {
        let mut pic = initialised();
        for irq in [7, 3, 8, 12, 1] {
            pulse(&mut pic, irq);
        }
        let mut order = Vec::new();
        while let Some(vector) = pic.acknowledge() {
            order.push(vector);
            if vector >= 0x70 {
                pic.write(0xA0, 0x20);
            }
            pic.write(0x20, 0x20);
        }
        assert_eq!(order, [0x09, 0x70, 0x74, 0x0B, 0x0F]);
    }

    #[test]
    fn pic_in_service_blocks_equal_and_lower_only() {
        let mut pic = initialised();
        pulse(&mut pic, 4);
        assert_eq!(pic.acknowledge(), Some(0x0C));
        pulse(&mut pic, 4);
        pulse(&mut pic, 5);
        assert!(!pic.output());
        pulse(&mut pic, 3);
        assert_eq!(pic.acknowledge(), Some(0x0B));
        // Non-specific EOI ends the higher one first.
        pic.write(0x20, 0x20);
        assert!(!pic.output());
        pic.write(0x20, 0x64);
        assert_eq!(pic.acknowledge(), Some(0x0C));
    }

    #[test]
    fn pic_special_mask_mode_lets_lower_levels_through() {
        let mut pic = initialised();
        pulse(&mut pic, 3);
        assert_eq!(pic.acknowledge(), Some(0x0B));
        pulse(&mut pic, 6);
        assert!(!pic.output());
        pic.write(0x21, 0x08);
        pic.write(0x20, 0x68);
        assert_eq!(pic.acknowledge(), Some(0x0E));
        // Non-specific EOI ends level 6, not the hidden level 3.
        pic.write(0x20, 0x20);
        pic.write(0x20, 0x0B);
        assert_eq!(pic.read(0x20), 0x08);
        pic.write(0x20, 0x48);
        pulse(&mut pic, 6);
        assert!(!pic.output());
    }

    #[test]
    fn pic_rotation_on_eoi_makes_the_served_level_lowest() {
        let mut pic = initialised();
        pulse(&mut pic, 3);
        pulse(&mut pic, 5);
        assert_eq!(pic.acknowledge(), Some(0x0B));
        pic.write(0x20, 0xA0);
        pulse(&mut pic, 3);
        assert_eq!(pic.acknowledge(), Some(0x0D));
        pic.write(0x20, 0x65);
        pic.write(0x20, 0xC2); // set priority: 3 highest
        pulse(&mut pic, 0);
        assert_eq!(pic.acknowledge(), Some(0x0B));
        pic.write(0x20, 0xE3); // rotate on specific EOI: 3 lowest, 4 highest
        pulse(&mut pic, 4);
        assert_eq!(pic.acknowledge(), Some(0x0C));
    }

    #[test]
    fn pic_auto_eoi_leaves_nothing_in_service_and_may_rotate() {
        let mut pic = Pic8259Pair::new();
        for v in [(0x20, 0x13), (0x21, 0x40), (0x21, 0x03)] {
            pic.write(v.0, v.1);
        }
        pulse(&mut pic, 1);
        assert_eq!(pic.acknowledge(), Some(0x41));
        pic.write(0x20, 0x0B);
        assert_eq!(pic.read(0x20), 0);
        pic.write(0x20, 0x80);
        pulse(&mut pic, 1);
        assert_eq!(pic.acknowledge(), Some(0x41));
        pulse(&mut pic, 0);
        pulse(&mut pic, 5);
        assert_eq!(pic.acknowledge(), Some(0x45));
    }

    #[test]
    fn pic_poll_acknowledges_and_reports_the_level() {
        let mut pic = initialised();
        pic.write(0x20, 0x0C);
        assert_eq!(pic.read(0x20), 0);
        pulse(&mut pic, 6);
        pic.write(0x20, 0x0C);
        assert_eq!(pic.read(0x20), 0x86);
        assert!(!pic.output());
        pic.write(0x20, 0x0B);
        assert_eq!(pic.read(0x20), 0x40);
    }

    #[test]
    fn pic_special_fully_nested_master_accepts_a_better_slave_request() {
        let mut pic = initialised();
        pulse(&mut pic, 12);
        assert_eq!(pic.acknowledge(), Some(0x74));
        pulse(&mut pic, 8);
        assert!(!pic.output());
        let mut pic = Pic8259Pair::new();
        for (port, value) in [(0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 0x11)] {
            pic.write(port, value);
        }
        for (port, value) in [(0xA0, 0x11), (0xA1, 0x70), (0xA1, 2), (0xA1, 1)] {
            pic.write(port, value);
        }
        pulse(&mut pic, 12);
        assert_eq!(pic.acknowledge(), Some(0x74));
        pulse(&mut pic, 8);
        assert_eq!(pic.acknowledge(), Some(0x70));
    }

    #[test]
    fn pic_word_access_is_an_empty_port() {
        let mut board = crate::testing::TestBoard::new();
        let mut pic = Pic8259Pair::new();
        assert_eq!(board.port_in(&mut pic, 0x20, AccessSize::Word), 0xFFFF);
        assert_eq!(board.inb(&mut pic, 0x21), 0xFF);
    }
}
