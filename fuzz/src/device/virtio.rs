//! A guest's driver for virtio devices, and the subjects that are such devices.

use emu_core::bus::AccessSize::{self, Byte, Dword, Word};
use emu_devices::device::Device;
use emu_devices::p9::saved::{RestoreError, SaveError, SavedServer};
use emu_devices::testing::TestBoard;
use emu_devices::virtio::P9Handler;
use emu_devices::virtio::spec::{common, desc, status};
use emu_devices::virtio::{
    ConsoleSink, Offload, Slot, VirtioBalloon, VirtioConsole, VirtioDevice, VirtioNet, VirtioP9, VirtioPci,
    VirtioRng,
};

use super::network::Wire;
use super::script::Seeds;
use super::{Log, Subject, fold, sessions};
use crate::files;
use crate::input::{Input, Seed};

/// Queue q's rings lie at (q + 1) * RINGS: table, available ring, used ring.
const RINGS: u64 = 0x1_0000;
const AVAIL: u64 = 0x8000;
const USED: u64 = 0xC000;
/// Buffers of the first chain; each chain has the same room.
const BUFFERS: u64 = 0x10_0000;
const CHAIN: u64 = 0x8000;
const CHAINS: u64 = 16;
/// Queues that have room for rings.
const QUEUES: usize = 12;

/// Offsets of the regions from a function's first port.
const COMMON: u16 = 0x200;
const NOTIFY: u16 = 0x300;

/// A chain of buffers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain<'a> {
    /// Queue.
    pub queue: u8,
    /// Bit 0: the first four bytes become the length of the data (a 9P message). Bit 1: a table of its
    /// own. Bit 2: no notification. Bits 5:3 and 7:6: how many buffers the data are spread over, and
    /// how many buffers the device can write.
    pub form: u8,
    /// Bytes of each buffer the device can write.
    pub room: u16,
    /// What the device reads.
    pub data: &'a [u8],
}

impl<'a> Chain<'a> {
    /// Reads one.
    pub fn read(input: &mut Input<'a>) -> Self {
        let (queue, form, room, len) = (input.u8(), input.u8(), input.u16(), input.u16() & 0x1FFF);
        Self { queue, form, room, data: input.bytes(len.into()) }
    }

    /// Writes it.
    pub fn write(&self) -> Seed {
        let head = Seed::new().u8(self.queue).u8(self.form).u16(self.room);
        head.u16(self.data.len() as u16).bytes(self.data)
    }
}

/// The driver's side of the queues.
#[derive(Default)]
pub struct Rings {
    available: [u16; QUEUES],
    sizes: [u16; QUEUES],
    chains: u64,
}

fn output<D: Device>(device: &mut D, board: &mut TestBoard, port: u16, size: AccessSize, value: u32) {
    device.port_write(&mut board.ctx(), port, size, value);
}

impl Rings {
    /// Initialisation as the specification describes it (3.1.1).
    pub fn start<D: Device>(&mut self, device: &mut D, board: &mut TestBoard, base: u16, features: u64) {
        let at = |field: u16| base + COMMON + field;
        output(device, board, at(common::DEVICE_STATUS), Byte, 0);
        output(device, board, at(common::DEVICE_STATUS), Byte, (status::ACKNOWLEDGE | status::DRIVER).into());
        for half in 0..2u32 {
            output(device, board, at(common::DEVICE_FEATURE_SELECT), Dword, half);
            let offered = device.port_read(&mut board.ctx(), at(common::DEVICE_FEATURE), Dword).unwrap_or(0);
            output(device, board, at(common::DRIVER_FEATURE_SELECT), Dword, half);
            let wanted = (features >> (32 * half)) as u32 & offered;
            output(device, board, at(common::DRIVER_FEATURE), Dword, wanted);
        }
        let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        output(device, board, at(common::DEVICE_STATUS), Byte, ready.into());
        let queues = device.port_read(&mut board.ctx(), at(common::NUM_QUEUES), Word).unwrap_or(0);
        for q in 0..queues.min(QUEUES as u32) {
            let table = RINGS * (u64::from(q) + 1);
            output(device, board, at(common::QUEUE_SELECT), Word, q);
            let size = device.port_read(&mut board.ctx(), at(common::QUEUE_SIZE), Word).unwrap_or(0);
            self.sizes[q as usize] = size as u16;
            for (field, value) in [
                (common::QUEUE_DESC, table),
                (common::QUEUE_AVAIL, table + AVAIL),
                (common::QUEUE_USED, table + USED),
            ] {
                output(device, board, at(field), Dword, value as u32);
                output(device, board, at(field + 4), Dword, 0);
            }
            output(device, board, at(common::QUEUE_ENABLE), Word, 1);
            for ring in [table + AVAIL, table + USED] {
                let _ = board.mem.dma_write(ring, &[0; 4]);
            }
        }
        self.available = [0; QUEUES];
        output(device, board, at(common::DEVICE_STATUS), Byte, (ready | status::DRIVER_OK).into());
    }

    /// Puts a chain into its queue. Tells what the device made of the buffers of this chain so far.
    pub fn chain<D: Device>(
        &mut self,
        device: &mut D,
        board: &mut TestBoard,
        base: u16,
        chain: &Chain<'_>,
    ) -> u64 {
        let q = usize::from(chain.queue) % QUEUES;
        let size = match self.sizes[q] {
            0 => 16,
            size => size,
        };
        let mut data = chain.data.to_vec();
        let len = data.len() as u32;
        if chain.form & 1 != 0
            && let Some(head) = data.get_mut(..4)
        {
            head.copy_from_slice(&len.to_le_bytes());
        }
        let start = BUFFERS + self.chains % CHAINS * CHAIN;
        self.chains += 1;
        let _ = board.mem.dma_write(start, &data);
        // Buffers: the data in pieces, then room.
        let mut buffers = Vec::new();
        let pieces = usize::from(chain.form >> 3 & 7);
        if pieces > 0 && !data.is_empty() {
            let piece = data.len().div_ceil(pieces).max(1);
            buffers.extend(
                (0..data.len())
                    .step_by(piece)
                    .map(|at| (start + at as u64, piece.min(data.len() - at) as u32, 0u16)),
            );
        }
        for n in 0..u64::from(chain.form >> 6) {
            let at = start + 0x2000 + n * 0x2000;
            buffers.push((at, chain.room.into(), desc::WRITE));
        }
        let table = RINGS * (q as u64 + 1);
        let index = self.available[q];
        let indirect = chain.form & 2 != 0;
        let first = if indirect { 0 } else { index.wrapping_mul(4) % size };
        let last = buffers.len().saturating_sub(1);
        let mut descriptors = Vec::new();
        for (n, (at, len, flags)) in buffers.iter().enumerate() {
            let next = if n == last { 0 } else { desc::NEXT };
            let following = (u32::from(first) + n as u32 + 1) % if indirect { 0x1_0000 } else { size.into() };
            descriptors.push((*at, *len, flags | next, following as u16));
        }
        let mut put = |at: u64, (address, len, flags, next): (u64, u32, u16, u16)| {
            let bytes = Seed::new().u64(address).u32(len).u16(flags).u16(next);
            let _ = board.mem.dma_write(at, &bytes.0);
        };
        let head = index % size;
        let head = if indirect {
            let own = start + CHAIN - 0x200;
            for (n, d) in descriptors.iter().enumerate() {
                put(own + 16 * n as u64, *d);
            }
            put(table + 16 * u64::from(head), (own, 16 * descriptors.len() as u32, desc::INDIRECT, 0));
            head
        } else {
            for (n, d) in descriptors.iter().enumerate() {
                put(table + 16 * ((u64::from(first) + n as u64) % u64::from(size)), *d);
            }
            first
        };
        let ring = table + AVAIL;
        let _ = board.mem.dma_write(ring + 4 + 2 * u64::from(index % size), &head.to_le_bytes());
        self.available[q] = index.wrapping_add(1);
        let _ = board.mem.dma_write(ring + 2, &self.available[q].to_le_bytes());
        if chain.form & 4 == 0 {
            let at = base + COMMON;
            output(device, board, at + common::QUEUE_SELECT, Word, q as u32);
            let offset = device.port_read(&mut board.ctx(), at + common::QUEUE_NOTIFY_OFF, Word).unwrap_or(0);
            output(device, board, base + NOTIFY + 2 * (offset as u16 & 31), Word, q as u32);
        }
        let used = board.mem.dma_read_u16(table + USED + 2).unwrap_or(0);
        let written = board.mem.dma_slice(start + 0x2000, 0x100).map_or(0, fold);
        written ^ u64::from(used) << 48
    }
}

/// `D` in `slot`; what is written to the log is up to `make`.
fn subject<D: VirtioDevice>(
    slot: Slot,
    make: fn(&Log) -> VirtioPci<D>,
    host: super::Host<VirtioPci<D>>,
    seeds: fn(&mut Seeds),
) -> Subject<VirtioPci<D>> {
    let ports = make(&Log::default()).port_ranges();
    Subject { ports, mmio: Vec::new(), make, host, virtio: Some(slot.ports), saved: true, seeds }
}

/// All features.
const ALL: u64 = u64::MAX;

/// Buffers for the device to write, 64 bytes each.
fn room(queue: u8) -> Chain<'static> {
    Chain { queue, form: 1 << 6, room: 64, data: &[] }
}

fn data(queue: u8, data: &[u8]) -> Chain<'_> {
    Chain { queue, form: 2 << 3, room: 0, data }
}

/// A file server that answers with what it was asked, and has nothing to save.
struct Parrot;

impl P9Handler for Parrot {
    fn handle(&mut self, request: &[u8], reply: &mut Vec<u8>, max: usize) {
        reply.extend_from_slice(&request[..request.len().min(max)]);
    }
    fn reset(&mut self) {}
    fn save(&mut self) -> Result<SavedServer, SaveError> {
        Ok(SavedServer::default())
    }
    fn restore(&mut self, _: SavedServer) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// virtio-9p before a server that repeats: the transport and the rings.
pub fn virtio_9p() -> Subject<VirtioPci<VirtioP9>> {
    subject(
        Slot::P9,
        |_| VirtioPci::new(VirtioP9::new("host9p", Box::new(Parrot)), Slot::P9),
        |_, _, _, _| 0,
        |s| {
            let ask = |form| Chain { queue: 0, form, room: 64, data: b"0123456789abcdef" };
            s.start(ALL).chain(&ask(2 << 6 | 2 << 3)).save().chain(&ask(1 << 6 | 1 << 3 | 2)).chain(&ask(0));
            s.another().start(0).chain(&ask(1 << 6 | 3 << 3)).chain(&ask(1 << 6 | 3 << 3 | 4)).save();
            s.chain(&ask(3 << 6 | 7 << 3));
        },
    )
}

/// virtio-9p before the file server that guests have, with 9P messages.
pub fn sessions() -> Subject<VirtioPci<VirtioP9>> {
    subject(
        Slot::P9,
        |_| VirtioPci::new(VirtioP9::new("host9p", Box::new(files::server())), Slot::P9),
        |_, _, _, _| 0,
        |s| {
            s.start(ALL);
            for (n, message) in sessions::messages().iter().enumerate() {
                let form = 1 | 1 << 6 | (1 + n as u8 % 3) << 3 | if n % 4 == 3 { 2 } else { 0 };
                s.chain(&Chain { queue: 0, form, room: 0x1000, data: message });
                if n % 9 == 8 {
                    s.save();
                }
            }
            // Each message alone, after the beginning of a session.
            for message in sessions::messages().iter().skip(2) {
                s.another().start(ALL);
                for message in sessions::messages().iter().take(4).chain([message, message]) {
                    s.chain(&Chain { queue: 0, form: 0x49, room: 0x1000, data: message });
                }
                s.save();
                s.chain(&Chain { queue: 0, form: 0x49, room: 0x1000, data: message });
            }
        },
    )
}

/// virtio-net.
pub fn virtio_net() -> Subject<VirtioPci<VirtioNet>> {
    subject(
        Slot::NET,
        |log| {
            let cable = Box::new(Wire(log.clone()));
            VirtioPci::new(VirtioNet::new([2, 0, 0, 0, 0, 1], 1500, Offload::Tcp, cable), Slot::NET)
        },
        |device, board, _, frame| device.receive(&mut board.ctx(), frame).into(),
        |s| {
            let frame = [&[0; 12][..], &[0xFF; 6], &[2, 0, 0, 0, 0, 1, 8, 0], &[7; 60]].concat();
            let big = Chain { queue: 0, form: 2 << 6, room: 1600, data: &[] };
            s.start(ALL).chain(&big).chain(&big).chain(&data(1, &frame)).host(0, &frame[12..]).save();
            s.host(0, &frame[12..]).host(0, &[1; 1514]).chain(&Chain {
                queue: 2,
                form: 0x48,
                room: 1,
                data: &[4, 0, 1],
            });
            s.chain(&Chain { queue: 2, form: 0x48, room: 1, data: &[1, 1, 2, 0, 0, 0, 0, 9] });
            s.another().start(1 << 32).chain(&data(1, &frame)).chain(&big).host(0, &frame);
        },
    )
}

struct Screen(Log);

impl ConsoleSink for Screen {
    fn output(&mut self, port: u8, bytes: &[u8]) {
        self.0.add(port, bytes);
    }
}

/// virtio-console.
pub fn virtio_console() -> Subject<VirtioPci<VirtioConsole>> {
    subject(
        Slot::CONSOLE,
        |log| VirtioPci::new(VirtioConsole::new(Box::new(Screen(log.clone()))), Slot::CONSOLE),
        |device, board, kind, data| match data {
            [cols, rows, ..] if kind & 0x80 != 0 => {
                device.resize(&mut board.ctx(), (*cols).into(), (*rows).into());
                0
            }
            _ => device.input(&mut board.ctx(), kind, data) as u64,
        },
        |s| {
            s.start(ALL).chain(&room(2)).chain(&room(2)).chain(&room(2)).chain(&room(0)).chain(&room(4));
            // DEVICE_READY, PORT_READY and PORT_OPEN of ports 0 and 1
            for message in [[0u8, 0, 0, 1], [0, 0, 3, 1], [0, 0, 6, 1], [1, 0, 3, 1], [1, 0, 6, 1]] {
                let [port, _, event, value] = message;
                s.chain(&data(3, &[port, 0, 0, 0, event, 0, value, 0])).chain(&room(2));
            }
            s.chain(&data(1, b"hello")).host(0, b"input").save().host(1, b"more").chain(&data(5, b"x"));
            s.host(0x80, &[100, 40]).chain(&room(0)).host(0, &[b'a'; 100]);
        },
    )
}

/// virtio-balloon.
pub fn virtio_balloon() -> Subject<VirtioPci<VirtioBalloon>> {
    subject(
        Slot::BALLOON,
        |_| VirtioPci::new(VirtioBalloon::new(), Slot::BALLOON),
        |device, board, kind, data| {
            match kind % 3 {
                0 => {
                    let pages = data.iter().take(4).fold(0, |v, b| v << 8 | u32::from(*b));
                    device.set_target(&mut board.ctx(), pages);
                }
                1 => device.request_stats(&mut board.ctx()),
                _ => device.request_free_pages(&mut board.ctx()),
            }
            u64::from(device.device().actual()) ^ device.device().zeroed().map_or(1 << 63, |n| n << 32)
        },
        |s| {
            let pages: Vec<u8> = (0x150u32..0x158).flat_map(u32::to_le_bytes).collect();
            let stats: Vec<u8> = [4u8, 0, 1, 2, 3, 0, 0, 0, 0, 0, 5, 0, 9, 9, 0, 0, 0, 0, 0, 0].to_vec();
            s.start(ALL).host(0, &[0, 8]).chain(&data(0, &pages)).chain(&data(2, &stats)).host(1, &[]).save();
            s.chain(&data(2, &stats)).host(2, &[]).chain(&data(3, &[0, 0, 0, 0])).chain(&room(3));
            s.chain(&data(1, &pages)).host(0, &[0]).chain(&data(3, &[1, 0, 0, 0]));
        },
    )
}

/// virtio-rng.
pub fn virtio_rng() -> Subject<VirtioPci<VirtioRng>> {
    subject(
        Slot::RNG,
        |_| VirtioPci::new(VirtioRng::new(Box::new(|out| out.fill(4))), Slot::RNG),
        |_, _, _, _| 0,
        |s| {
            s.start(ALL).chain(&room(0)).save().chain(&Chain {
                queue: 0,
                form: 3 << 6,
                room: 4096,
                data: &[],
            });
            s.chain(&Chain { queue: 0, form: 1 << 6 | 2, room: 65_535, data: &[] }).chain(&data(0, b"abc"));
        },
    )
}
