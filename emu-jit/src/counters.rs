//! Everything that is counted, for reports.

use emu_core::engine::Counter;

use crate::engine::{Jit, JitStats};

/// Most mnemonics that are listed.
const LISTED: usize = 16;

/// Names of [`JitStats::left`].
const LEFT: [&str; 5] = [
    "trap or look around",
    "branch not linked",
    "target not in the table",
    "budget or dropped block",
    "mode",
];

/// Names of [`JitStats::attention`].
const ATTENTION: [&str; 6] = [
    "shutdown",
    "budget used up",
    "code overwritten",
    "interrupt or request",
    "HLT or debugging",
    "mode or looks off",
];

impl Jit {
    /// Counters of the translator.
    pub(crate) fn translator_counters(&self) -> Vec<Counter> {
        let s: JitStats = self.jit_stats();
        let mut all = Vec::new();
        let mut group = |group, list: &[(&str, u64)]| {
            all.extend(list.iter().map(|&(name, value)| Counter::new(group, name, value)));
        };
        group(
            "translations",
            &[
                ("blocks", s.translated),
                ("instructions", s.instructions),
                ("instructions lowered natively", s.native),
                ("bytes of host code", s.bytes),
                ("regions", s.regions),
                ("instructions in regions", s.region_instructions),
                ("regions dropped because overwritten", s.regions_dropped),
                ("dropped because overwritten", s.dropped),
                ("caches dropped", s.flushes),
            ],
        );
        group(
            "execution",
            &[
                ("stays in translated code", s.entries),
                ("instructions interpreted", s.interpreted),
                ("functions called, without lowering", s.calls),
                ("functions called, lowering did not do", s.slow),
                ("looks around that found nothing", s.passed),
                ("blocks left for lack of SSE or x87", s.refused),
            ],
        );
        group("exits", &LEFT.into_iter().zip(s.left).collect::<Vec<_>>());
        group("traps and looks around", &ATTENTION.into_iter().zip(s.attention).collect::<Vec<_>>());
        group(
            "links",
            &[
                ("branches linked", s.linked),
                ("branches unlinked", s.unlinked),
                ("indirect targets entered", s.targets),
                ("returns", s.returns),
                ("returns elsewhere", s.returns_missed),
                ("returns without a call", s.returns_unpaired),
                ("returns past other calls", s.returns_resumed),
            ],
        );
        for (slow, name) in [(false, "called, without lowering"), (true, "called, lowering did not do")] {
            let list = self.calls_by_mnemonic(slow);
            all.extend(list.into_iter().take(LISTED).map(|(mnemonic, n)| Counter::new(name, mnemonic, n)));
        }
        all
    }
}
