//! `benches count`: what the kernels cost in things that can be counted, with env86's translator and the
//! deterministic clock. The same numbers come out each time, however busy the host is; `cargo xtask bench-guard`
//! compares them with the committed ones.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use clap::Args;
use emu_core::bus::SystemBus;
use emu_core::cpu::CpuState;
use emu_core::engine::{CpuEngine, EngineStats, Exit};
use emu_core::mem::Memory;
use emu_core::time::ClockSource;
use emu_jit::{Jit, JitStats};
use serde::Serialize;

use crate::engines::env86::run_with_clock;
use crate::image;
use crate::kernels::{self, Kernel};

/// Guest picoseconds per instruction; any number does.
const PACE: u64 = 1000;

/// Options of `count`.
#[derive(Args)]
pub struct Options {
    /// Only this kernel
    #[arg(long, value_name = "NAME", conflicts_with = "none")]
    only: Option<String>,
    /// No kernel: the machine is made and halts at once. What that takes can be subtracted
    #[arg(long)]
    none: bool,
    /// Do not compare the result, which takes host instructions too
    #[arg(long)]
    unchecked: bool,
}

/// Counters of one kernel.
#[derive(Serialize)]
struct Counts {
    kernel: &'static str,
    /// Guest instructions.
    instructions: u64,
    /// Blocks translated.
    translations: u64,
    /// Bytes of host code, and guest instructions that they stand for.
    code_bytes: u64,
    translated_instructions: u64,
    /// Of these, how many are interpreter calls and not host instructions.
    not_lowered: u64,
    /// Interpreter functions that host code called.
    calls: u64,
    /// Guest instructions executed by the interpreter.
    interpreted: u64,
    /// Times host code was entered, and so left.
    exits: u64,
    /// Times the engine returned to the machine.
    returns: u64,
    /// Memory accesses that left the fast path.
    slow_accesses: u64,
}

/// What the engine did, for those who gave it away.
#[derive(Clone, Copy, Default)]
struct Seen {
    jit: JitStats,
    engine: EngineStats,
    returns: u64,
}

/// The translator, telling its counters to the outside.
struct Watched {
    jit: Jit,
    seen: Arc<Mutex<Seen>>,
}

impl CpuEngine for Watched {
    fn run(&mut self, cpu: &mut CpuState, mem: &mut Memory, sys: &mut dyn SystemBus, budget: u64) -> Exit {
        let exit = self.jit.run(cpu, mem, sys, budget);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Seen { jit: self.jit.jit_stats(), engine: self.jit.stats(), returns: seen.returns + 1 };
        exit
    }

    fn flush(&mut self, mem: &mut Memory) {
        self.jit.flush(mem);
    }

    fn stats(&self) -> EngineStats {
        self.jit.stats()
    }
}

/// Runs the kernels and prints their counters as JSON.
///
/// # Errors
/// A kernel returns a wrong result; the host gives no executable memory.
pub fn run(options: &Options) -> Result<()> {
    let kernels = kernels::counted();
    let bytes = image::build(&kernels)?;
    if options.none {
        count(&bytes, kernels.len())?;
        return Ok(());
    }
    let is_chosen = |kernel: &Kernel| options.only.as_deref().is_none_or(|name| name == kernel.name);
    let mut all = Vec::new();
    for (n, kernel) in kernels.iter().enumerate().filter(|(_, kernel)| is_chosen(kernel)) {
        let (checksum, instructions, seen) = count(&bytes, n)?;
        ensure!(
            options.unchecked || checksum == Some(kernel.checksum()),
            "{} returns a wrong result: the counts are worthless",
            kernel.name
        );
        all.push(Counts {
            kernel: kernel.name,
            instructions,
            translations: seen.jit.translated,
            code_bytes: seen.jit.bytes,
            translated_instructions: seen.jit.instructions,
            not_lowered: seen.jit.instructions - seen.jit.native,
            calls: seen.jit.calls,
            interpreted: seen.jit.interpreted,
            exits: seen.jit.entries,
            returns: seen.returns,
            slow_accesses: seen.engine.slow_accesses,
        });
    }
    ensure!(!all.is_empty(), "there is no such kernel");
    println!("{}", serde_json::to_string_pretty(&all)?);
    Ok(())
}

/// Runs kernel `n` in a new machine: its result, instructions of the whole run, what the engine did.
fn count(bytes: &[u8], n: usize) -> Result<(Option<u32>, u64, Seen)> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let engine = Watched { jit: Jit::new().context("executable memory")?, seen: seen.clone() };
    let clock = ClockSource::Deterministic { ps_per_instruction: PACE, wall_start_ns: 0 };
    let run = run_with_clock(engine, bytes, Some(n), |_| clock)?;
    let seen = *seen.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((run.ended.first().map(|timed| timed.checksum), run.instructions, seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_the_same_each_time() {
        let kernels = kernels::counted();
        let bytes = image::build(&kernels).unwrap();
        let fib = kernels.iter().position(|kernel| kernel.name == "fib").unwrap();
        let once = || {
            let (checksum, instructions, seen) = count(&bytes, fib).unwrap();
            assert_eq!(checksum, Some(kernels[fib].checksum()));
            assert!(seen.jit.translated > 0 && seen.jit.native > 0);
            (instructions, seen.jit, seen.returns)
        };
        assert_eq!(once(), once());
    }
}
