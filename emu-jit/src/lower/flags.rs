//! Arithmetic flags between the host's and the slot.

use dynasm::dynasm;
use dynasmrt::DynasmApi;

use emu_core::decode::iced::register_number;
use iced_x86::{Mnemonic, OpKind};

use super::plan::{self, Recipe};
use super::{Ops, Translator};
use crate::encode::{self, Rm};
use crate::layout::{CARRY, LAZY_OPERAND, SLOT, host};
use crate::lazy::{Lazy, MEMORY, Op, Operand};

/// AF in what LAHF gives.
const AF: i8 = 0x10;
/// ZF in the slot.
const ZF: i32 = 0x4000;
/// CF in the slot.
const CF: i32 = 0x0100;

/// Stores the host's flags in the slot. Changes r10.
pub(crate) fn store_flags(ops: &mut Ops) {
    dynasm!(ops
        ; .arch x64
        ; mov r10d, eax
        ; lahf
        ; seto al
        ; mov [BYTE r13 + SLOT as i8], ax
        ; mov eax, r10d
    );
}

impl Translator<'_> {
    /// The flags of the current instruction can be seen.
    pub(super) fn is_visible(&self) -> bool {
        self.visible[self.n]
    }

    /// Stores the host's flags in the slot. Changes r10.
    pub(super) fn store_flags(&mut self) {
        store_flags(&mut self.ops);
        self.slot = true;
    }

    /// Makes the host's flags the guest's: computes them again or loads them from the slot. Changes r10.
    pub(super) fn flags_to_host(&mut self) {
        if self.host {
            return;
        }
        if let Some(recipe) = self.recipe {
            self.replay(recipe);
            self.host = true;
            return;
        }
        dynasm!(self.ops
            ; .arch x64
            ; mov r10d, eax
            ; movzx eax, WORD [BYTE r13 + SLOT as i8]
            ; add al, 127
            ; sahf
            ; mov eax, r10d
        );
        self.host = true;
    }

    /// Makes the host's CF the guest's; other flags may be anything afterwards.
    pub(super) fn carry_to_host(&mut self) {
        if self.host {
            return;
        }
        match self.recipe {
            Some(recipe) => self.replay(recipe),
            None => dynasm!(self.ops ; .arch x64 ; bt WORD [BYTE r13 + SLOT as i8], 8),
        }
    }

    /// Makes the host's CF the guest's, as INC and DEC leave it alone, and keeps it for [`Recipe::Step`].
    pub(super) fn keep_carry(&mut self) {
        if !self.plan_carry[self.n] {
            self.carry_to_host();
        }
        dynasm!(self.ops ; .arch x64 ; setc BYTE [BYTE r13 + CARRY as i8]);
    }

    /// The block ends with flags that are neither in the slot nor invisible: leaves a marker. No flag changes.
    pub(super) fn leave_lazy(&mut self) {
        let Some(recipe) = self.recipe else { return };
        let Some(lazy) = self.lazy_of(recipe) else { return };
        if lazy.takes_memory() {
            dynasm!(self.ops ; .arch x64 ; mov [r13 + LAZY_OPERAND], r11d);
        }
        // mov word [r13 + SLOT], marker
        self.ops.extend(&[0x66, 0x41, 0xC7, 0x45, SLOT as i8 as u8]);
        self.markers.push((self.ops.offset().0, lazy));
        self.ops.push_u16(0);
        self.lazy = Some(lazy);
    }

    /// A recipe for others than this block.
    fn lazy_of(&self, recipe: Recipe) -> Option<Lazy> {
        // From the host's number of a register to the guest's.
        let guest = |r: u8| match r {
            host::ESP => 4,
            host::R11 => MEMORY,
            _ => r,
        };
        let wide = |op, r: u8, y| Some(Lazy { op, size: 4, x: guest(r), y });
        match recipe {
            Recipe::Logic { size, r } => {
                let r = if size == 1 { r } else { guest(r) };
                Some(Lazy { op: Op::Test, size, x: r, y: Operand::Register(r) })
            }
            Recipe::AddImm { r, imm } => wide(Op::Sum, r, Operand::Constant(imm as u32)),
            Recipe::SubImm { r, imm } => wide(Op::Difference, r, Operand::Constant(imm as u32)),
            Recipe::Add { r, s } => wide(Op::Sum, r, Operand::Register(guest(s))),
            Recipe::Sub { r, s } => wide(Op::Difference, r, Operand::Register(guest(s))),
            Recipe::Step { r, number } => {
                wide(if number == 0 { Op::Inc } else { Op::Dec }, r, Operand::Constant(0))
            }
            Recipe::Compare { n } => {
                let ins = &self.ins[n];
                let op = if ins.mnemonic() == Mnemonic::Test { Op::Test } else { Op::Compare };
                let y = match ins.op1_kind() {
                    OpKind::Register => Operand::Register(register_number(ins.op1_register())),
                    _ => Operand::Constant(self.insns[n].imm),
                };
                Some(Lazy { op, size: plan::size(ins), x: register_number(ins.op0_register()), y })
            }
            Recipe::CompareMemory { n } => {
                let ins = &self.ins[n];
                let op = if ins.mnemonic() == Mnemonic::Test { Op::Test } else { Op::Compare };
                let number = |k| match ins.op_kind(k) {
                    OpKind::Memory => Some(MEMORY),
                    OpKind::Register => Some(register_number(ins.op_register(k))),
                    _ => None,
                };
                let y = number(1).map_or(Operand::Constant(self.insns[n].imm), Operand::Register);
                Some(Lazy { op, size: plan::size(ins), x: number(0)?, y })
            }
            // What was there before takes the part of what was added.
            Recipe::AddMemory { r } => wide(Op::Sum, r, Operand::Register(MEMORY)),
            Recipe::Shift { .. } | Recipe::SubMemory { .. } => None,
            Recipe::Adc { .. } | Recipe::AdcImm { .. } | Recipe::Sbb { .. } | Recipe::SbbImm { .. } => None,
            Recipe::Product { .. } | Recipe::LowProduct { .. } => None,
        }
    }

    /// Glue has changed the host's flags.
    pub(super) fn clobber(&mut self) {
        self.host = false;
    }

    /// The current instruction has set all flags, and the host agrees with the interpreter about each.
    pub(super) fn flags_set(&mut self) {
        self.host = true;
        self.slot = false;
        self.recipe = self.recipes[self.n];
        if self.is_visible() {
            self.store_flags();
        }
    }

    /// The same for instructions whose AF the host leaves undefined: it is clear.
    pub(super) fn flags_set_but_af(&mut self) {
        self.slot = false;
        self.host = false;
        self.recipe = self.recipes[self.n];
        if self.is_visible() {
            self.store_flags_but_af();
            self.slot = true;
        }
    }

    /// Stores the host's flags with AF clear. Changes r10 and the host's flags.
    fn store_flags_but_af(&mut self) {
        dynasm!(self.ops
            ; .arch x64
            ; mov r10d, eax
            ; lahf
            ; seto al
            ; and ah, !AF
            ; mov [BYTE r13 + SLOT as i8], ax
            ; mov eax, r10d
        );
    }

    /// Replaces bits of the slot by bits of r10. Whole words are loaded and stored: a load that spans
    /// two stores waits for both to leave the store buffer. Changes r11.
    fn merge(&mut self, mask: i32) {
        dynasm!(self.ops
            ; .arch x64
            ; movzx r11d, WORD [BYTE r13 + SLOT as i8]
            ; and r11d, !mask
            ; or r11d, r10d
            ; mov [BYTE r13 + SLOT as i8], r11w
        );
        self.slot = true;
    }

    /// The host's CF is the result's, the other flags are as before in the slot. Changes r10 and r11.
    pub(super) fn carry_set(&mut self) {
        if self.is_visible() {
            dynasm!(self.ops ; .arch x64 ; setc r10b ; movzx r10d, r10b ; shl r10d, 8);
            self.merge(CF);
        }
        self.host = false;
    }

    /// The host's CF and OF are the result's, the other flags are as before in the slot. Changes r10 and
    /// r11.
    pub(super) fn carry_and_overflow_set(&mut self) {
        if self.is_visible() {
            dynasm!(self.ops
                ; .arch x64
                ; setc r10b
                ; seto r11b
                ; movzx r10d, r10b
                ; movzx r11d, r11b
                ; shl r10d, 8
                ; or r10d, r11d
            );
            self.merge(CF | 0xFF);
        }
        self.host = false;
    }

    /// The host's ZF is the result's, the other flags are as before in the slot. Changes r10 and r11.
    pub(super) fn zero_set(&mut self) {
        if self.is_visible() {
            dynasm!(self.ops ; .arch x64 ; setz r10b ; movzx r10d, r10b ; shl r10d, 14);
            self.merge(ZF);
        }
        self.host = false;
    }

    /// CLC, STC, CMC on the slot.
    pub(super) fn change_carry(&mut self, clear: bool, invert: bool) {
        if self.is_visible() {
            let (and, xor) = (if clear { !CF } else { !0 }, if invert { CF } else { 0 });
            dynasm!(self.ops
                ; .arch x64
                ; movzx r11d, WORD [BYTE r13 + SLOT as i8]
                ; and r11d, and
                ; xor r11d, xor
                ; mov [BYTE r13 + SLOT as i8], r11w
            );
        }
        self.host = false;
    }

    /// Computes flags again from what their instruction has left behind, and stores them in the slot.
    /// Changes r10, the host's flags, and r11 if it does not belong to the recipe.
    pub(super) fn store_recipe(&mut self, recipe: Recipe) {
        match recipe {
            Recipe::Shift { size, number, count } => {
                dynasm!(self.ops ; .arch x64 ; mov r10d, r11d);
                self.shift_by(size, number, Rm::Reg(host::R10), count, true);
                self.store_flags_but_af();
            }
            Recipe::Product { signed } => {
                // The upper half that would not matter.
                if signed {
                    dynasm!(self.ops ; .arch x64 ; mov r11d, eax ; sar r11d, 31 ; xor r11d, edx);
                } else {
                    dynasm!(self.ops ; .arch x64 ; mov r11d, edx);
                }
                dynasm!(self.ops ; .arch x64 ; neg r11d ; sbb r11d, r11d ; and r11d, 0x101);
                self.store_product(host::RAX, host::R11);
            }
            Recipe::LowProduct { r } => {
                dynasm!(self.ops ; .arch x64 ; mov r9d, r11d ; and r9d, 1 ; imul r9d, r9d, 0x101);
                self.store_product(r, host::R9);
            }
            _ => {
                self.replay(recipe);
                self.store_flags();
            }
        }
    }

    /// Stores the flags of a product: `low` is its lower half, CF and OF are in `upper` as they are to be in the slot.
    /// Changes r10 and the host's flags.
    fn store_product(&mut self, low: u8, upper: u8) {
        encode::op(&mut self.ops, 4, &[0x85], low, Rm::Reg(low));
        dynasm!(self.ops
            ; .arch x64
            ; mov r10d, eax
            ; lahf
            ; mov al, 0
            ; or eax, Rd(upper)
            ; mov [BYTE r13 + SLOT as i8], ax
            ; mov eax, r10d
        );
    }

    fn replay(&mut self, recipe: Recipe) {
        match recipe {
            Recipe::Logic { size, r } => {
                let opcode = if size == 1 { 0x84 } else { 0x85 };
                encode::op(&mut self.ops, size, &[opcode], r, Rm::Reg(r));
            }
            Recipe::AddImm { r, imm } => {
                dynasm!(self.ops ; .arch x64 ; mov r10d, Rd(r) ; sub r10d, imm ; add r10d, imm);
            }
            Recipe::SubImm { r, imm } => {
                dynasm!(self.ops ; .arch x64 ; mov r10d, Rd(r) ; add r10d, imm ; sub r10d, imm);
            }
            Recipe::Add { r, s } => {
                dynasm!(self.ops ; .arch x64 ; mov r10d, Rd(r) ; sub r10d, Rd(s) ; add r10d, Rd(s));
            }
            Recipe::Sub { r, s } => {
                dynasm!(self.ops ; .arch x64 ; mov r10d, Rd(r) ; add r10d, Rd(s) ; sub r10d, Rd(s));
            }
            Recipe::Compare { n } => {
                let saved = std::mem::replace(&mut self.n, n);
                self.compare();
                self.n = saved;
            }
            Recipe::Step { r, number: 0 } => {
                dynasm!(self.ops
                    ; .arch x64
                    ; bt WORD [BYTE r13 + CARRY as i8], 0
                    ; lea r10d, [Rq(r) - 1]
                    ; inc r10d
                );
            }
            Recipe::Step { r, .. } => {
                dynasm!(self.ops
                    ; .arch x64
                    ; bt WORD [BYTE r13 + CARRY as i8], 0
                    ; lea r10d, [Rq(r) + 1]
                    ; dec r10d
                );
            }
            Recipe::AddMemory { r } => {
                dynasm!(self.ops ; .arch x64 ; mov r10d, Rd(r) ; sub r10d, r11d ; add r10d, r11d);
            }
            Recipe::SubMemory { r } => {
                dynasm!(self.ops ; .arch x64 ; mov r10d, r11d ; sub r10d, Rd(r) ; cmp r11d, r10d);
            }
            Recipe::CompareMemory { n } => {
                let saved = std::mem::replace(&mut self.n, n);
                self.compare_loaded();
                self.n = saved;
            }
            // What is neither in the operands was CF.
            Recipe::Adc { r, s } => dynasm!(self.ops
                ; .arch x64
                ; mov r10d, Rd(r)
                ; sub r10d, r11d
                ; sub r10d, Rd(s)
                ; shr r10d, 1
                ; mov r10d, r11d
                ; adc r10d, Rd(s)
            ),
            Recipe::AdcImm { r, imm } => dynasm!(self.ops
                ; .arch x64
                ; mov r10d, Rd(r)
                ; sub r10d, r11d
                ; sub r10d, imm
                ; shr r10d, 1
                ; mov r10d, r11d
                ; adc r10d, imm
            ),
            Recipe::Sbb { r, s } => dynasm!(self.ops
                ; .arch x64
                ; mov r10d, r11d
                ; sub r10d, Rd(s)
                ; sub r10d, Rd(r)
                ; shr r10d, 1
                ; mov r10d, r11d
                ; sbb r10d, Rd(s)
            ),
            Recipe::SbbImm { r, imm } => dynasm!(self.ops
                ; .arch x64
                ; mov r10d, r11d
                ; sub r10d, imm
                ; sub r10d, Rd(r)
                ; shr r10d, 1
                ; mov r10d, r11d
                ; sbb r10d, imm
            ),
            Recipe::Shift { .. } | Recipe::Product { .. } | Recipe::LowProduct { .. } => {}
        }
    }

    /// Flags of a multiplication: the host's OF tells whether the upper half matters; `low` compares the
    /// lower half with itself. Changes r10 and r11.
    pub(super) fn product_flags(&mut self, low: impl FnOnce(&mut Self)) {
        self.slot = false;
        self.host = false;
        self.recipe = self.recipes[self.n];
        if !self.is_visible() {
            if let Some(Recipe::LowProduct { .. }) = self.recipe {
                dynasm!(self.ops ; .arch x64 ; seto r11b);
            }
            return;
        }
        dynasm!(self.ops ; .arch x64 ; seto r11b ; movzx r11d, r11b ; imul r11d, r11d, 0x101);
        low(self);
        dynasm!(self.ops
            ; .arch x64
            ; mov r10d, eax
            ; lahf
            ; mov al, 0
            ; or eax, r11d
            ; mov [BYTE r13 + SLOT as i8], ax
            ; mov eax, r10d
        );
        self.slot = true;
    }
}
