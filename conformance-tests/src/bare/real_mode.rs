//! Real mode: interrupts through the IVT, 64 KiB limits, what has no meaning there, big real mode, and the
//! way in and out (SDM vol. 3, chapters 21.1 and 10.9).
//!
//! Exceptions arrive at 16-bit stubs that go back to protected mode and fill in the record.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Case, show, show_at};
use super::layout::*;
use crate::asm;

/// Real-mode code of cases: segment 1000h, offset 0.
const CODE_SEG: u16 = 0x1000;
const STACK_SEG: u16 = 0x2000;
const SP: u32 = 0x1000;
const DATA_SEG: u16 = 0x3000;
/// Stubs for the vectors, and the code behind them.
const STUBS: u32 = 0x8000;
const COMMON: u32 = 0x8800;
/// Code that switches to real mode.
const LEAVE: u32 = 0x8900;
/// GDT pointer and saved SS:SP for the way back.
const GDTR: u32 = 0x8A00;
const SAVED: u32 = 0x8A10;
const VECTORS: u32 = 0x60;

type Code16 = fn(&mut CodeAssembler) -> Asm;

/// IVT, stubs, and the way back to 32-bit code at `resume`.
fn install(b: &mut Builder, resume: u32) -> Asm {
    // mov al is not possible: a stub must keep every register. push imm16; jmp common.
    let mut stubs = Vec::new();
    for vector in 0..VECTORS {
        let at = STUBS + vector * 8;
        let distance = COMMON.wrapping_sub(at + 6) as u16;
        let [low, high] = distance.to_le_bytes();
        stubs.extend([0x68, vector as u8, 0, 0xE9, low, high, 0x90, 0x90]);
    }
    b.copy(&stubs, STUBS)?;
    let ivt: Vec<u8> = (0..VECTORS).flat_map(|vector| (STUBS + vector * 8).to_le_bytes()).collect();
    b.copy(&ivt, 0)?;
    b.copy(&[&GDT_LIMIT.to_le_bytes()[..], &GDT.to_le_bytes()].concat(), GDTR)?;
    // The far jump at the end leads to `resume`, which is patched in behind the copy.
    b.code16(COMMON, COMMON, |a| {
        a.pushad()?;
        a.push(ds)?;
        a.push(es)?;
        a.mov(word_ptr(SAVED).cs(), ss)?;
        a.mov(word_ptr(SAVED + 2).cs(), sp)?;
        a.db(&[0x66])?;
        a.lgdt(ptr(GDTR).cs())?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        // mov eax, resume; push 8; push eax; retfd
        a.db(&[0x66, 0xB8])?;
        a.dd(&[0])?;
        a.db(&[0x66, 0x6A, sel::CODE0 as u8, 0x66, 0x50, 0x66, 0xCB])
    })?;
    // Where the placeholder lies: the code is a constant up to it.
    b.a.mov(eax, resume)?;
    let mut find = b.a.create_label();
    asm!(b;
        mov(edi, COMMON);
        set_label(&mut find);
        inc(edi);
        cmp(word_ptr(edi), 0xB866u32);
        jne(find);
        mov(dword_ptr(edi + 2), eax);
    );
    Ok(())
}

/// Runs 16-bit code in real mode with interrupts' stubs installed.
fn real(b: &mut Builder, case: Case, limit: u16, emit: Code16) -> Asm {
    let case = case.origin(0);
    b.case(
        case,
        |b| {
            let resume = b.mark();
            let mut skip = b.a.create_label();
            asm!(b; jmp(skip));
            b.place(resume)?;
            back(b)?;
            b.a.set_label(&mut skip)?;
            let at = b.addr(resume);
            install(b, at)?;
            b.code16(u32::from(CODE_SEG) * 16, 0, |a| {
                emit(a)?;
                a.int(0x40)
            })?;
            b.copy(&[0xCD, 0x41], u32::from(CODE_SEG) * 16 + 0x180)?;
            // what a jump beyond 64 KiB finds
            b.copy(&[0xCD, 0x43], u32::from(CODE_SEG) * 16 + 0x1_0000)?;
            for n in 0..8 {
                b.poke(u32::from(STACK_SEG) * 16 + SP - 16 + n * 4, 0)?;
                b.poke(u32::from(DATA_SEG) * 16 + n * 4, 0)?;
            }
            // The way there, through a 16-bit code segment.
            b.code16(LEAVE, LEAVE, |a| {
                a.mov(eax, cr0)?;
                a.and(al, 0xFE)?;
                a.mov(cr0, eax)?;
                a.db(&[0xEA])?;
                a.dw(&[LEAVE as u16 + 0x40, 0])
            })?;
            b.code16(LEAVE + 0x40, LEAVE + 0x40, |a| {
                a.mov(ax, u32::from(STACK_SEG))?;
                a.mov(ss, ax)?;
                a.mov(esp, SP)?;
                a.mov(ax, u32::from(DATA_SEG))?;
                a.mov(ds, ax)?;
                a.mov(es, ax)?;
                a.mov(fs, ax)?;
                a.mov(gs, ax)?;
                for reg in [eax, ebx, ecx, edx, esi, edi, ebp] {
                    a.xor(reg, reg)?;
                }
                a.push(2)?;
                a.popf()?;
                a.db(&[0xEA])?;
                a.dw(&[0, CODE_SEG])
            })?;
            let pointer = b.data(&[&limit.to_le_bytes()[..], &[0; 6]].concat());
            asm!(b;
                lidt(ptr(pointer));
                mov(eax, u32::from(sel::DATA16));
                mov(ds, eax);
                mov(es, eax);
                mov(fs, eax);
                mov(gs, eax);
                mov(ss, eax);
            );
            Ok(())
        },
        |b| {
            asm!(b; mov(esp, 0x7000); jmp_far(sel::CODE16, LEAVE));
            Ok(())
        },
    )
}

/// Protected mode again: the record from what the stub pushed.
fn back(b: &mut Builder) -> Asm {
    let field = |offset: u32| dword_ptr(RECORD + offset);
    asm!(b;
        mov(eax, u32::from(sel::DATA0));
        mov(ds, eax);
        mov(es, eax);
        mov(ss, eax);
        movzx(ebx, word_ptr(SAVED));
        mov(field(rec::SS), ebx);
        shl(ebx, 4);
        movzx(esi, word_ptr(SAVED + 2));
        // ES DS, then what PUSHAD left, vector, IP, CS, FLAGS
        lea(eax, dword_ptr(esi + 42));
        mov(field(rec::FRAME), eax);
        add(esi, ebx);
        movzx(eax, word_ptr(esi));
        mov(field(rec::ES), eax);
        movzx(eax, word_ptr(esi + 2));
        mov(field(rec::DS), eax);
        add(esi, 4);
        mov(edi, RECORD + rec::EDI);
        mov(ecx, 8);
    );
    b.a.rep().movsd()?;
    asm!(b;
        movzx(eax, word_ptr(esi));
        mov(field(rec::VECTOR), eax);
        mov(field(rec::ERROR), -1);
        movzx(eax, word_ptr(esi + 2));
        mov(field(rec::EIP), eax);
        movzx(eax, word_ptr(esi + 4));
        mov(field(rec::CS), eax);
        movzx(eax, word_ptr(esi + 6));
        mov(field(rec::EFLAGS), eax);
        mov(esp, STACK0);
        push(2);
        popfd();
        jmp(dword_ptr(RESUME));
    );
    Ok(())
}

fn instructions() -> Vec<(&'static str, Code16)> {
    vec![
        ("int 50h", |a| a.int(0x50)),
        ("int3", |a| a.int3()),
        ("into", |a| {
            a.mov(al, 0x7F)?;
            a.inc(al)?;
            a.db(&[0xCE])
        }),
        ("div", |a| a.div(cx)),
        ("bound", |a| {
            a.mov(ax, 0xFFFF)?;
            a.bound(ax, ptr(0u32))
        }),
        ("ud2", |a| a.ud2()),
        ("sti cli pushf", |a| {
            a.sti()?;
            a.pushf()?;
            a.cli()?;
            a.pop(bx)
        }),
        ("popf all", |a| {
            a.push(0x7ED7)?;
            a.popf()
        }),
        ("popfd", |a| {
            a.db(&[0x66, 0x68])?;
            a.dd(&[0x24_0002])?;
            a.popfd()?;
            a.pushfd()?;
            a.pop(ebx)
        }),
        ("iret", |a| {
            a.push(0x7202)?;
            a.push(i32::from(CODE_SEG))?;
            a.push(0x180)?;
            a.iret()
        }),
        ("iretd", |a| {
            for value in [0x24_3202u32, u32::from(CODE_SEG), 0x180] {
                a.db(&[0x66, 0x68])?;
                a.dd(&[value])?;
            }
            a.iretd()
        }),
        ("word at ffff", |a| {
            a.mov(bx, 0xFFFF)?;
            a.mov(ax, word_ptr(bx))
        }),
        ("dword at fffd", |a| {
            a.mov(bx, 0xFFFD)?;
            a.mov(eax, dword_ptr(bx))
        }),
        ("write at ffff", |a| {
            a.mov(bx, 0xFFFF)?;
            a.mov(word_ptr(bx), ax)
        }),
        ("byte at 10000", |a| {
            a.mov(ebx, 0x1_0000)?;
            a.mov(al, byte_ptr(ebx))
        }),
        ("word through bp at ffff", |a| {
            a.mov(bp, 0xFFFF)?;
            a.mov(ax, word_ptr(bp))
        }),
        ("pop at sp ffff", |a| {
            a.mov(sp, 0xFFFF)?;
            a.pop(ax)
        }),
        ("write through cs", |a| {
            a.mov(word_ptr(0x190u32).cs(), 0x1234u32)?;
            a.mov(bx, word_ptr(0x190u32).cs())
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
        ("jmp 32-bit beyond the limit", |a| {
            a.mov(ebx, 0x1_0000)?;
            a.jmp(ebx)
        }),
        ("lldt", |a| a.lldt(ax)),
        ("ltr", |a| a.ltr(ax)),
        ("sldt", |a| a.sldt(ax)),
        ("str", |a| a.str(ax)),
        ("lar", |a| a.lar(ax, cx)),
        ("lsl", |a| a.lsl(ax, cx)),
        ("verr", |a| a.verr(ax)),
        ("verw", |a| a.verw(ax)),
        ("arpl", |a| a.arpl(ax, cx)),
        ("smsw", |a| {
            a.smsw(ax)?;
            a.mov(bx, ax)
        }),
        ("lmsw ts", |a| {
            a.mov(ax, 8)?;
            a.lmsw(ax)?;
            a.smsw(bx)?;
            a.clts()
        }),
        ("sgdt", |a| {
            a.sgdt(ptr(0u32))?;
            a.mov(bx, word_ptr(0u32))
        }),
        ("mov eax, cr0", |a| {
            a.mov(eax, cr0)?;
            a.mov(ebx, eax)
        }),
        ("sysenter", |a| a.sysenter()),
        ("sysexit", |a| a.sysexit()),
        ("lock nop", |a| a.db(&[0xF0, 0x90])),
        ("sixteen bytes", |a| a.db(&[0x66; 16])),
        ("mov cs", |a| a.db(&[0x8E, 0xC8])),
        ("mov segment 6", |a| a.db(&[0x8E, 0xF0])),
        ("push sp", |a| {
            a.push(sp)?;
            a.pop(bx)
        }),
        ("pushad", |a| {
            a.mov(ebx, 0x1234_5678)?;
            a.pushad()?;
            a.add(sp, 32)
        }),
        ("enter leave", |a| {
            a.enter(8, 2)?;
            a.mov(bx, bp)?;
            a.leave()
        }),
        ("rdmsr", |a| {
            a.mov(ecx, 0x174)?;
            a.rdmsr()?;
            a.xor(eax, eax)?;
            a.xor(edx, edx)
        }),
        ("wbinvd", |a| a.wbinvd()),
        ("invlpg", |a| a.invlpg(ptr(0u32))),
        ("out", |a| a.out(0x80, al)),
    ]
}

/// Big real mode: what a descriptor left in the hidden part of a segment register stays.
fn unreal(b: &mut Builder) -> Asm {
    b.poke(PAGES, 0x5A5A_1234)?;
    let case = Case::new("big real mode").regs(&[("ebx", rec::EBX)]);
    real(b, case, 0x3FF, |a| {
        a.mov(es, bx)?;
        a.db(&[0x66])?;
        a.lgdt(ptr(GDTR).es())?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        a.mov(bx, u32::from(sel::DATA0))?;
        a.mov(fs, bx)?;
        a.and(al, 0xFE)?;
        a.mov(cr0, eax)?;
        a.mov(esi, PAGES)?;
        a.mov(ebx, dword_ptr(esi).fs())
    })?;
    let case = Case::new("big real mode, segment loaded again").regs(&[("ebx", rec::EBX)]);
    real(b, case, 0x3FF, |a| {
        a.mov(es, bx)?;
        a.db(&[0x66])?;
        a.lgdt(ptr(GDTR).es())?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        a.mov(bx, u32::from(sel::DATA0))?;
        a.mov(fs, bx)?;
        a.and(al, 0xFE)?;
        a.mov(cr0, eax)?;
        a.xor(bx, bx)?;
        a.mov(fs, bx)?;
        a.mov(esi, PAGES)?;
        a.mov(ebx, dword_ptr(esi).fs())
    })
}

/// The program.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    for (name, emit) in instructions() {
        let case = Case::new(format!("real {name}"))
            .show(show("flags", rec::EFLAGS).mask(0xFFFF))
            .show(show("cs", rec::CS))
            .show(show("frame", rec::FRAME))
            .show(show("ebx", rec::EBX))
            .show(show_at("stack", u32::from(STACK_SEG) * 16 + SP - 4));
        real(&mut b, case, 0x3FF, emit)?;
    }
    // The IVT's limit: the entry of vector 50h ends at 143h.
    for limit in [0x142u16, 0x143] {
        real(&mut b, Case::new(format!("real int 50h, IDT limit {limit:x}")), limit, |a| a.int(0x50))?;
    }
    unreal(&mut b)?;
    // Last: a processor that lets this through does not come back.
    real(&mut b, Case::new("real mov cr0, PG without PE"), 0x3FF, |a| {
        a.mov(eax, 0x8000_0010u32)?;
        a.mov(cr0, eax)
    })?;
    b.finish()
}
