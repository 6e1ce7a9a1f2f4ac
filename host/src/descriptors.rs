//! The limit on the process's descriptors.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Resource, getrlimit, setrlimit};

/// What the usual limit is enough for.
const USUAL: u64 = 1024;

/// What was asked for on top of it.
static MORE: AtomicU64 = AtomicU64::new(0);

/// Raises the limit to `wanted`, as far as the host lets us.
pub(crate) fn raise_to(wanted: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// Makes room for so many descriptors beside the usual ones and those asked for before.
pub(crate) fn raise_by(more: usize) {
    let more = u64::try_from(more).unwrap_or(0);
    let before = MORE.fetch_add(more, Ordering::Relaxed);
    raise_to(USUAL.saturating_add(before).saturating_add(more));
}
