//! `env86 snapshot create`: a copy of the image's snapshot, or the image booted until it waits for input.

use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, ValueHint};
use serde_json::json;

use super::{Chosen, OutputArgs, choose};
use crate::cli::report::Reporter;
use crate::cli::start;
use crate::clock;
use crate::config::{self, BootConfig, BootOptions};
use crate::console::session::{End, Event, Input, Session};
use crate::error::{Error, one_line};
use crate::image::Image;
use crate::limits;
use crate::signals;
use crate::snapshot::locate;
use crate::snapshot::save::{self, Target};
use crate::vm::StopReason;

/// How long a guest may take to boot.
const TIMEOUT: Duration = Duration::from_secs(600);

/// How long a guest has to be idle and silent.
const LINGER: Duration = Duration::from_secs(1);

/// Flags and arguments of `snapshot create`.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// IMAGE:NAME; without a name, the snapshot that 'env86 boot IMAGE' starts from
    #[arg(value_hint = ValueHint::AnyPath)]
    image: OsString,

    /// Boot the image even if it has a snapshot to copy
    #[arg(long)]
    cold: bool,

    /// Replace a snapshot that is there
    #[arg(long)]
    force: bool,

    /// Compress the snapshot
    #[arg(long)]
    compress: bool,

    /// When booting: save when the guest has printed TEXT, instead of when it waits for input
    #[arg(long, value_name = "TEXT")]
    exit_on: Option<OsString>,

    /// When booting: give up after SECS seconds (600)
    #[arg(long, value_name = "SECS", value_parser = config::parse_seconds)]
    timeout: Option<Duration>,

    /// When booting: wait until the guest was idle and silent for SECS seconds (1)
    #[arg(long, value_name = "SECS", value_parser = config::parse_seconds)]
    linger: Option<Duration>,

    /// When booting: guest memory, e.g. 512M or 1G
    #[arg(long, value_name = "SIZE", value_parser = config::parse_memory)]
    memory: Option<u64>,

    /// When booting: add to the kernel command line
    #[arg(long, value_name = "TEXT")]
    append: Option<String>,

    /// When booting: show the guest's serial console on standard error
    #[arg(long)]
    show: bool,

    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn run(args: CreateArgs, reporter: Reporter) -> anyhow::Result<()> {
    let progress = args.output.progress();
    let Chosen { path, name } = choose(&args.image)?;
    let image = Image::open(&path, &progress).map_err(Error::from)?;
    let current = locate::current(&image).map_err(Error::from)?;
    let exists = match &name {
        Some(name) => locate::named(&image, name).is_some(),
        None => current.is_some(),
    };
    let what = name.as_ref().map_or_else(|| "a snapshot".to_owned(), |name| format!("a snapshot {name}"));
    anyhow::ensure!(
        args.force || !exists,
        "Cannot create the snapshot: {} has {what} already; --force replaces it",
        path.display()
    );
    if let Some(current) = current.filter(|_| name.is_some() && !args.cold) {
        let opened = current.open(&image).map_err(Error::from)?;
        let compressed = opened.compressed;
        if compressed == args.compress || !args.compress {
            save::verify(opened).map_err(Error::from)?;
            let target = name.as_ref().map(|name| Target::named(&image, name, Some(compressed)));
            let Some(target) = target.transpose().map_err(Error::from)? else { return Ok(()) };
            target.copy(current.stored(&image).map_err(Error::from)?, &progress).map_err(Error::from)?;
            tell(&args, &target, "copied");
            return Ok(());
        }
        anyhow::bail!("Cannot compress a snapshot that is only copied; --cold makes a new one");
    }
    let target = match &name {
        Some(name) => Target::named(&image, name, Some(args.compress)),
        None => Target::current(&image, args.compress.then_some(true)),
    };
    let target = target.and_then(|target| target.check().map(|()| target)).map_err(Error::from)?;
    boot(&args, &image, &target, reporter)?;
    tell(&args, &target, "created");
    Ok(())
}

fn tell(args: &CreateArgs, target: &Target, event: &str) {
    let file = target.path().display().to_string();
    args.output.done(&json!({ "event": event, "file": file }), &format!("{event}: {file}"));
}

fn boot(args: &CreateArgs, image: &Image, target: &Target, reporter: Reporter) -> anyhow::Result<()> {
    let exit_on = args.exit_on.clone().map(OsString::into_encoded_bytes).filter(|text| !text.is_empty());
    if exit_on.as_ref().is_some_and(|text| text.len() > limits::MAX_EXIT_PATTERN) {
        anyhow::bail!("Text for flag --exit-on is longer than {} bytes", limits::MAX_EXIT_PATTERN);
    }
    let options = BootOptions {
        memory: args.memory,
        append: args.append.clone(),
        timeout: Some(args.timeout.unwrap_or(TIMEOUT)),
        linger: Some(args.linger.unwrap_or(LINGER)),
        exit_on: exit_on.clone(),
        ..BootOptions::default()
    };
    let config: BootConfig = start::resolve(&options, image, None, reporter)?;
    let writer: Box<dyn Write + Send> = if args.show { Box::new(io::stderr()) } else { Box::new(io::sink()) };
    let session = Session::new(config.session.clone(), writer).map_err(Error::from)?;
    let vm = start::build(image, None, &config, &options.kernel, session.sink(), None, None, reporter)?;
    let sender = session.sender();
    let signals = signals::listen(move |signal| drop(sender.send(Event::Signal(signal))));
    let _signals = signals.map_err(Error::from)?;
    // The end of piped input means: until the guest waits for more.
    let input = if exit_on.is_some() { Input::Nothing } else { Input::Pipe(Box::new(io::empty())) };
    let begin = clock::now();
    let mut ended = session.run(vm, input, &|text| reporter.text(text)).map_err(Error::from)?;
    let seconds = clock::now().saturating_duration_since(begin).as_secs_f64();
    let why = match &ended.end {
        End::InputEnd | End::ExitPattern if ended.alive => None,
        End::Timeout(_) => Some(format!("the guest was not ready after {seconds:.0} s")),
        End::Signal(signal) => Some(format!("ended by signal {signal}")),
        End::Guest(StopReason::TripleFault) => Some("the guest crashed".to_owned()),
        End::OutputFailed(error) => Some(one_line(error)),
        _ => Some("the guest ended the run".to_owned()),
    };
    match (why, ended.runner.as_mut()) {
        (None, Some(runner)) => {
            target.save(&mut *runner.capture(), &args.output.progress()).map_err(Error::from)?;
            Ok(())
        }
        (why, _) => {
            let why = why.unwrap_or_default();
            anyhow::bail!("Cannot create the snapshot: {}: {why}", image.path().display())
        }
    }
}
