//! The host's clock.

use std::sync::OnceLock;
use std::time::Instant;

/// Now.
#[allow(clippy::disallowed_methods)] // measuring host time is what this program is for
pub fn now() -> Instant {
    Instant::now()
}

/// Says on standard error what begins now, with the minutes since the first such line.
pub fn progress(text: &str) {
    static START: OnceLock<Instant> = OnceLock::new();
    let seconds = START.get_or_init(now).elapsed().as_secs();
    eprintln!("[{:2}:{:02}] {text}", seconds / 60, seconds % 60);
}
