//! Single-step vectors of a real 80386 in the MOO format, version 1.1: registers and memory before and
//! after one instruction in real mode.
//!
//! A file is a sequence of chunks, each a four-letter name, a 32-bit length and that many bytes; a `TEST`
//! holds chunks of its own. What is not known is skipped, as the format asks for.

use std::fmt::Write as _;
use std::io::{self, Read};

use emu_core::bus::SystemBus;
use emu_core::cpu::{CpuState, Segment, cr0, seg};
use emu_core::engine::CpuEngine;
use emu_core::mem::Memory;

use emu_core::bus::NoBus;

/// The format's registers: CR0 CR3 EAX EBX ECX EDX ESI EDI EBP ESP CS DS ES FS GS SS EIP EFLAGS DR6 DR7.
const REGISTERS: usize = 20;
const NAMES: [&str; REGISTERS] = [
    "cr0", "cr3", "eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp", "cs", "ds", "es", "fs", "gs", "ss",
    "eip", "eflags", "dr6", "dr7",
];
/// Our register numbers of EAX to ESP in the format's order.
const GENERAL: [usize; 8] = [0, 3, 1, 2, 6, 7, 5, 4];
const FIRST_GENERAL: usize = 2;
/// Our numbers of the segment registers from CS to SS in the format's order.
const SEGMENTS: [usize; 6] = [seg::CS, seg::DS, seg::ES, seg::FS, seg::GS, seg::SS];
const FIRST_SEGMENT: usize = 10;
const EIP: usize = 16;
const EFLAGS: usize = 17;
/// Flags an 80386 has; its dump has ones above them.
const FLAGS_386: u32 = 0x3_7FD5;
/// The tests' RAM.
const RAM: usize = 16 << 20;
/// Longest file after decompression.
const MAX_FILE: u64 = 1 << 30;

/// One instruction with the states around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vector {
    /// Number within the file.
    pub index: u32,
    /// Disassembly.
    pub name: String,
    /// The instruction's bytes.
    pub bytes: Vec<u8>,
    /// Registers before.
    pub initial: [u32; REGISTERS],
    /// Memory before.
    pub initial_ram: Vec<(u32, u8)>,
    /// Registers after.
    pub expected: [u32; REGISTERS],
    /// Bits of them that count.
    pub mask: [u32; REGISTERS],
    /// Memory after.
    pub final_ram: Vec<(u32, u8)>,
    /// Exception, and where it pushed the flags.
    pub exception: Option<(u8, u32)>,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a MOO file: {what}"))
}

fn u32_at(data: &[u8], at: usize) -> io::Result<u32> {
    let bytes = data.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_le_bytes).ok_or_else(|| bad("a chunk is too short"))
}

/// The chunks of `data`.
fn chunks(mut data: &[u8]) -> impl Iterator<Item = io::Result<([u8; 4], &[u8])>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let mut next = || {
            let name = data.get(..4).and_then(|name| name.try_into().ok());
            let len = u32_at(data, 4)? as usize;
            let payload = data.get(8..).and_then(|rest| rest.get(..len));
            match (name, payload) {
                (Some(name), Some(payload)) => {
                    data = &data[8 + len..];
                    Ok((name, payload))
                }
                _ => Err(bad("it is truncated")),
            }
        };
        let chunk = next();
        if chunk.is_err() {
            data = &[];
        }
        Some(chunk)
    })
}

/// Overlays the registers that an `RG32` or `RM32` chunk has.
fn registers(data: &[u8], into: &mut [u32; REGISTERS]) -> io::Result<()> {
    let present = u32_at(data, 0)?;
    let mut at = 4;
    for (n, register) in into.iter_mut().enumerate() {
        if present >> n & 1 != 0 {
            *register = u32_at(data, at)?;
            at += 4;
        }
    }
    Ok(())
}

fn ram(data: &[u8]) -> io::Result<Vec<(u32, u8)>> {
    let count = u32_at(data, 0)? as usize;
    let entries = data.get(4..).unwrap_or_default();
    if entries.len() / 5 < count {
        return Err(bad("memory is missing"));
    }
    entries.chunks_exact(5).take(count).map(|entry| Ok((u32_at(entry, 0)?, entry[4]))).collect()
}

/// Bytes behind a length.
fn counted(data: &[u8]) -> io::Result<&[u8]> {
    let len = u32_at(data, 0)? as usize;
    data.get(4..).and_then(|rest| rest.get(..len)).ok_or_else(|| bad("a chunk is too short"))
}

fn vector(data: &[u8], mask: &[u32; REGISTERS]) -> io::Result<Vector> {
    let mut test = Vector { index: u32_at(data, 0)?, mask: *mask, ..Vector::default() };
    let mut last = Vec::new();
    for chunk in chunks(data.get(4..).unwrap_or_default()) {
        let (name, payload) = chunk?;
        match &name {
            b"NAME" => test.name = String::from_utf8_lossy(counted(payload)?).into_owned(),
            b"BYTS" => test.bytes = counted(payload)?.to_vec(),
            b"INIT" => {
                for chunk in chunks(payload) {
                    match chunk? {
                        (name, payload) if &name == b"RG32" => registers(payload, &mut test.initial)?,
                        (name, payload) if &name == b"RAM " => test.initial_ram = ram(payload)?,
                        _ => {}
                    }
                }
            }
            b"FINA" => last = payload.to_vec(),
            b"EXCP" => {
                let number = payload.first().ok_or_else(|| bad("a chunk is too short"))?;
                test.exception = Some((*number, u32_at(payload, 1)?));
            }
            _ => {}
        }
    }
    test.expected = test.initial;
    for chunk in chunks(&last) {
        match chunk? {
            (name, payload) if &name == b"RG32" => registers(payload, &mut test.expected)?,
            (name, payload) if &name == b"RM32" => registers(payload, &mut test.mask)?,
            (name, payload) if &name == b"RAM " => test.final_ram = ram(payload)?,
            _ => {}
        }
    }
    Ok(test)
}

/// Reads a file, compressed with gzip or not.
///
/// # Errors
/// It is no such file.
pub fn parse(file: &[u8]) -> io::Result<Vec<Vector>> {
    let mut plain = Vec::new();
    let data = if file.starts_with(&[0x1F, 0x8B]) {
        flate2::read::MultiGzDecoder::new(file).take(MAX_FILE).read_to_end(&mut plain)?;
        &plain[..]
    } else {
        file
    };
    if !data.starts_with(b"MOO ") {
        return Err(bad("it does not begin with one's header"));
    }
    let mut mask = [u32::MAX; REGISTERS];
    let mut tests = Vec::new();
    for chunk in chunks(data) {
        let (name, payload) = chunk?;
        match &name {
            b"MOO " if payload.get(8..12) != Some(b"386E") => return Err(bad("its CPU is no 386EX")),
            b"RM32" => registers(payload, &mut mask)?,
            b"TEST" => tests.push(vector(payload, &mask)?),
            _ => {}
        }
    }
    Ok(tests)
}

/// CPU, memory and an engine.
pub struct Rig<E> {
    cpu: Box<CpuState>,
    mem: Memory,
    engine: E,
}

/// Prefixes of an instruction, REP among them.
const PREFIXES: [u8; 11] = [0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3];
/// More passes than a counter of seven bits gives.
const MAX_PASSES: u32 = 200;

impl<E: CpuEngine> Rig<E> {
    /// A rig around an engine.
    ///
    /// # Errors
    /// The host's when it has no memory.
    pub fn new(engine: E) -> io::Result<Self> {
        Ok(Self { cpu: Box::new(CpuState::new()), mem: Memory::new(RAM)?, engine })
    }

    fn load(&mut self, test: &Vector) {
        let retired = self.cpu.retired;
        let cpu = &mut *self.cpu;
        *cpu = CpuState::new();
        cpu.retired = retired;
        cpu.cr0 = cr0::ET;
        cpu.idtr.base = 0;
        cpu.idtr.limit = 0x3FF;
        for (n, register) in GENERAL.into_iter().enumerate() {
            cpu.gpr[register] = test.initial[FIRST_GENERAL + n];
        }
        for (n, register) in SEGMENTS.into_iter().enumerate() {
            let selector = test.initial[FIRST_SEGMENT + n] as u16;
            let attr = if register == seg::CS { 0x9B } else { 0x93 };
            let segment = Segment { attr, ..Segment::real(selector, 0) };
            cpu.set_segment(register, segment);
        }
        cpu.eip = test.initial[EIP];
        cpu.set_eflags(test.initial[EFLAGS] & FLAGS_386 | 2);
        for (at, byte) in &test.initial_ram {
            // Beyond the tests' RAM there is nothing.
            let _ = self.mem.dma_write(u64::from(*at), &[*byte]);
        }
        self.engine.flush(&mut self.mem);
    }

    /// Runs a vector and returns what is different afterwards; empty if nothing is.
    pub fn run(&mut self, test: &Vector) -> String {
        self.load(test);
        let start = self.cpu.eip;
        let repeats = test.bytes.iter().take_while(|byte| PREFIXES.contains(byte)).any(|b| b & 0xFE == 0xF2);
        for _ in 0..if repeats { MAX_PASSES } else { 1 } {
            step(&mut self.engine, &mut self.cpu, &mut self.mem, &mut NoBus);
            if self.cpu.eip != start {
                break;
            }
        }
        let out = self.compare(test);
        for (at, _) in test.initial_ram.iter().chain(&test.final_ram) {
            let _ = self.mem.dma_write(u64::from(*at), &[0]);
        }
        out
    }

    fn compare(&self, test: &Vector) -> String {
        let cpu = &*self.cpu;
        let mut out = String::new();
        let mut note = |what: &str, ours: u32, expected: u32, mask: u32| {
            if (ours ^ expected) & mask != 0 {
                let _ = write!(out, "{what} {ours:x} instead of {expected:x}; ");
            }
        };
        for (n, register) in GENERAL.into_iter().enumerate() {
            let n = FIRST_GENERAL + n;
            note(NAMES[n], cpu.gpr[register], test.expected[n], test.mask[n]);
        }
        for (n, register) in SEGMENTS.into_iter().enumerate() {
            let n = FIRST_SEGMENT + n;
            note(NAMES[n], cpu.seg[register].selector.into(), test.expected[n], test.mask[n] & 0xFFFF);
        }
        // Each vector ends with a HLT, which the tests executed and we have not.
        let halt = u32::from(!cpu.halted);
        note("eip", cpu.eip.wrapping_add(halt), test.expected[EIP], test.mask[EIP]);
        let flags = test.mask[EFLAGS] & FLAGS_386;
        note("eflags", cpu.eflags(), test.expected[EFLAGS], flags);
        for (at, expected) in &test.final_ram {
            let mut byte = [0xFF];
            let _ = self.mem.dma_read(u64::from(*at), &mut byte);
            let mask = match test.exception {
                Some((_, pushed)) if *at == pushed => flags as u8,
                Some((_, pushed)) if *at == pushed.wrapping_add(1) => (flags >> 8) as u8,
                _ => 0xFF,
            };
            note(&format!("[{at:x}]"), byte[0].into(), (*expected).into(), mask.into());
        }
        out.trim_end_matches("; ").to_owned()
    }
}

fn step<E: CpuEngine>(engine: &mut E, cpu: &mut CpuState, mem: &mut Memory, bus: &mut dyn SystemBus) {
    // Whatever it returns, the state says how far it came.
    let _ = engine.run(cpu, mem, bus, 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use emu_core::interp::Interpreter;

    fn chunk(name: &[u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut chunk = name.to_vec();
        chunk.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        chunk.extend_from_slice(payload);
        chunk
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn memory(entries: &[(u32, u8)]) -> Vec<u8> {
        let mut payload = words(&[entries.len() as u32]);
        for (at, byte) in entries {
            payload.extend_from_slice(&at.to_le_bytes());
            payload.push(*byte);
        }
        chunk(b"RAM ", &payload)
    }

    const ALL: u32 = (1 << REGISTERS) - 1;

    fn state() -> [u32; REGISTERS] {
        let mut state = [0; REGISTERS];
        state[2] = 0x1234_56F0; // EAX
        state[9] = 0x8000; // ESP
        state[10] = 0x2000; // CS
        state[15] = 0x3000; // SS
        state[EIP] = 0x100;
        state[EFLAGS] = 0xFFFC_0002;
        state
    }

    fn test(bytes: &[u8], last: &[u8], exception: Option<&[u8]>) -> Vec<u8> {
        let code: Vec<_> = bytes.iter().zip(0x2_0100..).map(|(byte, at)| (at, *byte)).collect();
        let first = [chunk(b"RG32", &words(&[&[ALL], &state()[..]].concat())), memory(&code)].concat();
        let mut name = words(&[4]);
        name.extend_from_slice(b"test");
        let mut payload = words(&[7]);
        payload.extend(chunk(b"NAME", &name));
        payload.extend(chunk(b"BYTS", &[words(&[bytes.len() as u32]), bytes.to_vec()].concat()));
        payload.extend(chunk(b"INIT", &first));
        payload.extend(chunk(b"FINA", last));
        payload.extend(chunk(b"LATE", b"unknown"));
        if let Some(exception) = exception {
            payload.extend(chunk(b"EXCP", exception));
        }
        chunk(b"TEST", &payload)
    }

    fn file(mask: Option<u32>, test: &[u8]) -> Vec<u8> {
        let mut file = chunk(b"MOO ", &[&[1, 1, 0, 0, 1, 0, 0, 0][..], b"386E"].concat());
        if let Some(flags) = mask {
            file.extend(chunk(b"RM32", &words(&[1 << EFLAGS, flags])));
        }
        file.extend_from_slice(test);
        file
    }

    fn run(file: &[u8]) -> Vec<String> {
        let mut rig = Rig::new(Interpreter::new()).unwrap();
        parse(file).unwrap().iter().map(|test| rig.run(test)).collect()
    }

    /// `add al, 20h; hlt`: AL wraps to 10h with carry.
    fn addition(al: u32, flags: u32) -> Vec<u8> {
        let last = words(&[1 << 2 | 1 << EIP | 1 << EFLAGS, 0x1234_5600 | al, 0x103, 0xFFFC_0000 | flags]);
        test(&[0x04, 0x20, 0xF4], &chunk(b"RG32", &last), None)
    }

    #[test]
    fn vector_that_ends_as_on_the_386_passes() {
        assert_eq!(run(&file(None, &addition(0x10, 3))), [""]);
    }

    #[test]
    fn vector_with_another_result_fails_unless_it_is_masked() {
        assert_eq!(run(&file(None, &addition(0x11, 3))), ["eax 12345610 instead of 12345611"]);
        assert_eq!(run(&file(None, &addition(0x10, 0x13))).len(), 1);
        assert_ne!(run(&file(None, &addition(0x10, 0x13))), [""]);
        assert_eq!(run(&file(Some(!0x10), &addition(0x10, 0x13))), [""]);
    }

    #[test]
    fn exception_pushes_flags_that_the_mask_applies_to() {
        // ud2 through an empty vector; flags, CS and IP go to 3000:7FFA. The HLT is at 0000:0000.
        let regs = words(&[1 << 9 | 1 << 10 | 1 << EIP, 0x7FFA, 0, 1]);
        let pushed = [
            (0x3_7FFA, 0x00),
            (0x3_7FFB, 0x01),
            (0x3_7FFC, 0x00),
            (0x3_7FFD, 0x20),
            (0x3_7FFE, 0x06),
            (0x3_7FFF, 0x00),
        ];
        let last = [chunk(b"RG32", &regs), memory(&pushed)].concat();
        let exception = [&[6][..], &0x3_7FFEu32.to_le_bytes()].concat();
        let test = test(&[0x0F, 0x0B], &last, Some(&exception));
        assert_eq!(run(&file(Some(!4), &test)), [""]);
        assert_eq!(run(&file(None, &test)), ["[37ffe] 2 instead of 6"]);
    }

    #[test]
    fn repeated_string_instruction_is_one_instruction() {
        // rep stosb with CX = 0 from the state: one pass; then with CX set by the file's own registers.
        let mut state = state();
        state[4] = 3; // ECX
        state[12] = 0x4000; // ES
        let mut bytes = file(None, &[]);
        let code = memory(&[(0x2_0100, 0xF3), (0x2_0101, 0xAA), (0x2_0102, 0xF4)]);
        let first = [chunk(b"RG32", &words(&[&[ALL], &state[..]].concat())), code].concat();
        let regs = words(&[1 << 4 | 1 << 7 | 1 << EIP, 0, 3, 0x103]);
        let last =
            [chunk(b"RG32", &regs), memory(&[(0x4_0000, 0xF0), (0x4_0002, 0xF0), (0x4_0003, 0)])].concat();
        let mut payload = words(&[0]);
        payload.extend(chunk(b"BYTS", &[words(&[2]), vec![0xF3, 0xAA]].concat()));
        payload.extend(chunk(b"INIT", &first));
        payload.extend(chunk(b"FINA", &last));
        bytes.extend(chunk(b"TEST", &payload));
        assert_eq!(run(&bytes), [""]);
    }

    #[test]
    fn compressed_file_is_read_and_damaged_ones_are_refused() {
        use std::io::Write as _;
        let plain = file(None, &addition(0x10, 3));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        assert_eq!(parse(&gzip.finish().unwrap()).unwrap(), parse(&plain).unwrap());
        for len in 1..plain.len() {
            // Without its only test, what is left is a file.
            assert!(parse(&plain[..len]).is_ok_and(|tests| tests.is_empty()) == (len == 20), "{len}");
        }
        let mut other = plain;
        other[16..20].copy_from_slice(b"8088");
        assert!(parse(&other).is_err());
    }
}
