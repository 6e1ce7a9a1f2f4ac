//! Naive recursive Fibonacci number of `size`.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::labels;

pub(super) fn emit(a: &mut CodeAssembler, size: u32) -> Result<(), IcedError> {
    let [mut f, mut base] = labels(a);
    a.mov(eax, size)?;
    a.set_label(&mut f)?;
    a.cmp(eax, 2)?;
    a.jb(base)?;
    a.push(ebx)?;
    a.mov(ebx, eax)?;
    a.dec(eax)?;
    a.call(f)?;
    a.push(eax)?;
    a.lea(eax, ebx - 2)?;
    a.call(f)?;
    a.pop(edx)?;
    a.add(eax, edx)?;
    a.pop(ebx)?;
    a.set_label(&mut base)?;
    a.ret()
}

/// By addition.
pub(super) fn reference(size: u32) -> u32 {
    (0..size).fold((0u32, 1u32), |(a, b), _| (b, a.wrapping_add(b))).0
}
