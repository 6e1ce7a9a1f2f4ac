//! The A20 gate (SDM vol. 3, chapters 21.1.1 and 9.7.13.4).
//!
//! Everything the code touches while the gate may be closed lies in even megabytes.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Case, show_at};
use super::layout::*;
use crate::asm;

/// Code in the first MiB.
const LOW: u32 = 0x9000;
const EVEN: u32 = 0x60_0000;
const ODD: u32 = 0x70_0000;

type Test = fn(&mut CodeAssembler) -> Asm;

/// 32-bit code without absolute addresses of its own.
fn low(emit: Test) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(32)?;
    emit(&mut a)?;
    a.assemble(u64::from(LOW) + 4)
}

/// The program.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    let cases: [(&str, Test); 4] = [
        ("read with the gate closed", |a| {
            a.mov(eax, dword_ptr(ODD))?;
            a.mov(dword_ptr(CELLS), eax)
        }),
        ("write with the gate closed", |a| {
            a.mov(dword_ptr(ODD), 0x3333_3333u32)?;
            a.mov(eax, dword_ptr(EVEN))?;
            a.mov(dword_ptr(CELLS), eax)
        }),
        ("even addresses", |a| {
            a.mov(eax, dword_ptr(EVEN))?;
            a.mov(dword_ptr(CELLS), eax)
        }),
        ("port 92h", |a| {
            a.in_(al, 0x92)?;
            a.and(eax, 2)?;
            a.mov(dword_ptr(CELLS), eax)
        }),
    ];
    for (name, emit) in cases {
        for value in [0u8, 2] {
            let code = low(emit)?;
            b.case(
                Case::new(format!("A20 {value:x}, {name}")).show(show_at("cell", CELLS)),
                |b| {
                    // mov al, value; out 92h, al; ...; mov al, 2; out 92h, al; ret
                    let whole =
                        [&[0xB0, value, 0xE6, 0x92][..], &code, &[0xB0, 2, 0xE6, 0x92, 0xC3]].concat();
                    b.copy(&whole, LOW)?;
                    b.poke(EVEN, 0x1111_1111)?;
                    b.poke(ODD, 0x2222_2222)
                },
                |b| {
                    asm!(b; mov(eax, LOW); call(eax));
                    Ok(())
                },
            )?;
        }
    }
    b.finish()
}
