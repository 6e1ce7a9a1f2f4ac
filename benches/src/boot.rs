//! `benches boot`: from the start of the process to the prompt of the test guest, cold.
//!
//! env86 loads the kernel itself, v86 runs its firmware first: what a user waits for is compared, not the
//! same instructions.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::guest::Guest;
use crate::peers::V86Peer;
use crate::report::{Header, MAX_SPREAD, write_json};
use crate::stats::Summary;
use crate::workspace;

const GUEST: &str = "mini";
const PROMPT: &str = "mini# ";
/// A guest that is not there by then does not boot.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Options of `boot`.
#[derive(Args)]
pub struct Options {
    /// How often each emulator boots
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Write the results to FILE as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Directory of npm's v86 instead of the one that `cargo xtask peers` installs
    #[arg(long, value_name = "DIR")]
    v86: Option<PathBuf>,
}

/// Runs the benchmark.
///
/// # Errors
/// The guest is missing, env86 cannot be built, or an emulator does not reach the prompt; a missing peer is
/// left out.
pub fn run(options: &Options) -> Result<()> {
    let image = workspace::fixtures().join(GUEST);
    ensure!(
        image.join("image.json").is_file(),
        "{} is missing; `cargo xtask fixtures mini` builds it",
        image.display()
    );
    let env86 = workspace::env86_binary()?;
    let mut header = Header::new(options.rounds);
    let peer = header.peer(V86Peer::find(options.v86.as_deref()));

    let mut contestants: Vec<(&'static str, Vec<f64>)> = vec![("env86", Vec::new())];
    contestants.extend(peer.is_some().then(|| ("v86 JIT", Vec::new())));
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for (name, times) in &mut contestants {
            let command = match &peer {
                Some(peer) if *name != "env86" => boot_v86(peer, &image),
                _ => boot_env86(&env86, &image),
            };
            times.push(time_to_prompt(command).with_context(|| format!("booting in {name}"))?.as_secs_f64());
        }
    }
    let report = Report::new(header, &contestants)?;
    print!("{report}");
    options.json.as_deref().map_or(Ok(()), |file| write_json(file, &report))
}

fn boot_env86(binary: &Path, image: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(["boot", "--ttyS0", "--no-console", "--cold"]).arg(image);
    command
}

fn boot_v86(peer: &V86Peer, image: &Path) -> Command {
    let mut command = peer.node(&workspace::root().join("xtask/js/v86.mjs"));
    command.args(["--cold", "--prompt", PROMPT, "--image"]).arg(image);
    command
}

/// Starts a process and waits for the prompt on its standard output.
fn time_to_prompt(command: Command) -> Result<Duration> {
    Guest::start(command)?.wait_for(PROMPT, TIMEOUT)
}

#[derive(Serialize)]
struct BootResult {
    engine: &'static str,
    seconds: Summary,
    /// Its time divided by env86's.
    ratio: f64,
}

#[derive(Serialize)]
struct Report {
    header: Header,
    guest: &'static str,
    engines: Vec<BootResult>,
}

impl Report {
    /// The first contestant is env86.
    fn new(header: Header, contestants: &[(&'static str, Vec<f64>)]) -> Result<Self> {
        let mut engines: Vec<BootResult> = Vec::new();
        for (engine, times) in contestants {
            let seconds = Summary::of(times).context("no samples")?;
            let base = engines.first().map_or(seconds.median, |env86| env86.seconds.median);
            engines.push(BootResult { engine, seconds, ratio: seconds.median / base });
        }
        Ok(Self { header, guest: GUEST, engines })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.header)?;
        writeln!(f, "Guest: {}, cold, from process start to its prompt\n", self.guest)?;
        writeln!(f, "{:10} {:>9} {:>7} {:>12}", "engine", "median s", "spread", "time / env86")?;
        for BootResult { engine, seconds, ratio } in &self.engines {
            let spread = seconds.spread();
            let mark = if spread > MAX_SPREAD { '!' } else { ' ' };
            writeln!(f, "{engine:10} {:>9.3} {:>5.1}%{mark} {ratio:>12.2}", seconds.median, spread * 100.0)?;
        }
        if self.engines.iter().any(|e| e.seconds.spread() > MAX_SPREAD) {
            writeln!(f, "\n! The times differ by more than {} %: the host is too busy.", MAX_SPREAD * 100.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_is_relative_to_env86() {
        let report = Report::new(Header::new(1), &[("env86", vec![2.0]), ("v86 JIT", vec![5.0])]).unwrap();
        assert_eq!(report.engines[1].ratio, 2.5);
    }
}
