//! `cargo xtask suite`: the test suites of others, from checkouts the developer points at. `docs/suites.md`
//! says where they are to be had and what came of them.
//!
//! Nothing of theirs is part of this repository: sources are read where they lie and built under
//! `target/suites`.

mod known;
mod kvm;
mod qemu;
mod test386;
mod v86;
mod vectors;

use crate::run::{cargo, run as run_command, step, target_dir, tool};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Options of `cargo xtask suite`.
#[derive(Args)]
pub struct Options {
    /// Directory with checkouts, or one of them
    #[arg(long, value_name = "PATH")]
    dir: PathBuf,
    /// Only the suite of that name
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Only this engine
    #[arg(long)]
    engine: Option<Engine>,
    /// Results as a JSON array
    #[arg(long)]
    json: bool,
}

/// What executes the tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Engine {
    /// Interpreter
    Interp,
    /// Translation to host code
    Jit,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Interp => "interp",
            Self::Jit => "jit",
        }
    }
}

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As the suite expects.
    Pass,
    /// Not so: what was different, an entry per check.
    Fail(Vec<String>),
    /// Not run, and why.
    Skip(String),
}

/// A test on an engine.
#[derive(Clone, Debug)]
pub struct Row {
    /// Suite.
    pub suite: &'static str,
    /// Test.
    pub test: String,
    /// Engine; nothing if it was not run.
    pub engine: &'static str,
    /// Result.
    pub verdict: Verdict,
}

/// What a suite is given.
pub struct Bench {
    /// Directory for what is built, empty or with what an earlier run built.
    pub work: PathBuf,
    /// Engines to run on.
    pub engines: Vec<Engine>,
    /// The program that runs tests.
    pub runner: PathBuf,
}

/// A suite: its name, a file that its checkout has, and what runs it.
struct Suite {
    name: &'static str,
    sign: &'static str,
    run: fn(&Bench, &Path) -> Result<Vec<Row>>,
}

const SUITES: &[Suite] = &[
    Suite { name: test386::NAME, sign: "src/test386.asm", run: test386::run },
    Suite { name: kvm::NAME, sign: "x86/unittests.cfg", run: kvm::run },
    Suite { name: v86::NAME, sign: "tests/nasm/create_tests.js", run: v86::run },
    Suite { name: qemu::NAME, sign: "tests/tcg/i386/test-i386.c", run: qemu::run },
    Suite { name: qemu::NAME_V86, sign: "tests/qemu/test-i386.c", run: qemu::run_v86 },
    Suite { name: vectors::NAME, sign: "v1_ex_real_mode", run: vectors::run },
];

/// `dir` and the directories in it.
fn candidates(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Runs what is found. An error if a test fails that is not known to.
pub fn run(options: &Options) -> Result<()> {
    let dir = options.dir.canonicalize().with_context(|| format!("{}", options.dir.display()))?;
    let dirs = candidates(&dir)?;
    let wanted = |suite: &&Suite| options.only.as_ref().is_none_or(|name| suite.name == name.as_str());
    let mut found: Vec<(&Suite, &PathBuf)> = Vec::new();
    for suite in SUITES.iter().filter(wanted) {
        found.extend(dirs.iter().find(|dir| dir.join(suite.sign).exists()).map(|dir| (suite, dir)));
    }
    if found.is_empty() {
        let names: Vec<_> = SUITES.iter().map(|suite| format!("{} ({})", suite.name, suite.sign)).collect();
        bail!("no suite in {}; known by a file are {}", dir.display(), names.join(", "));
    }
    step("building the runner");
    run_command(cargo().args([
        "build",
        "--release",
        "--quiet",
        "--package",
        "conformance-tests",
        "--bin",
        "suite-runner",
    ]))?;
    let mut rows = Vec::new();
    let mut broken = Vec::new();
    for (suite, dir) in found {
        step(format!("{}: {}", suite.name, dir.display()));
        let work = target_dir().join("suites").join(suite.name);
        fs::create_dir_all(&work)?;
        let bench = Bench {
            work,
            engines: options.engine.map_or(vec![Engine::Interp, Engine::Jit], |engine| vec![engine]),
            runner: target_dir().join("release/suite-runner"),
        };
        match (suite.run)(&bench, dir) {
            Ok(more) => rows.extend(more),
            Err(error) => broken.push(format!("{}: {error:#}", suite.name)),
        }
    }
    if options.json {
        print_json(&rows)?;
    } else {
        print_table(&rows);
    }
    let unexpected = rows.iter().filter(|row| known::judge(row) == Some(None)).count();
    ensure!(broken.is_empty(), "{}", broken.join("\n"));
    ensure!(unexpected == 0, "{unexpected} tests fail and are not known to");
    Ok(())
}

/// Word for a row, and what stands behind it.
fn describe(row: &Row) -> (&'static str, String) {
    match (&row.verdict, known::judge(row)) {
        (Verdict::Pass, _) => ("pass", String::new()),
        (Verdict::Skip(reason), _) => ("skip", reason.clone()),
        (Verdict::Fail(what), Some(Some(reasons))) => ("known", format!("{} [{}]", what.join("; "), reasons)),
        (Verdict::Fail(what), _) => ("FAIL", what.join("; ")),
    }
}

fn print_json(rows: &[Row]) -> Result<()> {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let (word, detail) = describe(row);
            json!({ "suite": row.suite, "test": row.test, "engine": row.engine, "result": word, "detail": detail })
        })
        .collect();
    println!("{}", serde_json::to_string_pretty(&rows)?);
    Ok(())
}

/// Beginning and end of a long text: a suite may list thousands of differences, and the reason stands behind them.
/// `--json` has all of it.
fn shortened(text: &str) -> String {
    const KEEP: usize = 300;
    let count = text.chars().count();
    if count <= 2 * KEEP {
        return text.to_owned();
    }
    let (head, tail) = (text.chars().take(KEEP), text.chars().skip(count - KEEP));
    format!("{} [...] {}", head.collect::<String>(), tail.collect::<String>())
}

/// Everything that did not pass, then the numbers.
fn print_table(rows: &[Row]) {
    for row in rows {
        let (word, detail) = describe(row);
        if word != "pass" {
            println!("{word:5}  {:10}  {:6}  {}  {}", row.suite, row.engine, row.test, shortened(&detail));
        }
    }
    println!("\n{:10}  {:6}  {:>6}  {:>6}  {:>6}  {:>6}", "suite", "engine", "pass", "known", "FAIL", "skip");
    let mut groups: Vec<_> = rows.iter().map(|row| (row.suite, row.engine)).collect();
    groups.dedup();
    groups.sort_unstable();
    groups.dedup();
    for (suite, engine) in groups {
        let count = |wanted: &str| {
            let of_group = rows.iter().filter(|row| (row.suite, row.engine) == (suite, engine));
            of_group.filter(|row| describe(row).0 == wanted).count()
        };
        println!(
            "{suite:10}  {engine:6}  {:6}  {:6}  {:6}  {:6}",
            count("pass"),
            count("known"),
            count("FAIL"),
            count("skip")
        );
    }
}

/// What a guest said on its serial port, and how it ended.
pub struct Ended {
    /// Standard output of the runner.
    pub output: String,
    /// `halted`, `exit N`, ...
    pub reason: String,
    /// Registers, if it crashed or took too long.
    pub report: String,
}

impl Bench {
    /// Runs one guest on a machine.
    pub fn machine(&self, engine: Engine, arguments: &[&str]) -> Result<Ended> {
        let mut command = Command::new(&self.runner);
        command.args(["machine", "--engine", engine.name()]).args(arguments).stdin(Stdio::null());
        let output = command.output().context("cannot start the runner")?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let (report, reason) = errors.trim_end().rsplit_once("end: ").unwrap_or((&errors, ""));
        ensure!(output.status.success() && !reason.is_empty(), "{}", errors.trim_end());
        Ok(Ended {
            output: String::from_utf8_lossy(&output.stdout).replace('\r', ""),
            reason: reason.to_owned(),
            report: report.trim().to_owned(),
        })
    }

    /// Runs many small tests in one process and returns a row for each.
    pub fn many(&self, suite: &'static str, task: &str, files: &[String], input: &str) -> Result<Vec<Row>> {
        let mut command = Command::new(&self.runner);
        command.arg(task);
        for engine in &self.engines {
            command.args(["--engine", engine.name()]);
        }
        let mut child =
            command.args(files).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("the runner")?;
        // The runner reads all of it before it prints anything.
        child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "the runner failed: {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| parse_line(suite, line))
            .collect())
    }
}

/// Reads a line of the runner: verdict, engine, name and difference, divided by tabs.
fn parse_line(suite: &'static str, line: &str) -> Option<Row> {
    let mut parts = line.splitn(4, '\t');
    let (verdict, engine, test) = (parts.next()?, parts.next()?, parts.next()?);
    let engine = [Engine::Interp, Engine::Jit].into_iter().find(|known| known.name() == engine)?.name();
    let verdict = match verdict {
        "pass" => Verdict::Pass,
        "fail" => Verdict::Fail(vec![parts.next().unwrap_or_default().to_owned()]),
        _ => return None,
    };
    Some(Row { suite, test: test.to_owned(), engine, verdict })
}

/// A path as an argument.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no UTF-8", path.display()))
}

/// Makes `to` a copy of `from`; what is there already is overwritten.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    // Times stay: the suites' own scripts build again only what is newer.
    let mut command = tool("cp");
    command.args(["-r", "--preserve=timestamps", "-T"]).arg(from).arg(to);
    run_command(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_keeps_its_beginning_and_its_end() {
        assert_eq!(shortened("short"), "short");
        let text = format!("begin{}end", "ä".repeat(1000));
        let short = shortened(&text);
        assert!(short.starts_with("begin") && short.ends_with("end") && short.chars().count() < 700);
    }

    #[test]
    fn parse_line_reads_what_the_runner_prints() {
        let row =
            parse_line("v86", "fail\tjit\tgen_00\teax 1 instead of 2; [100000] 3 instead of 4").unwrap();
        assert_eq!((row.engine, row.test.as_str()), ("jit", "gen_00"));
        assert_eq!(row.verdict, Verdict::Fail(vec!["eax 1 instead of 2; [100000] 3 instead of 4".into()]));
        assert_eq!(parse_line("v86", "pass\tinterp\tadd").unwrap().verdict, Verdict::Pass);
        assert!(parse_line("v86", "something else").is_none());
    }
}
