//! The only user of iced-x86's decoder: bytes to [`Insn`].

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::insn::Insn;
use crate::cpu::{ModeKey, gpr, seg};
use crate::interp::dispatch;

/// Longest legal instruction.
pub const MAX_LEN: usize = 15;

/// Kinds of the first two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// No explicit operands (or only implied ones).
    None,
    /// One register.
    R,
    /// One memory operand.
    M,
    /// One immediate or branch target.
    I,
    /// Register, register.
    RR,
    /// Register, memory.
    RM,
    /// Memory, register.
    MR,
    /// Register, immediate.
    RI,
    /// Memory, immediate.
    MI,
    /// Immediate first (ENTER, OUT imm8).
    II,
}

/// What the dispatch tables choose by.
pub struct Decoded<'a> {
    /// The instruction as iced sees it.
    pub ins: &'a Instruction,
    /// Mnemonic.
    pub mnemonic: Mnemonic,
    /// Exact form.
    pub code: Code,
    /// Operand kinds.
    pub form: Form,
    /// Size of operand 0 in bytes: its register's, or the memory operand's.
    pub size: usize,
    /// Operand size attribute is 16 bits.
    pub op16: bool,
    /// Mode the code was decoded in.
    pub mode: ModeKey,
}

/// Outcome of decoding one instruction.
pub enum Decode {
    /// A complete instruction (an invalid one executes as #UD).
    Insn(Insn),
    /// More than `bytes` are needed.
    NeedMore,
    /// Longer than 15 bytes: #GP(0).
    TooLong,
}

/// Decodes the instruction at the start of `bytes`.
pub fn decode(bytes: &[u8], mode: ModeKey) -> Decode {
    let window = bytes.get(..MAX_LEN).unwrap_or(bytes);
    let bitness = if mode.code32() { 32 } else { 16 };
    let mut decoder = Decoder::new(bitness, window, DecoderOptions::NONE);
    let mut ins = Instruction::default();
    decoder.decode_out(&mut ins);
    if ins.is_invalid() {
        // With 15 bytes at hand the decoder calls an instruction that needs more of them invalid.
        return match decoder.last_error() {
            DecoderError::NoMoreBytes if window.len() < MAX_LEN => Decode::NeedMore,
            _ if window.len() == MAX_LEN && is_too_long(window, bitness) => Decode::TooLong,
            _ => Decode::Insn(Insn { len: invalid_len(window, bitness), ..invalid() }),
        };
    }
    let mut insn = lower(&ins, mode);
    if let Some(opcode) = x87_opcode(window) {
        insn.imm2 = opcode;
    }
    Decode::Insn(insn)
}

/// Which of the prefixes that exclude each other `byte` is; 0 for other bytes.
fn prefix_group(byte: u8) -> u8 {
    match byte {
        0x26 | 0x2E | 0x36 | 0x3E | 0x64 | 0x65 => 1,
        0x66 => 2,
        0x67 => 3,
        0xF0 => 4,
        0xF2 | 0xF3 => 5,
        _ => 0,
    }
}

/// How many bytes of an invalid instruction are fetched: those of one that only LOCK forbids come first,
/// with their faults.
#[cold]
fn invalid_len(window: &[u8], bitness: u32) -> u8 {
    let prefixes = window.iter().take_while(|b| prefix_group(**b) != 0).count();
    let Some(lock) = window[..prefixes].iter().position(|b| *b == 0xF0) else { return 1 };
    let mut bytes = [0; MAX_LEN];
    bytes[..window.len()].copy_from_slice(window);
    for byte in &mut bytes[lock..prefixes] {
        if *byte == 0xF0 {
            *byte = 0x3E;
        }
    }
    let ins = Decoder::new(bitness, &bytes[..window.len()], DecoderOptions::NONE).decode();
    if ins.is_invalid() { 1 } else { ins.len() as u8 }
}

/// The instruction at the start of `window` has more than 15 bytes. That takes prefixes that a later
/// one of their group overrides: without them it fits, and its length can be told.
#[cold]
fn is_too_long(window: &[u8], bitness: u32) -> bool {
    let Some(opcode) = window.iter().position(|b| prefix_group(*b) == 0) else { return true };
    let (prefixes, rest) = window.split_at(opcode);
    let mut groups = 0u8;
    let mut short: Vec<u8> = Vec::with_capacity(2 * MAX_LEN);
    for &byte in prefixes.iter().rev() {
        let group = 1 << prefix_group(byte);
        // LOCK makes some instructions invalid and none longer.
        if groups & group == 0 && byte != 0xF0 {
            groups |= group;
            short.insert(0, byte);
        }
    }
    let dropped = prefixes.len() - short.len();
    short.extend_from_slice(rest);
    // What lies behind byte 15 does not matter: it is too far already.
    short.resize(2 * MAX_LEN, 0);
    let decode = |bytes: &[u8]| {
        let mut decoder = Decoder::new(bitness, bytes, DecoderOptions::NONE);
        (!decoder.decode().is_invalid(), decoder.position())
    };
    let (valid, mut len) = decode(&short);
    if !valid {
        // The decoder has read a ModRM byte; a hole in the opcode map has none.
        let hole = (0..16u8).all(|n| {
            // Each reg field, with a memory and a register operand.
            short[len - 1] = ((n & 7) << 3) | ((n >> 3) * 0xC0);
            !decode(&short).0
        });
        len -= usize::from(hole);
    }
    dropped + len > MAX_LEN
}

/// What the x87 records as its last opcode: the low three bits of the first opcode byte, and ModRM.
/// `None` for instructions other than D8 to DF.
fn x87_opcode(bytes: &[u8]) -> Option<u16> {
    let at = bytes.iter().position(|b| prefix_group(*b) == 0)?;
    match bytes.get(at..at + 2)? {
        &[first @ 0xD8..=0xDF, modrm] => Some(u16::from(first & 7) << 8 | u16::from(modrm)),
        _ => None,
    }
}

fn invalid() -> Insn {
    Insn {
        exec: dispatch::undefined,
        disp: 0,
        imm: 0,
        base: gpr::ZERO as u8,
        index: gpr::ZERO as u8,
        scale: 0,
        seg: seg::DS as u8,
        r0: 0,
        r1: 0,
        len: 1,
        flags: Insn::ENDS_BLOCK,
        imm2: 0,
        end: 0,
    }
}

/// Number of a register within its class, as ModRM encodes it (AH is 4).
pub fn register_number(r: Register) -> u8 {
    match r {
        Register::None => gpr::ZERO as u8,
        r if r.is_gpr8() => (r as u32 - Register::AL as u32) as u8,
        r => r.number() as u8,
    }
}

fn segment_number(r: Register) -> u8 {
    match r {
        Register::ES => seg::ES as u8,
        Register::CS => seg::CS as u8,
        Register::SS => seg::SS as u8,
        Register::FS => seg::FS as u8,
        Register::GS => seg::GS as u8,
        _ => seg::DS as u8,
    }
}

fn is_memory(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Memory
            | OpKind::MemorySegSI
            | OpKind::MemorySegESI
            | OpKind::MemorySegDI
            | OpKind::MemorySegEDI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
    )
}

fn form(ins: &Instruction) -> Form {
    let kind = |n| {
        if n >= ins.op_count() {
            ' '
        } else if ins.op_kind(n) == OpKind::Register {
            'r'
        } else if is_memory(ins.op_kind(n)) {
            'm'
        } else {
            'i'
        }
    };
    match (kind(0), kind(1)) {
        ('r', ' ') => Form::R,
        ('m', ' ') => Form::M,
        ('i', ' ') => Form::I,
        ('r', 'r') => Form::RR,
        ('r', 'm') => Form::RM,
        ('m', 'r' | 'm') => Form::MR,
        ('r', _) => Form::RI,
        ('m', _) => Form::MI,
        ('i', _) => Form::II,
        _ => Form::None,
    }
}

/// Translates iced's instruction to ours.
fn lower(ins: &Instruction, mode: ModeKey) -> Insn {
    let mut out = invalid();
    out.len = ins.len() as u8;
    out.flags = 0;
    let mut immediates = 0;
    for n in 0..ins.op_count() {
        match ins.op_kind(n) {
            OpKind::Register => {
                let number = if ins.op_register(n).is_segment_register() {
                    segment_number(ins.op_register(n))
                } else {
                    register_number(ins.op_register(n))
                };
                match n {
                    0 => out.r0 = number,
                    1 => out.r1 = number,
                    // The mask of MASKMOVQ and MASKMOVDQU, whose operand 0 is memory.
                    2 if is_memory(ins.op0_kind()) => out.r0 = number,
                    // Other third operands are CL.
                    _ => {}
                }
            }
            OpKind::Memory => {
                out.base = register_number(ins.memory_base());
                out.index = register_number(ins.memory_index());
                out.scale = ins.memory_index_scale().trailing_zeros() as u8;
                out.disp = ins.memory_displacement32();
                out.seg = segment_number(ins.memory_segment());
                let wide = |r: Register| r.is_gpr32();
                let wide_disp = ins.memory_displ_size() == 4;
                let addr32 = wide(ins.memory_base())
                    || wide(ins.memory_index())
                    || (ins.memory_base() == Register::None
                        && ins.memory_index() == Register::None
                        && wide_disp);
                if !addr32 {
                    out.flags |= Insn::ADDR16;
                }
            }
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => {
                out.flags |= Insn::ADDR16;
                if ins.op_kind(n) != OpKind::MemoryESDI {
                    out.seg = segment_number(ins.memory_segment());
                }
            }
            OpKind::MemorySegESI | OpKind::MemorySegEDI => out.seg = segment_number(ins.memory_segment()),
            OpKind::MemoryESEDI => {}
            OpKind::NearBranch16 | OpKind::NearBranch32 => {
                // The decoder runs at address 0: the target minus the length is the distance.
                out.disp = ins.near_branch_target() as u32;
                out.disp = out.disp.wrapping_sub(u32::from(out.len));
                if ins.op_kind(n) == OpKind::NearBranch16 {
                    out.disp = out.disp as u16 as i16 as u32;
                }
            }
            OpKind::FarBranch16 => {
                out.imm = u32::from(ins.far_branch16());
                out.imm2 = ins.far_branch_selector();
            }
            OpKind::FarBranch32 => {
                out.imm = ins.far_branch32();
                out.imm2 = ins.far_branch_selector();
            }
            OpKind::Immediate8_2nd => out.imm2 = u16::from(ins.immediate8_2nd()),
            _ => {
                let value = ins.immediate(n) as u32;
                if immediates == 0 {
                    out.imm = value;
                } else {
                    out.imm2 = value as u16;
                }
                immediates += 1;
            }
        }
    }
    if ins.has_repne_prefix() {
        out.flags |= Insn::REPNE;
    } else if ins.has_rep_prefix() {
        out.flags |= Insn::REP;
    }
    if ins.has_lock_prefix() {
        out.flags |= Insn::LOCK;
    }
    let op16 = operand_size_is_16(ins);
    if op16 {
        out.flags |= Insn::OP16;
    }
    let size = match ins.op0_kind() {
        OpKind::Register => ins.op0_register().size(),
        _ => ins.memory_size().size(),
    };
    let decoded =
        Decoded { ins, mnemonic: ins.mnemonic(), code: ins.code(), form: form(ins), size, op16, mode };
    let (exec, ends) = dispatch::select(&decoded);
    out.exec = exec;
    if ends {
        out.flags |= Insn::ENDS_BLOCK;
    }
    out
}

/// Operand size attribute is 16 bits, for the forms where operands alone do not tell.
fn operand_size_is_16(ins: &Instruction) -> bool {
    if (0..ins.op_count()).any(|n| matches!(ins.op_kind(n), OpKind::NearBranch16 | OpKind::FarBranch16)) {
        return true;
    }
    match ins.code() {
        Code::Pushaw
        | Code::Popaw
        | Code::Iretw
        | Code::Pushfw
        | Code::Popfw
        | Code::Retnw
        | Code::Retnw_imm16
        | Code::Retfw
        | Code::Retfw_imm16
        | Code::Enterw_imm16_imm8
        | Code::Leavew
        | Code::Push_imm16
        | Code::Pushw_imm8
        | Code::Pushw_ES
        | Code::Pushw_CS
        | Code::Pushw_SS
        | Code::Pushw_DS
        | Code::Pushw_FS
        | Code::Pushw_GS
        | Code::Popw_ES
        | Code::Popw_SS
        | Code::Popw_DS
        | Code::Popw_FS
        | Code::Popw_GS
        | Code::Lgdt_m1632_16
        | Code::Lidt_m1632_16
        | Code::Sgdt_m1632_16
        | Code::Sidt_m1632_16
        | Code::Call_m1616
        | Code::Jmp_m1616
        | Code::Fldenv_m14byte
        | Code::Fnstenv_m14byte
        | Code::Fstenv_m14byte
        | Code::Fnsave_m94byte
        | Code::Fsave_m94byte
        | Code::Frstor_m94byte => true,
        _ => {
            ins.op_count() > 0
                && match ins.op0_kind() {
                    // PUSH and POP of segment registers have forms of their own above.
                    OpKind::Register if ins.op0_register().is_segment_register() => false,
                    OpKind::Register => ins.op0_register().size() == 2,
                    k if is_memory(k) => ins.memory_size().size() == 2,
                    _ => false,
                }
        }
    }
}
