//! NE2000-compatible card on a PCI RTL8029.
//!
//! [`Ne2000`] is the chip: registers, packet memory, the receive ring. [`Ne2000Pci`] is the card on
//! the bus. Facts: DP8390D data sheet; where the RTL8029 or v86 differ it is said at the place.

use std::any::Any;

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLine;
use emu_core::snapshot::FieldError;

use self::saved::SavedNe2000;
use super::spec::*;
use super::{Cable, NetSink, Reception};
use crate::device::{Ctx, Device, DeviceState, ResetKind};
use crate::limits::NET_MAX_FRAME;

mod saved;

/// Ethernet station address.
pub type MacAddr = [u8; 6];

/// The chip: no bus, no clock.
pub struct Ne2000 {
    isr: u8,
    imr: u8,
    cr: u8,
    dcr: u8,
    /// Remote DMA bytes left.
    rbcr: u16,
    /// Bytes to transmit.
    tbcr: u16,
    tpsr: u8,
    /// Remote DMA address.
    rsar: u16,
    pstart: u8,
    pstop: u8,
    curr: u8,
    bnry: u8,
    rcr: u8,
    tcr: u8,
    tsr: u8,
    /// Address the receiver compares with (PAR0-5); the PROM keeps its own copy.
    mac: MacAddr,
    memory: Box<[u8; MEMORY_LEN]>,
    /// The driver has moved the boundary since it last acknowledged received frames.
    reading: bool,
}

impl Ne2000 {
    /// A card fresh from power-up with this address in its PROM.
    pub fn new(mac: MacAddr) -> Self {
        let mut chip = Self {
            isr: 0,
            imr: 0,
            cr: CR_STP,
            dcr: 0,
            rbcr: 0,
            tbcr: 0,
            tpsr: 0,
            rsar: 0,
            pstart: FIRST_PAGE,
            pstop: LAST_PAGE,
            curr: FIRST_RX_PAGE,
            bnry: FIRST_RX_PAGE,
            rcr: 0,
            tcr: 0,
            tsr: TSR_PTX,
            mac,
            memory: Box::new([0; MEMORY_LEN]),
            reading: true,
        };
        chip.fill_prom();
        chip
    }

    /// The PROM is 16 bytes wide on a 16-bit bus: every byte appears twice. 57h 57h in the last two
    /// cells says "NE2000".
    fn fill_prom(&mut self) {
        let mut cells = [0u8; 16];
        for (cell, byte) in cells.iter_mut().zip(self.mac) {
            *cell = byte;
        }
        for cell in cells.iter_mut().skip(14) {
            *cell = 0x57;
        }
        for (pair, cell) in self.memory.chunks_exact_mut(2).zip(cells) {
            pair.fill(cell);
        }
    }

    /// Address the receiver listens to.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// True while an unmasked interrupt is pending.
    pub fn irq_level(&self) -> bool {
        self.isr & self.imr != 0
    }

    fn page(&self) -> u8 {
        self.cr >> 6
    }

    /// Reads a register below [`DATA`].
    pub fn read(&self, reg: u16) -> u8 {
        match (reg, self.page()) {
            (CR, _) => self.cr,
            (PSTART, 0 | 2) => self.pstart,
            (PSTOP, 0 | 2) => self.pstop,
            (BNRY, 0) => self.bnry,
            (TPSR, 0) => self.tsr,
            (ISR, 0) => self.isr,
            (RSAR0, 0) => self.rsar as u8,
            (RSAR1, 0) => (self.rsar >> 8) as u8,
            (RBCR0, 0) => RTL8029_ID[0],
            (RBCR1, 0) => RTL8029_ID[1],
            (RCR, 0) => RSR_IDLE,
            (PSTART..=TBCR1, 1) => self.mac.get(usize::from(reg - PSTART)).copied().unwrap_or(0),
            (ISR, 1) => self.curr,
            // The multicast filter passes everything and cannot be changed.
            (RSAR0..=IMR, 1) => 0xFF,
            _ => 0,
        }
    }

    /// Writes a register other than the command register and the data port.
    pub fn write(&mut self, reg: u16, value: u8) {
        match (reg, self.page()) {
            (PSTART, 0) => self.pstart = value,
            (PSTOP, 0) => self.pstop = value.min(LAST_PAGE),
            (BNRY, 0) => {
                self.bnry = value;
                // While the chip is stopped, the ring is only being laid out.
                self.reading = self.cr & CR_STP == 0;
            }
            (TPSR, 0) => self.tpsr = value,
            (TBCR0, 0) => self.tbcr = self.tbcr & 0xFF00 | u16::from(value),
            (TBCR1, 0) => self.tbcr = self.tbcr & 0x00FF | u16::from(value) << 8,
            (ISR, 0) => self.acknowledge(value),
            (RSAR0, 0) => self.rsar = self.rsar & 0xFF00 | u16::from(value),
            (RSAR1, 0) => self.rsar = self.rsar & 0x00FF | u16::from(value) << 8,
            (RBCR0, 0) => self.rbcr = self.rbcr & 0xFF00 | u16::from(value),
            (RBCR1, 0) => self.rbcr = self.rbcr & 0x00FF | u16::from(value) << 8,
            (RCR, 0) => self.rcr = value,
            (TCR, 0) => self.tcr = value,
            (DCR, 0) => self.dcr = value,
            (IMR, 0) => self.imr = value,
            (PSTART..=TBCR1, 1) => {
                if let Some(byte) = self.mac.get_mut(usize::from(reg - PSTART)) {
                    *byte = value;
                }
            }
            (ISR, 1) => self.curr = value,
            _ => {}
        }
    }

    /// Clears bits of the interrupt status.
    ///
    /// Linux's driver reads nine frames at most and then acknowledges all it was told of. On a real card the next
    /// frame to arrive makes it look again; here frames come in bursts, and none may follow for as long as these
    /// are not answered. So the status stays if the driver leaves frames unread. One that acknowledges first and
    /// reads then is not interrupted twice.
    fn acknowledge(&mut self, bits: u8) {
        self.isr &= !bits;
        if bits & ISR_PRX != 0 && std::mem::take(&mut self.reading) && self.has_unread() {
            self.isr |= ISR_PRX;
        }
    }

    /// Frames are in the ring that the driver has not read. The boundary is the page before the one it reads next;
    /// for some drivers it is that page.
    fn has_unread(&self) -> bool {
        let behind = match self.bnry.wrapping_add(1) {
            page if page >= self.pstop => self.pstart,
            page => page,
        };
        self.curr != self.bnry && self.curr != behind
    }

    /// Writes the command register; a frame to transmit goes to `sink`.
    pub fn write_command(&mut self, value: u8, sink: &mut dyn NetSink) {
        self.cr = value;
        if value & CR_STP != 0 {
            return;
        }
        if value & CR_RD != 0 && self.rbcr == 0 {
            self.isr |= ISR_RDC;
        }
        if value & CR_TXP != 0 {
            let start = usize::from(self.tpsr) << 8;
            let end = start.saturating_add(usize::from(self.tbcr)).min(MEMORY_LEN);
            if let Some(frame) = self.memory.get(start..end).filter(|f| !f.is_empty()) {
                sink.send(frame);
            }
            self.cr &= !CR_TXP;
            self.isr |= ISR_PTX;
        }
    }

    /// Reading the reset port.
    pub fn reset_port(&mut self) {
        self.isr |= ISR_RST;
    }

    // ---- remote DMA ----------------------------------------------------------------------------

    fn step_remote(&mut self) {
        let stop = u16::from(self.pstop) << 8;
        self.rsar = self.rsar.wrapping_add(1);
        if self.rsar >= stop {
            self.rsar = self.rsar.wrapping_sub(stop).wrapping_add(u16::from(self.pstart) << 8);
        }
        if self.rbcr > 0 {
            self.rbcr -= 1;
            if self.rbcr == 0 {
                self.isr |= ISR_RDC;
            }
        }
    }

    fn read_data_byte(&mut self) -> u8 {
        let byte = self.memory.get(usize::from(self.rsar)).copied().unwrap_or(0);
        self.step_remote();
        byte
    }

    fn write_data_byte(&mut self, value: u8) {
        // The PROM's first cells are writable on this card, the rest of the low half is not there.
        let writable = self.rsar <= 0x10 || self.rsar >= u16::from(FIRST_PAGE) << 8;
        if let Some(cell) = self.memory.get_mut(usize::from(self.rsar)).filter(|_| writable) {
            *cell = value;
        }
        self.step_remote();
    }

    /// Bytes of card memory one access of the data port moves: in word mode byte accesses move two.
    fn data_width(&self, size: AccessSize) -> u32 {
        match size {
            AccessSize::Dword => 4,
            _ if self.dcr & DCR_WTS != 0 => 2,
            _ => 1,
        }
    }

    /// Read of the data port.
    pub fn read_data(&mut self, size: AccessSize) -> u32 {
        let mut value = 0;
        for i in 0..self.data_width(size) {
            value |= u32::from(self.read_data_byte()) << (8 * i);
        }
        value & size.ones()
    }

    /// Write of the data port.
    pub fn write_data(&mut self, size: AccessSize, value: u32) {
        let value = value & size.ones();
        for i in 0..self.data_width(size) {
            self.write_data_byte((value >> (8 * i)) as u8);
        }
    }

    /// Plain bytes of packet memory at the remote address that the next `len` bytes of a block transfer cover:
    /// no wrap of the ring and no end of the transfer but at their end. In word mode an access moves what its
    /// size says, so that the block is one piece.
    fn plain_run(&self, size: AccessSize, len: usize) -> usize {
        let whole = self.data_width(size) == size.bytes();
        let stop = usize::from(self.pstop) << 8;
        let room = stop.min(MEMORY_LEN).saturating_sub(usize::from(self.rsar));
        // With a count of 0 the transfer goes on, and its end is not announced again.
        let left = if self.rbcr == 0 { usize::MAX } else { usize::from(self.rbcr) };
        let step = size.bytes() as usize;
        if whole { len.min(room).min(left) / step * step } else { 0 }
    }

    fn advance_remote(&mut self, bytes: usize) {
        // All but the last step can have no effect but to count.
        let Some(before) = bytes.checked_sub(1) else { return };
        self.rsar = self.rsar.wrapping_add(before as u16);
        self.rbcr = self.rbcr.saturating_sub(before as u16);
        self.step_remote();
    }

    /// Reads a block from the data port in accesses of `size`, as a string instruction does.
    pub fn read_block(&mut self, size: AccessSize, mut out: &mut [u8]) {
        while !out.is_empty() {
            let run = self.plain_run(size, out.len());
            let from = usize::from(self.rsar);
            let n = if run > 0 { run } else { (size.bytes() as usize).min(out.len()) };
            let (now, later) = out.split_at_mut(n);
            match self.memory.get(from..from.saturating_add(run)) {
                Some(bytes) if run > 0 => {
                    now.copy_from_slice(bytes);
                    self.advance_remote(run);
                }
                _ => {
                    let value = self.read_data(size).to_le_bytes();
                    now.iter_mut().zip(value).for_each(|(to, from)| *to = from);
                }
            }
            out = later;
        }
    }

    /// Writes a block to the data port in accesses of `size`, as a string instruction does.
    pub fn write_block(&mut self, size: AccessSize, mut data: &[u8]) {
        while !data.is_empty() {
            let at = usize::from(self.rsar);
            // Below the packet memory only some cells can be written.
            let writable = at >= usize::from(FIRST_PAGE) << 8;
            let run = if writable { self.plain_run(size, data.len()) } else { 0 };
            let n = if run > 0 { run } else { (size.bytes() as usize).min(data.len()) };
            let (now, later) = data.split_at(n);
            match self.memory.get_mut(at..at.saturating_add(run)) {
                Some(cells) if run > 0 => {
                    cells.copy_from_slice(now);
                    self.advance_remote(run);
                }
                _ => {
                    let value = now.iter().rev().fold(0u32, |v, &b| v << 8 | u32::from(b));
                    self.write_data(size, value);
                }
            }
            data = later;
        }
    }

    // ---- receiver ------------------------------------------------------------------------------

    fn accepts(&self, frame: &[u8]) -> bool {
        let Some(to) = frame.get(..6) else { return false };
        if self.rcr & RCR_PRO != 0 {
            return true;
        }
        if to == [0xFF; 6] {
            return self.rcr & RCR_AB != 0;
        }
        // Multicast is recognised and dropped, as v86 does: a guest that turns it on must not
        // suddenly see traffic it never had.
        to == self.mac
    }

    /// Pages free between the page written next and the boundary.
    fn free_pages(&self) -> u16 {
        let (curr, bnry) = (u16::from(self.curr), u16::from(self.bnry));
        let ring = u16::from(self.pstop.saturating_sub(self.pstart));
        if bnry == 0 {
            // ReactOS leaves the boundary at 0 until the first packet.
            ring
        } else if bnry > curr {
            bnry - curr
        } else {
            u16::from(self.pstop).saturating_sub(curr) + bnry.saturating_sub(u16::from(self.pstart))
        }
    }

    /// A frame must not fill the ring to its last page: with the current page at the boundary it looks empty.
    fn fits(&self, len: usize) -> bool {
        let pages = 1 + (len.max(MIN_FRAME) + RX_HEADER) / 256;
        let ring = usize::from(self.pstop.saturating_sub(self.pstart));
        pages <= ring && (pages < usize::from(self.free_pages()) || self.bnry == 0)
    }

    /// Takes a frame from the network.
    pub fn receive(&mut self, frame: &[u8]) -> Reception {
        if self.cr & CR_STP != 0 || frame.len() > NET_MAX_FRAME || !self.accepts(frame) {
            return Reception::Ignored;
        }
        if !self.fits(frame.len()) {
            return Reception::Full;
        }
        self.store(frame);
        Reception::Taken
    }

    /// Writes bytes to packet memory from `at` on, around the end of the ring. Returns where the next ones go.
    fn store_at(&mut self, mut at: usize, mut bytes: &[u8]) -> usize {
        let (start, stop) = (usize::from(self.pstart) << 8, usize::from(self.pstop) << 8);
        while !bytes.is_empty() {
            // A page behind the ring, which a driver may set, leads to the end of memory.
            let room = if at < stop { stop - at } else { bytes.len() };
            let (now, later) = bytes.split_at(bytes.len().min(room));
            let cells = self.memory.get_mut(at..).unwrap_or_default();
            let there = cells.len().min(now.len());
            if let (Some(cells), Some(now)) = (cells.get_mut(..there), now.get(..there)) {
                cells.copy_from_slice(now);
            }
            at += now.len();
            if at == stop {
                at = start;
            }
            bytes = later;
        }
        at
    }

    /// Writes a frame that fits into the ring.
    fn store(&mut self, frame: &[u8]) {
        let len = frame.len().max(MIN_FRAME);
        let total = len + RX_HEADER;
        let ring = usize::from(self.pstop.saturating_sub(self.pstart));
        let mut next = usize::from(self.curr) + 1 + total / 256;
        if next >= usize::from(self.pstop) {
            next = next.saturating_sub(ring);
        }
        let header = [RSR_PRX, next as u8, total as u8, (total >> 8) as u8];
        let padding = [0; MIN_FRAME];
        let padding = padding.get(..len - frame.len()).unwrap_or_default();
        let mut at = usize::from(self.curr) << 8;
        for part in [header.as_slice(), frame, padding] {
            at = self.store_at(at, part);
        }
        self.curr = next as u8;
        self.isr |= ISR_PRX;
    }
}

/// The card: [`Ne2000`] at I/O ports with an interrupt line and a cable.
pub struct Ne2000Pci {
    chip: Ne2000,
    burned_in: MacAddr,
    /// Restoring takes over the snapshot's station address.
    preserve_mac: bool,
    irq: IrqLine,
    cable: Box<dyn Cable>,
    /// A frame waits in the cable because the ring was full.
    waiting: bool,
}

impl Ne2000Pci {
    /// First home port.
    pub const BASE: u16 = 0x300;
    /// Home ports.
    pub const PORTS: &'static [(u16, u16)] = &[(Self::BASE, 32)];

    /// A card with address `mac` at this end of `cable`.
    pub fn new(irq: IrqLine, mac: MacAddr, cable: Box<dyn Cable>) -> Self {
        Self { chip: Ne2000::new(mac), burned_in: mac, preserve_mac: false, irq, cable, waiting: false }
    }

    /// Whether restoring a snapshot takes over the station address and the PROM in it. Otherwise the
    /// card keeps its own: two machines restored from one snapshot must not have the same address in
    /// one network. The guest's driver then uses the old address until it is loaded anew.
    pub fn set_preserve_mac(&mut self, preserve: bool) {
        self.preserve_mac = preserve;
    }

    /// The chip, for tests and the host.
    pub fn chip(&self) -> &Ne2000 {
        &self.chip
    }

    /// A frame from the network, without check sequence. False if the guest will not see it.
    pub fn receive(&mut self, ctx: &mut Ctx<'_>, frame: &[u8]) -> bool {
        let reception = self.chip.receive(frame);
        self.sync_irq(ctx);
        reception == Reception::Taken
    }

    /// Fetches the frames that wait in the cable, as far as the ring has room.
    pub fn fetch(&mut self, ctx: &mut Ctx<'_>) {
        self.fetch_frames();
        self.sync_irq(ctx);
    }

    fn fetch_frames(&mut self) {
        let Self { chip, cable, waiting, .. } = self;
        *waiting = false;
        cable.receive(&mut |frame| {
            *waiting = chip.receive(frame) == Reception::Full;
            !*waiting
        });
    }

    fn sync_irq(&self, ctx: &mut Ctx<'_>) {
        ctx.irq.set(self.irq, self.chip.irq_level());
    }
}

impl Device for Ne2000Pci {
    fn name(&self) -> &'static str {
        "rtl8029"
    }

    fn port_read(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        let reg = port.wrapping_sub(Self::BASE);
        let value = match (reg, size) {
            (DATA, _) => self.chip.read_data(size),
            (RESET, AccessSize::Byte) => {
                self.chip.reset_port();
                0
            }
            (CR, AccessSize::Byte | AccessSize::Word) => u32::from(self.chip.read(CR)),
            // OpenBSD reads this one as a word.
            (DCR, AccessSize::Word) => 0,
            (PSTART..=IMR, AccessSize::Byte) => u32::from(self.chip.read(reg)),
            _ => return None,
        };
        self.sync_irq(ctx);
        Some(value)
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        let reg = port.wrapping_sub(Self::BASE);
        match (reg, size) {
            (DATA, _) => self.chip.write_data(size, value),
            (CR, AccessSize::Byte) => {
                self.chip.write_command(value as u8, self.cable.as_mut());
            }
            (PSTART..=IMR, AccessSize::Byte) => self.chip.write(reg, value as u8),
            _ => {}
        }
        if self.waiting && reg == BNRY {
            self.fetch_frames();
        }
        self.sync_irq(ctx);
    }

    fn port_read_block(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, out: &mut [u8]) -> usize {
        if port.wrapping_sub(Self::BASE) != DATA {
            return 0;
        }
        let elements = out.len() / size.bytes() as usize;
        let whole = elements * size.bytes() as usize;
        self.chip.read_block(size, out.get_mut(..whole).unwrap_or_default());
        self.sync_irq(ctx);
        elements
    }

    fn port_write_block(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, data: &[u8]) -> usize {
        if port.wrapping_sub(Self::BASE) != DATA {
            return 0;
        }
        let elements = data.len() / size.bytes() as usize;
        let whole = elements * size.bytes() as usize;
        self.chip.write_block(size, data.get(..whole).unwrap_or_default());
        self.sync_irq(ctx);
        elements
    }

    fn reset(&mut self, ctx: &mut Ctx<'_>, kind: ResetKind) {
        if kind == ResetKind::Cold {
            self.chip = Ne2000::new(self.burned_in);
        } else {
            // The card stops and keeps the rest, as after a reset on the bus: drivers set it all up.
            self.chip.write_command(CR_STP, self.cable.as_mut());
            self.chip.isr = 0;
            self.chip.imr = 0;
        }
        self.sync_irq(ctx);
    }

    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        SavedNe2000::capture(self).write()
    }

    fn restore(&mut self, ctx: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        SavedNe2000::capture(self).read(state)?.apply(self);
        self.sync_irq(ctx);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests;
