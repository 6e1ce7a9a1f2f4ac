//! `HOST:GUEST[:ro|:overlay[=DIR]]` as people write it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::ShareError;

/// What the guest may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    #[default]
    ReadWrite,
    /// Look.
    ReadOnly,
    /// Everything, but what it writes is kept in memory and goes with the machine.
    Overlay,
    /// Everything, but what it writes goes into this directory of the host and stays there.
    OverlayIn(PathBuf),
}

/// What comes before the directory that keeps an overlay's writes.
const OVERLAY_IN: &[u8] = b":overlay=";

/// A directory of the host and its place in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Directory of the host.
    pub host: PathBuf,
    /// Absolute path in the guest.
    pub guest: String,
    /// What the guest may do.
    pub mode: Mode,
}

impl Spec {
    /// Reads `HOST:GUEST`, and `:ro`, `:rw`, `:overlay` or `:overlay=DIR` after it. What is the host's may have
    /// colons in it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(text: &OsStr) -> Result<Self, ShareError> {
        let wrong = |why| ShareError::Syntax { text: text.to_string_lossy().into_owned(), why };
        const FORM: &str = "expected HOST:GUEST or HOST:GUEST:ro";
        let bytes = text.as_bytes();
        let split = |bytes: &[u8]| {
            let at = bytes.iter().rposition(|byte| *byte == b':')?;
            let (before, after) = bytes.split_at_checked(at)?;
            Some((before.to_vec(), after.get(1..)?.to_vec()))
        };
        // The last one: a directory's name may have anything in it, also this.
        let option = memchr::memmem::rfind(bytes, OVERLAY_IN);
        let (bytes, writes) = match option.and_then(|at| bytes.split_at_checked(at)) {
            Some((before, after)) => (before, after.get(OVERLAY_IN.len()..)),
            None => (bytes, None),
        };
        let (mut host, mut guest) = split(bytes).ok_or_else(|| wrong(FORM))?;
        let mut mode = Mode::ReadWrite;
        if let Some(writes) = writes {
            if writes.is_empty() || writes.contains(&0) {
                return Err(wrong("overlay= needs the directory that keeps what the guest writes"));
            }
            mode = Mode::OverlayIn(PathBuf::from(OsStr::from_bytes(writes)));
        }
        if !guest.starts_with(b"/") && mode == Mode::ReadWrite {
            mode = match guest.as_slice() {
                b"ro" => Mode::ReadOnly,
                b"rw" => Mode::ReadWrite,
                b"overlay" => Mode::Overlay,
                _ => {
                    return Err(wrong(
                        "the directory in the guest must be an absolute path, options are ro, rw, overlay and overlay=DIR",
                    ));
                }
            };
            (host, guest) = split(&host).ok_or_else(|| wrong(FORM))?;
        }
        let guest = String::from_utf8(guest).map_err(|_| wrong("the directory in the guest is not UTF-8"))?;
        if host.is_empty() || !guest.starts_with('/') {
            return Err(wrong(FORM));
        }
        if guest.contains('\0') || guest.split('/').all(str::is_empty) {
            return Err(wrong("the guest's root directory is the image's"));
        }
        Ok(Self { host: PathBuf::from(OsStr::from_bytes(&host)), guest, mode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_is_read_from_its_end() {
        let spec = |text: &str| Spec::parse(OsStr::new(text)).map_err(|error| error.to_string());
        let is = |host: &str, guest: &str, mode| Ok(Spec { host: host.into(), guest: guest.into(), mode });
        assert_eq!(spec(".:/mnt"), is(".", "/mnt", Mode::ReadWrite));
        assert_eq!(spec("/a:/mnt:ro"), is("/a", "/mnt", Mode::ReadOnly));
        assert_eq!(spec("/a:b:/mnt/c d:rw"), is("/a:b", "/mnt/c d", Mode::ReadWrite));
        assert_eq!(spec("/a:/mnt:overlay"), is("/a", "/mnt", Mode::Overlay));
        let kept = |dir: &str| Mode::OverlayIn(dir.into());
        assert_eq!(spec("/a:/m:overlay=dir"), is("/a", "/m", kept("dir")));
        assert_eq!(spec("/a:b:/m:overlay=/c:/d"), is("/a:b", "/m", kept("/c:/d")));
        assert_eq!(spec("/a:overlay=x:/m:overlay=y"), is("/a:overlay=x", "/m", kept("y")));
        for text in [
            "",
            ":",
            "/a",
            "/a:",
            ":/mnt",
            "/a:mnt",
            "/a:/",
            "/a://",
            "/a:/mnt:rx",
            "/a:ro",
            "/a:overlay",
            "/a:/m:overlay=",
            "/a:m:overlay=x",
            "/m:overlay=x",
        ] {
            assert!(spec(text).is_err(), "{text} was accepted");
        }
    }
}
