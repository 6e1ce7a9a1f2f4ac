//! The interface of an execution engine.

use crate::bus::SystemBus;
use crate::cpu::CpuState;
use crate::mem::Memory;

/// Why [`CpuEngine::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The instruction budget is used up.
    Budget,
    /// HLT: nothing to do until an interrupt comes.
    Halted,
    /// A device asked the machine to act ([`SystemBus::must_exit`]).
    Request,
    /// Triple fault.
    Shutdown,
}

/// Counters of an engine; all deterministic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Blocks decoded.
    pub blocks_decoded: u64,
    /// Blocks dropped because their bytes were written.
    pub blocks_invalidated: u64,
    /// Exceptions delivered, by vector 0-31.
    pub exceptions: [u64; 32],
    /// External interrupts delivered.
    pub interrupts: u64,
    /// Memory accesses that left the fast path.
    pub slow_accesses: u64,
    /// Those of them that did not fault, by [`SlowCause`].
    pub slow: [u64; 4],
}

/// Why a memory access left the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowCause {
    /// The page was not in the view yet, or not for writing.
    Fill,
    /// It lies in two pages.
    Crossing,
    /// It is a device's.
    Device,
    /// There is code in the page.
    Code,
}

impl SlowCause {
    /// Names in the order of [`EngineStats::slow`].
    pub const NAMES: [&str; 4] = ["page not in the view", "page crossing", "device", "page with code"];
}

/// A counter for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// What it belongs to.
    pub group: &'static str,
    /// What is counted.
    pub name: String,
    /// How many.
    pub value: u64,
}

impl Counter {
    /// A counter.
    pub fn new(group: &'static str, name: impl Into<String>, value: u64) -> Self {
        Self { group, name: name.into(), value }
    }
}

impl EngineStats {
    /// The same for reports.
    #[must_use]
    pub fn counters(&self) -> Vec<Counter> {
        let known: u64 = self.slow.iter().sum();
        let mut all = vec![
            Counter::new("decoding", "blocks decoded", self.blocks_decoded),
            Counter::new("decoding", "blocks dropped", self.blocks_invalidated),
            Counter::new("slow memory accesses", "all", self.slow_accesses),
        ];
        let slow = SlowCause::NAMES.into_iter().zip(self.slow);
        all.extend(slow.map(|(name, value)| Counter::new("slow memory accesses", name, value)));
        all.push(Counter::new("slow memory accesses", "fault", self.slow_accesses.saturating_sub(known)));
        all.push(Counter::new("events", "interrupts", self.interrupts));
        let exceptions = self.exceptions.iter().enumerate().filter(|(_, count)| **count != 0);
        all.extend(exceptions.map(|(n, count)| Counter::new("events", format!("exception {n}"), *count)));
        all
    }
}

/// Runs guest code.
///
/// On return every architectural field of `cpu` is exact and `cpu.retired` counts every completed
/// instruction. An engine charges one per instruction (one per pass of a repeated string
/// instruction, one per delivered exception), whatever tier executes it, so that runs are
/// reproducible and a guest that does nothing but fault cannot outlast its budget.
pub trait CpuEngine {
    /// Runs at most `budget` instructions.
    fn run(&mut self, cpu: &mut CpuState, mem: &mut Memory, sys: &mut dyn SystemBus, budget: u64) -> Exit;

    /// Forgets all decoded or translated code (snapshot restored, debugger changed memory).
    fn flush(&mut self, mem: &mut Memory);

    /// Counters since construction.
    fn stats(&self) -> EngineStats;

    /// Everything that is counted, for reports.
    fn counters(&self) -> Vec<Counter> {
        self.stats().counters()
    }
}
