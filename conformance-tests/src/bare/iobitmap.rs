//! I/O privilege and the permission bitmap: CPL, IOPL, width, bits of neighbouring ports, where the map ends
//! (SDM vol. 1, chapter 19.5).

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Case};
use super::layout::*;
use crate::asm;

const MAP: u32 = 0x68;
const SLOT: u16 = sel::slot(5);

/// Loads TR with a TSS of this limit whose map starts at `map`, closed at `closed`.
fn tss(b: &mut Builder, limit: u32, map: u32, closed: &[u32]) -> Asm {
    b.descriptor(SLOT, desc::segment(TSS, limit, 0x89, 0))?;
    b.poke(TSS + 0x64, map << 16)?;
    asm!(b; mov(edi, TSS + MAP); mov(ecx, 0x2010 / 4); xor(eax, eax));
    b.a.rep().stosd()?;
    for port in closed {
        asm!(b; or(byte_ptr(TSS + map + port / 8), 1 << (port % 8)));
    }
    asm!(b; mov(eax, u32::from(SLOT)); ltr(ax); xor(eax, eax));
    Ok(())
}

fn access(b: &mut Builder, size: u32, input: bool, port: u32) -> Asm {
    b.a.mov(edx, port)?;
    match (input, size) {
        (true, 1) => b.a.in_(al, dx),
        (true, 2) => b.a.in_(ax, dx),
        (true, _) => b.a.in_(eax, dx),
        (false, 1) => b.a.out(dx, al),
        (false, 2) => b.a.out(dx, ax),
        (false, _) => b.a.out(dx, eax),
    }
}

/// The program.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    for ring in 0..4u16 {
        for iopl in 0..4 {
            b.case(
                Case::new(format!("out, closed map, ring {ring} iopl {iopl}")).ring(ring).eflags(iopl << 12),
                |b| tss(b, MAP + 0x20, MAP, &[0x80]),
                |b| access(b, 1, false, 0x80),
            )?;
        }
    }
    // One closed port around an access.
    for size in [1u32, 2, 4] {
        for port in [0x80u32, 0x81, 0x86, 0x87] {
            for closed in port - 1..=port + size {
                for input in [false, true] {
                    b.case(
                        Case::new(format!(
                            "{} {size} at {port:x}, {closed:x} closed",
                            if input { "in" } else { "out" }
                        ))
                        .ring(3),
                        |b| tss(b, MAP + 0x20, MAP, &[closed]),
                        |b| access(b, size, input, port),
                    )?;
                }
            }
        }
    }
    // The byte behind the map's last must be there.
    for extra in [0x0Eu32, 0x0F, 0x10, 0x11] {
        for port in [0x78u32, 0x7F, 0x80] {
            for size in [1u32, 2] {
                b.case(
                    Case::new(format!("out {size} at {port:x}, limit {extra:x} behind the map")).ring(3),
                    |b| tss(b, MAP + extra, MAP, &[]),
                    |b| access(b, size, false, port),
                )?;
            }
        }
    }
    // Where the map begins.
    for (name, limit, map) in [
        ("map at the limit", MAP, MAP),
        ("map behind the limit", 0x67, MAP),
        ("map far behind", MAP + 0x20, 0xFFFF),
        ("map at 0", MAP + 0x20, 0),
        ("no base in the TSS", 0x65, 0),
        ("half a base in the TSS", 0x66, 0),
    ] {
        b.case(
            Case::new(name).ring(3),
            |b| {
                tss(b, limit, MAP, &[])?;
                b.poke(TSS + 0x64, map << 16)
            },
            |b| access(b, 1, false, 0x80),
        )?;
    }
    b.case(
        Case::new("16-bit TSS").ring(3),
        |b| {
            tss(b, MAP + 0x20, MAP, &[])?;
            b.descriptor(SLOT, desc::segment(TSS, MAP + 0x20, 0x81, 0))?;
            // A fault finds its stack where a 16-bit TSS has it.
            b.poke(TSS + 4, u32::from(sel::DATA16))?;
            b.poke(TSS, 0x7000 << 16)?;
            asm!(b; mov(eax, u32::from(SLOT)); ltr(ax));
            Ok(())
        },
        |b| {
            // The upper half of ESP stays with a 16-bit stack.
            b.a.mov(esp, 0x8000)?;
            access(b, 1, false, 0x80)
        },
    )?;
    // String forms, immediate ports, the last port.
    type Test = fn(&mut Builder) -> Asm;
    let tests: [(&str, Test); 8] = [
        ("in imm", |b| b.a.in_(al, 0x80)),
        ("out imm", |b| b.a.out(0x80, al)),
        ("insb", |b| {
            asm!(b; mov(edx, 0x80); mov(edi, CELLS); insb());
            Ok(())
        }),
        ("outsd", |b| {
            asm!(b; mov(edx, 0x7D); mov(esi, CELLS); outsd());
            Ok(())
        }),
        ("rep outsb of nothing", |b| {
            asm!(b; mov(edx, 0x80); mov(esi, CELLS); xor(ecx, ecx));
            b.a.rep().outsb()
        }),
        ("rep outsb", |b| {
            asm!(b; mov(edx, 0x80); mov(esi, CELLS); mov(ecx, 2));
            b.a.rep().outsb()
        }),
        ("insb to nowhere", |b| {
            asm!(b; mov(edx, 0x80); xor(eax, eax); mov(es, eax); insb());
            Ok(())
        }),
        ("outsb from nowhere", |b| {
            asm!(b; mov(edx, 0x80); xor(eax, eax); mov(ds, eax); outsb());
            Ok(())
        }),
    ];
    for (name, test) in tests {
        for open in [false, true] {
            b.case(
                Case::new(format!("{name}, {}", if open { "open" } else { "closed" })).ring(3),
                |b| tss(b, MAP + 0x20, MAP, if open { &[] } else { &[0x80] }),
                test,
            )?;
        }
    }
    // The whole map, and a dword at the last ports.
    for (extra, size) in [(0x1FFFu32, 1u32), (0x2000, 1), (0x2000, 2), (0x2000, 4)] {
        b.case(
            Case::new(format!("out {size} at ffff, limit {extra:x} behind the map")).ring(3),
            |b| {
                tss(b, MAP + extra, MAP, &[])?;
                b.poke(TSS + MAP + 0x2000, 0xFF)
            },
            |b| access(b, size, false, 0xFFFF),
        )?;
    }
    b.finish()
}
