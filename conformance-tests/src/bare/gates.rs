//! Interrupt, trap and call gates of every type to every kind of target, from every ring; inner stacks; far
//! returns outward (SDM vol. 3, chapters 5.8 and 6.12).

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Case, show};
use super::layout::*;
use crate::asm;

/// Target of gates.
pub(super) const TARGET: u16 = sel::slot(0);
/// A gate in the GDT.
pub(super) const GATE: u16 = sel::slot(1);
/// Selector outside the GDT.
pub(super) const BEYOND: u16 = 0x200;
/// INT vector that tests give their own gates.
const VECTOR: u8 = 0x50;
/// Offset of code for 16-bit gates: INT 41h.
const LOW_HIT: u32 = 0x9000;

/// CS and SS after the transfer, and what lies on the stack.
fn frame(case: Case) -> Case {
    case.show(show("cs", rec::CS))
        .show(show("ret", rec::EAX).relative())
        .show(show("1", rec::EBX).mask(0xFFFF))
        .show(show("2", rec::ECX))
        .show(show("3", rec::EDX))
        .show(show("4", rec::ESI))
        .show(show("esp", rec::EDI))
}

/// `int VECTOR` through a gate in place of its IDT entry, with a target descriptor.
fn through(b: &mut Builder, case: Case, access: u8, selector: u16, target: u64) -> Asm {
    b.case(
        case,
        |b| {
            b.descriptor(TARGET, target)?;
            let hit = b.rt.hit;
            b.idt_gate(VECTOR, access, selector, hit)?;
            asm!(b; xor(eax, eax));
            Ok(())
        },
        |b| b.a.int(i32::from(VECTOR)),
    )
}

/// Each of the 32 descriptor types as an IDT entry.
fn idt_types(b: &mut Builder) -> Asm {
    for kind in 0..32u8 {
        // Task gates and 16-bit gates are below and in the program for tasks.
        if matches!(kind, 5..=7) {
            continue;
        }
        for present in [0x80, 0] {
            for dpl in [0, 3] {
                for ring in [0, 3] {
                    let name = format!("int gate type {kind:x} p {} dpl {dpl} ring {ring}", present >> 7);
                    let access = kind | present | desc::dpl(dpl);
                    through(b, frame(Case::new(name).ring(ring)), access, sel::CODE0, 0)?;
                }
            }
        }
    }
    for dpl in 0..4 {
        for ring in 0..4 {
            let name = format!("int gate dpl {dpl} ring {ring}");
            through(b, frame(Case::new(name).ring(ring)), 0x8E | desc::dpl(dpl), sel::CODE0, 0)?;
        }
    }
    Ok(())
}

/// Descriptors that gates may lead to.
fn targets() -> Vec<(String, u16, u64)> {
    let mut list = vec![
        ("null".to_owned(), 0, 0),
        ("null rpl 3".to_owned(), 3, 0),
        ("beyond the GDT".to_owned(), BEYOND, 0),
        ("LDT without LDTR".to_owned(), 0xC, 0),
    ];
    for dpl in 0..4 {
        for (what, access) in [
            ("code", 0x9B),
            ("execute-only", 0x99),
            ("conforming", 0x9F),
            ("code, absent", 0x1B),
            ("conforming, absent", 0x1F),
            ("data", 0x93),
            ("tss", 0x89),
            ("call gate", 0x8C),
        ] {
            list.push((format!("{what} dpl {dpl}"), TARGET, desc::flat(access | desc::dpl(dpl))));
        }
    }
    list.push(("code rpl 3".into(), TARGET | 3, desc::flat(0x9B)));
    list.push(("code beyond its limit".into(), TARGET, desc::segment(0, 0xFF, 0x9B, desc::D)));
    list.push(("code, not accessed".into(), TARGET, desc::flat(0x9A)));
    list
}

fn idt_targets(b: &mut Builder) -> Asm {
    for (name, selector, target) in targets() {
        for ring in 0..4 {
            let name = format!("int to {name} ring {ring}");
            through(b, frame(Case::new(name).ring(ring)), 0xEF, selector, target)?;
        }
    }
    Ok(())
}

/// EFLAGS that gates leave, and that they push.
fn flags(b: &mut Builder) -> Asm {
    for (what, access) in [("interrupt", 0xEE), ("trap", 0xEF)] {
        for ring in [0, 3] {
            for eflags in [0, 0x200, 0x3000, 0x4000, 0x4_0000, 0x20_0000, 0x24_7ED5] {
                b.case(
                    Case::new(format!("{what} gate eflags {eflags:x} ring {ring}"))
                        .ring(ring)
                        .eflags(eflags)
                        .show(show("eflags", rec::EFLAGS))
                        .show(show("pushed", rec::ECX)),
                    |b| {
                        let hit = b.rt.hit;
                        b.idt_gate(VECTOR, access, sel::CODE0, hit)?;
                        asm!(b; xor(eax, eax));
                        Ok(())
                    },
                    |b| b.a.int(i32::from(VECTOR)),
                )?;
            }
        }
    }
    Ok(())
}

/// 16-bit interrupt and trap gates.
fn gates16(b: &mut Builder) -> Asm {
    for (what, access) in [("interrupt", 0xE6), ("trap", 0xE7)] {
        for (target, selector) in [("16-bit", sel::CODE16), ("32-bit", sel::CODE0)] {
            for ring in [0, 3] {
                let name = format!("16-bit {what} gate to {target} code ring {ring}");
                b.case(
                    Case::new(name)
                        .ring(ring)
                        .show(show("cs", rec::CS))
                        .show(show("ebx", rec::EBX))
                        .show(show("esi", rec::ESI))
                        .show(show("edi", rec::EDI))
                        .show(show("frame", rec::FRAME)),
                    |b| {
                        // pop ax (IP, different in every build); pop ebx; pop esi; pop edi; int 41h
                        let code = if selector == sel::CODE16 {
                            &[0x58, 0x66, 0x5B, 0x66, 0x5E, 0x66, 0x5F, 0xCD, 0x41][..]
                        } else {
                            &[0x66, 0x58, 0x5B, 0x5E, 0x5F, 0xCD, 0x41][..]
                        };
                        b.copy(code, LOW_HIT)?;
                        b.poke64(IDT + u32::from(VECTOR) * 8, desc::gate(access, selector, LOW_HIT, 0))?;
                        asm!(b; xor(esi, esi); xor(edi, edi); xor(ecx, ecx));
                        Ok(())
                    },
                    |b| b.a.int(i32::from(VECTOR)),
                )?;
            }
        }
    }
    // The upper half of a 16-bit gate's offset is not used. What lies there tells who uses it.
    b.case(
        Case::new("16-bit interrupt gate with bits above its offset"),
        |b| {
            b.copy(&[0xCD, 0x41], LOW_HIT)?;
            b.copy(&[0xCD, 0x43], LOW_HIT | 0x5A_0000)?;
            b.poke64(IDT + u32::from(VECTOR) * 8, desc::gate(0xE6, sel::CODE0, LOW_HIT | 0x5A_0000, 0))
        },
        |b| b.a.int(i32::from(VECTOR)),
    )
}

/// SS:ESP for an inner ring from the TSS: what is wrong, SS0, ESP0, descriptor.
fn inner_stacks() -> Vec<(&'static str, u16, u32, u64)> {
    let slot = sel::slot(4);
    vec![
        ("null ss", 0, INNER0, 0),
        ("null ss rpl 3", 3, INNER0, 0),
        ("ss beyond the GDT", BEYOND, INNER0, 0),
        ("ss in the LDT without LDTR", 0x0C, INNER0, 0),
        ("ss with rpl 1", slot | 1, INNER0, desc::flat(0x93)),
        ("ss with rpl 3", slot | 3, INNER0, desc::flat(0x93)),
        ("ss with dpl 1", slot, INNER0, desc::flat(0xB3)),
        ("ss with dpl 3", slot, INNER0, desc::flat(0xF3)),
        ("ss read-only", slot, INNER0, desc::flat(0x91)),
        ("ss code", slot, INNER0, desc::flat(0x9B)),
        ("ss tss", slot, INNER0, desc::flat(0x89)),
        ("ss absent", slot, INNER0, desc::flat(0x13)),
        ("ss absent, read-only", slot, INNER0, desc::flat(0x11)),
        ("ss not accessed", slot, INNER0, desc::flat(0x92)),
        ("esp beyond the limit", slot, INNER0, desc::segment(0, 0xFFF, 0x93, desc::D)),
        ("esp 8 below the limit's start", slot, 8, desc::segment(INNER0, 0xFFF, 0x93, desc::D)),
        ("16-bit ss", slot, 0xABCD_0100, desc::segment(INNER0 - 0x1000, 0xFFFF, 0x93, 0)),
        ("expand-down ss", slot, 0x1000, desc::segment(INNER0 - 0x1000, 0x7FF, 0x97, desc::D)),
        ("expand-down ss, esp below", slot, 0x808, desc::segment(INNER0 - 0x1000, 0x7FF, 0x97, desc::D)),
    ]
}

/// Delivers INT and a call gate to ring 1 with bad stacks: ring 0's own stack stays good for the fault.
fn bad_stacks(b: &mut Builder) -> Asm {
    for (name, stack, esp0, descriptor) in inner_stacks() {
        // For ring 1, privileges are one higher.
        let stack = if stack & !7 == sel::slot(4) { stack ^ 1 } else { stack };
        let descriptor = if descriptor != 0 { descriptor ^ 1 << 45 } else { 0 };
        for way in ["int", "call"] {
            b.case(
                Case::new(format!("{way} to ring 1, {name}"))
                    .ring(3)
                    .show(show("cs", rec::CS))
                    .show(show("3", rec::EDX))
                    .show(show("esp", rec::EDI)),
                |b| {
                    b.descriptor(TARGET, desc::flat(0xBB))?;
                    b.descriptor(sel::slot(4), descriptor)?;
                    b.poke(TSS + 12, esp0)?;
                    b.poke(TSS + 16, u32::from(stack))?;
                    let hit = b.rt.hit;
                    b.idt_gate(VECTOR, 0xEE, TARGET, hit)?;
                    b.call_gate(GATE, 0xEC, TARGET, hit, 0)?;
                    asm!(b; xor(eax, eax));
                    Ok(())
                },
                |b| {
                    b.a.mov(esp, 0x8000)?;
                    if way == "int" { b.a.int(i32::from(VECTOR)) } else { b.a.call_far(GATE | 3, 0) }
                },
            )?;
        }
    }
    // The TSS ends before the stack of the ring. The fault has to go to ring 1 as well, so nothing helps
    // but a limit between the two.
    for limit in [0x0B, 0x0C, 0x0F, 0x11, 0x12] {
        for way in ["int", "call"] {
            b.case(
                Case::new(format!("{way} to ring 1, TSS limit {limit:x}")).ring(3),
                |b| {
                    b.descriptor(TARGET, desc::flat(0xBB))?;
                    b.descriptor(sel::slot(5), desc::segment(TSS, limit, 0x89, 0))?;
                    asm!(b; mov(eax, u32::from(sel::slot(5))); ltr(ax));
                    let hit = b.rt.hit;
                    b.idt_gate(VECTOR, 0xEE, TARGET, hit)?;
                    b.call_gate(GATE, 0xEC, TARGET, hit, 0)
                },
                |b| {
                    if way == "int" { b.a.int(i32::from(VECTOR)) } else { b.a.call_far(GATE | 3, 0) }
                },
            )?;
        }
    }
    // A 16-bit TSS has its stacks elsewhere.
    b.case(
        Case::new("int to ring 1, 16-bit TSS")
            .ring(3)
            .show(show("ss", rec::EBP).mask(0))
            .show(show("esp", rec::EDI)),
        |b| {
            b.descriptor(TARGET, desc::flat(0xBB))?;
            b.descriptor(sel::slot(5), desc::segment(TSS2, 0x2B, 0x81, 0))?;
            b.descriptor(sel::slot(6), desc::segment(INNER1 - 0x1_0000, 0xFFFF, 0xB3, 0))?;
            b.descriptor(sel::slot(7), desc::segment(INNER0 - 0x1_0000, 0xFFFF, 0x93, 0))?;
            b.poke(TSS2, 0xFFF0 << 16)?;
            b.poke(TSS2 + 4, u32::from(sel::DATA0) | 0xFF00 << 16)?;
            b.poke(TSS2 + 8, u32::from(sel::slot(6)) | 1)?;
            asm!(b; mov(eax, u32::from(sel::slot(5))); ltr(ax));
            let hit = b.rt.hit;
            b.idt_gate(VECTOR, 0xEE, TARGET, hit)?;
            Ok(())
        },
        |b| {
            asm!(b; mov(esp, 0x8000); int(i32::from(VECTOR)));
            Ok(())
        },
    )
}

/// Far CALL and JMP: every descriptor type as their target, with all privileges.
fn far_targets(b: &mut Builder) -> Asm {
    let ways: [(&str, u8); 2] = [("call", 0x9A), ("jmp", 0xEA)];
    for (way, opcode) in ways {
        for (name, selector, target) in targets() {
            if name.starts_with("call gate") || name.starts_with("tss") {
                continue;
            }
            for ring in 0..4 {
                for (kind, direct) in [("direct", true), ("gate", false)] {
                    b.case(
                        frame(Case::new(format!("{way} {kind} {name} ring {ring}")).ring(ring)),
                        |b| {
                            b.descriptor(TARGET, target)?;
                            let hit = b.rt.hit;
                            if direct {
                                // The offset in memory: the operand is CELLS.
                                b.poke_addr(CELLS, hit)?;
                                b.poke(CELLS + 4, u32::from(selector))?;
                            } else {
                                b.call_gate(GATE, 0xEC, selector, hit, 0)?;
                                b.poke(CELLS + 4, u32::from(GATE))?;
                            }
                            asm!(b; xor(eax, eax));
                            Ok(())
                        },
                        |b| {
                            let [b0, b1, b2, b3] = CELLS.to_le_bytes();
                            let modrm = if opcode == 0x9A { 0x1D } else { 0x2D };
                            b.a.db(&[0xFF, modrm, b0, b1, b2, b3])
                        },
                    )?;
                }
            }
        }
        // The gate itself: type, presence, DPL, RPL.
        for kind in 0..32u8 {
            if matches!(kind, 1 | 3 | 4 | 5 | 9 | 11) || kind & 0x18 == 0x18 {
                continue;
            }
            for present in [0x80, 0] {
                b.case(
                    Case::new(format!("{way} to descriptor type {kind:x} p {}", present >> 7)),
                    |b| {
                        let hit = b.rt.hit;
                        b.call_gate(GATE, kind | present, sel::CODE0, hit, 0)
                    },
                    |b| if opcode == 0x9A { b.a.call_far(GATE, 0) } else { b.a.jmp_far(GATE, 0) },
                )?;
            }
        }
        for dpl in 0..4 {
            for rpl in 0..4 {
                for ring in 0..4 {
                    b.case(
                        Case::new(format!("{way} call gate dpl {dpl} rpl {rpl} ring {ring}"))
                            .ring(ring)
                            .show(show("cs", rec::CS)),
                        |b| {
                            b.descriptor(TARGET, desc::flat(0x9F))?;
                            let hit = b.rt.hit;
                            b.call_gate(GATE, 0x8C | desc::dpl(dpl), TARGET, hit, 0)
                        },
                        |b| {
                            if opcode == 0x9A {
                                b.a.call_far(GATE | rpl, 0)
                            } else {
                                b.a.jmp_far(GATE | rpl, 0)
                            }
                        },
                    )?;
                }
            }
        }
        // Direct transfers: RPL against CPL.
        for access in [0x9B, 0x9F] {
            for dpl in 0..4 {
                for rpl in 0..4 {
                    for ring in [0, 1, 3] {
                        b.case(
                            Case::new(format!(
                                "{way} {} dpl {dpl} rpl {rpl} ring {ring}",
                                if access == 0x9F { "conforming" } else { "code" }
                            ))
                            .ring(ring)
                            .show(show("cs", rec::CS)),
                            |b| {
                                b.descriptor(TARGET, desc::flat(access | desc::dpl(dpl)))?;
                                let hit = b.rt.hit;
                                b.poke_addr(CELLS, hit)?;
                                b.poke(CELLS + 4, u32::from(TARGET | rpl))
                            },
                            |b| {
                                let [b0, b1, b2, b3] = CELLS.to_le_bytes();
                                let modrm = if opcode == 0x9A { 0x1D } else { 0x2D };
                                b.a.db(&[0xFF, modrm, b0, b1, b2, b3])
                            },
                        )?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Parameters of call gates, and the way back.
fn parameters(b: &mut Builder) -> Asm {
    for count in [0, 1, 2, 31, 33, 0xFF] {
        for ring in [0, 3] {
            b.case(
                frame(Case::new(format!("call gate with {count} parameters ring {ring}")).ring(ring)),
                |b| {
                    let hit = b.rt.hit;
                    b.call_gate(GATE, 0xEC, sel::CODE0, hit, count)
                },
                |b| {
                    asm!(b;
                        push(0x1111_1111);
                        push(0x2222_2222);
                        push(0x3333_3333);
                        call_far(GATE | 3, 0)
                    );
                    Ok(())
                },
            )?;
        }
    }
    for release in [0, 8, 12] {
        b.case(
            Case::new(format!("call gate and retf {release}"))
                .ring(3)
                .show(show("cs", rec::CS))
                .show(show("esp", rec::OUTER_ESP))
                .regs(&[("ds", rec::DS), ("es", rec::ES), ("fs", rec::FS), ("gs", rec::GS)]),
            |b| {
                let back = b.mark();
                let mut skip = b.a.create_label();
                asm!(b; jmp(skip));
                b.place(back)?;
                asm!(b;
                    mov(eax, u32::from(sel::data(1)));
                    mov(es, eax);
                    mov(eax, u32::from(sel::DATA0));
                    mov(fs, eax);
                    mov(eax, u32::from(sel::code(3)));
                    mov(gs, eax);
                    retf_1(release);
                    set_label(&mut skip);
                );
                b.call_gate(GATE, 0xEC, sel::CODE0, back, 2)
            },
            |b| {
                asm!(b; push(1); push(2); push(3); call_far(GATE | 3, 0));
                Ok(())
            },
        )?;
    }
    // 16-bit call gates: 16-bit parameters and return address.
    for ring in [0, 3] {
        b.case(
            Case::new(format!("16-bit call gate ring {ring}")).ring(ring).show(show("cs", rec::CS)).regs(&[
                ("ebx", rec::EBX),
                ("esi", rec::ESI),
                ("edi", rec::EDI),
                ("frame", rec::FRAME),
            ]),
            |b| {
                b.copy(&[0x66, 0x58, 0x5B, 0x5E, 0x5F, 0xCD, 0x41], LOW_HIT)?;
                b.poke64(GDT + u32::from(GATE), desc::gate(0xE4, sel::CODE0, LOW_HIT, 2))?;
                asm!(b; xor(esi, esi); xor(edi, edi); xor(ecx, ecx));
                Ok(())
            },
            |b| {
                asm!(b; push(0x1111_2222); push(0x3333_4444); call_far(GATE | 3, 0));
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// Far RET with every kind of CS and SS.
fn far_returns(b: &mut Builder) -> Asm {
    let slot = sel::slot(4);
    for (name, selector, target) in targets() {
        for rpl in [0, 3] {
            if selector & 3 != 0 {
                continue;
            }
            b.case(
                Case::new(format!("retf to {name} rpl {rpl}")).show(show("cs", rec::CS)),
                |b| b.descriptor(TARGET, target),
                |b| {
                    let hit = b.addr(b.rt.hit);
                    asm!(b;
                        push(i32::from(sel::data(3)));
                        push(OUTER as i32);
                        push(i32::from(selector | rpl));
                        push(hit as i32);
                        retf();
                    );
                    Ok(())
                },
            )?;
        }
    }
    for (name, stack, _, descriptor) in inner_stacks() {
        if name.starts_with("esp") {
            continue;
        }
        // For ring 3.
        let stack = if stack & !7 == slot { stack ^ 3 } else { stack };
        let descriptor = if descriptor != 0 { descriptor ^ 3 << 45 } else { 0 };
        for (way, extra) in [("retf", 0), ("iretd", 1)] {
            b.case(
                Case::new(format!("{way} to ring 3, {name}"))
                    .show(show("cs", rec::CS))
                    .show(show("esp", rec::OUTER_ESP).mask(if descriptor & 1 << 44 == 0 { 0 } else { !0 })),
                |b| {
                    b.copy(&[0xCD, 0x41], LOW_HIT)?;
                    b.descriptor(slot, descriptor)
                },
                |b| {
                    let hit = LOW_HIT;
                    asm!(b; push(i32::from(stack)); push(0x0022_0800));
                    if extra == 1 {
                        b.a.push(2)?;
                    }
                    asm!(b; push(i32::from(sel::code(3))); push(hit as i32));
                    if extra == 1 { b.a.iretd() } else { b.a.retf() }
                },
            )?;
        }
    }
    Ok(())
}

/// Interrupt gates.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    idt_types(&mut b)?;
    idt_targets(&mut b)?;
    flags(&mut b)?;
    gates16(&mut b)?;
    bad_stacks(&mut b)?;
    b.finish()
}

/// Far calls, jumps and returns.
pub fn build_far() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    far_targets(&mut b)?;
    parameters(&mut b)?;
    far_returns(&mut b)?;
    b.finish()
}
