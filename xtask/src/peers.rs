//! The emulators that env86 is compared with: npm's v86 under Node, and QEMU. Firmware comes from Debian.

use crate::run::{find_program, install, is_root, logged, need, output, step, target_dir, tool, workspace};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of v86 that tests and benchmarks compare with.
const V86_VERSION: &str = "0.5.462";

/// Firmware images of Debian's package `seabios`.
pub struct Firmware {
    /// System BIOS, 256 KiB.
    pub bios: PathBuf,
    /// VGA BIOS for the standard VGA card.
    pub vga_bios: PathBuf,
}

impl Firmware {
    /// Finds the images; as root, installs the package that has them.
    pub fn find() -> Result<Self> {
        let dir = Path::new("/usr/share/seabios");
        let found = Self { bios: dir.join("bios-256k.bin"), vga_bios: dir.join("vgabios-stdvga.bin") };
        if !found.bios.exists() || !found.vga_bios.exists() {
            install(&["seabios"])?;
        }
        Ok(found)
    }
}

/// Directory of npm's v86, which is installed under `target/peers` if it is not there.
pub fn v86() -> Result<PathBuf> {
    v86_version(V86_VERSION)
}

/// The same for any version of it.
pub fn v86_version(version: &str) -> Result<PathBuf> {
    let root = target_dir().join("peers").join(format!("v86-{version}"));
    let (package, stamp) = (root.join("node_modules/v86"), root.join("complete"));
    if stamp.exists() {
        return Ok(package);
    }
    need(&[("node", "nodejs"), ("npm", "npm")])?;
    fs::create_dir_all(&root)?;
    step(format!("installing v86 {version} with npm"));
    let mut npm = tool("npm");
    npm.args(["install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--prefix"]);
    logged(npm.arg(&root).arg(format!("v86@{version}")), &root.join("npm.log"))
        .context("v86 cannot be installed; npm needs its registry within reach")?;
    fs::write(stamp, "")?;
    Ok(package)
}

/// Node running v86 with an image; options and commands follow.
pub fn node_v86(v86: &Path, image: &Path) -> Command {
    let mut node = tool("node");
    node.arg(workspace().join("xtask/js/v86.mjs")).arg("--v86").arg(v86).arg("--image").arg(image);
    node
}

/// `cargo xtask peers`: installs what is missing and lists what there is. Fails only when nothing is there.
pub fn list() -> Result<()> {
    if is_root()
        && find_program("qemu-system-i386").is_none()
        && let Err(error) = install(&["qemu-system-x86"])
    {
        eprintln!("warning: {error:#}");
    }
    let version = |program: &str| match output(tool(program).arg("--version")) {
        Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
        Err(_) => "missing".to_owned(),
    };
    println!("node     {}", version("node"));
    println!("qemu     {}", version("qemu-system-i386"));
    let firmware = Firmware::find();
    match &firmware {
        Ok(found) => println!("seabios  {}", found.bios.display()),
        Err(error) => println!("seabios  missing: {error:#}"),
    }
    let v86 = v86();
    match &v86 {
        Ok(dir) => println!("v86      {V86_VERSION}, {}", dir.display()),
        Err(error) => println!("v86      missing: {error:#}"),
    }
    v86.and(firmware).map(drop)
}
