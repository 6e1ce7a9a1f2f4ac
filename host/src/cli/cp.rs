//! `env86 cp`: files and directories into a guest and out of it.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufReader, BufWriter, IsTerminal};
use std::path::Path;
use std::time::Duration;

use clap::{Args, ValueHint};

use super::report::{Reporter, size};
use crate::control::client::Client;
use crate::control::names::{Directory, Name};
use crate::control::{archive, copy};
use crate::error::{Error, one_line};

/// How long a guest may take to boot its service.
const BOOT_PATIENCE: Duration = Duration::from_secs(300);

/// Bytes of an archive read or written at once.
const PIECE: usize = 64 << 10;

const AFTER_HELP: &str = "\
One of the two is NAME:PATH, a path in the virtual machine of that name; a path on the host that has a
colon in it is written with a slash before ('./a:b'). What is copied to a directory that exists
goes into it under its own name; SOURCE/. means what is in the directory. Modes and times are
kept, links are copied as links. In the guest everything belongs to root, here to you.

With '-' for SOURCE a tar archive is read from standard input and unpacked into a directory of the
guest; with '-' for DESTINATION one is written to standard output. Archives keep owners.

    env86 cp program NAME:/usr/local/bin/
    env86 cp NAME:/var/log/. logs
    tar c . | env86 cp - NAME:/srv
    env86 cp NAME:/etc - | tar t";

/// Flags and arguments of `cp`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, args_override_self = true)]
pub struct CpArgs {
    /// What is copied; - for an archive on standard input
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    from: OsString,

    /// Where to; - for an archive on standard output
    #[arg(value_name = "DESTINATION", value_hint = ValueHint::AnyPath)]
    to: OsString,

    /// If SOURCE is a link, copy what it points to
    #[arg(long, short = 'L')]
    follow_link: bool,

    /// Errors, warnings and a summary as JSON lines on standard error
    #[arg(long)]
    json: bool,

    /// No warnings
    #[arg(long, short)]
    quiet: bool,
}

impl CpArgs {
    /// How this run reports.
    pub fn reporter(&self) -> Reporter {
        Reporter { json: self.json, quiet: self.quiet }
    }
}

/// The name and the path, if this is a path in a guest.
fn in_guest(text: &OsStr) -> Option<(&str, &str)> {
    let (name, path) = text.to_str()?.split_once(':')?;
    (!name.contains('/') && !name.starts_with('.')).then_some((name, path))
}

/// Copies. Returns the exit status.
///
/// # Errors
/// Whatever was not copied.
pub fn run(args: CpArgs, reporter: Reporter) -> anyhow::Result<u8> {
    let guest = |name: &str| -> anyhow::Result<_> {
        let name = Name::new(name).map_err(Error::from)?;
        let directory = Directory::open().map_err(Error::from)?;
        let client = Client::connect(&directory, &name).map_err(Error::from)?;
        Ok(client.guest(BOOT_PATIENCE).map_err(Error::from)?)
    };
    let follow = args.follow_link;
    let copied = match (in_guest(&args.from), in_guest(&args.to)) {
        (Some((name, from)), None) if args.to == "-" => {
            let mut output = io::stdout().lock();
            anyhow::ensure!(
                !output.is_terminal(),
                "Cannot write an archive to a terminal; redirect standard output"
            );
            let guest = guest(name)?;
            let mut output = BufWriter::with_capacity(PIECE, &mut output);
            archive::out_of_guest(&guest, from, &mut output, follow)
        }
        (None, Some((name, to))) if args.from == "-" => {
            let mut input = BufReader::with_capacity(PIECE, io::stdin().lock());
            archive::into_guest(&guest(name)?, &mut input, to)
        }
        (Some((name, from)), None) => copy::out_of_guest(&guest(name)?, from, Path::new(&args.to), follow),
        (None, Some((name, to))) => copy::into_guest(&guest(name)?, Path::new(&args.from), to, follow),
        (Some(_), Some(_)) => anyhow::bail!("Cannot copy from one virtual machine to another"),
        (None, None) => anyhow::bail!("Neither path is NAME:PATH, a path in a virtual machine"),
    };
    let copied = copied.map_err(|error| anyhow::anyhow!("Cannot copy {}", one_line(&error)))?;
    for path in &copied.left_out {
        reporter.warning(&format!("left out: {path} is no file, directory or link"));
    }
    if reporter.json {
        reporter.object(&serde_json::json!({
            "level": "info",
            "event": "copied",
            "entries": copied.entries,
            "bytes": copied.bytes,
            "size": size(copied.bytes),
        }));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_guests_have_a_name_before_the_colon() {
        let guest = |text| in_guest(OsStr::new(text)).map(|(name, path)| format!("{name} {path}"));
        assert_eq!(guest("vm:/etc"), Some("vm /etc".into()));
        assert_eq!(guest("vm:a:b"), Some("vm a:b".into()));
        for host in ["/etc", "./a:b", "/a:b", "a/b:c", "../x:y", "file"] {
            assert_eq!(guest(host), None, "{host}");
        }
    }
}
