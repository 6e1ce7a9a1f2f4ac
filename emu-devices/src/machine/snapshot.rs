//! The machine as a snapshot, and back.
//!
//! Each device writes its own slot ([`crate::device::Device::save`]); here they are collected, together
//! with the CPU, memory and what belongs to nobody. What v86 has no slot for is in slot
//! [`slots::EXTRA`]: `["env86", version, [[name, value], …]]`. Slots of a restored snapshot for which this
//! machine has no device are kept and written back.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use emu_core::engine::CpuEngine;
use emu_core::mem::Memory;
use emu_core::snapshot::{
    self, FieldError, Fields, Output, PackedMemory, Reader, SnapshotError, Source, State, Value, Written,
    slots,
};
use emu_core::time::VmTime;
use emu_core::values;

use super::builder::{self, VirtioParts};
use super::config::{MachineConfig, NetworkCard};
use super::machine::{BuildError, Machine};
use super::mailbox::Mailbox;
use crate::block::ide::IdeController;
use crate::device::DeviceState;
use crate::pci::devfn;
use crate::virtio::{SaveReport, VirtioP9, VirtioPci};

/// Version of slot [`slots::EXTRA`].
const EXTRA_VERSION: i64 = 1;
const EXTRA_MAGIC: &[u8] = b"env86";
/// Version of the machine's own entry there.
const MACHINE_VERSION: i64 = 1;
/// Names of entries that belong to no device.
const MACHINE: &str = "machine";
const CPU: &str = "cpu";

/// Guest time a snapshot may claim, nanoseconds: a century.
const MAX_AGE: VmTime = 100 * 366 * 86_400 * 1_000_000_000;

/// Why a machine cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreFailure {
    /// There is no machine.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Something is wrong with the snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// A machine's state, ready to be written.
pub struct MachineSnapshot<'a> {
    state: State,
    memory: PackedMemory,
    pages: Cow<'a, [u8]>,
    /// `pages` are the stored ones only, not all of memory.
    packed: bool,
    files: SaveReport,
}

impl MachineSnapshot<'_> {
    /// Bytes of guest memory that will be written.
    pub fn stored_bytes(&self) -> u64 {
        self.memory.stored_bytes()
    }

    /// How saving the root file system went. With an error in it the snapshot is worth nothing and
    /// cannot be written.
    pub fn files(&self) -> &SaveReport {
        &self.files
    }

    /// The state array.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Writes the snapshot. `mappable`: a raw file, laid out so that restoring can map guest memory, with
    /// holes for zeros. Otherwise as small as it gets, for a stream that is compressed.
    ///
    /// # Errors
    /// The host's, or that of [`MachineSnapshot::files`].
    pub fn write(&mut self, out: &mut dyn Output, mappable: bool) -> io::Result<Written> {
        if let Some(error) = &self.files.error {
            return Err(io::Error::other(error.clone()));
        }
        let memory = if mappable && !self.packed { self.memory.for_mapping() } else { self.memory.clone() };
        let pages = &self.pages;
        let mut packed_at = 0;
        let packed = self.packed;
        snapshot::write(
            out,
            &mut self.state,
            &memory,
            |run| {
                let start = if packed { packed_at } else { run.start() };
                packed_at += run.len();
                pages.get(start..start + run.len()).unwrap_or_default()
            },
            mappable,
        )
    }

    /// Copies the pages: the machine may run on while this is written. Small gaps between pages are
    /// filled, so that either layout can be written.
    #[must_use]
    pub fn detach(self) -> MachineSnapshot<'static> {
        let Self { state, memory, pages, packed, files } = self;
        if packed {
            return MachineSnapshot { state, memory, pages: Cow::Owned(pages.into_owned()), packed, files };
        }
        let memory = memory.for_mapping();
        let mut copy = Vec::with_capacity(memory.stored_bytes() as usize);
        for run in &memory.runs {
            copy.extend_from_slice(pages.get(run.start()..run.start() + run.len()).unwrap_or_default());
        }
        MachineSnapshot { state, memory, pages: Cow::Owned(copy), packed: true, files }
    }
}

/// Entries of slot [`slots::EXTRA`].
struct Extra {
    entries: Vec<(Box<[u8]>, Value)>,
}

impl Extra {
    /// `Ok` with nothing in it if the snapshot was made by v86.
    fn read(mut value: Value) -> Result<Self, FieldError> {
        let mut entries = Vec::new();
        let Some(mut fields) = Fields::of(&mut value)? else { return Ok(Self { entries }) };
        if fields.text(0)? != Some(EXTRA_MAGIC) || fields.i64(1)? != Some(EXTRA_VERSION) {
            return Err(FieldError::at(1, "state of another version of env86"));
        }
        fields.array(2, |list| {
            list.each(|_, entry| {
                let Some(mut entry) = Fields::of(entry)? else { return Ok(()) };
                let name: Box<[u8]> = entry.text(0)?.unwrap_or_default().into();
                entries.push((name, entry.take(1)));
                Ok(())
            })
        })?;
        Ok(Self { entries })
    }

    /// True if slot [`slots::EXTRA`], which need not be valid, has an entry of that name.
    fn mentions(value: &Value, name: &str) -> bool {
        let Value::Array(parts) = value else { return false };
        let Some(Value::Array(entries)) = parts.get(2) else { return false };
        entries.iter().any(|entry| match entry {
            Value::Array(entry) => matches!(entry.first(), Some(Value::Text(n)) if **n == *name.as_bytes()),
            _ => false,
        })
    }

    fn take(&mut self, name: &str) -> Value {
        self.entries
            .iter_mut()
            .find(|(n, _)| **n == *name.as_bytes())
            .map_or(Value::Null, |(_, v)| std::mem::take(v))
    }
}

/// What belongs to the machine as a whole.
struct SavedMachine {
    now: VmTime,
    retired: u64,
    a20_open: bool,
    apic_enable: u64,
}

impl SavedMachine {
    fn write(&self) -> Value {
        let Self { now, retired, a20_open, apic_enable } = self;
        values![MACHINE_VERSION, *now as i64, *retired as i64, *a20_open, *apic_enable as i64]
    }

    fn read(mut value: Value) -> Result<Self, FieldError> {
        let mut saved = Self { now: 0, retired: 0, a20_open: true, apic_enable: 0 };
        let Some(fields) = Fields::of(&mut value)? else { return Ok(saved) };
        if fields.i64(0)? != Some(MACHINE_VERSION) {
            return Err(FieldError::at(0, "unknown version"));
        }
        saved.now = fields.i64(1)?.map_or(0, |n| (n.max(0) as u64).min(MAX_AGE));
        saved.retired = fields.i64(2)?.map_or(0, |n| n.max(0) as u64);
        saved.a20_open = fields.bool(3)?.unwrap_or(true);
        saved.apic_enable = fields.i64(4)?.unwrap_or(0) as u64 & 0x800;
        Ok(saved)
    }
}

impl<E: CpuEngine> Machine<E> {
    /// Builds the machine of a snapshot. Memory, and whether there are virtio functions besides the root
    /// file system, is the snapshot's business; the rest is as `config` says. What `config` boots is
    /// loaded only when the guest reboots: give it [`super::Boot::Deferred`].
    ///
    /// # Errors
    /// See [`RestoreFailure`].
    pub fn restore<S: Source>(
        config: MachineConfig,
        engine: E,
        mailbox: Arc<Mailbox>,
        reader: Reader<S>,
    ) -> Result<Self, RestoreFailure> {
        let config = MachineConfig { memory_size: reader.memory_size()?, ..config };
        let at_extra = |state: &State, error| state.error(slots::EXTRA, error);
        let has = |devfn, slot| pci_function(reader.state(), devfn) && !reader.state().get(slot).is_null();
        let virtio = |source| VirtioParts {
            rng: Extra::mentions(reader.state().get(slots::EXTRA), builder::VIRTIO_RNG).then_some(source),
            console: has(devfn::VIRTIO_CONSOLE, slots::VIRTIO_CONSOLE),
            balloon: has(devfn::VIRTIO_BALLOON, slots::VIRTIO_BALLOON),
            card: match has(devfn::VIRTIO_NET, slots::VIRTIO_NET) {
                true if Extra::mentions(reader.state().get(slots::EXTRA), builder::VIRTIO_NET) => {
                    NetworkCard::VirtioOffload
                }
                true => NetworkCard::Virtio,
                // Very old snapshots say nothing about it.
                false
                    if pci_function(reader.state(), devfn::NE2000)
                        || !reader.state().get(slots::NE2000).is_null() =>
                {
                    NetworkCard::Ne2000
                }
                false => NetworkCard::None,
            },
        };
        let mut machine = Self::assemble(config, engine, mailbox, virtio)?;
        machine.power_up();
        let mut state = reader.load(Some(machine.mem.ram_mut()))?;
        let extra = Extra::read(state.take(slots::EXTRA));
        let mut extra = extra.map_err(|e| at_extra(&state, e))?;
        let saved = SavedMachine::read(extra.take(MACHINE)).map_err(|e| at_extra(&state, e.within(2)))?;
        machine.cpu.retired = saved.retired;
        machine.board.clock.continue_at(saved.now, saved.retired);
        machine.board.clock.pause();
        machine.mem.set_a20(saved.a20_open);
        machine.board.apic_enable = saved.apic_enable;
        let tsc = machine.board.now(saved.retired);
        machine.board.refresh_wall(tsc);
        snapshot::cpu::restore(&mut machine.cpu, &machine.mem, tsc, &mut state, extra.take(CPU))?;
        machine.mem.select_view(machine.cpu.cpl == 3);
        machine.restore_devices(&mut state, &mut extra)?;
        machine.board.pci.set_up_added(devfn::VIRTIO_SHARES);
        machine.foreign = foreign(state);
        Ok(machine)
    }

    fn restore_devices(&mut self, state: &mut State, extra: &mut Extra) -> Result<(), SnapshotError> {
        if state.get(slots::IDE).is_null() {
            let (cd, disk) = (state.take(slots::OLD_IDE_CD), state.take(slots::OLD_IDE_DISK));
            state.set(slots::IDE, IdeController::from_old_slots(cd, disk));
        }
        let cx = self.context();
        for saved in self.board.saved.clone() {
            let v86 = saved.slot.map_or(Value::Null, |slot| state.take(slot));
            let device = DeviceState { v86, extra: extra.take(saved.name) };
            let restored = self.board.visit(&mut self.mem, cx, saved.id, |d, ctx| d.restore(ctx, device));
            if let Some(Err(error)) = restored {
                return Err(state.error(saved.slot.unwrap_or(slots::EXTRA), error));
            }
        }
        self.board.resync_irq();
        Ok(())
    }

    /// The state of the machine, which must not be running. Nothing changes for the guest.
    pub fn snapshot(&mut self) -> MachineSnapshot<'_> {
        let mut state = State::new();
        for (slot, value) in &self.foreign {
            state.set(*slot, value.clone());
        }
        state.set(slots::MEMORY_SIZE, self.mem.ram_len() as i64);
        let now = self.board.now(self.cpu.retired);
        self.board.refresh_wall(now);
        snapshot::cpu::save(&self.cpu, now.wrapping_add(self.cpu.tsc_offset), &mut state);
        let machine = SavedMachine {
            now,
            retired: self.cpu.retired,
            a20_open: self.mem.a20_mask() == u32::MAX,
            apic_enable: self.board.apic_enable,
        };
        let mut extra = vec![
            values![Value::text(MACHINE), machine.write()],
            values![Value::text(CPU), snapshot::cpu::extra(&self.cpu)],
        ];
        let cx = self.context();
        for saved in self.board.saved.clone() {
            let Some(device) = self.board.visit(&mut self.mem, cx, saved.id, |d, ctx| d.save(ctx)) else {
                continue;
            };
            if let Some(slot) = saved.slot {
                state.set(slot, device.v86);
            }
            if !device.extra.is_null() || saved.slot.is_none() {
                extra.push(values![Value::text(saved.name), device.extra]);
            }
        }
        fill(&mut state);
        state.set(slots::EXTRA, values![Value::text(EXTRA_MAGIC), EXTRA_VERSION, extra]);
        let memory = PackedMemory::scan(self.mem.ram());
        let p9 = self.wiring.p9.and_then(|id| self.board.device_mut::<VirtioPci<VirtioP9>>(id));
        let files = p9.map(|p9| p9.device().save_report().clone()).unwrap_or_default();
        MachineSnapshot { state, memory, pages: Cow::Borrowed(all_memory(&self.mem)), packed: false, files }
    }
}

fn all_memory(mem: &Memory) -> &[u8] {
    mem.ram().as_slice()
}

/// The snapshot's PCI bus has a function at `devfn`.
fn pci_function(state: &State, devfn: u8) -> bool {
    match state.get(slots::PCI) {
        Value::Array(items) => items.get(usize::from(devfn)).is_some_and(|space| !space.is_null()),
        _ => false,
    }
}

/// What is left of a snapshot when every device has taken its part: slots of devices this machine does
/// not have.
fn foreign(mut state: State) -> Vec<(usize, Value)> {
    /// Scratch values and devices that only old versions of v86 had; it ignores them itself.
    const OBSOLETE: [usize; 10] = [9, 12, 14, 15, 20, 21, 29, 44, 51, 76];
    (0..state.len())
        .filter(|slot| !OBSOLETE.contains(slot) && *slot != slots::EXTRA)
        .filter(|slot| !matches!(*slot, slots::MEMORY_SIZE | slots::PACKED_MEMORY | slots::MEMORY_BITMAP))
        .map(|slot| (slot, state.take(slot)))
        .filter(|(_, value)| !value.is_null())
        .collect()
}

/// Devices that v86 may be configured with, and then insists on finding, get a power-up state.
fn fill(state: &mut State) {
    let uart = |irq: u8| values![4, 0, 0, 0x60, 0, 0, 1, 0, 0, 0, irq];
    let queue = |size: u16| values![size, size, false, 0, 0, 0, 0, 0, 0, 1];
    let virtio = |queues: &[u16]| {
        let mut core = vec![
            Value::Int(0),
            Value::Int(0),
            Value::u32s(&[0; 4]),
            Value::u32s(&[0; 4]),
            Value::Bool(true),
            Value::Int(0),
            Value::Bool(false),
            Value::Int(0),
            Value::Int(0),
            Value::Int(0),
        ];
        core.extend(queues.iter().map(|size| queue(*size)));
        Value::Array(core)
    };
    const CONSOLE_QUEUES: [u16; 10] = [16, 16, 16, 16, 16, 8, 16, 8, 16, 8];
    let fillers = [
        (slots::ACPI, values![1, 0, 0, Value::bytes([0; 4])]),
        (slots::UART1, uart(3)),
        (slots::UART2, uart(4)),
        (slots::UART3, uart(3)),
        (slots::VIRTIO_CONSOLE, values![virtio(&CONSOLE_QUEUES), 25, 80, 4]),
        (slots::VIRTIO_NET, values![virtio(&[1024, 1024, 16]), 0, Value::bytes([0; 6])]),
        (slots::VIRTIO_BALLOON, values![virtio(&[32, 32, 2, 64]), 0, 0]),
    ];
    for (slot, value) in fillers {
        if state.get(slot).is_null() {
            state.set(slot, value);
        }
    }
}
