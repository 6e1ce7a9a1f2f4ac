//! IRET to every kind of CS, EFLAGS it may change by CPL and IOPL, what becomes of data segments, VM86 mode
//! as its target (SDM vol. 2, IRET).

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Case, show};
use super::layout::*;
use crate::asm;

const TARGET: u16 = sel::slot(0);

/// CS: every type, DPL, RPL.
fn targets(b: &mut Builder) -> Asm {
    for ring in [0u16, 3] {
        for kind in [0x9Bu8, 0x99, 0x9F, 0x93, 0x1B, 0x1F, 0x89, 0x8C] {
            for dpl in 0..4 {
                for rpl in 0..4 {
                    if ring == 3 && rpl == 1 {
                        continue;
                    }
                    b.case(
                        Case::new(format!("iretd to access {kind:x} dpl {dpl} rpl {rpl} ring {ring}"))
                            .ring(ring)
                            .show(show("cs", rec::CS))
                            .show(show("ss", rec::OUTER_SS).mask(if rpl == 0 { 0 } else { 0xFFFF })),
                        |b| b.descriptor(TARGET, desc::flat(kind | desc::dpl(dpl))),
                        |b| {
                            let hit = b.addr(b.rt.hit);
                            asm!(b;
                                push(i32::from(sel::data(rpl)));
                                push((OUTER - 0x100) as i32);
                                push(2);
                                push(i32::from(TARGET | rpl));
                                push(hit as i32);
                                iretd();
                            );
                            Ok(())
                        },
                    )?;
                }
            }
        }
    }
    for (name, selector) in
        [("null", 0), ("null rpl 3", 3), ("beyond the GDT", 0x200), ("LDT without LDTR", 12)]
    {
        b.case(
            Case::new(format!("iretd to {name}")),
            |_| Ok(()),
            |b| {
                asm!(b; push(2); push(selector); push(0); iretd());
                Ok(())
            },
        )?;
    }
    for (name, outer) in [("same ring", false), ("outer ring", true)] {
        b.case(
            Case::new(format!("iretd beyond the limit, {name}")),
            |b| {
                b.copy(&[0xCD, 0x43], 0x100)?;
                b.descriptor(TARGET, desc::segment(0, 0xFF, if outer { 0xFB } else { 0x9B }, desc::D))
            },
            |b| {
                if outer {
                    asm!(b; push(i32::from(sel::data(3))); push(OUTER as i32));
                }
                asm!(b; push(2); push(i32::from(TARGET) + if outer { 3 } else { 0 }); push(0x100); iretd());
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// EFLAGS.
fn flags(b: &mut Builder) -> Asm {
    for ring in [0u16, 1, 3] {
        for iopl in [0u32, 1, 3] {
            for image in [0u32, 0x3202, 0x24_7ED7 & !0x4000, 0x3F_0202 & !0x2_0000, 0x2_0002, 0xFFC0_8000] {
                for wide in [true, false] {
                    if image == 0x2_0002 && ring == 0 {
                        continue;
                    }
                    b.case(
                        Case::new(format!(
                            "iret{} {image:x} ring {ring} iopl {iopl}",
                            if wide { "d" } else { "w" }
                        ))
                        .ring(ring)
                        .eflags(iopl << 12 | 0x4_0000)
                        .show(show("eflags", rec::EFLAGS).mask(!(1 << 16))),
                        |b| {
                            // INT 40h where a 16-bit EIP reaches it
                            b.copy(&[0xCD, 0x40], 0x9000)?;
                            // HLT for a processor that takes VM in an outer ring
                            b.copy(&[0xF4], 0x9000 + u32::from(sel::code(ring)) * 16)
                        },
                        |b| {
                            asm!(b; mov(eax, image); mov(ecx, cs));
                            if wide {
                                asm!(b; push(eax); push(ecx); push(0x9000); iretd());
                            } else {
                                asm!(b; push(ax); push(cx); mov(ax, 0x9000); push(ax); iret());
                            }
                            Ok(())
                        },
                    )?;
                }
            }
        }
    }
    Ok(())
}

/// Data segments of the inner ring are dropped on the way out, by IRET and by RETF.
fn dropped(b: &mut Builder) -> Asm {
    for access in [0x93u8, 0x91, 0x9B, 0x9F] {
        for dpl in 0..4 {
            for outer in 1..4u16 {
                for way in ["iretd", "retf"] {
                    b.case(
                        Case::new(format!("{way} to ring {outer} with access {access:x} dpl {dpl}")).regs(&[
                            ("ds", rec::DS),
                            ("es", rec::ES),
                            ("fs", rec::FS),
                            ("gs", rec::GS),
                        ]),
                        |b| {
                            b.descriptor(TARGET, desc::flat(access | desc::dpl(dpl)))?;
                            asm!(b; mov(eax, u32::from(TARGET)));
                            asm!(b; mov(ds, eax); mov(es, eax); mov(fs, eax); mov(gs, eax));
                            Ok(())
                        },
                        |b| {
                            let hit = b.addr(b.rt.hit);
                            asm!(b; push(i32::from(sel::data(outer))); push((OUTER - 0x100) as i32));
                            if way == "iretd" {
                                b.a.push(2)?;
                            }
                            asm!(b; push(i32::from(sel::code(outer))); push(hit as i32));
                            if way == "iretd" { b.a.iretd() } else { b.a.retf() }
                        },
                    )?;
                }
            }
        }
    }
    Ok(())
}

/// To VM86 mode.
fn to_vm86(b: &mut Builder) -> Asm {
    for image in [0u32, 0x200, 0x3000, 0x3202, 0x7000, 0x18_0000, 0x24_0CD5] {
        for eip in [0u32, 0xFFFF, 0x1_0000] {
            let case = Case::new(format!("iretd to VM86, eflags {image:x}, eip {eip:x}"));
            let beyond = eip > 0xFFFF;
            b.case(
                if beyond {
                    case.show(show("cs", rec::CS))
                } else {
                    case.origin(0).regs(&[
                        ("eflags", rec::EFLAGS),
                        ("cs", rec::CS),
                        ("esp", rec::OUTER_ESP),
                        ("ss", rec::OUTER_SS),
                        ("ds", rec::VM_DS),
                        ("es", rec::VM_ES),
                        ("fs", rec::VM_FS),
                        ("gs", rec::VM_GS),
                    ])
                },
                // HLT
                |b| {
                    b.copy(&[0xF4], 0x1_0000)?;
                    b.copy(&[0xF4], 0x1_FFFF)?;
                    asm!(b; sub(esp, 64));
                    for n in 0..16 {
                        asm!(b; mov(dword_ptr(esp + n * 4), 0));
                    }
                    Ok(())
                },
                |b| {
                    for value in [
                        0x1_4444u32,
                        0x1_3333,
                        0x1_2222,
                        0x1_1111,
                        0x1_2000,
                        0x1_1000,
                        image | 0x2_0002,
                        0x1_1000,
                        eip,
                    ] {
                        b.a.push(value as i32)?;
                    }
                    b.a.iretd()
                },
            )?;
        }
    }
    // NT in ring 3 and a TSS without a link: #TS.
    for ring in [0, 3] {
        b.case(
            Case::new(format!("iretd with NT and no link ring {ring}")).ring(ring).eflags(0x4000),
            |_| Ok(()),
            |b| b.a.iretd(),
        )?;
    }
    Ok(())
}

/// The program.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    targets(&mut b)?;
    flags(&mut b)?;
    dropped(&mut b)?;
    to_vm86(&mut b)?;
    b.finish()
}
