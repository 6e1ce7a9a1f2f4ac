//! Garbage in whatever the lowering takes for dead, behind each instruction: what relied on it nevertheless
//! computes something else and is found by comparison with the interpreter.

use dynasm::dynasm;
use dynasmrt::DynasmApi;
use iced_x86::RflagsBits;

use super::Translator;
use super::plan::{Plan, Recipe};
use crate::layout::SLOT;

const ARITH: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

impl Translator<'_> {
    /// Fills scratch registers, and the flags if nobody can see them. Behind an instruction that does not
    /// end the block.
    pub(super) fn poison(&mut self) {
        // Any pattern will do as long as it changes.
        let seed = (self.place.in_page + self.n as u32).wrapping_mul(0x9E37_79B9);
        let garbage = seed as i32;
        dynasm!(self.ops ; .arch x64 ; mov r8d, garbage ; mov r9d, !garbage ; mov r10d, garbage ^ 0x5555_5555);
        if !self.recipe.is_some_and(Recipe::keeps_operand) {
            dynasm!(self.ops ; .arch x64 ; mov r11d, garbage.rotate_left(7));
        }
        let writes = self.ins[self.n].rflags_modified() & ARITH != 0;
        if !writes || self.visible[self.n] || self.plans[self.n] != Plan::Native {
            return;
        }
        // Stored flags or a marker (`lazy.rs`): whoever looks finds either. At the end of the block a marker of its
        // own comes behind this.
        let slot = (seed >> 16) as i16;
        dynasm!(self.ops ; .arch x64 ; mov WORD [BYTE r13 + SLOT as i8], slot);
        if !self.is_carry_taken() {
            // CF, OF and the rest of the host's follow from the garbage.
            dynasm!(self.ops ; .arch x64 ; add r10d, garbage);
            self.clobber();
        }
    }

    /// An INC or DEC takes CF from what the current instruction leaves in the host's flags.
    fn is_carry_taken(&self) -> bool {
        for k in self.n + 1..self.ins.len() {
            if self.plan_carry[k] {
                return true;
            }
            if self.ins[k].rflags_modified() & ARITH != 0 {
                return false;
            }
        }
        false
    }
}
