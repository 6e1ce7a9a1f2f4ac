//! Registers and command codes of the 82078. Names are those of Intel's data sheet.

pub(super) const REG_SRA: u16 = 0;
pub(super) const REG_SRB: u16 = 1;
pub(super) const REG_DOR: u16 = 2;
pub(super) const REG_TDR: u16 = 3;
/// Main status (read), data rate select (write).
pub(super) const REG_MSR: u16 = 4;
pub(super) const REG_FIFO: u16 = 5;
/// Digital input (read), configuration control (write).
pub(super) const REG_DIR: u16 = 7;

pub(super) const SRA_INTERRUPT: u8 = 0x80;
pub(super) const SRB_RESET: u8 = 0xC0;
pub(super) const DOR_SELECT: u8 = 0x03;
pub(super) const DOR_NOT_RESET: u8 = 0x04;
pub(super) const DOR_DMA: u8 = 0x08;
pub(super) const MSR_BUSY: u8 = 0x10;
pub(super) const MSR_DIO: u8 = 0x40;
pub(super) const MSR_RQM: u8 = 0x80;
pub(super) const DSR_RATE: u8 = 0x03;
pub(super) const DSR_POWER_DOWN: u8 = 0x40;
pub(super) const DSR_RESET: u8 = 0x80;
pub(super) const DIR_CHANGED: u8 = 0x80;

pub(super) const ST0_SEEK_END: u8 = 0x20;
pub(super) const ST0_FAILED: u8 = 0x40;
pub(super) const ST0_INVALID: u8 = 0x80;
pub(super) const ST0_POLLING: u8 = 0xC0;
pub(super) const ST1_NO_ADDRESS_MARK: u8 = 0x01;
pub(super) const ST1_NOT_WRITABLE: u8 = 0x02;
pub(super) const ST1_END_OF_TRACK: u8 = 0x80;

/// Size code of a 512-byte sector.
pub(super) const SIZE_512: u8 = 2;

/// What the controller is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Read,
    Write,
    Seek,
    SenseInterrupt,
    Recalibrate,
    FormatTrack,
    ReadId,
    Specify,
    SenseDrive,
    Perpendicular,
    Configure,
    Lock,
    DumpRegisters,
    Version,
    PartId,
    /// Takes its arguments and answers "invalid".
    Unsupported,
}

/// Command of a code and the number of its arguments.
pub(super) fn decode(code: u8) -> (Command, usize) {
    use Command::*;
    match code {
        0x03 => (Specify, 2),
        0x04 => (SenseDrive, 1),
        0x07 => (Recalibrate, 1),
        0x08 => (SenseInterrupt, 0),
        0x0E => (DumpRegisters, 0),
        0x0F => (Seek, 2),
        0x10 => (Version, 0),
        0x12 => (Perpendicular, 1),
        0x13 => (Configure, 3),
        0x14 | 0x94 => (Lock, 0),
        0x17 => (Unsupported, 2), // POWERDOWN MODE
        0x18 => (PartId, 0),
        0x33 => (Unsupported, 1),        // OPTION
        0x4E => (Unsupported, 17),       // RESTORE
        0x8E => (Unsupported, 5),        // DRIVE SPECIFICATION
        0x8F | 0xCF => (Unsupported, 2), // RELATIVE SEEK
        0xCD => (Unsupported, 10),       // FORMAT AND WRITE
        _ if code & 0x1F == 0x06 => (Read, 8),
        _ if code & 0x3F == 0x05 => (Write, 8),
        _ if code & 0xBF == 0x0D => (FormatTrack, 5),
        _ if code & 0xBF == 0x0A => (ReadId, 1),
        // READ TRACK, READ DELETED, SCAN x 3, VERIFY, WRITE DELETED
        _ if code & 0xBF == 0x02 => (Unsupported, 8),
        _ if matches!(code & 0x1F, 0x0C | 0x11 | 0x16 | 0x19 | 0x1D) => (Unsupported, 8),
        _ if code & 0x3F == 0x09 => (Unsupported, 8),
        _ => (Unsupported, 0),
    }
}
