//! What was left to the interpreter's functions, by mnemonic.

use iced_x86::Mnemonic;

use crate::entry::Site;

/// More than iced has mnemonics.
const MNEMONICS: usize = 2048;

/// One counter per mnemonic, for instructions without a lowering and for those whose lowering did not do.
pub(crate) struct Counts {
    calls: [[u64; MNEMONICS]; 2],
}

impl Counts {
    /// All zero.
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self { calls: [[0; MNEMONICS]; 2] })
    }

    /// Counts one call.
    #[inline(always)]
    pub(crate) fn count_call(&mut self, site: &Site) {
        self.calls[usize::from(site.native)][usize::from(site.mnemonic) % MNEMONICS] += 1;
    }

    /// All calls of one kind.
    pub(crate) fn total(&self, slow: bool) -> u64 {
        self.calls[usize::from(slow)].iter().sum()
    }

    /// Names and counts, most frequent first.
    pub(crate) fn by_mnemonic(&self, slow: bool) -> Vec<(String, u64)> {
        let counts = &self.calls[usize::from(slow)];
        let mut list: Vec<_> = Mnemonic::values()
            .zip(counts)
            .filter(|(_, count)| **count != 0)
            .map(|(mnemonic, count)| (format!("{mnemonic:?}").to_lowercase(), *count))
            .collect();
        list.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        list
    }
}
