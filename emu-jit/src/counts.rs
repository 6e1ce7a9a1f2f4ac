//! What was left to the interpreter's functions, by mnemonic.

use iced_x86::Mnemonic;

use crate::entry::Site;

/// More than iced has mnemonics.
const MNEMONICS: usize = 2048;

/// Why an instruction that was called gave control to the run loop.
#[derive(Clone, Copy)]
pub(crate) enum Attention {
    /// A trap that the run loop has to deliver.
    Trap,
    /// The budget is used up.
    Budget,
    /// Code was overwritten.
    Code,
    /// An interrupt is pending, or a device asks for the machine.
    Device,
    /// The CPU is halted, traces, or has armed debug registers.
    Debug,
    /// A mode without translations: alignment checks, or a part that is switched off.
    Mode,
}

/// Counters, of which one is incremented when translated code leaves its fast path.
pub(crate) struct Counts {
    /// By mnemonic, for instructions without a lowering and for those whose lowering did not do.
    calls: [[u64; MNEMONICS]; 2],
    /// By [`Attention`].
    pub(crate) attention: [u64; 6],
    /// Blocks left because SSE or x87 registers could not be used.
    pub(crate) refused: u64,
    /// Looks around are made in translated code.
    pub(crate) looks: bool,
}

impl Counts {
    /// All zero. `looks`: see the field.
    pub(crate) fn new(looks: bool) -> Box<Self> {
        Box::new(Self { calls: [[0; MNEMONICS]; 2], attention: [0; 6], refused: 0, looks })
    }

    /// Counts an exit.
    pub(crate) fn count_attention(&mut self, why: Attention) {
        self.attention[why as usize] += 1;
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
