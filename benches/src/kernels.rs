//! Bare integer kernels: no operating system, no devices, just instructions.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// A kernel: its name and its code for 32-bit flat mode at [`CODE`]. It ends with HLT and leaves a
/// checksum in EAX.
pub struct Kernel {
    /// Name in tables.
    pub name: &'static str,
    /// Machine code.
    pub code: Vec<u8>,
    /// Checksum it must leave in EAX.
    pub expect: u32,
}

/// Linear address the code is assembled for.
pub const CODE: u32 = 0x10_0000;
/// Scratch memory of the kernels.
pub const DATA: u32 = 0x20_0000;

fn finish(name: &'static str, mut a: CodeAssembler, expect: u32) -> Result<Kernel, IcedError> {
    a.hlt()?;
    Ok(Kernel { name, code: a.assemble(u64::from(CODE))?, expect })
}

/// Sieve of Eratosthenes over 256 Ki bytes, ten times: strided byte stores.
fn sieve() -> Result<Kernel, IcedError> {
    const N: i32 = 256 * 1024;
    let mut a = CodeAssembler::new(32)?;
    let (mut outer, mut next, mut mark, mut skip, mut counting) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.mov(ebp, 10)?;
    a.set_label(&mut outer)?;
    a.mov(edi, DATA as i32)?;
    a.mov(ecx, N / 4)?;
    a.mov(eax, 0x0101_0101)?;
    a.rep().stosd()?;
    a.mov(esi, 2)?;
    a.set_label(&mut next)?;
    a.cmp(byte_ptr(esi + DATA as i32), 0)?;
    a.je(skip)?;
    a.mov(edx, esi)?;
    a.imul_2(edx, esi)?;
    a.cmp(edx, N)?;
    a.jae(skip)?;
    a.set_label(&mut mark)?;
    a.mov(byte_ptr(edx + DATA as i32), 0)?;
    a.add(edx, esi)?;
    a.cmp(edx, N)?;
    a.jb(mark)?;
    a.set_label(&mut skip)?;
    a.inc(esi)?;
    a.cmp(esi, 512)?;
    a.jb(next)?;
    a.dec(ebp)?;
    a.jnz(outer)?;
    a.xor(eax, eax)?;
    a.mov(esi, 2)?;
    a.set_label(&mut counting)?;
    a.movzx(edx, byte_ptr(esi + DATA as i32))?;
    a.add(eax, edx)?;
    a.inc(esi)?;
    a.cmp(esi, N)?;
    a.jb(counting)?;
    finish("sieve", a, 23000)
}

/// CRC-32 by table over 64 KiB, sixteen times.
fn crc() -> Result<Kernel, IcedError> {
    let mut a = CodeAssembler::new(32)?;
    let (mut table, mut bits, mut even, mut fill, mut pass, mut byte) = (
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
    );
    a.xor(ecx, ecx)?;
    a.set_label(&mut table)?;
    a.mov(eax, ecx)?;
    a.mov(edx, 8)?;
    a.set_label(&mut bits)?;
    a.shr(eax, 1)?;
    a.jnc(even)?;
    a.xor(eax, 0xEDB8_8320u32 as i32)?;
    a.set_label(&mut even)?;
    a.dec(edx)?;
    a.jnz(bits)?;
    a.mov(dword_ptr(ecx * 4 + DATA as i32), eax)?;
    a.inc(ecx)?;
    a.cmp(ecx, 256)?;
    a.jb(table)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut fill)?;
    a.mov(byte_ptr(ecx + (DATA + 0x1000) as i32), cl)?;
    a.inc(ecx)?;
    a.cmp(ecx, 0x1_0000)?;
    a.jb(fill)?;
    a.mov(eax, -1)?;
    a.mov(ebp, 16)?;
    a.set_label(&mut pass)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut byte)?;
    a.movzx(edx, byte_ptr(ecx + (DATA + 0x1000) as i32))?;
    a.xor(dl, al)?;
    a.shr(eax, 8)?;
    a.xor(eax, dword_ptr(edx * 4 + DATA as i32))?;
    a.inc(ecx)?;
    a.cmp(ecx, 0x1_0000)?;
    a.jb(byte)?;
    a.dec(ebp)?;
    a.jnz(pass)?;
    a.not(eax)?;
    finish("crc32", a, 0)
}

/// Naive Fibonacci of 27: calls, returns, stack.
fn fib() -> Result<Kernel, IcedError> {
    let mut a = CodeAssembler::new(32)?;
    let (mut f, mut base, mut start) = (a.create_label(), a.create_label(), a.create_label());
    a.jmp(start)?;
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
    a.ret()?;
    a.set_label(&mut start)?;
    a.mov(esp, (DATA + 0x10_0000) as i32)?;
    a.mov(eax, 27)?;
    a.call(f)?;
    finish("fib", a, 196_418)
}

/// Insertion sort of 2,000 pseudo-random words: dependent loads, compares, stores.
fn sort() -> Result<Kernel, IcedError> {
    const N: i32 = 2000;
    let mut a = CodeAssembler::new(32)?;
    let (mut fill, mut outer, mut inner, mut place, mut sum) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.mov(eax, 12345)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut fill)?;
    a.imul_3(eax, eax, 1_103_515_245)?;
    a.add(eax, 12345)?;
    a.mov(edx, eax)?;
    a.shr(edx, 16)?;
    a.mov(dword_ptr(ecx * 4 + DATA as i32), edx)?;
    a.inc(ecx)?;
    a.cmp(ecx, N)?;
    a.jb(fill)?;
    a.mov(esi, 1)?;
    a.set_label(&mut outer)?;
    a.mov(ebx, dword_ptr(esi * 4 + DATA as i32))?;
    a.mov(edi, esi)?;
    a.set_label(&mut inner)?;
    a.test(edi, edi)?;
    a.je(place)?;
    a.mov(edx, dword_ptr(edi * 4 + (DATA - 4) as i32))?;
    a.cmp(edx, ebx)?;
    a.jbe(place)?;
    a.mov(dword_ptr(edi * 4 + DATA as i32), edx)?;
    a.dec(edi)?;
    a.jmp(inner)?;
    a.set_label(&mut place)?;
    a.mov(dword_ptr(edi * 4 + DATA as i32), ebx)?;
    a.inc(esi)?;
    a.cmp(esi, N)?;
    a.jb(outer)?;
    a.xor(eax, eax)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut sum)?;
    a.rol(eax, 5)?;
    a.add(eax, dword_ptr(ecx * 4 + DATA as i32))?;
    a.inc(ecx)?;
    a.cmp(ecx, N)?;
    a.jb(sum)?;
    finish("sort", a, 0)
}

/// All kernels.
///
/// # Errors
/// The assembler's.
pub fn all() -> Result<Vec<Kernel>, IcedError> {
    Ok(vec![sieve()?, crc()?, fib()?, sort()?])
}
