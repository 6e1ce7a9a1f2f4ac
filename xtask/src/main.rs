//! Project tasks: `cargo xtask demo`, `test`, `fixtures`, `guest86`, `peers`, `snapshots`, `fuzz`, `rules`,
//! `ci`.

mod boot;
mod ci;
mod demo;
mod fixtures;
mod floats;
mod fuzz;
mod graph;
mod guest;
mod guest86;
mod peers;
mod round_trip;
mod rules;
mod run;
mod snapshots;
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
    /// Build the fuzz targets and run each of them (slow)
    Fuzz(fuzz::Options),
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
        Task::Fuzz(options) => fuzz::fuzz(&options),
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
