//! The calls under way, from one stay in translated code to the next.
//!
//! A guest CALL is a host CALL, so the host's stack knows where the guest will return to. Each call has left two
//! words there, a [`Pair`]: the host address behind it, and the guest's EIP. A stay ends every few thousand
//! instructions, in the middle of some depth of calls; the innermost of them are copied from the host's stack to here
//! and back at the next entry, so that their returns need no lookup.

use std::mem::offset_of;

use crate::segments::FLAT;

/// Bytes of a pair.
pub(crate) const PAIR: i32 = 16;

/// Most pairs that are kept.
pub(crate) const KEPT: i32 = 64;

/// Where the pairs begin, the innermost call first.
pub(crate) const PAIRS: i32 = offset_of!(Calls, pairs) as i32;

/// Where their length in bytes is.
pub(crate) const BYTES: i32 = offset_of!(Calls, bytes) as i32;

/// A host address, and what lies above it on the host's stack: the EIP the guest returns to.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Pair([u64; 2]);

/// Pairs that translated code has left behind. They are aligned, as they are on the host's stack.
#[repr(C)]
pub(crate) struct Calls {
    bytes: u64,
    /// The world they were made in ([`crate::segments`]).
    world: u32,
    pairs: [Pair; KEPT as usize],
}

const _: () = assert!(size_of::<Pair>() == PAIR as usize && PAIRS % PAIR == 0);

impl Calls {
    /// None.
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self { bytes: 0, world: FLAT, pairs: [Pair([0; 2]); KEPT as usize] })
    }

    /// Those of other worlds are forgotten: EIP alone does not tell where they lead.
    pub(crate) fn enter(&mut self, world: u32) {
        if self.world != world {
            self.forget();
        }
    }

    /// What was just left behind is of this world.
    pub(crate) fn leave(&mut self, world: u32) {
        self.world = world;
    }

    /// Forgets them. To be called whenever code that one of them leads to may be gone, or be for another mode.
    pub(crate) fn forget(&mut self) {
        self.bytes = 0;
    }
}
