//! Doubles on the x87: an array is filled, multiplied and added up; `size` passes over 256 numbers. All results
//! are integers that fit, so they are exact.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::{DATA, labels};

const N: i32 = 256;
const ARRAY: i32 = DATA as i32;
const RESULT: i32 = ARRAY + 8 * N;

/// EBP counts passes, ECX elements; ST0 is the sum.
pub(super) fn emit(a: &mut CodeAssembler, size: u32) -> Result<(), IcedError> {
    let [mut pass, mut fill, mut sum] = labels(a);
    a.finit()?;
    a.fldz()?;
    a.mov(ebp, size)?;
    a.set_label(&mut pass)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut fill)?;
    a.lea(eax, ecx + ebp)?;
    a.and(eax, 0xFFF)?;
    a.mov(dword_ptr(RESULT), eax)?;
    a.fild(dword_ptr(RESULT))?;
    a.fstp(qword_ptr(ecx * 8 + ARRAY))?;
    a.inc(ecx)?;
    a.cmp(ecx, N)?;
    a.jb(fill)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut sum)?;
    a.fld(qword_ptr(ecx * 8 + ARRAY))?;
    a.fld(qword_ptr(ecx * 8 + ARRAY + 8))?;
    a.fmulp(st1, st0)?;
    a.faddp(st1, st0)?;
    a.inc(ecx)?;
    a.cmp(ecx, N - 1)?;
    a.jb(sum)?;
    a.dec(ebp)?;
    a.jnz(pass)?;
    a.fistp(qword_ptr(RESULT))?;
    a.mov(eax, dword_ptr(RESULT))?;
    a.ret()
}

pub(super) fn reference(size: u32) -> u32 {
    let mut sum = 0u32;
    for pass in 1..=size {
        let value = |n: u32| (n + pass) & 0xFFF;
        for n in 0..N as u32 - 1 {
            sum = sum.wrapping_add(value(n) * value(n + 1));
        }
    }
    sum
}
