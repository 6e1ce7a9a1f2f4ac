//! System calls that the safe interfaces do not cover.

#![allow(unsafe_code, reason = "code between fork and exec, signal dispositions; two ioctls of /dev/urandom")]

use rustix::ioctl::{NoArg, Setter, ioctl, opcode};
use rustix::process::{Gid, Uid};
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Entropy passed to the kernel at once, in bytes.
pub const ENTROPY: usize = 256;

/// `struct rand_pool_info`.
#[repr(C)]
struct RandPoolInfo {
    /// In bits.
    entropy_count: i32,
    /// In bytes.
    size: i32,
    bytes: [u8; ENTROPY],
}

/// Mixes up to [`ENTROPY`] bytes into the kernel's pool and counts them as fully random.
pub fn add_entropy(random: &File, bytes: &[u8]) -> io::Result<()> {
    let length = bytes.len().min(ENTROPY);
    let mut info =
        RandPoolInfo { entropy_count: 8 * length as i32, size: length as i32, bytes: [0; ENTROPY] };
    if let (Some(to), Some(from)) = (info.bytes.get_mut(..length), bytes.get(..length)) {
        to.copy_from_slice(from);
    }
    // SAFETY: RNDADDENTROPY is `_IOW('R', 3, int[2])` and reads a `struct rand_pool_info`, of whose buffer it
    // takes `size` bytes, which is no more than there are.
    unsafe {
        let request = Setter::<{ opcode::write::<[i32; 2]>(b'R', 3) }, RandPoolInfo>::new(info);
        Ok(ioctl(random, request)?)
    }
}

/// Makes the kernel's generator take a new seed from the pool now.
pub fn reseed(random: &File) -> io::Result<()> {
    // SAFETY: RNDRESEEDCRNG is `_IO('R', 7)` and takes no argument.
    unsafe { Ok(ioctl(random, NoArg::<{ opcode::none(b'R', 7) }>::new())?) }
}

/// Signals that can be sent: those of `kill -l`.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// A shell that starts the service in the background makes it ignore SIGINT and SIGQUIT. Its commands would
/// inherit that, and cannot even change it if they are shells themselves.
fn default_signals() {
    for number in SIGNALS {
        // SAFETY: `signal` with SIG_DFL changes a kernel setting of this process and nothing in its memory. It
        // refuses SIGKILL, SIGSTOP and numbers that do not exist.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// Who a process is.
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// All other groups.
    pub groups: Vec<u32>,
}

/// Starts a command as the leader of a session and process group of its own, whose terminal is its standard
/// input if `terminal` says so.
pub fn spawn(command: &mut Command, terminal: bool, identity: Option<Identity>) -> io::Result<Child> {
    let identity = identity.map(|identity| {
        let groups: Vec<Gid> = identity.groups.into_iter().map(Gid::from_raw).collect();
        (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid), groups)
    });
    let prepare = move || {
        default_signals();
        rustix::process::setsid()?;
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        if let Some((uid, gid, groups)) = &identity {
            rustix::thread::set_thread_groups(groups)?;
            rustix::thread::set_thread_res_gid(*gid, *gid, *gid)?;
            rustix::thread::set_thread_res_uid(*uid, *uid, *uid)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made: `prepare` neither allocates nor locks, and all
    // it uses was made before the fork.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}
