//! The user's terminal: raw mode, and the certainty that it ends.
//!
//! In raw mode every key reaches the guest and nothing is echoed; a terminal left so is unusable.
//! It is restored when [`RawMode`] is dropped, by a hook when any thread panics, and by
//! [`restore`] before a signal ends or stops the process.

use std::io::{self, IsTerminal};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ConsoleError;

/// True while the terminal is in raw mode (or should be, while the process is stopped).
static RAW: AtomicBool = AtomicBool::new(false);

/// The terminal is in raw mode while this lives.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Sets raw mode. Do not have two.
    ///
    /// # Errors
    /// The terminal's reason.
    pub fn enter() -> Result<Self, ConsoleError> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                next(info);
            }));
        });
        crossterm::terminal::enable_raw_mode().map_err(ConsoleError::Terminal)?;
        RAW.store(true, Ordering::SeqCst);
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Ends raw mode, if it is on. May be called from any thread, any number of times.
pub fn restore() {
    if RAW.swap(false, Ordering::SeqCst) {
        // Nothing is left to try if this fails.
        let _ = crossterm::terminal::disable_raw_mode();
    }
}

/// Ends raw mode while the process is stopped. True if it was on; then call [`reenter`] after.
pub fn suspend() -> bool {
    let was_raw = is_raw();
    restore();
    was_raw
}

/// Raw mode again, after [`suspend`] or after another process used the terminal.
pub fn reenter() {
    // crossterm remembers the original mode and does nothing if it believes that raw mode is on.
    let _ = crossterm::terminal::disable_raw_mode();
    if crossterm::terminal::enable_raw_mode().is_ok() {
        RAW.store(true, Ordering::SeqCst);
    }
}

/// True in raw mode: lines then have to end in CR LF.
pub fn is_raw() -> bool {
    RAW.load(Ordering::SeqCst)
}

/// True if standard input is a terminal.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::tcgetattr;
    use std::process::{Command, Stdio};

    /// Names this test to the process that it starts.
    const CHILD: &str = "ENV86_TEST_TERMINAL_CHILD";
    /// What that process says.
    const RESTORED: &str = "raw mode ended";

    #[test]
    fn panic_of_any_thread_ends_raw_mode() {
        if std::env::var_os(CHILD).is_some() {
            // Nothing drops it in the end: only the hook restores the terminal.
            std::mem::forget(RawMode::enter().unwrap());
            assert!(is_raw());
            let thread = std::thread::spawn(|| panic!("scripted"));
            assert!(thread.join().is_err());
            assert!(!is_raw());
            println!("{RESTORED}");
            return;
        }
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap().into_string().unwrap();
        let tty = std::fs::File::options().read(true).write(true).open(name).unwrap();
        let before = format!("{:?}", tcgetattr(&user).unwrap());
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--nocapture", "--exact", "console::terminal::tests::panic_of_any_thread_ends_raw_mode"])
            .env(CHILD, "1")
            .stdin(tty.try_clone().unwrap())
            .stderr(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains(RESTORED));
        assert_eq!(format!("{:?}", tcgetattr(&user).unwrap()), before);
    }
}
