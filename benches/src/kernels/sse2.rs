//! SSE2: scalar doubles and packed integers over 256 elements; `size` passes. The doubles are integers that fit.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::{DATA, labels};

const N: i32 = 256;
const ARRAY: i32 = DATA as i32;
const RESULT: i32 = ARRAY + 16 * N;
/// CR4: the operating system knows of SSE (OSFXSR, OSXMMEXCPT).
const OS_SUPPORT: i32 = 3 << 9;

/// EBP counts passes, ECX elements; XMM0 is the sum of doubles, XMM1 that of integers.
pub(super) fn emit(a: &mut CodeAssembler, size: u32) -> Result<(), IcedError> {
    let [mut pass, mut fill, mut sum] = labels(a);
    a.mov(eax, cr4)?;
    a.or(eax, OS_SUPPORT)?;
    a.mov(cr4, eax)?;
    a.pxor(xmm0, xmm0)?;
    a.pxor(xmm1, xmm1)?;
    a.mov(ebp, size)?;
    a.set_label(&mut pass)?;
    a.xor(ecx, ecx)?;
    a.mov(edx, ARRAY)?;
    a.set_label(&mut fill)?;
    a.lea(eax, ecx + ebp)?;
    a.and(eax, 0xFFF)?;
    a.movd(xmm2, eax)?;
    a.pshufd(xmm2, xmm2, 0)?;
    a.movdqa(xmmword_ptr(edx), xmm2)?;
    a.cvtsi2sd(xmm3, eax)?;
    a.movsd_2(qword_ptr(edx + 8), xmm3)?;
    a.add(edx, 16)?;
    a.inc(ecx)?;
    a.cmp(ecx, N)?;
    a.jb(fill)?;
    a.xor(ecx, ecx)?;
    a.mov(edx, ARRAY)?;
    a.set_label(&mut sum)?;
    a.movsd_2(xmm2, qword_ptr(edx + 8))?;
    a.mulsd(xmm2, xmm2)?;
    a.addsd(xmm0, xmm2)?;
    a.movdqa(xmm3, xmmword_ptr(edx))?;
    a.pslld(xmm3, 3)?;
    a.paddd(xmm1, xmm3)?;
    a.add(edx, 16)?;
    a.inc(ecx)?;
    a.cmp(ecx, N)?;
    a.jb(sum)?;
    a.dec(ebp)?;
    a.jnz(pass)?;
    a.movsd_2(qword_ptr(RESULT), xmm0)?;
    a.movd(eax, xmm1)?;
    a.xor(eax, dword_ptr(RESULT))?;
    a.xor(eax, dword_ptr(RESULT + 4))?;
    a.ret()
}

pub(super) fn reference(size: u32) -> u32 {
    let (mut doubles, mut integers) = (0u64, 0u32);
    for pass in 1..=size {
        for n in 0..N as u32 {
            let value = (n + pass) & 0xFFF;
            doubles += u64::from(value) * u64::from(value);
            integers = integers.wrapping_add(value << 3);
        }
    }
    let bits = (doubles as f64).to_bits();
    integers ^ bits as u32 ^ (bits >> 32) as u32
}
