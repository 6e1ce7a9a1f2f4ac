//! Bus-master IDE: scatter/gather DMA between a drive and guest memory (SFF-8038i).

use emu_core::mem::Memory;

use super::ata::{Drive, Intrq};
use super::backend::{read_padded, write_clipped};
use super::spec::*;
use crate::limits::IDE_PRD_ENTRIES;

/// Registers of one channel's bus master.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BusMaster {
    pub(super) command: u8,
    pub(super) status: u8,
    /// Physical address of the descriptor table.
    pub(super) prd: u32,
}

/// Walks a descriptor table.
struct Descriptors {
    at: u64,
    /// Entries that may still be read.
    left: u32,
    /// Rest of the current region.
    phys: u64,
    len: usize,
}

impl Descriptors {
    fn new(table: u32) -> Self {
        Self { at: u64::from(table & !3), left: IDE_PRD_ENTRIES, phys: 0, len: 0 }
    }

    /// The next piece of guest memory, at most `max` bytes; `None` at the end of the table or if
    /// the table is not in RAM.
    fn next(&mut self, mem: &Memory, max: u64) -> Option<(u64, usize)> {
        if self.len == 0 {
            if self.left == 0 {
                return None;
            }
            self.phys = u64::from(mem.dma_read_u32(self.at)?);
            let word = mem.dma_read_u32(self.at + 4)?;
            self.len = match word & 0xFFFF {
                0 => 0x1_0000,
                n => n as usize,
            };
            self.left = if word & 0x8000_0000 != 0 { 0 } else { self.left - 1 };
            self.at += 8;
        }
        let n = usize::try_from(max).unwrap_or(usize::MAX).min(self.len);
        let piece = (self.phys, n);
        self.phys += n as u64;
        self.len -= n;
        Some(piece)
    }
}

/// Why a bus-master transfer ended early.
enum DmaError {
    /// The table is too short or points outside RAM.
    Memory,
    /// The host could not read or write the medium.
    Medium,
}

impl Drive {
    /// True if the drive holds a command that a bus master may serve.
    pub(super) fn expects_dma(&self) -> bool {
        matches!(
            self.command,
            Some(CMD_READ_DMA | CMD_READ_DMA_EXT | CMD_WRITE_DMA | CMD_WRITE_DMA_EXT | CMD_PACKET)
        )
    }

    /// True if data can move now.
    pub(super) fn dma_ready(&self) -> bool {
        self.status & SR_DRQ != 0
            && match self.command {
                Some(CMD_PACKET) => !self.packet_wanted && self.features & 1 != 0,
                _ => self.expects_dma(),
            }
    }

    /// Moves all data of the current command. Returns whether it worked and the interrupt.
    pub(super) fn run_dma(&mut self, mem: &mut Memory, table: u32) -> (bool, Intrq) {
        let mut table = Descriptors::new(table);
        let packet = self.command == Some(CMD_PACKET);
        let total = self.left;
        let writing = matches!(self.command, Some(CMD_WRITE_DMA | CMD_WRITE_DMA_EXT));
        let result =
            if writing { self.dma_from_memory(mem, &mut table) } else { self.dma_to_memory(mem, &mut table) };
        match result {
            Ok(()) if packet => (true, self.packet_dma_done()),
            Ok(()) => {
                self.advance(total / SECTOR);
                self.end_transfer();
                (true, self.done())
            }
            Err(_) if packet => (false, self.check_condition(SENSE_READ_ERROR)),
            Err(DmaError::Medium) if !writing => (false, self.fail(ER_UNC)),
            Err(_) => (false, self.fail(ER_ABRT)),
        }
    }

    fn dma_to_memory(&mut self, mem: &mut Memory, table: &mut Descriptors) -> Result<(), DmaError> {
        // What is in the window first, ...
        while let Some(rest) = self.buffer.get(self.data_pos..).filter(|rest| !rest.is_empty()) {
            let (phys, n) = table.next(mem, rest.len() as u64).ok_or(DmaError::Memory)?;
            let data = rest.get(..n).unwrap_or(rest);
            if !mem.dma_write(phys, data) {
                return Err(DmaError::Memory);
            }
            self.data_pos += n;
        }
        // ... then straight from the medium.
        while self.left > 0 {
            let (phys, n) = table.next(mem, self.left).ok_or(DmaError::Memory)?;
            let to = mem.dma_slice_mut(phys, n).ok_or(DmaError::Memory)?;
            let medium = self.medium.as_mut().ok_or(DmaError::Medium)?;
            read_padded(medium.as_mut(), self.offset, to).map_err(|_| DmaError::Medium)?;
            self.offset += n as u64;
            self.left -= n as u64;
        }
        Ok(())
    }

    fn dma_from_memory(&mut self, mem: &Memory, table: &mut Descriptors) -> Result<(), DmaError> {
        while self.left > 0 {
            let (phys, n) = table.next(mem, self.left).ok_or(DmaError::Memory)?;
            let from = mem.dma_slice(phys, n).ok_or(DmaError::Memory)?;
            let medium = self.medium.as_mut().ok_or(DmaError::Medium)?;
            write_clipped(medium.as_mut(), self.offset, from).map_err(|_| DmaError::Medium)?;
            self.offset += n as u64;
            self.left -= n as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ide::IdeController;
    use super::super::test_rig::{PRIMARY, Rig, SECONDARY, pattern};
    use super::*;
    use crate::testing::TEST_RAM;

    const PRIMARY_BM: u16 = IdeController::BUS_MASTER_BASE;
    const SECONDARY_BM: u16 = IdeController::BUS_MASTER_BASE + 8;

    fn disk() -> Rig {
        let mut rig = Rig::new(Some(pattern(600 * 512)), None);
        rig.outb(0x3F6, 0);
        rig
    }

    /// Writes a descriptor table at 1000h and starts the bus master at `port`.
    fn start(rig: &mut Rig, port: u16, direction: u8, regions: &[(u32, u16)]) {
        for (n, &(addr, len)) in regions.iter().enumerate() {
            let end = if n + 1 == regions.len() { 0x8000_0000 } else { 0 };
            let at = 0x1000 + 8 * n as u64;
            assert!(rig.board.mem.dma_write(at, &addr.to_le_bytes()));
            assert!(rig.board.mem.dma_write(at + 4, &(u32::from(len) | end).to_le_bytes()));
        }
        rig.outl(port + BM_PRD, 0x1000);
        rig.outb(port + BM_COMMAND, direction | BM_START);
    }

    fn memory(rig: &Rig, at: u64, len: usize) -> Vec<u8> {
        rig.board.mem.dma_slice(at, len).unwrap().to_vec()
    }

    #[test]
    fn bus_master_read_scatters_over_regions_that_split_sectors() {
        let mut rig = disk();
        rig.lba28(10, 0); // 256 sectors
        rig.outb(0x1F7, CMD_READ_DMA);
        assert_eq!(rig.inb(0x1F7), 0x58);
        start(&mut rig, PRIMARY_BM, 8, &[(0x2_0000, 1000), (0x4_0000, 0), (0x6_0000, 0xFFF0)]);
        assert!(rig.board.irq.is_high(PRIMARY));
        assert_eq!(rig.inb(PRIMARY_BM + BM_STATUS), BM_INTERRUPT);
        assert_eq!(rig.inb(0x1F7), 0x50);
        let image = pattern(600 * 512);
        let expected = &image[10 * 512..266 * 512];
        assert_eq!(memory(&rig, 0x2_0000, 1000), expected[..1000]);
        assert_eq!(memory(&rig, 0x4_0000, 0x1_0000), expected[1000..0x1_0000 + 1000]);
        let rest = expected.len() - 0x1_0000 - 1000;
        assert_eq!(memory(&rig, 0x6_0000, rest), expected[0x1_0000 + 1000..]);
        assert_eq!(memory(&rig, 0x6_0000 + rest as u64, 8), [0; 8], "no byte too many");
        assert_eq!([rig.inb(0x1F2), rig.inb(0x1F3), rig.inb(0x1F4)], [0, 10, 1]);
    }

    #[test]
    fn bus_master_write_reaches_the_disk() {
        let mut rig = disk();
        let data = vec![0x5A; 1024];
        assert!(rig.board.mem.dma_write(0x2_0000, &data));
        rig.lba48(20, 2);
        rig.outb(0x1F7, CMD_WRITE_DMA_EXT);
        start(&mut rig, PRIMARY_BM, 0, &[(0x2_0000, 1024)]);
        assert_eq!(rig.inb(0x1F7), 0x50);
        rig.lba28(20, 2);
        rig.outb(0x1F7, CMD_READ);
        assert_eq!(rig.read_bytes(0x1F0, 1024), data);
    }

    #[test]
    fn bus_master_started_without_a_command_reports_an_error() {
        let mut rig = disk();
        start(&mut rig, PRIMARY_BM, 8, &[(0x2_0000, 512)]);
        assert_eq!(rig.inb(PRIMARY_BM + BM_STATUS), BM_ERROR | BM_INTERRUPT);
        rig.outb(PRIMARY_BM + BM_STATUS, 0xFF);
        assert_eq!(rig.inb(PRIMARY_BM + BM_STATUS), 0);
    }

    #[test]
    fn bus_master_table_that_is_short_or_outside_ram_fails_the_command() {
        for regions in [&[(0x2_0000, 512)][..], &[(TEST_RAM as u32 - 256, 1024)], &[(0xE000_0000, 1024)]] {
            let mut rig = disk();
            rig.lba28(0, 2);
            rig.outb(0x1F7, CMD_READ_DMA);
            start(&mut rig, PRIMARY_BM, 8, regions);
            assert_eq!(rig.inb(PRIMARY_BM + BM_STATUS), BM_ERROR | BM_INTERRUPT);
            assert_eq!((rig.inb(0x1F7), rig.inb(0x1F1)), (0x41, ER_ABRT));
        }
        let mut rig = disk();
        rig.lba28(0, 2);
        rig.outb(0x1F7, CMD_READ_DMA);
        rig.outl(PRIMARY_BM + BM_PRD, 0xFFFF_FFF8);
        rig.outb(PRIMARY_BM, 9);
        assert_eq!(rig.inb(0x1F7), 0x41);
    }

    #[test]
    fn bus_master_endless_table_ends_after_its_64_kib() {
        let mut rig = Rig::new(Some(vec![0; 64 << 20]), None);
        // All of RAM is a table of two-byte regions without an end mark.
        for at in (0..TEST_RAM as u64).step_by(8) {
            assert!(rig.board.mem.dma_write(at, &[0, 0, 0x10, 0, 2, 0, 0, 0]));
        }
        rig.lba48(0, 0);
        rig.outb(0x1F7, CMD_WRITE_DMA_EXT);
        rig.outl(PRIMARY_BM + BM_PRD, 0);
        rig.outb(PRIMARY_BM, 1);
        assert_eq!(rig.inb(0x1F7), 0x41);
    }

    #[test]
    fn bus_master_serves_packet_commands_started_before_or_after_the_packet() {
        let disc = pattern(100 * 2048);
        for bus_master_first in [false, true] {
            let mut rig = Rig::new(None, Some(disc.clone()));
            rig.outb(0x376, 0);
            let command = [PKT_READ_10, 0, 0, 0, 0, 9, 0, 0, 2];
            if bus_master_first {
                rig.outb(0x171, 1);
                rig.outb(0x177, CMD_PACKET);
                start(&mut rig, SECONDARY_BM, 8, &[(0x2_0000, 4096)]);
                assert_eq!(rig.inb(SECONDARY_BM + BM_STATUS) & BM_ACTIVE, BM_ACTIVE);
                rig.inb(0x177);
                rig.outb(SECONDARY_BM + BM_STATUS, BM_INTERRUPT);
                rig.write_packet(&command);
            } else {
                rig.send_packet(&command, 0, 1);
                rig.outb(SECONDARY_BM + BM_STATUS, BM_INTERRUPT);
                let _ = rig.board.irq.take_changes();
                assert!(!rig.board.irq.is_high(SECONDARY), "nothing to report before the data moved");
                start(&mut rig, SECONDARY_BM, 8, &[(0x2_0000, 4096)]);
            }
            assert_eq!(memory(&rig, 0x2_0000, 4096), disc[9 * 2048..11 * 2048]);
            assert!(rig.board.irq.is_high(SECONDARY));
            assert_eq!(rig.inb(SECONDARY_BM + BM_STATUS), BM_INTERRUPT);
            assert_eq!((rig.inb(0x177), rig.inb(0x172)), (0x50, 3));
        }
    }

    #[test]
    fn bus_master_moves_short_packet_answers_too() {
        let mut rig = Rig::new(None, None);
        rig.outb(0x376, 0);
        rig.send_packet(&[PKT_INQUIRY, 0, 0, 0, 36], 0, 1);
        start(&mut rig, SECONDARY_BM, 8, &[(0x2_0000, 128)]);
        assert_eq!(memory(&rig, 0x2_0008, 4), b"SONY");
        assert_eq!(rig.inb(0x177), 0x50);
    }
}
