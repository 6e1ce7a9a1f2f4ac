//! Child processes, tools of the host, and the places files go.
//!
//! Everything an xtask prints about its progress goes to standard error, so that standard output carries
//! answers only.

use anyhow::{Context, Result, bail};
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

/// Lines of a failed command's output that are worth repeating.
const TAIL_LINES: usize = 20;

/// Root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Cargo's target directory: `CARGO_TARGET_DIR` if set, else `target/` in the workspace.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// The release binary under test: `ENV86_BIN` if set, else the one that `cargo build --release` makes.
pub fn env86_binary() -> PathBuf {
    env::var_os("ENV86_BIN").map_or_else(|| target_dir().join("release/env86"), PathBuf::from)
}

/// The cargo that runs this task, or the one on the path.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Builds the release binary, unless `ENV86_BIN` names another one.
pub fn build_env86() -> Result<PathBuf> {
    let binary = env86_binary();
    if env::var_os("ENV86_BIN").is_none() {
        run(cargo().args(["build", "--release", "--package", "host"]))?;
    }
    if !binary.is_file() {
        bail!("{} is missing: the package `host` builds no binary of that name", binary.display());
    }
    Ok(binary)
}

/// The host's monotonic clock.
#[allow(clippy::disallowed_methods)] // xtask measures how long its steps take; no guest sees this clock
pub fn now() -> Instant {
    Instant::now()
}

/// One line of progress.
pub fn step(text: impl AsRef<str>) {
    eprintln!("==> {}", text.as_ref());
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Where `program` is: the search path, then the administrator's directories that a user's path leaves out.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// A command for a host tool that [`need`] has made sure of.
pub fn tool(program: &str) -> Command {
    let mut command = Command::new(find_program(program).unwrap_or_else(|| program.into()));
    // Messages are matched and shown: keep them in one language.
    command.env("LC_ALL", "C");
    command
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Runs a command with the caller's standard streams.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", describe(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", describe(command));
    }
    Ok(())
}

fn capture(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot start `{}`", describe(command)))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}\n{}", describe(command), output.status, tail(&errors));
    }
    Ok(output)
}

/// Runs a command and returns its standard output; what it wrote to standard error appears in the error.
pub fn output(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&capture(command)?.stdout).into_owned())
}

/// Runs a chatty command; all it prints goes to `log`, of which an error repeats the end.
pub fn logged(command: &mut Command, log: &Path) -> Result<()> {
    let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let errors = file.try_clone()?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .status()
        .with_context(|| format!("cannot start `{}`", describe(command)))?;
    if !status.success() {
        let text = fs::read(log).unwrap_or_default();
        bail!("`{}` failed: {status}\n{}", describe(command), tail(&String::from_utf8_lossy(&text)));
    }
    Ok(())
}

/// Makes sure of host tools, given as (program, Debian package). Missing ones are installed when root, else
/// the error says what to install.
pub fn need(tools: &[(&str, &str)]) -> Result<()> {
    let missing = |(program, _): &&(&str, &str)| find_program(program).is_none();
    let packages: Vec<_> = tools.iter().filter(missing).map(|&(_, package)| package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    install(&packages)?;
    match tools.iter().find(missing) {
        Some((program, package)) => {
            bail!("package {package} is installed but there is no program `{program}`")
        }
        None => Ok(()),
    }
}

/// Installs Debian packages on the host. Needs root; anybody else is told the command to give.
pub fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if find_program("apt-get").is_none() {
        bail!(
            "this needs the Debian packages {list}, and this host has no apt-get: install their equivalents by hand"
        );
    }
    if !is_root() {
        bail!(
            "this needs packages that are not installed. As root, run\n\n    apt-get install --no-install-recommends {list}\n\nand try again."
        );
    }
    step(format!("installing {list} with apt-get"));
    let apt_get = |arguments: &[&str]| {
        let mut command = tool("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-y", "-o", "DPkg::Lock::Timeout=120"]);
        command.args(arguments);
        output(&mut command)
    };
    let wanted = [&["install", "--no-install-recommends"], packages].concat();
    // A fresh machine has no package lists yet, and old ones name files the mirror has dropped.
    if apt_get(&wanted).is_ok() {
        return Ok(());
    }
    let updated = apt_get(&["update"]);
    apt_get(&wanted).with_context(|| match updated {
        Ok(_) => format!("cannot install {list}"),
        Err(error) => format!("cannot install {list}, nor update the package lists ({error:#})"),
    })?;
    Ok(())
}
