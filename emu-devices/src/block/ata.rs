//! One drive of an IDE channel: task file, data buffer and the ATA commands.
//!
//! Packet commands are in `atapi.rs`, bus-master transfers in `busmaster.rs`. Functions that may
//! end with an interrupt return [`Intrq`]; the channel turns it into the line.
//!
//! Data moves through a *window*: the part of a transfer that is in memory. It holds whole DRQ
//! blocks; when it is used up the next part is loaded (reads) or the part is committed (writes).

use super::backend::{BlockBackend, read_padded, write_clipped};
use super::spec::*;
use crate::limits::DISK_WINDOW;

pub(super) mod saved;

/// True if the drive asserts INTRQ.
pub(super) type Intrq = bool;

/// What is at the connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Absent,
    /// A hard disk.
    Disk,
    /// An ATAPI CD-ROM drive.
    CdRom,
}

/// How the BIOS translates between the drive's geometry and its own (CMOS byte 39h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Same geometry.
    None = 0,
    /// Assisted by LBA.
    Lba = 1,
    /// Bit shifting of cylinders and heads.
    Large = 2,
}

/// Cylinders, heads and sectors a drive claims to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders.
    pub cylinders: u32,
    /// Heads.
    pub heads: u16,
    /// Sectors per track.
    pub sectors: u16,
    /// What firmware should do with it.
    pub translation: Translation,
}

/// One drive. Fields are what a snapshot has to keep.
pub(super) struct Drive {
    pub(super) kind: Kind,
    pub(super) medium: Option<Box<dyn BlockBackend>>,
    /// Two-byte registers: a write pushes the old value into the high byte (LBA48).
    pub(super) count: u16,
    pub(super) lba_low: u16,
    pub(super) lba_mid: u16,
    pub(super) lba_high: u16,
    pub(super) features: u16,
    pub(super) device: u8,
    pub(super) error: u8,
    pub(super) status: u8,
    /// Sectors per DRQ block of READ/WRITE MULTIPLE.
    pub(super) multiple: u8,
    /// Command in execution or executed last.
    pub(super) command: Option<u8>,
    /// Packet command in execution or executed last.
    pub(super) packet: Option<u8>,
    /// The host is to write a command packet.
    pub(super) packet_wanted: bool,
    /// The window.
    pub(super) buffer: Vec<u8>,
    /// Next byte of the window at the data port.
    pub(super) data_pos: usize,
    /// End of the current DRQ block in the window.
    pub(super) data_end: usize,
    /// Reads: medium offset of the byte after the window. Writes: of the window's first byte.
    pub(super) offset: u64,
    /// Bytes of the transfer after the window.
    pub(super) left: u64,
    pub(super) geometry: Geometry,
    /// Sectors on the medium.
    pub(super) sectors: u64,
    pub(super) sense: Sense,
    /// Steps of a medium change not yet reported: 2 not ready, 1 unit attention.
    pub(super) changed: u8,
    /// Channel and drive number, part of the serial number.
    pub(super) position: (u8, u8),
}

const NO_GEOMETRY: Geometry = Geometry { cylinders: 0, heads: 0, sectors: 0, translation: Translation::None };

impl Drive {
    fn new(kind: Kind, position: (u8, u8)) -> Self {
        Self {
            kind,
            medium: None,
            count: 0,
            lba_low: 0,
            lba_mid: 0,
            lba_high: 0,
            features: 0,
            device: 0,
            error: 0,
            status: SR_IDLE,
            multiple: 128,
            command: None,
            packet: None,
            packet_wanted: false,
            buffer: Vec::new(),
            data_pos: 0,
            data_end: 0,
            offset: 0,
            left: 0,
            geometry: NO_GEOMETRY,
            sectors: 0,
            sense: (0, 0),
            changed: 0,
            position,
        }
    }

    /// An empty connector.
    pub(super) fn absent(position: (u8, u8)) -> Self {
        Self::new(Kind::Absent, position)
    }

    /// A hard disk.
    pub(super) fn disk(position: (u8, u8), mut medium: Box<dyn BlockBackend>) -> Self {
        let mut drive = Self::new(Kind::Disk, position);
        drive.sectors = medium.len().div_ceil(SECTOR);
        drive.geometry = disk_geometry(medium.as_mut(), drive.sectors);
        drive.medium = Some(medium);
        drive
    }

    /// A CD-ROM drive. With a medium it comes up like one that was just filled.
    pub(super) fn cdrom(position: (u8, u8), medium: Option<Box<dyn BlockBackend>>) -> Self {
        let mut drive = Self::new(Kind::CdRom, position);
        drive.set_cd(medium);
        drive
    }

    /// Puts a medium into the CD-ROM drive or takes it out.
    pub(super) fn set_cd(&mut self, medium: Option<Box<dyn BlockBackend>>) {
        self.sectors = medium.as_ref().map_or(0, |m| m.len().div_ceil(CD_SECTOR));
        self.geometry = match medium {
            Some(_) => Geometry {
                cylinders: u32::try_from(self.sectors / 2048).unwrap_or(u32::MAX),
                heads: 1,
                sectors: 2048,
                translation: Translation::None,
            },
            None => NO_GEOMETRY,
        };
        if medium.is_some() || self.medium.is_some() {
            self.status = SR_CHANGED;
            self.error = SENSE_CHANGED.0 << 4;
            self.end_transfer();
        }
        self.medium = medium;
    }

    /// Power-up.
    pub(super) fn power_up(&mut self) {
        let medium = self.medium.take();
        *self = match (self.kind, medium) {
            (Kind::Disk, Some(medium)) => Self::disk(self.position, medium),
            (Kind::CdRom, medium) => Self::cdrom(self.position, medium),
            _ => Self::absent(self.position),
        };
    }

    /// Status as the guest reads it.
    pub(super) fn visible_status(&self) -> u8 {
        if self.kind == Kind::Absent { 0 } else { self.status }
    }

    /// Software reset or DEVICE RESET: signature in the task file, transfers forgotten.
    pub(super) fn soft_reset(&mut self) {
        self.end_transfer();
        (self.count, self.error, self.lba_low) = (1, 1, 1);
        if self.kind == Kind::CdRom {
            self.status = 0;
            [self.lba_mid, self.lba_high] = ATAPI_SIGNATURE;
        } else {
            self.status = SR_IDLE | SR_ERR;
            (self.lba_mid, self.lba_high) = (0, 0);
        }
    }

    /// Forgets the window and what was to follow it.
    pub(super) fn end_transfer(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(DISK_WINDOW);
        (self.data_pos, self.data_end) = (0, 0);
        self.left = 0;
        self.command = None;
        self.packet = None;
        self.packet_wanted = false;
    }

    /// The command succeeded and has no data.
    pub(super) fn done(&mut self) -> Intrq {
        self.status = SR_IDLE;
        true
    }

    /// The command failed with these error bits.
    pub(super) fn fail(&mut self, error: u8) -> Intrq {
        self.end_transfer();
        self.error = error;
        self.status = SR_DRDY | SR_ERR;
        true
    }

    /// Executes a command (all but EXECUTE DEVICE DIAGNOSTIC, which concerns both drives).
    pub(super) fn execute(&mut self, command: u8) -> Intrq {
        self.status &= !(SR_ERR | SR_DF);
        if self.kind == Kind::Absent {
            return false;
        }
        self.end_transfer();
        self.command = Some(command);
        self.error = 0;
        let disk = self.kind == Kind::Disk;
        match command {
            CMD_DEVICE_RESET => {
                self.soft_reset();
                true
            }
            CMD_IDENTIFY | CMD_READ if !disk => {
                // This is how a packet device says what it is (ATA-6, 9.12).
                [self.lba_mid, self.lba_high] = ATAPI_SIGNATURE;
                self.fail(ER_ABRT)
            }
            CMD_IDENTIFY => self.identify(),
            CMD_IDENTIFY_PACKET if !disk => self.identify(),
            CMD_PACKET if !disk => self.start_packet(),
            CMD_READ | CMD_READ_EXT | CMD_READ_MULTIPLE | CMD_READ_MULTIPLE_EXT if disk => self.start_read(),
            CMD_WRITE | CMD_WRITE_EXT | CMD_WRITE_MULTIPLE | CMD_WRITE_MULTIPLE_EXT if disk => {
                self.start_write()
            }
            CMD_READ_DMA | CMD_READ_DMA_EXT | CMD_WRITE_DMA | CMD_WRITE_DMA_EXT if disk => self.start_dma(),
            CMD_NATIVE_MAX | CMD_NATIVE_MAX_EXT if disk => {
                self.set_address(self.sectors.saturating_sub(1), command == CMD_NATIVE_MAX_EXT, true);
                self.done()
            }
            CMD_SET_MULTIPLE => {
                self.multiple = self.count as u8;
                self.done()
            }
            CMD_MEDIA_STATUS => {
                if !disk {
                    self.error |= ER_UNC; // write protected
                    if self.medium.is_none() {
                        self.error |= ER_NM;
                    }
                    if std::mem::take(&mut self.changed) != 0 {
                        self.error |= ER_MC;
                    }
                }
                self.done()
            }
            CMD_MEDIA_LOCK => {
                self.status = SR_DRDY;
                true
            }
            CMD_FLUSH | CMD_FLUSH_EXT => match self.medium.as_mut().map_or(Ok(()), |m| m.flush()) {
                Ok(()) => self.done(),
                Err(_) => self.fail(ER_ABRT),
            },
            CMD_RECALIBRATE => {
                self.lba_mid = 0;
                self.done()
            }
            CMD_INIT_PARAMS
            | CMD_VERIFY
            | CMD_STANDBY_IMMEDIATE
            | CMD_IDLE_IMMEDIATE
            | CMD_SET_FEATURES
            | CMD_SECURITY_FREEZE => self.done(),
            _ => self.fail(ER_ABRT),
        }
    }

    // ---- addresses -----------------------------------------------------------------------------

    fn is_ext(command: u8) -> bool {
        matches!(
            command,
            CMD_READ_EXT
                | CMD_READ_DMA_EXT
                | CMD_READ_MULTIPLE_EXT
                | CMD_WRITE_EXT
                | CMD_WRITE_DMA_EXT
                | CMD_WRITE_MULTIPLE_EXT
        )
    }

    fn ext(&self) -> bool {
        self.command.is_some_and(Self::is_ext)
    }

    /// First sector and number of sectors of the command in the task file; `None` if any of them is
    /// not on the disk.
    fn target(&self) -> Option<(u64, u64)> {
        let [low, mid, high] = [self.lba_low, self.lba_mid, self.lba_high].map(u64::from);
        let head = u64::from(self.device & 0x0F);
        let (lba, count) = if self.ext() {
            let lba = (low & 0xFF)
                | (mid & 0xFF) << 8
                | (high & 0xFF) << 16
                | (low >> 8) << 24
                | (mid >> 8) << 32
                | (high >> 8) << 40;
            (lba, if self.count == 0 { 0x1_0000 } else { u64::from(self.count) })
        } else {
            let (low, mid, high) = (low & 0xFF, mid & 0xFF, high & 0xFF);
            let lba = if self.device & DEV_LBA != 0 {
                low | mid << 8 | high << 16 | head << 24
            } else {
                let track = (mid | high << 8) * u64::from(self.geometry.heads) + head;
                (track * u64::from(self.geometry.sectors) + low).checked_sub(1)?
            };
            (lba, if self.count & 0xFF == 0 { 256 } else { u64::from(self.count & 0xFF) })
        };
        (lba + count <= self.sectors).then_some((lba, count))
    }

    /// Puts a sector address into the task file.
    fn set_address(&mut self, lba: u64, ext: bool, as_lba: bool) {
        let byte = |n: u32| (lba >> (8 * n)) as u16 & 0xFF;
        if ext {
            self.lba_low = byte(0) | byte(3) << 8;
            self.lba_mid = byte(1) | byte(4) << 8;
            self.lba_high = byte(2) | byte(5) << 8;
        } else if as_lba {
            (self.lba_low, self.lba_mid, self.lba_high) = (byte(0), byte(1), byte(2));
            self.device = self.device & 0xF0 | (byte(3) & 0x0F) as u8;
        } else {
            let sectors = u64::from(self.geometry.sectors).max(1);
            let heads = u64::from(self.geometry.heads).max(1);
            let cylinder = lba / (sectors * heads);
            self.lba_low = (lba % sectors + 1) as u16;
            (self.lba_mid, self.lba_high) = (cylinder as u16 & 0xFF, (cylinder >> 8) as u16 & 0xFF);
            self.device = self.device & 0xF0 | ((lba / sectors % heads) & 0x0F) as u8;
        }
    }

    /// Moves the task file `sectors` on.
    pub(super) fn advance(&mut self, sectors: u64) {
        // The count of the sectors to come is not needed; `target` checks the range of the whole
        // command only, which was done when it started.
        let lba = {
            let saved = std::mem::replace(&mut self.count, 1);
            let lba = self.target().map_or(self.sectors, |(lba, _)| lba);
            self.count = saved;
            lba
        };
        self.count = self.count.wrapping_sub(sectors as u16);
        self.set_address(lba + sectors, self.ext(), self.device & DEV_LBA != 0);
    }

    // ---- programmed I/O ------------------------------------------------------------------------

    /// Bytes of a DRQ block of the current command; `None` if READ/WRITE MULTIPLE is off.
    fn block_len(&self) -> Option<usize> {
        match self.command {
            Some(CMD_READ_MULTIPLE | CMD_READ_MULTIPLE_EXT | CMD_WRITE_MULTIPLE | CMD_WRITE_MULTIPLE_EXT) => {
                (self.multiple != 0).then_some(usize::from(self.multiple) * SECTOR as usize)
            }
            _ => Some(SECTOR as usize),
        }
    }

    /// Bytes to take into the window: whole blocks, as many as fit.
    pub(super) fn window_len(&self, block: usize) -> usize {
        let whole = (DISK_WINDOW / block.max(1)).max(1) * block;
        usize::try_from(self.left).unwrap_or(usize::MAX).min(whole)
    }

    /// Loads the next part of a transfer from the medium. False if the host could not read it.
    pub(super) fn load_window(&mut self, block: usize) -> bool {
        let n = self.window_len(block);
        self.buffer.clear();
        self.buffer.resize(n, 0);
        (self.data_pos, self.data_end) = (0, 0);
        let ok = match self.medium.as_mut() {
            Some(medium) => read_padded(medium.as_mut(), self.offset, &mut self.buffer).is_ok(),
            None => false,
        };
        self.offset += n as u64;
        self.left -= n as u64;
        ok
    }

    fn start_read(&mut self) -> Intrq {
        let Some(block) = self.block_len() else { return self.fail(ER_ABRT) };
        let Some((lba, count)) = self.target() else { return self.fail(ER_IDNF) };
        self.offset = lba * SECTOR;
        self.left = count * SECTOR;
        self.next_read_block(block)
    }

    fn next_read_block(&mut self, block: usize) -> Intrq {
        if self.data_end >= self.buffer.len() && !self.load_window(block) {
            return self.fail(ER_UNC);
        }
        let end = (self.data_end + block).min(self.buffer.len());
        self.advance(((end - self.data_end) as u64).div_ceil(SECTOR));
        self.data_end = end;
        self.status = SR_DATA;
        true
    }

    fn start_write(&mut self) -> Intrq {
        let Some(block) = self.block_len() else { return self.fail(ER_ABRT) };
        let Some((lba, count)) = self.target() else { return self.fail(ER_IDNF) };
        self.offset = lba * SECTOR;
        self.left = count * SECTOR;
        self.open_write_window(block);
        self.status = SR_DATA;
        false
    }

    fn open_write_window(&mut self, block: usize) {
        let n = self.window_len(block);
        self.buffer.resize(n, 0);
        self.left -= n as u64;
        self.data_pos = 0;
        self.data_end = block.min(n);
    }

    /// A DRQ block of a disk write is complete.
    fn write_block_done(&mut self) -> Intrq {
        let block = self.block_len().unwrap_or(SECTOR as usize);
        if self.data_end < self.buffer.len() {
            self.data_end = (self.data_end + block).min(self.buffer.len());
            return true;
        }
        let ok = match self.medium.as_mut() {
            Some(medium) => write_clipped(medium.as_mut(), self.offset, &self.buffer).is_ok(),
            None => false,
        };
        if !ok {
            return self.fail(ER_ABRT);
        }
        self.advance(self.buffer.len() as u64 / SECTOR);
        self.offset += self.buffer.len() as u64;
        if self.left > 0 {
            self.open_write_window(block);
            return true;
        }
        self.end_transfer();
        self.done()
    }

    /// Takes bytes from the data port into `out`, up to the end of the DRQ block. Returns how many.
    pub(super) fn read_data(&mut self, out: &mut [u8]) -> (usize, Intrq) {
        if self.status & SR_DRQ == 0 || self.is_writing() {
            return (0, false);
        }
        let end = self.data_end.min(self.buffer.len());
        let Some(src) = self.buffer.get(self.data_pos..end).filter(|s| !s.is_empty()) else {
            return (0, false);
        };
        let n = src.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..n), src.get(..n)) {
            to.copy_from_slice(from);
        }
        self.data_pos += n;
        if self.data_pos < self.data_end {
            return (n, false);
        }
        let intrq = if self.command == Some(CMD_PACKET) {
            self.packet_block_done()
        } else {
            self.error = 0;
            if self.data_end >= self.buffer.len() && self.left == 0 {
                // The last block: its interrupt was raised when it became ready.
                self.end_transfer();
                self.status = SR_IDLE;
                false
            } else {
                let block = self.block_len().unwrap_or(SECTOR as usize);
                self.next_read_block(block)
            }
        };
        (n, intrq)
    }

    /// Puts bytes written to the data port into the window, up to the end of the DRQ block. Returns
    /// how many.
    pub(super) fn write_data(&mut self, data: &[u8]) -> (usize, Intrq) {
        if self.status & SR_DRQ == 0 || !self.is_writing() {
            return (0, false);
        }
        let end = self.data_end.min(self.buffer.len());
        let Some(dst) = self.buffer.get_mut(self.data_pos..end).filter(|d| !d.is_empty()) else {
            return (0, false);
        };
        let n = dst.len().min(data.len());
        if let (Some(to), Some(from)) = (dst.get_mut(..n), data.get(..n)) {
            to.copy_from_slice(from);
        }
        self.data_pos += n;
        if self.data_pos < self.data_end {
            return (n, false);
        }
        let intrq =
            if self.command == Some(CMD_PACKET) { self.execute_packet() } else { self.write_block_done() };
        (n, intrq)
    }

    /// True while the host is to write the data port.
    fn is_writing(&self) -> bool {
        match self.command {
            Some(CMD_WRITE | CMD_WRITE_EXT | CMD_WRITE_MULTIPLE | CMD_WRITE_MULTIPLE_EXT) => true,
            Some(CMD_PACKET) => self.packet_wanted,
            _ => false,
        }
    }

    // ---- DMA -----------------------------------------------------------------------------------

    fn start_dma(&mut self) -> Intrq {
        let Some((lba, count)) = self.target() else { return self.fail(ER_IDNF) };
        self.offset = lba * SECTOR;
        self.left = count * SECTOR;
        self.status = SR_DATA;
        false
    }

    // ---- identification ------------------------------------------------------------------------

    fn identify(&mut self) -> Intrq {
        let words = self.identify_words();
        self.buffer.clear();
        self.buffer.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        (self.data_pos, self.data_end) = (0, self.buffer.len());
        self.status = SR_DATA;
        true
    }

    fn identify_words(&self) -> [u16; 256] {
        let cd = self.kind == Kind::CdRom;
        let g = self.geometry;
        let cylinders = g.cylinders.min(16383) as u16;
        let sectors = u32::try_from(self.sectors).unwrap_or(u32::MAX);
        let sectors28 = sectors.min(0x0FFF_FFFF);
        let (channel, drive) = self.position;
        let mut w = [0u16; 256];
        let mut set = |index: usize, value: u16| {
            if let Some(word) = w.get_mut(index) {
                *word = value;
            }
        };
        set(0, if cd { 0x8540 } else { 0x0040 });
        set(1, cylinders);
        set(3, g.heads);
        set(4, if cd { g.sectors / 512 } else { 0 });
        set(5, 512);
        set(6, g.sectors);
        set(20, 3);
        set(21, 512);
        set(22, 4);
        set(47, 0x0080);
        set(48, 1);
        set(49, 0x0200);
        set(51, 0x0200);
        set(52, 0x0200);
        set(53, 7);
        set(54, cylinders);
        set(55, g.heads);
        set(56, if cd { 0 } else { g.sectors });
        set(57, sectors as u16);
        set(58, (sectors >> 16) as u16);
        set(60, sectors28 as u16);
        set(61, (sectors28 >> 16) as u16);
        set(63, 0x0407); // multiword DMA 0-2, mode 2 selected
        for index in 65..=68 {
            set(index, 30);
        }
        for index in [82, 85] {
            set(index, if cd { 0x4220 } else { 0x4000 });
        }
        for index in [83, 86] {
            set(index, if cd { 0x5000 } else { 0x7400 });
        }
        for index in [84, 87] {
            set(index, 0x4000);
        }
        set(93, 0x6001);
        for n in 0..4 {
            set(100 + n, (self.sectors >> (16 * n)) as u16);
        }
        let serial = format!("8086-86{channel}{drive}");
        let model = if cd { "v86 ATAPI CD-ROM" } else { "v86 ATA HD" };
        for (first, text) in [(10, serial.as_str()), (23, "1.00"), (27, model)] {
            for (n, pair) in text.as_bytes().chunks(2).enumerate() {
                let word = pair.iter().fold(0u16, |v, &b| v << 8 | u16::from(b));
                set(first + n, if pair.len() == 1 { word << 8 } else { word });
            }
        }
        w
    }
}

/// Geometry of a hard disk: that of its partition table where one is plausible (old systems refuse
/// to boot with another), else 16 heads and 63 sectors.
fn disk_geometry(disk: &mut dyn BlockBackend, sectors: u64) -> Geometry {
    let cylinders = |heads: u16, per_track: u16| {
        u32::try_from(sectors / (u64::from(heads) * u64::from(per_track)).max(1)).unwrap_or(u32::MAX)
    };
    let from_table = partition_geometry(disk)
        .map(|(heads, per_track)| (cylinders(heads, per_track), heads, per_track))
        .filter(|&(cylinders, ..)| (1..=16383).contains(&cylinders));
    let (cylinders, heads, per_track, translated) = match from_table {
        Some((c, h, s)) if h <= 16 => (c, h, s, false),
        // A table made with more heads than ATA has was written through a translating BIOS.
        Some(_) => (cylinders(16, 63), 16, 63, true),
        None => (cylinders(16, 63), 16, 63, false),
    };
    let translation = if !translated && cylinders <= 1024 {
        Translation::None
    } else if translated && cylinders.saturating_mul(16) <= 131_072 {
        Translation::Large
    } else {
        Translation::Lba
    };
    Geometry { cylinders, heads, sectors: per_track, translation }
}

/// Heads and sectors per track from the end address of the first used partition.
fn partition_geometry(disk: &mut dyn BlockBackend) -> Option<(u16, u16)> {
    let mut mbr = [0u8; SECTOR as usize];
    read_padded(disk, 0, &mut mbr).ok()?;
    if mbr.get(510..) != Some(&[0x55, 0xAA]) {
        return None;
    }
    mbr.get(446..510)?.chunks_exact(16).find_map(|entry| {
        let end_head = u16::from(*entry.get(5)?);
        let end_sector = u16::from(*entry.get(6)? & 63);
        let used = entry.get(12..16)?.iter().any(|&b| b != 0);
        (used && end_head != 0 && end_sector != 0).then_some((end_head + 1, end_sector))
    })
}

#[cfg(test)]
mod tests {
    use super::super::test_rig::{PRIMARY, Rig, pattern};
    use super::*;
    use emu_core::bus::AccessSize;

    fn disk() -> Rig {
        let mut rig = Rig::new(Some(pattern(600 * 512)), None);
        rig.outb(0x3F6, 0);
        rig
    }

    #[test]
    fn ata_identify_describes_the_disk() {
        let mut rig = disk();
        rig.outb(0x1F7, CMD_IDENTIFY);
        assert_eq!(rig.inb(0x1F7), 0x58);
        let words = rig.read_words(0x1F0, 256);
        assert_eq!(words[0], 0x0040);
        assert_eq!([words[1], words[3], words[6]], [0, 16, 63]);
        assert_eq!(words[10..15], [0x3830, 0x3836, 0x2D38, 0x3630, 0x3000]);
        assert_eq!(words[27..32], [0x7638, 0x3620, 0x4154, 0x4120, 0x4844]);
        assert_eq!([words[49], words[53], words[63]], [0x0200, 7, 0x0407]);
        assert_eq!(words[82..88], [0x4000, 0x7400, 0x4000, 0x4000, 0x7400, 0x4000]);
        assert_eq!([words[60], words[61], words[100], words[101]], [600, 0, 600, 0]);
        assert_eq!(rig.inb(0x1F7), 0x50);
    }

    #[test]
    fn ata_read_sectors_presents_one_sector_per_interrupt_and_advances() {
        let mut rig = disk();
        rig.lba28(5, 3);
        rig.outb(0x1F7, CMD_READ);
        let mut got = Vec::new();
        for left in (0..3).rev() {
            assert!(rig.board.take_rise(PRIMARY));
            assert_eq!(rig.inb(0x1F7), 0x58);
            assert_eq!(rig.inb(0x1F2), left);
            got.extend(rig.read_bytes(0x1F0, 512));
        }
        assert_eq!(got, pattern(600 * 512)[5 * 512..8 * 512]);
        assert!(!rig.board.take_rise(PRIMARY), "none after the last block");
        assert_eq!((rig.inb(0x1F7), rig.inb(0x1F3)), (0x50, 8));
        assert_eq!(rig.board.port_in(&mut rig.ide, 0x1F0, AccessSize::Word), 0, "past the end");
    }

    #[test]
    fn ata_read_multiple_ext_larger_than_the_window_is_complete() {
        let mut rig = disk();
        rig.outb(0x1F2, 100);
        rig.outb(0x1F7, CMD_SET_MULTIPLE);
        rig.lba48(7, 550);
        rig.outb(0x1F7, CMD_READ_MULTIPLE_EXT);
        let got = rig.read_bytes(0x1F0, 550 * 512);
        assert_eq!(got, pattern(600 * 512)[7 * 512..557 * 512]);
        assert_eq!(rig.inb(0x1F7), 0x50);
        rig.outb(0x3F6, CTL_HOB);
        assert_eq!(rig.inb(0x1F2), 0);
        rig.outb(0x3F6, 0);
        assert_eq!((rig.inb(0x1F3), rig.inb(0x1F4)), (557u16 as u8, 2));
    }

    #[test]
    fn ata_write_then_chs_read_returns_what_was_written() {
        let mut rig = disk();
        let data = pattern(300 * 512).iter().map(|b| !b).collect::<Vec<_>>();
        rig.lba48(64, 300);
        rig.outb(0x1F7, CMD_WRITE_EXT);
        assert!(!rig.board.take_rise(PRIMARY), "no interrupt before the first block");
        assert_eq!(rig.inb(0x1F7), 0x58);
        rig.write_bytes(0x1F0, &data[..512]);
        assert!(rig.board.take_rise(PRIMARY));
        rig.write_bytes(0x1F0, &data[512..]);
        assert_eq!(rig.inb(0x1F7), 0x50);
        // LBA 64 is cylinder 0, head 1, sector 2.
        for (reg, value) in [(2, 4), (3, 2), (4, 0), (5, 0), (6, 0xA1)] {
            rig.outb(0x1F0 + reg, value);
        }
        rig.outb(0x1F7, CMD_READ);
        assert_eq!(rig.read_bytes(0x1F0, 4 * 512), data[..4 * 512]);
        assert_eq!((rig.inb(0x1F3), rig.inb(0x1F6)), (6, 0xA1));
    }

    #[test]
    fn ata_access_beyond_the_end_fails_without_data() {
        let mut rig = disk();
        for command in [CMD_READ, CMD_WRITE, CMD_READ_DMA, CMD_WRITE_MULTIPLE] {
            rig.lba28(599, 2);
            rig.outb(0x1F7, command);
            assert_eq!((rig.inb(0x1F7), rig.inb(0x1F1)), (0x41, ER_IDNF), "{command:02X}");
        }
        rig.lba28(599, 1);
        rig.outb(0x1F7, CMD_READ);
        assert_eq!(rig.inb(0x1F7), 0x58);
    }

    #[test]
    fn ata_unknown_command_aborts() {
        let mut rig = disk();
        for command in [CMD_NOP, 0xF0, 0xF9, CMD_PACKET, CMD_IDENTIFY_PACKET, 0x42] {
            rig.outb(0x1F7, command);
            assert_eq!((rig.inb(0x1F7), rig.inb(0x1F1)), (0x41, ER_ABRT), "{command:02X}");
        }
        rig.outb(0x1F2, 0);
        rig.outb(0x1F7, CMD_SET_MULTIPLE);
        rig.lba28(0, 1);
        rig.outb(0x1F7, CMD_READ_MULTIPLE);
        assert_eq!(rig.inb(0x1F7), 0x41, "multiple mode is off");
    }

    #[test]
    fn ata_native_max_is_the_last_sector() {
        let mut rig = disk();
        rig.outb(0x1F7, CMD_NATIVE_MAX);
        assert_eq!([rig.inb(0x1F3), rig.inb(0x1F4), rig.inb(0x1F5)], [(599 % 256) as u8, 2, 0]);
    }

    #[test]
    fn ata_geometry_follows_a_plausible_partition_table() {
        let mut image = vec![0; 200 * 8 * 17 * 512];
        image[510..512].copy_from_slice(&[0x55, 0xAA]);
        image[446 + 5] = 7;
        image[446 + 6] = 17 | 0xC0;
        image[446 + 12] = 1;
        let rig = Rig::new(Some(image), None);
        let g = rig.ide.disk_geometry(0).unwrap();
        assert_eq!((g.cylinders, g.heads, g.sectors, g.translation), (200, 8, 17, Translation::None));
    }
}
