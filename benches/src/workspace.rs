//! Where things lie, and child processes.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Cargo's target directory: `CARGO_TARGET_DIR` if set, else `target/` in the workspace.
pub fn target_dir() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Test guests: `ENV86_FIXTURES` if set, else where `cargo xtask fixtures` builds them.
pub fn fixtures() -> PathBuf {
    env::var_os("ENV86_FIXTURES").map_or_else(|| target_dir().join("fixtures"), PathBuf::from)
}

/// The release binary: `ENV86_BIN` if set, else the one in the target directory, built from the sources as they
/// are: an old one would be measured under the name of a new one.
///
/// # Errors
/// It cannot be built.
pub fn env86_binary() -> Result<PathBuf> {
    if let Some(binary) = env::var_os("ENV86_BIN") {
        return Ok(binary.into());
    }
    let binary = target_dir().join("release/env86");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).args(["build", "--quiet", "--release", "--package", "host"]);
    let status = cargo.status().context("cannot start cargo")?;
    if !status.success() || !binary.is_file() {
        bail!("{} cannot be built", binary.display());
    }
    Ok(binary)
}

/// Runs a command and returns its standard output; what it wrote to standard error appears in the error.
///
/// # Errors
/// It cannot be started or fails.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{program}`"))?;
    if !output.status.success() {
        bail!(
            "`{program}` failed: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
