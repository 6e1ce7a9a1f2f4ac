//! Signals: the terminal is restored and the machine stopped before the process ends.
//!
//! The first signal that asks the process to end is reported; a second one ends it at once. A
//! stop (Ctrl-Z from outside: in raw mode the key reaches the guest) restores the terminal until
//! the process goes on. A signal that was ignored when the process started (`nohup`) stays so.

use crate::console::ConsoleError;

/// Listens until dropped.
#[derive(Debug)]
pub struct Listener {
    #[cfg(unix)]
    handle: signal_hook::iterator::Handle,
}

#[cfg(unix)]
impl Drop for Listener {
    fn drop(&mut self) {
        self.handle.close();
    }
}

/// Calls `on_end` with the number of the first signal that asks the process to end.
///
/// # Errors
/// The host refuses handlers or a thread.
#[cfg(unix)]
pub fn listen(on_end: impl Fn(i32) + Send + 'static) -> Result<Listener, ConsoleError> {
    use crate::console::terminal;

    let mut asked = false;
    hear(&[], move |signal| {
        if asked {
            terminal::restore();
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
        asked = true;
        on_end(signal);
    })
}

/// Calls `on_signal` with the number of every signal that asks the process to end, and with SIGWINCH.
///
/// # Errors
/// The host refuses handlers or a thread.
#[cfg(unix)]
pub fn forward(on_signal: impl Fn(i32) + Send + 'static) -> Result<Listener, ConsoleError> {
    hear(&[signal_hook::consts::SIGWINCH], on_signal)
}

#[cfg(unix)]
fn hear(more: &[i32], mut on_signal: impl FnMut(i32) + Send + 'static) -> Result<Listener, ConsoleError> {
    use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
    use signal_hook::low_level::emulate_default_handler;

    use crate::console::terminal;

    let ignored = ignored_signals();
    let wanted = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGCONT];
    let wanted = wanted.into_iter().chain(more.iter().copied());
    let wanted = wanted.filter(|signal| !is_in(ignored, *signal));
    let mut signals = signal_hook::iterator::Signals::new(wanted).map_err(ConsoleError::Signals)?;
    let handle = signals.handle();
    let body = move || {
        for signal in signals.forever() {
            match signal {
                SIGTSTP => {
                    let was_raw = terminal::suspend();
                    // Returns when the process goes on.
                    let _ = emulate_default_handler(SIGTSTP);
                    if was_raw {
                        terminal::reenter();
                    }
                }
                // Stopped without a chance to say so: a shell has set its own mode meanwhile.
                SIGCONT if terminal::is_raw() => terminal::reenter(),
                SIGCONT => {}
                _ => on_signal(signal),
            }
        }
    };
    let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(body);
    thread.map(|_| Listener { handle }).map_err(ConsoleError::Thread)
}

/// Signals are not supported on this host: the process ends without an orderly stop.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn listen(_on_end: impl Fn(i32) + Send + 'static) -> Result<Listener, ConsoleError> {
    Ok(Listener {})
}

/// See [`listen`].
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn forward(_on_signal: impl Fn(i32) + Send + 'static) -> Result<Listener, ConsoleError> {
    Ok(Listener {})
}

/// Mask of ignored signals (bit 0 = signal 1), as far as the host tells (Linux: proc(5)).
#[cfg(unix)]
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(unix)]
fn is_in(mask: u64, signal: i32) -> bool {
    u32::try_from(signal - 1).ok().and_then(|bit| mask.checked_shr(bit)).is_some_and(|bits| bits & 1 != 0)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn mask_bit_0_is_signal_1() {
        assert!(is_in(0b1, 1) && !is_in(0b1, 2) && is_in(0x4000, 15) && !is_in(u64::MAX, 0));
    }
}
