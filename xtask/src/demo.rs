//! `cargo xtask demo`: builds env86 and a small Linux guest, boots it, and asks it who it is.

use crate::fixtures::{self, Options, Which};
use crate::guest::Guest;
use crate::run::{build_env86, now, step};
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Prompt of the mini guest.
pub const MINI_PROMPT: &str = "mini# ";

/// The guest has to boot, answer and power off within this time.
const TIMEOUT: Duration = Duration::from_secs(180);

/// `env86 boot` with the guest's first serial port on the standard streams, and no window.
pub fn boot(env86: &Path, options: &[&str], image: &Path) -> Command {
    let mut command = Command::new(env86);
    command.args(["boot", "--ttyS0", "--no-console"]).args(options).arg(image);
    command
}

/// Runs the demonstration.
pub fn run() -> Result<()> {
    step("building env86 (release)");
    let env86 = build_env86()?;
    fixtures::build(&Options::cached(Which::Mini, false))?;
    let image = fixtures::directory().join("mini");

    step(format!("env86 boot --cold {}", image.display()));
    let start = now();
    let mut guest = Guest::start(&mut boot(&env86, &["--cold"], &image), TIMEOUT)?;
    guest.expect(MINI_PROMPT)?;
    step(format!("prompt after {:.1} s; typing `uname -a`", start.elapsed().as_secs_f64()));
    let answer = guest.ask("uname -a", MINI_PROMPT)?;
    println!("{answer}");
    if !answer.starts_with("Linux mini ") {
        bail!("that is not what `uname -a` prints in this guest");
    }
    guest.send("poweroff -f")?;
    let status = guest.wait()?;
    if !status.success() {
        bail!("env86 ended with {status} after the guest powered off");
    }
    step("the guest powered off");
    Ok(())
}
