//! Two 8237A DMA controllers with the page registers of an AT.
//!
//! Intel 8237A data sheet (231466). Channels 0-3 move bytes, 5-7 words, 4 is the cascade. Transfers
//! happen at once when a device asks for them through [`IsaDma`]; requests by software,
//! memory-to-memory transfers and the status register do not exist (ports 08h, 09h and D0h, D2h are
//! empty, as on the reference machine). The cascade channel's mask has no effect, so that channels
//! 0-3 work without firmware.
//!
//! Page registers at 48xh extend addresses to 32 bits.

use emu_core::bus::AccessSize;
use emu_core::mem::Memory;
use emu_core::snapshot::FieldError;

use crate::device::{Ctx, Device, DeviceState, IsaDma, ResetKind};

mod saved;

/// Mode register: transfer type 00 only counts.
const MODE_TYPE: u8 = 0x0C;
const MODE_AUTO_INIT: u8 = 1 << 4;
const MODE_DECREMENT: u8 = 1 << 5;
const SINGLE_MASK_SET: u8 = 1 << 2;

/// Page register of each channel as an offset from 80h (and 480h); channel 4 has one without use.
const PAGE_PORTS: [u16; 8] = [0x7, 0x3, 0x1, 0x2, 0xF, 0xB, 0x9, 0xA];

/// What a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Address(usize),
    Count(usize),
    SingleMask,
    Mode,
    ClearFlipFlop,
    MasterClear,
    ClearMask,
    MultiMask,
    Page(usize),
    PageHigh(usize),
}

/// Register at a port, and the first channel of its controller.
fn decode(port: u16) -> Option<(Register, usize)> {
    let page = |port: u16| PAGE_PORTS.iter().position(|p| *p == port & 0xF);
    let (first, register) = match port {
        0x80..=0x8F => return page(port).map(|c| (Register::Page(c), 0)),
        0x480..=0x48F => return page(port).filter(|c| *c != 4).map(|c| (Register::PageHigh(c), 0)),
        0x00..=0x0F => (0, port),
        0xC0..=0xDF if port & 1 == 0 => (4, (port - 0xC0) >> 1),
        _ => return None,
    };
    let channel = first + usize::from(register >> 1 & 3);
    let register = match register {
        0x0..=0x7 if register & 1 == 0 => Register::Address(channel),
        0x0..=0x7 => Register::Count(channel),
        0xA => Register::SingleMask,
        0xB => Register::Mode,
        0xC => Register::ClearFlipFlop,
        0xD => Register::MasterClear,
        0xE => Register::ClearMask,
        0xF => Register::MultiMask,
        _ => return None,
    };
    Some((register, first))
}

/// A channel. Count is one less than the transfers to come; FFFFh after the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Channel {
    address: u16,
    base_address: u16,
    count: u16,
    base_count: u16,
    page: u8,
    page_high: u8,
    mode: u8,
    masked: bool,
}

impl Channel {
    /// Physical address of the next transfer.
    fn physical(&self, is_word: bool) -> u64 {
        let high = u64::from(self.page_high) << 24;
        if is_word {
            // The page register's lowest bit does not exist here: address bit 16 is in `address`.
            high | u64::from(self.page & 0xFE) << 16 | u64::from(self.address) << 1
        } else {
            high | u64::from(self.page) << 16 | u64::from(self.address)
        }
    }

    /// Transfers until terminal count.
    fn transfers_left(&self) -> usize {
        if self.masked { 0 } else { usize::from(self.count) + 1 }
    }

    /// Counts `n` transfers (at most those left). At terminal count the channel starts over or is
    /// masked.
    fn advance(&mut self, n: usize) {
        let done = n > usize::from(self.count);
        let step = n as u16;
        self.address = if self.mode & MODE_DECREMENT != 0 {
            self.address.wrapping_sub(step)
        } else {
            self.address.wrapping_add(step)
        };
        self.count = self.count.wrapping_sub(step);
        if done && self.mode & MODE_AUTO_INIT != 0 {
            self.address = self.base_address;
            self.count = self.base_count;
        } else if done {
            self.masked = true;
        }
    }

    /// Next piece of a transfer of `bytes` that is one run of addresses: `(physical address, bytes)`.
    fn run(&self, is_word: bool, bytes: usize) -> Option<(u64, usize)> {
        let width = if is_word { 2 } else { 1 };
        let wanted = (bytes / width).min(self.transfers_left());
        // Addresses wrap within the page; counting down is done one by one.
        let straight = if self.mode & MODE_DECREMENT != 0 { 1 } else { 0x1_0000 - usize::from(self.address) };
        let transfers = wanted.min(straight);
        (transfers > 0).then(|| (self.physical(is_word), transfers * width))
    }
}

/// The pair.
#[derive(Clone, Debug, Default)]
pub struct Dma8237 {
    channels: [Channel; 8],
    /// The next byte of an address or count is the high one; by controller.
    flip_flop: [bool; 2],
}

impl Dma8237 {
    /// Ports to claim: `(first, count)`.
    pub const PORTS: &[(u16, u16)] = &[
        (0x00, 8),
        (0x0A, 6),
        (0x81, 3),
        (0x87, 1),
        (0x89, 3),
        (0x8F, 1),
        (0xC0, 16),
        (0xD4, 12),
        (0x481, 3),
        (0x487, 1),
        (0x489, 3),
    ];

    /// Powered up: all zero, no channel masked (as on the reference machine).
    pub fn new() -> Self {
        Self::default()
    }

    fn channel(&self, index: u8) -> &Channel {
        &self.channels[usize::from(index & 7)]
    }

    fn controller(&mut self, first: usize) -> &mut [Channel] {
        let (low, high) = self.channels.split_at_mut(4);
        if first == 0 { low } else { high }
    }

    fn read(&mut self, port: u16) -> Option<u8> {
        let (register, first) = decode(port)?;
        let word = match register {
            Register::Address(c) => self.channels[c & 7].address,
            Register::Count(c) => self.channels[c & 7].count,
            Register::Page(c) => return Some(self.channels[c & 7].page),
            Register::PageHigh(c) => return Some(self.channels[c & 7].page_high),
            Register::MultiMask => {
                let bits = self.controller(first).iter().rev();
                return Some(bits.fold(0xF0, |mask, c| (mask << 1) | u8::from(c.masked)) | 0xF0);
            }
            _ => return None,
        };
        let high = self.toggle(first);
        let [low_byte, high_byte] = word.to_le_bytes();
        Some(if high { high_byte } else { low_byte })
    }

    fn write(&mut self, port: u16, value: u8) {
        let Some((register, first)) = decode(port) else { return };
        match register {
            Register::Address(c) => {
                let high = self.toggle(first);
                let channel = &mut self.channels[c & 7];
                channel.base_address = with_byte(channel.base_address, high, value);
                channel.address = with_byte(channel.address, high, value);
            }
            Register::Count(c) => {
                let high = self.toggle(first);
                let channel = &mut self.channels[c & 7];
                channel.base_count = with_byte(channel.base_count, high, value);
                channel.count = with_byte(channel.count, high, value);
            }
            Register::SingleMask => {
                if let Some(channel) = self.controller(first).get_mut(usize::from(value & 3)) {
                    channel.masked = value & SINGLE_MASK_SET != 0;
                }
            }
            Register::Mode => {
                if let Some(channel) = self.controller(first).get_mut(usize::from(value & 3)) {
                    channel.mode = value;
                }
            }
            Register::ClearFlipFlop => self.flip_flop[(first >> 2) & 1] = false,
            Register::MasterClear => {
                self.flip_flop[(first >> 2) & 1] = false;
                self.set_masks(first, 0xF);
            }
            Register::ClearMask => self.set_masks(first, 0),
            Register::MultiMask => self.set_masks(first, value),
            Register::Page(c) => self.channels[c & 7].page = value,
            Register::PageHigh(c) => self.channels[c & 7].page_high = value,
        }
    }

    /// Flips the controller's byte pointer; true if this access is the high byte.
    fn toggle(&mut self, first: usize) -> bool {
        let flip_flop = &mut self.flip_flop[(first >> 2) & 1];
        *flip_flop = !*flip_flop;
        !*flip_flop
    }

    fn set_masks(&mut self, first: usize, mask: u8) {
        for (i, channel) in self.controller(first).iter_mut().enumerate() {
            channel.masked = mask & (1 << i) != 0;
        }
    }

    /// Moves up to `bytes` bytes in runs: `(physical address, range of the data, counts only)`.
    fn transfer(
        &mut self,
        channel: u8,
        bytes: usize,
        mut step: impl FnMut(u64, usize, usize, bool),
    ) -> usize {
        let is_word = channel & 4 != 0;
        if channel & 7 == 4 {
            return 0; // the cascade moves nothing
        }
        let channel = &mut self.channels[usize::from(channel & 7)];
        let mut done = 0;
        while let Some((phys, run)) = channel.run(is_word, bytes.saturating_sub(done)) {
            step(phys, done, run, channel.mode & MODE_TYPE == 0);
            channel.advance(if is_word { run / 2 } else { run });
            done += run;
        }
        done
    }
}

fn with_byte(word: u16, high: bool, value: u8) -> u16 {
    let [low_byte, high_byte] = word.to_le_bytes();
    u16::from_le_bytes(if high { [low_byte, value] } else { [value, high_byte] })
}

impl IsaDma for Dma8237 {
    fn remaining(&self, channel: u8) -> usize {
        match channel & 7 {
            4 => 0,
            n => self.channel(n).transfers_left() << usize::from(n > 4),
        }
    }

    /// Bytes outside RAM vanish; they count.
    fn write_memory(&mut self, mem: &mut Memory, channel: u8, data: &[u8]) -> usize {
        self.transfer(channel, data.len(), |phys, start, len, verify| {
            if let (false, Some(bytes)) = (verify, data.get(start..start.saturating_add(len))) {
                let _ = mem.dma_write(phys, bytes);
            }
        })
    }

    /// Bytes outside RAM read as FFh.
    fn read_memory(&mut self, mem: &Memory, channel: u8, out: &mut [u8]) -> usize {
        self.transfer(channel, out.len(), |phys, start, len, _| {
            if let Some(bytes) = out.get_mut(start..start.saturating_add(len))
                && !mem.dma_read(phys, bytes)
            {
                bytes.fill(0xFF);
            }
        })
    }
}

impl Device for Dma8237 {
    fn name(&self) -> &'static str {
        "dma8237"
    }

    fn port_read(&mut self, _: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        if size != AccessSize::Byte {
            return None;
        }
        self.read(port).map(u32::from)
    }

    fn port_write(&mut self, _: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        if size == AccessSize::Byte {
            self.write(port, value as u8);
        }
    }

    fn reset(&mut self, _: &mut Ctx<'_>, _: ResetKind) {
        *self = Self::new();
    }

    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        saved::SavedDma::capture(self).into_state()
    }

    fn restore(&mut self, _: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        saved::SavedDma::capture(self).read(state)?.apply(self);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

/// A controller without channels, lent to devices where no DMA can happen (the controller itself).
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDma;

impl IsaDma for NoDma {
    fn remaining(&self, _: u8) -> usize {
        0
    }

    fn write_memory(&mut self, _: &mut Memory, _: u8, _: &[u8]) -> usize {
        0
    }

    fn read_memory(&mut self, _: &Memory, _: u8, _: &mut [u8]) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        Memory::new(0x20_0000).unwrap()
    }

    /// Channel 2 as a floppy driver programs it.
    fn floppy(mode: u8, address: u16, page: u8, count: u16) -> Dma8237 {
        let mut dma = Dma8237::new();
        dma.write(0x0A, 0x06);
        dma.write(0x0C, 0);
        dma.write(0x0B, mode | 2);
        for byte in address.to_le_bytes() {
            dma.write(0x04, byte);
        }
        for byte in count.to_le_bytes() {
            dma.write(0x05, byte);
        }
        dma.write(0x81, page);
        dma.write(0x0A, 0x02);
        dma
    }

    fn read_word(dma: &mut Dma8237, port: u16) -> u16 {
        dma.write(0x0C, 0);
        u16::from_le_bytes([dma.read(port).unwrap(), dma.read(port).unwrap()])
    }

    #[test]
    fn dma_write_memory_stops_at_terminal_count_and_masks() {
        let (mut mem, mut dma) = (memory(), floppy(0x44, 0x1234, 0x05, 511));
        assert_eq!(dma.remaining(2), 512);
        assert_eq!(dma.write_memory(&mut mem, 2, &[0xAA; 200]), 200);
        assert_eq!(dma.remaining(2), 312);
        assert_eq!(read_word(&mut dma, 0x05), 311);
        assert_eq!(read_word(&mut dma, 0x04), 0x1234 + 200);
        assert_eq!(dma.write_memory(&mut mem, 2, &[0xBB; 1000]), 312);
        assert_eq!(dma.remaining(2), 0);
        assert_eq!(read_word(&mut dma, 0x05), 0xFFFF);
        assert_eq!(mem.dma_slice(0x5_1234 + 199, 2), Some(&[0xAA, 0xBB][..]));
        assert_eq!(mem.dma_slice(0x5_1234 + 511, 2), Some(&[0xBB, 0x00][..]));
        assert_eq!(dma.write_memory(&mut mem, 2, &[0xCC; 10]), 0);
    }

    #[test]
    fn dma_read_memory_wraps_within_the_64_kib_page() {
        let (mut mem, mut dma) = (memory(), floppy(0x48, 0xFFFE, 0x03, 3));
        assert!(mem.dma_write(0x3_FFFE, &[1, 2]));
        assert!(mem.dma_write(0x3_0000, &[3, 4]));
        let mut out = [0; 8];
        assert_eq!(dma.read_memory(&mem, 2, &mut out), 4);
        assert_eq!(out, [1, 2, 3, 4, 0, 0, 0, 0]);
    }

    #[test]
    fn dma_auto_init_starts_over_within_one_transfer() {
        let (mut mem, mut dma) = (memory(), floppy(0x54, 0x0100, 0x02, 3));
        assert_eq!(dma.write_memory(&mut mem, 2, &[1, 2, 3, 4, 5, 6]), 6);
        assert_eq!(mem.dma_slice(0x2_0100, 4), Some(&[5, 6, 3, 4][..]));
        assert_eq!(dma.remaining(2), 2);
    }

    #[test]
    fn dma_decrement_moves_down() {
        let (mut mem, mut dma) = (memory(), floppy(0x64, 0x0102, 0x02, 2));
        assert_eq!(dma.write_memory(&mut mem, 2, &[1, 2, 3]), 3);
        assert_eq!(mem.dma_slice(0x2_0100, 3), Some(&[3, 2, 1][..]));
    }

    #[test]
    fn dma_verify_counts_without_touching_memory() {
        let (mut mem, mut dma) = (memory(), floppy(0x40, 0, 0x02, 3));
        assert_eq!(dma.write_memory(&mut mem, 2, &[9; 4]), 4);
        assert_eq!(mem.dma_slice(0x2_0000, 4), Some(&[0; 4][..]));
        assert_eq!(dma.remaining(2), 0);
    }

    #[test]
    fn dma_word_channel_counts_words_and_shifts_the_address() {
        let (mut mem, mut dma) = (memory(), Dma8237::new());
        dma.write(0xD6, 0x45);
        for (port, value) in [(0xC4, 0x00), (0xC4, 0x90), (0xC6, 0x01), (0xC6, 0x00), (0x8B, 0x05)] {
            dma.write(port, value);
        }
        assert_eq!(dma.remaining(5), 4);
        assert_eq!(dma.write_memory(&mut mem, 5, &[1, 2, 3]), 2);
        assert_eq!(dma.write_memory(&mut mem, 5, &[3, 4, 5, 6]), 2);
        // Page 5 counts as 4: bit 16 comes from the address (9000h words).
        assert_eq!(mem.dma_slice(0x5_2000, 4), Some(&[1, 2, 3, 4][..]));
    }

    #[test]
    fn dma_high_page_reaches_beyond_16_mib_and_missing_memory_floats() {
        let (mem, mut dma) = (memory(), floppy(0x48, 0, 0x10, 1));
        dma.write(0x481, 0x01);
        assert_eq!(dma.channel(2).physical(false), 0x0110_0000);
        let mut out = [0; 2];
        assert_eq!(dma.read_memory(&mem, 2, &mut out), 2);
        assert_eq!(out, [0xFF; 2]);
        assert_eq!((dma.read(0x81), dma.read(0x481)), (Some(0x10), Some(0x01)));
    }

    #[test]
    fn dma_masks_by_single_multi_and_clear() {
        let mut dma = Dma8237::new();
        dma.write(0x0F, 0x05);
        assert_eq!(dma.read(0x0F), Some(0xF5));
        dma.write(0x0A, 0x01);
        dma.write(0x0A, 0x00);
        assert_eq!(dma.read(0x0F), Some(0xF4));
        assert_eq!((dma.remaining(0), dma.remaining(2)), (1, 0));
        dma.write(0x0D, 0);
        assert_eq!(dma.read(0x0F), Some(0xFF));
        dma.write(0x0E, 0);
        assert_eq!(dma.read(0x0F), Some(0xF0));
        assert_eq!(dma.read(0xDE), Some(0xF0));
    }

    #[test]
    fn dma_write_only_and_missing_registers_are_empty_ports() {
        let mut board = crate::testing::TestBoard::new();
        let mut dma = Dma8237::new();
        for port in [0x08, 0x09, 0x0A, 0x0B, 0x0C, 0xC1, 0xD0, 0xD4, 0x80] {
            assert_eq!(board.inb(&mut dma, port), 0xFF, "port {port:#x}");
        }
    }
}
