//! Traces: several blocks lowered as if they were one, along the way that control takes most often. Branches to
//! the next block of a trace cost nothing or a conditional jump that is not taken; whoever goes another way leaves
//! through a stub, which gives back what the rest of the trace was charged and brings the flags into the form in
//! which blocks hand them over.

use dynasm::dynasm;
use dynasmrt::DynasmApi;
use emu_core::decode::{BlockId, Insn};
use iced_x86::{Decoder, DecoderOptions};

use super::plan::Recipe;
use super::{Stub, Translator, control};
use crate::parts::Part;

/// A block of a trace.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Member {
    pub(crate) block: BlockId,
    /// Its first instruction in the trace.
    pub(crate) first: usize,
}

/// A branch whose target, or the instruction behind it, is the next of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inner {
    /// Unconditional.
    Jump,
    /// Conditional; the trace goes on at its target.
    Taken,
    /// Conditional; the trace goes on behind it.
    NotTaken,
}

/// How a block ends. Offsets are from the start of the page, and may lie outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The next instruction follows.
    Through(u32),
    /// A direct jump.
    Jump(u32),
    /// A conditional branch: behind it, or to its target.
    Branch { next: u32, target: u32 },
    /// Something else.
    Other,
}

/// How the block at an offset of its page ends, whose last instruction and bytes are given.
pub(crate) fn ending(last: &Insn, bytes: &[u8], in_page: u32) -> Ending {
    let next = in_page + u32::from(last.end);
    if last.flags & Insn::ENDS_BLOCK == 0 {
        return Ending::Through(next);
    }
    let own = bytes.get(usize::from(last.end.saturating_sub(u16::from(last.len)))..).unwrap_or_default();
    let ins = Decoder::new(32, own, DecoderOptions::NONE).decode();
    let target = next.wrapping_add(last.disp);
    if last.op16() || ins.len() != usize::from(last.len) {
        Ending::Other
    } else if ins.is_jmp_short_or_near() {
        Ending::Jump(target)
    } else if ins.is_jcc_short_or_near() {
        Ending::Branch { next, target }
    } else {
        Ending::Other
    }
}

impl Translator<'_> {
    /// Lowers the current instruction if it is a branch within a trace.
    pub(super) fn inner(&mut self) -> bool {
        let Some(inner) = self.place.inner.get(self.n).copied().flatten() else { return false };
        if inner == Inner::Jump {
            return true;
        }
        self.flags_to_host();
        let cc = control::condition(&self.insn());
        let next = self.end_in_page() as i32;
        let (cc, target) = match inner {
            Inner::Taken => (cc ^ 1, next),
            _ => (cc, self.branch_target()),
        };
        let at = self.ops.new_dynamic_label();
        let (number, recipe, noted) = (self.n, self.recipe, self.noted);
        self.stubs.push(Stub::Side { at, number, target, recipe, noted });
        self.ops.extend(&[0x0F, 0x80 | cc]);
        self.ops.push_distance_to_label(at);
        true
    }

    /// The way out of a trace behind instruction `number`.
    pub(super) fn side(&mut self, number: usize, target: i32, recipe: Option<Recipe>, noted: Option<usize>) {
        self.n = number;
        self.lazy = None;
        if self.place.features.has(Part::Lazy) {
            self.recipe = recipe;
            self.leave_lazy();
            self.recipe = None;
        }
        if self.lazy.is_none()
            && let Some(recipe) = recipe
        {
            self.store_recipe(recipe);
        }
        self.slot = true;
        if let Some(n) = noted {
            self.store_note(n);
        }
        let left = (self.insns.len() - number - 1) as i8;
        if left != 0 {
            dynasm!(self.ops ; .arch x64 ; add r12, BYTE left);
        }
        self.edge(target);
        self.lazy = None;
    }
}
