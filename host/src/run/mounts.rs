//! Directories of the host, mounted before the command starts.
//!
//! The machine has a second virtio-9p device for them. A guest that was restored finds it when it scans the
//! PCI bus again: its snapshot was made without it. A guest that does not find it, or has no driver for it,
//! gets its mounts through the guest service: the same protocol, over the service's line, which is much slower.

use std::thread;
use std::time::Duration;

use emu_devices::virtio::P9Handler;

use crate::rpc::{Deadline, Guest, RawStream, RpcError, exit_code};
use crate::shares::{self, Mode, Spec, TAG};

/// How long the guest may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Exit status of the script when the guest has no such device.
const NO_DEVICE: u8 = 86;

/// Exit status of the script when the first directory could not be mounted from the device; one more for the
/// second, and so on. What other programs return is below, what signals make of them is above.
const NOT_MOUNTED: u8 = 150;
const _: () = assert!(crate::limits::MAX_SHARES < (u8::MAX - NOT_MOUNTED) as usize);

/// Largest message of a mount through the service, in bytes.
const MESSAGE: usize = 1 << 20;

/// Length of a message's length, which counts itself.
const LENGTH: usize = 4;

/// Mounts everything. The error is for people. `tunnel` leaves out the device.
pub(super) fn mount(guest: &Guest, specs: &[Spec], tunnel: bool) -> Result<(), String> {
    if specs.is_empty() {
        return Ok(());
    }
    if tunnel {
        return specs.iter().try_for_each(|spec| through_service(guest, spec));
    }
    let (status, output) =
        guest.shell(&script(specs), &[], Deadline::after(PATIENCE)).map_err(|error| error.to_string())?;
    let code = exit_code(status);
    if code == 0 {
        return Ok(());
    }
    let mounted = match code {
        NO_DEVICE => Some(0),
        _ => code.checked_sub(NOT_MOUNTED).map(usize::from).filter(|mounted| *mounted < specs.len()),
    };
    let Some(left) = mounted.and_then(|mounted| specs.get(mounted..)) else {
        return Err(if output.is_empty() {
            format!("the guest's shell ended with status {code}")
        } else {
            output
        });
    };
    // The service's way needs no more of the kernel than 9p itself.
    left.iter().try_for_each(|spec| through_service(guest, spec)).map_err(|why| match output.is_empty() {
        true => why,
        false => format!("{output}; through the guest service: {why}"),
    })
}

/// What mounts everything from the device.
pub(super) fn script(specs: &[Spec]) -> String {
    let mut script = format!(
        "set -e\n\
         here() {{ grep -qa '^{TAG}' /sys/bus/virtio/devices/*/mount_tag 2>/dev/null; }}\n\
         [ -d /sys/bus ] || mount -t sysfs sysfs /sys\n\
         here || {{ echo 1 >/sys/bus/pci/rescan; n=0; until here || [ $n = 50 ]; do sleep 0.1; n=$((n+1)); done; }}\n\
         here || exit {NO_DEVICE}\n"
    );
    // Nothing is cached beyond what mapped files need: the directory is the host's, who may change it.
    let mount = |access: &str, tree: &str, place: &str| {
        format!(
            "mount -t 9p -o {access},trans=virtio,version=9p2000.L,msize=524288,cache=mmap{tree} {TAG} {place} || \
             exit {NOT_MOUNTED}\n"
        )
    };
    if let [spec] = specs {
        let place = quoted(&spec.guest);
        let access = if spec.mode == Mode::ReadOnly { "ro" } else { "rw" };
        script.push_str(&format!("mkdir -p {place}\n{}", mount(access, ",aname=/0", &place)));
        return script;
    }
    // Linux mounts a device once: all trees together where nobody looks, and each of them from there.
    script.push_str(
        "all=/tmp/.hostshare.$$\n\
         mkdir -p $all\n\
         trap 'umount -l $all 2>/dev/null; rmdir $all' EXIT\n",
    );
    script.push_str(&mount("rw", "", "$all"));
    for (number, spec) in specs.iter().enumerate() {
        let place = quoted(&spec.guest);
        let failed = usize::from(NOT_MOUNTED) + number;
        script.push_str(&format!("mkdir -p {place}\nmount -o bind $all/{number} {place} || exit {failed}\n"));
        if spec.mode == Mode::ReadOnly {
            // The host refuses writes all the same.
            script.push_str(&format!("mount -o remount,bind,ro {place} || :\n"));
        }
    }
    script
}

/// Mounts one directory through the service, and serves it as long as the mount is there.
fn through_service(guest: &Guest, spec: &Spec) -> Result<(), String> {
    let deadline = Deadline::after(PATIENCE);
    let told = |error: RpcError| error.to_string();
    let server = shares::alone(spec, Box::new(|_| {})).map_err(|error| error.to_string())?;
    let stream = guest.mount_9p(&spec.guest, deadline).map_err(told)?;
    let body = move || serve(&stream, server);
    thread::Builder::new().name("mount".to_owned()).spawn(body).map_err(|error| error.to_string())?;
    match guest.wait_mount(&spec.guest, deadline) {
        // The Go service does not tell.
        Err(RpcError::Unsupported(_)) => {
            let place = quoted(&spec.guest);
            let wait = format!(
                "n=0; until mountpoint -q {place}; do [ $n = 100 ] && exit 1; n=$((n+1)); sleep 0.1; done"
            );
            let (status, output) = guest.shell(&wait, &[], deadline).map_err(told)?;
            if exit_code(status) == 0 {
                Ok(())
            } else {
                Err(format!("{}: not mounted: {output}", spec.guest))
            }
        }
        other => other.map_err(told),
    }
}

/// Answers 9P messages until the guest has unmounted, or is gone.
fn serve(stream: &RawStream, mut server: Box<dyn P9Handler>) {
    let mut request = Vec::new();
    let mut buffer = vec![0; 32 << 10];
    let mut reply = Vec::new();
    loop {
        let length = request.first_chunk::<LENGTH>().map(|bytes| u32::from_le_bytes(*bytes) as usize);
        match length {
            // A guest that sends such a thing has lost its mount.
            Some(length) if !(LENGTH..=MESSAGE).contains(&length) => break,
            Some(length) if request.len() >= length => {
                reply.clear();
                server.handle(request.get(..length).unwrap_or_default(), &mut reply, MESSAGE);
                request.drain(..length);
                if stream.write(&reply, Deadline::never()).is_err() {
                    break;
                }
            }
            _ => match stream.read(&mut buffer, Deadline::never()) {
                Ok(0) | Err(_) => break,
                Ok(count) => request.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            },
        }
    }
    stream.close();
}

/// Makes sure that everything written to mapped files has reached the host.
pub(super) fn flush(guest: &Guest, specs: &[Spec]) {
    let stays = |spec: &&Spec| matches!(spec.mode, Mode::ReadWrite | Mode::OverlayIn(_));
    let places = specs.iter().rev().filter(stays);
    let script: String = places.map(|spec| format!("umount {0} || sync\n", quoted(&spec.guest))).collect();
    if !script.is_empty() {
        // The command's status is what counts.
        let _ = guest.shell(&script, &[], Deadline::after(PATIENCE));
    }
}

/// A word for the shell.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_for_the_shell_stay_one_word() {
        assert_eq!(quoted("/mnt/a b"), "'/mnt/a b'");
        assert_eq!(quoted("/it's $HOME"), r"'/it'\''s $HOME'");
    }
}
