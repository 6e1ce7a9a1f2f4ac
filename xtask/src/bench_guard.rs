//! `cargo xtask bench-guard`: what the translator makes of a few kernels, counted and compared with the committed
//! budgets in `benches/budgets.toml`.
//!
//! Counts, not times, so a busy host does no harm. Host instructions are counted by valgrind (cachegrind), or by
//! the CPU's own counter (`perf stat`) where there is one; with neither, that budget is skipped with a note.

use crate::run::{cargo, find_program, output, run, step, target_dir, tool, workspace};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Worse by more than this part of the budget fails.
const TOLERANCE: f64 = 0.05;
/// Counts below this vary by one or two with changes elsewhere; they may by this much.
const SLACK: f64 = 3.0;

/// Counters of `benches count` with a budget.
const COUNTERS: &[&str] = &[
    "translations",
    "code_bytes",
    "not_lowered",
    "calls",
    "interpreted",
    "exits",
    "returns",
    "slow_accesses",
];

/// Must be equal: another number means another kernel, or instructions counted differently.
const WORK: &str = "guest_instructions";
/// Its translation has 16-bit LEAs, which valgrind (3.19) takes for undefined instructions.
const UNKNOWN_TO_VALGRIND: &str = "segments";
/// Host instructions for a hundred guest instructions, that integers do.
const HOST: &str = "host_per_100_guest";

/// Options of `cargo xtask bench-guard`.
#[derive(Args)]
pub struct Options {
    /// Make what is counted now the budget
    #[arg(long)]
    pub bless: bool,
    /// Count no host instructions, which takes most of the time
    #[arg(long, conflicts_with = "bless")]
    pub no_host: bool,
}

/// Numbers by kernel and counter.
type Table = BTreeMap<String, BTreeMap<String, u64>>;

/// Counts and compares, or writes the budgets.
pub fn guard(options: &Options) -> Result<()> {
    let file = workspace().join("benches/budgets.toml");
    let benches = build()?;
    step("counting");
    let mut counted = counts(&benches)?;
    if !options.no_host {
        match HostCounter::find(&benches) {
            Some(counter) => {
                step(format!("counting host instructions with {}", counter.name()));
                for (kernel, numbers) in counted.iter_mut().filter(|(name, _)| *name != UNKNOWN_TO_VALGRIND) {
                    let guest = numbers.get(WORK).copied().unwrap_or(1).max(1);
                    let host = counter.count(&benches, kernel)?;
                    numbers.insert(HOST.to_owned(), (host * 100 + guest / 2) / guest);
                }
            }
            None if options.bless => {
                bail!(
                    "host instructions cannot be counted here: install valgrind (Debian: valgrind) to bless"
                )
            }
            None => println!(
                "note: host instructions are not counted: there is no valgrind and no `perf stat` that counts them"
            ),
        }
    }
    if options.bless {
        let before = fs::read_to_string(&file).ok().map(|text| parse(&text)).transpose()?;
        fs::write(&file, print(&counted))?;
        if let Some(before) = before {
            compare(&before, &counted).iter().for_each(|line| println!("was over budget: {line}"));
        }
        println!("{} holds what was counted", file.display());
        return Ok(());
    }
    let text = fs::read_to_string(&file).with_context(|| format!("{}; --bless makes it", file.display()))?;
    let budgets = parse(&text)?;
    for (kernel, numbers) in &counted {
        let shown: Vec<_> = numbers.iter().map(|(name, value)| format!("{name} {value}")).collect();
        println!("{kernel}: {}", shown.join(", "));
    }
    let findings = compare(&budgets, &counted);
    if !findings.is_empty() {
        bail!(
            "{} over budget\n  {}\nIf that is the price of something worth it, `cargo xtask bench-guard --bless`.",
            findings.len(),
            findings.join("\n  ")
        );
    }
    println!("{} kernels within their budgets", counted.len());
    Ok(())
}

/// The release build of `benches`: `ENV86_BENCHES` if set, else built now.
fn build() -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("ENV86_BENCHES") {
        return Ok(binary.into());
    }
    run(cargo().args(["build", "--quiet", "--release", "--package", "benches"]))?;
    Ok(target_dir().join("release/benches"))
}

/// What `benches count` says.
fn counts(benches: &Path) -> Result<Table> {
    let text = output(Command::new(benches).arg("count"))?;
    let list: Vec<Value> = serde_json::from_str(&text).context("`benches count` answered no list")?;
    let mut table = Table::new();
    for entry in &list {
        let number = |name: &str| entry[name].as_u64().with_context(|| format!("no {name} in {entry}"));
        let mut numbers = BTreeMap::from([(WORK.to_owned(), number("instructions")?)]);
        for counter in COUNTERS {
            numbers.insert((*counter).to_owned(), number(counter)?);
        }
        table.insert(entry["kernel"].as_str().context("kernel without a name")?.to_owned(), numbers);
    }
    Ok(table)
}

/// Counts instructions of the host.
enum HostCounter {
    /// cachegrind, and what a machine without a kernel takes.
    Valgrind(u64),
    /// The CPU's counter, and the same.
    Perf(u64),
}

impl HostCounter {
    fn find(benches: &Path) -> Option<Self> {
        if find_program("valgrind").is_some()
            && let Ok(base) = valgrind(benches, &["--none"])
        {
            return Some(Self::Valgrind(base));
        }
        find_program("perf")?;
        perf(benches, &["--none"]).ok().map(Self::Perf)
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Valgrind(_) => "valgrind",
            Self::Perf(_) => "perf",
        }
    }

    /// For one kernel, without what starting takes.
    fn count(&self, benches: &Path, kernel: &str) -> Result<u64> {
        let arguments = ["--unchecked", "--only", kernel];
        let (total, base) = match self {
            Self::Valgrind(base) => (valgrind(benches, &arguments)?, base),
            Self::Perf(base) => (perf(benches, &arguments)?, base),
        };
        Ok(total.saturating_sub(*base))
    }
}

/// Instructions of `benches count` as cachegrind counts them.
fn valgrind(benches: &Path, arguments: &[&str]) -> Result<u64> {
    let mut command = tool("valgrind");
    command.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
    // Code is written through another mapping than the one it runs from.
    command.args(["--smc-check=all", "--log-fd=1"]).arg(benches).arg("count").args(arguments);
    let text = output(&mut command)?;
    references(&text).with_context(|| format!("valgrind counted nothing:\n{text}"))
}

/// From `==1234== I   refs:      1,234,567`.
fn references(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("==") && line.contains("refs:"))?;
    line.rsplit_once("refs:")?.1.trim().replace(',', "").parse().ok()
}

/// Instructions of `benches count` as the CPU counts them.
fn perf(benches: &Path, arguments: &[&str]) -> Result<u64> {
    let log = target_dir().join("bench-guard.perf");
    let mut command = tool("perf");
    command.args(["stat", "-x", ",", "-e", "instructions:u", "-o"]).arg(&log).arg(benches).arg("count");
    output(command.args(arguments))?;
    let text = fs::read_to_string(&log)?;
    let line = text.lines().find(|line| line.contains("instructions")).context("perf counted nothing")?;
    line.split(',').next().unwrap_or_default().parse().context("perf counts no instructions here")
}

/// What is worse than its budget.
fn compare(budgets: &Table, counted: &Table) -> Vec<String> {
    let mut findings = Vec::new();
    for kernel in budgets.keys().filter(|kernel| !counted.contains_key(*kernel)) {
        findings.push(format!("{kernel}: has a budget and is not counted any more"));
    }
    for (kernel, numbers) in counted {
        let Some(budget) = budgets.get(kernel) else {
            findings.push(format!("{kernel}: has no budget"));
            continue;
        };
        for (name, &value) in numbers {
            let Some(&allowed) = budget.get(name) else {
                findings.push(format!("{kernel}: no budget for {name}, which is {value}"));
                continue;
            };
            let percent = 100.0 * (value as f64 / (allowed as f64).max(1.0) - 1.0);
            if name == WORK && value != allowed {
                findings
                    .push(format!("{kernel}: {name} is {value} and was {allowed}: it is another workload"));
            } else if name != WORK
                && value as f64 > (allowed as f64 * (1.0 + TOLERANCE)).max(allowed as f64 + SLACK)
            {
                findings.push(format!("{kernel}: {name} is {value}, the budget {allowed} ({percent:+.1} %)"));
            }
        }
    }
    findings
}

/// Reads the part of TOML that [`print`] writes: tables of integers.
fn parse(text: &str) -> Result<Table> {
    let mut table = Table::new();
    let mut kernel = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            kernel = Some(name.to_owned());
            table.entry(name.to_owned()).or_default();
            continue;
        }
        let entry = line.split_once('=').and_then(|(name, value)| {
            Some((kernel.clone()?, name.trim().to_owned(), value.trim().replace('_', "").parse().ok()?))
        });
        let (kernel, name, value) = entry.with_context(|| format!("budgets.toml, line {number}: {line}"))?;
        table.entry(kernel).or_default().insert(name, value);
    }
    Ok(table)
}

fn print(table: &Table) -> String {
    let mut text = String::from(
        "# What `cargo xtask bench-guard` counts for each kernel of `benches count`, and fails on when it gets 5 %\n\
         # worse. Written by `cargo xtask bench-guard --bless`; host instructions by valgrind on a CPU with BMI2.\n",
    );
    for (kernel, numbers) in table {
        let _ = writeln!(text, "\n[{kernel}]");
        for (name, value) in numbers {
            let _ = writeln!(text, "{name} = {value}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(numbers: &[(&str, u64)]) -> Table {
        let numbers = numbers.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Table::from([("fib".to_owned(), numbers)])
    }

    #[test]
    fn budgets_survive_being_written_and_read() {
        let written = table(&[(WORK, 1_200_865), ("exits", 96)]);
        assert_eq!(parse(&print(&written)).unwrap(), written);
        assert!(
            parse("exits = 3").is_err() && parse("[fib]\nexits").is_err() && parse("[fib]\na = b").is_err()
        );
    }

    #[test]
    fn finding_names_kernel_counter_and_by_how_much() {
        let findings = compare(&table(&[("calls", 1000)]), &table(&[("calls", 1100)]));
        assert_eq!(findings, ["fib: calls is 1100, the budget 1000 (+10.0 %)"]);
    }

    #[test]
    fn five_percent_small_differences_and_improvements_pass() {
        for (budget, value) in [(1000, 1050), (10, 13), (1000, 3), (0, 3)] {
            let findings = compare(&table(&[("calls", budget)]), &table(&[("calls", value)]));
            assert!(findings.is_empty(), "{findings:?}");
        }
        assert_eq!(compare(&table(&[("calls", 1000)]), &table(&[("calls", 1051)])).len(), 1);
    }

    #[test]
    fn other_work_or_missing_kernels_are_found() {
        assert_eq!(compare(&table(&[(WORK, 5)]), &table(&[(WORK, 4)])).len(), 1);
        assert_eq!(compare(&table(&[]), &Table::new()).len(), 1);
        assert_eq!(compare(&Table::new(), &table(&[])).len(), 1);
        assert_eq!(compare(&table(&[]), &table(&[("exits", 1)])).len(), 1);
    }

    #[test]
    fn valgrind_summary_is_understood() {
        assert_eq!(references("[]\n==12== \n==12== I   refs:      1,234,567\n"), Some(1_234_567));
        assert_eq!(references("nothing"), None);
    }
}
