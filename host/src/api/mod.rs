//! Virtual machines in other Rust programs.
//!
//! [`VmBuilder`] opens an image and starts it, from its snapshot if it has one; [`Vm`] is the machine, which ends
//! with it; [`Console`] is its serial console, and [`Guest`] the service inside it, for commands and files.
//! The command line is made of the same parts; [`crate::vm`] has the machine without a thread around it.
//!
//! ```no_run
//! use host::{Command, VmBuilder};
//!
//! let vm = VmBuilder::new("images/debian").memory(512 << 20).start()?;
//! let guest = vm.guest()?;
//! guest.write_file("/root/input", b"3\n1\n2\n")?;
//! let sorted = guest.output(&Command {
//!     name: "sort".into(),
//!     args: vec!["/root/input".into()],
//!     ..Command::default()
//! })?;
//! assert_eq!((sorted.status, &sorted.stdout[..]), (0, &b"1\n2\n3\n"[..]));
//! vm.stop();
//! # Ok::<(), host::ApiError>(())
//! ```

mod console;
mod guest;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

pub use console::Console;
pub use guest::{CommandOutput, Guest};

use crate::cli::start;
use crate::config::BootOptions;
use crate::console::ConsoleError;
use crate::error::Error;
use crate::image::Image;
use crate::paths;
use crate::progress::Progress;
use crate::rpc::wire::Service;
use crate::rpc::{Deadline, RpcError};
use crate::run::tail::Tail;
use crate::shares::{self, Spec};
use crate::snapshot::locate;
use crate::vm::{self, StopReason};

/// How long a machine may take to stop when told, and how often it is told.
const STOP: Duration = Duration::from_secs(10);
const STOP_EVERY: Duration = Duration::from_millis(50);

/// How long a guest may take to boot its service, unless the builder says something else.
const PATIENCE: Duration = Duration::from_secs(300);

/// Why a machine, or something in it, does not work.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Image, snapshot, configuration or machine.
    #[error(transparent)]
    Machine(#[from] Error),
    /// The machine cannot be made; `anyhow` has the chain of causes.
    #[error("{0:#}")]
    Start(anyhow::Error),
    /// The guest service.
    #[error(transparent)]
    Guest(#[from] RpcError),
    /// A directory of the host could not be mounted.
    #[error("Cannot mount in the guest: {0}")]
    Mount(String),
}

/// What a machine is made of.
///
/// ```
/// let error = host::VmBuilder::new("/no/such/image").start().err().unwrap();
/// assert!(error.to_string().contains("/no/such/image"));
/// ```
#[derive(Clone, Debug)]
pub struct VmBuilder {
    image: PathBuf,
    cold: bool,
    options: BootOptions,
    mounts: Vec<Spec>,
    patience: Duration,
}

impl VmBuilder {
    /// A machine of an image: a directory, an archive, or a name in the store; `IMAGE:NAME` for a snapshot with
    /// a name.
    pub fn new(image: impl AsRef<Path>) -> Self {
        Self {
            image: image.as_ref().to_owned(),
            cold: false,
            options: BootOptions::default(),
            mounts: Vec::new(),
            patience: PATIENCE,
        }
    }

    /// Guest memory in bytes, if the image boots.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.options.memory = Some(bytes);
        self
    }

    /// Boots the image, whether or not it has a snapshot.
    #[must_use]
    pub fn cold(mut self, cold: bool) -> Self {
        self.cold = cold;
        self
    }

    /// Everything that can be set for a boot.
    #[must_use]
    pub fn options(mut self, options: BootOptions) -> Self {
        self.options = options;
        self
    }

    /// Shows a directory of the host in the guest, once its service is there.
    #[must_use]
    pub fn mount(mut self, spec: Spec) -> Self {
        self.mounts.push(spec);
        self
    }

    /// How long the guest may take to boot its service.
    #[must_use]
    pub fn patience(mut self, time: Duration) -> Self {
        self.patience = time;
        self
    }

    /// Builds the machine and lets it run.
    ///
    /// # Errors
    /// Whatever is wrong with image, snapshot or settings.
    pub fn start(self) -> Result<Vm, ApiError> {
        let quiet = start::silent();
        let (path, name) =
            locate::resolve(self.image.as_os_str(), paths::home().as_deref()).map_err(Error::from)?;
        let image = Image::open(&path, &Progress::hidden()).map_err(Error::from)?;
        let found = match self.cold {
            true => None,
            false => locate::find(&image, name.as_ref()).map_err(Error::from)?,
        };
        let opened = found.map(|found| found.open(&image)).transpose().map_err(Error::from)?;
        let config =
            start::resolve(&self.options, &image, opened.as_ref(), quiet).map_err(ApiError::Start)?;
        let server = match self.mounts.is_empty() {
            true => None,
            false => {
                let mounts = shares::Mounts::open(&self.mounts, || Box::new(|_| {})).map_err(Error::from)?;
                Some(Box::new(emu_devices::p9::Server::new(Box::new(mounts))) as _)
            }
        };
        let tail = Tail::default();
        let output = tail.listen_loosely();
        let kernel = &self.options.kernel;
        let built = start::build(&image, opened, &config, kernel, tail.sink(), server, None, quiet);
        let vm::Vm { mut runner, guest, service, restored, .. } = built.map_err(ApiError::Start)?;
        let (sender, stopped) = channel();
        let body = move || {
            // Nobody listens any more when the machine has been dropped.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(|| runner.run())).ok());
        };
        let thread = thread::Builder::new().name("vcpu".to_owned()).stack_size(vm::VCPU_STACK).spawn(body);
        thread.map_err(|error| Error::from(ConsoleError::Thread(error)))?;
        Ok(Vm {
            console: Console::new(guest.clone(), output),
            guest,
            service,
            restored,
            stopped,
            mounts: self.mounts,
            patience: self.patience,
        })
    }
}

/// A machine that runs. Dropping it stops it.
///
/// ```
/// # // A program in place of a kernel: it prints "ok" on COM1 and halts for good.
/// # let dir = tempfile::tempdir()?;
/// # let end = 0x10_0000 + 32 + 13;
/// # let header = [0x1bad_b002_u32, 0x1_0000, 0_u32.wrapping_sub(0x1bad_b002 + 0x1_0000), 0x10_0000, 0x10_0000, end, end, 0x10_0020];
/// # let mut kernel: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
/// # kernel.extend([0x66, 0xba, 0xf8, 0x03, 0xb0, b'o', 0xee, 0xb0, b'k', 0xee, 0xf4, 0xeb, 0xfd]);
/// # std::fs::write(dir.path().join("kernel"), kernel)?;
/// # std::fs::write(dir.path().join("image.json"), r#"{"multiboot": {"url": "./kernel"}, "memory_size": 2097152}"#)?;
/// # let image = dir.path();
/// use std::time::Duration;
/// use host::{VmBuilder, vm::StopReason};
///
/// let mut vm = VmBuilder::new(image).start()?;
/// let printed = vm.console().wait_for("ok", Duration::from_secs(10));
/// assert_eq!(printed.as_deref(), Some(&b"ok"[..]));
/// assert_eq!(vm.wait(Duration::from_secs(10)), Some(StopReason::Halted));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Vm {
    guest: Arc<dyn vm::Guest>,
    service: Option<Service>,
    restored: bool,
    stopped: Receiver<Option<StopReason>>,
    console: Console,
    mounts: Vec<Spec>,
    patience: Duration,
}

impl Vm {
    /// The serial console.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// The service in the guest, when it is there; a restored guest has its clock set then, and directories
    /// are mounted.
    ///
    /// # Errors
    /// There is no service, or a directory cannot be mounted.
    pub fn guest(&self) -> Result<Guest, ApiError> {
        let service = self.service.as_ref().ok_or(RpcError::NoService)?;
        if !service.wait_open(self.restored, Deadline::after(self.patience)) {
            return Err(RpcError::NoService.into());
        }
        let guest = service.guest();
        guest.attach(Deadline::after(self.patience))?;
        if self.restored {
            // What it cannot do is no reason not to use it.
            let _ = service.freshen(Deadline::after(STOP));
        }
        crate::run::mount(guest, &self.mounts).map_err(ApiError::Mount)?;
        Ok(Guest::new(guest.clone()))
    }

    /// Waits until the machine stops by itself; `None` if it has not until then, or not in an orderly way.
    pub fn wait(&self, time: Duration) -> Option<StopReason> {
        self.stopped.recv_timeout(time).ok().flatten()
    }

    /// Stops the machine. What the guest has not written yet is lost.
    pub fn stop(self) {
        drop(self);
    }

    fn end(&mut self) {
        for _ in 0..STOP.as_millis() / STOP_EVERY.as_millis() {
            self.guest.stop();
            match self.stopped.recv_timeout(STOP_EVERY) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.end();
    }
}

impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> Self {
        Self::Guest(RpcError::Host(error))
    }
}
