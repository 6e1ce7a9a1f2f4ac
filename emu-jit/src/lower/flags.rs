//! Arithmetic flags between the host's and the slot.

use dynasm::dynasm;
use dynasmrt::DynasmApi;

use super::Translator;
use super::plan::Recipe;
use crate::encode::{self, Rm};
use crate::layout::{SLOT, host};

/// AF in what LAHF gives.
const AF: i8 = 0x10;
/// ZF in the slot.
const ZF: i32 = 0x4000;
/// CF in the slot.
const CF: i32 = 0x0100;

impl Translator<'_> {
    /// The flags of the current instruction can be seen.
    pub(super) fn is_visible(&self) -> bool {
        self.visible[self.n]
    }

    /// Stores the host's flags in the slot. Changes r10.
    pub(super) fn store_flags(&mut self) {
        dynasm!(self.ops
            ; .arch x64
            ; mov r10d, eax
            ; lahf
            ; seto al
            ; mov [BYTE r13 + SLOT as i8], ax
            ; mov eax, r10d
        );
        self.slot = true;
    }

    /// Loads the host's flags from the slot. Changes r10.
    pub(super) fn flags_to_host(&mut self) {
        if self.host {
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
        if !self.host {
            dynasm!(self.ops ; .arch x64 ; bt WORD [BYTE r13 + SLOT as i8], 8);
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
            dynasm!(self.ops
                ; .arch x64
                ; mov r10d, eax
                ; lahf
                ; seto al
                ; and ah, !AF
                ; mov [BYTE r13 + SLOT as i8], ax
                ; mov eax, r10d
            );
            self.slot = true;
        }
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
    /// Changes r10 and the host's flags.
    pub(super) fn store_recipe(&mut self, recipe: Recipe) {
        if let Recipe::Shift { size, number, count } = recipe {
            dynasm!(self.ops ; .arch x64 ; mov r10d, r11d);
            self.shift_by(size, number, Rm::Reg(host::R10), count, true);
            dynasm!(self.ops
                ; .arch x64
                ; mov r10d, eax
                ; lahf
                ; seto al
                ; and ah, !AF
                ; mov [BYTE r13 + SLOT as i8], ax
                ; mov eax, r10d
            );
        } else {
            self.replay(recipe);
            self.store_flags();
        }
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
                    ; bt WORD [BYTE r13 + SLOT as i8], 8
                    ; lea r10d, [Rq(r) - 1]
                    ; inc r10d
                );
            }
            Recipe::Step { r, .. } => {
                dynasm!(self.ops
                    ; .arch x64
                    ; bt WORD [BYTE r13 + SLOT as i8], 8
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
            Recipe::Shift { .. } => {}
        }
    }

    /// Flags of a multiplication: the host's OF tells whether the upper half matters; `low` compares the
    /// lower half with itself. Changes r10 and r11.
    pub(super) fn product_flags(&mut self, low: impl FnOnce(&mut Self)) {
        self.slot = false;
        self.host = false;
        self.recipe = None;
        if !self.is_visible() {
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
