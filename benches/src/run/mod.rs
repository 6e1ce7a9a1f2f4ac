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
//! | `rounds.rs` | who runs when, how often, and what counts |
//! | `machine.rs` | boot, restore, idle, memory |
//! | `network.rs` | transfers over the network cards |
//! | `processors.rs` | which of the host's processors nobody else uses |
//! | `results.rs` | medians, ratios, the table |
//! | `html.rs` | the page |

mod console;
mod engines;
mod html;
mod image;
mod machine;
mod network;
mod processors;
mod programs;
mod results;
mod rounds;
mod session;
mod workloads;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::report::{Header, write_json};
use crate::workspace;
use engines::{Contestants, Engine};
use image::GuestImage;
use results::Results;
use workloads::Workload;

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
        idle: Duration::from_secs(if options.quick { 3 } else { 10 }),
        v86: options.v86.as_deref(),
    };
    // The guests that a quick run would have to boot for the network take longer than its other groups.
    let wants_network = !options.quick || !options.only.is_empty();
    let mut network_rows = if wants_network { network::rows(&options.only) } else { Vec::new() };
    let mut machine_rows = machine::rows(&plan);
    if chosen.is_empty() && network_rows.is_empty() && machine_rows.is_empty() {
        bail!("--only {} chooses nothing", options.only.join(","));
    }
    provide(&wanted, options)?;
    let programs = programs::build()?;
    let contestants = Contestants::find(&wanted, options.v86.as_deref())?;
    let fixtures = workspace::fixtures();
    let mini = fixtures.join("mini");
    ensure!(mini.join("image.json").is_file(), "{} is missing", mini.display());
    let small = GuestImage::prepare(&mini, "mini-bench", "mini# ", Some(&programs))?;
    let debian = fixtures.join("debian");
    let debian = if debian.join("image.json").is_file() {
        Some(GuestImage::prepare(&debian, "debian", "debian# ", Some(&programs))?)
    } else {
        None
    };
    let guest = debian.as_ref().unwrap_or(&small);
    let mini = GuestImage::prepare(&mini, "mini", "mini# ", None)?;

    let mut header = Header::new(rounds);
    header.note(format!("Programs compiled by {}", programs.compiler));
    for (engine, why) in &contestants.missing {
        header.leave_out(format!("{}: {why}", engine.name()));
    }
    let mut rows = Vec::new();
    if !chosen.is_empty() {
        let disturbed;
        (rows, disturbed) = rounds::measure(&contestants, guest, &chosen, rounds, options.quick)?;
        header.note(disturbed);
    }
    network::measure(&contestants, &small, plan.rounds, &mut network_rows)?;
    machine::measure(&plan, &contestants, &mini, &mut machine_rows)?;
    rows.extend(network_rows);
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
