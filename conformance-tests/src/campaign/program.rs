//! A random program and what is known about it before it runs.

use iced_x86::{Instruction, Mnemonic, RflagsBits};

use super::coverage::Place;

/// One instruction.
#[derive(Clone, Debug)]
pub struct Step {
    /// Offset of its first byte in the program.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
    /// What it is.
    pub mnemonic: Mnemonic,
    /// EFLAGS bits that are undefined before it.
    pub undefined: u32,
    /// EFLAGS bits that it leaves undefined.
    pub leaves: u32,
    /// It has a REP or REPNE prefix.
    pub repeated: bool,
    /// Where it is counted.
    pub place: Place,
}

/// Bytes, where they lie and how they start.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Bytes with the exit.
    pub code: Vec<u8>,
    /// Linear address of the first byte.
    pub at: u32,
    /// Instructions in order.
    pub steps: Vec<Step>,
    /// EFLAGS bits undefined at the regular end.
    pub undefined: u32,
    /// All EFLAGS bits that any step leaves undefined.
    pub ever_undefined: u32,
    /// Selectors at the start.
    pub seg: [u16; 6],
    /// Floating-point registers take part.
    pub fp: bool,
    /// Data segments are based in the arena: pointers are distances from its start.
    pub based: bool,
    /// Bit n: register n holds a pointer at the start; a small number.
    pub pointers: u8,
    /// See `pointers`.
    pub small: u8,
    /// EFLAGS.AC is set at the start.
    pub aligned: bool,
    /// Whatever the family wants to remember.
    pub tag: u32,
}

impl Program {
    /// Empties it for another one.
    pub fn clear(&mut self) {
        self.code.clear();
        self.steps.clear();
        self.undefined = 0;
        self.ever_undefined = 0;
        self.fp = false;
        self.aligned = false;
    }

    /// The step at a linear address.
    pub fn step_at(&self, lin: u32) -> Option<&Step> {
        let offset = lin.wrapping_sub(self.at) as usize;
        self.steps.iter().find(|s| s.offset == offset)
    }

    /// Adds an instruction; `certain`: it is executed whenever the program gets so far.
    pub fn push(&mut self, bytes: &[u8], ins: &Instruction, certain: bool, place: Place) {
        let leaves = undefined_flags(ins);
        let repeated = ins.has_rep_prefix() || ins.has_repne_prefix();
        self.steps.push(Step {
            offset: self.code.len(),
            len: bytes.len(),
            mnemonic: ins.mnemonic(),
            undefined: self.undefined,
            leaves,
            repeated,
            place,
        });
        self.code.extend_from_slice(bytes);
        if certain && !repeated && writes_always(ins) {
            self.undefined &= !arithmetic(ins.rflags_modified());
        }
        self.undefined |= leaves;
        self.ever_undefined |= leaves;
    }
}

/// EFLAGS bits among the six arithmetic ones and DF.
fn arithmetic(bits: u32) -> u32 {
    use RflagsBits as R;
    [(R::CF, 1), (R::PF, 4), (R::AF, 0x10), (R::ZF, 0x40), (R::SF, 0x80), (R::OF, 0x800)]
        .into_iter()
        .filter(|(r, _)| bits & r != 0)
        .fold(0, |m, (_, b)| m | b)
}

/// EFLAGS bits that an instruction leaves undefined.
pub fn undefined_flags(ins: &Instruction) -> u32 {
    use Mnemonic as M;
    let rotates = matches!(ins.mnemonic(), M::Rol | M::Ror | M::Rcl | M::Rcr);
    // Iced takes a full turn of 9 or 17 bits for none.
    let turns = rotates && ins.op1_kind() == iced_x86::OpKind::Immediate8 && ins.immediate8() & 31 > 1;
    arithmetic(ins.rflags_undefined()) | if turns { 0x800 } else { 0 }
}

/// EFLAGS bits that an instruction reads.
pub fn reads_flags(ins: &Instruction) -> u32 {
    match ins.mnemonic() {
        Mnemonic::Pushf | Mnemonic::Pushfd => 0x8D5,
        _ => arithmetic(ins.rflags_read()),
    }
}

/// Flags are written whatever the operands are: shifts by 0 write none.
fn writes_always(ins: &Instruction) -> bool {
    use Mnemonic as M;
    !matches!(
        ins.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
    )
}
