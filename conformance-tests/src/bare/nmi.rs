//! NMIs, which the local APIC sends to its own processor: blocking until IRET, interrupt shadows (SDM vol. 3,
//! chapter 6.7).

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Case, show_at};
use super::layout::*;
use crate::asm;

/// Interrupt command register.
const ICR_LOW: u32 = 0xFEE0_0300;
const ICR_HIGH: u32 = 0xFEE0_0310;
/// Spurious-interrupt vector register.
const SVR: u32 = 0xFEE0_00F0;
const NMI: u32 = 0x400;

/// Sends an NMI and waits until it must have arrived.
fn send(b: &mut Builder) -> Asm {
    b.poke(ICR_LOW, NMI)?;
    let mut wait = b.a.create_label();
    asm!(b; mov(ecx, 100); set_label(&mut wait); dec(ecx); jnz(wait));
    Ok(())
}

/// Appends a digit to the cell.
fn digit(b: &mut Builder, value: i32) -> Asm {
    asm!(b; shl(dword_ptr(CELLS), 4); add(dword_ptr(CELLS), value));
    Ok(())
}

/// A handler that marks its start with 2 and its end with 3, sends another NMI the first time, and does
/// `before_end` ahead of its IRET.
fn handler(b: &mut Builder, before_end: fn(&mut Builder) -> Asm) -> Asm {
    let entry = b.mark();
    let [mut skip, mut once] = std::array::from_fn(|_| b.a.create_label());
    b.a.jmp(skip)?;
    b.place(entry)?;
    b.a.push(ecx)?;
    digit(b, 2)?;
    asm!(b; inc(dword_ptr(CELLS + 4)); cmp(dword_ptr(CELLS + 4), 1); jne(once));
    send(b)?;
    before_end(b)?;
    b.a.set_label(&mut once)?;
    digit(b, 3)?;
    asm!(b; pop(ecx); iretd(); set_label(&mut skip));
    b.idt_gate(2, 0x8E, sel::CODE0, entry)?;
    b.poke(SVR, 0x1FF)?;
    b.poke(ICR_HIGH, 0)
}

/// The program.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    let order = |name: &str| Case::new(name).show(show_at("order", CELLS)).show(show_at("count", CELLS + 4));
    for ring in [0, 3] {
        b.case(
            order(&format!("nmi in its handler waits for iret, ring {ring}")).ring(ring),
            |b| handler(b, |_| Ok(())),
            |b| {
                digit(b, 1)?;
                send(b)?;
                digit(b, 4)
            },
        )?;
    }
    b.case(
        order("two nmis in its handler are one"),
        |b| handler(b, send),
        |b| {
            digit(b, 1)?;
            send(b)?;
            digit(b, 4)
        },
    )?;
    b.case(
        order("any iret in its handler lets the next in"),
        |b| {
            handler(b, |b| {
                let next = b.mark();
                let at = b.addr(next);
                digit(b, 5)?;
                asm!(b; pushfd(); push(cs); push(at as i32); iretd());
                b.place(next)?;
                digit(b, 6)
            })
        },
        |b| {
            digit(b, 1)?;
            send(b)?;
            digit(b, 4)
        },
    )?;
    b.case(
        order("an iret that faults lets the next in, or does not").show(show_at("fault", CELLS + 8)),
        |b| {
            // #GP of an IRET to a null CS; its handler marks it and leaves by its own IRET
            let entry = b.mark();
            let mut skip = b.a.create_label();
            b.a.jmp(skip)?;
            b.place(entry)?;
            digit(b, 7)?;
            asm!(b; add(esp, 4); add(esp, 12); add(esp, 12); mov(dword_ptr(CELLS + 8), 1));
            digit(b, 8)?;
            let after = b.mark();
            let at = b.addr(after);
            asm!(b; pushfd(); push(cs); push(at as i32); iretd());
            b.place(after)?;
            digit(b, 9)?;
            asm!(b; pop(ecx); iretd(); set_label(&mut skip));
            b.idt_gate(13, 0x8E, sel::CODE0, entry)?;
            handler(b, |b| {
                asm!(b; pushfd(); push(0); push(0); iretd());
                Ok(())
            })
        },
        |b| {
            digit(b, 1)?;
            send(b)?;
            digit(b, 4)
        },
    )?;
    b.finish()
}
