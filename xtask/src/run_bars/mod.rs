//! `cargo xtask run-bars`: what `env86 run` has to do, at full size, as a user does it: the release binary, the mini
//! guest, a raw snapshot.
//!
//! | module | what |
//! | --- | --- |
//! | `commands` | start, many in sequence and at once, statuses, terminals, a full-screen program, streams |
//! | `files` | directories of the host: a large file, a tree through `tar` |
//! | `walk` | the same tree walked in env86 and, for comparison, over QEMU's `-virtfs` |
//!
//! A line for each bar says what was measured. What the bars are is said in the source of each.

mod commands;
mod files;
mod walk;

use crate::bars::Bars;
use crate::fixtures::{self, Options as Fixtures, Which};
use crate::round_trip::copy;
use crate::run::{build_env86, output, step, target_dir};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Options of `cargo xtask run-bars`.
#[derive(Args)]
pub struct Options {
    /// A twentieth of everything
    #[arg(long)]
    quick: bool,
    /// Only bars whose name contains TEXT
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// How much of each.
struct Size {
    /// Runs one after the other.
    sequence: usize,
    /// Runs two at a time.
    pairs: usize,
    /// Bytes through the streams.
    stream: usize,
    /// Bytes of the large file.
    file: u64,
    /// Files of the tree.
    files: usize,
    /// Entries of one directory.
    entries: usize,
}

/// What all bars work with.
struct Course {
    env86: PathBuf,
    /// An image with a raw snapshot.
    image: PathBuf,
    /// Where everything lies that is made here, and nothing else.
    place: PathBuf,
    size: Size,
}

/// Marks processes that were started here.
const MARK: &str = "ENV86_RUN_BARS";

/// Runs all bars. An error if one fails.
pub fn run(options: &Options) -> Result<()> {
    fixtures::build(&Fixtures::cached(Which::Mini, false))?;
    let env86 = build_env86()?;
    let image = copy(&fixtures::directory().join("mini"), "run-bars")?;
    step("saving the mini guest at its prompt");
    output(Command::new(&env86).args(["snapshot", "create", "--quiet"]).arg(&image))?;
    let place = target_dir().join("tmp/run-bars");
    let _ = fs::remove_dir_all(&place);
    for name in ["temporary", "runtime", "home", "files"] {
        fs::create_dir_all(place.join(name))?;
    }
    let size = if options.quick {
        Size { sequence: 50, pairs: 4, stream: 10_000_000, file: 50 << 20, files: 500, entries: 5000 }
    } else {
        Size {
            sequence: 1000,
            pairs: 64,
            stream: 200_000_000,
            file: 1 << 30,
            files: 10_000,
            entries: 100_000,
        }
    };
    let course = Course { env86, image, place, size };
    let mut bars = Bars::new(&options.only);
    let mut bar = |name: &str, measure: fn(&Course) -> Result<String>| {
        bars.measure(name.to_owned(), || measure(&course));
    };
    bar("streams and status of one command", commands::example);
    bar("start from a raw snapshot, median of 20", commands::start);
    bar("runs two at a time", commands::pairs);
    bar("runs in sequence leave nothing", commands::sequence);
    bar("statuses with every kind of input", commands::matrix);
    bar("terminal settings after every end", commands::terminals);
    bar("full-screen program follows resizes", commands::full_screen);
    bar("bytes through standard streams", commands::stream);
    bar("files as in a local directory", files::local);
    bar("large file through a mount", files::large);
    bar("large directory through a mount", files::directory);
    bar("tree through tar and a mount", files::tree);
    bar("walk of the tree, beside QEMU", walk::walk);
    let _ = fs::remove_dir_all(&course.image);
    let _ = fs::remove_dir_all(&course.place);
    bars.finish("`env86 run` does not keep its bars")
}

impl Course {
    /// `env86 run FLAGS IMAGE -- LINE`, with places of its own for all it may leave behind.
    fn command(&self, flags: &[&str], line: &[&str]) -> Command {
        let mut command = Command::new(&self.env86);
        command.args(["run", "--timeout", "3600"]).args(flags).arg(&self.image).arg("--").args(line);
        self.at_home(&mut command);
        command
    }

    fn at_home(&self, command: &mut Command) {
        command.env("TMPDIR", self.place.join("temporary")).env("HOME", self.place.join("home"));
        command.env("XDG_RUNTIME_DIR", self.place.join("runtime")).env(MARK, std::process::id().to_string());
        command.stdin(Stdio::null());
    }

    /// Where files for the guest lie.
    fn files(&self) -> PathBuf {
        self.place.join("files")
    }

    /// Runs a shell's script in the guest with the files at `/mnt`; it has to succeed and to print no error.
    fn script(&self, script: &str) -> Result<String> {
        let mount = format!("{}:/mnt", self.files().display());
        let ended = self.command(&["-m", &mount], &["sh", "-c", script]).output()?;
        succeeded(&ended)
    }
}

/// What a run printed, if it ended well.
fn succeeded(ended: &Output) -> Result<String> {
    let errors = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success() && errors.is_empty(), "{}: {}", ended.status, errors.trim());
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

/// Bytes per second, for people.
fn rate(bytes: u64, took: f64) -> String {
    let mb = bytes as f64 / 1e6;
    format!("{mb:.0} MB in {took:.1} s, {:.1} MB/s", mb / took.max(1e-9))
}

/// Seconds that the guest's clock says have passed, from two lines of `/proc/uptime`'s first number.
fn between(text: &str) -> Result<f64> {
    let times: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [from, to] = times[..] else { anyhow::bail!("no times in {text:?}") };
    Ok(to - from)
}

/// Names in a directory and below, for comparing.
fn names(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        found.push(entry.path().display().to_string());
        if entry.file_type()?.is_dir() {
            found.extend(names(&entry.path())?);
        }
    }
    found.sort();
    Ok(found)
}
