//! `HOST:GUEST[:ro|:overlay]` as people write it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::ShareError;

/// What the guest may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    #[default]
    ReadWrite,
    /// Look.
    ReadOnly,
    /// Everything, but what it writes is kept in memory and goes with the machine.
    Overlay,
}

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
    /// Reads `HOST:GUEST`, and `:ro`, `:rw` or `:overlay` after it. The host's part may have colons in it.
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
        let (mut host, mut guest) = split(bytes).ok_or_else(|| wrong(FORM))?;
        let mut mode = Mode::ReadWrite;
        if !guest.starts_with(b"/") {
            mode = match guest.as_slice() {
                b"ro" => Mode::ReadOnly,
                b"rw" => Mode::ReadWrite,
                b"overlay" => Mode::Overlay,
                option if option.starts_with(b"overlay=") => {
                    return Err(wrong(
                        "writes of an overlay mount are kept in memory only, a directory cannot be named; copy \
                         what is to stay with 'env86 cp', or mount a copy of the directory",
                    ));
                }
                _ => {
                    return Err(wrong(
                        "the directory in the guest must be an absolute path, options are ro, rw and overlay",
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
        assert!(spec("/a:/m:overlay=dir").unwrap_err().contains("kept in memory only"));
        for text in
            ["", ":", "/a", "/a:", ":/mnt", "/a:mnt", "/a:/", "/a://", "/a:/mnt:rx", "/a:ro", "/a:overlay"]
        {
            assert!(spec(text).is_err(), "{text} was accepted");
        }
    }
}
