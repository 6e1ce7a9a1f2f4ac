//! Devices on a bare board: sequences of what the guest, the host and time do to one.
//!
//! If the input asks for it, the device is saved and restored on the way; all that follows - what is
//! read, the interrupt wires, what reaches the host, guest memory - must be as without.

pub mod chips;
pub mod network;
pub mod script;
pub mod sessions;
pub mod storage;
pub mod virtio;

use std::sync::{Arc, Mutex, PoisonError};

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLines;
use emu_core::time::EventQueue;
use emu_devices::device::{Device, DeviceState, ResetKind};
use emu_devices::testing::TestBoard;

use crate::input::Input;
use script::{Op, Seeds};

/// The device's id on the board.
const ID: u8 = 5;
/// Operations of one run.
const MAX_OPS: usize = 256;
/// Deadlines delivered in time in one run; later ones come late, as on a busy host.
const MAX_EVENTS: u32 = 4_000;
/// Calls of `on_event` at one instant after which a device counts as stuck.
const EVENTS_PER_INSTANT: u32 = 64;

/// A program of a device: `device!(env86_fuzz::device::chips::uart16550)`.
#[macro_export]
macro_rules! device {
    ($subject:path) => {
        $crate::target!(|| $crate::device::seeds(&$subject()), |data: &[u8]| {
            $crate::device::run(&$subject(), data)
        });
    };
}

/// What reached the host. Only its hash and length are kept.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<(u64, u64)>>);

impl Log {
    /// Takes bytes that reached the host through `channel`.
    pub fn add(&self, channel: u8, bytes: &[u8]) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in bytes {
            log.0 = (log.0 ^ u64::from(*byte) ^ u64::from(channel) << 8).wrapping_mul(0x100_0000_01B3);
            log.1 += 1;
        }
    }

    fn seen(&self) -> (u64, u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does something to a device from the side of the host: a number says what, bytes are for it. Returns what
/// came of it.
pub type Host<D> = fn(&mut D, &mut TestBoard, u8, &[u8]) -> u64;

/// A device under test.
pub struct Subject<D> {
    /// Ranges of ports: first, number.
    pub ports: Vec<(u16, u16)>,
    /// Windows in memory: first byte, length.
    pub mmio: Vec<(u64, u64)>,
    /// A new device whose output goes to the log.
    pub make: fn(&Log) -> D,
    /// What the host does to it.
    pub host: Host<D>,
    /// First port of a virtio device.
    pub virtio: Option<u16>,
    /// Snapshots hold all of its state.
    pub saved: bool,
    /// Writes inputs to start from.
    pub seeds: fn(&mut Seeds),
}

impl<D> Subject<D> {
    /// The `pick`-th port of the ranges, counting round.
    fn port(&self, pick: u16) -> Option<u16> {
        let total: u32 = self.ports.iter().map(|&(_, len)| u32::from(len)).sum();
        let mut index = u32::from(pick).checked_rem(total)?;
        for &(first, len) in &self.ports {
            if index < u32::from(len) {
                return Some(first + index as u16);
            }
            index -= u32::from(len);
        }
        None
    }

    fn address(&self, window: u8, offset: u32) -> Option<u64> {
        let (start, len) = *self.mmio.get(usize::from(window).checked_rem(self.mmio.len())?)?;
        Some(start + u64::from(offset) % len)
    }
}

/// Seeds of a device.
pub fn seeds<D>(subject: &Subject<D>) -> Vec<Vec<u8>> {
    let mut seeds = Seeds::new(&subject.ports, &subject.mmio, subject.virtio);
    (subject.seeds)(&mut seeds);
    seeds.finish()
}

/// A device, its board, and what was seen of it.
struct Bench<'s, D> {
    subject: &'s Subject<D>,
    device: D,
    board: TestBoard,
    log: Log,
    seen: Vec<u64>,
    events: u32,
    rings: virtio::Rings,
}

fn size(code: u8) -> AccessSize {
    match code & 3 {
        0 | 3 => AccessSize::Byte,
        1 => AccessSize::Word,
        _ => AccessSize::Dword,
    }
}

impl<'s, D: Device> Bench<'s, D> {
    fn new(subject: &'s Subject<D>) -> Self {
        let log = Log::default();
        let mut board = TestBoard::new();
        board.dma.channels = [(0x1000, 0x8000); 8];
        let mut device = (subject.make)(&log);
        board.power_up(&mut device, ID);
        Self { subject, device, board, log, seen: Vec::new(), events: 0, rings: virtio::Rings::default() }
    }

    fn see(&mut self, value: impl Into<u64>) {
        self.seen.push(value.into());
    }

    fn apply(&mut self, op: &Op<'_>) {
        match *op {
            Op::Read { pick, size: code } => {
                if let Some(port) = self.subject.port(pick) {
                    let size = size(code);
                    let value = self.device.port_read(&mut self.board.ctx(), port, size);
                    assert_eq!(value.unwrap_or(0) & !size.ones(), 0, "port {port:#x} answers too wide");
                    self.see(value.map_or(u64::MAX, u64::from));
                }
            }
            Op::Write { pick, size: code, value } => {
                if let Some(port) = self.subject.port(pick) {
                    let size = size(code);
                    self.device.port_write(&mut self.board.ctx(), port, size, value & size.ones());
                }
            }
            Op::ReadBlock { pick, size: code, count } => {
                if let Some(port) = self.subject.port(pick) {
                    let (size, count) = (size(code), usize::from(count));
                    let mut out = vec![0; count * size.bytes() as usize];
                    let n = self.device.port_read_block(&mut self.board.ctx(), port, size, &mut out);
                    assert!(n <= count, "more than was asked for");
                    out.truncate(n * size.bytes() as usize);
                    self.see(fold(&out));
                }
            }
            Op::WriteBlock { pick, size: code, data } => {
                if let Some(port) = self.subject.port(pick) {
                    let size = size(code);
                    let count = data.len() / size.bytes() as usize;
                    let whole = &data[..count * size.bytes() as usize];
                    let n = self.device.port_write_block(&mut self.board.ctx(), port, size, whole);
                    assert!(n <= count, "more than was given");
                    self.see(n as u64);
                }
            }
            Op::MmioRead { window, size: code, offset } => {
                if let Some(at) = self.subject.address(window, offset) {
                    let size = size(code);
                    let value = self.device.mmio_read(&mut self.board.ctx(), at, size);
                    assert_eq!(value.unwrap_or(0) & !size.ones(), 0, "address {at:#x} answers too wide");
                    self.see(value.map_or(u64::MAX, u64::from));
                }
            }
            Op::MmioWrite { window, size: code, offset, value } => {
                if let Some(at) = self.subject.address(window, offset) {
                    let size = size(code);
                    self.device.mmio_write(&mut self.board.ctx(), at, size, value & size.ones());
                }
            }
            Op::Advance { ns } => self.advance(ns),
            Op::Late { ns } => {
                self.move_to(self.board.now.saturating_add(ns));
                self.deliver_due();
            }
            Op::Spurious => self.device.on_event(&mut self.board.ctx()),
            Op::Calendar { seconds } => {
                let ns = i64::from(seconds) * 1_000_000_000;
                self.board.wall_ns = self.board.wall_ns.saturating_add_signed(ns);
                // A device need not notice before its next deadline, but a restored one looks at once.
                self.device.on_event(&mut self.board.ctx());
            }
            Op::Reset { cold } => {
                let kind = if cold { ResetKind::Cold } else { ResetKind::Warm };
                self.device.reset(&mut self.board.ctx(), kind);
            }
            Op::Host { kind, data } => {
                let result = (self.subject.host)(&mut self.device, &mut self.board, kind, data);
                self.see(result);
            }
            Op::Ram { at, data } => {
                let _ = self.board.mem.dma_write(at.into(), data);
            }
            Op::Dma { channel, at, count } => {
                if let Some(window) = self.board.dma.channels.get_mut(usize::from(channel & 7)) {
                    *window = (at.into(), count.into());
                }
            }
            Op::Start { features } => {
                if let Some(base) = self.subject.virtio {
                    self.rings.start(&mut self.device, &mut self.board, base, features);
                }
            }
            Op::Chain(ref chain) => {
                if let Some(base) = self.subject.virtio {
                    let seen = self.rings.chain(&mut self.device, &mut self.board, base, chain);
                    self.see(seen);
                }
            }
            Op::Save => {}
        }
        let requests = std::mem::take(&mut self.board.requests);
        self.see(u64::from(requests.reset) | u64::from(requests.power_off) << 1);
        let level = self.board.irq.level();
        self.see(level);
    }

    fn advance(&mut self, ns: u64) {
        let end = self.board.now.saturating_add(ns);
        while self.events < MAX_EVENTS {
            match self.board.events.next_deadline() {
                Some(at) if at <= end => self.move_to(at),
                _ => break,
            }
            self.deliver_due();
        }
        self.move_to(end);
        self.deliver_due();
    }

    fn move_to(&mut self, at: u64) {
        let step = at.saturating_sub(self.board.now);
        self.board.now = self.board.now.max(at);
        self.board.wall_ns = self.board.wall_ns.saturating_add(step);
    }

    fn deliver_due(&mut self) {
        for _ in 0..EVENTS_PER_INSTANT {
            if self.board.events.pop_due(self.board.now).is_none() {
                return;
            }
            self.events += 1;
            self.device.on_event(&mut self.board.ctx());
        }
        panic!("deadlines in the past");
    }

    /// Saves the device and goes on with another one into which that was restored.
    fn replace(&mut self) {
        let saved = self.device.save(&mut self.board.ctx());
        let again = self.device.save(&mut self.board.ctx());
        assert_eq!(saved, again, "saving twice gives the same");
        let copy = DeviceState { v86: saved.v86.clone(), extra: saved.extra.clone() };
        self.board.events = EventQueue::new();
        self.board.irq = IrqLines::new();
        // Output that the host has taken is not taken back.
        let mut device = (self.subject.make)(&self.log);
        self.board.power_up(&mut device, ID);
        if let Err(error) = device.restore(&mut self.board.ctx(), copy) {
            panic!("what was saved is refused: {error:?}");
        }
        let after = device.save(&mut self.board.ctx());
        assert_eq!(saved, after, "restoring and saving gives the same");
        self.device = device;
    }
}

fn fold(bytes: &[u8]) -> u64 {
    bytes.iter().fold(bytes.len() as u64, |v, b| (v ^ u64::from(*b)).wrapping_mul(0x100_0000_01B3))
}

/// The target.
///
/// # Panics
/// If the device does what it must not.
pub fn run<D: Device>(subject: &Subject<D>, data: &[u8]) {
    let input = &mut Input::new(data);
    let mut ops = Vec::new();
    while !input.is_empty() && ops.len() < MAX_OPS {
        ops.push(Op::read(input));
    }
    let mut plain = Bench::new(subject);
    for op in &ops {
        plain.apply(op);
    }
    if !subject.saved || !ops.contains(&Op::Save) {
        return;
    }
    let mut replaced = Bench::new(subject);
    let mut at = 0;
    for (n, op) in ops.iter().enumerate() {
        if *op == Op::Save {
            replaced.replace();
        }
        replaced.apply(op);
        let seen = &replaced.seen[at..];
        let expected = plain.seen.get(at..at + seen.len());
        assert_eq!(Some(seen), expected, "after operation {n}, {op:x?}: restored, and not");
        at = replaced.seen.len();
    }
    assert_eq!(plain.log.seen(), replaced.log.seen(), "what reached the host: not restored, and restored");
    let ram = |bench: &Bench<'_, D>| bench.board.mem.ram().as_slice() == plain.board.mem.ram().as_slice();
    assert!(ram(&replaced), "guest memory differs");
}
