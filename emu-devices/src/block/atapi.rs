//! Packet commands of the CD-ROM drive (MMC-3 subset).

use super::ata::{Drive, Intrq};
use super::spec::*;

/// Field of a command packet, 0 where the packet is too short.
fn byte(packet: &[u8], index: usize) -> u8 {
    packet.get(index).copied().unwrap_or(0)
}

fn be16(packet: &[u8], index: usize) -> u16 {
    u16::from_be_bytes([byte(packet, index), byte(packet, index + 1)])
}

fn be32(packet: &[u8], index: usize) -> u32 {
    u32::from(be16(packet, index)) << 16 | u32::from(be16(packet, index + 2))
}

impl Drive {
    /// PACKET: wants the 12 bytes of the command.
    pub(super) fn start_packet(&mut self) -> Intrq {
        self.buffer.clear();
        self.buffer.resize(12, 0);
        (self.data_pos, self.data_end) = (0, 12);
        self.packet_wanted = true;
        self.count = REASON_COMMAND;
        self.status = SR_DATA;
        true
    }

    fn set_reason(&mut self, reason: u16) {
        self.count = self.count & !7 | reason;
    }

    /// True if the guest asked for the data by DMA.
    fn packet_dma(&self) -> bool {
        self.features & 1 != 0
    }

    /// The command ended well.
    fn packet_done(&mut self) -> Intrq {
        self.buffer.clear();
        (self.data_pos, self.data_end, self.left) = (0, 0, 0);
        self.set_reason(REASON_DONE);
        self.done()
    }

    /// CHECK CONDITION; the guest asks for the sense data next.
    pub(super) fn check_condition(&mut self, sense: Sense) -> Intrq {
        self.packet_done();
        self.status = SR_DRDY | SR_ERR;
        self.error = sense.0 << 4;
        self.sense = sense;
        true
    }

    /// The command answers with `data`, of which the guest takes at most `room` bytes.
    fn packet_answer(&mut self, data: &[u8], room: usize) -> Intrq {
        let data = data.get(..room).unwrap_or(data);
        if data.is_empty() {
            return self.packet_done();
        }
        self.buffer.clear();
        self.buffer.extend_from_slice(data);
        (self.data_pos, self.data_end, self.left) = (0, 0, 0);
        self.packet_data_ready()
    }

    /// Data is in the window or can be loaded: the first DRQ block, or wait for the bus master.
    fn packet_data_ready(&mut self) -> Intrq {
        self.set_reason(REASON_DATA_IN);
        self.status = SR_DATA;
        if self.packet_dma() {
            return false;
        }
        self.next_packet_block()
    }

    /// Largest DRQ block the guest allows. After the first block the registers hold the size of
    /// that block, which is the limit rounded down.
    fn byte_limit(&self) -> usize {
        match self.lba_mid & 0xFF | (self.lba_high & 0xFF) << 8 {
            0 | 0xFFFF => 0xFFFC,
            limit @ 1..=3 => usize::from(limit),
            limit => usize::from(limit & !3),
        }
    }

    fn next_packet_block(&mut self) -> Intrq {
        let limit = self.byte_limit();
        if self.data_end >= self.buffer.len() && !self.load_window(limit) {
            return self.check_condition(SENSE_READ_ERROR);
        }
        let n = limit.min(self.buffer.len().saturating_sub(self.data_end));
        self.data_end += n;
        (self.lba_mid, self.lba_high) = (n as u16 & 0xFF, n as u16 >> 8);
        self.set_reason(REASON_DATA_IN);
        self.status = SR_DATA;
        true
    }

    /// The guest has read a DRQ block.
    pub(super) fn packet_block_done(&mut self) -> Intrq {
        if self.data_end >= self.buffer.len() && self.left == 0 {
            return self.packet_done();
        }
        self.next_packet_block()
    }

    /// The bus master has moved all data.
    pub(super) fn packet_dma_done(&mut self) -> Intrq {
        self.packet_done()
    }

    /// All 12 bytes are there.
    pub(super) fn execute_packet(&mut self) -> Intrq {
        let packet = std::mem::take(&mut self.buffer);
        let command = byte(&packet, 0);
        (self.data_pos, self.data_end, self.left) = (0, 0, 0);
        self.packet = Some(command);
        self.packet_wanted = false;
        if command != PKT_REQUEST_SENSE {
            self.sense = (0, 0);
        }
        let needs_medium = matches!(
            command,
            PKT_TEST_UNIT_READY
                | PKT_READ_FORMAT_CAPACITIES
                | PKT_READ_CAPACITY
                | PKT_READ_10
                | PKT_READ_12
                | PKT_READ_SUBCHANNEL
                | PKT_READ_TOC
                | PKT_PAUSE
                | PKT_READ_DISC_INFO
                | PKT_READ_TRACK_INFO
                | PKT_READ_CD
        );
        if needs_medium && self.medium.is_none() {
            return self.check_condition(SENSE_NO_MEDIUM);
        }
        if self.medium.is_some() && !matches!(command, PKT_REQUEST_SENSE | PKT_INQUIRY) {
            // A change is told in two steps: some systems only look again after "not ready".
            match self.changed {
                2 => {
                    self.changed = 1;
                    return self.check_condition(SENSE_NO_MEDIUM);
                }
                1 => {
                    self.changed = 0;
                    return self.check_condition(SENSE_CHANGED);
                }
                _ => {}
            }
        }
        match command {
            PKT_TEST_UNIT_READY | PKT_PREVENT_REMOVAL | PKT_READ_DISC_INFO | PKT_READ_CD => {
                self.packet_done()
            }
            PKT_REQUEST_SENSE => self.request_sense(&packet),
            PKT_INQUIRY => self.packet_answer(INQUIRY, byte(&packet, 4).into()),
            PKT_MODE_SENSE_6 => self.packet_answer(&[0; 255], byte(&packet, 4).into()),
            PKT_MODE_SENSE_10 if byte(&packet, 2) & 0x3F == 0x2A => {
                self.packet_answer(&[0; 30], be16(&packet, 7).into())
            }
            PKT_START_STOP => {
                if byte(&packet, 4) & 3 == 2 {
                    self.eject();
                }
                self.packet_done()
            }
            PKT_READ_FORMAT_CAPACITIES => self.read_format_capacities(&packet),
            PKT_READ_CAPACITY => {
                let last = self.sectors32().wrapping_sub(1).to_be_bytes();
                let mut answer = [0, 0, 0, 0, 0, 0, 8, 0]; // 2048 bytes
                answer.iter_mut().zip(last).for_each(|(to, from)| *to = from);
                self.packet_answer(&answer, answer.len())
            }
            PKT_READ_10 => self.read_sectors(be32(&packet, 2), u32::from(be16(&packet, 7))),
            PKT_READ_12 => self.read_sectors(be32(&packet, 2), be32(&packet, 6)),
            PKT_READ_SUBCHANNEL => self.packet_answer(&[0; 8], be16(&packet, 7).into()),
            PKT_READ_TOC => self.read_toc(&packet),
            PKT_GET_CONFIGURATION => {
                let room = usize::from(be16(&packet, 7)).min(32);
                let mut answer = [0u8; 32];
                // Length of what follows, current profile CD-ROM, profile list.
                for (index, value) in [(3, room.saturating_sub(4) as u8), (6, 0x08), (10, 0x03)] {
                    if let Some(field) = answer.get_mut(index) {
                        *field = value;
                    }
                }
                self.packet_answer(&answer, room)
            }
            PKT_MECHANISM_STATUS => self.packet_answer(&[0, 0, 0, 0, 0, 1, 0, 0], be16(&packet, 8).into()),
            _ => self.check_condition(SENSE_INVALID_FIELD),
        }
    }

    /// Opens the tray and drops the medium.
    fn eject(&mut self) {
        if self.medium.take().is_some() {
            self.changed = 2;
            self.sectors = 0;
        }
    }

    fn sectors32(&self) -> u32 {
        u32::try_from(self.sectors).unwrap_or(u32::MAX)
    }

    fn request_sense(&mut self, packet: &[u8]) -> Intrq {
        let (key, code) = std::mem::take(&mut self.sense);
        let mut answer = [0u8; 18];
        for (index, value) in [(0, 0xF0), (2, key), (7, 8), (12, code)] {
            if let Some(field) = answer.get_mut(index) {
                *field = value;
            }
        }
        self.packet_answer(&answer, byte(packet, 4).into())
    }

    fn read_format_capacities(&mut self, packet: &[u8]) -> Intrq {
        let [a, b, c, d] = self.sectors32().to_be_bytes();
        // One descriptor: formatted medium, 2048 bytes per block.
        let answer = [0, 0, 0, 8, a, b, c, d, 2, 0, 8, 0];
        self.packet_answer(&answer, be16(packet, 7).into())
    }

    fn read_sectors(&mut self, lba: u32, count: u32) -> Intrq {
        if count == 0 {
            return self.packet_done();
        }
        let (lba, count) = (u64::from(lba), u64::from(count));
        if lba >= self.sectors {
            return self.check_condition(SENSE_OUT_OF_RANGE);
        }
        self.offset = lba * CD_SECTOR;
        self.left = count.min(self.sectors - lba) * CD_SECTOR;
        self.packet_data_ready()
    }

    fn read_toc(&mut self, packet: &[u8]) -> Intrq {
        const LEAD_OUT: u8 = 0xAA;
        let room = usize::from(be16(packet, 7));
        let msf = byte(packet, 1) & 2 != 0;
        let first = byte(packet, 6);
        // The format is in byte 2 (MMC) or in the two high bits of byte 9 (SFF-8020).
        let format = match byte(packet, 2) & 0x0F {
            0 => byte(packet, 9) >> 6,
            format => format,
        };
        match format {
            0 if first <= 1 || first == LEAD_OUT => {
                let mut body = vec![1, 1]; // first and last track
                for (track, lba) in [(1, 0), (LEAD_OUT, self.sectors32())] {
                    if track < first {
                        continue;
                    }
                    let control = if track == LEAD_OUT { 0x16 } else { 0x14 };
                    body.extend([0, control, track, 0]);
                    body.extend(if msf { lba_to_msf(lba) } else { lba.to_be_bytes() });
                }
                let mut answer = (body.len() as u16).to_be_bytes().to_vec();
                answer.append(&mut body);
                self.packet_answer(&answer, room)
            }
            1 => self.packet_answer(&[0, 10, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0], room),
            _ => self.check_condition(SENSE_INVALID_FIELD),
        }
    }
}

/// Minute, second and frame of a sector; the first two seconds of a disc come before sector 0.
fn lba_to_msf(lba: u32) -> [u8; 4] {
    let frames = lba.saturating_add(150);
    [0, (frames / (75 * 60)) as u8, (frames / 75 % 60) as u8, (frames % 75) as u8]
}

/// CD-ROM device, removable, 31 more bytes, who made it.
const INQUIRY: &[u8; 36] = b"\x05\x80\x01\x31\x1F\0\0\0SONY    CD-ROM CDU-1000 1.1a";

#[cfg(test)]
mod tests {
    use super::super::test_rig::{Rig, SECONDARY, pattern};
    use super::*;

    fn with_disc() -> Rig {
        let mut rig = Rig::new(None, Some(pattern(100 * 2048)));
        rig.outb(0x376, 0);
        rig
    }

    #[test]
    fn atapi_identify_matches_the_measured_words() {
        let mut rig = Rig::new(None, None);
        rig.outb(0x177, CMD_IDENTIFY);
        assert_eq!([rig.inb(0x177), rig.inb(0x171), rig.inb(0x174), rig.inb(0x175)], [0x41, 4, 0x14, 0xEB]);
        rig.outb(0x177, CMD_IDENTIFY_PACKET);
        assert_eq!(rig.inb(0x177), 0x58);
        let w = rig.read_words(0x170, 256);
        assert_eq!(rig.inb(0x177), 0x50);
        assert_eq!(w[0], 0x8540);
        assert_eq!(w[10..15], [0x3830, 0x3836, 0x2D38, 0x3631, 0x3000]);
        assert_eq!(w[23..25], [0x312E, 0x3030]);
        assert_eq!(w[27..35], [0x7638, 0x3620, 0x4154, 0x4150, 0x4920, 0x4344, 0x2D52, 0x4F4D]);
        assert_eq!([w[49], w[53], w[63]], [0x0200, 7, 0x0407]);
        assert_eq!(w[82..88], [0x4220, 0x5000, 0x4000, 0x4220, 0x5000, 0x4000]);
        assert_eq!(w[93], 0x6001);
    }

    #[test]
    fn atapi_without_medium_reports_it_and_still_answers_inquiry() {
        let mut rig = Rig::new(None, None);
        assert_eq!(rig.packet(&[PKT_TEST_UNIT_READY]), Err(SENSE_NO_MEDIUM));
        assert_eq!(rig.packet(&[PKT_READ_CAPACITY]), Err(SENSE_NO_MEDIUM));
        let inquiry = rig.packet(&[PKT_INQUIRY, 0, 0, 0, 96]).unwrap();
        assert_eq!(inquiry.len(), 36);
        assert_eq!(&inquiry[8..], b"SONY    CD-ROM CDU-1000 1.1a");
        assert_eq!(rig.packet(&[PKT_INQUIRY, 0, 0, 0, 5]).unwrap().len(), 5);
    }

    #[test]
    fn atapi_read_is_split_at_the_byte_count_limit() {
        let mut rig = with_disc();
        let command = [PKT_READ_10, 0, 0, 0, 0, 3, 0, 0, 4];
        rig.send_packet(&command, 5001, 0);
        let mut got = Vec::new();
        for expected in [5000, 8192 - 5000] {
            assert!(rig.board.take_rise(SECONDARY));
            assert_eq!(rig.inb(0x177), 0x58);
            assert_eq!(rig.inb(0x172), 2);
            assert_eq!(usize::from(rig.inb(0x174)) | usize::from(rig.inb(0x175)) << 8, expected);
            got.extend(rig.read_bytes(0x170, expected));
        }
        assert!(rig.board.take_rise(SECONDARY));
        assert_eq!((rig.inb(0x177), rig.inb(0x172)), (0x50, 3));
        assert_eq!(got, pattern(100 * 2048)[3 * 2048..7 * 2048]);
    }

    #[test]
    fn atapi_read_to_the_end_is_clipped_and_beyond_it_fails() {
        let mut rig = with_disc();
        let got = rig.packet(&[PKT_READ_12, 0, 0, 0, 0, 2, 0xFF, 0xFF, 0xFF, 0xFF]).unwrap();
        assert_eq!(got, pattern(100 * 2048)[2 * 2048..]);
        assert_eq!(rig.packet(&[PKT_READ_10, 0, 0, 0, 0, 100, 0, 0, 1]), Err(SENSE_OUT_OF_RANGE));
        assert_eq!(rig.packet(&[PKT_READ_10, 0, 0, 0, 0, 100, 0, 0, 0]), Ok(vec![]));
    }

    #[test]
    fn atapi_sense_is_told_once() {
        let mut rig = with_disc();
        rig.send_packet(&[0x4A], 0xFFFE, 0);
        assert_eq!((rig.inb(0x177), rig.inb(0x171), rig.inb(0x172)), (0x41, 0x50, 3));
        let sense = rig.packet(&[PKT_REQUEST_SENSE, 0, 0, 0, 18]).unwrap();
        assert_eq!([sense[0], sense[2], sense[7], sense[12]], [0xF0, 5, 8, 0x24]);
        let sense = rig.packet(&[PKT_REQUEST_SENSE, 0, 0, 0, 255]).unwrap();
        assert_eq!((sense.len(), sense[2], sense[12]), (18, 0, 0));
    }

    #[test]
    fn atapi_capacity_and_table_of_contents_describe_one_data_track() {
        let mut rig = with_disc();
        assert_eq!(rig.packet(&[PKT_READ_CAPACITY]).unwrap(), [0, 0, 0, 99, 0, 0, 8, 0]);
        let toc = [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x16, 0xAA, 0, 0, 0, 0, 100];
        assert_eq!(rig.packet(&[PKT_READ_TOC, 0, 0, 0, 0, 0, 0, 0, 255]).unwrap(), toc);
        assert_eq!(rig.packet(&[PKT_READ_TOC, 0, 0, 0, 0, 0, 0, 0, 12]).unwrap(), toc[..12]);
        // Lead-out only, as minutes, seconds and frames: 250 frames.
        assert_eq!(
            rig.packet(&[PKT_READ_TOC, 2, 0, 0, 0, 0, 0xAA, 0, 255]).unwrap(),
            [0, 10, 1, 1, 0, 0x16, 0xAA, 0, 0, 0, 3, 25]
        );
        let session = rig.packet(&[PKT_READ_TOC, 0, 0, 0, 0, 0, 0, 0, 255, 0x40]).unwrap();
        assert_eq!(session, [0, 10, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn atapi_configuration_and_mechanism_answers_are_bounded_by_the_allocation() {
        let mut rig = with_disc();
        let c = rig.packet(&[PKT_GET_CONFIGURATION, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]).unwrap();
        assert_eq!((c.len(), &c[..12]), (32, &[0, 0, 0, 28, 0, 0, 8, 0, 0, 0, 3, 0][..]));
        assert_eq!(rig.packet(&[PKT_GET_CONFIGURATION, 0, 0, 0, 0, 0, 0, 0, 2]).unwrap(), [0, 0]);
        let m = rig.packet(&[PKT_MECHANISM_STATUS, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]).unwrap();
        assert_eq!(m, [0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn atapi_eject_empties_the_drive() {
        let mut rig = with_disc();
        assert_eq!(rig.packet(&[PKT_START_STOP, 0, 0, 0, 2]), Ok(vec![]));
        assert!(!rig.ide.has_cd());
        assert_eq!(rig.packet(&[PKT_TEST_UNIT_READY]), Err(SENSE_NO_MEDIUM));
    }
}
