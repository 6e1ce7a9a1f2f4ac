//! Exceptions while an exception is delivered: double faults, serial delivery, shutdown (SDM vol. 3, tables
//! 6-4 and 6-5).

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Case, show};
use super::layout::*;
use crate::asm;

type Test = fn(&mut Builder) -> Asm;
/// Spoils the delivery of a vector.
type Spoil = fn(&mut Builder, u8) -> Asm;

const RING1: u16 = sel::slot(0);
const STACK1: u16 = sel::slot(1);
const ABSENT: u16 = sel::slot(2);
const PAGE: u32 = 0x3F_F000;

/// First events, their vectors, and code of ring 3 that raises them.
fn firsts() -> Vec<(&'static str, u8, Test)> {
    vec![
        ("#DE", 0, |b| {
            asm!(b; xor(ecx, ecx); div(ecx));
            Ok(())
        }),
        ("#DB by TF", 1, |b| {
            asm!(b; push(0x102); popfd(); nop());
            Ok(())
        }),
        ("INT3", 3, |b| b.a.int3()),
        ("INTO", 4, |b| {
            asm!(b; mov(al, 0x7F); inc(al); db(&[0xCE]));
            Ok(())
        }),
        ("#BR", 5, |b| {
            asm!(b; mov(eax, -1); bound(eax, ptr(CELLS)));
            Ok(())
        }),
        ("#UD", 6, |b| b.a.ud2()),
        ("#NM", 7, |b| b.a.fnop()),
        ("INT 0Ah", 10, |b| b.a.int(10)),
        ("#NP", 11, |b| {
            asm!(b; mov(eax, u32::from(ABSENT) | 3); mov(ds, eax));
            Ok(())
        }),
        ("#SS", 12, |b| {
            asm!(b; mov(eax, u32::from(sel::slot(3)) | 3); mov(ss, eax));
            Ok(())
        }),
        ("#GP", 13, |b| b.a.cli()),
        ("#PF", 14, |b| b.a.mov(eax, dword_ptr(0x4000_0000u32))),
        ("INT 50h", 0x50, |b| b.a.int(0x50)),
    ]
}

/// How the delivery of the first event fails. For INT instructions the gate has rights for ring 3.
fn seconds() -> Vec<(&'static str, Spoil)> {
    fn entry(b: &mut Builder, vector: u8, gate: u64) -> Asm {
        b.poke64(IDT + u32::from(vector) * 8, gate)
    }
    vec![
        ("gate absent", |b, v| entry(b, v, desc::gate(0x6E, sel::CODE0, 0, 0))),
        ("gate of another type", |b, v| entry(b, v, desc::gate(0xEC, sel::CODE0, 0, 0))),
        ("null cs", |b, v| entry(b, v, desc::gate(0xEE, 0, 0, 0))),
        ("absent cs", |b, v| {
            b.descriptor(sel::slot(4), desc::flat(0x1B))?;
            entry(b, v, desc::gate(0xEE, sel::slot(4), 0, 0))
        }),
        ("null inner ss", |b, v| {
            b.poke(TSS + 16, 0)?;
            entry(b, v, desc::gate(0xEE, RING1, 0, 0))
        }),
        ("absent inner ss", |b, v| {
            b.descriptor(STACK1, desc::flat(0x33))?;
            b.poke(TSS + 16, u32::from(STACK1) | 1)?;
            entry(b, v, desc::gate(0xEE, RING1, 0, 0))
        }),
        ("inner stack not mapped", |b, v| {
            b.poke(TSS + 12, PAGE + 0x800)?;
            entry(b, v, desc::gate(0xEE, RING1, 0, 0))
        }),
    ]
}

/// The first 4 MiB mapped to themselves for all rings, but for one page.
fn paging(b: &mut Builder) -> Asm {
    let mut next = b.a.create_label();
    asm!(b; mov(edi, PAGE_DIR); mov(ecx, 1024); xor(eax, eax));
    b.a.rep().stosd()?;
    b.poke(PAGE_DIR, PAGE_TABLES | 7)?;
    asm!(b;
        mov(edi, PAGE_TABLES);
        mov(eax, 7);
        set_label(&mut next);
        mov(dword_ptr(edi), eax);
        add(eax, 0x1000);
        add(edi, 4);
        cmp(eax, 0x40_0000);
        jb(next);
    );
    b.poke(PAGE_TABLES + (PAGE >> 12) * 4, 0)?;
    asm!(b; mov(eax, PAGE_DIR); mov(cr3, eax); mov(eax, 0x8000_0019u32); mov(cr0, eax));
    Ok(())
}

/// Every first event with every second.
fn pairs(b: &mut Builder) -> Asm {
    for (first, vector, raise) in firsts() {
        for (second, spoil) in seconds() {
            b.case(
                Case::new(format!("{first}, {second}"))
                    .ring(3)
                    .show(show("cs", rec::CS))
                    .show(show("cr2", rec::CR2)),
                |b| {
                    b.descriptor(RING1, desc::flat(0xBB))?;
                    b.descriptor(ABSENT, desc::flat(0x73))?;
                    b.descriptor(sel::slot(3), desc::flat(0x73))?;
                    paging(b)?;
                    spoil(b, vector)
                },
                raise,
            )?;
        }
    }
    Ok(())
}

/// Exceptions and what they push: RF, error codes, priorities.
fn pushes(b: &mut Builder) -> Asm {
    let tests: [(&str, Test); 14] = [
        ("div", |b| {
            asm!(b; xor(ecx, ecx); div(ecx));
            Ok(())
        }),
        ("ud2", |b| b.a.ud2()),
        ("cli", |b| b.a.cli()),
        ("int3", |b| b.a.int3()),
        ("int 50h without a user gate", |b| b.a.int(0x20)),
        ("int 5Fh", |b| b.a.int(0x5F)),
        ("int beyond the IDT", |b| b.a.int(0x60)),
        ("bound", |b| {
            asm!(b; mov(eax, -1); bound(eax, ptr(CELLS)));
            Ok(())
        }),
        ("bound at the edge", |b| {
            asm!(b; mov(eax, 5); mov(dword_ptr(CELLS + 4), 5); bound(eax, ptr(CELLS)));
            Ok(())
        }),
        ("into without OF", |b| {
            asm!(b; xor(eax, eax); db(&[0xCE]));
            Ok(())
        }),
        ("lock nop", |b| b.a.db(&[0xF0, 0x90])),
        ("lock mov", |b| b.a.db(&[0xF0, 0x89, 0x00])),
        ("sixteen bytes", |b| b.a.db(&[0x66; 16])),
        ("mov cs", |b| b.a.db(&[0x8E, 0xC8])),
    ];
    for (name, test) in tests {
        for ring in [0, 3] {
            for eflags in [0, 0x7000] {
                if name == "cli" && (ring == 0 || eflags != 0) {
                    continue;
                }
                b.case(
                    Case::new(format!("{name} ring {ring} eflags {eflags:x}"))
                        .ring(ring)
                        .eflags(eflags)
                        .show(show("pushed", rec::EFLAGS).mask(0x1_7700)),
                    |_| Ok(()),
                    test,
                )?;
            }
        }
    }
    Ok(())
}

/// Alignment checks: CR0.AM and EFLAGS.AC in each ring.
fn alignment(b: &mut Builder) -> Asm {
    let tests: [(&str, Test); 17] = [
        ("word at 1", |b| b.a.mov(ax, word_ptr(CELLS + 1))),
        ("word at 2", |b| b.a.mov(ax, word_ptr(CELLS + 2))),
        ("dword at 2", |b| b.a.mov(eax, dword_ptr(CELLS + 2))),
        ("dword write at 1", |b| b.a.mov(dword_ptr(CELLS + 1), eax)),
        ("qword at 4", |b| b.a.fld(qword_ptr(CELLS + 4))),
        ("tbyte at 4", |b| b.a.fld(tbyte_ptr(CELLS + 4))),
        ("push at 2", |b| {
            asm!(b; sub(esp, 2); push(eax));
            Ok(())
        }),
        ("movups at 1", |b| b.a.movups(xmm0, ptr(CELLS + 1))),
        ("movaps at 8", |b| b.a.movaps(xmm0, ptr(CELLS + 8))),
        ("lds at 2", |b| b.a.les(eax, fword_ptr(CELLS + 2))),
        ("rep movsd at 1", |b| {
            asm!(b; mov(esi, CELLS + 1); mov(edi, CELLS + 16); mov(ecx, 1));
            b.a.rep().movsd()
        }),
        ("sgdt at 1", |b| b.a.sgdt(ptr(CELLS + 1))),
        ("sgdt at 4", |b| b.a.sgdt(ptr(CELLS + 4))),
        ("sgdt at 6", |b| b.a.sgdt(ptr(CELLS + 6))),
        ("les 16-bit at 2", |b| b.a.les(ax, dword_ptr(CELLS + 2))),
        ("fxsave at 8", |b| b.a.fxsave(ptr(PAGES + 8))),
        ("fnsave at 2", |b| b.a.fnsave(ptr(PAGES + 2))),
    ];
    for (name, test) in tests {
        for (am, ac, ring) in [(1, 1, 3), (0, 1, 3), (1, 0, 3), (1, 1, 0), (1, 1, 1)] {
            b.case(
                Case::new(format!("#AC {name} am {am} ac {ac} ring {ring}")).ring(ring).eflags(ac << 18),
                |b| {
                    asm!(b; mov(eax, 0x200); mov(cr4, eax); mov(eax, 0x11 | am << 18); mov(cr0, eax); xor(eax, eax));
                    Ok(())
                },
                test,
            )?;
        }
    }
    Ok(())
}

/// The program.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    pairs(&mut b)?;
    pushes(&mut b)?;
    alignment(&mut b)?;
    b.finish()
}

/// A program that ends in a triple fault.
fn shutdown(name: &str, cause: Test) -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    b.case(Case::new(format!("before {name}")), |_| Ok(()), |_| Ok(()))?;
    b.case(Case::new(format!("no shutdown by {name}")), |_| Ok(()), cause)?;
    b.finish()
}

/// #GP, whose delivery fails, and no gate for #DF.
pub fn build_no_double_fault_gate() -> Result<Vec<u8>, IcedError> {
    shutdown("an absent #DF gate", |b| {
        b.poke64(IDT + 13 * 8, 0)?;
        b.poke64(IDT + 8 * 8, 0)?;
        asm!(b; mov(eax, 0x1234); mov(ds, eax));
        Ok(())
    })
}

/// An IDT without entries.
pub fn build_no_idt() -> Result<Vec<u8>, IcedError> {
    shutdown("an empty IDT", |b| {
        let nothing = b.data(&[0; 8]);
        asm!(b; lidt(ptr(nothing)); ud2());
        Ok(())
    })
}

/// A stack that holds no frame.
pub fn build_no_stack() -> Result<Vec<u8>, IcedError> {
    shutdown("a stack without room", |b| {
        b.descriptor(sel::slot(0), desc::segment(0x1000, 7, 0x93, desc::D))?;
        asm!(b; mov(eax, u32::from(sel::slot(0))); mov(ss, eax); mov(esp, 4); ud2());
        Ok(())
    })
}

/// Page faults all the way.
pub fn build_no_tables() -> Result<Vec<u8>, IcedError> {
    shutdown("page tables without entries", |b| {
        asm!(b; mov(edi, PAGE_DIR); mov(ecx, 1024); xor(eax, eax));
        b.a.rep().stosd()?;
        asm!(b; mov(eax, PAGE_DIR); mov(cr3, eax); mov(eax, 0x8000_0011u32); mov(cr0, eax); nop());
        Ok(())
    })
}

/// #DF through a task gate whose TSS is no TSS.
pub fn build_bad_double_fault_task() -> Result<Vec<u8>, IcedError> {
    shutdown("a #DF task without a TSS", |b| {
        b.poke64(IDT + 13 * 8, 0)?;
        b.poke64(IDT + 8 * 8, desc::gate(0x85, sel::DATA0, 0, 0))?;
        asm!(b; mov(eax, 0x1234); mov(ds, eax));
        Ok(())
    })
}
