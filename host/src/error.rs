//! Every error of this crate, and how the command line shows it.

use std::error::Error as StdError;

use crate::config::ConfigError;
use crate::console::ConsoleError;
use crate::image::ImageError;
use crate::image::kernel_source::KernelError;
use crate::image::tree::TreeError;
use crate::limits::MAX_MESSAGE;
use crate::snapshot::SnapshotFileError;
use crate::vm::VmError;

/// Exit status for errors of env86 itself.
pub const FAILURE: u8 = 1;

/// An error of any module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The guest's file tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Kernel and initrd.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotFileError),
    /// Flags and `image.json` do not make a machine.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The machine.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// The terminal.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// A directory of the host.
    #[cfg(unix)]
    #[error(transparent)]
    Share(#[from] crate::shares::ShareError),
    /// The guest's network.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Net(#[from] crate::net::NetError),
    /// The guest service, put into a guest.
    #[error(transparent)]
    Install(#[from] crate::run::install::InstallError),
    /// A machine with a name.
    #[cfg(unix)]
    #[error(transparent)]
    Control(#[from] crate::control::ControlError),
    /// A command that a later version brings.
    #[error("Cannot {what}: not available yet in this version")]
    NotYet {
        /// What, as a verb.
        what: String,
        /// What to do instead.
        hint: Option<&'static str>,
    },
}

impl Error {
    /// What the user can try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Image(error) => error.hint(),
            Self::Tree(error) => error.hint(),
            Self::Kernel(error) => error.hint(),
            Self::Snapshot(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::NotYet { hint, .. } => hint.map(str::to_owned),
            Self::Vm(error) => error.hint(),
            Self::Console(_) => None,
            #[cfg(unix)]
            Self::Share(_) => None,
            #[cfg(target_os = "linux")]
            Self::Net(crate::net::NetError::Listen { .. }) => {
                Some("choose another port; 0 takes a free one".to_owned())
            }
            #[cfg(target_os = "linux")]
            Self::Net(_) => None,
            Self::Install(error) => error.hint(),
            #[cfg(unix)]
            Self::Control(error) => error.hint(),
        }
    }
}

/// An error and its causes on one line, safe to print: what comes from files and file names has
/// its control characters escaped and is cut if it is very long.
pub fn one_line(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // `transparent` errors have the text of their cause.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    printable(&text)
}

/// Text without control characters. If it is longer than [`MAX_MESSAGE`] its middle is left out:
/// the beginning says what failed, the end says why.
pub fn printable(text: &str) -> String {
    let len = text.chars().count();
    let tail = MAX_MESSAGE / 4;
    let left_out = if len > MAX_MESSAGE { MAX_MESSAGE - tail..len - tail } else { 0..0 };
    let mut out = String::with_capacity(text.len().min(MAX_MESSAGE));
    for (at, c) in text.chars().enumerate() {
        if left_out.contains(&at) {
            if at == left_out.start {
                out.push('…');
            }
            continue;
        }
        match c {
            // Bidirectional overrides can make a line read as something else.
            '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => out.extend(c.escape_unicode()),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn one_line_has_causes_once() {
        let io = io::Error::new(io::ErrorKind::NotFound, "gone");
        let error = Error::from(ImageError::Open { path: "a".into(), source: io });
        assert_eq!(one_line(&error), "Cannot open the image: a: gone");
    }

    #[test]
    fn printable_keeps_hostile_text_on_its_line() {
        assert_eq!(printable("a\nb\x1b[2Jc\u{9b}é\u{202e}"), r"a\nb\u{1b}[2Jc\u{9b}é\u{202e}");
        let long = printable(&format!("begin {} end", "x".repeat(MAX_MESSAGE)));
        assert_eq!(long.chars().count(), MAX_MESSAGE + 1);
        assert!(long.starts_with("begin x") && long.contains("x…x") && long.ends_with("x end"));
    }
}
