//! Project tasks: `cargo xtask demo`, `test`, `fixtures`, `peers`, `ci`.

mod fixtures;
mod peers;
mod run;

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
    /// Build test guests under target/fixtures from Debian packages
    Fixtures(fixtures::Options),
    /// Install the emulators that env86 is compared with, and list them
    Peers,
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Fixtures(options) => fixtures::build(&options),
        Task::Peers => peers::list(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
