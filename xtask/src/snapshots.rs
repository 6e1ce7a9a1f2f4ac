//! `cargo xtask snapshots`: what is too slow for the tests. Snapshots that old versions of v86 make of the
//! mini guest are restored, and env86 is killed at random moments of saving.

use crate::boot::converse;
use crate::demo::{MINI_PROMPT, boot};
use crate::fixtures::{self, Options as Fixtures, Which};
use crate::guest::Guest;
use crate::peers::{self, Firmware};
use crate::round_trip::copy;
use crate::run::{build_env86, logged, need, now, output, step, target_dir, tool};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Options of `cargo xtask snapshots`.
#[derive(Args)]
pub struct Options {
    /// How often env86 is killed while it saves
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// Versions of v86; the tests have the current one
    #[arg(long, value_delimiter = ',', default_value = "0.4.0,0.5.44,0.5.253,0.5.327")]
    versions: Vec<String>,
}

/// The last version without the 9p server that this guest needs: it boots from a CD-ROM into the initrd.
const WITHOUT_FILES: &str = "0.4.0";

/// Prompt of the initrd's shell.
const INITRD_PROMPT: &str = "/ # ";

/// env86 ends and saves when the guest prints this.
const SAVE_WHEN: &str = "save-now-42";

/// A guest that v86 makes a snapshot of.
struct Scene {
    prompt: &'static str,
    /// Typed in v86.
    prepare: &'static [&'static str],
    /// Asked in env86.
    exchanges: &'static [(&'static str, &'static str)],
}

const FILES: Scene = Scene {
    prompt: MINI_PROMPT,
    prepare: &[
        "modprobe ne2k-pci",
        "modprobe virtio_net",
        "echo hello >/root/file-in-state; sync",
        "cp /bin/busybox /tmp/copy",
        "sleep 1000 & echo started",
    ],
    exchanges: &[
        ("uname -sm", "Linux i686"),
        ("cat /root/file-in-state", "hello"),
        ("cmp /bin/busybox /tmp/copy && echo same", "same"),
        ("jobs", "sleep 1000"),
        ("lsmod | grep -q '^ne2k_pci ' && echo loaded", "loaded"),
        ("awk 'BEGIN { printf \"%.15f\", 355 / 113 }'", "3.141592920353983"),
        ("date >/root/new && mv /root/new /root/d && ls -A /root | xargs", "d file-in-state"),
        ("sleep 1 && echo slept", "slept"),
    ],
};

const INITRD: Scene = Scene {
    prompt: INITRD_PROMPT,
    prepare: &["b=/bin/busybox; $b mkdir /proc; $b mount -t proc proc /proc", "echo hello >/file-in-state"],
    exchanges: &[
        ("$b uname -sm", "Linux i686"),
        ("$b cat /file-in-state", "hello"),
        ("$b cp $b /copy && $b cmp $b /copy && echo same", "same"),
        ("$b awk 'BEGIN { printf \"%.15f\", 355 / 113 }'", "3.141592920353983"),
        ("$b sleep 1 && echo slept", "slept"),
    ],
};

/// Runs everything; an error if anything failed.
pub fn run(options: &Options) -> Result<()> {
    need(&[("node", "nodejs"), ("zstd", "zstd")])?;
    fixtures::build(&Fixtures::cached(Which::Mini, true))?;
    let env86 = build_env86()?;
    let mut failed = 0;
    let mut rows = Vec::new();
    for version in &options.versions {
        let row = restore_from(&env86, version).unwrap_or_else(|error| {
            failed += 1;
            format!("FAILED: {error:#}")
        });
        rows.push(format!("v86 {version:8}  {row}"));
    }
    for compressed in [false, true] {
        let form = if compressed { "zstd" } else { "raw" };
        let row = kill(&env86, options.kills / 2, compressed).unwrap_or_else(|error| {
            failed += 1;
            format!("FAILED: {error:#}")
        });
        rows.push(format!("kill -9, {form:4} {row}"));
    }
    println!("{}", rows.join("\n"));
    if failed > 0 {
        bail!("{failed} of {} failed", rows.len());
    }
    Ok(())
}

/// Makes a snapshot with a version of v86 and restores it in env86.
fn restore_from(env86: &Path, version: &str) -> Result<String> {
    let scene = if version == WITHOUT_FILES { &INITRD } else { &FILES };
    let image = copy(&fixtures::directory().join("mini"), "old-version")?;
    let file = image.join("initial.state");
    step(format!("making a snapshot with v86 {version} (about a minute)"));
    make(version, scene, &image, &file)?;
    step("restoring it");
    let start = now();
    let mut guest = Guest::start(&mut boot(env86, &[], &image), Duration::from_secs(120))?;
    guest.expect(scene.prompt)?;
    let prompt = start.elapsed();
    converse(&mut guest, scene.prompt, scene.exchanges)?;
    let mib = fs::metadata(&file)?.len() >> 20;
    drop(guest);
    fs::remove_dir_all(image)?;
    Ok(format!("{mib} MiB, prompt after {} ms, {} commands right", prompt.as_millis(), scene.exchanges.len()))
}

fn make(version: &str, scene: &Scene, image: &Path, file: &Path) -> Result<()> {
    let v86 = peers::v86_version(version)?;
    let mut node = peers::node_v86(&v86, image);
    if version == WITHOUT_FILES {
        let cdrom = image.join("boot.iso");
        write_cdrom(image, &cdrom)?;
        // Debian's firmware is too new for it.
        let bios = v86.join("bios");
        node.arg("--bios").arg(bios.join("seabios.bin")).arg("--vga-bios").arg(bios.join("vgabios.bin"));
        node.arg("--cdrom").arg(cdrom);
    } else {
        let firmware = Firmware::find()?;
        node.arg("--bios").arg(firmware.bios).arg("--vga-bios").arg(firmware.vga_bios);
    }
    node.args(["--cold", "--prompt", scene.prompt, "--save"]).arg(file).args(scene.prepare);
    let log = target_dir().join("fixtures").join(format!("v86-{version}.log"));
    logged(&mut node, &log).with_context(|| format!("v86 {version} did not get to a snapshot"))
}

/// A CD-ROM that boots the image's kernel with its initrd, whose shell is what there is without a disk.
fn write_cdrom(image: &Path, cdrom: &Path) -> Result<()> {
    need(&[("genisoimage", "genisoimage")])?;
    let loader = Path::new("/usr/lib/ISOLINUX/isolinux.bin");
    let module = Path::new("/usr/lib/syslinux/modules/bios/ldlinux.c32");
    if !loader.exists() || !module.exists() {
        crate::run::install(&["isolinux", "syslinux-common"])?;
    }
    let tree = image.join("cdrom");
    let isolinux = tree.join("isolinux");
    fs::create_dir_all(&isolinux)?;
    fs::copy(loader, isolinux.join("isolinux.bin"))?;
    fs::copy(module, isolinux.join("ldlinux.c32"))?;
    let kernel = "DEFAULT l\nPROMPT 0\nLABEL l\n KERNEL /vmlinuz\n APPEND initrd=/initrd console=ttyS0 tsc=reliable mitigations=off random.trust_cpu=on\n";
    fs::write(isolinux.join("isolinux.cfg"), kernel)?;
    fs::copy(boot_file(image, "vmlinuz")?, tree.join("vmlinuz"))?;
    fs::copy(boot_file(image, "initrd")?, tree.join("initrd"))?;
    let mut iso = tool("genisoimage");
    iso.args(["-quiet", "-rational-rock", "-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat"]);
    iso.args(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "-o"]).arg(cdrom).arg(&tree);
    output(&mut iso).map(drop)
}

/// Content file of the file in the image's `/boot` whose name begins so.
pub fn boot_file(image: &Path, start: &str) -> Result<PathBuf> {
    let index: Value = serde_json::from_slice(&fs::read(image.join("fs.json"))?)?;
    let find = |rows: &Value, matches: &dyn Fn(&str) -> bool| {
        let rows = rows.as_array().into_iter().flatten();
        let mut found = rows.filter(|row| row[0].as_str().is_some_and(matches)).map(|row| row[6].clone());
        found.next()
    };
    let boot = find(&index["fsroot"], &|name| name == "boot").context("the image has no /boot")?;
    let content = find(&boot, &|name| name.starts_with(start)).context("the image has no kernel")?;
    Ok(image.join("fs").join(content.as_str().context("not a file")?))
}

/// Kills env86 so often while it saves.
fn kill(env86: &Path, kills: u32, compressed: bool) -> Result<String> {
    step(format!("killing env86 {kills} times while it saves {}", if compressed { "zstd" } else { "raw" }));
    let image = copy(&fixtures::directory().join("mini-state"), "killed")?;
    if !compressed {
        output(tool("zstd").args(["-dq", "--rm"]).arg(image.join("initial.state.zst")))?;
    }
    let before = names(&image)?;
    let mut guest = saving_guest(env86, &image)?;
    guest.ask("cp /bin/busybox /tmp/copy; echo 0 >/tmp/generation", MINI_PROMPT)?;
    let longest = save(guest, None)?.context("saving was not measured")?;
    let mut random = 0x1234_5678u32;
    let (mut generation, mut old, mut new, mut finished) = (0u32, 0, 0, 0);
    for round in 1..=kills {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let wait = longest.mul_f64(f64::from(random >> 8) / f64::from(1 << 24) * 1.1);
        let mut guest = saving_guest(env86, &image)?;
        ensure!(names(&image)? == before, "there are other files in the image: {:?}", names(&image)?);
        guest.ask(&format!("echo {round} >/tmp/generation"), MINI_PROMPT)?;
        let ended = save(guest, Some(wait))?;
        // What is there now?
        let mut guest = saving_guest(env86, &image)?;
        let found: u32 = guest.ask("cat /tmp/generation", MINI_PROMPT)?.parse().context("a number")?;
        ensure!(
            found == generation || found == round,
            "round {round}: generation {found} is neither new nor old"
        );
        let same = guest.ask("cmp /bin/busybox /tmp/copy && echo same", MINI_PROMPT)?;
        ensure!(same == "same", "round {round}: the snapshot is damaged: {same:?}");
        match ended {
            Some(_) => finished += 1,
            None if found == round => new += 1,
            None => old += 1,
        }
        ensure!(ended.is_none() || found == round, "round {round}: a finished save left the old snapshot");
        generation = found;
    }
    drop(saving_guest(env86, &image)?);
    ensure!(names(&image)? == before, "there are other files in the image: {:?}", names(&image)?);
    fs::remove_dir_all(image)?;
    let times = format!("saving takes {} ms", longest.as_millis());
    Ok(format!("{kills} times: {old} old, {new} new, {finished} finished before; {times}"))
}

/// A guest at its prompt that is saved at the end.
fn saving_guest(env86: &Path, image: &Path) -> Result<Guest> {
    let mut guest =
        Guest::start(&mut boot(env86, &["--save", "--exit-on", SAVE_WHEN], image), Duration::from_secs(60))?;
    guest.expect(MINI_PROMPT)?;
    Ok(guest)
}

/// Saves, and kills the emulator so long after it has begun to. How long it took, if it was done by then.
fn save(mut guest: Guest, wait: Option<Duration>) -> Result<Option<Duration>> {
    guest.send(&format!("echo {}$((40 + 2))", SAVE_WHEN.trim_end_matches("42")))?;
    guest.expect("Saving...")?;
    let start = now();
    match wait {
        None => {
            ensure!(guest.wait()?.success(), "env86 could not save");
            Ok(Some(start.elapsed()))
        }
        Some(wait) => {
            thread::sleep(wait);
            // The file is in place before the process has ended; what counts is that it had not.
            Ok(guest.has_ended()?.then(|| start.elapsed()))
        }
    }
}

/// Names of the files in a directory.
fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = entries.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}
