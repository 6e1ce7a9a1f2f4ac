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
}
