//! Configuration mechanism #1: ports CF8h-CFFh.

use std::any::Any;
use std::collections::BTreeMap;

use emu_core::bus::AccessSize;
use emu_core::snapshot::FieldError;

use crate::bus::PortMap;
use crate::device::{Ctx, Device, DeviceId, DeviceState, ResetKind};

use super::config::{BarMove, PciFunction};
use super::isa_bridge::{self, PIRQ_ROUTE};
use super::saved::SavedBus;
use super::{devfn, host_bridge, isa_bridge as isa_bridge_function};

/// First port of the mechanism.
const CONFIG_ADDRESS: u16 = 0xCF8;
/// Reset control register; shares its byte with the address register.
const RESET_CONTROL: u16 = 0xCF9;
/// Last byte of the address register: writing it fetches the data.
const ADDRESS_TOP: u16 = 0xCFB;
/// Number of ports.
const CONFIG_PORTS: u16 = 8;

pub(super) struct Slot {
    pub(super) function: PciFunction,
    /// Device whose ports move with the function's I/O regions.
    pub(super) owner: DeviceId,
}

/// PCI bus 0.
///
/// Data is fetched when the top byte of the address register is written and stays latched until
/// the next time, whatever is written to configuration space in between. The address register
/// reads as 80000000h if the function addressed last exists and 0 if not; its enable bit is not
/// looked at.
pub struct PciBus {
    pub(super) slots: BTreeMap<u8, Slot>,
    /// Configuration spaces that a snapshot has for functions which are not on the bus. They are
    /// kept for the next snapshot and answer nothing.
    pub(super) absent: BTreeMap<u8, [u8; 256]>,
    /// Address register.
    pub(crate) address: [u8; 4],
    /// Latched data.
    pub(crate) response: u32,
    /// What the address register reads as.
    pub(crate) status: u32,
}

impl Default for PciBus {
    fn default() -> Self {
        Self::new()
    }
}

impl PciBus {
    /// A bus with host bridge and ISA bridge.
    pub fn new() -> Self {
        let mut bus =
            Self { slots: BTreeMap::new(), absent: BTreeMap::new(), address: [0; 4], response: 0, status: 0 };
        for (at, function) in [
            (devfn::HOST_BRIDGE, host_bridge::host_bridge()),
            (devfn::ISA_BRIDGE, isa_bridge_function::isa_bridge()),
        ] {
            // The bridges have no regions, so the owner never matters.
            bus.add(at, function, 0);
        }
        bus
    }

    /// Ports of the bus: first, number.
    pub const PORTS: &'static [(u16, u16)] = &[(CONFIG_ADDRESS, CONFIG_PORTS)];

    /// Gives the bus its ports.
    pub fn claim_ports(ports: &mut PortMap, id: DeviceId) {
        for &(first, len) in Self::PORTS {
            ports.claim(first, len, id);
        }
    }

    /// Adds a function, in place of one that is there already; `owner` is the device that claimed
    /// the home ports of its I/O regions.
    pub fn add(&mut self, devfn: u8, function: PciFunction, owner: DeviceId) {
        self.slots.insert(devfn, Slot { function, owner });
    }

    /// Function at `devfn`.
    pub fn function(&self, devfn: u8) -> Option<&PciFunction> {
        self.slots.get(&devfn).map(|s| &s.function)
    }

    /// Replaces the configuration space of a function, as restoring a snapshot does; its ports
    /// follow. False if there is no such function.
    pub fn load(&mut self, devfn: u8, space: &[u8; 256], ports: &mut PortMap) -> bool {
        let Some(slot) = self.slots.get_mut(&devfn) else { return false };
        for m in slot.function.load(space) {
            move_ports(ports, slot.owner, m);
        }
        true
    }

    /// ISA input that PIRQ wire `pirq` (0 = A … 3 = D) drives: the byte the guest wrote into the
    /// ISA bridge's routing register. A value above 15 (bit 7 is the PIIX3's "disabled") connects
    /// to nothing; 0 is what the register holds until firmware programs it.
    pub fn pirq_route(&self, pirq: u8) -> u8 {
        self.function(devfn::ISA_BRIDGE).map_or(0, |f| f.read8(PIRQ_ROUTE + (pirq & 3)))
    }

    /// ISA input that interrupt pin `pin` (1 = INTA#) of `devfn` ends at.
    pub fn irq_for(&self, devfn: u8, pin: u8) -> u8 {
        self.pirq_route(isa_bridge::pirq(devfn, pin))
    }

    fn addressed(&mut self) -> Option<&mut Slot> {
        let [_, devfn, bus, _] = self.address;
        if bus != 0 { None } else { self.slots.get_mut(&devfn) }
    }

    fn fetch(&mut self) {
        let offset = self.address[0];
        (self.response, self.status) = match self.addressed() {
            Some(slot) => (slot.function.read32(offset), 0x8000_0000),
            None => (u32::MAX, 0),
        };
    }

    fn write_address_byte(&mut self, port: u16, value: u8) {
        let i = usize::from(port & 3);
        if let Some(byte) = self.address.get_mut(i) {
            *byte = if i == 0 { value & 0xFC } else { value };
        }
        if port == ADDRESS_TOP {
            self.fetch();
        }
    }

    fn write_data(&mut self, port: u16, size: AccessSize, value: u32, ports: &mut PortMap) {
        let offset = self.address[0] | (port & 3) as u8;
        let Some(slot) = self.addressed() else { return };
        match size {
            AccessSize::Byte => slot.function.write8(offset, value as u8),
            AccessSize::Word => slot.function.write16(offset, value as u16),
            AccessSize::Dword => {
                if let Some(m) = slot.function.write32(offset, value) {
                    move_ports(ports, slot.owner, m);
                }
            }
        }
    }
}

/// Lets the ports follow a region.
pub(super) fn move_ports(ports: &mut PortMap, owner: DeviceId, m: BarMove) {
    ports.move_range(m.from, m.to, m.len, m.home, owner);
}

/// True if the bus answers at this port in this width: naturally aligned accesses only.
fn aligned(port: u16, size: AccessSize) -> bool {
    (CONFIG_ADDRESS..CONFIG_ADDRESS + CONFIG_PORTS).contains(&port)
        && u32::from(port).is_multiple_of(size.bytes())
}

impl Device for PciBus {
    fn name(&self) -> &'static str {
        "pci"
    }

    fn port_read(&mut self, _: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        if !aligned(port, size) {
            return None;
        }
        let latch = if port <= ADDRESS_TOP { self.status } else { self.response };
        Some((latch >> (8 * u32::from(port & 3))) & size.ones())
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        if !aligned(port, size) {
            return;
        }
        if port > ADDRESS_TOP {
            self.write_data(port, size, value, ctx.ports);
            return;
        }
        if port == RESET_CONTROL && self.address[1] & 6 == 2 && value & 6 == 6 {
            // "System reset" was set before, now the CPU reset bit rises.
            ctx.requests.reset = true;
            return;
        }
        for (i, byte) in value.to_le_bytes().iter().take(size.bytes() as usize).enumerate() {
            self.write_address_byte(port + i as u16, *byte);
        }
    }

    /// A reboot leaves configuration space alone, as v86 does: regions stay where they are.
    fn reset(&mut self, ctx: &mut Ctx<'_>, kind: ResetKind) {
        if kind == ResetKind::Warm {
            return;
        }
        for slot in self.slots.values_mut() {
            for m in slot.function.reset() {
                move_ports(ctx.ports, slot.owner, m);
            }
        }
        self.absent.clear();
        (self.address, self.response, self.status) = ([0; 4], 0, 0);
    }

    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        SavedBus::capture(self).write()
    }

    fn restore(&mut self, ctx: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        SavedBus::read(state)?.apply(self, ctx.ports);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
