//! v86's corpus of small programs: the state in which each ends here, compared with the host's CPU.
//!
//! The programs are multiboot images that are also Linux programs. They begin in a flat 32-bit
//! segment, use 8 KiB at 1 MiB, and end with HLT or in a fault.

use std::fmt::Write as _;
use std::io;

use emu_core::cpu::{CpuState, Segment, cr0, cr4, gpr, seg};
use emu_core::engine::{CpuEngine, Exit};
use emu_core::mem::Memory;

use crate::fp::FpState;
use emu_core::bus::NoBus;

/// First byte of the memory that is compared.
pub const MEMORY: u32 = 0x10_0000;
/// Bytes of it.
pub const MEMORY_LEN: usize = 0x2000;

const RAM: usize = 2 << 20;
const IDT: u32 = 0x1000;
const GDT: u32 = 0x2000;
/// A HLT for each vector.
const HANDLERS: u32 = 0x3000;
const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;
/// Longer than any of the programs, which have some thousand instructions at most.
const BUDGET: u64 = 5_000_000;

/// What kind of exception ended a program, as far as a signal tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// #DE, #MF, #XM: SIGFPE.
    Arithmetic,
    /// #UD: SIGILL.
    Opcode,
    /// #GP, #SS, #NP, #PF, #BR, #OF: SIGSEGV.
    Protection,
    /// #AC: SIGBUS.
    Alignment,
    /// #DB, #BP: SIGTRAP.
    Debug,
}

impl Raised {
    fn of(vector: u32) -> Self {
        match vector {
            0 | 16 | 19 => Self::Arithmetic,
            6 => Self::Opcode,
            17 => Self::Alignment,
            1 | 3 => Self::Debug,
            _ => Self::Protection,
        }
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At its HLT.
    Halt,
    /// In an exception.
    Fault(Raised),
    /// Not in time, or by something no program should do.
    Lost,
}

/// State at the end of a program.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// EAX ECX EDX EBX ESP EBP ESI EDI.
    pub gpr: [u32; 8],
    /// Address of the HLT or of what faulted.
    pub eip: u32,
    /// EFLAGS.
    pub eflags: u32,
    /// x87, MMX and SSE.
    pub fp: FpState,
    /// The 8 KiB at [`MEMORY`].
    pub memory: Vec<u8>,
    /// How it ended.
    pub end: End,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// CPU, memory and an engine.
pub struct Rig<E> {
    cpu: Box<CpuState>,
    mem: Memory,
    engine: E,
}

impl<E: CpuEngine> Rig<E> {
    /// A rig around an engine.
    ///
    /// # Errors
    /// The host's when it has no memory.
    pub fn new(engine: E) -> io::Result<Self> {
        Ok(Self { cpu: Box::new(CpuState::new()), mem: Memory::new(RAM)?, engine })
    }

    fn put(&mut self, at: u32, bytes: &[u8]) -> io::Result<()> {
        match self.mem.dma_write(u64::from(at), bytes) {
            true => Ok(()),
            false => Err(bad("the program does not fit")),
        }
    }

    /// Copies the segments of an ELF file and returns the entry point.
    fn load(&mut self, image: &[u8]) -> io::Result<u32> {
        let word = |at: usize| {
            let bytes = image.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_le_bytes).ok_or_else(|| bad("truncated ELF file"))
        };
        if !image.starts_with(b"\x7FELF\x01") {
            return Err(bad("not a 32-bit ELF file"));
        }
        let (entry, table) = (word(24)?, word(28)? as usize);
        let count = word(42)? >> 16;
        for header in (0..count as usize).map(|n| table + 32 * n) {
            let (kind, offset, address, len) =
                (word(header)?, word(header + 4)? as usize, word(header + 8)?, word(header + 16)? as usize);
            if kind == 1 {
                let bytes = image.get(offset..offset + len).ok_or_else(|| bad("truncated ELF file"))?;
                self.put(address, bytes)?;
            }
        }
        Ok(entry)
    }

    /// Runs a program as a kernel that was just loaded: ring 0, flat segments, no paging. The x87 and SSE
    /// state is that of a new process.
    ///
    /// # Errors
    /// The file is no program that fits.
    pub fn run(&mut self, image: &[u8]) -> io::Result<Outcome> {
        self.put(0, &vec![0; RAM])?;
        let entry = self.load(image)?;
        let mut idt = Vec::new();
        for vector in 0..256u32 {
            idt.extend_from_slice(&((HANDLERS + vector) as u16).to_le_bytes());
            idt.extend_from_slice(&CODE_SELECTOR.to_le_bytes());
            idt.extend_from_slice(&[0, 0x8E, 0, 0]);
        }
        self.put(IDT, &idt)?;
        self.put(HANDLERS, &[0xF4; 256])?;
        let flat = |kind: u64| 0x00CF_0000_0000_FFFF | kind << 40;
        let gdt = [0, flat(0x9B), flat(0x93)].map(u64::to_le_bytes).concat();
        self.put(GDT, &gdt)?;

        let retired = self.cpu.retired;
        let cpu = &mut *self.cpu;
        *cpu = CpuState::new();
        cpu.retired = retired;
        cpu.cr0 = cr0::PE | cr0::ET | cr0::NE | cr0::MP;
        cpu.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT;
        cpu.gdtr.base = GDT;
        cpu.gdtr.limit = 23;
        cpu.idtr.base = IDT;
        cpu.idtr.limit = 0x7FF;
        for s in 0..6 {
            let data = Segment { base: 0, limit: u32::MAX, selector: DATA_SELECTOR, attr: 0xC093 };
            cpu.set_segment(s, data);
        }
        let code = Segment { base: 0, limit: u32::MAX, selector: CODE_SELECTOR, attr: 0xC09B };
        cpu.set_segment(seg::CS, code);
        FpState::default().load(cpu);
        cpu.eip = entry;
        self.engine.flush(&mut self.mem);
        let mut left = BUDGET;
        loop {
            let before = self.cpu.retired;
            match self.engine.run(&mut self.cpu, &mut self.mem, &mut NoBus, left) {
                Exit::Halted => break,
                Exit::Budget | Exit::Request if self.cpu.retired - before < left => {
                    left -= (self.cpu.retired - before).max(1);
                }
                _ => return Ok(self.outcome(self.cpu.eip, End::Lost)),
            }
        }
        let at = self.cpu.eip.wrapping_sub(1);
        if !(HANDLERS..HANDLERS + 256).contains(&at) {
            return Ok(self.outcome(at, End::Halt));
        }
        let vector = at - HANDLERS;
        let has_code = matches!(vector, 8 | 10..=14 | 17);
        let frame = self.cpu.gpr[gpr::ESP].wrapping_add(4 * u32::from(has_code));
        let eip = self.mem.dma_read_u32(u64::from(frame)).unwrap_or(0);
        Ok(self.outcome(eip, End::Fault(Raised::of(vector))))
    }

    fn outcome(&self, eip: u32, end: End) -> Outcome {
        let mut gpr = [0; 8];
        gpr.copy_from_slice(&self.cpu.gpr[..8]);
        let mut memory = vec![0; MEMORY_LEN];
        // The window lies within RAM.
        let _ = self.mem.dma_read(u64::from(MEMORY), &mut memory);
        Outcome { gpr, eip, eflags: self.cpu.eflags(), fp: FpState::of(&self.cpu), memory, end }
    }
}

/// CF, PF, AF, ZF, SF, OF.
const ARITHMETIC: u32 = 0x8D5;
/// All registers hold MMX data: valid, with an exponent of ones.
fn holds_mmx(fp: &FpState) -> bool {
    fp.valid == 0xFF && fp.st.iter().all(|st| st >> 64 == 0xFFFF)
}

/// Every difference of what v86's own comparison looks at, and of x87 control and MXCSR, each exactly; of
/// faults only the kind and the address. Empty if there is none.
pub fn differences(ours: &Outcome, silicon: &Outcome) -> String {
    let mut out = String::new();
    let mut note = |what: &str, ours: u128, silicon: u128| {
        if ours != silicon {
            let _ = write!(out, "{what} {ours:x} instead of {silicon:x}; ");
        }
    };
    note("eip", ours.eip.into(), silicon.eip.into());
    if ours.end != silicon.end {
        let _ = write!(out, "ended with {:?} instead of {:?}; ", ours.end, silicon.end);
    } else if ours.end == End::Halt {
        let names = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
        for ((name, ours), silicon) in names.iter().zip(ours.gpr).zip(silicon.gpr) {
            note(name, ours.into(), silicon.into());
        }
        note("eflags", (ours.eflags & ARITHMETIC).into(), (silicon.eflags & ARITHMETIC).into());
        let (a, b) = (&ours.fp, &silicon.fp);
        note("x87 control", a.control.into(), b.control.into());
        note("x87 tags", a.valid.into(), b.valid.into());
        if !(holds_mmx(a) && holds_mmx(b)) {
            note("x87 status", a.status.into(), b.status.into());
        }
        for n in 0..8 {
            // Nobody can see what an empty register holds without making it valid first.
            if b.valid >> b.physical(n) & 1 != 0 {
                note(&format!("st{n}"), a.st[n], b.st[n]);
            }
        }
        note("mxcsr", a.mxcsr.into(), b.mxcsr.into());
        for n in 0..8 {
            note(&format!("xmm{n}"), a.xmm[n], b.xmm[n]);
        }
        let differ = ours.memory.iter().zip(&silicon.memory).position(|(a, b)| a != b);
        if let Some(at) = differ {
            let at = at & !3;
            let dword = |memory: &[u8]| {
                memory[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u128::from(*byte))
            };
            note(&format!("[{:x}]", MEMORY as usize + at), dword(&ours.memory), dword(&silicon.memory));
        }
    }
    out.trim_end_matches("; ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use emu_core::interp::Interpreter;

    /// An ELF file whose only segment lies at 80000h.
    fn program(code: &[u8]) -> Vec<u8> {
        let mut image = b"\x7FELF\x01\x01\x01".to_vec();
        image.resize(52, 0);
        image[24..28].copy_from_slice(&0x8_0000u32.to_le_bytes());
        image[28..32].copy_from_slice(&52u32.to_le_bytes());
        image[44] = 1;
        for v in [1, 84, 0x8_0000, 0x8_0000, code.len() as u32, code.len() as u32, 5, 4096] {
            image.extend_from_slice(&v.to_le_bytes());
        }
        image.extend_from_slice(code);
        image
    }

    fn run(code: &[u8]) -> Outcome {
        Rig::new(Interpreter::new()).unwrap().run(&program(code)).unwrap()
    }

    #[test]
    fn program_that_halts_ends_with_its_state() {
        // mov eax, 5; mov [100010h], eax; hlt
        let end = run(&[0xB8, 5, 0, 0, 0, 0xA3, 0x10, 0, 0x10, 0, 0xF4]);
        assert_eq!((end.end, end.gpr[0], end.memory[0x10], end.eip), (End::Halt, 5, 5, 0x8_000A));
    }

    #[test]
    fn program_that_faults_ends_with_kind_and_address() {
        // mov esp, 102000h; nop; ud2
        let end = run(&[0xBC, 0, 0x20, 0x10, 0, 0x90, 0x0F, 0x0B]);
        assert_eq!((end.end, end.eip), (End::Fault(Raised::Opcode), 0x8_0006));
    }

    #[test]
    fn program_that_never_ends_is_lost() {
        assert_eq!(run(&[0xEB, 0xFE]).end, End::Lost);
    }

    #[test]
    fn differences_name_what_differs() {
        let ours = run(&[0xF4]);
        assert_eq!(differences(&ours, &ours), "");
        let mut silicon = ours.clone();
        silicon.gpr[1] = 7;
        silicon.memory[6] = 1;
        silicon.eflags |= 0x200;
        assert_eq!(differences(&ours, &silicon), "ecx 0 instead of 7; [100004] 0 instead of 10000");
    }
}
