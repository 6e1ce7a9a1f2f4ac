//! `cargo xtask blocks`: random blocks on the interpreter and on translated code, compared.

use anyhow::{Result, bail};
use clap::Args;

use crate::run::{cargo, run, target_dir};
use std::process::Command;

/// What to run.
#[derive(Args)]
pub struct Options {
    /// Blocks in all
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// Start of the random numbers: the same seed gives the same blocks
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of the first chunk: to go on where a run has ended, or to see a difference again (with --count 1)
    #[arg(long, value_name = "CHUNK", default_value_t = 0)]
    first: u64,
    /// Threads that share the work
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// Say in the end how often each instruction was met
    #[arg(long)]
    coverage: bool,
    /// Parts of the translator that are off throughout, instead of changing ones (env86 boot --jit-without)
    #[arg(long, value_name = "PARTS")]
    without: Option<String>,
    /// Fill what the translator takes for dead with garbage throughout
    #[arg(long)]
    poison: bool,
}

/// Builds the campaign's program and runs it.
///
/// # Errors
/// A difference, or a build that fails.
pub fn blocks(options: &Options) -> Result<()> {
    let package = ["build", "--release", "--package", "conformance-tests", "--bin", "blocks"];
    run(cargo().args(package))?;
    let mut command = Command::new(target_dir().join("release/blocks"));
    command.args(["--count", &options.count.to_string(), "--seed", &options.seed.to_string()]);
    command.args(["--first", &options.first.to_string(), "--threads", &options.threads.to_string()]);
    if options.coverage {
        command.arg("--coverage");
    }
    if let Some(without) = &options.without {
        command.args(["--without", without]);
    }
    if options.poison {
        command.arg("--poison");
    }
    match command.status()?.code() {
        Some(0) => Ok(()),
        Some(1) => bail!("the interpreter and translated code differ: see above"),
        _ => bail!("the campaign did not run"),
    }
}
