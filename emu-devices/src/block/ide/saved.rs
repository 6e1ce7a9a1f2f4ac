//! The IDE controller in snapshots: v86's slot 85, `[primary, secondary]`.
//!
//! A channel is `null` or
//!
//! | element | what |
//! | --- | --- |
//! | 0, 1 | master, slave: see the drive's module |
//! | 2, 3, 5, 7 | command ports, interrupt, control ports, name |
//! | 8 | device control |
//! | 9, 10, 12 | bus master: descriptor table, status, command |
//! | 11 | master selected |
//!
//! Written, but not read: 2-7, which say where the channel is. (Old slots are put where their
//! element 2 says.)
//!
//! A channel that is not in the snapshot stays as it is after power-up: the guest does not know of
//! it. A drive that is only in the snapshot is made if its medium is there as a whole; a CD-ROM drive
//! at another place (machines with old slots had it on the primary channel if there was no disk)
//! takes the machine's medium along.
//!
//! env86's own part is `[1, [channel, channel]]` with channels `null` or `[interrupt line, master,
//! slave]`.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::super::ata::saved::SavedDrive;
use super::super::ata::{Drive, Kind};
use super::super::busmaster::BusMaster;
use super::super::spec::*;
use super::{Channel, IdeController};
use crate::device::{Ctx, DeviceState};

/// Layout of env86's own part.
const VERSION: u8 = 1;
/// Command ports, control port and interrupt of the channels.
const PLACES: [(u16, u16, u8); 2] = [(0x1F0, 0x3F6, 14), (0x170, 0x376, 15)];
/// Bus master status bits that there are.
const STATUS_MASK: u8 = BM_ACTIVE | BM_ERROR | BM_INTERRUPT;

/// State of a channel.
struct SavedChannel {
    drives: [Option<SavedDrive>; 2],
    control: Option<u8>,
    prd: Option<u32>,
    status: Option<u8>,
    master_selected: Option<bool>,
    command: Option<u8>,
    /// Level of the interrupt line. v86 does not tell: an edge that nobody has seen is in the
    /// interrupt controller.
    line: bool,
}

impl SavedChannel {
    fn capture(channel: &mut Channel, ctx: &Ctx<'_>) -> Self {
        let Channel { drives, slave_selected, control, bus_master, irq } = channel;
        let BusMaster { command, status, prd } = *bus_master;
        Self {
            drives: drives.each_mut().map(|drive| Some(SavedDrive::capture(drive))),
            control: Some(*control),
            prd: Some(prd),
            status: Some(status),
            master_selected: Some(!*slave_selected),
            command: Some(command),
            line: ctx.irq.is_high(*irq),
        }
    }

    fn apply(self, channel: &mut Channel, ctx: &mut Ctx<'_>) -> Result<(), FieldError> {
        channel.control = self.control.unwrap_or(channel.control);
        channel.slave_selected = !self.master_selected.unwrap_or(!channel.slave_selected);
        channel.bus_master = BusMaster {
            command: self.command.unwrap_or(0) & BM_COMMAND_MASK,
            status: self.status.unwrap_or(0) & STATUS_MASK,
            prd: self.prd.unwrap_or(0),
        };
        ctx.irq.set(channel.irq, self.line);
        let mut intrq = false;
        for (index, (drive, saved)) in channel.drives.iter_mut().zip(self.drives).enumerate() {
            if let Some(saved) = saved {
                intrq |= saved.apply(drive).map_err(|error| error.within(index))?;
            }
        }
        // What v86 was waiting for happens now.
        channel.raise(ctx, intrq);
        channel.run_bus_master(ctx);
        Ok(())
    }

    fn write(self, index: usize) -> (Value, Value) {
        let (base, control, irq) = PLACES.get(index).copied().unwrap_or_default();
        let [master, slave] = self.drives.map(|d| d.map_or((Value::Null, Value::Null), SavedDrive::write));
        let v86 = values![
            master.0,
            slave.0,
            base,
            irq,
            Value::Null,
            control,
            Value::Null,
            Value::text(format!("ide{index}")),
            self.control,
            self.prd.map(Value::signed),
            self.status,
            self.master_selected,
            self.command,
        ];
        (v86, values![self.line, master.1, slave.1])
    }

    fn read(v86: &mut Fields<'_>) -> Result<Self, FieldError> {
        Ok(Self {
            drives: [v86.array(0, SavedDrive::read)?, v86.array(1, SavedDrive::read)?],
            control: v86.u8(8)?,
            prd: v86.u32(9)?,
            status: v86.u8(10)?,
            master_selected: v86.bool(11)?,
            command: v86.u8(12)?,
            line: false,
        })
    }

    fn read_extra(&mut self, extra: &mut Fields<'_>) -> Result<(), FieldError> {
        self.line = extra.bool(0)?.unwrap_or(false);
        for (index, drive) in self.drives.iter_mut().enumerate() {
            if let Some(drive) = drive {
                extra.array(index + 1, |extra| drive.read_own(extra))?;
            }
        }
        Ok(())
    }

    fn has_cdrom(&self) -> bool {
        self.drives.iter().flatten().any(SavedDrive::is_cdrom)
    }
}

impl IdeController {
    pub(super) fn save_state(&mut self, ctx: &mut Ctx<'_>) -> DeviceState {
        let Self { channels, irqs: _ } = self;
        let (mut v86, mut extra) = (Vec::new(), Vec::new());
        for (index, channel) in channels.iter_mut().enumerate() {
            let saved = channel.as_mut().map(|channel| SavedChannel::capture(channel, ctx));
            let (channel, own) = saved.map_or((Value::Null, Value::Null), |saved| saved.write(index));
            v86.push(channel);
            extra.push(own);
        }
        DeviceState { v86: v86.into(), extra: values![VERSION, extra] }
    }

    pub(super) fn restore_state(
        &mut self,
        ctx: &mut Ctx<'_>,
        mut state: DeviceState,
    ) -> Result<(), FieldError> {
        let Some(mut v86) = Fields::of(&mut state.v86)? else { return Ok(()) };
        let mut saved = [v86.array(0, SavedChannel::read)?, v86.array(1, SavedChannel::read)?];
        read_extra(&mut saved, &mut state.extra).map_err(FieldError::in_extra)?;
        self.arrange(&saved);
        for (index, saved) in saved.into_iter().enumerate() {
            if let (Some(saved), Some(Some(channel))) = (saved, self.channels.get_mut(index)) {
                saved.apply(channel, ctx).map_err(|error| error.within(index))?;
            }
        }
        Ok(())
    }

    /// Gives the machine the drives of the snapshot.
    fn arrange(&mut self, saved: &[Option<SavedChannel>; 2]) {
        let cd_moves = matches!(saved, [Some(primary), None] if primary.has_cdrom());
        let mut cd = None;
        if cd_moves && let Some(mut old) = self.channels.get_mut(1).and_then(Option::take) {
            let [drive, _] = &mut old.drives;
            cd = drive.medium.take();
        }
        for (index, (channel, saved)) in self.channels.iter_mut().zip(saved).enumerate() {
            let Some(saved) = saved else { continue };
            let place = index as u8;
            let irq = self.irqs.get(index).copied();
            let drives = match channel.take() {
                Some(old) => old.drives,
                None => [0, 1].map(|unit| Drive::absent((place, unit))),
            };
            let [master, slave] = drives;
            let [saved_master, saved_slave] = &saved.drives;
            let mut arranged = |old: Drive, saved: &Option<SavedDrive>| match saved {
                Some(saved) => saved.drive(old, cd.take_if(|_| saved.is_cdrom())),
                None => old,
            };
            let drives = [arranged(master, saved_master), arranged(slave, saved_slave)];
            // v86 ignores a channel that the machine does not have.
            *channel = irq.filter(|_| drives.iter().any(|drive| drive.kind != Kind::Absent)).map(|irq| {
                let [master, slave] = drives;
                Channel::new(irq, master, slave)
            });
        }
    }
}

fn read_extra(saved: &mut [Option<SavedChannel>; 2], extra: &mut Value) -> Result<(), FieldError> {
    let Some(mut extra) = Fields::of(extra)? else { return Ok(()) };
    let _ = extra.u8(0)?;
    extra.array(1, |channels| {
        for (index, saved) in saved.iter_mut().enumerate() {
            if let Some(saved) = saved {
                channels.array(index, |extra| saved.read_extra(extra))?;
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// Each channel goes where its element 2 says; if both say the same, the CD-ROM drive's does, as v86
/// has it.
pub(super) fn from_old_slots(cd: Value, disk: Value) -> Value {
    let mut channels = [Value::Null, Value::Null];
    for mut channel in [disk, cd] {
        let base = Fields::of(&mut channel).ok().flatten().and_then(|fields| fields.i64(2).ok().flatten());
        let index = usize::from(base == Some(0x170));
        if let Some(place) = channels.get_mut(index).filter(|_| !channel.is_null()) {
            *place = channel;
        }
    }
    if channels.iter().all(Value::is_null) { Value::Null } else { channels.to_vec().into() }
}

#[cfg(test)]
mod tests;
