//! Control transfers: edges out of the block.

use dynasm::dynasm;
use dynasmrt::{DynasmApi, DynasmLabelApi};
use emu_core::cpu::tlb::CODE_TABLE;
use emu_core::decode::iced::register_number;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::memory::Direction;
use super::{Edge, Stub, Translator, plan};
use crate::encode::{self, Rm};
use crate::entry;
use crate::layout::{CONTEXT, PAGE_BASE, host, pinned, seg_base};
use crate::parts::Part;
use crate::targets;

/// Opcodes of a jump and a call with a 32-bit displacement.
const JMP: u8 = 0xE9;
const CALL: u8 = 0xE8;

/// Number of a condition (low 4 bits of the opcode).
pub(super) fn condition(ins: &Instruction) -> u8 {
    // iced counts from 1 in the order of the encoding; 0 is "none".
    (ins.condition_code() as u8).wrapping_sub(1) & 15
}

impl Translator<'_> {
    /// The block ends; execution goes on at an offset from the start of the page.
    pub(super) fn edge(&mut self, target: i32) {
        debug_assert!(self.slot || self.lazy.is_some());
        self.transfer(target, JMP);
    }

    /// A direct jump or call to an offset from the start of the page.
    fn transfer(&mut self, target: i32, opcode: u8) {
        if is_in_page(target) {
            self.host_frame(opcode);
            self.ops.push(opcode);
            self.near_edge(target);
        } else {
            self.far_edge(target, opcode);
        }
    }

    /// In front of a host call: the EIP behind the guest's, in r10 since [`Self::push_return`], which also keeps the
    /// host's stack aligned.
    fn host_frame(&mut self, opcode: u8) {
        if opcode == CALL {
            dynasm!(self.ops ; .arch x64 ; push r10);
        }
    }

    /// Where the host returns to behind a call, in segments that are not flat: the guest has returned to EIP r8d.
    fn returned_segmented(&mut self, page_eip: u32) {
        let next = self.end_in_page() as i32;
        let (eip, pfn) = (page_eip.wrapping_add(next as u32), self.place.pfn);
        let miss = self.ops.new_dynamic_label();
        self.stubs.push(Stub::Returned { at: miss });
        dynasm!(self.ops
            ; .arch x64
            ; pop r9
            ; mov r9d, r8d
            ; add r9d, [BYTE r13 + seg_base(1) as i8]
            ; shr r9d, 12
            ; cmp r8d, eip as i32
            ; jne =>miss
            ; cmp DWORD [r15 + r9 * 4 + CODE_TABLE as i32], (pfn + 1) as i32
            ; jne =>miss
            ; mov DWORD [BYTE r13 + PAGE_BASE as i8], page_eip as i32
        );
        self.edge(next);
    }

    /// Where the host returns to behind a call: the guest has returned to EIP r8d, which nearly always is
    /// the instruction behind its call, still in the same physical page. The call has left that EIP on the host's
    /// stack.
    fn returned(&mut self) {
        if let Some(page_eip) = self.page_eip() {
            return self.returned_segmented(page_eip);
        }
        let next = self.end_in_page() as i32;
        let pfn = self.place.pfn;
        let miss = self.ops.new_dynamic_label();
        self.stubs.push(Stub::Returned { at: miss });
        dynasm!(self.ops
            ; .arch x64
            ; pop r9
            ; cmp r8d, r9d
            ; jne =>miss
            ; shr r9d, 12
            ; cmp DWORD [r15 + r9 * 4 + CODE_TABLE as i32], (pfn + 1) as i32
            ; jne =>miss
            ; and r8d, -0x1000
            ; mov [BYTE r13 + PAGE_BASE as i8], r8d
        );
        self.edge(next);
    }

    /// The host's return stack follows the guest's for this call. A return address in the next page is not
    /// worth it, and a call of what follows is no call but a way to get at EIP.
    fn is_paired(&self) -> bool {
        let next = self.end_in_page() as i32;
        let ins = self.insn();
        self.place.features.has(Part::Returns)
            && is_in_page(next)
            && !(ins.is_call_near() && self.branch_target() == next)
    }

    /// The displacement of a branch to an offset in the page.
    fn near_edge(&mut self, target: i32) {
        let at = self.ops.new_dynamic_label();
        self.stubs.push(Stub::Edge { at, number: self.edges.len(), target });
        let (branch, lazy) = (self.ops.offset().0, self.lazy);
        let (target, again) = (Some(target), self.again);
        self.edges.push(Edge { branch, stub: at, code_entry: None, lazy, target, again });
        self.ops.push_i32(0);
    }

    /// Another page: whatever is mapped there now must be the page the branch is linked to.
    fn far_edge(&mut self, target: i32, opcode: u8) {
        let at = self.ops.new_dynamic_label();
        self.stubs.push(Stub::FarEdge { at, number: self.edges.len() });
        // Where the target's page begins.
        let page = self.page_eip().zip(self.place.features.segmented).map(|(page, segmented)| {
            let eip = page.wrapping_add(target as u32);
            debug_assert!(eip <= segmented.limit || target == 0x1000 || eip == 0x1_0000);
            (eip, page.wrapping_add(target as u32 & !0xFFF))
        });
        match page {
            None => {
                dynasm!(self.ops ; .arch x64 ; mov r8d, [BYTE r13 + PAGE_BASE as i8] ; add r8d, target);
                self.page_of(host::R8);
            }
            Some((eip, _)) => dynasm!(self.ops
                ; .arch x64
                ; mov r8d, eip as i32
                ; mov r9d, r8d
                ; add r9d, [BYTE r13 + seg_base(1) as i8]
                ; shr r9d, 12
            ),
        }
        // cmp dword [r15 + r9 * 4 + CODE_TABLE], no code entry
        self.ops.extend(&[0x43, 0x81, 0xBC, 0x8F]);
        self.ops.push_i32(CODE_TABLE as i32);
        let code_entry = self.ops.offset().0;
        self.ops.push_i32(-1);
        dynasm!(self.ops ; .arch x64 ; jne =>at);
        match page {
            None => dynasm!(self.ops ; .arch x64 ; and r8d, -0x1000 ; mov [BYTE r13 + PAGE_BASE as i8], r8d),
            Some((_, page)) => {
                dynasm!(self.ops ; .arch x64 ; mov DWORD [BYTE r13 + PAGE_BASE as i8], page as i32);
            }
        }
        self.host_frame(opcode);
        self.ops.push(opcode);
        let (branch, lazy) = (self.ops.offset().0, self.lazy);
        let code_entry = Some(code_entry);
        self.edges.push(Edge { branch, stub: at, code_entry, lazy, target: None, again: false });
        self.ops.push_i32(0);
    }

    /// Branches on the host's flags.
    fn branch(&mut self, cc: u8, target: i32) {
        let next = self.end_in_page() as i32;
        if is_in_page(target) {
            self.ops.extend(&[0x0F, 0x80 | cc]);
            self.near_edge(target);
        } else {
            self.ops.extend(&[0x0F, 0x80 | (cc ^ 1)]);
            let skip = self.ops.offset().0;
            self.ops.push_i32(0);
            self.far_edge(target, JMP);
            let here = self.ops.offset().0;
            self.fixes.push((skip, here));
        }
        self.edge(next);
    }

    /// Offset of a direct branch's target from the start of the page.
    pub(super) fn branch_target(&self) -> i32 {
        match self.page_eip().zip(self.place.features.segmented) {
            None => (self.end_in_page() as i32).wrapping_add(self.insns[self.n].disp as i32),
            Some((page, segmented)) => plan::target(&self.insns[self.n], segmented).wrapping_sub(page) as i32,
        }
    }

    /// An EIP that is not known before must lie within the code segment.
    fn check_target(&mut self, r: u8, slow: dynasmrt::DynamicLabel) {
        if let Some(segmented) = self.place.features.segmented
            && segmented.limit != u32::MAX
        {
            dynasm!(self.ops ; .arch x64 ; cmp Rd(r), segmented.limit as i32 ; ja =>slow);
        }
    }

    /// Goes to EIP r8d, or calls it.
    fn indirect(&mut self, opcode: u8) {
        let missed = self.place.routines.target_missed;
        let flat = !self.is_segmented();
        let call = (opcode == CALL).then_some(self.end_in_page() as i32);
        targets::emit_target(&mut self.ops, call, flat, |ops| {
            ops.push(0xE9);
            ops.push_distance_to(missed);
        });
    }

    /// Pushes the address behind the instruction. Changes r8-r10.
    fn push_return(&mut self) {
        let (slow, _) = self.slow();
        let unit = self.stack_unit();
        let rm = self.frame_access(0, -(unit as i32), Direction::Write, slow);
        let next = self.end_in_page() as i32;
        match self.page_eip() {
            None => {
                dynasm!(self.ops ; .arch x64 ; mov r10d, [BYTE r13 + PAGE_BASE as i8] ; add r10d, next);
            }
            Some(page) => dynasm!(self.ops ; .arch x64 ; mov r10d, page.wrapping_add(next as u32) as i32),
        }
        encode::op(&mut self.ops, unit, &[0x89], host::R10, rm);
        self.set_stack(host::ESP, -(unit as i32));
    }

    /// Loads the target of an indirect branch.
    fn load_target(&mut self, into: u8) {
        let ins = self.insn();
        let narrow = self.insns[self.n].op16();
        if ins.op0_kind() == OpKind::Register {
            let r = pinned(register_number(ins.op0_register()));
            if narrow {
                dynasm!(self.ops ; .arch x64 ; movzx Rd(into), Rw(r));
            } else {
                dynasm!(self.ops ; .arch x64 ; mov Rd(into), Rd(r));
            }
            if self.is_segmented() {
                let (slow, _) = self.slow();
                self.check_target(into, slow);
            }
            return;
        }
        let (slow, _) = self.slow();
        let rm = self.operand(if narrow { 2 } else { 4 }, Direction::Read, slow);
        encode::op(&mut self.ops, 4, if narrow { &[0x0F, 0xB7] } else { &[0x8B] }, into, rm);
        self.check_target(into, slow);
    }

    /// Lowers a control transfer. False if the instruction is none.
    pub(super) fn control(&mut self) -> bool {
        let ins = self.insn();
        match ins.mnemonic() {
            Mnemonic::Jmp if ins.is_jmp_short_or_near() => {
                self.leave_lazy();
                self.edge(self.branch_target());
            }
            Mnemonic::Jmp => {
                self.load_target(host::R8);
                self.indirect(JMP);
            }
            Mnemonic::Call if ins.is_call_near() => {
                self.push_return();
                self.leave_lazy();
                if self.is_paired() {
                    self.transfer(self.branch_target(), CALL);
                    // Whatever returns has its flags in the slot.
                    self.recipe = None;
                    self.lazy = None;
                    self.slot = true;
                    self.returned();
                } else {
                    self.edge(self.branch_target());
                }
            }
            Mnemonic::Call => {
                self.load_target(host::R11);
                self.push_return();
                dynasm!(self.ops ; .arch x64 ; mov r8d, r11d);
                if self.is_paired() {
                    self.indirect(CALL);
                    self.returned();
                } else {
                    self.indirect(JMP);
                }
            }
            Mnemonic::Ret => {
                let (slow, _) = self.slow();
                let rm = self.frame_access(0, 0, Direction::Read, slow);
                let unit = self.stack_unit();
                encode::op(&mut self.ops, 4, if unit == 2 { &[0x0F, 0xB7] } else { &[0x8B] }, host::R8, rm);
                self.check_target(host::R8, slow);
                let pop = unit as i32 + (self.insns[self.n].imm & 0xFFFF) as i32;
                if self.place.features.count {
                    dynasm!(self.ops
                        ; .arch x64
                        ; mov r9, [BYTE r13 + CONTEXT as i8]
                        ; inc QWORD [r9 + entry::C_RETURNS]
                    );
                }
                // To what is behind the host's call, or to the trampoline.
                if self.is_stack16() {
                    dynasm!(self.ops ; .arch x64 ; lea r14w, [r14 + pop]);
                } else {
                    dynasm!(self.ops ; .arch x64 ; lea r14d, [r14 + pop]);
                }
                dynasm!(self.ops ; .arch x64 ; ret);
            }
            Mnemonic::Loop => {
                self.leave_lazy();
                if counts_in_cx(&ins) {
                    dynasm!(self.ops ; .arch x64 ; sub cx, 1);
                } else {
                    dynasm!(self.ops ; .arch x64 ; sub ecx, 1);
                }
                self.branch(5, self.branch_target());
            }
            Mnemonic::Jcxz | Mnemonic::Jecxz => {
                self.leave_lazy();
                let size = if ins.mnemonic() == Mnemonic::Jcxz { 2 } else { 4 };
                encode::op(&mut self.ops, size, &[0x85], 1, Rm::Reg(1));
                self.branch(4, self.branch_target());
            }
            _ if ins.is_jcc_short_or_near() => {
                self.flags_to_host();
                self.leave_lazy();
                self.branch(condition(&ins), self.branch_target());
            }
            _ => return false,
        }
        true
    }
}

/// LOOP by CX.
fn counts_in_cx(ins: &Instruction) -> bool {
    matches!(ins.code(), Code::Loop_rel8_16_CX | Code::Loop_rel8_32_CX)
}

fn is_in_page(target: i32) -> bool {
    (0..0x1000).contains(&target)
}
