//! The line to the host.

use super::{Service, start};
use crate::link::{Link, LinkError, forever};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, tcgetattr,
    tcsetattr,
};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// Silence inside a frame after which a new session may begin: no host pauses there, but a machine may have
/// been saved there.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What the terminal driver gives at most in one read.
const READ: usize = 4096;

/// Speed of the line. An emulated one need not keep to it.
const BAUD: u32 = 115_200;

/// Opens a terminal for transparent 8-bit traffic. It does not become our controlling terminal.
pub fn open_terminal(path: &Path) -> io::Result<OwnedFd> {
    // Without NONBLOCK, opening would wait for a carrier.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(path, flags, Mode::empty())?;
    let mut attributes = tcgetattr(&terminal)?;
    attributes.input_modes = InputModes::IGNPAR;
    attributes.output_modes = OutputModes::empty();
    attributes.control_modes = ControlModes::CREAD | ControlModes::CLOCAL | ControlModes::CS8;
    attributes.local_modes = LocalModes::empty();
    for index in [
        SpecialCodeIndex::VINTR,
        SpecialCodeIndex::VQUIT,
        SpecialCodeIndex::VERASE,
        SpecialCodeIndex::VKILL,
        SpecialCodeIndex::VEOF,
        SpecialCodeIndex::VTIME,
        SpecialCodeIndex::VSTART,
        SpecialCodeIndex::VSTOP,
        SpecialCodeIndex::VSUSP,
        SpecialCodeIndex::VEOL,
        SpecialCodeIndex::VREPRINT,
        SpecialCodeIndex::VDISCARD,
        SpecialCodeIndex::VWERASE,
        SpecialCodeIndex::VLNEXT,
        SpecialCodeIndex::VEOL2,
    ] {
        attributes.special_codes[index] = 0;
    }
    attributes.special_codes[SpecialCodeIndex::VMIN] = 1;
    attributes.set_speed(BAUD)?;
    // The host knows by this that somebody is listening.
    tcsetattr(&terminal, OptionalActions::Now, &attributes)?;
    rustix::io::ioctl_fionbio(&terminal, false)?;
    Ok(terminal)
}

/// Serves a line until it ends. `input` and `output` are its two directions, and may be the same file.
pub fn serve(service: &Arc<Service>, input: OwnedFd, output: OwnedFd) -> io::Result<()> {
    let link = Link::accepting();
    let (sender, acceptor, service) = (link.clone(), link.clone(), service.clone());
    let mut output = File::from(output);
    let writing = start("line", move || {
        let mut buffer = Vec::new();
        while sender.take_output(&mut buffer) && output.write_all(&buffer).is_ok() {}
        sender.down();
    });
    let accepting = start("calls", move || {
        loop {
            match acceptor.accept(&forever) {
                Ok(channel) => {
                    let service = service.clone();
                    start("call", move || service.handle(channel));
                }
                Err(LinkError::Down) => break,
                // Out of step: the line's reader starts a new session.
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
        }
    });
    let result = if writing && accepting { read_all(&link, input) } else { Err(Errno::AGAIN.into()) };
    link.down();
    result
}

/// Whether something can be read within [`PAUSE`].
fn soon(input: &File) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN)];
    !matches!(poll(&mut fds, Some(&PAUSE)), Ok(0))
}

fn read_all(link: &Arc<Link>, input: OwnedFd) -> io::Result<()> {
    let mut input = File::from(input);
    let mut buffer = vec![0; READ];
    loop {
        let healthy = if link.mid_frame() && !soon(&input) {
            link.pause()
        } else {
            match input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => link.push(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                Err(error) => return Err(error),
            }
        };
        if healthy.is_err() {
            // What is on the line belongs to the broken session. A host that starts anew waits first.
            while soon(&input) {
                match input.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            link.restart();
        }
        if link.is_down() {
            return Ok(());
        }
    }
}
