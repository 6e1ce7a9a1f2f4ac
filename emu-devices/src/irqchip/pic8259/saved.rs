//! The 8259A pair in snapshots: slot 60, the master's array, whose element 5 is the slave's.
//!
//! v86's mask is inverted. Its IRR holds latched edges and levels alike; edges hidden behind the ELCR,
//! priorities, polling and the rarer modes are in the extra array. The cascade input follows from the
//! slave. Elements 4 (is master) are written, not read. Vector bases and ELCR lose the bits the
//! hardware does not have.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::{ELCR_MASTER_MASK, ELCR_SLAVE_MASK, Init, Pic8259, Pic8259Pair};
use crate::device::DeviceState;
use crate::saved::{EXTRA_VERSION, keep, read_extra};

const SLAVE: usize = 5;

/// One controller.
struct SavedPic {
    master: bool,
    imr: u8,
    isr: u8,
    edges: u8,
    lines: u8,
    elcr: u8,
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
    lowest: u8,
}

impl SavedPic {
    fn capture(chip: &Pic8259) -> Self {
        let &Pic8259 {
            master,
            imr,
            isr,
            edges,
            lines,
            elcr,
            base,
            init,
            expect_icw4,
            single,
            read_isr,
            poll,
            auto_eoi,
            rotate_on_auto_eoi,
            special_mask,
            special_fully_nested,
            lowest,
        } = chip;
        Self {
            master,
            imr,
            isr,
            edges,
            lines,
            elcr,
            base,
            init,
            expect_icw4,
            single,
            read_isr,
            poll,
            auto_eoi,
            rotate_on_auto_eoi,
            special_mask,
            special_fully_nested,
            lowest,
        }
    }

    fn apply(self, chip: &mut Pic8259) {
        let Self {
            master,
            imr,
            isr,
            edges,
            lines,
            elcr,
            base,
            init,
            expect_icw4,
            single,
            read_isr,
            poll,
            auto_eoi,
            rotate_on_auto_eoi,
            special_mask,
            special_fully_nested,
            lowest,
        } = self;
        *chip = Pic8259 {
            master,
            imr,
            isr,
            edges,
            lines,
            elcr,
            base,
            init,
            expect_icw4,
            single,
            read_isr,
            poll,
            auto_eoi,
            rotate_on_auto_eoi,
            special_mask,
            special_fully_nested,
            lowest,
        };
    }

    fn to_v86(&self, slave: Value) -> Value {
        let (state, expect_icw4) = match self.init {
            Init::Done => (0, false),
            Init::Icw2 => (1, self.expect_icw4),
            Init::Icw3 => (2, self.expect_icw4),
            Init::Icw4 => (0, true),
        };
        values![
            !self.imr,
            self.base,
            self.isr,
            (self.edges & !self.elcr) | (self.lines & self.elcr),
            u8::from(self.master),
            slave,
            u8::from(expect_icw4),
            state,
            u8::from(self.read_isr),
            u8::from(self.auto_eoi),
            self.elcr,
            self.lines,
            u8::from(self.special_mask),
        ]
    }

    fn read_v86(&mut self, fields: &Fields<'_>) -> Result<(), FieldError> {
        let elcr_mask = if self.master { ELCR_MASTER_MASK } else { ELCR_SLAVE_MASK };
        keep(&mut self.imr, fields.u8(0)?.map(|enabled| !enabled));
        keep(&mut self.base, fields.u8(1)?.map(|base| base & 0xF8));
        keep(&mut self.isr, fields.u8(2)?);
        keep(&mut self.elcr, fields.u8(10)?.map(|elcr| elcr & elcr_mask));
        keep(&mut self.lines, fields.u8(11)?);
        keep(&mut self.edges, fields.u8(3)?.map(|irr| irr & !self.elcr));
        keep(&mut self.expect_icw4, fields.bool(6)?);
        self.init = match fields.u8(7)? {
            None | Some(0) if self.expect_icw4 => Init::Icw4,
            None | Some(0) => Init::Done,
            Some(1) => Init::Icw2,
            Some(2) => Init::Icw3,
            Some(_) => return Err(FieldError::at(7, "no such step of initialisation")),
        };
        keep(&mut self.read_isr, fields.bool(8)?);
        keep(&mut self.auto_eoi, fields.bool(9)?);
        keep(&mut self.special_mask, fields.bool(12)?);
        Ok(())
    }

    fn to_extra(&self) -> Value {
        values![
            self.edges,
            self.lowest,
            self.rotate_on_auto_eoi,
            self.special_fully_nested,
            self.poll,
            self.single,
        ]
    }

    fn read_extra(&mut self, fields: &Fields<'_>) -> Result<(), FieldError> {
        keep(&mut self.edges, fields.u8(0)?);
        keep(&mut self.lowest, fields.u8(1)?.map(|input| input & 7));
        keep(&mut self.rotate_on_auto_eoi, fields.bool(2)?);
        keep(&mut self.special_fully_nested, fields.bool(3)?);
        keep(&mut self.poll, fields.bool(4)?);
        keep(&mut self.single, fields.bool(5)?);
        Ok(())
    }
}

/// The pair.
pub(super) struct SavedPair {
    master: SavedPic,
    slave: SavedPic,
}

impl SavedPair {
    pub(super) fn capture(pair: &Pic8259Pair) -> Self {
        let Pic8259Pair { master, slave } = pair;
        Self { master: SavedPic::capture(master), slave: SavedPic::capture(slave) }
    }

    pub(super) fn apply(self, pair: &mut Pic8259Pair) {
        self.master.apply(&mut pair.master);
        self.slave.apply(&mut pair.slave);
        pair.update_cascade();
    }

    pub(super) fn into_state(self) -> DeviceState {
        DeviceState {
            v86: self.master.to_v86(self.slave.to_v86(Value::Null)),
            extra: values![EXTRA_VERSION, self.master.to_extra(), self.slave.to_extra()],
        }
    }

    /// What `state` says, and `self` where it says nothing.
    pub(super) fn read(mut self, mut state: DeviceState) -> Result<Self, FieldError> {
        if let Some(mut fields) = Fields::of(&mut state.v86)? {
            self.master.read_v86(&fields)?;
            fields.array(SLAVE, |fields| self.slave.read_v86(fields))?;
        }
        read_extra(&mut state.extra, |fields| {
            fields.array(1, |fields| self.master.read_extra(fields))?;
            fields.array(2, |fields| self.slave.read_extra(fields))?;
            Ok(())
        })?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;

    fn initialise(board: &mut TestBoard, pic: &mut Pic8259Pair) {
        for (command, data, base, icw3) in [(0x20, 0x21, 0x08, 0x04), (0xA0, 0xA1, 0x70, 0x02)] {
            for (port, value) in [(command, 0x11), (data, base), (data, icw3), (data, 0x01)] {
                board.outb(pic, port, value);
            }
        }
    }

    fn restored(state: DeviceState) -> (TestBoard, Pic8259Pair) {
        let (mut board, mut pic) = (TestBoard::new(), Pic8259Pair::new());
        board.power_up(&mut pic, 1);
        pic.restore(&mut board.ctx(), state).unwrap();
        (board, pic)
    }

    fn exercise(pic: &mut Pic8259Pair, board: &mut TestBoard) {
        initialise(board, pic);
        board.outb(pic, 0x4D1, 0x0C);
        pic.set_line(3, true, true);
        assert_eq!(pic.acknowledge(), Some(0x0B));
        pic.set_line(1, false, true);
        pic.set_line(10, true, true);
        pic.set_line(12, false, true);
        board.outb(pic, 0x21, 0xA1);
        board.outb(pic, 0x20, 0xC4); // 4 is the lowest
        board.outb(pic, 0x20, 0x80); // rotate on automatic EOI
        board.outb(pic, 0x20, 0x6F); // special mask, poll, read ISR
        board.outb(pic, 0xA0, 0x11); // initialisation begun anew
    }

    snapshot_conformance! {
        pic_snapshot_conforms,
        make: Pic8259Pair::new,
        exercise: exercise,
        ignored: &[&[4], &[SLAVE, 4]],
    }

    /// As a Linux guest leaves it, saved by v86.
    fn of_v86() -> Value {
        let slave = values![113, 112, 0, 0, 0, Value::Null, 0, 0, 0, 0, 12, 0, 0];
        values![71, 8, 0, 25, 1, slave, 0, 0, 0, 0, 0, 0, 0]
    }

    #[test]
    fn pic_array_of_v86_gives_its_registers_and_is_written_back_unchanged() {
        let (mut board, mut pic) = restored(DeviceState::v86(of_v86()));
        assert_eq!(pic.save(&mut board.ctx()).v86, of_v86());
        assert_eq!([0x21, 0xA1, 0x20, 0x4D1].map(|p| board.inb(&mut pic, p)), [0xB8, 0x8E, 25, 12]);
        assert_eq!(pic.acknowledge(), Some(0x08));
        board.outb(&mut pic, 0x20, 0x20);
        assert_eq!(pic.acknowledge(), None, "3 and 4 are masked");
        board.outb(&mut pic, 0x21, 0);
        assert_eq!(pic.acknowledge(), Some(0x0B));
    }

    #[test]
    fn pic_powered_up_is_saved_as_v86_has_it() {
        let slave = values![0, 0, 0, 0, 0, Value::Null, 0, 0, 0, 0, 0, 0, 0];
        let state = Pic8259Pair::new().save(&mut TestBoard::new().ctx());
        assert_eq!(state.v86, values![0, 0, 0, 0, 1, slave, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn pic_array_from_before_2024_lacks_levels_and_has_booleans() {
        let slave = values![0xFF, 0x70, 0, 0x40, 0, Value::Null, false, 0, false, false, 0, Value::Null];
        let (mut board, mut pic) =
            restored(DeviceState::v86(values![0xFF, 8, 2, 4, 1, slave, false, 0, true, false, 0]));
        assert_eq!(board.inb(&mut pic, 0x20), 2, "reads the ISR");
        assert_eq!(pic.acknowledge(), None, "1 is in service");
        board.outb(&mut pic, 0x20, 0x20);
        assert_eq!(pic.acknowledge(), Some(0x76));
    }

    #[test]
    fn pic_saved_during_initialisation_goes_on_there() {
        let (mut board, mut pic) = (TestBoard::new(), Pic8259Pair::new());
        board.outb(&mut pic, 0x20, 0x11);
        board.outb(&mut pic, 0x21, 0x30);
        for (value, step, expect) in [(0x04, 2, 1), (0x03, 0, 1), (0xFE, 0, 0)] {
            let state = pic.save(&mut board.ctx());
            let mut v86 = state.v86.clone();
            let fields = Fields::of(&mut v86).unwrap().unwrap();
            assert_eq!((fields.u8(7), fields.u8(6)), (Ok(Some(step)), Ok(Some(expect))));
            (board, pic) = restored(state);
            board.outb(&mut pic, 0x21, value);
        }
        pic.set_line(0, true, true);
        assert_eq!(pic.acknowledge(), Some(0x30));
        assert_eq!(pic.registers().0.isr, 0, "automatic EOI");
        assert_eq!(board.inb(&mut pic, 0x21), 0xFE);
    }

    #[test]
    fn pic_levels_and_service_go_on_after_restoring() {
        let (mut board, mut pic) = (TestBoard::new(), Pic8259Pair::new());
        initialise(&mut board, &mut pic);
        board.outb(&mut pic, 0x4D1, 0x0C);
        pic.set_line(11, true, true);
        pic.set_line(4, true, true);
        assert_eq!(pic.acknowledge(), Some(0x73));
        let (mut board, mut pic) = restored(pic.save(&mut board.ctx()));
        assert!(pic.line_level(11) && pic.line_level(4) && !pic.line_level(10) && !pic.line_level(99));
        assert!(!pic.output(), "4 is below 11");
        board.outb(&mut pic, 0xA0, 0x20);
        board.outb(&mut pic, 0x20, 0x20);
        assert_eq!(pic.acknowledge(), Some(0x73), "the level is still high");
        pic.set_line(11, false, false);
        board.outb(&mut pic, 0xA0, 0x20);
        board.outb(&mut pic, 0x20, 0x20);
        assert_eq!(pic.acknowledge(), Some(0x0C));
        assert!(!pic.output());
    }
}
