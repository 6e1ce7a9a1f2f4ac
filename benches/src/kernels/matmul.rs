//! Products of 128 x 128 matrices of words; `size` times the matrix is multiplied by the same other one.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::{DATA, LCG, labels, lcg, mix};

const N: i32 = 128;
const ROW: i32 = N * 4;
const MATRIX: i32 = N * ROW;
const SEED: u32 = 1;

/// Pointers to factor and product, which swap after each pass, and the passes left.
const FACTOR: i32 = DATA as i32;
const PRODUCT: i32 = FACTOR + 4;
const PASSES: i32 = FACTOR + 8;
/// Left factor, constant right factor, product.
const A: i32 = FACTOR + 0x1000;
const B: i32 = A + MATRIX;
const C: i32 = B + MATRIX;

/// ESI walks a row of the left factor, EDX a column of the right one, EDI the product; EBX is the dot product.
pub(super) fn emit(a: &mut CodeAssembler, size: u32) -> Result<(), IcedError> {
    let [mut fill, mut pass, mut row, mut column, mut dot, mut sum] = labels(a);
    a.mov(eax, SEED)?;
    a.mov(edi, A)?;
    a.set_label(&mut fill)?;
    a.imul_3(eax, eax, LCG.0)?;
    a.add(eax, LCG.1)?;
    a.mov(edx, eax)?;
    a.shr(edx, 16)?;
    a.xor(edx, eax)?;
    a.mov(dword_ptr(edi), edx)?;
    a.add(edi, 4)?;
    a.cmp(edi, C)?;
    a.jb(fill)?;
    a.mov(dword_ptr(FACTOR), A)?;
    a.mov(dword_ptr(PRODUCT), C)?;
    a.mov(dword_ptr(PASSES), size)?;

    a.set_label(&mut pass)?;
    a.mov(esi, dword_ptr(FACTOR))?;
    a.mov(edi, dword_ptr(PRODUCT))?;
    a.mov(ebp, N)?;
    a.set_label(&mut row)?;
    a.mov(edx, B)?;
    a.set_label(&mut column)?;
    a.xor(ebx, ebx)?;
    a.mov(ecx, N)?;
    a.set_label(&mut dot)?;
    a.mov(eax, dword_ptr(esi))?;
    a.imul_2(eax, dword_ptr(edx))?;
    a.add(ebx, eax)?;
    a.add(esi, 4)?;
    a.add(edx, ROW)?;
    a.dec(ecx)?;
    a.jnz(dot)?;
    a.mov(dword_ptr(edi), ebx)?;
    a.add(edi, 4)?;
    a.sub(esi, ROW)?;
    a.sub(edx, MATRIX - 4)?;
    a.cmp(edx, B + ROW)?;
    a.jb(column)?;
    a.add(esi, ROW)?;
    a.dec(ebp)?;
    a.jnz(row)?;
    a.mov(eax, dword_ptr(FACTOR))?;
    a.xchg(dword_ptr(PRODUCT), eax)?;
    a.mov(dword_ptr(FACTOR), eax)?;
    a.dec(dword_ptr(PASSES))?;
    a.jnz(pass)?;

    a.mov(esi, dword_ptr(FACTOR))?;
    a.mov(ecx, N * N)?;
    a.xor(eax, eax)?;
    a.set_label(&mut sum)?;
    a.rol(eax, 5)?;
    a.add(eax, dword_ptr(esi))?;
    a.add(esi, 4)?;
    a.dec(ecx)?;
    a.jnz(sum)?;
    a.ret()
}

/// With the loops in another order.
pub(super) fn reference(size: u32) -> u32 {
    const SIDE: usize = N as usize;
    let mut state = SEED;
    let mut random = || {
        state = lcg(state);
        state >> 16 ^ state
    };
    let mut factor: Vec<u32> = (0..SIDE * SIDE).map(|_| random()).collect();
    let constant: Vec<u32> = (0..SIDE * SIDE).map(|_| random()).collect();
    for _ in 0..size {
        let mut product = vec![0u32; SIDE * SIDE];
        for (left, sums) in factor.chunks_exact(SIDE).zip(product.chunks_exact_mut(SIDE)) {
            for (x, right) in left.iter().zip(constant.chunks_exact(SIDE)) {
                for (sum, y) in sums.iter_mut().zip(right) {
                    *sum = sum.wrapping_add(x.wrapping_mul(*y));
                }
            }
        }
        factor = product;
    }
    factor.into_iter().fold(0, mix)
}
