//! Random guests that reach for every device.

use emu_devices::p9::saved::{RestoreError, SaveError, SavedServer};
pub use emu_devices::testing::random::Random;
use emu_devices::virtio::P9Handler;

use super::{Code, ENTRY};

/// Pieces of a program, and the room of each.
const PIECES: usize = 60;
const PIECE: usize = 32;
/// Where the number of the next piece is.
const NEXT: u32 = 0x1000;

/// One piece: a few instructions that do something in particular.
fn piece(r: &mut Random) -> Vec<u8> {
    let mut c = Code::new();
    match r.below(12) {
        0 => {
            let bytes: Vec<u8> = (0..PIECE - 2).map(|_| r.number() as u8).collect();
            c.bytes(&bytes);
        }
        1..=3 => {
            let (port, value) = (r.port(), r.value());
            match r.below(3) {
                0 => c.out8(port, value as u8),
                1 => c.out16(port, value as u16),
                _ => c.out32(port, value),
            };
        }
        4 => {
            // in al / ax / eax
            let port = r.port();
            c.dx(port).bytes(r.pick(&[&[0xEC][..], &[0x66, 0xED], &[0xED]]));
        }
        5 => {
            // mov edi / esi, address; mov ecx, count; rep ins / outs / stos / movs
            let (to, from, count) = (r.address(), r.address(), r.below(300) as u32);
            let port = r.port();
            c.bytes(&[0xBF]).u32(to).bytes(&[0xBE]).u32(from).bytes(&[0xB9]).u32(count).dx(port);
            c.bytes(&[0xF3, r.pick(&[0x6C, 0x6D, 0x6E, 0x6F, 0xA4, 0xA5, 0xAA, 0xAB])]);
        }
        6 => {
            // mov ebx, address; mov eax, value; then a store, load or read-modify-write
            let (address, value) = (r.address(), r.value());
            c.bytes(&[0xBB]).u32(address).bytes(&[0xB8]).u32(value);
            c.bytes(r.pick(&[
                &[0x88, 0x03][..],
                &[0x66, 0x89, 0x03],
                &[0x89, 0x03],
                &[0x8A, 0x03],
                &[0x8B, 0x03],
                &[0x01, 0x03],
                &[0x0F, 0x11, 0x03],
                &[0xDD, 0x03],
                &[0xFF, 0xE3],
            ]));
        }
        7 | 8 => {
            // configuration space of some function
            let devfn = r.pick(&[0u32, 0x08, 0x28, 0x30, 0x38, 0x90, 0xF0, 0xFF]);
            let (register, value, port) = (r.number() as u32 & 0xFC, r.value(), 0xCFC + r.below(4) as u16);
            c.out32(0xCF8, 0x8000_0000 | devfn << 8 | register);
            match r.below(3) {
                0 => c.out8(port, value as u8),
                1 => c.out16(port, value as u16),
                _ => c.out32(port, value),
            };
        }
        9 => {
            // virtio common configuration as SeaBIOS places it: features, queue, addresses, notify
            let offset =
                r.pick(&[0u16, 4, 8, 12, 0x14, 0x16, 0x18, 0x1A, 0x1C, 0x20, 0x24, 0x28, 0x2C, 0x30, 0x34]);
            let value = r.value();
            match offset {
                0x14 => c.out8(0xC100 + offset, value as u8),
                0x16 | 0x18 | 0x1A | 0x1C => c.out16(0xC100 + offset, value as u16 & 0x3F),
                _ => c.out32(0xC100 + offset, value),
            };
            c.out16(0xC160, 0);
        }
        10 => {
            // MSRs, control registers, descriptor tables, CPUID
            let (index, value) =
                (r.pick(&[0x10u32, 0x1B, 0x174, 0x175, 0x176, 0x277, 0x2FF, 0xC000_0080]), r.value());
            c.bytes(&[0xB9]).u32(index).bytes(&[0xB8]).u32(value);
            c.bytes(r.pick(&[
                &[0x0F, 0x30][..],
                &[0x0F, 0x32],
                &[0x0F, 0xA2],
                &[0x0F, 0x22, 0xC0],
                &[0x0F, 0x22, 0xD8],
                &[0x0F, 0x22, 0xE0],
                &[0x0F, 0x23, 0xF8],
                &[0x0F, 0x00, 0xD0],
                &[0x0F, 0x00, 0xD8],
                &[0x8E, 0xD8],
            ]));
        }
        _ => {
            // sti; nop; hlt and the like
            c.bytes(r.pick(&[
                &[0xFB, 0x90, 0xF4][..],
                &[0xFB, 0x90],
                &[0xFA],
                &[0xCC],
                &[0x0F, 0x0B],
                &[0x9B],
            ]));
        }
    }
    c.0.truncate(PIECE - 2);
    // The rest is INT 3: the handler goes on with the next piece.
    c.0.resize(PIECE, 0xCC);
    c.0
}

/// Pieces, and a handler for all exceptions and interrupts that starts the next one.
pub fn program(r: &mut Random) -> Vec<u8> {
    // mov esp, 9000h; mov al, 20h; out 0A0h, al; out 20h, al; mov eax, [NEXT]; add eax, PIECE;
    // mov [NEXT], eax; jmp eax
    const HANDLER: &[u8] = &[
        0xBC,
        0x00,
        0x90,
        0,
        0,
        0xB0,
        0x20,
        0xE6,
        0xA0,
        0xE6,
        0x20,
        0xA1,
        0,
        0x10,
        0,
        0,
        0x83,
        0xC0,
        PIECE as u8,
        0xA3,
        0,
        0x10,
        0,
        0,
        0xFF,
        0xE0,
    ];
    let mut code = Code::new();
    code.bytes(&[0xE9]).u32(HANDLER.len() as u32).bytes(HANDLER).stack_and_idt(ENTRY + 5);
    // The timer, every 50 microseconds, ends pieces that wait or loop.
    code.pics(r.number() as u8 & 0xFE, r.number() as u8).out8(0x43, 0x34).out8(0x40, 60).out8(0x40, 0);
    // mov dword [NEXT], first piece
    let first = code.here() + 10;
    code.bytes(&[0xC7, 0x05]).u32(NEXT).u32(first);
    for _ in 0..PIECES {
        code.bytes(&piece(r));
    }
    code.halt();
    code.image()
}

/// A file server that answers with what it was asked.
pub struct Parrot;

impl P9Handler for Parrot {
    fn handle(&mut self, request: &[u8], reply: &mut Vec<u8>, _: usize) {
        reply.extend_from_slice(request);
    }
    fn reset(&mut self) {}
    fn save(&mut self) -> Result<SavedServer, SaveError> {
        Ok(SavedServer::default())
    }
    fn restore(&mut self, _: SavedServer) -> Result<(), RestoreError> {
        Ok(())
    }
}
