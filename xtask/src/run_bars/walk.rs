//! A walk of the tree that asks for every file's attributes, in env86 and in QEMU with the same kernel.

use super::Course;
use super::files::make_tree;
use crate::demo::MINI_PROMPT;
use crate::fixtures;
use crate::guest::Guest;
use crate::run::{find_program, step};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Walks; the first one finds cold caches.
const WALKS: usize = 5;

/// A guest that has not done it by then does not boot.
const TIMEOUT: Duration = Duration::from_secs(600);

/// File type bits of a mode, and the types.
const TYPE: u64 = 0o170000;
const DIRECTORY: u64 = 0o040000;
const LINK: u64 = 0o120000;

/// What mounts the files in QEMU's guest, as env86 has its guests mount them.
const MOUNT: &str = "trans=virtio,version=9p2000.L,msize=524288,cache=mmap";

/// Prints begin, end and number of lines of each walk.
fn script() -> String {
    format!(
        "up() {{ read u x </proc/uptime; echo $u; }}\n\
         i=0\n\
         while [ $i -lt {WALKS} ]; do a=$(up); n=$(ls -lRn /mnt/tree | wc -l); echo $a $(up) $n; i=$((i+1)); done\n"
    )
}

/// Seconds of the fastest walk, and the lines that each printed.
fn fastest(text: &str) -> Result<(f64, usize)> {
    let mut walks = Vec::new();
    for line in text.lines() {
        let words: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if let [from, to, lines] = words[..] {
            walks.push((to - from, lines as usize));
        }
    }
    ensure!(
        walks.len() == WALKS && walks.iter().all(|walk| walk.1 == walks[0].1),
        "the guest printed {text:?}"
    );
    walks.into_iter().min_by(|one, two| one.0.total_cmp(&two.0)).context("no walk")
}

pub fn walk(course: &Course) -> Result<String> {
    make_tree(course)?;
    let files = course.size.files as f64;
    let (ours, lines) = fastest(&course.script(&script())?)?;
    ensure!(lines as f64 > files, "only {lines} lines");
    let ours_text = format!("{ours:.2} s, {:.0} files/s", files / ours.max(0.01));
    if find_program("qemu-system-i386").is_none() {
        return Ok(format!("{ours_text}; `cargo xtask peers` installs QEMU, which is missing"));
    }
    let (theirs, their_lines) = qemu(course)?;
    ensure!(lines == their_lines, "{lines} lines in env86, {their_lines} in QEMU");
    Ok(format!("{ours_text}; QEMU {theirs:.2} s, {:.0} files/s", files / theirs.max(0.01)))
}

/// The same in QEMU: the guest's root and the files are exported by 9p.
fn qemu(course: &Course) -> Result<(f64, usize)> {
    step("booting the same guest in QEMU");
    let fixture = fixtures::directory().join("mini");
    let root = course.place.join("root");
    let index: Value = serde_json::from_slice(&fs::read(fixture.join("fs.json"))?)?;
    fs::create_dir_all(&root)?;
    unpack(&index["fsroot"], &fixture.join("fs"), &root)?;
    fs::create_dir_all(root.join("mnt"))?;
    fs::write(root.join("walk"), format!("mount -t 9p -o {MOUNT} hostshare /mnt\n{}", script()))?;
    let settings: Value = serde_json::from_slice(&fs::read(fixture.join("image.json"))?)?;
    let line = settings["cmdline"].as_str().context("cmdline in image.json")?;
    let memory = settings["memory_size"].as_u64().context("memory_size in image.json")?;
    let export = |tag: &str, path: &Path| {
        let mut text =
            OsString::from(format!("local,mount_tag={tag},security_model=none,multidevs=remap,path="));
        text.push(path);
        text
    };
    let mut command = Command::new("qemu-system-i386");
    command.args([
        "-M",
        "pc",
        "-accel",
        "tcg",
        "-smp",
        "1",
        "-display",
        "none",
        "-nic",
        "none",
        "-no-reboot",
    ]);
    command
        .args(["-no-user-config", "-monitor", "none", "-serial", "stdio", "-m"])
        .arg(format!("{}M", memory >> 20));
    command.arg("-kernel").arg(kernel(&root)?).arg("-initrd").arg(root.join("boot/initrd.img"));
    command.args(["-append", &format!("{line} no_timer_check panic=-1")]);
    command
        .arg("-virtfs")
        .arg(export("host9p", &root))
        .arg("-virtfs")
        .arg(export("hostshare", &course.files()));
    let mut guest = Guest::start(&mut command, TIMEOUT)?;
    guest.expect(MINI_PROMPT)?;
    fastest(&guest.ask("sh /walk", MINI_PROMPT)?)
}

fn kernel(root: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(root.join("boot"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")) {
            return Ok(path);
        }
    }
    bail!("the guest has no kernel in /boot")
}

/// Makes the files of these rows of `fs.json` in `to`.
fn unpack(rows: &Value, contents: &Path, to: &Path) -> Result<()> {
    for row in rows.as_array().context("rows of fs.json")? {
        let name = row[0].as_str().context("name in fs.json")?;
        let (path, mode) = (to.join(name), row[3].as_u64().context("mode in fs.json")?);
        match mode & TYPE {
            DIRECTORY => {
                fs::create_dir(&path)?;
                unpack(&row[6], contents, &path)?;
            }
            LINK => {
                symlink(row[6].as_str().context("target in fs.json")?, &path)?;
                continue;
            }
            _ => drop(fs::copy(contents.join(row[6].as_str().context("content in fs.json")?), &path)?),
        }
        fs::set_permissions(&path, fs::Permissions::from_mode((mode & 0o7777) as u32))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{WALKS, fastest};

    #[test]
    fn fastest_walk_is_found_and_walks_that_differ_are_refused() {
        let mut lines: Vec<String> = (0..WALKS).map(|n| format!("{} {} 7", n * 10, n * 11 + 1)).collect();
        assert_eq!(fastest(&lines.join("\r\n")).unwrap(), (1.0, 7));
        lines[1].push('8');
        assert!(fastest(&lines.join("\n")).is_err());
        assert!(fastest(&lines[2..].join("\n")).is_err());
    }
}
