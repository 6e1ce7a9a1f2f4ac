//! Where an external interrupt that is pending is taken: interrupt shadows, and every instruction that sets IF
//! (SDM vol. 3, chapters 6.8.1 and 6.8.3; vol. 2, STI, POPF, IRET, MOV SS).
//!
//! The local APIC sends the interrupt to its own processor while IF is 0, so it pends before the code under test
//! begins.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Case, show_at};
use super::layout::*;
use crate::asm;

/// Local APIC registers: interrupt command, spurious vector, end of interrupt, task priority.
const ICR_LOW: u32 = 0xFEE0_0300;
const ICR_HIGH: u32 = 0xFEE0_0310;
const SVR: u32 = 0xFEE0_00F0;
const EOI: u32 = 0xFEE0_00B0;
const TPR: u32 = 0xFEE0_0080;
const VECTOR: u8 = 0x51;

/// How often the handler ran, the last EIP it returned to, and the EFLAGS pushed.
const COUNT: u32 = CELLS;
const RETURN: u32 = CELLS + 4;
const PUSHED: u32 = CELLS + 8;
const SCRATCH: u32 = CELLS + 0x10;

/// The handler, and the interrupt pending.
fn pend(b: &mut Builder, access: u8) -> Asm {
    let entry = b.mark();
    let mut skip = b.a.create_label();
    b.a.jmp(skip)?;
    b.place(entry)?;
    asm!(b;
        push(eax);
        inc(dword_ptr(COUNT));
        mov(eax, dword_ptr(esp + 4));
        mov(dword_ptr(RETURN), eax);
        mov(eax, dword_ptr(esp + 12));
        mov(dword_ptr(PUSHED), eax);
        mov(dword_ptr(EOI), 0);
        pop(eax);
        iretd();
        set_label(&mut skip);
    );
    b.idt_gate(VECTOR, access, sel::CODE0, entry)?;
    b.poke(SVR, 0x1FF)?;
    b.poke(TPR, 0)?;
    b.poke(ICR_HIGH, 0)?;
    b.poke(ICR_LOW, VECTOR.into())?;
    let mut wait = b.a.create_label();
    asm!(b; mov(ecx, 100); set_label(&mut wait); dec(ecx); jnz(wait); mov(ecx, ss));
    b.poke(SCRATCH, sel::DATA0.into())
}

type Test = fn(&mut Builder) -> Asm;

fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("nothing", |b| {
            asm!(b; nop(); nop());
            Ok(())
        }),
        ("sti", |b| {
            asm!(b; sti(); nop(); nop(); nop());
            Ok(())
        }),
        ("sti sti", |b| {
            asm!(b; sti(); sti(); nop(); nop());
            Ok(())
        }),
        ("sti cli", |b| {
            asm!(b; sti(); cli(); nop(); nop());
            Ok(())
        }),
        ("sti nop cli", |b| {
            asm!(b; sti(); nop(); cli(); nop());
            Ok(())
        }),
        ("sti jmp", |b| {
            let mut next = b.a.create_label();
            asm!(b; sti(); jmp(next); nop(); set_label(&mut next); nop(); nop());
            Ok(())
        }),
        ("sti int", |b| {
            asm!(b; sti(); int(0x44); nop(); nop());
            Ok(())
        }),
        ("sti mov ss", |b| {
            asm!(b; sti(); mov(ss, ecx); nop(); nop());
            Ok(())
        }),
        ("sti hlt", |b| {
            asm!(b; sti(); hlt(); nop());
            Ok(())
        }),
        ("popfd", |b| {
            asm!(b; push(0x202); popfd(); nop(); nop());
            Ok(())
        }),
        ("popfd with IF, popfd without", |b| {
            asm!(b; push(2); push(0x202); popfd(); popfd(); nop(); nop());
            Ok(())
        }),
        ("iretd", |b| {
            let next = b.mark();
            let at = b.addr(next);
            asm!(b; push(0x202); push(cs); push(at as i32); iretd());
            b.place(next)?;
            asm!(b; nop(); nop());
            Ok(())
        }),
        ("popfd behind mov ss", |b| {
            asm!(b; push(0x202); mov(ss, ecx); popfd(); nop(); nop());
            Ok(())
        }),
        ("popfd behind lss", |b| {
            asm!(b; mov(dword_ptr(SCRATCH), esp); mov(dword_ptr(SCRATCH + 4), ecx));
            asm!(b; lss(esp, fword_ptr(SCRATCH)); push(0x202); popfd(); nop(); nop());
            Ok(())
        }),
        ("sti pop ss", |b| {
            asm!(b; push(ecx); sti(); pop(ss); nop(); nop());
            Ok(())
        }),
        ("sti and a fault", |b| {
            asm!(b; sti(); ud2());
            Ok(())
        }),
        ("sti and a loop of one", |b| {
            let mut again = b.a.create_label();
            asm!(b; mov(ecx, 3); sti(); set_label(&mut again); dec(ecx); jnz(again); nop());
            Ok(())
        }),
        ("sti rep stosb", |b| {
            asm!(b; mov(ecx, 8); mov(edi, CELLS + 0x20); sti());
            b.a.rep().stosb()?;
            b.a.nop()
        }),
    ]
}

/// The program.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    for (name, test) in tests() {
        b.case(
            Case::new(format!("pending, {name}"))
                .show(show_at("count", COUNT))
                .show(show_at("eip", RETURN).relative())
                .show(show_at("flags", PUSHED).mask(0x300)),
            |b| pend(b, 0x8E),
            |b| {
                test(b)?;
                // Those that are still pending are taken here, for the next case.
                asm!(b; push(0x202); popfd(); nop(); nop(); cli());
                Ok(())
            },
        )?;
    }
    // Through a trap gate IF stays set; the in-service register keeps the same vector out until EOI.
    b.case(
        Case::new("pending, sti, trap gate")
            .show(show_at("count", COUNT))
            .show(show_at("eip", RETURN).relative()),
        |b| pend(b, 0x8F),
        |b| {
            asm!(b; sti(); nop(); nop(); nop(); cli());
            Ok(())
        },
    )?;
    // Ring 3 with IF, by IRET.
    b.case(
        Case::new("pending, ring 3 with IF")
            .ring(3)
            .eflags(0x200)
            .show(show_at("count", COUNT))
            .show(show_at("eip", RETURN).relative()),
        |b| pend(b, 0x8E),
        |b| {
            asm!(b; nop(); nop());
            Ok(())
        },
    )?;
    b.finish()
}
