//! Directories of the host, mounted before the command starts.
//!
//! The machine has a second virtio-9p device for them. A guest that was restored finds it when it scans the
//! PCI bus again: its snapshot was made without it.

use std::time::Duration;

use crate::rpc::{Deadline, Guest, exit_code};
use crate::shares::{Mode, Spec, TAG};

/// How long the guest may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Mounts everything. The error is for people.
pub(super) fn mount(guest: &Guest, specs: &[Spec]) -> Result<(), String> {
    if specs.is_empty() {
        return Ok(());
    }
    let mut script = format!(
        "set -e\n\
         here() {{ grep -qa '^{TAG}' /sys/bus/virtio/devices/*/mount_tag 2>/dev/null; }}\n\
         [ -d /sys/bus ] || mount -t sysfs sysfs /sys\n\
         here || {{ echo 1 >/sys/bus/pci/rescan; n=0; until here || [ $n = 50 ]; do sleep 0.1; n=$((n+1)); done; }}\n"
    );
    for (number, spec) in specs.iter().enumerate() {
        let place = quoted(&spec.guest);
        let access = if spec.mode == Mode::ReadOnly { "ro" } else { "rw" };
        // Nothing is cached beyond what mapped files need: the directory is the host's, who may change it.
        script.push_str(&format!(
            "mkdir -p {place}\n\
             mount -t 9p -o {access},trans=virtio,version=9p2000.L,msize=524288,cache=mmap,aname=/{number} {TAG} {place}\n"
        ));
    }
    let (status, output) =
        guest.shell(&script, &[], Deadline::after(PATIENCE)).map_err(|error| error.to_string())?;
    match exit_code(status) {
        0 => Ok(()),
        _ if output.is_empty() => Err("the guest has no driver for it (9p over virtio)".to_owned()),
        _ => Err(output),
    }
}

/// Makes sure that everything written to mapped files has reached the host.
pub(super) fn flush(guest: &Guest, specs: &[Spec]) {
    let places = specs.iter().rev().filter(|spec| spec.mode == Mode::ReadWrite);
    let script: String = places.map(|spec| format!("umount {0} || sync\n", quoted(&spec.guest))).collect();
    if !script.is_empty() {
        // The command's status is what counts.
        let _ = guest.shell(&script, &[], Deadline::after(PATIENCE));
    }
}

/// A word for the shell.
fn quoted(text: &str) -> String {
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
