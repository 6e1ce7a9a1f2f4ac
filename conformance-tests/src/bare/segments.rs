//! Segment registers, LDTR and TR: every descriptor type with all privileges; limits; and the instructions
//! that look at descriptors (SDM vol. 3, chapters 3.4, 3.5, 5.2 to 5.7 and 5.10).

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Case, show, show_at};
use super::layout::*;
use crate::asm;

const SLOT: u16 = sel::slot(0);
const BEYOND: u16 = 0x200;

/// Access byte of descriptor type `kind` (bit 4 is S).
fn access(kind: u8, dpl: u8) -> u8 {
    kind | 0x80 | desc::dpl(dpl)
}

/// An instruction that takes a selector in AX.
type Load = fn(&mut Builder) -> Asm;

fn one(b: &mut Builder, case: Case, selector: u16, descriptor: u64, test: Load) -> Asm {
    b.case(
        case,
        |b| {
            b.descriptor(SLOT, descriptor)?;
            b.poke(CELLS, 0x5555_5555)?;
            b.poke(CELLS + 4, u32::from(selector))?;
            asm!(b; mov(eax, u32::from(selector)); mov(ebx, 0x7777_7777));
            Ok(())
        },
        test,
    )
}

const MOV_DS: Load = |b| b.a.mov(ds, eax);
const MOV_SS: Load = |b| b.a.mov(ss, eax);

/// MOV DS and MOV SS with every type, DPL, RPL and CPL.
fn types(b: &mut Builder) -> Asm {
    for kind in 0..32u8 {
        for dpl in [0, 3] {
            for rpl in [0, 3] {
                for ring in [0, 3] {
                    for (name, field, test) in [("ds", rec::DS, MOV_DS), ("ss", rec::OUTER_SS, MOV_SS)] {
                        if matches!(kind, 0x16 | 0x17) && field == rec::OUTER_SS && dpl + ring as u8 == 0 {
                            // The handler would run on an expand-down stack of 4 GiB: it has no byte.
                            continue;
                        }
                        let name = format!("mov {name} type {kind:x} dpl {dpl} rpl {rpl} ring {ring}");
                        let case = Case::new(name).ring(ring);
                        let case = if ring == 3 || field == rec::DS {
                            case.show(show("sel", field).mask(0xFFFF))
                        } else {
                            case
                        };
                        one(b, case, SLOT | rpl, desc::flat(access(kind, dpl)), test)?;
                    }
                }
            }
        }
    }
    // All privileges, for the types that can be loaded at all.
    for kind in [0x11u8, 0x13, 0x1B, 0x1F] {
        for dpl in 0..4 {
            for rpl in 0..4 {
                for ring in 0..4 {
                    for (name, test) in [("ds", MOV_DS), ("ss", MOV_SS)] {
                        let name = format!("mov {name} access {kind:x}, dpl {dpl} rpl {rpl} ring {ring}");
                        let descriptor = desc::flat(access(kind, dpl));
                        one(b, Case::new(name).ring(ring), SLOT | rpl, descriptor, test)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Selectors without a good descriptor, by every instruction that loads.
fn selectors(b: &mut Builder) -> Asm {
    let selectors = [
        ("null", 0, 0),
        ("null rpl 3", 3, 0),
        ("beyond the GDT", BEYOND, 0),
        ("last entry", 0x1F8, 0),
        ("LDT without LDTR", 4, 0),
        ("LDT without LDTR rpl 3", 7, 0),
        ("absent", SLOT, desc::flat(0x13)),
        ("absent rpl 3", SLOT | 3, desc::flat(0x73)),
        ("absent, not writable", SLOT, desc::flat(0x11)),
        ("absent code", SLOT, desc::flat(0x1B)),
        ("good", SLOT, desc::flat(0x92)),
        ("good, rpl 3", SLOT | 3, desc::flat(0xF2)),
    ];
    let loads: [(&str, Load); 12] = [
        ("mov ds", MOV_DS),
        ("mov es", |b| b.a.mov(es, eax)),
        ("mov fs", |b| b.a.mov(fs, eax)),
        ("mov gs", |b| b.a.mov(gs, eax)),
        ("mov ss", MOV_SS),
        ("pop ds", |b| {
            asm!(b; push(eax); pop(ds));
            Ok(())
        }),
        ("pop ss", |b| {
            asm!(b; push(eax); pop(ss));
            Ok(())
        }),
        ("lds", |b| b.a.lds(ebx, fword_ptr(CELLS))),
        ("lss", |b| b.a.lss(ebx, fword_ptr(CELLS))),
        ("lgs", |b| b.a.lgs(ebx, fword_ptr(CELLS))),
        ("lldt", |b| b.a.lldt(ax)),
        ("ltr", |b| b.a.ltr(ax)),
    ];
    for (what, selector, descriptor) in selectors {
        for (name, test) in loads {
            for ring in [0, 3] {
                let case = Case::new(format!("{name}, {what}, ring {ring}"))
                    .ring(ring)
                    .show(show("ebx", rec::EBX))
                    .show(show("ds", rec::DS))
                    .show(show("es", rec::ES))
                    .show(show("gs", rec::GS))
                    .show(show_at("access", GDT + u32::from(SLOT) + 4).mask(0xFF00));
                one(b, case, selector, descriptor, test)?;
            }
        }
    }
    Ok(())
}

/// LLDT and LTR with every type.
fn system_registers(b: &mut Builder) -> Asm {
    let loads: [(&str, Load); 2] = [("lldt", |b| b.a.lldt(ax)), ("ltr", |b| b.a.ltr(ax))];
    for (name, test) in loads {
        for kind in 0..32u8 {
            for present in [0, 0x80] {
                for selector in [SLOT, SLOT | 3, sel::ldt(1)] {
                    let case = Case::new(format!(
                        "{name} {} rpl {} type {kind:x} p {}",
                        if selector & 4 == 0 { "GDT" } else { "LDT" },
                        selector & 3,
                        present >> 7
                    ))
                    .show(show("tr", rec::TR).mask(0xFFFF))
                    .show(show("ldtr", rec::LDTR).mask(0xFFFF))
                    .show(show_at("access", GDT + u32::from(SLOT) + 4).mask(0xFF00));
                    b.case(
                        case,
                        |b| {
                            let descriptor = desc::segment(TSS2, 0x67, kind | present, 0);
                            b.descriptor(SLOT, descriptor)?;
                            if selector & 4 != 0 {
                                b.descriptor(selector, descriptor)?;
                                asm!(b; mov(eax, u32::from(sel::LDT)); lldt(ax));
                            }
                            b.a.mov(eax, u32::from(selector))
                        },
                        test,
                    )?;
                }
            }
        }
    }
    Ok(())
}

/// LAR, LSL, VERR, VERW with every type and all privileges; ARPL.
fn looks(b: &mut Builder) -> Asm {
    let looks: [(&str, Load); 4] = [
        ("lar", |b| b.a.lar(ebx, eax)),
        ("lsl", |b| b.a.lsl(ebx, eax)),
        ("verr", |b| b.a.verr(ax)),
        ("verw", |b| b.a.verw(ax)),
    ];
    for (name, test) in looks {
        for kind in 0..32u8 {
            for (dpl, rpl, ring) in
                [(0, 0, 0), (0, 0, 3), (0, 3, 0), (3, 3, 3), (3, 0, 3), (1, 2, 0), (2, 1, 1)]
            {
                let case = Case::new(format!("{name} type {kind:x} dpl {dpl} rpl {rpl} ring {ring}"))
                    .ring(ring)
                    .show(show("zf", rec::EFLAGS).mask(0x40))
                    .show(show("ebx", rec::EBX));
                let descriptor = desc::segment(0x1234_5678, 0xABCDE, access(kind, dpl), desc::D | 1);
                one(b, case, SLOT | rpl, descriptor, test)?;
            }
        }
        for (what, selector, descriptor) in [
            ("null", 0, 0),
            ("null rpl 3", 3, 0),
            ("beyond", BEYOND, 0),
            ("LDT without LDTR", 4, 0),
            ("absent data", SLOT, desc::flat(0x13)),
            ("absent code", SLOT, desc::flat(0x1B)),
            ("absent tss", SLOT, desc::flat(0x09)),
            ("4 KiB units", SLOT, desc::segment(0, 0xABCDE, 0x92, desc::G)),
            ("expand-down", SLOT, desc::segment(0, 0xABCDE, 0x97, desc::G | desc::D)),
        ] {
            for zf in [0, 0x40] {
                let case = Case::new(format!("{name} {what} zf {zf:x}"))
                    .eflags(0x8D7 & !0x40 | zf)
                    .show(show("eflags", rec::EFLAGS))
                    .show(show("ebx", rec::EBX))
                    .show(show_at("access", GDT + u32::from(SLOT) + 4).mask(0xFF00));
                one(b, case, selector, descriptor, test)?;
            }
        }
    }
    let narrow: [(&str, Load); 2] =
        [("lar 16-bit", |b| b.a.lar(bx, ax)), ("lsl 16-bit", |b| b.a.lsl(bx, ax))];
    for (name, test) in narrow {
        let descriptor = desc::segment(0, 0xABCDE, 0x92, desc::D);
        one(b, Case::new(name).regs(&[("ebx", rec::EBX)]), SLOT, descriptor, test)?;
    }
    for low in 0..4u32 {
        for high in 0..4u32 {
            for memory in [false, true] {
                let name = format!("arpl {} {low} {high}", if memory { "memory" } else { "register" });
                b.case(
                    Case::new(name)
                        .ring(3)
                        .eflags(0x8D7)
                        .show(show("eax", rec::EAX))
                        .show(show("eflags", rec::EFLAGS))
                        .show(show_at("memory", CELLS)),
                    |b| {
                        b.poke(CELLS, 0x1234_5670 | low)?;
                        asm!(b; mov(eax, 0x1234_5670 | low); mov(ecx, high));
                        Ok(())
                    },
                    |b| if memory { b.a.arpl(word_ptr(CELLS), cx) } else { b.a.arpl(ax, cx) },
                )?;
            }
        }
    }
    // The operand in a segment that cannot be written.
    for high in [0u32, 3] {
        b.case(
            Case::new(format!("arpl read-only memory {high}")).ring(3),
            |b| {
                b.descriptor(SLOT, desc::flat(0xF1))?;
                asm!(b; mov(eax, u32::from(SLOT) | 3); mov(ds, eax); mov(ecx, high));
                Ok(())
            },
            |b| b.a.arpl(word_ptr(CELLS), cx),
        )?;
    }
    Ok(())
}

/// Limits and types of segments in accesses.
fn limits(b: &mut Builder) -> Asm {
    let data = CELLS;
    // (name, descriptor with base at the cells)
    let segments = [
        ("16 bytes", desc::segment(data, 15, 0xF3, desc::D)),
        ("read-only", desc::segment(data, 15, 0xF1, desc::D)),
        ("execute-only", desc::segment(data, 15, 0xF9, desc::D)),
        ("readable code", desc::segment(data, 15, 0xFB, desc::D)),
        ("expand-down from 15", desc::segment(data, 15, 0xF7, desc::D)),
        ("expand-down 16-bit", desc::segment(data, 15, 0xF7, 0)),
        ("4 KiB", desc::segment(data, 0, 0xF3, desc::D | desc::G)),
    ];
    for (name, descriptor) in segments {
        for offset in [0u32, 12, 13, 15, 16, 0xFFC, 0xFFD, 0xFFFD, 0xFFFF_FFFE] {
            for write in [false, true] {
                let case =
                    Case::new(format!("{name} {} at {offset:x}", if write { "write" } else { "read" }))
                        .ring(3);
                b.case(
                    case,
                    |b| {
                        b.descriptor(SLOT, descriptor)?;
                        asm!(b; mov(eax, u32::from(SLOT) | 3); mov(es, eax); mov(ebx, offset));
                        Ok(())
                    },
                    |b| {
                        if write {
                            b.a.mov(dword_ptr(ebx).es(), eax)
                        } else {
                            b.a.mov(eax, dword_ptr(ebx).es())
                        }
                    },
                )?;
            }
        }
    }
    for (name, write) in [("read", false), ("write", true)] {
        b.case(
            Case::new(format!("null segment {name}")).ring(3),
            |b| {
                asm!(b; xor(eax, eax); mov(es, eax); mov(ebx, CELLS));
                Ok(())
            },
            |b| {
                if write { b.a.mov(dword_ptr(ebx).es(), eax) } else { b.a.mov(eax, dword_ptr(ebx).es()) }
            },
        )?;
    }
    b.case(Case::new("write through cs").ring(3), |_| Ok(()), |b| b.a.mov(dword_ptr(CELLS).cs(), eax))?;
    // The stack: #SS instead of #GP.
    for (name, esp_value) in
        [("push below the limit", 4u32), ("push at the limit", 0x14), ("pop beyond", 0x10)]
    {
        b.case(
            Case::new(name).ring(3).show(show("esp", rec::OUTER_ESP)),
            |b| b.descriptor(SLOT, desc::segment(data, 15, 0xF3, desc::D)),
            |b| {
                asm!(b; mov(eax, u32::from(SLOT) | 3); mov(ss, eax); mov(esp, esp_value));
                if name.starts_with("pop") { b.a.pop(eax) } else { b.a.push(eax) }
            },
        )?;
    }
    b.case(
        Case::new("read through ebp beyond the stack's limit").ring(3),
        |b| b.descriptor(SLOT, desc::segment(data, 15, 0xF3, desc::D)),
        |b| {
            asm!(b;
                mov(eax, u32::from(SLOT) | 3);
                mov(ss, eax);
                mov(esp, 8);
                mov(ebp, 13);
                mov(eax, dword_ptr(ebp));
            );
            Ok(())
        },
    )?;
    // Code beyond the limit of CS.
    b.case(
        Case::new("jump beyond the limit of cs"),
        |b| b.descriptor(SLOT, desc::segment(0, 0x9001, 0x9B, desc::D)),
        |b| {
            asm!(b; mov(byte_ptr(0x9000u32), 0x90); mov(byte_ptr(0x9001u32), 0x90); push(i32::from(SLOT)));
            asm!(b; push(0x9002); retf());
            Ok(())
        },
    )?;
    b.case(
        Case::new("code runs into the limit of cs").origin(0x9000),
        |b| b.descriptor(SLOT, desc::segment(0, 0x9001, 0x9B, desc::D)),
        |b| {
            asm!(b; mov(byte_ptr(0x9000u32), 0x90); mov(byte_ptr(0x9001u32), 0x90); push(i32::from(SLOT)));
            asm!(b; push(0x9000); retf());
            Ok(())
        },
    )
}

/// Loads.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    types(&mut b)?;
    selectors(&mut b)?;
    system_registers(&mut b)?;
    limits(&mut b)?;
    b.finish()
}

/// Instructions that look at descriptors.
pub fn build_looks() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    looks(&mut b)?;
    b.finish()
}
