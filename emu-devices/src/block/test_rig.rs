//! An IDE controller on a bare board, for the tests of this folder.

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLine;

use super::backend::{BlockBackend, MemoryDisk};
use super::ide::IdeController;
use super::spec::*;
use crate::device::Device;
use crate::testing::TestBoard;

pub(super) const PRIMARY: IrqLine = IrqLine::wired_to(14);
pub(super) const SECONDARY: IrqLine = IrqLine::wired_to(15);

/// Bytes that differ between sectors and within them.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 9)) as u8).collect()
}

pub(super) struct Rig {
    pub(super) board: TestBoard,
    pub(super) ide: IdeController,
}

impl Rig {
    pub(super) fn new(disk: Option<Vec<u8>>, cd: Option<Vec<u8>>) -> Self {
        let boxed = |image| Box::new(MemoryDisk::new(image)) as Box<dyn BlockBackend>;
        let ide = IdeController::new([PRIMARY, SECONDARY], [disk.map(boxed), None], cd.map(boxed));
        Self { board: TestBoard::new(), ide }
    }

    pub(super) fn inb(&mut self, port: u16) -> u8 {
        self.board.inb(&mut self.ide, port)
    }

    pub(super) fn outb(&mut self, port: u16, value: u8) {
        self.board.outb(&mut self.ide, port, value);
    }

    pub(super) fn outl(&mut self, port: u16, value: u32) {
        self.ide.port_write(&mut self.board.ctx(), port, AccessSize::Dword, value);
    }

    pub(super) fn lba28(&mut self, lba: u32, count: u8) {
        self.outb(0x1F2, count);
        for (reg, shift) in [(0x1F3, 0), (0x1F4, 8), (0x1F5, 16)] {
            self.outb(reg, (lba >> shift) as u8);
        }
        self.outb(0x1F6, 0xE0 | (lba >> 24) as u8);
    }

    pub(super) fn lba48(&mut self, lba: u64, count: u16) {
        self.outb(0x1F6, 0xE0);
        for shift in [8, 0] {
            self.outb(0x1F2, (count >> shift) as u8);
        }
        for (reg, high, low) in [(0x1F3, 24, 0), (0x1F4, 32, 8), (0x1F5, 40, 16)] {
            self.outb(reg, (lba >> high) as u8);
            self.outb(reg, (lba >> low) as u8);
        }
    }

    /// REP INSW, block after block.
    pub(super) fn read_bytes(&mut self, port: u16, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        let mut at = 0;
        while at < len {
            let n = self.ide.port_read_block(&mut self.board.ctx(), port, AccessSize::Word, &mut out[at..]);
            assert!(n > 0, "no data after {at} bytes");
            at += 2 * n;
        }
        out
    }

    /// IN AX, one after the other.
    pub(super) fn read_words(&mut self, port: u16, count: usize) -> Vec<u16> {
        (0..count).map(|_| self.board.port_in(&mut self.ide, port, AccessSize::Word) as u16).collect()
    }

    /// REP OUTSW, block after block.
    pub(super) fn write_bytes(&mut self, port: u16, data: &[u8]) {
        let mut at = 0;
        while at < data.len() {
            let n = self.ide.port_write_block(&mut self.board.ctx(), port, AccessSize::Word, &data[at..]);
            assert!(n > 0, "no room after {at} bytes");
            at += 2 * n;
        }
    }

    /// The 12 bytes of a command packet.
    pub(super) fn write_packet(&mut self, command: &[u8]) {
        let mut packet = [0; 12];
        packet[..command.len()].copy_from_slice(command);
        self.write_bytes(0x170, &packet);
    }

    /// PACKET command up to the end of the packet; acknowledges the interrupt that asks for it.
    pub(super) fn send_packet(&mut self, command: &[u8], limit: u16, features: u8) {
        self.outb(0x171, features);
        self.outb(0x174, limit as u8);
        self.outb(0x175, (limit >> 8) as u8);
        self.outb(0x177, CMD_PACKET);
        assert_eq!((self.inb(0x177), self.inb(0x172)), (0x58, 1));
        let _ = self.board.irq.take_changes();
        self.write_packet(command);
    }

    /// A whole packet command by programmed I/O: its data, or the sense data it left.
    pub(super) fn packet(&mut self, command: &[u8]) -> Result<Vec<u8>, Sense> {
        self.send_packet(command, 0xFFFE, 0);
        let mut data = Vec::new();
        loop {
            let status = self.inb(0x177);
            if status & SR_ERR != 0 {
                let sense = self.packet(&[PKT_REQUEST_SENSE, 0, 0, 0, 18])?;
                return Err((sense[2], sense[12]));
            }
            if status & SR_DRQ == 0 {
                assert_eq!(self.inb(0x172) & 7, 3);
                return Ok(data);
            }
            let n = usize::from(self.inb(0x174)) | usize::from(self.inb(0x175)) << 8;
            let mut block = vec![0; n.next_multiple_of(2)];
            let words = self.ide.port_read_block(&mut self.board.ctx(), 0x170, AccessSize::Word, &mut block);
            assert_eq!(words * 2, block.len());
            data.extend(&block[..n]);
        }
    }
}
