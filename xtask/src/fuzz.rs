//! `cargo xtask fuzz`: builds the fuzz targets with instrumentation and runs each for a while.
//!
//! Any rustc does: coverage is what LLVM's own pass makes, switched on with flags that stable compilers
//! take, and libFuzzer comes with the crate `libfuzzer-sys`. The address sanitizer needs an unstable flag,
//! which `RUSTC_BOOTSTRAP` allows for this build only.

use crate::run::{cargo, find_program, logged, output, run, step, tool, workspace};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the compiler does to see where an input leads, as `cargo fuzz` has it.
const COVERAGE: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Elapsed time one input may take, seconds. Targets measure their CPU time themselves, with a much
/// narrower limit; this one finds what never ends, also on a busy host.
const TIMEOUT_S: u32 = 60;
/// Memory a target may use at any time, MiB.
const RSS_LIMIT_MIB: u64 = 1536;
/// Growth over what it needs with the seeds read, MiB: corpus and coverage tables, and an input that
/// is allowed to be expensive. Over a hundred thousand inputs, more is a leak.
const GROWTH_LIMIT_MIB: u64 = 400;
/// Elapsed time for making a crashing input smaller, seconds.
const MINIMIZE_S: u32 = 60;
/// Lines of a finding's report that are shown.
const REPORT_LINES: usize = 12;

/// What to run, and how long.
#[derive(clap::Args)]
pub struct Options {
    /// Targets to run; all if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Minutes for each target
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    minutes: f64,
    /// Processes that work on one target at a time
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Only name the targets
    #[arg(long)]
    list: bool,
    /// Find uses of memory that is not there, too; half as fast
    #[arg(long)]
    address_sanitizer: bool,
    /// Run one input of the only TARGET instead
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

/// Runs the targets.
pub fn fuzz(options: &Options) -> Result<()> {
    let all = targets()?;
    if options.list {
        all.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    if let Some(unknown) = options.targets.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown}; see cargo xtask fuzz --list");
    }
    let chosen = if options.targets.is_empty() { &all } else { &options.targets };
    if !options.minutes.is_finite() || options.minutes <= 0.0 {
        bail!("--minutes must be positive");
    }
    let binaries = build(chosen, options.address_sanitizer)?;
    if let Some(input) = &options.input {
        let [name] = &options.targets[..] else { bail!("--input needs one TARGET") };
        let input = fs::canonicalize(input).with_context(|| format!("cannot read {}", input.display()))?;
        return run(command(&binaries.join(name)).arg(input));
    }
    let mut findings = Vec::new();
    println!("{:20} {:>12} {:>9} {:>8} {:>10}", "target", "executions", "exec/s", "corpus", "growth MiB");
    for name in chosen {
        step(format!("{name}: {} minutes", options.minutes));
        match one(name, &binaries.join(name), options) {
            Ok(summary) => println!("{name:20} {summary}"),
            Err(error) => {
                println!("{name:20} FAILED");
                findings.push(format!("{name}: {error:#}"));
            }
        }
    }
    println!("\n{} passed, {} failed", chosen.len() - findings.len(), findings.len());
    if !findings.is_empty() {
        bail!("{}", findings.join("\n"));
    }
    Ok(())
}

fn directory() -> PathBuf {
    workspace().join("fuzz")
}

/// Names of all targets, in alphabetical order.
fn targets() -> Result<Vec<String>> {
    let dir = directory().join("fuzz_targets");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Builds the targets and returns the directory they are in.
fn build(names: &[String], address_sanitizer: bool) -> Result<PathBuf> {
    // Naming the platform keeps the flags away from build scripts and procedural macros.
    let version = output(tool("rustc").arg("-vV"))?;
    let platform = version.lines().find_map(|line| line.strip_prefix("host: "));
    let platform = platform.context("rustc does not tell its host")?;
    let mut flags = COVERAGE.to_vec();
    // Only what is built like this may share files.
    let mut target_dir = directory().join("target");
    let mut command = cargo();
    if address_sanitizer {
        flags.push("-Zsanitizer=address");
        target_dir.push("address-sanitizer");
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    command
        .current_dir(directory())
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env_remove("RUSTFLAGS")
        .env("CARGO_INCREMENTAL", "0")
        .args(["build", "--release", "--locked", "--target", platform])
        .arg("--target-dir")
        .arg(&target_dir);
    for name in names {
        command.args(["--bin", name]);
    }
    step("building the fuzz targets");
    run(&mut command)?;
    Ok(target_dir.join(platform).join("release"))
}

/// A target, at the lowest priority where the host has a way to say so.
fn command(binary: &Path) -> Command {
    match find_program("nice") {
        Some(nice) => {
            let mut command = Command::new(nice);
            command.args(["-n", "19"]).arg(binary);
            command
        }
        None => Command::new(binary),
    }
}

/// Runs a target and returns what it did, or what it found.
fn one(name: &str, binary: &Path, options: &Options) -> Result<Summary> {
    let corpus = directory().join("corpus").join(name);
    let artifacts = directory().join("artifacts").join(name);
    let logs = directory().join("target/logs");
    for dir in [&corpus, &artifacts, &logs] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let before = files(&artifacts);
    let limits = [
        format!("-max_total_time={}", (options.minutes * 60.0).ceil()),
        format!("-timeout={TIMEOUT_S}"),
        format!("-rss_limit_mb={RSS_LIMIT_MIB}"),
        format!("-artifact_prefix={}/", artifacts.display()),
    ];
    let log = logs.join(format!("{name}.log"));
    let mut fuzzer = command(binary);
    fuzzer.args(&limits).args(["-print_final_stats=1", "-max_len=8192", "-len_control=50"]);
    if options.jobs > 1 {
        fuzzer.arg(format!("-fork={}", options.jobs));
    }
    fuzzer.arg(&corpus).env("ENV86_FUZZ_SEEDS", &corpus).current_dir(&logs);
    let outcome = logged(&mut fuzzer, &log);
    let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    let Err(error) = outcome else {
        let summary = Summary::read(&text).context("libFuzzer said nothing")?;
        if summary.growth > GROWTH_LIMIT_MIB {
            bail!("it grew by {} MiB (see {})", summary.growth, log.display());
        }
        return Ok(summary);
    };
    let found: Vec<_> = files(&artifacts).into_iter().filter(|file| !before.contains(file)).collect();
    let Some(input) = found.first() else { return Err(error) };
    let input = minimized(binary, input, &logs).unwrap_or_else(|| input.clone());
    bail!("found {}\n{}", input.display(), report(&text))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// A smaller input that crashes too. Slow inputs stay as they are: making them smaller takes for ever.
fn minimized(binary: &Path, input: &Path, logs: &Path) -> Option<PathBuf> {
    let name = input.file_name()?.to_string_lossy().into_owned();
    if !name.starts_with("crash-") {
        return None;
    }
    let small = input.with_file_name(name.replacen("crash-", "small-", 1));
    let mut fuzzer = command(binary);
    fuzzer
        .args(["-minimize_crash=1", &format!("-max_total_time={MINIMIZE_S}")])
        .arg(format!("-exact_artifact_path={}", small.display()))
        .arg(input);
    // It ends with a failure when it finds nothing smaller.
    let _ = logged(&mut fuzzer, &logs.join("minimize.log"));
    small.is_file().then_some(small)
}

/// What a target says about a finding.
fn report(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let marks = ["panicked at", "ERROR:", "SUMMARY:"];
    let start = lines.iter().position(|line| marks.iter().any(|mark| line.contains(mark))).unwrap_or(0);
    lines[start..].iter().take(REPORT_LINES).copied().collect::<Vec<_>>().join("\n")
}

/// The course of a run.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    executions: u64,
    per_second: u64,
    corpus: u64,
    /// Peak of resident memory over what there was with the seeds read, MiB.
    growth: u64,
}

impl Summary {
    /// From what libFuzzer printed. With several jobs there are no final statistics.
    fn read(text: &str) -> Option<Self> {
        let stat = |name: &str| {
            text.lines()
                .rev()
                .find_map(|line| line.strip_prefix(&format!("stat::{name}:"))?.trim().parse::<u64>().ok())
        };
        let status: Vec<_> =
            text.lines().filter(|line| line.starts_with('#') && line.contains("exec/s")).collect();
        let last = status.last()?;
        let first = status.iter().find(|line| line.contains("INITED")).unwrap_or(status.first()?);
        let executions = stat("number_of_executed_units").or_else(|| number(last, "#"))?;
        let start = number(first, "rss: ").unwrap_or(0);
        let peak = stat("peak_rss_mb").or_else(|| number(last, "rss: ")).unwrap_or(0);
        Some(Self {
            executions,
            per_second: stat("average_exec_per_sec").or_else(|| number(last, "exec/s: ")).unwrap_or(0),
            corpus: number(last, "corp: ").unwrap_or(0),
            growth: peak.saturating_sub(start),
        })
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { executions, per_second, corpus, growth } = self;
        write!(f, "{executions:12} {per_second:9} {corpus:8} {growth:10}")
    }
}

/// The number behind `mark`.
fn number(line: &str, mark: &str) -> Option<u64> {
    let rest = line.split_once(mark)?.1.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "INFO: seed corpus: files: 64 min: 4b max: 4b\n\
        #65\tINITED cov: 10346 ft: 22380 corp: 60/240b exec/s: 32 rss: 45Mb\n\
        #849\tNEW    cov: 10346 ft: 22380 corp: 186/612b lim: 4 exec/s: 120 rss: 48Mb L: 4/4 MS: 1 x-\n\
        #900\tDONE   cov: 10346 ft: 22380 corp: 187/612b lim: 4 exec/s: 121 rss: 49Mb\n\
        Done 900 runs in 7 second(s)\n\
        stat::number_of_executed_units: 900\n\
        stat::average_exec_per_sec:     128\n\
        stat::peak_rss_mb:              52\n";

    #[test]
    fn summary_of_a_run_has_its_numbers() {
        let expected = Summary { executions: 900, per_second: 128, corpus: 187, growth: 7 };
        assert_eq!(Summary::read(RUN), Some(expected));
    }

    #[test]
    fn summary_of_several_jobs_comes_from_the_last_line() {
        let text = "#100: cov: 5 ft: 7 corp: 3 exec/s: 50 oom/timeout/crash: 0/0/0 time: 9s\n";
        let expected = Summary { executions: 100, per_second: 50, corpus: 3, growth: 0 };
        assert_eq!(Summary::read(text), Some(expected));
        assert_eq!(Summary::read("no fuzzer"), None);
    }

    #[test]
    fn report_of_a_finding_begins_where_it_is_told() {
        let text = "#5 NEW\nthread panicked at a.rs:5\nslow input\n==7== ERROR: libFuzzer: deadly signal\n";
        assert!(report(text).starts_with("thread panicked at a.rs:5\nslow input"));
    }

    #[test]
    fn every_target_has_a_program() {
        let manifest = fs::read_to_string(directory().join("Cargo.toml")).unwrap();
        let names = targets().unwrap();
        assert!(names.len() > 30);
        for name in names {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
        }
    }
}
