//! CRC-32 (IEEE 802.3) by table of the bytes 0 to 255 repeated over 64 KiB; `size` passes.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::{DATA, labels};

const LEN: i32 = 0x1_0000;
const POLYNOMIAL: u32 = 0xEDB8_8320;
const TABLE: i32 = DATA as i32;
const BYTES: i32 = TABLE + 0x1000;

/// EBP counts passes, EAX is the remainder.
pub(super) fn emit(a: &mut CodeAssembler, size: u32) -> Result<(), IcedError> {
    let [mut table, mut bit, mut even, mut fill, mut pass, mut byte] = labels(a);
    a.xor(ecx, ecx)?;
    a.set_label(&mut table)?;
    a.mov(eax, ecx)?;
    a.mov(edx, 8)?;
    a.set_label(&mut bit)?;
    a.shr(eax, 1)?;
    a.jnc(even)?;
    a.xor(eax, POLYNOMIAL)?;
    a.set_label(&mut even)?;
    a.dec(edx)?;
    a.jnz(bit)?;
    a.mov(dword_ptr(ecx * 4 + TABLE), eax)?;
    a.inc(ecx)?;
    a.cmp(ecx, 256)?;
    a.jb(table)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut fill)?;
    a.mov(byte_ptr(ecx + BYTES), cl)?;
    a.inc(ecx)?;
    a.cmp(ecx, LEN)?;
    a.jb(fill)?;
    a.mov(eax, -1)?;
    a.mov(ebp, size)?;
    a.set_label(&mut pass)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut byte)?;
    a.movzx(edx, byte_ptr(ecx + BYTES))?;
    a.xor(dl, al)?;
    a.shr(eax, 8)?;
    a.xor(eax, dword_ptr(edx * 4 + TABLE))?;
    a.inc(ecx)?;
    a.cmp(ecx, LEN)?;
    a.jb(byte)?;
    a.dec(ebp)?;
    a.jnz(pass)?;
    a.not(eax)?;
    a.ret()
}

/// Bit by bit.
pub(super) fn reference(size: u32) -> u32 {
    let bytes = (0..size).flat_map(|_| (0..LEN).map(|n| n as u8));
    !bytes.fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 != 0 { POLYNOMIAL } else { 0 })
    })
}
