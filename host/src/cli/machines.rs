//! `env86 ps` and `env86 stop`: machines that have a name.

use std::thread;
use std::time::Duration;

use clap::Args;

use super::report::Reporter;
use crate::clock;
use crate::config;
use crate::control::ControlError;
use crate::control::client::{self, Client};
use crate::control::message::Status;
use crate::control::names::{Directory, Name};
use crate::error::{Error, FAILURE, printable};

/// How long a command may take to end, as Docker has it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Flags of `ps`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct PsArgs {
    /// One JSON object per virtual machine and line
    #[arg(long)]
    json: bool,

    /// Names only
    #[arg(long, short)]
    quiet: bool,
}

/// Flags and arguments of `stop`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct StopArgs {
    /// Names of virtual machines
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// Time the command has to end after SIGTERM, in seconds (10)
    #[arg(long, short, value_name = "SECS", value_parser = config::parse_seconds)]
    time: Option<Duration>,
}

/// Lists machines. Returns the exit status.
///
/// # Errors
/// The sockets cannot be looked at.
pub fn ps(args: PsArgs) -> anyhow::Result<u8> {
    let directory = Directory::open().map_err(Error::from)?;
    let mut rows = Vec::new();
    for name in directory.names().map_err(Error::from)? {
        match Client::connect(&directory, &name).and_then(Client::status) {
            Ok(status) => rows.push(status),
            // Gone, or about to.
            Err(ControlError::Unknown(_) | ControlError::Silent { .. }) => {}
            Err(error) => return Err(Error::from(error).into()),
        }
    }
    let text: String = match () {
        () if args.json => {
            rows.iter().filter_map(|row| serde_json::to_string(row).ok()).map(|row| row + "\n").collect()
        }
        () if args.quiet => rows.iter().map(|row| format!("{}\n", row.name)).collect(),
        () => table(&rows),
    };
    super::print(&text);
    Ok(0)
}

fn table(rows: &[Status]) -> String {
    let now = clock::wall().as_secs();
    let lines = rows.iter().map(|row| {
        let image = row.image.file_name().map(|name| name.to_string_lossy().into_owned());
        let command = if row.command.is_empty() { "(boot)".to_owned() } else { row.command.join(" ") };
        [
            row.name.clone(),
            row.pid.to_string(),
            age(now.saturating_sub(row.started)),
            printable(&image.unwrap_or_default()),
            printable(&command),
        ]
    });
    let head = ["NAME", "PID", "UP", "IMAGE", "COMMAND"].map(str::to_owned);
    let lines: Vec<_> = std::iter::once(head).chain(lines).collect();
    let width = |column: usize| lines.iter().filter_map(|line| Some(line.get(column)?.chars().count())).max();
    let widths: Vec<_> = (0..4).map(|column| width(column).unwrap_or(0)).collect();
    let line = |line: &[String; 5]| {
        let cells = line.iter().enumerate().map(|(column, text)| {
            let width = widths.get(column).copied().unwrap_or(0);
            format!("{text:width$}")
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

/// A time in its two largest units.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if days > 0 => format!("{days}d{:02}h", hours % 24),
        () if hours > 0 => format!("{hours}h{:02}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m{:02}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

/// Ends machines, all at the same time, and prints the names of those that were ended. Returns the exit status.
pub fn stop(args: &StopArgs, reporter: Reporter) -> u8 {
    let patience = args.time.unwrap_or(PATIENCE);
    let stopping: Vec<_> = args
        .names
        .iter()
        .map(|text| {
            let name = text.clone();
            thread::spawn(move || {
                let name = Name::new(&name)?;
                client::stop(&Directory::open()?, &name, patience)
            })
        })
        .collect();
    let mut status = 0;
    for (name, thread) in args.names.iter().zip(stopping) {
        match thread.join() {
            Ok(Ok(())) => super::print(&format!("{name}\n")),
            Ok(Err(error)) => {
                reporter.error(&Error::from(error).into());
                status = FAILURE;
            }
            // The panic hook has said why.
            Err(_) => status = FAILURE,
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn age_has_two_units() {
        assert_eq!([0, 59, 61, 3_661, 90_061].map(age), ["0s", "59s", "1m01s", "1h01m", "1d01h"]);
    }
}
