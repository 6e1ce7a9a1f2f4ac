//! `vm.Mount9P`: a directory of the host, served over a channel.
//!
//! The kernel's 9P client talks to one end of a socket pair, the channel to the other. That needs no port and
//! no loopback interface, and nobody else can connect to it.

use super::{Service, files, reason, relay, respond, start};
use crate::cbor::Value;
use crate::link::{Channel, LinkError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Longest 9P message in bytes; Linux' own default.
const MESSAGE: u32 = 128 << 10;

/// Mounts that were begun, by path: the result, once there is one.
#[derive(Default)]
pub struct Mounts {
    state: Mutex<BTreeMap<String, Option<Result<(), String>>>>,
    changed: Condvar,
}

impl Mounts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Option<Result<(), String>>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, path: &str, result: Option<Result<(), String>>) {
        self.lock().insert(path.into(), result);
        self.changed.notify_all();
    }

    /// Waits until a mount that was begun is complete or has failed.
    pub fn wait(&self, path: &str) -> Result<(), String> {
        let mut state = self.lock();
        loop {
            match state.get(path) {
                None => return Err(format!("{path}: no mount was begun")),
                Some(Some(result)) => return result.clone(),
                Some(None) => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Answers `vm.Mount9P`.
pub fn mount(service: &Arc<Service>, channel: Arc<Channel>, argument: &Value) -> Result<(), LinkError> {
    let Some(path) = argument.as_text().map(files::clean) else {
        return super::reply(&channel, Err("the path is no text".into()));
    };
    let begun = begin(service, &path);
    let (ours, finished) = match begun {
        Ok(begun) => begun,
        Err(error) => return super::reply(&channel, Err(format!("mount {path}: {error}"))),
    };
    // The kernel either refuses at once or speaks first.
    let mut fds = [
        PollFd::from_borrowed_fd(ours.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(finished.as_fd(), PollFlags::IN),
    ];
    while let Err(rustix::io::Errno::INTR) = poll(&mut fds, None) {}
    let mut waiting = [PollFd::from_borrowed_fd(ours.as_fd(), PollFlags::IN)];
    let no_time = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let _ = poll(&mut waiting, Some(&no_time));
    if !waiting[0].revents().contains(PollFlags::IN) || rustix::io::ioctl_fionread(&ours) == Ok(0) {
        let result = service.mounts.wait(&path);
        let error = result.err().unwrap_or_else(|| "the kernel has nothing to say".into());
        return super::reply(&channel, Err(format!("mount {path}: {error}")));
    }
    let answered = respond(&channel, Ok(Value::Null), true);
    if answered.is_ok() {
        relay::couple_fd(&channel, ours);
    }
    // Without a server the mount could only give errors, and stand in the way of a new one.
    let _ = rustix::mount::unmount(path.as_str(), UnmountFlags::DETACH);
    answered
}

/// Starts mounting. Returns our end of the socket pair, and a file whose end comes when the kernel is done
/// with the call.
fn begin(service: &Arc<Service>, path: &str) -> Result<(OwnedFd, OwnedFd), String> {
    let told = |errno: rustix::io::Errno| reason(&io::Error::from(errno));
    files::make_all(path).map_err(|error| reason(&error))?;
    load_drivers();
    let (ours, kernels) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(told)?;
    let (finished, held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(told)?;
    service.mounts.set(path, None);
    let (service, path) = (service.clone(), path.to_owned());
    let mounting = start("mount", move || {
        let number = kernels.as_raw_fd();
        let options = format!("trans=fd,rfdno={number},wfdno={number},version=9p2000.L,msize={MESSAGE}");
        let result = CString::new(options).map_err(|_| "broken options".to_owned()).and_then(|options| {
            rustix::mount::mount("host", path.as_str(), "9p", MountFlags::empty(), options.as_c_str())
                .map_err(|errno| match errno {
                    rustix::io::Errno::NODEV => "the guest's kernel has no 9P file system".to_owned(),
                    other => told(other),
                })
        });
        service.mounts.set(&path, Some(result));
        // The kernel keeps the socket itself, this number is not needed any more.
        drop((kernels, held));
    });
    if mounting { Ok((ours, finished)) } else { Err("too many threads".into()) }
}

/// Loads the kernel's 9P client where it is a module. The kernel does so itself if it finds `modprobe`.
fn load_drivers() {
    let listed = |file: &str, word: &str| std::fs::read_to_string(file).is_ok_and(|text| text.contains(word));
    for (module, there) in
        [("9p", listed("/proc/filesystems", "9p")), ("9pnet_fd", listed("/proc/modules", "9pnet_fd "))]
    {
        if !there {
            let mut command = Command::new("modprobe");
            command.args(["-q", module]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let _ = command.status();
        }
    }
}

/// Answers `vm.Unmount`.
pub fn unmount(path: &str) -> Result<(), String> {
    rustix::mount::unmount(path, UnmountFlags::DETACH)
        .map_err(|errno| format!("umount {path}: {}", reason(&errno.into())))
}
