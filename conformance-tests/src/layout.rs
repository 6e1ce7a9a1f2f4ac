//! What the host's CPU and ours have in common: where code lies, the segments of the LDT, and the
//! registers of a case.
//!
//! The LDT is the same for all cases, so that none pays for `modify_ldt`. Selectors below are those of
//! 32-bit Linux processes on a 64-bit kernel, because the host's GDT cannot be chosen.

use crate::fp::FpState;
use crate::{ARENA, ARENA_LEN, CODE, Fault, Outcome, State};

/// Bytes for code; the page behind it is not mapped.
pub const CODE_LEN: u32 = 0x2000;
/// User code, 32 bits, flat.
pub const USER_CS: u16 = 0x23;
/// User data, flat.
pub const USER_DS: u16 = 0x2B;
/// Code that ends a case: 64 bits on the host, HLT in ring 3 on our CPU.
pub const EXIT_CS: u16 = 0x33;
/// Page of the thunks; far from multiples of 32 KiB, like [`CODE`].
pub const THUNK: u32 = 0xA000_5000;
/// Where a case ends.
pub const LEAVE: u32 = THUNK + 0x800;

/// ES CS SS DS FS GS, as in `emu_core::cpu::seg`.
pub const ES: usize = 0;
/// See [`ES`].
pub const CS: usize = 1;
/// See [`ES`].
pub const SS: usize = 2;
/// See [`ES`].
pub const DS: usize = 3;

/// Registers of a case, before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// EAX ECX EDX EBX ESP EBP ESI EDI.
    pub gpr: [u32; 8],
    /// Offset in CS.
    pub eip: u32,
    /// EFLAGS.
    pub eflags: u32,
    /// Selectors of ES CS SS DS FS GS.
    pub seg: [u16; 6],
    /// x87, MMX and SSE.
    pub fp: FpState,
}

impl Default for Registers {
    fn default() -> Self {
        Self {
            gpr: [0; 8],
            eip: CODE,
            eflags: 0x202,
            seg: [USER_DS, USER_CS, USER_DS, USER_DS, USER_DS, USER_DS],
            fp: FpState::default(),
        }
    }
}

/// Vector of a case that had to be stopped from outside.
pub const ENDLESS: u8 = 0xFE;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Registers afterwards. At a fault EIP, CS and EFLAGS are those pushed; at the regular end EIP is
    /// [`LEAVE`] and CS [`EXIT_CS`].
    pub regs: Registers,
    /// The exception, if one was raised; vector [`ENDLESS`] if the case did not end.
    pub fault: Option<Fault>,
}

/// Something that runs cases.
pub trait Processor {
    /// Stores into memory of the case: code or arena, by linear address.
    fn store(&mut self, at: u32, bytes: &[u8]);
    /// Memory of the case.
    fn memory(&self, at: u32, len: u32) -> &[u8];
    /// Runs from `before` to the end. `fp`: floating-point registers take part.
    fn exec(&mut self, before: &Registers, fp: bool) -> End;
}

/// `code` and the far jump that ends a case, for code of 16 or 32 bits.
pub fn with_exit(code: &[u8], big: bool) -> Vec<u8> {
    let mut bytes = code.to_vec();
    if !big {
        bytes.push(0x66);
    }
    bytes.push(0xEA);
    bytes.extend_from_slice(&LEAVE.to_le_bytes());
    bytes.extend_from_slice(&EXIT_CS.to_le_bytes());
    bytes
}

/// Runs `code` in flat 32-bit segments.
pub(crate) fn run(processor: &mut impl Processor, code: &[u8], before: &State) -> Outcome {
    processor.store(CODE, &with_exit(code, true));
    processor.store(ARENA, &before.arena);
    let regs = Registers {
        gpr: before.gpr,
        eflags: before.eflags | 0x202,
        fp: before.fp.clone(),
        ..Registers::default()
    };
    let End { regs, fault } = processor.exec(&regs, true);
    let arena = processor.memory(ARENA, ARENA_LEN).to_vec();
    Outcome { state: State { gpr: regs.gpr, eflags: regs.eflags, fp: regs.fp, arena }, fault }
}

/// A code or data segment of the LDT.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Linear base.
    pub base: u32,
    /// 20-bit limit.
    pub limit: u32,
    /// Limit counts pages.
    pub pages: bool,
    /// D or B bit.
    pub big: bool,
    /// Type: see the constants.
    pub contents: u32,
    /// Data: not writable. Code: not readable.
    pub less: bool,
    /// Present.
    pub present: bool,
}

const DATA: u32 = 0;
const DOWN: u32 = 1;
const EXEC: u32 = 2;
const CONFORMING: u32 = 3;

const fn segment(contents: u32, base: u32, limit: u32, big: bool) -> Descriptor {
    Descriptor { base, limit, pages: false, big, contents, less: false, present: true }
}

const fn flat(contents: u32, base: u32) -> Descriptor {
    Descriptor { pages: true, ..segment(contents, base, 0xF_FFFF, true) }
}

const ARENA_PAGE: u32 = ARENA >> 12;

/// The LDT; `None` is a hole.
pub const LDT: [Option<Descriptor>; 30] = [
    // Flat and nearly flat data: arena addresses are offsets.
    Some(flat(DATA, 0)),
    Some(Descriptor { limit: ARENA_PAGE + 2, ..flat(DATA, 0) }),
    Some(flat(DATA, 0x400)),
    Some(flat(DATA, 0xFFFF_F803)),
    Some(Descriptor { less: true, ..flat(DATA, 0) }),
    Some(Descriptor { limit: ARENA_PAGE, ..flat(DOWN, 0) }),
    Some(Descriptor { limit: ARENA_PAGE + 1, less: true, ..flat(DOWN, 0) }),
    Some(flat(EXEC, 0)),
    // Data based in the arena.
    Some(segment(DATA, ARENA, 0x3FFF, true)),
    Some(segment(DATA, ARENA, 0x2345, true)),
    Some(segment(DATA, ARENA + 0x803, 0x1FFF, true)),
    Some(segment(DATA, ARENA, 0xFFFF, false)),
    Some(segment(DATA, ARENA, 0x2FFE, false)),
    Some(segment(DATA, ARENA + 0x101, 0xFFFF, false)),
    Some(segment(DOWN, ARENA, 0x0FFF, false)),
    Some(segment(DOWN, ARENA, 0x0802, true)),
    Some(Descriptor { less: true, ..segment(DATA, ARENA, 0x3FFF, false) }),
    Some(segment(EXEC, ARENA, 0x3FFF, true)),
    // Code.
    Some(flat(EXEC, 0)),
    Some(Descriptor { less: true, ..flat(EXEC, 0) }),
    Some(segment(EXEC, CODE - 0x1000, 0xFFFF, true)),
    Some(segment(EXEC, CODE, 0x17FF, true)),
    Some(segment(EXEC, CODE, 0xFFFF, false)),
    Some(Descriptor { less: true, ..segment(EXEC, CODE - 0x123, 0xFFFF, false) }),
    Some(flat(EXEC, CODE - 0x5000)),
    Some(Descriptor { pages: true, ..segment(EXEC, 0, 0xF_FFFF, false) }),
    // Not present, and a hole.
    Some(Descriptor { present: false, ..flat(DATA, 0) }),
    Some(Descriptor { present: false, ..flat(EXEC, 0) }),
    Some(Descriptor { present: false, ..flat(CONFORMING, 0) }),
    None,
];

/// LDT entries for data and stacks whose offsets are addresses of the arena, nearly.
pub const FLAT_DATA: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
/// Those a stack can have.
pub const FLAT_STACKS: [usize; 5] = [0, 1, 2, 3, 5];
/// LDT entries for data based in the arena.
pub const BASED_DATA: [usize; 10] = [8, 9, 10, 11, 12, 13, 14, 15, 16, 17];
/// Those a stack can have.
pub const BASED_STACKS: [usize; 8] = [8, 9, 10, 11, 12, 13, 14, 15];
/// 32-bit code.
pub const CODE32: [usize; 5] = [18, 19, 20, 21, 24];
/// 16-bit code.
pub const CODE16: [usize; 3] = [22, 23, 25];
/// LDT entries that cannot be loaded.
pub const BAD: [usize; 4] = [26, 27, 28, 29];

/// Selector of an LDT entry.
pub const fn selector(entry: usize) -> u16 {
    (entry as u16) << 3 | 7
}

/// The descriptor that a ring 3 selector names, if it is one of the LDT's.
pub fn descriptor(selector: u16) -> Option<&'static Descriptor> {
    if selector & 4 == 0 {
        return None;
    }
    LDT.get(usize::from(selector >> 3)).and_then(Option::as_ref)
}

/// Base of a segment (0 for the flat ones of the GDT).
pub fn base(selector: u16) -> u32 {
    descriptor(selector).map_or(0, |d| d.base)
}

/// A segment whose offsets are distances from the start of the arena.
pub fn is_based(selector: u16) -> bool {
    descriptor(selector).is_some_and(|d| d.base >= ARENA && d.base < ARENA + ARENA_LEN)
}

/// Instructions in a segment are 32-bit by default.
pub fn is_big(selector: u16) -> bool {
    descriptor(selector).is_none_or(|d| d.big)
}

impl Descriptor {
    /// The descriptor as the processor reads it.
    pub fn image(&self) -> u64 {
        let kind = u32::from(!self.less) << 1 | self.contents << 2 | 1;
        let access = kind | 0x10 | 3 << 5 | u32::from(self.present) << 7;
        let high = (self.base & 0xFF00_0000)
            | (self.base >> 16 & 0xFF)
            | access << 8
            | (self.limit & 0xF_0000)
            | u32::from(self.big) << 22
            | u32::from(self.pages) << 23;
        u64::from(high) << 32 | u64::from(self.base << 16 | (self.limit & 0xFFFF))
    }
}
