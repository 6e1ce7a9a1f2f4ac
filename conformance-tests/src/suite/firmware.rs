//! What PC firmware has done by the time a boot loader starts a kernel, for kernels that count on it.

use std::io;

/// Where the code goes: free memory of every PC.
const STUB: u32 = 0x600;
/// `push ax; mov al, 20h; out A0h, al; out 20h, al; pop ax; iret`, in real mode.
const HANDLER: [u8; 9] = [0x50, 0xB0, 0x20, 0xE6, 0xA0, 0xE6, 0x20, 0x58, 0xCF];
const HANDLER_AT: u32 = 0x500;
/// Its last byte: what has no device returns at once.
const RETURN_AT: u32 = HANDLER_AT + HANDLER.len() as u32 - 1;

/// Interrupt vectors of real mode and the handler behind them.
fn low_memory() -> Vec<u8> {
    let mut memory = Vec::new();
    for vector in 0..256 {
        let hardware = matches!(vector, 0x08..=0x0F | 0x70..=0x77);
        memory.extend_from_slice(&if hardware { HANDLER_AT } else { RETURN_AT }.to_le_bytes());
    }
    memory.resize(HANDLER_AT as usize, 0);
    memory.extend_from_slice(&HANDLER);
    memory
}

/// Ports and values: interrupt controllers with vectors 08h and 70h, timer, keyboard controller's inputs and
/// cascade open as a PC's firmware leaves them; the timer ticks 18.2 times a second.
const SETUP: [(u8, u8); 13] = [
    (0x20, 0x11),
    (0x21, 0x08),
    (0x21, 0x04),
    (0x21, 0x01),
    (0xA0, 0x11),
    (0xA1, 0x70),
    (0xA1, 0x02),
    (0xA1, 0x01),
    (0x21, 0xB8),
    (0xA1, 0x8F),
    (0x43, 0x34),
    (0x40, 0),
    (0x40, 0),
];

/// The kernel, a 32-bit ELF file, with segments that set the machine up and go to the old entry point.
///
/// # Errors
/// It is no such file.
pub fn with_setup(kernel: &[u8]) -> io::Result<Vec<u8>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "not a 32-bit ELF kernel");
    let word = |at: usize| {
        let bytes = kernel.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).ok_or_else(bad)
    };
    let (entry, table, sizes) = (word(24)?, word(28)? as usize, word(42)?);
    let count = (sizes >> 16) as usize;
    let headers = kernel.get(table..table + 32 * count).ok_or_else(bad)?;
    if !kernel.starts_with(b"\x7FELF\x01") || sizes & 0xFFFF != 32 {
        return Err(bad());
    }
    // The boot loader's registers EAX and EBX stay as they are.
    let mut code = vec![0x89, 0xC1]; // mov ecx, eax
    for (port, value) in SETUP {
        code.extend_from_slice(&[0xB0, value, 0xE6, port]); // mov al, value; out port, al
    }
    code.extend_from_slice(&[0x89, 0xC8, 0xE9]); // mov eax, ecx; jmp entry
    let next = STUB + code.len() as u32 + 4;
    code.extend_from_slice(&entry.wrapping_sub(next).to_le_bytes());

    let mut out = kernel.to_vec();
    let mut added = Vec::new();
    for (address, bytes) in [(0, low_memory()), (STUB, code)] {
        out.resize(out.len().next_multiple_of(4), 0);
        let (at, len) = (out.len() as u32, bytes.len() as u32);
        out.extend_from_slice(&bytes);
        added.extend([1, at, address, address, len, len, 7, 4].map(u32::to_le_bytes).concat());
    }
    out.resize(out.len().next_multiple_of(4), 0);
    let new_table = out.len() as u32;
    out.extend_from_slice(headers);
    out.extend_from_slice(&added);
    out[24..28].copy_from_slice(&STUB.to_le_bytes());
    out[28..32].copy_from_slice(&new_table.to_le_bytes());
    out[44..46].copy_from_slice(&(count as u16 + 2).to_le_bytes());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_keeps_its_segments_and_gets_two_more() {
        let mut kernel = b"\x7FELF\x01\x01\x01".to_vec();
        kernel.resize(52, 0);
        for (at, v) in [(24, 0x10_0000u32), (28, 52), (42, 1 << 16 | 32)] {
            kernel[at..at + 4].copy_from_slice(&v.to_le_bytes());
        }
        kernel.extend_from_slice(&[7; 33]);
        let out = with_setup(&kernel).unwrap();
        assert_eq!((out[44], &out[24..28]), (3, &STUB.to_le_bytes()[..]));
        let table = u32::from_le_bytes(out[28..32].try_into().unwrap()) as usize;
        assert_eq!(out[table..table + 32], [7; 32]);
        let word = |at: usize| u32::from_le_bytes(out[at..at + 4].try_into().unwrap());
        let last = table + 64;
        let (offset, address, len) = (word(last + 4) as usize, word(last + 12), word(last + 16));
        // The jump at the end leads to the old entry point.
        let end = address + len;
        assert_eq!(end.wrapping_add(word(offset + len as usize - 4)), 0x10_0000);
        assert!(with_setup(b"MZ").is_err());
    }
}
