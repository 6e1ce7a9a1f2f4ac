//! The one way to guest memory: the view tables (`docs/engine.md`), indexed by linear page.

use dynasm::dynasm;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi};
use emu_core::cpu::tlb::WRITE_TABLE;
use emu_core::decode::iced::register_number;
use iced_x86::{Instruction, Register};

use super::frame::{self, Cover, FOLLOWED, Lookup, NAMES};
use super::plan::is_high;
use super::{Stub, Translator};
use crate::encode::Rm;
use crate::layout::{self, WIDE_SEGMENTS, host, pinned, seg_base};

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    /// Also for read-modify-write.
    Write,
}

impl Translator<'_> {
    /// Computes the effective address of the memory operand. Changes no flags. The result is in r8 or in
    /// a guest register.
    pub(super) fn effective_address(&mut self, ins: &Instruction) -> u8 {
        if self.insns[self.n].addr16() {
            let disp = i32::from(ins.memory_displacement32() as u16);
            if (ins.memory_base(), ins.memory_index()) == (Register::None, Register::None) {
                dynasm!(self.ops ; .arch x64 ; mov r8d, disp);
                return host::R8;
            }
            let a = self.sum(ins);
            dynasm!(self.ops ; .arch x64 ; movzx r8d, Rw(a));
            return host::R8;
        }
        self.sum(ins)
    }

    fn sum(&mut self, ins: &Instruction) -> u8 {
        let disp = ins.memory_displacement32() as i32;
        let base = ins.memory_base();
        let index = ins.memory_index();
        let number = |r: Register| pinned(register_number(r));
        match (base, index) {
            (Register::None, Register::None) => dynasm!(self.ops ; .arch x64 ; mov r8d, disp),
            (_, Register::None) if disp == 0 => return number(base),
            (_, Register::None) => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(number(base)) + disp]),
            (Register::None, _) => {
                let i = number(index);
                match ins.memory_index_scale() {
                    1 => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(i) + disp]),
                    2 => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(i) * 2 + disp]),
                    4 => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(i) * 4 + disp]),
                    _ => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(i) * 8 + disp]),
                }
            }
            _ => {
                let (b, i) = (number(base), number(index));
                match ins.memory_index_scale() {
                    1 => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(b) + Rq(i) * 1 + disp]),
                    2 => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(b) + Rq(i) * 2 + disp]),
                    4 => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(b) + Rq(i) * 4 + disp]),
                    _ => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(b) + Rq(i) * 8 + disp]),
                }
            }
        }
        host::R8
    }

    /// Checks the memory operand of the current instruction. Behind it the operand can be accessed as
    /// the result says, until r8 or r9 changes. Changes r8-r10 and the host's flags.
    pub(super) fn operand(&mut self, size: u32, direction: Direction, slow: DynamicLabel) -> Rm {
        let ins = self.insn();
        if self.is_segmented() {
            let address = self.effective_address(&ins);
            if address != host::R8 {
                dynasm!(self.ops ; .arch x64 ; mov r8d, Rd(address));
            }
            let segment = self.insns[self.n].seg;
            return self.check_in_segment(segment, size, direction, slow);
        }
        for (which, register) in NAMES.into_iter().enumerate() {
            if size <= 8 && frame::is_relative(&ins, register) && self.is_covered(which, direction) {
                return self.framed(which, ins.memory_displacement32() as i32, size, direction, slow);
            }
        }
        let mut address = self.effective_address(&ins);
        let segment = match ins.memory_segment() {
            Register::FS => 4,
            Register::GS => 5,
            _ => 0,
        };
        // High byte registers change places during the access: then the address must be a copy.
        let high = (0..ins.op_count()).any(|n| is_high(ins.op_register(n)));
        if (segment != 0 || high) && address != host::R8 {
            dynasm!(self.ops ; .arch x64 ; mov r8d, Rd(address));
            address = host::R8;
        }
        if segment != 0 {
            dynasm!(self.ops
                ; .arch x64
                ; test BYTE [BYTE r13 + WIDE_SEGMENTS as i8], 1 << segment
                ; jz =>slow
            );
            if size > 1 {
                // An offset that wraps lies outside of every segment.
                dynasm!(self.ops ; .arch x64 ; cmp r8d, -(size as i32) ; ja =>slow);
            }
            dynasm!(self.ops ; .arch x64 ; add r8d, [BYTE r13 + seg_base(segment) as i8]);
        }
        self.check(address, size, direction, slow)
    }

    /// Checks `size` bytes at the linear address in a host register.
    pub(super) fn check(&mut self, address: u8, size: u32, direction: Direction, slow: DynamicLabel) -> Rm {
        self.page_of(address);
        match direction {
            Direction::Read => dynasm!(self.ops ; .arch x64 ; mov r9, [r15 + r9 * 8]),
            Direction::Write => dynasm!(self.ops ; .arch x64 ; mov r9, [r15 + r9 * 8 + WRITE_TABLE as i32]),
        }
        dynasm!(self.ops ; .arch x64 ; test r9, r9 ; jz =>slow);
        if size > 1 {
            let at = self.ops.new_dynamic_label();
            let back = self.ops.new_dynamic_label();
            let mask = size.next_power_of_two() as i8 - 1;
            if address == host::RAX {
                dynasm!(self.ops ; .arch x64 ; test al, mask);
            } else {
                dynasm!(self.ops ; .arch x64 ; test Rb(address), mask);
            }
            dynasm!(self.ops ; .arch x64 ; jnz =>at ; =>back);
            self.stubs.push(Stub::Unaligned { at, address, size, back, slow });
        }
        self.clobber();
        Rm::Guest(host::R9, address, 0)
    }

    /// The number of the page of the address in a host register, in r9d.
    pub(super) fn page_of(&mut self, address: u8) {
        if self.place.features.bmi2 {
            // See `layout::BIAS`.
            dynasm!(self.ops ; .arch x64 ; shrx r9d, Rd(address), r13d);
        } else {
            dynasm!(self.ops ; .arch x64 ; mov r9d, Rd(address) ; shr r9d, 12);
        }
    }

    /// The block is not for flat segments.
    pub(super) fn is_segmented(&self) -> bool {
        self.place.features.segmented.is_some()
    }

    /// Checks that `size` bytes from the offset in r8 on can be accessed in a segment, and makes the offset a linear
    /// address. Changes r9 and the host's flags.
    pub(super) fn in_segment(&mut self, segment: u8, size: u32, direction: Direction, slow: DynamicLabel) {
        let limit = match direction {
            Direction::Read => layout::read_limit(segment),
            Direction::Write => layout::write_limit(segment),
        };
        if size == 1 {
            dynasm!(self.ops ; .arch x64 ; cmp r8, [r13 + limit]);
        } else {
            dynasm!(self.ops ; .arch x64 ; lea r9, [BYTE r8 + (size as i8 - 1)] ; cmp r9, [r13 + limit]);
        }
        dynasm!(self.ops ; .arch x64 ; jg =>slow ; add r8d, [BYTE r13 + seg_base(segment) as i8]);
    }

    /// The same, and checks the linear address.
    pub(super) fn check_in_segment(
        &mut self,
        segment: u8,
        size: u32,
        direction: Direction,
        slow: DynamicLabel,
    ) -> Rm {
        self.in_segment(segment, size, direction, slow);
        self.check(host::R8, size, direction, slow)
    }

    /// Bytes that the current instruction moves to or from the stack.
    pub(super) fn stack_unit(&self) -> u32 {
        if self.insns[self.n].op16() { 2 } else { 4 }
    }

    /// SS.B is clear.
    pub(super) fn is_stack16(&self) -> bool {
        self.place.features.segmented.is_some_and(|s| !s.mode.stack32())
    }

    /// The stack pointer becomes a register plus a constant. No flag changes.
    pub(super) fn set_stack(&mut self, from: u8, by: i32) {
        match (self.is_stack16(), i8::try_from(by)) {
            // A byte shorter than with any register.
            (false, Ok(by)) if from == host::ESP => dynasm!(self.ops ; .arch x64 ; lea r14d, [BYTE r14 + by]),
            (false, Ok(by)) if from == host::EBP => dynasm!(self.ops ; .arch x64 ; lea r14d, [BYTE rbp + by]),
            (false, Err(_)) if from == host::ESP => dynasm!(self.ops ; .arch x64 ; lea r14d, [r14 + by]),
            (false, Ok(by)) => dynasm!(self.ops ; .arch x64 ; lea r14d, [BYTE Rq(from) + by]),
            (false, Err(_)) => dynasm!(self.ops ; .arch x64 ; lea r14d, [Rq(from) + by]),
            (true, Ok(by)) => dynasm!(self.ops ; .arch x64 ; lea r14w, [BYTE Rq(from) + by]),
            (true, Err(_)) => dynasm!(self.ops ; .arch x64 ; lea r14w, [Rq(from) + by]),
        }
    }

    fn is_covered(&self, which: usize, direction: Direction) -> bool {
        match self.frames.covered[self.n][which] {
            Cover::None => false,
            Cover::Maybe | Cover::Write => true,
            Cover::Read => direction == Direction::Read,
        }
    }

    /// Finds the page of a followed register for the accesses behind it. Changes r8, r9 and the host's
    /// flags.
    pub(super) fn look_up(&mut self, lookup: Lookup) {
        let r = pinned(FOLLOWED[lookup.which]);
        let at = self.ops.new_dynamic_label();
        let back = self.ops.new_dynamic_label();
        // A page whose read and write entries differ is not for reading through the latter.
        dynasm!(self.ops
            ; .arch x64
            ; lea r8d, [Rq(r) + lookup.low]
            ; lea r9d, [Rq(r) + (lookup.high - 1)]
            ; xor r9d, r8d
            ; shr r9d, 12
            ; jnz =>at
            ; shr r8d, 12
            ; mov r9, [r15 + r8 * 8 + WRITE_TABLE as i32]
            ; cmp r9, [r15 + r8 * 8]
            ; jne =>at
            ; =>back
            ; mov [BYTE r13 + layout::frame(lookup.which) as i8], r9
        );
        self.stubs.push(Stub::NoFrame { at, back });
        self.clobber();
    }

    /// The same where a trace is entered; without such a page it is not.
    pub(super) fn look_up_at_entry(&mut self, lookup: Lookup, refused: DynamicLabel) {
        let r = pinned(FOLLOWED[lookup.which]);
        dynasm!(self.ops
            ; .arch x64
            ; lea r8d, [Rq(r) + lookup.low]
            ; lea r9d, [Rq(r) + (lookup.high - 1)]
            ; xor r9d, r8d
            ; shr r9d, 12
            ; jnz =>refused
            ; shr r8d, 12
            ; mov r9, [r15 + r8 * 8]
        );
        if lookup.write {
            dynasm!(self.ops ; .arch x64 ; cmp r9, [r15 + r8 * 8 + WRITE_TABLE as i32] ; jne =>refused);
        }
        dynasm!(self.ops
            ; .arch x64
            ; test r9, r9
            ; jz =>refused
            ; mov [r13 + layout::frame(lookup.which)], r9
        );
    }

    /// An access at a distance from a followed register. Changes r8-r10 and the host's flags.
    fn framed(&mut self, which: usize, disp: i32, size: u32, direction: Direction, slow: DynamicLabel) -> Rm {
        let register = pinned(FOLLOWED[which]);
        if self.frames.covered[self.n][which] != Cover::Maybe {
            dynasm!(self.ops ; .arch x64 ; mov r9, [r13 + layout::frame(which)]);
            return Rm::Guest(host::R9, register, disp);
        }
        let at = self.ops.new_dynamic_label();
        let back = self.ops.new_dynamic_label();
        dynasm!(self.ops
            ; .arch x64
            ; mov r9, [BYTE r13 + layout::frame(which) as i8]
            ; test r9, r9
            ; jz =>at
            ; =>back
        );
        self.stubs.push(Stub::Unframed { at, back, slow, register, disp, size, direction });
        self.clobber();
        Rm::Guest(host::R9, register, disp)
    }

    /// The stub of [`Translator::framed`]: a complete check, with a result for the same operand.
    pub(super) fn unframed(
        &mut self,
        register: u8,
        disp: i32,
        size: u32,
        direction: Direction,
        labels: (DynamicLabel, DynamicLabel),
    ) {
        let (slow, back) = labels;
        dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(register) + disp] ; mov r9d, r8d ; shr r9d, 12);
        match direction {
            Direction::Read => dynasm!(self.ops ; .arch x64 ; mov r9, [r15 + r9 * 8]),
            Direction::Write => dynasm!(self.ops ; .arch x64 ; mov r9, [r15 + r9 * 8 + WRITE_TABLE as i32]),
        }
        dynasm!(self.ops
            ; .arch x64
            ; test r9, r9
            ; jz =>slow
            ; lea r10d, [r8 + (size as i32 - 1)]
            ; xor r10d, r8d
            ; shr r10d, 12
            ; jnz =>slow
            // The displacement may wrap around in 32 bits.
            ; add r9, r8
            ; lea r8, [Rq(register) + disp]
            ; sub r9, r8
            ; jmp =>back
        );
    }

    /// Checks an access of [`Translator::stack_unit`] bytes on the stack, at a distance from ESP or EBP (index into
    /// the followed registers).
    pub(super) fn frame_access(
        &mut self,
        which: usize,
        disp: i32,
        direction: Direction,
        slow: DynamicLabel,
    ) -> Rm {
        let r = pinned(FOLLOWED[which]);
        if self.is_segmented() {
            match i8::try_from(disp) {
                Ok(disp) => dynasm!(self.ops ; .arch x64 ; lea r8d, [BYTE Rq(r) + disp]),
                Err(_) => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(r) + disp]),
            }
            if self.is_stack16() {
                dynasm!(self.ops ; .arch x64 ; movzx r8d, r8w);
            }
            return self.check_in_segment(2, self.stack_unit(), direction, slow);
        }
        if self.is_covered(which, direction) {
            return self.framed(which, disp, 4, direction, slow);
        }
        if disp == 0 {
            return self.check(r, 4, direction, slow);
        }
        dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(r) + disp]);
        self.check(host::R8, 4, direction, slow)
    }
}
