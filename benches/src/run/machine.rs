//! What concerns the machine as a whole: the time to a prompt, from power-on and from a snapshot, the processor
//! time of a guest that does nothing, and the memory it takes.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::engines::{Contestants, Engine};
use super::image::GuestImage;
use super::results::{Row, Unit};
use super::workloads::{Group, is_chosen};
use crate::clock::progress;
use crate::guest::Guest;
use crate::peers::V86Peer;
use crate::snapshot;

const BOOT: &str = "boot";
const RESTORE: &str = "restore";
const IDLE: &str = "idle";
const MEMORY: &str = "memory";
const RESTORED_MEMORY: &str = "memory-restored";
const RUN_TRUE: &str = "run-true";

/// `run` is so short that its median needs more runs.
const RUNS_PER_ROUND: u32 = 7;

/// A guest that is not there by then does not boot.
const TIMEOUT: Duration = Duration::from_secs(400);
/// A guest at its first prompt still has something to do.
const CALM: Duration = Duration::from_secs(2);

/// How it is measured.
pub struct Plan<'a> {
    /// Words of `--only`.
    pub only: &'a [String],
    /// How often each engine boots and restores.
    pub rounds: u32,
    /// How long a guest is watched at its prompt.
    pub idle: Duration,
    /// Where v86 is, if not in the usual place.
    pub v86: Option<&'a Path>,
}

/// The rows of this group that `--only` chooses.
pub fn rows(plan: &Plan<'_>) -> Vec<Row> {
    [
        (BOOT, Unit::Seconds, "mini guest, process start to prompt, from power-on"),
        (
            RESTORE,
            Unit::Seconds,
            "mini guest with 512 MiB, process start to a prompt that answers, raw snapshot",
        ),
        (RUN_TRUE, Unit::Seconds, "`env86 run IMAGE -- true`, mini guest with 512 MiB, raw snapshot"),
        (IDLE, Unit::Percent, "processor time of the mini guest at its prompt, of one core"),
        (MEMORY, Unit::Mebibytes, "resident memory of the mini guest (128 MiB) after a boot"),
        (RESTORED_MEMORY, Unit::Mebibytes, "resident memory of the mini guest (512 MiB) after a restore"),
    ]
    .into_iter()
    .filter(|(name, ..)| is_chosen(name, Group::Machine, plan.only))
    .map(|(name, unit, note)| Row::new(name, Group::Machine, unit, note))
    .collect()
}

/// Measures these rows. What fails is noted in its cell.
///
/// # Errors
/// The host's.
pub fn measure(
    plan: &Plan<'_>,
    contestants: &Contestants,
    mini: &GuestImage,
    rows: &mut [Row],
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let emulators: Vec<_> =
        contestants.engines().into_iter().filter(|engine| *engine != Engine::Native).collect();
    let wants = |rows: &[Row], names: &[&str]| rows.iter().any(|row| names.contains(&row.name.as_str()));
    if wants(rows, &[BOOT, IDLE, MEMORY]) {
        for round in 1..=plan.rounds {
            for &engine in &emulators {
                progress(&format!("boot {round} of {}: {}", plan.rounds, engine.name()));
                match boot(plan, contestants, engine, mini) {
                    Ok(samples) => add(rows, engine, &samples),
                    Err(error) => fail(rows, engine, &[BOOT, IDLE, MEMORY], &error),
                }
            }
        }
    }
    if wants(rows, &[RESTORE, RESTORED_MEMORY]) {
        let saved = snapshot::raw(&contestants.env86, &mini.image);
        for round in 1..=plan.rounds.max(3) {
            for &engine in &emulators {
                progress(&format!("restore {round} of {}: {}", plan.rounds.max(3), engine.name()));
                let samples = match (&saved, engine) {
                    (Err(error), _) => Err(anyhow::anyhow!("{error:#}")),
                    (_, Engine::Qemu) => Err(anyhow::anyhow!("QEMU saves no machine with a mounted 9p root")),
                    (Ok(saved), engine) => restore(plan, contestants, engine, saved),
                };
                match samples {
                    Ok(samples) => add(rows, engine, &samples),
                    Err(error) => fail(rows, engine, &[RESTORE, RESTORED_MEMORY], &error),
                }
            }
        }
    }
    if wants(rows, &[RUN_TRUE]) {
        for &engine in emulators.iter().filter(|engine| **engine != Engine::Env86) {
            fail(rows, engine, &[RUN_TRUE], &anyhow::anyhow!("it has no such command"));
        }
        let outcome = snapshot::raw(&contestants.env86, &mini.image).and_then(|saved| {
            progress("run true: env86");
            (0..plan.rounds * RUNS_PER_ROUND).map(|_| run_true(&contestants.env86, &saved)).collect()
        });
        match outcome {
            Ok(times) => {
                let times: Vec<f64> = times;
                times.iter().for_each(|time| add(rows, Engine::Env86, &[(RUN_TRUE, *time)]));
            }
            Err(error) => fail(rows, Engine::Env86, &[RUN_TRUE], &error),
        }
    }
    Ok(())
}

fn run_true(env86: &Path, saved: &snapshot::Saved) -> Result<f64> {
    let start = crate::clock::now();
    let output = Command::new(env86).arg("run").arg(&saved.image).args(["--", "true"]).output()?;
    let time = start.elapsed().as_secs_f64();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(time)
}

type Samples = Vec<(&'static str, f64)>;

fn add(rows: &mut [Row], engine: Engine, samples: &[(&'static str, f64)]) {
    for row in rows {
        if let Some((_, value)) = samples.iter().find(|(name, _)| *name == row.name) {
            row.cell(engine).samples.push(*value);
        }
    }
}

fn fail(rows: &mut [Row], engine: Engine, names: &[&str], error: &anyhow::Error) {
    for row in rows.iter_mut().filter(|row| names.contains(&row.name.as_str())) {
        row.cell(engine).error = Some(format!("{error:#}"));
    }
}

fn boot(plan: &Plan<'_>, contestants: &Contestants, engine: Engine, mini: &GuestImage) -> Result<Samples> {
    let mut guest = Guest::start(contestants.start(engine, mini)?)?;
    let time = guest.wait_for(mini.prompt, TIMEOUT)?;
    thread::sleep(CALM);
    let before = guest.processor_time()?;
    let start = crate::clock::now();
    thread::sleep(plan.idle);
    let spent = guest.processor_time()?.saturating_sub(before);
    let percent = 100.0 * spent.as_secs_f64() / start.elapsed().as_secs_f64();
    Ok(vec![(BOOT, time.as_secs_f64()), (IDLE, percent), (MEMORY, guest.memory()?.resident)])
}

fn restore(
    plan: &Plan<'_>,
    contestants: &Contestants,
    engine: Engine,
    saved: &snapshot::Saved,
) -> Result<Samples> {
    let command = match engine {
        Engine::V86 => snapshot::restore_v86(&V86Peer::find(plan.v86).context("v86")?, saved),
        _ => snapshot::restore_env86(&contestants.env86, saved),
    };
    let mut guest = Guest::start(command)?;
    let time = guest.wait_for(snapshot::PROMPT, TIMEOUT)?;
    Ok(vec![(RESTORE, time.as_secs_f64()), (RESTORED_MEMORY, guest.memory()?.resident)])
}
