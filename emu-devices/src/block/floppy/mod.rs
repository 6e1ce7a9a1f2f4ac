//! 82078 floppy disk controller with two drives.
//!
//! Data moves by ISA DMA channel 2 only; sectors have 512 bytes. Mechanics take no time: a command
//! is finished when its last byte has been written, unless the DMA channel is not yet set up.
//! Register and command names are those of Intel's 82078 data sheet.

use std::any::Any;

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLine;
use emu_core::snapshot::FieldError;

use self::drive::{Address, Drive, SECTOR, SeekError};
use self::formats::TYPE_1440K;
use self::saved::SavedFloppy;
use self::spec::*;
use super::backend::{BlockBackend, read_padded, write_clipped};
use crate::device::{Ctx, Device, DeviceId, DeviceState, ResetKind};

pub mod formats;

mod drive;
mod saved;
mod spec;

pub use self::drive::ImageTooLarge;

const DMA_CHANNEL: u8 = 2;
/// How often a command looks whether its DMA channel has been set up, nanoseconds.
const DMA_POLL_NS: u64 = 1_000_000;

/// A READ or WRITE whose data is still to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Transfer {
    write: bool,
    at: Address,
    /// Sectors up to the end the command allows.
    sectors_left: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Command,
    Execution,
    Result,
}

/// The controller.
pub struct Floppy {
    sra: u8,
    srb: u8,
    dor: u8,
    tdr: u8,
    msr: u8,
    dsr: u8,
    phase: Phase,
    /// Command byte.
    code: u8,
    args: [u8; 17],
    args_got: usize,
    args_left: usize,
    response: [u8; 15],
    response_pos: usize,
    response_len: usize,
    st0: u8,
    selected: u8,
    /// SENSE INTERRUPT replies still due after a reset.
    reset_replies: u8,
    locked: bool,
    step_rate: u8,
    head_load: u8,
    config: u8,
    precompensation: u8,
    /// Last sector number of READ and WRITE.
    eot: u8,
    drives: [Drive; 2],
    transfer: Option<Transfer>,
    irq: IrqLine,
    id: DeviceId,
}

impl Floppy {
    /// First port.
    pub const BASE: u16 = 0x3F0;
    /// Home ports (3F6h belongs to the IDE controller).
    pub const PORTS: &'static [(u16, u16)] = &[(Self::BASE, 6), (Self::BASE + 7, 1)];

    /// A controller with two empty drives.
    pub fn new(irq: IrqLine) -> Self {
        Self {
            sra: 0,
            srb: SRB_RESET,
            dor: DOR_NOT_RESET | DOR_DMA,
            tdr: 0,
            msr: MSR_RQM,
            dsr: 0,
            phase: Phase::Command,
            code: 0,
            args: [0; 17],
            args_got: 0,
            args_left: 0,
            response: [0; 15],
            response_pos: 0,
            response_len: 0,
            st0: 0,
            selected: 0,
            reset_replies: 0,
            locked: false,
            step_rate: 0,
            head_load: 0,
            config: 0x60, // no implied seek, no FIFO
            precompensation: 0,
            eot: 0,
            drives: [Drive::new(), Drive::new()],
            transfer: None,
            irq,
            id: 0,
        }
    }

    /// Puts a disk into drive 0 or 1. Its format follows from the image's size; images between two
    /// formats are treated as followed by zeros.
    ///
    /// # Errors
    /// The image is larger than any format. The drive is left as it was.
    pub fn insert(
        &mut self,
        drive: usize,
        medium: Box<dyn BlockBackend>,
        read_only: bool,
    ) -> Result<(), ImageTooLarge> {
        match self.drives.get_mut(drive) {
            Some(drive) => drive.insert(medium, read_only),
            None => Ok(()),
        }
    }

    /// Takes the disk out of drive 0 or 1.
    pub fn eject(&mut self, drive: usize) -> Option<Box<dyn BlockBackend>> {
        self.drives.get_mut(drive)?.eject()
    }

    /// CMOS type of drive 0 or 1 (1.44 MB unless its first disk said otherwise).
    pub fn drive_type(&self, drive: usize) -> u8 {
        self.drives.get(drive).and_then(|d| d.drive_type).unwrap_or(TYPE_1440K)
    }

    /// Fixes the type of drive 0 or 1 before power-up.
    pub fn set_drive_type(&mut self, drive: usize, drive_type: u8) {
        if let Some(drive) = self.drives.get_mut(drive) {
            drive.drive_type = Some(drive_type);
        }
    }

    fn drive(&mut self) -> &mut Drive {
        let [a, b] = &mut self.drives;
        if self.selected & 1 == 0 { a } else { b }
    }

    fn select(&mut self, drive: u8) -> &mut Drive {
        self.selected = drive & 1;
        self.drive()
    }

    // ---- interrupt and phases ------------------------------------------------------------------

    fn raise(&mut self, ctx: &mut Ctx<'_>) {
        self.sra |= SRA_INTERRUPT;
        self.reset_replies = 0;
        ctx.irq.set(self.irq, true);
    }

    fn lower(&mut self, ctx: &mut Ctx<'_>) {
        self.sra &= !SRA_INTERRUPT;
        ctx.irq.set(self.irq, false);
    }

    fn enter_command_phase(&mut self) {
        self.phase = Phase::Command;
        self.args_got = 0;
        self.args_left = 0;
        self.transfer = None;
        self.msr = self.msr & !(MSR_BUSY | MSR_DIO) | MSR_RQM;
    }

    fn enter_result_phase(&mut self, response: &[u8]) {
        self.phase = Phase::Result;
        self.transfer = None;
        self.response_pos = 0;
        self.response_len = response.len().min(self.response.len());
        self.response.iter_mut().zip(response).for_each(|(to, from)| *to = *from);
        self.msr |= MSR_BUSY | MSR_RQM | MSR_DIO;
    }

    fn reset_controller(&mut self, ctx: &mut Ctx<'_>) {
        self.lower(ctx);
        ctx.cancel(self.id);
        self.sra = 0;
        self.srb = SRB_RESET;
        self.dor = DOR_NOT_RESET | DOR_DMA;
        self.selected = 0;
        self.st0 = ST0_POLLING;
        (self.response_pos, self.response_len) = (0, 0);
        for drive in &mut self.drives {
            let _ = drive.seek(0, 0, 1);
        }
        self.msr = MSR_RQM;
        self.enter_command_phase();
        self.raise(ctx);
        self.reset_replies = 4;
    }

    // ---- registers -----------------------------------------------------------------------------

    fn read_register(&mut self, ctx: &mut Ctx<'_>, reg: u16) -> Option<u8> {
        Some(match reg {
            REG_SRA => self.sra,
            REG_SRB => self.srb,
            REG_DOR => self.dor & !DOR_SELECT | self.selected,
            REG_TDR => self.tdr,
            REG_MSR => {
                self.dsr &= !DSR_POWER_DOWN;
                self.dor |= DOR_NOT_RESET;
                self.msr
            }
            REG_FIFO => self.read_fifo(ctx),
            REG_DIR if self.drive().changed => DIR_CHANGED,
            REG_DIR => 0,
            _ => return None,
        })
    }

    fn write_register(&mut self, ctx: &mut Ctx<'_>, reg: u16, value: u8) {
        if reg == REG_DOR {
            return self.write_dor(ctx, value);
        }
        if self.dor & DOR_NOT_RESET == 0 {
            return;
        }
        match reg {
            REG_TDR => self.tdr = value & 4,
            REG_MSR => {
                if value & (DSR_RESET | DSR_POWER_DOWN) != 0 {
                    self.reset_controller(ctx);
                }
                self.dsr = value;
            }
            REG_FIFO => self.write_fifo(ctx, value),
            REG_DIR => self.dsr = self.dsr & !DSR_RATE | value & DSR_RATE,
            _ => {}
        }
    }

    fn write_dor(&mut self, ctx: &mut Ctx<'_>, value: u8) {
        if self.dor & DOR_NOT_RESET == 0 && value & DOR_NOT_RESET != 0 {
            self.reset_controller(ctx);
            self.dsr &= !DSR_POWER_DOWN;
        }
        // Motors of drives 0 and 1, drive select 0.
        self.srb = self.srb & !0x23 | value >> 4 & 0x03 | (value & 1) << 5;
        self.selected = value & 1;
        self.dor = value;
    }

    fn read_fifo(&mut self, ctx: &mut Ctx<'_>) -> u8 {
        self.dsr &= !DSR_POWER_DOWN;
        if self.phase != Phase::Result || self.response_pos >= self.response_len {
            return 0;
        }
        let byte = self.response.get(self.response_pos).copied().unwrap_or(0);
        self.response_pos += 1;
        if self.response_pos == self.response_len {
            self.enter_command_phase();
            self.lower(ctx);
        }
        byte
    }

    fn write_fifo(&mut self, ctx: &mut Ctx<'_>, value: u8) {
        self.dsr &= !DSR_POWER_DOWN;
        if self.phase != Phase::Command || self.msr & (MSR_RQM | MSR_DIO) != MSR_RQM {
            return;
        }
        if self.args_left == 0 {
            self.code = value;
            self.args_got = 0;
            self.args_left = decode(value).1;
            self.msr |= MSR_BUSY;
        } else {
            if let Some(arg) = self.args.get_mut(self.args_got) {
                *arg = value;
            }
            self.args_got += 1;
            self.args_left -= 1;
        }
        if self.args_left == 0 {
            self.phase = Phase::Execution;
            self.execute(ctx);
        }
    }

    // ---- commands ------------------------------------------------------------------------------

    fn execute(&mut self, ctx: &mut Ctx<'_>) {
        let [first, second, third, ..] = self.args;
        match decode(self.code).0 {
            Command::Read => self.start_transfer(ctx, false),
            Command::Write => self.start_transfer(ctx, true),
            Command::Seek => {
                let drive = self.select(first);
                let _ = drive.seek(drive.head, second, drive.sector);
                self.seek_done(ctx);
            }
            Command::Recalibrate => {
                let drive = self.select(first);
                let _ = drive.seek(0, 0, 1);
                drive.track = 0;
                self.seek_done(ctx);
            }
            Command::SenseInterrupt => self.sense_interrupt(ctx),
            Command::FormatTrack => {
                let read_only = self.select(first).read_only;
                match read_only {
                    true => self.end_transfer(ctx, ST0_FAILED | ST0_SEEK_END, ST1_NOT_WRITABLE, None),
                    false => self.end_transfer(ctx, 0, 0, None),
                }
            }
            Command::ReadId => {
                let drive = self.drive();
                drive.head = first >> 2 & 1;
                if drive.medium.is_none() {
                    return self.end_transfer(ctx, ST0_FAILED, ST1_NO_ADDRESS_MARK, None);
                }
                drive.sector = drive.sector.checked_rem(drive.sectors).unwrap_or(0) + 1;
                self.end_transfer(ctx, 0, 0, None);
            }
            Command::Specify => {
                self.step_rate = first >> 4;
                self.head_load = second >> 1;
                self.dor = match second & 1 {
                    0 => self.dor | DOR_DMA,
                    _ => self.dor & !DOR_DMA,
                };
                self.enter_command_phase();
            }
            Command::SenseDrive => {
                let drive = self.select(first);
                drive.head = first >> 2 & 1;
                let st3 = 0x28
                    | u8::from(drive.read_only) << 6
                    | u8::from(drive.track == 0) << 4
                    | drive.head << 2
                    | first & 1;
                self.enter_result_phase(&[st3]);
            }
            Command::Perpendicular => {
                if first & 0x80 != 0 {
                    self.drive().perpendicular = first & 7;
                }
                self.enter_command_phase();
            }
            Command::Configure => {
                self.config = second;
                self.precompensation = third;
                self.enter_command_phase();
            }
            Command::Lock => {
                self.locked = self.code & 0x80 != 0;
                self.enter_result_phase(&[u8::from(self.locked) << 4]);
            }
            Command::DumpRegisters => self.dump_registers(),
            Command::Version => self.enter_result_phase(&[0x90]),
            Command::PartId => self.enter_result_phase(&[0x41]),
            Command::Unsupported => {
                self.st0 = ST0_INVALID;
                self.enter_result_phase(&[ST0_INVALID]);
            }
        }
    }

    fn seek_done(&mut self, ctx: &mut Ctx<'_>) {
        self.enter_command_phase();
        self.st0 = ST0_SEEK_END;
        self.raise(ctx);
    }

    fn sense_interrupt(&mut self, ctx: &mut Ctx<'_>) {
        let st0 = if self.reset_replies > 0 {
            self.reset_replies -= 1;
            ST0_POLLING | (3 - self.reset_replies.min(3))
        } else if self.sra & SRA_INTERRUPT != 0 {
            self.st0 & 0xF8 | self.selected
        } else {
            return self.enter_result_phase(&[ST0_INVALID]);
        };
        let track = self.drive().track;
        self.enter_result_phase(&[st0, track]);
        self.lower(ctx);
        self.st0 = ST0_POLLING;
    }

    fn dump_registers(&mut self) {
        let tracks = self.drives.each_ref().map(|d| d.track);
        let (sectors, perpendicular) = {
            let drive = self.drive();
            (drive.sectors, drive.perpendicular)
        };
        let [a, b] = tracks;
        self.enter_result_phase(&[
            a,
            b,
            0,
            0,
            self.step_rate,
            self.head_load << 1 | u8::from(self.dor & DOR_DMA != 0),
            sectors,
            u8::from(self.locked) << 7 | perpendicular << 2,
            self.config,
            self.precompensation,
        ]);
    }

    // ---- READ and WRITE ------------------------------------------------------------------------

    fn start_transfer(&mut self, ctx: &mut Ctx<'_>, write: bool) {
        let [unit, track, head, sector, size, eot, ..] = self.args;
        let at = Address { track, head, sector };
        let multi_track = self.multi_track();
        let drive = self.select(unit);
        let seek = drive.seek(head, track, sector);
        let exists = drive.offset(at).is_some();
        let read_only = drive.read_only;
        let last = u32::from(eot) * if multi_track { 2 } else { 1 };
        let sectors_left = (last + 1).saturating_sub(u32::from(sector));
        let failure = match seek {
            Err(SeekError::Track) => Some((ST0_FAILED, 0)),
            Err(SeekError::Sector) => Some((ST0_FAILED, ST1_END_OF_TRACK)),
            Ok(()) if !exists => Some((ST0_FAILED, 0)),
            Ok(()) if sectors_left == 0 || size != SIZE_512 => Some((ST0_FAILED, ST1_NO_ADDRESS_MARK)),
            Ok(()) if write && read_only => Some((ST0_FAILED | ST0_SEEK_END, ST1_NOT_WRITABLE)),
            Ok(()) => None,
        };
        if let Some((st0, st1)) = failure {
            return self.end_transfer(ctx, st0, st1, Some(at));
        }
        self.eot = eot;
        self.msr &= !MSR_RQM;
        self.transfer = Some(Transfer { write, at, sectors_left });
        // Without DMA the command hangs until the controller is reset, as in v86.
        if self.dor & DOR_DMA != 0 {
            self.run_transfer(ctx);
        }
    }

    fn multi_track(&self) -> bool {
        self.code & 0x80 != 0
    }

    /// Moves the sectors of the current command, or waits for the DMA controller.
    fn run_transfer(&mut self, ctx: &mut Ctx<'_>) {
        let Some(mut transfer) = self.transfer else { return };
        if ctx.dma.remaining(DMA_CHANNEL) == 0 {
            ctx.schedule(self.id, ctx.now.saturating_add(DMA_POLL_NS));
            return;
        }
        let mut error = false;
        // The end is what comes first: terminal count of the DMA channel or the last sector.
        while transfer.sectors_left > 0 && ctx.dma.remaining(DMA_CHANNEL) > 0 {
            if !self.move_sector(ctx, &transfer) {
                error = true;
                break;
            }
            transfer.sectors_left -= 1;
            transfer.at = self.next_sector(transfer.at);
        }
        match error {
            true => self.end_transfer(ctx, ST0_FAILED, ST1_NO_ADDRESS_MARK, Some(transfer.at)),
            false => self.end_transfer(ctx, 0, 0, Some(transfer.at)),
        }
    }

    /// Moves one sector, or as much of it as the DMA channel wants.
    fn move_sector(&mut self, ctx: &mut Ctx<'_>, transfer: &Transfer) -> bool {
        let drive = self.drive();
        let (Some(offset), Some(medium)) = (drive.offset(transfer.at), drive.medium.as_mut()) else {
            return false;
        };
        let mut sector = [0u8; SECTOR];
        if transfer.write {
            let wanted = ctx.dma.remaining(DMA_CHANNEL).min(SECTOR);
            if let Some(part) = sector.get_mut(..wanted) {
                ctx.dma.read_memory(ctx.mem, DMA_CHANNEL, part);
            }
            write_clipped(medium.as_mut(), offset, &sector).is_ok()
        } else {
            let ok = read_padded(medium.as_mut(), offset, &mut sector).is_ok();
            ctx.dma.write_memory(ctx.mem, DMA_CHANNEL, &sector);
            ok
        }
    }

    /// The sector after `at` in the order READ and WRITE go.
    fn next_sector(&mut self, at: Address) -> Address {
        let eot = self.eot;
        let multi_track = self.multi_track();
        let drive = self.drive();
        if at.sector < drive.sectors && at.sector != eot {
            return Address { sector: at.sector + 1, ..at };
        }
        if multi_track && at.head == 0 && drive.heads == 2 {
            return Address { head: 1, sector: 1, ..at };
        }
        let head = if multi_track { 0 } else { at.head };
        Address { track: at.track.saturating_add(1), head, sector: 1 }
    }

    /// Result phase of READ, WRITE, FORMAT TRACK and READ ID. `at` is what the address bytes say,
    /// the drive's position if not given.
    fn end_transfer(&mut self, ctx: &mut Ctx<'_>, st0: u8, st1: u8, at: Option<Address>) {
        let selected = self.selected;
        let drive = self.drive();
        let here = Address { track: drive.track, head: drive.head, sector: drive.sector };
        let at = at.unwrap_or(here);
        self.st0 = st0 | (here.head & 1) << 2 | selected;
        let response = [self.st0, st1, 0, at.track, at.head, at.sector, SIZE_512];
        self.enter_result_phase(&response);
        self.raise(ctx);
    }
}

impl Device for Floppy {
    fn name(&self) -> &'static str {
        "fdc-82078"
    }

    fn attach(&mut self, id: DeviceId) {
        self.id = id;
    }

    fn port_read(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        if size != AccessSize::Byte {
            return None;
        }
        self.read_register(ctx, port.wrapping_sub(Self::BASE)).map(u32::from)
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        if size == AccessSize::Byte {
            self.write_register(ctx, port.wrapping_sub(Self::BASE), value as u8);
        }
    }

    fn on_event(&mut self, ctx: &mut Ctx<'_>) {
        self.run_transfer(ctx);
    }

    fn reset(&mut self, ctx: &mut Ctx<'_>, kind: ResetKind) {
        self.lower(ctx);
        ctx.cancel(self.id);
        let drives = std::mem::replace(&mut self.drives, [Drive::new(), Drive::new()]);
        let (id, locked, config) = (self.id, self.locked, self.config);
        *self = Self { drives, id, ..Self::new(self.irq) };
        if kind == ResetKind::Warm && locked {
            (self.locked, self.config) = (true, config);
        }
        for drive in &mut self.drives {
            drive.drive_type.get_or_insert(TYPE_1440K);
            (drive.track, drive.head, drive.sector) = (0, 0, 1);
            drive.changed |= kind == ResetKind::Cold;
        }
    }

    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        SavedFloppy::capture(self).write()
    }

    fn restore(&mut self, ctx: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        if let Some(saved) = SavedFloppy::read(state)? {
            saved.apply(self, ctx);
        }
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::backend::MemoryDisk;
    use crate::testing::TestBoard;

    pub(super) const LINE: IrqLine = IrqLine::wired_to(6);
    pub(super) const B: u16 = Floppy::BASE;

    pub(super) fn image(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i / 512) as u8 ^ (i % 251) as u8).collect()
    }

    pub(super) fn powered(disk: Option<Vec<u8>>, read_only: bool) -> (TestBoard, Floppy) {
        let (mut board, mut fdc) = (TestBoard::new(), Floppy::new(LINE));
        if let Some(disk) = disk {
            fdc.insert(0, Box::new(MemoryDisk::new(disk)), read_only).unwrap();
        }
        board.power_up(&mut fdc, 3);
        (board, fdc)
    }

    pub(super) fn command(board: &mut TestBoard, fdc: &mut Floppy, bytes: &[u8]) {
        for &byte in bytes {
            assert_eq!(board.inb(fdc, B + REG_MSR) & 0xC0, MSR_RQM);
            board.outb(fdc, B + REG_FIFO, byte);
        }
    }

    pub(super) fn result(board: &mut TestBoard, fdc: &mut Floppy) -> Vec<u8> {
        let mut out = Vec::new();
        while board.inb(fdc, B + REG_MSR) & (MSR_DIO | MSR_BUSY) == MSR_DIO | MSR_BUSY {
            out.push(board.inb(fdc, B + REG_FIFO));
        }
        out
    }

    #[test]
    fn floppy_reset_interrupts_and_answers_four_sense_commands() {
        let (mut board, mut fdc) = powered(None, false);
        board.outb(&mut fdc, B + REG_DOR, 0x08);
        board.outb(&mut fdc, B + REG_DOR, 0x0C);
        assert!(board.irq.is_high(LINE));
        assert_eq!(board.inb(&mut fdc, B + REG_SRA), SRA_INTERRUPT);
        for drive in 0..4 {
            command(&mut board, &mut fdc, &[0x08]);
            assert_eq!(result(&mut board, &mut fdc), [0xC0 | drive, 0]);
            assert!(!board.irq.is_high(LINE));
        }
        command(&mut board, &mut fdc, &[0x08]);
        assert_eq!(result(&mut board, &mut fdc), [0x80]);
    }

    #[test]
    fn floppy_read_moves_sectors_by_dma_and_reports_the_next_sector() {
        let disk = image(1_474_560);
        let (mut board, mut fdc) = powered(Some(disk.clone()), false);
        board.dma.channels[2] = (0x8000, 3 * 512);
        // Track 1, head 1, from sector 17; two sectors to the end of the track, then (MT is set,
        // head 1 is the last) the next track, where the terminal count ends it.
        command(&mut board, &mut fdc, &[0xE6, 4, 1, 0, 17, 2, 18, 0x1B, 0xFF]);
        assert!(board.irq.is_high(LINE));
        assert_eq!(result(&mut board, &mut fdc), [0, 0, 0, 1, 1, 2, 2]);
        assert!(!board.irq.is_high(LINE));
        let start = (36 + 16) * 512;
        assert_eq!(board.mem.dma_slice(0x8000, 1536).unwrap(), &disk[start..start + 1536]);
        assert_eq!(board.inb(&mut fdc, B + REG_DIR), 0, "seek cleared disk change");
    }

    #[test]
    fn floppy_read_waits_for_the_dma_channel() {
        let disk = image(1_474_560);
        let (mut board, mut fdc) = powered(Some(disk.clone()), false);
        command(&mut board, &mut fdc, &[0x46, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF]);
        board.advance(&mut fdc, 5_000_000);
        assert!(!board.irq.is_high(LINE));
        assert_eq!(board.inb(&mut fdc, B + REG_MSR), MSR_BUSY);
        board.dma.channels[2] = (0x8000, 512);
        board.advance(&mut fdc, 5_000_000);
        assert!(board.irq.is_high(LINE));
        assert_eq!(board.mem.dma_slice(0x8000, 512).unwrap(), &disk[..512]);
    }

    #[test]
    fn floppy_write_is_read_back_and_write_protection_holds() {
        let write = [0x45, 0, 0, 0, 2, 2, 18, 0x1B, 0xFF];
        for read_only in [false, true] {
            let (mut board, mut fdc) = powered(Some(image(1_474_560)), read_only);
            assert!(board.mem.dma_write(0x8000, &[0x77; 512]));
            board.dma.channels[2] = (0x8000, 512);
            command(&mut board, &mut fdc, &write);
            let st = result(&mut board, &mut fdc);
            assert_eq!(st[..3], if read_only { [0x60, 2, 0] } else { [0, 0, 0] });
            let mut sector = [0; 512];
            fdc.drives[0].medium.as_mut().unwrap().read(512, &mut sector).unwrap();
            assert_eq!(sector == [0x77; 512], !read_only);
        }
    }

    #[test]
    fn floppy_bad_addresses_and_empty_drives_are_reported() {
        for (disk, args, expected) in [
            (true, [0, 0, 0, 19, 2, 18], [0x40, 0x80]),
            (true, [0, 81, 0, 1, 2, 18], [0x40, 0]),
            (true, [0, 80, 0, 1, 2, 18], [0x40, 0]),
            (true, [4, 0, 2, 1, 2, 18], [0x40, 0]),
            (true, [0, 0, 0, 0, 2, 18], [0x40, 0]),
            (true, [0, 0, 0, 5, 2, 4], [0x40, 1]),
            (true, [0, 0, 0, 5, 7, 18], [0x40, 1]),
            (false, [0, 0, 0, 1, 2, 18], [0x40, 0x80]),
        ] {
            let (mut board, mut fdc) = powered(disk.then(|| image(1_474_560)), false);
            board.dma.channels[2] = (0x8000, 512);
            command(&mut board, &mut fdc, &[0x46]);
            command(&mut board, &mut fdc, &args);
            command(&mut board, &mut fdc, &[0x1B, 0xFF]);
            let got = result(&mut board, &mut fdc);
            assert_eq!(got[0] & 0xF8, expected[0], "{args:?}");
            assert_eq!(got[1], expected[1], "{args:?}");
            assert_eq!(got[3..6], args[1..4]);
        }
    }

    #[test]
    fn floppy_seek_and_recalibrate_move_the_head() {
        let (mut board, mut fdc) = powered(Some(image(1_474_560)), false);
        command(&mut board, &mut fdc, &[0x0F, 0, 40]);
        assert!(board.irq.is_high(LINE));
        command(&mut board, &mut fdc, &[0x08]);
        assert_eq!(result(&mut board, &mut fdc), [0x20, 40]);
        command(&mut board, &mut fdc, &[0x04, 4]);
        assert_eq!(result(&mut board, &mut fdc), [0x2C]);
        command(&mut board, &mut fdc, &[0x07, 0]);
        command(&mut board, &mut fdc, &[0x08]);
        assert_eq!(result(&mut board, &mut fdc), [0x20, 0]);
    }

    #[test]
    fn floppy_identification_and_unknown_commands() {
        let (mut board, mut fdc) = powered(None, false);
        for (bytes, answer) in [
            (&[0x10][..], &[0x90][..]),
            (&[0x18], &[0x41]),
            (&[0x94], &[0x10]),
            (&[0x1F], &[0x80]),
            (&[0x13, 0, 0x57, 0], &[]),
            (&[0x0E], &[0, 0, 0, 0, 0, 1, 0, 0x80, 0x57, 0]),
            (&[0x8E, 1, 2, 3, 4, 5], &[0x80]),
        ] {
            command(&mut board, &mut fdc, bytes);
            assert_eq!(result(&mut board, &mut fdc), answer, "{bytes:02X?}");
        }
    }

    #[test]
    fn floppy_registers_after_booting_from_it() {
        let (mut board, mut fdc) = powered(Some(image(1_474_560)), false);
        board.outb(&mut fdc, B + REG_DOR, 0x1C);
        let got = [REG_SRA, REG_SRB, REG_DOR, REG_MSR, REG_DIR].map(|r| board.inb(&mut fdc, B + r));
        assert_eq!(got, [0, 0xC1, 0x1C, 0x80, 0x80]);
        assert_eq!(fdc.drive_type(0), TYPE_1440K);
    }

    #[test]
    fn floppy_short_image_reads_zeros_and_keeps_what_is_written_behind_its_end() {
        let (mut board, mut fdc) = powered(Some(image(1000)), false);
        assert_eq!(fdc.drives[0].sectors, 8);
        assert!(board.mem.dma_write(0x8000, &[0x11; 512]));
        board.dma.channels[2] = (0x8000, 512);
        command(&mut board, &mut fdc, &[0x45, 0, 0, 0, 8, 2, 8, 0x1B, 0xFF]);
        assert_eq!(result(&mut board, &mut fdc)[0], 0);
        board.dma.channels[2] = (0x9000, 8 * 512);
        command(&mut board, &mut fdc, &[0x46, 0, 0, 0, 1, 2, 8, 0x1B, 0xFF]);
        assert_eq!(result(&mut board, &mut fdc)[0], 0);
        let got = board.mem.dma_slice(0x9000, 4096).unwrap();
        assert_eq!(got[..1000], image(1000));
        assert_eq!(got[1000..3584], [0; 2584]);
        assert_eq!(got[3584..], [0x11; 512]);
        assert_eq!(
            fdc.insert(1, Box::new(MemoryDisk::new(vec![0; 4_000_000])), false),
            Err(ImageTooLarge(4_000_000))
        );
    }
}
