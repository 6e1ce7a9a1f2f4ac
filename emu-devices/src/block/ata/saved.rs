//! A drive in snapshots: an element of a channel in v86's slot 85.
//!
//! | element | what |
//! | --- | --- |
//! | 0, 18, 3, 2, 15 | sector count, LBA low, mid, high, features: two bytes each |
//! | 9, 10, 23 | device register, error, status |
//! | 1, 12, 22, 19, 20 | cylinders, heads, sectors per track, sectors, bytes of a sector |
//! | 13 | packet device; `null` where nothing is connected |
//! | 16, 17, 4, 26 | buffer, bytes of the transfer in it, next byte, end of the DRQ block |
//! | 21, 24 | sectors per DRQ block, byte offset of a write |
//! | 25, 27 | command and packet command executed last, -1 if none |
//! | 28 | medium: `[length, bytes]`, `[[[block, bytes], …]]` or `null` |
//!
//! v86 keeps a whole transfer in its buffer. So the window is extended by what is still to be read
//! before it is saved, up to [`IDE_SAVED_TRANSFER`]; what is before the window is left out.
//!
//! Written, but not read: 5-8 (always 0), 11 and 14 (copies of bits of the device register; v86's
//! copy of the head is wrong after reads), 20 (follows from 13).
//!
//! env86's own part is `[sense key, sense code, medium change, offset, bytes left, packet wanted]`.

use emu_core::snapshot::{FieldError, Fields, Kind as TypedKind, Value};
use emu_core::values;

use super::{Drive, Geometry, Intrq, Kind, NO_GEOMETRY};
use crate::block::backend::{BlockBackend, MemoryDisk, SAVED_BLOCK, SavedBlock, SavedMedium, read_padded};
use crate::block::spec::*;
use crate::limits::IDE_SAVED_TRANSFER;

/// Smallest buffer v86 has.
const V86_BUFFER: usize = 0x1_0000;
/// Sectors that a medium can have at most: those of 48-bit addresses.
const MAX_SECTORS: i64 = 1 << 48;
/// Element of the medium.
const MEDIUM: usize = 28;
/// Status: busy. Our drives are never seen busy.
const SR_BSY: u8 = 0x80;
/// v86's status after an access beyond the end of a disk.
const V86_FAILED: u8 = 0xFF;

/// What a snapshot says of the medium.
#[derive(Debug, PartialEq, Eq)]
enum MediumState {
    /// Nothing: it is too old to know of media.
    Unknown,
    /// There is none.
    None,
    Some(SavedMedium),
}

/// What v86 has no place for.
struct Own {
    sense: Sense,
    changed: u8,
    offset: u64,
    left: u64,
    packet_wanted: bool,
}

/// State of a drive.
pub(in crate::block) struct SavedDrive {
    /// What is connected; disks and nothing are told apart by the medium.
    kind: Kind,
    /// Nobody said what is connected.
    kind_unknown: bool,
    medium: MediumState,
    count: Option<u16>,
    lba_low: Option<u16>,
    lba_mid: Option<u16>,
    lba_high: Option<u16>,
    features: Option<u16>,
    device: Option<u8>,
    error: Option<u8>,
    status: Option<u8>,
    multiple: Option<u8>,
    command: Option<u8>,
    packet: Option<u8>,
    /// The transfer. May be followed by more if it comes from v86.
    buffer: Vec<u8>,
    length: usize,
    data_pos: usize,
    data_end: usize,
    write_offset: u64,
    cylinders: Option<u32>,
    heads: Option<u16>,
    per_track: Option<u16>,
    sectors: Option<u64>,
    own: Option<Own>,
}

impl SavedDrive {
    pub(in crate::block) fn capture(drive: &mut Drive) -> Self {
        let writing = drive.is_writing();
        let dma = drive.expects_dma() && drive.command != Some(CMD_PACKET);
        let Drive {
            kind,
            medium,
            count,
            lba_low,
            lba_mid,
            lba_high,
            features,
            device,
            error,
            status,
            multiple,
            command,
            packet,
            packet_wanted,
            buffer,
            data_pos,
            data_end,
            offset,
            left,
            geometry,
            sectors,
            sense,
            changed,
            position: _,
        } = drive;
        let Geometry { cylinders, heads, sectors: per_track, translation: _ } = *geometry;
        let (mut buffer, mut own_offset, mut own_left) = (buffer.clone(), *offset, *left);
        if !dma && *status & SR_DRQ != 0 && own_left > 0 {
            let room = IDE_SAVED_TRANSFER.saturating_sub(buffer.len());
            let more = usize::try_from(own_left).unwrap_or(usize::MAX).min(room);
            let mut rest = vec![0; more];
            // A part that the host cannot read stays outside, and fails when the guest gets there.
            let there = writing
                || medium.as_mut().is_some_and(|m| read_padded(m.as_mut(), own_offset, &mut rest).is_ok());
            if there {
                buffer.append(&mut rest);
                own_left -= more as u64;
                own_offset += if writing { 0 } else { more as u64 };
            }
        }
        Self {
            kind: *kind,
            kind_unknown: false,
            medium: medium.as_mut().map_or(MediumState::None, |m| MediumState::Some(m.save())),
            count: Some(*count),
            lba_low: Some(*lba_low),
            lba_mid: Some(*lba_mid),
            lba_high: Some(*lba_high),
            features: Some(*features),
            device: Some(*device),
            error: Some(*error),
            status: Some(*status),
            multiple: Some(*multiple),
            command: *command,
            packet: *packet,
            length: buffer.len(),
            buffer,
            data_pos: *data_pos,
            data_end: *data_end,
            write_offset: if writing && *command != Some(CMD_PACKET) { *offset } else { 0 },
            cylinders: Some(cylinders),
            heads: Some(if *kind == Kind::CdRom { heads.max(1) } else { heads }),
            per_track: Some(per_track),
            sectors: Some(*sectors),
            own: Some(Own {
                sense: *sense,
                changed: *changed,
                offset: own_offset,
                left: own_left,
                packet_wanted: *packet_wanted,
            }),
        }
    }

    /// True if the snapshot has a CD-ROM drive here.
    pub(in crate::block) fn is_cdrom(&self) -> bool {
        self.kind == Kind::CdRom
    }

    /// The drive to restore this into where the machine has `old`; `cd` is what is to be in a CD-ROM
    /// drive that the machine has elsewhere.
    pub(in crate::block) fn drive(&self, old: Drive, cd: Option<Box<dyn BlockBackend>>) -> Drive {
        let whole = matches!(self.medium, MediumState::Some(SavedMedium::Whole(_)));
        match (self.kind, old.kind) {
            (Kind::CdRom, Kind::CdRom) => old,
            (Kind::Absent, Kind::CdRom) if self.kind_unknown => old,
            (Kind::CdRom, _) => Drive::cdrom(old.position, cd),
            (_, Kind::Disk) => old,
            // The medium comes with the state.
            (_, _) if whole => Drive::new(Kind::Disk, old.position),
            _ => Drive::absent(old.position),
        }
    }

    /// Replaces the state of `drive`, which is of this kind. True if a command that v86 forgot raised
    /// an interrupt.
    pub(in crate::block) fn apply(self, drive: &mut Drive) -> Result<Intrq, FieldError> {
        match (self.medium, drive.medium.as_mut()) {
            (MediumState::Some(SavedMedium::Whole(image)), _) => {
                let medium = Box::new(MemoryDisk::embedded(image));
                *drive = match drive.kind {
                    Kind::CdRom => Drive::cdrom(drive.position, Some(medium)),
                    _ => Drive::disk(drive.position, medium),
                };
            }
            (MediumState::Some(SavedMedium::Blocks(blocks)), Some(medium)) => {
                medium
                    .restore_blocks(blocks)
                    .map_err(|error| FieldError::at(MEDIUM, format!("cannot be written: {error}")))?;
            }
            (MediumState::None, Some(_)) if drive.kind == Kind::CdRom => match self.own {
                Some(_) => drive.medium = None,
                // v86 had no medium and this machine has: somebody put it in meanwhile.
                None => drive.changed = 2,
            },
            _ => {}
        }
        drive.count = self.count.unwrap_or(drive.count);
        drive.lba_low = self.lba_low.unwrap_or(drive.lba_low);
        drive.lba_mid = self.lba_mid.unwrap_or(drive.lba_mid);
        drive.lba_high = self.lba_high.unwrap_or(drive.lba_high);
        drive.features = self.features.unwrap_or(drive.features);
        drive.device = self.device.unwrap_or(drive.device);
        drive.error = self.error.unwrap_or(drive.error);
        drive.status = self.status.unwrap_or(drive.status);
        drive.multiple = self.multiple.unwrap_or(drive.multiple);
        drive.command = self.command;
        drive.packet = self.packet;
        // A disc is as large as it is, whoever put it in. The guest knows a disk by what it was told.
        if drive.kind != Kind::CdRom || drive.medium.is_none() {
            let g = drive.geometry;
            drive.geometry = Geometry {
                cylinders: self.cylinders.unwrap_or(g.cylinders),
                heads: self.heads.unwrap_or(g.heads),
                sectors: self.per_track.unwrap_or(g.sectors),
                translation: g.translation,
            };
            if drive.kind == Kind::CdRom && drive.geometry.sectors == 0 {
                drive.geometry = NO_GEOMETRY;
            }
            drive.sectors = self.sectors.unwrap_or(drive.sectors);
        }
        let mut buffer = self.buffer;
        let packet_bytes: Vec<u8> = buffer.iter().take(12).copied().collect();
        buffer.truncate(self.length);
        drive.data_end = self.data_end.min(buffer.len());
        drive.data_pos = self.data_pos.min(drive.data_end);
        drive.buffer = buffer;
        if let Some(own) = self.own {
            drive.sense = own.sense;
            drive.changed = own.changed;
            (drive.offset, drive.left) = (own.offset, own.left);
            drive.packet_wanted = own.packet_wanted;
            return Ok(false);
        }
        (drive.offset, drive.left) = (self.write_offset, 0);
        drive.packet_wanted = drive.command == Some(CMD_PACKET)
            && drive.status & SR_DRQ != 0
            && drive.count & 7 == REASON_COMMAND;
        Ok(drive.resume(packet_bytes))
    }

    pub(in crate::block) fn write(self) -> (Value, Value) {
        let mut buffer = self.buffer;
        // v86 sees it as 32-bit words, too.
        buffer.resize(self.length.max(V86_BUFFER).next_multiple_of(4), 0);
        let device = self.device.unwrap_or(0);
        let none = |command: Option<u8>| command.map_or(-1, i64::from);
        let v86 = values![
            self.count.unwrap_or(0),
            self.cylinders.unwrap_or(0),
            self.lba_high.unwrap_or(0),
            self.lba_mid.unwrap_or(0),
            self.data_pos as i64,
            0,
            0,
            0,
            0,
            device,
            self.error.unwrap_or(0),
            device & 0x0F,
            self.heads.unwrap_or(0),
            match self.kind {
                Kind::Absent => Value::Null,
                Kind::Disk => Value::Bool(false),
                Kind::CdRom => Value::Bool(true),
            },
            u8::from(device & DEV_LBA != 0),
            self.features.unwrap_or(0),
            Value::bytes(buffer),
            self.length as i64,
            self.lba_low.unwrap_or(0),
            self.sectors.unwrap_or(0) as i64,
            if self.kind == Kind::CdRom { CD_SECTOR } else { SECTOR } as i64,
            self.multiple.unwrap_or(0),
            self.per_track.unwrap_or(0),
            self.status.unwrap_or(0),
            self.write_offset as i64,
            none(self.command),
            self.data_end as i64,
            none(self.packet),
            medium_value(self.medium),
        ];
        let extra = self.own.map_or(Value::Null, |own| {
            values![
                own.sense.0,
                own.sense.1,
                own.changed,
                own.offset as i64,
                own.left as i64,
                own.packet_wanted
            ]
        });
        (v86, extra)
    }

    pub(in crate::block) fn read(v86: &mut Fields<'_>) -> Result<Self, FieldError> {
        let medium = read_medium(v86)?;
        let command = |n: Option<i64>| n.and_then(|n| u8::try_from(n).ok());
        let position = |n: Option<u64>| n.map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let packet_device = v86.bool(13)?;
        let kind = match packet_device {
            Some(true) => Kind::CdRom,
            _ if matches!(medium, MediumState::Some(_)) => Kind::Disk,
            _ => Kind::Absent,
        };
        Ok(Self {
            kind,
            kind_unknown: packet_device.is_none(),
            medium,
            count: v86.u16(0)?,
            lba_low: v86.u16(18)?,
            lba_mid: v86.u16(3)?,
            lba_high: v86.u16(2)?,
            features: v86.u16(15)?,
            device: v86.u8(9)?,
            error: v86.u8(10)?,
            status: v86.u8(23)?,
            multiple: v86.u8(21)?,
            command: command(v86.i64(25)?),
            packet: command(v86.i64(27)?),
            buffer: v86.bytes_up_to(16, usize::MAX)?.unwrap_or_default(),
            length: position(natural(v86, 17)?),
            data_pos: position(natural(v86, 4)?),
            data_end: position(natural(v86, 26)?),
            write_offset: natural(v86, 24)?.unwrap_or(0).min(byte_limit()),
            cylinders: v86.u32(1)?,
            heads: v86.u16(12)?,
            per_track: v86.u16(22)?,
            sectors: natural(v86, 19)?.map(|n| n.min(MAX_SECTORS as u64)),
            own: None,
        })
    }

    pub(in crate::block) fn read_own(&mut self, extra: &mut Fields<'_>) -> Result<(), FieldError> {
        self.own = Some(Own {
            sense: (extra.u8(0)?.unwrap_or(0) & 0x0F, extra.u8(1)?.unwrap_or(0)),
            changed: extra.u8(2)?.unwrap_or(0).min(2),
            offset: natural(extra, 3)?.unwrap_or(0).min(byte_limit()),
            left: natural(extra, 4)?.unwrap_or(0).min(byte_limit()),
            packet_wanted: extra.bool(5)?.unwrap_or(false),
        });
        Ok(())
    }
}

impl Drive {
    /// Goes on where v86 stopped and did not save that it had. It is busy while a host reads the medium
    /// for it, and remembers a DMA command by its registers.
    fn resume(&mut self, packet: Vec<u8>) -> Intrq {
        if self.kind == Kind::Absent || self.status == V86_FAILED {
            return false;
        }
        if self.status & SR_BSY != 0 {
            self.status = SR_IDLE;
            return match self.command {
                Some(CMD_READ | CMD_READ_EXT | CMD_READ_MULTIPLE | CMD_READ_MULTIPLE_EXT) => {
                    self.buffer.clear();
                    (self.data_pos, self.data_end) = (0, 0);
                    self.start_read()
                }
                Some(CMD_PACKET) => {
                    self.buffer = packet;
                    self.packet_wanted = false;
                    self.execute_packet()
                }
                _ => self.fail(ER_ABRT),
            };
        }
        if self.status & SR_DRQ != 0 && self.command != Some(CMD_PACKET) && self.expects_dma() {
            self.buffer.clear();
            (self.data_pos, self.data_end) = (0, 0);
            return self.start_dma();
        }
        false
    }
}

/// Bytes of the largest medium.
fn byte_limit() -> u64 {
    MAX_SECTORS as u64 * CD_SECTOR
}

/// A number that is not negative.
fn natural(fields: &Fields<'_>, index: usize) -> Result<Option<u64>, FieldError> {
    let Some(n) = fields.i64(index)? else { return Ok(None) };
    u64::try_from(n).map(Some).map_err(|_| FieldError::at(index, format!("{n} is negative")))
}

fn medium_value(medium: MediumState) -> Value {
    match medium {
        MediumState::Unknown | MediumState::None => Value::Null,
        MediumState::Some(SavedMedium::Whole(image)) => values![image.len() as i64, Value::bytes(image)],
        MediumState::Some(SavedMedium::Blocks(blocks)) => {
            let block = |(number, bytes): SavedBlock| values![number as i64, Value::bytes(bytes.as_slice())];
            values![blocks.into_iter().map(block).collect::<Vec<_>>()]
        }
    }
}

fn read_medium(v86: &mut Fields<'_>) -> Result<MediumState, FieldError> {
    if v86.len() <= MEDIUM {
        return Ok(MediumState::Unknown);
    }
    let medium = v86.array(MEDIUM, |medium| match medium.get(0) {
        Value::Array(_) => medium.array(0, read_blocks).map(|b| SavedMedium::Blocks(b.unwrap_or_default())),
        _ => read_image(medium).map(SavedMedium::Whole),
    })?;
    Ok(medium.map_or(MediumState::None, MediumState::Some))
}

fn read_image(medium: &mut Fields<'_>) -> Result<Vec<u8>, FieldError> {
    let len = natural(medium, 0)?;
    let Some(image) = medium.typed(1)? else { return Err(FieldError::at(1, "the image is missing")) };
    if image.kind != TypedKind::Uint8 {
        return Err(FieldError::at(1, format!("expected bytes, found {}", image.kind.name())));
    }
    let mut image = image.data;
    let len = len.map_or(image.len(), |n| usize::try_from(n).unwrap_or(usize::MAX));
    if len > image.len() {
        return Err(FieldError::at(0, format!("{len} bytes, but there are {}", image.len())));
    }
    image.truncate(len);
    Ok(image)
}

fn read_blocks(items: &mut Fields<'_>) -> Result<Vec<SavedBlock>, FieldError> {
    let mut blocks = Vec::new();
    items.each(|_, item| {
        let Some(mut item) = Fields::of(item)? else { return Ok(()) };
        if let (Some(number), Some(bytes)) = (natural(&item, 0)?, item.u8s::<SAVED_BLOCK>(1)?) {
            blocks.push((number, Box::new(bytes)));
        }
        Ok(())
    })?;
    Ok(blocks)
}
