//! Benchmarks of env86 against its peers.
//!
//! | command | what is measured |
//! | --- | --- |
//! | `run` | the same programs in env86, v86, QEMU and on the bare CPU; boot, restore, idle, memory |
//! | `interp` | integer kernels: env86's interpreter, v86's interpreter and v86's JIT with the same bytes |
//! | `count` | what kernels cost the translator, in instructions and exits; for `cargo xtask bench-guard` |
//! | `boot` | process start to the prompt of the test guest `mini` |
//! | `snapshot` | process start to the first instruction and the prompt from snapshots; memory; saving |
//! | `network` | transfers between guest and host over each network card, beside QEMU's |
//!
//! Rules that keep the numbers honest: every contestant runs the same bytes, whose hash is printed; they take
//! turns within each round; medians and spreads are reported, and ratios rather than absolute times count;
//! a wrong checksum makes a run invalid; nothing is warmed up, so a JIT's translation is part of its time.

mod boot;
mod clock;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod count;
mod engines;
mod guest;
mod image;
mod interp;
mod kernels;
mod peers;
mod report;
mod run;
mod snapshot;
mod stats;
mod table;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Benchmarks of env86 against its peers
#[derive(Parser)]
#[command(name = "benches")]
struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// The same programs in env86, v86, QEMU and on the bare CPU
    Run(run::Options),
    /// Integer kernels on env86's interpreter and on v86
    Interp(interp::Options),
    /// Count what kernels cost the translator
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Count(count::Options),
    /// Cold boot of the test guest in env86 and in v86
    Boot(boot::Options),
    /// Snapshots of the test guest in env86 and in v86: time to the prompt, memory, saving
    Snapshot(snapshot::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().benchmark {
        Benchmark::Run(options) => run::run(&options),
        Benchmark::Interp(options) => interp::run(&options),
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Benchmark::Count(options) => count::run(&options),
        Benchmark::Boot(options) => boot::run(&options),
        Benchmark::Snapshot(options) => snapshot::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
