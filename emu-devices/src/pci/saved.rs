//! The PCI bus in snapshots: v86's slot 48.
//!
//! Elements 0-255 are the configuration spaces by device and function, `null` where there is none;
//! 256-259 are the address register, a value nobody uses, the latched data and what the address
//! register reads as.
//!
//! I/O regions go where their base address registers say. Only where 8-bit writes changed a
//! register without moving the region does that differ from where the region is; such regions are
//! in env86's own part: `[1, [[function, register, port], …]]`.

use std::collections::BTreeMap;

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::bus::{PciBus, move_ports};
use super::config::{Bar, bar_offset};
use crate::bus::PortMap;
use crate::device::DeviceState;

/// Layout of env86's own part.
const VERSION: u8 = 1;
/// Number of functions on a bus.
const FUNCTIONS: usize = 256;
/// Element of the address register.
const ADDRESS: usize = 256;
/// Element that v86 never uses.
const UNUSED: usize = 257;
/// Element of the latched data.
const RESPONSE: usize = 258;
/// Element of what the address register reads as.
const STATUS: usize = 259;
/// Base address registers of a function.
const REGISTERS: u8 = 6;

/// An I/O region that is not where its register says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StrayRegion {
    devfn: u8,
    register: u8,
    port: u16,
}

/// State of the bus.
#[derive(Debug, Default)]
pub(super) struct SavedBus {
    /// Configuration spaces, also of functions that this machine does not have.
    spaces: BTreeMap<u8, [u8; 256]>,
    address: Option<[u8; 4]>,
    response: Option<u32>,
    status: Option<u32>,
    stray: Vec<StrayRegion>,
}

impl SavedBus {
    pub(super) fn capture(bus: &PciBus) -> Self {
        let PciBus { slots, absent, address, response, status } = bus;
        let mut spaces = absent.clone();
        let mut stray = Vec::new();
        for (&devfn, slot) in slots {
            let function = &slot.function;
            spaces.insert(devfn, *function.space());
            for register in 0..REGISTERS {
                let Some(Bar::Io { home, mapped, .. }) = function.bar(register) else { continue };
                let stored = function.read32(bar_offset(register));
                let expected = if stored & 1 != 0 { (stored & !1) as u16 } else { home };
                if mapped != expected {
                    stray.push(StrayRegion { devfn, register, port: mapped });
                }
            }
        }
        Self { spaces, address: Some(*address), response: Some(*response), status: Some(*status), stray }
    }

    pub(super) fn apply(self, bus: &mut PciBus, ports: &mut PortMap) {
        for (devfn, space) in self.spaces {
            if !bus.load(devfn, &space, ports) {
                bus.absent.insert(devfn, space);
            }
        }
        for StrayRegion { devfn, register, port } in self.stray {
            if let Some(slot) = bus.slots.get_mut(&devfn)
                && let Some(m) = slot.function.map_io(register, port)
            {
                move_ports(ports, slot.owner, m);
            }
        }
        bus.address = self.address.unwrap_or(bus.address);
        bus.response = self.response.unwrap_or(bus.response);
        bus.status = self.status.unwrap_or(bus.status);
    }

    pub(super) fn write(self) -> DeviceState {
        let mut v86 = vec![Value::Null; FUNCTIONS];
        for (devfn, space) in self.spaces {
            if let Some(place) = v86.get_mut(usize::from(devfn)) {
                *place = Value::i32s(&dwords(&space));
            }
        }
        let unused = [0; 4];
        for bytes in [
            self.address.unwrap_or_default(),
            unused,
            self.response.unwrap_or_default().to_le_bytes(),
            self.status.unwrap_or_default().to_le_bytes(),
        ] {
            v86.push(Value::bytes(bytes));
        }
        let extra = match self.stray.is_empty() {
            true => Value::Null,
            false => {
                let regions: Vec<Value> =
                    self.stray.iter().map(|s| values![s.devfn, s.register, s.port]).collect();
                values![VERSION, regions]
            }
        };
        DeviceState { v86: v86.into(), extra }
    }

    pub(super) fn read(mut state: DeviceState) -> Result<Self, FieldError> {
        let mut saved = Self::default();
        if let Some(mut v86) = Fields::of(&mut state.v86)? {
            for devfn in 0..=u8::MAX {
                if let Some(space) = v86.u32s::<64>(devfn.into())? {
                    saved.spaces.insert(devfn, bytes(&space));
                }
            }
            // The two low bits of the address register are no storage.
            saved.address = v86.u8s::<4>(ADDRESS)?.map(|[a, b, c, d]| [a & 0xFC, b, c, d]);
            let _ = v86.u8s::<4>(UNUSED)?;
            saved.response = v86.u8s(RESPONSE)?.map(u32::from_le_bytes);
            saved.status = v86.u8s(STATUS)?.map(u32::from_le_bytes);
        }
        saved.read_extra(&mut state.extra).map_err(FieldError::in_extra)?;
        Ok(saved)
    }

    fn read_extra(&mut self, extra: &mut Value) -> Result<(), FieldError> {
        let Some(mut extra) = Fields::of(extra)? else { return Ok(()) };
        let _ = extra.u8(0)?;
        extra.array(1, |regions| {
            regions.each(|_, region| {
                let Some(region) = Fields::of(region)? else { return Ok(()) };
                if let (Some(devfn), Some(register), Some(port)) =
                    (region.u8(0)?, region.u8(1)?, region.u16(2)?)
                {
                    self.stray.push(StrayRegion { devfn, register, port });
                }
                Ok(())
            })
        })?;
        Ok(())
    }
}

fn dwords(space: &[u8; 256]) -> Vec<u32> {
    space.chunks_exact(4).map(|b| b.iter().rev().fold(0, |v, byte| v << 8 | u32::from(*byte))).collect()
}

fn bytes(space: &[u32; 64]) -> [u8; 256] {
    let mut bytes = [0; 256];
    for (to, from) in bytes.chunks_exact_mut(4).zip(space) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, ResetKind};
    use crate::pci::{config, devfn};
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;
    use emu_core::bus::AccessSize::{self, Byte, Dword};

    const NIC: u8 = 5;
    const P9: u8 = 6;
    const IDE: u8 = 9;
    const PARTS: [u8; 3] = [devfn::NE2000, devfn::VIRTIO_9P, devfn::IDE];

    fn bus() -> PciBus {
        let mut bus = PciBus::new();
        bus.add(devfn::NE2000, config::ne2000(), NIC);
        bus.add(devfn::VIRTIO_9P, config::virtio("9p", 9, 0xA600, 256), P9);
        bus.add(devfn::IDE, config::ide(false), IDE);
        bus
    }

    fn claimed() -> (TestBoard, PciBus) {
        let (mut board, bus) = (TestBoard::new(), bus());
        for at in PARTS {
            for register in 0..REGISTERS {
                if let Some(Bar::Io { home, size, .. }) = bus.function(at).unwrap().bar(register) {
                    board.ports.claim(home, size, bus.slots[&at].owner);
                }
            }
        }
        (board, bus)
    }

    fn write(board: &mut TestBoard, bus: &mut PciBus, at: u8, offset: u8, size: AccessSize, value: u32) {
        let address = 0x8000_0000 | u32::from(at) << 8 | u32::from(offset & 0xFC);
        bus.port_write(&mut board.ctx(), 0xCF8, Dword, address);
        bus.port_write(&mut board.ctx(), 0xCFC + u16::from(offset & 3), size, value);
    }

    fn exercise(bus: &mut PciBus, board: &mut TestBoard) {
        bus.post_firmware_setup(&mut board.ctx());
        // A region that is not where its register says.
        write(board, bus, devfn::NE2000, 0x11, Byte, 0xD0);
        write(board, bus, devfn::ISA_BRIDGE, 0x60, Byte, 11);
        write(board, bus, devfn::VIRTIO_9P, 0x3C, Byte, 0x0B);
        bus.absent.insert(0xF8, [0xA5; 256]);
        bus.port_write(&mut board.ctx(), 0xCF8, Dword, 0x8000_2800);
    }

    snapshot_conformance!(pci_snapshot_conformance, make: bus, exercise: exercise, ignored: &[]);

    fn null_spaces(tail: [[u8; 4]; 4]) -> Vec<Value> {
        let mut v86 = vec![Value::Null; FUNCTIONS];
        v86.extend(tail.map(Value::bytes));
        v86
    }

    #[test]
    fn pci_restored_after_seabios_has_its_ports_where_the_registers_say_and_at_home() {
        // As SeaBIOS left them in v86: NE2000 at C140h, its interrupt at input 10.
        let mut nic = [0u32; 64];
        nic[..16].copy_from_slice(&[
            0x8029_10EC,
            0x0000_0103,
            0x0200_0000,
            0,
            0xC141,
            0,
            0,
            0,
            0,
            0,
            0,
            0x1100_1AF4,
            0,
            0,
            0,
            0x010A,
        ]);
        let mut ide = [0u32; 64];
        ide[..16].copy_from_slice(&[
            0x7010_8086,
            0x02A0_0105,
            0x0101_8000,
            0,
            0,
            0,
            0xC161,
            0xC16D,
            0xC171,
            0,
            0,
            0x82D4_1043,
            0,
            0,
            0,
            0x010B,
        ]);
        let mut bridge = [0u32; 64];
        bridge[..2].copy_from_slice(&[0x7000_8086, 0x0200_0107]);
        bridge[0x60 / 4] = 0x0B0B_0A0A;
        let mut second_ide = [0u32; 64];
        second_ide[0] = 0x7010_8086;
        let mut v86 = null_spaces([[0x10, 0x28, 0, 0x80], [0; 4], [0x41, 0xC1, 0, 0], [0, 0, 0, 0x80]]);
        v86[0x08] = Value::i32s(&bridge);
        v86[0x28] = Value::i32s(&nic);
        v86[0xF0] = Value::i32s(&ide);
        v86[0xF8] = Value::i32s(&second_ide);
        let (mut board, mut bus) = claimed();
        board.power_up(&mut bus, 1);
        let state = DeviceState::v86(v86.clone().into());
        bus.restore(&mut board.ctx(), state).unwrap();

        let owner = |port| board.ports.lookup(port);
        assert_eq!((owner(0xC140), owner(0xC15F)), (Some((NIC, 0x300)), Some((NIC, 0x31F))));
        assert_eq!((owner(0x300), owner(0x31F)), (Some((NIC, 0x300)), Some((NIC, 0x31F))));
        assert_eq!((owner(0xC160), owner(0x177)), (Some((IDE, 0x170)), Some((IDE, 0x177))));
        assert_eq!(
            (owner(0xC170), owner(0xB400)),
            (Some((IDE, 0xB400)), None),
            "bus master has no legacy port"
        );
        assert_eq!(owner(0xA600), Some((P9, 0xA600)), "not in the snapshot: stays");
        assert_eq!([0, 1, 2, 3].map(|wire| bus.pirq_route(wire)), [10, 10, 11, 11]);
        assert_eq!(bus.port_read(&mut board.ctx(), 0xCFC, Dword), Some(0xC141));
        assert_eq!(bus.port_read(&mut board.ctx(), 0xCF8, Dword), Some(0x8000_0000));
        // The function that is not there answers nothing, but its space is kept.
        bus.port_write(&mut board.ctx(), 0xCF8, Dword, 0x8000_F800);
        assert_eq!(bus.port_read(&mut board.ctx(), 0xCFC, Dword), Some(0xFFFF_FFFF));
        bus.port_write(&mut board.ctx(), 0xCF8, Dword, 0x8000_2810);

        let Value::Array(again) = bus.save(&mut board.ctx()).v86 else { panic!() };
        assert_eq!(again.len(), 260);
        for (n, element) in again.iter().enumerate() {
            match n {
                0x00 | 0x30 => assert_ne!(element, &Value::Null, "of this machine"),
                _ => assert_eq!(element, &v86[n], "element {n}"),
            }
        }
        bus.reset(&mut board.ctx(), ResetKind::Cold);
        assert!(bus.absent.is_empty());
    }

    #[test]
    fn pci_restored_with_nothing_but_the_registers_keeps_the_power_up_spaces() {
        let (mut board, mut bus) = claimed();
        board.power_up(&mut bus, 1);
        let before = bus.save(&mut board.ctx());
        let state = DeviceState::v86(null_spaces([[0; 4]; 4]).into());
        bus.restore(&mut board.ctx(), state).unwrap();
        assert_eq!(bus.save(&mut board.ctx()), before);
        assert_eq!(before.extra, Value::Null);
    }

    #[test]
    fn pci_region_moved_apart_from_its_register_stays_there_and_size_probe_is_undone() {
        let (mut board, mut saved) = claimed();
        board.power_up(&mut saved, 1);
        write(&mut board, &mut saved, devfn::NE2000, 0x10, Dword, 0xC140);
        write(&mut board, &mut saved, devfn::NE2000, 0x11, Byte, 0xD1);
        write(&mut board, &mut saved, devfn::IDE, 0x20, Dword, 0xFFFF_FFFF);
        let state = saved.save(&mut board.ctx());
        assert_eq!(state.extra, values![1, vec![values![0x28, 0, 0xC140]]]);
        let (mut board, mut bus) = claimed();
        board.power_up(&mut bus, 1);
        bus.restore(&mut board.ctx(), state).unwrap();
        assert_eq!(board.ports.lookup(0xC140), Some((NIC, 0x300)));
        assert_eq!(board.ports.lookup(0xD140), None);
        assert_eq!(bus.function(devfn::NE2000).unwrap().read32(0x10), 0xD141);
        assert_eq!(board.ports.lookup(0xFFF0), Some((IDE, 0xB400)));
        write(&mut board, &mut bus, devfn::IDE, 0x20, Dword, 0xC170);
        assert_eq!((board.ports.lookup(0xFFF0), board.ports.lookup(0xC170)), (None, Some((IDE, 0xB400))));
    }
}
