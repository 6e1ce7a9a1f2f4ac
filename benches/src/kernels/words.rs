//! Splits 64 KiB of text into words, hashes them without regard to case, and counts them in a table;
//! `size` passes.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::{DATA, LCG, labels, lcg, mix};

const LEN: i32 = 0x1_0000;
const SEED: u32 = 7;
/// Hash of the empty word (Bernstein's hash).
const EMPTY: u32 = 5381;
const BUCKETS: i32 = 1024;

/// How often a word fell into a bucket, then the hash that did last, then the text.
const COUNTS: i32 = DATA as i32;
const LAST: i32 = COUNTS + BUCKETS * 4;
const TEXT: i32 = LAST + BUCKETS * 4;
/// A repetition of a bucket's last word counts as much as this many words.
const REPEATED: i32 = 16;

/// ESI walks the text, EBX is the hash of the word so far, EBP counts passes.
pub(super) fn emit(a: &mut CodeAssembler, size: u32) -> Result<(), IcedError> {
    let [mut clear, mut fill, mut keep] = labels(a);
    let [mut pass, mut next, mut upper, mut letter, mut end, mut other, mut reset, mut more, mut sum] =
        labels(a);
    a.mov(edi, COUNTS)?;
    a.set_label(&mut clear)?;
    a.mov(dword_ptr(edi), 0)?;
    a.add(edi, 4)?;
    a.cmp(edi, TEXT)?;
    a.jb(clear)?;
    a.mov(eax, SEED)?;
    a.set_label(&mut fill)?;
    a.imul_3(eax, eax, LCG.0)?;
    a.add(eax, LCG.1)?;
    a.mov(edx, eax)?;
    a.shr(edx, 16)?;
    a.and(edx, 0x7F)?;
    a.test(eax, 0x0300_0000)?;
    a.jz(keep)?;
    // Three of four characters become letters, most of them: words of some length.
    a.and(edx, 0x5F)?;
    a.or(edx, 0x40)?;
    a.set_label(&mut keep)?;
    a.mov(byte_ptr(edi), dl)?;
    a.inc(edi)?;
    a.cmp(edi, TEXT + LEN)?;
    a.jb(fill)?;

    a.mov(ebp, size)?;
    a.set_label(&mut pass)?;
    a.mov(esi, TEXT)?;
    a.mov(ebx, EMPTY)?;
    a.set_label(&mut next)?;
    a.movzx(eax, byte_ptr(esi))?;
    a.inc(esi)?;
    a.cmp(eax, i32::from(b'A'))?;
    a.jb(end)?;
    a.cmp(eax, i32::from(b'Z'))?;
    a.jbe(upper)?;
    a.cmp(eax, i32::from(b'a'))?;
    a.jb(end)?;
    a.cmp(eax, i32::from(b'z'))?;
    a.ja(end)?;
    a.jmp(letter)?;
    a.set_label(&mut upper)?;
    a.or(eax, 0x20)?;
    a.set_label(&mut letter)?;
    a.mov(edx, ebx)?;
    a.shl(edx, 5)?;
    a.add(ebx, edx)?;
    a.xor(ebx, eax)?;
    a.jmp(more)?;
    a.set_label(&mut end)?;
    a.cmp(ebx, EMPTY)?;
    a.je(more)?;
    a.mov(edx, ebx)?;
    a.and(edx, BUCKETS - 1)?;
    a.cmp(dword_ptr(edx * 4 + LAST), ebx)?;
    a.jne(other)?;
    a.add(dword_ptr(edx * 4 + COUNTS), REPEATED)?;
    a.jmp(reset)?;
    a.set_label(&mut other)?;
    a.mov(dword_ptr(edx * 4 + LAST), ebx)?;
    a.inc(dword_ptr(edx * 4 + COUNTS))?;
    a.set_label(&mut reset)?;
    a.mov(ebx, EMPTY)?;
    a.set_label(&mut more)?;
    a.cmp(esi, TEXT + LEN)?;
    a.jb(next)?;
    a.dec(ebp)?;
    a.jnz(pass)?;

    a.xor(eax, eax)?;
    a.mov(esi, COUNTS)?;
    a.set_label(&mut sum)?;
    a.rol(eax, 5)?;
    a.add(eax, dword_ptr(esi))?;
    a.add(esi, 4)?;
    a.cmp(esi, TEXT)?;
    a.jb(sum)?;
    a.ret()
}

/// With the standard library's notion of letters and words. A word that the end of the text cuts does not
/// count.
pub(super) fn reference(size: u32) -> u32 {
    let mut state = SEED;
    let text: Vec<u8> = (0..LEN)
        .map(|_| {
            state = lcg(state);
            let c = (state >> 16) as u8 & 0x7F;
            if state & 0x0300_0000 == 0 { c } else { c & 0x5F | 0x40 }
        })
        .collect();
    let mut words: Vec<&[u8]> = text.split(|c| !c.is_ascii_alphabetic()).collect();
    words.pop();
    let (mut counts, mut last) = ([0; BUCKETS as usize], [0; BUCKETS as usize]);
    for _ in 0..size {
        for word in words.iter().filter(|word| !word.is_empty()) {
            let hash =
                word.iter().fold(EMPTY, |hash, c| hash.wrapping_mul(33) ^ u32::from(c.to_ascii_lowercase()));
            let bucket = hash as usize % BUCKETS as usize;
            counts[bucket] += if last[bucket] == hash { REPEATED as u32 } else { 1 };
            last[bucket] = hash;
        }
    }
    counts.into_iter().chain(last).fold(0, mix)
}
