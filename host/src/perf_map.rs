//! Names of translated blocks for Linux `perf`, in the file where it looks for them.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::fs::File;
use std::io::{self, Write};

use emu_jit::Jit;

/// Writes names of translations to `/tmp/perf-PID.map` from now on. Code that was dropped keeps its line
/// until other code takes its place; perf uses the last one.
///
/// # Errors
/// The file cannot be created.
pub fn attach(jit: &mut Jit) -> io::Result<()> {
    // Never through a link that somebody else has put there.
    let path = format!("/tmp/perf-{}.map", std::process::id());
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create_new(path)?;
    jit.set_symbols(move |address, len, name| {
        // A profile without some names is better than no run.
        let _ = file.write_all(format!("{address:x} {len:x} {name}\n").as_bytes());
    });
    Ok(())
}
