//! From an image to a machine: what `boot` and `snapshot create` have in common.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use emu_core::snapshot::slots;
use emu_devices::p9::{Server, fs::Time};
use emu_devices::virtio::p9::P9Handler;

use super::report::Reporter;
use crate::clock;
use crate::config::{BootConfig, BootOptions};
use crate::console::ConsoleError;
use crate::control::endpoint::Endpoint;
use crate::control::message::Status;
use crate::control::names::{Directory, Name};
use crate::control::server;
use crate::error::{Error, one_line};
use crate::fs::overlay::OverlayOptions;
use crate::image::kernel_source::{self, GuestTree, Kernel, KernelFlags};
use crate::image::{Image, tree};
use crate::progress::Progress;
use crate::run::{Ready, install};
use crate::snapshot::locate::Opened;
use crate::vm::{self, Boot, LinuxBoot, SerialSink, Start, Vm, VmSpec};

/// For those who have nobody to report to.
pub(crate) fn silent() -> Reporter {
    Reporter { json: false, quiet: true }
}

/// Resolves flags and image, with warnings.
pub(crate) fn resolve(
    options: &BootOptions,
    image: &Image,
    opened: Option<&Opened>,
    reporter: Reporter,
) -> anyhow::Result<BootConfig> {
    let (config, warnings) = BootConfig::resolve(options, image, opened.is_some()).map_err(Error::from)?;
    for warning in warnings {
        reporter.warning(&warning);
    }
    let saved = opened.and_then(|opened| opened.reader.memory_size().ok());
    if let (Some(saved), Some(asked)) = (saved, config.asked_memory)
        && saved != asked
    {
        reporter.warning(&format!(
            "the snapshot's guest has {} MiB of memory, not {} MiB; --cold starts with another size",
            saved >> 20,
            asked >> 20
        ));
    }
    Ok(config)
}

/// Builds the machine: from a snapshot, or with the image's kernel. In the latter case `service` is put into
/// the guest's tree.
pub(crate) fn build(
    image: &Image,
    opened: Option<Opened>,
    config: &BootConfig,
    flags: &KernelFlags,
    console: Box<dyn SerialSink>,
    shares: Option<Box<dyn P9Handler>>,
    service: Option<&[u8]>,
    reporter: Reporter,
) -> anyhow::Result<Vm> {
    let spec = spec(image, opened, config, flags, console, shares, service, reporter)?;
    Ok(vm::build(spec).map_err(Error::from)?)
}

/// What the machine is built of.
pub(super) fn spec(
    image: &Image,
    opened: Option<Opened>,
    config: &BootConfig,
    flags: &KernelFlags,
    console: Box<dyn SerialSink>,
    shares: Option<Box<dyn P9Handler>>,
    service: Option<&[u8]>,
    reporter: Reporter,
) -> anyhow::Result<VmSpec> {
    let clock = vm::wall_clock(config.clock);
    let file_options = OverlayOptions::new(
        Box::new(move || {
            let now = clock();
            Time { sec: now.as_secs() as i64, nsec: now.subsec_nanos() }
        }),
        Box::new(move |message| reporter.warning(message)),
    );
    let mut memory_size = config.memory_size;
    let (files, start) = match opened {
        Some(opened) => {
            // The index is not read: the snapshot has the tree.
            let has_files = !opened.reader.state().get(slots::VIRTIO_9P).is_null();
            let files = has_files.then(|| tree::open_empty(image, file_options)).transpose();
            let (path, flags, cmdline) = (image.path().to_owned(), flags.clone(), config.cmdline.clone());
            let reboot = move || reboot(&path, &flags, cmdline.clone());
            let start = Start::Snapshot { opened: Box::new(opened), reboot: Box::new(reboot) };
            (files.map_err(Error::from)?, start)
        }
        None => {
            let mut files = tree::open(image, file_options).map_err(Error::from)?;
            if let (Some(files), Some(service)) = (&mut files, service) {
                install::install(files, service).map_err(Error::from)?;
            }
            let guest_tree = files.as_mut().map(|files| files as &mut dyn GuestTree);
            let kernel = kernel_source::load(flags, image, guest_tree).map_err(Error::from)?;
            memory_size = config.memory_size_with(kernel.initrd.is_some());
            let Kernel { kernel, initrd, origin } = kernel;
            let boot = LinuxBoot { kernel, initrd, cmdline: config.cmdline.clone() };
            (files, Start::Kernel { boot, origin })
        }
    };
    Ok(VmSpec {
        memory_size,
        preserve_mac: config.preserve_mac,
        network_card: config.network_card,
        network: config.network,
        #[cfg(target_os = "linux")]
        cable: None,
        vga_memory_size: config.vga_memory_size,
        acpi: config.acpi,
        uarts: config.uarts,
        cpuid_level: config.cpuid_level,
        start,
        filesystem: files.map(|files| Box::new(Server::new(Box::new(files))) as Box<dyn P9Handler>),
        shares,
        clock: config.clock,
        engine: config.engine,
        translator: config.translator,
        console,
    })
}

/// What a guest that came from a snapshot reboots into: the image is opened again, because what it booted
/// from was not needed until now.
fn reboot(image: &Path, flags: &KernelFlags, cmdline: String) -> Result<Boot, String> {
    let load = || -> Result<Kernel, Error> {
        let image = Image::open(image, &Progress::hidden())?;
        let options = OverlayOptions::new(Box::new(Time::default), Box::new(|_| {}));
        let mut files = tree::open(&image, options)?;
        let files = files.as_mut().map(|files| files as &mut dyn GuestTree);
        Ok(kernel_source::load(flags, &image, files)?)
    };
    let Kernel { kernel, initrd, .. } = load().map_err(|error| one_line(&error))?;
    Ok(Boot::Linux(LinuxBoot { kernel, initrd, cmdline }))
}

/// Takes a name for a machine.
pub(super) fn claim(name: &str) -> anyhow::Result<(Directory, Endpoint)> {
    let name = Name::new(name).map_err(Error::from)?;
    let directory = Directory::open().map_err(Error::from)?;
    let endpoint = Endpoint::claim(&directory, &name).map_err(Error::from)?;
    Ok((directory, endpoint))
}

/// Lets other processes use a machine that has a name.
pub(super) fn serve(
    endpoint: &Endpoint,
    vm: &Vm,
    image: &Path,
    command: &[OsString],
    log: Option<&Path>,
    ready: Arc<Ready>,
    stop: Box<dyn Fn(Duration) + Send + Sync>,
) -> anyhow::Result<()> {
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let status = Status {
        name: endpoint.name().as_str().to_owned(),
        pid: std::process::id(),
        image: whole(image),
        command: command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        started: clock::wall().as_secs(),
        log: log.map(whole),
    };
    let machine = server::Machine { status, service: vm.service.clone(), restored: vm.restored, ready, stop };
    server::start(endpoint, machine).map_err(|error| Error::from(ConsoleError::Thread(error)).into())
}
