//! Heap sort of 64 Ki pseudo-random words; `size` arrays one after the other.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::{DATA, LCG, labels, lcg, mix};

const N: i32 = 0x1_0000;
const SEED: u32 = 12_345;
const STATE: i32 = DATA as i32;
const SUM: i32 = STATE + 4;
const PASSES: i32 = STATE + 8;
const ARRAY: i32 = STATE + 0x1000;

/// Sifting: ECX root, EDX child, EDI end of the heap, EBX the word that sinks. EBP is the loop variable.
pub(super) fn emit(a: &mut CodeAssembler, size: u32) -> Result<(), IcedError> {
    let [mut pass, mut fill, mut build, mut extract, mut sum] = labels(a);
    let [mut sift, mut left, mut chosen, mut place] = labels(a);
    let [mut start] = labels(a);
    a.jmp(start)?;

    a.set_label(&mut sift)?;
    a.lea(edx, ecx + ecx + 1)?;
    a.cmp(edx, edi)?;
    a.jae(place)?;
    a.mov(eax, dword_ptr(edx * 4 + ARRAY))?;
    a.inc(edx)?;
    a.cmp(edx, edi)?;
    a.jae(left)?;
    a.cmp(dword_ptr(edx * 4 + ARRAY), eax)?;
    a.jbe(left)?;
    a.mov(eax, dword_ptr(edx * 4 + ARRAY))?;
    a.jmp(chosen)?;
    a.set_label(&mut left)?;
    a.dec(edx)?;
    a.set_label(&mut chosen)?;
    a.cmp(eax, ebx)?;
    a.jbe(place)?;
    a.mov(dword_ptr(ecx * 4 + ARRAY), eax)?;
    a.mov(ecx, edx)?;
    a.jmp(sift)?;
    a.set_label(&mut place)?;
    a.mov(dword_ptr(ecx * 4 + ARRAY), ebx)?;
    a.ret()?;

    a.set_label(&mut start)?;
    a.mov(dword_ptr(STATE), SEED)?;
    a.mov(dword_ptr(SUM), 0)?;
    a.mov(dword_ptr(PASSES), size)?;
    a.set_label(&mut pass)?;
    a.mov(eax, dword_ptr(STATE))?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut fill)?;
    a.imul_3(eax, eax, LCG.0)?;
    a.add(eax, LCG.1)?;
    a.mov(dword_ptr(ecx * 4 + ARRAY), eax)?;
    a.inc(ecx)?;
    a.cmp(ecx, N)?;
    a.jb(fill)?;
    a.mov(dword_ptr(STATE), eax)?;

    a.mov(ebp, N / 2)?;
    a.mov(edi, N)?;
    a.set_label(&mut build)?;
    a.dec(ebp)?;
    a.mov(ecx, ebp)?;
    a.mov(ebx, dword_ptr(ebp * 4 + ARRAY))?;
    a.call(sift)?;
    a.test(ebp, ebp)?;
    a.jnz(build)?;

    a.mov(ebp, N - 1)?;
    a.set_label(&mut extract)?;
    a.mov(ebx, dword_ptr(ebp * 4 + ARRAY))?;
    a.mov(eax, dword_ptr(ARRAY))?;
    a.mov(dword_ptr(ebp * 4 + ARRAY), eax)?;
    a.xor(ecx, ecx)?;
    a.mov(edi, ebp)?;
    a.call(sift)?;
    a.dec(ebp)?;
    a.jnz(extract)?;

    a.mov(eax, dword_ptr(SUM))?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut sum)?;
    a.rol(eax, 5)?;
    a.add(eax, dword_ptr(ecx * 4 + ARRAY))?;
    a.inc(ecx)?;
    a.cmp(ecx, N)?;
    a.jb(sum)?;
    a.mov(dword_ptr(SUM), eax)?;
    a.dec(dword_ptr(PASSES))?;
    a.jnz(pass)?;
    a.ret()
}

/// By the standard library's sort.
pub(super) fn reference(size: u32) -> u32 {
    let (mut state, mut sum) = (SEED, 0);
    for _ in 0..size {
        let mut array = Vec::new();
        for _ in 0..N {
            state = lcg(state);
            array.push(state);
        }
        array.sort_unstable();
        sum = array.into_iter().fold(sum, mix);
    }
    sum
}
