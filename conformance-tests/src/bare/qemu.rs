//! Runs programs on QEMU, whose output is the second opinion.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::machine::{END_EXIT, END_SHUTDOWN, RAM_MIB};

/// Steps of waiting, and how many of them a program may take.
const STEP: Duration = Duration::from_millis(20);
const STEPS: u32 = 1000;

/// Runs the image in a file; `scratch` is a file for the output. Returns what the program printed and how it
/// ended, as [`super::machine::run`] does.
///
/// # Errors
/// Text: QEMU cannot be started.
pub fn run(program: &str, image: &Path, scratch: &Path) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(["-M", "pc", "-accel", "tcg", "-cpu", "pentium3", "-m", &RAM_MIB.to_string()])
        .args(["-nodefaults", "-vga", "none", "-display", "none", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .arg("-serial")
        .arg(format!("file:{}", scratch.display()))
        .arg("-kernel")
        .arg(image)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start {program}: {error}"))?;
    let mut status = None;
    for _ in 0..STEPS {
        status = child.try_wait().map_err(|error| error.to_string())?;
        if status.is_some() {
            break;
        }
        sleep(STEP);
    }
    let end = match status {
        // The device ends QEMU with twice the value and one.
        Some(status) if status.code() == Some(1) => END_EXIT.to_owned(),
        Some(status) if status.code() == Some(0) => END_SHUTDOWN.to_owned(),
        Some(status) => format!("[{status}]"),
        None => {
            child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
            "[does not end]".to_owned()
        }
    };
    let bytes = std::fs::read(scratch).map_err(|error| error.to_string())?;
    Ok(format!("{}{end}\n", String::from_utf8_lossy(&bytes)))
}
