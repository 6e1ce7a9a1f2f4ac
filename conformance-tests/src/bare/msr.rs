//! Model-specific registers (SDM vol. 4, and vol. 2 RDMSR, WRMSR).

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Builder, Case};
use super::layout::*;
use crate::asm;

/// The program.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    for index in [0x174u32, 0x175, 0x176] {
        for value in [0u32, 0x1234, 0xFFFF_FFFF] {
            b.case(
                Case::new(format!("wrmsr {index:x} of {value:x}"))
                    .regs(&[("eax", rec::EAX), ("edx", rec::EDX)]),
                |b| {
                    asm!(b; mov(ecx, index); mov(eax, value); mov(edx, 0x55));
                    Ok(())
                },
                |b| {
                    asm!(b; wrmsr(); xor(eax, eax); xor(edx, edx); rdmsr());
                    Ok(())
                },
            )?;
        }
    }
    for ring in 1..4 {
        for (name, read) in [("rdmsr", true), ("wrmsr", false)] {
            b.case(
                Case::new(format!("{name} ring {ring}")).ring(ring),
                |b| b.a.mov(ecx, 0x174),
                |b| if read { b.a.rdmsr() } else { b.a.wrmsr() },
            )?;
        }
    }
    // The local APIC: enabled, bootstrap processor, at FEE00000h.
    b.case(
        Case::new("rdmsr 1b").regs(&[("eax", rec::EAX), ("edx", rec::EDX)]),
        |b| b.a.mov(ecx, 0x1B),
        |b| b.a.rdmsr(),
    )?;
    for index in [0xDEADu32, 0x4000_0099, 0xC000_0080] {
        b.case(
            Case::new(format!("rdmsr of unknown {index:x}")).regs(&[("eax", rec::EAX), ("edx", rec::EDX)]),
            |b| b.a.mov(ecx, index),
            |b| b.a.rdmsr(),
        )?;
    }
    // The time stamp counter grows, and is written as a whole.
    b.case(
        Case::new("rdtsc twice").regs(&[("grown", rec::EBX)]),
        |_| Ok(()),
        |b| {
            asm!(b;
                rdtsc();
                mov(ecx, eax);
                mov(esi, edx);
                rdtsc();
                sub(eax, ecx);
                sbb(edx, esi);
                sets(bl);
            );
            Ok(())
        },
    )?;
    b.case(
        Case::new("wrmsr 10").regs(&[("edx", rec::EDX)]),
        |b| {
            asm!(b; mov(ecx, 0x10); xor(eax, eax); mov(edx, 0x1234_5678));
            Ok(())
        },
        |b| {
            asm!(b; wrmsr(); rdtsc());
            Ok(())
        },
    )?;
    b.finish()
}
