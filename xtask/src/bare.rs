//! `cargo xtask bare`: the bare-metal programs of `conformance-tests` on our machine and on QEMU.

use crate::run::{cargo, need, run};
use anyhow::Result;
use clap::Args;

/// QEMU and the Debian package it is in.
const QEMU: (&str, &str) = ("qemu-system-i386", "qemu-system-x86");

/// Options of `cargo xtask bare`.
#[derive(Args)]
pub struct Options {
    /// Take what is printed now as expected; differences of QEMU that have no reason yet still fail
    #[arg(long)]
    bless: bool,
    /// Only programs whose name contains NAME
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// Runs the programs; fails on a line of ours that is not expected, and on one of QEMU's that is neither
/// equal nor explained.
pub fn run_all(options: &Options) -> Result<()> {
    need(&[QEMU])?;
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", "conformance-tests", "--bin", "bare", "--"]);
    if options.bless {
        command.arg("--bless");
    }
    if let Some(only) = &options.only {
        command.args(["--only", only]);
    }
    run(&mut command)
}
