//! `cargo xtask silicon`: random programs on this machine's processor and on ours, compared.

use anyhow::{Result, bail};
use clap::Args;

use crate::run::{cargo, run, target_dir, workspace};
use std::path::PathBuf;
use std::process::Command;

/// What to run.
#[derive(Args)]
pub struct Options {
    /// Cases in all
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// Start of the random numbers: the same seed gives the same cases
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Processes, each with a share of the cases
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// Only this family of programs: integer, segments, x87, simd
    #[arg(long)]
    family: Option<String>,
    /// What runs on our side
    #[arg(long, default_value = "interp", value_parser = ["interp", "jit"])]
    engine: String,
    /// Stop our engine after so many instructions, again and again
    #[arg(long)]
    slice: Option<u64>,
    /// Write which instructions, operands and exceptions were met to FILE (Markdown) and FILE.txt
    #[arg(long, value_name = "FILE")]
    coverage: Option<PathBuf>,
    /// Instead record this processor's answers for hosts that cannot be asked (conformance-tests/vectors)
    #[arg(long, exclusive = true)]
    record: bool,
}

/// Writes the recorded answers anew.
fn record() -> Result<()> {
    let date = Command::new("date").args(["-u", "+%F"]).output()?;
    let date = String::from_utf8(date.stdout)?;
    let vectors = workspace().join("conformance-tests/vectors");
    let package = ["run", "--release", "--package", "conformance-tests", "--example", "record", "--"];
    run(cargo().args(package).arg(vectors).arg(date.trim()))
}

/// Builds the campaign's program and runs it.
///
/// # Errors
/// If anything differs, or this machine cannot be asked.
pub fn silicon(options: &Options) -> Result<()> {
    if options.record {
        return record();
    }
    run(cargo().args(["build", "--release", "--package", "conformance-tests", "--bin", "silicon"]))?;
    let mut command = Command::new(target_dir().join("release/silicon"));
    command.args(["--cases", &options.cases.to_string(), "--seed", &options.seed.to_string()]);
    command.args(["--threads", &options.threads.to_string(), "--engine", &options.engine]);
    if let Some(family) = &options.family {
        command.args(["--family", family]);
    }
    if let Some(slice) = options.slice {
        command.args(["--slice", &slice.to_string()]);
    }
    if let Some(file) = &options.coverage {
        command.arg("--coverage").arg(file);
    }
    match command.status()?.code() {
        Some(0) => Ok(()),
        Some(1) => bail!("silicon and ours differ: see the vectors above"),
        _ => bail!("this machine cannot be asked"),
    }
}
