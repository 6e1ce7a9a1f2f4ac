//! The guest of the comparison: a test guest of `cargo xtask fixtures` with our programs in `/bench`.
//!
//! It exists twice with the same content: as an image (`image.json`, `fs.json`, `fs/`) for env86 and v86, and as
//! a directory tree, which QEMU exports by 9p and the native run changes its root to.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::programs::{Programs, hex};
use crate::clock::progress;
use crate::workspace::target_dir;

/// File type bits of a mode, and the types.
const TYPE: u64 = 0o170000;
const DIRECTORY: u64 = 0o040000;
const LINK: u64 = 0o120000;

/// Added to the kernel's command line. A host that is very busy may fail the kernel's test of its timer in QEMU;
/// and a kernel that panics is to end QEMU instead of standing still.
const COMMAND_LINE: &str = " no_timer_check panic=-1";

/// A guest for all engines.
pub struct GuestImage {
    /// Name of the fixture.
    pub name: &'static str,
    /// What its shell prints when it waits.
    pub prompt: &'static str,
    /// For env86 and v86.
    pub image: PathBuf,
    /// For QEMU and the bare CPU.
    pub tree: PathBuf,
    /// `image.json`.
    pub settings: Value,
}

impl GuestImage {
    /// Prepares a fixture, unless it was prepared from the same bytes before.
    ///
    /// # Errors
    /// The fixture is damaged; the host's.
    pub fn prepare(
        fixture: &Path,
        name: &'static str,
        prompt: &'static str,
        programs: Option<&Programs>,
    ) -> Result<Self> {
        let home = target_dir().join("benches/guests").join(name);
        let (image, tree, key_file) = (home.join("image"), home.join("tree"), home.join("key"));
        let text = fs::read(fixture.join("fs.json")).context("fs.json")?;
        let mut settings: Value = serde_json::from_slice(&fs::read(fixture.join("image.json"))?)?;
        let command_line = settings["cmdline"].as_str().context("image.json has no cmdline")?.to_owned();
        settings["cmdline"] = (command_line + COMMAND_LINE).into();
        let mut hash = Sha256::new();
        hash.update(&text);
        hash.update(settings.to_string());
        let key = hex(&hash.finalize()) + programs.map_or("", |programs| programs.hash.as_str());
        let guest = Self { name, prompt, image, tree, settings };
        if fs::read_to_string(&key_file).is_ok_and(|found| found == key) {
            return Ok(guest);
        }
        progress(&format!("preparing the guest {name}"));
        if home.exists() {
            fs::remove_dir_all(&home)?;
        }
        let contents = guest.image.join("fs");
        fs::create_dir_all(&contents)?;
        for entry in fs::read_dir(fixture.join("fs"))? {
            let (path, to) = entry.map(|entry| (entry.path(), contents.join(entry.file_name())))?;
            // They are only read; on another file system they have to be copied.
            if fs::hard_link(&path, &to).is_err() {
                fs::copy(&path, &to)?;
            }
        }
        fs::write(guest.image.join("image.json"), guest.settings.to_string())?;
        let mut index: Value = serde_json::from_slice(&text)?;
        if let Some(programs) = programs {
            let rows = index["fsroot"].as_array_mut().context("fs.json has no fsroot")?;
            rows.insert(0, bench_row(programs, &contents)?);
            rows.sort_by(|a, b| a[0].as_str().cmp(&b[0].as_str()));
        }
        fs::write(guest.image.join("fs.json"), index.to_string())?;
        fs::create_dir_all(&guest.tree)?;
        unpack(&index["fsroot"], &contents, &guest.tree)?;
        fs::write(key_file, key)?;
        Ok(guest)
    }

    /// The kernel and the initial RAM disk.
    ///
    /// # Errors
    /// The guest has none.
    pub fn kernel(&self) -> Result<(PathBuf, PathBuf)> {
        let boot = self.tree.join("boot");
        let names = fs::read_dir(&boot)?.collect::<std::io::Result<Vec<_>>>()?;
        let kernel = names
            .iter()
            .map(fs::DirEntry::path)
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
            .context("the guest has no kernel in /boot")?;
        Ok((kernel, boot.join("initrd.img")))
    }
}

/// The row of `/bench`, whose files go into `contents`.
fn bench_row(programs: &Programs, contents: &Path) -> Result<Value> {
    let (mut rows, mut sources) = (Vec::new(), Vec::new());
    for (name, permissions, content) in &programs.files {
        let stored = format!("{}.bin", &hex(&Sha256::digest(content))[..32]);
        fs::write(contents.join(&stored), content)?;
        let (list, name) = match name.strip_prefix("src/") {
            Some(name) => (&mut sources, name),
            None => (&mut rows, name.as_str()),
        };
        list.push(json!([name, content.len(), 0, 0o100000 | permissions, 0, 0, stored]));
    }
    let directory = |name: &str, mut rows: Vec<Value>| {
        rows.sort_by(|a, b| a[0].as_str().cmp(&b[0].as_str()));
        json!([name, 4096, 0, DIRECTORY | 0o755, 0, 0, rows])
    };
    rows.push(directory("src", sources));
    Ok(directory("bench", rows))
}

/// Makes the files of these rows in `to`.
fn unpack(rows: &Value, contents: &Path, to: &Path) -> Result<()> {
    for row in rows.as_array().context("rows of fs.json")? {
        let name = row[0].as_str().context("name in fs.json")?;
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            bail!("{name:?} in fs.json is no file name");
        }
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
            _ => {
                let stored = row[6].as_str().context("content in fs.json")?;
                fs::copy(contents.join(stored), &path)
                    .with_context(|| format!("content {stored} of {name}"))?;
            }
        }
        fs::set_permissions(&path, fs::Permissions::from_mode((mode & 0o7777) as u32))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_has_what_the_rows_say() {
        let directory = tempfile::tempdir().unwrap();
        let (contents, tree) = (directory.path().join("fs"), directory.path().join("tree"));
        fs::create_dir_all(&contents).unwrap();
        fs::create_dir_all(&tree).unwrap();
        let programs = Programs {
            files: vec![("run".into(), 0o755, b"code".to_vec()), ("src/a.c".into(), 0o644, b"text".to_vec())],
            hash: String::new(),
            compiler: String::new(),
        };
        let rows = json!([bench_row(&programs, &contents).unwrap(), ["bin", 5, 0, 0o120777, 0, 0, "bench"]]);
        unpack(&rows, &contents, &tree).unwrap();
        assert_eq!(fs::read(tree.join("bin/run")).unwrap(), b"code");
        assert_eq!(fs::metadata(tree.join("bench/run")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read(tree.join("bench/src/a.c")).unwrap(), b"text");
    }

    #[test]
    fn names_that_lead_out_of_the_tree_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["..", "a/b", ""] {
            let rows = json!([[name, 0, 0, 0o040755, 0, 0, []]]);
            assert!(unpack(&rows, directory.path(), directory.path()).is_err(), "{name:?}");
        }
    }
}
