//! PIIX3 IDE controller: two channels with their bus masters.
//!
//! The primary channel has hard disks only and is absent without one; the secondary channel always
//! has a CD-ROM drive as its master. The PCI configuration space is elsewhere.

use std::any::Any;

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLine;
use emu_core::snapshot::{FieldError, Value};

use super::ata::{Drive, Intrq, Kind};
use super::backend::BlockBackend;
use super::busmaster::BusMaster;
use super::spec::*;
use crate::device::{Ctx, Device, DeviceState, ResetKind};

mod saved;

pub use super::ata::{Geometry, Translation};

/// One channel: two drives, device control and a bus master.
struct Channel {
    drives: [Drive; 2],
    slave_selected: bool,
    /// Device control register.
    control: u8,
    bus_master: BusMaster,
    irq: IrqLine,
}

impl Channel {
    fn new(irq: IrqLine, master: Drive, slave: Drive) -> Self {
        Self {
            drives: [master, slave],
            slave_selected: false,
            control: CTL_NIEN,
            bus_master: BusMaster::default(),
            irq,
        }
    }

    fn selected(&mut self) -> &mut Drive {
        let [master, slave] = &mut self.drives;
        if self.slave_selected { slave } else { master }
    }

    fn raise(&mut self, ctx: &mut Ctx<'_>, intrq: Intrq) {
        if intrq && self.control & CTL_NIEN == 0 {
            self.bus_master.status |= BM_INTERRUPT;
            // Every interrupt is an edge of its own, also if the guest has not yet read the status
            // of the one before.
            ctx.irq.pulse(self.irq);
        }
    }

    fn lower(&self, ctx: &mut Ctx<'_>) {
        ctx.irq.set(self.irq, false);
    }

    fn read_register(&mut self, ctx: &mut Ctx<'_>, reg: u16) -> u8 {
        let older = self.control & CTL_HOB != 0;
        let shift = |value: u16| if older { (value >> 8) as u8 } else { value as u8 };
        let irq = self.irq;
        let drive = self.selected();
        match reg {
            REG_ERROR => drive.error,
            REG_COUNT => shift(drive.count),
            REG_LBA_LOW => shift(drive.lba_low),
            REG_LBA_MID => shift(drive.lba_mid),
            REG_LBA_HIGH => shift(drive.lba_high),
            REG_DEVICE => drive.device,
            _ => {
                ctx.irq.set(irq, false);
                drive.visible_status()
            }
        }
    }

    fn write_register(&mut self, ctx: &mut Ctx<'_>, reg: u16, value: u8) {
        self.control &= !CTL_HOB;
        if reg == REG_STATUS {
            return self.command(ctx, value);
        }
        if reg == REG_DEVICE {
            self.slave_selected = value & DEV_SLAVE != 0;
        }
        // Both drives see every write.
        for drive in &mut self.drives {
            let push = |old: &mut u16| *old = *old << 8 | u16::from(value);
            match reg {
                REG_ERROR => push(&mut drive.features),
                REG_COUNT => push(&mut drive.count),
                REG_LBA_LOW => push(&mut drive.lba_low),
                REG_LBA_MID => push(&mut drive.lba_mid),
                REG_LBA_HIGH => push(&mut drive.lba_high),
                _ => drive.device = value,
            }
        }
    }

    fn command(&mut self, ctx: &mut Ctx<'_>, command: u8) {
        self.lower(ctx);
        if command == CMD_DIAGNOSTIC {
            for drive in &mut self.drives {
                if drive.kind != Kind::Absent {
                    drive.end_transfer();
                    drive.status = SR_IDLE;
                    drive.error = 1;
                }
            }
            return self.raise(ctx, true);
        }
        let intrq = self.selected().execute(command);
        self.raise(ctx, intrq);
        self.run_bus_master(ctx);
    }

    fn write_control(&mut self, ctx: &mut Ctx<'_>, value: u8) {
        if value & CTL_SRST != 0 {
            self.lower(ctx);
            self.drives.iter_mut().for_each(Drive::soft_reset);
        }
        if value & CTL_NIEN != 0 {
            self.lower(ctx);
        }
        self.control = value;
    }

    // ---- data port -----------------------------------------------------------------------------

    fn read_data(&mut self, ctx: &mut Ctx<'_>, out: &mut [u8]) -> usize {
        let (n, intrq) = self.selected().read_data(out);
        self.raise(ctx, intrq);
        n
    }

    fn write_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) -> usize {
        let (n, intrq) = self.selected().write_data(data);
        self.raise(ctx, intrq);
        self.run_bus_master(ctx);
        n
    }

    // ---- bus master ----------------------------------------------------------------------------

    fn read_bus_master(&self, reg: u16, size: AccessSize) -> Option<u32> {
        let bm = &self.bus_master;
        match (reg, size) {
            (BM_COMMAND, AccessSize::Byte) => Some(bm.command.into()),
            (BM_COMMAND, AccessSize::Dword) => Some(u32::from(bm.command) | u32::from(bm.status) << 16),
            (BM_STATUS, AccessSize::Byte) => Some(bm.status.into()),
            (BM_PRD, AccessSize::Dword) => Some(bm.prd),
            _ => None,
        }
    }

    fn write_bus_master(&mut self, ctx: &mut Ctx<'_>, reg: u16, size: AccessSize, value: u32) {
        match (reg, size) {
            (BM_COMMAND, AccessSize::Byte) => self.write_bm_command(ctx, value as u8),
            (BM_COMMAND, AccessSize::Dword) => {
                self.write_bm_command(ctx, value as u8);
                self.write_bm_status((value >> 16) as u8);
            }
            (BM_STATUS, AccessSize::Byte) => self.write_bm_status(value as u8),
            (BM_PRD, AccessSize::Dword) => self.bus_master.prd = value,
            _ => {}
        }
    }

    fn write_bm_status(&mut self, value: u8) {
        self.bus_master.status &= !(value & (BM_ERROR | BM_INTERRUPT));
    }

    fn write_bm_command(&mut self, ctx: &mut Ctx<'_>, value: u8) {
        let changed = (self.bus_master.command ^ value) & BM_START != 0;
        self.bus_master.command = value & BM_COMMAND_MASK;
        if !changed {
            return;
        }
        if value & BM_START == 0 {
            self.bus_master.status &= !BM_ACTIVE;
            return;
        }
        if !self.selected().expects_dma() {
            self.bus_master.status |= BM_ERROR;
            return self.raise(ctx, true);
        }
        self.bus_master.status |= BM_ACTIVE;
        self.run_bus_master(ctx);
    }

    /// Moves data if the bus master runs and the drive has a DMA command ready.
    fn run_bus_master(&mut self, ctx: &mut Ctx<'_>) {
        // v86 sets the active bit when the command is given, before the bus master is started, and
        // this may come out of its snapshot.
        let running = self.bus_master.status & BM_ACTIVE != 0 && self.bus_master.command & BM_START != 0;
        if !running || !self.selected().dma_ready() {
            return;
        }
        let table = self.bus_master.prd;
        let (ok, intrq) = self.selected().run_dma(ctx.mem, table);
        self.bus_master.status &= !BM_ACTIVE;
        if !ok {
            self.bus_master.status |= BM_ERROR;
        }
        self.raise(ctx, intrq);
    }

    fn power_up(&mut self, ctx: &mut Ctx<'_>, kind: ResetKind) {
        self.lower(ctx);
        if kind == ResetKind::Cold {
            self.drives.iter_mut().for_each(Drive::power_up);
        } else {
            self.drives.iter_mut().for_each(Drive::soft_reset);
        }
        self.slave_selected = false;
        self.control = CTL_NIEN;
        self.bus_master = BusMaster::default();
    }
}

/// What a port belongs to.
enum Port {
    /// Command block register.
    Command(u16),
    /// Device control and alternate status.
    Control,
    /// Bus master register.
    BusMaster(u16),
}

/// The controller.
pub struct IdeController {
    channels: [Option<Channel>; 2],
    irqs: [IrqLine; 2],
}

impl IdeController {
    /// First bus master port (BAR4).
    pub const BUS_MASTER_BASE: u16 = 0xB400;
    /// Home ports of both channels.
    pub const PORTS: &'static [(u16, u16)] =
        &[(0x1F0, 8), (0x3F6, 1), (0x170, 8), (0x376, 1), (Self::BUS_MASTER_BASE, 16)];

    /// `disks` are master and slave of the primary channel (a slave needs a master); `cd` is in the
    /// CD-ROM drive. `irqs` are the lines of the primary and the secondary channel.
    pub fn new(
        irqs: [IrqLine; 2],
        disks: [Option<Box<dyn BlockBackend>>; 2],
        cd: Option<Box<dyn BlockBackend>>,
    ) -> Self {
        let [hda, hdb] = disks;
        let [primary_irq, secondary_irq] = irqs;
        let primary = hda.map(|hda| {
            let slave = match hdb {
                Some(hdb) => Drive::disk((0, 1), hdb),
                None => Drive::absent((0, 1)),
            };
            Channel::new(primary_irq, Drive::disk((0, 0), hda), slave)
        });
        let secondary = Channel::new(secondary_irq, Drive::cdrom((1, 0), cd), Drive::absent((1, 1)));
        Self { channels: [primary, Some(secondary)], irqs }
    }

    /// True if the primary channel exists.
    pub fn has_primary(&self) -> bool {
        matches!(self.channels, [Some(_), _])
    }

    /// Geometry of the disk at `drive` of the primary channel, for CMOS.
    pub fn disk_geometry(&self, drive: usize) -> Option<Geometry> {
        let [Some(primary), _] = &self.channels else { return None };
        primary.drives.get(drive).filter(|d| d.kind == Kind::Disk).map(|d| d.geometry)
    }

    /// True if there is a medium in the CD-ROM drive (the guest can eject it).
    pub fn has_cd(&self) -> bool {
        let mut drives = self.channels.iter().flatten().flat_map(|channel| &channel.drives);
        drives.find(|drive| drive.kind == Kind::CdRom).is_some_and(|drive| drive.medium.is_some())
    }

    /// Changes the medium in the CD-ROM drive as a hand at the drive would; `None` empties it.
    pub fn change_cd(&mut self, ctx: &mut Ctx<'_>, medium: Option<Box<dyn BlockBackend>>) {
        let has_cd = |channel: &&mut Channel| channel.drives.iter().any(|d| d.kind == Kind::CdRom);
        let Some(channel) = self.channels.iter_mut().flatten().find(has_cd) else { return };
        let Some(drive) = channel.drives.iter_mut().find(|d| d.kind == Kind::CdRom) else { return };
        if medium.is_none() && drive.medium.is_none() {
            return;
        }
        drive.set_cd(medium);
        drive.changed = 2;
        channel.raise(ctx, true);
    }

    /// Slot 85 of a snapshot from the slots 56 (`cd`) and 57 (`disk`) that machines had until May 2025,
    /// with one channel each. `Null` if they had no drives: the controller stays as it is.
    pub fn from_old_slots(cd: Value, disk: Value) -> Value {
        saved::from_old_slots(cd, disk)
    }

    fn decode(&mut self, port: u16) -> Option<(&mut Channel, Port)> {
        let (index, what) = match port {
            0x1F0..=0x1F7 => (0, Port::Command(port - 0x1F0)),
            0x170..=0x177 => (1, Port::Command(port - 0x170)),
            0x3F6 => (0, Port::Control),
            0x376 => (1, Port::Control),
            _ => {
                let offset = port.wrapping_sub(Self::BUS_MASTER_BASE);
                (usize::from(offset / 8), Port::BusMaster(offset % 8))
            }
        };
        let channel = self.channels.get_mut(index)?.as_mut()?;
        Some((channel, what))
    }
}

impl Device for IdeController {
    fn name(&self) -> &'static str {
        "piix3-ide"
    }

    fn port_read(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        let (channel, what) = self.decode(port)?;
        match (what, size) {
            (Port::Command(REG_DATA), _) => {
                let mut bytes = [0; 4];
                if let Some(out) = bytes.get_mut(..size.bytes() as usize) {
                    channel.read_data(ctx, out);
                }
                Some(u32::from_le_bytes(bytes))
            }
            (Port::Command(reg), AccessSize::Byte) => Some(channel.read_register(ctx, reg).into()),
            (Port::Control, AccessSize::Byte) => Some(channel.selected().visible_status().into()),
            (Port::BusMaster(reg), _) => channel.read_bus_master(reg, size),
            _ => None,
        }
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        let Some((channel, what)) = self.decode(port) else { return };
        match (what, size) {
            (Port::Command(REG_DATA), _) => {
                if let Some(data) = value.to_le_bytes().get(..size.bytes() as usize) {
                    channel.write_data(ctx, data);
                }
            }
            (Port::Command(reg), AccessSize::Byte) => channel.write_register(ctx, reg, value as u8),
            (Port::Control, AccessSize::Byte) => channel.write_control(ctx, value as u8),
            (Port::BusMaster(reg), _) => channel.write_bus_master(ctx, reg, size, value),
            _ => {}
        }
    }

    fn port_read_block(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, out: &mut [u8]) -> usize {
        let width = size.bytes() as usize;
        let Some((channel, Port::Command(REG_DATA))) = self.decode(port) else { return 0 };
        let whole = out.len() - out.len() % width;
        let n = out.get_mut(..whole).map_or(0, |out| channel.read_data(ctx, out));
        // A block with an odd end fills the last element with zeros.
        let elements = n.div_ceil(width);
        if let Some(rest) = out.get_mut(n..elements * width) {
            rest.fill(0);
        }
        elements
    }

    fn port_write_block(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, data: &[u8]) -> usize {
        let width = size.bytes() as usize;
        let Some((channel, Port::Command(REG_DATA))) = self.decode(port) else { return 0 };
        let whole = data.len() - data.len() % width;
        let n = data.get(..whole).map_or(0, |data| channel.write_data(ctx, data));
        n.div_ceil(width)
    }

    fn reset(&mut self, ctx: &mut Ctx<'_>, kind: ResetKind) {
        for channel in self.channels.iter_mut().flatten() {
            channel.power_up(ctx, kind);
        }
    }

    fn save(&mut self, ctx: &mut Ctx<'_>) -> DeviceState {
        self.save_state(ctx)
    }

    fn restore(&mut self, ctx: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        self.restore_state(ctx, state)
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::backend::MemoryDisk;
    use super::super::test_rig::{Rig, SECONDARY};
    use super::*;

    #[test]
    fn ide_without_disks_has_no_primary_channel_and_an_absent_slave() {
        let mut rig = Rig::new(None, None);
        assert_eq!(rig.inb(0x1F7), 0xFF);
        assert_eq!(rig.inb(IdeController::BUS_MASTER_BASE), 0xFF);
        assert_eq!(rig.inb(0x177), 0x50);
        rig.outb(0x176, 0xB0);
        assert_eq!((rig.inb(0x376), rig.inb(0x177)), (0, 0));
    }

    #[test]
    fn ide_software_reset_leaves_the_packet_signature() {
        let mut rig = Rig::new(None, None);
        rig.outb(0x376, CTL_SRST);
        rig.outb(0x376, 0);
        let registers: Vec<u8> = (1..=7).map(|r| rig.inb(0x170 + r)).collect();
        assert_eq!(registers, [1, 1, 1, 0x14, 0xEB, 0, 0]);
    }

    #[test]
    fn ide_libata_probe_finds_the_disk_and_no_slave() {
        let mut rig = Rig::new(Some(vec![0; 4096]), None);
        // ata_devchk of both drives, reset, classification.
        for drive in [0xA0, 0xB0] {
            rig.outb(0x1F6, drive);
            for (reg, value) in [(2, 0x55), (3, 0xAA), (2, 0xAA), (3, 0x55), (2, 0x55), (3, 0xAA)] {
                rig.outb(0x1F0 + reg, value);
            }
            assert_eq!((rig.inb(0x1F2), rig.inb(0x1F3)), (0x55, 0xAA));
        }
        rig.outb(0x3F6, 0x08 | CTL_SRST);
        rig.outb(0x3F6, 0x08);
        rig.outb(0x1F6, 0xB0);
        assert_eq!((rig.inb(0x1F2), rig.inb(0x1F3)), (1, 1));
        assert_eq!(rig.inb(0x1F7), 0, "absent");
        rig.outb(0x1F6, 0xA0);
        let registers: Vec<u8> = (1..=5).map(|r| rig.inb(0x1F0 + r)).collect();
        assert_eq!(registers, [1, 1, 1, 0, 0]);
        assert_eq!(rig.inb(0x1F7), 0x51);
    }

    #[test]
    fn ide_wrong_width_register_access_is_an_empty_port() {
        let mut rig = Rig::new(None, None);
        assert_eq!(rig.board.port_in(&mut rig.ide, 0x177, AccessSize::Word), 0xFFFF);
        assert_eq!(rig.board.port_in(&mut rig.ide, 0x376, AccessSize::Dword), 0xFFFF_FFFF);
        assert_eq!(rig.board.port_in(&mut rig.ide, 0x170, AccessSize::Dword), 0);
    }

    #[test]
    fn ide_interrupt_disable_keeps_the_line_low_and_status_read_lowers_it() {
        let mut rig = Rig::new(None, None);
        rig.outb(0x177, CMD_IDENTIFY);
        assert!(!rig.board.irq.is_high(SECONDARY), "nIEN is set at power-up");
        rig.outb(0x376, 0);
        rig.outb(0x177, CMD_IDENTIFY);
        assert!(rig.board.irq.is_high(SECONDARY));
        assert_eq!(rig.inb(0x376), 0x41, "alternate status leaves the line");
        assert!(rig.board.irq.is_high(SECONDARY));
        rig.inb(0x177);
        assert!(!rig.board.irq.is_high(SECONDARY));
    }

    #[test]
    fn ide_diagnostic_reports_both_drives_good() {
        let mut rig = Rig::new(Some(vec![0; 4096]), None);
        rig.outb(0x1F6, 0xB0);
        rig.outb(0x1F7, CMD_DIAGNOSTIC);
        rig.outb(0x1F6, 0xA0);
        assert_eq!((rig.inb(0x1F7), rig.inb(0x1F1)), (0x50, 1));
    }

    #[test]
    fn ide_high_order_byte_is_read_with_hob() {
        let mut rig = Rig::new(Some(vec![0; 4096]), None);
        rig.outb(0x1F3, 0x12);
        rig.outb(0x1F3, 0x34);
        assert_eq!(rig.inb(0x1F3), 0x34);
        rig.outb(0x3F6, CTL_HOB);
        assert_eq!(rig.inb(0x1F3), 0x12);
        rig.outb(0x1F2, 0);
        assert_eq!(rig.inb(0x1F3), 0x34, "a register write clears HOB");
    }

    #[test]
    fn ide_cd_change_interrupts_and_is_told_in_two_steps() {
        let mut rig = Rig::new(None, None);
        rig.outb(0x376, 0);
        let disc = MemoryDisk::new(vec![0; 2048]);
        rig.ide.change_cd(&mut rig.board.ctx(), Some(Box::new(disc)));
        assert!(rig.board.irq.is_high(SECONDARY));
        assert_eq!((rig.inb(0x177), rig.inb(0x171)), (0x59, 0x60));
        assert_eq!(rig.packet(&[PKT_TEST_UNIT_READY]), Err(SENSE_NO_MEDIUM));
        assert_eq!(rig.packet(&[PKT_TEST_UNIT_READY]), Err(SENSE_CHANGED));
        assert_eq!(rig.packet(&[PKT_TEST_UNIT_READY]), Ok(vec![]));
    }
}
