//! VMware back door (port 5658h): version, host time and absolute pointer.
//!
//! A 32-bit IN of the port with EAX = 564D5868h passes the general registers; the CPU hands them to
//! [`VmwarePort::backdoor`]. Guests are alerted to pointer packets by the PS/2 mouse's interrupt, so
//! whoever reports pointer events here reports them to the PS/2 mouse as well.

use std::collections::VecDeque;

use emu_core::bus::AccessSize;
use emu_core::snapshot::FieldError;
use emu_core::time::NS_PER_SEC;

use crate::device::{Ctx, Device, DeviceState, ResetKind};

mod saved;

const PORT: u16 = 0x5658;
const MAGIC: u32 = 0x564D_5868;

const GET_VERSION: u32 = 10;
const GET_TIME: u32 = 23;
const POINTER_DATA: u32 = 39;
const POINTER_STATUS: u32 = 40;
const POINTER_COMMAND: u32 = 41;

const VERSION: u32 = 6;
/// Largest lag of the time answered, microseconds.
const MAX_TIME_LAG: u32 = 1_000_000;

const ENABLE: u32 = 0x4541_4552;
const DISABLE: u32 = 0x0000_00F5;
const ABSOLUTE: u32 = 0x5342_4152;
const RELATIVE: u32 = 0x4C45_5252;
/// First word after enabling.
const POINTER_ID: u32 = 0x3442_554A;
/// Status of a pointer that is off.
const STATUS_OFF: u32 = 0xFFFF_0000;

const BUTTON_LEFT: u32 = 0x20;
const BUTTON_RIGHT: u32 = 0x10;
const BUTTON_MIDDLE: u32 = 0x08;
const RELATIVE_PACKET: u32 = 0x1_0000;

/// Words that may wait; a guest that lets more pile up is cut off.
const QUEUE: usize = 1024;

/// One pointer packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packet {
    status: u32,
    x: u32,
    y: u32,
    wheel: u32,
}

/// The back door.
#[derive(Clone, Debug, Default)]
pub struct VmwarePort {
    enabled: bool,
    absolute: bool,
    queue: VecDeque<u32>,
    /// The newest packet in the queue is a mere move.
    tail_is_move: bool,
    buttons: u32,
    position: Option<(u16, u16)>,
}

impl VmwarePort {
    /// Ports to claim: `(first, count)`.
    pub const PORTS: &[(u16, u16)] = &[(PORT, 1)];

    /// Powered up: pointer off.
    pub fn new() -> Self {
        Self::default()
    }

    /// True if the guest wants absolute positions.
    pub fn is_absolute(&self) -> bool {
        self.enabled && self.absolute
    }

    /// The host's pointer is at `x`, `y` (0 to FFFFh over the screen).
    pub fn pointer_moved(&mut self, x: u16, y: u16) {
        if self.position != Some((x, y)) {
            self.position = Some((x, y));
            self.push_absolute(0, true);
        }
    }

    /// Buttons now: bit 0 left, 1 right, 2 middle; wheel steps (towards the user is positive).
    pub fn pointer_buttons(&mut self, buttons: u8, wheel: i32) {
        let bits = [(1, BUTTON_LEFT), (2, BUTTON_RIGHT), (4, BUTTON_MIDDLE)];
        self.buttons = bits.iter().filter(|(b, _)| buttons & b != 0).fold(0, |all, (_, bit)| all | bit);
        self.push_absolute(wheel, false);
    }

    /// The host's pointer moved without a position (it is locked to the window): right and up are
    /// positive.
    pub fn pointer_moved_by(&mut self, dx: i32, dy: i32) {
        if !self.enabled || (dx, dy) == (0, 0) {
            return;
        }
        // Deltas that wait add up.
        if self.tail_is_move
            && let Some([status, x, y, _]) = self.tail()
            && *status & RELATIVE_PACKET != 0
        {
            *x = x.wrapping_add(dx as u32);
            *y = y.wrapping_add(dy as u32);
            return;
        }
        let status = self.buttons | RELATIVE_PACKET;
        self.push(Packet { status, x: dx as u32, y: dy as u32, wheel: 0 }, true);
    }

    fn push_absolute(&mut self, wheel: i32, is_move: bool) {
        let (Some((x, y)), true) = (self.position, self.is_absolute()) else { return };
        let (x, y) = (u32::from(x), u32::from(y));
        // A move that waits is out of date: only the newest position matters.
        if is_move
            && self.tail_is_move
            && let Some([status, old_x, old_y, _]) = self.tail()
            && *status & RELATIVE_PACKET == 0
        {
            (*old_x, *old_y) = (x, y);
            return;
        }
        self.push(Packet { status: self.buttons, x, y, wheel: wheel as u32 }, is_move);
    }

    /// The newest packet's words.
    fn tail(&mut self) -> Option<[&mut u32; 4]> {
        let mut words = self.queue.iter_mut().rev();
        let (wheel, y, x, status) = (words.next()?, words.next()?, words.next()?, words.next()?);
        Some([status, x, y, wheel])
    }

    fn push(&mut self, packet: Packet, is_move: bool) {
        if self.queue.len().saturating_add(4) > QUEUE {
            self.enabled = false;
            self.queue.clear();
            return;
        }
        self.queue.extend([packet.status, packet.x, packet.y, packet.wheel]);
        self.tail_is_move = is_move;
    }

    /// A 32-bit IN of the port with these EAX, EBX, ECX, EDX, ESI, EDI at calendar time `wall_ns`
    /// (nanoseconds since 1970). Returns the registers afterwards, or `None` if EAX has not the
    /// magic value (the port then reads as empty).
    pub fn backdoor(&mut self, regs: [u32; 6], wall_ns: u64) -> Option<[u32; 6]> {
        let [eax, ebx, ecx, edx, esi, edi] = regs;
        if eax != MAGIC {
            return None;
        }
        Some(match ecx & 0xFFFF {
            GET_VERSION => [VERSION, MAGIC, ecx, edx, esi, edi],
            GET_TIME => {
                let seconds = (wall_ns / NS_PER_SEC) as u32;
                // Milliseconds, as microseconds.
                let micros = (wall_ns % NS_PER_SEC / 1_000_000 * 1000) as u32;
                [seconds, micros, MAX_TIME_LAG, 0, esi, edi]
            }
            POINTER_DATA => {
                let n = ebx.min(4) as usize;
                let mut words = [0; 4];
                for word in words.iter_mut().take(n) {
                    *word = self.queue.pop_front().unwrap_or(0);
                }
                if self.queue.len() < 4 {
                    // A packet that is being read does not change any more.
                    self.tail_is_move = false;
                }
                let [eax, ebx, ecx, edx] = words;
                [eax, ebx, ecx, edx, esi, edi]
            }
            POINTER_STATUS => {
                let status = if self.enabled { self.queue.len() as u32 } else { STATUS_OFF };
                [status, ebx, ecx, edx, esi, edi]
            }
            POINTER_COMMAND => {
                self.pointer_command(ebx);
                [0, ebx, ecx, edx, esi, edi]
            }
            _ => [u32::MAX, ebx, ecx, edx, esi, edi],
        })
    }

    fn pointer_command(&mut self, command: u32) {
        match command {
            ENABLE => {
                self.enabled = true;
                self.tail_is_move = false;
                self.queue.clear();
                self.queue.push_back(POINTER_ID);
            }
            DISABLE => {
                self.enabled = false;
                self.absolute = false;
                self.queue.clear();
            }
            ABSOLUTE => self.absolute = true,
            RELATIVE => self.absolute = false,
            _ => {}
        }
    }
}

impl Device for VmwarePort {
    fn name(&self) -> &'static str {
        "vmware-port"
    }

    /// Reads that did not come through [`VmwarePort::backdoor`] find an empty port.
    fn port_read(&mut self, _: &mut Ctx<'_>, _: u16, _: AccessSize) -> Option<u32> {
        None
    }

    fn reset(&mut self, _: &mut Ctx<'_>, _: ResetKind) {
        *self = Self { position: self.position, buttons: self.buttons, ..Self::new() };
    }

    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        saved::SavedVmware::capture(self).into_state()
    }

    fn restore(&mut self, _: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        saved::SavedVmware::capture(self).read(state)?.apply(self);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(port: &mut VmwarePort, command: u32, ebx: u32) -> [u32; 6] {
        port.backdoor([MAGIC, ebx, command, 0x5658, 5, 6], 1_700_000_000_123_456_789).unwrap()
    }

    fn enabled() -> VmwarePort {
        let mut port = VmwarePort::new();
        assert_eq!(call(&mut port, POINTER_COMMAND, ENABLE)[0], 0);
        assert_eq!(call(&mut port, POINTER_STATUS, 0)[0], 1);
        assert_eq!(call(&mut port, POINTER_DATA, 1)[0], POINTER_ID);
        call(&mut port, POINTER_COMMAND, ABSOLUTE);
        port
    }

    #[test]
    fn vmware_version_time_and_unknown_commands() {
        let mut port = VmwarePort::new();
        assert_eq!(call(&mut port, GET_VERSION, 0), [6, MAGIC, 10, 0x5658, 5, 6]);
        assert_eq!(call(&mut port, 0xABCD_0017, 0), [1_700_000_000, 123_000, 1_000_000, 0, 5, 6]);
        assert_eq!(call(&mut port, 99, 7), [u32::MAX, 7, 99, 0x5658, 5, 6]);
        assert_eq!(port.backdoor([0; 6], 0), None);
    }

    #[test]
    fn vmware_pointer_is_off_until_enabled() {
        let mut port = VmwarePort::new();
        port.pointer_moved(1, 2);
        assert_eq!(call(&mut port, POINTER_STATUS, 0)[0], 0xFFFF_0000);
        let mut port = enabled();
        assert!(port.is_absolute());
        call(&mut port, POINTER_COMMAND, DISABLE);
        assert!(!port.is_absolute());
    }

    #[test]
    fn vmware_moves_are_replaced_and_clicks_are_kept() {
        let mut port = enabled();
        port.pointer_moved(10, 20);
        port.pointer_moved(11, 21);
        port.pointer_buttons(1, 0);
        port.pointer_buttons(0, -1);
        port.pointer_moved(12, 22);
        assert_eq!(call(&mut port, POINTER_STATUS, 0)[0], 16);
        assert_eq!(call(&mut port, POINTER_DATA, 4)[..4], [0, 11, 21, 0]);
        assert_eq!(call(&mut port, POINTER_DATA, 4)[..4], [0x20, 11, 21, 0]);
        assert_eq!(call(&mut port, POINTER_DATA, 4)[..4], [0, 11, 21, u32::MAX]);
        assert_eq!(call(&mut port, POINTER_DATA, 9)[..4], [0, 12, 22, 0]);
        assert_eq!(call(&mut port, POINTER_DATA, 4)[..4], [0; 4]);
    }

    #[test]
    fn vmware_relative_moves_add_up() {
        let mut port = enabled();
        port.pointer_moved_by(3, -4);
        port.pointer_moved_by(-1, 1);
        assert_eq!(call(&mut port, POINTER_DATA, 4)[..4], [RELATIVE_PACKET, 2, -3i32 as u32, 0]);
    }

    #[test]
    fn vmware_packet_half_read_is_not_changed() {
        let mut port = enabled();
        port.pointer_moved(1, 1);
        assert_eq!(call(&mut port, POINTER_DATA, 2)[..2], [0, 1]);
        port.pointer_moved(2, 2);
        assert_eq!(call(&mut port, POINTER_STATUS, 0)[0], 6);
    }

    #[test]
    fn vmware_guest_that_does_not_read_is_cut_off() {
        let mut port = enabled();
        for i in 0..256 {
            port.pointer_buttons((i & 1) as u8, 0);
            assert_eq!(port.queue.len(), 0, "no position yet");
        }
        port.pointer_moved(1, 1);
        for i in 0..255 {
            port.pointer_buttons((i & 1) as u8, 0);
        }
        assert_eq!(call(&mut port, POINTER_STATUS, 0)[0], 1024);
        port.pointer_buttons(7, 0);
        assert_eq!(call(&mut port, POINTER_STATUS, 0)[0], STATUS_OFF);
    }
}
