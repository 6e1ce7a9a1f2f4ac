//! VM86 mode with and without CR4.VME, at IOPL 0 and 3: sensitive instructions, interrupts, faults of 16-bit
//! code, the way in and out (SDM vol. 3, chapter 21).

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Case, show, show_at};
use super::layout::*;
use crate::asm;

/// Segment of the code, which is copied to it.
const CODE_SEG: u16 = 0x1000;
const STACK_SEG: u16 = 0x2000;
const SP: u32 = 0x1000;
const DATA_SEG: u16 = 0x3000;
/// Where the 8086 program's own handler for INT 21h is.
const HANDLER_IP: u16 = 0x200;
const VM: u32 = 1 << 17;
const VIF: u32 = 1 << 19;
const VIP: u32 = 1 << 20;
const VME: u32 = 1;
const IF: u32 = 0x200;

type Code16 = fn(&mut CodeAssembler) -> Asm;

/// TSS with a redirection bitmap (all ones but 21h) and an I/O map of zeros but port 90h.
fn big_tss(b: &mut Builder) -> Asm {
    b.descriptor(sel::slot(5), desc::segment(TSS, 0x88 + 0x20, 0x89, 0))?;
    b.poke(TSS + 0x64, 0x88 << 16)?;
    for n in 0..8 {
        b.poke(TSS + 0x68 + n * 4, if n == 1 { !2 } else { u32::MAX })?;
    }
    for n in 0..10 {
        b.poke(TSS + 0x88 + n * 4, if n == 4 { 0x1_0000 } else { 0 })?;
    }
    asm!(b; mov(eax, u32::from(sel::slot(5))); ltr(ax));
    Ok(())
}

fn vm86(b: &mut Builder, case: Case, eflags: u32, cr4_value: u32, emit: Code16) -> Asm {
    let case = case
        .origin(0)
        .show(show("eflags", rec::EFLAGS))
        .show(show("cs", rec::CS))
        .show(show("sp", rec::OUTER_ESP))
        .show(show_at("stack", u32::from(STACK_SEG) * 16 + SP - 4))
        .show(show_at("below", u32::from(STACK_SEG) * 16 + SP - 8));
    b.case(
        case,
        |b| {
            b.code16(u32::from(CODE_SEG) * 16, 0, |a| {
                emit(a)?;
                a.int(0x40)?;
                a.hlt()
            })?;
            // where jumps lead: hlt
            b.copy(&[0xF4; 4], u32::from(CODE_SEG) * 16 + 0x180)?;
            // its handler: mov bx, 1234h; int 40h; hlt
            let handler = u32::from(CODE_SEG) * 16 + u32::from(HANDLER_IP);
            b.copy(&[0xBB, 0x34, 0x12, 0xCD, 0x40, 0xF4], handler)?;
            b.poke(0x21 * 4, u32::from(CODE_SEG) << 16 | u32::from(HANDLER_IP))?;
            // what a jump beyond 64 KiB finds
            b.copy(&[0xCD, 0x43], u32::from(CODE_SEG) * 16 + 0x1_0000)?;
            for n in 0..8 {
                b.poke(u32::from(STACK_SEG) * 16 + SP - 16 + n * 4, 0)?;
                b.poke(u32::from(DATA_SEG) * 16 + n * 4, 0)?;
            }
            big_tss(b)?;
            asm!(b; mov(eax, cr4_value); mov(cr4, eax));
            asm!(b; xor(eax, eax); xor(ecx, ecx); xor(edx, edx); xor(ebx, ebx); xor(esi, esi); xor(edi, edi));
            Ok(())
        },
        |b| {
            asm!(b;
                push(0);
                push(0);
                push(i32::from(DATA_SEG));
                push(i32::from(DATA_SEG));
                push(i32::from(STACK_SEG));
                push(SP as i32);
                push((VM | eflags | 2) as i32);
                push(i32::from(CODE_SEG));
                push(0);
                iretd();
            );
            Ok(())
        },
    )
}

fn instructions() -> Vec<(&'static str, Code16)> {
    vec![
        ("nop", |a| a.nop()),
        ("cli", |a| a.cli()),
        ("sti", |a| {
            a.sti()?;
            a.nop()
        }),
        ("pushf", |a| a.pushf()),
        ("pushfd", |a| a.pushfd()),
        ("popf 0", |a| {
            a.push(0)?;
            a.popf()
        }),
        ("popf if", |a| {
            a.push(0x202)?;
            a.popf()
        }),
        ("popf iopl nt", |a| {
            a.push(0x7CD7)?;
            a.popf()
        }),
        ("popfd", |a| {
            a.db(&[0x66, 0x68])?;
            a.dd(&[0x24_7ED7])?;
            a.popfd()
        }),
        ("int 21h", |a| a.int(0x21)),
        ("int 50h", |a| a.int(0x50)),
        ("int 20h, no user gate", |a| a.int(0x20)),
        ("int3", |a| a.int3()),
        ("into", |a| {
            a.mov(al, 0x7F)?;
            a.inc(al)?;
            a.db(&[0xCE])
        }),
        ("int1", |a| a.int1()),
        ("iret", |a| {
            a.push(0x7246)?;
            a.push(i32::from(CODE_SEG))?;
            a.push(0x180)?;
            a.iret()
        }),
        ("iret keeps if", |a| {
            a.push(0x46)?;
            a.push(i32::from(CODE_SEG))?;
            a.push(0x180)?;
            a.iret()
        }),
        ("iretd", |a| {
            for value in [0x24_7246u32, u32::from(CODE_SEG), 0x180] {
                a.db(&[0x66, 0x68])?;
                a.dd(&[value])?;
            }
            a.iretd()
        }),
        ("hlt", |a| a.hlt()),
        ("in 80h", |a| {
            a.in_(al, 0x80)?;
            a.xor(ax, ax)
        }),
        ("in 90h", |a| a.in_(al, 0x90)),
        ("out 8fh, ax", |a| a.out(0x8F, ax)),
        ("outsb 90h", |a| {
            a.mov(dx, 0x90)?;
            a.outsb()
        }),
        ("clts", |a| a.clts()),
        ("mov eax, cr0", |a| a.mov(eax, cr0)),
        ("mov cr0, eax", |a| a.mov(cr0, eax)),
        ("mov eax, dr7", |a| a.mov(eax, dr7)),
        ("lgdt", |a| a.lgdt(ptr(0u32))),
        ("sgdt", |a| a.sgdt(ptr(0u32))),
        ("smsw", |a| {
            a.smsw(ax)?;
            a.push(ax)
        }),
        ("lmsw", |a| a.lmsw(ax)),
        ("lldt", |a| a.lldt(ax)),
        ("ltr", |a| a.ltr(ax)),
        ("sldt", |a| a.sldt(ax)),
        ("str", |a| a.str(ax)),
        ("lar", |a| a.lar(ax, cx)),
        ("lsl", |a| a.lsl(ax, cx)),
        ("verr", |a| a.verr(ax)),
        ("arpl", |a| a.arpl(ax, cx)),
        ("invlpg", |a| a.invlpg(ptr(0u32))),
        ("wbinvd", |a| a.wbinvd()),
        ("rdmsr", |a| a.rdmsr()),
        ("rdtsc", |a| {
            a.rdtsc()?;
            a.xor(eax, eax)
        }),
        ("sysenter", |a| a.sysenter()),
        ("sysexit", |a| a.sysexit()),
        ("ud2", |a| a.ud2()),
        ("bound", |a| {
            a.mov(ax, 0xFFFF)?;
            a.bound(ax, ptr(0u32))
        }),
        ("div", |a| {
            a.xor(cx, cx)?;
            a.div(cx)
        }),
        ("word at ffff", |a| {
            a.mov(bx, 0xFFFF)?;
            a.mov(ax, word_ptr(bx))
        }),
        ("byte at ffff", |a| {
            a.mov(bx, 0xFFFF)?;
            a.mov(al, byte_ptr(bx))
        }),
        ("byte at 10000", |a| {
            a.mov(ebx, 0x1_0000)?;
            a.mov(al, byte_ptr(ebx))
        }),
        ("write through cs", |a| a.mov(byte_ptr(0x190u32).cs(), al)),
        ("push at sp 1", |a| {
            a.mov(sp, 1)?;
            a.push(ax)
        }),
        ("pop at sp ffff", |a| {
            a.mov(sp, 0xFFFF)?;
            a.pop(ax)
        }),
        ("push at sp 0", |a| {
            a.xor(sp, sp)?;
            a.push(ax)
        }),
        ("mov es", |a| {
            a.mov(ax, 0x1234)?;
            a.mov(es, ax)?;
            a.push(es)
        }),
        ("jmp far", |a| a.jmp_far(CODE_SEG, 0x180)),
        ("jmp far to segment + 8", |a| a.jmp_far(CODE_SEG + 8, 0x100)),
        ("call far", |a| a.call_far(CODE_SEG, 0x180)),
        ("retf", |a| {
            a.push(i32::from(CODE_SEG))?;
            a.push(0x180)?;
            a.retf()
        }),
        ("jmp far 32-bit beyond the limit", |a| {
            a.db(&[0x66, 0xEA])?;
            a.dd(&[0x1_0000])?;
            a.dw(&[CODE_SEG])
        }),
        ("popf tf", |a| {
            a.push(0x102)?;
            a.popf()?;
            a.nop()
        }),
    ]
}

fn all(b: &mut Builder, cr4_value: u32) -> Asm {
    for (name, emit) in instructions() {
        for iopl in [0, 3] {
            for pending in [0, VIP, VIF] {
                if pending != 0
                    && (cr4_value == 0
                        || !matches!(
                            name,
                            "sti" | "cli" | "popf if" | "popf 0" | "iret" | "pushf" | "int 21h"
                        ))
                {
                    continue;
                }
                let extra = match pending {
                    VIP => ", vip",
                    VIF => ", vif",
                    _ => "",
                };
                let name = format!("{name} iopl {iopl} vme {cr4_value}{extra}");
                vm86(b, Case::new(name), iopl << 12 | IF | pending, cr4_value, emit)?;
            }
        }
    }
    Ok(())
}

/// What the way out of VM86 mode leaves and pushes, through each gate and by each event.
fn ways_out(b: &mut Builder) -> Asm {
    for (name, access) in [("interrupt gate", 0xEEu8), ("trap gate", 0xEF), ("16-bit interrupt gate", 0xE6)] {
        for (target, cs_access) in [("dpl 0", 0x9Bu8), ("dpl 1", 0xBB), ("dpl 3", 0xFB), ("conforming", 0x9F)]
        {
            b.case(
                Case::new(format!("int 50h, {name} to {target}")).origin(0).regs(&[
                    ("cs", rec::CS),
                    ("ds", rec::DS),
                    ("es", rec::ES),
                    ("fs", rec::FS),
                    ("gs", rec::GS),
                    ("eflags", rec::EFLAGS),
                    ("1", rec::EBX),
                    ("2", rec::ECX),
                    ("3", rec::EDX),
                    ("4", rec::ESI),
                    ("5", rec::EBP),
                    ("esp", rec::EDI),
                ]),
                |b| {
                    b.code16(u32::from(CODE_SEG) * 16, 0, |a| {
                        a.int(0x50)?;
                        a.hlt()
                    })?;
                    b.descriptor(sel::slot(0), desc::flat(cs_access))?;
                    if access == 0xE6 {
                        // int 41h
                        b.copy(&[0xCD, 0x41], 0x9000)?;
                        b.poke64(IDT + 0x50 * 8, desc::gate(access, sel::slot(0), 0x9000, 0))?;
                    } else {
                        let hit = b.rt.hit;
                        b.idt_gate(0x50, access, sel::slot(0), hit)?;
                    }
                    big_tss(b)?;
                    asm!(b; xor(eax, eax); xor(ebx, ebx); xor(ecx, ecx); xor(edx, edx); xor(esi, esi); xor(edi, edi));
                    Ok(())
                },
                |b| {
                    for value in [0x7777u32, 0x6666, 0x5555, 0x4444, u32::from(STACK_SEG), SP, VM | 0x3202, u32::from(CODE_SEG), 0] {
                        b.a.push(value as i32)?;
                    }
                    b.a.iretd()
                },
            )?;
        }
    }
    Ok(())
}

/// With and without VME.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    all(&mut b, 0)?;
    all(&mut b, VME)?;
    ways_out(&mut b)?;
    b.finish()
}
