//! `vm.ResetNetwork`: what a restored guest needs to be reachable again.

use std::process::{Command, Stdio};
use std::time::Duration;

/// A step: what it is called in errors, its shell commands, and whether its failure is worth telling.
struct Step {
    name: &'static str,
    script: &'static str,
    required: bool,
}

/// Steps do not depend on each other's success: a guest that lacks one thing still gets the rest.
const STEPS: &[Step] = &[
    Step {
        // The card may have another address than the one the driver read before the machine was saved.
        name: "network driver",
        script: "if [ -d /sys/module/ne2k_pci ] && [ -n \"$(ls -d /sys/bus/pci/drivers/ne2k-pci/0* 2>/dev/null)\" ] \
                 && grep -q '^ne2k_pci ' /proc/modules; then modprobe -r ne2k-pci && modprobe ne2k-pci; fi",
        required: true,
    },
    Step { name: "clock", script: "hwclock -s || hwclock -u -s", required: false },
    Step {
        name: "loopback interface",
        script: "ip link set lo up || ifconfig lo 127.0.0.1 up",
        required: true,
    },
    Step {
        name: "network address",
        script: "cards=; for dev in /sys/class/net/*/device; do [ -e \"$dev\" ] || continue; dev=${dev%/device}; \
                 cards=\"$cards ${dev##*/}\"; done; [ -n \"$cards\" ] || exit 0; \
                 if command -v setup-interfaces; then setup-interfaces -a -r; exit; fi; \
                 for card in $cards; do \
                 if command -v udhcpc; then ip link set \"$card\" up; udhcpc -n -q -t 4 -T 1 -i \"$card\"; \
                 elif command -v dhclient; then dhclient -1 \"$card\"; \
                 elif command -v ifup; then ifup \"$card\"; else exit 1; fi || exit 1; done",
        required: true,
    },
];

/// How long a step may take, in steps of [`TICK`].
const PATIENCE: u32 = 1000;

/// How often to look whether a step has ended.
const TICK: Duration = Duration::from_millis(20);

/// Runs all steps and names those that failed.
pub fn reset() -> Result<(), String> {
    let failed: Vec<&str> =
        STEPS.iter().filter(|step| !succeeds(step.script) && step.required).map(|step| step.name).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

fn succeeds(script: &str) -> bool {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if std::env::var_os("PATH").is_none() {
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    }
    let Ok(mut child) = command.spawn() else { return false };
    for _ in 0..PATIENCE {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => std::thread::sleep(TICK),
            Err(_) => return false,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}
