//! 16-bit code in segments with bases and limits: a sieve over 32 KiB and running sums of words, with segment
//! overrides, near calls, loads of segment registers; `size` passes.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::{DATA, labels};

/// The sieve's bytes, at ES.
const N: u32 = 0x8000;
/// Multiples of primes below the square root are struck out.
const ROOT: u32 = 182;
/// Words of running sums, at DS.
const WORDS: u32 = 0x2000;

/// Descriptors of our own, and what is saved: the table registers, where the 16-bit code goes in the end, ESP.
const GDT: u32 = DATA + 0xF000;
const GDTR: u32 = GDT + 0x40;
const OLD_GDTR: u32 = GDT + 0x48;
const WAY_BACK: u32 = GDT + 0x50;
const OLD_ESP: u32 = GDT + 0x58;
const CODE16: u16 = 0x18;

/// BP counts passes, BX is the sum.
fn code16() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(16)?;
    let [mut pass, mut next, mut strike, mut skip] = labels(&mut a);
    let [mut count, mut words, mut step] = labels(&mut a);
    a.mov(ax, 0x20)?;
    a.mov(ds, ax)?;
    a.mov(ax, 0x28)?;
    a.mov(es, ax)?;
    a.mov(ss, ax)?;
    a.mov(sp, 0xFFF0)?;
    a.cld()?;
    a.push(es)?;
    a.push(ds)?;
    a.pop(es)?;
    a.xor(di, di)?;
    a.xor(ax, ax)?;
    a.mov(cx, WORDS)?;
    a.rep().stosw()?;
    a.pop(es)?;

    a.set_label(&mut pass)?;
    a.xor(di, di)?;
    a.mov(ax, 0x0101)?;
    a.mov(cx, N / 2)?;
    a.rep().stosw()?;
    a.mov(si, 2)?;
    a.set_label(&mut next)?;
    a.cmp(byte_ptr(si).es(), 0)?;
    a.je(skip)?;
    a.mov(ax, si)?;
    a.mul(ax)?;
    a.mov(di, ax)?;
    a.set_label(&mut strike)?;
    a.mov(byte_ptr(di).es(), 0)?;
    a.add(di, si)?;
    a.cmp(di, N)?;
    a.jb(strike)?;
    a.set_label(&mut skip)?;
    a.inc(si)?;
    a.cmp(si, ROOT)?;
    a.jb(next)?;
    a.mov(si, 2)?;
    a.xor(bx, bx)?;
    a.set_label(&mut count)?;
    a.mov(al, byte_ptr(si).es())?;
    a.xor(ah, ah)?;
    a.add(bx, ax)?;
    a.inc(si)?;
    a.cmp(si, N)?;
    a.jb(count)?;
    a.xor(di, di)?;
    a.mov(cx, WORDS)?;
    a.set_label(&mut words)?;
    a.call(step)?;
    a.loop_(words)?;
    a.push(es)?;
    a.push(ds)?;
    a.pop(ds)?;
    a.pop(es)?;
    a.dec(bp)?;
    a.jnz(pass)?;
    // JMP FAR DWORD [WAY_BACK]
    let at = (WAY_BACK - DATA).to_le_bytes();
    a.db(&[0x66, 0xFF, 0x2E, at[0], at[1]])?;

    a.set_label(&mut step)?;
    a.add(bx, word_ptr(di))?;
    a.mov(word_ptr(di), bx)?;
    a.add(di, 2)?;
    a.ret()?;
    a.assemble(0)
}

/// A descriptor of 64 KiB, or flat with 32 bits.
fn descriptor(base: u32, access: u32, flat: bool) -> [u32; 2] {
    let limit = if flat { 0x00CF_0000 } else { 0 };
    [base << 16 | 0xFFFF, base & 0xFF00_0000 | limit | access << 8 | (base >> 16) & 0xFF]
}

pub(super) fn emit(a: &mut CodeAssembler, size: u32) -> Result<(), IcedError> {
    let [mut wide, mut ready] = labels(a);
    let at = |address: u32| dword_ptr(address as i32);
    let table = [
        [0, 0],
        descriptor(0, 0x9B, true),
        descriptor(0, 0x93, true),
        descriptor(0, 0x9B, false),
        descriptor(DATA, 0x93, false),
        descriptor(DATA + 0x1_0000, 0x93, false),
    ];
    for (n, dword) in table.iter().flatten().enumerate() {
        a.mov(at(GDT + 4 * n as u32), *dword)?;
    }
    // What a call leaves on the stack is where the 16-bit code begins, the base of its segment.
    a.call(wide)?;
    a.db(&code16()?)?;
    a.set_label(&mut wide)?;
    a.pop(eax)?;
    a.mov(word_ptr((GDT + u32::from(CODE16) + 2) as i32), ax)?;
    a.shr(eax, 16)?;
    a.mov(byte_ptr((GDT + u32::from(CODE16) + 4) as i32), al)?;
    a.mov(word_ptr(GDTR as i32), 8 * table.len() as i32 - 1)?;
    a.mov(at(GDTR + 2), GDT)?;
    // And where it goes in the end.
    a.call(ready)?;
    a.mov(eax, 0x10)?;
    a.mov(ds, eax)?;
    a.mov(es, eax)?;
    a.mov(ss, eax)?;
    a.mov(esp, at(OLD_ESP))?;
    a.lgdt(fword_ptr(OLD_GDTR as i32))?;
    a.movzx(eax, bx)?;
    a.ret()?;
    a.set_label(&mut ready)?;
    a.pop(eax)?;
    a.mov(at(WAY_BACK), eax)?;
    a.mov(word_ptr((WAY_BACK + 4) as i32), 8)?;
    a.mov(at(OLD_ESP), esp)?;
    a.sgdt(fword_ptr(OLD_GDTR as i32))?;
    a.lgdt(fword_ptr(GDTR as i32))?;
    a.mov(ebp, size)?;
    // JMP FAR CODE16:0
    let selector = CODE16.to_le_bytes();
    a.db(&[0xEA, 0, 0, 0, 0, selector[0], selector[1]])
}

/// Primes by trial division, and the sums.
pub(super) fn reference(size: u32) -> u32 {
    let is_prime = |n: &u32| (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    let primes = (2..N).filter(is_prime).count() as u16;
    let mut words = [0u16; WORDS as usize];
    let mut sum = 0;
    for _ in 0..size {
        sum = primes;
        for word in &mut words {
            sum = sum.wrapping_add(*word);
            *word = sum;
        }
    }
    sum.into()
}
