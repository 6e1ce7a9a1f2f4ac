//! `benches snapshot`: from the start of the process to the first instruction and to a prompt that answers,
//! for a guest with 512 MiB that env86 has booted and saved itself; what such guests take of the host's
//! memory; how long saving takes.
//!
//! Whoever restores types a newline, as the shell printed its prompt before it was saved.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::guest::{Guest, Memory};
use crate::peers::V86Peer;
use crate::report::{Header, MAX_SPREAD, write_json};
use crate::stats::Summary;
use crate::workspace;

const GUEST: &str = "mini";
const IMAGE_JSON: &str = "image.json";
/// What the guest's shell prints when it waits.
pub const PROMPT: &str = "mini# ";
/// What env86 prints when the guest starts.
const STARTED: &str = "trace: the guest starts";
/// Guest memory, bytes.
const MEMORY: u64 = 512 << 20;
/// A guest that has not answered by then does not.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Options of `snapshot`.
#[derive(Args)]
pub struct Options {
    /// How often each snapshot is restored
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many guests share a snapshot in the end; 0 leaves that out
    #[arg(long, default_value_t = 20)]
    clones: u32,
    /// Boot and save anew even if there are snapshots from an earlier run
    #[arg(long)]
    fresh: bool,
    /// Write the results to FILE as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Directory of npm's v86 instead of the one that `cargo xtask peers` installs
    #[arg(long, value_name = "DIR")]
    v86: Option<PathBuf>,
}

/// An image with a snapshot.
pub struct Saved {
    name: &'static str,
    /// Directory of the image.
    pub image: PathBuf,
    state: PathBuf,
}

/// What restores it.
#[derive(Clone, Copy)]
enum Engine {
    Env86,
    V86,
}

#[derive(Default)]
struct Samples {
    started: Vec<f64>,
    prompt: Vec<f64>,
    memory: Vec<Memory>,
}

/// Runs the benchmark.
///
/// # Errors
/// The guest is missing, env86 cannot be built, or a guest does not answer; a missing peer is left out.
pub fn run(options: &Options) -> Result<()> {
    let fixture = workspace::fixtures().join(GUEST);
    ensure!(
        fixture.join(IMAGE_JSON).is_file(),
        "{} is missing; `cargo xtask fixtures mini` builds it",
        fixture.display()
    );
    let env86 = workspace::env86_binary()?;
    let mut header = Header::new(options.rounds);
    let peer = header.peer(V86Peer::find(options.v86.as_deref()));
    let images = [
        saved(&env86, &fixture, "raw", "initial.state", options.fresh)?,
        saved(&env86, &fixture, "zstd", "initial.state.zst", options.fresh)?,
    ];

    let mut all: Vec<(Engine, &Saved, Samples)> = Vec::new();
    for image in &images {
        all.push((Engine::Env86, image, Samples::default()));
        all.extend(peer.is_some().then(|| (Engine::V86, image, Samples::default())));
    }
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for (engine, image, samples) in &mut all {
            let command = match (*engine, &peer) {
                (Engine::V86, Some(peer)) => restore_v86(peer, image),
                _ => restore_env86(&env86, image),
            };
            let mut guest = Guest::start(command)?;
            let time =
                guest.wait_for(PROMPT, TIMEOUT).with_context(|| format!("restoring {}", image.name))?;
            samples.prompt.push(time.as_secs_f64() * 1000.0);
            if let Engine::Env86 = engine {
                samples.memory.push(guest.memory()?);
                let started = guest.message_time(STARTED).context("env86 does not say when it starts")?;
                samples.started.push(started.as_secs_f64() * 1000.0);
            }
        }
    }
    let mut restored = Vec::new();
    for (engine, image, samples) in &all {
        restored.push(Restored::new(*engine, image, samples)?);
    }
    let clones = clones(&env86, &images[0], options.clones)?;
    let writing = images.iter().map(|image| write_time(&env86, image, options.rounds.min(5)));
    let writing = writing.collect::<Result<Vec<_>>>()?;
    let report = Report { header, guest: GUEST, guest_memory: MEMORY, restored, clones, writing };
    print!("{report}");
    options.json.as_deref().map_or(Ok(()), |file| write_json(file, &report))
}

/// The guest's image with a raw snapshot, made now if there is none.
///
/// # Errors
/// The guest does not boot or cannot be saved.
pub fn raw(env86: &Path, fixture: &Path) -> Result<Saved> {
    saved(env86, fixture, "raw", "initial.state", false)
}

/// The guest's image with a snapshot in the file `state`, made now if there is none.
fn saved(env86: &Path, fixture: &Path, name: &'static str, state: &str, fresh: bool) -> Result<Saved> {
    let image = workspace::target_dir().join("benches/snapshot").join(name);
    let saved = Saved { name, state: image.join(state), image };
    if saved.state.is_file() && !fresh {
        return Ok(saved);
    }
    copy_image(fixture, &saved.image)?;
    // v86 takes the size from there, and no snapshot of another one.
    let mut config: Value = serde_json::from_slice(&fs::read(fixture.join(IMAGE_JSON))?)?;
    config["memory_size"] = MEMORY.into();
    fs::write(saved.image.join(IMAGE_JSON), config.to_string())?;
    eprintln!("booting {GUEST} to save it ({name})");
    let mut command = Command::new(env86);
    command.args(["snapshot", "create", "--cold", "--force", "--quiet", "--exit-on", PROMPT]);
    command.args((name == "zstd").then_some("--compress")).arg(&saved.image);
    let status = command.stdin(Stdio::null()).status().context("cannot start env86")?;
    ensure!(status.success() && saved.state.is_file(), "making {} failed", saved.state.display());
    Ok(saved)
}

/// Everything but snapshots.
fn copy_image(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let target = to.join(&name);
        if entry.is_dir() {
            copy_image(&entry, &target)?;
        } else if name != IMAGE_JSON
            && !name.to_string_lossy().starts_with("initial.state")
            && !target.exists()
        {
            fs::copy(&entry, &target).with_context(|| format!("cannot copy {}", entry.display()))?;
        }
    }
    Ok(())
}

/// env86 restoring it.
pub fn restore_env86(binary: &Path, saved: &Saved) -> Command {
    let mut command = Command::new(binary);
    command.args(["boot", "--no-console", "--trace-start"]).arg(&saved.image);
    command
}

/// v86 restoring it.
pub fn restore_v86(peer: &V86Peer, saved: &Saved) -> Command {
    let mut command = peer.node(&workspace::root().join("xtask/js/v86.mjs"));
    command.args(["--prompt", PROMPT, "--state"]).arg(&saved.state).arg("--image").arg(&saved.image);
    command
}

/// Memory of many guests from one snapshot, all at their prompt.
fn clones(env86: &Path, saved: &Saved, count: u32) -> Result<Option<Clones>> {
    if count == 0 {
        return Ok(None);
    }
    eprintln!("{count} clones");
    let mut guests = Vec::new();
    for _ in 0..count {
        let mut guest = Guest::start(restore_env86(env86, saved))?;
        guest.wait_for(PROMPT, TIMEOUT).context("restoring a clone")?;
        guests.push(guest);
    }
    let memory = guests.iter().map(Guest::memory).collect::<Result<Vec<_>>>()?;
    let sum = |of: fn(&Memory) -> f64| memory.iter().map(of).sum();
    Ok(Some(Clones { count, resident: sum(|m| m.resident), proportional: sum(|m| m.proportional) }))
}

/// From the prompt to the end of a process that saves, less that of one that does not.
fn write_time(env86: &Path, saved: &Saved, rounds: u32) -> Result<Writing> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (save, times) in [(true, &mut with), (false, &mut without)] {
            let mut command = restore_env86(env86, saved);
            command.args(["--exit-on", PROMPT]).args(save.then_some("--save"));
            let mut guest = Guest::start(command)?;
            let prompt = guest.wait_for(PROMPT, TIMEOUT)?;
            times.push((guest.wait_for_end()?.saturating_sub(prompt)).as_secs_f64() * 1000.0);
        }
    }
    let (with, without) = (Summary::of(&with), Summary::of(&without));
    let (with, without) = (with.context("no samples")?, without.context("no samples")?);
    let milliseconds = (with.median - without.median).max(0.0);
    let file = fs::metadata(&saved.state)?;
    Ok(Writing { format: saved.name, milliseconds, file_mib: file.len() as f64 / f64::from(1 << 20) })
}

#[derive(Serialize)]
struct Restored {
    engine: &'static str,
    format: &'static str,
    /// Milliseconds from the process's start to the guest's first instruction.
    started: Option<Summary>,
    /// And to the prompt.
    prompt: Summary,
    /// Of the run with the most.
    memory: Option<Memory>,
}

impl Restored {
    fn new(engine: Engine, saved: &Saved, samples: &Samples) -> Result<Self> {
        let memory = samples.memory.iter().copied();
        Ok(Self {
            engine: match engine {
                Engine::Env86 => "env86",
                Engine::V86 => "v86 JIT",
            },
            format: saved.name,
            started: Summary::of(&samples.started),
            prompt: Summary::of(&samples.prompt).context("no samples")?,
            memory: memory.max_by(|a, b| a.resident.total_cmp(&b.resident)),
        })
    }
}

#[derive(Serialize)]
struct Clones {
    count: u32,
    /// MiB, pages that several have counted once for each.
    resident: f64,
    /// MiB, such pages counted once.
    proportional: f64,
}

#[derive(Serialize)]
struct Writing {
    format: &'static str,
    /// What saving adds to the end of a run.
    milliseconds: f64,
    file_mib: f64,
}

#[derive(Serialize)]
struct Report {
    header: Header,
    guest: &'static str,
    /// Bytes.
    guest_memory: u64,
    restored: Vec<Restored>,
    clones: Option<Clones>,
    writing: Vec<Writing>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.header)?;
        writeln!(
            f,
            "Guest: {} with {} MiB, from process start, milliseconds\n",
            self.guest,
            self.guest_memory >> 20
        )?;
        writeln!(
            f,
            "{:8} {:6} {:>13} {:>10} {:>7} {:>9} {:>9} {:>9}",
            "engine", "format", "1st instr.", "prompt", "spread", "RSS MiB", "anon", "file"
        )?;
        let mut busy = false;
        for Restored { engine, format, started, prompt, memory } in &self.restored {
            let mark = if prompt.spread() > MAX_SPREAD { '!' } else { ' ' };
            busy |= mark == '!';
            let started = started.as_ref().map_or("-".to_owned(), |s| format!("{:.1}", s.median));
            write!(f, "{engine:8} {format:6} {started:>13} {:>10.1} ", prompt.median)?;
            write!(f, "{:>5.1}%{mark}", prompt.spread() * 100.0)?;
            match memory {
                Some(m) => writeln!(f, " {:>9.1} {:>9.1} {:>9.1}", m.resident, m.anonymous, m.file)?,
                None => writeln!(f)?,
            }
        }
        if let Some(Clones { count, resident, proportional }) = &self.clones {
            writeln!(
                f,
                "\n{count} clones: {resident:.0} MiB resident, {proportional:.0} MiB shared pages counted once"
            )?;
        }
        for Writing { format, milliseconds, file_mib } in &self.writing {
            writeln!(f, "saving {format:4}: {milliseconds:.0} ms, {file_mib:.0} MiB file")?;
        }
        if busy {
            writeln!(f, "\n! The times differ by more than {} %: the host is too busy.", MAX_SPREAD * 100.0)?;
        }
        Ok(())
    }
}
