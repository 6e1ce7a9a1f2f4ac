//! Puts the guest service into the program: the file that `cargo xtask guest86` leaves in
//! `target/guest-service/`, or the one that `ENV86_GUEST86` names at build time. Without either, the program has
//! none and `--install-guest` needs a file.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=ENV86_GUEST86");
    let bytes = match env::var_os("ENV86_GUEST86") {
        Some(file) => {
            println!("cargo::rerun-if-changed={}", Path::new(&file).display());
            fs::read(&file).expect("ENV86_GUEST86 names a file")
        }
        None => built_here().unwrap_or_default(),
    };
    let target = env::var_os("OUT_DIR").expect("set by cargo");
    fs::write(Path::new(&target).join("guest86"), bytes).expect("OUT_DIR can be written");
}

/// The service as it was built in this workspace, if it was.
fn built_here() -> Option<Vec<u8>> {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    let directory = package.parent()?.join("target/guest-service");
    // It has to be there to be watched: what is missing is taken for changed, each time.
    fs::create_dir_all(&directory).ok()?;
    println!("cargo::rerun-if-changed={}", directory.display());
    fs::read(directory.join("guest86")).ok()
}
