//! Single-step, breakpoints on code, data and ports, and the debug registers themselves (SDM vol. 3,
//! chapter 18.2 and 18.3). Every #DB is logged: where it returned to, and DR6.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Case, show};
use super::layout::*;
use crate::asm;

const TF: u32 = 0x100;
const CR4_DE: u32 = 8;

type Test = fn(&mut Builder) -> Asm;

fn single_step(b: &mut Builder) -> Asm {
    let tests: [(&str, Test); 16] = [
        ("nops", |b| {
            asm!(b; nop(); nop(); nop());
            Ok(())
        }),
        ("mov ss", |b| {
            asm!(b; mov(ecx, ss); mov(ss, ecx); nop(); nop());
            Ok(())
        }),
        ("pop ss", |b| {
            asm!(b; push(ss); pop(ss); nop(); nop());
            Ok(())
        }),
        ("mov ds", |b| {
            asm!(b; mov(ecx, ds); mov(ds, ecx); nop());
            Ok(())
        }),
        ("rep movsb", |b| {
            asm!(b; mov(ecx, 3); mov(esi, CELLS); mov(edi, CELLS + 8));
            b.a.rep().movsb()?;
            b.a.nop()
        }),
        ("rep movsb of nothing", |b| {
            asm!(b; xor(ecx, ecx));
            b.a.rep().movsb()?;
            b.a.nop()
        }),
        ("int", |b| {
            asm!(b; int(0x44); nop(); nop());
            Ok(())
        }),
        ("int3", |b| {
            asm!(b; int3(); nop());
            Ok(())
        }),
        ("int1", |b| {
            asm!(b; int1(); nop());
            Ok(())
        }),
        ("into", |b| {
            asm!(b; mov(al, 0x7F); inc(al); db(&[0xCE]); nop());
            Ok(())
        }),
        ("popf clears", |b| {
            asm!(b; push(2); popfd(); nop(); nop());
            Ok(())
        }),
        ("pushf", |b| {
            asm!(b; pushfd(); pop(edx); nop());
            Ok(())
        }),
        ("jump and call", |b| {
            let mut next = b.a.create_label();
            asm!(b; call(next); set_label(&mut next); pop(ecx); nop());
            Ok(())
        }),
        ("iret", |b| {
            let next = b.mark();
            let at = b.addr(next);
            asm!(b; pushfd(); push(cs); push(at as i32); iretd());
            b.place(next)?;
            asm!(b; nop(); nop());
            Ok(())
        }),
        ("cli sti", |b| {
            asm!(b; nop(); nop(); std(); cld());
            Ok(())
        }),
        ("ud2", |b| {
            asm!(b; nop(); ud2());
            Ok(())
        }),
    ];
    for (name, test) in tests {
        for ring in [0, 3] {
            b.case(
                Case::new(format!("TF {name} ring {ring}"))
                    .ring(ring)
                    .eflags(TF)
                    .mode(mode::LOG)
                    .show(show("edx", rec::EDX))
                    .show(show("tf", rec::EFLAGS).mask(TF)),
                |_| Ok(()),
                test,
            )?;
        }
    }
    for (name, load) in [("popfd", false), ("iretd", true)] {
        b.case(
            Case::new(format!("TF set by {name}")).mode(mode::LOG),
            |_| Ok(()),
            |b| {
                if load {
                    let next = b.mark();
                    let at = b.addr(next);
                    asm!(b; push(0x102); push(cs); push(at as i32); iretd());
                    b.place(next)?;
                } else {
                    asm!(b; push(0x102); popfd());
                }
                asm!(b; nop(); nop(); nop());
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// Breakpoints on instructions.
fn code(b: &mut Builder) -> Asm {
    for n in 0..4u32 {
        for enable in 0..4u32 {
            b.case(
                Case::new(format!("code breakpoint {n} enable {enable}")).mode(mode::LOG_RF),
                |_| Ok(()),
                |b| {
                    let place = b.mark();
                    let at = b.addr(place);
                    asm!(b; mov(eax, at));
                    b.a.db(&[0x0F, 0x23, 0xC0 | (n as u8) << 3])?;
                    asm!(b; mov(eax, enable << (2 * n)); mov(dr7, eax); nop());
                    b.place(place)?;
                    asm!(b; nop(); nop());
                    Ok(())
                },
            )?;
        }
    }
    // Around other things that raise or hold back #DB.
    let places =
        [("with TF", TF), ("RF set before it", 0), ("behind mov ss", 0), ("on ud2", 0), ("on rep movsb", 0)];
    for (name, eflags) in places {
        for ring in [0, 3] {
            b.case(
                Case::new(format!("code breakpoint {name} ring {ring}"))
                    .ring(ring)
                    .eflags(eflags)
                    .mode(mode::LOG_RF)
                    .show(show("rf", rec::EFLAGS).mask(1 << 16)),
                |b| {
                    let place = b.mark();
                    let at = b.addr(place);
                    asm!(b; mov(eax, at); mov(dr0, eax); mov(eax, 1); mov(dr7, eax));
                    asm!(b; mov(ecx, 2); mov(esi, CELLS); mov(edi, CELLS + 8));
                    let mut skip = b.a.create_label();
                    asm!(b; jmp(skip));
                    b.place(place)?;
                    match name {
                        "on ud2" => b.a.ud2()?,
                        "on rep movsb" => b.a.rep().movsb()?,
                        _ => b.a.nop()?,
                    }
                    asm!(b; nop(); int(0x40); set_label(&mut skip));
                    b.poke_addr(CELLS + 0x20, place)
                },
                |b| {
                    match name {
                        "behind mov ss" => {
                            asm!(b; mov(edx, ss); mov(ss, edx));
                        }
                        "RF set before it" => {
                            asm!(b; push(0x1_0002); push(cs); push(dword_ptr(CELLS + 0x20)); iretd());
                        }
                        _ => {}
                    }
                    b.a.jmp(dword_ptr(CELLS + 0x20))
                },
            )?;
        }
    }
    Ok(())
}

/// Breakpoints on data: type, length, access, size, offset.
fn data(b: &mut Builder) -> Asm {
    let at = CELLS + 0x40;
    for (kind, type_name) in [(1u32, "write"), (3, "read/write")] {
        for (len, bytes) in [(0u32, 1), (1, 2), (3, 4)] {
            for write in [false, true] {
                for size in [1u32, 2, 4] {
                    for offset in [-4i32, -3, -1, 0, 1, 2, 4] {
                        let address = at.wrapping_add_signed(offset);
                        b.case(
                            Case::new(format!(
                                "data breakpoint {type_name} {bytes}, {} {size} at {offset}",
                                if write { "write" } else { "read" }
                            ))
                            .mode(mode::LOG),
                            |b| {
                                asm!(b; mov(eax, at); mov(dr1, eax); mov(eax, 4 | kind << 20 | len << 22); mov(dr7, eax));
                                Ok(())
                            },
                            |b| {
                                match (write, size) {
                                    (false, 1) => b.a.mov(al, byte_ptr(address))?,
                                    (false, 2) => b.a.mov(ax, word_ptr(address))?,
                                    (false, _) => b.a.mov(eax, dword_ptr(address))?,
                                    (true, 1) => b.a.mov(byte_ptr(address), al)?,
                                    (true, 2) => b.a.mov(word_ptr(address), ax)?,
                                    (true, _) => b.a.mov(dword_ptr(address), eax)?,
                                }
                                b.a.nop()
                            },
                        )?;
                    }
                }
            }
        }
    }
    let tests: [(&str, Test); 12] = [
        ("push", |b| {
            asm!(b; mov(esp, CELLS + 0x44); push(5); mov(esp, OUTER); nop());
            Ok(())
        }),
        ("pop", |b| {
            asm!(b; mov(esp, CELLS + 0x40); pop(eax); mov(esp, OUTER); nop());
            Ok(())
        }),
        ("add to memory", |b| {
            asm!(b; add(dword_ptr(CELLS + 0x40), 1); nop());
            Ok(())
        }),
        ("rep stosb over it", |b| {
            asm!(b; mov(edi, CELLS + 0x3E); mov(ecx, 8));
            b.a.rep().stosb()?;
            b.a.nop()
        }),
        ("rep movsd from it", |b| {
            asm!(b; mov(esi, CELLS + 0x3C); mov(edi, CELLS + 0x80); mov(ecx, 3));
            b.a.rep().movsd()?;
            b.a.nop()
        }),
        ("cmpxchg unequal", |b| {
            asm!(b; mov(eax, 1); cmpxchg(dword_ptr(CELLS + 0x40), ecx); nop());
            Ok(())
        }),
        ("xchg", |b| {
            asm!(b; mov(eax, 1); xchg(dword_ptr(CELLS + 0x40), eax); nop());
            Ok(())
        }),
        ("mov ss from it", |b| {
            asm!(b; mov(ss, word_ptr(CELLS + 0x40)); nop(); nop());
            Ok(())
        }),
        ("fld", |b| {
            asm!(b; fninit(); fld(qword_ptr(CELLS + 0x3C)); nop());
            Ok(())
        }),
        ("movups", |b| {
            asm!(b; movups(xmm0, ptr(CELLS + 0x38)); nop());
            Ok(())
        }),
        ("load that faults", |b| {
            asm!(b; mov(eax, dword_ptr(CELLS + 0x40)); lds(eax, fword_ptr(CELLS + 0x40)); nop());
            Ok(())
        }),
        ("div by it that overflows", |b| {
            asm!(b; mov(edx, 0x1000); div(dword_ptr(CELLS + 0x40)); nop());
            Ok(())
        }),
    ];
    for (name, test) in tests {
        for eflags in [0, TF] {
            b.case(
                Case::new(format!("data breakpoint, {name}{}", if eflags == 0 { "" } else { ", TF" }))
                    .ring(3)
                    .eflags(eflags)
                    .mode(mode::LOG),
                |b| {
                    asm!(b; mov(eax, 0x200); mov(cr4, eax));
                    b.poke(CELLS + 0x40, u32::from(sel::data(3)))?;
                    b.poke(CELLS + 0x44, 0x1234)?;
                    asm!(b; mov(eax, CELLS + 0x40); mov(dr0, eax); mov(eax, 0xF_0001 | 1 << 8); mov(dr7, eax));
                    asm!(b; xor(edx, edx));
                    Ok(())
                },
                test,
            )?;
        }
    }
    Ok(())
}

fn ports(b: &mut Builder) -> Asm {
    for de in [0, CR4_DE] {
        for (len, bytes) in [(0u32, 1), (1, 2), (3, 4)] {
            for port in [0x7Fu32, 0x80, 0x81, 0x83, 0x84] {
                if de == 0 && (bytes != 1 || port != 0x84) {
                    // R/W = 2 is undefined without DE.
                    continue;
                }
                for input in [false, true] {
                    b.case(
                        Case::new(format!(
                            "I/O breakpoint {bytes} de {} {} {port:x}",
                            de >> 3,
                            if input { "in" } else { "out" }
                        ))
                        .mode(mode::LOG),
                        |b| {
                            asm!(b; mov(eax, de); mov(cr4, eax); mov(eax, 0x80); mov(dr3, eax));
                            asm!(b; mov(eax, 0x40 | 2 << 28 | len << 30); mov(dr7, eax); xor(eax, eax); mov(edx, port));
                            Ok(())
                        },
                        |b| {
                            if input {
                                b.a.in_(al, dx)?;
                            } else {
                                b.a.out(dx, al)?;
                            }
                            b.a.nop()
                        },
                    )?;
                }
            }
        }
    }
    Ok(())
}

/// The registers themselves.
fn registers(b: &mut Builder) -> Asm {
    for value in [0u32, u32::MAX, 0xFFFF_0FF0, 0x5555_5555] {
        b.case(
            Case::new(format!("DR0 to DR7 of {value:x}")).regs(&[
                ("dr3", rec::EBX),
                ("dr6", rec::ECX),
                ("dr7", rec::EDX),
            ]),
            |_| Ok(()),
            |b| {
                asm!(b;
                    mov(eax, value);
                    mov(dr3, eax);
                    mov(dr6, eax);
                    mov(ebx, dr3);
                    mov(ecx, dr6);
                    and(eax, !0x20FFu32 as i32);
                    mov(dr7, eax);
                    mov(edx, dr7);
                );
                Ok(())
            },
        )?;
    }
    for n in 0..8u8 {
        for de in [0, CR4_DE] {
            for ring in [0, 3] {
                for (what, opcode) in [("read", 0x21u8), ("write", 0x23)] {
                    b.case(
                        Case::new(format!("{what} dr{n} de {} ring {ring}", de >> 3)).ring(ring),
                        |b| {
                            asm!(b; mov(eax, de); mov(cr4, eax); xor(eax, eax));
                            Ok(())
                        },
                        |b| b.a.db(&[0x0F, opcode, 0xC0 | n << 3]),
                    )?;
                    if n < 4 || de != 0 || ring == 3 || (n == 5 && what == "write") {
                        continue;
                    }
                    // General detect: each access to a debug register faults once, then GD is clear.
                    b.case(
                        Case::new(format!("{what} dr{n} with GD ring {ring}"))
                            .ring(ring)
                            .mode(mode::LOG)
                            .show(show("gd", rec::DR7).mask(1 << 13)),
                        |b| {
                            asm!(b; mov(eax, 1 << 13); mov(dr7, eax); xor(eax, eax));
                            Ok(())
                        },
                        |b| {
                            b.a.db(&[0x0F, opcode, 0xC0 | n << 3])?;
                            b.a.nop()
                        },
                    )?;
                }
            }
        }
    }
    // #DB does not clear DR6: bits gather.
    b.case(
        Case::new("DR6 keeps what is there").show(show("dr6", rec::DR6)),
        |b| {
            asm!(b; mov(eax, 0xFFFF_AFF1u32); mov(dr6, eax));
            Ok(())
        },
        |b| {
            asm!(b; push(0x102); popfd(); nop());
            Ok(())
        },
    )
}

/// Single-step, code breakpoints, registers.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    single_step(&mut b)?;
    code(&mut b)?;
    registers(&mut b)?;
    b.finish()
}

/// Breakpoints on data and ports.
pub fn build_data() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    data(&mut b)?;
    ports(&mut b)?;
    b.finish()
}
