//! A guest driver for tests: talks to a function through its ports and rings only.

use emu_core::bus::AccessSize::{self, Byte, Dword, Word};

use super::spec::{common, desc, feature, status};
use super::*;
use crate::device::Device;
use crate::testing::{TEST_RAM, TestBoard};

/// RAM of the test machine.
pub(crate) const RAM: usize = TEST_RAM;
/// Queue q's rings lie at (q + 1) * RINGS: table, then available ring, then used ring.
const RINGS: u64 = 0x1_0000;
const AVAIL: u64 = 0x8000;
const USED: u64 = 0xC000;
/// Buffers.
const BUFFERS: u64 = 0x10_0000;

pub(crate) struct Driver<D> {
    pub bench: TestBoard,
    pub dev: VirtioPci<D>,
    /// Next free descriptor and used entries seen, by queue.
    next: Vec<(u16, u16)>,
    free: u64,
}

/// A request in flight.
pub(crate) struct Sent {
    pub head: u16,
    /// Addresses of the buffers the device writes.
    pub out: Vec<u64>,
}

impl<D: VirtioDevice> Driver<D> {
    /// A device that was initialised with all features it offers.
    pub fn new(device: D, slot: Slot) -> Self {
        let mut d = Self::cold(device, slot);
        let features = d.dev.device().features();
        d.start(features);
        d
    }

    /// A device nobody touched.
    pub fn cold(device: D, slot: Slot) -> Self {
        Self::over(VirtioPci::new(device, slot), TestBoard::new())
    }

    /// A function on a board.
    pub fn over(dev: VirtioPci<D>, bench: TestBoard) -> Self {
        let next = vec![(0, 0); dev.state.queues.len()];
        Self { bench, dev, next, free: BUFFERS }
    }

    /// Initialisation as the specification describes it (3.1.1).
    pub fn start(&mut self, features: u64) {
        self.common_out(common::DEVICE_STATUS, Byte, 0);
        for s in [status::ACKNOWLEDGE, status::DRIVER] {
            self.add_status(s);
        }
        for i in 0..2 {
            self.common_out(common::DRIVER_FEATURE_SELECT, Dword, i);
            self.common_out(common::DRIVER_FEATURE, Dword, (features >> (32 * i)) as u32);
        }
        self.add_status(status::FEATURES_OK);
        assert_ne!(self.common_in(common::DEVICE_STATUS, Byte) as u8 & status::FEATURES_OK, 0);
        for q in 0..self.common_in(common::NUM_QUEUES, Word) as u16 {
            let (desc, avail, used) = Self::rings(q);
            self.common_out(common::QUEUE_SELECT, Word, q.into());
            self.common_out(common::QUEUE_DESC, Dword, desc as u32);
            self.common_out(common::QUEUE_AVAIL, Dword, avail as u32);
            self.common_out(common::QUEUE_USED, Dword, used as u32);
            self.common_out(common::QUEUE_ENABLE, Word, 1);
            for at in [avail, used] {
                self.put(at, &[0; 4]);
            }
        }
        self.next.fill((0, 0));
        self.add_status(status::DRIVER_OK);
    }

    pub fn rings(q: u16) -> (u64, u64, u64) {
        let base = RINGS * (u64::from(q) + 1);
        (base, base + AVAIL, base + USED)
    }

    // ---- ports ---------------------------------------------------------------------------------

    pub fn input(&mut self, offset: u16, size: AccessSize) -> Option<u32> {
        let port = self.dev.slot().ports + offset;
        self.dev.port_read(&mut self.bench.ctx(), port, size)
    }

    pub fn output(&mut self, offset: u16, size: AccessSize, value: u32) {
        let port = self.dev.slot().ports + offset;
        self.dev.port_write(&mut self.bench.ctx(), port, size, value);
    }

    pub fn common_in(&mut self, field: u16, size: AccessSize) -> u32 {
        self.input(0x200 + field, size).expect("a field of this width")
    }

    pub fn common_out(&mut self, field: u16, size: AccessSize, value: u32) {
        self.output(0x200 + field, size, value);
    }

    fn add_status(&mut self, bits: u8) {
        let old = self.common_in(common::DEVICE_STATUS, Byte);
        self.common_out(common::DEVICE_STATUS, Byte, old | u32::from(bits));
    }

    pub fn status(&mut self) -> u8 {
        self.common_in(common::DEVICE_STATUS, Byte) as u8
    }

    pub fn kick(&mut self, q: u16) {
        let notify_off = self.dev.state.queues[usize::from(q)].notify_off;
        self.output(0x300 + 2 * notify_off, Word, q.into());
    }

    /// Reads and acknowledges the interrupt status.
    pub fn isr(&mut self) -> u32 {
        self.input(0x100, Byte).unwrap()
    }

    /// Level of the function's interrupt wire.
    pub fn irq(&self) -> bool {
        self.bench.irq.is_high(crate::pci::pirq_line(self.dev.slot().devfn, 1))
    }

    // ---- memory --------------------------------------------------------------------------------

    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        assert!(self.bench.mem.dma_write(at, bytes));
    }

    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        self.bench.mem.dma_slice(at, len).unwrap().to_vec()
    }

    pub fn alloc(&mut self, len: u64) -> u64 {
        let at = self.free;
        self.free += len.next_multiple_of(16);
        assert!(self.free <= RAM as u64);
        at
    }

    pub fn put_desc(&mut self, at: u64, (addr, len, flags, next): (u64, u32, u16, u16)) {
        let mut d = addr.to_le_bytes().to_vec();
        d.extend(len.to_le_bytes());
        d.extend(flags.to_le_bytes());
        d.extend(next.to_le_bytes());
        self.put(at, &d);
    }

    /// Puts a head into the available ring.
    pub fn offer(&mut self, q: u16, head: u16) {
        let (_, avail, _) = Self::rings(q);
        let size = self.dev.state.queues[usize::from(q)].size;
        let index = self.bench.mem.dma_read_u16(avail + 2).unwrap();
        self.put(avail + 4 + 2 * u64::from(index % size), &head.to_le_bytes());
        self.put(avail + 2, &index.wrapping_add(1).to_le_bytes());
    }

    /// Makes a chain of buffers available: the device reads `readable` and writes `writable` bytes.
    pub fn add(&mut self, q: u16, readable: &[&[u8]], writable: &[u32]) -> Sent {
        let size = self.dev.state.queues[usize::from(q)].size;
        let (table, ..) = Self::rings(q);
        let mut buffers = Vec::new();
        for data in readable {
            let at = self.alloc(data.len() as u64);
            self.put(at, data);
            buffers.push((at, data.len() as u32, 0));
        }
        let mut out = Vec::new();
        for &len in writable {
            let at = self.alloc(len.into());
            out.push(at);
            buffers.push((at, len, desc::WRITE));
        }
        let first = self.next[usize::from(q)].0;
        for (i, &(at, len, flags)) in buffers.iter().enumerate() {
            let index = (first + i as u16) % size;
            let next = if i + 1 < buffers.len() { desc::NEXT } else { 0 };
            self.put_desc(table + 16 * u64::from(index), (at, len, flags | next, (index + 1) % size));
        }
        self.next[usize::from(q)].0 = (first + buffers.len() as u16) % size;
        self.offer(q, first);
        Sent { head: first, out }
    }

    /// Chains the device gave back since the last call: head, bytes written.
    pub fn used(&mut self, q: u16) -> Vec<(u16, u32)> {
        let (_, _, used) = Self::rings(q);
        let size = self.dev.state.queues[usize::from(q)].size;
        let index = self.bench.mem.dma_read_u16(used + 2).unwrap();
        let mut done = Vec::new();
        while self.next[usize::from(q)].1 != index {
            let at = used + 4 + 8 * u64::from(self.next[usize::from(q)].1 % size);
            let mem = &self.bench.mem;
            done.push((mem.dma_read_u32(at).unwrap() as u16, mem.dma_read_u32(at + 4).unwrap()));
            self.next[usize::from(q)].1 = self.next[usize::from(q)].1.wrapping_add(1);
        }
        done
    }

    /// True if the device asked to be notified of available entry `index` (EVENT_IDX).
    pub fn wants_notification_at(&self, q: u16, index: u16) -> bool {
        assert!(self.dev.state.negotiated(feature::EVENT_IDX));
        let (_, _, used) = Self::rings(q);
        let size = self.dev.state.queues[usize::from(q)].size;
        self.bench.mem.dma_read_u16(used + 4 + 8 * u64::from(size)) == Some(index)
    }
}
