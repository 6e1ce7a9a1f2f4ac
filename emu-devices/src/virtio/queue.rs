//! Split virtqueues (virtio 1.0, section 2.4).
//!
//! Everything the driver writes is checked when it is used: rings and tables must lie in RAM,
//! indices inside their tables, buffers in RAM. Chains are bounded by the size of their table, so
//! that a loop ends, and by [`VIRTIO_CHAIN_DESCRIPTORS`]. Only the low 32 bits of addresses count,
//! because the machine has no memory above 4 GiB.

use emu_core::mem::Memory;

use crate::limits::VIRTIO_CHAIN_DESCRIPTORS;

use super::spec::{AVAIL_NO_INTERRUPT, desc};

/// What a driver did wrong in a ring. The device stops until it is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// A ring or a descriptor table is not in RAM.
    #[error("ring or descriptor table outside RAM")]
    RingOutsideRam,
    /// More chains are available than the queue has entries.
    #[error("available index runs ahead of the queue's size")]
    IndexJump,
    /// A head or a `next` field is not an index into its table.
    #[error("descriptor index beyond the table")]
    BadIndex,
    /// An indirect table that was not negotiated, inside another one, empty or of a crooked size.
    #[error("bad indirect descriptor")]
    BadIndirect,
    /// More than [`VIRTIO_CHAIN_DESCRIPTORS`].
    #[error("descriptor chain too long")]
    ChainTooLong,
    /// A buffer is not in RAM.
    #[error("buffer outside RAM")]
    BufferOutsideRam,
}

/// When a driver is interrupted for chains that it gets back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// Unless it set the flag in its ring.
    Flag,
    /// EVENT_IDX: whatever threshold it set, as v86 does. An interrupt too many costs little, one too few hangs
    /// the guest.
    Always,
    /// EVENT_IDX: when its threshold is crossed.
    Index,
}

/// A piece of a buffer; it lies in RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Physical address.
    pub addr: u32,
    /// Bytes.
    pub len: u32,
}

/// Buffers of one request: first what the device reads, then what it writes.
#[derive(Debug)]
pub struct Chain {
    head: u16,
    segments: Vec<Segment>,
    /// How many of the segments the device reads.
    readable: usize,
    /// Where the next write goes: segment, offset in it.
    cursor: (usize, u32),
    written: u32,
}

impl Chain {
    /// Pieces the device reads.
    pub fn readable(&self) -> &[Segment] {
        self.segments.get(..self.readable).unwrap_or_default()
    }

    /// Pieces the device writes.
    pub fn writable(&self) -> &[Segment] {
        self.segments.get(self.readable..).unwrap_or_default()
    }

    /// Bytes the device reads.
    pub fn readable_len(&self) -> u64 {
        total(self.readable())
    }

    /// Bytes the device may write in all.
    pub fn writable_len(&self) -> u64 {
        total(self.writable())
    }

    /// Bytes written so far.
    pub fn written(&self) -> u32 {
        self.written
    }

    /// Reads the beginning of the readable part; returns the bytes read.
    pub fn read_prefix(&self, mem: &Memory, out: &mut [u8]) -> usize {
        let mut done = 0;
        for s in self.readable() {
            let rest = out.get_mut(done..).unwrap_or_default();
            let n = rest.len().min(s.len as usize);
            let Some(dst) = rest.get_mut(..n) else { break };
            if !mem.dma_read(u64::from(s.addr), dst) {
                break;
            }
            done += n;
        }
        done
    }

    /// Replaces `out` by the readable part, at most `limit` bytes. False, and `out` empty, if it is
    /// longer.
    #[must_use]
    pub fn read_all(&self, mem: &Memory, limit: usize, out: &mut Vec<u8>) -> bool {
        out.clear();
        if self.readable_len() > limit as u64 {
            return false;
        }
        for s in self.readable() {
            out.extend_from_slice(mem.dma_slice(u64::from(s.addr), s.len as usize).unwrap_or_default());
        }
        true
    }

    /// Writes after what was written before; returns how much fitted.
    pub fn write(&mut self, mem: &mut Memory, mut data: &[u8]) -> usize {
        let mut done = 0;
        while !data.is_empty() {
            let Some(&s) = self.writable().get(self.cursor.0) else { break };
            let room = s.len.saturating_sub(self.cursor.1);
            if room == 0 {
                self.cursor = (self.cursor.0 + 1, 0);
                continue;
            }
            let n = data.len().min(room as usize);
            let (now, later) = data.split_at(n);
            if !mem.dma_write(u64::from(s.addr) + u64::from(self.cursor.1), now) {
                break;
            }
            self.cursor.1 += n as u32;
            done += n;
            data = later;
        }
        self.written = self.written.saturating_add(done as u32);
        done
    }
}

fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|s| u64::from(s.len)).sum()
}

/// One virtqueue. Its fields are what a snapshot holds.
#[derive(Clone, Debug)]
pub struct Queue {
    pub(crate) max_size: u16,
    /// Power of two, at most `max_size`.
    pub(crate) size: u16,
    pub(crate) enabled: bool,
    pub(crate) notify_off: u16,
    /// Addresses of descriptor table, available ring and used ring.
    pub(crate) desc: u32,
    pub(crate) avail: u32,
    pub(crate) used: u32,
    /// Entry of the available ring to take next, free-running.
    pub(crate) next_avail: u16,
    /// Entries written to the used ring behind its index.
    pub(crate) staged: u16,
}

impl Queue {
    /// A queue of at most `max_size` entries (a power of two).
    pub fn new(max_size: u16, notify_off: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            enabled: false,
            notify_off,
            desc: 0,
            avail: 0,
            used: 0,
            next_avail: 0,
            staged: 0,
        }
    }

    /// As after power-up.
    pub fn reset(&mut self) {
        *self = Self::new(self.max_size, self.notify_off);
    }

    /// Number of entries; rounded up to a power of two, at most what the device offers.
    pub fn set_size(&mut self, size: u16) {
        self.size = size.checked_next_power_of_two().map_or(self.max_size, |s| s.min(self.max_size));
        if size == 0 {
            self.size = 0; // as stored by v86; an empty queue never has requests
        }
    }

    /// Puts the queue in use if all three addresses are set.
    pub fn enable(&mut self) {
        self.enabled |= self.desc != 0 && self.avail != 0 && self.used != 0;
    }

    pub(super) fn in_use(&self) -> bool {
        self.enabled && self.size != 0
    }

    pub(super) fn mask(&self) -> u16 {
        self.size.wrapping_sub(1)
    }

    /// Chains the driver made available that were not taken yet.
    ///
    /// # Errors
    /// The ring is not in RAM or its index nonsense.
    pub fn pending(&self, mem: &Memory) -> Result<u16, QueueError> {
        if !self.in_use() {
            return Ok(0);
        }
        let n = self.avail_index(mem)?.wrapping_sub(self.next_avail);
        if n > self.size { Err(QueueError::IndexJump) } else { Ok(n) }
    }

    /// Takes the next chain. `indirect`: the driver accepted indirect descriptors.
    ///
    /// # Errors
    /// See [`QueueError`]; nothing was taken.
    pub fn pop(&mut self, mem: &Memory, indirect: bool) -> Result<Option<Chain>, QueueError> {
        if self.pending(mem)? == 0 {
            return Ok(None);
        }
        let entry = u64::from(self.next_avail & self.mask());
        let head =
            mem.dma_read_u16(u64::from(self.avail) + 4 + 2 * entry).ok_or(QueueError::RingOutsideRam)?;
        let chain = self.walk(mem, head, indirect)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(chain))
    }

    fn walk(&self, mem: &Memory, head: u16, indirect: bool) -> Result<Chain, QueueError> {
        let mut table = (u64::from(self.desc), u32::from(self.size));
        let mut index = u32::from(head);
        let (mut in_table, mut walked, mut inside) = (0u32, 0usize, false);
        let (mut segments, mut readable, mut writing) = (Vec::new(), 0, false);
        loop {
            if index >= table.1 {
                return Err(QueueError::BadIndex);
            }
            let d = Descriptor::read(mem, table.0 + u64::from(index) * u64::from(desc::SIZE))?;
            if d.flags & desc::INDIRECT != 0 {
                if !indirect || inside || d.len == 0 || !d.len.is_multiple_of(desc::SIZE) {
                    return Err(QueueError::BadIndirect);
                }
                table = (u64::from(d.addr), d.len / desc::SIZE);
                (index, in_table, inside) = (0, 0, true);
                continue;
            }
            if d.flags & desc::WRITE != 0 {
                writing = true;
            } else if writing {
                break; // the order is fixed: what comes after is not part of the request
            }
            if d.len != 0 {
                if mem.dma_slice(u64::from(d.addr), d.len as usize).is_none() {
                    return Err(QueueError::BufferOutsideRam);
                }
                segments.push(Segment { addr: d.addr, len: d.len });
                readable += usize::from(!writing);
            }
            in_table += 1;
            walked += 1;
            if d.flags & desc::NEXT == 0 || in_table >= table.1 {
                break; // the end, or a loop
            }
            if walked >= VIRTIO_CHAIN_DESCRIPTORS {
                return Err(QueueError::ChainTooLong);
            }
            index = u32::from(d.next);
        }
        Ok(Chain { head, segments, readable, cursor: (0, 0), written: 0 })
    }

    /// Writes a finished chain to the used ring; [`Queue::publish`] shows it to the driver.
    ///
    /// # Errors
    /// The ring is not in RAM.
    pub fn stage(&mut self, mem: &mut Memory, chain: &Chain) -> Result<(), QueueError> {
        let entry = self.used_index(mem)?.wrapping_add(self.staged) & self.mask();
        let at = u64::from(self.used) + 4 + 8 * u64::from(entry);
        let element = (u64::from(chain.written) << 32 | u64::from(chain.head)).to_le_bytes();
        if !mem.dma_write(at, &element) {
            return Err(QueueError::RingOutsideRam);
        }
        self.staged = self.staged.wrapping_add(1);
        Ok(())
    }

    /// Undoes the last `count` takings.
    pub fn put_back(&mut self, count: u16) {
        self.next_avail = self.next_avail.wrapping_sub(count);
    }

    /// Shows staged chains to the driver. True if it wants an interrupt for them.
    ///
    /// # Errors
    /// A ring is not in RAM.
    pub fn publish(&mut self, mem: &mut Memory, interrupts: Interrupts) -> Result<bool, QueueError> {
        if self.staged == 0 {
            return Ok(false);
        }
        let old = self.used_index(mem)?;
        let index = old.wrapping_add(self.staged);
        if !mem.dma_write(u64::from(self.used) + 2, &index.to_le_bytes()) {
            return Err(QueueError::RingOutsideRam);
        }
        self.staged = 0;
        let read = |at: u64| mem.dma_read_u16(u64::from(self.avail) + at).ok_or(QueueError::RingOutsideRam);
        match interrupts {
            Interrupts::Always => read(0).map(|_| true),
            Interrupts::Flag => Ok(read(0)? & AVAIL_NO_INTERRUPT == 0),
            Interrupts::Index => {
                // The driver's threshold stands behind the ring: one of the chains has to cross it.
                let event = read(4 + 2 * u64::from(self.size))?;
                Ok(index.wrapping_sub(event).wrapping_sub(1) < index.wrapping_sub(old))
            }
        }
    }

    /// EVENT_IDX: asks to be notified of the next chain.
    ///
    /// # Errors
    /// A ring is not in RAM.
    pub fn notify_on_next(&self, mem: &mut Memory) -> Result<(), QueueError> {
        if !self.in_use() {
            return Ok(());
        }
        let index = self.avail_index(mem)?;
        let at = u64::from(self.used) + 4 + 8 * u64::from(self.size);
        if mem.dma_write(at, &index.to_le_bytes()) { Ok(()) } else { Err(QueueError::RingOutsideRam) }
    }

    pub(super) fn avail_index(&self, mem: &Memory) -> Result<u16, QueueError> {
        mem.dma_read_u16(u64::from(self.avail) + 2).ok_or(QueueError::RingOutsideRam)
    }

    pub(super) fn used_index(&self, mem: &Memory) -> Result<u16, QueueError> {
        mem.dma_read_u16(u64::from(self.used) + 2).ok_or(QueueError::RingOutsideRam)
    }
}

struct Descriptor {
    addr: u32,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn read(mem: &Memory, at: u64) -> Result<Self, QueueError> {
        let mut b = [0; desc::SIZE as usize];
        if !mem.dma_read(at, &mut b) {
            return Err(QueueError::RingOutsideRam);
        }
        let [a0, a1, a2, a3, _, _, _, _, l0, l1, l2, l3, f0, f1, n0, n1] = b;
        Ok(Self {
            addr: u32::from_le_bytes([a0, a1, a2, a3]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        })
    }
}
