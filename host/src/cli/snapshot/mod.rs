//! `env86 snapshot`: named snapshots of an image, and what is in them.

mod create;
mod show;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueHint};
use serde_json::json;

use super::print;
use super::report::Reporter;
use crate::error::Error;
use crate::image::Image;
use crate::paths;
use crate::progress::Progress;
use crate::snapshot::atomic;
use crate::snapshot::describe::{self, Loaded};
use crate::snapshot::locate::{self, EXTENSIONS, FOLDER, Name, Opened};
use crate::snapshot::save::{self, Target};
use crate::snapshot::{SnapshotFileError, locate::Entry};

const AFTER_HELP: &str = "\
An image has one snapshot that 'env86 boot IMAGE' starts from, and, if it is a directory, any number
of others under names: 'env86 boot IMAGE:NAME'. A path that exists is an image, whatever is in its
name.";

/// Arguments of `snapshot`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, subcommand_required = true)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a snapshot: a copy of the image's own, or of the booted image
    Create(create::CreateArgs),
    /// List an image's snapshots
    Ls(OneArgs),
    /// Make a named snapshot the one that 'env86 boot IMAGE' starts from
    Restore(RestoreArgs),
    /// Remove named snapshots
    Rm(RmArgs),
    /// Show what is different between two snapshots
    Diff(DiffArgs),
    /// Show what is in a snapshot
    Describe(OneArgs),
}

/// How much is printed.
#[derive(Clone, Copy, Debug, Args)]
struct OutputArgs {
    /// Result as JSON on standard output; errors and warnings as JSON lines on standard error
    #[arg(long)]
    json: bool,

    /// No warnings and notes
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// IMAGE or IMAGE:NAME; to describe, also a snapshot file
    #[arg(value_hint = ValueHint::AnyPath)]
    image: OsString,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct RestoreArgs {
    /// IMAGE:NAME
    #[arg(value_hint = ValueHint::AnyPath)]
    image: OsString,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct RmArgs {
    /// IMAGE:NAME, as many as you like
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    images: Vec<OsString>,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct DiffArgs {
    /// IMAGE, IMAGE:NAME or a snapshot file
    #[arg(value_hint = ValueHint::AnyPath)]
    before: OsString,

    /// The other one; without it, that of BEFORE's image
    #[arg(value_hint = ValueHint::AnyPath)]
    after: Option<OsString>,

    #[command(flatten)]
    output: OutputArgs,
}

impl OutputArgs {
    fn reporter(self) -> Reporter {
        Reporter { json: self.json, quiet: self.quiet }
    }

    fn progress(self) -> Progress {
        if self.json || self.quiet { Progress::hidden() } else { Progress::on_terminal() }
    }

    /// Prints a result: an object, or lines.
    fn show(self, object: &impl serde::Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        if self.json {
            print(&format!("{}\n", serde_json::to_string_pretty(object)?));
        } else {
            print(&text());
        }
        Ok(())
    }

    /// Prints a line about what was done.
    fn done(self, object: &serde_json::Value, text: &str) {
        if self.json {
            print(&format!("{object}\n"));
        } else if !self.quiet {
            print(&format!("{text}\n"));
        }
    }
}

impl SnapshotArgs {
    fn output(&self) -> OutputArgs {
        match &self.verb {
            Verb::Create(args) => args.output,
            Verb::Ls(args) | Verb::Describe(args) => args.output,
            Verb::Restore(args) => args.output,
            Verb::Rm(args) => args.output,
            Verb::Diff(args) => args.output,
        }
    }

    /// How this run reports.
    pub fn reporter(&self) -> Reporter {
        self.output().reporter()
    }
}

/// Runs the command. Returns the exit status.
///
/// # Errors
/// Whatever keeps it from being done.
pub fn run(args: SnapshotArgs) -> anyhow::Result<u8> {
    let (output, reporter) = (args.output(), args.reporter());
    match args.verb {
        Verb::Create(args) => create::run(args, reporter)?,
        Verb::Ls(args) => ls(&args, output)?,
        Verb::Restore(args) => restore(&args, output)?,
        Verb::Rm(args) => rm(&args, output)?,
        Verb::Diff(args) => diff(&args, output)?,
        Verb::Describe(args) => {
            let description = load(&args.image, output)?.describe();
            output.show(&description, || show::description(&description))?;
        }
    }
    Ok(0)
}

/// An argument, resolved.
struct Chosen {
    path: PathBuf,
    name: Option<Name>,
}

fn choose(argument: &OsString) -> Result<Chosen, Error> {
    let (path, name) = locate::resolve(argument, paths::home().as_deref())?;
    save::sweep(&path);
    Ok(Chosen { path, name })
}

/// The same, where a name must be given.
fn choose_named(argument: &OsString) -> anyhow::Result<(PathBuf, Name)> {
    let Chosen { path, name } = choose(argument)?;
    let wanted =
        || anyhow::anyhow!("Missing name of the snapshot: write {}:NAME", argument.to_string_lossy());
    Ok((path, name.ok_or_else(wanted)?))
}

/// True for a file that is no archive: a snapshot file named directly.
fn is_snapshot_file(path: &Path) -> bool {
    const GZIP: [u8; 2] = [0x1F, 0x8B];
    let mut magic = [0; 2];
    let read = File::open(path).and_then(|mut file| {
        let is_file = file.metadata()?.is_file();
        file.read_exact(&mut magic)?;
        Ok(is_file)
    });
    matches!(read, Ok(true)) && magic != GZIP
}

fn open(argument: &OsString, output: OutputArgs) -> anyhow::Result<Opened> {
    let Chosen { path, name } = choose(argument)?;
    if name.is_none() && is_snapshot_file(&path) {
        return Ok(locate::open_file(&path).map_err(Error::from)?);
    }
    let image = Image::open(&path, &output.progress()).map_err(Error::from)?;
    let found = locate::find(&image, name.as_ref()).map_err(Error::from)?;
    let none = || Error::from(SnapshotFileError::None { image: path.clone() });
    Ok(found.ok_or_else(none)?.open(&image).map_err(Error::from)?)
}

fn load(argument: &OsString, output: OutputArgs) -> anyhow::Result<Loaded> {
    Ok(describe::load(open(argument, output)?).map_err(Error::from)?)
}

fn ls(args: &OneArgs, output: OutputArgs) -> anyhow::Result<()> {
    let Chosen { path, name } = choose(&args.image)?;
    anyhow::ensure!(name.is_none(), "Cannot list a single snapshot: name the image, or use 'describe'");
    let image = Image::open(&path, &output.progress()).map_err(Error::from)?;
    let mut rows = Vec::new();
    if let Some(found) = locate::current(&image).map_err(Error::from)? {
        let modified = fs::metadata(found.path(&image)).and_then(|meta| meta.modified()).ok();
        rows.push(show::Row::new(None, found.path(&image), modified, found.open(&image)));
    }
    for Entry { name, path, modified, .. } in locate::list(image.path()) {
        let opened = locate::open_file(&path);
        rows.push(show::Row::new(Some(name), path, modified, opened));
    }
    output.show(&json!({ "image": path.display().to_string(), "snapshots": rows }), || show::table(&rows))
}

fn restore(args: &RestoreArgs, output: OutputArgs) -> anyhow::Result<()> {
    let (path, name) = choose_named(&args.image)?;
    let progress = output.progress();
    let image = Image::open(&path, &progress).map_err(Error::from)?;
    let found = locate::find(&image, Some(&name)).map_err(Error::from)?;
    let none = || Error::from(SnapshotFileError::None { image: path.clone() });
    let found = found.ok_or_else(none)?;
    let opened = found.open(&image).map_err(Error::from)?;
    let compressed = opened.compressed;
    // A damaged one must not take the place of a good one.
    save::verify(opened).map_err(Error::from)?;
    let target = Target::current(&image, Some(compressed)).map_err(Error::from)?;
    let stored = found.stored(&image).map_err(Error::from)?;
    target.copy(stored, &progress).map_err(Error::from)?;
    let file = target.path().display().to_string();
    output.done(
        &json!({ "event": "restored", "name": name.as_str(), "file": file }),
        &format!("{name} is what {} starts from now", path.display()),
    );
    Ok(())
}

fn rm(args: &RmArgs, output: OutputArgs) -> anyhow::Result<()> {
    // All names are looked at before anything is removed.
    let mut doomed = Vec::new();
    for argument in &args.images {
        let (path, name) = choose_named(argument)?;
        let image = Image::open(&path, &output.progress()).map_err(Error::from)?;
        locate::find(&image, Some(&name)).map_err(Error::from)?;
        doomed.push((path.join(FOLDER), name));
    }
    for (folder, name) in doomed {
        // The one that is not preferred first: otherwise it would take the other one's place.
        for end in EXTENSIONS.iter().rev() {
            let file = folder.join(format!("{name}{end}"));
            match fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(
                        anyhow::Error::from(error).context(format!("Cannot remove {}", file.display()))
                    );
                }
                _ => {}
            }
        }
        // It is gone either way; this only says when it will stay gone.
        let _ = atomic::sync_directory(&folder);
        output.done(&json!({ "event": "removed", "name": name.as_str() }), &format!("{name} is removed"));
    }
    Ok(())
}

fn diff(args: &DiffArgs, output: OutputArgs) -> anyhow::Result<()> {
    let after = match &args.after {
        Some(after) => after.clone(),
        None => {
            let (path, _) = choose_named(&args.before)?;
            path.into_os_string()
        }
    };
    let (before, after) = (load(&args.before, output)?, load(&after, output)?);
    let difference = before.compare(&after);
    output.show(&difference, || show::difference(&difference))
}
