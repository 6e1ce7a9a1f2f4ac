//! A guest that does what a table in its memory says: device accesses, interrupts, 9P requests.
//!
//! It is the guest of mutated snapshots. Whatever is changed in the table makes it do something else, so
//! that changing bytes of memory changes what happens to the devices.

use emu_core::snapshot::Value;

use super::random::Random;
use crate::machine::{Boot, LinuxBoot};
use crate::p9::wire::{self, Writer, request};
use crate::virtio::spec::desc as descriptor_flags;

/// Where the image is loaded: code, then a page each of vectors, table, virtqueue, requests.
const LOAD: u32 = 0x10_0000;
const ENTRY: u32 = LOAD + 32;
const VECTORS: u32 = LOAD + 0x1000;
const TABLE: u32 = LOAD + 0x2000;
const RING: u32 = LOAD + 0x3000;
const REQUESTS: u32 = LOAD + 0x4000;
const REPLIES: u32 = LOAD + 0x6000;
const STACK: u32 = 0x9000;

/// Entries of the virtqueue. The last descriptor is the reply of all requests, the others are one each.
const QUEUE: u32 = 32;
/// Bytes kept for a request.
const REQUEST: u32 = 256;
const AVAILABLE: u32 = RING + QUEUE * 16;
const USED: u32 = AVAILABLE + 0x200;

/// Ports the guest gives to virtio-9p; what firmware assigned depends on which other devices there are.
const P9_COMMON: u16 = 0xD000;
const P9_NOTIFY: u16 = 0xD100;
/// Addresses of the two registers in configuration space.
const P9_COMMON_BAR: u32 = 0x8000_3010;
const P9_NOTIFY_BAR: u32 = 0x8000_3014;

/// What the guest changes or reads: places that are worth damaging.
pub const PLACES: [(u32, u32); 5] =
    [(ENTRY, 0x180), (VECTORS, 0x800), (TABLE, 0x800), (RING, 0x800), (REQUESTS, 0x2000)];

/// Operations of the table, each with an address or port and a value.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Op {
    /// Goes back to the second part of the table.
    Again = 0,
    Out8,
    Out16,
    Out32,
    In8,
    In16,
    In32,
    Store,
    Load,
    /// Adds one to a word in memory.
    Count,
    /// Lets interrupts in.
    Listen,
    /// Waits for one.
    Wait,
    Fill,
    Fpu,
    WriteMsr,
}

/// The machine code of each operation: EDX is the address or port, EAX the value.
const OPERATIONS: [&[u8]; 16] = [
    &[0xBE, 0, 0, 0, 0],                                     // mov esi, second part
    &[0xEE],                                                 // out dx, al
    &[0x66, 0xEF],                                           // out dx, ax
    &[0xEF],                                                 // out dx, eax
    &[0xEC],                                                 // in al, dx
    &[0x66, 0xED],                                           // in ax, dx
    &[0xED],                                                 // in eax, dx
    &[0x89, 0x02],                                           // mov [edx], eax
    &[0x8B, 0x02],                                           // mov eax, [edx]
    &[0x66, 0xFF, 0x02],                                     // inc word [edx]
    &[0xFB, 0x90],                                           // sti; nop
    &[0xFB, 0xF4],                                           // sti; hlt
    &[0x89, 0xD7, 0xB9, 64, 0, 0, 0, 0xF3, 0xAA],            // mov edi, edx; mov ecx, 64; rep stosb
    &[0xD9, 0xEB, 0xD9, 0xFA, 0xDD, 0x1A, 0x0F, 0x10, 0x02], // fldpi; fsqrt; fstp [edx]; movups xmm0, [edx]
    &[0x89, 0xD1, 0x31, 0xD2, 0x0F, 0x30],                   // mov ecx, edx; xor edx, edx; wrmsr
    &[0xFF, 0xE2],                                           // jmp edx
];
/// Room for each.
const OPERATION: usize = 16;

fn code(second_part: u32) -> Vec<u8> {
    let mut code = Vec::new();
    let jump = |code: &mut Vec<u8>, to: u32| {
        let from = ENTRY + code.len() as u32 + 5;
        code.push(0xE9);
        code.extend(to.wrapping_sub(from).to_le_bytes());
    };
    // mov esp, STACK; lidt [VECTORS - 8]; mov esi, TABLE; fninit
    code.push(0xBC);
    code.extend(STACK.to_le_bytes());
    code.extend([0x0F, 0x01, 0x1D]);
    code.extend((VECTORS - 8).to_le_bytes());
    code.push(0xBE);
    code.extend(TABLE.to_le_bytes());
    code.extend([0xDB, 0xE3]);
    let next = ENTRY + code.len() as u32;
    // mov eax, [esi]; mov edx, [esi+4]; mov ecx, [esi+8]; add esi, 12; and eax, 15; shl eax, 4;
    // add eax, operations; xchg eax, ecx; jmp ecx
    code.extend([0x8B, 0x06, 0x8B, 0x56, 0x04, 0x8B, 0x4E, 0x08, 0x83, 0xC6, 0x0C, 0x83, 0xE0, 0x0F]);
    code.extend([0xC1, 0xE0, 0x04, 0x05]);
    let operations = ENTRY + code.len() as u32 + 4 + 3;
    code.extend(operations.to_le_bytes());
    code.extend([0x91, 0xFF, 0xE1]);
    for operation in OPERATIONS {
        let end = code.len() + OPERATION;
        code.extend(operation);
        if operation.first() == Some(&0xBE) {
            code.truncate(end - OPERATION + 1);
            code.extend(second_part.to_le_bytes());
        }
        jump(&mut code, next);
        code.resize(end, 0x90);
    }
    // Interrupts and exceptions: forget what was interrupted, go on with the table.
    let handler = ENTRY + code.len() as u32;
    code.push(0xBC);
    code.extend(STACK.to_le_bytes());
    // mov al, 20h; out A0h, al; out 20h, al; mov [FEE000B0h], eax
    code.extend([0xB0, 0x20, 0xE6, 0xA0, 0xE6, 0x20, 0xA3, 0xB0, 0x00, 0xE0, 0xFE]);
    jump(&mut code, next);
    code.resize((VECTORS - 8 - ENTRY) as usize, 0);
    // The operand of lidt, then 256 interrupt gates.
    code.extend(2047u16.to_le_bytes());
    code.extend(VECTORS.to_le_bytes());
    code.extend([0, 0]);
    for _ in 0..256 {
        let [a, b, c, d] = handler.to_le_bytes();
        code.extend([a, b, 0x08, 0x00, 0x00, 0x8E, c, d]);
    }
    code
}

fn page(image: &mut Vec<u8>, address: u32, content: &[u8]) {
    image.resize((address - LOAD) as usize, 0);
    image.extend(content);
}

type Entry = (Op, u32, u32);

/// Before the loop: interrupt controllers, timers, sound card, disk, floppy, keyboard, and virtio-9p.
fn setup() -> Vec<Entry> {
    use Op::{In8, Out8, Out16, Out32};
    let mut table: Vec<Entry> = Vec::new();
    let bytes: &[(u32, u32)] = &[
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, 0x01),
        (0xA0, 0x11),
        (0xA1, 0x28),
        (0xA1, 0x02),
        (0xA1, 0x01),
        (0x21, 0),
        (0xA1, 0),
        // PIT: 20 kHz, and a tone. RTC: periodic interrupt.
        (0x43, 0x34),
        (0x40, 60),
        (0x40, 0),
        (0x43, 0xB6),
        (0x42, 100),
        (0x42, 1),
        (0x61, 3),
        (0x70, 0x0A),
        (0x71, 0x23),
        (0x70, 0x0B),
        (0x71, 0x42),
        // 8042: scan codes, mouse reporting.
        (0x60, 0xF4),
        (0x64, 0xD4),
        (0x60, 0xF4),
        (0x64, 0x60),
        (0x60, 0x47),
        // UART: interrupts, FIFO.
        (0x3F9, 0x0F),
        (0x3FA, 0xC7),
        (0x3FB, 0x03),
        (0x3FC, 0x0B),
        // Sound: 8-bit auto-initialized DMA on channel 1, 22 kHz.
        (0x0B, 0x59),
        (0x0C, 0),
        (0x02, 0),
        (0x02, 0x80),
        (0x03, 0xFF),
        (0x03, 0),
        (0x83, 0),
        (0x0A, 1),
        (0x22C, 0xD1),
        (0x22C, 0x40),
        (0x22C, 0xD3),
        (0x22C, 0x48),
        (0x22C, 0x7F),
        (0x22C, 0),
        (0x22C, 0x1C),
        // Floppy: reset, specify.
        (0x3F2, 0x1C),
        (0x3F5, 3),
        (0x3F5, 0xDF),
        (0x3F5, 2),
        (0x3F5, 8),
        // Disk: identify. Network card: start, receive ring.
        (0x1F6, 0xE0),
        (0x1F7, 0xEC),
        (0x300, 0x21),
        (0x301, 0x46),
        (0x302, 0x80),
        (0x303, 0x46),
        (0x30D, 0x02),
        (0x30F, 0xFF),
        (0x300, 0x22),
        // VGA: start address, a palette entry.
        (0x3D4, 0x0C),
        (0x3D5, 1),
        (0x3C8, 5),
        (0x3C9, 1),
        (0x3C9, 2),
    ];
    table.extend(bytes.iter().map(|(port, value)| (Out8, *port, *value)));
    table.push((In8, 0x3DA, 0));
    table.push((Out8, 0x3C0, 0x20));
    // Local APIC: on, periodic timer.
    table.extend(
        [(0xF0, 0x1FF), (0x3E0, 3), (0x320, 0x2_0030), (0x380, 5000)]
            .map(|(register, value)| (Op::Store, 0xFEE0_0000 + register, value)),
    );
    let common = |offset: u32| u32::from(P9_COMMON) + offset;
    let p9: &[Entry] = &[
        (Out32, 0xCF8, P9_COMMON_BAR),
        (Out32, 0xCFC, P9_COMMON as u32),
        (Out32, 0xCF8, P9_NOTIFY_BAR),
        (Out32, 0xCFC, P9_NOTIFY as u32),
        (Out8, common(0x14), 0),
        (Out8, common(0x14), 3),
        (Out32, common(8), 1),
        (Out32, common(12), 1),
        (Out8, common(0x14), 11),
        (Out16, common(0x16), 0),
        (Out16, common(0x18), QUEUE),
        (Out32, common(0x20), RING),
        (Out32, common(0x24), 0),
        (Out32, common(0x28), AVAILABLE),
        (Out32, common(0x2C), 0),
        (Out32, common(0x30), USED),
        (Out32, common(0x34), 0),
        (Out16, common(0x1C), 1),
        (Out8, common(0x14), 15),
    ];
    table.extend(p9);
    table
}

/// Again and again.
fn work() -> Vec<Entry> {
    use Op::{Count, Fill, Fpu, In8, In16, In32, Listen, Load, Out8, Out16, Store, Wait, WriteMsr};
    let request: [Entry; 2] = [(Count, AVAILABLE + 2, 0), (Out16, u32::from(P9_NOTIFY), 0)];
    let mut table = Vec::new();
    for _ in 0..4 {
        table.extend(request);
    }
    let accesses: &[Entry] = &[
        (Out8, 0x3F8, 0x41),
        (Listen, 0, 0),
        (In8, 0x60, 0),
        (In8, 0x64, 0),
        (In16, 0x1F0, 0),
        (Out8, 0x70, 0x0C),
        (In8, 0x71, 0),
        (In8, 0x40, 0),
        (Store, 0xB_8000, 0x0741_0742),
        (Load, 0xE000_0010, 0),
        (Store, 0xA_0010, 0x1234),
        (Fpu, 0x8000, 0),
        (Out8, 0x22C, 0x10),
        (Out8, 0x22C, 0x55),
        (In8, 0x22E, 0),
        (Out8, 0x300, 0x22),
        (In8, 0x307, 0),
        (Wait, 0, 0),
        (In32, 0xB008, 0),
        (Load, 0xFEE0_0390, 0),
        (WriteMsr, 0x174, 8),
        (Fill, 0x7000, 0x5A),
        (Out8, 0x3F5, 8),
        (In8, 0x3F5, 0),
        (In8, 0x3F5, 0),
        (Out8, 0x80, 0),
        (In8, 0x61, 0),
        (Out8, 0x379, 1),
        (In8, 0x3DA, 0),
        (In32, 0xCFC, 0),
    ];
    table.extend(accesses);
    table.push((Op::Again, 0, 0));
    table
}

/// The requests of a session, in the order in which they are sent, again and again.
fn requests() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut ask = |kind: u8, fill: &dyn Fn(&mut Fields<'_>)| {
        let mut message = Vec::new();
        if let Ok(writer) = Writer::new(&mut message, REQUEST as usize, kind, 1) {
            let mut fields = Fields(writer);
            fill(&mut fields);
            fields.0.finish();
        }
        all.push(message);
    };
    ask(request::VERSION, &|f| f.u32(&[8192]).text(b"9P2000.L").end());
    ask(request::ATTACH, &|f| f.u32(&[0, wire::NO_FID]).text(b"").text(b"").u32(&[wire::NO_UID]).end());
    let walk = |from: u32, to: u32, names: &'static [&'static [u8]]| {
        move |f: &mut Fields<'_>| {
            f.u32(&[from, to]).u16(names.len() as u16);
            names.iter().for_each(|name| f.text(name).end());
        }
    };
    ask(request::WALK, &walk(0, 1, &[]));
    ask(request::LCREATE, &|f| f.u32(&[1]).text(b"new").u32(&[2, 0o600, 7]).end());
    ask(request::WRITE, &|f| f.u32(&[1]).u64(&[3]).u32(&[5]).bytes(b"hello").end());
    ask(request::WRITE, &|f| f.u32(&[1]).u64(&[200_000]).u32(&[5]).bytes(b"far  ").end());
    ask(request::WALK, &walk(0, 2, &[]));
    ask(request::MKDIR, &|f| f.u32(&[0]).text(b"dir").u32(&[0o755, 0]).end());
    ask(request::MKDIR, &|f| f.u32(&[0]).text(b"gone").u32(&[0o755, 0]).end());
    ask(request::SYMLINK, &|f| f.u32(&[0]).text(b"link").text(b"dir/x").u32(&[0]).end());
    ask(request::MKNOD, &|f| f.u32(&[0]).text(b"tty").u32(&[0o020_666, 5, 1, 0]).end());
    ask(request::LOPEN, &|f| f.u32(&[2, 0]).end());
    ask(request::READDIR, &|f| f.u32(&[2]).u64(&[0]).u32(&[100]).end());
    ask(request::LOCK, &|f| f.u32(&[1]).bytes(&[1]).u32(&[0]).u64(&[3, 4]).u32(&[42]).text(b"guest").end());
    ask(request::LOCK, &|f| f.u32(&[1]).bytes(&[0]).u32(&[0]).u64(&[100, 0]).u32(&[43]).text(b"g").end());
    ask(request::GETATTR, &|f| f.u32(&[1]).u64(&[0x7FF]).end());
    ask(request::UNLINKAT, &|f| f.u32(&[0]).text(b"gone").u32(&[wire::AT_REMOVEDIR]).end());
    ask(request::WALK, &walk(0, 3, &[b"dir"]));
    ask(request::RENAMEAT, &|f| f.u32(&[0]).text(b"new").u32(&[3]).text(b"moved").end());
    ask(request::WALK, &walk(0, 4, &[b"etc", b"motd"]));
    ask(request::LOPEN, &|f| f.u32(&[4, 2]).end());
    ask(request::READ, &|f| f.u32(&[4]).u64(&[1]).u32(&[100]).end());
    ask(request::WRITE, &|f| f.u32(&[4]).u64(&[2]).u32(&[2]).bytes(b"XX").end());
    ask(request::SETATTR, &|f| f.u32(&[4, 0x1FF, 0o640, 1, 2]).u64(&[7, 1 << 40, 5, 77, 6]).end());
    ask(request::WALK, &walk(0, 9000, &[b"etc", b"large"]));
    ask(request::LOPEN, &|f| f.u32(&[9000, 0]).end());
    ask(request::READ, &|f| f.u32(&[9000]).u64(&[100_000]).u32(&[500]).end());
    ask(request::LINK, &|f| f.u32(&[3, 4]).text(b"second").end());
    ask(request::WALK, &walk(1, 5, &[]));
    ask(request::UNLINKAT, &|f| f.u32(&[3]).text(b"moved").u32(&[0]).end());
    ask(request::GETLOCK, &|f| f.u32(&[1]).bytes(&[1]).u64(&[0, 0]).u32(&[9]).text(b"o").end());
    all
}

/// Fields of a request. They fit: a request has [`REQUEST`] bytes.
struct Fields<'a>(Writer<'a>);

impl Fields<'_> {
    fn u32(&mut self, values: &[u32]) -> &mut Self {
        for v in values {
            let _ = self.0.u32(*v);
        }
        self
    }
    fn u64(&mut self, values: &[u64]) -> &mut Self {
        for v in values {
            let _ = self.0.u64(*v);
        }
        self
    }
    fn u16(&mut self, value: u16) -> &mut Self {
        let _ = self.0.u16(value);
        self
    }
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let _ = self.0.bytes(bytes);
        self
    }
    fn text(&mut self, text: &[u8]) -> &mut Self {
        let _ = self.0.string(text);
        self
    }
    fn end(&mut self) {}
}

fn ring(requests: &[Vec<u8>]) -> Vec<u8> {
    let mut ring = Vec::new();
    let mut descriptor = |address: u32, len: u32, flags: u16, next: u16| {
        ring.extend(u64::from(address).to_le_bytes());
        ring.extend(len.to_le_bytes());
        ring.extend(flags.to_le_bytes());
        ring.extend(next.to_le_bytes());
    };
    let last = QUEUE - 1;
    for n in 0..last {
        let len = requests.get(n as usize).map_or(0, |request| request.len() as u32);
        descriptor(REQUESTS + n * REQUEST, len, descriptor_flags::NEXT, last as u16);
    }
    descriptor(REPLIES, 1024, descriptor_flags::WRITE, 0);
    ring.extend([0; 4]);
    ring.extend((0..QUEUE).flat_map(|n| ((n % last) as u16).to_le_bytes()));
    ring
}

/// What to boot.
pub fn boot() -> Boot {
    const MAGIC: u32 = 0x1BAD_B002;
    const FLAGS: u32 = 1 << 16;
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(FLAGS);
    let header = [MAGIC, FLAGS, checksum, LOAD, LOAD, 0, 0, ENTRY];
    let mut image: Vec<u8> = header.iter().flat_map(|v| v.to_le_bytes()).collect();
    let words = |table: Vec<Entry>| -> Vec<u8> {
        table
            .iter()
            .flat_map(|(op, at, value)| [*op as u32, *at, *value])
            .flat_map(u32::to_le_bytes)
            .collect()
    };
    let setup = words(setup());
    image.extend(code(TABLE + setup.len() as u32));
    page(&mut image, TABLE, &[setup, words(work())].concat());
    let requests = requests();
    page(&mut image, RING, &ring(&requests));
    for (n, request) in requests.iter().take(QUEUE as usize - 1).enumerate() {
        page(&mut image, REQUESTS + n as u32 * REQUEST, request);
    }
    Boot::Linux(LinuxBoot { kernel: image, ..LinuxBoot::default() })
}

/// A random entry of the table, for putting anywhere in it: some access to some device.
pub fn random_entry(r: &mut Random) -> [u8; 12] {
    let op = r.below(16) as u32;
    let at = match op {
        7..=9 | 12 | 13 => r.address(),
        14 => r.pick(&[0x10, 0x1B, 0x174, 0x175, 0x176, 0x277, 0x2FF, 0x800]),
        _ => u32::from(r.port()),
    };
    let mut entry = [0; 12];
    let words = [op, at, r.value()];
    for (to, byte) in entry.iter_mut().zip(words.into_iter().flat_map(u32::to_le_bytes)) {
        *to = byte;
    }
    entry
}

/// True if the session of a saved virtio-9p has all its fids: the guest is near the end of its requests.
pub fn has_session(p9: &Value) -> bool {
    let Value::Array(items) = p9 else { return false };
    matches!(items.get(8), Some(Value::Array(fids)) if fids.len() > 4)
}
