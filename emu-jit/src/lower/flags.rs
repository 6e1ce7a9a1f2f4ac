//! Arithmetic flags between the host's and the slot.

use dynasm::dynasm;
use dynasmrt::DynasmApi;

use super::Translator;
use crate::layout::SLOT;

/// Bit of AF, ZF and CF in the slot's high byte.
pub(super) const AF: i8 = 0x10;
pub(super) const ZF: i8 = 0x40;
pub(super) const CF: i8 = 0x01;

/// The slot's high byte.
const HIGH: i32 = SLOT + 1;

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
            dynasm!(self.ops ; .arch x64 ; bt DWORD [BYTE r13 + SLOT as i8], 8);
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
        if self.is_visible() {
            self.store_flags();
        }
    }

    /// The same for instructions whose AF the host leaves undefined: it is clear.
    pub(super) fn flags_set_but_af(&mut self) {
        self.host = true;
        self.slot = false;
        if self.is_visible() {
            self.store_flags();
            dynasm!(self.ops ; .arch x64 ; and BYTE [BYTE r13 + HIGH as i8], !AF);
        }
        self.host = false;
    }

    /// The host's CF is the result's, the other flags are as before in the slot. Changes r10.
    pub(super) fn carry_set(&mut self) {
        if self.is_visible() {
            dynasm!(self.ops
                ; .arch x64
                ; setc r10b
                ; and BYTE [BYTE r13 + HIGH as i8], !CF
                ; or [BYTE r13 + HIGH as i8], r10b
            );
        }
        self.host = false;
    }

    /// The host's CF and OF are the result's, the other flags are as before in the slot. Changes r10.
    pub(super) fn carry_and_overflow_set(&mut self) {
        if self.is_visible() {
            dynasm!(self.ops
                ; .arch x64
                ; setc r10b
                ; seto [BYTE r13 + SLOT as i8]
                ; and BYTE [BYTE r13 + HIGH as i8], !CF
                ; or [BYTE r13 + HIGH as i8], r10b
            );
        }
        self.host = false;
    }

    /// The host's ZF is the result's, the other flags are as before in the slot. Changes r10.
    pub(super) fn zero_set(&mut self) {
        if self.is_visible() {
            dynasm!(self.ops
                ; .arch x64
                ; setz r10b
                ; shl r10b, 6
                ; and BYTE [BYTE r13 + HIGH as i8], !ZF
                ; or [BYTE r13 + HIGH as i8], r10b
            );
        }
        self.host = false;
    }

    /// CLC, STC, CMC on the slot.
    pub(super) fn change_carry(&mut self, and: i8, xor: i8) {
        if self.is_visible() {
            dynasm!(self.ops
                ; .arch x64
                ; and BYTE [BYTE r13 + HIGH as i8], and
                ; xor BYTE [BYTE r13 + HIGH as i8], xor
            );
        }
        self.host = false;
    }

    /// Flags of a multiplication: the host's OF tells whether the upper half matters; `low` compares the
    /// lower half with itself. Changes r10 and r11.
    pub(super) fn product_flags(&mut self, low: impl FnOnce(&mut Self)) {
        self.slot = false;
        self.host = false;
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
