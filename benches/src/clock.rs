//! The host's clock.

use std::time::Instant;

/// Now.
#[allow(clippy::disallowed_methods)] // measuring host time is what this program is for
pub fn now() -> Instant {
    Instant::now()
}
