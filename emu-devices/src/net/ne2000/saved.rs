//! The NE2000 in snapshots: v86's slot 59.
//!
//! | element | what |
//! | --- | --- |
//! | 0-3 | ISR, IMR, CR, DCR |
//! | 4, 5, 6, 7 | remote byte count, transmit byte count, transmit page, remote address |
//! | 8-11 | first page, current page, boundary, page behind the last |
//! | 12-14 | RCR, TCR, TSR |
//! | 15, 16 | station address, card memory with the PROM |
//!
//! Frames that wait in the cable for room in the ring are the network's, not the card's. The multicast filter
//! is no register of this card: it reads as all ones. The extra array has whether the driver has moved the boundary
//! since it last acknowledged received frames.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::{MacAddr, Ne2000, Ne2000Pci};
use crate::device::DeviceState;
use crate::net::spec::{FIRST_PAGE, LAST_PAGE, MEMORY_LEN};
use crate::saved::{EXTRA_VERSION, keep, read_extra};

/// First byte of packet memory; below it are the PROM and nothing.
const PACKET_MEMORY: usize = (FIRST_PAGE as usize) << 8;

/// State of the card.
pub(super) struct SavedNe2000 {
    isr: u8,
    imr: u8,
    cr: u8,
    dcr: u8,
    rbcr: u16,
    tbcr: u16,
    tpsr: u8,
    rsar: u16,
    pstart: u8,
    pstop: u8,
    curr: u8,
    bnry: u8,
    rcr: u8,
    tcr: u8,
    tsr: u8,
    mac: MacAddr,
    memory: Vec<u8>,
    reading: bool,
}

impl SavedNe2000 {
    pub(super) fn capture(card: &Ne2000Pci) -> Self {
        let Ne2000Pci { chip, burned_in: _, preserve_mac: _, irq: _, cable: _, waiting: _ } = card;
        let Ne2000 {
            isr,
            imr,
            cr,
            dcr,
            rbcr,
            tbcr,
            tpsr,
            rsar,
            pstart,
            pstop,
            curr,
            bnry,
            rcr,
            tcr,
            tsr,
            mac,
            memory,
            reading,
        } = chip;
        Self {
            isr: *isr,
            imr: *imr,
            cr: *cr,
            dcr: *dcr,
            rbcr: *rbcr,
            tbcr: *tbcr,
            tpsr: *tpsr,
            rsar: *rsar,
            pstart: *pstart,
            pstop: *pstop,
            curr: *curr,
            bnry: *bnry,
            rcr: *rcr,
            tcr: *tcr,
            tsr: *tsr,
            mac: *mac,
            memory: memory.to_vec(),
            reading: *reading,
        }
    }

    /// Replaces the card's state. Address and PROM stay the machine's unless it wants the guest's.
    pub(super) fn apply(self, card: &mut Ne2000Pci) {
        let mut memory = std::mem::replace(&mut card.chip.memory, Box::new([0; MEMORY_LEN]));
        let taken = if card.preserve_mac { 0 } else { PACKET_MEMORY };
        for (to, from) in memory.iter_mut().zip(self.memory).skip(taken) {
            *to = from;
        }
        card.chip = Ne2000 {
            isr: self.isr,
            imr: self.imr,
            cr: self.cr,
            dcr: self.dcr,
            rbcr: self.rbcr,
            tbcr: self.tbcr,
            tpsr: self.tpsr,
            rsar: self.rsar,
            pstart: self.pstart,
            pstop: self.pstop.min(LAST_PAGE),
            curr: self.curr,
            bnry: self.bnry,
            rcr: self.rcr,
            tcr: self.tcr,
            tsr: self.tsr,
            mac: if card.preserve_mac { self.mac } else { card.chip.mac },
            memory,
            reading: self.reading,
        };
    }

    pub(super) fn write(self) -> DeviceState {
        let v86 = values![
            self.isr,
            self.imr,
            self.cr,
            self.dcr,
            self.rbcr,
            self.tbcr,
            self.tpsr,
            self.rsar,
            self.pstart,
            self.curr,
            self.bnry,
            self.pstop,
            self.rcr,
            self.tcr,
            self.tsr,
            Value::bytes(self.mac),
            Value::bytes(self.memory),
        ];
        let extra = if self.reading { Value::Null } else { values![EXTRA_VERSION, false] };
        DeviceState { v86, extra }
    }

    /// What `state` says; the rest as in `self`.
    pub(super) fn read(mut self, mut state: DeviceState) -> Result<Self, FieldError> {
        // v86 has no such state; an interrupt too many costs nothing.
        self.reading = true;
        read_extra(&mut state.extra, |fields| {
            keep(&mut self.reading, fields.bool(1)?);
            Ok(())
        })?;
        if let Some(mut v86) = Fields::of(&mut state.v86)? {
            for (index, register) in [
                (0, &mut self.isr),
                (1, &mut self.imr),
                (2, &mut self.cr),
                (3, &mut self.dcr),
                (6, &mut self.tpsr),
                (8, &mut self.pstart),
                (9, &mut self.curr),
                (10, &mut self.bnry),
                (11, &mut self.pstop),
                (12, &mut self.rcr),
                (13, &mut self.tcr),
                (14, &mut self.tsr),
            ] {
                *register = v86.u8(index)?.unwrap_or(*register);
            }
            for (index, register) in [(4, &mut self.rbcr), (5, &mut self.tbcr), (7, &mut self.rsar)] {
                *register = v86.u16(index)?.unwrap_or(*register);
            }
            self.mac = v86.u8s(15)?.unwrap_or(self.mac);
            self.memory = v86.bytes(16, MEMORY_LEN)?.unwrap_or(self.memory);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MAC, card, frame, remote_read, start};
    use super::*;
    use crate::device::Device;
    use crate::net::NoNetwork;
    use crate::net::spec::*;
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;
    use emu_core::bus::AccessSize;
    use emu_core::irq::{IrqLine, PIRQ_A};

    /// Device 5's wire.
    const WIRE: IrqLine = IrqLine::shared(PIRQ_A, 5);
    const BASE: u16 = Ne2000Pci::BASE;
    const GUEST_MAC: MacAddr = [0x00, 0x22, 0x15, 0xAD, 0x10, 0xD4];

    fn preserving() -> Ne2000Pci {
        let mut nic = Ne2000Pci::new(WIRE, MAC, Box::new(NoNetwork));
        nic.set_preserve_mac(true);
        nic
    }

    fn exercise(nic: &mut Ne2000Pci, board: &mut TestBoard) {
        start(board, nic);
        for (reg, value) in [(TPSR, 0x41), (TBCR0, 0x34), (TBCR1, 2), (TCR, 4), (RSAR0, 0x11), (RSAR1, 0x47)]
        {
            board.outb(nic, BASE + reg, value);
        }
        for (reg, value) in [(RBCR0, 0x22), (RBCR1, 1), (CR, 0x62), (PSTART + 5, 0x77), (CR, 0x22)] {
            board.outb(nic, BASE + reg, value);
        }
        board.outb(nic, BASE + RCR, RCR_PRO);
        while nic.receive(&mut board.ctx(), &frame(MAC, 1500)) {}
    }

    snapshot_conformance!(ne2000_snapshot_conformance, make: preserving, exercise: exercise, ignored: &[]);

    /// As v86 saves a card that Linux uses: a frame of 64 bytes in page 46h not yet fetched, its
    /// interrupt pending.
    fn linux() -> Vec<Value> {
        let mut memory = vec![0; MEMORY_LEN];
        for (n, byte) in GUEST_MAC.iter().enumerate() {
            memory[2 * n..2 * n + 2].fill(*byte);
        }
        memory[28..32].fill(0x57);
        memory[0x4600..0x4604].copy_from_slice(&[1, 0x47, 64, 0]);
        memory[0x4604..0x4640].copy_from_slice(&frame(GUEST_MAC, 60));
        let Value::Array(v86) = values![
            1,
            0x3F,
            0x22,
            0x49,
            0,
            60,
            0x40,
            0x40,
            0x46,
            0x47,
            0x46,
            0x80,
            4,
            0,
            1,
            Value::bytes(GUEST_MAC),
            Value::bytes(memory),
        ] else {
            unreachable!()
        };
        v86
    }

    fn restored(preserve: bool) -> (TestBoard, Ne2000Pci) {
        let mut board = TestBoard::new();
        let mut nic = Ne2000Pci::new(WIRE, MAC, Box::new(NoNetwork));
        nic.set_preserve_mac(preserve);
        board.power_up(&mut nic, 3);
        nic.restore(&mut board.ctx(), DeviceState::v86(linux().into())).unwrap();
        (board, nic)
    }

    #[test]
    fn ne2000_restored_pulls_its_wire_and_gives_the_frame_that_waits() {
        for preserve in [false, true] {
            let (mut board, mut nic) = restored(preserve);
            assert!(board.irq.is_high(WIRE));
            let got = remote_read(&mut board, &mut nic, 0x4600, 64);
            assert_eq!(got[..4], [1, 0x47, 64, 0]);
            assert_eq!(got[4..], frame(GUEST_MAC, 60));
            board.outb(&mut nic, BASE + ISR, 0xFF);
            assert!(!board.irq.is_high(WIRE));
            // The next frame goes behind it.
            let ours = if preserve { GUEST_MAC } else { MAC };
            let other = if preserve { MAC } else { GUEST_MAC };
            assert!(!nic.receive(&mut board.ctx(), &frame(other, 60)));
            assert!(nic.receive(&mut board.ctx(), &frame(ours, 60)));
            assert_eq!(remote_read(&mut board, &mut nic, 0x4700, 4), [1, 0x48, 64, 0]);
        }
    }

    #[test]
    fn ne2000_restored_without_preserving_keeps_its_own_address_and_prom() {
        let (mut board, mut nic) = restored(false);
        assert_eq!(nic.chip().mac(), MAC);
        let prom = remote_read(&mut board, &mut nic, 0, 32);
        assert_eq!(prom[..6], [MAC[0], MAC[0], MAC[1], MAC[1], MAC[2], MAC[2]]);
        let (mut board, mut nic) = restored(true);
        assert_eq!(nic.chip().mac(), GUEST_MAC);
        let prom = remote_read(&mut board, &mut nic, 0, 32);
        assert_eq!(prom[8..12], [0x10, 0x10, 0xD4, 0xD4]);
        assert_eq!(prom[28..], [0x57; 4]);
    }

    #[test]
    fn ne2000_array_of_v86_is_given_back_element_by_element() {
        let (mut board, mut nic) = restored(true);
        let state = nic.save(&mut board.ctx());
        assert_eq!(state, DeviceState::v86(linux().into()));
        let (mut board, mut nic) = restored(false);
        let Value::Array(mut v86) = nic.save(&mut board.ctx()).v86 else { panic!() };
        assert_eq!(v86[15], Value::bytes(MAC));
        v86.truncate(15);
        assert_eq!(v86, linux()[..15]);
    }

    #[test]
    fn ne2000_array_at_power_up_is_v86s() {
        let (mut board, mut nic, _) = card();
        board.power_up(&mut nic, 3);
        let DeviceState { v86: Value::Array(v86), extra } = nic.save(&mut board.ctx()) else { panic!() };
        assert_eq!(extra, Value::Null);
        assert_eq!(
            Value::from(v86[..16].to_vec()),
            values![0, 0, 1, 0, 0, 0, 0, 0, 64, 76, 76, 128, 0, 0, 1, Value::bytes(MAC)]
        );
        assert_eq!(v86.len(), 17);
    }

    #[test]
    fn ne2000_saved_in_a_remote_read_continues() {
        let (mut board, mut nic) = restored(true);
        for (reg, value) in [(RBCR0, 64), (RBCR1, 0), (RSAR0, 0), (RSAR1, 0x46), (CR, 0x0A)] {
            board.outb(&mut nic, BASE + reg, value);
        }
        let mut out = [0; 30];
        nic.port_read_block(&mut board.ctx(), BASE + DATA, AccessSize::Word, &mut out);
        let state = nic.save(&mut board.ctx());
        let mut nic = preserving();
        board.power_up(&mut nic, 3);
        nic.restore(&mut board.ctx(), state).unwrap();
        let mut rest = [0; 34];
        nic.port_read_block(&mut board.ctx(), BASE + DATA, AccessSize::Word, &mut rest);
        assert_eq!(rest, frame(GUEST_MAC, 60)[26..]);
        assert_eq!(board.inb(&mut nic, BASE + ISR) & ISR_RDC, ISR_RDC);
    }
}
