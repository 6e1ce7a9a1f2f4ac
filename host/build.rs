//! Puts the guest service into the program: the file that `ENV86_GUEST86` names at build time, a static i686
//! Linux program as `cargo xtask guest86` makes it. Without that, the program has none and `--install-guest`
//! needs a file.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=ENV86_GUEST86");
    let bytes = match env::var_os("ENV86_GUEST86") {
        Some(file) => {
            println!("cargo::rerun-if-changed={}", Path::new(&file).display());
            fs::read(&file).expect("ENV86_GUEST86 names a file")
        }
        None => Vec::new(),
    };
    let target = env::var_os("OUT_DIR").expect("set by cargo");
    fs::write(Path::new(&target).join("guest86"), bytes).expect("OUT_DIR can be written");
}
