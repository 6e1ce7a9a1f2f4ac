//! Project tasks: `cargo xtask demo`, `test`, `fixtures`, `guest86`, `peers`, `snapshots`, `bare`,
//! `silicon`, `blocks`, `suite`, `fuzz`, `run-bars`, `net-bars`, `net-soak`, `net-relay`, `bench-guard`, `cross`,
//! `rules`, `ci`.

mod bare;
mod bars;
mod bench_guard;
mod blocks;
mod boot;
mod ci;
mod cross;
mod demo;
mod fixtures;
mod floats;
mod fuzz;
mod graph;
mod guest;
mod guest86;
mod health;
mod net;
mod peers;
mod round_trip;
mod rules;
mod run;
mod run_bars;
mod silicon;
mod snapshots;
mod suite;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Project tasks of env86
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build env86 and a small Linux guest, boot it and ask it who it is
    Demo,
    /// Format, lints, all tests, and guests booted by the release build
    Test {
        /// Leave out what boots guests
        #[arg(long)]
        quick: bool,
        /// Only those boots of guests whose name contains TEXT
        #[arg(long, value_name = "TEXT", conflicts_with = "quick")]
        only: Option<String>,
    },
    /// Build test guests under target/fixtures from Debian packages
    Fixtures(fixtures::Options),
    /// Build the guest service as a static i686 program and print where it is
    Guest86,
    /// Install the emulators that env86 is compared with, and list them
    Peers,
    /// Restore snapshots of old versions of v86, and kill env86 while it saves (slow)
    Snapshots(snapshots::Options),
    /// Everything `env86 run` has to do in the mini guest, at full size (slow)
    RunBars(run_bars::Options),
    /// Everything the network has to do in the Debian guest, at full size (slow)
    NetBars(net::bars::Options),
    /// Let connections come and go for a long time and watch the process
    NetSoak(net::soak::Options),
    /// Give v86 in Node a network through `env86 network`
    NetRelay,
    /// Run the bare-metal programs on our machine and on QEMU
    Bare(bare::Options),
    /// Count what kernels cost the translator and compare with benches/budgets.toml
    BenchGuard(bench_guard::Options),
    /// Run the test suites of others from their checkouts (docs/suites.md)
    Suite(suite::Options),
    /// Compare random programs on this machine's processor with ours
    Silicon(silicon::Options),
    /// Compare random blocks on the interpreter and on translated code
    Blocks(blocks::Options),
    /// Build the fuzz targets and run each of them (slow)
    Fuzz(fuzz::Options),
    /// Check that everything compiles for AArch64 too
    Cross,
    /// Check the crate graph and the house rules
    Rules,
    /// Everything that `test` and `rules` check
    Ci {
        /// Leave out what boots guests
        #[arg(long)]
        quick: bool,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Demo => demo::run(),
        Task::Test { quick, only } => {
            let mut report = test::Report::new();
            match only {
                Some(text) => {
                    test::boots(&mut report, &text);
                }
                None => test::run_all(&mut report, quick),
            }
            report.finish()
        }
        Task::Fixtures(options) => fixtures::build(&options),
        Task::Guest86 => guest86::report(),
        Task::Peers => peers::list(),
        Task::Snapshots(options) => snapshots::run(&options),
        Task::RunBars(options) => run_bars::run(&options),
        Task::NetBars(options) => net::bars::run(&options),
        Task::NetSoak(options) => net::soak::run(&options),
        Task::NetRelay => net::relay::run(),
        Task::Bare(options) => bare::run_all(&options),
        Task::BenchGuard(options) => bench_guard::guard(&options),
        Task::Suite(options) => suite::run(&options),
        Task::Silicon(options) => silicon::silicon(&options),
        Task::Blocks(options) => blocks::blocks(&options),
        Task::Fuzz(options) => fuzz::fuzz(&options),
        Task::Cross => cross::check(),
        Task::Rules => ci::rules_only(),
        Task::Ci { quick } => ci::run(quick),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
