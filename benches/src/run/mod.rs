//! `benches run`: the same programs in env86, in v86, in QEMU and on the bare CPU.
//!
//! | file | contents |
//! | --- | --- |
//! | `workloads.rs` | the list |
//! | `programs.rs` | builds our programs |
//! | `image.rs` | puts them into a test guest |
//! | `engines.rs` | who takes part, how each is started |
//! | `console.rs` | a guest's console: lines and when they came |
//! | `session.rs` | one booted guest per engine; one at a time runs |
//! | `machine.rs` | boot, restore, idle, memory |
//! | `network.rs` | `benches network`: transfers over the network cards |
//! | `probe.rs` | whether others used the host's processor |
//! | `results.rs` | medians, ratios, the table |
//! | `html.rs` | the page |

mod console;
mod engines;
mod html;
mod image;
mod machine;
pub mod network;
mod probe;
mod programs;
mod results;
mod session;
mod workloads;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::clock::progress;
use crate::report::{Header, write_json};
use crate::workspace;
use engines::{Contestants, Engine};
use image::GuestImage;
use probe::Probe;
use results::{Results, Row, Unit};
use session::Session;
use workloads::{Group, Workload};

/// Options of `run`.
#[derive(Args)]
pub struct Options {
    /// Who else takes part
    #[arg(long, value_name = "PEERS", value_delimiter = ',', default_value = "v86,qemu,native",
          value_parser = ["v86", "qemu", "native"])]
    peer: Vec<String>,
    /// Only these workloads: names, parts of names, or groups
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    only: Vec<String>,
    /// Small sizes and few rounds: minutes instead of half an hour
    #[arg(long)]
    quick: bool,
    /// How often each workload runs on each engine [default: 5, with --quick 2]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Write the results to FILE as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with charts to FILE as well
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Directory of npm's v86 instead of the one that `cargo xtask peers` installs
    #[arg(long, value_name = "DIR")]
    v86: Option<PathBuf>,
}

/// A workload that takes less than this in a turn runs again, seconds, in a full run and in a quick one: the shorter
/// it is, the more of its time is what the host does besides.
const ENOUGH: [f64; 2] = [0.2, 0.02];
/// But not more often than this.
const REPEATS: u32 = 4;
/// A run that was disturbed is repeated until one is not, but at most so often, and not past so many seconds.
const DISTURBED_REPEATS: u32 = 10;
const DISTURBED_ENOUGH: f64 = 1.0;

/// Runs the comparison.
///
/// # Errors
/// env86, the guest or its programs cannot be built; a result is wrong. Missing peers are left out, and so is
/// what does not run.
pub fn run(options: &Options) -> Result<()> {
    let wanted: Vec<Engine> = [Engine::Native, Engine::Qemu, Engine::V86]
        .into_iter()
        .filter(|engine| options.peer.iter().any(|name| name == engine.name()))
        .collect();
    let rounds = options.rounds.unwrap_or(if options.quick { 2 } else { 5 });
    let chosen: Vec<Workload> =
        workloads::ALL.iter().copied().filter(|workload| workload.is_chosen(&options.only)).collect();
    let plan = machine::Plan {
        only: &options.only,
        rounds: if options.quick { 1 } else { rounds.min(3) },
        idle: Duration::from_secs(if options.quick { 3 } else { 15 }),
        v86: options.v86.as_deref(),
    };
    let mut machine_rows = machine::rows(&plan);
    if chosen.is_empty() && machine_rows.is_empty() {
        bail!("--only {} chooses nothing", options.only.join(","));
    }
    provide(&wanted, options)?;
    let programs = programs::build()?;
    let contestants = Contestants::find(&wanted, options.v86.as_deref())?;
    let fixtures = workspace::fixtures();
    let mini = fixtures.join("mini");
    ensure!(mini.join("image.json").is_file(), "{} is missing", mini.display());
    let guest = if fixtures.join("debian/image.json").is_file() {
        GuestImage::prepare(&fixtures.join("debian"), "debian", "debian# ", Some(&programs))?
    } else {
        GuestImage::prepare(&mini, "mini-bench", "mini# ", Some(&programs))?
    };
    let mini = GuestImage::prepare(&mini, "mini", "mini# ", None)?;

    let mut header = Header::new(rounds);
    header.note(format!("Programs compiled by {}", programs.compiler));
    for (engine, why) in &contestants.missing {
        header.leave_out(format!("{}: {why}", engine.name()));
    }
    let mut rows = Vec::new();
    if !chosen.is_empty() {
        let disturbed;
        (rows, disturbed) = measure(&contestants, &guest, &chosen, rounds, options.quick)?;
        header.note(disturbed);
    }
    machine::measure(&plan, &contestants, &mini, &mut machine_rows)?;
    rows.extend(machine_rows);
    let not_yet = workloads::NOT_YET.iter().map(|(name, why)| ((*name).to_owned(), (*why).to_owned()));
    let mut results = Results {
        header,
        quick: options.quick,
        guest: guest.name.to_owned(),
        programs: programs.hash,
        engines: contestants.present,
        rows,
        not_yet: not_yet.collect(),
        means: Vec::new(),
    };
    results.finish();
    print!("{results}");
    if let Some(file) = &options.json {
        write_json(file, &results)?;
    }
    if let Some(file) = &options.html {
        html::write(file, &results)?;
    }
    ensure!(results.is_valid(), "an engine computed something else than the others");
    Ok(())
}

/// Builds the test guests and installs the peers, where they are missing and nothing else was given.
fn provide(wanted: &[Engine], options: &Options) -> Result<()> {
    let xtask = |arguments: &[&str]| -> Result<bool> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(workspace::root()).args(["run", "--quiet", "--package", "xtask", "--"]);
        Ok(cargo.args(arguments).status()?.success())
    };
    if std::env::var_os("ENV86_FIXTURES").is_none() {
        let there = |name: &str| workspace::fixtures().join(name).join("image.json").is_file();
        let missing = !there("mini") || !there("debian");
        // The Debian guest needs more than the other one, which will do.
        if missing && !xtask(&["fixtures", "all"])? && !there("mini") {
            xtask(&["fixtures", "mini"])?;
        }
    }
    let v86 = wanted.contains(&Engine::V86) && crate::peers::V86Peer::find(options.v86.as_deref()).is_err();
    let qemu =
        wanted.contains(&Engine::Qemu) && Command::new("qemu-system-i386").arg("--version").output().is_err();
    if v86 || qemu {
        // What is still missing then is reported and left out.
        let _ = xtask(&["peers"])?;
    }
    Ok(())
}

/// Runs the workloads in all guests. In each round, every workload runs on every engine in turn, beginning with
/// another engine each round, so that a change of the host's speed meets all of them. The rows, and how often others
/// used the processor.
fn measure(
    contestants: &Contestants,
    guest: &GuestImage,
    chosen: &[Workload],
    rounds: u32,
    quick: bool,
) -> Result<(Vec<Row>, String)> {
    let timeout = Duration::from_secs(if quick { 300 } else { 600 });
    let mut sessions = Session::start_all(contestants, guest)?;
    let mut rows: Vec<Row> = chosen
        .iter()
        .map(|w| Row::new(w.name, w.group, Unit::Seconds, &w.size[usize::from(quick)].to_string()))
        .collect();
    warm_up(contestants, guest, chosen, &mut sessions, &mut rows, timeout);
    let mut probe = Probe::new();
    let (mut turns, mut disturbed_turns) = (0, 0);
    for round in 1..=rounds {
        for (workload, row) in chosen.iter().zip(&mut rows) {
            if quick && round > 1 && workload.group == Group::Programs {
                continue;
            }
            progress(&format!("round {round} of {rounds}: {}", workload.name));
            let count = sessions.len();
            for turn in 0..count {
                let session = &mut sessions[(turn + round as usize) % count];
                let engine = session.engine();
                if row.cell(engine).error.is_some() {
                    continue;
                }
                let cell = row.cell(engine);
                let (mut spent, mut runs, mut calm) = (0.0, 0, false);
                let mut disturbed_before = probe.is_disturbed();
                let mut again = |outcome| {
                    spent += record(engine, cell, outcome, spent > 0.0);
                    runs += 1;
                    let disturbed = probe.is_disturbed();
                    calm |= !disturbed && !disturbed_before;
                    disturbed_before = disturbed;
                    let few = spent < ENOUGH[usize::from(quick)] && runs < REPEATS;
                    let wait = !quick && !calm && spent < DISTURBED_ENOUGH && runs < DISTURBED_REPEATS;
                    cell.error.is_none() && (few || wait)
                };
                let result = session.run(contestants, guest, &workload.command(quick), timeout, &mut again);
                turns += 1;
                disturbed_turns += u32::from(!calm);
                if let Err(error) = result {
                    cell.error = Some(format!("{error:#}"));
                } else if spent == 0.0 && cell.error.is_none() {
                    cell.error = Some("its beginning and its end were seen at once each time".to_owned());
                }
                if let Some(error) = &cell.error {
                    progress(&format!("{} on {}: {error}", workload.name, engine.name()));
                }
            }
        }
    }
    Ok((rows, format!("Others used the processor in {disturbed_turns} of {turns} turns")))
}

/// Whole programs are read from the disk once before they are measured, or found missing.
fn warm_up(
    contestants: &Contestants,
    guest: &GuestImage,
    chosen: &[Workload],
    sessions: &mut [Session],
    rows: &mut [Row],
    timeout: Duration,
) {
    for (workload, row) in chosen.iter().zip(rows).filter(|(w, _)| w.group == Group::Programs) {
        progress(&format!("warming up: {}", workload.name));
        for session in &mut *sessions {
            let command = format!("/bench/whole {}", workload.name);
            let mut error = None;
            let result = session.run(contestants, guest, &command, timeout, &mut |outcome| {
                error = match outcome.status {
                    0 => None,
                    3 => Some("the guest has no such program".to_owned()),
                    status => Some(format!("exit status {status}: {}", outcome.said.join(" "))),
                };
                false
            });
            let error = result.err().map(|error| format!("{error:#}")).or(error);
            if let Some(error) = &error {
                progress(&format!("{} on {}: {error}", workload.name, session.engine().name()));
            }
            row.cell(session.engine()).error = error;
        }
    }
}

/// Enters one run into its cell, `again` if this round has a sample already. Its time in seconds; 0 if nobody saw
/// how long it took.
fn record(engine: Engine, cell: &mut results::Cell, mut outcome: console::Outcome, again: bool) -> f64 {
    // A native program has the host's clock; its lines would only add how late this process woke up.
    if engine == Engine::Native {
        outcome.time = outcome.guest_time.take().or(outcome.time);
    }
    match (&outcome.time, &outcome.checksum) {
        (Some(time), Some(checksum)) if outcome.status == 0 => {
            if cell.checksum.as_ref().is_some_and(|before| before != checksum) {
                cell.error = Some("wrong result: another one than in the round before".to_owned());
            }
            cell.checksum = Some(checksum.clone());
            let (time, guest) = (time.as_secs_f64(), outcome.guest_time.map(|time| time.as_secs_f64()));
            match cell.samples.last_mut() {
                Some(least) if again && *least <= time => {}
                Some(least) if again => {
                    *least = time;
                    if let (Some(last), Some(guest)) = (cell.guest_seconds.last_mut(), guest) {
                        *last = guest;
                    }
                }
                _ => {
                    cell.samples.push(time);
                    cell.guest_seconds.extend(guest);
                }
            }
            return time;
        }
        (None, Some(_)) if outcome.status == 0 => {}
        // A program that found its own result wrong says so.
        _ if outcome.said.iter().any(|line| line.starts_with("BAD ")) => {
            cell.error = Some(format!("wrong result: {}", outcome.said.join(" ")));
        }
        _ => cell.error = Some(format!("exit status {}: {}", outcome.status, outcome.said.join(" "))),
    }
    0.0
}
