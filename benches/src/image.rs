//! One multiboot image with all kernels. Every contestant runs these very bytes.
//!
//! The first page holds the multiboot header (with address fields: a flat binary) and a small runtime, each
//! following page one kernel, so that no kernel's place depends on another's length. The command line chooses
//! a kernel by its decimal number; without one, all run in sequence. Around each, the runtime writes
//!
//! ```text
//! START name
//! END name checksum
//! ```
//!
//! to COM1, the checksum as eight hexadecimal digits, and in the end halts with interrupts disabled. Paging
//! and interrupts stay off; the stack and the kernels' data have pages of their own.

use std::io::Write as _;

use anyhow::{Result, ensure};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::kernels::{DATA, DATA_LEN, Kernel};

/// Linear address of the image.
const LOAD: u32 = 0x10_0000;
const PAGE: u32 = 0x1000;
/// The stack grows down from here.
const STACK: u32 = 0x40_0000;
/// RAM of the machines that run the image: what the kernels need, and room for any firmware.
pub const RAM: u64 = 64 << 20;

const COM1: u32 = 0x3F8;
const LINE_STATUS: u32 = COM1 + 5;
const TRANSMITTER_EMPTY: i32 = 1 << 5;

/// Magic of a multiboot header (Multiboot Specification 0.6.96, 3.1.1).
const HEADER_MAGIC: u32 = 0x1BAD_B002;
/// The header has address fields.
const HAS_ADDRESSES: u32 = 1 << 16;
const HEADER_LEN: u32 = 32;
/// In the boot information: there is a command line, and where its address stands.
const HAS_COMMAND_LINE: i32 = 1 << 2;
const COMMAND_LINE: i32 = 16;

/// Where the header's page holds the table, [`ENTRY`] bytes per kernel, and after it the texts it points to.
const TABLE: u32 = LOAD + 0x200;
/// An entry of the table: addresses of the kernel's first line, of the last line's beginning, and of its code.
const ENTRY: u32 = 12;

/// The image for engines in this process and for others.
pub struct Image {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The same in a file.
    pub file: NamedTempFile,
}

impl Image {
    /// Builds the image and writes it to a temporary file.
    ///
    /// # Errors
    /// Those of [`build`]; the file cannot be written.
    pub fn new(kernels: &[Kernel]) -> Result<Self> {
        let bytes = build(kernels)?;
        let mut file = NamedTempFile::new()?;
        file.write_all(&bytes)?;
        Ok(Self { bytes, file })
    }

    /// SHA-256, to tell which bytes a result belongs to.
    pub fn hash(&self) -> String {
        Sha256::digest(&self.bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Builds the image.
///
/// # Errors
/// The assembler's; a kernel longer than a page.
pub fn build(kernels: &[Kernel]) -> Result<Vec<u8>> {
    let end = code_address(kernels.len());
    ensure!(end <= DATA && DATA + DATA_LEN < STACK, "the image reaches into the kernels' data");
    let mut image = header(end);
    image.extend(runtime(kernels.len())?);
    pad(&mut image, TABLE)?;
    image.extend(table(kernels));
    for (n, kernel) in kernels.iter().enumerate() {
        pad(&mut image, code_address(n))?;
        image.extend(kernel.code(code_address(n))?);
    }
    pad(&mut image, end)?;
    Ok(image)
}

/// Address of kernel `n`.
fn code_address(n: usize) -> u32 {
    LOAD + PAGE * (1 + n as u32)
}

/// Fills up to an address.
fn pad(image: &mut Vec<u8>, address: u32) -> Result<()> {
    let end = (address - LOAD) as usize;
    ensure!(image.len() <= end, "what lies before {address:x}h is too long");
    image.resize(end, 0);
    Ok(())
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn header(end: u32) -> Vec<u8> {
    let checksum = 0u32.wrapping_sub(HEADER_MAGIC).wrapping_sub(HAS_ADDRESSES);
    // Then: the header itself, start and end of what is loaded, end of what is cleared (nothing), entry point.
    words(&[HEADER_MAGIC, HAS_ADDRESSES, checksum, LOAD, LOAD, end, 0, LOAD + HEADER_LEN])
}

fn table(kernels: &[Kernel]) -> Vec<u8> {
    let (mut entries, mut texts) = (Vec::new(), Vec::new());
    let first_text = TABLE + ENTRY * kernels.len() as u32;
    for (n, kernel) in kernels.iter().enumerate() {
        for text in [format!("START {}\n\0", kernel.name), format!("END {} \0", kernel.name)] {
            entries.push(first_text + texts.len() as u32);
            texts.extend(text.into_bytes());
        }
        entries.push(code_address(n));
    }
    [words(&entries), texts].concat()
}

/// The code at the entry point, for `count` kernels.
fn runtime(count: usize) -> Result<Vec<u8>, IcedError> {
    let end = (TABLE + ENTRY * count as u32) as i32;
    let mut a = CodeAssembler::new(32)?;
    let [mut digit, mut chosen, mut run, mut stop] = std::array::from_fn(|_| a.create_label());
    let [mut text, mut done] = std::array::from_fn(|_| a.create_label());
    let [mut send, mut wait, mut hexadecimal, mut decimal] = std::array::from_fn(|_| a.create_label());

    // ESI is the table entry of the next kernel, EDI the one to stop at.
    a.cli()?;
    a.cld()?;
    a.mov(esp, STACK)?;
    a.mov(esi, TABLE)?;
    a.mov(edi, end)?;
    a.test(dword_ptr(ebx), HAS_COMMAND_LINE)?;
    a.jz(run)?;
    a.mov(ebx, dword_ptr(ebx + COMMAND_LINE))?;
    a.cmp(byte_ptr(ebx), 0)?;
    a.je(run)?;
    a.xor(eax, eax)?;
    a.set_label(&mut digit)?;
    a.movzx(ecx, byte_ptr(ebx))?;
    a.sub(ecx, i32::from(b'0'))?;
    a.cmp(ecx, 9)?;
    a.ja(chosen)?;
    a.imul_3(eax, eax, 10)?;
    a.add(eax, ecx)?;
    a.inc(ebx)?;
    a.jmp(digit)?;
    a.set_label(&mut chosen)?;
    a.cmp(eax, count as i32)?;
    a.jae(stop)?;
    a.imul_3(eax, eax, ENTRY)?;
    a.add(esi, eax)?;
    a.lea(edi, esi + ENTRY as i32)?;

    a.set_label(&mut run)?;
    a.mov(ebx, dword_ptr(esi))?;
    a.call(text)?;
    a.push(esi)?;
    a.push(edi)?;
    a.call(dword_ptr(esi + 8))?;
    a.pop(edi)?;
    a.pop(esi)?;
    a.mov(ebp, eax)?;
    a.mov(ebx, dword_ptr(esi + 4))?;
    a.call(text)?;
    a.mov(ecx, 8)?;
    a.set_label(&mut hexadecimal)?;
    a.rol(ebp, 4)?;
    a.mov(eax, ebp)?;
    a.and(eax, 15)?;
    a.add(eax, i32::from(b'0'))?;
    a.cmp(eax, i32::from(b'9'))?;
    a.jbe(decimal)?;
    a.add(eax, i32::from(b'a' - b'9') - 1)?;
    a.set_label(&mut decimal)?;
    a.call(send)?;
    a.dec(ecx)?;
    a.jnz(hexadecimal)?;
    a.mov(eax, i32::from(b'\n'))?;
    a.call(send)?;
    a.add(esi, ENTRY as i32)?;
    a.cmp(esi, edi)?;
    a.jb(run)?;
    a.set_label(&mut stop)?;
    a.hlt()?;
    a.jmp(stop)?;

    // Sends the text at EBX.
    a.set_label(&mut text)?;
    a.movzx(eax, byte_ptr(ebx))?;
    a.test(eax, eax)?;
    a.jz(done)?;
    a.call(send)?;
    a.inc(ebx)?;
    a.jmp(text)?;
    a.set_label(&mut done)?;
    a.ret()?;

    // Sends AL.
    a.set_label(&mut send)?;
    a.push(eax)?;
    a.mov(edx, LINE_STATUS)?;
    a.set_label(&mut wait)?;
    a.in_(al, dx)?;
    a.test(al, TRANSMITTER_EMPTY)?;
    a.jz(wait)?;
    a.mov(edx, COM1)?;
    a.pop(eax)?;
    a.out(dx, al)?;
    a.ret()?;
    a.assemble(u64::from(LOAD + HEADER_LEN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines::Sample;
    use crate::engines::env86;
    use crate::kernels;
    use emu_core::interp::Interpreter;

    /// The kernels at sizes that take a moment in a debug build.
    fn small() -> Vec<Kernel> {
        let size = |kernel: &Kernel| match kernel.name {
            "fib" => 15,
            "bytecode" => 1000,
            _ => 2,
        };
        kernels::ALL.iter().map(|kernel| kernel.with_size(size(kernel))).collect()
    }

    #[test]
    fn kernels_return_their_checksums() {
        let kernels = small();
        let image = build(&kernels).unwrap();
        for (n, kernel) in kernels.iter().enumerate() {
            let Sample { checksum, instructions, .. } =
                env86::run(Interpreter::new(), &image, Some(n)).unwrap().only().unwrap();
            assert_eq!(checksum, kernel.checksum(), "{}", kernel.name);
            assert!(instructions > 1000, "{} ran {instructions} instructions", kernel.name);
        }
    }

    #[test]
    fn without_command_line_all_kernels_run_in_order() {
        let kernels = small();
        let run = env86::run(Interpreter::new(), &build(&kernels).unwrap(), None).unwrap();
        let found: Vec<_> = run.ended.iter().map(|r| (r.name.as_str(), r.checksum)).collect();
        let expected: Vec<_> = kernels.iter().map(|k| (k.name, k.checksum())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn number_without_a_kernel_runs_nothing() {
        let kernels = small();
        let run = env86::run(Interpreter::new(), &build(&kernels).unwrap(), Some(kernels.len())).unwrap();
        assert!(run.ended.is_empty());
    }

    #[test]
    fn kernels_and_data_do_not_share_pages() {
        let image = build(&small()).unwrap();
        assert_eq!(image.len() % PAGE as usize, 0);
        assert!(LOAD + image.len() as u32 <= DATA);
    }
}
