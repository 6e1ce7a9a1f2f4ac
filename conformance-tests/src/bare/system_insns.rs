//! Privileged and sensitive instructions in every ring, LMSW and SMSW, table registers, and what CR4 changes
//! (SDM vol. 3, chapters 2.8 and 5.9).

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Case, show, show_at};
use super::layout::*;
use crate::asm;

type Test = fn(&mut Builder) -> Asm;

fn privileges(b: &mut Builder) -> Asm {
    let tests: [(&str, Test); 30] = [
        ("hlt", |b| b.a.hlt()),
        ("cli", |b| b.a.cli()),
        ("sti", |b| b.a.sti()),
        ("clts", |b| b.a.clts()),
        ("invd", |b| b.a.invd()),
        ("wbinvd", |b| b.a.wbinvd()),
        ("lgdt", |b| b.a.lgdt(ptr(CELLS + 0x20))),
        ("lidt", |b| b.a.lidt(ptr(CELLS + 0x28))),
        ("sgdt", |b| b.a.sgdt(ptr(CELLS))),
        ("sidt", |b| b.a.sidt(ptr(CELLS))),
        ("sldt", |b| b.a.sldt(eax)),
        ("sldt memory", |b| b.a.sldt(word_ptr(CELLS))),
        ("str", |b| b.a.str(eax)),
        ("str memory", |b| b.a.str(word_ptr(CELLS))),
        ("smsw ax", |b| b.a.smsw(ax)),
        ("smsw eax", |b| b.a.smsw(eax)),
        ("smsw memory", |b| b.a.smsw(word_ptr(CELLS))),
        ("lmsw ax", |b| b.a.lmsw(cx)),
        ("lldt", |b| b.a.lldt(dx)),
        ("ltr", |b| b.a.ltr(dx)),
        ("mov eax, dr7", |b| b.a.mov(eax, dr7)),
        ("mov dr7, ecx", |b| b.a.mov(dr7, edx)),
        ("in al, 80h", |b| b.a.in_(al, 0x80)),
        ("out 80h, al", |b| b.a.out(0x80, al)),
        ("insb", |b| {
            asm!(b; mov(edi, CELLS); mov(edx, 0x80); insb());
            Ok(())
        }),
        ("outsb", |b| {
            asm!(b; mov(esi, CELLS); mov(edx, 0x80); outsb());
            Ok(())
        }),
        ("rdtsc", |b| {
            asm!(b; rdtsc(); xor(eax, eax));
            Ok(())
        }),
        ("rdmsr", |b| {
            asm!(b; mov(ecx, 0x174); rdmsr());
            Ok(())
        }),
        ("wrmsr", |b| {
            asm!(b; mov(ecx, 0x174); wrmsr());
            Ok(())
        }),
        ("cpuid", |b| {
            asm!(b; cpuid(); xor(eax, eax));
            Ok(())
        }),
    ];
    for (name, test) in tests {
        for ring in 0..4 {
            if ring == 0 && matches!(name, "hlt" | "ltr" | "in al, 80h" | "insb") {
                continue;
            }
            for iopl in [0, 3] {
                b.case(
                    Case::new(format!("{name} ring {ring} iopl {iopl}"))
                        .ring(ring)
                        .eflags(iopl << 12)
                        .show(show("eax", rec::EAX))
                        .show(show("flags", rec::EFLAGS).mask(0x18_7F00))
                        .show(show_at("cell", CELLS)),
                    |b| {
                        // What LGDT and LIDT load is what is there.
                        asm!(b;
                            sgdt(ptr(CELLS + 0x20));
                            sidt(ptr(CELLS + 0x28));
                            mov(eax, 0x1234_5678);
                            mov(ecx, 0x11);
                            xor(edx, edx);
                        );
                        Ok(())
                    },
                    |b| {
                        if name.starts_with("in ") || name == "insb" {
                            // The value of an empty port does not matter.
                            test(b)?;
                            asm!(b; xor(eax, eax); mov(dword_ptr(CELLS), eax));
                            return Ok(());
                        }
                        test(b)
                    },
                )?;
            }
        }
    }
    Ok(())
}

fn machine_status(b: &mut Builder) -> Asm {
    for value in [0u32, 1, 2, 4, 8, 0xE, 0xF, 0x10, 0xFFF0, 0xFFFF] {
        for start in [0x11u32, 0x1F, 0x3F] {
            b.case(
                Case::new(format!("lmsw {value:x} over {start:x}"))
                    .regs(&[("cr0", rec::CR0), ("eax", rec::EAX)]),
                |b| {
                    asm!(b; mov(eax, start); mov(cr0, eax); mov(ecx, value));
                    Ok(())
                },
                |b| {
                    asm!(b; lmsw(cx); smsw(eax));
                    Ok(())
                },
            )?;
        }
    }
    // TS, EM and MP against x87, MMX, SSE and WAIT.
    let tests: [(&str, Test); 6] = [
        ("fnop", |b| b.a.fnop()),
        ("wait", |b| b.a.wait()),
        ("fninit", |b| b.a.fninit()),
        ("emms", |b| b.a.emms()),
        ("movaps", |b| b.a.movaps(xmm0, xmm1)),
        ("fxsave", |b| b.a.fxsave(ptr(PAGES))),
    ];
    for (name, test) in tests {
        for bits in 0..8 {
            for cr4_value in [0u32, 0x200] {
                b.case(
                    Case::new(format!("{name} mp {} em {} ts {} osfxsr {}", bits & 1, bits >> 1 & 1, bits >> 2, cr4_value >> 9)),
                    |b| {
                        asm!(b; mov(eax, cr4_value); mov(cr4, eax); mov(eax, 0x31 | bits << 1); mov(cr0, eax));
                        Ok(())
                    },
                    test,
                )?;
            }
        }
    }
    Ok(())
}

fn tables(b: &mut Builder) -> Asm {
    // The base has 24 bits with a 16-bit operand size.
    for (name, wide) in [("32-bit", true), ("16-bit", false)] {
        for (what, opcode) in [("gdt", 2u8), ("idt", 3)] {
            b.case(
                Case::new(format!("l{what} {name}, s{what}"))
                    .show(show_at("limit", CELLS + 0x40).mask(0xFFFF))
                    .show(show_at("base", CELLS + 0x42)),
                |b| {
                    asm!(b; sgdt(ptr(CELLS + 0x20)); sidt(ptr(CELLS + 0x28)));
                    b.poke(CELLS, 0x5678_1234)?;
                    b.poke(CELLS + 4, 0x9ABC)?;
                    let [b0, b1, b2, b3] = CELLS.to_le_bytes();
                    let mut code = vec![0x0F, 0x01, 5 | opcode << 3, b0, b1, b2, b3];
                    if !wide {
                        code.insert(0, 0x66);
                    }
                    b.a.db(&code)?;
                    if opcode == 2 {
                        asm!(b; sgdt(ptr(CELLS + 0x40)); lgdt(ptr(CELLS + 0x20)));
                    } else {
                        asm!(b; sidt(ptr(CELLS + 0x40)); lidt(ptr(CELLS + 0x28)));
                    }
                    Ok(())
                },
                |_| Ok(()),
            )?;
        }
    }
    // IDT limits.
    for limit in [0x50 * 8 - 1, 0x50 * 8 + 6, 0x50 * 8 + 7u32] {
        for ring in [0, 3] {
            b.case(
                Case::new(format!("int 50h with IDT limit {limit:x} ring {ring}")).ring(ring),
                |b| {
                    asm!(b; sidt(ptr(CELLS)); mov(word_ptr(CELLS), limit); lidt(ptr(CELLS)));
                    Ok(())
                },
                |b| b.a.int(0x50),
            )?;
        }
    }
    for limit in [0xFFu32, 0x100, 0x106, 0x107] {
        b.case(
            Case::new(format!("mov ds, 100h with GDT limit {limit:x}")),
            |b| {
                b.descriptor(sel::slot(0), desc::flat(0x93))?;
                asm!(b; sgdt(ptr(CELLS)); mov(word_ptr(CELLS), limit); lgdt(ptr(CELLS)); mov(eax, 0x100));
                Ok(())
            },
            |b| b.a.mov(ds, eax),
        )?;
    }
    // With a 16-bit operand size the upper half of a memory operand is not written.
    b.case(
        Case::new("mov ecx, ds").regs(&[("ecx", rec::ECX)]),
        |b| b.a.mov(ecx, 0xFFFF_FFFFu32),
        |b| b.a.mov(ecx, ds),
    )?;
    b.case(
        Case::new("push ds, 32-bit").show(show_at("slot", STACK0 - 4).mask(0xFFFF)),
        |_| Ok(()),
        |b| {
            asm!(b; push(ds); pop(eax));
            Ok(())
        },
    )
}

/// POPF and PUSHF: IOPL and IF by ring and IOPL.
fn flags(b: &mut Builder) -> Asm {
    for ring in [0, 1, 3] {
        for iopl in [0, 1, 3] {
            for image in [0u32, 0x3200, 0x24_7EFF & !0x100, 0x1F_0200 & !0x2_0000] {
                for wide in [true, false] {
                    b.case(
                        Case::new(format!(
                            "popf{} {image:x} ring {ring} iopl {iopl}",
                            if wide { "d" } else { "w" }
                        ))
                        .ring(ring)
                        .eflags(iopl << 12 | 0x4_0000)
                        .show(show("eflags", rec::EFLAGS)),
                        |b| b.a.mov(eax, image),
                        |b| {
                            asm!(b; push(eax));
                            if wide { b.a.popfd() } else { b.a.popf() }
                        },
                    )?;
                }
            }
        }
    }
    // VM and RF cannot be set by POPF, nor are they pushed.
    b.case(
        Case::new("popfd with VM and RF").show(show("eflags", rec::EFLAGS)),
        |b| b.a.mov(eax, 0x3_0002),
        |b| {
            asm!(b; push(eax); popfd());
            Ok(())
        },
    )?;
    for (name, value) in [("tsd ring 0", 0), ("tsd ring 3", 3)] {
        b.case(
            Case::new(format!("rdtsc with {name}")).ring(value),
            |b| {
                asm!(b; mov(eax, 4); mov(cr4, eax));
                Ok(())
            },
            |b| b.a.rdtsc(),
        )?;
    }
    Ok(())
}

/// SYSENTER and SYSEXIT.
fn fast_calls(b: &mut Builder) -> Asm {
    for cs_value in [0u32, 3, 8, 0xB, 0x1_0008] {
        for ring in [0, 3] {
            b.case(
                Case::new(format!("sysenter cs {cs_value:x} ring {ring}"))
                    .ring(ring)
                    .eflags(0x3200)
                    .show(show("cs", rec::CS))
                    .show(show("ss", rec::SS))
                    .show(show("eflags", rec::EFLAGS))
                    .show(show("esp", rec::EDI)),
                |b| {
                    let hit = b.addr(b.rt.hit);
                    asm!(b;
                        xor(edx, edx);
                        mov(ecx, 0x174);
                        mov(eax, cs_value);
                        wrmsr();
                        inc(ecx);
                        mov(eax, INNER0 - 0x40);
                        wrmsr();
                        inc(ecx);
                        mov(eax, hit);
                        wrmsr();
                    );
                    Ok(())
                },
                |b| b.a.sysenter(),
            )?;
            b.case(
                Case::new(format!("sysexit cs {cs_value:x} ring {ring}"))
                    .ring(ring)
                    .show(show("cs", rec::CS))
                    .show(show("ss", rec::OUTER_SS))
                    .show(show("esp", rec::OUTER_ESP)),
                |b| {
                    let hit = b.addr(b.rt.hit);
                    b.descriptor(0x18, desc::flat(0xFB))?;
                    b.descriptor(0x20, desc::flat(0xF3))?;
                    asm!(b;
                        xor(edx, edx);
                        mov(ecx, 0x174);
                        mov(eax, cs_value);
                        wrmsr();
                        mov(edx, hit);
                        mov(ecx, OUTER - 0x40);
                    );
                    Ok(())
                },
                |b| b.a.sysexit(),
            )?;
        }
    }
    Ok(())
}

/// The program.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    privileges(&mut b)?;
    machine_status(&mut b)?;
    tables(&mut b)?;
    flags(&mut b)?;
    fast_calls(&mut b)?;
    b.finish()
}
