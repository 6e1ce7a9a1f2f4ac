//! Sieve of Eratosthenes over 256 Ki bytes; `size` passes.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::{DATA, labels};

const N: i32 = 256 * 1024;
/// Multiples of primes below the square root are struck out.
const ROOT: i32 = 512;
const AT: i32 = DATA as i32;

/// EBP counts passes, EBX is the sum.
pub(super) fn emit(a: &mut CodeAssembler, size: u32) -> Result<(), IcedError> {
    let [mut pass, mut fill, mut next, mut strike, mut skip, mut count] = labels(a);
    a.mov(ebp, size)?;
    a.xor(ebx, ebx)?;
    a.set_label(&mut pass)?;
    a.mov(edi, AT)?;
    a.set_label(&mut fill)?;
    a.mov(dword_ptr(edi), 0x0101_0101)?;
    a.add(edi, 4)?;
    a.cmp(edi, AT + N)?;
    a.jb(fill)?;
    a.mov(esi, 2)?;
    a.set_label(&mut next)?;
    a.cmp(byte_ptr(esi + AT), 0)?;
    a.je(skip)?;
    a.mov(edx, esi)?;
    a.imul_2(edx, esi)?;
    a.set_label(&mut strike)?;
    a.mov(byte_ptr(edx + AT), 0)?;
    a.add(edx, esi)?;
    a.cmp(edx, N)?;
    a.jb(strike)?;
    a.set_label(&mut skip)?;
    a.inc(esi)?;
    a.cmp(esi, ROOT)?;
    a.jb(next)?;
    a.mov(esi, 2)?;
    a.set_label(&mut count)?;
    a.movzx(edx, byte_ptr(esi + AT))?;
    a.add(ebx, edx)?;
    a.inc(esi)?;
    a.cmp(esi, N)?;
    a.jb(count)?;
    a.dec(ebp)?;
    a.jnz(pass)?;
    a.mov(eax, ebx)?;
    a.ret()
}

/// Primes by trial division.
pub(super) fn reference(size: u32) -> u32 {
    let is_prime = |n: &u32| (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (2..N as u32).filter(is_prime).count() as u32 * size
}
