//! Who takes part, and how each is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use super::image::GuestImage;
use crate::peers::V86Peer;
use crate::workspace::{self, output};

/// A contestant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The same programs on the host's CPU, in a changed root: the limit.
    Native,
    /// env86 with its default engine.
    Env86,
    /// QEMU's translator (TCG), the whole system.
    Qemu,
    /// npm's v86 with its JIT, under Node.
    V86,
}

impl Engine {
    /// Name in reports and for `--peer`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Env86 => "env86",
            Self::Qemu => "qemu",
            Self::V86 => "v86",
        }
    }
}

/// What is needed to start any of them.
pub struct Contestants {
    /// Who is there, with its version. env86 is; the order is that of the report.
    pub present: Vec<(Engine, String)>,
    /// Who is not, and why.
    pub missing: Vec<(Engine, String)>,
    /// env86's binary.
    pub env86: PathBuf,
    v86: Option<V86Peer>,
}

impl Contestants {
    /// Finds those in `wanted`.
    ///
    /// # Errors
    /// env86 cannot be built.
    pub fn find(wanted: &[Engine], v86_directory: Option<&Path>) -> Result<Self> {
        let env86 = workspace::env86_binary()?;
        let version = output(Command::new(&env86).arg("--version"))?.trim().to_owned();
        let mut found =
            Self { present: vec![(Engine::Env86, version)], missing: Vec::new(), env86, v86: None };
        for &engine in wanted {
            let version = match engine {
                Engine::Env86 => continue,
                Engine::Native => native_version(),
                Engine::Qemu => qemu_version(),
                Engine::V86 => {
                    V86Peer::find(v86_directory).map(|peer| found.v86.insert(peer).version.clone())
                }
            };
            match version {
                Ok(version) => found.present.push((engine, version)),
                Err(error) => found.missing.push((engine, format!("{error:#}"))),
            }
        }
        found.present.sort();
        Ok(found)
    }

    /// Names of those who are there.
    pub fn engines(&self) -> Vec<Engine> {
        self.present.iter().map(|(engine, _)| *engine).collect()
    }

    /// The guest's console on the standard streams, from power-on; for [`Engine::Native`], its agent.
    ///
    /// # Errors
    /// The guest has no kernel; v86 was not found.
    pub fn start(&self, engine: Engine, guest: &GuestImage) -> Result<Command> {
        Ok(match engine {
            Engine::Env86 => {
                let mut command = bound(&self.env86);
                command.args(["boot", "--ttyS0", "--no-console", "--cold"]).arg(&guest.image);
                command
            }
            Engine::V86 => {
                let node = self.v86.as_ref().context("v86 is missing")?.node(&script());
                let mut command = bound(Path::new(node.get_program()));
                command.args(node.get_args());
                command.args(["--cold", "--interactive", "--timeout", "86400", "--image"]).arg(&guest.image);
                command
            }
            Engine::Qemu => qemu(guest)?,
            Engine::Native => {
                let mut command = bound(Path::new("unshare"));
                command.arg("--mount");
                // Without root rights, a namespace in which the user is root does.
                if !is_root() {
                    command.args(["--user", "--map-root-user"]);
                }
                command.args(["sh", "-c", CHANGE_ROOT, "sh"]).arg(&guest.tree);
                command
            }
        })
    }
}

/// Runs the guest's agent on the host. What is mounted is gone with the process.
const CHANGE_ROOT: &str = "mount --rbind /dev \"$1/dev\" && mount --rbind /proc \"$1/proc\" && \
    mount -t tmpfs tmpfs \"$1/tmp\" && exec chroot \"$1\" /bin/sh /bench/agent";

fn script() -> PathBuf {
    workspace::root().join("xtask/js/v86.mjs")
}

/// A command that is killed when this process ends, however it ends: a stopped one would stay forever.
fn bound(program: &Path) -> Command {
    if !Path::new("/usr/bin/setpriv").is_file() {
        return Command::new(program);
    }
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|text| text.trim() == "0")
}

fn native_version() -> Result<String> {
    output(Command::new("unshare").arg("--version"))
        .context("the native runs need `unshare` (util-linux)")?;
    Ok(format!("Linux {}", output(Command::new("uname").arg("-r"))?.trim()))
}

fn qemu_version() -> Result<String> {
    let text = output(Command::new("qemu-system-i386").arg("--version"))
        .context("`cargo xtask peers` installs QEMU (Debian: qemu-system-x86)")?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// One processor as in the others, the same memory, kernel, initial RAM disk, command line and root.
fn qemu(guest: &GuestImage) -> Result<Command> {
    let (kernel, initrd) = guest.kernel()?;
    let memory = guest.settings["memory_size"].as_u64().context("memory_size in image.json")?;
    let mut command = bound(Path::new("qemu-system-i386"));
    command.args(["-M", "pc", "-accel", "tcg,tb-size=512", "-smp", "1", "-display", "none", "-nic", "none"]);
    command.args(["-no-user-config", "-monitor", "none", "-serial", "stdio", "-no-reboot"]);
    command.args(["-m", &format!("{}M", memory >> 20)]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    command.args(["-append", guest.settings["cmdline"].as_str().context("cmdline in image.json")?]);
    let mut share =
        std::ffi::OsString::from("local,mount_tag=host9p,security_model=none,multidevs=remap,path=");
    share.push(&guest.tree);
    command.arg("-virtfs").arg(share);
    Ok(command)
}
