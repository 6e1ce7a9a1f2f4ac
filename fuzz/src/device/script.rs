//! What can be done to a device, and how an input says it.

use conformance_tests::gen_int::Rng;

use super::virtio::Chain;
use crate::input::{Input, Seed};

/// One thing that happens to a device.
#[allow(missing_docs)] // the fields are what their names say, in the order of the operation's description
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Read of the `pick`-th port; sizes: 1 word, 2 dword, else byte.
    Read { pick: u16, size: u8 },
    /// Write there.
    Write { pick: u16, size: u8, value: u32 },
    /// REP INS.
    ReadBlock { pick: u16, size: u8, count: u16 },
    /// REP OUTS.
    WriteBlock { pick: u16, size: u8, data: &'a [u8] },
    /// Read in a window.
    MmioRead { window: u8, size: u8, offset: u32 },
    /// Write there.
    MmioWrite { window: u8, size: u8, offset: u32, value: u32 },
    /// Time passes, deadlines come when they are due.
    Advance { ns: u64 },
    /// Time passes at once.
    Late { ns: u64 },
    /// A deadline nobody asked for.
    Spurious,
    /// The host's calendar is set.
    Calendar { seconds: i32 },
    /// Reset of the machine.
    Reset { cold: bool },
    /// Something from the host.
    Host { kind: u8, data: &'a [u8] },
    /// The guest writes to its memory.
    Ram { at: u32, data: &'a [u8] },
    /// The guest programs ISA DMA.
    Dma { channel: u8, at: u32, count: u16 },
    /// The guest's driver initialises a virtio device.
    Start { features: u64 },
    /// It gives the device buffers.
    Chain(Chain<'a>),
    /// The machine is saved and restored.
    Save,
}

/// Numbers of the operations; several of what is worth doing often.
mod code {
    pub const READ: u8 = 0;
    pub const WRITE8: u8 = 1;
    pub const WRITE16: u8 = 2;
    pub const WRITE32: u8 = 3;
    pub const READ_BLOCK: u8 = 4;
    pub const WRITE_BLOCK: u8 = 5;
    pub const MMIO_READ: u8 = 6;
    pub const MMIO_WRITE: u8 = 7;
    pub const ADVANCE: u8 = 8;
    pub const LATE: u8 = 9;
    pub const SPURIOUS: u8 = 10;
    pub const CALENDAR: u8 = 11;
    pub const RESET: u8 = 12;
    pub const HOST: u8 = 13;
    pub const RAM: u8 = 14;
    pub const DMA: u8 = 15;
    pub const START: u8 = 16;
    pub const CHAIN: u8 = 17;
    pub const SAVE: u8 = 18;
    pub const COUNT: u8 = 19;
}

/// Longest time that passes in one operation: twelve days.
const MAX_SHIFT: u32 = 50;

/// A duration of any magnitude.
fn duration(input: &mut Input<'_>) -> u64 {
    let shift = u32::from(input.u8()) % MAX_SHIFT;
    let bits = u64::from(input.u8()) | 0x100;
    if shift == 0 { bits - 0x100 } else { bits << shift >> 8 }
}

/// The same, as it is written.
fn written_duration(ns: u64) -> [u8; 2] {
    match ns {
        0..=255 => [0, ns as u8],
        _ => {
            let shift = 64 - ns.leading_zeros() - 1;
            [shift as u8, (ns >> (shift - 8)) as u8]
        }
    }
}

impl<'a> Op<'a> {
    /// Reads one operation.
    pub fn read(input: &mut Input<'a>) -> Self {
        let first = input.u8();
        // The high bits carry the size and flags.
        let (what, high) = (first & 31, first >> 5);
        let what = if what < code::COUNT { what } else { what % 4 };
        match what {
            code::READ => Op::Read { pick: input.u16(), size: high },
            code::WRITE8 => Op::Write { pick: input.u16(), size: 0, value: input.u8().into() },
            code::WRITE16 => Op::Write { pick: input.u16(), size: 1, value: input.u16().into() },
            code::WRITE32 => Op::Write { pick: input.u16(), size: 2, value: input.u32() },
            code::READ_BLOCK => Op::ReadBlock { pick: input.u16(), size: high, count: input.u16() & 0x7FF },
            code::WRITE_BLOCK => {
                let (pick, len) = (input.u16(), input.u16() & 0x7FF);
                Op::WriteBlock { pick, size: high, data: input.bytes(len.into()) }
            }
            code::MMIO_READ => Op::MmioRead { window: input.u8(), size: high, offset: input.u32() },
            code::MMIO_WRITE => {
                Op::MmioWrite { window: input.u8(), size: high, offset: input.u32(), value: input.u32() }
            }
            code::ADVANCE => Op::Advance { ns: duration(input) },
            code::LATE => Op::Late { ns: duration(input) },
            code::SPURIOUS => Op::Spurious,
            code::CALENDAR => Op::Calendar { seconds: input.u32() as i32 },
            code::RESET => Op::Reset { cold: high & 1 != 0 },
            code::HOST => {
                let (kind, len) = (input.u8(), input.u16() & 0xFFF);
                Op::Host { kind, data: input.bytes(len.into()) }
            }
            code::RAM => {
                let (at, len) = (input.u32() & 0x1F_FFFF, input.u16() & 0xFFF);
                Op::Ram { at, data: input.bytes(len.into()) }
            }
            code::DMA => Op::Dma { channel: high, at: input.u32() & 0x3F_FFFF, count: input.u16() },
            code::START => Op::Start { features: input.u64() },
            code::CHAIN => Op::Chain(Chain::read(input)),
            _ => Op::Save,
        }
    }
}

/// Inputs for a device being written: each is a list of operations.
pub struct Seeds {
    ports: Vec<(u16, u16)>,
    mmio: Vec<(u64, u64)>,
    virtio: Option<u16>,
    seeds: Vec<Seed>,
}

impl Seeds {
    /// None yet.
    pub fn new(ports: &[(u16, u16)], mmio: &[(u64, u64)], virtio: Option<u16>) -> Self {
        Self { ports: ports.to_vec(), mmio: mmio.to_vec(), virtio, seeds: vec![Seed::new()] }
    }

    fn op(&mut self, code: u8, high: u8, operands: Seed) -> &mut Self {
        if let Some(seed) = self.seeds.last_mut() {
            seed.0.push(code | high << 5);
            seed.0.extend(operands.0);
        }
        self
    }

    /// Begins another input.
    pub fn another(&mut self) -> &mut Self {
        self.seeds.push(Seed::new());
        self
    }

    fn pick(&self, port: u16) -> u16 {
        let mut before = 0;
        for &(first, len) in &self.ports {
            if (first..first.saturating_add(len)).contains(&port) {
                return before + (port - first);
            }
            before += len;
        }
        0
    }

    /// Writes of bytes to ports.
    pub fn out(&mut self, writes: &[(u16, u8)]) -> &mut Self {
        for &(port, value) in writes {
            let pick = self.pick(port);
            self.op(code::WRITE8, 0, Seed::new().u16(pick).u8(value));
        }
        self
    }

    /// Write of a word.
    pub fn out16(&mut self, port: u16, value: u16) -> &mut Self {
        let pick = self.pick(port);
        self.op(code::WRITE16, 0, Seed::new().u16(pick).u16(value))
    }

    /// Write of a dword.
    pub fn out32(&mut self, port: u16, value: u32) -> &mut Self {
        let pick = self.pick(port);
        self.op(code::WRITE32, 0, Seed::new().u16(pick).u32(value))
    }

    /// Reads of bytes.
    pub fn read(&mut self, ports: &[u16]) -> &mut Self {
        for &port in ports {
            let pick = self.pick(port);
            self.op(code::READ, 0, Seed::new().u16(pick));
        }
        self
    }

    /// Read of a word (1) or dword (2).
    pub fn read_wide(&mut self, port: u16, size: u8) -> &mut Self {
        let pick = self.pick(port);
        self.op(code::READ, size, Seed::new().u16(pick))
    }

    /// Block read, size as above.
    pub fn ins(&mut self, port: u16, size: u8, count: u16) -> &mut Self {
        let pick = self.pick(port);
        self.op(code::READ_BLOCK, size, Seed::new().u16(pick).u16(count))
    }

    /// Block write.
    pub fn outs(&mut self, port: u16, size: u8, data: &[u8]) -> &mut Self {
        let pick = self.pick(port);
        self.op(code::WRITE_BLOCK, size, Seed::new().u16(pick).u16(data.len() as u16).bytes(data))
    }

    /// Write of a dword at a physical address.
    pub fn store(&mut self, address: u64, value: u32) -> &mut Self {
        let (window, offset) = self.place(address);
        self.op(code::MMIO_WRITE, 2, Seed::new().u8(window).u32(offset).u32(value))
    }

    /// Read of a dword there.
    pub fn load(&mut self, address: u64) -> &mut Self {
        let (window, offset) = self.place(address);
        self.op(code::MMIO_READ, 2, Seed::new().u8(window).u32(offset))
    }

    fn place(&self, address: u64) -> (u8, u32) {
        let inside = |&(start, len): &(u64, u64)| address >= start && address - start < len;
        let n = self.mmio.iter().position(inside).unwrap_or(0);
        (n as u8, self.mmio.get(n).map_or(0, |window| (address - window.0) as u32))
    }

    /// Time passes.
    pub fn wait(&mut self, ns: u64) -> &mut Self {
        self.op(code::ADVANCE, 0, Seed::new().bytes(&written_duration(ns)))
    }

    /// Something from the host.
    pub fn host(&mut self, kind: u8, data: &[u8]) -> &mut Self {
        self.op(code::HOST, 0, Seed::new().u8(kind).u16(data.len() as u16).bytes(data))
    }

    /// Bytes in memory.
    pub fn ram(&mut self, at: u32, data: &[u8]) -> &mut Self {
        self.op(code::RAM, 0, Seed::new().u32(at).u16(data.len() as u16).bytes(data))
    }

    /// A DMA channel's window.
    pub fn dma(&mut self, channel: u8, at: u32, count: u16) -> &mut Self {
        self.op(code::DMA, channel, Seed::new().u32(at).u16(count))
    }

    /// Initialises a virtio device.
    pub fn start(&mut self, features: u64) -> &mut Self {
        self.op(code::START, 0, Seed::new().u64(features))
    }

    /// Gives it buffers.
    pub fn chain(&mut self, chain: &Chain<'_>) -> &mut Self {
        self.op(code::CHAIN, 0, chain.write())
    }

    /// Saves and restores.
    pub fn save(&mut self) -> &mut Self {
        self.op(code::SAVE, 0, Seed::new())
    }

    /// All inputs: those written, and some at random.
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        self.seeds.retain(|seed| !seed.0.is_empty());
        let mut rng = Rng::new(3);
        let ports: u32 = self.ports.iter().map(|p| u32::from(p.1)).sum();
        let first = self.seeds.first().cloned();
        for n in 0..24 {
            self.another();
            if let (Some(first), true) = (&first, n % 2 == 0) {
                self.seeds.last_mut().into_iter().for_each(|seed| *seed = first.clone());
            }
            for _ in 0..40 {
                let pick = if ports == 0 { 0 } else { rng.below(ports) as u16 };
                match rng.below(8) {
                    0 => self.op(code::READ, 0, Seed::new().u16(pick)),
                    1 if !self.mmio.is_empty() => {
                        let at = Seed::new().u8(rng.below(4) as u8).u32(rng.below(0x40) * 16);
                        self.op(code::MMIO_WRITE, 2, at.u32(rng.corner()))
                    }
                    2 => self.wait(u64::from(rng.below(5_000_000))),
                    3 if rng.below(3) == 0 => self.save(),
                    4 if self.virtio.is_some() => self.start(rng.next_u64() | 1 << 32),
                    _ => self.op(code::WRITE8, 0, Seed::new().u16(pick).u8(rng.corner() as u8)),
                };
            }
        }
        self.seeds.into_iter().map(|seed| seed.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_as_they_were_written() {
        let mut seeds = Seeds::new(&[(0x3F8, 8), (0x60, 1)], &[(0xA_0000, 0x100)], Some(0xA600));
        seeds.out(&[(0x60, 7)]).out16(0x3F9, 0x1234).wait(1_000_000).host(3, b"xy").store(0xA_0010, 9).save();
        let written = seeds.seeds.remove(0).0;
        let input = &mut Input::new(&written);
        let mut ops = Vec::new();
        while !input.is_empty() {
            ops.push(Op::read(input));
        }
        let Op::Advance { ns } = ops[2] else { panic!("{ops:?}") };
        assert!((990_000..=1_000_000).contains(&ns), "{ns}");
        ops.remove(2);
        let expected = [
            Op::Write { pick: 8, size: 0, value: 7 },
            Op::Write { pick: 1, size: 1, value: 0x1234 },
            Op::Host { kind: 3, data: b"xy" },
            Op::MmioWrite { window: 0, size: 2, offset: 0x10, value: 9 },
            Op::Save,
        ];
        assert_eq!(ops, expected);
    }
}
