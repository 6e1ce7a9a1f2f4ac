//! Registers and commands of ATA/ATAPI-6 and of the bus-master IDE interface (SFF-8038i).

/// Bytes of a disk sector.
pub const SECTOR: u64 = 512;
/// Bytes of a CD-ROM sector.
pub const CD_SECTOR: u64 = 2048;

// ---- command block, offsets from the channel's first port ----------------------------------------

/// Data.
pub const REG_DATA: u16 = 0;
/// Error (read), features (write).
pub const REG_ERROR: u16 = 1;
/// Sector count; interrupt reason of packet commands.
pub const REG_COUNT: u16 = 2;
/// LBA bits 7:0 or sector number.
pub const REG_LBA_LOW: u16 = 3;
/// LBA bits 15:8, cylinder low, byte count low.
pub const REG_LBA_MID: u16 = 4;
/// LBA bits 23:16, cylinder high, byte count high.
pub const REG_LBA_HIGH: u16 = 5;
/// Drive select, LBA flag, LBA bits 27:24 or head.
pub const REG_DEVICE: u16 = 6;
/// Status (read), command (write).
pub const REG_STATUS: u16 = 7;

// ---- status ----------------------------------------------------------------------------------------

/// Error, or check condition of a packet command.
pub const SR_ERR: u8 = 0x01;
/// Data request.
pub const SR_DRQ: u8 = 0x08;
/// Seek complete.
pub const SR_DSC: u8 = 0x10;
/// Device fault.
pub const SR_DF: u8 = 0x20;
/// Ready.
pub const SR_DRDY: u8 = 0x40;
/// Status of a drive that has nothing to do.
pub const SR_IDLE: u8 = SR_DRDY | SR_DSC;
/// Status of a drive that moves data.
pub const SR_DATA: u8 = SR_IDLE | SR_DRQ;
/// Status of a CD-ROM drive whose medium was changed from outside.
pub const SR_CHANGED: u8 = SR_DATA | SR_ERR;

// ---- error -----------------------------------------------------------------------------------------

/// No medium (GET MEDIA STATUS).
pub const ER_NM: u8 = 0x02;
/// Command aborted.
pub const ER_ABRT: u8 = 0x04;
/// Sector not found.
pub const ER_IDNF: u8 = 0x10;
/// Medium changed.
pub const ER_MC: u8 = 0x20;
/// Uncorrectable data; write protected (GET MEDIA STATUS).
pub const ER_UNC: u8 = 0x40;

// ---- device register, device control ---------------------------------------------------------------

/// Slave drive.
pub const DEV_SLAVE: u8 = 0x10;
/// LBA addressing.
pub const DEV_LBA: u8 = 0x40;
/// Device control: interrupts off.
pub const CTL_NIEN: u8 = 0x02;
/// Device control: software reset.
pub const CTL_SRST: u8 = 0x04;
/// Device control: read the older byte of the two-byte registers.
pub const CTL_HOB: u8 = 0x80;

// ---- commands --------------------------------------------------------------------------------------

/// NOP.
pub const CMD_NOP: u8 = 0x00;
/// DEVICE RESET.
pub const CMD_DEVICE_RESET: u8 = 0x08;
/// RECALIBRATE.
pub const CMD_RECALIBRATE: u8 = 0x10;
/// READ SECTORS.
pub const CMD_READ: u8 = 0x20;
/// READ SECTORS EXT.
pub const CMD_READ_EXT: u8 = 0x24;
/// READ DMA EXT.
pub const CMD_READ_DMA_EXT: u8 = 0x25;
/// READ NATIVE MAX ADDRESS EXT.
pub const CMD_NATIVE_MAX_EXT: u8 = 0x27;
/// READ MULTIPLE EXT.
pub const CMD_READ_MULTIPLE_EXT: u8 = 0x29;
/// WRITE SECTORS.
pub const CMD_WRITE: u8 = 0x30;
/// WRITE SECTORS EXT.
pub const CMD_WRITE_EXT: u8 = 0x34;
/// WRITE DMA EXT.
pub const CMD_WRITE_DMA_EXT: u8 = 0x35;
/// WRITE MULTIPLE EXT.
pub const CMD_WRITE_MULTIPLE_EXT: u8 = 0x39;
/// READ VERIFY SECTORS.
pub const CMD_VERIFY: u8 = 0x40;
/// EXECUTE DEVICE DIAGNOSTIC.
pub const CMD_DIAGNOSTIC: u8 = 0x90;
/// INITIALIZE DEVICE PARAMETERS.
pub const CMD_INIT_PARAMS: u8 = 0x91;
/// PACKET.
pub const CMD_PACKET: u8 = 0xA0;
/// IDENTIFY PACKET DEVICE.
pub const CMD_IDENTIFY_PACKET: u8 = 0xA1;
/// READ MULTIPLE.
pub const CMD_READ_MULTIPLE: u8 = 0xC4;
/// WRITE MULTIPLE.
pub const CMD_WRITE_MULTIPLE: u8 = 0xC5;
/// SET MULTIPLE MODE.
pub const CMD_SET_MULTIPLE: u8 = 0xC6;
/// READ DMA.
pub const CMD_READ_DMA: u8 = 0xC8;
/// WRITE DMA.
pub const CMD_WRITE_DMA: u8 = 0xCA;
/// GET MEDIA STATUS.
pub const CMD_MEDIA_STATUS: u8 = 0xDA;
/// MEDIA LOCK.
pub const CMD_MEDIA_LOCK: u8 = 0xDE;
/// STANDBY IMMEDIATE.
pub const CMD_STANDBY_IMMEDIATE: u8 = 0xE0;
/// IDLE IMMEDIATE.
pub const CMD_IDLE_IMMEDIATE: u8 = 0xE1;
/// FLUSH CACHE.
pub const CMD_FLUSH: u8 = 0xE7;
/// FLUSH CACHE EXT.
pub const CMD_FLUSH_EXT: u8 = 0xEA;
/// IDENTIFY DEVICE.
pub const CMD_IDENTIFY: u8 = 0xEC;
/// SET FEATURES.
pub const CMD_SET_FEATURES: u8 = 0xEF;
/// SECURITY FREEZE LOCK.
pub const CMD_SECURITY_FREEZE: u8 = 0xF5;
/// READ NATIVE MAX ADDRESS.
pub const CMD_NATIVE_MAX: u8 = 0xF8;

// ---- packet commands (MMC-3) -----------------------------------------------------------------------

/// TEST UNIT READY.
pub const PKT_TEST_UNIT_READY: u8 = 0x00;
/// REQUEST SENSE.
pub const PKT_REQUEST_SENSE: u8 = 0x03;
/// INQUIRY.
pub const PKT_INQUIRY: u8 = 0x12;
/// MODE SENSE (6).
pub const PKT_MODE_SENSE_6: u8 = 0x1A;
/// START STOP UNIT.
pub const PKT_START_STOP: u8 = 0x1B;
/// PREVENT ALLOW MEDIUM REMOVAL.
pub const PKT_PREVENT_REMOVAL: u8 = 0x1E;
/// READ FORMAT CAPACITIES.
pub const PKT_READ_FORMAT_CAPACITIES: u8 = 0x23;
/// READ CAPACITY.
pub const PKT_READ_CAPACITY: u8 = 0x25;
/// READ (10).
pub const PKT_READ_10: u8 = 0x28;
/// READ SUB-CHANNEL.
pub const PKT_READ_SUBCHANNEL: u8 = 0x42;
/// READ TOC/PMA/ATIP.
pub const PKT_READ_TOC: u8 = 0x43;
/// GET CONFIGURATION.
pub const PKT_GET_CONFIGURATION: u8 = 0x46;
/// PAUSE/RESUME.
pub const PKT_PAUSE: u8 = 0x45;
/// READ DISC INFORMATION.
pub const PKT_READ_DISC_INFO: u8 = 0x51;
/// READ TRACK INFORMATION.
pub const PKT_READ_TRACK_INFO: u8 = 0x52;
/// MODE SENSE (10).
pub const PKT_MODE_SENSE_10: u8 = 0x5A;
/// READ (12).
pub const PKT_READ_12: u8 = 0xA8;
/// MECHANISM STATUS.
pub const PKT_MECHANISM_STATUS: u8 = 0xBD;
/// READ CD.
pub const PKT_READ_CD: u8 = 0xBE;

/// Interrupt reason: command packet wanted.
pub const REASON_COMMAND: u16 = 1;
/// Interrupt reason: data to the host.
pub const REASON_DATA_IN: u16 = 2;
/// Interrupt reason: command finished.
pub const REASON_DONE: u16 = 3;

/// What a packet device leaves in LBA mid and high after reset, low byte first.
pub const ATAPI_SIGNATURE: [u16; 2] = [0x14, 0xEB];

/// A sense key and its additional code.
pub type Sense = (u8, u8);
/// The drive is empty.
pub const SENSE_NO_MEDIUM: Sense = (2, 0x3A);
/// The host could not read the medium.
pub const SENSE_READ_ERROR: Sense = (3, 0x11);
/// Address beyond the end.
pub const SENSE_OUT_OF_RANGE: Sense = (5, 0x21);
/// Command or one of its fields not supported.
pub const SENSE_INVALID_FIELD: Sense = (5, 0x24);
/// Another medium may be in the drive.
pub const SENSE_CHANGED: Sense = (6, 0x28);

// ---- bus master, offsets from the channel's first port ---------------------------------------------

/// Command register.
pub const BM_COMMAND: u16 = 0;
/// Status register.
pub const BM_STATUS: u16 = 2;
/// Address of the descriptor table.
pub const BM_PRD: u16 = 4;
/// Command: run.
pub const BM_START: u8 = 0x01;
/// Command: bits that are kept (run, direction).
pub const BM_COMMAND_MASK: u8 = 0x09;
/// Status: running.
pub const BM_ACTIVE: u8 = 0x01;
/// Status: failed.
pub const BM_ERROR: u8 = 0x02;
/// Status: the drive interrupted.
pub const BM_INTERRUPT: u8 = 0x04;
