//! Kernel and initial RAM disk in an image's own tree (`bzimage_initrd_from_filesystem`).
//!
//! Looked at are the files in `/`, then those in `/boot`, each in the tree's order. The path decides,
//! without regard to case: a kernel's contains `vmlinuz` or `bzimage`, a RAM disk's `initrd` or
//! `initramfs`. The last one counts, except that one with `old` or `fallback` in it counts only if it
//! comes first and no other follows.
//!
//! Symbolic links are not followed. They and directories are passed over, so that Debian's
//! `/vmlinuz` link does no harm.

use emu_devices::p9::fs::mode;

use super::fsjson::printable;
use super::overlay::Overlay;

/// Names listed in an error, at most.
const MAX_LISTED: usize = 40;

/// Paths of the files to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFiles {
    /// The kernel, to be read with [`Overlay::read_file`].
    pub kernel: Vec<u8>,
    /// The initial RAM disk.
    pub initrd: Vec<u8>,
}

/// Kernel or RAM disk is missing. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The image has no {missing} in / or /boot; there are: {listing}")]
pub struct NoBootFiles {
    /// Which of them.
    pub missing: &'static str,
    /// What is there instead.
    pub listing: String,
}

impl Overlay {
    /// Finds kernel and initial RAM disk.
    pub fn find_kernel_and_initrd(&self) -> Result<BootFiles, NoBootFiles> {
        let mut kernel = None;
        let mut initrd = None;
        let mut seen = Vec::new();
        for dir in ["/", "/boot/"] {
            for (name, file_mode) in self.list_dir(dir).unwrap_or_default() {
                let path = [dir.as_bytes(), &name].concat();
                seen.push(printable(&path));
                if file_mode & mode::TYPE != mode::REGULAR {
                    continue;
                }
                let lower = path.to_ascii_lowercase();
                let has = |word: &str| lower.windows(word.len()).any(|part| part == word.as_bytes());
                let is_old = has("old") || has("fallback");
                if (has("vmlinuz") || has("bzimage")) && (kernel.is_none() || !is_old) {
                    kernel = Some(path.clone());
                }
                if (has("initrd") || has("initramfs")) && (initrd.is_none() || !is_old) {
                    initrd = Some(path.clone());
                }
            }
        }
        let missing = match (kernel, initrd) {
            (Some(kernel), Some(initrd)) => return Ok(BootFiles { kernel, initrd }),
            (None, Some(_)) => "kernel (vmlinuz, bzImage)",
            (Some(_), None) => "initial RAM disk (initrd, initramfs)",
            (None, None) => "kernel (vmlinuz, bzImage) and initial RAM disk (initrd, initramfs)",
        };
        let more = if seen.len() > MAX_LISTED { ", …" } else { "" };
        seen.truncate(MAX_LISTED);
        Err(NoBootFiles { missing, listing: seen.join(", ") + more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tests::overlay;

    /// A tree of empty files; `dir/` and `link@` are what they look like.
    fn find(root: &[&str], boot: &[&str]) -> Result<(String, String), NoBootFiles> {
        let rows = |names: &[&str]| {
            let row = |name: &&str| match name.as_bytes() {
                [name @ .., b'/'] => format!("[\"{}\",0,0,16877,0,0,[]]", String::from_utf8_lossy(name)),
                [name @ .., b'@'] => format!("[\"{}\",1,0,41471,0,0,\"x\"]", String::from_utf8_lossy(name)),
                _ => format!("[\"{name}\",0,0,33188,0,0]"),
            };
            names.iter().map(row).collect::<Vec<_>>().join(",")
        };
        let mut all = rows(root);
        if !boot.is_empty() {
            all += &format!(
                "{}[\"boot\",0,0,16877,0,0,[{}]]",
                if all.is_empty() { "" } else { "," },
                rows(boot)
            );
        }
        let found =
            overlay(&format!("{{\"version\":3,\"size\":0,\"fsroot\":[{all}]}}")).find_kernel_and_initrd()?;
        Ok((String::from_utf8(found.kernel).unwrap(), String::from_utf8(found.initrd).unwrap()))
    }

    fn found(kernel: &str, initrd: &str) -> Result<(String, String), NoBootFiles> {
        Ok((kernel.into(), initrd.into()))
    }

    #[test]
    fn find_last_match_wins_over_earlier() {
        assert_eq!(
            find(&["vmlinuz", "initrd.img"], &["vmlinuz-6.1", "vmlinuz-6.6", "initrd.img-6.1"]),
            found("/boot/vmlinuz-6.6", "/boot/initrd.img-6.1")
        );
        assert_eq!(find(&["bzImage", "INITRAMFS.gz"], &[]), found("/bzImage", "/INITRAMFS.gz"));
    }

    #[test]
    fn find_old_counts_only_if_first_and_alone() {
        let boot = ["initramfs-lts", "initramfs-lts-fallback", "vmlinuz-lts", "vmlinuz-lts.old"];
        assert_eq!(find(&[], &boot), found("/boot/vmlinuz-lts", "/boot/initramfs-lts"));
        assert_eq!(find(&[], &["vmlinuz.old", "initrd.old"]), found("/boot/vmlinuz.old", "/boot/initrd.old"));
        assert_eq!(
            find(&[], &["vmlinuz.old1", "vmlinuz.old2", "vmlinuz", "vmlinuz.OLD", "initrd"]),
            found("/boot/vmlinuz", "/boot/initrd")
        );
        assert_eq!(
            find(&[], &["vmlinuz.old1", "vmlinuz.old2", "initrd"]),
            found("/boot/vmlinuz.old1", "/boot/initrd")
        );
    }

    #[test]
    fn find_links_and_directories_are_passed_over() {
        assert_eq!(
            find(&["initrd.img@", "vmlinuz@"], &["initrd.img-6", "vmlinuz-6", "initrd.d/", "vmlinuz-7@"]),
            found("/boot/vmlinuz-6", "/boot/initrd.img-6")
        );
        assert!(find(&["boot@", "vmlinuz@", "initrd"], &[]).is_err());
    }

    #[test]
    fn find_missing_tells_what_is_there() {
        let error = find(&["etc/", "initrd"], &["System.map"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "The image has no kernel (vmlinuz, bzImage) in / or /boot; there are: /etc, /initrd, /boot, /boot/System.map"
        );
        let many: Vec<String> = (0..100).map(|i| format!("file{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(find(&many, &[]).unwrap_err().listing.ends_with("/file39, …"));
    }
}
