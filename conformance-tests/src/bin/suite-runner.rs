//! Runs what `cargo xtask suite` has built from the suites of others:
//!
//! ```text
//! suite-runner machine --engine E --seconds N (--rom FILE | --kernel FILE) [--initrd FILE] [--cmdline TEXT]
//!                      [--memory MIB] [--port HEX=FILE]... [--test-device]
//! suite-runner corpus --engine E...     images on standard input, a line each
//! suite-runner moo --engine E FILE...
//! ```
//!
//! The machine's serial port is standard output, and the last line on standard error says how it ended. The
//! others print a line per test: `pass` or `fail`, engine, name, and the difference, divided by tabs.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use conformance_tests::suite::{corpus, machine, moo};
use emu_core::engine::CpuEngine;
use emu_core::interp::Interpreter;

fn usage(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.to_owned())
}

/// Command line as it is read.
#[derive(Default)]
struct Arguments {
    engines: Vec<String>,
    job: machine::Job,
    files: Vec<PathBuf>,
}

fn arguments(words: impl Iterator<Item = String>) -> io::Result<Arguments> {
    let mut found = Arguments::default();
    found.job.memory = 128 << 20;
    found.job.seconds = 60;
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            found.files.push(word.into());
            continue;
        }
        if word == "--test-device" {
            found.job.test_device = true;
            continue;
        }
        let value = words.next().ok_or_else(|| usage(&format!("{word} needs a value")))?;
        let number = || value.parse::<u64>().map_err(|_| usage(&format!("{word} needs a number")));
        match word.as_str() {
            "--engine" => found.engines.push(value),
            "--seconds" => found.job.seconds = number()?,
            "--memory" => found.job.memory = number()? << 20,
            "--rom" => found.job.rom = Some(value.into()),
            "--kernel" => found.job.kernel = Some(value.into()),
            "--initrd" => found.job.initrd = Some(value.into()),
            "--cmdline" => found.job.cmdline = value,
            "--port" => {
                let (port, file) = value.split_once('=').ok_or_else(|| usage("--port HEX=FILE"))?;
                let port = u16::from_str_radix(port, 16).map_err(|_| usage("--port HEX=FILE"))?;
                found.job.ports.push((port, file.into()));
            }
            _ => return Err(usage(&format!("unknown option {word}"))),
        }
    }
    Ok(found)
}

/// A job that runs on any engine.
trait Task {
    fn run<E: CpuEngine>(&self, name: &str, engine: E) -> io::Result<()>;
}

/// Runs the task on each engine. `eager` translates every block at once: code that runs once would otherwise
/// never be translated.
fn on_engines(engines: &[String], eager: bool, task: &impl Task) -> io::Result<()> {
    if engines.is_empty() {
        return Err(usage("--engine interp or --engine jit"));
    }
    for name in engines {
        match name.as_str() {
            "interp" => task.run(name, Interpreter::new())?,
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            "jit" => {
                let mut options = emu_jit::Options::default();
                if eager {
                    options = emu_jit::Options { threshold: 0, cache_bytes: 4 << 20, ..options };
                }
                task.run(name, emu_jit::Jit::with_options(options)?)?;
            }
            _ => return Err(usage(&format!("there is no engine {name} here"))),
        }
    }
    Ok(())
}

impl Task for machine::Job {
    fn run<E: CpuEngine>(&self, _: &str, engine: E) -> io::Result<()> {
        let end = machine::run(self, engine)?;
        io::stdout().flush()?;
        let (reason, report) = end.split_once('\n').unwrap_or((&end, ""));
        eprintln!("{}\nend: {reason}", report.trim_end());
        Ok(())
    }
}

fn report(engine: &str, name: &str, difference: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match difference {
        "" => writeln!(out, "pass\t{engine}\t{name}"),
        _ => writeln!(out, "fail\t{engine}\t{name}\t{difference}"),
    }
}

struct Vectors(Vec<PathBuf>);

impl Task for Vectors {
    fn run<E: CpuEngine>(&self, name: &str, engine: E) -> io::Result<()> {
        let mut rig = moo::Rig::new(engine)?;
        for file in &self.0 {
            let stem = stem(file);
            let tests = match std::fs::read(file).and_then(|bytes| moo::parse(&bytes)) {
                Ok(tests) => tests,
                Err(error) => {
                    report(name, &stem, &error.to_string())?;
                    continue;
                }
            };
            for test in &tests {
                let difference = rig.run(test);
                report(name, &format!("{stem} {} {}", test.index, test.name), &difference)?;
            }
        }
        Ok(())
    }
}

fn stem(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Programs at a time. A larger process takes longer to fork.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
const BATCH: usize = 200;

/// The programs and how they end on the host's CPU.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
struct Programs(Vec<(PathBuf, io::Result<corpus::Outcome>)>);

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Task for Programs {
    fn run<E: CpuEngine>(&self, name: &str, engine: E) -> io::Result<()> {
        let mut rig = corpus::Rig::new(engine)?;
        for (file, silicon) in &self.0 {
            let difference = match (std::fs::read(file).and_then(|image| rig.run(&image)), silicon) {
                (Ok(ours), Ok(silicon)) => corpus::differences(&ours, silicon),
                (Err(error), _) => error.to_string(),
                (_, Err(error)) => error.to_string(),
            };
            report(name, &stem(file), &difference)?;
        }
        Ok(())
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn run_corpus(engines: &[String]) -> io::Result<()> {
    let files = io::stdin().lock().lines().collect::<io::Result<Vec<_>>>()?;
    let run = |file: String| {
        let file = PathBuf::from(file);
        let silicon = conformance_tests::suite::native::run(&file);
        (file, silicon)
    };
    // What the host said of a batch is kept until all engines have run it.
    for batch in files.chunks(BATCH) {
        on_engines(engines, true, &Programs(batch.iter().cloned().map(run).collect()))?;
    }
    Ok(())
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn run_corpus(_: &[String]) -> io::Result<()> {
    Err(usage("the corpus needs an x86-64 Linux host to compare with"))
}

fn run() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    let task = words.next().ok_or_else(|| usage("machine, corpus or moo"))?;
    let found = arguments(words)?;
    match task.as_str() {
        "machine" => on_engines(&found.engines, false, &found.job),
        "corpus" => run_corpus(&found.engines),
        "moo" => on_engines(&found.engines, false, &Vectors(found.files)),
        _ => Err(usage("machine, corpus or moo")),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
