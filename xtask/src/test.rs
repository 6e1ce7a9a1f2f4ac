//! `cargo xtask test`: everything that has to pass before a change is taken.

use crate::bench_guard;
use crate::boot;
use crate::cross;
use crate::fixtures::{self, Options, Which};
use crate::graph;
use crate::guest86;
use crate::run::{build_env86, cargo, now, run, step};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Environment variable that tells tests where the guests are.
const FIXTURES: &str = "ENV86_FIXTURES";

/// How many tests a step had.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Count {
    passed: usize,
    failed: usize,
}

/// The course of a run. A failed step does not end it.
pub struct Report {
    start: Instant,
    steps: Vec<(String, Duration, Count)>,
}

impl Report {
    /// An empty report.
    pub fn new() -> Self {
        Self { start: now(), steps: Vec::new() }
    }

    /// Runs a step that counts as one test. Returns whether it passed.
    pub fn step(&mut self, name: &str, action: impl FnOnce() -> Result<()>) -> bool {
        self.counted(name, || action().map(|()| Count { passed: 1, failed: 0 }))
    }

    /// Runs a step that has many tests. An error counts as one failed test.
    pub fn counted(&mut self, name: &str, action: impl FnOnce() -> Result<Count>) -> bool {
        step(name);
        let start = now();
        let count = action().unwrap_or_else(|error| {
            eprintln!("error: {name}: {error:#}");
            Count { passed: 0, failed: 1 }
        });
        let elapsed = start.elapsed();
        let verdict = if count.failed == 0 { "passed" } else { "FAILED" };
        eprintln!("    {name}: {verdict} in {:.1} s", elapsed.as_secs_f64());
        self.steps.push((name.to_owned(), elapsed, count));
        count.failed == 0
    }

    /// Prints all steps and, last, the line `N passed, N failed`. An error if anything failed.
    pub fn finish(self) -> Result<()> {
        println!("\n{:>8}  {:>8}  {:>8}  step", "seconds", "passed", "failed");
        let mut total = Count::default();
        for (name, elapsed, count) in &self.steps {
            println!("{:8.1}  {:8}  {:8}  {name}", elapsed.as_secs_f64(), count.passed, count.failed);
            total.passed += count.passed;
            total.failed += count.failed;
        }
        println!("{:8.1}  in all\n", self.start.elapsed().as_secs_f64());
        println!("{} passed, {} failed", total.passed, total.failed);
        if total.failed > 0 {
            bail!("the tests failed");
        }
        Ok(())
    }
}

/// Runs the tests; `quick` leaves out those that boot guests.
pub fn run_all(report: &mut Report, quick: bool) {
    if !quick {
        // It becomes part of the program; built later, it would have that built twice.
        report.step("guest service", || guest86::build(None).map(|_| ()));
    }
    report.step("cargo fmt --check", || run(cargo().args(["fmt", "--all", "--check"])));
    report.step("cargo clippy -D warnings", || {
        run(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
    });
    report.counted("cargo test", || tests_of(cargo().args(["test", "--workspace", "--no-fail-fast"])));
    if !quick {
        report.step("other hosts: clippy for AArch64", cross::check);
        report.step("budgets of translated code", || {
            bench_guard::guard(&bench_guard::Options { bless: false, no_host: true })
        });
        guest_tests(report);
    }
}

/// Each guest, and what builds it.
const GUESTS: &[(&str, Which, bool)] =
    &[("mini", Which::Mini, false), ("mini-state", Which::Mini, true), ("debian", Which::Debian, false)];

/// Boots guests: the tests whose name contains `only`. Returns whether all guests they need could be built.
pub fn boots(report: &mut Report, only: &str) -> bool {
    let tests = || boot::TESTS.iter().filter(|test| test.name.contains(only));
    let mut guests = Vec::new();
    for &(name, which, state) in GUESTS.iter().filter(|(name, ..)| tests().any(|test| test.guest == *name)) {
        let build = || fixtures::build(&Options::cached(which, state));
        if report.step(&format!("build the guest {name}"), build) {
            guests.push(name);
        }
    }
    let mut env86 = None;
    report.step("build env86 (release)", || {
        env86 = Some(build_env86()?);
        Ok(())
    });
    // Without emulator or guest, the tests below would only say again that it is missing.
    let Some(env86) = env86 else { return false };
    for test in tests().filter(|test| guests.contains(&test.guest)) {
        report.step(test.name, || (test.run)(&env86));
    }
    tests().all(|test| guests.contains(&test.guest))
}

fn guest_tests(report: &mut Report) {
    if !boots(report, "") {
        return;
    }
    let tests = match tests_with_guests() {
        Ok(tests) => tests,
        Err(error) => {
            report.step("find tests that need guests", || Err(error));
            return;
        }
    };
    for (package, test) in tests {
        let target = ["--package", &package, "--test", &test];
        // `--all-targets` leaves them out.
        report.step(&format!("cargo clippy --package {package} --test {test}"), || {
            run(cargo().arg("clippy").args(target).args(["--quiet", "--", "-D", "warnings"]))
        });
        report.counted(&format!("cargo test --package {package} --test {test}"), || {
            tests_of(cargo().arg("test").args(target).env(FIXTURES, fixtures::directory()))
        });
    }
}

/// Packages and names of test programs that `cargo test` leaves out (`test = false` in their manifest):
/// those need the guests, which they find through [`FIXTURES`].
fn tests_with_guests() -> Result<Vec<(String, String)>> {
    let metadata = graph::metadata()?;
    let packages = metadata["packages"].as_array().context("cargo metadata without packages")?;
    let mut found = Vec::new();
    for package in packages {
        for target in package["targets"].as_array().into_iter().flatten() {
            if target["kind"] == json!(["test"])
                && target["test"] == false
                && let (Some(package), Some(test)) = (package["name"].as_str(), target["name"].as_str())
            {
                found.push((package.to_owned(), test.to_owned()));
            }
        }
    }
    Ok(found)
}

/// Runs a `cargo test` command, shows what it prints and counts its tests.
fn tests_of(command: &mut Command) -> Result<Count> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let mut total = Count::default();
    for line in BufReader::new(child.stdout.take().context("no standard output")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        if let Some(count) = parse_result(&line) {
            total.passed += count.passed;
            total.failed += count.failed;
        }
    }
    let status = child.wait()?;
    // A test program that does not build, or dies, reports no failed test.
    if !status.success() && total.failed == 0 {
        total.failed = 1;
    }
    if status.success() && total.passed == 0 {
        bail!("cargo test ran no test");
    }
    Ok(total)
}

/// Reads a line like `test result: ok. 12 passed; 0 failed; …`.
fn parse_result(line: &str) -> Option<Count> {
    let rest = line.trim().strip_prefix("test result: ")?;
    let number = |word: &str| {
        let (before, _) = rest.split_once(word)?;
        before.rsplit([' ', ';', '.']).find(|part| !part.is_empty())?.parse().ok()
    };
    Some(Count { passed: number(" passed")?, failed: number(" failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_result_reads_the_counts_of_cargo_test() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.00s";
        assert_eq!(parse_result(line), Some(Count { passed: 12, failed: 3 }));
        assert_eq!(parse_result("test machine::result: ok"), None);
        assert_eq!(parse_result("running 3 tests"), None);
    }

    #[test]
    fn tests_of_program_that_dies_counts_as_failed() {
        let script = "echo 'test result: ok. 4 passed; 0 failed; 0 ignored'; exit 101";
        let count = tests_of(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(count, Count { passed: 4, failed: 1 });
    }

    #[test]
    fn tests_of_no_test_at_all_is_an_error() {
        assert!(tests_of(Command::new("sh").args(["-c", "exit 0"])).is_err());
    }

    #[test]
    fn report_with_a_failed_step_goes_on_and_ends_in_an_error() {
        let mut report = Report::new();
        assert!(!report.step("a", || bail!("no")));
        assert!(report.step("b", || Ok(())));
        assert!(report.finish().is_err());
    }

    #[test]
    fn report_without_failure_ends_well() {
        let mut report = Report::new();
        report.counted("a", || Ok(Count { passed: 3, failed: 0 }));
        assert!(report.finish().is_ok());
    }
}
