//! Hosts that are not x86-64: everything up to the program is checked for AArch64 Linux, where the interpreter runs
//! the guest.

use crate::run::{cargo, find_program, output, run, tool};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

/// What is checked.
const TARGET: &str = "aarch64-unknown-linux-gnu";

/// The C compiler for it, which dependencies of `host` are built with, and its Debian package.
const COMPILER: (&str, &str) = ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu");

/// Crates without C.
const CRATES: &[&str] = &["emu-core", "bios", "emu-devices", "emu-jit"];

/// Clippy for AArch64, with warnings as errors: code that is unused there is a warning. What there are no tools for
/// is left out with a note.
///
/// # Errors
/// Something does not compile, or gives a warning.
pub fn check() -> Result<()> {
    let is_there = has_libraries()? || add_libraries() && has_libraries()?;
    if !is_there {
        println!(
            "note: nothing is checked for {TARGET}: there is no network for `rustup target add {TARGET}`"
        );
        return Ok(());
    }
    let mut check = cargo();
    check.args(["clippy", "--quiet", "--target", TARGET]);
    for name in CRATES {
        check.args(["--package", name]);
    }
    let (compiler, package) = COMPILER;
    // Not installed from here: Debian's gcc-multilib, which somebody may need, would be removed by it.
    if find_program(compiler).is_some() {
        check.args(["--package", "host"]);
    } else {
        println!("note: `host` is not checked for {TARGET}: there is no {compiler} (Debian: {package})");
    }
    run(check.args(["--", "-D", "warnings"]))
}

/// The standard library for the target is installed.
fn has_libraries() -> Result<bool> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let place = output(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]))
        .context("asking rustc for its libraries")?;
    Ok(Path::new(place.trim()).is_dir())
}

/// Installs it, if that can be done.
fn add_libraries() -> bool {
    find_program("rustup").is_some() && run(tool("rustup").args(["target", "add", TARGET])).is_ok()
}
