//! What PC firmware has done by the time a boot loader starts a kernel, for kernels that count on it.

use std::io;

/// Where the code goes: free memory of every PC.
const STUB: u32 = 0x600;

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

/// The kernel, a 32-bit ELF file, with a segment that sets the machine up and goes to the old entry point.
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
    out.resize(out.len().next_multiple_of(4), 0);
    let (at, len) = (out.len() as u32, code.len() as u32);
    out.extend_from_slice(&code);
    out.resize(out.len().next_multiple_of(4), 0);
    let new_table = out.len() as u32;
    out.extend_from_slice(headers);
    for v in [1, at, STUB, STUB, len, len, 5, 4] {
        out.extend_from_slice(&u32::to_le_bytes(v));
    }
    out[24..28].copy_from_slice(&STUB.to_le_bytes());
    out[28..32].copy_from_slice(&new_table.to_le_bytes());
    out[44..46].copy_from_slice(&(count as u16 + 1).to_le_bytes());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_keeps_its_segments_and_gets_one_more() {
        let mut kernel = b"\x7FELF\x01\x01\x01".to_vec();
        kernel.resize(52, 0);
        for (at, v) in [(24, 0x10_0000u32), (28, 52), (42, 1 << 16 | 32)] {
            kernel[at..at + 4].copy_from_slice(&v.to_le_bytes());
        }
        kernel.extend_from_slice(&[7; 33]);
        let out = with_setup(&kernel).unwrap();
        assert_eq!((out[44], &out[24..28]), (2, &STUB.to_le_bytes()[..]));
        let table = u32::from_le_bytes(out[28..32].try_into().unwrap()) as usize;
        assert_eq!(out[table..table + 32], [7; 32]);
        let word = |at: usize| u32::from_le_bytes(out[at..at + 4].try_into().unwrap());
        let (offset, address, len) = (word(table + 36) as usize, word(table + 44), word(table + 48));
        // The jump at the end leads to the old entry point.
        let end = address + len;
        assert_eq!(end.wrapping_add(word(offset + len as usize - 4)), 0x10_0000);
        assert!(with_setup(b"MZ").is_err());
    }
}
