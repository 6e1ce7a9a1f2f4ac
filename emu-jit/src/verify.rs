//! A second opinion about emitted code: it is disassembled, followed along all its paths, and every memory
//! operand must be one of
//!
//! - a field of the state (r13), where the bindings that hold addresses are not written;
//! - an entry of the view tables (r15) for a page number that was computed from a register, only read;
//! - an entry of the table of indirect targets;
//! - a guest address whose page's entry was found not to be 0 on every path since the address was computed,
//!   through the table of its direction, for no more bytes than are known to lie in the page.
//!
//! Besides, the registers that must not change do not, the host's stack is as it was wherever control leaves,
//! no 64-bit result gets into a guest register, and
//! control leaves only for shared routines. What cannot be seen in the code of one block (that the distances
//! of accesses which share a lookup stay in its page, and the lengths of string instructions) is left to the
//! comparison with the interpreter.

use std::fmt::Write;

use emu_core::cpu::CpuState;
use emu_core::cpu::tlb::{CODE_TABLE, WRITE_TABLE};
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

use crate::entry::{CONTEXT_LEN, Routines};
use crate::layout::{BIAS, CONTEXT, TARGETS, frame, host, pinned};
use crate::listing::{Layout, Shift, host_text};
use crate::lower::{ALWAYS, FOLLOWED, Lowered};
use crate::targets::TARGET_COUNT;

/// Host registers that hold no guest register and keep their value.
const R12: u8 = 12;
const R13: u8 = 13;
const R15: u8 = 15;
const RSP: u8 = 4;

/// What is known of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Any,
    Zero,
    /// The lower half of a register.
    Copy(u8),
    /// A register plus a constant.
    Sum(u8, i32),
    /// Bits in which the first and the last byte's addresses differ, and then their page numbers.
    Differ(u8, i32),
    Pages(u8, i32),
    /// Page number of the address in a register.
    Page(u8),
    /// Page number of an address that is in no register.
    AnyPage,
    /// Entry of that page.
    Entry(Entry),
    /// The same plus r8 (`lower/memory.rs`, `unframed`).
    Based(Entry),
    /// A host address.
    Host {
        write: bool,
    },
    /// The rest of one, wider than 32 bits.
    Wide,
    /// An index into the table of targets, and its bytes.
    Slot,
    SlotBytes,
    Target,
    Context,
}

/// Of the page that the address in register `x` lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    x: u8,
    /// Known not to be 0.
    tested: bool,
    write: bool,
    /// Bytes known to lie in the page.
    fits: u32,
    /// Only the address itself, no other at a distance from it.
    exact: bool,
}

impl Value {
    fn mentions(self, r: u8) -> bool {
        match self {
            Self::Copy(x) | Self::Sum(x, _) | Self::Differ(x, _) | Self::Pages(x, _) | Self::Page(x) => {
                x == r
            }
            Self::Entry(e) => e.x == r,
            _ => false,
        }
    }

    /// What is true on two paths.
    fn meet(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::Zero, e @ Self::Entry(_)) | (e @ Self::Entry(_), Self::Zero) => match e {
                Self::Entry(e) => Self::Entry(Entry { tested: false, ..e }),
                other => other,
            },
            (Self::Entry(a), Self::Entry(b)) if a.x == b.x => Self::Entry(Entry {
                x: a.x,
                tested: a.tested && b.tested,
                write: a.write && b.write,
                fits: a.fits.min(b.fits),
                exact: a.exact && b.exact,
            }),
            (Self::Host { write: a }, Self::Host { write: b }) => Self::Host { write: a && b },
            _ => Self::Any,
        }
    }
}

/// What the host's ZF says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flags {
    Any,
    /// The register is 0.
    Zero(u8),
    /// The address is aligned to so many bytes.
    Aligned(u8, u32),
    /// So many bytes from the address on lie in one page.
    Fits(u8, u32),
    /// The entry for reading is that for writing too.
    Both(u8),
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    r: [Value; 16],
    flags: Flags,
    /// Bytes on the host's stack above the return address.
    stack: i32,
    /// Entries in the state that are not 0, and whether they are good for writing.
    frames: [Option<bool>; 8],
}

impl State {
    const START: Self = Self { r: [Value::Any; 16], flags: Flags::Any, stack: 0, frames: [None; 8] };

    fn meet(&self, other: &Self) -> Self {
        let mut r = self.r;
        for (mine, theirs) in r.iter_mut().zip(other.r) {
            *mine = mine.meet(theirs);
        }
        let flags = if self.flags == other.flags { self.flags } else { Flags::Any };
        let mut frames = self.frames;
        for (mine, theirs) in frames.iter_mut().zip(other.frames) {
            *mine = mine.zip(theirs).map(|(a, b)| a && b);
        }
        Self { r, flags, stack: self.stack, frames }
    }

    /// A register changes. What is known about the address in it is known about a copy from then on: EAX
    /// lends itself to LAHF and SAHF.
    fn set(&mut self, r: u8, value: Value) {
        let copy = (0..16).find(|&c| c != r && self.get(c) == Value::Copy(r));
        for v in &mut self.r {
            if !v.mentions(r) {
                continue;
            }
            *v = match (*v, copy) {
                (Value::Entry(e), Some(x)) => Value::Entry(Entry { x, ..e }),
                _ => Value::Any,
            };
        }
        if matches!(self.flags, Flags::Zero(x) | Flags::Both(x) | Flags::Aligned(x, _) | Flags::Fits(x, _) if x == r)
        {
            self.flags = Flags::Any;
        }
        self.r[usize::from(r & 15)] = if value.mentions(r) { Value::Any } else { value };
    }

    /// Both registers hold the same address.
    fn is_same(&self, a: u8, b: u8) -> bool {
        a == b || self.get(a) == Value::Copy(b) || self.get(b) == Value::Copy(a)
    }

    fn get(&self, r: u8) -> Value {
        self.r[usize::from(r & 15)]
    }

    /// ZF is known.
    fn assume(&mut self, zero: bool) {
        match (self.flags, zero) {
            (Flags::Zero(r), false) => {
                if let Value::Entry(e) = &mut self.r[usize::from(r & 15)] {
                    e.tested = true;
                }
            }
            (Flags::Both(r), true) => {
                if let Value::Entry(e) = &mut self.r[usize::from(r & 15)] {
                    e.write = true;
                }
            }
            (Flags::Aligned(x, bytes) | Flags::Fits(x, bytes), true) => {
                for v in &mut self.r {
                    if let Value::Entry(e) = v
                        && e.x == x
                    {
                        e.fits = e.fits.max(bytes);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Checks emitted code.
///
/// # Panics
/// It breaks a rule: that is what this is for.
pub(crate) fn check(lowered: &Lowered, layout: Layout, routines: &Routines) {
    let mut verifier = Verifier {
        code: &lowered.code,
        layout,
        routines,
        factory: InstructionInfoFactory::new(),
        states: vec![None; lowered.code.len()],
        work: Vec::new(),
    };
    let result = verifier.run(lowered.dead as usize);
    if let Err((at, rule)) = result {
        panic!(
            "translated code breaks a rule at +{at:x}: {rule}\n{}",
            host_text(&lowered.code, layout, routines)
        );
    }
}

type Broken = (usize, String);

struct Verifier<'a> {
    code: &'a [u8],
    layout: Layout,
    routines: &'a Routines,
    factory: InstructionInfoFactory,
    /// By offset.
    states: Vec<Option<State>>,
    work: Vec<usize>,
}

fn number(r: Register) -> u8 {
    r.full_register().number() as u8
}

fn is_guest(r: u8) -> bool {
    r != RSP && (r < 8 || r == host::ESP)
}

impl Verifier<'_> {
    fn run(&mut self, dead: usize) -> Result<(), Broken> {
        self.flow(0, 0, State::START)?;
        self.flow(0, dead, State::START)?;
        while let Some(at) = self.work.pop() {
            self.step(at)?;
        }
        Ok(())
    }

    /// Control gets from one place to another.
    fn flow(&mut self, from: usize, to: usize, state: State) -> Result<(), Broken> {
        let Some(known) = self.states.get_mut(to) else {
            return Err((from, "control runs out of the block".to_owned()));
        };
        if known.as_ref().is_some_and(|known| known.stack != state.stack) {
            return Err((from, "the host's stack depends on the way".to_owned()));
        }
        let next = known.as_ref().map_or(state, |known| known.meet(&state));
        if *known != Some(next) {
            *known = Some(next);
            self.work.push(to);
        }
        Ok(())
    }

    fn step(&mut self, at: usize) -> Result<(), Broken> {
        let Some(mut state) = self.states.get(at).copied().flatten() else { return Ok(()) };
        let code = self.code.get(at..).unwrap_or_default();
        if let Some(shift) = Shift::read(code) {
            let page = shift.name == "shrx" && shift.count == R13;
            state.set(shift.to, if page { Value::Page(shift.from) } else { Value::Any });
            return self.flow(at, at + Shift::LEN, state);
        }
        let mut decoder = Decoder::with_ip(64, code, self.layout.address_of(at) as u64, DecoderOptions::NONE);
        let ins = decoder.decode();
        let fail = |rule: &str| Err((at, rule.to_owned()));
        if ins.is_invalid() {
            return fail("not an instruction");
        }
        self.memory(&ins, &state).map_err(|rule| (at, rule))?;
        let next = at + ins.len();
        match ins.flow_control() {
            FlowControl::Next => {
                self.change(&ins, &mut state).map_err(|rule| (at, rule))?;
                self.flow(at, next, state)
            }
            FlowControl::ConditionalBranch => {
                let (mut taken, mut not) = (state, state);
                if matches!(ins.mnemonic(), Mnemonic::Je | Mnemonic::Jne) {
                    taken.assume(ins.mnemonic() == Mnemonic::Je);
                    not.assume(ins.mnemonic() != Mnemonic::Je);
                }
                self.branch(at, &ins, taken)?;
                self.flow(at, next, not)
            }
            FlowControl::UnconditionalBranch => self.branch(at, &ins, state),
            FlowControl::Call => {
                self.call(&state).map_err(|rule| (at, rule))?;
                // Another block gets the alignment that this one got.
                let to_block = self.layout.offset_of(ins.near_branch64() as usize).is_some();
                if state.stack != if to_block { 8 } else { 0 } {
                    return fail("a call with a misaligned stack");
                }
                self.branch(at, &ins, State::START)?;
                // What is called may look for pages of its own; shared routines do not.
                let frames = if state.stack == 0 { state.frames } else { State::START.frames };
                self.flow(at, next, State { stack: state.stack, frames, ..State::START })
            }
            FlowControl::IndirectBranch | FlowControl::IndirectCall => {
                let call = ins.flow_control() == FlowControl::IndirectCall;
                if call { self.call(&state) } else { self.leave(&state) }.map_err(|rule| (at, rule))?;
                let to = ins.memory_base();
                if ins.op0_kind() != OpKind::Memory || state.get(number(to)) != Value::Target {
                    return fail("an indirect branch that is not through the table of targets");
                }
                if call && state.stack != 8 {
                    return fail("a call with a misaligned stack");
                }
                match call {
                    true => self.flow(at, next, State { stack: state.stack, ..State::START }),
                    false => Ok(()),
                }
            }
            FlowControl::Return => self.leave(&state).map_err(|rule| (at, rule)),
            _ => fail("a control transfer that translated code has no use for"),
        }
    }

    fn branch(&mut self, at: usize, ins: &Instruction, state: State) -> Result<(), Broken> {
        let to = ins.near_branch64() as usize;
        if let Some(offset) = self.layout.offset_of(to) {
            return self.flow(at, offset, state);
        }
        self.leave(&state).map_err(|rule| (at, rule))?;
        match self.routines.name(to) {
            Some(_) => Ok(()),
            None => Err((at, format!("a branch to {to:x}, which is no shared routine"))),
        }
    }

    /// The stack is as it was where control leaves for good.
    fn leave(&self, state: &State) -> Result<(), String> {
        match state.stack {
            0 => self.call(state),
            n => Err(format!("{n} bytes are left on the host's stack")),
        }
    }

    /// Guest registers are 32 bits wide where control leaves.
    fn call(&self, state: &State) -> Result<(), String> {
        for r in (0..16).filter(|&r| is_guest(r)) {
            if matches!(state.get(r), Value::Host { .. } | Value::Wide) {
                return Err(format!("register {r} has more than 32 bits"));
            }
        }
        Ok(())
    }

    /// The memory operands of an instruction are allowed.
    fn memory(&mut self, ins: &Instruction, state: &State) -> Result<(), String> {
        if ins.is_string_instruction() {
            let write = matches!(state.get(7), Value::Host { write: true });
            let is_move = matches!(ins.mnemonic(), Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd);
            let is_store = matches!(ins.mnemonic(), Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd);
            let read = !is_move || matches!(state.get(6), Value::Host { .. });
            return match write && read && (is_move || is_store) {
                true => Ok(()),
                false => Err("a string instruction on addresses that were not looked up".to_owned()),
            };
        }
        let memory = (0..ins.op_count()).any(|n| ins.op_kind(n) == OpKind::Memory);
        if !memory || matches!(ins.mnemonic(), Mnemonic::Lea | Mnemonic::Nop) {
            return Ok(());
        }
        let (base, index) = (ins.memory_base(), ins.memory_index());
        let displacement = ins.memory_displacement64() as i64;
        let size = ins.memory_size().size() as u32;
        // Indirect calls write to the stack only.
        let write = ins.flow_control() == FlowControl::Next
            && self.factory.info(ins).used_memory().iter().any(|m| {
                !matches!(
                    m.access(),
                    OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess | OpAccess::None
                )
            });
        if base == Register::None {
            return Err("an absolute address".to_owned());
        }
        match (number(base), index) {
            (R13, Register::None) => state_field(displacement, size, write),
            (R15, _) if index != Register::None => {
                let scale = ins.memory_index_scale();
                let known = (scale, displacement, size) == (8, 0, 8)
                    || (scale, displacement, size) == (8, WRITE_TABLE as i64, 8)
                    || (scale, displacement, size) == (4, CODE_TABLE as i64, 4);
                let page = matches!(state.get(number(index)), Value::Page(_) | Value::AnyPage);
                match known && page && !write {
                    true => Ok(()),
                    false => Err("a place in the view tables that is no entry".to_owned()),
                }
            }
            (base, Register::None) => match state.get(base) {
                Value::Target if !write && (0..=16 - i64::from(size)).contains(&displacement) => Ok(()),
                Value::Context if (0..=CONTEXT_LEN as i64 - i64::from(size)).contains(&displacement) => {
                    Ok(())
                }
                value => Err(format!("an address of which only {value:?} is known")),
            },
            (base, index) => match state.get(base) {
                Value::Entry(e) if state.is_same(e.x, number(index)) && ins.memory_index_scale() == 1 => {
                    if !e.tested {
                        return Err("an entry that may be 0".to_owned());
                    }
                    if write && !e.write {
                        return Err("a write through an entry for reading".to_owned());
                    }
                    if size > e.fits.max(1) {
                        return Err(format!("{size} bytes, of which {} are in the page", e.fits));
                    }
                    if e.exact && displacement as i32 != -1 {
                        return Err("a distance from an address that was checked without".to_owned());
                    }
                    Ok(())
                }
                value => Err(format!("an address of which only {value:?} is known")),
            },
        }
    }

    /// What an instruction does to registers.
    fn change(&mut self, ins: &Instruction, state: &mut State) -> Result<(), String> {
        let m = ins.mnemonic();
        if m == Mnemonic::Push
            && ins.op0_kind() == OpKind::Register
            && matches!(state.get(number(ins.op0_register())), Value::Host { .. } | Value::Wide)
        {
            return Err("a host address on the host's stack".to_owned());
        }
        let flags = self.flags(ins, state);
        let special = self.special(ins, state);
        if ins.op0_kind() == OpKind::Memory && number(ins.memory_base()) == R13 {
            for which in 0..state.frames.len() {
                let distance = ins.memory_displacement64() as i32 - frame(which);
                if distance < 8 && distance + ins.memory_size().size() as i32 > 0 {
                    let from = (ins.op1_kind() == OpKind::Register).then(|| number(ins.op1_register()));
                    state.frames[which] = match from.map(|r| state.get(r)) {
                        Some(Value::Entry(e)) if distance == 0 && ins.mnemonic() == Mnemonic::Mov => {
                            e.tested.then_some(e.write)
                        }
                        _ => None,
                    };
                }
            }
        }
        state.stack -= ins.stack_pointer_increment();
        if state.stack < 0 {
            return Err("the host's stack pointer rises above the return address".to_owned());
        }
        if ins.op0_kind() == OpKind::Register
            && ins.op0_register() == Register::RSP
            && matches!(m, Mnemonic::Add | Mnemonic::Sub)
        {
            let by = immediate(ins) as i32;
            state.stack += if m == Mnemonic::Sub { by } else { -by };
        }
        let written: Vec<u8> = self
            .factory
            .info(ins)
            .used_registers()
            .iter()
            .filter(|u| {
                !matches!(u.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None)
                    && u.register().is_gpr()
            })
            .map(|u| number(u.register()))
            .collect();
        let string = ins.is_string_instruction();
        for &r in &written {
            let constant = ins.op_count() == 2 && ins.op1_kind() != OpKind::Register;
            let steps = matches!(m, Mnemonic::Add | Mnemonic::Sub) && constant;
            match r {
                R13 | R15 => return Err("a register that must not change".to_owned()),
                R12 if !steps => {
                    return Err("the budget changes by something else than a constant".to_owned());
                }
                RSP if !steps && !matches!(m, Mnemonic::Push | Mnemonic::Pop) => {
                    return Err("the host's stack pointer changes".to_owned());
                }
                _ => {}
            }
            let explicit = ins.op0_kind() == OpKind::Register && number(ins.op0_register()) == r;
            let wide = explicit && ins.op0_register().is_gpr64() && is_guest(r);
            // What is popped was pushed with 32 bits.
            if wide && m != Mnemonic::Pop && !matches!(special, Some(Value::Host { .. } | Value::Wide)) {
                return Err(format!("a 64-bit result in guest register {r}"));
            }
        }
        for &r in &written {
            let old = state.get(r);
            let value = match special {
                Some(value) if ins.op0_kind() == OpKind::Register && number(ins.op0_register()) == r => value,
                _ if string && matches!(old, Value::Host { .. }) => old,
                _ => Value::Any,
            };
            state.set(r, value);
        }
        if ins.rflags_modified() != 0 {
            state.flags = flags;
        }
        Ok(())
    }

    /// What ZF says behind an instruction.
    fn flags(&self, ins: &Instruction, state: &State) -> Flags {
        let register = |n| (ins.op_kind(n) == OpKind::Register).then(|| ins.op_register(n));
        if ins.op_count() != 2 {
            return Flags::Any;
        }
        let Some(first) = register(0) else { return Flags::Any };
        match (ins.mnemonic(), register(1)) {
            (Mnemonic::Test, Some(second)) if first == second && first.is_gpr64() => {
                Flags::Zero(number(first))
            }
            (Mnemonic::Cmp, None) if ins.op1_kind() == OpKind::Memory => {
                // The entry of the same page in the other table.
                let same = match (state.get(number(first)), state.get(number(ins.memory_index()))) {
                    (Value::Entry(e), Value::Page(x)) => e.x == x,
                    _ => false,
                };
                let table = number(ins.memory_base()) == R15 && ins.memory_index() != Register::None;
                match same && table && ins.memory_displacement64() as i64 == WRITE_TABLE as i64 {
                    true => Flags::Both(number(first)),
                    false => Flags::Any,
                }
            }
            (Mnemonic::Test, None) => {
                let mask = immediate(ins) as u32 & 0xFF;
                let high = matches!(first, Register::AH | Register::BH | Register::CH | Register::DH);
                match !high && (1..16).contains(&mask) && (mask + 1).is_power_of_two() {
                    true => Flags::Aligned(number(first), mask + 1),
                    false => Flags::Any,
                }
            }
            (Mnemonic::Shr, None) if immediate(ins) == 12 => match state.get(number(first)) {
                Value::Differ(x, last) => Flags::Fits(x, last as u32 + 1),
                _ => Flags::Any,
            },
            _ => Flags::Any,
        }
    }

    /// What the first operand holds behind an instruction, if that matters.
    fn special(&self, ins: &Instruction, state: &State) -> Option<Value> {
        if ins.op_count() != 2 || ins.op0_kind() != OpKind::Register {
            return None;
        }
        let d = ins.op0_register();
        let from = state.get(number(d));
        let source = (ins.op1_kind() == OpKind::Register).then(|| ins.op1_register());
        let immediate = || immediate(ins);
        let displacement = ins.memory_displacement64() as i64 as i32;
        let base = ins.memory_base();
        Some(match (ins.mnemonic(), source) {
            (Mnemonic::Mov, Some(s)) if d.is_gpr32() => Value::Copy(number(s)),
            (Mnemonic::Mov, None) if ins.op1_kind() == OpKind::Memory => match number(base) {
                R13 if base != Register::None && d.is_gpr64() => state_address(displacement, state)?,
                R15 if base != Register::None && d.is_gpr64() => {
                    let Value::Page(x) = state.get(number(ins.memory_index())) else { return None };
                    let write = displacement == WRITE_TABLE as i32;
                    Value::Entry(Entry { x, tested: false, write, fits: 1, exact: true })
                }
                _ => return None,
            },
            (Mnemonic::Shr, None) if immediate() == 12 && d.is_gpr32() => match from {
                Value::Copy(x) | Value::Sum(x, _) => Value::Page(x),
                Value::Differ(x, last) => Value::Pages(x, last),
                // The address itself is not needed any more.
                _ => Value::AnyPage,
            },
            (Mnemonic::Lea, None) if d.is_gpr32() && ins.memory_index() == Register::None => {
                Value::Sum(number(base), displacement)
            }
            (Mnemonic::Lea, None) => {
                if ins.memory_index() == Register::None && d.is_gpr64() {
                    return Some(Value::Sum(number(base), displacement)).filter(|_| !is_guest(number(d)));
                }
                match state.get(number(base)) {
                    Value::Entry(e)
                        if e.tested && e.x == number(ins.memory_index()) && displacement == -1 =>
                    {
                        Value::Host { write: e.write }
                    }
                    _ => return None,
                }
            }
            (Mnemonic::Xor, Some(s)) if s == d => Value::Zero,
            (Mnemonic::Xor, Some(s)) => match (from, state.get(number(s))) {
                // First and last byte, in either order.
                (Value::Sum(x, last), _) if x == number(s) => Value::Differ(x, last),
                _ => return None,
            },
            (Mnemonic::And, None) if immediate() as i32 == TARGET_COUNT as i32 - 1 => Value::Slot,
            (Mnemonic::Shl, None) if immediate() == 4 && from == Value::Slot => Value::SlotBytes,
            (Mnemonic::Add, None) if from == Value::SlotBytes && ins.op1_kind() == OpKind::Memory => {
                if number(base) != R13 || displacement != TARGETS {
                    return None;
                }
                Value::Target
            }
            (Mnemonic::Add, Some(s)) => match from {
                Value::Entry(e) if e.x == number(s) && e.tested => Value::Based(e),
                _ => return None,
            },
            (Mnemonic::Sub, Some(s)) => match (from, state.get(number(s))) {
                (Value::Based(e), Value::Sum(x, _)) => Value::Entry(Entry { x, exact: false, ..e }),
                (Value::Host { .. }, _) => Value::Wide,
                _ => return None,
            },
            _ => return None,
        })
    }
}

/// The second operand, if it is a constant.
fn immediate(ins: &Instruction) -> i64 {
    ins.try_immediate(1).map_or(-1, |v| v as i64)
}

/// What is loaded from an address in the state.
fn state_address(displacement: i32, state: &State) -> Option<Value> {
    if displacement == CONTEXT {
        return Some(Value::Context);
    }
    let which = (0..state.frames.len()).find(|&which| displacement == frame(which))?;
    let x = pinned(FOLLOWED[which]);
    let known = state.frames[which];
    // Those of ESP and EBP are good for writing, or 0.
    let write = known.unwrap_or(which < ALWAYS);
    Some(Value::Entry(Entry { x, tested: known.is_some(), write, fits: 16, exact: false }))
}

/// An access to the state.
fn state_field(displacement: i64, size: u32, write: bool) -> Result<(), String> {
    let offset = displacement + i64::from(BIAS);
    let end = offset + i64::from(size);
    if offset < 0 || end > size_of::<CpuState>() as i64 {
        return Err(format!("{displacement} is not in the state"));
    }
    let overlaps =
        |at: i32| displacement < i64::from(at) + 8 && displacement + i64::from(size) > i64::from(at);
    if write && (overlaps(CONTEXT) || overlaps(TARGETS)) {
        let mut rule = String::new();
        let _ = write!(rule, "a write to an address in the state at {displacement}");
        return Err(rule);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dynasm::dynasm;
    use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, x64::X64Relocation};

    use super::*;
    use crate::code::CodeCache;
    use crate::layout::gpr;

    fn verdict(emit: impl FnOnce(&mut VecAssembler<X64Relocation>)) -> Result<(), String> {
        let mut cache = CodeCache::new(64 << 10).unwrap();
        let routines = Routines::emit(&mut cache).unwrap();
        let mut ops = VecAssembler::new(cache.next_address());
        emit(&mut ops);
        dynasm!(ops ; .arch x64 ; ret);
        let code = ops.finalize().unwrap();
        let mut verifier = Verifier {
            code: &code,
            layout: Layout {
                address: cache.next_address(),
                hot: code.len(),
                cold_address: cache.next_address() + code.len(),
                len: code.len(),
            },
            routines: &routines,
            factory: InstructionInfoFactory::new(),
            states: vec![None; code.len()],
            work: Vec::new(),
        };
        verifier.run(0).map_err(|(_, rule)| rule)
    }

    #[test]
    fn checked_access_is_allowed() {
        let read = verdict(|ops| {
            dynasm!(ops ; .arch x64
                ; mov r9d, ebx ; shr r9d, 12 ; mov r9, [r15 + r9 * 8] ; test r9, r9 ; jz >out
                ; test bl, 3 ; jnz >out ; mov eax, [r9 + rbx - 1] ; out:)
        });
        assert_eq!(read, Ok(()));
    }

    #[test]
    fn page_number_by_the_bias_of_the_state_is_known_and_no_other() {
        let read = verdict(|ops| {
            dynasm!(ops ; .arch x64
                ; shrx r9d, ebx, r13d ; mov r9, [r15 + r9 * 8] ; test r9, r9 ; jz >out
                ; mov al, [r9 + rbx - 1] ; out:)
        });
        assert_eq!(read, Ok(()));
        let other = verdict(|ops| dynasm!(ops ; .arch x64 ; shrx r9d, ebx, ecx ; mov r9, [r15 + r9 * 8]));
        assert!(other.is_err_and(|rule| rule.contains("no entry")));
    }

    #[test]
    fn access_without_one_of_its_checks_is_found() {
        for (what, code) in [("that may be 0", 0), ("of which 1 are", 1), ("for reading", 2), ("only Any", 3)]
        {
            let result = verdict(|ops| {
                dynasm!(ops ; .arch x64 ; mov r9d, ebx ; shr r9d, 12 ; mov r9, [r15 + r9 * 8]);
                if code != 0 {
                    dynasm!(ops ; .arch x64 ; test r9, r9 ; jz >out);
                }
                if code != 1 {
                    dynasm!(ops ; .arch x64 ; test bl, 3 ; jnz >out);
                }
                if code == 3 {
                    dynasm!(ops ; .arch x64 ; inc ebx);
                }
                match code {
                    2 => dynasm!(ops ; .arch x64 ; mov [r9 + rbx - 1], eax),
                    _ => dynasm!(ops ; .arch x64 ; mov eax, [r9 + rbx - 1]),
                }
                dynasm!(ops ; .arch x64 ; out:);
            });
            assert!(result.as_ref().is_err_and(|rule| rule.contains(what)), "{code} {result:?}");
        }
    }

    #[test]
    fn check_on_one_path_only_is_not_enough() {
        let result = verdict(|ops| {
            dynasm!(ops ; .arch x64
                ; mov r9d, ebx ; shr r9d, 12 ; mov r9, [r15 + r9 * 8] ; test ecx, ecx ; jz >skip
                ; test r9, r9 ; jz >out ; skip: ; mov al, [r9 + rbx - 1] ; out:)
        });
        assert_eq!(result, Err("an entry that may be 0".to_owned()));
    }

    #[test]
    fn rules_about_registers_and_the_state_are_enforced() {
        let inside = verdict(|ops| dynasm!(ops ; .arch x64 ; mov eax, [r13 + gpr(3)]));
        assert_eq!(inside, Ok(()));
        type Emit = fn(&mut VecAssembler<X64Relocation>);
        let rules: [(&str, Emit); 9] = [
            ("must not change", |ops| dynasm!(ops ; .arch x64 ; mov r15, rax)),
            ("the budget", |ops| dynasm!(ops ; .arch x64 ; mov r12d, eax)),
            ("stack pointer", |ops| dynasm!(ops ; .arch x64 ; mov rsp, rax)),
            ("are left on the host's stack", |ops| dynasm!(ops ; .arch x64 ; push r10)),
            ("rises above", |ops| dynasm!(ops ; .arch x64 ; pop r9)),
            ("64-bit result", |ops| dynasm!(ops ; .arch x64 ; add rax, rcx)),
            ("not in the state", |ops| dynasm!(ops ; .arch x64 ; mov eax, [r13 + 0x10000])),
            ("an address in the state", |ops| dynasm!(ops ; .arch x64 ; mov [r13 + TARGETS], rax)),
            ("only Any", |ops| dynasm!(ops ; .arch x64 ; mov eax, [rsp + 8])),
        ];
        for (what, emit) in rules {
            let result = verdict(emit);
            assert!(result.as_ref().is_err_and(|rule| rule.contains(what)), "{what} {result:?}");
        }
    }
}
