//! Signals that mean something to a child of this process.

use rustix::process::Signal;

/// False for a signal that this process ignores, as below `nohup`: its children ignore it too, and env86
/// leaves it so.
pub fn is_heard(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw() - 1) & 1 == 0
}
