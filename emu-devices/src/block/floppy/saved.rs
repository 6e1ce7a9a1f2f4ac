//! The floppy controller in snapshots: v86's slot 55.
//!
//! | element | what |
//! | --- | --- |
//! | 0-18 | `null`. Until July 2025 an array of these alone, without the disks: not read |
//! | 19-24 | SRA, SRB, DOR, TDR, MSR, DSR |
//! | 25-27 | phase (1 command, 2 execution, 3 result), command byte, multi-track flag |
//! | 28-33 | arguments, how many there are and are missing; response, cursor, length |
//! | 34-37 | ST0, ST1, drive selected, SENSE INTERRUPT replies due |
//! | 38-43 | locked, step rate, head load time, configuration, precompensation, last sector |
//! | 44, 45 | drives: CMOS type, tracks, heads, sectors, track, head, sector, perpendicular mode, read only, changed, `[length, image]` or `null` |
//!
//! Written, but not read: the multi-track flag (it is bit 7 of the command byte) and ST1 (v86 has
//! it in no other place than the response; always 0).
//!
//! env86's own part, `[1, write, track, head, sector, sectors left]`, is a READ or WRITE that waits
//! for its DMA channel. Without it, such a command begins anew.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::drive::{Address, Drive};
use super::spec::*;
use super::{DMA_POLL_NS, Floppy, Phase, Transfer};
use crate::block::backend::{BlockBackend, MemoryDisk, PaddedDisk, read_padded};
use crate::device::{Ctx, DeviceState};

/// Layout of env86's own part.
const VERSION: u8 = 1;
/// First element that is read.
const FIRST: usize = 19;
/// Elements of an array that is complete.
const LENGTH: usize = 46;
/// Largest image: the largest format (48 sectors, 80 tracks, two sides).
const MAX_IMAGE: usize = 48 * 80 * 2 * 512;
/// Most sectors one command moves: the last sector number, on two sides.
const MAX_SECTORS: u32 = 2 * 255;

/// A drive and the disk in it.
struct SavedDrive {
    drive_type: Option<u8>,
    tracks: u8,
    heads: u8,
    sectors: u8,
    track: u8,
    head: u8,
    sector: u8,
    perpendicular: u8,
    read_only: bool,
    changed: bool,
    image: Option<Vec<u8>>,
}

/// State of the controller.
pub(super) struct SavedFloppy {
    sra: u8,
    srb: u8,
    dor: u8,
    tdr: u8,
    msr: u8,
    dsr: u8,
    phase: Phase,
    code: u8,
    args: [u8; 17],
    args_got: usize,
    args_left: usize,
    response: [u8; 15],
    response_pos: usize,
    response_len: usize,
    st0: u8,
    selected: u8,
    reset_replies: u8,
    locked: bool,
    step_rate: u8,
    head_load: u8,
    config: u8,
    precompensation: u8,
    eot: u8,
    drives: [Option<SavedDrive>; 2],
    transfer: Option<Transfer>,
}

impl SavedDrive {
    fn capture(drive: &mut Drive) -> Self {
        let Drive {
            drive_type,
            tracks,
            heads,
            sectors,
            track,
            head,
            sector,
            perpendicular,
            read_only,
            changed,
            medium,
        } = drive;
        let image = medium.as_mut().map(|medium| {
            let len = usize::try_from(medium.len()).unwrap_or(MAX_IMAGE).min(MAX_IMAGE);
            let mut image = vec![0; len];
            // Disks are in memory. What the host could not read would be lost for the guest, too.
            let _ = read_padded(medium.as_mut(), 0, &mut image);
            image
        });
        Self {
            drive_type: *drive_type,
            tracks: *tracks,
            heads: *heads,
            sectors: *sectors,
            track: *track,
            head: *head,
            sector: *sector,
            perpendicular: *perpendicular,
            read_only: *read_only,
            changed: *changed,
            image,
        }
    }

    fn apply(self, drive: &mut Drive) {
        // The whole format, as a drive with a fresh disk has it.
        let format =
            [self.tracks, self.heads, self.sectors].into_iter().fold(512, |n, part| n * u64::from(part));
        let medium = self.image.map(|image| {
            let (len, disk) = (image.len() as u64, Box::new(MemoryDisk::embedded(image)));
            match len < format && format <= MAX_IMAGE as u64 {
                true => Box::new(PaddedDisk::new(disk, format)) as Box<dyn BlockBackend>,
                false => disk,
            }
        });
        *drive = Drive {
            drive_type: self.drive_type.or(drive.drive_type),
            tracks: self.tracks,
            heads: self.heads,
            sectors: self.sectors,
            track: self.track,
            head: self.head,
            sector: self.sector,
            perpendicular: self.perpendicular,
            read_only: self.read_only,
            changed: self.changed,
            medium,
        };
    }

    fn write(self) -> Value {
        values![
            self.drive_type,
            self.tracks,
            self.heads,
            self.sectors,
            self.track,
            self.head,
            self.sector,
            self.perpendicular,
            self.read_only,
            self.changed,
            self.image.map(|image| values![image.len() as i64, Value::bytes(image)]),
        ]
    }

    fn read(v86: &mut Fields<'_>) -> Result<Self, FieldError> {
        let image = v86.array(10, |image| {
            let len = image.i64(0)?;
            let mut bytes = image.bytes_up_to(1, MAX_IMAGE)?;
            if let (Some(len), Some(bytes)) = (len, &mut bytes) {
                match usize::try_from(len) {
                    Ok(len) if len <= bytes.len() => bytes.truncate(len),
                    _ => {
                        return Err(FieldError::at(0, format!("{len} bytes, but there are {}", bytes.len())));
                    }
                }
            }
            Ok(bytes)
        })?;
        Ok(Self {
            drive_type: v86.u8(0)?.map(|n| n & 0x0F),
            tracks: v86.u8(1)?.unwrap_or(0),
            heads: v86.u8(2)?.unwrap_or(0),
            sectors: v86.u8(3)?.unwrap_or(0),
            track: v86.u8(4)?.unwrap_or(0),
            head: v86.u8(5)?.unwrap_or(0),
            sector: v86.u8(6)?.unwrap_or(1),
            perpendicular: v86.u8(7)?.unwrap_or(0) & 7,
            read_only: v86.bool(8)?.unwrap_or(false),
            changed: v86.bool(9)?.unwrap_or(true),
            image: image.flatten(),
        })
    }
}

fn phase(number: u8) -> Option<Phase> {
    [Phase::Command, Phase::Execution, Phase::Result].into_iter().find(|p| phase_number(*p) == number)
}

fn phase_number(phase: Phase) -> u8 {
    match phase {
        Phase::Command => 1,
        Phase::Execution => 2,
        Phase::Result => 3,
    }
}

impl SavedFloppy {
    pub(super) fn capture(chip: &mut Floppy) -> Self {
        let Floppy {
            sra,
            srb,
            dor,
            tdr,
            msr,
            dsr,
            phase,
            code,
            args,
            args_got,
            args_left,
            response,
            response_pos,
            response_len,
            st0,
            selected,
            reset_replies,
            locked,
            step_rate,
            head_load,
            config,
            precompensation,
            eot,
            drives,
            transfer,
            irq: _,
            id: _,
        } = chip;
        Self {
            sra: *sra,
            srb: *srb,
            dor: *dor,
            tdr: *tdr,
            msr: *msr,
            dsr: *dsr,
            phase: *phase,
            code: *code,
            args: *args,
            args_got: *args_got,
            args_left: *args_left,
            response: *response,
            response_pos: *response_pos,
            response_len: *response_len,
            st0: *st0,
            selected: *selected,
            reset_replies: *reset_replies,
            locked: *locked,
            step_rate: *step_rate,
            head_load: *head_load,
            config: *config,
            precompensation: *precompensation,
            eot: *eot,
            drives: drives.each_mut().map(|drive| Some(SavedDrive::capture(drive))),
            transfer: *transfer,
        }
    }

    pub(super) fn apply(self, chip: &mut Floppy, ctx: &mut Ctx<'_>) {
        let mut drives = [Drive::new(), Drive::new()];
        std::mem::swap(&mut drives, &mut chip.drives);
        for (drive, saved) in drives.iter_mut().zip(self.drives) {
            if let Some(saved) = saved {
                saved.apply(drive);
            }
        }
        *chip = Floppy {
            sra: self.sra,
            srb: self.srb,
            dor: self.dor,
            tdr: self.tdr,
            msr: self.msr,
            dsr: self.dsr,
            phase: self.phase,
            code: self.code,
            args: self.args,
            args_got: self.args_got,
            args_left: self.args_left,
            response: self.response,
            response_pos: self.response_pos,
            response_len: self.response_len,
            st0: self.st0,
            selected: self.selected,
            reset_replies: self.reset_replies,
            locked: self.locked,
            step_rate: self.step_rate,
            head_load: self.head_load,
            config: self.config,
            precompensation: self.precompensation,
            eot: self.eot,
            drives,
            transfer: self.transfer,
            irq: chip.irq,
            id: chip.id,
        };
        ctx.cancel(chip.id);
        ctx.irq.set(chip.irq, chip.sra & SRA_INTERRUPT != 0);
        if chip.phase != Phase::Execution {
            return;
        }
        match chip.transfer {
            Some(_) if chip.dor & DOR_DMA != 0 => {
                ctx.schedule(chip.id, ctx.now.saturating_add(DMA_POLL_NS));
            }
            Some(_) => {}
            // v86 forgot that it waits for the DMA channel; the arguments are still there.
            None if matches!(decode(chip.code).0, Command::Read | Command::Write) => chip.execute(ctx),
            None => {}
        }
    }

    pub(super) fn write(self) -> DeviceState {
        let multi_track =
            matches!(decode(self.code).0, Command::Read | Command::Write) && self.code & 0x80 != 0;
        let mut v86 = vec![Value::Null; FIRST];
        let Value::Array(fields) = values![
            self.sra,
            self.srb,
            self.dor,
            self.tdr,
            self.msr,
            self.dsr,
            phase_number(self.phase),
            self.code,
            u8::from(multi_track),
            Value::bytes(self.args),
            self.args_got as i64,
            self.args_left as i64,
            Value::bytes(self.response),
            self.response_pos as i64,
            self.response_len as i64,
            self.st0,
            0, // ST1
            self.selected,
            self.reset_replies,
            self.locked,
            self.step_rate,
            self.head_load,
            self.config,
            self.precompensation,
            self.eot,
        ] else {
            return DeviceState::default();
        };
        v86.extend(fields);
        v86.extend(self.drives.into_iter().map(|drive| drive.map_or(Value::Null, SavedDrive::write)));
        let extra = self.transfer.map_or(Value::Null, |t| {
            values![VERSION, t.write, t.at.track, t.at.head, t.at.sector, t.sectors_left]
        });
        DeviceState { v86: v86.into(), extra }
    }

    /// `None` if the controller stays as it is: an array without state is legal.
    pub(super) fn read(mut state: DeviceState) -> Result<Option<Self>, FieldError> {
        let Some(mut v86) = Fields::of(&mut state.v86)? else { return Ok(None) };
        if v86.len() <= FIRST {
            return Ok(None);
        }
        let cursor = |n: Option<u32>, max: usize| n.map_or(0, |n| (n as usize).min(max));
        let fresh = Floppy::new(emu_core::irq::IrqLine::wired_to(0));
        let drive = |v86: &mut Fields<'_>, index| v86.array(index, SavedDrive::read);
        let mut saved = Self {
            sra: v86.u8(19)?.unwrap_or(fresh.sra),
            srb: v86.u8(20)?.unwrap_or(fresh.srb),
            dor: v86.u8(21)?.unwrap_or(fresh.dor),
            tdr: v86.u8(22)?.unwrap_or(fresh.tdr),
            msr: v86.u8(23)?.unwrap_or(fresh.msr),
            dsr: v86.u8(24)?.unwrap_or(fresh.dsr),
            phase: match v86.u8(25)? {
                Some(number) => {
                    phase(number).ok_or_else(|| FieldError::at(25, format!("{number} is no phase")))?
                }
                None => fresh.phase,
            },
            code: v86.u8(26)?.unwrap_or(fresh.code),
            args: v86.u8s(28)?.unwrap_or(fresh.args),
            args_got: cursor(v86.u32(29)?, fresh.args.len()),
            args_left: cursor(v86.u32(30)?, fresh.args.len()),
            response: v86.u8s(31)?.unwrap_or(fresh.response),
            response_pos: cursor(v86.u32(32)?, fresh.response.len()),
            response_len: cursor(v86.u32(33)?, fresh.response.len()),
            st0: v86.u8(34)?.unwrap_or(fresh.st0),
            selected: v86.u8(36)?.unwrap_or(fresh.selected) & 1,
            reset_replies: v86.u8(37)?.unwrap_or(fresh.reset_replies).min(4),
            locked: v86.bool(38)?.unwrap_or(fresh.locked),
            step_rate: v86.u8(39)?.unwrap_or(fresh.step_rate),
            head_load: v86.u8(40)?.unwrap_or(fresh.head_load),
            config: v86.u8(41)?.unwrap_or(fresh.config),
            precompensation: v86.u8(42)?.unwrap_or(fresh.precompensation),
            eot: v86.u8(43)?.unwrap_or(fresh.eot),
            drives: [drive(&mut v86, LENGTH - 2)?, drive(&mut v86, LENGTH - 1)?],
            transfer: None,
        };
        saved.read_extra(&mut state.extra).map_err(FieldError::in_extra)?;
        Ok(Some(saved))
    }

    fn read_extra(&mut self, extra: &mut Value) -> Result<(), FieldError> {
        let Some(extra) = Fields::of(extra)? else { return Ok(()) };
        let _ = extra.u8(0)?;
        let transfer = (extra.bool(1)?, extra.u8(2)?, extra.u8(3)?, extra.u8(4)?, extra.u32(5)?);
        if let (Some(write), Some(track), Some(head), Some(sector), Some(left)) = transfer
            && self.phase == Phase::Execution
        {
            let at = Address { track, head, sector };
            self.transfer = Some(Transfer { write, at, sectors_left: left.min(MAX_SECTORS) });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{B, LINE, command, image, powered, result};
    use super::*;
    use crate::device::Device;
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;

    fn with_disk() -> Floppy {
        let mut fdc = Floppy::new(LINE);
        fdc.insert(0, Box::new(MemoryDisk::new(image(163_840))), false).unwrap();
        fdc
    }

    /// Ends with a READ of three sectors from sector 7 on that waits for its DMA channel.
    fn exercise(fdc: &mut Floppy, board: &mut TestBoard) {
        board.outb(fdc, B + REG_DOR, 0x0C);
        board.outb(fdc, B + REG_TDR, 4);
        board.outb(fdc, B + REG_DIR, 2);
        command(board, fdc, &[0x0F, 0, 21]);
        command(board, fdc, &[0x08]);
        assert_eq!(result(board, fdc), [0x20, 21]);
        command(board, fdc, &[0x03, 0xA1, 4]);
        command(board, fdc, &[0x12, 0x83]);
        command(board, fdc, &[0x13, 0, 0x57, 3]);
        command(board, fdc, &[0x94]);
        assert_eq!(result(board, fdc), [0x10]);
        command(board, fdc, &[0xC6, 0, 21, 0, 6, 2, 8, 0x1B, 0xFF]);
        board.outb(fdc, B + REG_TDR, 0);
    }

    snapshot_conformance!(
        floppy_snapshot_conformance,
        make: with_disk,
        exercise: exercise,
        ignored: &[&[27], &[35]],
    );

    fn restored(board: &mut TestBoard, state: DeviceState) -> Floppy {
        let mut fdc = Floppy::new(LINE);
        board.power_up(&mut fdc, 3);
        fdc.restore(&mut board.ctx(), state).unwrap();
        fdc
    }

    fn elements(state: DeviceState) -> Vec<Value> {
        let Value::Array(v86) = state.v86 else { panic!() };
        v86
    }

    /// As v86 saves a machine without floppy disks after SeaBIOS has looked for some.
    fn seabios() -> Vec<Value> {
        let mut v86 = vec![Value::Null; 19];
        v86.extend(elements(DeviceState::v86(values![
            0,
            192,
            12,
            0,
            128,
            0,
            1,
            0,
            0,
            Value::bytes([0; 17]),
            0,
            0,
            Value::bytes([0; 15]),
            0,
            0,
            0,
            0,
            0,
            0,
            false,
            0,
            0,
            96,
            0,
            0,
            values![4, 0, 0, 0, 0, 0, 1, 0, false, true, Value::Null],
            values![4, 0, 0, 0, 0, 0, 1, 0, false, true, Value::Null],
        ])));
        v86
    }

    #[test]
    fn floppy_array_at_power_up_is_v86s_and_comes_back() {
        let (mut board, mut fdc) = powered(None, false);
        let state = fdc.save(&mut board.ctx());
        assert_eq!(state, DeviceState::v86(seabios().into()));
        let mut fdc = restored(&mut board, state);
        assert_eq!(fdc.save(&mut board.ctx()), DeviceState::v86(seabios().into()));
    }

    #[test]
    fn floppy_empty_and_old_arrays_change_nothing() {
        let old: Vec<Value> = (0..19).map(|n| Value::from(0xA0 + n)).collect();
        for v86 in [Vec::new(), old] {
            let (mut board, mut fdc) = powered(Some(image(163_840)), true);
            command(&mut board, &mut fdc, &[0x0F, 0, 5]);
            let before = fdc.save(&mut board.ctx());
            fdc.restore(&mut board.ctx(), DeviceState::v86(v86.into())).unwrap();
            assert_eq!(fdc.save(&mut board.ctx()), before);
        }
    }

    #[test]
    fn floppy_disk_in_the_snapshot_replaces_the_one_in_the_drive_and_null_ejects() {
        let disk = image(368_640);
        let mut v86 = seabios();
        v86[44] =
            values![4, 40, 2, 9, 3, 0, 1, 0, false, false, values![368_640, Value::bytes(disk.clone())]];
        let (mut board, mut fdc) = powered(Some(image(1_474_560)), false);
        fdc.insert(1, Box::new(MemoryDisk::new(image(1_474_560))), false).unwrap();
        fdc.restore(&mut board.ctx(), DeviceState::v86(v86.clone().into())).unwrap();
        board.dma.channels[2] = (0x8000, 1024);
        command(&mut board, &mut fdc, &[0xC6, 0, 1, 1, 9, 2, 9, 0x1B, 0xFF]);
        assert_eq!(result(&mut board, &mut fdc)[0], 4, "head 1");
        let at = (3 * 9 + 8) * 512;
        assert_eq!(board.mem.dma_slice(0x8000, 512).unwrap(), &disk[at..at + 512]);
        // What is written to it is in the next snapshot.
        board.dma.channels[2] = (0x8000, 512);
        assert!(board.mem.dma_write(0x8000, &[0x77; 512]));
        command(&mut board, &mut fdc, &[0x45, 0, 0, 0, 1, 2, 9, 0x1B, 0xFF]);
        assert_eq!(result(&mut board, &mut fdc)[0], 0);
        let again = elements(fdc.save(&mut board.ctx()));
        let mut expected = disk;
        expected[..512].fill(0x77);
        let Value::Array(drive) = &again[44] else { panic!() };
        assert_eq!(drive[10], values![368_640, Value::bytes(expected)]);
        assert_eq!(again[45], v86[45], "ejected");
    }

    #[test]
    fn floppy_image_that_is_no_image_is_refused_where_it_is() {
        for (image, path) in [
            (values![4_000_000, Value::bytes(vec![0; 4_000_000])], vec![44, 10, 1]),
            (values![513, Value::bytes([0; 512])], vec![44, 10, 0]),
            (values![-1, Value::bytes([0; 512])], vec![44, 10, 0]),
        ] {
            let mut v86 = seabios();
            v86[44] = values![4, 80, 2, 18, 0, 0, 1, 0, false, true, image];
            let (mut board, mut fdc) = powered(None, false);
            let error = fdc.restore(&mut board.ctx(), DeviceState::v86(v86.into())).unwrap_err();
            assert_eq!(error.path, path);
        }
    }

    #[test]
    fn floppy_saved_with_half_a_command_takes_the_rest() {
        let (mut board, mut fdc) = powered(Some(image(1_474_560)), false);
        command(&mut board, &mut fdc, &[0xC6, 0, 0, 0, 3]);
        let state = fdc.save(&mut board.ctx());
        let mut fdc = restored(&mut board, state);
        assert_eq!(board.inb(&mut fdc, B + REG_MSR), MSR_RQM | MSR_BUSY);
        board.dma.channels[2] = (0x8000, 512);
        command(&mut board, &mut fdc, &[2, 18, 0x1B, 0xFF]);
        assert!(board.irq.is_high(LINE));
        // And with half a result.
        assert_eq!(board.inb(&mut fdc, B + REG_FIFO), 0);
        let state = fdc.save(&mut board.ctx());
        board.irq = emu_core::irq::IrqLines::new();
        let mut fdc = restored(&mut board, state);
        assert!(board.irq.is_high(LINE));
        assert_eq!(result(&mut board, &mut fdc), [0, 0, 0, 0, 4, 2]);
        assert!(!board.irq.is_high(LINE));
        assert_eq!(board.mem.dma_slice(0x8000, 512).unwrap(), &image(1_474_560)[1024..1536]);
    }

    #[test]
    fn floppy_saved_while_it_waits_for_dma_reads_when_the_channel_is_set_up() {
        for by_v86 in [false, true] {
            let (mut board, mut fdc) = powered(Some(image(1_474_560)), false);
            command(&mut board, &mut fdc, &[0xC6, 0, 0, 0, 2, 2, 18, 0x1B, 0xFF]);
            let mut state = fdc.save(&mut board.ctx());
            assert_eq!(state.extra, values![1, false, 0, 0, 2, 35]);
            if by_v86 {
                state.extra = Value::Null;
            }
            board.events = emu_core::time::EventQueue::new();
            let mut fdc = restored(&mut board, state);
            board.advance(&mut fdc, 5_000_000);
            assert!(!board.irq.is_high(LINE));
            board.dma.channels[2] = (0x8000, 1024);
            board.advance(&mut fdc, 2_000_000);
            assert!(board.irq.is_high(LINE));
            assert_eq!(result(&mut board, &mut fdc)[3..6], [0, 0, 4]);
            assert_eq!(board.mem.dma_slice(0x8000, 1024).unwrap(), &image(1_474_560)[512..1536]);
        }
    }
}
