//! How the translator works.

use crate::parts::{Part, Parts};

/// How much the translator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Every instruction becomes a call of its interpreter function, and each block returns to the run loop.
    Calls,
    /// Blocks of host instructions, each of which returns to the run loop.
    T1,
    /// Everything.
    On,
}

/// How a [`crate::Jit`] works. None of it changes what the guest computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Executions of a block after which it is translated. [`Options::NEVER`]: the interpreter runs all.
    pub threshold: u16,
    /// Times the run loop enters a translation until it is translated again together with what follows it. The run
    /// loop sees one block in some ten thousand instructions. [`Options::NEVER`]: this never happens.
    pub region_threshold: u16,
    /// Size of the code cache in bytes (at least 64 KiB).
    pub cache_bytes: usize,
    /// Lower instructions natively; otherwise each becomes a call of its interpreter function.
    pub native: bool,
    /// Link blocks, so that a branch leads from one to the next without a look at the run loop.
    pub link: bool,
    /// Parts that are switched off.
    pub without: Parts,
    /// Whatever the translator takes for dead (flags, scratch registers) is filled with garbage, so that a
    /// mistake shows.
    pub poison: bool,
    /// Emitted code is disassembled and checked; a violation panics. The default in
    /// debug builds.
    pub verify: bool,
    /// Count returns too, which costs an instruction each.
    pub count: bool,
}

impl Options {
    /// A [`Options::threshold`] that no block reaches.
    pub const NEVER: u16 = u16::MAX;

    /// The default options for a level.
    #[must_use]
    pub fn level(level: Level) -> Self {
        let blocks = Parts::of(&[Part::Links, Part::Indirect, Part::Returns, Part::Looks, Part::Regions]);
        match level {
            Level::Calls => Self { native: false, link: false, without: blocks, ..Self::default() },
            Level::T1 => Self { link: false, without: blocks, ..Self::default() },
            Level::On => Self::default(),
        }
    }

    /// The part is not switched off.
    #[must_use]
    pub fn has(&self, part: Part) -> bool {
        !self.without.has(part)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threshold: 8,
            region_threshold: 8,
            cache_bytes: 128 << 20,
            native: true,
            link: true,
            without: Parts::NONE,
            poison: false,
            verify: cfg!(debug_assertions),
            count: false,
        }
    }
}
